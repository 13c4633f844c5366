//! Layer 5: ptmalloc's algorithm over one set of segments. No threads, no caches.
//!
//! A heap owns *segments*, each a run of chunks without a gap; the last segment ends with *top*.
//! Its verbs are [`fill`](Heap::fill) (the malloc ladder), [`free`](Heap::free),
//! [`resize`](Heap::resize), [`fill_aligned`](Heap::fill_aligned), [`trim`](Heap::trim) and
//! [`check`](Heap::check). Invariants, as the checker and the SAFETY comments cite them:
//!
//! - **I1** A segment is covered by chunks from its first byte to its end; each begins where the
//!   one before ends, the last is top (the heap's current segment) or a fencepost.
//! - **I2** Every head's tag is genuine for its address, size, `MAPPED` flag and one state; its
//!   `ARENA` flag says whether the heap is another than the main one.
//! - **I3** A chunk has `PREV_INUSE` clear exactly if the chunk before is in a bin (unsorted or
//!   sorted); then its `prev_size` is that chunk's size.
//! - **I4** No two neighbouring chunks are in bins (unless their sum is too large for a head),
//!   and none that is in a bin neighbours top.
//! - **I5** Every chunk in a bin is in exactly one, that of its state and size; links lead back.
//! - **I6** A large bin is sorted, largest first; its size list holds the first chunk of each size.
//! - **I7** The bin map has a bit set exactly for the sorted bins that hold a chunk.
//! - **I8** A fast bin holds chunks of its size in state `Fast`; their sum is `fast_bytes`.
//! - **I9** Top is as large as the heap's own word says and its head is genuine.
//! - **I10** The states of pages agree: whole pages of a free chunk are `Cached` or `Released`,
//!   those of top `Fresh` or `Populated` besides, all others of a segment `Live`; what reads as
//!   zero is zero. (Where the record had no memory: `Unknown`.)
//! - **I11** The counters agree with a walk: bytes used, bytes of free chunks, dirty bytes, bytes
//!   from the system.
//! - **I12** Every segment lies in the map of extents under the heap's own number.

mod account;
mod aligned;
mod check;
mod forge;
mod free;
mod grow;
mod malloc;
mod purge;
mod resize;
mod swing;
mod totals;

pub use check::{Damage, Found, Invariant, Place};
#[doc(hidden)]
pub use forge::Forge;
pub use free::Run;
pub use grow::{Growth, Reserved};
pub use malloc::{Batch, RUNGS, Rung};
pub use swing::Swing;
pub use totals::{HeapTotals, Totals};

use crate::bins::Bins;
use crate::chunk::{Chunk, Keys, Low, Stack};
use crate::config::{Key, Settings};
use crate::os::{Os, PageVec};
use crate::size::{FAST_BINS, Native};

/// A run of chunks without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first chunk.
    pub start: usize,
    /// Address after the last byte.
    pub end: usize,
    /// Whether it came from a mapping of its own because growing was refused.
    pub mapped: bool,
}

/// The bins, top and segments of one arena.
#[derive(Debug)]
pub struct Heap<O: Os + 'static> {
    os: O,
    keys: &'static Keys<O::Region>,
    settings: &'static Settings,
    /// The number under which the extents know this heap; 0 is the main arena.
    owner: usize,
    /// Whether the process has so many threads that most are idle.
    is_crowded: bool,
    fast: [Stack; FAST_BINS],
    fast_bytes: usize,
    bins: Bins,
    top: usize,
    top_size: usize,
    /// The address up to which top may be handed out before whoever holds free chunks is asked.
    reach: usize,
    /// Bytes by which that was extended lately.
    advanced: usize,
    /// Whether the kernel can make pages resident ahead of need, as far as is known.
    can_populate: bool,
    /// The smallest size that top had since the last tick.
    top_low: usize,
    /// The remainder of the last split for a small request.
    last_remainder: usize,
    growth: Growth,
    segments: PageVec<Segment, 4>,
    counters: Counters,
    /// Number of the current tick, 24 bits.
    epoch: u32,
    freed_since_tick: usize,
    ticks: u64,
    regret: Regret,
    swing: Swing,
}

/// Whether giving pages back pays: see the module `purge`.
#[derive(Debug, Default, Clone, Copy)]
struct Regret {
    /// Bytes discarded at the last tick.
    purged: usize,
    /// Bytes that top gave back and has not taken again.
    trimmed: usize,
    /// Bytes of discarded pages that were handed out again since.
    reused: usize,
    /// How often the bytes that may stay dirty are doubled.
    reluctance: u32,
    /// Ticks since the reluctance changed.
    settled: u32,
    /// The most bytes in use lately: falls by a part with each tick.
    high: usize,
    /// How many free bytes were dirty when it was that many: as much is in the program's way to
    /// allocate.
    beside: usize,
}

/// What a heap counts as it goes.
#[derive(Debug, Default, Clone, Copy)]
struct Counters {
    used_bytes: usize,
    used_peak: usize,
    binned_bytes: usize,
    dirty_bytes: usize,
    system_bytes: usize,
    system_peak: usize,
    break_bytes: usize,
    segment_bytes: usize,
    returned_bytes: u64,
    rungs: [u64; RUNGS.len()],
}

impl<O: Os + 'static> Heap<O> {
    /// A heap without memory; it asks `growth` for some when the first request comes.
    pub const fn new(
        os: O,
        keys: &'static Keys<O::Region>,
        settings: &'static Settings,
        owner: usize,
        growth: Growth,
    ) -> Heap<O> {
        Heap {
            os,
            keys,
            settings,
            owner,
            is_crowded: false,
            fast: [Stack::EMPTY; FAST_BINS],
            fast_bytes: 0,
            bins: Bins::new(),
            top: 0,
            top_size: 0,
            reach: 0,
            advanced: 0,
            can_populate: true,
            top_low: 0,
            last_remainder: 0,
            growth,
            segments: PageVec::new(Segment {
                start: 0,
                end: 0,
                mapped: false,
            }),
            counters: Counters {
                used_bytes: 0,
                used_peak: 0,
                binned_bytes: 0,
                dirty_bytes: 0,
                system_bytes: 0,
                system_peak: 0,
                break_bytes: 0,
                segment_bytes: 0,
                returned_bytes: 0,
                rungs: [0; RUNGS.len()],
            },
            epoch: 1,
            freed_since_tick: 0,
            ticks: 0,
            regret: Regret {
                purged: 0,
                trimmed: 0,
                reused: 0,
                reluctance: 0,
                settled: 0,
                high: 0,
                beside: 0,
            },
            swing: Swing::new(),
        }
    }

    /// Tells whether the process has so many threads that most are idle.
    pub const fn set_crowded(&mut self, is_crowded: bool) {
        self.is_crowded = is_crowded;
    }

    /// The kernel that this heap asks for memory.
    pub const fn os(&self) -> &O {
        &self.os
    }

    /// What it takes to read this heap's chunks.
    pub const fn keys(&self) -> &'static Keys<O::Region> {
        self.keys
    }

    /// How many ticks of freed bytes have passed: each is a moment to give memory back.
    pub const fn ticks(&self) -> u64 {
        self.ticks
    }

    /// Bytes that the heap has from the system.
    pub const fn system_bytes(&self) -> usize {
        self.counters.system_bytes
    }

    /// Bytes of chunks that are outside: with users, in caches, in the depot.
    pub const fn used_bytes(&self) -> usize {
        self.counters.used_bytes
    }

    /// The low half of the head of a chunk of `size` bytes of this heap whose neighbour below
    /// is in use.
    #[inline(always)]
    fn low(&self, size: usize) -> Low {
        Low::of(size)
            .with_prev_in_use(true)
            .with_arena(self.owner != 0)
    }

    /// The largest chunk size that goes to a fast bin.
    #[inline]
    fn fast_limit(&self) -> usize {
        Native::fast_limit(self.settings.get(Key::Mxfast))
    }

    /// The chunk at an address that the heap itself kept or computed from verified heads.
    #[inline(always)]
    fn chunk(&self, addr: usize) -> Chunk<'static, O::Region> {
        let keys: &'static Keys<O::Region> = self.keys;
        // SAFETY: I1: the heap's own words (top, segments, remainder) and the ends of verified
        // chunks are addresses of chunks.
        #[allow(unsafe_code)]
        unsafe {
            keys.chunk(addr)
        }
    }

    /// The chunk after `chunk`, whose verified size is `size`.
    #[inline(always)]
    fn after(&self, chunk: Chunk<'static, O::Region>, size: usize) -> Chunk<'static, O::Region> {
        // SAFETY: I1: something follows every chunk but top and fenceposts, which nobody asks.
        #[allow(unsafe_code)]
        unsafe {
            chunk.after(size)
        }
    }

    #[inline]
    fn took(&mut self, bytes: usize) {
        self.counters.used_bytes += bytes;
        if self.counters.used_bytes > self.regret.high {
            self.regret.high = self.counters.used_bytes;
            self.regret.beside = self.counters.dirty_bytes;
        }
        self.counters.used_peak = self.counters.used_peak.max(self.counters.used_bytes);
    }

    #[inline]
    fn gave(&mut self, bytes: usize) {
        self.counters.used_bytes = self.counters.used_bytes.saturating_sub(bytes);
    }
}
