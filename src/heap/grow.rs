//! Where top's memory comes from, and how it goes back.
#![allow(unsafe_code)] // Moves the break, maps and protects.

use super::{Heap, Segment};
use crate::chunk::State;
use crate::config::Key;
use crate::os::{GRANULE, Os, OsError, PageState, Prot};
use crate::size::{ALIGN, HEADER, MIN_CHUNK, align_down, align_up};

/// The largest step in which a growing heap runs ahead of the need, in bytes.
const MAX_AHEAD: usize = 8 << 20;
/// Heaps of this many bytes make pages resident ahead of need,
const POPULATE_FROM: usize = 512 << 10;
/// for chunks of at most this size,
const POPULATE_SIZE: usize = 4 << 10;
/// and at most this many bytes ahead.
const POPULATE_MOST: usize = 128 << 10;
/// Top is handed out in steps of at least so many bytes.
const LEAST_STEP: usize = 32 << 10;
/// When top has advanced by this part of the heap, those who hold free chunks are told.
const ADVANCE: usize = 8;
/// The first mapped segment, when growing is refused; later ones are larger.
const FIRST_SEGMENT: usize = 1 << 20;

/// How a heap gets memory.
#[derive(Debug)]
pub enum Growth {
    /// By the program break. Anybody else in the process may move it too.
    Break {
        /// Where we left it; top borders on it if it is still there.
        end: usize,
    },
    /// Inside a reserved region, committed as it is needed.
    Region(Reserved),
    /// Only by mapped segments.
    Segments,
}

/// Address space without memory, of which the first part is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reserved {
    start: usize,
    committed: usize,
    end: usize,
    /// Length of the next region, when this one is used up; 0: there is none.
    next: usize,
}

impl Reserved {
    /// Reserves up to `len` bytes anywhere, less if the kernel refuses (a process with a
    /// limited address space), for a heap that continues in mapped segments.
    ///
    /// # Errors
    /// If not even `least` bytes can be reserved.
    pub fn up_to<O: Os>(os: &O, len: usize, least: usize) -> Result<Reserved, OsError> {
        let mut len = len;
        loop {
            match os.map(0, len, Prot::None) {
                Ok(start) => {
                    return Ok(Reserved {
                        start,
                        committed: start,
                        end: start + len,
                        next: 0,
                    });
                }
                Err(error) if len / 2 < least => return Err(error),
                Err(_) => len /= 2,
            }
        }
    }

    /// Reserves one granule of the address space, aligned to itself: a region of an arena.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn granule<O: Os>(os: &O) -> Result<Reserved, OsError> {
        let len = 2 * GRANULE;
        let wide = os.map(0, len, Prot::None)?;
        let start = align_up(wide, GRANULE);
        // SAFETY: both ends of a mapping that was made just now. A refusal leaves a little more
        // address space reserved.
        unsafe {
            if start != wide {
                let _ = os.unmap(wide, start - wide);
            }
            let end = start + GRANULE;
            if end != wide + len {
                let _ = os.unmap(end, wide + len - end);
            }
        }
        Ok(Reserved {
            start,
            committed: start,
            end: start + GRANULE,
            next: GRANULE,
        })
    }

    /// Where the region begins.
    #[must_use]
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Commits at least `need` more bytes, `ahead` more if possible. Returns how many.
    fn commit<O: Os>(&mut self, os: &O, need: usize, ahead: usize) -> Result<usize, OsError> {
        let page = os.page_size();
        let room = self.end - self.committed;
        let need = align_up(need, page);
        if need > room {
            return Err(OsError::NO_MEMORY);
        }
        // Doubling keeps the number of mprotect calls logarithmic.
        let wish = (need + ahead).max(self.committed - self.start);
        let wish = align_up(wish.min(need + MAX_AHEAD), page).min(room);
        for len in [wish, need] {
            // SAFETY: the range lies in our reservation, behind what is committed.
            if unsafe { os.protect(self.committed, len, Prot::ReadWrite) }.is_ok() {
                self.committed += len;
                return Ok(len);
            }
        }
        Err(OsError::NO_MEMORY)
    }
}

impl<O: Os + 'static> Heap<O> {
    /// Says where memory is to come from: once, before the first request.
    pub fn set_growth(&mut self, growth: Growth) {
        self.growth = growth;
    }
}

/// New memory for top.
struct Grant {
    start: usize,
    end: usize,
    mapped: bool,
}

impl<O: Os + 'static> Heap<O> {
    /// Grows top so that it can serve a chunk of `size` bytes. `false` if no memory can be had;
    /// the heap is then as it was.
    #[cold]
    pub(super) fn grow(&mut self, size: usize) -> bool {
        if self.grow_in_place(size) {
            return true;
        }
        let need = size + MIN_CHUNK + HEADER;
        if self.segments.reserve_one(&self.os).is_err() {
            return false;
        }
        let grant = self.grant_apart(need).or_else(|| self.grant_mapped(need));
        let Some(grant) = grant else {
            return false;
        };
        self.retire_top();
        let segment = Segment {
            start: grant.start,
            end: grant.end,
            mapped: grant.mapped,
        };
        self.segments.push(&self.os, segment);
        self.account(&grant);
        // The first page holds the first head.
        let page = self.os.page_size();
        let (first, _) = self.interior(grant.start, grant.end);
        self.os
            .note(align_down(grant.start, page), first, PageState::Live);
        self.set_top(grant.start, grant.end - grant.start, true);
        self.top_low = 0;
        true
    }

    /// Extends top where it is by what a chunk of `size` bytes lacks.
    pub(super) fn grow_in_place(&mut self, size: usize) -> bool {
        if self.top == 0 {
            return false;
        }
        let missing = (size + MIN_CHUNK).saturating_sub(self.top_size);
        let ahead = self.ahead();
        let end = self.top + self.top_size;
        let page = self.os.page_size();
        let grown = match &mut self.growth {
            Growth::Break { end: ours } => {
                if *ours != end || self.os.program_break() != end {
                    return false;
                }
                [missing + ahead, missing].into_iter().find_map(|len| {
                    let to = align_up(end + len, page);
                    // SAFETY: the break is where we left it; nobody owns what lies above.
                    unsafe { self.os.set_break(to) }.is_ok().then(|| {
                        *ours = to;
                        to
                    })
                })
            }
            Growth::Region(region) => {
                if region.committed != end {
                    return false;
                }
                region
                    .commit(&self.os, missing, ahead)
                    .ok()
                    .map(|len| end + len)
            }
            Growth::Segments => None,
        };
        let Some(to) = grown else {
            return false;
        };
        self.account(&Grant {
            start: end,
            end: to,
            mapped: false,
        });
        if let Some(last) = self.segments.as_mut_slice(&self.os).last_mut() {
            last.end = to;
        }
        self.top_size += to - end;
        self.top_low = 0;
        // Top may have been shorter than its own words.
        let (first, _) = self.interior(self.top, to);
        if end < first {
            self.os.note(end, first, PageState::Live);
        }
        true
    }

    /// How far to run ahead of the need: the top pad, or with a large heap a share of it, so
    /// that the number of calls stays logarithmic.
    fn ahead(&self) -> usize {
        let pad = self.settings.get(Key::TopPad);
        if self.settings.is_set(Key::TopPad) {
            pad
        } else {
            pad.max(self.counters.system_bytes / 32).min(MAX_AHEAD)
        }
    }

    /// New memory that does not border on top: the break after somebody else moved it, or
    /// another region.
    fn grant_apart(&mut self, need: usize) -> Option<Grant> {
        let ahead = self.ahead();
        let page = self.os.page_size();
        match &mut self.growth {
            Growth::Break { end } => {
                let current = self.os.program_break();
                if current == 0 || current == usize::MAX {
                    return None;
                }
                let start = align_up(current, ALIGN);
                let to = [need + ahead, need].into_iter().find_map(|len| {
                    let to = align_up(start + len, page);
                    // SAFETY: the break was read just now; what lies above is nobody's.
                    unsafe { self.os.set_break(to) }.is_ok().then_some(to)
                })?;
                *end = to;
                Some(Grant {
                    start,
                    end: to,
                    mapped: false,
                })
            }
            Growth::Region(region) => {
                if region.committed != region.start {
                    if region.next == 0 || need > region.next {
                        return None;
                    }
                    *region = Reserved::granule(&self.os).ok()?;
                }
                let len = region.commit(&self.os, need, ahead).ok()?;
                let start = region.start;
                Some(Grant {
                    start,
                    end: start + len,
                    mapped: false,
                })
            }
            Growth::Segments => None,
        }
    }

    /// A segment with a mapping of its own. Only the main arena has such: a chunk of another
    /// arena is known by its region.
    fn grant_mapped(&mut self, need: usize) -> Option<Grant> {
        if self.owner != 0 {
            return None;
        }
        let page = self.os.page_size();
        let wish = (self.counters.system_bytes / 4).clamp(FIRST_SEGMENT, MAX_AHEAD * 8);
        [need.max(wish), need].into_iter().find_map(|len| {
            let len = align_up(len, page);
            let start = self.os.map(0, len, Prot::ReadWrite).ok()?;
            Some(Grant {
                start,
                end: start + len,
                mapped: true,
            })
        })
    }

    fn account(&mut self, grant: &Grant) {
        let len = grant.end - grant.start;
        let again = len.min(self.regret.trimmed);
        self.regret.trimmed -= again;
        self.regret.reused += again;
        // No payload lies at the very beginning of a segment: whoever asks for the head of one
        // there would read what is not ours.
        let opens = self.segments().last().map(|s| s.start) == Some(grant.start);
        let from = grant.start + if opens { HEADER } else { 0 };
        self.keys.extents.add(from, grant.end, self.owner);
        let counters = &mut self.counters;
        counters.system_bytes += len;
        counters.system_peak = counters.system_peak.max(counters.system_bytes);
        match (&self.growth, grant.mapped) {
            (Growth::Break { .. }, false) => counters.break_bytes += len,
            _ => counters.segment_bytes += len,
        }
    }

    /// Closes the current segment: a fencepost at its end, and what was top becomes a free
    /// chunk.
    fn retire_top(&mut self) {
        if self.top == 0 {
            return;
        }
        let (addr, size) = (self.top, self.top_size);
        let prev_in_use = self.chunk(addr).low().prev_in_use();
        let room = size - HEADER;
        self.top = 0;
        self.top_size = 0;
        let fence_at = if room >= MIN_CHUNK { addr + room } else { addr };
        let fence = self.chunk(fence_at);
        let low = self
            .low(0)
            .with_prev_in_use(room >= MIN_CHUNK || prev_in_use);
        fence.begin(low, State::Fence);
        let page = self.os.page_size();
        let end = align_up(addr + size, page);
        self.os
            .note(align_down(fence_at, page), end, PageState::Live);
        if room >= MIN_CHUNK {
            let chunk = self.chunk(addr);
            chunk.set_low(self.low(room).with_prev_in_use(prev_in_use));
            self.merge(chunk, room, 0);
        }
    }

    /// Whether top advanced by a part of the heap since the last time that this was so.
    pub fn has_advanced(&mut self) -> bool {
        let far = self.advanced >= self.counters.system_bytes / ADVANCE;
        if far {
            self.advanced = 0;
        }
        far
    }

    /// Lets top be handed out for a chunk of `size` bytes and somewhat further. Memory that nobody
    /// has touched yet is taken in such steps, and before each the free chunks that lie elsewhere
    /// may come home: what they hold need not be touched anew.
    pub(super) fn extend_reach(&mut self, size: usize) {
        let step = (self.counters.system_bytes / 32).clamp(LEAST_STEP, POPULATE_MOST);
        self.advanced += size + step;
        self.reach = if self.owner == 0 {
            self.top + size + step
        } else {
            usize::MAX
        };
    }

    /// Top is about to be handed out up to `to`: makes the pages for it resident, and a few more,
    /// for in a growing heap they are next, and one call costs less than a fault for each. A
    /// share of the heap, so that it hardly shows in its size; nothing for large chunks, which
    /// their users may never touch.
    pub(super) fn populate_ahead(&mut self, to: usize, size: usize) {
        let end = self.top + self.top_size;
        let (first, last) = self.taken(self.top, end, to);
        if first >= last
            || size > POPULATE_SIZE
            || !self.can_populate
            || self.counters.system_bytes < POPULATE_FROM
        {
            return;
        }
        let ahead = (self.counters.system_bytes / 32).min(POPULATE_MOST);
        let limit = self
            .interior(to + ahead, usize::MAX)
            .0
            .min(self.interior(to, end).1);
        // What is populated already ends before the page that is needed last, or lies beyond.
        let (mut state, mut run_end) = self.os.run(first, limit);
        let mut from = first;
        if state == PageState::Populated && run_end < last {
            from = run_end;
            (state, run_end) = self.os.run(from, limit);
        }
        if state.is_zero() && state != PageState::Populated {
            // SAFETY: the range lies in top, committed and ours.
            let done = unsafe { self.os.populate(from, run_end - from) };
            // Refused (an old kernel, or no memory): do not ask again.
            self.can_populate = done.is_ok();
        }
    }

    /// Gives back the end of top, from `from` (a page boundary in top) to `end`.
    pub(super) fn shrink(&mut self, from: usize, end: usize) -> bool {
        let len = end - from;
        match &mut self.growth {
            Growth::Break { end: ours } if *ours == end && self.os.program_break() == end => {
                // Readers of the map must not take for heap what is gone.
                self.keys.extents.cut(from, end);
                // SAFETY: the break is where we left it; the range is the end of top.
                if unsafe { self.os.set_break(from) }.is_err() {
                    self.keys.extents.add(from, end, self.owner);
                    return false;
                }
                *ours = from;
                self.top_size -= len;
                self.counters.system_bytes -= len;
                self.counters.break_bytes -= len;
                if let Some(last) = self.segments.as_mut_slice(&self.os).last_mut() {
                    last.end = from;
                }
            }
            _ => {
                let (first, last) = self.interior(self.top, end);
                let (given, _) = self.discard_dirty(from.max(first), last);
                if self.owner == 0 {
                    self.reach = self.reach.min(from);
                }
                self.counters.returned_bytes += given as u64;
                return given != 0;
            }
        }
        self.counters.returned_bytes += len as u64;
        true
    }
}
