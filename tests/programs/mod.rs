//! How one program is played without and with the preload, and compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::{Outcome, Run, program};

pub mod generate;
pub mod plays;
pub mod redis;

/// Environment settings under which the preload has to behave alike.
pub type Variant = &'static [(&'static str, &'static str)];

/// Nothing set: what a user gets.
pub const PLAIN: &[Variant] = &[&[]];

/// The layers of the allocator switched off one by one.
pub const ALL: &[Variant] = &[
    &[],
    &[("FENCEPOST_CACHE", "0")],
    &[("FENCEPOST_DEPOT", "0")],
    &[("MALLOC_ARENA_MAX", "1")],
];

/// A play of [`plays`] at its whole length.
#[allow(dead_code)] // Not by everyone who uses this module.
pub fn whole(play: impl Fn(&mut Stage, &[PathBuf], u64)) -> impl Fn(&mut Stage, &[PathBuf]) {
    move |stage, paths| play(stage, paths, 1)
}

/// One play of a program's script in an empty directory.
pub struct Stage {
    dir: tempfile::TempDir,
    preloaded: Option<Vec<(&'static str, &'static str)>>,
    seen: BTreeMap<String, Vec<u8>>,
    stderr: Vec<Vec<u8>>,
}

impl Stage {
    /// A directory to play in; `None`: without the preload, else with it and these settings.
    pub fn new(preloaded: Option<Vec<(&'static str, &'static str)>>) -> Self {
        Stage {
            dir: tempfile::tempdir().expect("a temporary directory"),
            preloaded,
            seen: BTreeMap::new(),
            stderr: Vec::new(),
        }
    }

    /// The directory that every run of this play starts in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Copies a script of `tests/programs` into the play's directory.
    pub fn script(&self, name: &str) -> &Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/programs")
            .join(name);
        std::fs::copy(&from, self.dir().join(name)).expect("the script can be copied");
        self
    }

    /// Writes an input file into the play's directory.
    pub fn input(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.dir().join(name), bytes).expect("the input can be written");
        self
    }

    /// `run` as this play's environment wants it: in the directory, with or
    /// without the preload.
    pub fn dress(&self, run: Run) -> Run {
        let run = run.dir(self.dir()).timeout(Duration::from_secs(120));
        match &self.preloaded {
            Some(variant) => run.preload().envs(variant),
            None => run,
        }
    }

    /// Runs `run` in this play and notes output, status and standard error.
    ///
    /// # Panics
    /// When it exits with another code than `code`.
    #[track_caller]
    pub fn run(&mut self, run: Run, code: i32) -> Outcome {
        let outcome = self.dress(run).output();
        assert_eq!(
            (outcome.timed_out, outcome.status.code()),
            (false, Some(code)),
            "exit code, with {:?}: {}\n{}",
            self.preloaded,
            outcome.status,
            outcome.tail()
        );
        let step = self.stderr.len();
        self.note(&format!("stdout of step {step}"), outcome.stdout.clone());
        self.stderr.push(outcome.stderr.clone());
        outcome
    }

    /// Notes something else that has to be the same with the preload.
    pub fn note(&mut self, what: &str, bytes: impl Into<Vec<u8>>) {
        self.seen.insert(what.to_string(), bytes.into());
    }

    /// Notes a file of the play's directory.
    #[track_caller]
    pub fn keep(&mut self, name: &str) {
        let bytes = std::fs::read(self.dir().join(name))
            .unwrap_or_else(|e| panic!("{name} of {:?}: {e}", self.preloaded));
        assert!(!bytes.is_empty(), "{name} is empty");
        self.note(name, bytes);
    }

    /// Notes standard error of a child that `run` did not start.
    pub fn note_stderr(&mut self, bytes: Vec<u8>) {
        self.stderr.push(bytes);
    }
}

/// Plays `play` without the preload, then with it under each of `variants`, and
/// compares all that was noted; a last play with statistics proves that the
/// library was there and had work. With `FENCEPOST_TEST_VARIANTS=all` every
/// variant of [`ALL`] is played whatever `variants` says.
///
/// Returns early, with the reason printed, when one of `needs` is missing.
#[track_caller]
pub fn identical(needs: &[&str], variants: &[Variant], play: impl Fn(&mut Stage, &[PathBuf])) {
    let Some((paths, without)) = identical_unasked(needs, variants, &play) else {
        return;
    };
    let mut counted = Stage::new(Some(vec![("FENCEPOST_STATS", "1")]));
    play(&mut counted, &paths);
    same(&without, &counted);
    let calls = counted.stderr.iter().map(|text| mallocs(text)).sum::<u64>();
    println!("{}: {calls} allocations", needs[0]);
    assert!(
        calls >= 10_000,
        "{}: the preload served {calls} calls only",
        needs[0]
    );
}

/// [`identical`] for a program that prints no statistics, because it leaves by
/// `_exit`. Returns where the programs are, and the play without the preload.
#[track_caller]
pub fn identical_unasked(
    needs: &[&str],
    variants: &[Variant],
    play: impl Fn(&mut Stage, &[PathBuf]),
) -> Option<(Vec<PathBuf>, Stage)> {
    let everything = std::env::var_os("FENCEPOST_TEST_VARIANTS").is_some_and(|v| v == "all");
    compare(needs, if everything { ALL } else { variants }, play)
}

/// Plays without the preload and under each of `variants`, and compares.
#[track_caller]
pub fn compare(
    needs: &[&str],
    variants: &[Variant],
    play: impl Fn(&mut Stage, &[PathBuf]),
) -> Option<(Vec<PathBuf>, Stage)> {
    let paths = needs
        .iter()
        .map(|n| program(n))
        .collect::<Option<Vec<_>>>()?;
    let mut without = Stage::new(None);
    play(&mut without, &paths);
    let volume: usize = without.seen.values().map(Vec::len).sum();
    assert!(
        volume > 200,
        "{} said next to nothing: {volume} bytes",
        needs[0]
    );

    for variant in variants {
        let mut with = Stage::new(Some(variant.to_vec()));
        play(&mut with, &paths);
        same(&without, &with);
        assert_eq!(without.stderr.len(), with.stderr.len());
        for (step, (a, b)) in without.stderr.iter().zip(&with.stderr).enumerate() {
            let what = format!("stderr of step {step}");
            assert!(a == b, "{}", difference(&what, &with, a, b));
        }
    }
    Some((paths, without))
}

#[track_caller]
fn same(without: &Stage, with: &Stage) {
    let names = |s: &Stage| s.seen.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(without), names(with), "with {:?}", with.preloaded);
    for (what, a) in &without.seen {
        let b = &with.seen[what];
        assert!(a == b, "{}", difference(what, with, a, b));
    }
}

fn difference(what: &str, with: &Stage, a: &[u8], b: &[u8]) -> String {
    let at = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let around = |bytes: &[u8]| {
        let (from, to) = (at.saturating_sub(80), (at + 200).min(bytes.len()));
        String::from_utf8_lossy(&bytes[from..to]).into_owned()
    };
    format!(
        "{what} differs from byte {at} on, with {:?}\n--- without\n{}\n--- with\n{}",
        with.preloaded,
        around(a),
        around(b)
    )
}

/// The number of allocations that the statistics on `stderr` report, over all
/// processes that printed some.
fn mallocs(stderr: &[u8]) -> u64 {
    String::from_utf8_lossy(stderr)
        .lines()
        .filter_map(|line| {
            line.trim_start()
                .strip_prefix("calls")?
                .split_once(" mallocs")
        })
        .map(|(number, _)| number.trim().parse::<u64>().expect("a number of calls"))
        .sum()
}
