//! System calls without a trace in errno.
//!
//! Not by the C library's functions of the same names: a program may replace those by its own,
//! which may allocate.
#![allow(unsafe_code)] // System calls.

use super::OsError;

/// Runs `f` and puts errno back: free() must keep it, and malloc sets it only where C asks.
pub fn keeping_errno<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: the C library's answer is the calling thread's own errno.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let result = f();
        *errno = before;
        result
    }
}

/// Makes a system call; errno stays as it was.
///
/// # Errors
/// The kernel's error.
///
/// # Safety
/// As the call itself demands.
pub unsafe fn system_call(number: libc::c_long, args: [usize; 6]) -> Result<usize, OsError> {
    let [a, b, c, d, e, f] = args;
    keeping_errno(|| {
        // SAFETY: the caller's promise; unused arguments are ignored by the kernel.
        let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
        if result == -1 {
            // SAFETY: the calling thread's own errno.
            Err(OsError(unsafe { *libc::__errno_location() }))
        } else {
            Ok(result as usize)
        }
    })
}
