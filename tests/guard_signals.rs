//! Guard mode beside programs that handle SIGSEGV and SIGBUS themselves, and beside those that do
//! not: what a program sees, and how it ends, is the same as without guard mode. All that guard
//! mode adds is a report where nobody else had anything to say.

mod support;

use regex::Regex;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{Outcome, Run, compile_c};

const GUARD: &[(&str, &str)] = &[("FENCEPOST_GUARD", "1")];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/guard_signals")
        .join(name)
}

fn signals() -> PathBuf {
    compile_c(&source("signals.c"), &["-fno-omit-frame-pointer"])
}

fn guarded(program: &Path, args: &[&str]) -> Outcome {
    Run::new(program).args(args).preload().envs(GUARD).output()
}

/// The first lines of reports.
fn sentences(outcome: &Outcome) -> Vec<String> {
    let all = outcome.err();
    let all = all.lines().filter(|line| line.starts_with("fencepost: "));
    all.map(str::to_owned).collect()
}

/// Runs programs alone and in guard mode; the same must be seen of them, and exactly these
/// sentences be said.
#[track_caller]
fn compare(programs: &[(&str, &[&str])]) {
    let binary = signals();
    let mut complaints = Vec::new();
    for (name, expected) in programs {
        let alone = Run::new(&binary).arg(name).output();
        let beside = guarded(&binary, &[name]);
        let said = sentences(&beside);
        let right = said.len() == expected.len()
            && said.iter().zip(*expected).all(|(said, expected)| {
                Regex::new(&format!("^fencepost: {expected}$"))
                    .expect("a valid expression")
                    .is_match(said)
            });
        if alone.timed_out
            || beside.timed_out
            || alone.status != beside.status
            || alone.stdout != beside.stdout
            || !right
        {
            complaints.push(format!(
                "{name}: alone {}\n{}\nguarded {}\n{}",
                alone.status,
                alone.tail(),
                beside.status,
                beside.tail()
            ));
        }
        // A program that sees nothing and ends well would pass whatever happened.
        assert!(!alone.out().contains("failed"), "{name}: {}", alone.tail());
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n\n"));
}

const NULL: &str = "null pointer: write at 0x18";
const OVERFLOW: &str = "stack overflow at 0x[0-9a-f]+";

#[test]
fn a_programs_own_handler_is_called_as_the_kernel_would() {
    compare(&[
        ("info", &[]),
        ("plain", &[]),
        ("names", &[]),
        ("mask", &[]),
        ("nodefer", &[]),
        ("fault_in_handler", &[]),
        ("onstack", &[]),
        ("resume", &[]),
        ("codes", &[]),
        ("chain", &[]),
        ("bus_handled", &[]),
        ("vfork", &[]),
    ]);
}

#[test]
fn a_write_barrier_works_in_silence() {
    compare(&[("barrier", &[])]);
}

#[test]
fn a_handler_that_gives_up_leaves_the_report_to_us() {
    compare(&[
        ("resethand", &[NULL]),
        ("resets", &[NULL]),
        ("raises", &[NULL]),
        ("fork", &[NULL]),
    ]);
}

#[test]
fn handlers_that_only_the_kernel_was_told_of_are_found() {
    compare(&[
        ("raw", &[]),
        ("raw_passes_on", &[]),
        ("raw_puts_back", &[NULL]),
        ("raw_puts_back_late", &[NULL]),
        ("raw_resets", &[NULL]),
    ]);
}

#[test]
fn signals_that_somebody_sent_are_no_faults() {
    compare(&[
        ("sent", &[]),
        ("sent_handled", &[]),
        ("ignored", &[NULL]),
        ("inherited", &[]),
    ]);
}

#[test]
fn faults_are_reported_wherever_they_happen() {
    compare(&[
        ("thread", &[NULL]),
        ("deep", &[NULL]),
        ("in_handler", &[NULL]),
        (
            "bus",
            &[r"fault at 0x[0-9a-f]+ that is not of the heap \(signal 7, code 2\)"],
        ),
        ("tiny", &[NULL]),
        ("overflow", &[OVERFLOW]),
        ("thread_overflow", &[OVERFLOW]),
        ("tiny_overflow", &[OVERFLOW]),
        // The kernel ends who has blocked the signal, and asks nobody.
        ("blocked", &[]),
    ]);
}

#[test]
fn of_faults_at_once_one_is_reported_whole() {
    let binary = signals();
    let line = Regex::new(r"^(fencepost: null pointer: write at 0x18|  by thread \d+ \(.*\):|    #\d+ 0x[0-9a-f]+( /.*\+0x[0-9a-f]+)?)$").expect("a valid expression");
    for _ in 0..5 {
        let outcome = guarded(&binary, &["together"]);
        assert_eq!(outcome.signal(), Some(libc::SIGSEGV), "{}", outcome.tail());
        assert_eq!(sentences(&outcome).len(), 1, "{}", outcome.tail());
        for said in outcome.err().lines() {
            assert!(line.is_match(said), "{said}\n{}", outcome.tail());
        }
    }
}

/// The functions of a fault by their addresses in the program, innermost first.
fn frames(outcome: &Outcome, program: &Path) -> Vec<usize> {
    let path = program.canonicalize().expect("the program is there");
    let name = regex::escape(&path.to_string_lossy());
    let frame = Regex::new(&format!(r"#\d+ 0x[0-9a-f]+ {name}\+0x([0-9a-f]+)")).expect("valid");
    let text = outcome.err();
    frame
        .captures_iter(&text)
        .map(|found| usize::from_str_radix(&found[1], 16).expect("a number"))
        .collect()
}

/// The functions of a program: where they lie, how long they are, their names.
fn functions(program: &Path) -> Vec<(usize, usize, String)> {
    use object::{Object, ObjectSymbol};
    let bytes = std::fs::read(program).expect("the program can be read");
    let file = object::File::parse(&*bytes).expect("the program is an ELF file");
    file.symbols()
        .filter(|symbol| symbol.kind() == object::SymbolKind::Text)
        .map(|symbol| {
            let name = symbol.name().expect("names are UTF-8").to_owned();
            (symbol.address() as usize, symbol.size() as usize, name)
        })
        .collect()
}

#[test]
fn the_stack_of_a_fault_names_every_caller() {
    let binary = signals();
    let known = functions(&binary);
    let outcome = guarded(&binary, &["deep"]);
    let names: Vec<&str> = frames(&outcome, &binary)
        .into_iter()
        .map(|at| {
            let holds = |f: &&(usize, usize, String)| at >= f.0 && at <= f.0 + f.1;
            known.iter().find(holds).map_or("?", |f| f.2.as_str())
        })
        .collect();
    assert_eq!(names.first(), Some(&"crash"), "{}", outcome.tail());
    assert!(names.len() >= 10, "{}", outcome.tail());
    assert!(names[1..].iter().all(|name| *name == "many"), "{names:?}");
}

#[test]
fn threads_are_lent_alternate_stacks() {
    let outcome = guarded(&signals(), &["stacks"]).expect_success("stacks");
    // The next thread may be there before the last one is quite gone.
    let different = outcome.out().trim().replace(" different", "");
    let different: u32 = different.parse().expect("a number");
    assert!((1..=4).contains(&different), "{}", outcome.tail());
}

fn compile_rust(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guard_signals");
    std::fs::create_dir_all(&directory).expect("the test directory can be written");
    let program = directory.join(format!("{name}-{}", std::process::id()));
    let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let status = Command::new(compiler)
        .args(["-O", "--edition=2021", "-Cforce-frame-pointers=yes"])
        .arg(source(&format!("{name}.rs")))
        .arg("-o")
        .arg(&program)
        .env_remove("LD_PRELOAD")
        .status()
        .expect("rustc can be started");
    assert!(status.success());
    program
}

#[test]
fn rusts_report_of_an_overflowed_stack_still_appears() {
    let program = compile_rust("overflow");
    for place in ["main", "thread"] {
        let alone = Run::new(&program).args(["overflow", place]).output();
        let beside = guarded(&program, &["overflow", place]);
        for outcome in [&alone, &beside] {
            assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{}", outcome.tail());
            let said = outcome.err();
            assert!(said.contains("has overflowed its stack"), "{said}");
        }
        assert_eq!(sentences(&beside), [""; 0], "{}", beside.tail());
        // Its handler knows what it does not know.
        let null = guarded(&program, &["null", place]);
        assert_eq!(null.signal(), Some(libc::SIGSEGV), "{}", null.tail());
        assert_eq!(
            sentences(&null),
            ["fencepost: null pointer: read at 0x10"],
            "{}",
            null.tail()
        );
    }
    std::fs::remove_file(program).expect("the program can be removed");
}

/// The instruction in the first thread of a core dump.
#[cfg(target_arch = "x86_64")]
fn core_instruction(core: &Path) -> usize {
    use object::Endianness;
    use object::read::elf::{FileHeader, ProgramHeader};
    let bytes = std::fs::read(core).expect("the core can be read");
    let header = object::elf::FileHeader64::<Endianness>::parse(&*bytes).expect("an ELF file");
    let endian = header.endian().expect("a known endianness");
    let segments = header
        .program_headers(endian, &*bytes)
        .expect("there are segments");
    for segment in segments {
        let notes = segment.notes(endian, &*bytes).expect("notes can be read");
        let Some(mut notes) = notes else { continue };
        while let Some(note) = notes.next().expect("a note can be read") {
            // The status of a thread: 112 bytes, then the registers, of which the 16th is rip.
            if note.n_type(endian) == object::elf::NT_PRSTATUS {
                let at = 112 + 16 * 8;
                let bytes = note.desc()[at..at + 8].try_into().expect("eight bytes");
                return usize::from_le_bytes(bytes);
            }
        }
    }
    panic!("the core holds no thread");
}

#[test]
fn row_121_a_core_dump_after_the_report() {
    let directory = tempfile::tempdir().expect("a temporary directory can be made");
    let run = |preload: bool| {
        let run = Run::new(signals()).arg("core").dir(directory.path());
        let outcome = if preload {
            run.preload().envs(GUARD).output()
        } else {
            run.output()
        };
        assert_eq!(outcome.signal(), Some(libc::SIGSEGV), "{}", outcome.tail());
        let cores = std::fs::read_dir(directory.path())
            .expect("the directory can be read")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with("core"))
            });
        (outcome, cores)
    };
    let (alone, core) = run(false);
    if let Some(core) = core {
        std::fs::remove_file(core).expect("the core can be removed");
    }
    let (beside, core) = run(true);
    assert_eq!(beside.stdout, alone.stdout);
    assert_eq!(
        sentences(&beside),
        [format!("fencepost: {NULL}")],
        "{}",
        beside.tail()
    );
    assert_eq!(beside.status.core_dumped(), alone.status.core_dumped());
    if !alone.status.core_dumped() {
        let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
        println!(
            "no core dumps here (limit told: {}, pattern: {}): only the signal was compared",
            alone.out().trim(),
            pattern.trim()
        );
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(core) = core {
        let said = beside.err();
        let first = Regex::new("#0 0x([0-9a-f]+)").expect("a valid expression");
        let first = &first.captures(&said).expect("there is a stack")[1];
        assert_eq!(format!("{:x}", core_instruction(&core)), first);
        println!("the core begins at the instruction of the report");
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = core;
}
