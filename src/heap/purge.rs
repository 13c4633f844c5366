//! Giving memory back: trimming top, discarding whole free pages inside the heap.
//!
//! Both are driven by the bytes that come home, without a clock or a helper thread. A *tick*
//! passes when a quarter of the bytes in use (2 MiB at least) was freed since the last one. At
//! a tick, top gives up what it did not need since the last tick, and free chunks that were
//! dirty already at the last tick have their whole pages discarded, largest first, until what
//! stays dirty is a share of the bytes in use, and some MiB besides; or as much as the bytes in use
//! are below their recent height, as long as that is not by more than three fifths. Where most threads
//! are idle there may be no later tick: after a peak they are shorter, and little stays dirty.
//!
//! That share begins at an eighth. If most of what was discarded is handed out again within a
//! tick, it was not idle, and the share doubles, up to twice the bytes in use; if nothing is
//! regretted for a while it halves. But when the bytes in use have fallen well below their
//! recent height, a peak has passed and the share is an eighth whatever was regretted before;
//! unless they came back from there before, and the heap is not large: then they will again.
//! So a program in a steady state keeps its pages, and after a peak the resident set follows
//! the live bytes.

use super::{Heap, Swing};
use crate::bins::{BINS, FIRST_LARGE, UNSORTED, bin_index};
use crate::chunk::{Chunk, Through};
use crate::config::Key;
use crate::os::{Os, PageState};
use crate::size::{MIN_CHUNK, align_down, align_up};

/// The shortest tick, in freed bytes.
const MIN_TICK: usize = 2 << 20;
/// The same where most threads are idle, and perhaps will never free anything again, when a peak has
/// passed.
const MIN_TICK_OF_CROWD: usize = 256 << 10;
/// Beyond its share a heap may keep as much as it had in use lately, within these bounds: what is
/// small next to the machine is not worth a page fault,
const MIN_DIRT: usize = 8 << 20;
const MAX_DIRT: usize = 48 << 20;
/// unless there was more than this: then more than a little of it was kept for nothing.
const LARGE: usize = 256 << 20;
const MAX_DIRT_OF_LARGE: usize = 32 << 20;
/// or this is one heap of several,
const MIN_DIRT_OF_MANY: usize = 1 << 20;
const MAX_DIRT_OF_MANY: usize = 16 << 20;
/// or there are many threads of which most are idle, and a peak has passed. Where hardly an eighth is
/// still in use, the lesser of its bounds holds.
const MIN_DIRT_OF_CROWD: usize = 256 << 10;
/// Where the use is known to come back after a fall, as much is kept as lies between, up to this.
const MAX_DIRT_OF_SWINGING: usize = 96 << 20;
/// The share of the bytes in use that may stay dirty is `1/8 << reluctance`.
const MAX_RELUCTANCE: u32 = 4;
/// Ticks without regret after which the reluctance falls.
const SETTLED: u32 = 16;
/// Unless the user set the trimming threshold, top is not trimmed for less than this.
const MIN_TRIM: usize = 256 << 10;

impl<O: Os + 'static> Heap<O> {
    fn tick_length(&self) -> usize {
        let least = if self.is_crowded && self.has_fallen() {
            MIN_TICK_OF_CROWD
        } else {
            MIN_TICK
        };
        (self.counters.used_bytes / 4).max(least)
    }

    fn has_fallen(&self) -> bool {
        Swing::has_fallen(self.counters.used_bytes, self.regret.high)
    }

    pub(super) fn tick_if_due(&mut self) {
        if self.freed_since_tick >= self.tick_length() {
            self.tick();
        }
    }

    #[cold]
    fn tick(&mut self) {
        self.freed_since_tick = 0;
        self.ticks += 1;
        if self.fast_bytes != 0 {
            self.consolidate();
        }
        self.reconsider();
        let used = self.counters.used_bytes;
        let part = if self.swing.is_known() { 512 } else { 64 };
        let high = used.max(self.regret.high - self.regret.high / part);
        self.regret.high = high;
        let has_fallen = Swing::has_fallen(used, high);
        self.swing.tick(used, high);
        let swings = self.swing.is_known() && self.owner == 0 && !self.is_crowded && high <= LARGE;
        let peak_passed = has_fallen && !swings;
        let doublings = if has_fallen {
            0
        } else {
            self.regret.reluctance
        };
        let most = if self.owner != 0 || self.is_crowded {
            MAX_DIRT_OF_MANY
        } else if high > LARGE {
            MAX_DIRT_OF_LARGE
        } else {
            MAX_DIRT
        };
        let (least, most) = if self.is_crowded && peak_passed {
            (MIN_DIRT_OF_CROWD, MIN_DIRT_OF_CROWD)
        } else if self.owner == 0 {
            (MIN_DIRT, most)
        } else {
            (MIN_DIRT_OF_MANY, most)
        };
        // What is not known to swing comes back from the bottom, but not from nearly nothing.
        let most = if used < high / 8 && !swings {
            least
        } else {
            most
        };
        // What the pages were that held the most in use lately, with what lay between.
        let held = high + self.regret.beside.min(high / 4);
        let share = ((used / 8) << doublings) + held.min(most).max(least);
        let keep = if peak_passed {
            share
        } else {
            let most = if has_fallen {
                MAX_DIRT_OF_SWINGING
            } else {
                usize::MAX
            };
            share.max((held - used).min(most))
        };
        // There may be no later tick for what came home just now.
        let at_once = self.is_crowded && peak_passed;
        if at_once {
            self.top_low = self.top_size;
        }
        let before = self.counters.returned_bytes;
        if !self.settings.is_set(Key::TrimThreshold) {
            self.trim_idle_top(keep);
        }
        self.top_low = self.top_size;
        if self.settings.get(Key::Purge) != 0 && self.counters.dirty_bytes > keep + keep / 4 {
            self.purge(keep, !at_once);
        }
        self.regret.purged = (self.counters.returned_bytes - before) as usize;
        self.epoch = (self.epoch + 1) & 0xff_ffff;
    }

    /// Gives back what top did not need since the last tick, as far as it is dirty and top and
    /// bins together hold more than `keep` dirty bytes.
    fn trim_idle_top(&mut self, keep: usize) {
        if self.top == 0 {
            return;
        }
        let end = self.top + self.top_size;
        let (first, last) = self.interior(self.top, end);
        let dirty = self.os.count(first, last, PageState::is_discardable);
        let unneeded = align_up(end - self.top_low.min(self.top_size), self.os.page_size());
        let idle = self
            .os
            .count(unneeded.max(first), last, PageState::is_discardable);
        let held = self.counters.dirty_bytes + dirty;
        // Well above what may be kept, or it would be given back in driblets.
        let excess = if held > keep + keep / 4 {
            held - keep
        } else {
            0
        };
        let give = excess.min(idle);
        if give >= MIN_TRIM {
            let before = self.counters.returned_bytes;
            let from = self.skip_dirty(first, last, dirty - align_down(give, self.os.page_size()));
            self.trim_top(from.saturating_sub(self.top + MIN_CHUNK));
            self.regret.trimmed += (self.counters.returned_bytes - before) as usize;
        }
    }

    /// Learns from what became of the pages that the last ticks discarded.
    fn reconsider(&mut self) {
        let regret = &mut self.regret;
        regret.settled += 1;
        if regret.reused > regret.purged / 2 && regret.reused > MIN_TICK / 8 {
            regret.reluctance = (regret.reluctance + 1).min(MAX_RELUCTANCE);
            regret.settled = 0;
        } else if regret.settled >= SETTLED {
            regret.reluctance = regret.reluctance.saturating_sub(1);
            regret.settled = 0;
        }
        regret.reused = 0;
        regret.purged = 0;
    }

    /// The user's trimming threshold, if he set one, is obeyed at once.
    pub(super) fn trim_if_due(&mut self) {
        if self.settings.is_set(Key::TrimThreshold)
            && self.top_size >= self.settings.get(Key::TrimThreshold)
        {
            self.trim_top(self.settings.get(Key::TopPad));
        }
    }

    /// Gives back all that is free: top beyond `pad` bytes and every whole free page. `true` if
    /// anything was.
    pub fn trim(&mut self, pad: usize) -> bool {
        let before = self.counters.returned_bytes;
        self.consolidate();
        self.purge(0, false);
        self.trim_top(pad);
        self.counters.returned_bytes != before
    }

    /// Discards whole pages of dirty free chunks, largest chunks first, until at most `keep`
    /// dirty bytes are left; only chunks that are older than the current tick if `aged`. A refusal
    /// ends it: the next chunk would be refused too.
    fn purge(&mut self, keep: usize, aged: bool) {
        let page = self.os.page_size();
        let first = bin_index(page).max(FIRST_LARGE);
        for index in (first..BINS).rev().chain([UNSORTED]) {
            let mut next = self.bins.list(index).first(self.keys);
            while let Some(chunk) = next {
                if self.counters.dirty_bytes <= keep {
                    return;
                }
                next = crate::chunk::next(Through::Bin, chunk);
                if chunk.size() >= page && !self.purge_chunk(chunk, aged) {
                    return;
                }
            }
        }
    }

    /// `false` if the system refuses to take pages back.
    fn purge_chunk(&mut self, chunk: Chunk<'static, O::Region>, aged: bool) -> bool {
        let size = chunk.size();
        let (stamp, dirt) = self.dirt_of(chunk, size);
        if aged && stamp == self.epoch {
            return true;
        }
        let (from, to) = self.interior(chunk.addr(), chunk.addr() + size);
        if from >= to || dirt <= size - (to - from) {
            return true;
        }
        let (given, refused) = self.discard_dirty(from, to);
        let left = self.dirt_in(chunk.addr(), chunk.addr() + size).min(dirt);
        chunk.set_dirt(stamp, left);
        self.counters.dirty_bytes -= dirt - left;
        self.counters.returned_bytes += given as u64;
        !refused
    }

    /// Gives back the pages of top beyond the first `pad` bytes.
    pub(super) fn trim_top(&mut self, pad: usize) {
        let page = self.os.page_size();
        let end = self.top + self.top_size;
        let kept = self.top.saturating_add(pad).saturating_add(MIN_CHUNK);
        // Asked first: rounded up, a number near the last one is 0.
        if self.top == 0 || kept >= end {
            return;
        }
        let from = align_up(kept, page);
        if from >= end {
            return;
        }
        // Whoever forged top's size would have us give back what is in use.
        let (first, last) = self.interior(self.top, end);
        if first < last {
            self.verify_free(first, last);
        }
        if self.shrink(from, end) {
            self.top_low = self.top_low.min(self.top_size);
        }
    }
}
