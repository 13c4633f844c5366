//! Leaks under full guard: what nothing leads to is told at exit and on demand, by stack, and what
//! anything leads to is not.
//!
//! Each block that a program loses has a size of its own, so that what is reported is compared in
//! full: neither more nor less.

mod support;

use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::Value;
use support::{Outcome, Run, compile_c};

fn program() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/leaks/leaks.c");
    compile_c(&source, &["-fno-omit-frame-pointer", "-rdynamic"])
}

/// One run with its reports.
struct Told {
    outcome: Outcome,
    json: Vec<Value>,
}

fn run(kind: &str, environment: &[(&str, &str)]) -> Told {
    let report = tempfile::NamedTempFile::new().expect("a file can be made");
    let outcome = Run::new(program())
        .arg(kind)
        .preload()
        .env("FENCEPOST_GUARD", "1")
        .env("FENCEPOST_GUARD_REPORT", report.path())
        .envs(environment)
        .output();
    assert!(!outcome.timed_out, "{kind}: hung\n{}", outcome.tail());
    let text = std::fs::read_to_string(report.path()).expect("the report can be read");
    let json = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    Told { outcome, json }
}

/// Blocks and bytes of each group, as text, in the order told.
fn groups(outcome: &Outcome) -> Vec<(u64, u64)> {
    let line = Regex::new(r"(?m)^fencepost: leak: (\d+) bytes? in (\d+) blocks? (?:is|are) lost$")
        .expect("a valid expression");
    line.captures_iter(&outcome.err())
        .map(|found| {
            let number = |at: usize| found[at].parse().expect("a number");
            (number(2), number(1))
        })
        .collect()
}

fn json_groups(json: &[Value]) -> Vec<(u64, u64)> {
    json.iter()
        .filter(|line| line["kind"] == "leak")
        .map(|line| {
            assert_eq!(line["fencepost"], 1, "{line}");
            assert_eq!(line["reachable"], false, "{line}");
            let number = |key: &str| line[key].as_u64().expect("a number");
            (number("blocks"), number("bytes"))
        })
        .collect()
}

/// Expects the groups, largest first, of a program that exits with `status`.
#[track_caller]
fn loses(kind: &str, status: i32, expected: &[(u64, u64)]) -> Told {
    let told = run(kind, &[]);
    let err = told.outcome.err();
    assert_eq!(told.outcome.status.code(), Some(status), "{kind}:\n{err}");
    assert_eq!(groups(&told.outcome), expected, "{kind}:\n{err}");
    assert_eq!(json_groups(&told.json), expected, "{kind}:\n{err}");
    let last = err.lines().last().unwrap_or_default();
    if expected.is_empty() {
        assert_eq!(err, "", "{kind}");
        assert!(told.json.is_empty(), "{kind}: {:?}", told.json);
    } else {
        let sum = |at: fn(&(u64, u64)) -> u64| expected.iter().map(at).sum::<u64>();
        let (blocks, bytes) = (sum(|g| g.0), sum(|g| g.1));
        let plural = if blocks == 1 { "" } else { "s" };
        let start = format!("fencepost: leaks: {bytes} bytes in {blocks} block{plural} lost, ");
        assert!(last.starts_with(&start), "{kind}: {last}");
        let sums = told.json.last().expect("a last line");
        assert_eq!(sums["kind"], "leaks");
        assert_eq!(sums["lost"]["blocks"], blocks);
        assert_eq!(sums["lost"]["bytes"], bytes);
        assert_eq!(sums["complete"], true);
    }
    told
}

#[track_caller]
fn keeps(kinds: &[&str]) {
    for kind in kinds {
        loses(kind, 3, &[]);
    }
}

#[test]
fn row_106_live_blocks_are_listed_at_exit() {
    let told = loses("lost", 3, &[(1, 1001)]);
    let err = told.outcome.err();
    // Who, when, and where, as an address in the program's file.
    let detail = Regex::new(
        r"  allocated by thread \d+ \(\S+\), \d+ operations? ago:\n    #0 0x[0-9a-f]+ (\S+)\+0x[0-9a-f]+\n",
    )
    .expect("a valid expression");
    let found = detail.captures(&err).unwrap_or_else(|| panic!("{err}"));
    assert_eq!(Path::new(&found[1]), program(), "{err}");
    let frame = &told.json[0]["allocated"]["stack"][0];
    assert_eq!(frame["module"].as_str().map(Path::new), Some(&*program()));
    let offset = frame["offset"].as_str().expect("an offset");
    assert!(err.contains(&format!("+{offset}\n")), "{err}");
}

#[test]
fn a_program_that_loses_nothing_is_left_alone() {
    keeps(&["silent"]);
}

#[test]
fn groups_are_by_stack_and_the_largest_comes_first() {
    loses("grouped", 3, &[(2, 800), (5, 500)]);
}

#[test]
fn what_statics_lead_to_is_kept() {
    keeps(&["in_static", "interior", "past_end", "chain", "in_main_tls"]);
    loses("beyond_end", 3, &[(1, 1013)]);
}

#[test]
fn rings_of_lost_blocks_are_lost() {
    loses("ring", 3, &[(1, 1033), (1, 1032), (1, 1031), (1, 1030)]);
}

#[test]
fn blocks_of_every_call_and_size_are_looked_at() {
    loses(
        "other_calls",
        3,
        &[(1, 1044), (1, 1043), (1, 1042), (1, 1041)],
    );
    loses("large", 3, &[(1, 3 << 20)]);
    keeps(&["in_large"]);
}

#[test]
fn the_programs_own_mappings_are_roots() {
    keeps(&["in_mapping"]);
}

#[test]
fn a_frame_that_is_alive_at_exit_is_a_root() {
    loses("on_stack", 5, &[]);
}

#[test]
fn stacks_and_registers_of_live_threads_are_roots() {
    keeps(&["thread_blocked", "thread_running", "thread_tls"]);
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        keeps(&["thread_register"]);
    }
}

#[test]
fn a_thread_that_blocks_signals_keeps_what_its_stack_holds() {
    keeps(&["thread_deaf"]);
    let told = loses("thread_deaf_lost", 3, &[(1, 1074)]);
    let line = "fencepost: leaks: 1 thread did not stop; what only registers hold there counts \
                as lost\n";
    assert!(told.outcome.err().contains(line), "{}", told.outcome.err());
    assert_eq!(told.json.last().expect("a line")["silent"], 1);
}

#[test]
fn what_only_ended_threads_had_is_lost() {
    loses("thread_ended", 3, &[(1, 1080)]);
    loses("thread_tls_ended", 3, &[(1, 1081)]);
}

#[test]
fn many_threads_and_new_ones_are_stopped() {
    loses("thread_many", 3, &[(1, 1076)]);
    loses("thread_restless", 3, &[(1, 1077)]);
}

#[test]
fn a_child_reports_for_itself() {
    let told = run("fork_child", &[]);
    assert_eq!(told.outcome.status.code(), Some(3));
    // Both lost the parent's block; the child's own is its alone.
    let of = |bytes: u64| -> Vec<u64> {
        let of_size = told.json.iter().filter(|line| line["bytes"] == bytes);
        of_size
            .map(|line| line["pid"].as_u64().expect("an id"))
            .collect()
    };
    let (parents, childs) = (of(1090), of(1091));
    assert_eq!((parents.len(), childs.len()), (2, 1), "{:?}", told.json);
    assert_eq!(parents[0], childs[0]);
    assert_ne!(parents[0], parents[1]);
}

#[test]
fn a_program_may_ask_and_goes_on() {
    let told = run("on_demand", &[]);
    assert_eq!(
        told.outcome.status.code(),
        Some(0),
        "{}",
        told.outcome.tail()
    );
    assert_eq!(
        told.outcome.out(),
        "0\n1\n2\nread\n",
        "{}",
        told.outcome.tail()
    );
    assert_eq!(groups(&told.outcome), [(1, 1100), (1, 1101), (1, 1100)]);
}

#[test]
fn leaks_are_suppressed_by_function_module_and_place() {
    let told = loses("by_name", 3, &[(1, 1002)]);
    let stack = told.json[0]["allocated"]["stack"]
        .as_array()
        .expect("a stack");
    let text = |value: &Value| value.as_str().expect("a string").to_string();
    let (module, offset) = (text(&stack[0]["module"]), text(&stack[0]["offset"]));
    let file = Path::new(&module).file_name().expect("a name");
    for pattern in [
        "lose_by_name",
        "lose_*",
        "*by*name*",
        "nothing:lose_by_nam*",
        &module,
        &format!("*/{}", file.to_string_lossy()),
        &format!("{module}+{offset}"),
        &format!("*+{offset}"),
        "*",
    ] {
        let told = run("by_name", &[("FENCEPOST_GUARD_SUPPRESS", pattern)]);
        assert_eq!(told.outcome.err(), "", "{pattern}");
        assert!(told.json.is_empty(), "{pattern}: {:?}", told.json);
    }
    for pattern in [
        "lose_by",
        "by_name",
        "",
        ":",
        "lose_?y_name",
        "*lose_by_names",
    ] {
        let told = run("by_name", &[("FENCEPOST_GUARD_SUPPRESS", pattern)]);
        assert_eq!(groups(&told.outcome), [(1, 1002)], "{pattern}");
    }
    // What is suppressed is counted where something else is told.
    let told = run(
        "thread_deaf_lost",
        &[("FENCEPOST_GUARD_SUPPRESS", "nobody")],
    );
    assert!(!told.outcome.err().contains("suppressed"));
    let told = run(
        "fork_child",
        &[("FENCEPOST_GUARD_SUPPRESS", "*+0x0:hold_on_stack")],
    );
    assert_eq!(groups(&told.outcome).len(), 3, "{}", told.outcome.err());
}

#[test]
fn a_sampled_run_says_that_it_saw_only_some() {
    let sampled = ("FENCEPOST_GUARD", "2");
    let told = run("many", &[sampled]);
    assert_eq!(told.outcome.err(), "", "not unless asked for");
    let told = run("many", &[sampled, ("FENCEPOST_GUARD_LEAKS", "1")]);
    let err = told.outcome.err();
    assert_eq!(told.outcome.status.code(), Some(3));
    let found = groups(&told.outcome);
    let blocks: u64 = found.iter().map(|group| group.0).sum();
    // One in two of 2000, at random.
    assert!((700..1300).contains(&blocks), "{err}");
    assert!(
        err.contains("fencepost: leaks: only guarded blocks were looked at, which are not all\n"),
        "{err}"
    );
    assert!(told.json.iter().all(|line| line["complete"] == false));
}

#[test]
fn the_search_can_be_switched_off_and_the_text_too() {
    let told = run("lost", &[("FENCEPOST_GUARD_LEAKS", "0")]);
    assert_eq!((told.outcome.err(), told.json.len()), (String::new(), 0));
    let told = run("lost", &[("FENCEPOST_GUARD_TEXT", "0")]);
    assert_eq!(told.outcome.err(), "");
    assert_eq!(json_groups(&told.json), [(1, 1001)]);
    // Without guard mode there is nothing to look at.
    let outcome = Run::new(program()).arg("lost").preload().output();
    assert_eq!(
        (outcome.err(), outcome.status.code()),
        (String::new(), Some(3))
    );
}
