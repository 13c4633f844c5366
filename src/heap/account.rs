//! What the heap notes of whole pages, and what it reads from there.
//!
//! A page that lies wholly inside a free chunk, behind the chunk's own words, is `Cached` when
//! the memory came home, `Released` once it was discarded; pages of top are `Fresh` or
//! `Populated` besides, until they are handed out. Every other page of a segment is `Live`.

use super::Heap;
use crate::os::{Os, PageState};
use crate::report::{Misuse, abort};
use crate::size::{MIN_CHUNK, align_down, align_up};

/// A free chunk's fields at its beginning, which stay when its pages go.
const KEPT_HEAD: usize = 64;
/// No free block that is shorter has a whole page: no system has smaller pages.
const LEAST_INTERIOR: usize = 4096 + KEPT_HEAD;

impl<O: Os + 'static> Heap<O> {
    /// The whole pages of the free block `from..to` that hold nothing of ours.
    #[inline]
    pub(super) fn interior(&self, from: usize, to: usize) -> (usize, usize) {
        let page = self.os.page_size();
        // The boundary tag lies in the next chunk's first word, beyond the block.
        (align_up(from + KEPT_HEAD, page), align_down(to, page))
    }

    /// The bytes `from..to` came home and are part of the free block `start..end` now.
    #[inline]
    pub(super) fn note_freed(&mut self, start: usize, end: usize, from: usize, to: usize) {
        if end - start < LEAST_INTERIOR {
            return;
        }
        let page = self.os.page_size();
        let (first, last) = self.interior(start, end);
        let first = first.max(align_down(from, page));
        let last = last.min(align_up(to + KEPT_HEAD, page));
        if first < last {
            self.os.note(first, last, PageState::Cached);
        }
    }

    /// The free block `start..end` is about to be handed out up to `to`; what remains of it
    /// begins there.
    #[inline]
    pub(super) fn note_used(&mut self, start: usize, end: usize, to: usize) {
        let (first, last) = self.taken(start, end, to);
        if first < last {
            self.verify_free(first, last);
            self.os.note(first, last, PageState::Live);
        }
    }

    /// The interior pages of the free block `start..end` that stop being so when it is handed
    /// out up to `to`.
    #[inline]
    pub(super) fn taken(&self, start: usize, end: usize, to: usize) -> (usize, usize) {
        if end - start < LEAST_INTERIOR {
            return (end, end);
        }
        let (first, last) = self.interior(start, end);
        if to == end {
            (first, last)
        } else {
            (first, self.interior(to, end).0.min(last))
        }
    }

    /// Looks whether the pages of `from..to`, about to be handed out, are free in the account too;
    /// aborts if not: then some size or list was forged. Returns the first run of them that reads
    /// as zero, empty if there is none.
    pub(super) fn verify_free(&self, from: usize, to: usize) -> (usize, usize) {
        let mut zero = (to, to);
        let mut at = from;
        while at < to {
            let (state, end) = self.os.run(at, to);
            if !state.is_free() {
                abort(Misuse::WrongPage { address: at });
            }
            if state.is_zero() {
                zero.0 = zero.0.min(at);
            } else if zero.0 < at {
                zero.1 = zero.1.min(at);
            }
            at = end;
        }
        zero
    }

    /// Bytes of the free block `start..end` that are dirty: what lies outside its whole pages,
    /// and those of these that hold old contents or were made resident.
    pub(super) fn dirt_in(&self, start: usize, end: usize) -> usize {
        if end - start < LEAST_INTERIOR {
            return end - start;
        }
        let (first, last) = self.interior(start, end);
        if first >= last {
            return end - start;
        }
        let clean = |state: PageState| state.is_zero() && !state.is_discardable();
        end - start - self.os.count(first, last, clean)
    }

    /// Bytes of the pages that the segments lie in.
    #[must_use]
    pub fn page_bytes(&self) -> usize {
        let page = self.os.page_size();
        let pages = self
            .segments()
            .iter()
            .map(|s| align_up(s.end, page) - align_down(s.start, page));
        pages.sum()
    }

    /// Visits the address of every chunk's head, segment by segment.
    pub fn each_head(&self, mut visit: impl FnMut(usize)) {
        for segment in self.segments() {
            let mut addr = segment.start;
            while addr < segment.end {
                visit(addr);
                let size = self.chunk(addr).low().size();
                // Top and fenceposts come last.
                if addr == self.top || size < MIN_CHUNK {
                    break;
                }
                addr += size;
            }
        }
    }

    /// Gives back the dirty pages among `from..to`, whole pages of free memory. Returns how many
    /// bytes that were, and whether the system refused (a process that locks its memory).
    pub(super) fn discard_dirty(&mut self, from: usize, to: usize) -> (usize, bool) {
        let (mut at, mut done) = (from, 0);
        while at < to {
            let (state, end) = self.os.run(at, to);
            if state.is_discardable() {
                // SAFETY: the range lies inside free memory of ours, behind its fields; nobody
                // needs its contents.
                #[allow(unsafe_code)]
                if unsafe { self.os.discard(at, end - at) }.is_err() {
                    return (done, true);
                }
                done += end - at;
            }
            at = end;
        }
        (done, false)
    }

    /// The address in `from..to` up to which `bytes` of the pages are dirty.
    pub(super) fn skip_dirty(&self, from: usize, to: usize, bytes: usize) -> usize {
        let (mut at, mut left) = (from, bytes);
        while at < to {
            let (state, end) = self.os.run(at, to);
            if state.is_discardable() {
                if end - at >= left {
                    return at + left;
                }
                left -= end - at;
            }
            at = end;
        }
        to
    }
}
