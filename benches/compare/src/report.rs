//! What was measured, and the ratios that follow from it.

use serde::{Deserialize, Serialize};

use crate::allocators::{Allocator, Role, Skipped};
use crate::measure::Sample;
use crate::statistics::{Summary, geometric_mean};
use crate::workloads::Group;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// CPU time of the program and its children.
    Cpu,
    /// Time that passed.
    Wall,
    /// Peak resident size of the largest process.
    Rss,
    /// Page faults, served with and without reading.
    Faults,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 4] = [Metric::Cpu, Metric::Rss, Metric::Wall, Metric::Faults];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cpu => "CPU time",
            Metric::Wall => "wall time",
            Metric::Rss => "peak RSS",
            Metric::Faults => "page faults",
        }
    }

    /// The value in a sample, in seconds, MiB or faults.
    pub fn of(self, sample: &Sample) -> f64 {
        match self {
            Metric::Cpu => sample.user + sample.system,
            Metric::Wall => sample.wall,
            Metric::Rss => sample.rss_kib as f64 / 1024.0,
            Metric::Faults => (sample.minor + sample.major) as f64,
        }
    }

    /// An absolute value with its unit.
    pub fn show(self, value: f64) -> String {
        match self {
            Metric::Cpu | Metric::Wall => format!("{value:.2} s"),
            Metric::Rss => format!("{value:.1} MiB"),
            Metric::Faults => format!("{value:.0}"),
        }
    }
}

/// The machine and the circumstances.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Circumstances {
    /// The processor's name.
    pub cpu: String,
    /// How many CPUs the process may use.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// The day.
    pub date: String,
    /// The load average before the first run.
    pub load: String,
    /// The command line.
    pub command: String,
    /// Runs per workload and allocator, beside one that warms up.
    pub runs: usize,
    /// The length of each workload in percent.
    pub percent: u64,
}

/// The runs of one workload under one allocator.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    /// The measurements, in the order of the rounds.
    pub samples: Vec<Sample>,
    /// Why they do not count; none if they do.
    pub failure: Option<String>,
}

/// The runs of one workload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The workload's name.
    pub name: String,
    /// Its group.
    pub group: Group,
    /// How many threads allocate.
    pub threads: u32,
    /// One for each allocator, in the report's order.
    pub entries: Vec<Entry>,
}

/// All that was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// The circumstances.
    pub circumstances: Circumstances,
    /// The columns; the first is the baseline.
    pub allocators: Vec<Allocator>,
    /// The rows.
    pub rows: Vec<Row>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// The Rust programs with other global allocators, compared with the
    /// system's: an experiment of its own.
    #[serde(default)]
    pub globals: Option<Box<Report>>,
}

/// Rows that are averaged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subset {
    /// The programs of one group.
    Of(Group),
    /// The workloads with two threads or more.
    Threaded,
    /// Everything.
    All,
}

impl Subset {
    /// All of them, in the tables' order.
    pub const ALL: [Subset; 6] = [
        Subset::Of(Group::Classic),
        Subset::Of(Group::Synthetic),
        Subset::Of(Group::Rust),
        Subset::Of(Group::Real),
        Subset::Threaded,
        Subset::All,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Subset::Of(Group::Real) => "real programs",
            Subset::Of(Group::Rust) => "Rust programs",
            Subset::Of(Group::Synthetic) => "synthetic loads",
            Subset::Of(Group::Classic) => "classic benchmarks",
            Subset::Threaded => "two threads or more",
            Subset::All => "all",
        }
    }

    /// Whether a row belongs to it.
    pub fn holds(self, row: &Row) -> bool {
        match self {
            Subset::Of(group) => row.group == group,
            Subset::Threaded => row.threads > 1,
            Subset::All => true,
        }
    }
}

impl Report {
    /// The column of glibc's second runs.
    pub fn again(&self) -> Option<usize> {
        self.allocators
            .iter()
            .position(|one| one.role == Role::Again)
    }

    /// The column of the library under development; of the first, if several
    /// take part.
    pub fn candidate(&self) -> Option<usize> {
        self.allocators
            .iter()
            .position(|one| one.role == Role::Candidate)
    }

    /// The ratio to the best peer in a row, and to that or the baseline,
    /// whichever is the smaller.
    pub fn to_best(&self, row: &Row, column: usize, metric: Metric) -> Option<(f64, f64)> {
        let own = self.ratio(row, column, metric)?.median;
        let best = self.best(row, metric)?.1;
        Some((own / best, own / best.min(1.0)))
    }

    /// The ratios to the baseline, pair by pair; nothing where a run failed.
    pub fn pairs(&self, row: &Row, column: usize, metric: Metric) -> Option<Vec<f64>> {
        let (base, entry) = (row.entries.first()?, row.entries.get(column)?);
        if base.failure.is_some() || entry.failure.is_some() {
            return None;
        }
        base.samples
            .iter()
            .zip(&entry.samples)
            .map(|(base, other)| {
                let (base, other) = (metric.of(base), metric.of(other));
                (base > 0.0 && other > 0.0).then(|| other / base)
            })
            .collect()
    }

    /// The ratio to the baseline: the median of the pairs, with their range.
    pub fn ratio(&self, row: &Row, column: usize, metric: Metric) -> Option<Summary> {
        Summary::of(self.pairs(row, column, metric)?)
    }

    /// The smallest ratio of any peer in a row, and whose it is.
    pub fn best(&self, row: &Row, metric: Metric) -> Option<(usize, f64)> {
        (0..self.allocators.len())
            .filter(|&column| self.allocators[column].role == Role::Peer)
            .filter_map(|column| Some((column, self.ratio(row, column, metric)?.median)))
            .min_by(|one, other| one.1.total_cmp(&other.1))
    }

    fn rows(&self, subset: Subset) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| subset.holds(row))
    }

    /// The geometric mean over the rows of a subset that did not fail: of the
    /// medians, with the range of the same mean taken round by round. Also how
    /// many rows it is taken over.
    pub fn mean(&self, subset: Subset, column: usize, metric: Metric) -> Option<(Summary, usize)> {
        let pairs: Vec<Vec<f64>> = self
            .rows(subset)
            .filter_map(|row| self.pairs(row, column, metric))
            .collect();
        let medians = pairs
            .iter()
            .filter_map(|row| Some(Summary::of(row.iter().copied())?.median));
        let median = geometric_mean(medians)?;
        let rounds = pairs.iter().map(Vec::len).min().unwrap_or(0);
        let by_round =
            (0..rounds).filter_map(|round| geometric_mean(pairs.iter().map(|row| row[round])));
        // The mean of medians need not lie among the means of rounds.
        let range = Summary::of(by_round.chain([median]))?;
        Some((Summary { median, ..range }, pairs.len()))
    }

    /// The geometric mean of the best peer on each workload.
    pub fn best_mean(&self, subset: Subset, metric: Metric) -> Option<f64> {
        geometric_mean(
            self.rows(subset)
                .filter_map(|row| Some(self.best(row, metric)?.1)),
        )
    }

    /// What failed: workload, allocator, reason.
    pub fn failures(&self) -> Vec<(&str, &str, &str)> {
        let mut failures = Vec::new();
        for row in &self.rows {
            for (entry, allocator) in row.entries.iter().zip(&self.allocators) {
                if let Some(reason) = &entry.failure {
                    failures.push((row.name.as_str(), allocator.name.as_str(), reason.as_str()));
                }
            }
        }
        if let Some(globals) = &self.globals {
            failures.extend(globals.failures());
        }
        failures
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn allocator(name: &str, role: Role) -> Allocator {
        Allocator {
            name: name.to_owned(),
            role,
            version: "1.0".to_owned(),
            library: None,
            program: None,
            environment: Vec::new(),
        }
    }

    fn entry(seconds: &[f64], rss_kib: u64) -> Entry {
        let sample = |&user: &f64| Sample {
            user,
            wall: user,
            rss_kib,
            minor: 100,
            ..Sample::default()
        };
        Entry {
            samples: seconds.iter().map(sample).collect(),
            failure: None,
        }
    }

    /// Two rows, five columns; the last peer fails in the second row.
    pub fn example() -> Report {
        let mut failed = entry(&[], 0);
        failed.failure = Some("signal 11".to_owned());
        Report {
            circumstances: Circumstances {
                runs: 3,
                percent: 100,
                ..Circumstances::default()
            },
            allocators: vec![
                allocator("glibc", Role::Baseline),
                allocator("glibc again", Role::Again),
                allocator("fencepost", Role::Candidate),
                allocator("one", Role::Peer),
                allocator("two", Role::Peer),
            ],
            rows: vec![
                Row {
                    name: "sort".to_owned(),
                    group: Group::Real,
                    threads: 1,
                    entries: vec![
                        entry(&[1.0, 2.0, 4.0], 2048),
                        entry(&[1.02, 2.0, 3.9], 2048),
                        entry(&[0.5, 1.0, 2.2], 2048),
                        entry(&[0.8, 1.6, 3.2], 4096),
                        entry(&[0.9, 1.8, 3.6], 1024),
                    ],
                },
                Row {
                    name: "exchange".to_owned(),
                    group: Group::Synthetic,
                    threads: 2,
                    entries: vec![
                        entry(&[1.0, 1.0, 1.0], 1024),
                        entry(&[1.0, 1.0, 1.0], 1024),
                        entry(&[2.0, 2.0, 2.0], 1024),
                        entry(&[0.2, 0.2, 0.2], 1024),
                        failed,
                    ],
                },
            ],
            skipped: vec![Skipped {
                name: "three".to_owned(),
                reason: "absent".to_owned(),
            }],
            globals: None,
        }
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        let report = example();
        let ratio = report
            .ratio(&report.rows[0], 2, Metric::Cpu)
            .expect("it ran");
        assert_eq!((ratio.low, ratio.median, ratio.high), (0.5, 0.5, 0.55));
    }

    #[test]
    fn the_best_peer_is_chosen_per_row_and_metric_among_peers_only() {
        let report = example();
        let best = |row: usize, metric| report.best(&report.rows[row], metric).map(|best| best.0);
        assert_eq!(best(0, Metric::Cpu), Some(3));
        assert_eq!(best(0, Metric::Rss), Some(4));
        assert_eq!(best(1, Metric::Cpu), Some(3));
        let mean = report
            .best_mean(Subset::All, Metric::Cpu)
            .expect("there are peers");
        assert!((mean - (0.8f64 * 0.2).sqrt()).abs() < 1e-12, "{mean}");
    }

    #[test]
    fn failures_are_never_averaged() {
        let report = example();
        let (mean, rows) = report
            .mean(Subset::All, 4, Metric::Cpu)
            .expect("one row ran");
        assert_eq!(rows, 1);
        assert!((mean.median - 0.9).abs() < 1e-12);
        assert!(report.mean(Subset::Threaded, 4, Metric::Cpu).is_none());
        assert_eq!(report.failures(), [("exchange", "two", "signal 11")]);
    }

    #[test]
    fn a_mean_has_the_range_of_its_rounds() {
        let report = example();
        let (mean, rows) = report
            .mean(Subset::All, 2, Metric::Cpu)
            .expect("both rows ran");
        assert_eq!(rows, 2);
        assert!((mean.median - 1.0).abs() < 1e-12);
        assert!((mean.high - 1.1f64.sqrt()).abs() < 1e-12);
        assert!(mean.low <= mean.median && mean.median <= mean.high);
    }
}
