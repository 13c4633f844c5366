//! `fencepost run --guard` with the real library: what it catches is named by its source line.

mod support;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::reports::{line_of, succeed};
use support::{Bench, FENCEPOST, text};

const C: &str = r#"#include <stdlib.h>

static inline __attribute__((always_inline)) void put(volatile char *place, int at) {
    place[at] = 1; // line: write
}

__attribute__((noinline)) static char *make(void) {
    char *made = malloc(100); // line: allocate
    made[0] = 0;
    return made;
}

__attribute__((noinline)) static void drop(char *what) {
    free(what); // line: free
    __asm__ volatile("");
}

__attribute__((noinline)) static void *lose(void) {
    void *lost = malloc(48); // line: lose
    __asm__ volatile("");
    return lost;
}

int main(int count, char **arguments) {
    char *made = make(); // line: call
    switch (arguments[1][0]) {
    case 'o':
        put(made, 111 + count - 1); // line: overflow
        break;
    case 'u':
        drop(made);
        put(made, 5); // line: late
        break;
    case 'd':
        drop(made);
        drop(made); // line: again
        break;
    case 'l':
        drop(made);
        return lose() == 0;
    case 'n':
        drop(made);
        return 7;
    }
    return made[0];
}
"#;

const RUST: &str = r#"use std::hint::black_box;

#[inline(always)]
fn put(bytes: &mut Vec<u8>, at: usize) {
    unsafe { bytes.as_mut_ptr().add(at).write_volatile(1) }; // line: write
}

#[inline(never)]
fn make() -> Vec<u8> {
    black_box(Vec::with_capacity(100)) // line: allocate
}

#[inline(never)]
fn fill(bytes: &mut Vec<u8>) {
    put(bytes, black_box(112)); // line: overflow
    black_box(bytes);
}

fn main() {
    fill(&mut make());
}
"#;

/// The preload library, built as users build it.
fn library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--quiet", "-p", "fencepost-preload"]);
    cargo.arg("--target-dir").arg(target);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    succeed(cargo.env_remove("RUSTFLAGS"));
    target.join("release/libfencepost.so")
}

fn guarded(program: &Path, argument: &str) -> Output {
    let mut command = Command::new(FENCEPOST);
    command.args(["run", "--guard", "--lib"]).arg(library());
    command.arg("--").arg(program).arg(argument);
    // Files are told with their whole names then.
    command.current_dir("/").env_remove("LD_PRELOAD");
    command.output().unwrap()
}

fn c_program(bench: &Bench) -> (PathBuf, PathBuf) {
    let program = bench.path("program");
    let flags = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-builtin", "-w"];
    bench.compile(C, &program, &flags).unwrap();
    (program, bench.path("program.c"))
}

/// The lines of the stack below the line that starts with `title`.
fn stack<'a>(report: &'a str, title: &str) -> Vec<&'a str> {
    let lines = report.lines().skip_while(|line| !line.starts_with(title));
    let stack = lines.skip(1).take_while(|line| line.starts_with("    "));
    stack.collect()
}

/// Whether a line of the stack tells this function at the marked line of the file.
#[track_caller]
fn tells(line: &str, function: &str, file: &Path, mark: &str) {
    let place = format!("{function} at {}:{}", file.display(), line_of(file, mark));
    let behind = line.split_once(&place).map(|(_, behind)| behind);
    assert!(
        behind.is_some_and(|b| b.is_empty() || b.starts_with([':', ' '])),
        "{line}\n{place}"
    );
}

#[test]
fn an_overflow_in_a_c_program() {
    let bench = Bench::new();
    let (program, source) = c_program(&bench);
    let output = guarded(&program, "overflow");
    let report = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{report}");
    let first = report.lines().next().unwrap_or_default();
    let start = "fencepost: heap overflow: write 12 bytes past the end of 0x";
    assert!(
        first.starts_with(start) && first.ends_with(" (100 bytes)"),
        "{report}"
    );
    let fault = stack(&report, "  by thread ");
    tells(fault[0], "put", &source, "write");
    tells(fault[1], "inlined into main", &source, "overflow");
    let allocated = stack(&report, "  allocated by thread ");
    tells(allocated[0], "make", &source, "allocate");
    tells(allocated[1], "main", &source, "call");
}

#[test]
fn an_overflow_in_a_rust_program() {
    let bench = Bench::new();
    let source = bench.path("program.rs");
    fs::write(&source, RUST).unwrap();
    let program = bench.path("program");
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let mut command = Command::new(rustc);
    command.args([
        "--edition=2024",
        "-g",
        "-Copt-level=1",
        "-Cforce-frame-pointers=yes",
    ]);
    succeed(
        command
            .arg("-o")
            .arg(&program)
            .arg(&source)
            .current_dir("/"),
    );
    let output = guarded(&program, "");
    let report = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{report}");
    let start = "fencepost: heap overflow: write 12 bytes past the end of 0x";
    assert!(report.starts_with(start), "{report}");
    // write_volatile itself is the innermost function.
    let fault = stack(&report, "  by thread ");
    let at = fault
        .iter()
        .position(|line| line.contains("program::put at "));
    let at = at.unwrap_or_else(|| panic!("{report}"));
    tells(fault[at], "program::put", &source, "write");
    tells(fault[at + 1], "program::fill", &source, "overflow");
    // The standard library's own functions are the innermost.
    let allocated = stack(&report, "  allocated by thread ");
    let make = allocated
        .iter()
        .find(|line| line.contains("program::make at "));
    tells(
        make.unwrap_or_else(|| panic!("{report}")),
        "program::make",
        &source,
        "allocate",
    );
}

#[test]
fn a_use_after_free_a_double_free_and_a_leak() {
    let bench = Bench::new();
    let (program, source) = c_program(&bench);
    let output = guarded(&program, "use after free");
    let report = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGSEGV), "{report}");
    let start = "fencepost: use after free: write at byte 5 of 0x";
    assert!(report.starts_with(start), "{report}");
    let fault = stack(&report, "  by thread ");
    tells(fault[0], "put", &source, "write");
    tells(fault[1], "main", &source, "late");
    tells(
        stack(&report, "  allocated by ")[0],
        "make",
        &source,
        "allocate",
    );
    tells(stack(&report, "  freed by ")[0], "drop", &source, "free");

    let output = guarded(&program, "double free");
    let report = text(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{report}");
    assert!(report.starts_with("fencepost: double free: 0x"), "{report}");
    let by = stack(&report, "  by thread ");
    tells(by[0], "drop", &source, "free");
    tells(by[1], "main", &source, "again");
    tells(stack(&report, "  freed by ")[0], "drop", &source, "free");

    let output = guarded(&program, "leak");
    let report = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert!(
        report.contains("fencepost: leak: 48 bytes in 1 block "),
        "{report}"
    );
    let leak = &report[report.find("leak: 48 bytes").unwrap()..];
    tells(stack(leak, "  allocated by ")[0], "lose", &source, "lose");

    let output = guarded(&program, "nothing");
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(7));
}
