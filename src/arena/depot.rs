//! The depot: full magazines of every class, exchanged between threads in constant time.
//!
//! Memory that one thread allocates and another frees travels here by the magazine, without a
//! walk over lists and without touching an arena. Memory that a thread frees and allocates again
//! comes back from the aisle of its own arena's threads.

use crate::chunk::{Keys, Stack};
use crate::os::Region;
use crate::size::{CLASSES, DEPOT_CLASSES, class_size};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// Room for every class. An index modulo this power of two needs no check that could panic.
/// A model has few classes, and little room for their locks.
const SLOTS: usize = if cfg!(loom) {
    16
} else {
    CLASSES.next_power_of_two()
};

// The last two classes have the places of the two below the smallest chunk.
const _: () = assert!(cfg!(loom) || DEPOT_CLASSES - 2 <= SLOTS);

/// A stack of cached chunks of one class that travels as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Magazine {
    /// The chunks.
    pub stack: Stack,
    /// How many.
    pub count: usize,
}

/// How magazines on a shelf are chained: in two words of their top chunk, or, for models that
/// cannot overlay memory, somewhere else.
pub trait Freight {
    /// What lies below the magazine whose top is `top`, and how many chunks it holds. `None` if
    /// the record was overwritten.
    fn read(&self, top: usize) -> Option<(usize, usize)>;
    /// Records it.
    fn write(&self, top: usize, below: usize, count: usize);
    /// Ends the process: the record at `top` was overwritten.
    fn damaged(&self, top: usize) -> !;
}

impl<R: Region> Freight for Keys<R> {
    fn read(&self, top: usize) -> Option<(usize, usize)> {
        Stack::from_top(top).peek(self)?.freight()
    }
    fn write(&self, top: usize, below: usize, count: usize) {
        if let Some(chunk) = Stack::from_top(top).peek(self) {
            chunk.set_freight(below, count);
        }
    }
    fn damaged(&self, top: usize) -> ! {
        crate::report::abort(crate::report::Misuse::CorruptLink { address: top })
    }
}

/// The magazines of one class.
#[derive(Debug)]
struct Shelf {
    top: usize,
    magazines: usize,
    /// The fewest magazines since the shelf was last looked after: so many nobody needed.
    low: usize,
    /// Bytes that count as this shelf's in the sum of all: at least its own.
    reserved: usize,
    /// So many bytes more than its own it may keep.
    slack: usize,
}

impl Shelf {
    const EMPTY: Shelf = Shelf {
        top: 0,
        magazines: 0,
        low: 0,
        reserved: 0,
        slack: 0,
    };
}

#[derive(Debug)]
#[repr(align(64))] // A cache line each: threads that exchange different classes do not meet.
struct Slot {
    shelf: Mutex<Shelf>,
    /// Bytes on the shelf; changes under the lock.
    bytes: AtomicUsize,
}

/// A shelf reserves up to so many bytes at once, so that exchanges of different classes do not
/// meet at the sum either,
const MOST_RESERVED: usize = 16 << 10;
/// and this part of the limit at most.
const PART_RESERVED: usize = 1024;

/// How many aisles there are: threads of different arenas put things into different ones, so that
/// they neither wait for each other nor mix blocks whose cache lines both would write to.
pub const AISLES: usize = if cfg!(loom) { 2 } else { 4 };

/// A shelf per class in every aisle.
#[derive(Debug)]
pub struct Depot {
    aisles: [[Slot; SLOTS]; AISLES],
    /// Bit n: somebody came to put something into aisle n. The others' pages are not looked at.
    used: AtomicUsize,
    /// Bytes that are on the shelves or reserved for them.
    reserved: AtomicUsize,
}

impl Depot {
    /// An empty depot.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Depot {
        Depot {
            aisles: [const {
                [const {
                    Slot {
                        shelf: Mutex::new(Shelf::EMPTY),
                        bytes: AtomicUsize::new(0),
                    }
                }; SLOTS]
            }; AISLES],
            used: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
        }
    }

    /// An empty depot.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Depot {
        Depot {
            aisles: core::array::from_fn(|_| {
                core::array::from_fn(|_| Slot {
                    shelf: Mutex::new(Shelf::EMPTY),
                    bytes: AtomicUsize::new(0),
                })
            }),
            used: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
        }
    }

    /// Bytes of all chunks in the depot.
    pub fn bytes(&self) -> usize {
        let each = self.used().flatten();
        each.map(|slot| slot.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Bytes of the chunks of `class` and larger ones.
    pub fn bytes_from(&self, class: usize) -> usize {
        let each = (class..DEPOT_CLASSES).flat_map(|class| self.filled(class));
        each.map(|slot| slot.bytes.load(Ordering::Relaxed)).sum()
    }

    /// The aisles that were used.
    fn used(&self) -> impl Iterator<Item = &[Slot; SLOTS]> {
        let used = self.used.load(Ordering::Relaxed);
        let all = self.aisles.iter().enumerate();
        all.filter_map(move |(aisle, slots)| (used >> aisle & 1 != 0).then_some(slots))
    }

    /// The shelves of a class that may hold something.
    fn filled(&self, class: usize) -> impl Iterator<Item = &Slot> {
        self.used()
            .filter_map(move |slots| slots.get(class % SLOTS))
            .filter(|slot| slot.bytes.load(Ordering::Relaxed) != 0)
    }

    /// As [`bytes`](Depot::bytes), at once, and perhaps a little more.
    #[inline]
    pub fn bytes_about(&self) -> usize {
        self.reserved.load(Ordering::Relaxed)
    }

    /// Puts a magazine (not empty) on the shelf of its class in an aisle, unless the depot would
    /// hold more than `limit` bytes: then the magazine comes back.
    pub fn put(
        &self,
        freight: &impl Freight,
        aisle: usize,
        class: usize,
        magazine: Magazine,
        limit: usize,
    ) -> Option<Magazine> {
        if limit == 0 {
            return Some(magazine);
        }
        // Before the lock: a child of fork looks after the shelves of these aisles alone.
        let bit = 1 << (aisle % AISLES);
        if self.used.load(Ordering::Relaxed) & bit == 0 {
            self.used.fetch_or(bit, Ordering::SeqCst);
        }
        let slot = &self.aisles[aisle % AISLES][class % SLOTS];
        let mut shelf = slot.shelf.lock();
        let bytes = slot.bytes.load(Ordering::Relaxed) + magazine.count * class_size(class);
        if bytes > shelf.reserved {
            let quantum = (limit / PART_RESERVED).min(MOST_RESERVED);
            let missing = bytes - shelf.reserved;
            let reserved = self.reserved.load(Ordering::Relaxed);
            let Some(more) = [missing + quantum, missing]
                .into_iter()
                .find(|more| reserved.saturating_add(*more) <= limit)
            else {
                return Some(magazine);
            };
            self.reserved.fetch_add(more, Ordering::Relaxed);
            shelf.reserved += more;
            shelf.slack = 2 * quantum;
        }
        let top = magazine.stack.top();
        freight.write(top, shelf.top, magazine.count);
        shelf.top = top;
        shelf.magazines += 1;
        slot.bytes.store(bytes, Ordering::Relaxed);
        None
    }

    /// Whether any shelf of a class may hold a magazine.
    #[inline]
    pub fn may_hold(&self, class: usize) -> bool {
        // As long as there is nothing at all, the shelves' pages are not even looked at.
        self.reserved.load(Ordering::Relaxed) != 0 && self.filled(class).next().is_some()
    }

    /// Takes the magazine that was put last into an aisle, or one from another aisle.
    pub fn take(&self, freight: &impl Freight, aisle: usize, class: usize) -> Option<Magazine> {
        if self.reserved.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let own = &self.aisles[aisle % AISLES][class % SLOTS];
        if self.used.load(Ordering::Relaxed) >> (aisle % AISLES) & 1 != 0
            && own.bytes.load(Ordering::Relaxed) != 0
        {
            let taken = self.take_from(freight, class, own, &mut own.shelf.lock());
            if taken.is_some() {
                return taken;
            }
        }
        self.take_any(freight, class)
    }

    /// Takes a magazine of a class from any aisle.
    pub fn take_any(&self, freight: &impl Freight, class: usize) -> Option<Magazine> {
        self.filled(class)
            .find_map(|slot| self.take_from(freight, class, slot, &mut slot.shelf.lock()))
    }

    fn take_from(
        &self,
        freight: &impl Freight,
        class: usize,
        slot: &Slot,
        shelf: &mut Shelf,
    ) -> Option<Magazine> {
        let top = shelf.top;
        if top == 0 {
            return None;
        }
        let Some((below, count)) = freight.read(top) else {
            freight.damaged(top);
        };
        shelf.top = below;
        shelf.magazines -= 1;
        shelf.low = shelf.low.min(shelf.magazines);
        let bytes = slot.bytes.load(Ordering::Relaxed) - count * class_size(class);
        slot.bytes.store(bytes, Ordering::Relaxed);
        let more = shelf.reserved - bytes;
        if more > shelf.slack {
            self.reserved.fetch_sub(more, Ordering::Relaxed);
            shelf.reserved = bytes;
        }
        Some(Magazine {
            stack: Stack::from_top(top),
            count,
        })
    }

    /// Takes a magazine that nobody needed since the last call of [`age`](Depot::age).
    pub fn take_idle(&self, freight: &impl Freight, class: usize) -> Option<Magazine> {
        self.filled(class).find_map(|slot| {
            let mut shelf = slot.shelf.lock();
            let low = shelf.low.checked_sub(1)?;
            let taken = self.take_from(freight, class, slot, &mut shelf);
            shelf.low = low;
            taken
        })
    }

    /// Begins a new interval: what lies on the shelves now and is never needed will be idle.
    pub fn age(&self, class: usize) {
        self.each_shelf(class, |shelf, _| shelf.low = shelf.magazines);
    }

    /// What the shelves of a class had reserved beyond what lies there is nobody's again.
    pub fn settle(&self, class: usize) {
        self.each_shelf(class, |shelf, bytes| {
            let more = shelf.reserved - bytes;
            if more != 0 {
                self.reserved.fetch_sub(more, Ordering::Relaxed);
                shelf.reserved = bytes;
            }
        });
    }

    fn each_shelf(&self, class: usize, mut visit: impl FnMut(&mut Shelf, usize)) {
        for slot in self.used().filter_map(|slots| slots.get(class % SLOTS)) {
            let mut shelf = slot.shelf.lock();
            visit(&mut shelf, slot.bytes.load(Ordering::Relaxed));
        }
    }

    /// In a child process: forgets the shelves that somebody held at the fork.
    pub fn after_fork(&self) {
        for slot in self.used().flatten() {
            if slot.shelf.is_locked() {
                // SAFETY: the holder does not exist in this process, and no other thread does
                // anything here before the child is in order.
                #[allow(unsafe_code)]
                unsafe {
                    slot.shelf.force_unlock();
                }
                *slot.shelf.lock() = Shelf::EMPTY;
                slot.bytes.store(0, Ordering::Relaxed);
            }
        }
        // Somebody may have been between the sum and his shelf.
        let each = self.used().flatten();
        let reserved = each.map(|slot| slot.shelf.lock().reserved).sum();
        self.reserved.store(reserved, Ordering::Relaxed);
    }
}

impl Default for Depot {
    fn default() -> Depot {
        Depot::new()
    }
}
