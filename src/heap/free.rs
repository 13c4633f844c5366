//! Free, coalescing, consolidation: how chunks come home.

use super::{Heap, is_binned};
use crate::chunk::{Chunk, DIRT_MIN, State};
use crate::os::Os;
use crate::report::{Misuse, abort};
use crate::size::{FAST_BINS, MAX_CHUNK, MIN_CHUNK, Native};

/// A freed chunk that grows to this size by merging consolidates the fast bins and looks
/// whether top can be trimmed (ptmalloc's FASTBIN_CONSOLIDATION_THRESHOLD, in bytes).
const CONSOLIDATION: usize = 64 << 10;
/// The fast bins hold at most this many bytes before they are consolidated: ptmalloc sets no
/// bound, and keeps whole heaps of small chunks that are all free.
const FAST_BYTES: usize = 128 << 10;

impl<O: Os + 'static> Heap<O> {
    /// Takes a chunk back. The caller has verified its head (as used, or popped it from a stack
    /// of cached ones) and that this heap owns it.
    pub fn free(&mut self, chunk: Chunk<'static, O::Region>) {
        let low = chunk.low();
        let size = low.size();
        self.gave(size);
        if size <= self.fast_limit() {
            let index = Native::fast_index(size).min(FAST_BINS - 1);
            self.fast[index].push(chunk, low, State::Fast);
            self.fast_bytes += size;
            self.freed_since_tick += size;
            if self.fast_bytes > FAST_BYTES {
                self.consolidate();
            }
        } else {
            self.freed_since_tick += size;
            let merged = self.coalesce(chunk, size);
            if merged >= CONSOLIDATION {
                if self.fast_bytes != 0 {
                    self.consolidate();
                }
                self.trim_if_due();
            }
        }
        self.tick_if_due();
    }

    /// Empties the fast bins: every chunk in them is merged with its free neighbours.
    pub fn consolidate(&mut self) {
        for index in 0..FAST_BINS {
            while let Some(chunk) = self.fast[index].pop(self.keys, State::Fast) {
                self.coalesce(chunk, chunk.size());
            }
        }
        self.fast_bytes = 0;
    }

    /// Merges a chunk that is in no list with its free neighbours and puts the result into the
    /// unsorted bin, or into top if it borders on it. Returns the size of the result.
    pub(super) fn coalesce(&mut self, chunk: Chunk<'static, O::Region>, size: usize) -> usize {
        let mut chunk = chunk;
        let mut size = size;
        let (mut stamp, mut dirt) = (self.epoch, size);
        if !chunk.low().prev_in_use() {
            let before = chunk
                .before()
                .filter(|b| is_binned(*b) && b.size() == chunk.prev_size());
            let Some(before) = before else {
                abort(Misuse::CorruptLink {
                    address: chunk.payload(),
                });
            };
            let length = before.size();
            if length + size <= MAX_CHUNK {
                (stamp, dirt) = older((stamp, dirt), self.dirt_of(before, length));
                self.leave_bin(before);
                chunk.mark(chunk.low(), State::Retired);
                chunk = before;
                size += length;
            }
        }
        let after = self.after(chunk, size);
        if after.addr() == self.top {
            if !after.is(State::Top) {
                abort(Misuse::CorruptHead {
                    address: after.payload(),
                });
            }
            after.mark(after.low(), State::Retired);
            chunk.mark(chunk.low(), State::Retired);
            let total = self.top_size + size;
            self.set_top(chunk.addr(), total, chunk.low().prev_in_use());
            return total;
        }
        if is_binned(after) && after.size() + size <= MAX_CHUNK {
            let length = after.size();
            (stamp, dirt) = older((stamp, dirt), self.dirt_of(after, length));
            self.leave_bin(after);
            after.mark(after.low(), State::Retired);
            size += length;
        } else {
            after.set_low(after.low().with_prev_in_use(false));
        }
        chunk.set_low(chunk.low().resized(size));
        self.after(chunk, size).set_prev_size(size);
        self.enter_unsorted(chunk, size, stamp, dirt.min(size));
        size
    }

    /// Makes `size` bytes at `addr`, whose neighbour below is in use as seen from `prev_in_use`,
    /// a free chunk and merges it.
    pub(super) fn release(&mut self, addr: usize, size: usize, prev_in_use: bool) {
        debug_assert!(size >= MIN_CHUNK);
        let chunk = self.chunk(addr);
        chunk.set_low(self.low(size).with_prev_in_use(prev_in_use));
        self.coalesce(chunk, size);
    }

    /// The stamp and dirt of a free chunk.
    pub(super) fn dirt_of(&self, chunk: Chunk<'static, O::Region>, size: usize) -> (u32, usize) {
        if size >= DIRT_MIN {
            chunk.dirt()
        } else {
            (self.epoch, size)
        }
    }

    /// Puts a free chunk, whose low half and boundary tag are written, into the unsorted bin.
    pub(super) fn enter_unsorted(
        &mut self,
        chunk: Chunk<'static, O::Region>,
        size: usize,
        stamp: u32,
        dirt: usize,
    ) {
        self.bins.put_unsorted(chunk);
        self.counters.binned_bytes += size;
        if size >= DIRT_MIN {
            chunk.set_dirt(stamp, dirt);
            self.counters.dirty_bytes += dirt;
        }
    }

    /// Puts a chunk that just left the unsorted bin into the bin of its size.
    pub(super) fn enter_sorted(&mut self, chunk: Chunk<'static, O::Region>) {
        let size = chunk.size();
        self.bins.put_sorted(self.keys, chunk);
        self.counters.binned_bytes += size;
        if size >= DIRT_MIN {
            self.counters.dirty_bytes += chunk.dirt().1;
        }
    }

    /// Takes a chunk out of its bin, after verifying its head and its boundary tag. Returns its
    /// size.
    pub(super) fn leave_bin(&mut self, chunk: Chunk<'static, O::Region>) -> usize {
        let size = chunk.size();
        if !self.bins.take(self.keys, chunk) {
            abort(Misuse::CorruptHead {
                address: chunk.payload(),
            });
        }
        let after = self.after(chunk, size);
        if after.prev_size() != size || after.low().prev_in_use() {
            abort(Misuse::CorruptLink {
                address: chunk.payload(),
            });
        }
        self.counters.binned_bytes -= size;
        if size >= DIRT_MIN {
            let dirt = chunk.dirt().1;
            self.counters.dirty_bytes = self.counters.dirty_bytes.saturating_sub(dirt);
        }
        size
    }
}

/// Two free neighbours become one: the dirt adds up, the age is that of the dirtier part.
fn older(a: (u32, usize), b: (u32, usize)) -> (u32, usize) {
    (if a.1 >= b.1 { a.0 } else { b.0 }, a.1 + b.1)
}
