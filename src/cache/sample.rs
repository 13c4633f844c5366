//! Which allocations are samples: counters that overflow when one is due.

use super::{Cache, POPS, SLOTS};
use crate::size::{CLASSES, class_of};

impl Cache {
    /// Makes [`pop`](Cache::pop) say that a sample is due when it next pops a chunk of the class
    /// for the `pops`-th time; 0 for never.
    pub fn arm(&mut self, class: usize, pops: u32) {
        let slot = &mut self.slots[class % SLOTS];
        let before = slot.pops();
        let after = ((1 << 48) - u64::from(pops)) & POPS;
        slot.counts = slot.counts & 0xffff | after << 16;
        let earlier = &mut self.earlier[class % SLOTS];
        *earlier = earlier.wrapping_add(before).wrapping_sub(after);
    }

    /// As [`arm`](Cache::arm), of the class that serves chunks of a size.
    pub fn arm_class_of(&mut self, size: usize, pops: u32) {
        self.arm(class_of(size), pops);
    }

    /// Whether the next pop of the class that serves chunks of a size is a sample.
    #[must_use]
    pub fn is_due(&self, size: usize) -> bool {
        self.slots[class_of(size) % SLOTS].pops() == POPS
    }

    /// Whether a sample is due for a request that no class serves: counts it, with `interval`
    /// the distance to the next one.
    pub fn is_odd_one_due(&mut self, interval: impl FnOnce() -> u32) -> bool {
        let first = self.odd == 0;
        let due = self.odd == 1;
        self.odd = if first || due {
            interval()
        } else {
            self.odd - 1
        };
        due
    }

    /// A pseudo-random number (Marsaglia's xorshift, 2003); `seed` is asked once, not 0.
    pub fn random(&mut self, seed: impl FnOnce() -> u64) -> u64 {
        let mut x = self.random;
        if x == 0 {
            x = seed() | 1;
        }
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        x
    }

    /// As [`arm`](Cache::arm), of every class.
    pub fn arm_all(&mut self, mut pops: impl FnMut() -> u32) {
        for class in 2..CLASSES {
            self.arm(class, pops());
        }
    }

    /// Whether the thread may spend time on a sample, when it has run for `now` nanoseconds and
    /// `share` thousandths of that are allowed, and a millisecond ahead.
    pub fn may_spend(&mut self, now: u64, share: u64) -> bool {
        let ran = now.saturating_sub(self.sampled_at);
        let earned = (ran.min(1 << 40) * share / 1000) as i64;
        self.credit = (self.credit + earned).min(BURST);
        if self.sampled_at == 0 {
            self.credit = BURST;
        }
        self.sampled_at = now;
        self.credit > 0
    }

    /// So many nanoseconds were spent on a sample.
    pub fn spend(&mut self, time: u64) {
        self.credit -= time.min(1 << 40) as i64;
    }
}

/// Nanoseconds that a thread may spend on samples before it has earned them.
const BURST: i64 = 1_000_000;
