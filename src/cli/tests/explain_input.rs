//! What `fencepost explain` reads and prints: JSON, logs, what is neither; suppressed leaks.

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use support::reports::*;
use support::{Bench, FENCEPOST, OWN, refused, text};

#[test]
fn json_is_the_report_with_symbols() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let place = &places(&program, false)[0];
    let mut given = report(&[place.frame(), json!({"pc": "0x12"})]);
    // What we know nothing of stays too, in its order.
    given["unknown"] = json!({"z": [1, null], "a": "\u{1b}ü"});
    let stack = json!([place.frame()]);
    given["block"] = json!({"size": 100, "allocated": {"stack": stack}, "freed": null});
    let given = format!("{given}\n");
    let printed = explained(&["--json"], given.as_bytes());
    let mut read: Value = serde_json::from_str(&printed).unwrap();
    let calls = source(&bench, "calls.c");
    let mut symbols = read["fault"]["stack"][0]["symbols"].clone();
    for symbol in symbols.as_array_mut().unwrap() {
        symbol.as_object_mut().unwrap().remove("column");
    }
    let expected = json!([
        {"function": "inner", "file": calls, "line": line_of(&calls, "inner")},
        {"function": "outer", "file": calls, "line": line_of(&calls, "outer")},
    ]);
    assert_eq!(symbols, expected);
    assert_eq!(read["fault"]["stack"][1]["symbols"], json!([]));
    let allocated = &read["block"]["allocated"]["stack"][0]["symbols"];
    assert_eq!(allocated[1]["function"], "outer");
    for stack in ["/fault/stack", "/block/allocated/stack"] {
        for frame in read.pointer_mut(stack).unwrap().as_array_mut().unwrap() {
            frame.as_object_mut().unwrap().remove("symbols").unwrap();
        }
    }
    assert_eq!(format!("{read}\n"), given, "nothing else changed");
}

#[test]
fn a_log_passes_but_for_its_frames() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let place = &places(&program, false)[0];
    let before = b"starting\xff\n\n{\"level\": 1}\n\x1b[1mbold\x1b[m\r\n#0 nothing\n\
        fencepost: double free: 0x1000 (100 bytes), freed 1 operation ago\n  by thread 1 (x):\n";
    let after = b"{broken\nthe end, without a line feed";
    let frame = format!("\t  #0 {}\n", place.raw());
    let log = [&before[..], frame.as_bytes(), after].concat();
    let output = explain(&[], &log);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    let middle = output.stdout.strip_prefix(&before[..]).unwrap();
    let middle = text(middle.strip_suffix(&after[..]).unwrap());
    let lines: Vec<String> = middle
        .lines()
        .map(|line| format!("    {}", line.trim_start()))
        .collect();
    let lines: Vec<String> = lines
        .iter()
        .map(|line| line.replace("    inlined", "       inlined"))
        .collect();
    names_both(
        &lines,
        &source(&bench, "calls.c"),
        place,
        ["inner", "outer"],
    );
    assert!(middle.starts_with("\t  #0 inner"), "{middle}");
    // A report in JSON among other lines.
    let log = format!("hello\n{}\n", report(&[place.frame()]));
    let printed = explained(&[], log);
    assert!(
        printed.starts_with("hello\nfencepost: double free: "),
        "{printed}"
    );
    assert!(printed.contains("inlined into outer"), "{printed}");
}

#[test]
fn what_is_no_report_is_refused_by_its_line_and_nothing_else_is_lost() {
    let bench = Bench::new();
    let good = report(&[]).to_string();
    let torn = &good[..40];
    let lines = format!("{good}\n\nnonsense\n{torn}{good}\n{{\"fencepost\":7}}\n{good}\n{torn}");
    let file = bench.path("reports.json");
    fs::write(&file, lines).unwrap();
    for json in [false, true] {
        let mut command = Command::new(FENCEPOST);
        command
            .arg("explain")
            .args(json.then_some("--json"))
            .arg(&file);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(OWN));
        let errors = text(&output.stderr);
        let errors: Vec<&str> = errors.lines().collect();
        let start = format!("fencepost: {}: ", file.display());
        for (error, part) in errors.iter().zip([
            "line 3: column 2: ",
            "line 4: ",
            "line 5: it has a format that this version does not know",
            "line 7: it is cut off: ",
            "4 lines are no reports",
        ]) {
            let rest = error.strip_prefix(&start);
            assert!(
                rest.is_some_and(|rest| rest.starts_with(part)),
                "{errors:#?}"
            );
        }
        assert_eq!(errors.len(), 5, "{errors:#?}");
        let printed = text(&output.stdout);
        assert_eq!(
            printed.matches("double free: 0x1000").count(),
            3,
            "{printed}"
        );
    }
    let mut command = Command::new(FENCEPOST);
    command.args(["explain", "/no/such/file"]);
    refused(&mut command, OWN, &["/no/such/file: No such file"]);
    let mut command = Command::new(FENCEPOST);
    command.arg("explain").arg(bench.dir.path());
    refused(&mut command, OWN, &["directory"]);
    // Whoever asks for JSON gets nothing else.
    let output = explain(&["--json"], format!("hello\n{good}\n"));
    assert_eq!(output.status.code(), Some(OWN));
    assert_eq!(text(&output.stdout), format!("{good}\n"));
    assert_eq!(explained(&[], ""), "");
}

#[test]
fn a_report_cannot_speak_to_the_terminal() {
    let mut odd = report(&[json!({"pc": "0x1", "module": "/a\u{1b}[2Jb", "offset": "0x1"})]);
    odd["message"] = "m\u{1b}]0;x\u{7}\nfencepost: forged".into();
    odd["truncated"] = true.into();
    odd["fault"]["name"] = "t\u{9b}".into();
    let printed = explained(&[], odd.to_string());
    assert!(
        printed.chars().all(|c| c == '\n' || !c.is_control()),
        "{printed:?}"
    );
    assert_eq!(printed.lines().count(), 4);
    assert!(printed.ends_with("  (stacks or names were too long and are cut short)\n"));
}

#[test]
fn leaks_that_nobody_wants_to_hear_of_are_counted_only() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let place = &places(&program, false)[0];
    let other = json!({"pc": "0x1", "module": "/opt/libother.so.1", "offset": "0x1"});
    let sum = json!({"fencepost": 1, "kind": "leaks", "lost": {"blocks": 5, "bytes": 96},
        "reachable": {"blocks": 7, "bytes": 1000}, "complete": true});
    let reports = [
        leak(80, 2, &[json!({"pc": "0x1"}), place.frame()]),
        leak(16, 3, std::slice::from_ref(&other)),
        report(&[place.frame(), other]),
        sum,
    ];
    let reports: String = reports.iter().map(|report| format!("{report}\n")).collect();
    let list = bench.path("list");
    fs::write(&list, "# a comment\n\n  libother.so*  \nnone-such\n").unwrap();
    let list = list.to_str().unwrap();

    let all = explained(&[], &reports);
    assert!(all.contains("leak: 80 bytes in 2 blocks are lost"), "{all}");
    let sum = "leaks: 96 bytes in 5 blocks lost, 1000 bytes in 7 blocks still reachable\n";
    assert!(all.ends_with(&format!("fencepost: {sum}")), "{all}");
    assert_eq!(explained(&["--suppress", "out"], &reports), all);
    for pattern in ["inner", "out*", "calls.c", "*/src/*", "program"] {
        let printed = explained(&["--suppress", pattern], &reports);
        assert!(!printed.contains("leak: 80"), "{pattern}: {printed}");
        assert!(printed.contains("leak: 16 bytes"), "{pattern}: {printed}");
        assert!(printed.contains("double free"), "{pattern}: only leaks");
        let end = "fencepost: leaks: 16 bytes in 3 blocks lost, 1000 bytes in 7 blocks still \
            reachable\nfencepost: 1 leak report suppressed: 80 bytes in 2 blocks\n";
        assert!(printed.ends_with(end), "{pattern}: {printed}");
    }
    let both = ["--suppressions", list, "--suppress", "inner"];
    let printed = explained(&both, &reports);
    let end = "\nfencepost: 2 leak reports suppressed: 96 bytes in 5 blocks\n";
    assert!(printed.ends_with(end), "{printed}");
    assert!(!printed.contains("leak: "), "{printed}");
    let printed = explained(&["--json", "--suppressions", list], &reports);
    let last: Value = serde_json::from_str(printed.lines().last().unwrap()).unwrap();
    let expected = json!({"fencepost": 1, "kind": "suppressed", "reports": 1, "blocks": 3,
        "bytes": 16});
    assert_eq!(last, expected);
    let mut command = Command::new(FENCEPOST);
    command.args(["explain", "--suppressions", "/no/such/list", "-"]);
    refused(&mut command, OWN, &["/no/such/list: No such file"]);
}

#[test]
fn it_prints_while_it_reads() {
    use std::io::{BufRead, BufReader};
    let mut command = Command::new(FENCEPOST);
    command.args(["explain", "-"]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    for line in ["first\n", "second\n"] {
        stdin.write_all(line.as_bytes()).unwrap();
        let mut read = String::new();
        stdout.read_line(&mut read).unwrap();
        assert_eq!(read, line);
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
