//! How the command fails: one line on stderr and an exit status of its own.

use std::fmt::Display;
use std::io::Write;

/// Exit statuses that fencepost itself ends with. The first four are those of
/// `env`, `nohup` and the shells; a program that runs reports its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// The program was not started: the library cannot be loaded into it.
    NotPreloadable = 122,
    /// fencepost itself failed: bad usage, no library, a file not written.
    Own = 125,
    /// The program was found, but cannot be executed.
    NotExecutable = 126,
    /// The program, its interpreter or its loader was not found.
    NotFound = 127,
}

/// An error on its way to the user.
#[derive(Debug)]
pub struct Failure {
    status: Status,
    text: Text,
}

#[derive(Debug)]
enum Text {
    Line(String),
    // clap's errors span lines and have colours; it prints them best itself.
    Usage(Box<clap::Error>),
}

impl Failure {
    /// A failure with its one-line message (without the `fencepost: ` prefix).
    pub fn new(status: Status, message: impl Display) -> Self {
        Failure {
            status,
            text: Text::Line(one_line(&message.to_string())),
        }
    }

    /// fencepost's own failure, status 125.
    pub fn own(message: impl Display) -> Self {
        Failure::new(Status::Own, message)
    }

    /// A command line that clap refused. Help and version arrive this way too
    /// and are no failure: their status is 0.
    pub fn usage(error: clap::Error) -> Self {
        Failure {
            status: Status::Own,
            text: Text::Usage(Box::new(error)),
        }
    }

    /// Prints the message where it belongs.
    pub fn print(&self) {
        match &self.text {
            Text::Line(line) => say(line),
            // Nobody is left to tell when the stream is closed.
            Text::Usage(error) => drop(error.print()),
        }
    }

    /// The exit status of the process.
    pub fn status(&self) -> i32 {
        match &self.text {
            Text::Usage(error) if !error.use_stderr() => 0,
            _ => self.status as i32,
        }
    }

    /// The one-line message, for tests.
    #[cfg(test)]
    pub fn message(&self) -> String {
        match &self.text {
            Text::Line(line) => line.clone(),
            Text::Usage(error) => error.to_string(),
        }
    }
}

/// Prints one line to stderr under the command's name.
pub fn say(line: &str) {
    // A single write, so that lines of parallel processes do not mix.
    let line = format!("fencepost: {}\n", one_line(line));
    // stderr may be closed; there is no better place to complain.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// File names may hold line breaks and escape sequences; messages stay one
/// line and leave the terminal alone.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_the_file_is_called() {
        let failure = Failure::own("a\nb\u{1b}[31m: no such file");
        assert_eq!(failure.message(), "a\\nb\\u{1b}[31m: no such file");
        assert_eq!(failure.status(), 125);
    }
}
