//! The malloc ladder: fast bin, small bin, unsorted, best fit, top, growing.

use super::{Heap, Segment};
use crate::bins::UNSORTED;
use crate::chunk::{Chunk, Keys, Low, Stack, State};
use crate::os::{Os, PageState, Region};
use crate::report::{Misuse, abort};
use crate::size::{FAST_BINS, MAX_CHUNK, MIN_CHUNK, Native};

/// Where a chunk was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// A fast bin.
    Fast,
    /// A small bin, exact fit.
    Small,
    /// The unsorted bin, exact fit.
    Unsorted,
    /// The remainder of the last split.
    Remainder,
    /// The best fit of a small bin, split.
    SplitSmall,
    /// The best fit of a large bin, whole or split.
    Large,
    /// Top.
    Top,
    /// Top, after it had grown.
    Grown,
}

/// The names of the rungs, in the order of [`Rung`].
pub const RUNGS: [&str; 8] = [
    "fast bin",
    "small bin",
    "unsorted bin",
    "last remainder",
    "split small",
    "large bin",
    "top",
    "grown top",
];

/// A stack of chunks on its way between a heap and whoever asked, marked `Cached`.
#[derive(Debug)]
pub struct Batch {
    stack: Stack,
    count: usize,
    want: usize,
    zero: (usize, usize),
}

impl Batch {
    /// An empty batch that wants `want` chunks.
    #[must_use]
    pub const fn wanting(want: usize) -> Batch {
        Batch {
            stack: Stack::EMPTY,
            count: 0,
            want,
            zero: (0, 0),
        }
    }

    /// The chunks.
    #[must_use]
    pub const fn stack(&self) -> Stack {
        self.stack
    }

    /// How many there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Memory of these chunks between these addresses is zero but for the first three words
    /// of each payload, which a stacked chunk uses.
    #[must_use]
    pub const fn zero(&self) -> (usize, usize) {
        self.zero
    }

    pub(super) const fn missing(&self) -> usize {
        self.want - self.count
    }

    const fn is_full(&self) -> bool {
        self.count >= self.want
    }

    fn push<R: Region>(&mut self, chunk: Chunk<'_, R>, low: Low) {
        self.stack.push(chunk, low, State::Cached);
        self.count += 1;
    }

    /// Takes the top chunk; the caller marks it anew.
    pub fn pop<R: Region>(&mut self, keys: &'static Keys<R>) -> Option<Chunk<'static, R>> {
        let chunk = self.stack.pop(keys, State::Cached)?;
        self.count -= 1;
        Some(chunk)
    }
}

impl<O: Os + 'static> Heap<O> {
    /// Adds chunks of exactly `size` bytes to the batch: one at least, as many as it wants if
    /// they can be had without asking another rung. `false` if the heap cannot serve even one.
    ///
    /// The rungs in order: fast bin; small bin, exact; for a large request the fast bins are
    /// consolidated; the unsorted bin is sorted, what fits exactly leaves; best fit; top; fast
    /// bins consolidated; top grown.
    pub fn fill(&mut self, size: usize, batch: &mut Batch) -> bool {
        self.fill_from_free(size, batch) || self.fill_from_grown(size, batch)
    }

    /// As [`fill`](Heap::fill), from what the heap has: top does not grow, and is not handed out
    /// beyond its reach.
    pub fn fill_from_free(&mut self, size: usize, batch: &mut Batch) -> bool {
        debug_assert!(size >= MIN_CHUNK && size.is_multiple_of(crate::size::ALIGN));
        if size > MAX_CHUNK {
            return false;
        }
        let before = batch.count;
        self.climb(size, batch);
        let got = batch.count - before;
        self.took(got * size);
        got != 0
    }

    /// The last rung of [`fill`](Heap::fill): top reaches further, or grows.
    fn fill_from_grown(&mut self, size: usize, batch: &mut Batch) -> bool {
        if size > MAX_CHUNK {
            return false;
        }
        let rung = if self.top_size >= size + MIN_CHUNK {
            Rung::Top
        } else if self.grow(size) {
            Rung::Grown
        } else {
            return false;
        };
        self.extend_reach(size);
        let before = batch.count;
        self.rung_top(size, batch, rung);
        self.took((batch.count - before) * size);
        true
    }

    fn climb(&mut self, size: usize, batch: &mut Batch) {
        if size <= self.fast_limit() {
            self.rung_fast(size, batch);
        }
        if Native::is_small(size) {
            self.rung_small(size, batch);
            if batch.count != 0 {
                return;
            }
        } else if self.fast_bytes != 0 {
            self.consolidate();
        }
        loop {
            self.rung_unsorted(size, batch);
            if batch.count != 0 {
                return;
            }
            self.rung_best_fit(size, batch);
            if batch.count != 0 {
                return;
            }
            if self.rung_top(size, batch, Rung::Top) {
                return;
            }
            if self.fast_bytes == 0 {
                break;
            }
            self.consolidate();
        }
    }

    pub(super) fn served(&mut self, rung: Rung, chunks: usize) {
        self.counters.rungs[rung as usize] += chunks as u64;
    }

    fn rung_fast(&mut self, size: usize, batch: &mut Batch) {
        let index = Native::fast_index(size).min(FAST_BINS - 1);
        let before = batch.count;
        while !batch.is_full() {
            let Some(chunk) = self.fast[index].pop(self.keys, State::Fast) else {
                break;
            };
            let low = chunk.low();
            if low.size() != size {
                abort(Misuse::CorruptHead {
                    address: chunk.payload(),
                });
            }
            self.fast_bytes -= size;
            batch.push(chunk, low);
        }
        self.served(Rung::Fast, batch.count - before);
    }

    fn rung_small(&mut self, size: usize, batch: &mut Batch) {
        let before = batch.count;
        while !batch.is_full() {
            let Some(chunk) = self.bins.small_exact(self.keys, size) else {
                break;
            };
            let low = chunk.low();
            if low.size() != size || !chunk.is(State::Binned) {
                abort(Misuse::CorruptHead {
                    address: chunk.payload(),
                });
            }
            self.bins.take_small(chunk, size);
            let after = self.left(chunk, size);
            after.set_low(after.low().with_prev_in_use(true));
            batch.push(chunk, low);
        }
        self.served(Rung::Small, batch.count - before);
    }

    /// Looks through the unsorted bin, oldest first: exact fits leave until the batch is full,
    /// the rest is binned.
    fn rung_unsorted(&mut self, size: usize, batch: &mut Batch) {
        while let Some(chunk) = self.bins.oldest_unsorted(self.keys) {
            let (binned, found) = (self.verify_unsorted(chunk), chunk.size());
            self.bins.take_oldest(chunk);
            if found == size {
                let after = self.left(chunk, size);
                after.set_low(after.low().with_prev_in_use(true));
                self.hand_out(chunk.addr(), after.addr(), after.addr(), batch);
                batch.push(chunk, chunk.low());
                self.served(Rung::Unsorted, 1);
                if batch.is_full() {
                    return;
                }
                continue;
            }
            // A run of small requests cuts neighbours from one block.
            if Native::is_small(size)
                && chunk.addr() == self.last_remainder
                && self.bins.list(UNSORTED).is_empty()
                && batch.count == 0
                && found >= size + MIN_CHUNK
            {
                self.left(chunk, found);
                self.carve(chunk, found, size, batch, Rung::Remainder);
                return;
            }
            // It stays free: its boundary tag is verified when it goes to somebody.
            self.bins.put_sorted(self.keys, chunk, binned);
        }
    }

    /// Verifies the head of a chunk of the unsorted bin. Returns its tag for a sorted one.
    #[inline]
    pub(super) fn verify_unsorted(&self, chunk: Chunk<'static, O::Region>) -> u32 {
        let (binned, unsorted) = chunk.free_tags();
        if chunk.tag() != unsorted {
            abort(Misuse::CorruptHead {
                address: chunk.payload(),
            });
        }
        binned
    }

    fn rung_best_fit(&mut self, size: usize, batch: &mut Batch) {
        let Some(mut chunk) = self.bins.best_fit(self.keys, size) else {
            return;
        };
        let mut found = chunk.size();
        // A rest too small to be a chunk would stick to the block; take the next larger one.
        if found != size && found < size + MIN_CHUNK {
            match self.bins.best_fit(self.keys, size + MIN_CHUNK) {
                Some(larger) => chunk = larger,
                None => return,
            }
            found = chunk.size();
        }
        if self.leave_bin(chunk) != found || found < size {
            abort(Misuse::CorruptHead {
                address: chunk.payload(),
            });
        }
        let rung = if Native::is_small(found) {
            Rung::SplitSmall
        } else {
            Rung::Large
        };
        self.carve(chunk, found, size, batch, rung);
    }

    /// Cuts pieces of `size` bytes off a free block that has left its bin; what is left goes to
    /// the unsorted bin.
    fn carve(
        &mut self,
        block: Chunk<'static, O::Region>,
        total: usize,
        size: usize,
        batch: &mut Batch,
        rung: Rung,
    ) {
        let (stamp, dirt) = self.dirt_of(block, total);
        let mut pieces = batch.missing().min(total.checked_div(size).unwrap_or(0));
        let mut rest = total - pieces * size;
        if rest != 0 && rest < MIN_CHUNK {
            pieces -= 1;
            rest += size;
        }
        let prev_in_use = block.low().prev_in_use();
        let (start, end) = (block.addr(), block.addr() + total);
        self.hand_out(start, end, end - rest, batch);
        if rest == 0 {
            let after = self.after(block, total);
            after.set_low(after.low().with_prev_in_use(true));
        } else {
            let remainder = self.chunk(end - rest);
            remainder.set_low(self.low(rest));
            self.after(remainder, rest).set_prev_size(rest);
            let left = if dirt == total {
                rest
            } else {
                self.dirt_in(end - rest, end)
            };
            self.regret.reused += (total - dirt).saturating_sub(rest - left);
            self.enter_unsorted(remainder, rest, stamp, left);
            if Native::is_small(size) {
                self.last_remainder = remainder.addr();
            }
        }
        self.cut(block.addr(), size, pieces, prev_in_use, batch);
        self.served(rung, pieces);
    }

    /// Notes that the free block `start..end` is handed out up to `to`, and what of that is zero.
    fn hand_out(&mut self, start: usize, end: usize, to: usize, batch: &mut Batch) {
        let (first, last) = self.taken(start, end, to);
        if first < last {
            batch.zero = self.verify_free(first, last);
            self.os.note(first, last, PageState::Live);
        }
    }

    /// Writes the heads of `pieces` chunks in a row and stacks them, the lowest on top.
    pub(super) fn cut(
        &mut self,
        addr: usize,
        size: usize,
        pieces: usize,
        prev_in_use: bool,
        batch: &mut Batch,
    ) {
        for piece in (0..pieces).rev() {
            let low = self.low(size).with_prev_in_use(piece != 0 || prev_in_use);
            let chunk = self.chunk(addr + piece * size);
            chunk.set_low(low);
            batch.push(chunk, low);
        }
    }

    fn rung_top(&mut self, size: usize, batch: &mut Batch, rung: Rung) -> bool {
        let room = self.reach.saturating_sub(self.top);
        if self.top_size < size + MIN_CHUNK || room < size {
            return false;
        }
        let room = room.min(self.top_size - MIN_CHUNK);
        let top = self.chunk(self.top);
        if !top.is(State::Top) {
            abort(Misuse::CorruptHead {
                address: top.payload(),
            });
        }
        let pieces = batch.missing().min(room.checked_div(size).unwrap_or(0));
        let start = self.top;
        let end = start + self.top_size;
        let prev_in_use = top.low().prev_in_use();
        self.populate_ahead(start + pieces * size, size);
        self.hand_out(start, end, start + pieces * size, batch);
        self.set_top(start + pieces * size, self.top_size - pieces * size, true);
        self.top_low = self.top_low.min(self.top_size);
        self.cut(start, size, pieces, prev_in_use, batch);
        self.served(rung, pieces);
        true
    }

    /// Makes the `size` bytes at `addr` top.
    pub(super) fn set_top(&mut self, addr: usize, size: usize, prev_in_use: bool) {
        self.top = addr;
        self.top_size = size;
        let low = Low::of(0)
            .with_prev_in_use(prev_in_use)
            .with_arena(self.owner != 0);
        self.chunk(addr).begin(low, State::Top);
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> &[Segment] {
        self.segments.as_slice(&self.os)
    }
}
