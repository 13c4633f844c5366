//! The guard mode beside the tools that find heap errors: the matrix of bad and good programs
//! under each, and the time and memory of many objects.
//!
//! The programs are those of `tests/guard`. *Caught* is a bad program that does not end with
//! exit status 0; a *false alarm* is a good one that does not, or that prints something else.

mod play;
mod tools;

#[path = "../../../../tests/guard/cases.rs"]
mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use regex::Regex;

use self::cases::{Case, Language};
use self::tools::Tool;
use crate::Layout;

/// Options of the subcommand.
#[derive(Args, Debug)]
pub struct Options {
    /// Only these tools
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    tools: Option<Vec<String>>,

    /// Only the programs whose arguments match
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,

    /// Every N-th program only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    every: u32,

    /// Allocations and frees in the timed run; 0: no timed run
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    pairs: u64,

    /// Objects alive in the timed run; a tenth where a tool cannot hold so many
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    alive: u64,

    /// Threads of the timed run
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u32,

    /// Smallest and largest object of the timed run, in bytes
    #[arg(long, value_name = "LEAST,MOST", value_delimiter = ',', num_args = 1, default_values_t = [16, 1024])]
    sizes: Vec<u64>,

    /// fencepost's library; by default it is built
    #[arg(long, value_name = "FILE")]
    lib: Option<PathBuf>,

    /// Also list every program that a tool missed or complained about wrongly
    #[arg(long)]
    verbose: bool,

    /// Seconds after which a run counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,

    /// Also rewrite the table of the README
    #[arg(long)]
    readme: bool,
}

/// What a tool did with a class of errors.
#[derive(Default, Clone, Copy)]
struct Score {
    caught: u32,
    of: u32,
}

/// One column of the table.
struct Column {
    name: &'static str,
    version: String,
    classes: BTreeMap<&'static str, Score>,
    alarms: u32,
    good: u32,
    cost: Option<play::Cost>,
}

/// Runs the comparison and prints its table.
pub fn compare(options: &Options, layout: &Layout) -> Result<()> {
    let library = match &options.lib {
        Some(library) => library.canonicalize()?,
        None => {
            layout.cargo(&["build", "-p", "fencepost-preload"])?;
            layout.binaries.join("libfencepost.so")
        }
    };
    ensure!(options.sizes.len() == 2, "--sizes takes two numbers");
    let scratch = tempfile::Builder::new().prefix("guard").tempdir()?;
    let sources = layout.root.join("tests/guard");
    let mut columns = Vec::new();
    let cases = chosen(options);
    let limit = std::time::Duration::from_secs(options.timeout);
    for tool in tools::all(&library) {
        let asked = options.tools.as_ref();
        if asked.is_some_and(|names| !names.iter().any(|name| name == tool.name)) {
            continue;
        }
        match tool.prepare(&sources, scratch.path()) {
            Ok(drivers) => {
                eprintln!("{}: {} programs", tool.name, 2 * cases.len());
                columns.push(column(options, &tool, &drivers, &cases, limit)?);
            }
            Err(error) => eprintln!("left out: {}: {error:#}", tool.name),
        }
    }
    let text = table(options, &columns);
    println!("{text}");
    if options.readme {
        rewrite(&layout.root.join("README.md"), &text)?;
    }
    Ok(())
}

/// The C and C++ programs: those that every tool can run.
fn chosen(options: &Options) -> Vec<Case> {
    cases::c_accesses(None)
        .into_iter()
        .chain(cases::c_calls(None))
        .chain(cases::singles())
        .chain(cases::leaks())
        .filter(|case| case.language != Language::Rust)
        .filter(|case| {
            let text = case.deed.arguments(case.language).join(" ");
            options
                .only
                .as_ref()
                .is_none_or(|only| only.is_match(&text))
        })
        .step_by(options.every as usize)
        .collect()
}

fn column(
    options: &Options,
    tool: &Tool,
    drivers: &tools::Drivers,
    cases: &[Case],
    limit: std::time::Duration,
) -> Result<Column> {
    let mut column = Column {
        name: tool.name,
        version: tool.version(),
        classes: BTreeMap::new(),
        alarms: 0,
        good: 0,
        cost: None,
    };
    let verdicts = play::all(tool, drivers, cases, limit)?;
    for (case, verdict) in cases.iter().zip(verdicts) {
        let score = column.classes.entry(case.class()).or_default();
        score.of += 1;
        score.caught += u32::from(verdict.caught);
        column.good += 1;
        column.alarms += u32::from(verdict.alarm);
        if options.verbose && (!verdict.caught || verdict.alarm) {
            let what = if verdict.alarm {
                "false alarm"
            } else {
                "missed"
            };
            let deed = if verdict.alarm {
                &case.twin
            } else {
                &case.deed
            };
            let text = deed.arguments(case.language).join(" ");
            println!("{}: {what}: {:?} {text}", tool.name, case.language);
        }
    }
    if options.pairs > 0 {
        let load = play::Load {
            pairs: options.pairs,
            alive: options.alive,
            threads: options.threads,
            sizes: [options.sizes[0], options.sizes[1]],
        };
        column.cost = play::cost(tool, drivers, &load, limit);
    }
    Ok(column)
}

fn table(options: &Options, columns: &[Column]) -> String {
    let mut text = String::new();
    let mut row = |head: &str, cells: Vec<String>| {
        let _ = writeln!(text, "| {head} | {} |", cells.join(" | "));
    };
    row("", columns.iter().map(|c| c.name.to_string()).collect());
    row("---", columns.iter().map(|_| "---:".to_string()).collect());
    let classes: std::collections::BTreeSet<_> =
        columns.iter().flat_map(|c| c.classes.keys()).collect();
    for class in classes {
        let score = |c: &Column| c.classes.get(class).copied().unwrap_or_default();
        let cells = columns.iter().map(score);
        row(
            class,
            cells.map(|s| format!("{} of {}", s.caught, s.of)).collect(),
        );
    }
    let total = |c: &Column| {
        let sum = |f: fn(&Score) -> u32| c.classes.values().map(f).sum::<u32>();
        format!("**{} of {}**", sum(|s| s.caught), sum(|s| s.of))
    };
    row("**caught**", columns.iter().map(total).collect());
    let alarms = |c: &Column| format!("{} of {}", c.alarms, c.good);
    row("false alarms", columns.iter().map(alarms).collect());
    if options.pairs > 0 {
        let cost = |c: &Column, f: &dyn Fn(&play::Cost) -> String| {
            c.cost.as_ref().map_or_else(|| "–".into(), f)
        };
        let time = |c: &Column| cost(c, &|cost| format!("{:.2} µs", cost.nanoseconds / 1000.0));
        let alive = |c: &Column| cost(c, &|cost| cost.alive.to_string());
        let peak = |c: &Column| cost(c, &|cost| format!("{:.0} MiB", cost.peak_kib / 1024.0));
        row("objects alive", columns.iter().map(alive).collect());
        row("CPU time of a pair", columns.iter().map(time).collect());
        row("peak memory", columns.iter().map(peak).collect());
    }
    let versions: Vec<String> = columns
        .iter()
        .map(|c| format!("{} {}", c.name, c.version))
        .collect();
    let _ = write!(
        text,
        "\nA program is caught if it does not end with exit status 0, or has a leak that is reported. \
         Tools that put an object at \
         one end of its page run every program twice, once for each end. A pair is a malloc and \
         a free of {} to {} bytes, first and last byte written, {} pairs in {} thread(s) \
         (a tenth or less of pairs and objects for a tool that cannot hold so many). \
         False alarms include good programs that use functions which the tool does not replace, \
         such as aligned_alloc or malloc_usable_size. Versions: {}.\n",
        options.sizes[0],
        options.sizes[1],
        options.pairs,
        options.threads,
        versions.join("; ")
    );
    text
}

const BEGIN: &str = "<!-- guard:begin -->";
const END: &str = "<!-- guard:end -->";

/// The README with the table between its two marks replaced; nothing if it has no marks.
fn in_readme(readme: &str, table: &str) -> Option<String> {
    let begin = readme.find(BEGIN)? + BEGIN.len();
    let end = begin + readme[begin..].find(END)?;
    Some(format!(
        "{}\n\n{table}\n{}",
        &readme[..begin],
        &readme[end..]
    ))
}

fn rewrite(path: &Path, table: &str) -> Result<()> {
    let readme = std::fs::read_to_string(path).context("README.md cannot be read")?;
    let Some(new) = in_readme(&readme, table) else {
        bail!("README.md has no section between guard:begin and guard:end");
    };
    Ok(std::fs::write(path, new)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_values_occurs() {
        let dimensions = [3, 4, 2, 5];
        let allowed = |c: &[usize]| c[0] != 1 || c[1] != 2;
        let chosen = cases::combinations(&dimensions, None, allowed);
        assert!(chosen.len() < 60, "{} of 120", chosen.len());
        assert!(chosen.iter().all(|c| allowed(c)));
        for a in 0..4 {
            for b in a + 1..4 {
                for x in 0..dimensions[a] {
                    for y in 0..dimensions[b] {
                        let there = chosen.iter().any(|c| c[a] == x && c[b] == y);
                        assert_eq!(there, (a, b, x, y) != (0, 1, 1, 2), "{a}={x}, {b}={y}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_twins_are_honest() {
        let cases = cases::c_accesses(None);
        assert!(cases.len() > 100);
        for case in &cases {
            let (cases::Deed::Access(bad), cases::Deed::Access(good)) = (&case.deed, &case.twin)
            else {
                panic!("an access has an access for its twin");
            };
            assert!(good.is_honest(), "{good:?}");
            assert!(
                !bad.is_honest() || bad.means.starts_with("unended"),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn the_readme_keeps_what_lies_outside_the_marks() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = in_readme(&readme, "| a |\n").expect("it has the marks");
        assert_eq!(new, format!("before\n{BEGIN}\n\n| a |\n\n{END}\nafter\n"));
        assert_eq!(in_readme(&new, "| a |\n").as_ref(), Some(&new));
        assert_eq!(in_readme("no marks", ""), None);
    }
}
