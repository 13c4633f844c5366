//! Whether what a program has in use comes back after it fell.

use crate::sync::overlay::{AtomicU32, Ordering};

/// Who falls and rises again within so many ticks will do so again.
const SOON: u32 = 256;
/// Set in the word if it did so.
const KNOWN: u32 = 1 << 31;

/// A count of the ticks since the use fell, and whether it is known to come back. Threads that pass
/// a tick at the same time may lose one.
#[derive(Debug)]
pub struct Swing(AtomicU32);

impl Swing {
    /// Nothing has fallen yet.
    #[allow(clippy::new_without_default)] // Only for statics.
    #[must_use]
    pub const fn new() -> Swing {
        Swing(AtomicU32::new(0))
    }

    /// Whether so many bytes are far below what was in use lately.
    #[must_use]
    pub const fn has_fallen(live: usize, high: usize) -> bool {
        live < high / 5 * 2
    }

    /// A tick passed while so many bytes were in use, and lately `high`.
    pub fn tick(&self, live: usize, high: usize) {
        let word = self.0.load(Ordering::Relaxed);
        let (known, ticks) = (word & KNOWN, word & !KNOWN);
        let next = if Swing::has_fallen(live, high) {
            if ticks < SOON {
                known | (ticks + 1)
            } else {
                SOON
            }
        } else if live > high / 2 && ticks != 0 {
            if ticks < SOON { KNOWN } else { 0 }
        } else {
            word
        };
        if next != word {
            self.0.store(next, Ordering::Relaxed);
        }
    }

    /// Whether it came back lately.
    pub fn is_known(&self) -> bool {
        self.0.load(Ordering::Relaxed) & KNOWN != 0
    }
}
