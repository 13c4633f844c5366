//! Runs the programs of the matrix, and the timed run.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::cases::{Case, Deed, Language};
use super::tools::{Drivers, Tool};

/// How one bad program and its twin ended.
#[derive(Default, Clone, Copy)]
pub struct Verdict {
    pub caught: bool,
    pub alarm: bool,
}

/// The timed run.
#[derive(Clone)]
pub struct Load {
    pub pairs: u64,
    pub alive: u64,
    pub threads: u32,
    pub sizes: [u64; 2],
}

/// What the timed run took.
pub struct Cost {
    pub alive: u64,
    /// CPU time of a pair.
    pub nanoseconds: f64,
    pub peak_kib: f64,
}

struct Ended {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
    late: bool,
}

/// Runs a command to its end, or kills it after `limit`.
fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let out = drain(child.stdout.take().expect("it is piped"));
    let err = drain(child.stderr.take().expect("it is piped"));
    let deadline = Instant::now() + limit;
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            late = true;
            child.kill()?;
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    Ok(Ended {
        status,
        out: out.join().unwrap_or_default(),
        err: err.join().unwrap_or_default(),
        late,
    })
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Whether leaks were reported, which is no reason for fencepost to change an exit status.
fn leaks(err: &[u8]) -> bool {
    String::from_utf8_lossy(err).contains("fencepost: leak: ")
}

/// What a good program prints, but for the addresses.
fn text(out: &[u8]) -> String {
    String::from_utf8_lossy(out)
        .lines()
        .filter(|line| !line.starts_with("0x"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn judge(tool: &Tool, drivers: &Drivers, case: &Case, limit: Duration) -> Result<Verdict> {
    let program = drivers.of(case.language);
    let mut verdict = Verdict::default();
    let play = |deed: &Deed, environment: &[(&str, &str)]| {
        let mut command = tool.command(program, environment);
        run(command.args(deed.arguments(case.language)), limit)
    };
    for environment in &tool.environments {
        let bad = play(&case.deed, environment)?;
        // A program that hangs was not caught, nor let alone.
        verdict.caught |= (!bad.status.success() && !bad.late) || leaks(&bad.err);
        let good = play(&case.twin, environment)?;
        let done = case.language == Language::Cxx || text(&good.out).ends_with("done 0");
        verdict.alarm |= !good.status.success() || !done || leaks(&good.err);
    }
    Ok(verdict)
}

/// The verdicts over all cases, in their order, two at a time.
pub fn all(
    tool: &Tool,
    drivers: &Drivers,
    cases: &[Case],
    limit: Duration,
) -> Result<Vec<Verdict>> {
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(vec![Verdict::default(); cases.len()]);
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(at) else { return };
                    match judge(tool, drivers, case, limit) {
                        Ok(verdict) => verdicts.lock().expect("nobody panics")[at] = verdict,
                        Err(error) => *failed.lock().expect("nobody panics") = Some(error),
                    }
                }
            });
        }
    });
    match failed.into_inner().expect("nobody panicked") {
        Some(error) => Err(error),
        None => Ok(verdicts.into_inner().expect("nobody panicked")),
    }
}

/// The timed run; with a tenth of the objects and pairs where the tool cannot hold so many.
pub fn cost(tool: &Tool, drivers: &Drivers, load: &Load, limit: Duration) -> Option<Cost> {
    for part in [1, 10, 100] {
        let alive = load.alive / part;
        let mut environment = tool.environments.first().cloned().unwrap_or_default();
        environment.retain(|(key, _)| !tool.timed.iter().any(|(timed, _)| timed == key));
        environment.extend(tool.timed);
        let mut command = tool.command(drivers.of(Language::C), &environment);
        command.arg("cycle").args(
            [
                load.pairs / part,
                alive,
                u64::from(load.threads),
                load.sizes[0],
                load.sizes[1],
            ]
            .map(|number| number.to_string()),
        );
        let ended = run(&mut command, limit).ok()?;
        if ended.late || !ended.status.success() {
            continue;
        }
        let words = String::from_utf8_lossy(&ended.out).into_owned();
        let after = |name: &str| -> Option<f64> {
            let mut words = words.split_whitespace();
            words.find(|word| *word == name)?;
            words.next()?.parse().ok()
        };
        return Some(Cost {
            alive,
            nanoseconds: after("cpu-ns")?,
            peak_kib: after("rss-kib")?,
        });
    }
    None
}
