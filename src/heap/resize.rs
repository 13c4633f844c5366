//! Changing a chunk in place.

use super::Heap;
use crate::chunk::{Chunk, State};
use crate::os::Os;
use crate::report::{Misuse, abort};
use crate::size::{MAX_CHUNK, MIN_CHUNK};

impl<O: Os + 'static> Heap<O> {
    /// Makes a used chunk `size` bytes large without moving it: shrinks it, or takes what it
    /// needs from top or from a free chunk behind it. `false` if that is not possible.
    ///
    /// The caller has verified the chunk's head. A shrunk or grown chunk may stay 16 bytes
    /// larger than asked if those would be too few for a chunk.
    pub fn resize(&mut self, chunk: Chunk<'static, O::Region>, size: usize) -> bool {
        let old = chunk.size();
        if size > MAX_CHUNK {
            return false;
        }
        if size <= old {
            if old - size >= MIN_CHUNK {
                self.gave(old - size);
                self.restate(chunk, size);
                self.release(chunk.addr() + size, old - size, true);
                self.freed_since_tick += old - size;
                self.tick_if_due();
            }
            return true;
        }
        let after = self.after(chunk, old);
        let more = size - old;
        if after.addr() == self.top {
            if self.top_size < more + MIN_CHUNK && !self.grow_in_place(more) {
                return false;
            }
            let top = self.chunk(self.top);
            if !top.is(State::Top) {
                abort(Misuse::CorruptHead {
                    address: top.payload(),
                });
            }
            top.mark(top.low(), State::Retired);
            self.note_used(self.top, self.top + self.top_size, self.top + more);
            self.set_top(self.top + more, self.top_size - more, true);
            self.top_low = self.top_low.min(self.top_size);
            self.took(more);
            self.restate(chunk, size);
            return true;
        }
        let length = after.size();
        let total = old + length;
        // A rest that is too small for a chunk stays with it, and no head tells of more.
        let fits = length >= more && (total <= MAX_CHUNK || total - size >= MIN_CHUNK);
        let Some(state) = after.binned().filter(|_| fits) else {
            return false;
        };
        self.leave(after, length, state);
        after.mark(after.low(), State::Retired);
        let rest = total - size;
        let end = chunk.addr() + total;
        let kept = if rest >= MIN_CHUNK { rest } else { 0 };
        self.note_used(after.addr(), end, end - kept);
        if rest >= MIN_CHUNK {
            self.restate(chunk, size);
            let remainder = self.chunk(chunk.addr() + size);
            remainder.set_low(self.low(rest));
            self.after(remainder, rest).set_prev_size(rest);
            let dirt = self.dirt_in(end - rest, end);
            self.enter_unsorted(remainder, rest, self.epoch, dirt);
            self.took(more);
        } else {
            self.restate(chunk, total);
            let behind = self.after(chunk, total);
            behind.set_low(behind.low().with_prev_in_use(true));
            self.took(total - old);
        }
        true
    }

    /// The size of the chunk behind a used one, if that has more than `least` bytes and is neither
    /// used nor free: too large for a cache, it waits in the depot.
    pub fn waits_behind(&self, chunk: Chunk<'static, O::Region>, least: usize) -> Option<usize> {
        let after = self.after(chunk, chunk.size());
        // First the size: top and fenceposts say 0, and behind a fencepost memory may end. The link
        // that the tag of a waiting chunk covers is not read: it would be its user's data.
        let size = after.size();
        (size > least && !after.is(State::Used) && after.binned().is_none()).then_some(size)
    }

    /// Writes a used chunk's head for another size.
    fn restate(&mut self, chunk: Chunk<'static, O::Region>, size: usize) {
        chunk.begin(chunk.low().resized(size), State::Used);
    }
}
