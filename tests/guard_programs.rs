//! Real programs with every object guarded: standard output, standard error, exit status and files
//! are the same as without the library.
//!
//! Every play is cut to a part of what `tests/real_programs.rs` plays;
//! `FENCEPOST_HEAVY=1` plays the whole.

#[allow(dead_code)] // `tests/real_programs.rs` uses the rest.
mod programs;
mod support;

use std::path::PathBuf;

use programs::{Stage, Variant, compare, plays};
use support::{Run, program};

/// Everything is guarded; programs leave blocks behind when they end, which is no error of theirs.
const GUARDED: Variant = &[("FENCEPOST_GUARD", "1"), ("FENCEPOST_GUARD_LEAKS", "0")];

/// The same, with objects at both ends of their pages in turn.
const BOTH: Variant = &[
    ("FENCEPOST_GUARD", "1"),
    ("FENCEPOST_GUARD_LEAKS", "0"),
    ("FENCEPOST_GUARD_ALIGN", "both"),
];

/// Plays the `part`-th part of a program's work without the library, and with every object
/// guarded at the right end or at both ends in turn.
#[track_caller]
fn undisturbed(needs: &[&str], part: u64, play: impl Fn(&mut Stage, &[PathBuf], u64)) {
    let heavy = std::env::var_os("FENCEPOST_HEAVY").is_some();
    let variants: &[Variant] = if heavy { &[GUARDED, BOTH] } else { &[BOTH] };
    let part = if heavy { 1 } else { part };
    let started = std::time::Instant::now();
    compare(needs, variants, |stage, paths| play(stage, paths, part));
    println!("{}: {:?}", needs[0], started.elapsed());
}

#[test]
fn python_is_undisturbed() {
    undisturbed(&["python3"], 200, plays::python);
}

#[test]
fn perl_is_undisturbed() {
    undisturbed(&["perl"], 10, plays::perl);
}

#[test]
fn sqlite3_is_undisturbed() {
    undisturbed(&["sqlite3"], 6, plays::sqlite3);
}

#[test]
fn lua_is_undisturbed() {
    undisturbed(&["lua5.4"], 10, plays::lua);
}

#[test]
fn gawk_is_undisturbed() {
    undisturbed(&["gawk"], 20, plays::gawk);
}

#[test]
fn bash_is_undisturbed() {
    undisturbed(&["bash"], 20, plays::bash);
}

#[test]
fn jq_is_undisturbed() {
    undisturbed(&["jq"], 20, plays::jq);
}

#[test]
fn xmllint_is_undisturbed() {
    undisturbed(&["xmllint"], 20, plays::xmllint);
}

#[test]
fn sort_is_undisturbed() {
    undisturbed(&["sort"], 10, plays::sort);
}

#[test]
fn git_is_undisturbed() {
    undisturbed(&["git"], 10, plays::git);
}

#[test]
fn cc1_is_undisturbed() {
    undisturbed(&["gcc"], 20, plays::cc1);
}

#[test]
fn cc1plus_is_undisturbed() {
    undisturbed(&["g++"], 2, plays::cc1plus);
}

#[test]
fn redis_is_undisturbed() {
    let needs = ["redis-server", "redis-cli", "redis-benchmark"];
    undisturbed(&needs, 20, plays::redis);
}

/// The plays above prove nothing if nothing is guarded.
#[test]
fn their_objects_are_guarded() {
    for (name, args) in [
        (
            "python3",
            ["-c", "print(len([object() for _ in range(1000)]))"],
        ),
        (
            "perl",
            ["-e", "print join ',', map { {$_ => [1]} } 1 .. 100"],
        ),
    ] {
        let Some(path) = program(name) else { continue };
        let outcome = Run::new(path)
            .args(args)
            .env("PYTHONMALLOC", "malloc")
            .preload()
            .envs(GUARDED)
            .env("FENCEPOST_STATS", "1")
            .output()
            .expect_success(name);
        let guarded = support::guarded_objects(&outcome.err());
        assert!(
            guarded > 500,
            "{name}: {guarded} guarded\n{}",
            outcome.tail()
        );
    }
}
