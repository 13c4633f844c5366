//! The library's life: its start, its end, and what the compiler asks of a crate without std.

use fencepost::abi;

/// Runs when the dynamic linker initialises the library, after the C library. Most programs
/// allocate earlier; then this only reads the environment, if it was not there yet.
extern "C" fn start() {
    abi::start();
}

/// Runs when the process exits, after the functions registered with `atexit`.
extern "C" fn finish() {
    abi::finish();
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
