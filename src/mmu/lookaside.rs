//! The translation cache that makes the model fast and that no report shows.
//!
//! Direct mapped, one line for each page number modulo the size: the tag for loads, the tag for
//! stores (kept only once the page is known to be dirty), and what to add to a virtual address
//! to get the physical one. This is the layout of QEMU's software TLB.

use super::addr::{Mode, PAGE, PAGE_SHIFT, PhysAddr, VirtAddr};

/// One line. Plain data, to be handed in as storage.
#[derive(Debug, Clone, Copy)]
pub struct LookasideLine {
    /// The page that may be read: its first address, with the mode in bit 0.
    read_tag: u64,
    /// The page that may be written and is dirty already.
    write_tag: u64,
    /// Physical minus virtual address.
    addend: u64,
}

/// No page has this tag: bit 1 is never set in one.
const NOTHING: u64 = 2;

impl LookasideLine {
    /// A line that holds nothing.
    pub const EMPTY: LookasideLine = LookasideLine {
        read_tag: NOTHING,
        write_tag: NOTHING,
        addend: 0,
    };
}

/// The cache.
#[derive(Debug)]
pub struct Lookaside<'m> {
    lines: &'m mut [LookasideLine],
    used: bool,
}

#[inline]
fn tag(va: VirtAddr, mode: Mode) -> u64 {
    va.raw() & !(PAGE - 1) | matches!(mode, Mode::Supervisor) as u64
}

impl<'m> Lookaside<'m> {
    /// An empty cache of as many lines as the largest power of two in `lines`. None is fine.
    #[must_use]
    pub fn new(lines: &'m mut [LookasideLine]) -> Lookaside<'m> {
        let size = match lines.len() {
            0 => 0,
            len => 1 << len.ilog2(),
        };
        let (lines, _) = lines.split_at_mut(size);
        lines.fill(LookasideLine::EMPTY);
        Lookaside { lines, used: false }
    }

    #[inline]
    fn at(&self, va: VirtAddr) -> usize {
        (va.raw() >> PAGE_SHIFT) as usize & self.lines.len().wrapping_sub(1)
    }

    /// Where a load from `va` goes.
    #[inline]
    #[must_use]
    pub fn read(&self, va: VirtAddr, mode: Mode) -> Option<PhysAddr> {
        let line = self.lines.get(self.at(va))?;
        (line.read_tag == tag(va, mode)).then(|| PhysAddr::new(va.raw().wrapping_add(line.addend)))
    }

    /// Where a store to `va` goes.
    #[inline]
    #[must_use]
    pub fn write(&self, va: VirtAddr, mode: Mode) -> Option<PhysAddr> {
        let line = self.lines.get(self.at(va))?;
        (line.write_tag == tag(va, mode)).then(|| PhysAddr::new(va.raw().wrapping_add(line.addend)))
    }

    /// Keeps a translation; `write` if stores may use it too.
    #[inline]
    pub fn fill(&mut self, va: VirtAddr, mode: Mode, at: PhysAddr, write: bool) {
        let index = self.at(va);
        let Some(line) = self.lines.get_mut(index) else {
            return;
        };
        let tag = tag(va, mode);
        *line = LookasideLine {
            read_tag: tag,
            write_tag: if write { tag } else { NOTHING },
            addend: at.raw().wrapping_sub(va.raw()),
        };
        self.used = true;
    }

    /// Drops one page.
    #[inline]
    pub fn drop_page(&mut self, va: VirtAddr) {
        let index = self.at(va);
        if let Some(line) = self.lines.get_mut(index)
            && [line.read_tag & !1, line.write_tag & !1].contains(&(va.raw() & !(PAGE - 1)))
        {
            *line = LookasideLine::EMPTY;
        }
    }

    /// Drops everything.
    pub fn flush(&mut self) {
        if self.used {
            self.lines.fill(LookasideLine::EMPTY);
            self.used = false;
        }
    }

    /// What it holds: page, mode, physical address of the page, whether stores may use it.
    pub(super) fn held(&self) -> impl Iterator<Item = (VirtAddr, Mode, PhysAddr, bool)> + '_ {
        self.lines
            .iter()
            .filter(|line| line.read_tag != NOTHING)
            .map(|line| {
                let va = line.read_tag & !1;
                let mode = if line.read_tag & 1 != 0 {
                    Mode::Supervisor
                } else {
                    Mode::User
                };
                (
                    VirtAddr::new(va),
                    mode,
                    PhysAddr::new(va.wrapping_add(line.addend)),
                    line.write_tag == line.read_tag,
                )
            })
    }
}
