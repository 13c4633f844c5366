//! What is aimed at, and where a peer is still ahead.

use std::fmt::Write as _;

use crate::report::{Metric, Report, Row, Subset};
use crate::statistics::width;
use crate::table::{head, line};
use crate::workloads::Group;

/// Peak RSS that all workloads may have, as a share of glibc's.
const RSS_ALL: f64 = 0.95;
/// Peak RSS that real programs may have.
const RSS_REAL: f64 = 1.00;
/// CPU time that real programs may take.
const CPU_REAL: f64 = 0.84;
/// CPU time that any workload may take, as a multiple of its best peer's.
const OF_BEST_PEER: f64 = 1.15;
/// The same, as a multiple of glibc's where glibc beats all peers.
const OF_GLIBC: f64 = 1.10;

/// One aim.
#[derive(Debug)]
struct Bar {
    name: String,
    limit: f64,
    value: f64,
}

/// A workload on which the library is behind.
#[derive(Debug)]
struct Behind<'a> {
    row: &'a Row,
    /// The ratio to glibc.
    own: f64,
    /// The best peer's ratio to glibc, and its column.
    best: (usize, f64),
    /// How far glibc is from itself on this workload.
    spread: f64,
}

impl Behind<'_> {
    fn to_peer(&self) -> f64 {
        self.own / self.best.1
    }

    fn glibc_ahead(&self) -> bool {
        self.best.1 > 1.0
    }

    /// What the workload is judged by, and the limit: the best peer, or glibc
    /// where that beats all peers.
    fn judged(&self) -> (f64, f64) {
        if self.glibc_ahead() {
            (self.own, OF_GLIBC)
        } else {
            (self.to_peer(), OF_BEST_PEER)
        }
    }

    /// Above the limit, and by more than the spread.
    fn over(&self) -> bool {
        let (ratio, limit) = self.judged();
        ratio > limit * self.spread
    }
}

fn compared(report: &Report) -> Vec<Behind<'_>> {
    let Some(column) = report.candidate() else {
        return Vec::new();
    };
    report
        .rows
        .iter()
        .filter_map(|row| {
            let spread = report
                .again()
                .and_then(|again| report.ratio(row, again, Metric::Cpu))
                .map_or(1.0, width);
            Some(Behind {
                row,
                own: report.ratio(row, column, Metric::Cpu)?.median,
                best: report.best(row, Metric::Cpu)?,
                spread,
            })
        })
        .collect()
}

fn bars(report: &Report) -> Vec<Bar> {
    let mut bars = Vec::new();
    let Some(column) = report.candidate() else {
        return bars;
    };
    let mean = |subset, metric| {
        report
            .mean(subset, column, metric)
            .map(|(mean, _)| mean.median)
    };
    let mut add = |name: String, limit: Option<f64>, value: Option<f64>| {
        if let (Some(limit), Some(value)) = (limit, value) {
            bars.push(Bar { name, limit, value });
        }
    };
    for subset in Subset::ALL {
        add(
            format!("CPU time, {}: the best peer on each", subset.name()),
            report.best_mean(subset, Metric::Cpu),
            mean(subset, Metric::Cpu),
        );
    }
    let real = Subset::Of(Group::Real);
    add(
        "CPU time, real programs".to_owned(),
        Some(CPU_REAL),
        mean(real, Metric::Cpu),
    );
    add(
        "peak RSS, real programs".to_owned(),
        Some(RSS_REAL),
        mean(real, Metric::Rss),
    );
    add(
        "peak RSS, all".to_owned(),
        Some(RSS_ALL),
        mean(Subset::All, Metric::Rss),
    );
    bars
}

/// The aims with what was attained, and the workloads on which a peer is ahead;
/// nothing without a library under development and peers.
pub fn tables(report: &Report) -> String {
    let mut text = String::new();
    let compared = compared(report);
    if compared.is_empty() {
        return text;
    }
    head(
        &mut text,
        ["aim (at most)", "limit", "attained", "attained / limit"]
            .map(str::to_owned)
            .to_vec(),
    );
    for bar in bars(report) {
        let ratio = bar.value / bar.limit;
        line(
            &mut text,
            [
                bar.name,
                format!("{:.2}", bar.limit),
                format!("{:.2}", bar.value),
                format!("{} {ratio:.2}", if ratio <= 1.0 { '✓' } else { '✗' }),
            ],
        );
    }
    let over = compared.iter().filter(|one| one.over()).count();
    let worst = |glibc_ahead: bool| {
        compared
            .iter()
            .filter(|one| one.glibc_ahead() == glibc_ahead)
            .max_by(|one, other| one.judged().0.total_cmp(&other.judged().0))
    };
    for (glibc_ahead, what) in [
        (false, "CPU time of any workload, to its best peer"),
        (
            true,
            "CPU time of any workload where glibc beats all peers, to glibc",
        ),
    ] {
        if let Some(worst) = worst(glibc_ahead) {
            let (ratio, limit) = worst.judged();
            line(
                &mut text,
                [
                    what.to_owned(),
                    format!("{limit:.2}"),
                    format!("{ratio:.2} ({})", worst.row.name),
                    format!(
                        "{} {:.2}",
                        if worst.over() { '✗' } else { '✓' },
                        ratio / limit
                    ),
                ],
            );
        }
    }
    let _ = writeln!(
        text,
        "\nWorkloads above their limit by more than the spread: {over} of {}.\n",
        compared.len()
    );
    text.push_str(&ahead(report, compared));
    text
}

/// The workloads on which a peer is ahead by more than the spread, worst first.
fn ahead(report: &Report, compared: Vec<Behind<'_>>) -> String {
    let mut text = String::new();
    let mut behind: Vec<Behind<'_>> = compared
        .into_iter()
        .filter(|one| one.to_peer() > one.spread)
        .collect();
    behind.sort_by(|one, other| other.to_peer().total_cmp(&one.to_peer()));
    let _ = writeln!(
        text,
        "Workloads on which a peer is ahead by more than the spread: {}.\n",
        behind.len()
    );
    if behind.is_empty() {
        return text;
    }
    head(
        &mut text,
        [
            "where a peer is ahead (CPU time)",
            "threads",
            "to glibc",
            "best peer",
            "to best peer",
            "spread",
            "over the limit",
        ]
        .map(str::to_owned)
        .to_vec(),
    );
    for one in behind {
        line(
            &mut text,
            [
                one.row.name.clone(),
                one.row.threads.to_string(),
                format!("{:.2}", one.own),
                format!("{:.2} {}", one.best.1, report.allocators[one.best.0].name),
                format!("{:.2}", one.to_peer()),
                format!("{:.2}", one.spread),
                if one.over() { "✗" } else { "" }.to_owned(),
            ],
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    #[test]
    fn a_workload_far_behind_its_best_peer_is_over_the_limit() {
        let report = example();
        let compared = compared(&report);
        let over: Vec<(&str, bool)> = compared
            .iter()
            .map(|one| (one.row.name.as_str(), one.over()))
            .collect();
        assert_eq!(over, [("sort", false), ("exchange", true)]);
        assert!((compared[1].to_peer() - 10.0).abs() < 1e-12);
    }

    #[test]
    fn glibc_is_the_measure_where_it_beats_all_peers() {
        let mut report = example();
        // Both peers take twice glibc's time, fencepost a fifth more than it.
        for (column, factor) in [(2, 1.2), (3, 2.0), (4, 2.0)] {
            for round in 0..3 {
                let base = report.rows[0].entries[0].samples[round].user;
                report.rows[0].entries[column].samples[round].user = base * factor;
            }
        }
        let compared = compared(&report);
        let (ratio, limit) = compared[0].judged();
        assert!((ratio - 1.2).abs() < 1e-12 && limit == OF_GLIBC);
        assert!(
            compared[0].over(),
            "1.2 is above 1.1 and the spread of 1.03"
        );
        assert!(!tables(&report).contains("| sort "), "no peer is ahead");
    }

    #[test]
    fn the_tables_name_aims_and_laggards() {
        let text = tables(&example());
        let line = |start: &str| {
            text.lines()
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("no line {start} in\n{text}"))
        };
        assert_eq!(
            line("| CPU time, all:"),
            "| CPU time, all: the best peer on each | 0.40 | 1.00 | ✗ 2.50 |"
        );
        assert_eq!(
            line("| CPU time, real programs |"),
            "| CPU time, real programs | 0.84 | 0.50 | ✓ 0.60 |"
        );
        assert_eq!(
            line("| exchange "),
            "| exchange | 2 | 2.00 | 0.20 one | 10.00 | 1.00 | ✗ |"
        );
        assert!(text.contains("above their limit by more than the spread: 1 of 2."));
    }

    #[test]
    fn there_are_no_aims_without_a_candidate() {
        let mut report = example();
        report.allocators.remove(2);
        for row in &mut report.rows {
            row.entries.remove(2);
        }
        assert_eq!(tables(&report), "");
    }
}
