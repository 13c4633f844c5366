//! Which caches there are, and which of them is a thread's: claimed and given back by one word.
//!
//! Generic over what is listed, so that `tests/loom.rs` models this file itself.
#![allow(unsafe_code)] // Published pointers.

use crate::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The state of a [`Claim`] that is nobody's; otherwise it is one more than the generation (the
/// number of forks before it) of the process that the owner was born in. Zero pages are free.
const FREE: u32 = 0;

/// The record of a [`Roll`] inside each of its members.
#[derive(Debug)]
pub struct Claim<T> {
    state: AtomicU32,
    /// The member that was added before this one.
    next: AtomicPtr<T>,
}

impl<T> Claim<T> {
    /// Nobody's.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Claim<T> {
        Claim {
            state: AtomicU32::new(FREE),
            next: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Nobody's.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Claim<T> {
        Claim {
            state: AtomicU32::new(FREE),
            next: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Makes the member the caller's, a thread of this generation, if it is nobody's.
    pub fn take(&self, generation: u32) -> bool {
        self.state
            .compare_exchange(
                FREE,
                generation.wrapping_add(1),
                Ordering::Acquire,
                Ordering::Relaxed,
            )
            .is_ok()
    }

    /// Ends the ownership: what the owner wrote is the next owner's to read.
    pub fn give_back(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    /// Whether it is somebody's at this moment.
    pub fn is_owned(&self) -> bool {
        self.state.load(Ordering::Relaxed) != FREE
    }

    /// Whether it is somebody's of another generation.
    pub fn is_orphaned(&self, generation: u32) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        state != FREE && state != generation.wrapping_add(1)
    }

    /// The owner has become one of this generation: it survived the fork.
    pub fn carry_over(&self, generation: u32) {
        self.state
            .store(generation.wrapping_add(1), Ordering::Relaxed);
    }
}

impl<T> Default for Claim<T> {
    fn default() -> Claim<T> {
        Claim::new()
    }
}

/// Something that a [`Roll`] lists.
///
/// # Safety
/// `claim` points to the record inside the member, without looking at the rest of it, which
/// another thread may be writing.
pub unsafe trait Claimed: Sized {
    /// The record.
    fn claim(this: *mut Self) -> *const Claim<Self>;
}

/// A list that only grows, newest first.
#[derive(Debug)]
pub struct Roll<T> {
    newest: AtomicPtr<T>,
}

impl<T: Claimed> Roll<T> {
    /// An empty list.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Roll<T> {
        Roll {
            newest: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// An empty list.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Roll<T> {
        Roll {
            newest: AtomicPtr::new(core::ptr::null_mut()),
        }
    }

    /// Every member.
    pub fn iter(&self) -> impl Iterator<Item = *mut T> {
        let mut next = self.newest.load(Ordering::Acquire);
        core::iter::from_fn(move || {
            let member = next;
            if member.is_null() {
                return None;
            }
            // SAFETY: `add`'s promise: a member that was published stays; its link was written
            // before that and is never written again.
            next = unsafe { (*T::claim(member)).next.load(Ordering::Relaxed) };
            Some(member)
        })
    }

    /// A member that was nobody's and is the caller's, a thread of this generation, now; null if there is none.
    pub fn take(&self, generation: u32) -> *mut T {
        self.iter()
            // SAFETY: as in `iter`.
            .find(|member| unsafe { (*T::claim(*member)).take(generation) })
            .unwrap_or(core::ptr::null_mut())
    }

    /// Adds a member that is the caller's, a thread of this generation.
    ///
    /// # Safety
    /// It is valid forever and in no list yet.
    pub unsafe fn add(&self, member: *mut T, generation: u32) {
        // SAFETY: valid by the caller's promise.
        let claim = unsafe { &*T::claim(member) };
        claim.carry_over(generation);
        let mut newest = self.newest.load(Ordering::Relaxed);
        loop {
            claim.next.store(newest, Ordering::Relaxed);
            match self
                .newest
                .compare_exchange(newest, member, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(now) => newest = now,
            }
        }
    }
}

impl<T: Claimed> Default for Roll<T> {
    fn default() -> Roll<T> {
        Roll::new()
    }
}
