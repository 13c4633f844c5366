//! `fencepost mmu paging`: page replacement over a string of references.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use super::address::counted;
use super::curve;
use super::grid::{Choice, Counter, Step, run as steps};
use super::strings::{MOST_PAGES, Pattern, parse};
use crate::failure::Failure;
use crate::man::print;

/// Show page replacement: a run, and the faults for every size of memory
///
/// A string of references to pages runs over a memory of a few frames. Up to 40 references are
/// shown one by one. Below stands how many faults each policy would have with more or fewer
/// frames; where FIFO has more faults with more frames, that is Belady's anomaly. By default the
/// string is the one that he found it with.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The policy that the run is shown for
    #[arg(short, long, value_enum, default_value_t = Choice::Fifo)]
    policy: Choice,

    /// Frames of memory
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_PAGES)))]
    frames: u32,

    /// The pages that are referred to, such as 7,0,1,2
    #[arg(short, long, value_name = "LIST", conflicts_with_all = ["pattern", "pages", "count"])]
    refs: Option<String>,

    /// Make the string by a pattern
    #[arg(long, value_enum)]
    pattern: Option<Pattern>,

    /// Pages of the pattern
    #[arg(long, default_value_t = 8, requires = "pattern",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(MOST_PAGES)))]
    pages: u32,

    /// References of the pattern
    #[arg(long, default_value_t = 1000, requires = "pattern",
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,

    /// Where the random numbers of patterns and of the policy begin
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Draw the faults by size of memory as an SVG picture, too
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    svg: Option<PathBuf>,
}

/// The string by which Belady, Nelson and Shedler showed the anomaly (1969).
const BELADY: [u32; 12] = [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5];
/// References that are shown one by one, at most, and frames.
const SHOWN: (usize, usize) = (40, 24);
/// Sizes of memory in the table, at most.
const SIZES: usize = 32;
/// Steps that OPT may take for all sizes together; it looks through all frames at each fault.
const MOST_WORK: usize = 400_000_000;

/// Prints the run, and draws the curve if asked to.
pub fn run(args: &Args) -> Result<(), Failure> {
    let references = match (&args.refs, args.pattern) {
        (Some(list), _) => {
            parse(list).map_err(|why| Failure::own(format_args!("--refs: {why}")))?
        }
        (None, Some(pattern)) => pattern.references(args.pages, args.count as usize, args.seed),
        (None, None) => BELADY.to_vec(),
    };
    let frames = args.frames as usize;
    let plan = Plan::new(&references, args);
    if args.policy == Choice::Opt && !plan.with_opt {
        return Err(Failure::own(
            "OPT looks at all frames for each reference, and these are too many: \
             fewer references or pages, please",
        ));
    }
    let table = Table::count(plan, &references, args.seed);
    if let Some(file) = &args.svg {
        let picture = curve::draw(&table.lines, args.policy, frames as u64)
            .map_err(|error| Failure::own(format_args!("the picture: {error}")))?;
        super::save(file, &picture)?;
    }
    let mut out = String::new();
    let name = args.policy.name();
    let faults = table.faults(args.policy, frames as u64).unwrap_or(0);
    let title = format!(
        "{name} with {}: {} to {}, {}",
        counted(frames as u64, "frame"),
        counted(references.len() as u64, "reference"),
        counted(table.pages as u64, "page"),
        counted(faults, "fault"),
    );
    // Writing to a string does not fail.
    let _ = writeln!(out, "{title}\n");
    if references.len() <= SHOWN.0 && frames <= SHOWN.1 {
        let steps = steps(args.policy, &references, frames, args.seed);
        let _ = show(&mut out, &steps, frames);
    }
    let _ = table.show(&mut out, args.policy, frames as u64);
    print(out.as_bytes())
}

/// The frames after each reference; a star marks a fault.
fn show(out: &mut String, steps: &[Step], frames: usize) -> std::fmt::Result {
    let pages = steps.iter().map(|step| step.page.to_string().len());
    let width = pages.max().unwrap_or(1).max(2) + 1;
    let row = |out: &mut String, name: &str, cell: &dyn Fn(&Step) -> String| {
        let cells: String = steps
            .iter()
            .map(|step| format!("{:>width$}", cell(step)))
            .collect();
        writeln!(out, "{}", format!("{name:<11}{cells}").trim_end())
    };
    row(out, "reference", &|step| step.page.to_string())?;
    row(out, "fault", &|step| {
        let mark = if step.fault { "*" } else { "" };
        mark.to_owned()
    })?;
    for frame in 0..frames {
        row(out, &format!("frame {frame}"), &|step| {
            let page = step.frames.get(frame).copied().flatten();
            page.map_or_else(|| ".".to_owned(), |page| page.to_string())
        })?;
    }
    writeln!(out)
}

/// What is to be counted.
struct Plan {
    pages: usize,
    sizes: Vec<u64>,
    with_opt: bool,
}

impl Plan {
    /// Every size of memory that makes a difference, or some of them, and the one asked for.
    fn new(references: &[u32], args: &Args) -> Plan {
        let pages = references.iter().collect::<BTreeSet<_>>().len();
        let mut sizes: BTreeSet<u64> = if pages <= SIZES {
            (1..=pages as u64).collect()
        } else {
            let part = |n: usize| (pages * n).div_ceil(SIZES) as u64;
            (1..=SIZES).map(part).collect()
        };
        sizes.insert(args.frames.into());
        let work = sizes.iter().sum::<u64>() as usize * references.len();
        Plan {
            pages,
            sizes: sizes.into_iter().collect(),
            with_opt: work <= MOST_WORK,
        }
    }
}

/// Faults of all policies for a number of sizes.
struct Table {
    pages: usize,
    sizes: Vec<u64>,
    lines: Vec<curve::Line>,
}

impl Table {
    fn count(plan: Plan, references: &[u32], seed: u64) -> Table {
        let mut counter = Counter::new(references, seed);
        let mut points = |choice| {
            let point = |size: &u64| (*size, counter.faults(choice, *size as usize));
            plan.sizes.iter().map(point).collect()
        };
        let lines = Choice::ALL
            .into_iter()
            .filter(|choice| *choice != Choice::Opt || plan.with_opt)
            .map(|choice| curve::Line {
                choice,
                points: points(choice),
            })
            .collect();
        Table {
            pages: plan.pages,
            sizes: plan.sizes,
            lines,
        }
    }

    fn has(&self, choice: Choice) -> bool {
        self.lines.iter().any(|line| line.choice == choice)
    }

    fn faults(&self, choice: Choice, size: u64) -> Option<u64> {
        let line = self.lines.iter().find(|line| line.choice == choice)?;
        let point = line.points.iter().find(|point| point.0 == size)?;
        Some(point.1)
    }

    /// The table, with bars for the policy that was chosen, and what there is to notice.
    fn show(&self, out: &mut String, chosen: Choice, frames: u64) -> std::fmt::Result {
        const BAR: u64 = 30;
        write!(out, "{:>7}", "frames")?;
        for line in &self.lines {
            write!(out, "  {:>7}", line.choice.name())?;
        }
        writeln!(out, "  {}", chosen.name())?;
        let most = self
            .sizes
            .iter()
            .filter_map(|size| self.faults(chosen, *size));
        let most = most.max().unwrap_or(1).max(1);
        let mut before: Option<u64> = None;
        let mut notes = Vec::new();
        for size in &self.sizes {
            let mark = if *size == frames { '>' } else { ' ' };
            write!(out, "{mark}{size:>6}")?;
            for line in &self.lines {
                let faults = self.faults(line.choice, *size).unwrap_or(0);
                write!(out, "  {faults:>7}")?;
            }
            let faults = self.faults(chosen, *size).unwrap_or(0);
            let length = (faults * BAR).div_ceil(most);
            let bar = "#".repeat(usize::try_from(length).unwrap_or(0));
            writeln!(out, "  {bar}")?;
            if before.is_some_and(|before| faults > before) {
                notes.push((*size, before.unwrap_or(0), faults));
            }
            before = Some(faults);
        }
        if !self.has(Choice::Opt) {
            writeln!(
                out,
                "\nOPT is left out: it would look at all frames too often."
            )?;
        }
        // A policy by chance has more faults now and then without any anomaly.
        if matches!(chosen, Choice::Fifo | Choice::Clock) && !notes.is_empty() {
            writeln!(out)?;
            for (size, fewer, more) in notes {
                writeln!(
                    out,
                    "{} has {more} faults with {size} frames, and {fewer} with fewer: Belady's \
                     anomaly.",
                    chosen.name()
                )?;
            }
        }
        Ok(())
    }
}
