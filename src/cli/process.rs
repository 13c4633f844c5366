//! What `/proc` says about another process, or why it does not.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The flag of a kernel thread in `/proc/PID/stat`: `PF_KTHREAD` of Linux's `sched.h`.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// A process that is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    pid: u32,
}

/// Reads a process id from the command line.
pub fn pid_parser() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=i64::from(i32::MAX))
}

impl Process {
    /// The process with this id, which need not exist.
    pub fn new(pid: u32) -> Process {
        Process { pid }
    }

    /// A file of the process that describes its memory.
    ///
    /// # Errors
    /// One that says what is the matter: there is no such process, it may not be looked at, it
    /// has ended, it is a thread of the kernel's.
    pub fn memory_file(self, name: &str) -> Result<Vec<u8>, Failure> {
        match fs::read(self.path(name)) {
            Ok(text) if !text.is_empty() => Ok(text),
            // Kernels differ in whether what has no memory is empty or an error.
            Ok(_) => Err(self.without_memory()),
            Err(error) => Err(match error.kind() {
                io::ErrorKind::PermissionDenied => self.failure(
                    "permission denied: the memory of a process is shown to its owner \
                     and to root only",
                ),
                _ if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {
                    self.without_memory()
                }
                _ => self.failure(format_args!("/proc/{}/{name}: {error}", self.pid)),
            }),
        }
    }

    /// The command line, its parts separated by blanks; the name in brackets where there is none.
    pub fn command(self) -> Vec<u8> {
        let mut line = fs::read(self.path("cmdline")).unwrap_or_default();
        while line.pop_if(|byte| *byte == 0).is_some() {}
        if line.is_empty() {
            let name = fs::read(self.path("comm")).unwrap_or_default();
            let name = name.strip_suffix(b"\n").unwrap_or(&name);
            return [b"[", name, b"]"].concat();
        }
        for byte in &mut line {
            if *byte == 0 {
                *byte = b' ';
            }
        }
        line
    }

    /// A failure that names the process.
    pub fn failure(self, why: impl Display) -> Failure {
        Failure::own(format_args!("process {}: {why}", self.pid))
    }

    fn path(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }

    fn without_memory(self) -> Failure {
        let Ok(stat) = fs::read_to_string(self.path("stat")) else {
            return if Path::new("/proc/self").exists() {
                Failure::own(format_args!("there is no process {}", self.pid))
            } else {
                Failure::own("/proc is not mounted, and only it shows other processes")
            };
        };
        self.failure(why_no_memory(&stat))
    }
}

/// Why a process with this `/proc/PID/stat` has no memory of its own.
fn why_no_memory(stat: &str) -> &'static str {
    // The name in parentheses may hold blanks and parentheses itself.
    let fields = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next();
    let flags = fields.nth(5).and_then(|flags| flags.parse::<u64>().ok());
    match (state, flags) {
        (Some("Z" | "X"), _) => "it has ended and left only its exit status: no memory is mapped",
        (_, Some(flags)) if flags & KERNEL_THREAD != 0 => {
            "it is a thread of the kernel, which has no memory map of its own"
        }
        _ => "no memory is mapped",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_for_no_memory_is_found_behind_any_name() {
        for (stat, part) in [
            (
                "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0",
                "thread of the kernel",
            ),
            (
                "7 (a) R (b) S 0 0 0 0 -1 2129984 0 0",
                "thread of the kernel",
            ),
            ("7 (x) Z 1 7 7 0 -1 4228100 0 0", "has ended"),
            (
                "7 (S 0 0 0 0 -1 2129984) S 1 7 7 0 -1 4194304 0 0",
                "no memory is mapped",
            ),
            ("", "no memory is mapped"),
        ] {
            let why = why_no_memory(stat);
            assert!(why.contains(part), "{stat}: {why}");
        }
    }
}
