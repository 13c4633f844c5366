//! Which threads there are, and how they are.
#![allow(unsafe_code)] // System calls.

use crate::os::OsError;
use crate::os::call::system_call;
use crate::os::lines::{File, Lines, peek};
use crate::os::signals;
use core::ffi::c_int;

/// Why a thread does not answer.
pub(super) enum Condition {
    Running,
    /// It blocks the signal.
    Blocked,
    /// It has ended, or it is the kernel's own.
    Gone,
}

/// Looks into `/proc/self/task/ID/status`.
pub(super) fn condition(id: u32, signal: c_int) -> Condition {
    let mut path = crate::report::Line::new();
    path.text("/proc/self/task/").decimal(u64::from(id));
    path.text("/status").raw(&[0]);
    let Ok(path) = core::ffi::CStr::from_bytes_until_nul(path.as_bytes()) else {
        return Condition::Running;
    };
    let mut buffer = [0; 1024];
    let Ok(mut lines) = Lines::open(path, &mut buffer) else {
        return Condition::Gone;
    };
    let mut found = Condition::Running;
    let bit = signals::bit(signal);
    while let Some(said) = lines.next(|line| {
        let value = |key: &[u8]| line.strip_prefix(key).map(<[u8]>::trim_ascii);
        if let Some(state) = value(b"State:")
            && matches!(state.first(), Some(b'Z' | b'X' | b'x'))
        {
            return Some(Condition::Gone);
        }
        // Workers of io_uring are listed, but never run the program's code.
        if value(b"Name:").is_some_and(|name| name.starts_with(b"iou-")) {
            return Some(Condition::Gone);
        }
        let mut mask = 0u64;
        for &digit in value(b"SigBlk:")? {
            mask = mask << 4 | u64::from(char::from(digit).to_digit(16)?);
        }
        (mask & bit != 0).then_some(Condition::Blocked)
    }) {
        match said {
            Some(Condition::Gone) => return Condition::Gone,
            Some(condition) => found = condition,
            None => {}
        }
    }
    found
}

/// Whether a thread waits for the signal itself, as `sigwait` does: it would be handed out to the
/// program. While it waits the signal does not count as blocked. `/proc/self/task/ID/syscall`
/// says so: the number of the call in progress, then its arguments.
pub(super) fn waits_for(id: u32, signal: c_int) -> bool {
    let mut path = crate::report::Line::new();
    path.text("/proc/self/task/").decimal(u64::from(id));
    path.text("/syscall").raw(&[0]);
    let mut buffer = [0; 256];
    let Ok(path) = core::ffi::CStr::from_bytes_until_nul(path.as_bytes()) else {
        return false;
    };
    // Not every kernel has this file.
    let Ok(len) = File::open(path).map(|file| file.read(&mut buffer)) else {
        return false;
    };
    let line = buffer.get(..len).unwrap_or(&[]);
    let mut words = line.split(|byte| *byte == b' ');
    let mut number = |radix: u32| {
        let digits = words.next()?;
        let digits = digits.strip_prefix(b"0x").unwrap_or(digits);
        digits.iter().try_fold(0usize, |number, &digit| {
            let digit = char::from(digit).to_digit(radix)?;
            Some(
                number
                    .wrapping_mul(radix as usize)
                    .wrapping_add(digit as usize),
            )
        })
    };
    let (Some(call), Some(set)) = (number(10), number(16)) else {
        return false;
    };
    let mut mask = [0; size_of::<u64>()];
    call == libc::SYS_rt_sigtimedwait as usize
        && peek(set, &mut mask)
        && u64::from_ne_bytes(mask) & signals::bit(signal) != 0
}

/// Passes on the ids of all threads of the process.
pub(super) fn each_thread(mut visit: impl FnMut(u32)) -> Result<(), OsError> {
    /// Where the name begins in an entry, and its length.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    let path = c"/proc/self/task".as_ptr().expose_provenance();
    let args = [libc::AT_FDCWD as usize, path, flags, 0, 0, 0];
    // SAFETY: the path ends with zero.
    let directory = unsafe { system_call(libc::SYS_openat, args) }?;
    let mut buffer = [0u64; 512];
    let result = loop {
        let to = buffer.as_mut_ptr().expose_provenance();
        let args = [directory, to, size_of_val(&buffer), 0, 0, 0];
        // SAFETY: the buffer is ours and of the length given.
        let len = match unsafe { system_call(libc::SYS_getdents64, args) } {
            Ok(0) => break Ok(()),
            Ok(len) => len,
            Err(error) => break Err(error),
        };
        let first = buffer.as_ptr().cast::<u8>();
        // SAFETY: the buffer's bytes.
        let bytes = unsafe { core::slice::from_raw_parts(first, size_of_val(&buffer)) };
        let mut rest = bytes.get(..len).unwrap_or(&[]);
        while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let name = rest.get(NAME..length).unwrap_or(&[]);
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit());
            let id = digits.fold(0u32, |id, digit| {
                id.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'))
            });
            if id != 0 {
                visit(id);
            }
            if length == 0 {
                break;
            }
            rest = rest.get(length..).unwrap_or(&[]);
        }
    };
    // SAFETY: our own descriptor.
    let _ = unsafe { system_call(libc::SYS_close, [directory, 0, 0, 0, 0, 0]) };
    result
}
