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

use std::collections::HashSet;

use cases::{Access, Call, Case, Deed, Language, NATURAL, Object};
use play::{Mode, all, check, complaint, driver, explain, found_at, good, guarded, none, plain};
use regex::Regex;
use rule::{Answer, Side, answer};
use support::{Outcome, Run, program};

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
    let twins: HashSet<_> = cases
        .iter()
        .map(|case| (case.language, case.twin.clone()))
        .collect();
    let twins: Vec<_> = twins.into_iter().collect();
    println!("{} twins", twins.len());
    let mut complaints = all(&twins, |(language, twin)| good(*language, twin, Mode::Both));
    complaints.extend(all(&runs, |(case, side)| check(case, *side, &[])));
    none(&complaints, runs.len() + twins.len());
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

/// A case of C on malloc's object, where its twin does not matter.
fn on_malloc(
    size: usize,
    state: &'static str,
    offset: isize,
    length: usize,
    means: &'static str,
) -> Case {
    let deed = Deed::Access(Access {
        object: Object {
            function: "malloc",
            size,
            align: NATURAL,
        },
        state,
        offset,
        length,
        means,
        place: "main",
    });
    Case {
        language: Language::C,
        twin: deed.clone(),
        deed,
    }
}

#[test]
fn row_063_a_canary_beside_an_object_is_checked_when_it_ends() {
    for (case, side) in [
        (on_malloc(100, "live", 100, 1, "write-index"), Side::Right),
        (on_malloc(100, "live", 111, 1, "write-index"), Side::Right),
        (on_malloc(100, "live", -4, 4, "write-index"), Side::Right),
        (on_malloc(100, "live", 100, 3996, "write-index"), Side::Left),
    ] {
        let expected = answer(&case, side);
        let Answer::Canary { .. } = expected else {
            panic!("{case:?} is no matter for a canary");
        };
        for end in ["free", "realloc", "exit"] {
            let outcome = guarded(case.language, &case.deed, side.into())
                .envs(&[("FENCEPOST_GUARD_LEAKS", "0"), ("DRIVER_END", end)])
                .output();
            assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{}", outcome.tail());
            let found = found_at(end, &case, &expected, &outcome);
            assert_eq!(found, Ok(()), "{end}: {}", outcome.tail());
        }
    }
}

#[test]
fn reads_of_slack_are_not_seen() {
    // The stated limit: nothing stands between an object and its alignment.
    for (case, side) in [
        (on_malloc(100, "live", 100, 12, "read-index"), Side::Right),
        (on_malloc(100, "live", -8, 8, "read-index"), Side::Right),
        (on_malloc(96, "live", 96, 4000, "read-index"), Side::Left),
    ] {
        assert_eq!(answer(&case, side), Answer::Silence);
        none(&Vec::from_iter(check(&case, side, &[])), 1);
    }
}

/// What the kernel does for a program raises no signal: `read` gives a short count or EFAULT.
#[test]
fn accesses_by_the_kernel_end_at_the_guard() {
    let run = |name: &'static str, side: Mode| {
        guarded(Language::C, &Deed::Single(name), side)
            .env("FENCEPOST_GUARD_LEAKS", "0")
            .output()
    };
    let done = |outcome: &Outcome| -> i64 {
        let out = outcome.clone().expect_success("the driver").out();
        let line = out.lines().find_map(|line| line.strip_prefix("done "));
        line.expect("it says so").parse().expect("a number")
    };
    for name in ["good-kernel-read", "good-kernel-write"] {
        assert_eq!(done(&run(name, Mode::Right)), 64);
    }
    assert!((-1..=64).contains(&done(&run("kernel-read", Mode::Right))));
    assert_eq!(done(&run("kernel-write", Mode::Right)), -1);
    // In the slack the canary sees what the kernel wrote.
    assert_eq!(done(&run("good-kernel-slack", Mode::Right)), 9);
    let outcome = run("kernel-slack", Mode::Right);
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{}", outcome.tail());
    let line = outcome.err().lines().next().unwrap_or_default().to_string();
    assert!(
        line.contains("heap overflow: bytes 9 to 15 of 0x"),
        "{line}"
    );
}

/// With `both` the objects of one place in the program lie at one end and at the other in turn,
/// so that what only one side sees is seen in one of two runs of that place.
#[test]
fn both_sides_in_turn() {
    let cases: Vec<Case> = cases::c_accesses(None)
        .into_iter()
        .filter(|case| {
            let answers = [Side::Right, Side::Left].map(|side| answer(case, side));
            let clear = |a: &Answer| !matches!(a, Answer::Perhaps(_));
            answers[0] != answers[1] && answers.iter().all(clear)
        })
        .step_by(4)
        .collect();
    assert!(cases.len() > 10);
    let play = |case: &Case| {
        let run =
            || guarded(case.language, &case.deed, Mode::Both).env("FENCEPOST_GUARD_LEAKS", "0");
        let outcomes = [run().output(), run().env("DRIVER_EARLIER", "1").output()];
        let fits = |outcome: &Outcome, side| explain(case, &answer(case, side), outcome).is_ok();
        let [first, second] = &outcomes;
        let right_then_left = fits(first, Side::Right) && fits(second, Side::Left);
        let left_then_right = fits(first, Side::Left) && fits(second, Side::Right);
        (!right_then_left && !left_then_right).then(|| {
            complaint(case, "once each side", first, "the first")
                + &complaint(case, "once each side", second, "the second")
        })
    };
    none(&all(&cases, play), cases.len());
}

#[test]
fn busy_programs_are_left_alone() {
    for language in [Language::C, Language::Rust] {
        for mode in [Mode::Right, Mode::Left, Mode::Both] {
            let complaint = good(language, &Deed::Single("busy"), mode);
            none(&Vec::from_iter(complaint), 1);
        }
    }
}

/// One object in ten, by chance.
#[test]
fn a_sampled_run_says_how_many_objects_it_guarded() {
    let run = |one_in: &str| {
        Run::new(driver(Language::C))
            .args(["cycle", "100000", "100", "1", "16", "200"])
            .preload()
            .envs(&[("FENCEPOST_GUARD", one_in), ("FENCEPOST_STATS", "1")])
            // Chance alone decides, not the time that it takes.
            .env("FENCEPOST_GUARD_SHARE", "0")
            .output()
            .expect_success("the driver")
    };
    for one_in in [10, 100] {
        let outcome = run(&one_in.to_string());
        let guarded = support::guarded_objects(&outcome.err());
        println!("1 in {one_in}: {guarded} of 100000 objects were guarded");
        // Far more than chance allows, and far less than another rate would give.
        let mean = 100_000 / one_in;
        assert!(
            (mean * 7 / 10..=mean * 13 / 10).contains(&guarded),
            "{guarded} guarded, 1 in {one_in}\n{}",
            outcome.tail()
        );
    }
    assert_eq!(support::guarded_objects(&run("0").err()), 0);
}

#[test]
fn what_is_lost_is_reported_and_what_is_reachable_is_told_apart() {
    let run = |language, name| {
        guarded(language, &Deed::Single(name), Mode::Right)
            .env("FENCEPOST_GUARD_LEAKS", "1")
            .output()
            .expect_success(name)
    };
    let total = Regex::new(
        r"(?m)^fencepost: leaks: ([0-9]+) bytes? in ([0-9]+) blocks? lost, [0-9]+ bytes? in [0-9]+ blocks? still reachable$",
    )
    .expect("a valid expression");
    for (language, name, lost) in [
        (Language::C, "lost", ["51", "3"]),
        (Language::C, "cycle", ["96", "2"]),
        (Language::Rust, "lost", ["48", "1"]),
        (Language::Rust, "cycle", ["144", "2"]),
    ] {
        let err = run(language, name).err();
        let found = total
            .captures(&err)
            .unwrap_or_else(|| panic!("{language:?} {name}: {err}"));
        assert_eq!([&found[1], &found[2]], lost, "{language:?} {name}: {err}");
        assert!(err.starts_with("fencepost: leak: "), "{err}");
    }
    for language in [Language::C, Language::Rust] {
        for name in ["reachable", "good-reachable", "good-lost", "good-cycle"] {
            let err = run(language, name).err();
            assert!(!err.contains("leak: "), "{language:?} {name}: {err}");
            if let Some(found) = total.captures(&err) {
                assert_eq!([&found[1], &found[2]], ["0", "0"], "{err}");
            }
        }
    }
}

/// What a tool says of an error: its kind and how far from the object it is.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    Overflow(i64),
    Underflow(i64),
    AfterFree(i64),
    DoubleFree,
    Inside(i64),
    Foreign,
    Lost(i64),
    Unknown(String),
}

/// What valgrind's first message says.
fn of_valgrind(err: &str) -> Finding {
    let text = |pattern: &str| {
        let found = Regex::new(pattern)
            .expect("a valid expression")
            .captures(err)?;
        Some(found.get(1).map_or(0, |n| {
            n.as_str().replace(',', "").parse().expect("a number")
        }))
    };
    let bad_free = err.contains("Invalid free()");
    let inside = text(r"is ([0-9,]+) bytes inside a block of size [0-9,]+ alloc'd");
    let freed = text(r"is ([0-9,]+) bytes inside a block of size [0-9,]+ free'd");
    let behind = text(r"is ([0-9,]+) bytes after a block of size [0-9,]+ alloc'd");
    let before = text(r"is ([0-9,]+) bytes before a block of size [0-9,]+ alloc'd");
    let lost = text(r"([0-9,]+) bytes in [0-9,]+ blocks are definitely lost");
    match (bad_free, inside, freed, behind, before, lost) {
        (true, _, Some(0), ..) => Finding::DoubleFree,
        (true, Some(n), ..) => Finding::Inside(n),
        (true, ..) => Finding::Foreign,
        (_, _, Some(n), ..) => Finding::AfterFree(n),
        (_, _, _, Some(n), ..) => Finding::Overflow(n),
        (_, _, _, _, Some(n), _) => Finding::Underflow(n),
        (.., Some(n)) => Finding::Lost(n),
        _ => Finding::Unknown(err.into()),
    }
}

/// What the first line of a report says.
fn of_report(err: &str) -> Finding {
    let text = |pattern: &str| {
        let found = Regex::new(&format!("^fencepost: {pattern}")).expect("a valid expression");
        let found = found.captures(err)?;
        Some(
            found
                .get(1)
                .map_or(0, |n| n.as_str().parse().expect("a number")),
        )
    };
    let size = text(r"[^\n]*\(([0-9]+) bytes\)").unwrap_or(0);
    None.or_else(|| text("heap overflow: [a-z]+ ([0-9]+) bytes? past").map(Finding::Overflow))
        .or_else(|| {
            let first = text("heap overflow: bytes? ([0-9]+) ")?;
            Some(Finding::Overflow(first - size))
        })
        .or_else(|| text("heap underflow: [a-z]+ ([0-9]+) bytes? before").map(Finding::Underflow))
        .or_else(|| text("heap underflow: bytes? -([0-9]+) ").map(Finding::Underflow))
        .or_else(|| text("use after free: [a-z]+ at byte ([0-9]+) ").map(Finding::AfterFree))
        .or_else(|| text("double free").map(|_| Finding::DoubleFree))
        .or_else(|| text(r"invalid free: [^\n]*\(([0-9]+) bytes into").map(Finding::Inside))
        .or_else(|| text(r"invalid free: [^\n]*not allocated here").map(|_| Finding::Foreign))
        .or_else(|| text("leak: ([0-9]+) bytes").map(Finding::Lost))
        .unwrap_or_else(|| Finding::Unknown(err.into()))
}

#[test]
fn row_123_valgrind_says_the_same() {
    let Some(valgrind) = program("valgrind") else {
        return;
    };
    let freed = |target, offset| {
        let deed = Deed::Call(Call {
            object: Object {
                function: "malloc",
                size: 64,
                align: NATURAL,
            },
            target,
            offset,
            call: "free".into(),
            place: "main",
        });
        Case {
            language: Language::C,
            twin: deed.clone(),
            deed,
        }
    };
    let lost = Case {
        language: Language::C,
        deed: Deed::Single("lost"),
        twin: Deed::Single("good-lost"),
    };
    let cases = [
        (
            on_malloc(64, "live", 64, 1, "write-index"),
            Finding::Overflow(0),
        ),
        (
            on_malloc(64, "live", 72, 2, "read-index"),
            Finding::Overflow(8),
        ),
        (
            on_malloc(100, "live", 103, 2, "write-index"),
            Finding::Overflow(3),
        ),
        (
            on_malloc(64, "live", -8, 1, "write-index"),
            Finding::Underflow(8),
        ),
        (
            on_malloc(64, "freed", 24, 1, "read-index"),
            Finding::AfterFree(24),
        ),
        (freed("freed", 0), Finding::DoubleFree),
        (freed("live", 16), Finding::Inside(16)),
        (freed("stack", 0), Finding::Foreign),
        (lost, Finding::Lost(51)),
    ];
    let play = |(case, expected): &(Case, Finding)| {
        let ours = guarded(case.language, &case.deed, Mode::Right).output();
        let theirs = Run::new(&valgrind)
            .args(["-q", "--leak-check=full", "--error-exitcode=99"])
            .arg(driver(case.language))
            .args(case.deed.arguments(case.language))
            .output();
        let said = [of_report(&ours.err()), of_valgrind(&theirs.err())];
        let same = said.iter().all(|finding| finding == expected);
        (!same).then(|| {
            let said = format!("ours {:?}, valgrind {:?}", said[0], said[1]);
            complaint(case, &format!("{expected:?}"), &ours, &said)
        })
    };
    none(&all(&cases, play), cases.len());
    // And neither complains about an honest program.
    let honest = on_malloc(64, "live", 0, 64, "write-memcpy");
    let under = Run::new(&valgrind)
        .args(["-q", "--leak-check=full", "--error-exitcode=99"])
        .arg(driver(honest.language))
        .args(honest.deed.arguments(honest.language));
    assert_eq!(under.output().expect_success("valgrind").err(), "");
    let alone = plain(honest.language, &honest.deed).output();
    assert_eq!(alone.expect_success("the driver").err(), "");
    none(
        &Vec::from_iter(good(honest.language, &honest.deed, Mode::Right)),
        1,
    );
}
