//! Files of the kernel, read with system calls: no allocation, no lock, also in a signal handler.
#![allow(unsafe_code)] // System calls.

use super::OsError;
use super::call::system_call;

/// Bytes that are enough for any line of `/proc` with any sensible path.
pub const BUFFER: usize = 8192;

/// An open file.
#[derive(Debug)]
pub struct File(usize);

impl File {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &core::ffi::CStr) -> Result<File, OsError> {
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        let at = libc::AT_FDCWD as usize;
        let args = [at, path.as_ptr().expose_provenance(), flags, 0, 0, 0];
        // SAFETY: the path is a string that ends with zero.
        unsafe { system_call(libc::SYS_openat, args) }.map(File)
    }

    /// The next bytes; how many there were.
    pub fn read(&self, buffer: &mut [u8]) -> usize {
        let to = buffer.as_mut_ptr().expose_provenance();
        let args = [self.0, to, buffer.len(), 0, 0, 0];
        // SAFETY: the buffer is ours and of the length given.
        unsafe { system_call(libc::SYS_read, args) }.unwrap_or(0)
    }

    /// The bytes at an offset; how many there were.
    pub fn read_at(&self, buffer: &mut [u8], at: usize) -> usize {
        let to = buffer.as_mut_ptr().expose_provenance();
        // The offset's upper half is its own argument where words are 32 bits long.
        let args = [self.0, to, buffer.len(), at, 0, 0];
        // SAFETY: as in `read`.
        unsafe { system_call(libc::SYS_pread64, args) }.unwrap_or(0)
    }

    /// Words at a word offset; how many were read.
    pub fn words(&self, buffer: &mut [u64], at: usize) -> usize {
        let to = buffer.as_mut_ptr().expose_provenance();
        // As in `read_at`.
        let args = [self.0, to, size_of_val(buffer), at * 8, 0, 0];
        // SAFETY: as in `read`; any bytes are words.
        unsafe { system_call(libc::SYS_pread64, args) }.unwrap_or(0) / 8
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: a descriptor of our own.
        let _ = unsafe { system_call(libc::SYS_close, [self.0, 0, 0, 0, 0, 0]) };
    }
}

/// A file of `/proc`, line by line.
#[derive(Debug)]
pub struct Lines<'b> {
    file: File,
    buffer: &'b mut [u8],
    from: usize,
    to: usize,
    /// The line that the buffer begins in was passed on already.
    told: bool,
}

impl<'b> Lines<'b> {
    /// Opens a file, to be read by way of `buffer`.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &core::ffi::CStr, buffer: &'b mut [u8]) -> Result<Lines<'b>, OsError> {
        Ok(Lines {
            file: File::open(path)?,
            buffer,
            from: 0,
            to: 0,
            told: false,
        })
    }

    /// Passes the next line to `look`; `None` at the end. Of a line that is longer than the buffer
    /// the beginning is passed.
    pub fn next<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        loop {
            let rest = self.buffer.get(self.from..self.to)?;
            if let Some(len) = rest.iter().position(|b| *b == b'\n') {
                self.from += len + 1;
                if core::mem::take(&mut self.told) {
                    continue;
                }
                return rest.get(..len).map(look);
            }
            if rest.len() == self.buffer.len() {
                self.from = self.to;
                if !core::mem::replace(&mut self.told, true) {
                    return Some(look(self.buffer));
                }
                continue;
            }
            self.buffer.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
            let more = self.file.read(self.buffer.get_mut(self.to..)?);
            if more == 0 {
                return None;
            }
            self.to += more;
        }
    }
}

/// Copies memory of this process, which need not be there; whether all of it was.
pub fn peek(addr: usize, into: &mut [u8]) -> bool {
    let local = [into.as_mut_ptr().expose_provenance(), into.len()];
    let remote = [addr, into.len()];
    // SAFETY: a process always has a number.
    let Ok(process) = (unsafe { system_call(libc::SYS_getpid, [0; 6]) }) else {
        return false;
    };
    let args = [
        process,
        (&raw const local).expose_provenance(),
        1,
        (&raw const remote).expose_provenance(),
        1,
        0,
    ];
    // SAFETY: two vectors of one element; the kernel writes into the buffer only.
    match unsafe { system_call(libc::SYS_process_vm_readv, args) } {
        Ok(copied) => copied == into.len(),
        Err(OsError(libc::EFAULT)) => false,
        // A sandbox forbids it.
        Err(_) => {
            File::open(c"/proc/self/mem").is_ok_and(|file| file.read_at(into, addr) == into.len())
        }
    }
}

/// What a symbolic link leads to, put into `into`; how many bytes that is, 0 if it cannot be read.
pub fn link_target(link: &core::ffi::CStr, into: &mut [u8]) -> usize {
    let at = libc::AT_FDCWD as usize;
    let link = link.as_ptr().expose_provenance();
    let to = into.as_mut_ptr().expose_provenance();
    let args = [at, link, to, into.len(), 0, 0];
    // SAFETY: the link is a string that ends with zero, the buffer ours and of the length given.
    unsafe { system_call(libc::SYS_readlinkat, args) }.unwrap_or(0)
}

/// Appends bytes to a file with one call, and makes the file if there is none. `path` ends with a
/// zero byte, without which nothing happens. Whether all of them were written.
#[must_use]
pub fn append(path: &[u8], bytes: &[u8]) -> bool {
    let Ok(path) = core::ffi::CStr::from_bytes_with_nul(path) else {
        return false;
    };
    let flags = libc::O_WRONLY | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    let at = libc::AT_FDCWD as usize;
    let path = path.as_ptr().expose_provenance();
    let args = [at, path, flags as usize, 0o644, 0, 0];
    // SAFETY: the path is a string that ends with zero.
    let Ok(file) = unsafe { system_call(libc::SYS_openat, args) }.map(File) else {
        return false;
    };
    let args = [
        file.0,
        bytes.as_ptr().expose_provenance(),
        bytes.len(),
        0,
        0,
        0,
    ];
    // SAFETY: the bytes are ours to read.
    let written = unsafe { system_call(libc::SYS_write, args) };
    written == Ok(bytes.len())
}

/// The name of a thread of this process, up to the first zero byte; all zero if it is gone.
#[must_use]
pub fn thread_name(thread: u32) -> [u8; 16] {
    let mut path = crate::report::Line::new();
    path.text("/proc/self/task/")
        .decimal(thread.into())
        .raw(b"/comm\0");
    let mut name = [0; 16];
    if let Ok(path) = core::ffi::CStr::from_bytes_with_nul(path.as_bytes())
        && let Ok(file) = File::open(path)
    {
        file.read(&mut name);
        for byte in &mut name {
            if *byte == b'\n' {
                *byte = 0;
            }
        }
    }
    name
}
