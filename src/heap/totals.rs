//! What a heap holds, counted on demand.

use super::{Heap, RUNGS};
use crate::bins::{BINS, UNSORTED};
use crate::chunk::{Chunk, Stack, Through};
use crate::os::Os;
use crate::size::FAST_BINS;

/// A number of chunks and the bytes in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of chunks.
    pub chunks: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

impl Totals {
    /// Counts one more.
    pub const fn add(&mut self, bytes: usize) {
        self.chunks += 1;
        self.bytes += bytes as u64;
    }

    /// Counts all of `other` too.
    pub const fn merge(&mut self, other: Totals) {
        self.chunks += other.chunks;
        self.bytes += other.bytes;
    }
}

/// A heap's free memory by place, and its counters.
#[derive(Debug, Clone, Copy)]
pub struct HeapTotals {
    /// By fast bin.
    pub fast: [Totals; FAST_BINS],
    /// By bin: 1 is the unsorted bin, 2 to 63 are small, 64 to 126 large.
    pub bins: [Totals; BINS],
    /// Size of top in bytes.
    pub top_bytes: usize,
    /// Size of the largest chunk in a bin or of top, in bytes.
    pub largest_free: usize,
    /// Bytes outside: with users, in caches, in the depot.
    pub used_bytes: usize,
    /// The most that ever was outside.
    pub used_peak: usize,
    /// Bytes from the system, now.
    pub system_bytes: usize,
    /// Bytes from the system, at most.
    pub system_peak: usize,
    /// Of these, by the program break.
    pub break_bytes: usize,
    /// Of these, in mapped segments and regions.
    pub segment_bytes: usize,
    /// Bytes given back so far.
    pub returned_bytes: u64,
    /// Chunks served, by rung of the ladder.
    pub rungs: [u64; RUNGS.len()],
}

impl HeapTotals {
    /// All free bytes: in bins and in top. Chunks in fast bins count as in use, as they do for
    /// their neighbours: they are not merged, and serve requests of their own size alone.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let binned = self.bins.iter().map(|total| total.bytes);
        binned.sum::<u64>() + self.top_bytes as u64
    }

    /// The part of the free memory that the largest request could not have without growth:
    /// 1 - largest / free, 0 when nothing is free.
    #[must_use]
    pub fn external_fragmentation(&self) -> f64 {
        match self.free_bytes() {
            0 => 0.0,
            free => 1.0 - self.largest_free as f64 / free as f64,
        }
    }
}

impl<O: Os + 'static> Heap<O> {
    /// Counts what the heap holds; takes time in proportion to its free chunks.
    #[must_use]
    pub fn totals(&self) -> HeapTotals {
        let mut totals = HeapTotals {
            fast: [Totals::default(); FAST_BINS],
            bins: [Totals::default(); BINS],
            top_bytes: self.top_size,
            largest_free: self.top_size,
            used_bytes: self.counters.used_bytes,
            used_peak: self.counters.used_peak,
            system_bytes: self.counters.system_bytes,
            system_peak: self.counters.system_peak,
            break_bytes: self.counters.break_bytes,
            segment_bytes: self.counters.segment_bytes,
            returned_bytes: self.counters.returned_bytes,
            rungs: self.counters.rungs,
        };
        for (fast, total) in self.fast.iter().zip(&mut totals.fast) {
            let mut rest: Stack = *fast;
            while let Some(chunk) = rest.peek(self.keys) {
                total.add(chunk.size());
                rest = rest.rest(self.keys);
            }
        }
        let largest = &mut totals.largest_free;
        for (index, total) in totals.bins.iter_mut().enumerate().skip(UNSORTED) {
            for chunk in self.bins.list(index).iter(Through::Bin, self.keys) {
                total.add(chunk.size());
                *largest = (*largest).max(chunk.size());
            }
        }
        totals
    }

    /// The bins and fast bins, for tests that look where a chunk went.
    #[must_use]
    pub fn place_of(&self, payload: usize) -> super::Place {
        use super::Place;
        for (index, fast) in self.fast.iter().enumerate() {
            let mut rest: Stack = *fast;
            while let Some(chunk) = rest.peek(self.keys) {
                if chunk.payload() == payload {
                    return Place::Fast(index);
                }
                rest = rest.rest(self.keys);
            }
        }
        let holds = |chunk: Chunk<'_, O::Region>| chunk.payload() == payload;
        for index in UNSORTED..BINS {
            if self
                .bins
                .list(index)
                .iter(Through::Bin, self.keys)
                .any(holds)
            {
                return if index == UNSORTED {
                    Place::Unsorted
                } else {
                    Place::Bin(index)
                };
            }
        }
        if payload == self.top + crate::size::HEADER {
            Place::Top
        } else {
            Place::Nowhere
        }
    }

    /// Address and size of top, and where its zero memory begins, as the account of pages has it.
    #[must_use]
    pub fn top(&self) -> (usize, usize, usize) {
        let (first, last) = self.interior(self.top, self.top + self.top_size);
        (self.top, self.top_size, self.os.zero_run(first, last).0)
    }
}
