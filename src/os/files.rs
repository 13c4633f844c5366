//! Files of `/proc`, read with system calls into a buffer on the stack.
#![allow(unsafe_code)] // System calls.

use super::OsError;
use super::call::system_call;

/// A file that is open for reading.
pub(super) struct File(usize);

impl File {
    /// Opens a file.
    pub(super) fn open(path: &core::ffi::CStr) -> Result<File, OsError> {
        let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
        let at = libc::AT_FDCWD as usize;
        let args = [at, path.as_ptr().expose_provenance(), flags, 0, 0, 0];
        // SAFETY: the path is a string that ends with zero.
        unsafe { system_call(libc::SYS_openat, args) }.map(File)
    }

    /// Reads on; how many bytes were read, 0 at the end.
    pub(super) fn read(&self, buffer: &mut [u8]) -> usize {
        let args = [
            self.0,
            buffer.as_mut_ptr().expose_provenance(),
            buffer.len(),
            0,
            0,
            0,
        ];
        // SAFETY: the buffer is ours and of the length given.
        unsafe { system_call(libc::SYS_read, args) }.unwrap_or(0)
    }

    /// Words at a word offset; how many were read.
    pub(super) fn words(&self, buffer: &mut [u64], at: usize) -> usize {
        let to = buffer.as_mut_ptr().expose_provenance();
        // The offset's upper half is its own argument where words are 32 bits long.
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
pub(super) struct Lines {
    file: File,
    buffer: [u8; 8192],
    from: usize,
    to: usize,
}

impl Lines {
    /// Opens a file.
    pub(super) fn open(path: &core::ffi::CStr) -> Result<Lines, OsError> {
        Ok(Lines {
            file: File::open(path)?,
            buffer: [0; 8192],
            from: 0,
            to: 0,
        })
    }

    /// Passes the next line to `look`; `None` at the end.
    pub(super) fn next<T>(&mut self, look: impl FnOnce(&[u8]) -> T) -> Option<T> {
        loop {
            let rest = self.buffer.get(self.from..self.to)?;
            if let Some(len) = rest.iter().position(|b| *b == b'\n') {
                self.from += len + 1;
                return rest.get(..len).map(look);
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
