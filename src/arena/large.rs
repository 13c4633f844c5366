//! Large chunks in the depot, one by one: they are too large for the cache of a thread.

use super::limits::SMALL_PROGRAM;
use super::{Magazine, Shared};
use crate::chunk::{Chunk, Stack, State};
use crate::heap::Heap;
use crate::os::Os;
use crate::size::{CLASSES, DEPOT_CHUNK, DEPOT_CLASSES, class_of, class_size};
use crate::sync::overlay::Ordering;

/// In a small program the depot takes large chunks only up to this part of what is in use.
const PART_OF_SMALL: usize = 4;
/// A chunk of one of so many classes, from the one that was asked for on, will do.
const NEAR: usize = 2;

impl<O: Os + Copy + 'static> Shared<O> {
    /// Takes a chunk of at least `size` bytes out of the depot, for a thread of `aisle`. The
    /// caller marks it anew.
    pub fn take_large(&self, aisle: usize, size: usize) -> Option<Chunk<'static, O::Region>> {
        if size > DEPOT_CHUNK || self.depot.bytes_about() == 0 {
            return None;
        }
        let class = class_of(size);
        let magazine = (class..(class + NEAR).min(DEPOT_CLASSES))
            .find_map(|class| self.depot.take(self.keys(), aisle, class))?;
        let mut stack = magazine.stack;
        stack.pop(self.keys(), State::Cached)
    }

    /// Puts a chunk, verified as used, into the depot, for the threads of `aisle`. `false` if its
    /// size is none of a class.
    pub fn put_large(&self, aisle: usize, chunk: Chunk<'static, O::Region>) -> bool {
        let low = chunk.low();
        let size = low.size();
        if size > DEPOT_CHUNK || class_size(class_of(size)) != size {
            return false;
        }
        let mut stack = Stack::EMPTY;
        stack.push(chunk, low, State::Cached);
        let one = Magazine { stack, count: 1 };
        let limit = self.large_limit();
        let back = self
            .depot
            .put(self.keys(), aisle, class_of(size), one, limit);
        if let Some(magazine) = back {
            self.release(magazine.stack);
            self.relieve_depot();
        }
        true
    }

    /// How many bytes the depot may hold when it takes a large chunk.
    fn large_limit(&self) -> usize {
        let limit = self.depot_limit();
        if self.high.load(Ordering::Relaxed) > SMALL_PROGRAM {
            return limit;
        }
        limit.min(self.outside() / PART_OF_SMALL)
    }

    /// Changes a used chunk in place; see [`Heap::resize`](crate::heap::Heap::resize). A large chunk
    /// behind it that waits in the depot goes home for that.
    pub fn resize(&self, chunk: Chunk<'static, O::Region>, size: usize) -> bool {
        let owner = self.owner_of(chunk);
        let Some(mut heap) = self.lock(owner) else {
            return false;
        };
        let before = heap.ticks();
        let mut grown = 0;
        let mut resize = |heap: &mut Heap<O>| {
            let before = heap.system_bytes();
            let done = heap.resize(chunk, size);
            grown += heap.system_bytes().saturating_sub(before);
            done
        };
        let mut done = resize(&mut heap);
        let most = class_size(CLASSES - 1);
        if !done
            && let Some(behind) = heap.waits_behind(chunk, most)
            && behind <= DEPOT_CHUNK
        {
            drop(heap);
            self.drain_class(class_of(behind));
            heap = match self.lock(owner) {
                Some(heap) => heap,
                None => return false,
            };
            done = resize(&mut heap);
        }
        self.publish(owner, &heap);
        let ticked = heap.ticks() != before;
        drop(heap);
        self.has_grown(grown);
        if ticked {
            self.on_tick();
        }
        done
    }
}
