//! The depot: full magazines of every class, exchanged between threads in constant time.
//!
//! Memory that one thread allocates and another frees travels here by the magazine, without a
//! walk over lists and without touching an arena. Memory that a thread frees and allocates again
//! comes back from the thread's own aisle: threads that took each other's magazines, whenever one
//! had given back what the other was about to ask for, would soon write to the same cache lines
//! for ever. So from other aisles comes only what their threads do not take back themselves.

use crate::chunk::{Keys, Stack};
use crate::os::Region;
use crate::size::{CLASSES, DEPOT_CLASSES, class_size};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

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
    /// Bytes that count as this shelf's in the sum of all: at least its own.
    reserved: usize,
    /// So many bytes more than its own it may keep.
    slack: u32,
    magazines: u32,
    /// The fewest magazines since the shelf was last looked after: so many nobody needed.
    low: u32,
    /// The fewest magazines in this window of visits,
    fewest: u32,
    /// and in the window before.
    fewest_before: u32,
    /// Visits in this window.
    visits: u16,
    /// Grows when the aisle's own threads take something, falls when they put something: 0 if they
    /// do not come back for it.
    reuse: u16,
}

impl Shelf {
    const EMPTY: Shelf = Shelf {
        top: 0,
        reserved: 0,
        slack: 0,
        magazines: 0,
        low: 0,
        fewest: 0,
        fewest_before: 0,
        visits: 0,
        reuse: 0,
    };

    /// A thread of this aisle was here.
    fn visited(&mut self) {
        self.visits += 1;
        if self.visits >= WINDOW {
            self.visits = 0;
            self.fewest_before = self.fewest;
            self.fewest = self.magazines;
        }
    }

    /// How many magazines others may take.
    fn spare(&self, class: usize) -> u32 {
        if self.reuse == 0 || class_size(class) > LIGHT {
            self.magazines
        } else {
            self.fewest.min(self.fewest_before)
        }
    }
}

#[derive(Debug)]
#[repr(align(64))] // A cache line each: threads that exchange different classes do not meet.
struct Slot {
    shelf: Mutex<Shelf>,
    /// Bytes on the shelf; changes under the lock.
    bytes: AtomicUsize,
    /// How many magazines other aisles' threads may take; changes under the lock.
    spare: AtomicU32,
}

impl Slot {
    #[cfg(not(loom))]
    const fn new() -> Slot {
        Slot {
            shelf: Mutex::new(Shelf::EMPTY),
            bytes: AtomicUsize::new(0),
            spare: AtomicU32::new(0),
        }
    }

    #[cfg(loom)]
    fn new() -> Slot {
        Slot {
            shelf: Mutex::new(Shelf::EMPTY),
            bytes: AtomicUsize::new(0),
            spare: AtomicU32::new(0),
        }
    }
}

/// What has lain on a shelf throughout so many visits of the aisle's own threads, twice, they do
/// not need: enough for programs that free and allocate again a few thousand chunks of a class.
const WINDOW: u16 = 64;
/// One take makes up for so many puts,
const REUSED: u16 = 8;
/// and this many puts in a row, with nothing taken, are no longer a phase of one's own program.
const MOST_REUSE: u16 = 256;
/// Chunks above this size are lent to anybody: a few lines that change processors are nothing
/// beside what is done with such a chunk, and what lies idle are many bytes.
const LIGHT: usize = 1040;

/// About so many slots lie in one page.
const SLOTS_IN_PAGE: usize = 64;

/// A shelf reserves up to so many bytes at once, so that exchanges of different classes do not
/// meet at the sum either,
const MOST_RESERVED: usize = 16 << 10;
/// and this part of the limit at most.
const PART_RESERVED: usize = 1024;

/// How many aisles there are: as many threads have one of their own, so that they neither wait for
/// each other nor mix blocks whose cache lines both would write to.
pub const AISLES: usize = if cfg!(loom) { 2 } else { 8 };

/// A shelf per class in every aisle.
#[derive(Debug)]
pub struct Depot {
    aisles: [[Slot; SLOTS]; AISLES],
    /// Bit n: somebody came to put something into aisle n. The others' pages are not looked at.
    used: AtomicUsize,
    /// Threads that use each aisle.
    users: [AtomicU32; AISLES],
    /// Bytes that are on the shelves or reserved for them.
    reserved: AtomicUsize,
}

impl Depot {
    /// An empty depot.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Depot {
        Depot {
            aisles: [const { [const { Slot::new() }; SLOTS] }; AISLES],
            used: AtomicUsize::new(0),
            users: [const { AtomicU32::new(0) }; AISLES],
            reserved: AtomicUsize::new(0),
        }
    }

    /// An empty depot.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Depot {
        Depot {
            aisles: core::array::from_fn(|_| core::array::from_fn(|_| Slot::new())),
            used: AtomicUsize::new(0),
            users: core::array::from_fn(|_| AtomicU32::new(0)),
            reserved: AtomicUsize::new(0),
        }
    }

    /// Writes, and changes nothing: every miss reads close by, and of a library's data a read would
    /// bring in the pages around it.
    pub fn touch(&self) {
        let _ = self
            .reserved
            .compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// An aisle for a thread: of those that the fewest threads have the one that it wishes, or the
    /// first.
    pub fn enter(&self, wish: usize) -> usize {
        let wish = wish % AISLES;
        let others = (0..AISLES).filter(|aisle| *aisle != wish);
        let users = |aisle: &usize| self.users[aisle % AISLES].load(Ordering::Relaxed);
        let aisle = core::iter::once(wish).chain(others).min_by_key(users);
        let aisle = aisle.unwrap_or(wish);
        self.users[aisle % AISLES].fetch_add(1, Ordering::Relaxed);
        aisle
    }

    /// Ends a thread's use of an aisle. What it put there stays.
    pub fn leave(&self, aisle: usize) {
        // In a new process the counts began anew, with a thread in an aisle that is not counted.
        let less = |n: u32| n.checked_sub(1);
        let users = &self.users[aisle % AISLES];
        let _ = users.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
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
        self.used_numbered().map(|(_, slots)| slots)
    }

    /// The same with their numbers.
    fn used_numbered(&self) -> impl Iterator<Item = (usize, &[Slot; SLOTS])> {
        let used = self.used.load(Ordering::Relaxed);
        let all = self.aisles.iter().enumerate();
        all.filter(move |(aisle, _)| used >> aisle & 1 != 0)
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
            // By a write, as in `touch`: each page of the aisle.
            let each = self.aisles[aisle % AISLES].iter().enumerate();
            for (_, slot) in each.filter(|(n, _)| n % SLOTS_IN_PAGE == 0 || n + 1 == SLOTS) {
                let _ = slot
                    .spare
                    .compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
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
            shelf.slack = 2 * quantum as u32;
        }
        let top = magazine.stack.top();
        freight.write(top, shelf.top, magazine.count);
        shelf.top = top;
        shelf.magazines += 1;
        shelf.reuse = shelf.reuse.saturating_sub(1);
        shelf.visited();
        slot.bytes.store(bytes, Ordering::Relaxed);
        slot.spare.store(shelf.spare(class), Ordering::Relaxed);
        None
    }

    /// Whether [`take`](Depot::take) may find a magazine.
    #[inline]
    pub fn may_hold(&self, aisle: usize, class: usize) -> bool {
        // As long as there is nothing at all, the shelves' pages are not even looked at.
        self.reserved.load(Ordering::Relaxed) != 0
            && (self.own(aisle, class).is_some() || self.others(class).next().is_some())
    }

    /// The shelf of a class in an aisle, if it may hold something.
    fn own(&self, aisle: usize, class: usize) -> Option<&Slot> {
        let slot = &self.aisles[aisle % AISLES][class % SLOTS];
        let is_used = self.used.load(Ordering::Relaxed) >> (aisle % AISLES) & 1 != 0;
        (is_used && slot.bytes.load(Ordering::Relaxed) != 0).then_some(slot)
    }

    /// The shelves of a class that may have something to spare, and whether that is all, for no
    /// thread uses the aisle now.
    fn others(&self, class: usize) -> impl Iterator<Item = (bool, &Slot)> {
        self.used_numbered().filter_map(move |(aisle, slots)| {
            let slot = slots.get(class % SLOTS)?;
            let users = self.users.get(aisle)?.load(Ordering::Relaxed);
            let may_lend = slot.spare.load(Ordering::Relaxed) != 0
                || users == 0 && slot.bytes.load(Ordering::Relaxed) != 0;
            may_lend.then_some((users == 0, slot))
        })
    }

    /// Takes the magazine that was put last into an aisle, or one that another aisle can spare.
    pub fn take(&self, freight: &impl Freight, aisle: usize, class: usize) -> Option<Magazine> {
        if self.reserved.load(Ordering::Relaxed) == 0 {
            return None;
        }
        if let Some(slot) = self.own(aisle, class) {
            let mut shelf = slot.shelf.lock();
            shelf.reuse = (shelf.reuse + REUSED).min(MOST_REUSE);
            shelf.visited();
            let taken = self.take_from(freight, class, slot, &mut shelf);
            if taken.is_some() {
                return taken;
            }
        }
        self.others(class).find_map(|(is_left, slot)| {
            let mut shelf = slot.shelf.lock();
            if !is_left && shelf.spare(class) == 0 {
                return None;
            }
            // It was not needed, so the others are as idle as they were.
            shelf.fewest = shelf.fewest.saturating_sub(1);
            shelf.fewest_before = shelf.fewest_before.saturating_sub(1);
            self.take_from(freight, class, slot, &mut shelf)
        })
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
        shelf.fewest = shelf.fewest.min(shelf.magazines);
        slot.spare.store(shelf.spare(class), Ordering::Relaxed);
        let bytes = slot.bytes.load(Ordering::Relaxed) - count * class_size(class);
        slot.bytes.store(bytes, Ordering::Relaxed);
        let more = shelf.reserved - bytes;
        if more > shelf.slack as usize {
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
                slot.spare.store(0, Ordering::Relaxed);
            }
        }
        // The threads that had an aisle are gone, but for one, whose aisle is not known here.
        self.users
            .iter()
            .for_each(|n| n.store(0, Ordering::Relaxed));
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
