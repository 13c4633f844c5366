//! The memory management unit of one processor: CR3, the walker, the TLB.
//!
//! [`Mmu::reach`] is what the hardware does for an access: ask the TLB, walk the tables on a
//! miss, check the permissions of all levels together, set the accessed and dirty bits. What it
//! refuses is the kernel's to resolve. A supervisor is bound by the writable bit too (CR0.WP, as
//! Linux sets it), and may touch user pages (no SMAP or SMEP).

use core::marker::PhantomData;

use super::addr::{Access, Asid, FrameNumber, Mode, PAGE, PhysAddr, VirtAddr};
use super::entry::Entry;
use super::geometry::{Geometry, MAX_LEVELS};
use super::lookaside::Lookaside;
use super::physical::Physical;
use super::tlb::{Cached, Shape, Tlb};

/// Counters of a processor's accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessCounts {
    /// Loads.
    pub reads: u64,
    /// Stores.
    pub writes: u64,
    /// Instruction fetches.
    pub fetches: u64,
    /// Walks over the page tables.
    pub walks: u64,
    /// Accesses to memory: the data itself, and each entry that a walk after a TLB miss read.
    pub references: u64,
    /// Walks of a page that the TLB had, only to set the dirty bit.
    pub assists: u64,
}

impl AccessCounts {
    /// All accesses.
    #[must_use]
    pub const fn accesses(&self) -> u64 {
        self.reads + self.writes + self.fetches
    }

    /// Accesses to memory for each access of the program's. With `L` levels and hit rate `h`
    /// this is `h + (1 - h)(L + 1)`.
    #[must_use]
    pub fn references_per_access(&self) -> f64 {
        self.references as f64 / self.accesses().max(1) as f64
    }
}

/// Why the hardware refuses an access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The page is there, only not for this.
    pub present: bool,
}

/// The page of the access before, to which another one changes nothing but a counter.
#[derive(Debug, Clone, Copy)]
struct Last {
    /// First address, with the mode in bit 0; an odd multiple of 2 if there is none.
    tag: u64,
    page: PhysAddr,
    level: u8,
    /// A bit for each kind of access that is allowed.
    allowed: u8,
}

const NO_LAST: Last = Last {
    tag: 2,
    page: PhysAddr::new(0),
    level: 0,
    allowed: 0,
};

const fn kind_bit(access: Access) -> u8 {
    match access {
        Access::Read => 1,
        Access::Write => 2,
        Access::Exec => 4,
    }
}

/// Whether an entry with these flags lets an access through.
#[must_use]
#[inline]
pub fn permits<G: Geometry>(flags: u64, access: Access, mode: Mode) -> bool {
    flags & Entry::<G>::PRESENT != 0
        && (mode == Mode::Supervisor || flags & Entry::<G>::USER != 0)
        && match access {
            Access::Read => true,
            Access::Write => flags & Entry::<G>::WRITABLE != 0,
            Access::Exec => flags & Entry::<G>::NO_EXECUTE == 0,
        }
}

#[inline]
fn cached_permits(cached: Cached, access: Access, mode: Mode) -> bool {
    (mode == Mode::Supervisor || cached.user())
        && match access {
            Access::Read => true,
            Access::Write => cached.writable(),
            Access::Exec => cached.executable(),
        }
}

/// The MMU.
#[derive(Debug)]
pub struct Mmu<'m, G> {
    root: Option<PhysAddr>,
    asid: Asid,
    /// The modelled TLB.
    pub tlb: Tlb<'m>,
    lookaside: Lookaside<'m>,
    last: Last,
    /// What it did.
    pub counts: AccessCounts,
    /// Shootdowns are dropped: to show that somebody notices.
    pub stale: bool,
    geometry: PhantomData<G>,
}

impl<G: Geometry> Mmu<'static, G> {
    /// An MMU that is off, as after a reset: an address goes out on the bus as it is.
    #[must_use]
    pub fn bare() -> Mmu<'static, G> {
        Mmu::new(
            Tlb::new(&mut [], Shape::NONE, Shape::NONE),
            Lookaside::new(&mut []),
        )
    }
}

/// What a walk of the hardware ends with.
struct Walked<G> {
    slot: PhysAddr,
    entry: Entry<G>,
    level: usize,
    /// The flags that all levels agree to.
    flags: u64,
}

impl<'m, G: Geometry> Mmu<'m, G> {
    /// An MMU that is off, with these caches.
    #[must_use]
    pub fn new(tlb: Tlb<'m>, lookaside: Lookaside<'m>) -> Mmu<'m, G> {
        Mmu {
            root: None,
            asid: Asid::new(0),
            tlb,
            lookaside,
            last: NO_LAST,
            counts: AccessCounts::default(),
            stale: false,
            geometry: PhantomData,
        }
    }

    /// CR3; `None` with paging off.
    #[must_use]
    pub const fn root(&self) -> Option<PhysAddr> {
        self.root
    }

    /// The number that new lines of the TLB carry.
    #[must_use]
    pub const fn asid(&self) -> Asid {
        self.asid
    }

    /// Loads CR3, which turns paging on and drops all translations but the global ones.
    pub fn load_cr3(&mut self, root: PhysAddr) {
        self.root = Some(root);
        self.forget_fast();
        self.tlb.flush(false);
    }

    /// Loads CR3 and a space number: translations of other spaces stay and do not match.
    pub fn load_cr3_tagged(&mut self, root: PhysAddr, asid: Asid) {
        self.root = Some(root);
        self.asid = asid;
        self.forget_fast();
    }

    /// Sets the space number that goes with the next [`Mmu::load_cr3`].
    pub(super) fn set_asid(&mut self, asid: Asid) {
        self.asid = asid;
    }

    /// Turns paging off.
    pub fn turn_off(&mut self) {
        self.root = None;
        self.forget_fast();
        self.tlb.flush(true);
    }

    /// Drops every translation, global ones too.
    pub fn flush(&mut self) {
        self.forget_fast();
        self.tlb.flush(true);
    }

    fn forget_fast(&mut self) {
        self.last = NO_LAST;
        self.lookaside.flush();
    }

    /// Drops the translation of one page of the current space.
    pub fn invlpg(&mut self, va: VirtAddr) {
        self.shoot(va, self.asid);
    }

    /// Drops the translation of one page of any space. Does nothing where the debug switch
    /// `stale` is on, but for what the model itself relies on.
    pub(super) fn shoot(&mut self, va: VirtAddr, asid: Asid) {
        if self.stale {
            return;
        }
        self.last = NO_LAST;
        self.lookaside.drop_page(va);
        self.tlb.counts.shootdowns += 1;
        self.tlb.drop_page::<G>(va, asid);
    }

    /// Drops all translations of a space.
    pub(super) fn shoot_space(&mut self, asid: Asid) {
        if self.stale {
            return;
        }
        self.forget_fast();
        self.tlb.flush_space(asid);
    }

    /// The next access asks the TLB again: after whatever may have moved pages.
    #[inline]
    pub(super) fn forget_last(&mut self) {
        if !self.stale {
            self.last = NO_LAST;
        }
    }

    #[inline]
    fn count(&mut self, access: Access) {
        match access {
            Access::Read => self.counts.reads += 1,
            Access::Write => self.counts.writes += 1,
            Access::Exec => self.counts.fetches += 1,
        }
        self.counts.references += 1;
    }

    /// Whether the access is to the page of the last one and as allowed: then it is counted, and
    /// done.
    #[inline]
    pub(super) fn same_page(
        &mut self,
        va: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Option<PhysAddr> {
        let tag = va.raw() & !(PAGE - 1) | matches!(mode, Mode::Supervisor) as u64;
        if self.last.tag != tag || self.last.allowed & kind_bit(access) == 0 {
            return None;
        }
        self.count(access);
        self.tlb.again(self.last.level as usize);
        Some(PhysAddr::new(self.last.page.raw() | va.offset()))
    }

    /// One access of at most a page: the physical address, with everything counted and marked
    /// as the hardware does it.
    ///
    /// # Errors
    /// If the tables do not allow it. (It is the caller's to see that the address is canonical.)
    #[inline]
    pub fn reach(
        &mut self,
        memory: &mut Physical<'_>,
        va: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<PhysAddr, Refused> {
        if let Some(at) = self.same_page(va, access, mode) {
            return Ok(at);
        }
        let Some(root) = self.root else {
            self.count(access);
            return Ok(PhysAddr::new(va.raw()));
        };
        if let Some(hit) = self.tlb.lookup::<G>(va, self.asid) {
            if cached_permits(hit.cached, access, mode)
                && (access != Access::Write || hit.cached.dirty())
            {
                self.count(access);
                self.keep_last(va, mode, hit.cached, hit.level);
                return Ok(hit.cached.target(va, G::span(hit.level)));
            }
            self.counts.assists += 1;
        } else {
            self.counts.walks += 1;
            let walked = self.walk(memory, root, va);
            self.counts.references += (G::LEVELS - walked.level) as u64;
            return self.finish(memory, va, access, mode, &walked);
        }
        let walked = self.walk(memory, root, va);
        self.finish(memory, va, access, mode, &walked)
    }

    /// The hardware's walk. (That of [`super::tables::Tables`] tells each step instead.)
    #[inline]
    fn walk(&self, memory: &mut Physical<'_>, root: PhysAddr, va: VirtAddr) -> Walked<G> {
        let mut table = root;
        let mut shift = G::shift(G::LEVELS);
        // NO_EXECUTE counts if any level says it, the others only if all do.
        let mut flags = !0;
        let mut forbidden = 0;
        let mut level = G::LEVELS;
        loop {
            level -= 1;
            shift -= G::BITS[level % MAX_LEVELS];
            let index = (va.raw() >> shift) & (G::entries(level) as u64 - 1);
            let slot = PhysAddr::new(table.raw() + index * G::ENTRY_BYTES as u64);
            let entry = memory.entry::<G>(slot);
            flags &= entry.bits();
            forbidden |= entry.bits() & Entry::<G>::NO_EXECUTE;
            let leaf = level == 0 || entry.has(Entry::<G>::HUGE);
            if leaf || !entry.is_present() {
                return Walked {
                    slot,
                    entry,
                    level,
                    flags: flags & !Entry::<G>::NO_EXECUTE | forbidden,
                };
            }
            if !entry.has(Entry::<G>::ACCESSED) {
                memory.set_entry(slot, entry.with(Entry::<G>::ACCESSED));
            }
            table = entry.address();
        }
    }

    #[inline]
    fn finish(
        &mut self,
        memory: &mut Physical<'_>,
        va: VirtAddr,
        access: Access,
        mode: Mode,
        walked: &Walked<G>,
    ) -> Result<PhysAddr, Refused> {
        let leaf = walked.level == 0 || walked.entry.has(Entry::<G>::HUGE);
        if !leaf || !permits::<G>(walked.flags, access, mode) {
            // A fault drops the page's translation, so that the restart does not meet it again.
            self.tlb.drop_page::<G>(va, self.asid);
            return Err(Refused {
                present: leaf && walked.entry.is_present(),
            });
        }
        let mut entry = walked.entry.with(Entry::<G>::ACCESSED);
        if access == Access::Write {
            entry = entry.with(Entry::<G>::DIRTY);
        }
        if entry != walked.entry {
            memory.set_entry(walked.slot, entry);
        }
        self.count(access);
        let cached = Cached::of(entry, walked.flags);
        self.tlb.fill::<G>(va, self.asid, walked.level, cached);
        self.keep_last(va, mode, cached, walked.level);
        Ok(cached.target(va, G::span(walked.level)))
    }

    #[inline]
    fn keep_last(&mut self, va: VirtAddr, mode: Mode, cached: Cached, level: usize) {
        let mut allowed = kind_bit(Access::Read);
        if cached_permits(cached, Access::Write, mode) && cached.dirty() {
            allowed |= kind_bit(Access::Write);
        }
        if cached_permits(cached, Access::Exec, mode) {
            allowed |= kind_bit(Access::Exec);
        }
        let page = cached.target(va, G::span(level)).raw() & !(PAGE - 1);
        // Without a first level there is nothing for the same page to hit.
        self.last = if !self.tlb.has_first() {
            NO_LAST
        } else {
            Last {
                tag: va.raw() & !(PAGE - 1) | matches!(mode, Mode::Supervisor) as u64,
                page: PhysAddr::new(page),
                level: level as u8,
                allowed,
            }
        };
    }

    /// Where `va` lies, without an access: nothing is counted, marked or moved. Asks the fast
    /// cache first.
    #[inline]
    pub fn translate(
        &mut self,
        memory: &Physical<'_>,
        va: VirtAddr,
        mode: Mode,
    ) -> Option<PhysAddr> {
        match self.lookaside.read(va, mode) {
            Some(at) => Some(at),
            None => self.translate_slow(memory, va, mode),
        }
    }

    /// As [`Mmu::translate`], for a store to a page that was stored to before.
    #[inline]
    pub fn translate_store(&self, va: VirtAddr, mode: Mode) -> Option<PhysAddr> {
        self.lookaside.write(va, mode)
    }

    #[cold]
    #[inline(never)]
    fn translate_slow(
        &mut self,
        memory: &Physical<'_>,
        va: VirtAddr,
        mode: Mode,
    ) -> Option<PhysAddr> {
        let Some(root) = self.root else {
            return Some(PhysAddr::new(va.raw()));
        };
        if !G::is_canonical(va) {
            return None;
        }
        let tables = super::tables::Tables::<G>::at(root);
        let mut flags = !0;
        let step = tables.walk(memory, va, |step| flags &= step.entry.bits());
        let at = step.target(va)?;
        if !permits::<G>(flags & !Entry::<G>::NO_EXECUTE, Access::Read, mode) {
            return None;
        }
        if step.entry.has(Entry::<G>::ACCESSED) {
            let write = step.entry.has(Entry::<G>::DIRTY)
                && permits::<G>(flags & !Entry::<G>::NO_EXECUTE, Access::Write, mode);
            self.lookaside.fill(va, mode, at, write);
        }
        Some(at)
    }

    /// What the fast cache holds, for the checker.
    pub(super) fn fast(&self) -> impl Iterator<Item = (VirtAddr, Mode, PhysAddr, bool)> + '_ {
        self.lookaside.held()
    }

    /// The frame of the last access's page, to see whether a policy was told of it.
    #[inline]
    pub(super) fn frame_of(at: PhysAddr) -> FrameNumber {
        FrameNumber::new((at.raw() >> super::addr::PAGE_SHIFT) as u32)
    }
}
