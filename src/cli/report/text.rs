//! The text of a report, as the library itself prints it, with names.

use std::fmt::Write;
use std::path::Path;

use super::{Amount, Event, Explainer, Frame, Report, is_exact};
use crate::failure::one_line;
use crate::symbols::Symbol;

/// What a stack stands below.
const INDENT: &str = "    ";

pub struct Printer<'a> {
    pub explainer: &'a mut Explainer,
}

/// A number of things: "1 block", "2 blocks".
pub fn count(number: u64, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

/// "48 bytes in 3 blocks".
pub fn amount(amount: Amount) -> String {
    let bytes = count(amount.bytes, "byte");
    format!("{bytes} in {}", count(amount.blocks, "block"))
}

// Writing to a string cannot fail.
macro_rules! put {
    ($text:expr, $($part:tt)*) => {{ let _ = write!($text, $($part)*); }};
}

impl Printer<'_> {
    /// The whole report. `open` is how much of what a sum says is suppressed.
    pub fn report(&mut self, report: &Report, open: Amount) -> String {
        let mut text = format!("fencepost: {}\n", message(report, open));
        if let (Some(pid), true) = (report.pid, report.pid != self.explainer.process)
            && self.explainer.process.is_some()
        {
            put!(text, "  in process {pid}");
            if let Some(program) = &report.program {
                put!(text, " ({})", one_line(program));
            }
            text.push('\n');
        }
        let now = report.operation;
        if let Some(event) = &report.fault {
            self.event(&mut text, "", event, None, report.is_fault());
        }
        let block = report.block.clone().unwrap_or_default();
        for (what, event) in [
            ("allocated ", report.allocated.as_ref()),
            ("allocated ", block.allocated.as_ref()),
            ("freed ", block.freed.as_ref()),
        ] {
            if let Some(event) = event {
                self.event(&mut text, what, event, now, false);
            }
        }
        if report.truncated {
            text.push_str("  (stacks or names were too long and are cut short)\n");
        }
        text
    }

    fn event(
        &mut self,
        text: &mut String,
        what: &str,
        event: &Event,
        now: Option<u64>,
        fault: bool,
    ) {
        put!(text, "  {what}by thread");
        if let Some(thread) = event.thread {
            put!(text, " {thread}");
        }
        if let Some(name) = event.name.as_ref().filter(|name| !name.is_empty()) {
            put!(text, " ({})", one_line(name));
        }
        let ages = now.zip(event.operation);
        if let Some(age) = ages.and_then(|(now, then)| now.checked_sub(then)) {
            put!(text, ", {} ago", count(age, "operation"));
        }
        text.push_str(":\n");
        for (index, frame) in event.stack.iter().enumerate() {
            let names = self.explainer.name(frame, is_exact(index, fault));
            self.frame(text, INDENT, index, frame, &names);
        }
    }

    /// One frame: the innermost function, then those that it is inlined into.
    pub fn frame(
        &self,
        text: &mut String,
        indent: &str,
        index: usize,
        frame: &Frame,
        names: &[Symbol],
    ) {
        let start = format!("{indent}#{index} ");
        let raw = raw(frame);
        let Some((innermost, outer)) = names.split_first() else {
            put!(text, "{start}{raw}\n");
            return;
        };
        put!(text, "{start}{}  ({raw})\n", self.place(innermost));
        let start = " ".repeat(start.len());
        for symbol in outer {
            put!(text, "{start}inlined into {}\n", self.place(symbol));
        }
    }

    fn place(&self, symbol: &Symbol) -> String {
        let mut text = one_line(&symbol.function);
        if let Some(offset) = symbol.offset {
            put!(text, "+{offset:#x}");
        }
        if let Some(file) = &symbol.file {
            let here = self.explainer.directory.as_deref();
            let near = here.and_then(|here| Path::new(file).strip_prefix(here).ok());
            let file = near.and_then(Path::to_str).unwrap_or(file);
            put!(text, " at {}", one_line(file));
            if let Some(line) = symbol.line {
                put!(text, ":{line}");
            }
            if let (Some(_), Some(column)) = (symbol.line, symbol.column) {
                put!(text, ":{column}");
            }
        }
        text
    }
}

/// The frame as it was reported.
fn raw(frame: &Frame) -> String {
    let mut text = frame.pc.to_string();
    if let Some(module) = &frame.module {
        put!(text, " {}", one_line(module));
        if let Some(offset) = frame.offset {
            put!(text, "+{offset}");
        }
    }
    text
}

fn message(report: &Report, open: Amount) -> String {
    let reachable = report.still_reachable();
    if let (Some(lost), Some(reachable)) = (report.lost, reachable)
        && (report.message.is_none() || open != Amount::default())
    {
        let lost = amount(lost.without(open));
        let reachable = amount(reachable);
        return format!("leaks: {lost} lost, {reachable} still reachable");
    }
    match &report.message {
        Some(message) => one_line(message),
        None => one_line(&report.kind),
    }
}
