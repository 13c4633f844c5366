//! Which addresses are heap: asked before any head is read.
//!
//! The address space is cut into granules of 64 MiB, each with the range inside it that holds
//! heap memory and the number of the arena that owns it. A lookup is one load and a compare;
//! writers publish single words, so that every moment (a fork, say) is a valid one.

use crate::size::{align_down, align_up};
use crate::sync::overlay::{AtomicU8, AtomicU32, Ordering};

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

/// The map. 18 MiB of zero pages on x86-64, of which a program touches one or two.
#[derive(Debug)]
pub struct Extents {
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
    }

    /// Takes away `start..end`. Where memory of the same granule lies above it, what is taken
    /// away stays between the two and is still held: the map knows one range per granule.
    pub fn cut(&self, start: usize, end: usize) {
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
