//! Reports of guard mode: read (`parse`), named (`Explainer`), printed (`text`), suppressed
//! (`suppress`). Frames in logs of text are found by `frames`.

mod frames;
mod parse;
mod suppress;
mod text;

use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::symbols::{Symbol, Symbols};

pub use parse::{Amount, Entry, Event, Frame, Report, START, line};
pub use suppress::{Patterns, SuppressOptions};

/// Whether the frame at `index` holds the address of an instruction, not of what follows a call.
pub fn is_exact(index: usize, fault: bool) -> bool {
    fault && index == 0
}

/// Names addresses and prints reports.
pub struct Explainer {
    symbols: Symbols,
    patterns: Patterns,
    suppressed: Suppressed,
    /// Files below it are printed by their relative names.
    directory: Option<PathBuf>,
    /// The process whose reports need not say whose they are.
    pub process: Option<u64>,
}

/// The leaks that the user does not want to hear of.
#[derive(Default)]
struct Suppressed {
    reports: u64,
    all: Amount,
    /// Of processes whose sums are still to come.
    open: Vec<(Option<u64>, Amount)>,
}

impl Explainer {
    /// An explainer with these symbols that leaves out leaks by `patterns`.
    pub fn new(symbols: Symbols, patterns: Patterns) -> Explainer {
        Explainer {
            symbols,
            patterns,
            suppressed: Suppressed::default(),
            // Below / is everything.
            directory: std::env::current_dir()
                .ok()
                .filter(|path| path.parent().is_some()),
            process: None,
        }
    }

    /// The names of one frame. `exact`: it holds the address of the instruction itself; else a
    /// return address, and the call is right in front of it.
    fn name(&mut self, frame: &Frame, exact: bool) -> Vec<Symbol> {
        let (Some(module), Some(offset)) = (&frame.module, frame.offset) else {
            return Vec::new();
        };
        let address = offset.0.saturating_sub(u64::from(!exact));
        let mut names = self.symbols.find(module, address);
        // The distance is told to the address that is printed.
        for symbol in &mut names {
            if let Some(offset) = &mut symbol.offset {
                *offset += u64::from(!exact);
            }
        }
        names
    }

    /// Whether the report is a leak that a pattern names. It counts as suppressed then.
    pub fn suppresses(&mut self, report: &Report) -> bool {
        if report.kind != "leak" || self.patterns.is_empty() {
            return false;
        }
        let stack = report
            .allocated
            .as_ref()
            .map(|event| event.stack.as_slice());
        let hit = stack.unwrap_or_default().iter().any(|frame| {
            let names = self.name(frame, false);
            self.patterns.matches(frame, &names)
        });
        if hit {
            self.suppressed.add(report);
        }
        hit
    }

    /// The report as text, each line ended; suppressed leaks are not in its sums.
    pub fn text(&mut self, report: &Report) -> String {
        let open = match report.kind == "leaks" {
            true => self.suppressed.take(report.pid),
            false => Amount::default(),
        };
        text::Printer { explainer: self }.report(report, open)
    }

    /// One line of a log of text, with the names put in if it is a frame. `None`: it is not.
    pub fn frame_line(&mut self, line: &[u8], fault: bool) -> Option<String> {
        let found = frames::parse(line)?;
        let exact = is_exact(found.index, fault);
        let names = self.name(&found.frame, exact);
        let mut text = String::new();
        text::Printer { explainer: self }.frame(
            &mut text,
            found.indent,
            found.index,
            &found.frame,
            &names,
        );
        Some(text)
    }

    /// The report as JSON: its own, with `symbols` in every frame.
    pub fn json(&mut self, entry: &Entry) -> Value {
        let mut value = entry.value.clone();
        self.add_symbols(&mut value, entry.report.is_fault(), false);
        value
    }

    /// `here`: `value` is the event that was caught, not an allocation or a free.
    fn add_symbols(&mut self, value: &mut Value, fault: bool, here: bool) {
        let Value::Object(fields) = value else {
            return;
        };
        for (key, value) in fields {
            match value {
                Value::Array(stack) if key == "stack" => {
                    for (index, frame) in stack.iter_mut().enumerate() {
                        self.add_names(frame, is_exact(index, fault && here));
                    }
                }
                Value::Object(_) => self.add_symbols(value, fault, key == "fault"),
                _ => {}
            }
        }
    }

    fn add_names(&mut self, value: &mut Value, exact: bool) {
        let frame = serde::Deserialize::deserialize(&*value);
        let (Ok(frame), Value::Object(fields)) = (frame, value) else {
            return;
        };
        let names = self.name(&frame, exact);
        let names = serde_json::to_value(names).unwrap_or_default();
        fields.insert("symbols".into(), names);
    }

    /// What was suppressed, if anything was: a line of text without its end.
    pub fn suppressed(&self) -> Option<String> {
        let Suppressed { reports, all, .. } = &self.suppressed;
        let what = text::count(*reports, "leak report");
        let how_much = text::amount(*all);
        (*reports != 0).then(|| format!("{what} suppressed: {how_much}"))
    }

    /// The same as JSON.
    pub fn suppressed_json(&self) -> Option<Value> {
        let Suppressed { reports, all, .. } = &self.suppressed;
        let fields = [
            ("fencepost", Value::from(1)),
            ("kind", "suppressed".into()),
            ("reports", (*reports).into()),
            ("blocks", all.blocks.into()),
            ("bytes", all.bytes.into()),
        ];
        let fields = fields.map(|(key, value)| (key.to_string(), value));
        (*reports != 0).then(|| Value::Object(Map::from_iter(fields)))
    }
}

impl Suppressed {
    fn add(&mut self, leak: &Report) {
        let amount = Amount {
            blocks: leak.blocks.unwrap_or(0),
            bytes: leak.bytes.unwrap_or(0),
        };
        self.reports += 1;
        self.all = self.all.plus(amount);
        // What is reachable is not in the sum of what is lost.
        let lost = leak.reachable != Some(Value::Bool(true));
        if !lost {
            return;
        }
        match self.open.iter_mut().find(|(pid, _)| *pid == leak.pid) {
            Some((_, open)) => *open = open.plus(amount),
            None => self.open.push((leak.pid, amount)),
        }
    }

    fn take(&mut self, pid: Option<u64>) -> Amount {
        match self.open.iter().position(|(open, _)| *open == pid) {
            Some(at) => self.open.swap_remove(at).1,
            None => Amount::default(),
        }
    }
}

impl Amount {
    fn plus(self, other: Amount) -> Amount {
        Amount {
            blocks: self.blocks.saturating_add(other.blocks),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }

    /// Without `part`, which may be more in a report that was tampered with.
    fn without(self, part: Amount) -> Amount {
        Amount {
            blocks: self.blocks.saturating_sub(part.blocks),
            bytes: self.bytes.saturating_sub(part.bytes),
        }
    }
}
