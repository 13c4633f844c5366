//! How much memory loads keep under fencepost, glibc and any other library, as the kernel counts it.
//!
//! ```text
//! cargo build --release && cargo bench --bench memory -- --lib mimalloc=/usr/lib/libmimalloc.so
//! ```
//!
//! The loads are those of `tests/memory/memory.c`, each in a process of its own. `--only TEXT`
//! chooses among `hundred`, `peak`, `long`, `idle`, `after`; `--quick` makes them smaller, and
//! leaves out the bars that hold for the full load only; `--check` fails if fencepost misses
//! one; `--json FILE` writes the tables; `--fencepost FILE` is measured in place of the library that
//! was built.
//!
//! Nothing here calls `malloc_trim`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "../tests/support/compile.rs"]
mod compile;
#[path = "support/field.rs"]
mod field;

use field::{Bar, Figures, Options, Row, Table, median, run};

/// Runs whose outcome differs a little are repeated; their median counts.
const RUNS: usize = 5;

struct Bench {
    program: PathBuf,
    options: Options,
}

impl Bench {
    /// The median of each figure over some runs, for each allocator.
    fn figures(&self, args: &[&str], runs: usize) -> Vec<Option<Figures>> {
        let one = |allocator| {
            let all: Vec<Figures> = (0..runs)
                .map(|_| run(&self.program, args, allocator))
                .collect::<Option<_>>()?;
            let middle = |name: &String| {
                let values = all.iter().filter_map(|figures| figures.get(name).copied());
                Some((name.clone(), median(values.collect())?))
            };
            all.first()?.keys().map(middle).collect()
        };
        self.options.allocators.iter().map(one).collect()
    }

    /// A number of things, or a tenth of it.
    fn count(&self, full: usize) -> String {
        (if self.options.quick { full / 10 } else { full }).to_string()
    }

    /// A bar that holds for the full load only.
    fn full(&self, bar: Bar) -> Bar {
        if self.options.quick { Bar::None } else { bar }
    }

    fn hundred(&self) -> Vec<Table> {
        let mut tables: Vec<Table> = ["resident", "anonymous", "peak"]
            .map(|name| Table {
                title: format!("hundred live objects: {name}, KiB"),
                digits: 0,
                rows: Vec::new(),
            })
            .into();
        for (what, name) in [
            ("none", "none"),
            ("16", "of 16 B"),
            ("1024", "of 1 KiB"),
            ("65536", "of 64 KiB"),
            ("mixed", "of 16 B, 1 KiB, 64 KiB"),
            (
                "churn",
                "the same after 100,000 replacements of 16 B to 64 KiB",
            ),
        ] {
            let found = self.figures(&["hundred", what], RUNS);
            for (table, figure) in
                tables
                    .iter_mut()
                    .zip(["resident_kib", "anonymous_kib", "peak_kib"])
            {
                table.rows.push(Row {
                    name: name.to_string(),
                    values: pick(&found, figure, 1.0),
                    // What is there without any object shows for itself.
                    bar: match figure {
                        "resident_kib" if what != "none" => Bar::AtMostGlibc,
                        _ => Bar::None,
                    },
                });
            }
        }
        tables
    }

    fn peak(&self) -> Vec<Table> {
        let count = self.count(600_000);
        let bar = self.full(Bar::AtMost(400.0));
        [
            ("one", "one thread"),
            ("turns", "two threads, one allocates, then the other frees"),
            ("beside", "two threads, one frees while the other allocates"),
        ]
        .map(|(how, title)| {
            let found = self.figures(&["peak", how, &count], 1);
            let row = |name: &str, figure: &str, bar| Row {
                name: name.to_string(),
                values: pick(&found, figure, 1024.0),
                bar,
            };
            let mut rows = vec![row("peak", "peak_kib", Bar::None)];
            for round in 1..=5 {
                let name = format!("resident after round {round}");
                rows.push(row(&name, &format!("round_{round}_kib"), Bar::None));
            }
            rows.push(row("resident a second later", "second_kib", bar));
            rows.push(row("alive", "live_kib", Bar::None));
            Table {
                title: format!("{count} objects, a random tenth stays, {title}: MiB"),
                digits: 0,
                rows,
            }
        })
        .into()
    }

    fn long(&self) -> Vec<Table> {
        const SAMPLES: usize = 20;
        let operations = self.count(30_000_000);
        let found = self.figures(&["long", &operations], 1);
        let ratio = |figures: &Figures, sample| {
            let figure = |name| figures.get(&format!("{name}_{sample:02}_kib")).copied();
            Some(figure("resident")? / figure("live")?)
        };
        let mean = |figures: &Option<Figures>, from: usize| {
            let all: Option<f64> = (from..from + SAMPLES / 2)
                .map(|sample| ratio(figures.as_ref()?, sample))
                .sum();
            Some(all? / (SAMPLES / 2) as f64)
        };
        let row = |name: String, values: Vec<Option<f64>>, bar| Row { name, values, bar };
        let mut rows = Vec::new();
        for sample in 1..=SAMPLES {
            let values = found.iter().map(|f| ratio(f.as_ref()?, sample)).collect();
            rows.push(row(format!("sample {sample}"), values, Bar::None));
        }
        let means = |from| found.iter().map(move |f| mean(f, from)).collect();
        let growth = found
            .iter()
            .map(|f| Some(mean(f, 1 + SAMPLES / 2)? / mean(f, 1)?))
            .collect();
        rows.push(row("first ten".into(), means(1), Bar::None));
        rows.push(row("last ten".into(), means(1 + SAMPLES / 2), Bar::None));
        rows.push(row(
            "last to first".into(),
            growth,
            self.full(Bar::AtMost(1.05)),
        ));
        vec![Table {
            title: format!("{operations} replacements: resident to live bytes"),
            digits: 3,
            rows,
        }]
    }

    fn idle(&self) -> Vec<Table> {
        const THREADS: f64 = 200.0;
        let rows = [
            ("holding", "all held blocks at one time"),
            ("freely", "all at work at one time"),
            ("in_turn", "one after another"),
        ]
        .into_iter()
        .flat_map(|(how, name)| {
            let runs = if self.options.quick { 1 } else { RUNS };
            let busy = self.figures(&["idle", how, "200", "20"], runs);
            let bare = self.figures(&["idle", how, "200", "0"], runs);
            let row = |figure, when, bar| {
                let with = pick(&busy, figure, THREADS);
                let without = pick(&bare, figure, THREADS);
                Row {
                    name: format!("{name}: {when}"),
                    values: with
                        .into_iter()
                        .zip(without)
                        .map(|(with, without)| Some(with? - without?))
                        .collect(),
                    bar,
                }
            };
            [
                row("resident_kib", "at once", Bar::None),
                row("second_kib", "a second later", Bar::AtMost(64.0)),
            ]
        })
        .collect();
        vec![Table {
            title: "200 idle threads, beyond 200 that never allocated: KiB per thread".into(),
            digits: 1,
            rows,
        }]
    }

    fn after(&self) -> Vec<Table> {
        let count = self.count(10_000_000);
        let found = self.figures(&["after", &count], 1);
        let rows = [
            ("full_kib", "all allocated"),
            ("freed_kib", "all freed"),
            ("second_kib", "a second later"),
            ("worked_kib", "after some more work"),
        ]
        .map(|(figure, name)| Row {
            name: name.to_string(),
            values: pick(&found, figure, 1024.0),
            bar: Bar::None,
        });
        vec![Table {
            title: format!("{count} blocks of 120 B: resident, MiB"),
            digits: 1,
            rows: rows.into(),
        }]
    }
}

/// One figure of each allocator, in another unit.
fn pick(found: &[Option<Figures>], figure: &str, unit: f64) -> Vec<Option<f64>> {
    found
        .iter()
        .map(|figures| Some(figures.as_ref()?.get(figure)? / unit))
        .collect()
}

fn main() -> ExitCode {
    let options = match Options::read() {
        Ok(options) => options,
        Err(error) => {
            println!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory/memory.c");
    let bench = Bench {
        program: compile::compile_c(&source, &[]),
        options,
    };
    type Measure = fn(&Bench) -> Vec<Table>;
    let measures: [(&str, Measure); 5] = [
        ("hundred", Bench::hundred),
        ("peak", Bench::peak),
        ("long", Bench::long),
        ("idle", Bench::idle),
        ("after", Bench::after),
    ];
    let tables: Vec<Table> = measures
        .into_iter()
        .filter(|(name, _)| bench.options.wants(name))
        .flat_map(|(_, measure)| measure(&bench))
        .collect();
    if bench.options.report(&tables) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
