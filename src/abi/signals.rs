//! C's ways to install a handler of a signal, for a library that has these names.
//!
//! For the signals that guard mode handles they write down what the program wants
//! ([`crate::guard::handler`] says why); everything else is the C library's. All of them may be
//! called in a handler, as C demands.

use core::ffi::c_int;
use core::ptr;

use super::set_errno;
use crate::front;
use crate::os::signals::{self, Action, bit};

/// What a handler is: a function's address, `SIG_DFL` or `SIG_IGN`.
pub type Handler = libc::sighandler_t;

/// System V's `SIG_HOLD`.
const SIG_HOLD: Handler = 2;

/// `sigaction(2)`.
///
/// # Errors
/// -1 with errno.
///
/// # Safety
/// The pointers are null or valid, and the handler may be called from now on.
pub unsafe fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    if !is_ours(signal) {
        // SAFETY: the caller's promise.
        return unsafe { signals::sigaction(signal, new, old) };
    }
    // SAFETY: the caller's promise.
    let wanted = unsafe { new.as_ref() }.map(Action::from_c);
    match front::wish(signal, wanted) {
        Some(before) => {
            if !old.is_null() {
                // SAFETY: the caller's promise.
                unsafe { old.write(before.to_c()) };
            }
            0
        }
        // SAFETY: the caller's promise.
        None => unsafe { signals::sigaction(signal, new, old) },
    }
}

fn is_ours(signal: c_int) -> bool {
    signal == libc::SIGSEGV || signal == libc::SIGBUS
}

unsafe extern "C" {
    /// glibc's `signal` under a name that nobody replaces.
    fn ssignal(signal: c_int, handler: Handler) -> Handler;
}

/// Sets an action without a way to say more, and returns what the handler was.
fn set(signal: c_int, handler: Handler, flags: c_int, mask: u64) -> Handler {
    let new = Action {
        handler,
        flags,
        mask,
    }
    .to_c();
    let mut old = Action::DEFAULT.to_c();
    // SAFETY: both pointers are valid; the caller's promise about the handler.
    if handler == libc::SIG_ERR || unsafe { sigaction(signal, &new, &mut old) } != 0 {
        set_errno(libc::EINVAL);
        return libc::SIG_ERR;
    }
    old.sa_sigaction
}

/// `signal(2)` as glibc has it: BSD's, the handler stays and calls begin anew.
///
/// # Errors
/// `SIG_ERR` with errno.
///
/// # Safety
/// The handler may be called from now on.
pub unsafe fn signal(signal: c_int, handler: Handler) -> Handler {
    if !is_ours(signal) {
        // SAFETY: the caller's promise.
        return unsafe { ssignal(signal, handler) };
    }
    set(signal, handler, libc::SA_RESTART, bit(signal))
}

/// System V's `signal`: the handler is called once, with the signal open.
///
/// # Errors
/// `SIG_ERR` with errno.
///
/// # Safety
/// The handler may be called from now on.
pub unsafe fn sysv_signal(signal: c_int, handler: Handler) -> Handler {
    const SA_INTERRUPT: c_int = 0x2000_0000;
    let flags = libc::SA_RESETHAND | libc::SA_NODEFER | SA_INTERRUPT;
    set(signal, handler, flags, 0)
}

/// X/Open's `sigset`: as `signal`, and the signal is let in, or held back by `SIG_HOLD`.
///
/// # Errors
/// `SIG_ERR` with errno.
///
/// # Safety
/// The handler may be called from now on.
pub unsafe fn sigset(signal: c_int, handler: Handler) -> Handler {
    if !(1..=64).contains(&signal) {
        set_errno(libc::EINVAL);
        return libc::SIG_ERR;
    }
    let held = signals::mask() & bit(signal) != 0;
    let before = if handler == SIG_HOLD {
        let mut old = Action::DEFAULT.to_c();
        // SAFETY: only asks.
        if unsafe { sigaction(signal, ptr::null(), &mut old) } != 0 {
            return libc::SIG_ERR;
        }
        signals::set_mask(signals::mask() | bit(signal));
        old.sa_sigaction
    } else {
        let before = set(signal, handler, 0, 0);
        if before == libc::SIG_ERR {
            return before;
        }
        signals::set_mask(signals::mask() & !bit(signal));
        before
    };
    if held { SIG_HOLD } else { before }
}
