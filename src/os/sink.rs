//! A file that is written to: reports and traces.
//!
//! The descriptor is the program's neighbour. It stands above those that programs expect to get,
//! and before each write the file is looked at: a program that closed all descriptors, and opened
//! files of its own under the same numbers, finds nothing of ours in them.
#![allow(unsafe_code)] // System calls.

use super::OsError;
use super::call::system_call;

/// Descriptors below are what programs expect to get.
const LOWEST: usize = 512;
/// The longest path, with the zero that ends it.
const PATH: usize = 4096;
/// Read and write for all, less what the user's mask takes away.
const MODE: usize = 0o666;

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sink {
    /// The descriptor.
    pub fd: i32,
    /// The file's device and number; zeros if the kernel does not tell.
    pub identity: [u64; 2],
}

impl Sink {
    /// Opens the file for writing, and makes it if there is none. `%p` in the path stands for the
    /// process id. What it holds is appended to, or dropped.
    ///
    /// # Errors
    /// The kernel's; `ENAMETOOLONG` if the path is.
    pub fn open(path: &[u8], append: bool) -> Result<Sink, OsError> {
        let mut full = [0u8; PATH];
        expand(path, &mut full).ok_or(OsError(libc::ENAMETOOLONG))?;
        let how = if append {
            libc::O_APPEND
        } else {
            libc::O_TRUNC
        };
        // No terminal becomes ours, and a pipe that nobody reads does not keep us.
        let flags = libc::O_WRONLY
            | libc::O_CREAT
            | libc::O_CLOEXEC
            | libc::O_NOCTTY
            | libc::O_NONBLOCK
            | how;
        let at = libc::AT_FDCWD as usize;
        let args = [
            at,
            full.as_ptr().expose_provenance(),
            flags as usize,
            MODE,
            0,
            0,
        ];
        // SAFETY: the path ends with zero, for the buffer's last byte was never written.
        let low = unsafe { system_call(libc::SYS_openat, args) }?;
        let above = [low, libc::F_DUPFD_CLOEXEC as usize, LOWEST, 0, 0, 0];
        // SAFETY: makes a descriptor that nobody else knows.
        let fd = match unsafe { system_call(libc::SYS_fcntl, above) } {
            Ok(high) => {
                close(low);
                high
            }
            Err(_) => low,
        };
        let blocking = [
            fd,
            libc::F_SETFL as usize,
            (how & libc::O_APPEND) as usize,
            0,
            0,
            0,
        ];
        // SAFETY: a descriptor of our own.
        let _ = unsafe { system_call(libc::SYS_fcntl, blocking) };
        let fd = fd as i32;
        Ok(Sink {
            fd,
            identity: identity(fd).unwrap_or([0; 2]),
        })
    }

    /// Writes the bytes with one system call. `false` if the descriptor leads to another file by
    /// now, or to none.
    pub fn write(&self, bytes: &[u8]) -> bool {
        if identity(self.fd).unwrap_or([0; 2]) != self.identity {
            return false;
        }
        let from = bytes.as_ptr().expose_provenance();
        let args = [self.fd as usize, from, bytes.len(), 0, 0, 0];
        // SAFETY: the bytes are ours and as many.
        let _ = unsafe { system_call(libc::SYS_write, args) };
        true
    }

    /// Closes the file, if it is still the one that was opened.
    pub fn close(self) {
        if identity(self.fd).unwrap_or([0; 2]) == self.identity {
            close(self.fd as usize);
        }
    }
}

fn close(fd: usize) {
    // SAFETY: a descriptor of our own.
    let _ = unsafe { system_call(libc::SYS_close, [fd, 0, 0, 0, 0, 0]) };
}

/// The device and number of the file that a descriptor leads to.
fn identity(fd: i32) -> Option<[u64; 2]> {
    // SAFETY: plain numbers, of which zero is one.
    let mut about: libc::statx = unsafe { core::mem::zeroed() };
    let args = [
        fd as usize,
        c"".as_ptr().expose_provenance(),
        libc::AT_EMPTY_PATH as usize,
        libc::STATX_INO as usize,
        (&raw mut about).expose_provenance(),
        0,
    ];
    // SAFETY: the kernel fills in the structure that it is given.
    match unsafe { system_call(libc::SYS_statx, args) } {
        Ok(_) => Some([
            u64::from(about.stx_dev_major) << 32 | u64::from(about.stx_dev_minor),
            about.stx_ino,
        ]),
        // Before Linux 4.11 there is no such call, and trust instead.
        Err(OsError(libc::ENOSYS)) => Some([0; 2]),
        Err(_) => None,
    }
}

/// Writes the path with its `%p`s replaced into the buffer, of which the last byte is kept.
/// `None` if it does not fit.
fn expand(path: &[u8], to: &mut [u8; PATH]) -> Option<()> {
    let (_, room) = to.split_last_mut()?;
    let mut room = room.iter_mut();
    let mut put = |byte: u8| room.next().map(|slot| *slot = byte);
    let mut rest = path;
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'%', [b'p', after @ ..]) => {
                let mut line = crate::report::Line::new();
                line.decimal(super::signals::process_id().into());
                for &digit in line.as_bytes() {
                    put(digit)?;
                }
                rest = after;
            }
            _ => {
                put(*first)?;
                rest = after;
            }
        }
    }
    Some(())
}
