//! The inventory's rows whose part in diagnostics belongs to guard mode.

mod support;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use serde_json::Value;
use support::{Outcome, Run, compile_c};

const SEGV: i32 = 11;
const ABRT: i32 = 6;
const MAPERR: i64 = 1;
const ACCERR: i64 = 2;

/// Plays a row of `tests/guard/rows.c`; its reports as JSON.
fn play(row: &str, how: &str) -> (Outcome, Vec<Value>) {
    let report = tempfile::NamedTempFile::new().expect("a file can be made");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/rows.c");
    let outcome = Run::new(compile_c(&source, &["-fno-omit-frame-pointer"]))
        .args([row, how])
        .preload()
        .env("FENCEPOST_GUARD", "1")
        .env("FENCEPOST_GUARD_REPORT", report.path())
        .output();
    assert!(!outcome.timed_out, "hung\n{}", outcome.tail());
    let text = std::fs::read_to_string(report.path()).expect("the report can be read");
    let json = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    (outcome, json)
}

/// Plays a row that is an error: its one report, and the address that it printed.
#[track_caller]
fn caught(row: &str, how: &str, signal: i32) -> (Value, String) {
    let (outcome, mut json) = play(row, how);
    assert_eq!(outcome.signal(), Some(signal), "{}", outcome.tail());
    assert_eq!(json.len(), 1, "{json:?}");
    let report = json.remove(0);
    let told = format!("fencepost: {}\n", report["message"].as_str().expect("text"));
    assert!(outcome.err().starts_with(&told), "{told}{}", outcome.tail());
    (report, outcome.out().trim().to_owned())
}

#[track_caller]
fn assert_silent(row: &str) {
    let (outcome, json) = play(row, "");
    assert_eq!(json, Vec::<Value>::new());
    assert_eq!(outcome.expect_success(row).err(), "");
}

#[test]
fn row_032_a_guard_ends_in_a_segmentation_fault() {
    let (report, address) = caught("32", "", SEGV);
    assert_eq!(report["kind"], "heap overflow");
    assert_eq!(report["signal"], SEGV);
    let code = report["code"].as_i64();
    assert!(matches!(code, Some(MAPERR | ACCERR)), "{report}");
    assert_eq!(report["address"], address);
    assert_eq!(report["access"], "write");
}

#[test]
fn row_034_the_same_instruction_faults_again() {
    let (outcome, json) = play("34", "");
    let outcome = outcome.expect_success("a tracer");
    let out = outcome.out();
    let lines: Vec<&str> = out.lines().collect();
    let [first, again, signal] = lines[..] else {
        panic!("not stopped twice: {out}");
    };
    assert_eq!((first, signal), (again, "11"));
    assert_eq!(json.len(), 1, "one report: {json:?}");
    assert_eq!(json[0]["address"], first);
}

#[test]
fn row_046_an_access_beside_null_is_named() {
    let (report, _) = caught("46", "", SEGV);
    assert_eq!(report["message"], "null pointer: read at 0x8");
    assert_eq!(report["address"], "0x8");
    assert_eq!(report["code"].as_i64(), Some(MAPERR));
}

#[test]
fn row_082_an_object_of_no_bytes_is_all_guard() {
    assert_silent("82");
    let (report, _) = caught("82", "write", SEGV);
    assert_eq!(report["kind"], "heap overflow");
    assert_eq!(report["distance"], 0);
    assert_eq!(report["block"]["size"], 0);
}

#[test]
fn row_084_a_dangling_pointer_is_explained() {
    assert_silent("84");
    let (report, _) = caught("84", "read", SEGV);
    assert_eq!(report["kind"], "use after free");
    assert_eq!(report["access"], "read");
    let block = &report["block"];
    assert_eq!(
        (&block["state"], &block["size"]),
        (&"freed".into(), &100.into())
    );
    let when = |event: &str| block[event]["operation"].as_u64().expect("a number");
    assert_eq!(when("freed"), when("allocated") + 1);
}

#[test]
fn row_085_a_double_free_is_explained() {
    for size in ["10", "100", "5000", "1000000"] {
        let (report, _) = caught("85", size, ABRT);
        assert_eq!(report["kind"], "double free", "{size}");
        assert_eq!(report["block"]["size"].to_string(), size);
    }
}

#[test]
fn row_086_a_free_of_a_wild_pointer_is_explained() {
    for (how, why) in [
        (
            "inside",
            "is inside a chunk (16 bytes into a block of 64 bytes)",
        ),
        (
            "misaligned",
            "is inside a chunk (1 byte into a block of 64 bytes)",
        ),
        ("stack", "was not allocated here: it lies on a stack"),
        ("static", "was not allocated here: it is static data of "),
    ] {
        let (report, _) = caught("86", how, ABRT);
        let message = report["message"].as_str().expect("text");
        assert!(message.starts_with("invalid free: 0x"), "{message}");
        assert!(message.contains(why), "{how}: {message}");
    }
}

#[test]
fn row_088_a_leak_is_listed_with_its_call_site() {
    let (outcome, json) = play("88", "");
    let outcome = outcome.expect_success("leaks change no exit status");
    let told = "fencepost: leak: 10 bytes in 1 block is lost\n";
    assert!(outcome.err().starts_with(told), "{}", outcome.tail());
    let leak = json.iter().find(|line| line["kind"] == "leak");
    let leak = leak.expect("a leak is told");
    assert_eq!((&leak["blocks"], &leak["bytes"]), (&1.into(), &10.into()));
    let site = leak["allocated"]["stack"][0]["module"].as_str();
    assert!(site.is_some_and(|module| module.contains("rows")), "{leak}");
}

#[test]
fn row_122_a_page_that_the_program_protected_is_told_as_such() {
    let (report, address) = caught("122", "", SEGV);
    assert_eq!(report["address"], address);
    assert_eq!(report["code"].as_i64(), Some(ACCERR));
    assert_eq!(report["kind"], "write to read-only memory");
}

#[test]
fn row_120_reports_keep_the_kernels_codes() {
    for (row, codes) in [
        ("32", &[MAPERR, ACCERR][..]),
        ("46", &[MAPERR]),
        ("122", &[ACCERR]),
    ] {
        let (report, _) = caught(row, "", SEGV);
        let code = report["code"].as_i64().expect("a fault has a code");
        assert!(codes.contains(&code), "row {row}: {report}");
    }
}

/// Guards need addresses; where a limit leaves few, fewer objects rest, and nothing fails.
#[test]
fn row_124_limits_of_the_shell_are_kept() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/rows.c");
    let program = compile_c(&source, &["-fno-omit-frame-pointer"]);
    let limited = |limit: &str, row: &str| {
        let script = format!("ulimit {limit} && exec \"$0\" {row}");
        Run::new("/bin/sh")
            .args(["-c", &script])
            .arg(&program)
            .preload()
            .env("FENCEPOST_GUARD", "1")
            .env("FENCEPOST_GUARD_LEAKS", "0")
            .output()
    };
    let small = limited("-v 1000000", "84").expect_success("a gigabyte of addresses");
    assert_eq!(small.err(), "");
    let without_core = limited("-c 0", "32");
    assert_eq!(without_core.signal(), Some(SEGV), "{}", without_core.tail());
    assert!(!without_core.status.core_dumped());
    assert!(without_core.err().starts_with("fencepost: heap overflow"));
}
