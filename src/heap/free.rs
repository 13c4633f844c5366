//! Free, coalescing, consolidation: how chunks come home.

use super::Heap;
use crate::chunk::{Chunk, DIRT_MIN, State};
use crate::os::Os;
use crate::report::{Misuse, abort};
use crate::size::{FAST_BINS, MAX_CHUNK, MIN_CHUNK, Native};

/// A freed chunk that grows to this size by merging consolidates the fast bins and looks
/// whether top can be trimmed (ptmalloc's FASTBIN_CONSOLIDATION_THRESHOLD, in bytes).
const CONSOLIDATION: usize = 64 << 10;
/// The fast bins hold at most this many bytes; what comes then is merged at once. ptmalloc sets
/// no bound, and keeps whole heaps of small chunks that are all free.
const FAST_BYTES: usize = 64 << 10;

/// Chunks on their way home that border on each other: merged before any neighbour is looked
/// at. Blocks that were carved from one batch often come home together.
#[derive(Debug, Default)]
pub struct Run {
    addr: usize,
    size: usize,
}

impl<O: Os + 'static> Heap<O> {
    /// Takes a chunk back. The caller has verified its head (as used, or popped it from a stack
    /// of cached ones) and that this heap owns it.
    pub fn free(&mut self, chunk: Chunk<'static, O::Region>) {
        let size = chunk.size();
        self.came_home(size);
        if !self.put_fast(chunk, size) && self.coalesce(chunk, size) >= CONSOLIDATION {
            if self.fast_bytes != 0 {
                self.consolidate();
            }
            self.trim_if_due();
        }
        self.tick_if_due();
    }

    /// As [`free`](Heap::free) for one of many: a chunk that borders on the run before it only
    /// makes the run longer. [`end_run`](Heap::end_run) must follow before the lock is given up.
    pub fn free_with(&mut self, run: &mut Run, chunk: Chunk<'static, O::Region>) {
        let size = chunk.size();
        self.came_home(size);
        if self.put_fast(chunk, size) {
            return;
        }
        if run.size != 0 && run.size + size <= MAX_CHUNK {
            if chunk.addr() + size == run.addr {
                let upper = self.chunk(run.addr);
                upper.mark(upper.low(), State::Retired);
                run.addr = chunk.addr();
                run.size += size;
                return;
            }
            if run.addr + run.size == chunk.addr() {
                chunk.mark(chunk.low(), State::Retired);
                run.size += size;
                return;
            }
        }
        self.merge_run(run);
        *run = Run {
            addr: chunk.addr(),
            size,
        };
    }

    /// Merges what is left of a run.
    pub fn end_run(&mut self, run: &mut Run) {
        self.merge_run(run);
        self.trim_if_due();
        self.tick_if_due();
    }

    fn merge_run(&mut self, run: &mut Run) {
        let Run { addr, size } = core::mem::take(run);
        if size != 0 {
            self.coalesce(self.chunk(addr), size);
        }
    }

    #[inline]
    fn came_home(&mut self, size: usize) {
        self.gave(size);
        self.freed_since_tick += size;
    }

    /// Puts a chunk into the fast bin of its size if it is fast and there is room.
    #[inline]
    fn put_fast(&mut self, chunk: Chunk<'static, O::Region>, size: usize) -> bool {
        if size > self.fast_limit() || self.fast_bytes + size > FAST_BYTES {
            return false;
        }
        let index = Native::fast_index(size).min(FAST_BINS - 1);
        self.fast[index].push(chunk, chunk.low(), State::Fast);
        self.fast_bytes += size;
        true
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
        self.merge(chunk, size, size)
    }

    /// As [`coalesce`](Heap::coalesce), for a chunk whose pages' states are right already
    /// except those of the first `used` bytes.
    pub(super) fn merge(
        &mut self,
        chunk: Chunk<'static, O::Region>,
        size: usize,
        used: usize,
    ) -> usize {
        let freed = (chunk.addr(), chunk.addr() + used);
        let mut size = size;
        let clean = if used == size {
            0
        } else {
            size - self.dirt_in(chunk.addr(), chunk.addr() + size)
        };
        let (mut stamp, mut dirt) = (self.epoch, size - clean);
        let before = if chunk.low().prev_in_use() {
            None
        } else {
            Some(self.free_before(chunk))
        };
        let after = self.after(chunk, size);
        if after.addr() == self.top {
            let lowest = before.map_or(chunk.addr(), |(before, _)| before.addr());
            let total = self.join_top(before, chunk, size);
            self.note_freed(lowest, lowest + total, freed.0, freed.1);
            return total;
        }
        let joins = after.size() + size <= MAX_CHUNK;
        if let Some(state) = after.binned().filter(|_| joins) {
            let length = after.size();
            (stamp, dirt) = older((stamp, dirt), self.dirt_of(after, length));
            self.leave(after, length, state);
            after.mark(after.low(), State::Retired);
            size += length;
        } else {
            after.set_low(after.low().with_prev_in_use(false));
        }
        if let Some((before, state)) = before
            && before.size() + size <= MAX_CHUNK
        {
            let length = before.size();
            (stamp, dirt) = older((stamp, dirt), self.dirt_of(before, length));
            chunk.mark(chunk.low(), State::Retired);
            size += length;
            self.note_freed(before.addr(), before.addr() + size, freed.0, freed.1);
            if state == State::Unsorted {
                self.lengthen(before, size, stamp, dirt.min(size));
            } else {
                self.leave(before, length, state);
                self.enter_new(before, size, stamp, dirt);
            }
        } else {
            self.note_freed(chunk.addr(), chunk.addr() + size, freed.0, freed.1);
            self.enter_new(chunk, size, stamp, dirt);
        }
        size
    }

    /// The free chunk before one whose `PREV_INUSE` is clear; aborts if what lies there is none.
    fn free_before(&self, chunk: Chunk<'static, O::Region>) -> (Chunk<'static, O::Region>, State) {
        let size = chunk.prev_size();
        let before = chunk.before().filter(|b| b.size() == size);
        match before.and_then(|b| b.binned().map(|state| (b, state))) {
            Some(found) => found,
            None => abort(Misuse::CorruptLink {
                address: chunk.payload(),
            }),
        }
    }

    /// Writes size and boundary tag of a free chunk and puts it into the unsorted bin.
    fn enter_new(
        &mut self,
        chunk: Chunk<'static, O::Region>,
        size: usize,
        stamp: u32,
        dirt: usize,
    ) {
        chunk.set_low(chunk.low().resized(size));
        self.after(chunk, size).set_prev_size(size);
        self.enter_unsorted(chunk, size, stamp, dirt.min(size));
    }

    /// Makes a chunk that is in the unsorted bin longer, where it is.
    fn lengthen(&mut self, chunk: Chunk<'static, O::Region>, size: usize, stamp: u32, dirt: usize) {
        let old = chunk.size();
        self.counters.binned_bytes += size - old;
        self.cleaned(chunk, old);
        chunk.begin(chunk.low().resized(size), State::Unsorted);
        self.after(chunk, size).set_prev_size(size);
        if size >= DIRT_MIN {
            chunk.set_dirt(stamp, dirt);
            self.counters.dirty_bytes += dirt;
        }
    }

    /// Merges a chunk, and the free one before it, into top behind it. Returns top's size.
    fn join_top(
        &mut self,
        before: Option<(Chunk<'static, O::Region>, State)>,
        chunk: Chunk<'static, O::Region>,
        size: usize,
    ) -> usize {
        let top = self.chunk(self.top);
        if !top.is(State::Top) {
            abort(Misuse::CorruptHead {
                address: top.payload(),
            });
        }
        top.mark(top.low(), State::Retired);
        chunk.mark(chunk.low(), State::Retired);
        let mut lowest = chunk;
        if let Some((before, state)) = before {
            self.leave(before, before.size(), state);
            lowest = before;
        }
        let total = self.top + self.top_size - lowest.addr();
        debug_assert!(total >= self.top_size + size);
        self.set_top(lowest.addr(), total, lowest.low().prev_in_use());
        total
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
        chunk.dirt_or(size, self.epoch)
    }

    /// A free chunk's dirt does not count any more.
    #[inline]
    fn cleaned(&mut self, chunk: Chunk<'static, O::Region>, size: usize) {
        let counted = if size >= DIRT_MIN { usize::MAX } else { 0 };
        let gone = self.dirt_of(chunk, size).1 & counted;
        self.counters.dirty_bytes = self.counters.dirty_bytes.saturating_sub(gone);
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

    /// Takes a chunk out of its bin, after verifying its head and its boundary tag. Returns its
    /// size.
    pub(super) fn leave_bin(&mut self, chunk: Chunk<'static, O::Region>) -> usize {
        let size = chunk.size();
        match chunk.binned() {
            Some(state) => self.leave(chunk, size, state),
            None => abort(Misuse::CorruptHead {
                address: chunk.payload(),
            }),
        }
        size
    }

    /// As [`leave_bin`](Heap::leave_bin) for a chunk whose head was verified: its size and state.
    #[inline]
    pub(super) fn leave(&mut self, chunk: Chunk<'static, O::Region>, size: usize, state: State) {
        self.bins.take(chunk, size, state);
        self.left(chunk, size);
    }

    /// A chunk left its bin: verifies its boundary tag and counts. Returns the chunk after it.
    #[inline]
    pub(super) fn left(
        &mut self,
        chunk: Chunk<'static, O::Region>,
        size: usize,
    ) -> Chunk<'static, O::Region> {
        let after = self.after(chunk, size);
        if after.prev_size() != size || after.low().prev_in_use() {
            abort(Misuse::CorruptLink {
                address: chunk.payload(),
            });
        }
        self.counters.binned_bytes -= size;
        self.cleaned(chunk, size);
        after
    }
}

/// Two free neighbours become one: the dirt adds up, the age is that of the dirtier part.
fn older(a: (u32, usize), b: (u32, usize)) -> (u32, usize) {
    (if a.1 >= b.1 { a.0 } else { b.0 }, a.1 + b.1)
}
