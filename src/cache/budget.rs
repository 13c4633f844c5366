//! How much a cache may hold, and how the classes share it.

use super::{Cache, SLOTS};
use crate::arena::Shared;
use crate::config::Key;
use crate::os::Os;
use crate::size::{CLASSES, class_size};

/// The most chunks in one magazine.
const MAX_MAGAZINE: usize = 128;
/// A magazine holds about this many bytes at most, unless one chunk is larger.
const MAGAZINE_BYTES: usize = 16 << 10;
/// but so many chunks are allowed always.
const LEAST_MAGAZINE: usize = 2;
/// The cache of an only thread aims at this part of the bytes in use,
const SHARE: usize = 4;
/// those of several together at this
const SHARE_OF_MANY: usize = 2;
/// and at least at so many bytes,
const LEAST: usize = 2 << 20;
/// half of it if there are more threads than this.
const FEW_THREADS: usize = 4;
/// They aim at no more than this together: of many threads most are idle.
const MOST: usize = 32 << 20;
/// No thread aims at more than this; each may have `FENCEPOST_CACHE_BYTES` in any case.
const MAX_BUDGET: usize = 4 << 20;
/// In a crowd a thread has to earn that: as many bytes as the square of its visits to the depot on
/// which a class wanted more, divided by this. Most of its threads do some work and are idle then.
const EARNED: usize = 128;
/// A class that has so many times what another asks for gives up half.
const RICHER: usize = 4;
/// A class that finds the budget spent looks at so many others, one that has nothing at all.
const LOOKS: usize = 2;

/// A class that has capacity asks for more at one in so many visits to the depot.
const PATIENCE: u32 = 4;
/// After a class that has nothing looked at all others in vain, so many requests for a first share
/// find the budget spent without looking.
const RESPITE: u32 = 16;

impl Cache {
    /// Lets the capacity of a class grow with its traffic, within the budget.
    pub(super) fn reach<O: Os + Copy + 'static>(&mut self, shared: &Shared<O>, class: usize) {
        let size = class_size(class).max(crate::size::MIN_CHUNK);
        let most = (MAGAZINE_BYTES / size).clamp(LEAST_MAGAZINE, MAX_MAGAZINE);
        let most = most.min(shared.settings().get(Key::TcacheCount));
        let now = usize::from(self.slots[class % SLOTS].capacity);
        let next = if now == 0 { first_share(size) } else { now * 2 }.min(most);
        if next <= now {
            return;
        }
        let cost = 2 * (next - now) * size;
        self.reached = self.reached.wrapping_add(1);
        if now != 0 && !self.reached.is_multiple_of(PATIENCE) {
            return;
        }
        if self.committed + cost > self.budget {
            self.budget = self.aim(shared, cost);
        }
        let budget = self.budget;
        if self.committed + cost > budget && !self.make_room(shared, class, cost, budget) {
            return;
        }
        self.committed += cost;
        self.slots[class % SLOTS].capacity = next as u16;
    }

    /// The budget of a cache that is about to commit `cost` bytes more than it has.
    fn aim<O: Os + Copy + 'static>(&self, shared: &Shared<O>, cost: usize) -> usize {
        let budget = budget(shared);
        if shared.threads() <= FEW_THREADS {
            return budget;
        }
        // Looked at anew when twice as much is committed: more may have come.
        let budget = budget.min(2 * (self.committed + cost));
        if !shared.is_crowded() {
            return budget;
        }
        let earned = (self.reached as usize).saturating_pow(2) / EARNED;
        budget.min(
            shared
                .settings()
                .get(Key::CacheBytes)
                .saturating_add(earned),
        )
    }

    /// Takes the capacity of classes that were not used since the clock hand last passed them,
    /// and half of the capacity of those that have much more than `class` asks for. `true` if
    /// the budget suffices then.
    fn make_room<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
        cost: usize,
        budget: usize,
    ) -> bool {
        // Only for a first share: classes in a steady state would take from each other for ever.
        let fair = self.slots[class % SLOTS].capacity == 0;
        if fair && self.respite != 0 {
            self.respite -= 1;
            return false;
        }
        for _ in 0..if fair { CLASSES } else { LOOKS } {
            self.hand = if self.hand + 1 >= CLASSES {
                2
            } else {
                self.hand + 1
            };
            let victim = self.hand;
            let slot = &self.slots[victim % SLOTS];
            let (calls, capacity) = (slot.counts as u32, usize::from(slot.capacity));
            if victim == class {
                continue;
            }
            let is_idle = calls == self.seen[victim % SLOTS];
            self.seen[victim % SLOTS] = calls;
            if capacity == 0 {
                if is_idle && self.aside_bytes != 0 {
                    self.release_aside(shared, victim);
                }
                continue;
            }
            let kept = if is_idle {
                0
            } else if fair && 2 * capacity * class_size(victim) >= RICHER * cost {
                capacity / 2
            } else {
                continue;
            };
            self.committed -= 2 * (capacity - kept) * class_size(victim);
            self.slots[victim % SLOTS].capacity = kept as u16;
            self.cut(shared, victim, kept);
            if is_idle {
                self.release_aside(shared, victim);
            }
            if self.committed + cost <= budget {
                return true;
            }
        }
        if fair {
            self.respite = RESPITE;
        }
        false
    }

    /// Gives up the magazines of a class that hold more than `kept` chunks. Not a part of its
    /// callers, one of which every small program runs and then has nothing to give up.
    #[inline(never)]
    fn cut<O: Os + Copy + 'static>(&mut self, shared: &Shared<O>, class: usize, kept: usize) {
        let slot = &mut self.slots[class % SLOTS];
        let main = (usize::from(slot.count()) > kept).then(|| slot.unload());
        let spare = (usize::from(slot.spare_count) > kept).then(|| self.take_spare(class));
        for magazine in [main, spare].into_iter().flatten() {
            self.net[class % SLOTS] -= magazine.count as i64;
            self.send(shared, class, magazine);
        }
    }

    /// The heap is about to take new memory for this thread: what lies in classes that were not
    /// used since it last did goes to the depot, which is drained first if it holds enough.
    pub fn rest<O: Os + Copy + 'static>(&mut self, shared: &Shared<O>) {
        for class in 2..CLASSES {
            let slot = &self.slots[class % SLOTS];
            let (count, spare) = (slot.count(), slot.spare_count);
            let called = count ^ (slot.pops() as u16) << 8;
            let idle = called == self.rested[class % SLOTS];
            self.rested[class % SLOTS] = called;
            if idle && count | spare != 0 {
                self.cut(shared, class, 0);
            }
        }
    }

    /// Gives everything to the depot and the arenas.
    pub fn flush<O: Os + Copy + 'static>(&mut self, shared: &Shared<O>) {
        for class in 2..CLASSES {
            self.cut(shared, class, 0);
            self.release_aside(shared, class);
            self.slots[class % SLOTS].capacity = 0;
        }
        self.committed = 0;
    }
}

pub(super) fn budget<O: Os + Copy + 'static>(shared: &Shared<O>) -> usize {
    let each = shared.settings().get(Key::CacheBytes);
    if shared.settings().is_set(Key::CacheBytes) {
        return each;
    }
    let threads = shared.threads().max(1);
    let share = if threads == 1 { SHARE } else { SHARE_OF_MANY };
    let least = if threads <= FEW_THREADS {
        LEAST
    } else {
        LEAST / 2
    };
    let common = (shared.outside() / share).clamp(least, MOST);
    (common / threads).min(MAX_BUDGET).max(each)
}

/// The capacity that a class begins with.
pub(super) const fn first_share(size: usize) -> usize {
    match size {
        0..=256 => 8,
        257..=1040 => 4,
        1041..=4112 => 2,
        _ => 1,
    }
}
