//! `fencepost explain`: names for addresses, in reports that are written by hand here.

mod support;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::{Bench, FENCEPOST, OWN, refused, text};

/// Where a program was, as it told itself.
#[derive(Debug, Clone)]
struct Place {
    pc: u64,
    offset: u64,
    module: String,
}

impl Place {
    fn frame(&self) -> Value {
        json!({
            "pc": format!("{:#x}", self.pc),
            "module": self.module,
            "offset": format!("{:#x}", self.offset),
        })
    }

    /// As it stands in a log, and behind the names.
    fn raw(&self) -> String {
        format!("{:#x} {}+{:#x}", self.pc, self.module, self.offset)
    }
}

fn source(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/explain");
    path.join(name)
}

/// The line that a comment in the source names.
fn line_of(file: &Path, name: &str) -> usize {
    let text = fs::read_to_string(file).unwrap();
    let mark = format!("// line: {name}");
    let found = text.lines().position(|line| line.ends_with(&mark));
    found.unwrap_or_else(|| panic!("{} has no {mark}", file.display())) + 1
}

fn succeed(command: &mut Command) -> String {
    let output = command.env_remove("LD_PRELOAD").output().unwrap();
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    text(&output.stdout)
}

/// Compiles sources of ours; `/` keeps debug information free of other paths.
fn compile(bench: &Bench, name: &str, sources: &[&str], flags: &[&str]) -> PathBuf {
    let path = bench.path(name);
    let mut command = Command::new("cc");
    command.args(sources.iter().map(|name| source(name)));
    command.args(flags).arg("-o").arg(&path);
    succeed(command.current_dir("/"));
    path
}

/// Runs a program and reads what its calls told. `fixed`: it lies where its file says.
fn places(program: &Path, fixed: bool) -> Vec<Place> {
    let told = succeed(&mut Command::new(program));
    let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
    told.lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let pc = number(words.next().unwrap());
            let base = number(words.next().unwrap());
            Place {
                pc,
                offset: if fixed { pc } else { pc - base },
                module: words.next().unwrap().to_string(),
            }
        })
        .collect()
}

/// A report of a double free with this stack, all of it return addresses.
fn report(frames: &[Value]) -> Value {
    json!({
        "fencepost": 1,
        "kind": "double free",
        "message": "double free: 0x1000 (100 bytes), freed 1 operation ago",
        "pid": 1,
        "operation": 9,
        "fault": {"thread": 7, "name": "main", "stack": frames},
    })
}

fn leak(bytes: u64, blocks: u64, frames: &[Value]) -> Value {
    json!({
        "fencepost": 1,
        "kind": "leak",
        "message": format!("leak: {bytes} bytes in {blocks} blocks are lost"),
        "reachable": false,
        "blocks": blocks,
        "bytes": bytes,
        "allocated": {"thread": 7, "stack": frames},
    })
}

fn explain(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut command = Command::new(FENCEPOST);
    command.arg("explain").args(arguments).arg("-");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    // Names of files are relative to the current directory, if they are below it.
    command.current_dir("/");
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.as_ref().to_vec();
    // It prints while it reads.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

#[track_caller]
fn explained(arguments: &[&str], input: impl AsRef<[u8]>) -> String {
    let output = explain(arguments, input);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    text(&output.stdout)
}

/// The stack of a report of one frame, as it is printed.
fn stack(arguments: &[&str], frame: Value) -> Vec<String> {
    let printed = explained(arguments, report(&[frame]).to_string());
    let mut lines = printed.lines().map(str::to_string);
    assert_eq!(
        lines.next().unwrap(),
        "fencepost: double free: 0x1000 (100 bytes), freed 1 operation ago"
    );
    assert_eq!(lines.next().unwrap(), "  by thread 7 (main):");
    lines.collect()
}

/// The two lines of a call in an inlined function; columns are the compiler's affair.
#[track_caller]
fn names_both(lines: &[String], file: &Path, place: &Place, functions: [&str; 2]) {
    let [inner, outer] = lines else {
        panic!("{lines:#?}");
    };
    let at =
        |name: &str, mark: &str| format!("{name} at {}:{}", file.display(), line_of(file, mark));
    let start = format!("    #0 {}", at(functions[0], "inner"));
    let end = format!("  ({})", place.raw());
    assert!(inner.starts_with(&start), "{inner}\n{start}");
    assert!(inner.ends_with(&end), "{inner}\n{end}");
    let column = &inner[start.len()..inner.len() - end.len()];
    assert!(is_column(column), "{column}");
    let start = format!("       inlined into {}", at(functions[1], "outer"));
    assert!(outer.starts_with(&start), "{outer}\n{start}");
    assert!(is_column(&outer[start.len()..]), "{outer}");
}

fn is_column(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    text.is_empty() || digits.is_some_and(|text| text.parse::<u32>().is_ok())
}

#[test]
fn c_programs_at_any_and_at_fixed_addresses() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    for (name, flags, fixed) in [
        ("pie", &["-O1", "-g", "-fPIE", "-pie"][..], false),
        ("fixed", &["-O1", "-g", "-fno-pie", "-no-pie"], true),
        ("optimised", &["-O2", "-g"], false),
        ("packed", &["-O1", "-g", "-gz"], false),
    ] {
        let program = compile(&bench, name, &sources, flags);
        let place = &places(&program, fixed)[0];
        assert_eq!(place.module, program.to_str().unwrap());
        let lines = stack(&[], place.frame());
        names_both(&lines, &source("calls.c"), place, ["inner", "outer"]);
    }
}

#[test]
fn files_below_the_current_directory_are_told_shortly() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let place = &places(&program, false)[0];
    let file = bench.path("report");
    fs::write(&file, report(&[place.frame()]).to_string()).unwrap();
    let mut command = Command::new(FENCEPOST);
    command.arg("explain").arg(&file);
    let printed = succeed(command.current_dir(source("calls.c").parent().unwrap()));
    let expected = format!(
        "#0 inner at calls.c:{}",
        line_of(&source("calls.c"), "inner")
    );
    assert!(printed.contains(&expected), "{printed}");
}

#[test]
fn a_shared_library() {
    let bench = Bench::new();
    let flags = ["-O1", "-g", "-shared", "-fPIC"];
    let library = compile(&bench, "libcalls.so", &["calls.c", "tell.c"], &flags);
    let flags = [library.to_str().unwrap(), "-O1"];
    let program = compile(&bench, "program", &["main.c"], &flags);
    let place = &places(&program, false)[0];
    assert_eq!(place.module, library.to_str().unwrap());
    let lines = stack(&[], place.frame());
    names_both(&lines, &source("calls.c"), place, ["inner", "outer"]);
}

#[test]
fn a_rust_program() {
    let bench = Bench::new();
    let object = compile(&bench, "tell.o", &["tell.c"], &["-c", "-O1"]);
    let file = source("calls.rs");
    for mangling in [None, Some("-Csymbol-mangling-version=v0")] {
        let program = bench.path("program");
        let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
        let mut command = Command::new(rustc);
        command.args([
            "--edition=2024",
            "--crate-name=calls",
            "-g",
            "-Copt-level=1",
        ]);
        command.args(mangling).arg("-o").arg(&program).arg(&file);
        command.arg(format!("-Clink-arg={}", object.display()));
        succeed(command.current_dir(bench.dir.path()));
        let place = &places(&program, false)[0];
        let lines = stack(&[], place.frame());
        // The older mangling, which a compiler may have given up, says less.
        let outer = match mangling.is_some() || lines[1].contains('<') {
            true => "<calls::Outer>::outer",
            false => "calls::Outer::outer",
        };
        let names = ["calls::module::inner", outer];
        names_both(&lines, &file, place, names);
    }
}

#[test]
fn the_innermost_frame_of_a_fault_is_the_instruction_itself() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let symbols = succeed(Command::new("nm").arg(&program));
    let outer = symbols.lines().find(|line| line.ends_with(" T outer"));
    let start = u64::from_str_radix(outer.unwrap().split(' ').next().unwrap(), 16).unwrap();
    let place = Place {
        pc: start + 0x5500_0000_0000,
        offset: start,
        module: program.to_str().unwrap().into(),
    };
    // What lies in front of the function's first instruction is not of it.
    let mut fault = report(&[place.frame(), place.frame()]);
    fault["signal"] = 11.into();
    fault["block"] = json!({"allocated": {"thread": 7, "operation": 8, "stack": [place.frame()]},
        "freed": {"operation": 2, "stack": []}});
    let printed = explained(&[], fault.to_string());
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[2].starts_with("    #0 outer at "), "{printed}");
    assert!(!printed.contains("#1 outer"), "{printed}");
    assert_eq!(printed.matches("#0 outer").count(), 1, "{printed}");
    assert!(
        printed.contains("\n  allocated by thread 7, 1 operation ago:\n"),
        "{printed}"
    );
    assert!(
        printed.ends_with("\n  freed by thread, 7 operations ago:\n"),
        "{printed}"
    );
    // The same in a log.
    let log = |first: &str, who: &str| {
        let log = format!(
            "fencepost: {first}\n  {who} by thread 1:\n    #0 {}\n",
            place.raw()
        );
        explained(&[], log).contains("#0 outer at ")
    };
    assert!(log("null pointer: read at 0x8", ""));
    assert!(!log("null pointer: read at 0x8", "allocated"));
    assert!(!log(
        "double free: 0x1000 (100 bytes), freed 1 operation ago",
        ""
    ));
    assert!(!log(
        "heap overflow: byte 1 of 0x1 (1 byte) was overwritten, found at free",
        ""
    ));
}

#[test]
fn without_debug_information_symbol_tables_tell_the_name() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    for (name, flags) in [
        ("plain", &["-O1", "-g0"][..]),
        // Only what the loader needs.
        ("stripped", &["-O1", "-g0", "-rdynamic", "-s"]),
    ] {
        let program = compile(&bench, name, &sources, flags);
        let place = &places(&program, false)[0];
        let lines = stack(&[], place.frame());
        assert_eq!(lines.len(), 1);
        let offset = lines[0].strip_prefix("    #0 outer+0x");
        let offset = offset.and_then(|rest| rest.strip_suffix(&format!("  ({})", place.raw())));
        let offset = offset.unwrap_or_else(|| panic!("{}", lines[0]));
        let offset = u64::from_str_radix(offset, 16).unwrap();
        assert!((1..64).contains(&offset), "{offset} behind the start");
    }
    let program = compile(&bench, "nothing", &sources, &["-O1", "-g0", "-s"]);
    let place = &places(&program, false)[0];
    assert_eq!(
        stack(&[], place.frame()),
        [format!("    #0 {}", place.raw())]
    );
}

#[test]
fn names_of_other_languages_are_made_readable() {
    let bench = Bench::new();
    let program = compile(&bench, "names", &["names.c", "tell.c"], &["-O1", "-g0"]);
    let names: Vec<String> = places(&program, false)
        .iter()
        .map(|place| {
            let lines = stack(&[], place.frame());
            let name = lines[0].split("+0x").next().unwrap();
            name.trim_start_matches("    #0 ").to_string()
        })
        .collect();
    let expected = [
        "space::thing<int>::fill(unsigned int)",
        "crate::module::fill",
        "crate::module::fill",
    ];
    assert_eq!(names, expected);
}

#[test]
fn debug_information_in_a_file_of_its_own() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let id = "0123456789abcdef0123456789abcdef01234567";
    let build_id = format!("-Wl,--build-id=0x{id}");
    let program = compile(&bench, "program", &sources, &["-O1", "-g", &build_id]);
    let debug = bench.path("debug");
    let directory = debug.join(".build-id/01");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join(format!("{}.debug", &id[2..]));
    let mut command = Command::new("objcopy");
    succeed(command.arg("--only-keep-debug").args([&program, &file]));
    succeed(Command::new("strip").arg(&program));
    let place = &places(&program, false)[0];
    assert_eq!(
        stack(&[], place.frame()),
        [format!("    #0 {}", place.raw())]
    );
    let lines = stack(&["--debug-dir", debug.to_str().unwrap()], place.frame());
    names_both(&lines, &source("calls.c"), place, ["inner", "outer"]);
    // One that is damaged is as good as none.
    fs::write(&file, "no debug information").unwrap();
    let lines = stack(&["--debug-dir", debug.to_str().unwrap()], place.frame());
    assert_eq!(lines, [format!("    #0 {}", place.raw())]);
}

#[test]
fn what_is_not_there_or_no_program_leaves_the_frame_as_it_is() {
    let bench = Bench::new();
    let pipe = bench.path("pipe");
    succeed(Command::new("mkfifo").arg(&pipe));
    let words = bench.file("words", "no program");
    let directory = bench.dir.path();
    for module in [
        "[vdso]",
        "/no/such/program",
        "/usr/bin/program (deleted)",
        "/dev/zero",
        "program",
        "",
        pipe.to_str().unwrap(),
        words.to_str().unwrap(),
        directory.to_str().unwrap(),
    ] {
        let place = Place {
            pc: 0x1234,
            offset: 0x34,
            module: module.into(),
        };
        let expected = format!("    #0 {}", place.raw());
        assert_eq!(stack(&[], place.frame()), [expected]);
    }
    assert_eq!(stack(&[], json!({"pc": "0x12"})), ["    #0 0x12"]);
    let frame = json!({"pc": "0x12", "module": null, "offset": null});
    assert_eq!(stack(&[], frame), ["    #0 0x12"]);
}

#[test]
fn damaged_programs_are_read_as_far_as_they_go() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let place = places(&program, false).remove(0);
    let whole = fs::read(&program).unwrap();
    let mut frames = Vec::new();
    let mut add = |bytes: &[u8]| {
        let module = bench.path(&format!("damaged{}", frames.len()));
        fs::write(&module, bytes).unwrap();
        let module = module.to_str().unwrap().to_string();
        let place = Place { module, ..place };
        frames.push(place.frame());
    };
    for part in 0..50 {
        add(&whole[..whole.len() * part / 50]);
    }
    // xorshift: the same damage every time.
    let mut state = 12345_u64;
    for _ in 0..50 {
        let mut bytes = whole.clone();
        for _ in 0..200 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = (state >> 8) as usize % bytes.len();
            bytes[at] = state as u8;
        }
        add(&bytes);
    }
    let printed = explained(&[], report(&frames).to_string());
    for index in 0..frames.len() {
        assert!(printed.contains(&format!("\n    #{index} ")), "{printed}");
    }
}

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
    let calls = source("calls.c");
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
    names_both(&lines, &source("calls.c"), place, ["inner", "outer"]);
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
    odd["fault"]["name"] = "t\u{9b}".into();
    let printed = explained(&[], odd.to_string());
    assert!(
        printed.chars().all(|c| c == '\n' || !c.is_control()),
        "{printed:?}"
    );
    assert_eq!(printed.lines().count(), 3);
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
    for pattern in ["inner", "out*", "calls.c", "*/tests/explain/*", "program"] {
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
