//! The Markdown tables and the CSV file.

use std::fmt::Write as _;

use crate::allocators::Role;
use crate::bars;
use crate::report::{Metric, Report, Subset};
use crate::statistics::{Summary, Verdict, verdict};

const LEGEND: &str = "Ratios to glibc, smaller is better: ▼ below and ▲ above glibc by more than the \
spread of glibc against itself in the same rounds (the column *glibc again*), ~ inside it. \
*Best peer* is the smallest ratio of any peer on each workload; no one allocator attains it. \
*Best of all* counts glibc among the peers.";

fn mark(ratio: f64, noise: Option<Summary>) -> char {
    match verdict(ratio, noise) {
        Verdict::Better => '▼',
        Verdict::Worse => '▲',
        Verdict::Same => '~',
    }
}

/// A line of a table.
pub fn line(text: &mut String, cells: impl IntoIterator<Item = String>) {
    text.push('|');
    for cell in cells {
        let _ = write!(text, " {} |", cell.replace('|', "\\|"));
    }
    text.push('\n');
}

/// The head of a table; its first column is text.
pub fn head(text: &mut String, titles: Vec<String>) {
    let rule: String = titles
        .iter()
        .enumerate()
        .map(|(column, _)| if column == 0 { "|---|" } else { "---:|" })
        .collect();
    line(text, titles);
    text.push_str(&rule);
    text.push('\n');
}

/// The columns after the baseline.
fn columns(report: &Report) -> impl Iterator<Item = (usize, &crate::allocators::Allocator)> {
    report.allocators.iter().enumerate().skip(1)
}

/// A ratio as a cell; with its range where the reader needs it to judge.
fn cell(ratio: Summary, noise: Option<Summary>, role: Role) -> String {
    let Summary { median, low, high } = ratio;
    match role {
        Role::Again => format!("{median:.2} ({low:.2}–{high:.2})"),
        Role::Candidate => format!("{} {median:.2} ({low:.2}–{high:.2})", mark(median, noise)),
        Role::Baseline | Role::Peer => format!("{} {median:.2}", mark(median, noise)),
    }
}

/// The geometric means of every subset and metric.
pub fn summary(report: &Report) -> String {
    let mut text = String::new();
    let mut titles = vec!["geometric mean".to_owned(), "workloads".to_owned()];
    titles.extend(columns(report).map(|(_, allocator)| allocator.name.clone()));
    titles.push("best peer".to_owned());
    let candidate = report
        .candidate()
        .filter(|_| report.best_mean(Subset::All, Metric::Cpu).is_some());
    if let Some(column) = candidate {
        titles.push(format!("{} to best peer", report.allocators[column].name));
    }
    head(&mut text, titles);
    for metric in Metric::ALL {
        for subset in Subset::ALL {
            let count = report.rows.iter().filter(|row| subset.holds(row)).count();
            let brief = matches!(metric, Metric::Wall | Metric::Faults);
            if count == 0 || (brief && subset != Subset::All) {
                continue;
            }
            let noise = report
                .again()
                .and_then(|column| report.mean(subset, column, metric))
                .map(|(mean, _)| mean);
            let mut cells = vec![
                format!("{}, {}", metric.name(), subset.name()),
                count.to_string(),
            ];
            cells.extend(columns(report).map(|(column, allocator)| {
                match report.mean(subset, column, metric) {
                    Some((mean, rows)) if rows == count => cell(mean, noise, allocator.role),
                    Some((mean, rows)) => {
                        format!("{} of {rows}", cell(mean, noise, allocator.role))
                    }
                    None => "–".to_owned(),
                }
            }));
            let best = report.best_mean(subset, metric);
            let number =
                |ratio: Option<f64>| ratio.map_or("–".to_owned(), |one| format!("{one:.2}"));
            cells.push(number(best));
            if let Some(column) = candidate {
                let own = report.mean(subset, column, metric);
                cells.push(number(
                    best.zip(own).map(|(best, (own, _))| own.median / best),
                ));
            }
            line(&mut text, cells);
        }
    }
    text
}

/// One metric, workload by workload.
pub fn details(report: &Report, metric: Metric) -> String {
    let mut text = String::new();
    let mut titles = vec![
        format!("{} by workload", metric.name()),
        "threads".to_owned(),
    ];
    titles.extend(report.allocators.iter().map(|one| one.name.clone()));
    titles.push("best peer".to_owned());
    let candidate = report
        .candidate()
        .filter(|_| report.allocators.iter().any(|one| one.role == Role::Peer));
    if let Some(column) = candidate {
        let name = &report.allocators[column].name;
        titles.push(format!("{name} to best peer"));
        titles.push("to the best of all".to_owned());
    }
    head(&mut text, titles);
    for row in &report.rows {
        let noise = report
            .again()
            .and_then(|column| report.ratio(row, column, metric));
        let base = row.entries.first().filter(|entry| entry.failure.is_none());
        let absolute = base
            .and_then(|entry| Summary::of(entry.samples.iter().map(|sample| metric.of(sample))))
            .map_or("failed".to_owned(), |value| metric.show(value.median));
        let mut cells = vec![row.name.clone(), row.threads.to_string(), absolute];
        cells.extend(columns(report).map(|(column, allocator)| {
            match report.ratio(row, column, metric) {
                Some(ratio) => cell(ratio, noise, allocator.role),
                None => "**failed**".to_owned(),
            }
        }));
        cells.push(
            report
                .best(row, metric)
                .map_or("–".to_owned(), |(column, ratio)| {
                    format!("{ratio:.2} {}", report.allocators[column].name)
                }),
        );
        if let Some(column) = candidate {
            let (to_peer, to_all) = report
                .to_best(row, column, metric)
                .map_or((None, None), |(peer, all)| (Some(peer), Some(all)));
            cells.extend(
                [to_peer, to_all]
                    .map(|ratio| ratio.map_or("–".to_owned(), |one| format!("{one:.2}"))),
            );
        }
        line(&mut text, cells);
    }
    text
}

fn circumstances(report: &Report) -> String {
    let about = &report.circumstances;
    let mut text = format!(
        "Measured {} on {} ({} CPUs, Linux {}, load average before: {}) by `{}`: {} runs of each \
         after one to warm up, allocators in rotating order, each ratio the median of ratios to \
         glibc's run of the same round",
        about.date, about.cpu, about.cores, about.kernel, about.load, about.command, about.runs
    );
    if about.percent != 100 {
        let _ = write!(
            text,
            "; workloads at {} % of their full length",
            about.percent
        );
    }
    text.push_str(".\n\nVersions: ");
    let versions: Vec<String> = report
        .allocators
        .iter()
        .filter(|allocator| allocator.role != Role::Again)
        .map(|allocator| format!("{} {}", allocator.name, allocator.version))
        .collect();
    text.push_str(&versions.join("; "));
    text.push_str(".\n");
    text
}

/// What failed and what was left out; nothing if all is well.
fn remarks(report: &Report) -> String {
    let mut text = String::new();
    let failures = report.failures();
    if !failures.is_empty() {
        text.push_str("\nFailures, which no mean contains:\n\n");
        for (workload, allocator, reason) in failures {
            let _ = writeln!(text, "- {workload} under {allocator}: {reason}");
        }
    }
    if !report.skipped.is_empty() {
        text.push_str("\nLeft out:\n\n");
        for one in &report.skipped {
            let _ = writeln!(text, "- {}: {}", one.name, one.reason);
        }
    }
    text
}

/// The document with all tables.
pub fn document(report: &Report) -> String {
    let mut text = format!(
        "# Allocators on whole programs\n\n{}\n{LEGEND}\n\n",
        circumstances(report)
    );
    text.push_str("![CPU time and peak RSS](compare.svg)\n\n");
    text.push_str(&summary(report));
    let aims = bars::tables(report);
    if !aims.is_empty() {
        let _ = write!(text, "\n## Aims\n\n{aims}");
    }
    for metric in Metric::ALL {
        let _ = write!(
            text,
            "\n## {}\n\n{}",
            metric.name(),
            details(report, metric)
        );
    }
    if let Some(globals) = &report.globals {
        let _ = write!(text, "\n## Global allocators\n\n{}", of_globals(globals));
    }
    text.push_str(&remarks(report));
    text
}

/// The Rust programs with other global allocators.
fn of_globals(globals: &Report) -> String {
    let versions: Vec<String> = globals
        .allocators
        .iter()
        .filter(|one| one.role == Role::Peer)
        .map(|one| format!("{} {}", one.name, one.version))
        .collect();
    let mut text = format!(
        "The Rust programs, each built with these as `#[global_allocator]`; ratios are to the same \
         build with the system's allocator, glibc's malloc. Versions: {}.\n\n",
        versions.join("; ")
    );
    text.push_str(&summary(globals));
    for metric in [Metric::Cpu, Metric::Rss] {
        let _ = write!(text, "\n{}", details(globals, metric));
    }
    text
}

const BEGIN: &str = "<!-- compare:begin -->";
const END: &str = "<!-- compare:end -->";

/// A README with the section between its two marks replaced; nothing if it has
/// no such section.
pub fn in_readme(readme: &str, report: &Report) -> Option<String> {
    let begin = readme.find(BEGIN)? + BEGIN.len();
    let end = begin + readme[begin..].find(END)?;
    let mut text = readme[..begin].to_owned();
    let _ = write!(
        text,
        "\n\n{}\n{LEGEND}\n\n![CPU time and peak RSS of the allocators](docs/compare.svg)\n\n{}",
        circumstances(report),
        summary(report)
    );
    for metric in [Metric::Cpu, Metric::Rss] {
        let _ = write!(
            text,
            "\n<details><summary>{} of each workload</summary>\n\n{}\n</details>\n",
            metric.name(),
            details(report, metric)
        );
    }
    let aims = bars::tables(report);
    if !aims.is_empty() {
        let _ = write!(text, "\n{aims}");
    }
    if let Some(globals) = &report.globals {
        let _ = write!(
            text,
            "\n<details><summary>Rust programs with other global allocators</summary>\n\n{}\n</details>\n",
            of_globals(globals)
        );
    }
    let _ = write!(text, "{}\n{}", remarks(report), &readme[end..]);
    Some(text)
}

/// Every single measurement.
pub fn csv(report: &Report) -> String {
    let mut text =
        "workload,group,threads,allocator,run,wall_s,user_s,system_s,peak_rss_kib,minor_faults,major_faults,failure\n"
            .to_owned();
    add_lines(&mut text, report, "");
    if let Some(globals) = &report.globals {
        add_lines(&mut text, globals, "global ");
    }
    text
}

fn add_lines(text: &mut String, report: &Report, prefix: &str) {
    for row in &report.rows {
        for (entry, allocator) in row.entries.iter().zip(&report.allocators) {
            let failure = entry
                .failure
                .as_deref()
                .unwrap_or_default()
                .replace([',', '"'], ";");
            for (run, sample) in entry.samples.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "{},{:?},{},{prefix}{},{run},{},{},{},{},{},{},{failure}",
                    row.name,
                    row.group,
                    row.threads,
                    allocator.name,
                    sample.wall,
                    sample.user,
                    sample.system,
                    sample.rss_kib,
                    sample.minor,
                    sample.major,
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::example;

    fn row<'a>(table: &'a str, start: &str) -> Vec<&'a str> {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("| {start} ")))
            .unwrap_or_else(|| panic!("no row {start} in\n{table}"));
        line.trim_matches('|').split('|').map(str::trim).collect()
    }

    #[test]
    fn a_row_has_marks_ranges_and_the_best_peer() {
        let table = details(&example(), Metric::Cpu);
        assert_eq!(
            row(&table, "sort"),
            [
                "sort",
                "1",
                "2.00 s",
                "1.00 (0.97–1.02)",
                "▼ 0.50 (0.50–0.55)",
                "▼ 0.80",
                "▼ 0.90",
                "0.80 one",
                "0.62",
                "0.62"
            ]
        );
        assert_eq!(
            row(&table, "exchange")[4..],
            [
                "▲ 2.00 (2.00–2.00)",
                "▼ 0.20",
                "**failed**",
                "0.20 one",
                "10.00",
                "10.00"
            ]
        );
    }

    #[test]
    fn the_summary_says_how_many_rows_a_mean_lacks() {
        let table = summary(&example());
        let all = row(&table, "CPU time, all");
        assert_eq!(all[1], "2");
        assert_eq!(all[5], "▼ 0.90 of 1");
        assert_eq!(all[6..], ["0.40", "2.50"]);
        assert_eq!(row(&table, "CPU time, two threads or more")[5], "–");
        assert!(
            !table.contains("Rust programs"),
            "there is no such workload"
        );
    }

    #[test]
    fn every_line_of_a_table_has_as_many_cells_as_its_head() {
        for table in [summary(&example()), details(&example(), Metric::Rss)] {
            let bars: Vec<usize> = table
                .lines()
                .map(|line| line.matches('|').count())
                .collect();
            assert!(bars.iter().all(|&count| count == bars[0]), "{table}");
        }
    }

    #[test]
    fn the_readme_keeps_what_lies_outside_the_marks() {
        let readme = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = in_readme(&readme, &example()).expect("it has the marks");
        assert!(new.starts_with(&format!("before\n{BEGIN}\n")));
        assert!(new.ends_with(&format!("{END}\nafter\n")));
        assert!(!new.contains("old"));
        assert!(new.contains("exchange under two: signal 11"));
        assert!(new.contains("three: absent"));
        assert_eq!(
            in_readme(&new, &example()),
            Some(new.clone()),
            "it is stable"
        );
        assert_eq!(in_readme("no marks", &example()), None);
    }

    #[test]
    fn the_csv_has_a_line_for_each_sample() {
        let lines = csv(&example());
        assert_eq!(lines.lines().count(), 1 + 9 * 3);
        let commas = |line: &str| line.matches(',').count();
        assert!(lines.lines().all(|line| commas(line) == 11));
    }
}
