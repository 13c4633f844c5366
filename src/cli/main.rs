//! The `fencepost` command: runs any program on the fencepost allocator, and
//! installs the allocator and itself.
//!
//! - `args` is the command line, one entry per subcommand; each subcommand has
//!   a file of its own (`run`, `explain`, `maps`, `pmap`, `mmu`, `install`, `completions`, `man`).
//! - `program` decides whether a program can be preloaded at all; it stands on
//!   `elf` (what an ELF file says about itself), `script` (`#!` lines),
//!   `env` (what `env` in such a line does) and `path` (the search by `PATH`).
//! - `guard` is guard mode: it runs the program as a `child`, and `report` reads and prints what
//!   the library reports, with names from `symbols`.
//! - `library` finds the preload library, `exec` becomes the program,
//!   `process` reads what `/proc` says about another one, `failure` holds every
//!   exit status of our own.
#![cfg_attr(not(test), no_main)]
// The entry point, execve(2), fork(2) and signals are C interfaces; nothing else here is unsafe.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("fencepost runs on Linux only");

mod args;
mod child;
mod completions;
mod elf;
mod env;
mod exec;
mod explain;
mod failure;
mod guard;
mod install;
mod library;
mod man;
mod maps;
mod mmu;
mod path;
mod pmap;
mod process;
mod program;
mod report;
mod run;
mod script;
mod symbols;

use std::ffi::OsString;

/// The C entry point, in place of Rust's own.
///
/// Rust's runtime ignores SIGPIPE and opens `/dev/null` for closed standard
/// streams before `main`, and a program started by exec would inherit both.
/// Entered here, the process reaches exec as its parent made it.
#[cfg(not(test))]
#[allow(unsafe_code)]
// SAFETY: the C runtime calls `main` once and nothing else has this name.
#[unsafe(no_mangle)]
extern "C" fn main(argc: libc::c_int, argv: *const *const libc::c_char) -> libc::c_int {
    use std::ffi::CStr;
    use std::os::unix::ffi::OsStringExt;

    let count = usize::try_from(argc).unwrap_or(0);
    let args = (0..count).map(|i| {
        // SAFETY: the C runtime passes `argc` pointers to strings that end in
        // a zero byte and live as long as the process.
        let arg = unsafe { CStr::from_ptr(*argv.add(i)) };
        OsString::from_vec(arg.to_bytes().to_vec())
    });
    // exit, not return: it flushes what Rust's runtime would have flushed.
    std::process::exit(start(args.collect()))
}

/// Runs the command line and returns the exit status. A program that is run
/// takes this process over, so that this function does not return then.
#[cfg_attr(test, allow(dead_code))]
fn start(args: Vec<OsString>) -> i32 {
    match args::dispatch(args) {
        Ok(()) => 0,
        Err(failure) => {
            failure.print();
            failure.status()
        }
    }
}
