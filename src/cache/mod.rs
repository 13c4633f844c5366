//! Layer 7: the cache of a thread. The hit path of malloc and free.
//!
//! Per class two magazines: a *main* stack that malloc pops and free pushes, and a *spare* that
//! is either full or empty. A miss takes the spare, then a magazine from the depot, then a
//! batch from the arena; an overflow makes the main stack the spare, and sends a spare that is
//! still there to the depot. So between two visits to the depot lie at least as many calls as a
//! magazine holds, whatever the pattern.
//!
//! Magazines grow with traffic. The capacities of all classes together, main and spare, and what
//! was set aside for aligned requests do not exceed the thread's budget in bytes; a class that
//! finds the budget spent takes it from one that has not been used for a while. The budget is a
//! share of what the program has in use (`budget.rs`); misses are in `exchange.rs`.
#![allow(unsafe_code)] // Unchecked indexing on the hit path; pages of the cache itself.

mod aligned;
mod budget;
mod caches;
mod exchange;
mod roll;
mod sample;
mod slot;

pub use aligned::aligned_class;
pub use caches::Caches;
pub use roll::{Claim, Claimed, Roll};
pub use slot::{Thread, on_thread_exit, set_exit_hook};

use crate::arena::Magazine;
use crate::chunk::{Chunk, Keys, Low, Stack};
use crate::os::Region;
use crate::report::{Misuse, abort};
use crate::size::{CLASSES, SMALL_CLASSES, class_of, class_size};

/// Room for every class. An index modulo this power of two needs no check that could panic.
const SLOTS: usize = CLASSES.next_power_of_two();

/// One class in one thread's cache: what the hit paths look at.
#[derive(Debug)]
#[repr(C)]
struct Slot {
    main: Stack,
    /// The low 16 bits count the main stack; the rest counts pops. Where allocations are
    /// sampled it starts so that the word overflows when one is due.
    counts: u64,
    /// The keyed size of the class, for the tags of its chunks.
    keyed: u64,
    /// Chunks that the main stack may hold.
    capacity: u16,
    spare_count: u16,
}

const ONE_POP: u64 = 1 << 16;
/// All pops that the counter can count.
const POPS: u64 = u64::MAX >> 16;

impl Slot {
    const EMPTY: Slot = Slot {
        main: Stack::EMPTY,
        counts: 0,
        keyed: 0,
        capacity: 0,
        spare_count: 0,
    };

    #[inline(always)]
    const fn count(&self) -> u16 {
        self.counts as u16
    }

    const fn pops(&self) -> u64 {
        self.counts >> 16
    }

    /// Replaces the main stack.
    fn load(&mut self, magazine: Magazine) {
        self.main = magazine.stack;
        self.counts = self.counts & !0xffff | magazine.count as u64;
    }

    /// Takes the main stack out.
    fn unload(&mut self) -> Magazine {
        let magazine = Magazine {
            stack: self.main,
            count: usize::from(self.count()),
        };
        self.main = Stack::EMPTY;
        self.counts &= !0xffff;
        magazine
    }
}

/// A thread's cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Cache {
    slots: [Slot; SLOTS],
    spares: [Stack; SLOTS],
    /// Chunks that came in from below minus those that went back, per class.
    net: [i64; SLOTS],
    /// Pops before those that `counts` counts, minus what that started from.
    earlier: [u64; SLOTS],
    /// The low half of `counts` when the clock hand last passed a class.
    seen: [u32; SLOTS],
    /// What was called of each class when the heap last had to take new memory for this thread.
    rested: [u16; SLOTS],
    hand: usize,
    /// How often a class could have asked for capacity.
    reached: u32,
    /// So many requests for a first share are refused at once.
    respite: u32,
    committed: usize,
    /// What `committed` may reach, as of when it last did.
    budget: usize,
    /// What was set aside for aligned requests; null until there is something.
    aside: *mut aligned::Aside,
    /// The bytes of it, which are part of `committed`.
    aside_bytes: usize,
    /// Bytes that went to the depot, of which nobody was told yet.
    sent: usize,
    arena: usize,
    /// The thread's aisle of the depot.
    aisle: usize,
    /// A direct cache holds nothing: every call goes to the arena.
    direct: bool,
    /// The kernel's number of the thread; 0 if it was not asked yet.
    thread: u32,
    /// Requests that no class serves until the next sample; 0 if none was counted yet.
    odd: u32,
    random: u64,
    /// Nanoseconds that may be spent on samples, as of the time at which the thread had run so
    /// long.
    credit: i64,
    sampled_at: u64,
    claim: Claim<Cache>,
}

/// Where calls go that a cache does not serve.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    /// Every call is to go to the arena.
    pub direct: bool,
    /// The arena's number.
    pub arena: usize,
    /// The aisle of the depot.
    pub aisle: usize,
}

// SAFETY: projects the pointer to one field.
unsafe impl Claimed for Cache {
    fn claim(this: *mut Cache) -> *const Claim<Cache> {
        this.wrapping_byte_add(core::mem::offset_of!(Cache, claim))
            .cast()
    }
}

impl Cache {
    /// A cache that holds nothing and is nobody's: all zero.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Cache {
        Cache {
            slots: [const { Slot::EMPTY }; SLOTS],
            spares: [Stack::EMPTY; SLOTS],
            net: [0; SLOTS],
            earlier: [0; SLOTS],
            seen: [0; SLOTS],
            rested: [0; SLOTS],
            hand: 2,
            reached: 0,
            respite: 0,
            committed: 0,
            budget: 0,
            aside: core::ptr::null_mut(),
            aside_bytes: 0,
            arena: 0,
            sent: 0,
            aisle: 0,
            direct: false,
            thread: 0,
            odd: 0,
            random: 0,
            credit: 0,
            sampled_at: 0,
            claim: Claim::new(),
        }
    }

    /// A cache that never holds anything and is never written to: threads that have ended, or
    /// processes without caches, point to one.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn direct() -> Cache {
        let mut cache = Cache::new();
        cache.direct = true;
        cache
    }

    /// Where calls go that the cache does not serve.
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    #[inline]
    #[must_use]
    pub const unsafe fn route(cache: *const Cache) -> Route {
        // SAFETY: the caller's promise; a direct cache is never written to.
        unsafe {
            Route {
                direct: (*cache).direct,
                arena: (*cache).arena,
                aisle: (*cache).aisle,
            }
        }
    }

    /// Whether the cache is the calling thread's alone; otherwise several share it, and it is never
    /// written to.
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    #[must_use]
    pub unsafe fn is_owned(cache: *mut Cache) -> bool {
        // SAFETY: the caller's promise.
        unsafe { (*Cache::claim(cache)).is_owned() }
    }

    /// Gets ready to serve a thread of this arena.
    fn prepare<R: Region>(&mut self, keys: &Keys<R>, arena: usize, direct: bool) {
        self.arena = arena;
        self.direct = direct;
        self.thread = 0;
        self.odd = 0;
        self.sampled_at = 0;
        self.budget = 0;
        // In a pool of threads the next does as the last did.
        self.reached -= self.reached / 4;
        for (class, slot) in self.slots.iter_mut().enumerate().skip(2) {
            slot.keyed = keys.secret.keyed(Low::of(class_size(class)));
        }
    }

    /// Pops a chunk of a class and marks it used; 0 if the main stack is empty. Also whether a
    /// sample is [due](Cache::arm).
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one, `class` is below [`CLASSES`].
    #[inline(always)]
    #[must_use]
    pub unsafe fn pop<R: Region>(
        cache: *mut Cache,
        keys: &'static Keys<R>,
        class: usize,
    ) -> (usize, bool) {
        // SAFETY: the caller's promise. A direct cache is empty and therefore only read.
        unsafe {
            let slot = (&raw mut (*cache).slots).cast::<Slot>().add(class);
            let payload = (*slot).main.top();
            if payload == 0 {
                return (0, false);
            }
            // SAFETY (chunk): a stacked chunk; its tag vouches for the link before it is used.
            let chunk = keys.chunk(payload - crate::size::HEADER);
            let below = chunk.stacked_below();
            // The tag is computed for this class's size, so it proves the class as well.
            let (used, cached) = chunk.user_tags((*slot).keyed);
            if chunk.tag() != cached ^ keys.secret.seal(below) {
                damaged(payload);
            }
            // The next pop looks there.
            crate::os::prefetch(below);
            chunk.set_tag(used);
            (*slot).main = Stack::from_top(below);
            let (counts, due) = (*slot).counts.overflowing_add(ONE_POP - 1);
            (*slot).counts = counts;
            (payload, due)
        }
    }

    /// Pushes a chunk that was verified as used, whose keyed size and cached tag are
    /// these. `false` if the class is full or the size is none of a class: the chunk is as it was
    /// then.
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    #[inline(always)]
    #[must_use]
    pub unsafe fn push<R: Region>(
        cache: *mut Cache,
        chunk: Chunk<'static, R>,
        low: Low,
        keyed: u64,
        cached: u32,
    ) -> bool {
        let units = low.units();
        let is_small = units < SMALL_CLASSES;
        if !is_small && low.size() > class_size(CLASSES - 1) {
            return false;
        }
        let class = if is_small {
            units
        } else {
            class_of(low.size())
        };
        // SAFETY: the caller's promise, and the class was bounded above. A direct cache has no
        // capacity and is therefore only read.
        unsafe {
            let slot = (&raw mut (*cache).slots).cast::<Slot>().add(class);
            if (*slot).count() >= (*slot).capacity || !is_small && (*slot).keyed != keyed {
                return false;
            }
            chunk.seal_on(cached, (*slot).main.top());
            (*slot).main = Stack::from_top(chunk.payload());
            (*slot).counts += 1;
        }
        true
    }

    fn pop_here<R: Region>(&mut self, keys: &'static Keys<R>, class: usize) -> usize {
        // SAFETY: `&mut self` is the calling thread's cache; the class is an index in use.
        let (payload, due) = unsafe { Cache::pop(self, keys, class) };
        if due {
            self.arm(class, 1);
        }
        payload
    }

    /// The kernel's number of the calling thread.
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    pub unsafe fn thread(cache: *mut Cache) -> u32 {
        // SAFETY: the caller's promise; a direct cache that several threads share has no owner.
        unsafe {
            if (*cache).thread != 0 {
                return (*cache).thread;
            }
            let thread = crate::os::signals::thread_id();
            if Cache::is_owned(cache) {
                (*cache).thread = thread;
            }
            thread
        }
    }

    /// Forgets everything: the cache of a thread that does not exist in this process.
    pub fn forget(&mut self) {
        for class in 2..CLASSES {
            let slot = &mut self.slots[class % SLOTS];
            slot.capacity = 0;
            let gone = slot.unload().count + self.take_spare(class).count;
            self.net[class % SLOTS] -= gone as i64;
        }
        self.forget_aside();
        self.committed = 0;
    }

    /// Mallocs and frees that the cache served, and the bytes in it.
    #[must_use]
    pub fn counts(&self) -> (u64, u64, u64) {
        let (mut pops, mut pushes, mut bytes) = (0, 0, self.aside_bytes as u64);
        for class in 2..CLASSES {
            let slot = &self.slots[class % SLOTS];
            let held = i64::from(slot.count()) + i64::from(slot.spare_count);
            // A counter of 48 bits that wrapped around counts on.
            let popped = slot.pops().wrapping_add(self.earlier[class % SLOTS]) & POPS;
            // held = net + pushes - pops
            let pushed = popped as i64 + held - self.net[class % SLOTS];
            pushes += pushed.max(0) as u64;
            pops += popped;
            bytes += (held as usize * class_size(class)) as u64;
        }
        (pops, pushes, bytes)
    }
}

#[cfg(not(loom))]
impl Default for Cache {
    fn default() -> Cache {
        Cache::new()
    }
}

#[cold]
#[inline(never)]
fn damaged(payload: usize) -> ! {
    abort(Misuse::CorruptLink { address: payload })
}
