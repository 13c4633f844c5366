//! All caches of a process: who owns which, and what becomes of them.
#![allow(unsafe_code)] // Caches live in pages and change hands.

use super::{Cache, Claimed, Roll};
use crate::arena::Shared;
use crate::os::{Os, PageState, Prot, Region};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;

/// All caches of a process. They live in pages that are never unmapped and are reused.
#[derive(Debug)]
pub struct Caches {
    /// The first thread's, so that a small program needs no page for it.
    first: UnsafeCell<Cache>,
    /// The caches that were mapped, newest first.
    mapped: Roll<Cache>,
}

// SAFETY: a cache is accessed mutably only by the thread that owns it, and ownership changes
// hands by its atomic state; the rest is atomics.
unsafe impl Sync for Caches {}

impl Caches {
    /// No cache is owned.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Caches {
        Caches {
            first: UnsafeCell::new(Cache::new()),
            mapped: Roll::new(),
        }
    }

    /// Every cache there is.
    fn each(&self) -> impl Iterator<Item = *mut Cache> {
        core::iter::once(self.first.get()).chain(self.mapped.iter())
    }

    /// A cache for the current thread, attached to an arena, that holds nothing if `direct`.
    /// Null if there is no memory.
    pub fn claim<O: Os + Copy + 'static>(&self, shared: &Shared<O>, direct: bool) -> *mut Cache {
        let generation = shared.generation();
        // SAFETY: the record inside a cache that is never unmapped.
        let mut found = if unsafe { (*Cache::claim(self.first.get())).take(generation) } {
            self.first.get()
        } else {
            self.mapped.take(generation)
        };
        if found.is_null() {
            found = self.map(shared.os(), generation);
        }
        // SAFETY: null, or owned by this thread as of now.
        if let Some(cache) = unsafe { found.as_mut() } {
            cache.prepare(shared.keys(), shared.attach(), direct);
            cache.aisle = shared.depot.enter(cache.arena);
        }
        found
    }

    fn map<O: Os>(&self, os: &O, generation: u32) -> *mut Cache {
        let bytes = crate::size::align_up(size_of::<Cache>(), os.page_size());
        let Ok(pages) = os.map(0, bytes, Prot::ReadWrite) else {
            return core::ptr::null_mut();
        };
        os.note(pages, pages + bytes, PageState::Meta);
        let cache: *mut Cache = os.region().at(pages).cast();
        // SAFETY: fresh zero pages that are never unmapped, large and aligned enough, and an
        // all-zero cache is a valid empty one; nobody else knows them yet.
        unsafe { self.mapped.add(cache, generation) };
        cache
    }

    /// Gives a thread's cache back: its chunks to the depot and the arenas, the cache to the
    /// next thread.
    ///
    /// # Safety
    /// The calling thread owns the cache and does not use it afterwards.
    pub unsafe fn give_back<O: Os + Copy + 'static>(&self, shared: &Shared<O>, cache: *mut Cache) {
        // SAFETY: owned by the caller.
        let cache = unsafe { &mut *cache };
        cache.flush(shared);
        shared.detach(cache.arena);
        shared.depot.leave(cache.aisle);
        cache.claim.give_back();
    }

    /// Whether the thread that owns `cache` is the one that survived a fork and has not looked
    /// after the caches of the others yet.
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one.
    #[inline]
    pub unsafe fn survived<O: Os + Copy + 'static>(
        shared: &Shared<O>,
        cache: *const Cache,
    ) -> bool {
        // SAFETY: the caller's promise; nobody owns the cache of the threads that have ended.
        unsafe { (*Cache::claim(cache.cast_mut())).is_orphaned(shared.generation()) }
    }

    /// In a child process only the thread that forked exists: the caches of the others can be
    /// used again. What was in them is given up, for they may have been in the middle of a
    /// change. Caches of threads that were born in this process carry its generation.
    ///
    /// # Safety
    /// `mine` is the calling thread's cache, and the thread [survived](Caches::survived).
    #[cold]
    pub unsafe fn bury<O: Os + Copy + 'static>(&self, shared: &Shared<O>, mine: *mut Cache) {
        let now = shared.generation();
        // SAFETY: the record inside a cache that is never unmapped.
        unsafe {
            (*Cache::claim(mine)).carry_over(now);
            (*mine).thread = 0;
        }
        for cache in self.each() {
            // SAFETY: as above.
            let claim = unsafe { &*Cache::claim(cache) };
            if claim.is_orphaned(now) {
                // SAFETY: its owner, which is not this thread, does not exist in this process.
                unsafe { (*cache).forget() };
                claim.give_back();
            }
        }
    }

    /// Mallocs and frees that caches served and the bytes they hold; a snapshot while other
    /// threads go on.
    pub fn counts(&self) -> (u64, u64, u64) {
        let mut sum = (0, 0, 0);
        for cache in self.each() {
            // SAFETY: a racy read of counters of a cache that is never unmapped; the copy is
            // volatile so that nothing is assumed about it, and its links are not followed.
            let copy = unsafe { core::ptr::read_volatile(cache.cast::<MaybeUninit<Cache>>()) };
            // SAFETY: every bit pattern of these plain words is valid.
            let (pops, pushes, bytes) = unsafe { copy.assume_init_ref() }.counts();
            sum = (sum.0 + pops, sum.1 + pushes, sum.2 + bytes);
        }
        sum
    }
}

#[cfg(not(loom))]
impl Default for Caches {
    fn default() -> Caches {
        Caches::new()
    }
}
