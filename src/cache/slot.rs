//! The state of a thread: how its cache is reached, and what happens when it ends.
//!
//! | state | the pointer | malloc and free |
//! |---|---|---|
//! | Fresh | null | the first call that misses claims a cache |
//! | Live | its cache | hit path |
//! | Dead | a [direct](super::Cache::direct) cache | go to the arenas; no cache comes back to life |
//!
//! The pointer lies in initial-exec TLS where that can be written in stable Rust (x86-64 and
//! aarch64): no call, no allocation, no lock. Elsewhere, and under Miri, a pthread key holds it.
#![allow(unsafe_code)] // Thread-local storage and pthread keys.

use super::Cache;
use crate::sync::overlay::{AtomicU32, Ordering};
use core::ffi::c_void;

/// The current thread.
#[derive(Debug)]
pub struct Thread;

impl Thread {
    /// The thread's cache; null before it has one.
    #[inline(always)]
    #[must_use]
    pub fn cache() -> *mut Cache {
        tls::get().cast()
    }

    /// Sets the thread's cache.
    #[inline]
    pub fn set_cache(cache: *mut Cache) {
        tls::set(cache.cast());
    }
}

/// The pthread key whose destructor is the exit hook, plus one; 0: none could be had.
static EXIT_KEY: AtomicU32 = AtomicU32::new(0);

/// Makes `hook` run whenever a thread ends that has called [`on_thread_exit`].
pub fn set_exit_hook(hook: unsafe extern "C" fn(*mut c_void)) {
    let mut key: libc::pthread_key_t = 0;
    // SAFETY: the key is written before it is read; the hook stays loaded (the preload library
    // is linked so that it is never unloaded).
    if unsafe { libc::pthread_key_create(&mut key, Some(hook)) } == 0 {
        EXIT_KEY.store(key + 1, Ordering::Release);
    }
}

/// Asks for the exit hook in this thread. May allocate (a process with many keys): the thread's
/// cache must be usable by now.
pub fn on_thread_exit(hook: unsafe extern "C" fn(*mut c_void)) {
    let key = EXIT_KEY.load(Ordering::Acquire);
    if key != 0 {
        // SAFETY: the key exists; any non-null value makes the destructor run.
        let set = unsafe { libc::pthread_setspecific(key - 1, core::ptr::without_provenance(1)) };
        if set == 0 {
            return;
        }
    }
    late::register(hook);
}

/// When the process has used up its keys: C++'s thread-exit list, which has no limit.
#[cfg(target_env = "gnu")]
mod late {
    use core::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn __cxa_thread_atexit_impl(
            hook: unsafe extern "C" fn(*mut c_void),
            object: *mut c_void,
            dso: *mut c_void,
        ) -> c_int;
    }

    pub fn register(hook: unsafe extern "C" fn(*mut c_void)) {
        // glibc looks up the library that an address belongs to, but not null.
        let here = (&raw const super::EXIT_KEY).cast_mut().cast();
        // SAFETY: glibc's interface since 2.18; the address is one of our own library or
        // program, which therefore stays loaded until the hook has run.
        let _ = unsafe { __cxa_thread_atexit_impl(hook, core::ptr::null_mut(), here) };
    }
}

#[cfg(not(target_env = "gnu"))]
mod late {
    /// Nothing to be had: what the thread cached stays with its cache, which the next thread
    /// cannot claim. Bounded by the cache's budget.
    pub fn register(_: unsafe extern "C" fn(*mut core::ffi::c_void)) {}
}

#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
mod tls {
    // The first of the thread's words.
    use crate::os::stack::WORDS;

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn get() -> *mut u8 {
        let word: *mut u8;
        // SAFETY: reads this thread's copy of the word by the initial-exec sequence.
        unsafe {
            core::arch::asm!(
                "mov {0}, qword ptr [rip + {1}@GOTTPOFF]",
                "mov {0}, qword ptr fs:[{0}]",
                out(reg) word,
                sym WORDS,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        word
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub fn set(word: *mut u8) {
        // SAFETY: writes this thread's copy of the word.
        unsafe {
            core::arch::asm!(
                "mov {0}, qword ptr [rip + {1}@GOTTPOFF]",
                "mov qword ptr fs:[{0}], {2}",
                out(reg) _,
                sym WORDS,
                in(reg) word,
                options(nostack, preserves_flags),
            );
        }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn place() -> *mut *mut u8 {
        let place: *mut *mut u8;
        // SAFETY: computes the address of this thread's copy by the initial-exec sequence.
        unsafe {
            core::arch::asm!(
                "mrs {0}, tpidr_el0",
                "adrp {1}, :gottprel:{2}",
                "ldr {1}, [{1}, :gottprel_lo12:{2}]",
                "add {0}, {0}, {1}",
                out(reg) place,
                out(reg) _,
                sym WORDS,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        place
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub fn get() -> *mut u8 {
        // SAFETY: this thread's copy of the word.
        unsafe { place().read() }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub fn set(word: *mut u8) {
        // SAFETY: this thread's copy of the word.
        unsafe { place().write(word) }
    }
}

#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri))))]
mod tls {
    use crate::sync::overlay::{AtomicU32, Ordering};

    /// Key plus one; 0: not made yet.
    static KEY: AtomicU32 = AtomicU32::new(0);

    pub fn get() -> *mut u8 {
        match KEY.load(Ordering::Acquire) {
            0 => core::ptr::null_mut(),
            // SAFETY: the key exists.
            key => unsafe { libc::pthread_getspecific(key - 1) }.cast(),
        }
    }

    pub fn set(word: *mut u8) {
        if KEY.load(Ordering::Acquire) == 0 {
            let mut key: libc::pthread_key_t = 0;
            // SAFETY: creates a key without a destructor.
            if unsafe { libc::pthread_key_create(&mut key, None) } != 0 {
                return;
            }
            let mine = KEY.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Acquire);
            if mine.is_err() {
                // SAFETY: made just now, unused: another thread was faster.
                unsafe { libc::pthread_key_delete(key) };
            }
        }
        let key = KEY.load(Ordering::Acquire);
        // SAFETY: the key exists.
        unsafe { libc::pthread_setspecific(key - 1, word.cast()) };
    }
}
