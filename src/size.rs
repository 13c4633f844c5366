//! Layer 0: sizes. From a request to a chunk size to a cache class, without a pointer in sight.
//!
//! The geometry of a chunk is generic over the word size, so that the numbers of a 32-bit
//! ptmalloc (which the reference notes quote) and those of a 64-bit one are the same code.
//! The allocator itself uses [`Native`] on every target: a head needs eight bytes.

/// Sizes and offsets of a ptmalloc chunk whose size field is `WORD` bytes wide.
///
/// Source: the public description of ptmalloc's chunk format (glibc <= 2.42).
#[derive(Debug, Clone, Copy)]
pub struct Geometry<const WORD: usize>;

impl<const WORD: usize> Geometry<WORD> {
    /// Bytes between a chunk's address and the memory that the user gets: `prev_size` and head.
    pub const HEADER: usize = 2 * WORD;
    /// Every chunk size and address is a multiple of this many bytes.
    pub const ALIGN: usize = 2 * WORD;
    /// The smallest chunk in bytes: the four fields that a free small chunk needs.
    pub const MIN_CHUNK: usize = 4 * WORD;
    /// Chunks of this many bytes and more live in large bins.
    pub const MIN_LARGE: usize = 64 * Self::ALIGN;
    /// The largest fast request in bytes unless `M_MXFAST` says otherwise.
    pub const DEFAULT_MXFAST: usize = 16 * WORD;
    /// The largest value that `M_MXFAST` may have, in bytes.
    pub const MAX_MXFAST: usize = 20 * WORD;

    /// The byte offset of the n-th of a chunk's six fields: `prev_size`, size, `fd`, `bk`,
    /// `fd_nextsize`, `bk_nextsize`.
    #[must_use]
    pub const fn field_offset(field: usize) -> usize {
        field * WORD
    }

    /// The chunk size in bytes that serves a request of `request` bytes; `None` if the request
    /// is larger than `PTRDIFF_MAX` or so close to it that the chunk would be.
    #[must_use]
    #[inline(always)]
    pub const fn chunk_size(request: usize) -> Option<usize> {
        if request > isize::MAX as usize - 2 * Self::MIN_CHUNK {
            return None;
        }
        Some(Self::chunk_size_unchecked(request))
    }

    /// As [`chunk_size`](Self::chunk_size) for a request that is known to be small.
    #[must_use]
    #[inline(always)]
    pub const fn chunk_size_unchecked(request: usize) -> usize {
        let size = (request + WORD + Self::ALIGN - 1) & !(Self::ALIGN - 1);
        if size < Self::MIN_CHUNK {
            Self::MIN_CHUNK
        } else {
            size
        }
    }

    /// How many bytes the user of a chunk of `size` bytes may use: all but the size word, for
    /// the next chunk's `prev_size` is the user's while the chunk is in use.
    #[must_use]
    #[inline(always)]
    pub const fn usable(size: usize) -> usize {
        size - WORD
    }

    /// The fast bin of a chunk size.
    #[must_use]
    pub const fn fast_index(size: usize) -> usize {
        size / Self::ALIGN - 2
    }

    /// The largest chunk that is fast when requests up to `mxfast` bytes are; 0 if none is.
    #[must_use]
    pub const fn fast_limit(mxfast: usize) -> usize {
        if mxfast == 0 {
            0
        } else {
            (mxfast + WORD) & !(Self::ALIGN - 1)
        }
    }

    /// Whether a chunk of this size belongs to a small bin.
    #[must_use]
    pub const fn is_small(size: usize) -> bool {
        size < Self::MIN_LARGE
    }
}

/// The geometry that the allocator uses.
///
/// Also on 32-bit targets: the head (two 32-bit halves) needs eight bytes there too, and C's
/// `max_align_t` is 16 bytes on i386 since glibc 2.26.
pub type Native = Geometry<8>;

/// Bytes between a chunk's address and its payload.
pub const HEADER: usize = Native::HEADER;
/// Alignment of every payload, in bytes.
pub const ALIGN: usize = Native::ALIGN;
/// The smallest chunk, in bytes.
pub const MIN_CHUNK: usize = Native::MIN_CHUNK;
/// The largest chunk that a head can describe, in bytes. Larger requests are mapped, and free
/// neighbours whose sum would exceed it stay apart.
pub const MAX_CHUNK: usize = if usize::BITS == 64 {
    ((1u64 << 33) - 16) as usize
} else {
    (1usize << 31) - 16
};
/// How many fast bins there are (chunks of 32 to 176 bytes).
pub const FAST_BINS: usize =
    Native::fast_index(Native::chunk_size_unchecked(Native::MAX_MXFAST)) + 1;

/// The largest request whose class is found by one shift, in bytes.
pub const SMALL_REQUEST: usize = 1032;
/// The largest request that the caches serve, in bytes.
pub const CACHED_REQUEST: usize = 65544;
/// Number of cache classes. Classes 2 to 65 are chunks of 32 to 1040 bytes in steps of 16;
/// from there on eight classes divide each doubling, each 16 bytes above a round number so
/// that a request for a power of two wastes nothing.
pub const CLASSES: usize = 114;
/// Number of classes of the depot: it goes on with chunks of up to 262,160 bytes, which are too
/// large for the cache of a thread.
pub const DEPOT_CLASSES: usize = CLASSES + 16;
/// The largest chunk that the depot takes, in bytes.
pub const DEPOT_CHUNK: usize = class_size(DEPOT_CLASSES - 1);
/// Chunks beyond that are a multiple of this part of the power of two below them.
const LARGE_STEPS: u32 = 5;
/// Classes below this one hold chunks of 16 bytes times their number.
pub const SMALL_CLASSES: usize = 66;
const SMALL_CHUNK: usize = 1040;

/// The class of a chunk size of at most [`DEPOT_CHUNK`] bytes: the first whose chunks are large
/// enough.
#[must_use]
#[inline(always)]
pub const fn class_of(size: usize) -> usize {
    if size <= SMALL_CHUNK {
        size / ALIGN
    } else {
        let m = size - HEADER - 1;
        let exponent = (usize::BITS - 1 - m.leading_zeros()) as usize;
        SMALL_CLASSES + (exponent - 10) * 8 + ((m >> (exponent - 3)) & 7)
    }
}

/// The class of a request of at most [`SMALL_REQUEST`] bytes.
#[must_use]
#[inline(always)]
pub const fn small_class_of(request: usize) -> usize {
    // "At least 1" is an addition with carry; "at least 2" were a comparison and a move.
    let above = (request + Native::usable(MIN_CHUNK) - 1 - ALIGN) / ALIGN;
    1 + above + (above == 0) as usize
}

/// The chunk size of a class in bytes (0 for the two classes below the smallest chunk).
#[must_use]
pub const fn class_size(class: usize) -> usize {
    if class < 2 {
        0
    } else if class < SMALL_CLASSES {
        class * ALIGN
    } else {
        let step = class - SMALL_CLASSES;
        ((9 + step % 8) << (step / 8 + 7)) + HEADER
    }
}

/// The size of the chunk that serves a request whose chunk has `size` bytes at least, where no
/// cache does. Of large chunks few sizes are made: then one that was freed fits the next request
/// as it is, and what is written to at even distances lies in the same pages as before.
#[must_use]
pub const fn large_size(size: usize) -> usize {
    if size <= DEPOT_CHUNK {
        return class_size(class_of(size));
    }
    let exponent = usize::BITS - 1 - size.leading_zeros();
    let rounded = align_up(size, 1 << (exponent - LARGE_STEPS));
    if rounded <= MAX_CHUNK { rounded } else { size }
}

/// The smallest multiple of `to` (a power of two) that is at least `n`.
#[must_use]
#[inline(always)]
pub const fn align_up(n: usize, to: usize) -> usize {
    (n + to - 1) & !(to - 1)
}

/// The largest multiple of `to` (a power of two) that is at most `n`.
#[must_use]
#[inline(always)]
pub const fn align_down(n: usize, to: usize) -> usize {
    n & !(to - 1)
}

const _: () = {
    assert!(FAST_BINS == 10);
    assert!(Native::chunk_size_unchecked(SMALL_REQUEST) == SMALL_CHUNK);
    assert!(class_of(SMALL_CHUNK) == SMALL_CLASSES - 1);
    assert!(class_of(SMALL_CHUNK + ALIGN) == SMALL_CLASSES);
    assert!(class_of(Native::chunk_size_unchecked(CACHED_REQUEST)) == CLASSES - 1);
    let mut request = 0;
    while request <= SMALL_REQUEST {
        let size = Native::chunk_size_unchecked(request);
        assert!(small_class_of(request) == class_of(size));
        request += 1;
    }
    let mut class = 2;
    while class < DEPOT_CLASSES {
        let size = class_size(class);
        assert!(size.is_multiple_of(ALIGN) && class_of(size) == class);
        assert!(class == 2 || class_of(class_size(class - 1) + ALIGN) == class);
        class += 1;
    }
};
