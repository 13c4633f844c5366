//! Misses: magazines come from the depot or the arena, and go there.
#![allow(unsafe_code)] // The thread's own cache.

use super::budget::first_share;
use super::{Cache, POPS, SLOTS};
use crate::arena::{Magazine, Shared};
use crate::chunk::{Chunk, Low, Stack, State};
use crate::config::Key;
use crate::heap::Batch;
use crate::os::Os;
use crate::size::{CACHED_REQUEST, Native, class_of, class_size};

/// An arena is asked for this part of the chunks of a class that were served so far.
const AHEAD: u64 = 16;
/// What a thread sends to the depot is summed up by so many bytes.
const TOLD_AT_ONCE: usize = 1 << 20;
/// Bytes that processors exchange as a whole. Smaller chunks share them with their neighbours.
const LINE: usize = 64;

impl Cache {
    pub(super) fn take_spare(&mut self, class: usize) -> Magazine {
        let slot = &mut self.slots[class % SLOTS];
        let count = usize::from(core::mem::take(&mut slot.spare_count));
        let stack = core::mem::replace(&mut self.spares[class % SLOTS], Stack::EMPTY);
        Magazine { stack, count }
    }

    fn set_spare(&mut self, class: usize, magazine: Magazine) {
        self.spares[class % SLOTS] = magazine.stack;
        self.slots[class % SLOTS].spare_count = magazine.count as u16;
    }

    /// After a miss: fills the main stack of a class from the spare or the depot. `false` if
    /// there is nothing; then the arena is asked, by [`refill`](Cache::refill).
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    #[must_use]
    pub unsafe fn reload<O: Os + Copy + 'static>(
        cache: *mut Cache,
        shared: &Shared<O>,
        class: usize,
    ) -> bool {
        // SAFETY: the caller's promise; a direct cache is only read.
        if unsafe { (*cache).direct } {
            return false;
        }
        // SAFETY: not direct, so it is the calling thread's alone.
        unsafe { (*cache).reload_own(shared, class) }
    }

    fn reload_own<O: Os + Copy + 'static>(&mut self, shared: &Shared<O>, class: usize) -> bool {
        let slot = &self.slots[class % SLOTS];
        if slot.count() != 0 {
            return true;
        }
        if slot.spare_count != 0 {
            let spare = self.take_spare(class);
            self.slots[class % SLOTS].load(spare);
            return true;
        }
        if !shared.depot.may_hold(self.aisle, class) {
            return false;
        }
        self.reach(shared, class);
        let Some(magazine) = shared.depot.take(shared.keys(), self.aisle, class) else {
            return false;
        };
        self.net[class % SLOTS] += magazine.count as i64;
        self.slots[class % SLOTS].load(magazine);
        true
    }

    /// After a miss: gets chunks of a class from the spare, the depot or the arena and pops
    /// one; if it was no miss, one of those that are there. 0 if there is no memory.
    #[cold]
    pub fn refill<O: Os + Copy + 'static>(&mut self, shared: &Shared<O>, class: usize) -> usize {
        let keys = shared.keys();
        if self.reload_own(shared, class) {
            return self.pop_here(keys, class);
        }
        let payload = self.reclaim(keys, class);
        if payload != 0 {
            return payload;
        }
        self.reach(shared, class);
        if shared.is_abandoned(self.arena) {
            self.arena = shared.choose();
        }
        let slot = &self.slots[class % SLOTS];
        // What is carved ahead is touched: of a class that serves few requests, few.
        let served = slot.pops().wrapping_add(self.earlier[class % SLOTS]) & POPS;
        let ahead = (served / AHEAD) as usize;
        let want = ahead
            .max(first_share(class_size(class)) / 2)
            .min(usize::from(slot.capacity))
            .max(1);
        let mut batch = Batch::wanting(want);
        let magazine = if shared.fill(self.arena, class_size(class), &mut batch, || {
            self.rest(shared)
        }) {
            Magazine {
                stack: batch.stack(),
                count: batch.count(),
            }
        } else if let Some(magazine) = shared.depot.take_any(keys, class) {
            // There is no more memory: other threads may go without what they put aside.
            magazine
        } else {
            return 0;
        };
        self.net[class % SLOTS] += magazine.count as i64;
        self.slots[class % SLOTS].load(magazine);
        self.pop_here(keys, class)
    }

    /// After [`push`](Cache::push) refused a chunk, verified as used: makes room and pushes it.
    /// `false` if the chunk must go home.
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    #[cold]
    #[must_use]
    pub unsafe fn overflow<O: Os + Copy + 'static>(
        cache: *mut Cache,
        shared: &Shared<O>,
        chunk: Chunk<'static, O::Region>,
        low: Low,
    ) -> bool {
        // SAFETY: the caller's promise; a direct cache is only read.
        if unsafe { (*cache).direct } || low.is_mapped() {
            return false;
        }
        let size = low.size();
        let most = shared.settings().get(Key::TcacheMax).min(CACHED_REQUEST);
        if size > Native::chunk_size_unchecked(most) {
            return false;
        }
        let class = class_of(size);
        if class_size(class) != size {
            return false;
        }
        // SAFETY: not direct, so it is the calling thread's alone.
        unsafe { (*cache).make_way(shared, class, chunk, low) };
        true
    }

    fn make_way<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
        chunk: Chunk<'static, O::Region>,
        low: Low,
    ) {
        let slot = &self.slots[class % SLOTS];
        let is_first = slot.capacity == 0;
        if slot.count() == 0 || slot.spare_count != 0 {
            self.reach(shared, class);
        }
        // A new thread frees what its creator gave it on its way. If the thread kept that, it
        // would write to a line in which its creator goes on to allocate.
        if is_first && class_size(class) < LINE && shared.owner_of(chunk) != self.arena {
            let mut stack = Stack::EMPTY;
            stack.push(chunk, low, State::Cached);
            self.net[class % SLOTS] -= 1;
            return shared.release(stack);
        }
        let slot = &mut self.slots[class % SLOTS];
        if slot.capacity == 0 {
            // No budget: a magazine of one goes straight to the depot.
            let mut stack = Stack::EMPTY;
            stack.push(chunk, low, State::Cached);
            self.net[class % SLOTS] -= 1;
            return self.send(shared, class, Magazine { stack, count: 1 });
        }
        if slot.count() >= slot.capacity {
            let main = slot.unload();
            let old = self.take_spare(class);
            self.set_spare(class, main);
            if old.count != 0 {
                self.net[class % SLOTS] -= old.count as i64;
                self.send(shared, class, old);
            }
        }
        let slot = &mut self.slots[class % SLOTS];
        slot.main.push(chunk, low, State::Cached);
        slot.counts += 1;
    }

    pub(super) fn send<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
        magazine: Magazine,
    ) {
        self.sent += magazine.count * class_size(class);
        let back = shared.depot.put(
            shared.keys(),
            self.aisle,
            class,
            magazine,
            shared.depot_limit(),
        );
        if let Some(magazine) = back {
            shared.release(magazine.stack);
            shared.relieve_depot();
        } else if self.sent >= TOLD_AT_ONCE {
            shared.passed(core::mem::take(&mut self.sent));
        }
    }
}
