//! The workloads: what is run, and how.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::allocators::{Skipped, find_program, output_of};
use crate::inputs::Inputs;

/// What kind of program a workload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    /// A program as distributions ship it.
    Real,
    /// A Rust program of this package.
    Rust,
    /// A load made to stress one thing.
    Synthetic,
    /// A load in the manner of the well-known allocator benchmarks.
    Classic,
}

/// A program to run under each allocator.
pub struct Workload {
    /// The row's name.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// How many threads allocate at the same time.
    pub threads: u32,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// What it reads.
    pub stdin: Option<String>,
    /// What its environment holds beside the common part.
    pub environment: Vec<(String, String)>,
    /// How often it is run within one measurement.
    pub repeat: u32,
    /// A script that drives the program as a server.
    pub driver: Option<String>,
    /// The program is linked to an allocator's library: without a preload that
    /// would serve it, so glibc has to be preloaded as the others are.
    pub bundled: bool,
}

/// Where the parts of workloads lie.
pub struct Places<'a> {
    /// The directory of `compare-load` and `compare-rust`.
    pub binaries: &'a Path,
    /// The scripts.
    pub programs: &'a Path,
    /// The inputs.
    pub inputs: &'a Inputs,
    /// A directory with a short name, for sockets.
    pub scratch: &'a Path,
    /// The length of each workload, in percent.
    pub percent: u64,
}

/// A real program in one line: its name, the program, its arguments.
type Line = (&'static str, &'static str, Vec<String>);

/// All workloads that can be run here, and those that cannot.
pub fn all(places: &Places<'_>) -> Result<(Vec<Workload>, Vec<Skipped>)> {
    let mut workloads = Vec::new();
    let mut skipped = Vec::new();
    for (name, program, arguments) in real(places) {
        match find_program(program) {
            Some(path) => {
                workloads.push(adapt(plain(name, Group::Real, 1, &path, arguments), places))
            }
            None => skipped.push(Skipped {
                name: name.to_owned(),
                reason: format!("{program} is not installed"),
            }),
        }
    }
    let percent = places.percent.to_string();
    let rust = places.binaries.join("compare-rust");
    for (name, threads) in [("maps", 1), ("json", 1), ("vectors", 1), ("channels", 2)] {
        let arguments = vec![name.to_owned(), percent.clone()];
        workloads.push(plain(
            &format!("rust-{name}"),
            Group::Rust,
            threads,
            &rust,
            arguments,
        ));
    }
    let load = places.binaries.join("compare-load");
    let list = output_of(&load.to_string_lossy(), &["--list"])
        .with_context(|| format!("{} does not run", load.display()))?;
    for line in list.lines() {
        let [name, threads, group] = line.split(' ').collect::<Vec<_>>()[..] else {
            bail!("`{line}` is not a name, a number and a group");
        };
        let group = match group {
            "classic" => Group::Classic,
            _ => Group::Synthetic,
        };
        let arguments = vec![name.to_owned(), percent.clone()];
        workloads.push(plain(name, group, threads.parse()?, &load, arguments));
    }
    ensure!(!workloads.is_empty(), "there is nothing to run");
    Ok((workloads, skipped))
}

fn plain(
    name: &str,
    group: Group,
    threads: u32,
    program: &Path,
    arguments: Vec<String>,
) -> Workload {
    let mut command = vec![program.to_string_lossy().into_owned()];
    command.extend(arguments);
    Workload {
        name: name.to_owned(),
        group,
        threads,
        command,
        stdin: None,
        environment: Vec::new(),
        repeat: 1,
        driver: None,
        bundled: false,
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn real(places: &Places<'_>) -> Vec<Line> {
    let percent = places.percent.to_string();
    let input = |name: &str| places.inputs.path(name);
    let script = |name: &str| places.programs.join(name).to_string_lossy().into_owned();
    let scripted = |name: &str| vec![script(name), percent.clone()];
    let git = |rest: &str| {
        let mut arguments = vec!["--git-dir".to_owned(), input("repository")];
        arguments.extend(words(rest));
        arguments
    };
    let last = (places.percent * 5).clamp(20, 500);
    let revisions: Vec<String> = (0..places.percent.clamp(8, 100) / 4)
        .map(|back| format!("main~{}", back * 15))
        .collect();
    let revisions = revisions.join(" ");
    vec![
        ("python-objects", "python3", scripted("objects.py")),
        ("python-dicts", "python3", scripted("dicts.py")),
        ("python-json", "python3", scripted("documents.py")),
        ("python-lists", "python3", scripted("lists.py")),
        ("perl-hashes", "perl", scripted("hashes.pl")),
        ("perl-strings", "perl", scripted("strings.pl")),
        ("lua-tables", "lua5.4", scripted("tables.lua")),
        ("lua-strings", "lua5.4", scripted("strings.lua")),
        (
            "gawk-words",
            "gawk",
            vec!["-f".into(), script("words.awk"), input("text")],
        ),
        (
            "gawk-arrays",
            "gawk",
            vec![
                "-v".into(),
                format!("rounds={}", places.percent.div_ceil(4)),
                "-f".into(),
                script("arrays.awk"),
            ],
        ),
        ("bc-numbers", "bc", vec!["-q".into(), script("numbers.bc")]),
        ("python-numbers", "python3", scripted("numbers.py")),
        (
            "ruby-objects",
            "ruby",
            vec![
                "--disable-gems".into(),
                script("objects.rb"),
                percent.clone(),
            ],
        ),
        (
            "php-records",
            "php",
            vec!["-n".into(), script("records.php"), percent.clone()],
        ),
        ("tcl-lists", "tclsh", scripted("lists.tcl")),
        ("sqlite-memory", "sqlite3", words(":memory:")),
        ("redis-server", "redis-server", Vec::new()),
        ("git-log", "git", git(&format!("log -p --stat -n {last}"))),
        (
            "git-pack",
            "git",
            git(
                "-c pack.threads=1 pack-objects --all --revs --no-reuse-delta --no-reuse-object --stdout -q",
            ),
        ),
        (
            "git-grep",
            "git",
            git(&format!(
                "grep --threads=2 -c -i -E st[a-z]*kus|fiba {revisions}"
            )),
        ),
        (
            "gcc-c",
            "gcc",
            ["-O2", "-S", "-w", "-o", "-", &input("code.c")]
                .map(str::to_owned)
                .to_vec(),
        ),
        (
            "gcc-c++",
            "g++",
            ["-O1", "-S", "-w", "-o", "-", &input("code.cc")]
                .map(str::to_owned)
                .to_vec(),
        ),
        (
            "sort",
            "sort",
            vec![
                "-k2,2n".into(),
                "-k1,1".into(),
                "-S".into(),
                "64M".into(),
                "--parallel=1".into(),
                input("lines"),
            ],
        ),
        ("bash-loops", "bash", scripted("loops.sh")),
        (
            "jq",
            "jq",
            vec![
                "-c".into(),
                "-f".into(),
                script("reshape.jq"),
                input("records.json"),
            ],
        ),
        (
            "xmllint",
            "xmllint",
            vec!["--format".into(), input("document.xml")],
        ),
        ("start-true", "true", Vec::new()),
        (
            "start-python",
            "python3",
            vec!["-S".into(), "-c".into(), "pass".into()],
        ),
    ]
}

/// What a few real programs need beside their command line.
fn adapt(mut workload: Workload, places: &Places<'_>) -> Workload {
    let percent = places.percent;
    match workload.name.as_str() {
        // Python's own small-object allocator would hide what is measured.
        "python-objects" | "python-dicts" | "python-numbers" => {
            workload
                .environment
                .push(("PYTHONMALLOC".to_owned(), "malloc".to_owned()));
        }
        // As would php's.
        "php-records" => {
            workload
                .environment
                .push(("USE_ZEND_ALLOC".to_owned(), "0".to_owned()));
        }
        "bc-numbers" => {
            let rounds = format!("{}\n", percent * 8);
            workload.stdin = Some(written(places, "rounds", &rounds));
        }
        "sqlite-memory" => {
            let script = include_str!("../programs/database.sql")
                .replace("@ROWS@", &(percent * 600).to_string());
            workload.stdin = Some(written(places, "database.sql", &script));
        }
        "git-grep" => workload.threads = 2,
        "start-true" => workload.repeat = (3 * percent).max(10) as u32,
        "start-python" => workload.repeat = (percent / 3).max(3) as u32,
        "redis-server" => {
            let socket = places.scratch.join("redis").to_string_lossy().into_owned();
            workload.command.extend(words(
                "--port 0 --appendonly no --enable-debug-command yes --daemonize no --save",
            ));
            workload
                .command
                .extend([String::new(), "--unixsocket".to_owned(), socket.clone()]);
            workload.environment.extend([
                ("SOCKET".to_owned(), socket),
                ("COUNT".to_owned(), (percent * 400).to_string()),
                ("COMMANDS".to_owned(), places.inputs.path("commands")),
            ]);
            workload.driver = Some(
                places
                    .programs
                    .join("redis.sh")
                    .to_string_lossy()
                    .into_owned(),
            );
            workload.bundled = true;
        }
        _ => {}
    }
    workload
}

/// A file that a program reads, made for this length of the workloads.
fn written(places: &Places<'_>, name: &str, text: &str) -> String {
    let path: PathBuf = places.scratch.join(name);
    // What cannot be written is found when the program cannot read it.
    let _ = std::fs::write(&path, text);
    path.to_string_lossy().into_owned()
}
