//! The guard mode against the matrix of heap errors: every bad program is caught with the exact
//! verdict wherever the rule says that it can be, every good one is silent.
//!
//! `tests/guard/cases.rs` generates what the driver programs do, `tests/guard/rule.rs` says what
//! must be answered. `FENCEPOST_HEAVY=1` takes every 40th of all combinations (and the quick
//! run the few hundred in which every pair of values occurs).

#[path = "guard/cases.rs"]
mod cases;
#[path = "guard/play.rs"]
mod play;
#[path = "guard/rule.rs"]
mod rule;
mod support;

use cases::{Case, Deed};
use play::{Mode, all, check, good};
use rule::{Answer, Side, answer};

/// Whether the many runs are asked for.
fn every() -> Option<u64> {
    std::env::var_os("FENCEPOST_HEAVY").map(|_| 40)
}

/// Plays every case on both sides, and its honest twin. Every answer must be the rule's, and one
/// of the two sides at least must catch it.
#[track_caller]
fn caught(cases: Vec<Case>) {
    let (reads, cases): (Vec<_>, Vec<_>) = cases.into_iter().partition(|case| {
        [Side::Right, Side::Left]
            .iter()
            .all(|&side| matches!(answer(case, side), Answer::Silence | Answer::Perhaps(_)))
    });
    // What neither side can see is a read of a few bytes of slack.
    for case in &reads {
        let Deed::Access(access) = &case.deed else {
            panic!("{case:?} can never be caught");
        };
        assert!(!access.writes(), "{case:?} can never be caught");
    }
    println!(
        "{} errors, {} reads of slack left out",
        cases.len(),
        reads.len()
    );
    let mut runs = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let sides = [Side::Right, Side::Left];
        // Where the side does not matter, they take turns.
        let matters = matches!(case.deed, Deed::Access(_))
            || answer(case, sides[0]) != answer(case, sides[1]);
        match matters {
            true => runs.extend(sides.map(|side| (case, side))),
            false => runs.push((case, sides[number % 2])),
        }
    }
    println!("{} runs", runs.len());
    all(runs, |(case, side)| check(case, *side, &[]));
    let twins: std::collections::HashSet<_> = cases
        .iter()
        .map(|case| (case.language, case.twin.clone()))
        .collect();
    all(twins.into_iter().collect(), |(language, twin)| {
        good(*language, twin, Mode::Both)
    });
}

#[test]
fn accesses_of_c_programs_are_caught() {
    caught(cases::c_accesses(every()));
}

#[test]
fn accesses_of_rust_programs_are_caught() {
    caught(cases::rust_accesses(every()));
}

#[test]
fn wrong_calls_are_caught() {
    let mut wrong = cases::c_calls(every());
    wrong.extend(cases::rust_calls());
    caught(wrong);
}

#[test]
fn row_119_every_class_of_error_is_caught_and_named() {
    let singles = cases::singles();
    let classes: std::collections::BTreeSet<_> = singles.iter().map(Case::class).collect();
    assert!(classes.len() >= 8, "{classes:?}");
    caught(singles);
}
