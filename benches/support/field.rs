//! Children for measuring: one program under several allocators side by side.
#![allow(dead_code)] // Each benchmark uses a part.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

/// An allocator under test.
#[derive(Clone)]
pub struct Allocator {
    /// The heading of its column.
    pub name: String,
    /// What is preloaded; nothing for the C library's own malloc.
    pub library: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Clone)]
pub struct Options {
    /// glibc first, then the preload library if it is built, then each `--lib NAME=FILE`.
    pub allocators: Vec<Allocator>,
    /// Only measures whose name contains this.
    only: Option<String>,
    /// Fewer and smaller loads.
    pub quick: bool,
    /// Write what belongs to the documentation.
    pub write: bool,
    /// Fail if a bar is missed.
    pub check: bool,
    /// Where figures are written for machines.
    pub json: Option<PathBuf>,
    /// Figures of an earlier run, to be shown again.
    pub from: Option<PathBuf>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// Says what is wrong with it, or what the options are.
    pub fn read() -> Result<Options, String> {
        let usage = "options: [--lib NAME=FILE]... [--fencepost FILE] [--only TEXT] [--quick] \
                     [--write] [--check] [--json FILE] [--from FILE]";
        let mut fencepost = built_library();
        let mut others = Vec::new();
        let mut options = Options {
            allocators: Vec::new(),
            only: None,
            quick: false,
            write: false,
            check: false,
            json: None,
            from: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(usage);
            match word.as_str() {
                "--bench" => {} // cargo says so.
                "--quick" => options.quick = true,
                "--write" => options.write = true,
                "--check" => options.check = true,
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?.into()),
                "--from" => options.from = Some(value()?.into()),
                "--fencepost" => fencepost = Some(value()?.into()),
                "--lib" => {
                    let (name, file) = value()?
                        .split_once('=')
                        .map(|(name, file)| (name.to_string(), file.into()))
                        .ok_or(usage)?;
                    others.push((name, file));
                }
                _ => return Err(format!("{word}: {usage}")),
            }
        }
        let first = [
            Some((String::from("glibc"), None)),
            fencepost.map(|file| (String::from("fencepost"), Some(file))),
        ];
        let others = others.into_iter().map(|(name, file)| (name, Some(file)));
        for (name, library) in first.into_iter().flatten().chain(others) {
            if let Some(file) = library.as_ref().filter(|file| !file.is_file()) {
                return Err(format!("{name}: there is no file {}", file.display()));
            }
            // A relative name would be looked for in the system's directories.
            let library = library.and_then(|file| file.canonicalize().ok());
            options.allocators.push(Allocator { name, library });
        }
        if options.allocators.len() == 1 {
            println!("No preload library beside this benchmark: cargo build --release");
        }
        Ok(options)
    }

    /// Whether a measure of this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|part| name.contains(part))
    }

    /// Prints all tables, and writes them to the file that `--json` names. False if fencepost
    /// misses a bar and `--check` asks for it.
    pub fn report(&self, tables: &[Table]) -> bool {
        let mut missed = 0;
        for table in tables {
            missed += table.print(&self.allocators);
        }
        println!("fencepost misses {missed} bars.");
        if let Some(file) = &self.json {
            let all: Vec<Value> = tables.iter().map(|t| t.json(&self.allocators)).collect();
            if let Err(error) = std::fs::write(file, format!("{:#}\n", Value::from(all))) {
                println!("{}: {error}", file.display());
                return false;
            }
        }
        missed == 0 || !self.check
    }
}

/// `target/release/libfencepost.so`, seen from `target/release/deps/NAME-…`.
fn built_library() -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let release = this.parent()?.parent()?;
    Some(release.join("libfencepost.so")).filter(|path| path.is_file())
}

/// The figures that a child printed: lines of a name and a number.
pub type Figures = BTreeMap<String, f64>;

/// `program` with `allocator` in an empty environment.
pub fn command(program: &Path, allocator: &Allocator) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    if let Some(library) = &allocator.library {
        command.env("LD_PRELOAD", library);
    }
    command
}

/// What a child printed, if all of it is figures.
pub fn figures(output: &[u8]) -> Option<Figures> {
    let figure = |line: &str| {
        let (name, number) = line.split_once(' ')?;
        Some((name.to_string(), number.parse().ok()?))
    };
    String::from_utf8_lossy(output)
        .lines()
        .map(figure)
        .collect()
}

/// Runs `program` under `allocator`. Nothing if it fails, which is told.
pub fn run(program: &Path, args: &[&str], allocator: &Allocator) -> Option<Figures> {
    let output = command(program, allocator).args(args).output().ok()?;
    if !output.status.success() || !output.stderr.is_empty() {
        eprintln!(
            "{} with {args:?}: {}\n{}",
            allocator.name,
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        return None;
    }
    figures(&output.stdout)
}

/// The median; of an even number, the lower one.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied()
}

/// What fencepost's column is held to.
#[derive(Clone, Copy)]
pub enum Bar {
    /// No bar.
    None,
    /// At most this.
    AtMost(f64),
    /// At most what the first column has, that of glibc.
    AtMostGlibc,
}

/// A line of a table.
pub struct Row {
    /// What was measured.
    pub name: String,
    /// One value for each allocator.
    pub values: Vec<Option<f64>>,
    /// For fencepost.
    pub bar: Bar,
}

/// Rows with the same unit.
pub struct Table {
    /// The heading, with the unit.
    pub title: String,
    /// Digits behind the point.
    pub digits: usize,
    /// The lines.
    pub rows: Vec<Row>,
}

impl Row {
    /// Whether fencepost keeps the bar, if there is one.
    fn kept(&self, allocators: &[Allocator]) -> Option<bool> {
        let column = allocators.iter().position(|a| a.name == "fencepost")?;
        let bar = match self.bar {
            Bar::None => return None,
            Bar::AtMost(bar) => bar,
            Bar::AtMostGlibc => self.values.first().copied()??,
        };
        // What failed keeps nothing.
        Some(self.values[column].is_some_and(|value| value <= bar))
    }
}

impl Table {
    /// Prints it as Markdown; returns the number of bars that fencepost misses.
    fn print(&self, allocators: &[Allocator]) -> usize {
        let digits = self.digits;
        print!("\n| {} |", self.title);
        allocators.iter().for_each(|a| print!(" {} |", a.name));
        println!(
            " bar | |\n|---|{}---:|---|",
            "---:|".repeat(allocators.len())
        );
        let mut missed = 0;
        for row in &self.rows {
            print!("| {} |", row.name);
            for value in &row.values {
                match value {
                    Some(value) => print!(" {value:.digits$} |"),
                    None => print!(" - |"),
                }
            }
            match row.bar {
                Bar::None => print!(" |"),
                Bar::AtMost(bar) => print!(" {bar:.digits$} |"),
                Bar::AtMostGlibc => print!(" glibc |"),
            }
            let kept = row.kept(allocators);
            missed += usize::from(kept == Some(false));
            println!(
                " {} |",
                match kept {
                    None => "",
                    Some(true) => "kept",
                    Some(false) => "**missed**",
                }
            );
        }
        missed
    }

    fn json(&self, allocators: &[Allocator]) -> Value {
        let names: Vec<&str> = allocators.iter().map(|a| a.name.as_str()).collect();
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let bar = match row.bar {
                    Bar::None => Value::Null,
                    Bar::AtMost(bar) => json!(bar),
                    Bar::AtMostGlibc => json!("glibc"),
                };
                json!({ "name": row.name, "values": row.values, "bar": bar,
                        "kept": row.kept(allocators) })
            })
            .collect();
        json!({ "title": self.title, "allocators": names, "rows": rows })
    }
}
