//! Compares preloaded memory allocators on whole programs.
//!
//! Every workload is run under every allocator, interleaved round by round in
//! rotating order, and each run is compared with glibc's run of its own round.
//! glibc takes part twice: its ratio to itself is the noise, and nothing inside
//! that noise is called better or worse.

mod allocators;
mod bars;
mod globals;
mod guard;
mod inputs;
mod measure;
mod peers;
mod plot;
mod report;
mod session;
mod statistics;
mod table;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use regex::Regex;

use crate::report::Report;

/// Compares preloaded memory allocators on whole programs: CPU time, peak RSS,
/// wall time and page faults, as ratios to glibc.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,

    /// Run only the workloads whose name matches
    #[arg(long, value_name = "REGEX")]
    only: Option<Regex>,

    /// Compare only these allocators; glibc always takes part
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    allocators: Option<Vec<String>>,

    /// Runs of each workload under each allocator, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,

    /// Shorter workloads and at most three runs: to try, not to quote
    #[arg(long)]
    quick: bool,

    /// List workloads and allocators, and run nothing
    #[arg(long)]
    list: bool,

    /// The length of each workload in percent
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "quick",
          value_parser = clap::value_parser!(u64).range(1..=1000))]
    percent: u64,

    /// fencepost's library; by default it is built
    #[arg(long, value_name = "FILE")]
    lib: Option<PathBuf>,

    /// A further library to compare, with environment variables for it
    #[arg(long, value_name = "NAME=FILE[,KEY=VALUE]...")]
    extra: Vec<String>,

    /// A further library that counts as a peer, with environment variables for it
    #[arg(long, value_name = "NAME=FILE[,KEY=VALUE]...")]
    peer: Vec<String>,

    /// Where results go; by default `compare` in the target directory
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,

    /// Also rewrite the comparison in README.md, and docs/compare.svg
    #[arg(long)]
    readme: bool,

    /// Show an earlier results.json again and run nothing
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,

    /// Seconds after which a run counts as hung
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,

    /// Use the programs beside this one as they are, and build nothing
    #[arg(long)]
    no_build: bool,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Build the peers that come from crates, and print what can be had
    Peers,
    /// Compare the guard mode with the tools that find heap errors
    Guard(guard::Options),
}

/// Where things lie.
struct Layout {
    /// The workspace of fencepost.
    root: PathBuf,
    /// The binaries of this package.
    binaries: PathBuf,
    /// Peers, inputs and results.
    work: PathBuf,
}

impl Layout {
    fn find() -> Result<Self> {
        let binary = std::env::current_exe()?;
        let binaries = binary.parent().context("the program lies in a directory")?;
        let target = binaries
            .parent()
            .context("binaries lie in the target directory")?;
        Ok(Layout {
            root: Path::new(env!("CARGO_MANIFEST_DIR"))
                .ancestors()
                .nth(2)
                .context("the package lies in the workspace")?
                .to_path_buf(),
            binaries: binaries.to_path_buf(),
            work: target.join("compare"),
        })
    }

    fn cargo(&self, arguments: &[&str]) -> Result<()> {
        let target = self
            .binaries
            .parent()
            .context("there is a target directory")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let (before, after): (Vec<&str>, Vec<&str>) = {
            let split = arguments
                .iter()
                .position(|&one| one == "--")
                .unwrap_or(arguments.len());
            (arguments[..split].to_vec(), arguments[split..].to_vec())
        };
        let status = Command::new(cargo)
            .args(before)
            .args(["--release", "--quiet", "--target-dir"])
            .arg(target)
            .args(after)
            .current_dir(&self.root)
            .env_remove("LD_PRELOAD")
            .status()
            .context("cargo cannot be started")?;
        ensure!(status.success(), "cargo {}: {status}", arguments.join(" "));
        Ok(())
    }

    /// Builds the workload programs, and the measuring program statically.
    fn build(&self) -> Result<()> {
        ensure!(
            self.binaries.ends_with("release"),
            "a comparison needs a release build: cargo run --release -p fencepost-compare"
        );
        let package = env!("CARGO_PKG_NAME");
        self.cargo(&[
            "build",
            "-p",
            package,
            "--bin",
            "compare-load",
            "--bin",
            "compare-rust",
        ])?;
        self.cargo(&[
            "rustc",
            "-p",
            package,
            "--bin",
            "compare-measure",
            "--",
            "-Ctarget-feature=+crt-static",
            "-Crelocation-model=static",
        ])
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    let layout = Layout::find()?;
    let peers = layout.work.join("peers");
    match &arguments.command {
        Some(Action::Peers) => {
            peers::build_all(
                &layout.root.join("benches/compare/peers"),
                &layout.root.join("benches/compare/globals"),
                &peers,
            )?;
            return Ok(true);
        }
        Some(Action::Guard(options)) => {
            guard::compare(options, &layout)?;
            return Ok(true);
        }
        None => {}
    }
    let report = match &arguments.from {
        Some(path) => serde_json::from_slice(&std::fs::read(path)?)
            .with_context(|| format!("{} holds no results", path.display()))?,
        None => match session::measure(arguments, &layout, &peers)? {
            Some(report) => report,
            None => return Ok(true),
        },
    };
    let out = arguments.out.clone().unwrap_or_else(|| layout.work.clone());
    write(&report, &out)?;
    println!("\n{}", table::summary(&report));
    println!("{}", bars::tables(&report));
    if let Some(globals) = &report.globals {
        println!("{}", table::summary(globals));
    }
    for (workload, allocator, reason) in report.failures() {
        println!("FAILED: {workload} under {allocator}: {reason}");
    }
    println!("results: {}", out.join("compare.md").display());
    if arguments.readme {
        rewrite_readme(&report, &layout.root)?;
    }
    Ok(report.failures().iter().all(|(_, allocator, _)| {
        !report
            .allocators
            .iter()
            .any(|one| one.name == *allocator && one.role == allocators::Role::Candidate)
    }))
}

fn write(report: &Report, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out)?;
    std::fs::write(out.join("results.json"), serde_json::to_vec_pretty(report)?)?;
    std::fs::write(out.join("results.csv"), table::csv(report))?;
    std::fs::write(out.join("compare.md"), table::document(report))?;
    plot::draw(report, &out.join("compare.svg"))
}

fn rewrite_readme(report: &Report, root: &Path) -> Result<()> {
    let path = root.join("README.md");
    let readme = std::fs::read_to_string(&path)?;
    let Some(new) = table::in_readme(&readme, report) else {
        bail!("README.md has no section between compare:begin and compare:end");
    };
    plot::draw(report, &root.join("docs/compare.svg"))?;
    std::fs::write(path, new)?;
    Ok(())
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        // A candidate failed on a workload: the tables say where.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fencepost-compare: {error:#}");
            ExitCode::from(2)
        }
    }
}
