//! What the depot holds goes home to the arenas.

use super::Shared;
use crate::os::Os;
use crate::size::{DEPOT_CLASSES, class_of, class_size};
use crate::sync::overlay::Ordering;

/// The depot is not drained for less than this many bytes.
const LEAST_DRAIN: usize = 64 << 10;
/// With several threads for less than this many: what one does not need now another may, and each
/// has phases of its own.
const LEAST_DRAIN_OF_MANY: usize = 1 << 20;
/// At most about this many bytes go home at once, so that no call takes long.
const DRAIN_STEP: usize = 16 << 20;
/// For a request of this many bytes it is not drained as long as it holds less than a quarter of
/// the heap: small chunks hardly make room for it.
const HARDLY_MADE: usize = 16 << 10;
/// Chunks of this class and of larger ones do, and are few.
const LARGE: usize = class_of(8 << 10);

/// When so great a part of what was in use lately has passed through the depot,
const PART_PASSED: usize = 2;
/// and no less than this many bytes, what lay there throughout is idle.
const LEAST_PASSED: usize = 128 << 20;

/// What the depot gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Drain {
    /// Large chunks.
    Large,
    /// What nobody needed lately.
    Idle,
    All,
}

impl<O: Os + Copy + 'static> Shared<O> {
    /// Whether the depot holds so much that giving it up makes room for a chunk of `size` bytes in
    /// a heap of `heap` bytes that would have to grow.
    pub(super) fn is_worth_it(&self, drain: Drain, size: usize, heap: usize) -> bool {
        match drain {
            Drain::Large => {
                size >= HARDLY_MADE && self.depot.bytes_from(LARGE) > size.max(heap / 64)
            }
            Drain::Idle | Drain::All => {
                let part = if size < HARDLY_MADE { 16 } else { 4 };
                let least = if self.threads() > 1 {
                    LEAST_DRAIN_OF_MANY
                } else {
                    LEAST_DRAIN
                };
                self.depot.bytes_about() > (heap / part).max(least)
            }
        }
    }

    /// Sends some of it home. `true` if there may be more.
    pub(super) fn drain(&self, what: Drain) -> bool {
        if self.depot.bytes_about() == 0 {
            return false;
        }
        let first = if what == Drain::Large { LARGE } else { 2 };
        let mut bytes = 0;
        // Large chunks first: they make most room for each that is looked at.
        for class in (first..DEPOT_CLASSES).rev() {
            while bytes < DRAIN_STEP
                && let Some(magazine) = match what {
                    Drain::Idle => self.depot.take_idle(self.keys(), class),
                    Drain::Large | Drain::All => self.depot.take_any(self.keys(), class),
                }
            {
                bytes += magazine.count * class_size(class);
                self.release_without_ticks(magazine.stack);
            }
            self.depot.settle(class);
        }
        bytes >= DRAIN_STEP
    }

    /// So many bytes were put into the depot. A program that frees and allocates in a steady mix
    /// hardly gives a heap anything back, and its ticks are far between: so what passes here is a
    /// measure of time as well.
    pub fn passed(&self, bytes: usize) {
        let passed = self.passed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let high = self.high.load(Ordering::Relaxed);
        let turn = (high / PART_PASSED).max(LEAST_PASSED);
        // Of several that find it so, one acts: for the next, all that lies there would be idle.
        if passed > turn && self.passed.swap(0, Ordering::Relaxed) > turn && !self.drain_idle() {
            let step = turn - DRAIN_STEP.min(turn);
            self.passed.fetch_add(step, Ordering::Relaxed);
        }
    }

    /// What nobody needed since the last time goes home: `true` if all of it did.
    pub(super) fn drain_idle(&self) -> bool {
        let is_done = !self.drain(Drain::Idle);
        if is_done {
            (2..DEPOT_CLASSES).for_each(|class| self.depot.age(class));
        }
        is_done
    }

    /// Empties the depot into the arenas.
    pub fn drain_depot(&self) {
        while self.drain(Drain::All) {}
    }

    /// A heap took so many bytes from the system: what the mapping cache keeps makes up for them.
    pub(super) fn has_grown(&self, bytes: usize) {
        if bytes != 0 {
            self.maps.give_up(&self.os, bytes);
            self.high.fetch_max(self.outside(), Ordering::Relaxed);
        }
    }

    /// Sends chunks of one class home.
    pub(super) fn drain_class(&self, class: usize) {
        let mut bytes = 0;
        while bytes < DRAIN_STEP
            && let Some(magazine) = self.depot.take_any(self.keys(), class)
        {
            bytes += magazine.count * class_size(class);
            self.release_without_ticks(magazine.stack);
        }
        self.depot.settle(class);
    }

    /// The depot had no room: if it holds much more than it may by now, it gives some up.
    pub fn relieve_depot(&self) {
        if self.depot.bytes_about() > 2 * self.depot_limit() {
            self.drain(Drain::All);
        }
    }
}
