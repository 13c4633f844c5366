//! Programs that tell where they are, reports of them, and what `fencepost explain` prints.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use super::sources::SOURCES;
use super::{Bench, FENCEPOST, text};

/// Where a program was, as it told itself.
#[derive(Debug, Clone)]
pub struct Place {
    pub pc: u64,
    pub offset: u64,
    pub module: String,
}

impl Place {
    pub fn frame(&self) -> Value {
        json!({
            "pc": format!("{:#x}", self.pc),
            "module": self.module,
            "offset": format!("{:#x}", self.offset),
        })
    }

    /// As it stands in a log, and behind the names.
    pub fn raw(&self) -> String {
        format!("{:#x} {}+{:#x}", self.pc, self.module, self.offset)
    }
}

/// One of the sources, as a file.
pub fn source(bench: &Bench, name: &str) -> PathBuf {
    let found = SOURCES.iter().find(|(known, _)| *known == name);
    let (_, text) = found.unwrap_or_else(|| panic!("no source {name}"));
    fs::create_dir_all(bench.path("src")).unwrap();
    let path = bench.path("src").join(name);
    fs::write(&path, text).unwrap();
    path
}

/// The line that a comment in the source names.
pub fn line_of(file: &Path, name: &str) -> usize {
    let text = fs::read_to_string(file).unwrap();
    let mark = format!("// line: {name}");
    let found = text.lines().position(|line| line.ends_with(&mark));
    found.unwrap_or_else(|| panic!("{} has no {mark}", file.display())) + 1
}

pub fn succeed(command: &mut Command) -> String {
    let output = command.env_remove("LD_PRELOAD").output().unwrap();
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    text(&output.stdout)
}

/// Compiles sources of ours; `/` keeps debug information free of other paths.
pub fn compile(bench: &Bench, name: &str, sources: &[&str], flags: &[&str]) -> PathBuf {
    let path = bench.path(name);
    let mut command = Command::new("cc");
    command.args(sources.iter().map(|name| source(bench, name)));
    command.args(flags).arg("-o").arg(&path);
    succeed(command.current_dir("/"));
    path
}

/// Runs a program and reads what its calls told. `fixed`: it lies where its file says.
pub fn places(program: &Path, fixed: bool) -> Vec<Place> {
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
pub fn report(frames: &[Value]) -> Value {
    json!({
        "fencepost": 1,
        "kind": "double free",
        "message": "double free: 0x1000 (100 bytes), freed 1 operation ago",
        "pid": 1,
        "operation": 9,
        "fault": {"thread": 7, "name": "main", "stack": frames},
    })
}

pub fn leak(bytes: u64, blocks: u64, frames: &[Value]) -> Value {
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

pub fn explain(arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
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
pub fn explained(arguments: &[&str], input: impl AsRef<[u8]>) -> String {
    let output = explain(arguments, input);
    assert_eq!(text(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
    text(&output.stdout)
}

/// The stack of a report of one frame, as it is printed.
pub fn stack(arguments: &[&str], frame: Value) -> Vec<String> {
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
pub fn names_both(lines: &[String], file: &Path, place: &Place, functions: [&str; 2]) {
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

pub fn is_column(text: &str) -> bool {
    let digits = text.strip_prefix(':');
    text.is_empty() || digits.is_some_and(|text| text.parse::<u32>().is_ok())
}
