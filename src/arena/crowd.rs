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
}
