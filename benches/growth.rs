//! What a malloc and a free cost as the heap grows: from 1 MiB to 8 GiB alive, from 1 to 10^8
//! objects, from 1 to 64 threads.
//!
//! ```text
//! cargo build --release && cargo bench --bench growth -- --write
//! ```
//!
//! The loads are those of `benches/growth/load.c`, each in a process of its own, once under
//! valgrind's callgrind and some times without. Callgrind counts the instructions inside malloc and
//! free (and eight around each pair), not those of the kernel, and simulates caches of 48 KiB and
//! 2 MiB for them; under it threads take turns, so that no waiting for another thread shows, and the
//! program break ends after 8 MiB. The time is CPU time of the load's whole loop, with the kernel's
//! part, the page faults, and the cache misses on the objects and on the table of them: it grows
//! with the misses under any allocator.
//!
//! `--write` draws `docs/growth.svg`; `--json FILE` writes all figures, and `--from FILE` shows such
//! a file again instead of measuring. `--quick` leaves out callgrind and what takes long. `--only`
//! chooses among `bytes`, `objects`, `threads`. `--lib NAME=FILE` adds an allocator, `--fencepost
//! FILE` is measured in place of the library that was built, `--check` fails if a bar is missed.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use serde_json::{Value, json};

#[path = "growth/chart.rs"]
mod chart;
#[path = "../tests/support/compile.rs"]
mod compile;
#[path = "support/field.rs"]
mod field;

use field::{Allocator, Options, command, median, run};

/// What grows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    /// Live bytes, in objects of 16 bytes to 32 KiB.
    Bytes,
    /// Objects of 16 bytes.
    Objects,
    /// Threads that hand a quarter of what they allocate to a neighbour.
    Threads,
}

impl Axis {
    const ALL: [Axis; 3] = [Axis::Bytes, Axis::Objects, Axis::Threads];

    /// As the load calls it.
    pub fn name(self) -> &'static str {
        match self {
            Axis::Bytes => "bytes",
            Axis::Objects => "objects",
            Axis::Threads => "threads",
        }
    }

    /// For headings.
    pub fn title(self) -> &'static str {
        match self {
            Axis::Bytes => "bytes alive, in objects of 16 B to 32 KiB",
            Axis::Objects => "objects of 16 B alive",
            Axis::Threads => "threads, a quarter freed by another one",
        }
    }

    fn amounts(self, quick: bool) -> Vec<u64> {
        match (self, quick) {
            (Axis::Bytes, false) => [1, 8, 64, 512, 2048, 8192].map(|n| n << 20).into(),
            (Axis::Bytes, true) => [1, 8, 64].map(|n| n << 20).into(),
            (Axis::Objects, false) => (0..=8).map(|n| 10u64.pow(n)).collect(),
            (Axis::Objects, true) => (0..=5).map(|n| 10u64.pow(n)).collect(),
            (Axis::Threads, false) => (0..=6).map(|n| 1 << n).collect(),
            (Axis::Threads, true) => vec![1, 8, 64],
        }
    }

    /// Pairs of calls that are measured; of threads, by each.
    fn operations(self, quick: bool) -> u64 {
        match (self, quick) {
            (Axis::Threads, false) => 40_000,
            (Axis::Threads, true) => 8_000,
            (_, false) => 200_000,
            (_, true) => 50_000,
        }
    }

    /// An amount as it is read.
    pub fn label(self, amount: u64) -> String {
        match self {
            Axis::Bytes if amount >= 1 << 30 => format!("{} GiB", amount >> 30),
            Axis::Bytes => format!("{} MiB", amount >> 20),
            Axis::Objects if amount >= 10_000 => format!("10^{}", amount.ilog10()),
            _ => amount.to_string(),
        }
    }
}

/// What is measured at each point: all but the first only where there are enough objects.
const PHASES: [(&str, &str); 4] = [
    ("replace", "a free and a malloc, one after the other"),
    ("batch", "a free and a malloc, 512 at a time"),
    ("grow", "a malloc, of the last tenth"),
    ("shrink", "a free, of a random tenth"),
];
/// A cost for each phase.
pub type Costs = [Cost; PHASES.len()];
/// The largest cost over the smallest one.
const BAR: f64 = 1.5;

/// The cost of one operation. Instructions and misses only with callgrind.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Nanoseconds of CPU time.
    pub ns: Option<f64>,
    /// Instructions inside malloc and free.
    pub instructions: Option<f64>,
    /// Of them, accesses that miss a cache of 48 KiB.
    pub first: Option<f64>,
    /// Of them, accesses that miss a cache of 2 MiB, too.
    pub last: Option<f64>,
}

/// The costs at one place of an axis, by phase as in [`PHASES`].
pub struct Point {
    /// The axis.
    pub axis: Axis,
    /// The place on it.
    pub amount: u64,
    /// The allocator's name.
    pub allocator: String,
    /// Nothing if it failed.
    pub costs: Costs,
}

/// Callgrind's totals for a phase.
#[derive(Clone, Copy)]
struct Counts {
    instructions: f64,
    first: f64,
    last: f64,
}

/// The counts in a dump of callgrind's, if it is one of `phase`.
fn counts(dump: &str, phase: &str) -> Option<Counts> {
    let field = |name: &str| {
        dump.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let trigger = format!("Trigger: Client Request: {phase}");
    if !dump.lines().any(|line| line.ends_with(&trigger)) {
        return None;
    }
    let totals: Vec<f64> = field("totals")?
        .split(' ')
        .map(|number| number.parse().ok())
        .collect::<Option<_>>()?;
    // Zeros at the end of the line are left out.
    let total = |event: &str| {
        let at = field("events")?.split(' ').position(|name| name == event)?;
        Some(totals.get(at).copied().unwrap_or(0.0))
    };
    Some(Counts {
        instructions: total("Ir")?,
        first: total("D1mr")? + total("D1mw")?,
        last: total("DLmr")? + total("DLmw")?,
    })
}

/// One run under callgrind: costs without times.
fn counted(program: &Path, args: &[&str], allocator: &Allocator) -> Option<Costs> {
    let directory = tempfile::tempdir().ok()?;
    let mut valgrind = command(Path::new("valgrind"), allocator);
    valgrind
        .args(["--tool=callgrind", "--instr-atstart=no", "--cache-sim=yes"])
        .args(["--toggle-collect=counted_*", "--I1=32768,8,64"])
        .args(["--D1=49152,12,64", "--LL=2097152,16,64"])
        .arg(format!(
            "--callgrind-out-file={}",
            directory.path().join("dump").display()
        ))
        .arg(program)
        .args(args);
    let output = valgrind.output().ok()?;
    if !output.status.success() {
        eprintln!(
            "{} with {args:?}, valgrind: {}\n{}",
            allocator.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        return None;
    }
    let figures = field::figures(&output.stdout)?;
    let mut costs = Costs::default();
    for entry in std::fs::read_dir(directory.path()).ok()?.flatten() {
        let dump = std::fs::read_to_string(entry.path()).ok()?;
        for (cost, (phase, _)) in costs.iter_mut().zip(PHASES) {
            if let Some(counts) = counts(&dump, phase) {
                let calls = figures.get(&format!("{phase}_calls"))?;
                cost.instructions = Some(counts.instructions / calls);
                cost.first = Some(counts.first / calls);
                cost.last = Some(counts.last / calls);
            }
        }
    }
    Some(costs)
}

/// The same without callgrind: times. What is quick is repeated.
fn timed(
    program: &Path,
    args: &[&str],
    allocator: &Allocator,
) -> Option<[Option<f64>; PHASES.len()]> {
    let mut all = [const { Vec::new() }; PHASES.len()];
    let start = std::time::Instant::now();
    for _ in 0..3 {
        let figures = run(program, args, allocator)?;
        for (times, (phase, _)) in all.iter_mut().zip(PHASES) {
            times.extend(figures.get(phase));
        }
        if start.elapsed().as_secs() >= 2 {
            break;
        }
    }
    Some(all.map(median))
}

struct Bench {
    program: PathBuf,
    options: Options,
    callgrind: bool,
}

impl Bench {
    fn point(&self, axis: Axis, amount: u64, allocator: &Allocator) -> Point {
        let operations = axis.operations(self.options.quick).to_string();
        let number = amount.to_string();
        let args = [axis.name(), &number, &operations];
        let mut costs = Costs::default();
        if self.callgrind
            && let Some(found) = counted(&self.program, &args, allocator)
        {
            costs = found;
        }
        if let Some(times) = timed(&self.program, &args, allocator) {
            for (cost, ns) in costs.iter_mut().zip(times) {
                cost.ns = ns;
            }
        }
        eprintln!("{}: {} {}", allocator.name, axis.label(amount), axis.name());
        Point {
            axis,
            amount,
            allocator: allocator.name.clone(),
            costs,
        }
    }

    fn measure(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for axis in Axis::ALL {
            if !self.options.wants(axis.name()) {
                continue;
            }
            for amount in axis.amounts(self.options.quick) {
                for allocator in &self.options.allocators {
                    points.push(self.point(axis, amount, allocator));
                }
            }
        }
        points
    }
}

/// The allocators in the order of their first points.
pub fn names(points: &[Point]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for point in points {
        if !names.contains(&point.allocator.as_str()) {
            names.push(&point.allocator);
        }
    }
    names
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| String::from("-"), |value| format!("{value:.digits$}"))
}

/// The largest value over the smallest one, if all are there.
fn spread(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    let most = values.iter().copied().reduce(f64::max)?;
    Some(most / values.iter().copied().reduce(f64::min)?)
}

/// Prints the table of one phase along one axis; returns fencepost's spread in instructions.
fn print(points: &[Point], axis: Axis, phase: usize) -> Option<f64> {
    let names = names(points);
    let here: Vec<&Point> = points
        .iter()
        .filter(|p| p.axis == axis)
        .filter(|p| p.costs[phase].ns.is_some() || p.costs[phase].instructions.is_some())
        .collect();
    if here.is_empty() {
        return None;
    }
    println!("\nCost of {}, by {}:\n", PHASES[phase].1, axis.title());
    print!("| |");
    for name in &names {
        print!(" {name}: instructions | ns | misses of 48 KiB | of 2 MiB |");
    }
    println!("\n|---:|{}", "---:|---:|---:|---:|".repeat(names.len()));
    let mut amounts: Vec<u64> = here.iter().map(|p| p.amount).collect();
    amounts.dedup();
    for amount in amounts {
        print!("| {} |", axis.label(amount));
        for name in &names {
            let cost = here
                .iter()
                .find(|p| p.amount == amount && p.allocator == *name)
                .map_or(Cost::default(), |p| p.costs[phase]);
            let numbers = [
                cell(cost.instructions, 1),
                cell(cost.ns, 1),
                cell(cost.first, 2),
                cell(cost.last, 2),
            ];
            print!(" {} |", numbers.join(" | "));
        }
        println!();
    }
    let mut kept = None;
    print!("| largest / smallest |");
    for name in &names {
        let own = || here.iter().filter(|p| p.allocator == *name);
        let instructions = spread(own().map(|p| p.costs[phase].instructions));
        let ns = spread(own().map(|p| p.costs[phase].ns));
        print!(" {} | {} | | |", cell(instructions, 2), cell(ns, 2));
        if *name == "fencepost" {
            kept = instructions;
        }
    }
    println!();
    kept
}

fn to_json(points: &[Point]) -> Value {
    let one = |point: &Point| {
        let mut value = json!({ "axis": point.axis.name(), "amount": point.amount,
                                "allocator": point.allocator });
        for (cost, (phase, _)) in point.costs.iter().zip(PHASES) {
            value[phase] = json!({ "ns": cost.ns, "instructions": cost.instructions,
                                   "misses_48k": cost.first, "misses_2m": cost.last });
        }
        value
    };
    points.iter().map(one).collect()
}

fn from_json(value: &Value) -> Option<Vec<Point>> {
    let one = |value: &Value| {
        let axis = value["axis"].as_str()?;
        Some(Point {
            axis: Axis::ALL.into_iter().find(|a| a.name() == axis)?,
            amount: value["amount"].as_u64()?,
            allocator: value["allocator"].as_str()?.to_string(),
            costs: PHASES.map(|(phase, _)| Cost {
                ns: value[phase]["ns"].as_f64(),
                instructions: value[phase]["instructions"].as_f64(),
                first: value[phase]["misses_48k"].as_f64(),
                last: value[phase]["misses_2m"].as_f64(),
            }),
        })
    };
    value.as_array()?.iter().map(one).collect()
}

fn bench() -> Result<bool, String> {
    let options = Options::read()?;
    let points = if let Some(file) = &options.from {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
        from_json(&value).ok_or("the file holds something else")?
    } else {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/growth/load.c");
        let callgrind =
            !options.quick && Command::new("valgrind").arg("--version").output().is_ok();
        if !callgrind {
            println!("Without callgrind: times only.");
        }
        let bench = Bench {
            program: compile::compile_c(&source, &[]),
            callgrind,
            options: options.clone(),
        };
        bench.measure()
    };
    if let Some(file) = &options.json {
        std::fs::write(file, format!("{:#}\n", to_json(&points)))
            .map_err(|e| format!("{}: {e}", file.display()))?;
    }
    let mut kept = true;
    for axis in Axis::ALL {
        for phase in 0..PHASES.len() {
            if let Some(spread) = print(&points, axis, phase) {
                let flat = spread <= BAR;
                kept &= flat;
                println!(
                    "\nfencepost {} the bar: {spread:.2} of {BAR}.",
                    if flat { "keeps" } else { "**misses**" }
                );
            }
        }
    }
    if options.write {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/growth.svg");
        chart::draw(&points, &file).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(kept || !options.check)
}

fn main() -> ExitCode {
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
