//! When the depot is drained before a heap takes new memory, and when most threads count as idle.

use super::Shared;
use crate::os::Os;
use crate::size::class_of;
use crate::sync::overlay::Ordering;

/// So many threads per arena, and so twice as many per processor, are a crowd: most are idle.
const CROWD: usize = 4;

/// Before a heap takes memory that was never touched, the depot is drained if it holds more than
/// this part of the heap,
const PART_IN_DEPOT: usize = 16;
/// and more than this many bytes.
const LEAST_DRAIN: usize = 64 << 10;
/// For a request of this many bytes it is not drained as long as it holds less than a quarter of
/// the heap, and little in chunks of nearly that size: small ones hardly make room for it.
const HARDLY_MADE: usize = 16 << 10;

impl<O: Os + Copy + 'static> Shared<O> {
    /// Whether the depot holds so much that a heap of `system` bytes may well find `size` bytes in
    /// it.
    pub(super) fn drain_pays(&self, system: usize, size: usize) -> bool {
        let held = self.depot.bytes_about();
        let enough = (system / PART_IN_DEPOT).max(LEAST_DRAIN);
        held > enough
            && (size < HARDLY_MADE
                || held > system / 4
                || self.depot.bytes_from(class_of(size / 4)) > enough)
    }

    /// Tells the heaps when most threads begin to be idle, or no longer are.
    pub(super) fn look_at_crowd(&self) {
        let threads = self.threads();
        // How many processors there are is not asked for a few threads.
        let is_crowded = threads >= 2 * CROWD && threads >= self.arena_limit() * CROWD;
        let now = u32::from(is_crowded);
        if self.crowded.load(Ordering::Relaxed) != now
            && self.crowded.swap(now, Ordering::Relaxed) != now
        {
            for number in 0..self.arenas.numbers() {
                if let Some(mut heap) = self.lock(number) {
                    heap.set_crowded(is_crowded);
                }
            }
        }
    }

    /// Gives back all that is free, keeping `pad` bytes at each top. `true` if anything was.
    pub fn trim(&self, pad: usize) -> bool {
        self.drain_depot();
        let mut any = self.maps.give_up(&self.os, usize::MAX) != 0;
        for number in 0..self.arenas.numbers() {
            if let Some(mut heap) = self.lock(number) {
                any |= heap.trim(pad);
            }
        }
        any
    }
}
