//! Misuse of the heap under the preload: one tiny crime per run, which must end
//! in SIGABRT after exactly one line that names it; honest twins stay silent.
//!
//! The programs tell the guilty pointer and its usable size on standard output
//! before they commit the crime, so that the line is compared in full.

mod support;

use std::path::{Path, PathBuf};

use regex::Regex;
use support::{Run, compile_c};

/// What the library says. `{p}` and `{n}` stand for the address and the usable
/// size that the program told, `{call}` for the call that was given the pointer,
/// `{any}` for any address and `{bytes}` for any number of bytes.
mod text {
    pub const DOUBLE_FREE: &str = "double free: {p} ({n} bytes)";
    pub const FREED_BEFORE: &str = "invalid {call}: {p} was freed before ({n} bytes)";
    pub const DOUBLE_FREE_IN_TOP: &str = "double free: {p} ({bytes})";
    pub const FREED_BEFORE_IN_TOP: &str = "invalid {call}: {p} was freed before ({bytes})";
    pub const INSIDE: &str =
        "invalid {call}: {p} is inside a chunk ({bytes} into a block of {bytes})";
    pub const FOREIGN: &str = "invalid {call}: {p} was not allocated here";
    pub const HEAD: &str = "corrupted chunk head: {p}";
    pub const LINK: &str = "corrupted free list link: {any}";
    /// The link of a cached chunk is sealed by its head.
    pub const SEAL: &str = "corrupted free list link: {p}";
}

/// The library as it is, without the caches, and without the depot.
const MODES: Modes = &[
    &[],
    &[("FENCEPOST_CACHE", "0")],
    &[("FENCEPOST_DEPOT", "0")],
];
const NO_CACHE: Modes = &[&[("FENCEPOST_CACHE", "0")]];

type Modes = &'static [&'static [(&'static str, &'static str)]];

/// Pointers that were freed before.
const FREED: &[&str] = &[
    "tiny",
    "cached",
    "medium",
    "large",
    "binned",
    "sorted",
    "coalesced",
    "mapped",
    "big_mapped",
    "buried",
    "moved",
    "freed_by_thread",
    "freed_in_gone_thread",
    "made_by_thread",
];

/// A pointer to what was freed and has become the beginning of top, so that its
/// size is known no more.
const IN_TOP: &[&str] = &["in_top"];

/// Pointers to the middle of a chunk.
const INSIDE: &[&str] = &[
    "inside_small",
    "inside_large",
    "inside_mapped",
    "inside_forged",
    "inside_copied",
    "inside_freed",
    "inside_top",
    "misaligned1",
    "misaligned8",
    "misaligned_mapped",
];

/// Pointers that never came from malloc.
const FOREIGN: &[&str] = &[
    "on_stack",
    "in_static",
    "in_static_forged",
    "constant",
    "code",
    "plain_mmap",
    "plain_mmap_middle",
    "plain_mmap_forged",
    "no_access",
    "unmapped",
    "wild16",
    "wild",
    "non_canonical",
    "kernel_half",
    "last_byte",
    "minus_one",
];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/misuse")
        .join(name)
}

/// Runs one crime in one mode and says what is wrong with its end, if anything.
fn commit(program: &Path, args: &[&str], mode: &[(&str, &str)], expected: &str) -> Option<String> {
    let outcome = Run::new(program).args(args).preload().envs(mode).output();
    let complain = |what: &str| {
        Some(format!(
            "{args:?} {mode:?}: {what}\n    expected: {expected}\n    {}\n    said: {}",
            outcome.status,
            outcome.err().trim_end()
        ))
    };
    if outcome.signal() != Some(libc::SIGABRT) {
        return complain("not ended by SIGABRT");
    }
    let told = outcome.out();
    let Some((address, usable)) = told.trim_end().split_once(' ') else {
        return complain("the program told nothing");
    };
    // realloc to nothing is a free.
    let call = match args[0] {
        "realloc0" => "free",
        call => call,
    };
    let pattern = regex::escape(expected)
        .replace(r"\{p\}", address)
        .replace(r"\{n\}", usable)
        .replace(r"\{call\}", call)
        .replace(r"\{any\}", "0x[0-9a-f]+")
        .replace(r"\{bytes\}", "(1 byte|[0-9]+ bytes)");
    let line = Regex::new(&format!("^fencepost: {pattern}\n$")).expect("a valid expression");
    if !line.is_match(&outcome.err()) {
        return complain("another line");
    }
    None
}

#[track_caller]
fn none(complaints: Vec<String>, of: usize) {
    assert!(of > 0);
    assert!(
        complaints.is_empty(),
        "{} of {of} crimes:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}

/// Hands each kind of bad pointer to each call in each mode.
#[track_caller]
fn hand_over(kinds: &[&str], calls: &[(&str, &str)]) {
    let program = compile_c(&source("pointers.c"), &[]);
    let mut complaints = Vec::new();
    for kind in kinds {
        for (call, expected) in calls {
            for mode in MODES {
                complaints.extend(commit(&program, &[call, kind], mode, expected));
            }
        }
    }
    none(complaints, kinds.len() * calls.len() * MODES.len());
}

#[test]
fn a_double_free_is_caught_wherever_the_chunk_is() {
    let calls = ["free", "realloc0"];
    hand_over(FREED, &calls.map(|call| (call, text::DOUBLE_FREE)));
    hand_over(IN_TOP, &calls.map(|call| (call, text::DOUBLE_FREE_IN_TOP)));
}

#[test]
fn realloc_and_usable_size_refuse_what_was_freed() {
    let calls = ["realloc", "usable_size"];
    hand_over(FREED, &calls.map(|call| (call, text::FREED_BEFORE)));
    hand_over(IN_TOP, &calls.map(|call| (call, text::FREED_BEFORE_IN_TOP)));
}

#[test]
fn pointers_into_the_middle_of_a_chunk_are_refused() {
    let calls = ["free", "realloc", "realloc0", "usable_size"];
    hand_over(INSIDE, &calls.map(|call| (call, text::INSIDE)));
}

#[test]
fn pointers_from_elsewhere_are_refused() {
    let calls = ["free", "realloc", "realloc0", "usable_size"];
    hand_over(FOREIGN, &calls.map(|call| (call, text::FOREIGN)));
}

/// Writes out of bounds or after free, and what is said about them.
const WRITES: &[(&str, Modes, &[&str])] = &[
    (
        text::HEAD,
        MODES,
        &[
            "overflow1",
            "overflow1_nul",
            "overflow8",
            "overflow16",
            "overflow8_medium",
            "overflow8_large",
            "overflow16_large",
            "overflow8_then_own",
            "overflow16_then_own",
            "overflow8_large_then_own",
            "overflow_forged",
            "overflow_realloc",
            "overflow_usable",
            "head_copied",
            "head_bit0",
            "head_bit1",
            "head_bit2",
            "head_bit3",
            "head_bit4",
            "head_bit5",
            "head_bit6",
            "head_bit7",
            "underflow1",
            "underflow8",
            "underflow8_zero",
            "underflow8_large",
            "underflow8_mapped",
            "underflow8_mapped_zero",
            "freed_head_large",
            "top_head",
        ],
    ),
    (text::SEAL, MODES, &["freed_head_small"]),
    // A chunk in a cache has one link only, so its other words are anybody's.
    (text::LINK, NO_CACHE, &["uaf_medium_bk"]),
    (
        text::LINK,
        MODES,
        &[
            "uaf_last",
            "uaf_middle",
            "uaf_first",
            "uaf_heap_pointer",
            "uaf_stack_pointer",
            "uaf_medium_fd",
            "uaf_large_fd",
            "uaf_large_bk",
            "uaf_fd_nextsize",
            "uaf_bk_nextsize",
            "prev_size",
        ],
    ),
];

#[test]
fn overwritten_heads_and_links_are_caught() {
    let program = compile_c(&source("writes.c"), &[]);
    let mut complaints = Vec::new();
    let mut count = 0;
    for (expected, modes, crimes) in WRITES {
        for crime in *crimes {
            for mode in *modes {
                complaints.extend(commit(&program, &[crime], mode, expected));
                count += 1;
            }
        }
    }
    none(complaints, count);
}

#[test]
fn honest_programs_stay_silent() {
    let program = compile_c(&source("good.c"), &[]);
    let kinds = [
        "whole_size",
        "again",
        "nothing",
        "resized",
        "aligned",
        "cleared",
        "with_size",
        "neighbours",
        "lookalikes",
        "across_threads",
    ];
    for kind in kinds {
        for mode in MODES {
            let run = Run::new(&program).arg(kind).preload().envs(mode);
            let outcome = run.output().expect_success(kind);
            assert_eq!(outcome.err(), "", "{kind} {mode:?}");
        }
    }
}

/// The tables above and the programs' own must not drift apart.
#[test]
fn every_crime_of_the_programs_is_tried() {
    let listed: Vec<&str> = [FREED, IN_TOP, INSIDE, FOREIGN]
        .concat()
        .into_iter()
        .chain(
            WRITES
                .iter()
                .flat_map(|(_, _, crimes)| crimes.iter().copied()),
        )
        .collect();
    let entry = Regex::new(r"(?:KIND|CRIME)\((\w+)\)[,\n]").expect("a valid expression");
    let mut seen = 0;
    for name in ["pointers.c", "writes.c"] {
        let code = std::fs::read_to_string(source(name)).expect("the source is there");
        let table = code.split_once("[] = {\n").expect("a table").1;
        for found in entry.captures_iter(table.split_once("\n};").expect("its end").0) {
            if &found[1] != "f" {
                assert!(
                    listed.contains(&&found[1]),
                    "{name}: {} is not tried",
                    &found[1]
                );
                seen += 1;
            }
        }
    }
    assert_eq!(seen, listed.len());
}
