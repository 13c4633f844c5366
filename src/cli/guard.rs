//! Guard mode for `fencepost run`: what the library is told, and the reports at the end.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use tempfile::TempPath;

use crate::child::{Child, end_as, survive_closed_pipes};
use crate::failure::{Failure, say};
use crate::report::{self, Explainer};
use crate::symbols::Symbols;

/// Where in its pages an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Align {
    /// At the end, to catch overflow
    Right,
    /// At the start, to catch underflow to the byte
    Left,
    /// Either, in turns
    Both,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Choice {
    /// Report leaks at exit
    Yes,
    /// Do not look for leaks
    No,
}

/// The options of guard mode.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Guard mode")]
pub struct GuardOptions {
    /// Catch heap errors: put every object, or about one in N, on pages of its own between guards
    #[arg(
        long,
        value_name = "N",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    guard: Option<u32>,

    /// Which end of an object touches a guard page
    #[arg(long, value_name = "SIDE", requires = "guard")]
    align: Option<Align>,

    /// Whether to report leaks at exit; the default is yes when all objects are guarded
    #[arg(
        long,
        value_name = "CHOICE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "yes",
        requires = "guard"
    )]
    leaks: Option<Choice>,

    /// How many freed objects stay guarded
    #[arg(long, value_name = "COUNT", requires = "guard")]
    quarantine: Option<u32>,

    /// Also add the reports to a file, as lines of JSON
    #[arg(long, value_name = "FILE", requires = "guard", value_hint = clap::ValueHint::FilePath)]
    report: Option<PathBuf>,

    #[command(flatten)]
    suppress: report::SuppressOptions,
}

/// A run in guard mode that is about to start.
pub struct Guard {
    file: ReportFile,
    explainer: Explainer,
    variables: Vec<(&'static str, OsString)>,
}

/// Where the library writes its reports.
enum ReportFile {
    /// A file of ours, removed when it was read.
    Private(TempPath),
    /// The user's, and its length before.
    Kept(PathBuf, u64),
}

impl GuardOptions {
    /// Prepares guard mode, if it is asked for.
    ///
    /// # Errors
    /// When a report file cannot be made, or patterns cannot be read.
    pub fn prepare(&self) -> Result<Option<Guard>, Failure> {
        let Some(one_in) = self.guard else {
            return match self.suppress.is_empty() {
                true => Ok(None),
                false => Err(Failure::own("--suppress and --suppressions need --guard")),
            };
        };
        let explainer = Explainer::new(Symbols::new(Vec::new()), self.suppress.patterns()?);
        let file = ReportFile::new(self.report.as_deref())?;
        let text = |text: &dyn ToString| OsString::from(text.to_string());
        let mut variables = vec![
            ("FENCEPOST_GUARD", text(&one_in)),
            ("FENCEPOST_GUARD_TEXT", "0".into()),
            ("FENCEPOST_GUARD_REPORT", file.path().into()),
        ];
        let align = self.align.map(|align| match align {
            Align::Right => "right",
            Align::Left => "left",
            Align::Both => "both",
        });
        variables.extend(align.map(|side| ("FENCEPOST_GUARD_ALIGN", side.into())));
        let leaks = self
            .leaks
            .map(|choice| if choice == Choice::Yes { "1" } else { "0" });
        variables.extend(leaks.map(|leaks| ("FENCEPOST_GUARD_LEAKS", leaks.into())));
        let count = self.quarantine.as_ref();
        variables.extend(count.map(|count| ("FENCEPOST_GUARD_QUARANTINE", text(count))));
        Ok(Some(Guard {
            file,
            explainer,
            variables,
        }))
    }
}

impl Guard {
    /// What the library reads.
    pub fn variables(&self) -> &[(&'static str, OsString)] {
        &self.variables
    }

    /// Runs the program as a child, prints the reports, and ends as it ended. Returns only if
    /// the program could not be started.
    pub fn run(mut self, become_program: impl FnOnce() -> io::Error) -> io::Error {
        let child = match Child::start(become_program) {
            Ok(child) => child,
            Err(error) => return error,
        };
        self.explainer.process = Some(child.id());
        let end = child.wait();
        survive_closed_pipes();
        let path = self.file.path().to_path_buf();
        match self.file.read() {
            Ok(reports) => print(&mut self.explainer, &reports),
            Err(error) => say(&format!("the reports in {}: {error}", path.display())),
        }
        end_as(end)
    }
}

impl ReportFile {
    fn new(named: Option<&Path>) -> Result<ReportFile, Failure> {
        let fail = |path: &Path, error: &dyn std::fmt::Display| {
            Failure::own(format_args!("{}: {error}", path.display()))
        };
        let file = match named {
            Some(path) => {
                // The program may change directory.
                let path = std::path::absolute(path).map_err(|error| fail(path, &error))?;
                let open = File::options().append(true).create(true).open(&path);
                let length = open.and_then(|file| Ok(file.metadata()?.len()));
                ReportFile::Kept(path.clone(), length.map_err(|error| fail(&path, &error))?)
            }
            None => {
                let directory = std::env::temp_dir();
                let file = tempfile::Builder::new().prefix("fencepost-").tempfile();
                let file = file.map_err(|error| fail(&directory, &error))?;
                ReportFile::Private(file.into_temp_path())
            }
        };
        let path = file.path();
        if path.as_os_str().as_bytes().contains(&b'%') {
            let reason = "the name of the report file may have no % in it";
            return Err(fail(path, &reason));
        }
        Ok(file)
    }

    fn path(&self) -> &Path {
        match self {
            ReportFile::Private(path) => path,
            ReportFile::Kept(path, _) => path,
        }
    }

    /// What was reported since; a private file is gone then.
    fn read(self) -> io::Result<Vec<u8>> {
        match self {
            ReportFile::Private(path) => fs::read(&path),
            ReportFile::Kept(path, before) => {
                let mut all = fs::read(path)?;
                // Somebody may have emptied it meanwhile.
                let before = usize::try_from(before).unwrap_or(usize::MAX).min(all.len());
                Ok(all.split_off(before))
            }
        }
    }
}

/// Prints every report that can be read, and says which cannot.
fn print(explainer: &mut Explainer, reports: &[u8]) {
    let mut stderr = io::stderr();
    for (number, line) in (1_u64..).zip(reports.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        for entry in report::line(&String::from_utf8_lossy(line)) {
            let text = match entry {
                Ok(entry) if explainer.suppresses(&entry.report) => continue,
                Ok(entry) => explainer.text(&entry.report),
                Err(error) => {
                    say(&format!("a report cannot be read (line {number}): {error}"));
                    continue;
                }
            };
            // A single write per report; nobody is left to tell when it fails.
            let _ = stderr.write_all(text.as_bytes());
        }
    }
    if let Some(line) = explainer.suppressed() {
        say(&line);
    }
}
