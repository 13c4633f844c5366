//! `fencepost explain`: puts names into reports of guard mode.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::failure::{Failure, say};
use crate::report::{self, Explainer, START};
use crate::symbols::Symbols;

/// Put functions, files and lines into reports of guard mode
///
/// Reads what a program reported under FENCEPOST_GUARD: a file of JSON lines (as
/// FENCEPOST_GUARD_REPORT or `fencepost run --report` leaves it), or a log with reports as text,
/// whose other lines pass unchanged. Every frame that names a program or library and an
/// offset gets the function, the source file and the line, and the functions that are inlined
/// there. The debug information must be that of the program that ran: in the file itself,
/// or in one of its own, found by build id below /usr/lib/debug/.build-id.
///
/// A line that is no report ends the command with status 125 when all others are printed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to read; - is standard input
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: PathBuf,

    /// Print JSON: the reports as they are, with symbols added to each frame
    #[arg(long)]
    json: bool,

    /// Look for debug information here, too, below .build-id
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    debug_dir: Vec<PathBuf>,

    #[command(flatten)]
    suppress: report::SuppressOptions,
}

/// Prints the file to standard output, explained.
///
/// # Errors
/// When it cannot be read, or has lines that are no reports.
pub fn run(args: &Args) -> Result<(), Failure> {
    let symbols = Symbols::new(args.debug_dir.clone());
    let mut explainer = Explainer::new(symbols, args.suppress.patterns()?);
    let name = match args.file == Path::new("-") {
        true => "standard input".to_string(),
        false => args.file.display().to_string(),
    };
    let unreadable = |error: io::Error| Failure::own(format_args!("{name}: {error}"));
    let mut input: Box<dyn BufRead> = match args.file == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(&args.file).map_err(unreadable)?)),
    };
    let mut job = Job {
        explainer: &mut explainer,
        name: &name,
        json: args.json,
        output: io::stdout().lock(),
        only_reports: args.json,
        begun: false,
        fault: true,
        refused: 0,
    };
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(unreadable)? == 0 {
            break;
        }
        let done = job.line(&line, number);
        done.map_err(|error| Failure::own(format_args!("standard output: {error}")))?;
    }
    let (refused, mut output) = (job.refused, job.output);
    let last = match args.json {
        true => explainer.suppressed_json().map(|json| json.to_string()),
        false => explainer
            .suppressed()
            .map(|line| format!("fencepost: {line}")),
    };
    let ended = last.map_or(Ok(()), |last| writeln!(output, "{last}"));
    ended
        .and_then(|()| output.flush())
        .map_err(|error| Failure::own(format_args!("standard output: {error}")))?;
    match refused {
        0 => Ok(()),
        1 => Err(Failure::own(format_args!("{name}: a line is no report"))),
        _ => Err(Failure::own(format_args!(
            "{name}: {refused} lines are no reports"
        ))),
    }
}

struct Job<'a> {
    explainer: &'a mut Explainer,
    name: &'a str,
    json: bool,
    output: io::StdoutLock<'static>,
    /// The input is reports and nothing else; other lines are mistakes.
    only_reports: bool,
    /// A line was seen that is not empty.
    begun: bool,
    /// The last report in a log of text was a fault.
    fault: bool,
    refused: u64,
}

impl Job<'_> {
    fn line(&mut self, line: &[u8], number: u64) -> io::Result<()> {
        let content = line.strip_suffix(b"\n").unwrap_or(line);
        let trimmed = content.trim_ascii();
        let is_report = trimmed.starts_with(START.as_bytes());
        if !self.begun && !trimmed.is_empty() {
            self.begun = true;
            self.only_reports |= is_report;
        }
        if self.only_reports && trimmed.is_empty() {
            return Ok(());
        }
        if !self.only_reports && !is_report {
            return self.log_line(line, content);
        }
        for entry in report::line(&String::from_utf8_lossy(trimmed)) {
            match entry {
                Ok(entry) if self.explainer.suppresses(&entry.report) => {}
                Ok(entry) if self.json => {
                    writeln!(self.output, "{}", self.explainer.json(&entry))?;
                }
                Ok(entry) => {
                    let text = self.explainer.text(&entry.report);
                    self.output.write_all(text.as_bytes())?;
                }
                Err(error) => {
                    self.refused += 1;
                    say(&format!("{}: line {number}: {error}", self.name));
                }
            }
        }
        Ok(())
    }

    fn log_line(&mut self, line: &[u8], content: &[u8]) -> io::Result<()> {
        if let Some(first) = content.strip_prefix(b"fencepost: ") {
            self.fault = is_fault(&String::from_utf8_lossy(first));
        } else if [&b"  allocated by"[..], b"  freed by"]
            .iter()
            .any(|s| content.starts_with(s))
        {
            // Its innermost frame is a return address.
            self.fault = false;
        }
        match self.explainer.frame_line(content, self.fault) {
            Some(text) => self.output.write_all(text.as_bytes()),
            None => self.output.write_all(line),
        }
    }
}

/// Whether the first line of a report tells of a fault, not of a call.
fn is_fault(message: &str) -> bool {
    let calls = [
        "invalid ",
        "double free: ",
        "wrong size: ",
        "wrong alignment: ",
        "leak",
    ];
    let of_call = calls.iter().any(|call| message.starts_with(call));
    !of_call && !message.contains(" overwritten, found at ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_from_calls() {
        for message in [
            "heap overflow: write 12 bytes past the end of 0x1000 (100 bytes)",
            "use after free: read at byte 5 of 0x1000 (100 bytes), freed 1 operation ago",
            "null pointer: read at 0x8",
            "stack overflow at 0x8",
        ] {
            assert!(is_fault(message), "{message}");
        }
        for message in [
            "double free: 0x1000 (100 bytes), freed 17 operations ago",
            "invalid realloc: 0x1000 was freed before (100 bytes)",
            "heap overflow: byte 100 of 0x1000 (100 bytes) was overwritten, found at free",
            "wrong size: 0x1000 (100 bytes) freed as 90 bytes",
            "leak: 48 bytes in 3 blocks are lost",
        ] {
            assert!(!is_fault(message), "{message}");
        }
    }
}
