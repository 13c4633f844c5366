//! Reads reports of guard mode: one JSON object per line.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The version of the format that we know.
const VERSION: u64 = 1;

/// How every report begins.
pub const START: &str = "{\"fencepost\":";

/// An address or an offset, in JSON a string such as `"0x1f"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex(pub u64);

impl Hex {
    /// Reads a hexadecimal number with its `0x`.
    pub fn parse(text: &str) -> Option<Hex> {
        let digits = text.strip_prefix("0x")?;
        // Without this a sign would be taken too.
        let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        u64::from_str_radix(digits, 16)
            .ok()
            .filter(|_| all)
            .map(Hex)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Hex, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Hex;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a hexadecimal number such as \"0x1f\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Hex, E> {
                Hex::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_str(Text)
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One address of a call stack.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Frame {
    /// Where in the process.
    pub pc: Hex,
    /// The file that is mapped there.
    #[serde(default)]
    pub module: Option<String>,
    /// The address in that file.
    #[serde(default)]
    pub offset: Option<Hex>,
}

/// Something that a thread did: an allocation, a free, the error itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Event {
    /// The number of the operation.
    pub operation: Option<u64>,
    /// The kernel's id of the thread.
    pub thread: Option<u64>,
    /// The thread's name.
    pub name: Option<String>,
    /// The call stack, innermost first.
    pub stack: Vec<Frame>,
}

/// The block that an error is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Block {
    /// Its allocation.
    pub allocated: Option<Event>,
    /// Its end, if it has been freed.
    pub freed: Option<Event>,
}

/// How much was left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Amount {
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes in all of them.
    pub bytes: u64,
}

/// One report, as far as it is printed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Report {
    /// The version of the format.
    fencepost: u64,
    /// What it is about: "heap overflow", "leak", …
    pub kind: String,
    /// The first line of its text.
    #[serde(default)]
    pub message: Option<String>,
    /// The process.
    #[serde(default)]
    pub pid: Option<u64>,
    /// What the process runs.
    #[serde(default)]
    pub program: Option<String>,
    /// The signal, if the error was a fault.
    #[serde(default)]
    pub signal: Option<i64>,
    /// The number of the operation at which it was found.
    #[serde(default)]
    pub operation: Option<u64>,
    /// The block that it is about.
    #[serde(default)]
    pub block: Option<Block>,
    /// What the thread did that was caught.
    #[serde(default)]
    pub fault: Option<Event>,
    /// Where leaked blocks come from.
    #[serde(default)]
    pub allocated: Option<Event>,
    /// The amount of a leak.
    #[serde(default)]
    pub blocks: Option<u64>,
    /// The amount of a leak.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Of all leaks: what is lost.
    #[serde(default)]
    pub lost: Option<Amount>,
    /// Of a leak: whether something points at it still. Of all leaks: how much that is.
    #[serde(default)]
    pub reachable: Option<Value>,
    /// It had no room for whole stacks or names.
    #[serde(default)]
    pub truncated: bool,
}

impl Report {
    /// Whether the error was a fault, so that the innermost frame is the faulting instruction;
    /// else it is a return address like all others.
    pub fn is_fault(&self) -> bool {
        const SIGABRT: i64 = 6;
        self.signal
            .is_some_and(|signal| signal > 0 && signal != SIGABRT)
    }

    /// Of all leaks: how much is still reachable.
    pub fn still_reachable(&self) -> Option<Amount> {
        Amount::deserialize(self.reachable.as_ref()?).ok()
    }
}

/// One line of a report file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// All of it.
    pub value: Value,
    /// What we know of it.
    pub report: Report,
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it, and where in the line.
pub fn entry(line: &str) -> Result<Entry, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| {
        // The line number would be that in this one line.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        match error.is_eof() {
            true => format!("it is cut off: {text}"),
            false => format!("column {}: {text}", error.column()),
        }
    })?;
    match value.get("fencepost").map(Value::as_u64) {
        None => return Err("it is no report of fencepost".into()),
        Some(Some(VERSION)) => {}
        Some(_) => return Err("it has a format that this version does not know".into()),
    }
    let report = Report::deserialize(&value).map_err(|error| error.to_string())?;
    Ok(Entry { value, report })
}

/// Reads a line that should be a report. A process that dies while it writes can leave a line
/// unfinished, and the next report then follows in the same line: that one is not lost.
pub fn line(text: &str) -> Vec<Result<Entry, String>> {
    let whole = entry(text);
    // Inside a report the quotes of this would be escaped.
    let starts: Vec<usize> = text.match_indices(START).map(|(at, _)| at).collect();
    if whole.is_ok() || starts.iter().all(|at| *at == 0) {
        return vec![whole];
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    let pieces = starts
        .iter()
        .zip(ends)
        .map(|(start, end)| &text[*start..end]);
    let before = starts.first().map_or("", |first| &text[..*first]);
    let before = (!before.is_empty()).then_some(before);
    before.into_iter().chain(pieces).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAK: &str = r#"{"fencepost":1,"kind":"leak","message":"m","blocks":3,"bytes":48}"#;

    #[test]
    fn a_line_is_read_or_refused_with_the_reason() {
        assert_eq!(entry(LEAK).unwrap().report.bytes, Some(48));
        for (text, part) in [
            ("", "cut off"),
            (&LEAK[..20], "cut off"),
            ("{\"a\":1}", "no report"),
            ("[1]", "no report"),
            ("{\"fencepost\":2}", "does not know"),
            ("{\"fencepost\":1}", "missing field `kind`"),
            ("{\"fencepost\":1,\"kind\":7}", "invalid type"),
            ("{\"fencepost\":1,,}", "column 16"),
            (
                r#"{"fencepost":1,"kind":"x","fault":{"stack":[{"pc":"12"}]}}"#,
                "hexadecimal",
            ),
        ] {
            let error = entry(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_report_behind_a_torn_one_is_not_lost() {
        let torn = format!("{}{LEAK}", &LEAK[..30]);
        let read = line(&torn);
        assert_eq!(read.len(), 2);
        assert!(read[0].is_err());
        assert_eq!(read[1], entry(LEAK));
        let behind_other = line(&format!("hello {LEAK}"));
        assert_eq!((behind_other.len(), &behind_other[1]), (2, &entry(LEAK)));
        // Every beginning is looked at once.
        assert_eq!(line(&START.repeat(3)), vec![entry(START); 3]);
    }

    #[test]
    fn numbers_are_hexadecimal_and_nothing_else() {
        assert_eq!(Hex::parse("0xfF"), Some(Hex(255)));
        for text in ["", "0x", "12", "0x+1", "0x-1", "0x1ffffffffffffffff", "0xg"] {
            assert_eq!(Hex::parse(text), None, "{text}");
        }
    }
}
