//! One comparison: what takes part, and the rounds.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::allocators::{self, Allocator, Role, Skipped};
use crate::measure::{self, Measurer, Sample};
use crate::report::{Circumstances, Entry, Metric, Report, Row};
use crate::workloads::{self, Group, Places, Workload};
use crate::{Arguments, Layout, globals, inputs};

/// Runs everything that the arguments ask for; nothing if they only ask for a
/// list.
pub fn measure(arguments: &Arguments, layout: &Layout, peers: &Path) -> Result<Option<Report>> {
    if !arguments.no_build {
        layout.build()?;
    }
    let inputs = inputs::prepare(&layout.work.join("inputs"))?;
    let scratch = tempfile::Builder::new().prefix("compare").tempdir()?;
    let percent = if arguments.quick {
        30
    } else {
        arguments.percent
    };
    let programs = layout.root.join("benches/compare/programs");
    let (mut workloads, mut skipped) = workloads::all(&Places {
        binaries: &layout.binaries,
        programs: &programs,
        inputs: &inputs,
        scratch: scratch.path(),
        percent,
    })?;
    if let Some(only) = &arguments.only {
        workloads.retain(|workload| only.is_match(&workload.name));
        ensure!(!workloads.is_empty(), "no workload matches `{only}`");
    }
    let allocators = take_part(arguments, layout, peers, &mut skipped)?;
    let globals = if workloads.iter().any(|one| one.group == Group::Rust) {
        global_allocators(arguments, layout, peers, &mut skipped)?
    } else {
        Vec::new()
    };
    for one in &skipped {
        eprintln!("left out: {}: {}", one.name, one.reason);
    }
    if arguments.list {
        for allocator in &allocators {
            println!("allocator {:<16} {}", allocator.name, allocator.version);
        }
        for allocator in &globals {
            println!("global    {:<16} {}", allocator.name, allocator.version);
        }
        for workload in &workloads {
            println!(
                "workload  {:<20} {:?}, {} thread(s)",
                workload.name, workload.group, workload.threads
            );
        }
        return Ok(None);
    }
    let runs = usize::from(if arguments.quick {
        arguments.runs.min(3)
    } else {
        arguments.runs
    });
    let mut report = Report {
        circumstances: circumstances(runs, percent),
        allocators,
        rows: Vec::new(),
        skipped,
        globals: None,
    };
    let measurer = Measurer {
        program: layout.binaries.join("compare-measure"),
        scratch: scratch.path().to_path_buf(),
        timeout: arguments.timeout,
        libc: measure::own_libc(),
    };
    let everything: Vec<&Workload> = workloads.iter().collect();
    let rust: Vec<&Workload> = workloads
        .iter()
        .filter(|workload| workload.group == Group::Rust)
        .collect();
    let length = everything.len() * report.allocators.len() + rust.len() * globals.len();
    let bar = progress(length * (runs + 1));
    run(&everything, &mut report, &measurer, &bar)?;
    if !globals.is_empty() {
        let mut part = Report {
            circumstances: report.circumstances.clone(),
            allocators: globals,
            ..Report::default()
        };
        run(&rust, &mut part, &measurer, &bar)?;
        report.globals = Some(Box::new(part));
    }
    bar.finish_and_clear();
    Ok(Some(report))
}

/// Runs workloads under all allocators of a report, and fills its rows.
fn run(
    workloads: &[&Workload],
    report: &mut Report,
    measurer: &Measurer,
    bar: &ProgressBar,
) -> Result<()> {
    let runs = report.circumstances.runs;
    for workload in workloads {
        let row = rounds(workload, &report.allocators, runs, measurer, bar)?;
        say(bar, report, &row);
        report.rows.push(row);
    }
    Ok(())
}

/// The allocators that were asked for and that work.
fn take_part(
    arguments: &Arguments,
    layout: &Layout,
    peers: &Path,
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<Allocator>> {
    let wanted = |name: &str| {
        arguments
            .allocators
            .as_ref()
            .is_none_or(|list| list.iter().any(|one| one == name))
    };
    let mut all: Vec<Allocator> = allocators::glibc().to_vec();
    if wanted("fencepost") {
        let library = match &arguments.lib {
            Some(path) => path
                .canonicalize()
                .with_context(|| format!("{}", path.display()))?,
            None => {
                if !arguments.no_build {
                    layout.cargo(&["build", "-p", "fencepost-preload"])?;
                }
                layout.binaries.join("libfencepost.so")
            }
        };
        all.push(allocators::named(
            &format!("fencepost={}", library.display()),
            Role::Candidate,
        )?);
    }
    let extras = arguments.extra.iter().map(|text| (text, Role::Candidate));
    let peers_named = arguments.peer.iter().map(|text| (text, Role::Peer));
    for (text, role) in extras.chain(peers_named) {
        let mut extra = allocators::named(text, role)?;
        extra.library = extra
            .library
            .map(|path| path.canonicalize().unwrap_or(path));
        all.push(extra);
    }
    let (found, missing) = allocators::peers(peers);
    all.extend(found.into_iter().filter(|peer| wanted(&peer.name)));
    skipped.extend(missing.into_iter().filter(|peer| wanted(&peer.name)));
    if let Some(list) = &arguments.allocators {
        for name in list {
            let known = |one: &str| one == name;
            ensure!(
                all.iter().any(|one| known(&one.name))
                    || skipped.iter().any(|one| known(&one.name))
                    || globals::names().any(known),
                "no allocator is called {name}"
            );
        }
    }
    all.retain(|allocator| match allocators::check(allocator) {
        Ok(()) => true,
        Err(error) => {
            skipped.push(Skipped {
                name: allocator.name.clone(),
                reason: format!("{error:#}"),
            });
            false
        }
    });
    Ok(all)
}

/// The global allocators that were asked for, with fencepost's build renewed.
fn global_allocators(
    arguments: &Arguments,
    layout: &Layout,
    peers: &Path,
    skipped: &mut Vec<Skipped>,
) -> Result<Vec<Allocator>> {
    let wanted = |name: &str| {
        arguments
            .allocators
            .as_ref()
            .is_none_or(|list| list.iter().any(|one| one == name))
    };
    if wanted("fencepost") && !arguments.no_build && globals::built(peers) {
        globals::build(&layout.root.join("benches/compare/globals"), peers, true)?;
    }
    Ok(globals::take_part(peers, wanted, skipped))
}

/// One run to warm up, then the rounds; the allocator that begins changes with
/// each round, so that none always runs behind the same other.
fn rounds(
    workload: &Workload,
    allocators: &[Allocator],
    runs: usize,
    measurer: &Measurer,
    bar: &ProgressBar,
) -> Result<Row> {
    let mut entries = vec![Entry::default(); allocators.len()];
    let mut expected = None;
    for round in 0..=runs {
        for turn in 0..allocators.len() {
            // The baseline warms up first: its output is what others print.
            let column = if round == 0 {
                turn
            } else {
                (turn + round) % allocators.len()
            };
            let entry = &mut entries[column];
            bar.set_message(format!("{} · {}", workload.name, allocators[column].name));
            bar.inc(1);
            if entry.failure.is_some() {
                continue;
            }
            let sample = measurer.run(workload, &allocators[column])?;
            entry.failure = failure(&sample, *expected.get_or_insert(sample.output));
            if round > 0 {
                entry.samples.push(sample);
            }
        }
    }
    Ok(Row {
        name: workload.name.clone(),
        group: workload.group,
        threads: workload.threads,
        entries,
    })
}

fn failure(sample: &Sample, expected: u64) -> Option<String> {
    if !sample.failure.is_empty() {
        Some(sample.failure.clone())
    } else if sample.output != expected {
        Some("the output differs from glibc's".to_owned())
    } else {
        None
    }
}

fn progress(length: usize) -> ProgressBar {
    let bar = ProgressBar::new(length as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta} left · {msg}") {
        bar.set_style(style);
    }
    bar
}

/// One line on a finished workload: above the bar, or where there is no
/// terminal, on its own.
fn say(bar: &ProgressBar, report: &Report, row: &Row) {
    let mut line = format!("{:<20}", row.name);
    for (column, allocator) in report.allocators.iter().enumerate().skip(1) {
        let name = if allocator.role == Role::Again {
            "A/A"
        } else {
            &allocator.name
        };
        let ratio = |metric| {
            report
                .ratio(row, column, metric)
                .map_or("failed".to_owned(), |ratio| format!("{:.2}", ratio.median))
        };
        line.push_str(&format!(
            " {name} {}/{}",
            ratio(Metric::Cpu),
            ratio(Metric::Rss)
        ));
    }
    if bar.is_hidden() {
        eprintln!("{line}");
    } else {
        bar.println(line);
    }
}

fn circumstances(runs: usize, percent: u64) -> Circumstances {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unnamed CPU".to_owned(), |(_, name)| {
            name.trim().to_owned()
        });
    let own: Vec<String> = std::env::args().skip(1).collect();
    Circumstances {
        cpu,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        date: allocators::output_of("date", &["-u", "+%Y-%m-%d"]).unwrap_or_default(),
        load: read("/proc/loadavg")
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned(),
        command: format!(
            "cargo run --release -p fencepost-compare -- {}",
            own.join(" ")
        )
        .trim_end_matches([' ', '-'])
        .to_owned(),
        runs,
        percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_or_another_output_is_a_failure() {
        let good = Sample {
            output: 7,
            ..Sample::default()
        };
        assert_eq!(failure(&good, 7), None);
        assert!(failure(&good, 8).is_some_and(|reason| reason.contains("differs")));
        let crashed = Sample {
            failure: "signal 11".to_owned(),
            ..good
        };
        assert_eq!(failure(&crashed, 7).as_deref(), Some("signal 11"));
    }
}
