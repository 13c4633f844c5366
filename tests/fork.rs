//! fork under the preload: no hang, and children that can allocate and free.
//!
//! A hang is found twice: by an alarm in the program and by the watchdog here.
//! `FENCEPOST_FORKS=20000` makes the first test fork as often as the project
//! promises; the default keeps it short.

mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{Run, compile_c};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fork")
        .join(name)
}

/// Three threads, one in fork, one in `fflush(NULL)`, one in getline: whoever
/// holds an allocator lock while fork runs hangs at once.
#[test]
fn a_thread_that_forks_beside_threads_in_stdio_does_not_hang() {
    let forks: u64 = match std::env::var("FENCEPOST_FORKS") {
        Ok(text) => text.parse().expect("FENCEPOST_FORKS is a number"),
        Err(_) => 2000,
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("lines");
    let lines: String = (0..200)
        .map(|i| format!("{}\n", "x".repeat(i * 5)))
        .collect();
    std::fs::write(&file, lines).expect("the file can be written");
    let outcome = Run::new(compile_c(&source("streams.c"), &[]))
        .arg(forks.to_string())
        .arg(&file)
        .timeout(Duration::from_secs(120) + Duration::from_millis(50) * forks as u32)
        .preload()
        .output()
        .expect_success("streams");
    assert_eq!(outcome.out(), format!("forks {forks} lines 1 flushes 1\n"));
    assert_eq!(outcome.err(), "");
}

/// Who shares what at the moment of the fork: caches and depot, no caches (so
/// that the arena locks are taken all the time), no depot, one arena for all.
const MODES: &[&[(&str, &str)]] = &[
    &[],
    &[("FENCEPOST_CACHE", "0")],
    &[("FENCEPOST_DEPOT", "0")],
    &[("FENCEPOST_CACHE", "0"), ("MALLOC_ARENA_MAX", "1")],
];

#[track_caller]
fn children(how: &str, count: u32) {
    let program = compile_c(&source("children.c"), &[]);
    for mode in MODES {
        let outcome = Run::new(&program)
            .args([how, &count.to_string()])
            .timeout(Duration::from_secs(120))
            .preload()
            .envs(mode)
            .output()
            .expect_success(&format!("children {how} with {mode:?}"));
        assert_eq!(outcome.out(), format!("{how} {count}\n"));
        assert_eq!(outcome.err(), "");
    }
}

#[test]
fn children_of_fork_allocate_start_threads_and_fork_again() {
    children("fork", 150);
}

#[test]
fn several_threads_fork_at_once() {
    children("crowd", 90);
}

/// `_Fork` runs no handlers.
#[test]
fn children_of_underscore_fork_allocate() {
    children("_Fork", 150);
}

/// The C library does not even know of a raw clone.
#[test]
fn children_of_a_raw_clone_allocate() {
    children("clone", 150);
}

/// vfork shares the parent's memory until exec: the child is no new process.
#[test]
fn vfork_and_posix_spawn_leave_the_parent_alone() {
    children("vfork", 60);
    children("spawn", 60);
}
