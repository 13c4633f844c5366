//! Which addresses are heap: asked before any head is read.
//!
//! The address space is cut into granules of 64 MiB, each with the range inside it that holds
//! heap memory and the number of the arena that owns it. A lookup is one load and a compare;
//! writers publish single words, so that every moment (a fork, say) is a valid one.

use crate::size::{ALIGN, align_down, align_up};
use crate::sync::overlay::{AtomicU8, AtomicU32, AtomicUsize, Ordering};

// Miri hands out low addresses and pays for every byte of a table: there both are small.
const SHIFT: u32 = if usize::BITS == 64 && !cfg!(miri) {
    26
} else {
    20
};
/// Bytes of a granule. Regions of arenas are this long and this aligned.
pub const GRANULE: usize = 1 << SHIFT;
/// How many arenas an entry can tell apart.
pub const OWNERS: usize = 256;
const ADDRESS_BITS: u32 = if cfg!(any(target_pointer_width = "32", miri)) {
    32
} else if cfg!(target_arch = "x86_64") {
    47
} else {
    48
};
const COUNT: usize = 1 << (ADDRESS_BITS - SHIFT);

/// The low 32 bits of the range's start, and its length.
#[derive(Debug)]
struct Granule {
    start: AtomicU32,
    len: AtomicU32,
}

/// The range of an arena that is asked for first when a block comes back: one of its ranges of heap
/// memory, which [`Extents`] holds too.
///
/// The start changes only while the length is 0, and then a reader may see the old start with the
/// new length: of a pointer that is a block's both answers are right, for no range ever excludes
/// what it included before, but by being cut.
#[derive(Debug)]
pub struct Window {
    start: AtomicUsize,
    /// The length in units of 16 bytes.
    units: AtomicUsize,
}

impl Window {
    /// A window that holds nothing.
    const fn new() -> Window {
        Window {
            start: AtomicUsize::new(0),
            units: AtomicUsize::new(0),
        }
    }

    /// Whether `p` is 16-byte aligned and lies in the window.
    #[inline(always)]
    #[must_use]
    pub fn holds(&self, p: usize) -> bool {
        // Rotation puts the alignment bits on top: a misaligned pointer is beyond every length.
        let offset = p.wrapping_sub(self.start.load(Ordering::Relaxed));
        offset.rotate_right(4) < self.units.load(Ordering::Relaxed)
    }

    /// From where to where it reaches.
    #[must_use]
    pub fn range(&self) -> (usize, usize) {
        let start = self.start.load(Ordering::Relaxed);
        (start, start + self.units.load(Ordering::Relaxed) * ALIGN)
    }

    /// `start..end` is new: the window grows by it, or goes there if it does not border on it, for
    /// what is allocated next lies there.
    fn show(&self, start: usize, end: usize) {
        let (from, to) = self.range();
        if to != start || from == to {
            self.units.store(0, Ordering::Release);
            self.start.store(start, Ordering::Release);
        }
        let from = self.start.load(Ordering::Relaxed);
        self.units.store((end - from) / ALIGN, Ordering::Release);
    }

    /// What lies at `start` and above it is given up.
    fn hide_from(&self, start: usize) {
        let (from, to) = self.range();
        if from <= start && start < to {
            self.units.store((start - from) / ALIGN, Ordering::Release);
        }
    }
}

/// The map. 18 MiB of zero pages on x86-64, of which a program touches one or two.
#[derive(Debug)]
#[repr(C)] // Windows first: the main arena's then lies in a page that other statics use.
pub struct Extents {
    windows: [Window; OWNERS],
    granules: [Granule; COUNT],
    owners: [AtomicU8; COUNT],
}

impl Extents {
    /// A map that holds nothing.
    #[must_use]
    #[allow(clippy::large_stack_frames, clippy::new_without_default)] // Only for statics.
    pub const fn new() -> Extents {
        Extents {
            granules: [const {
                Granule {
                    start: AtomicU32::new(0),
                    len: AtomicU32::new(0),
                }
            }; COUNT],
            owners: [const { AtomicU8::new(0) }; COUNT],
            windows: [const { Window::new() }; OWNERS],
        }
    }

    /// Whether `p` is 16-byte aligned and lies in heap memory.
    #[inline(always)]
    #[must_use]
    pub fn holds(&self, p: usize) -> bool {
        // Rotation puts the alignment bits on top: a misaligned pointer is out of the table.
        match self.granules.get(p.rotate_right(4) >> (SHIFT - 4)) {
            Some(granule) => {
                let offset = (p as u32).wrapping_sub(granule.start.load(Ordering::Relaxed));
                offset < granule.len.load(Ordering::Relaxed)
            }
            None => false,
        }
    }

    /// The arena that owns the granule of `p`; 0 (the main arena) if none does.
    #[inline]
    #[must_use]
    pub fn owner(&self, p: usize) -> usize {
        self.owners
            .get(p >> SHIFT)
            .map_or(0, |o| usize::from(o.load(Ordering::Relaxed)))
    }

    /// The window of an arena (below [`OWNERS`]).
    #[must_use]
    pub fn window(&self, owner: usize) -> &Window {
        &self.windows[owner % OWNERS]
    }

    /// Adds `start..end` as memory of arena `owner` (below [`OWNERS`]). The caller is the
    /// only one that changes these granules.
    pub fn add(&self, start: usize, end: usize, owner: usize) {
        self.each(start, end, |index, from, to| {
            let granule = &self.granules[index];
            let base = index << SHIFT;
            // Read by a write: the first touch of a page is then one fault, not two.
            let old_len =
                match granule
                    .len
                    .compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed)
                {
                    Ok(len) | Err(len) => len as usize,
                };
            if old_len == 0 {
                granule.start.store(from as u32, Ordering::Relaxed);
                // What is so already (the main arena is number 0) needs no memory.
                if self.owners[index].load(Ordering::Relaxed) != owner as u8 {
                    self.owners[index].store(owner as u8, Ordering::Relaxed);
                }
                granule.len.store((to - from) as u32, Ordering::Release);
            } else {
                let low = granule.start.load(Ordering::Relaxed) as usize & (GRANULE - 1);
                let old_from = base + low;
                let new_from = old_from.min(from);
                let new_to = (old_from + old_len).max(to);
                // Length first: whatever was held stays held in between.
                granule
                    .len
                    .store((new_to - new_from) as u32, Ordering::Release);
                granule.start.store(new_from as u32, Ordering::Release);
            }
        });
        self.window(owner).show(start, end);
    }

    /// Takes away `start..end`. Where memory of the same granule lies above it, what is taken
    /// away stays between the two and is still held: the map knows one range per granule.
    pub fn cut(&self, start: usize, end: usize) {
        self.window(self.owner(start)).hide_from(start);
        self.each(start, end, |index, from, to| {
            let granule = &self.granules[index];
            let low = granule.start.load(Ordering::Relaxed) as usize & (GRANULE - 1);
            let old_from = (index << SHIFT) + low;
            let old_to = old_from + granule.len.load(Ordering::Relaxed) as usize;
            if old_to <= to {
                let len = from.saturating_sub(old_from);
                granule.len.store(len as u32, Ordering::Release);
            }
        });
    }

    fn each(&self, start: usize, end: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let mut from = start;
        while from < end {
            let to = align_up(from + 1, GRANULE).min(end);
            let index = align_down(from, GRANULE) >> SHIFT;
            if index < COUNT {
                visit(index, from, to);
            }
            from = to;
        }
    }
}
