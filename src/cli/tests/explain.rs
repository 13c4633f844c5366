//! `fencepost explain`: names for addresses, in reports that are written by hand here.

mod support;

use std::fs;
use std::process::Command;

use serde_json::json;
use support::reports::*;
use support::{Bench, FENCEPOST};

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
        names_both(
            &lines,
            &source(&bench, "calls.c"),
            place,
            ["inner", "outer"],
        );
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
    let printed = succeed(command.current_dir(source(&bench, "calls.c").parent().unwrap()));
    let expected = format!(
        "#0 inner at calls.c:{}",
        line_of(&source(&bench, "calls.c"), "inner")
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
    names_both(
        &lines,
        &source(&bench, "calls.c"),
        place,
        ["inner", "outer"],
    );
}

#[test]
fn a_rust_program() {
    let bench = Bench::new();
    let object = compile(&bench, "tell.o", &["tell.c"], &["-c", "-O1"]);
    let file = source(&bench, "calls.rs");
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
    names_both(
        &lines,
        &source(&bench, "calls.c"),
        place,
        ["inner", "outer"],
    );
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
