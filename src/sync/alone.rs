//! Whether the process has one thread: then a lock needs no instruction that locks the bus.
//!
//! Such an instruction waits until all that was written before has reached the caches, and what
//! was written before are the heads of chunks: most of a refill's time. The C library tells
//! (glibc since 2.32): its word is 1 until the first call of `pthread_create`, which a thread
//! makes itself, never while it holds a lock of ours (a handler of signals may not make threads). Where
//! nobody tells, we are never alone.

/// Whether the calling thread is the only one, and stays so until it makes another.
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(loom)
))]
#[allow(unsafe_code)] // A weak symbol.
#[inline(always)]
pub fn is_alone() -> bool {
    use super::overlay::{AtomicU8, Ordering};
    let word: *mut u8;
    // SAFETY: loads the symbol's address from the table of globals; 0 if there is no such symbol.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        core::arch::asm!(
            ".weak __libc_single_threaded",
            "mov {0}, qword ptr [rip + __libc_single_threaded@GOTPCREL]",
            out(reg) word,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: as above.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        core::arch::asm!(
            ".weak __libc_single_threaded",
            "adrp {0}, :got:__libc_single_threaded",
            "ldr {0}, [{0}, :got_lo12:__libc_single_threaded]",
            out(reg) word,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    // SAFETY: the C library's word, a `char` that lives forever; its own threads only ever clear
    // it before they exist.
    !word.is_null() && unsafe { AtomicU8::from_ptr(word) }.load(Ordering::Relaxed) != 0
}

/// Nobody tells.
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_os = "linux",
    not(miri),
    not(loom)
)))]
#[inline(always)]
pub const fn is_alone() -> bool {
    false
}

/// Adds one to a counter that nothing depends on.
#[inline(always)]
pub fn count(counter: &super::overlay::AtomicU64) {
    use super::overlay::Ordering::Relaxed;
    if is_alone() {
        counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
    } else {
        counter.fetch_add(1, Relaxed);
    }
}
