//! Chunks at aligned addresses.

use super::{Batch, Heap, Rung};
use crate::bins::bin_index;
use crate::chunk::{Chunk, State, Through, previous};
use crate::os::{Os, PageState};
use crate::report::{Misuse, abort};
use crate::size::{ALIGN, HEADER, MAX_CHUNK, MIN_CHUNK, Native, align_up};

/// How many free chunks are looked at for one that is large enough only because its place is
/// good.
const LOOKS: usize = 16;

/// How many bytes of a block at `addr` lie before the first chunk in it whose payload is a
/// multiple of `align`: none, or enough for a chunk.
fn lead(addr: usize, align: usize) -> usize {
    let payload = align_up(addr + HEADER, align);
    let lead = payload - HEADER - addr;
    if lead != 0 && lead < MIN_CHUNK {
        lead + align_up(MIN_CHUNK, align)
    } else {
        lead
    }
}

/// As [`lead`], for a free block of `total` bytes, if a chunk of `size` bytes and nothing too small
/// to be one fits in it.
fn fitting(addr: usize, total: usize, align: usize, size: usize) -> Option<usize> {
    let lead = lead(addr, align);
    let rest = total.checked_sub(lead)?.checked_sub(size)?;
    (rest == 0 || rest >= MIN_CHUNK).then_some(lead)
}

/// A block of this many bytes has room for a chunk of `size` bytes wherever it lies.
fn padded(align: usize, size: usize) -> Option<usize> {
    size.checked_add(align)?.checked_add(2 * MIN_CHUNK)
}

/// How many chunks of `size` bytes are cut off `room` bytes, at least as many, for a batch that
/// wants one at least: what is left is none, or enough for a chunk.
fn pieces(batch: &Batch, align: usize, size: usize, room: usize) -> usize {
    if !size.is_multiple_of(align) {
        return 1;
    }
    let most = room.checked_div(size).unwrap_or(1);
    let rest = room - most * size;
    let most = if rest != 0 && rest < MIN_CHUNK {
        most - 1
    } else {
        most
    };
    batch.missing().min(most).max(1)
}

impl<O: Os + 'static> Heap<O> {
    /// Adds chunks of `size` bytes whose payload addresses are multiples of `align` (a power of
    /// two): one at least, as many as the batch wants if they are neighbours in one block, which
    /// takes that `align` divides `size`. `false` if there is no memory.
    ///
    /// They are cut out of a free block; what lies before and behind stays free.
    pub fn fill_aligned(&mut self, align: usize, size: usize, batch: &mut Batch) -> bool {
        if self.fill_aligned_from_free(align, size, batch) {
            return true;
        }
        let Some(padded) = padded(align, size).filter(|padded| *padded <= MAX_CHUNK) else {
            return false;
        };
        self.grow(align_up(padded, ALIGN)) && self.aligned_from_top(align, size, batch, Rung::Grown)
    }

    /// As [`fill_aligned`](Heap::fill_aligned), from what the heap has; top does not grow.
    pub fn fill_aligned_from_free(&mut self, align: usize, size: usize, batch: &mut Batch) -> bool {
        if size > MAX_CHUNK {
            return false;
        }
        if !Native::is_small(size) && self.fast_bytes != 0 {
            self.consolidate();
        }
        loop {
            if self.aligned_from_bins(align, size, batch)
                || self.aligned_from_top(align, size, batch, Rung::Top)
            {
                return true;
            }
            if self.fast_bytes == 0 {
                return false;
            }
            self.consolidate();
        }
    }

    fn aligned_from_bins(&mut self, align: usize, size: usize, batch: &mut Batch) -> bool {
        while let Some(chunk) = self.bins.oldest_unsorted(self.keys) {
            let (binned, found) = (self.verify_unsorted(chunk), chunk.size());
            self.bins.take_oldest(chunk);
            if let Some(lead) = fitting(chunk.addr(), found, align, size)
                && lead + size >= found / 2
            {
                self.left(chunk, found);
                self.cut_out(chunk, found, (align, lead, size), batch);
                return true;
            }
            self.bins.put_sorted(self.keys, chunk, binned);
        }
        let Some(chunk) = self.well_placed(align, size).or_else(|| {
            // One that is larger by the alignment surely has room in the right place.
            self.bins.best_fit(self.keys, padded(align, size)?)
        }) else {
            return false;
        };
        let found = self.leave_bin(chunk);
        let Some(lead) = fitting(chunk.addr(), found, align, size) else {
            abort(Misuse::CorruptHead {
                address: chunk.payload(),
            });
        };
        self.cut_out(chunk, found, (align, lead, size), batch);
        true
    }

    /// Any block of the right size may lie in the right place.
    fn well_placed(&self, align: usize, size: usize) -> Option<Chunk<'static, O::Region>> {
        let mut looks = LOOKS;
        let mut index = bin_index(size);
        loop {
            index = self.bins.next_filled(index)?;
            let mut next = self.bins.list(index).last(self.keys);
            while let Some(chunk) = next {
                if fitting(chunk.addr(), chunk.size(), align, size).is_some() {
                    return next;
                }
                looks -= 1;
                if looks == 0 {
                    return None;
                }
                next = previous(Through::Bin, chunk);
            }
            index += 1;
        }
    }

    /// Cuts chunks of `size` bytes, the first `lead` bytes from its beginning, out of a free block
    /// that has left its bin.
    fn cut_out(
        &mut self,
        block: Chunk<'static, O::Region>,
        total: usize,
        (align, lead, size): (usize, usize, usize),
        batch: &mut Batch,
    ) {
        let (stamp, dirt) = self.dirt_of(block, total);
        let pieces = pieces(batch, align, size, total - lead);
        let (start, end) = (block.addr(), block.addr() + total);
        let (at, behind) = (start + lead, start + lead + pieces * size);
        let (first, last) = self.interior(start, end);
        let from = self.interior(start, at).1.clamp(first, last.max(first));
        let to = if behind == end {
            last
        } else {
            last.min(self.interior(behind, end).0)
        };
        if from < to {
            self.verify_free(from, to);
            self.os.note(from, to, PageState::Live);
        }
        let prev_in_use = block.low().prev_in_use();
        let mut clean = 0;
        for (part, part_end) in [(start, at), (behind, end)] {
            let len = part_end - part;
            let chunk = self.chunk(part);
            if len == 0 {
                continue;
            }
            let left = if dirt == total {
                len
            } else {
                self.dirt_in(part, part_end)
            };
            clean += len - left;
            let low = self.low(len);
            chunk.set_low(low.with_prev_in_use(part == behind || prev_in_use));
            self.after(chunk, len).set_prev_size(len);
            self.enter_unsorted(chunk, len, stamp, left);
        }
        self.regret.reused += (total - dirt).saturating_sub(clean);
        if behind == end {
            let after = self.after(block, total);
            after.set_low(after.low().with_prev_in_use(true));
        }
        self.cut(at, size, pieces, lead == 0 && prev_in_use, batch);
        self.took(pieces * size);
        self.served(Rung::Large, pieces);
    }

    /// Cuts chunks of `size` bytes out of top.
    fn aligned_from_top(
        &mut self,
        align: usize,
        size: usize,
        batch: &mut Batch,
        rung: Rung,
    ) -> bool {
        if self.top == 0 {
            return false;
        }
        let lead = lead(self.top, align);
        let least = size.saturating_add(lead).saturating_add(MIN_CHUNK);
        if self.top_size < least {
            return false;
        }
        let top = self.chunk(self.top);
        if !top.is(State::Top) {
            abort(Misuse::CorruptHead {
                address: top.payload(),
            });
        }
        let (start, end) = (self.top, self.top + self.top_size);
        let prev_in_use = top.low().prev_in_use();
        let pieces = pieces(batch, align, size, self.top_size - lead - MIN_CHUNK);
        let (at, behind) = (start + lead, start + lead + pieces * size);
        self.populate_ahead(behind, size);
        self.note_used(start, end, behind);
        self.set_top(behind, end - behind, true);
        self.top_low = self.top_low.min(self.top_size);
        self.cut(at, size, pieces, lead != 0 || prev_in_use, batch);
        self.took(pieces * size);
        self.served(rung, pieces);
        if lead != 0 {
            self.release(start, lead, prev_in_use);
        }
        true
    }
}
