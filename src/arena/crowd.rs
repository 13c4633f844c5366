//! Whether most threads of the process are idle.

use super::Shared;
use crate::os::Os;
use crate::sync::overlay::Ordering;

/// So many threads per arena, and so twice as many per processor, are a crowd: most are idle.
const CROWD: usize = 4;

impl<O: Os + Copy + 'static> Shared<O> {
    /// Whether there are so many threads that most are idle.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed) != 0
    }

    /// Tells the heaps when most threads begin to be idle, or no longer are.
    pub(super) fn look_at_crowd(&self) {
        let was_crowded = self.is_crowded();
        let is_crowded = self.makes_crowd(was_crowded);
        let now = u32::from(is_crowded);
        if was_crowded != is_crowded && self.crowded.swap(now, Ordering::Relaxed) != now {
            for number in 0..self.arenas.numbers() {
                if let Some(mut heap) = self.lock(number) {
                    // Another thread may have found otherwise by now.
                    heap.set_crowded(self.is_crowded());
                }
            }
        }
    }

    /// Whether the threads that there are make a crowd.
    fn makes_crowd(&self, was_crowded: bool) -> bool {
        let threads = self.threads();
        // It ends at three quarters: threads that come and go do not begin and end it each time.
        let threads = threads + if was_crowded { threads / 3 } else { 0 };
        // How many processors there are is not asked for a few threads.
        threads >= 2 * CROWD && threads >= self.arena_limit() * CROWD
    }

    /// A crowd whose threads have ended is one until the use is near its height again: what the
    /// last of them leave behind goes back.
    #[inline]
    pub(super) fn look_at_past_crowd(&self) {
        if self.is_crowded() && !self.makes_crowd(true) {
            let live = self.outside().saturating_sub(self.depot.bytes_about());
            if live > self.high.load(Ordering::Relaxed) / 4 * 3 {
                self.look_at_crowd();
            }
        }
    }

    /// In a child process only one thread is left.
    pub(super) fn end_crowd(&self) {
        self.crowded.store(0, Ordering::Relaxed);
        for (_, arena) in self.arenas.iter() {
            if let Some(mut heap) = arena.heap.try_lock() {
                heap.set_crowded(false);
            }
        }
    }
}
