//! The bounds on memory that the loads of `tests/memory/memory.c` are held to, with the preload
//! library; `tests/threads.rs` has the same load with one thread. `benches/memory.rs` shows the figures behind them, beside those of other allocators.

mod support;

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use support::{Run, compile_c};

/// The figures of a load, with fencepost.
fn figures(args: &[&str]) -> HashMap<String, u64> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory/memory.c");
    let outcome = Run::new(compile_c(&source, &[]))
        .args(args)
        .timeout(Duration::from_secs(150))
        .preload()
        .output()
        .expect_success(&format!("{args:?}"));
    assert_eq!(outcome.err(), "", "{args:?}");
    println!("{args:?}: {}", outcome.out().replace('\n', ", "));
    let figure = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_string(), number.parse().ok()?))
    };
    outcome.out().lines().map(|l| figure(l).expect(l)).collect()
}

/// 600,000 objects of 16 bytes to 300 KB, a random nine tenths of them freed, five times over:
/// a second later, with nobody calling `malloc_trim`, what is resident follows what is alive.
#[track_caller]
fn resident_after_a_peak(how: &str, least_peak: u64) {
    const MIB: u64 = 1024;
    let seen = figures(&["peak", how, "600000"]);
    assert!(seen["peak_kib"] > least_peak * MIB, "no peak: {seen:?}");
    assert!(seen["live_kib"] > 150 * MIB, "{seen:?}");
    assert!(seen["second_kib"] < 400 * MIB, "{seen:?}");
}

/// Another thread frees, when all objects of a round are there.
#[test]
fn memory_goes_back_when_another_thread_frees_it() {
    resident_after_a_peak("turns", 1500);
}

/// Another thread frees what was allocated half a round ago, at the same time.
#[test]
fn memory_goes_back_when_another_thread_frees_beside_the_first() {
    resident_after_a_peak("beside", 600);
}

/// A hundred megabytes of equal blocks, all freed, in a program that never had more: hardly anything
/// stays, and a load of a few megabytes afterwards brings little of it back.
#[test]
fn memory_goes_back_when_hardly_anything_is_left_in_use() {
    const MIB: u64 = 1024;
    let seen = figures(&["after", "800000"]);
    assert!(seen["full_kib"] > 90 * MIB, "no peak: {seen:?}");
    for figure in ["second_kib", "worked_kib"] {
        assert!(seen[figure] < 24 * MIB, "{figure}: {seen:?}");
    }
}

/// Two hundred threads that all held blocks at one time and went idle, beyond two hundred that never
/// did. The aim is 64 KiB each, which `benches/memory.rs` judges by the median of some runs; how
/// many pages the few chunks in their caches pin differs from run to run.
#[test]
fn an_idle_thread_keeps_little_of_what_it_held() {
    let resident = |rounds| figures(&["idle", "holding", "200", rounds])["second_kib"];
    let (busy, bare) = (resident("20"), resident("0"));
    assert!(busy <= bare + 200 * 128, "{busy} KiB, {bare} without");
}
