//! A lock of one word that sleeps in the kernel only when it must.
//!
//! | state | meaning | lock | unlock |
//! |---|---|---|---|
//! | `FREE` | nobody holds it | `FREE -> HELD` | - |
//! | `HELD` | held, nobody sleeps | spin, then `-> CONTENDED` and sleep | `-> FREE` |
//! | `CONTENDED` | held, somebody may sleep | sleep | `-> FREE`, wake one |
//!
//! Source: U. Drepper, "Futexes Are Tricky" (mutex2). It never allocates, which is why it and
//! not a general purpose mutex guards the arenas.

use super::alone::is_alone;
use super::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
/// Turns of spinning before the first sleep; holders keep the lock for well under this.
const SPINS: u32 = if cfg!(loom) { 1 } else { 100 };

/// The lock word.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct Lock(AtomicU32);

/// The lock word, and where its sleepers are.
#[cfg(loom)]
#[derive(Debug)]
pub struct Lock(AtomicU32, sleep::Bed);

impl Lock {
    /// A free lock.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Lock {
        Lock(AtomicU32::new(FREE))
    }

    /// A free lock.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Lock {
        Lock(AtomicU32::new(FREE), sleep::Bed::default())
    }

    /// Takes the lock if it is free.
    #[inline]
    pub fn try_lock(&self) -> bool {
        if is_alone() {
            if self.0.load(Ordering::Relaxed) != FREE {
                return false;
            }
            self.0.store(HELD, Ordering::Relaxed);
            return true;
        }
        self.0
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }

    /// Takes the lock, waiting for as long as it is held.
    #[inline]
    pub fn lock(&self) {
        if !self.try_lock() {
            self.lock_slow();
        }
    }

    #[cold]
    fn lock_slow(&self) {
        for _ in 0..SPINS {
            if self.0.load(Ordering::Relaxed) == FREE && self.try_lock() {
                return;
            }
            core::hint::spin_loop();
        }
        while self.0.swap(CONTENDED, Ordering::Acquire) != FREE {
            self.wait();
        }
    }

    /// Gives the lock back. The caller holds it.
    #[inline]
    pub fn unlock(&self) {
        if is_alone() {
            self.0.store(FREE, Ordering::Relaxed);
            return;
        }
        if self.0.swap(FREE, Ordering::Release) == CONTENDED {
            self.wake_one();
        }
    }

    /// Sleeps if the word says `CONTENDED`.
    #[cfg(not(loom))]
    fn wait(&self) {
        futex(&self.0, libc::FUTEX_WAIT, CONTENDED);
    }

    #[cfg(not(loom))]
    #[cold]
    fn wake_one(&self) {
        futex(&self.0, libc::FUTEX_WAKE, 1);
    }

    #[cfg(loom)]
    fn wait(&self) {
        self.1.wait(&self.0, CONTENDED);
    }

    #[cfg(loom)]
    fn wake_one(&self) {
        self.1.wake_one();
    }

    /// Whether somebody holds the lock at this moment.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed) != FREE
    }
}

impl Default for Lock {
    fn default() -> Lock {
        Lock::new()
    }
}

/// A futex call on a word of this process. An interrupted or refused wait only makes the caller
/// look at the word again, so its result is of no interest; errno stays as it was.
#[cfg(not(loom))]
#[cold]
#[allow(unsafe_code)] // A system call.
fn futex(word: &AtomicU32, operation: libc::c_int, value: u32) {
    let forever = core::ptr::null::<libc::timespec>();
    // SAFETY: the word outlives the call; the kernel only compares it. errno is this thread's.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let operation = operation | libc::FUTEX_PRIVATE_FLAG;
        libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, forever);
        *errno = before;
    }
}

/// The kernel's half of a futex: the comparison and the falling asleep are one step for those
/// who wake. A sleeper that nobody wakes is a deadlock, which loom reports.
#[cfg(loom)]
mod sleep {
    use super::{AtomicU32, Ordering};
    use loom::sync::{Condvar, Mutex};

    #[derive(Debug, Default)]
    pub struct Bed {
        queue: Mutex<()>,
        woken: Condvar,
    }

    impl Bed {
        pub fn wait(&self, word: &AtomicU32, expected: u32) {
            let queue = self.queue.lock().expect("loom does not poison");
            if word.load(Ordering::Relaxed) == expected {
                drop(self.woken.wait(queue));
            }
        }

        pub fn wake_one(&self) {
            let _queue = self.queue.lock().expect("loom does not poison");
            self.woken.notify_one();
        }
    }
}

/// [`Lock`] as `lock_api` wants it.
#[cfg(not(loom))]
#[derive(Debug)]
pub struct RawLock(Lock);

#[cfg(loom)]
pub use Lock as RawLock;

#[cfg(not(loom))]
#[allow(unsafe_code)] // `RawMutex` is an unsafe trait: it promises mutual exclusion.
mod raw {
    use super::{Lock, RawLock};

    // SAFETY: `Lock` admits one holder at a time (the state table above; modelled in
    // `tests/loom.rs`), and its acquire and release orderings publish the guarded value.
    unsafe impl lock_api::RawMutex for RawLock {
        #[allow(clippy::declare_interior_mutable_const)] // lock_api's initialiser, copied once per lock.
        const INIT: RawLock = RawLock(Lock::new());
        type GuardMarker = lock_api::GuardSend;

        #[inline]
        fn lock(&self) {
            self.0.lock();
        }

        #[inline]
        fn try_lock(&self) -> bool {
            self.0.try_lock()
        }

        #[inline]
        unsafe fn unlock(&self) {
            self.0.unlock();
        }

        #[inline]
        fn is_locked(&self) -> bool {
            self.0.is_locked()
        }
    }
}

/// The same mutex for loom, whose lock word cannot be a constant.
#[cfg(loom)]
#[allow(unsafe_code)] // What lock_api does in the ordinary build.
pub mod modelled {
    use super::Lock;
    use core::ops::{Deref, DerefMut};
    use loom::cell::UnsafeCell;

    /// A value behind a [`Lock`].
    #[derive(Debug)]
    pub struct Mutex<T> {
        lock: Lock,
        value: UnsafeCell<T>,
    }

    // SAFETY: the lock admits one thread at a time to the value.
    unsafe impl<T: Send> Sync for Mutex<T> {}

    impl<T> Mutex<T> {
        /// A free mutex around `value`.
        pub fn new(value: T) -> Mutex<T> {
            Mutex {
                lock: Lock::new(),
                value: UnsafeCell::new(value),
            }
        }

        /// Locks.
        pub fn lock(&self) -> MutexGuard<'_, T> {
            self.lock.lock();
            MutexGuard {
                mutex: self,
                value: Some(self.value.get_mut()),
            }
        }

        /// Locks if free.
        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.lock.try_lock().then(|| MutexGuard {
                mutex: self,
                value: Some(self.value.get_mut()),
            })
        }

        /// Unlocks what a thread holds that is gone.
        ///
        /// # Safety
        /// That thread never looks at the value again.
        pub unsafe fn force_unlock(&self) {
            self.lock.unlock();
        }

        /// Whether it is locked.
        pub fn is_locked(&self) -> bool {
            self.lock.is_locked()
        }
    }

    /// Unlocks when dropped.
    #[derive(Debug)]
    pub struct MutexGuard<'a, T> {
        mutex: &'a Mutex<T>,
        value: Option<loom::cell::MutPtr<T>>,
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            // SAFETY: the guard exists only while the lock is held.
            unsafe { self.value.as_ref().expect("held").deref() }
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            // SAFETY: the guard exists only while the lock is held.
            unsafe { self.value.as_ref().expect("held").deref() }
        }
    }

    impl<T> Drop for MutexGuard<'_, T> {
        fn drop(&mut self) {
            self.value = None;
            self.mutex.lock.unlock();
        }
    }
}
