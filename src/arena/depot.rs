//! The depot: full magazines of every class, exchanged between threads in constant time.
//!
//! Memory that one thread allocates and another frees travels here by the magazine, without a
//! walk over lists and without touching an arena.

use crate::chunk::{Keys, Stack};
use crate::os::Region;
use crate::size::{CLASSES, class_size};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Room for every class. An index modulo this power of two needs no check that could panic.
const SLOTS: usize = CLASSES.next_power_of_two();

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
}

#[derive(Debug)]
#[repr(align(64))] // A cache line each: threads that exchange different classes do not meet.
struct Slot(Mutex<Shelf>);

/// A shelf per class.
#[derive(Debug)]
pub struct Depot {
    slots: [Slot; SLOTS],
    /// A bit for each shelf that may hold something, so that nobody needs to look at all.
    filled: [AtomicU64; SLOTS / 64],
    bytes: AtomicUsize,
}

impl Depot {
    /// An empty depot.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Depot {
        Depot {
            slots: [const {
                Slot(Mutex::new(Shelf {
                    top: 0,
                    magazines: 0,
                    low: 0,
                }))
            }; SLOTS],
            filled: [const { AtomicU64::new(0) }; SLOTS / 64],
            bytes: AtomicUsize::new(0),
        }
    }

    /// An empty depot.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Depot {
        Depot {
            slots: core::array::from_fn(|_| {
                Slot(Mutex::new(Shelf {
                    top: 0,
                    magazines: 0,
                    low: 0,
                }))
            }),
            filled: core::array::from_fn(|_| AtomicU64::new(0)),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Bytes of all chunks in the depot.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Puts a magazine (not empty) on the shelf of its class, unless the depot holds more than
    /// `limit` bytes: then the magazine comes back.
    pub fn put(
        &self,
        freight: &impl Freight,
        class: usize,
        magazine: Magazine,
        limit: usize,
    ) -> Option<Magazine> {
        let bytes = magazine.count * class_size(class);
        if self.bytes.load(Ordering::Relaxed) + bytes > limit {
            return Some(magazine);
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let top = magazine.stack.top();
        let mut shelf = self.slots[class % SLOTS].0.lock();
        if shelf.top == 0 {
            self.filled[class / 64 % (SLOTS / 64)].fetch_or(1 << (class % 64), Ordering::Relaxed);
        }
        freight.write(top, shelf.top, magazine.count);
        shelf.top = top;
        shelf.magazines += 1;
        None
    }

    /// Whether the shelf of a class may hold a magazine.
    #[inline]
    pub fn may_hold(&self, class: usize) -> bool {
        self.filled[class / 64 % (SLOTS / 64)].load(Ordering::Relaxed) >> (class % 64) & 1 != 0
    }

    /// Takes the magazine that was put last.
    pub fn take(&self, freight: &impl Freight, class: usize) -> Option<Magazine> {
        if !self.may_hold(class) {
            return None;
        }
        let mut shelf = self.slots[class % SLOTS].0.lock();
        self.take_from(freight, class, &mut shelf)
    }

    fn take_from(
        &self,
        freight: &impl Freight,
        class: usize,
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
        if below == 0 {
            self.filled[class / 64 % (SLOTS / 64)]
                .fetch_and(!(1 << (class % 64)), Ordering::Relaxed);
        }
        self.bytes
            .fetch_sub(count * class_size(class), Ordering::Relaxed);
        Some(Magazine {
            stack: Stack::from_top(top),
            count,
        })
    }

    /// Takes a magazine that nobody needed since the last call of [`age`](Depot::age).
    pub fn take_idle(&self, freight: &impl Freight, class: usize) -> Option<Magazine> {
        let mut shelf = self.slots[class % SLOTS].0.lock();
        if shelf.low == 0 {
            return None;
        }
        let low = shelf.low - 1;
        let taken = self.take_from(freight, class, &mut shelf);
        shelf.low = low;
        taken
    }

    /// Begins a new interval: what lies on the shelf now and is never needed will be idle.
    pub fn age(&self, class: usize) {
        let mut shelf = self.slots[class % SLOTS].0.lock();
        shelf.low = shelf.magazines;
    }

    /// In a child process: forgets the shelves that somebody held at the fork.
    pub fn after_fork(&self) {
        for slot in &self.slots {
            if slot.0.is_locked() {
                // SAFETY: the holder does not exist in this process, and no other thread does
                // anything here before the child is in order.
                #[allow(unsafe_code)]
                unsafe {
                    slot.0.force_unlock();
                }
                *slot.0.lock() = Shelf {
                    top: 0,
                    magazines: 0,
                    low: 0,
                };
            }
        }
    }
}

impl Default for Depot {
    fn default() -> Depot {
        Depot::new()
    }
}
