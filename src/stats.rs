//! Layer 8: all counters at one moment, and the report at exit.

use crate::bins::{BINS, FIRST_LARGE, UNSORTED};
use crate::guard::GuardTotals;
use crate::heap::HeapTotals;
use crate::os::CALLS;
use crate::report::Line;
use crate::size::{ALIGN, FAST_BINS, MIN_CHUNK};

pub use crate::heap::{RUNGS, Totals};
pub use crate::os::CALLS as OS_CALLS;

/// The counters of the whole process. Other threads go on while it is taken, so sums of
/// different moments may differ by what they did meanwhile.
#[derive(Debug, Clone, Copy, Default)]
pub struct Snapshot {
    /// Blocks handed out so far.
    pub mallocs: u64,
    /// Blocks taken back so far.
    pub frees: u64,
    /// Chunk bytes in users' hands.
    pub live_bytes: u64,
    /// The most chunk bytes that were outside the heaps (with users and in caches).
    pub peak_bytes: u64,
    /// Chunk bytes in thread caches and in the depot.
    pub cached_bytes: u64,
    /// Arenas.
    pub arenas: u64,
    /// Threads that use an arena now.
    pub threads: u64,
    /// Bytes from the system, now.
    pub system_bytes: u64,
    /// Bytes from the system, at most.
    pub system_peak: u64,
    /// Bytes from the program break, now.
    pub break_bytes: u64,
    /// Bytes in regions of arenas and mapped segments, now.
    pub segment_bytes: u64,
    /// Blocks with a mapping of their own, now.
    pub mapped: Totals,
    /// Blocks with a mapping of their own, at most.
    pub mapped_peak: Totals,
    /// Blocks with a mapping of their own, handed out so far.
    pub mapped_served: u64,
    /// Bytes of freed mappings that are kept.
    pub mapping_cache_bytes: u64,
    /// Bytes given back to the system so far.
    pub returned_bytes: u64,
    /// Free chunks in fast bins.
    pub fast: Totals,
    /// Free chunks in unsorted bins.
    pub unsorted: Totals,
    /// Free chunks in small bins.
    pub small: Totals,
    /// Free chunks in large bins.
    pub large: Totals,
    /// Bytes of all tops.
    pub top_bytes: u64,
    /// Bytes that are free for any request that fits: in unsorted, small and large bins and in
    /// tops. What lies in fast bins, thread caches and the depot, and kept mappings, is not.
    pub free_bytes: u64,
    /// Bytes of the largest piece of these. An arena has to grow for a request that is larger
    /// than its own largest piece, however much is free.
    pub largest_free: u64,
    /// Chunks that an arena served, by rung of the ladder ([`RUNGS`]).
    pub rungs: [u64; RUNGS.len()],
    /// System calls made, by [`OS_CALLS`].
    pub os_calls: [u64; CALLS.len()],
    /// Chunks that came home to an arena that a fork had orphaned.
    pub parked: u64,
    /// Guarded objects.
    pub guard: GuardTotals,
}

impl Snapshot {
    /// Adds what one heap holds.
    pub(crate) fn add(&mut self, heap: &HeapTotals) {
        self.live_bytes += heap.used_bytes as u64;
        self.peak_bytes += heap.used_peak as u64;
        self.system_bytes += heap.system_bytes as u64;
        self.system_peak += heap.system_peak as u64;
        self.break_bytes += heap.break_bytes as u64;
        self.segment_bytes += heap.segment_bytes as u64;
        self.returned_bytes += heap.returned_bytes;
        self.top_bytes += heap.top_bytes as u64;
        self.free_bytes += heap.free_bytes();
        self.largest_free = self.largest_free.max(heap.largest_free as u64);
        for fast in heap.fast {
            self.fast.merge(fast);
        }
        for (index, bin) in heap.bins.into_iter().enumerate() {
            match index {
                UNSORTED => self.unsorted.merge(bin),
                0..FIRST_LARGE => self.small.merge(bin),
                _ => self.large.merge(bin),
            }
        }
        for (sum, served) in self.rungs.iter_mut().zip(heap.rungs) {
            *sum += served;
        }
    }

    /// External fragmentation: the part of the free memory that lies outside its largest piece,
    /// 1 - largest / all, from 0 (one piece, or nothing is free) to nearly 1.
    #[must_use]
    pub fn external_fragmentation(&self) -> f64 {
        match self.free_bytes {
            0 => 0.0,
            free => 1.0 - self.largest_free as f64 / free as f64,
        }
    }

    /// The same in whole percent, rounded down.
    fn fragmented_percent(&self) -> u64 {
        let elsewhere = self.free_bytes.saturating_sub(self.largest_free);
        let hundredfold = elsewhere.saturating_mul(100);
        hundredfold.checked_div(self.free_bytes).unwrap_or(0)
    }

    /// Writes the statistics as text to a file descriptor.
    pub fn write_to(&self, fd: i32, peak_rss: u64) {
        let mut line = Line::new();
        line.text("fencepost: statistics").write_to(fd);
        let mut row = |name: &str, numbers: &[(u64, &str)]| {
            line.text("  ").column(name, 18);
            for (i, (number, unit)) in numbers.iter().enumerate() {
                line.text(if i == 0 { "" } else { ", " })
                    .decimal(*number)
                    .text(unit);
            }
            line.write_to(fd);
        };
        row(
            "calls",
            &[(self.mallocs, " mallocs"), (self.frees, " frees")],
        );
        row(
            "bytes",
            &[(self.live_bytes, " live"), (self.peak_bytes, " at peak")],
        );
        row("cached", &[(self.cached_bytes, " bytes")]);
        row("arenas", &[(self.arenas, "")]);
        row("threads", &[(self.threads, "")]);
        row("from brk", &[(self.break_bytes, " bytes")]);
        row("in segments", &[(self.segment_bytes, " bytes")]);
        row(
            "mapped",
            &[
                (self.mapped.chunks, " blocks"),
                (self.mapped.bytes, " bytes"),
                (self.mapped_served, " served"),
                (self.mapping_cache_bytes, " bytes kept"),
            ],
        );
        if self.guard != GuardTotals::default() {
            row(
                "guarded",
                &[
                    (self.guard.guarded, " objects"),
                    (self.guard.live, " live"),
                    (self.guard.live_bytes, " bytes"),
                    (self.guard.resting, " resting"),
                    (self.guard.refused, " refused"),
                ],
            );
        }
        row("given back", &[(self.returned_bytes, " bytes")]);
        row("peak rss", &[(peak_rss, " KiB")]);
        for (name, totals) in [
            ("fast bins", self.fast),
            ("unsorted bins", self.unsorted),
            ("small bins", self.small),
            ("large bins", self.large),
        ] {
            row(
                name,
                &[(totals.chunks, " chunks"), (totals.bytes, " bytes")],
            );
        }
        row("top", &[(self.top_bytes, " bytes")]);
        row(
            "free",
            &[
                (self.free_bytes, " bytes"),
                (self.largest_free, " in the largest block"),
                (self.fragmented_percent(), " % external fragmentation"),
            ],
        );
        for (rung, served) in RUNGS.iter().zip(self.rungs) {
            line.text("  served by ").column(rung, 16);
            line.decimal(served).write_to(fd);
        }
        for (call, made) in CALLS.iter().zip(self.os_calls) {
            line.text("  system calls ").column(call, 13);
            line.decimal(made).write_to(fd);
        }
    }
}

/// The counters of one arena.
#[derive(Debug, Clone, Copy)]
pub struct ArenaSnapshot {
    /// Its number; 0 is the main arena.
    pub index: usize,
    /// Free chunks by fast bin.
    pub fast: [Totals; FAST_BINS],
    /// Free chunks in the unsorted bin.
    pub unsorted: Totals,
    /// Free chunks by number of the small or large bin (2 to 126).
    pub bins: [Totals; BINS],
    /// Bytes of top.
    pub top_bytes: u64,
    /// Bytes from the system, now.
    pub system_bytes: u64,
    /// Bytes from the system, at most.
    pub system_peak: u64,
}

impl ArenaSnapshot {
    pub(crate) fn new(index: usize, heap: &HeapTotals) -> ArenaSnapshot {
        let mut bins = heap.bins;
        let unsorted = core::mem::take(&mut bins[UNSORTED]);
        ArenaSnapshot {
            index,
            fast: heap.fast,
            unsorted,
            bins,
            top_bytes: heap.top_bytes as u64,
            system_bytes: heap.system_bytes as u64,
            system_peak: heap.system_peak as u64,
        }
    }

    /// The chunk sizes in bytes, first and last, that belong to fast bin `index`.
    #[must_use]
    pub const fn fast_range(&self, index: usize) -> (u64, u64) {
        let size = (MIN_CHUNK + index * ALIGN) as u64;
        (size - ALIGN as u64 + 1, size)
    }

    /// The smallest and the largest chunk in the unsorted bin; the range of all bins stands for
    /// them, since the bin is not sorted.
    #[must_use]
    pub const fn unsorted_range(&self) -> (u64, u64) {
        (MIN_CHUNK as u64, crate::size::MAX_CHUNK as u64)
    }

    /// The chunk sizes in bytes, first and last, that belong to bin `index` (2 to 126).
    #[must_use]
    pub const fn bin_range(&self, index: usize) -> (u64, u64) {
        let (from, to) = crate::bins::bin_range(index);
        (from as u64, to as u64)
    }
}
