//! Threads under the preload: churn, frees across threads, late destructors,
//! process exit beside running threads, arenas, and memory given back.
//!
//! `FENCEPOST_HEAVY=1` frees ten million blocks instead of one.

mod support;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::{Outcome, Run, compile_c, program};

/// With everything, without caches, without the depot, with one arena.
const MODES: &[&[(&str, &str)]] = &[
    &[],
    &[("FENCEPOST_CACHE", "0")],
    &[("FENCEPOST_DEPOT", "0")],
    &[("MALLOC_ARENA_MAX", "1")],
];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/threads")
        .join(name)
}

fn run(name: &str, args: &[&str], mode: &[(&str, &str)]) -> Outcome {
    Run::new(compile_c(&source(name), &[]))
        .args(args)
        .timeout(Duration::from_secs(150))
        .preload()
        .envs(mode)
        .output()
}

/// Runs a program that prints lines of a name and a number.
#[track_caller]
fn figures(name: &str, args: &[&str], mode: &[(&str, &str)]) -> HashMap<String, u64> {
    let outcome = run(name, args, mode).expect_success(&format!("{name} {args:?} {mode:?}"));
    assert_eq!(outcome.err(), "", "{name} {args:?} {mode:?}");
    println!("{args:?} {mode:?}: {}", outcome.out().replace('\n', ", "));
    let figure = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_string(), number.parse().ok()?))
    };
    outcome.out().lines().map(|l| figure(l).expect(l)).collect()
}

fn heavy() -> bool {
    std::env::var_os("FENCEPOST_HEAVY").is_some_and(|v| v == "1")
}

const MIB: u64 = 1024;

/// A thread that exits gives everything back: 2000 of them cost no more than 200.
#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    for mode in MODES {
        let seen = figures("threads.c", &["churn"], mode);
        assert!(
            seen["late_kib"] <= seen["early_kib"] + 8 * MIB,
            "{mode:?}: {seen:?}"
        );
        assert!(seen["late_kib"] <= 64 * MIB, "{mode:?}: {seen:?}");
    }
}

#[test]
fn a_million_blocks_are_freed_by_another_thread() {
    for mode in MODES {
        let seen = figures("threads.c", &["pipeline"], mode);
        assert_eq!(seen["blocks"], 1_000_000);
        // About half a MiB is alive at a time.
        assert!(seen["most_kib"] <= 16 * MIB, "{mode:?}: {seen:?}");
    }
}

#[test]
fn blocks_swapped_among_four_threads_stay_intact() {
    for mode in MODES {
        let seen = figures("threads.c", &["exchange"], mode);
        assert_eq!(seen["freed"], 800_000);
        assert!(seen["late_kib"] <= 32 * MIB, "{mode:?}: {seen:?}");
    }
}

/// Two hundred idle threads hold what their caches (64 KiB each) and the depot (16 MiB) may hold;
/// resident are besides their touched stacks (24 KiB each) and what the arenas may keep dirty.
/// How much of all that is used depends on how many threads ran at the same time.
#[test]
fn idle_threads_hold_little() {
    let seen = figures("threads.c", &["idle"], &[]);
    assert!(
        seen["resident_kib"] <= 200 * (64 + 24) + (16 + 40) * MIB,
        "{seen:?}"
    );
}

#[test]
fn late_destructors_allocate_and_free() {
    if program("c++").is_none() {
        return;
    }
    for mode in MODES {
        let seen = figures("late.cc", &["thread"], mode);
        assert_eq!(
            (seen["destroyed"], seen["key_rounds"]),
            (500, 1),
            "{mode:?}"
        );
        assert!(
            seen["late_kib"] <= seen["early_kib"] + 8 * MIB,
            "{mode:?}: {seen:?}"
        );
    }
}

#[test]
fn a_process_exits_while_its_threads_allocate() {
    if program("c++").is_none() {
        return;
    }
    for mode in MODES {
        for _ in 0..10 {
            let outcome = run("late.cc", &["exit"], mode);
            assert_eq!(
                outcome.status.code(),
                Some(9),
                "{mode:?}\n{}",
                outcome.tail()
            );
            assert_eq!(
                (outcome.out().as_str(), outcome.err().as_str()),
                ("static destructor\n", "")
            );
        }
    }
}

#[test]
fn eight_threads_use_several_arenas_unless_told_not_to() {
    let arenas = |mode: &[(&str, &str)]| {
        let outcome = run("threads.c", &["arenas"], mode).expect_success("arenas");
        let xml = outcome.out();
        assert!(xml.trim_end().ends_with("</malloc>"), "{xml}");
        xml.matches("<heap nr=").count()
    };
    let several = arenas(&[]);
    println!("8 threads use {several} arenas");
    assert!(several >= 2, "{several}");
    assert_eq!(arenas(&[("MALLOC_ARENA_MAX", "1")]), 1);
    assert_eq!(arenas(&[("MALLOC_ARENA_MAX", "2")]), 2);
}

/// Ten million blocks of 120 bytes, freed in several orders, once with a block
/// above them that stays: a second later next to nothing is resident.
#[test]
fn memory_goes_back_after_a_peak() {
    // The peak is 1.3 GB, or 0.4 GB by default; what may stay is the same.
    let count = if heavy() { "10000000" } else { "3000000" };
    let bound = 64 * MIB;
    for order in ["forward", "backward", "random", "pinned"] {
        let seen = figures("returned.c", &["equal", count, order], &[]);
        assert!(seen["peak_kib"] > 4 * bound, "{order}: no peak: {seen:?}");
        assert!(seen["later_kib"] <= bound, "{order}: {seen:?}");
    }
}

/// 600,000 objects of 16 bytes to 300 KB, nine tenths of them freed at random,
/// five times over: what stays resident follows what is alive.
#[test]
fn memory_follows_a_mixed_load() {
    let bound = 400 * MIB;
    let seen = figures("returned.c", &["mixed", "600000"], &[]);
    assert!(seen["peak_kib"] > 3 * bound, "no peak: {seen:?}");
    assert!(seen["later_kib"] <= bound, "{seen:?}");
}
