//! The library's life: its start, its end, and what the compiler asks of a crate without std.

use core::ffi::c_int;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering::Relaxed};

use fencepost::abi;

/// Runs when the dynamic linker initialises the library, after the C library. Other libraries'
/// constructors may have run, and allocated, before; then this finds everything done.
extern "C" fn start() {
    abi::program_starts();
    if abi::reports_at_exit() {
        STDERR.keep();
    }
}

/// Runs when the process exits, after the functions registered with `atexit`.
extern "C" fn finish() {
    abi::muntrace();
    if abi::reports_at_exit() {
        STDERR.with(abi::report_at_exit);
    }
}

static STDERR: StandardError = StandardError {
    copy: AtomicI32::new(-1),
    device: AtomicU64::new(0),
    inode: AtomicU64::new(0),
};

/// Standard error as it was at the start: many programs close it shortly before they exit, and
/// the statistics come later.
struct StandardError {
    /// A second descriptor of it, or -1.
    copy: AtomicI32,
    /// The file that it should lead to: the program may have closed it, and opened another.
    device: AtomicU64,
    inode: AtomicU64,
}

impl StandardError {
    /// Descriptors below are what programs expect to get, and the highest that shells count to.
    const LOWEST: c_int = 512;

    fn keep(&self) {
        // SAFETY: makes a descriptor that nobody else knows.
        let copy = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, Self::LOWEST) };
        if let Some((device, inode)) = file(copy) {
            self.device.store(device, Relaxed);
            self.inode.store(inode, Relaxed);
            self.copy.store(copy, Relaxed);
        }
    }

    /// Calls `print` with standard error open, if that can be.
    fn with(&self, print: fn()) {
        let copy = self.copy.load(Relaxed);
        let kept = (self.device.load(Relaxed), self.inode.load(Relaxed));
        let reopen = file(2).is_none() && file(copy) == Some(kept);
        if reopen {
            // SAFETY: descriptor 2 is closed, and it is standard error's own file that it gets.
            unsafe { libc::dup2(copy, 2) };
        }
        print();
        if reopen {
            // SAFETY: closes what was opened above.
            unsafe { libc::close(2) };
        }
    }
}

/// Which file a descriptor leads to, if it is open.
#[allow(clippy::unnecessary_cast)] // Both numbers are narrower on some targets.
fn file(descriptor: c_int) -> Option<(u64, u64)> {
    // SAFETY: an all-zero stat is valid, and fstat(2) fills it in.
    unsafe {
        let mut stat: libc::stat = core::mem::zeroed();
        (libc::fstat(descriptor, &mut stat) == 0)
            .then_some((stat.st_dev as u64, stat.st_ino as u64))
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

/// No code of ours panics (a test proves that for the release build); should it, there is
/// nobody who could be unwound to.
#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort(3) takes nothing and does not return.
    unsafe { libc::abort() }
}

// The precompiled `core` mentions this name in its unwind tables. Written in assembly it is
// hidden: a name that Rust exports would enter the namespace of every preloaded program. Nobody
// calls it, for nothing of ours is unwound.
#[cfg(panic = "abort")]
core::arch::global_asm!(
    ".pushsection .text",
    ".globl rust_eh_personality",
    ".hidden rust_eh_personality",
    "rust_eh_personality: .8byte 0",
    ".popsection",
);
