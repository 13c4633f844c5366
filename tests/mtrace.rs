//! `MALLOC_TRACE`: the log of allocations, read by the C library's own `mtrace` script and
//! compared with the C library's own log.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use support::{Outcome, Run, compile_c};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mtrace/calls.c")
}

fn program() -> PathBuf {
    compile_c(&source(), &[])
}

/// One line of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    /// The module and the offset of the call, if that is told.
    caller: Option<(String, u64)>,
    sign: char,
    address: u64,
    size: u64,
}

/// Reads a whole log, which begins and ends as it must.
#[track_caller]
fn parse(log: &str) -> Vec<Record> {
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.first(), Some(&"= Start"), "{log}");
    assert_eq!(lines.last(), Some(&"= End"), "{log}");
    assert!(log.ends_with('\n'));
    let line = Regex::new(
        r"^(?:@ (?:(/[^ ]+|\./[^ ]+):)?\[(0x[0-9a-f]+)\] )?([-+<>!]) (0x[0-9a-f]+|\(nil\))(?: (0|0x[0-9a-f]+))?$",
    )
    .expect("a valid expression");
    lines[1..lines.len() - 1]
        .iter()
        .map(|text| {
            let found = line.captures(text).unwrap_or_else(|| panic!("{text:?}"));
            let number = |at: usize| {
                found.get(at).map_or(0, |digits| match digits.as_str() {
                    "(nil)" | "0" => 0,
                    digits => u64::from_str_radix(&digits[2..], 16).expect("a number"),
                })
            };
            let sign = found[3].chars().next().expect("a sign");
            assert_eq!(found.get(5).is_some(), !"-<".contains(sign), "{text:?}");
            Record {
                caller: found
                    .get(2)
                    .map(|_| (found.get(1).map_or("", |m| m.as_str()).into(), number(2))),
                sign,
                address: number(4),
                size: number(5),
            }
        })
        .collect()
}

/// A run with a trace, and what was written to it.
fn trace(args: &[&str], environment: &[(&str, &str)]) -> (Outcome, String) {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let log = dir.path().join("log");
    std::fs::write(&log, "what was there before\n").expect("a file can be written");
    let outcome = Run::new(program())
        .args(args)
        .dir(dir.path())
        .preload()
        .env("MALLOC_TRACE", &log)
        .envs(environment)
        .output();
    assert!(!outcome.timed_out, "{args:?}: hung");
    assert_eq!(
        outcome.status.code(),
        Some(3),
        "{args:?}: {}",
        outcome.tail()
    );
    assert_eq!(outcome.err(), "", "{args:?}");
    let text = std::fs::read_to_string(&log).expect("the log can be read");
    (outcome, text)
}

/// What the script says of a log.
fn script(log: &str) -> Option<String> {
    let script = support::program("mtrace")?;
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), log).expect("the log can be written");
    let output = Command::new(script)
        .arg(program())
        .arg(file.path())
        .env_remove("LD_PRELOAD")
        .output()
        .expect("the script can be started");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Blocks that are never freed, by address. Panics where a record cannot be.
fn remaining(records: &[Record]) -> BTreeMap<u64, &Record> {
    let mut live = BTreeMap::new();
    for record in records {
        match record.sign {
            '+' | '>' if record.address != 0 => {
                let before = live.insert(record.address, record);
                assert_eq!(before, None, "{record:x?} was there already");
            }
            '-' | '<' => {
                let gone = live.remove(&record.address);
                assert!(gone.is_some(), "{record:x?} was not there");
            }
            '!' => assert!(live.contains_key(&record.address), "{record:x?}"),
            _ => {}
        }
    }
    live
}

/// Whether the program itself has called, not a library of its.
fn is_programs(record: &Record) -> bool {
    let (module, _) = record.caller.as_ref().expect("a caller");
    Path::new(module) == program()
}

#[test]
fn row_117_the_script_finds_the_leaks_and_their_lines() {
    let (_, log) = trace(&["leaks"], &[]);
    let Some(said) = script(&log) else { return };
    assert!(said.contains("Memory not freed:"), "{said}");
    let code = std::fs::read_to_string(source()).expect("the source is there");
    let marked: BTreeSet<u64> = (1..)
        .zip(code.lines())
        .filter(|(_, line)| line.contains("/* LEAK "))
        .map(|(number, _)| number)
        .collect();
    let entry = Regex::new(r"(?m)^0x[0-9a-f]+ +0x([0-9a-f]+)  at (\S+):(\d+)$")
        .expect("a valid expression");
    let mut found: Vec<(u64, u64)> = entry
        .captures_iter(&said)
        .map(|found| {
            assert_eq!(Path::new(&found[2]), source(), "{said}");
            let size = u64::from_str_radix(&found[1], 16).expect("a size");
            (found[3].parse().expect("a line"), size)
        })
        .collect();
    found.sort_unstable();
    let sizes: Vec<u64> = found.iter().map(|(_, size)| *size).collect();
    let lines: BTreeSet<u64> = found.iter().map(|(line, _)| *line).collect();
    assert_eq!(
        sizes,
        [30, 20, 50_000, 60, 64, 70, 80, 300_000, 90],
        "{said}"
    );
    assert_eq!(lines, marked, "{said}");
    // The notes' own example.
    assert!(said.contains("     0x1e  at "), "{said}");
}

#[test]
fn row_117_the_script_finds_no_leak_where_there_is_none() {
    for kind in ["clean", "every_call", "arrays", "forks"] {
        let (_, log) = trace(&[kind], &[]);
        let records = parse(&log);
        assert!(remaining(&records).is_empty(), "{kind}");
        assert!(records.iter().all(is_programs), "{kind}: {log}");
        if let Some(said) = script(&log) {
            assert_eq!(said, "No memory leaks.\n", "{kind}");
        }
    }
}

/// The C library's own: in a library of its own since 2.34.
fn debug_library() -> Option<PathBuf> {
    let found = ["/lib", "/lib64", "/usr/lib"]
        .iter()
        .flat_map(|dir| {
            let arch = std::env::consts::ARCH;
            [dir.to_string(), format!("{dir}/{arch}-linux-gnu")]
        })
        .map(|dir| Path::new(&dir).join("libc_malloc_debug.so.0"))
        .find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: there is no libc_malloc_debug.so.0");
    }
    found
}

/// Records with blocks numbered as they come instead of addresses.
fn numbered(records: &[Record]) -> Vec<(u64, char, usize, u64)> {
    let mut numbers: BTreeMap<u64, usize> = BTreeMap::new();
    let mut next = 1;
    records
        .iter()
        .map(|record| {
            let number = match record.sign {
                _ if record.address == 0 => 0,
                '+' | '>' => {
                    numbers.insert(record.address, next);
                    next += 1;
                    next - 1
                }
                _ => numbers[&record.address],
            };
            let (_, offset) = record.caller.as_ref().expect("a caller");
            (*offset, record.sign, number, record.size)
        })
        .collect()
}

/// The same calls, blocks, sizes and places; but for ours being the call, theirs what follows it.
/// (`reallocarray` is left out, which calls realloc from inside their library, and `pvalloc`, whose
/// size they round up one byte too far.)
#[test]
fn row_117_the_log_is_the_c_librarys() {
    let Some(debug) = debug_library() else { return };
    for kind in ["leaks", "clean", "every_call"] {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let log = dir.path().join("log");
        let outcome = Run::new(program())
            .arg(kind)
            .env("LD_PRELOAD", &debug)
            .env("MALLOC_TRACE", &log)
            .output();
        assert_eq!(outcome.status.code(), Some(3), "{}", outcome.tail());
        let theirs = std::fs::read_to_string(&log).expect("the log can be read");
        let (_, ours) = trace(&[kind], &[]);
        let (ours, theirs) = (parse(&ours), parse(&theirs));
        assert!(ours.iter().all(is_programs), "{ours:?}");
        let theirs: Vec<_> = numbered(&theirs)
            .into_iter()
            .map(|(offset, sign, number, size)| (offset - 1, sign, number, size))
            .collect();
        assert_eq!(numbered(&ours), theirs, "{kind}");
    }
}

#[test]
fn only_what_lies_between_mtrace_and_muntrace_is_traced() {
    let (_, log) = trace(&["leaks"], &[]);
    let sizes: Vec<u64> = parse(&log).iter().map(|record| record.size).collect();
    assert!(sizes.contains(&30));
    assert!(!sizes.contains(&1234) && !sizes.contains(&4321), "{log}");
    // Who does not call mtrace() has no trace, and the file stays as it was.
    let (_, log) = trace(&["leaks", "quietly"], &[]);
    assert_eq!(log, "what was there before\n");
    let (_, log) = trace(&["leaks"], &[("MALLOC_TRACE", "")]);
    assert_eq!(log, "what was there before\n");
}

#[test]
fn a_whole_process_can_be_traced() {
    for args in [&["leaks", "quietly"][..], &["leaks"]] {
        let (_, log) = trace(args, &[("FENCEPOST_MTRACE", "1")]);
        let records = parse(&log);
        let of = |size: u64| records.iter().filter(|r| r.size == size).count();
        assert_eq!((of(1234), of(30)), (1, 2), "{log}");
        // muntrace() ends it, otherwise the process does.
        assert_eq!(of(4321), args.len() - 1, "{log}");
        let sizes: Vec<u64> = remaining(&records).values().map(|r| r.size).collect();
        assert_eq!(sizes.contains(&1234), args.len() == 1, "{log}");
        assert!(sizes.contains(&300_000), "{log}");
    }
}

#[test]
fn guarded_blocks_are_traced_all_the_same() {
    for kind in ["clean", "every_call", "arrays", "threads"] {
        let guarded = [("FENCEPOST_GUARD", "1"), ("FENCEPOST_GUARD_LEAKS", "0")];
        let (_, log) = trace(&[kind], &guarded);
        let records = parse(&log);
        assert!(
            !remaining(&records).values().any(|r| is_programs(r)),
            "{kind}"
        );
        let (_, log) = trace(&[kind], &[]);
        assert_eq!(records.len(), parse(&log).len(), "{kind}");
    }
}

#[test]
fn threads_do_not_mix_their_records() {
    let (_, log) = trace(&["threads"], &[]);
    let records = parse(&log);
    let count = |sign: char| records.iter().filter(|r| r.sign == sign).count();
    assert_eq!((count('<'), count('>'), count('!')), (2000, 2000, 0));
    assert!(!remaining(&records).values().any(|r| is_programs(r)));
    // The C library allocates something for each thread, too.
    assert!(
        count('+') >= 4000 && count('-') >= 4000,
        "{}",
        records.len()
    );
    for pair in records.windows(2).filter(|pair| pair[0].sign == '<') {
        assert_eq!(pair[1].sign, '>');
    }
}

#[test]
fn a_child_does_not_write_into_its_parents_trace() {
    let (_, log) = trace(&["forks"], &[]);
    let sizes: Vec<u64> = parse(&log).iter().map(|record| record.size).collect();
    assert!(sizes.contains(&111) && !sizes.contains(&222), "{log}");
}

#[test]
fn a_program_that_closes_our_file_finds_nothing_of_ours_in_its_own() {
    let (outcome, log) = trace(&["closes"], &[]);
    assert_eq!(outcome.out(), "0\n", "bytes in the program's file");
    assert!(
        log.starts_with("= Start\n") && log.contains(" 0x14d\n"),
        "{log}"
    );
    assert!(!log.contains(" 0x1bc\n"), "{log}");
}

#[test]
fn errno_is_kept() {
    trace(&["keeps_errno"], &[]);
}

#[test]
fn a_file_that_cannot_be_written_is_said_once() {
    let path = "/nonexistent/directory/log";
    let outcome = Run::new(program())
        .arg("leaks")
        .preload()
        .env("MALLOC_TRACE", path)
        .output();
    assert_eq!(outcome.status.code(), Some(3));
    let line = format!("fencepost: MALLOC_TRACE: cannot write {path} (errno 2)\n");
    assert_eq!(outcome.err(), line.repeat(2), "one for each mtrace()");
}

#[test]
fn each_process_can_have_a_file_of_its_own() {
    let dir = tempfile::tempdir().expect("a directory can be made");
    let outcome = Run::new(program())
        .arg("leaks")
        .preload()
        .env("MALLOC_TRACE", dir.path().join("log.%p.%%"))
        .output();
    assert_eq!(outcome.status.code(), Some(3));
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .expect("the directory can be read")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into()
        })
        .collect();
    let name = Regex::new(r"^log\.\d+\.%%$").expect("a valid expression");
    assert!(names.len() == 1 && name.is_match(&names[0]), "{names:?}");
}
