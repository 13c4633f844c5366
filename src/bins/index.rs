//! Which bin a size belongs to: pure arithmetic, generic over the word size.

use crate::size::Geometry;

/// One more than the highest bin number in use (126). With the unused bins 0 and 127 that makes
/// ptmalloc's array of 128: 1 unsorted, 2 to 63 small, 64 to 126 large.
pub const BINS: usize = 127;

impl<const WORD: usize> Geometry<WORD> {
    /// The bin of a free chunk of `size` bytes.
    ///
    /// Small bins are spaced by the alignment; large bins by 64 bytes, then by 512, 4 KiB,
    /// 32 KiB and 256 KiB, and the last takes the rest. Source: ptmalloc's published spacing.
    #[must_use]
    pub const fn bin_index(size: usize) -> usize {
        if Self::is_small(size) {
            return size / Self::ALIGN;
        }
        let (fine_limit, fine_base) = if WORD == 8 { (48, 48) } else { (38, 56) };
        if size >> 6 <= fine_limit {
            fine_base + (size >> 6)
        } else if size >> 9 <= 20 {
            91 + (size >> 9)
        } else if size >> 12 <= 10 {
            110 + (size >> 12)
        } else if size >> 15 <= 4 {
            119 + (size >> 15)
        } else if size >> 18 <= 2 {
            124 + (size >> 18)
        } else {
            126
        }
    }
}

/// The bin of a free chunk of `size` bytes.
#[must_use]
#[inline]
pub const fn bin_index(size: usize) -> usize {
    crate::size::Native::bin_index(size)
}

/// The smallest and the largest chunk size in bytes that belong to bin `index` (2 to 126).
#[must_use]
pub const fn bin_range(index: usize) -> (usize, usize) {
    let align = crate::size::ALIGN;
    let mut from = crate::size::MIN_CHUNK;
    while bin_index(from) < index {
        // Steps as coarse as the bins there, so that this stays short.
        from += if from < 3072 {
            align
        } else if from < 10_752 {
            64
        } else {
            512
        };
    }
    if index >= BINS - 1 {
        return (from, crate::size::MAX_CHUNK);
    }
    let mut to = from;
    while bin_index(to + align) == index {
        to += align;
    }
    (from, to)
}
