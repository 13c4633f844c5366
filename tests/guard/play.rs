//! Runs the drivers and holds what they end in against the rule.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use regex::{Captures, Regex};

use crate::cases::{Case, Deed, Language};
use crate::rule::{Answer, PAGE, Side};
use crate::support::{self, Outcome, Run, compile_c};

/// Allocations and frees that the drivers put between a free and its misuse.
const FILLERS: u64 = 8;

/// `FENCEPOST_GUARD_ALIGN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Right,
    Left,
    Both,
}

impl From<Side> for Mode {
    fn from(side: Side) -> Self {
        match side {
            Side::Right => Mode::Right,
            Side::Left => Mode::Left,
        }
    }
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::Right => "right",
            Mode::Left => "left",
            Mode::Both => "both",
        }
    }
}

/// The driver program of a language, built once.
pub fn driver(language: Language) -> PathBuf {
    let source = |name: &str| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/guard")
            .join(name)
    };
    match language {
        Language::C => compile_c(&source("driver.c"), &[]),
        Language::Cxx => compile_c(&source("driver.cc"), &[]),
        Language::Rust => {
            static BUILT: OnceLock<PathBuf> = OnceLock::new();
            BUILT.get_or_init(rust_driver).clone()
        }
    }
}

/// The Rust driver is an example of this package: its global allocator is fencepost.
fn rust_driver() -> PathBuf {
    let target = support::target_dir();
    let status = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--offline", "--example", "guard_driver"])
        .arg("--target-dir")
        .arg(&target)
        // The library's own checks of misuse would come before the guards.
        .args(["--", "-C", "debug-assertions=off"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("LD_PRELOAD")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "the Rust driver cannot be built");
    target.join("debug/examples/guard_driver")
}

/// The run of a deed without any guard.
pub fn plain(language: Language, deed: &Deed) -> Run {
    Run::new(driver(language)).args(deed.arguments(language))
}

/// The run of a deed with every object guarded. C and C++ programs get the preload library, a
/// Rust program has the allocator in itself.
pub fn guarded(language: Language, deed: &Deed, mode: Mode) -> Run {
    let run = plain(language, deed).envs(&[
        ("FENCEPOST_GUARD", "1"),
        ("FENCEPOST_GUARD_ALIGN", mode.name()),
    ]);
    match language {
        Language::Rust => run,
        _ => run.preload(),
    }
}

/// Calls `play` with every item, two at a time; what it complains about.
pub fn all<T: Sync>(items: &[T], play: impl Fn(&T) -> Option<String> + Sync) -> Vec<String> {
    let next = AtomicUsize::new(0);
    let complaints = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Some(complaint) = play(item) {
                        complaints.lock().expect("nobody panics").push(complaint);
                    }
                }
            });
        }
    });
    complaints.into_inner().expect("nobody panicked")
}

/// Fails if there are complaints about `of` runs, or no runs.
#[track_caller]
pub fn none(complaints: &[String], of: usize) {
    let shown = complaints.get(..100).unwrap_or(complaints);
    assert!(of > 0, "nothing was run");
    assert!(
        complaints.is_empty(),
        "{} of {of}:\n{}",
        complaints.len(),
        shown.join("\n")
    );
}

/// Plays a bad case with its object on `side`, and says what is wrong with its end.
pub fn check(case: &Case, side: Side, env: &[(&str, &str)]) -> Option<String> {
    let outcome = guarded(case.language, &case.deed, side.into())
        .env("FENCEPOST_GUARD_LEAKS", "0")
        .envs(env)
        .output();
    let expected = crate::rule::answer(case, side);
    explain(case, &expected, &outcome)
        .err()
        .map(|what| complaint(case, &format!("{side:?}, {expected:?}"), &outcome, &what))
}

/// One case, for people.
pub fn complaint(case: &Case, expected: &str, outcome: &Outcome, what: &str) -> String {
    format!(
        "{:?} {}: {what}\n    expected: {expected}\n    {} {}\n    {}",
        case.language,
        case.deed.arguments(case.language).join(" "),
        outcome.status,
        outcome.out().trim_end().replace('\n', " / "),
        outcome.err().trim_end().replace('\n', "\n    "),
    )
}

/// What the driver told before its deed.
struct Told {
    object: usize,
    size: String,
    target: String,
}

fn told(out: &str) -> Option<Told> {
    let mut lines = out.lines();
    let line = |line: &str| {
        let (address, size) = line.split_once(' ')?;
        let digits = address.strip_prefix("0x")?;
        let number = usize::from_str_radix(digits, 16).ok()?;
        Some((number, address.to_string(), size.to_string()))
    };
    let (object, first, size) = line(lines.next()?)?;
    let target = lines.next().and_then(line).map_or(first, |second| second.1);
    Some(Told {
        object,
        size,
        target,
    })
}

/// Whether a run ended as `expected`; `Err` says what is wrong.
pub fn explain(case: &Case, expected: &Answer, outcome: &Outcome) -> Result<(), String> {
    found_at("free", case, expected, outcome)
}

/// [`explain`] where a canary is looked at by something else than free.
pub fn found_at(
    end: &str,
    case: &Case,
    expected: &Answer,
    outcome: &Outcome,
) -> Result<(), String> {
    if outcome.timed_out {
        return Err("hung".into());
    }
    let signal = match expected {
        Answer::Silence => return silent(outcome),
        Answer::Perhaps(_) if outcome.status.success() => return silent(outcome),
        Answer::Perhaps(inner) => return explain(case, inner, outcome),
        Answer::Fault { .. } => libc::SIGSEGV,
        Answer::Canary { .. } => libc::SIGABRT,
        Answer::Line { signal, .. } => *signal,
    };
    // A child's end is told by its parent's exit status.
    let forks = match &case.deed {
        Deed::Access(access) => access.place == "fork",
        Deed::Call(call) => call.place == "fork",
        Deed::Single(_) => false,
    };
    let ended = match forks {
        true => outcome.status.code().map(|code| code - 128),
        false => outcome.signal(),
    };
    if ended != Some(signal) {
        return Err(format!("not ended by signal {signal}"));
    }
    let err = outcome.err();
    let Some(line) = err
        .lines()
        .next()
        .and_then(|l| l.strip_prefix("fencepost: "))
    else {
        return Err("no report".into());
    };
    if err.lines().skip(1).any(|line| !line.starts_with("  ")) {
        return Err("more than one report".into());
    }
    let told = told(&outcome.out());
    match expected {
        Answer::Line { pattern, .. } => {
            let told = told.as_ref();
            let program = driver(case.language);
            let of = |part: fn(&Told) -> String| told.map(part).unwrap_or_default();
            let pattern = pattern
                .replace("{o}", &of(|told| format!("{:#x}", told.object)))
                .replace("{t}", &of(|told| told.target.clone()))
                .replace("{n}", &of(|told| told.size.clone()))
                .replace("{program}", &regex::escape(&program.to_string_lossy()));
            let whole = Regex::new(&format!("^(?:{pattern})$")).expect("a valid expression");
            whole
                .is_match(line)
                .then_some(())
                .ok_or(format!("another line than {pattern}"))
        }
        Answer::Fault {
            kind,
            access,
            least,
            most,
        } => {
            let told = told.ok_or("the driver told nothing")?;
            let found = FAULT.captures(line).ok_or("another line")?;
            numbers(line)?;
            let size = number(&found["size"]);
            let origin = usize::from_str_radix(&found["object"][2..], 16).expect("digits");
            let at = match (found.name("at"), found.name("past"), found.name("before")) {
                (Some(at), _, _) => number(at.as_str()),
                (_, Some(past), _) => size + number(past.as_str()),
                (_, _, Some(before)) => -number(before.as_str()),
                _ => return Err("no place".into()),
            };
            // From half a page on the next object may be the nearer one; the place is the same.
            let at = at + (origin as isize - told.object as isize);
            let away = (-at).max(at - told.size.parse::<isize>().expect("a number"));
            let far = away >= PAGE as isize / 2 && kind.starts_with("heap");
            let other = far && origin != told.object;
            if !(*least..=*most).contains(&at) {
                return Err(format!("at {at}"));
            }
            if other {
                expect(&found, "access", access)?;
                return details(&err, false);
            }
            expect(&found, "kind", kind)?;
            expect(&found, "access", access)?;
            expect(&found, "object", &format!("{:#x}", told.object))?;
            expect(&found, "size", &told.size)?;
            let freed = *kind == "use after free";
            if freed != found.name("ago").is_some() {
                return Err("when it was freed".into());
            }
            if freed {
                when(case, number(&found["ago"]) as u64)?;
            }
            details(&err, freed)
        }
        Answer::Canary { first, last } => {
            let told = told.ok_or("the driver told nothing")?;
            let found = CANARY.captures(line).ok_or("another line")?;
            let kind = if *first < 0 {
                "heap underflow"
            } else {
                "heap overflow"
            };
            expect(&found, "kind", kind)?;
            expect(&found, "object", &format!("{:#x}", told.object))?;
            expect(&found, "size", &told.size)?;
            expect(&found, "end", end)?;
            let (from, to) = match found.name("one") {
                Some(one) => (number(one.as_str()), number(one.as_str())),
                None => (number(&found["first"]), number(&found["last"])),
            };
            if (from, to) != (*first, *last) || (from == to) != found.name("one").is_some() {
                return Err("other bytes".into());
            }
            details(&err, false)
        }
        Answer::Silence | Answer::Perhaps(_) => Ok(()),
    }
}

static FAULT: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| {
    Regex::new(
        r"(?x)^(?<kind>heap\ overflow|heap\ underflow|use\ after\ free):\ (?<access>read|write)\ 
        (?: at\ byte\ (?<at>[0-9]+)\ of | (?<past>[0-9]+)\ bytes?\ past\ the\ end\ of
          | (?<before>[0-9]+)\ bytes?\ before )
        \ (?<object>0x[0-9a-f]+)\ \((?<size>[0-9]+)\ bytes?\)
        (?:,\ freed\ (?<ago>[0-9]+)\ operations?\ ago)?$",
    )
    .expect("a valid expression")
});

static CANARY: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| {
    Regex::new(
        r"(?x)^(?<kind>heap\ overflow|heap\ underflow):\ 
        (?: byte\ (?<one>-?[0-9]+)\ of | bytes\ (?<first>-?[0-9]+)\ to\ (?<last>-?[0-9]+)\ of )
        \ (?<object>0x[0-9a-f]+)\ \((?<size>[0-9]+)\ bytes?\)\ (?:was|were)\ overwritten,
        \ found\ at\ (?<end>free|realloc|exit|sweep)$",
    )
    .expect("a valid expression")
});

fn number(text: &str) -> isize {
    text.parse().expect("the expression matches digits only")
}

fn expect(found: &Captures<'_>, group: &str, expected: &str) -> Result<(), String> {
    match &found[group] == expected {
        true => Ok(()),
        false => Err(format!("{group} is {}, not {expected}", &found[group])),
    }
}

/// One byte, but two bytes.
fn numbers(line: &str) -> Result<(), String> {
    static UNIT: std::sync::LazyLock<Regex> = std::sync::LazyLock::new(|| {
        Regex::new("([0-9]+) (byte|operation)(s?)\\b").expect("a valid expression")
    });
    for found in UNIT.captures_iter(line) {
        if (&found[1] == "1") != found[3].is_empty() {
            return Err(format!("grammar: {}", &found[0]));
        }
    }
    Ok(())
}

/// The number of operations between the free and the access is known where nobody else
/// allocates.
fn when(case: &Case, ago: u64) -> Result<(), String> {
    let exact = match &case.deed {
        Deed::Access(access) => access.place != "thread",
        _ => return Ok(()),
    };
    match exact {
        true if ago != FILLERS => Err(format!("freed {ago} operations ago, not {FILLERS}")),
        false if ago < FILLERS => Err(format!("freed {ago} operations ago")),
        _ => Ok(()),
    }
}

/// Who did what: the thread that is guilty, the allocation, the free.
fn details(err: &str, freed: bool) -> Result<(), String> {
    for (head, wanted) in [
        ("  by thread ", true),
        ("  allocated by thread ", true),
        ("  freed by thread ", freed),
    ] {
        let found = err.lines().any(|line| line.starts_with(head));
        if found != wanted {
            return Err(format!("a line `{head}…`: {found}"));
        }
    }
    match err
        .lines()
        .filter(|line| line.starts_with("    #0 "))
        .count()
    {
        0 => Err("no stack".into()),
        _ => Ok(()),
    }
}

fn silent(outcome: &Outcome) -> Result<(), String> {
    if !outcome.status.success() {
        return Err("did not end well".into());
    }
    if !outcome.stderr.is_empty() {
        return Err("not silent".into());
    }
    Ok(())
}

/// Plays an honest deed: silent, and its output is what it is without guards.
pub fn good(language: Language, deed: &Deed, mode: Mode) -> Option<String> {
    let rest = |outcome: &Outcome| {
        let out = outcome.out();
        out.lines()
            .filter(|line| !line.starts_with("0x"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    let without = plain(language, deed).output();
    // Two objects, one on each side.
    let with = guarded(language, deed, mode)
        .env("DRIVER_EARLIER", "1")
        .output();
    let said = silent(&without).and_then(|()| silent(&with));
    let complaint = match said {
        Err(what) => what,
        Ok(()) if rest(&without) != rest(&with) => "another output".into(),
        Ok(()) => return None,
    };
    Some(format!(
        "good {language:?} {}: {complaint}\n    {} {}\n    {}",
        deed.arguments(language).join(" "),
        with.status,
        with.out().trim_end().replace('\n', " / "),
        with.err().trim_end().replace('\n', "\n    "),
    ))
}
