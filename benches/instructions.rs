//! Instructions per malloc and per free when the thread's cache serves them, counted by
//! valgrind's callgrind, so that they are the same on every run and machine of one kind.
//!
//! ```text
//! cargo build --release && cargo bench --bench instructions
//! ```
//!
//! The columns: fencepost as a Rust program's allocator, the process's malloc as it is, and
//! the preload library's, if it was built. Each number is the difference between a run with
//! many calls and a run with more of them, divided by the calls, from the first instruction
//! of a function that contains the call to its return; the function without the call is taken
//! off (so a column holds the call itself, too).
#![allow(unsafe_code)] // malloc and free.

use fencepost::Fencepost;
use std::alloc::{GlobalAlloc, Layout};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

static A: Fencepost = Fencepost::new();
const SIZES: [usize; 5] = [16, 64, 1000, 4000, 60_000];
const FEW: u64 = 2_000;
const MANY: u64 = 12_000;

/// Set in the child that valgrind runs: `rust|c`, the size, and the number of pairs.
const CHILD: &str = "FENCEPOST_BENCH_CHILD";

// What callgrind counts: everything between entering and leaving a function of such a name.

#[inline(never)]
fn counted_malloc_rust(size: usize) -> *mut u8 {
    // SAFETY: the size is not 0; 8 is a power of two.
    unsafe { A.alloc(Layout::from_size_align_unchecked(size, 8)) }
}

#[inline(never)]
fn counted_free_rust(p: *mut u8, size: usize) {
    // SAFETY: the block came from `counted_malloc_rust` with this size.
    unsafe { A.dealloc(p, Layout::from_size_align_unchecked(size, 8)) }
}

#[inline(never)]
fn counted_malloc_c(size: usize) -> *mut u8 {
    // SAFETY: a plain malloc.
    unsafe { libc::malloc(size) }.cast()
}

#[inline(never)]
fn counted_free_c(p: *mut u8, _: usize) {
    // SAFETY: the block came from `counted_malloc_c`.
    unsafe { libc::free(p.cast()) }
}

#[inline(never)]
fn counted_malloc_none(size: usize) -> *mut u8 {
    black_box(std::ptr::without_provenance_mut(size))
}

#[inline(never)]
fn counted_free_none(p: *mut u8, _: usize) {
    black_box(p);
}

type Malloc = fn(usize) -> *mut u8;
type Free = fn(*mut u8, usize);

fn child(task: &str) {
    let mut words = task.split(' ');
    let mut word = || words.next().expect("a word of the task");
    let kind = word();
    let size: usize = word().parse().expect("a size");
    let pairs: u64 = word().parse().expect("a number");
    let (malloc, free): (Malloc, Free) = match kind {
        "rust" => (counted_malloc_rust, counted_free_rust),
        "c" => (counted_malloc_c, counted_free_c),
        _ => (counted_malloc_none, counted_free_none),
    };
    // Two live blocks, so that not every malloc gets what was freed just before.
    let mut other = malloc(size);
    for _ in 0..pairs {
        let block = black_box(malloc(black_box(size)));
        free(std::mem::replace(&mut other, block), size);
    }
    free(other, size);
}

fn collected(function: &str, task: &str, preload: Option<&Path>) -> Option<u64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(format!("--toggle-collect=*{function}*"))
        .arg(std::env::current_exe().ok()?)
        .env(CHILD, task)
        .env_remove("LD_PRELOAD");
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = text.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Instructions per call.
fn count(function: &str, kind: &str, size: usize, preload: Option<&Path>) -> Option<f64> {
    let name = format!("{function}_{kind}");
    let few = collected(&name, &format!("{kind} {size} {FEW}"), preload)?;
    let many = collected(&name, &format!("{kind} {size} {MANY}"), preload)?;
    Some((many - few) as f64 / (MANY - FEW) as f64)
}

fn preload_library() -> Option<PathBuf> {
    // target/release/deps/instructions-… -> target/release
    let release = std::env::current_exe()
        .ok()?
        .parent()?
        .parent()?
        .to_path_buf();
    Some(release.join("libfencepost.so")).filter(|path| path.is_file())
}

fn main() -> ExitCode {
    if let Ok(task) = std::env::var(CHILD) {
        child(&task);
        return ExitCode::SUCCESS;
    }
    let Some(floor) = count("counted_malloc", "none", 16, None) else {
        println!("instructions: skipped, for valgrind does not run here");
        return ExitCode::SUCCESS;
    };
    let preload = preload_library();
    if preload.is_none() {
        println!("instructions: no preload library beside this benchmark: cargo build --release");
    }
    println!("| bytes | call | Rust, fencepost | C, this process's | C, preload |");
    println!("|---:|---|---:|---:|---:|");
    for size in SIZES {
        for function in ["malloc", "free"] {
            let counted = format!("counted_{function}");
            let cell = |kind, library: Option<&Path>| {
                count(&counted, kind, size, library)
                    .map_or_else(|| String::from("-"), |n| format!("{:.1}", n - floor))
            };
            let preloaded = match &preload {
                Some(library) => cell("c", Some(library)),
                None => String::from("-"),
            };
            println!(
                "| {size} | {function} | {} | {} | {preloaded} |",
                cell("rust", None),
                cell("c", None),
            );
        }
    }
    ExitCode::SUCCESS
}
