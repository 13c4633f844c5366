//! The names by which C installs handlers of signals, as glibc has them. The C library's own code
//! does not use them, nor does `posix_spawn`.

use core::ffi::c_int;

use fencepost::abi::signals::{self, Handler};

/// Exports functions that pass their arguments on.
macro_rules! export {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty = $target:ident;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of C.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            // SAFETY: C's contract for this name is the contract of the function.
            unsafe { signals::$target($($argument),*) }
        }
    )*};
}

export! {
    sigaction(signal: c_int, new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int = sigaction;
    signal(signal: c_int, handler: Handler) -> Handler = signal;
    bsd_signal(signal: c_int, handler: Handler) -> Handler = signal;
    __sysv_signal(signal: c_int, handler: Handler) -> Handler = sysv_signal;
    sysv_signal(signal: c_int, handler: Handler) -> Handler = sysv_signal;
    sigset(signal: c_int, handler: Handler) -> Handler = sigset;
}

/// Compiles only if the C library's declarations have the types of our definitions.
const _: [unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int; 2] =
    [sigaction, libc::sigaction];
const _: [unsafe extern "C" fn(c_int, Handler) -> Handler; 2] = [signal, libc::signal];
