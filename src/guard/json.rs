//! Reports as JSON: one object on one line.
//!
//! What does not fit is left out, frames of call stacks first, then the ends of long names; the
//! line says `"truncated":true` then, and is valid always. Names of files are bytes: those that
//! are not UTF-8 become U+FFFD.

use super::record::Event;
use super::scene::{Ground, Incident, Names, REGISTERS};
use super::stacks::FRAMES;
use super::text::{PREFIX, sentence};
use super::verdict::{Place, Verdict, Why};
use crate::mmu::addr::Access;
use crate::report::Line;

/// How much is told: frames of a call stack, bytes of a text.
type Limits = (usize, usize);

/// From everything to hardly anything.
const LIMITS: [Limits; 9] = [
    (usize::MAX, usize::MAX),
    (64, 4096),
    (32, 1024),
    (16, 512),
    (8, 256),
    (4, 256),
    (2, 128),
    (1, 64),
    (0, 32),
];

/// A line of JSON under way.
#[derive(Debug)]
pub struct Writer<'w> {
    line: Line<&'w mut [u8]>,
    limits: Limits,
    /// Whether no member of the innermost object or array was written yet.
    first: bool,
    truncated: bool,
}

impl Writer<'_> {
    fn comma(&mut self) {
        if !self.first {
            self.line.text(",");
        }
        self.first = false;
    }

    #[inline(never)]
    fn key(&mut self, key: &str) {
        self.comma();
        self.line.text("\"").text(key).text("\":");
    }

    fn open(&mut self, bracket: &str) {
        self.line.text(bracket);
        self.first = true;
    }

    fn close(&mut self, bracket: &str) {
        self.line.text(bracket);
        self.first = false;
    }

    /// An object as a member.
    pub fn object(&mut self, key: &str, members: impl FnOnce(&mut Self)) {
        self.key(key);
        self.open("{");
        members(self);
        self.close("}");
    }

    /// A number.
    #[inline(never)]
    pub fn number(&mut self, key: &str, number: u64) {
        self.key(key);
        self.line.decimal(number);
    }

    /// A number that may be negative.
    #[inline(never)]
    pub fn signed(&mut self, key: &str, number: i64) {
        self.key(key);
        self.line.text(if number < 0 { "-" } else { "" });
        self.line.decimal(number.unsigned_abs());
    }

    /// An address, as a string.
    #[inline(never)]
    pub fn address(&mut self, key: &str, addr: usize) {
        self.key(key);
        self.line.text("\"").hex(addr).text("\"");
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str, yes: bool) {
        self.key(key);
        self.line.text(if yes { "true" } else { "false" });
    }

    /// A string.
    #[inline(never)]
    pub fn string(&mut self, key: &str, bytes: &[u8]) {
        self.key(key);
        self.line.text("\"");
        let told = bytes.get(..self.limits.1);
        self.truncated |= told.is_some_and(|told| told.len() < bytes.len());
        for chunk in told.unwrap_or(bytes).utf8_chunks() {
            for &byte in chunk.valid().as_bytes() {
                self.escaped(byte);
            }
            if !chunk.invalid().is_empty() {
                self.line.text("\u{fffd}");
            }
        }
        self.line.text("\"");
    }

    fn escaped(&mut self, byte: u8) {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        match byte {
            b'"' => self.line.text("\\\""),
            b'\\' => self.line.text("\\\\"),
            b'\n' => self.line.text("\\n"),
            b'\t' => self.line.text("\\t"),
            b'\r' => self.line.text("\\r"),
            // Not forbidden, and no more to be seen on a terminal than the others.
            ..0x20 | 0x7f => {
                let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied();
                let pair = [digit(byte >> 4), digit(byte & 15)];
                self.line
                    .text("\\u00")
                    .raw(&pair.map(|d| d.unwrap_or(b'0')))
            }
            _ => self.line.raw(&[byte]),
        };
    }

    /// A thread's number and name.
    #[inline(never)]
    pub fn thread(&mut self, names: &(impl Names + ?Sized), thread: u32) {
        self.number("thread", thread.into());
        let name = names.thread(thread);
        let len = name.iter().take_while(|byte| **byte != 0).count();
        self.string("name", name.get(..len).unwrap_or(&[]));
    }

    /// A call stack: the array `stack`.
    #[inline(never)]
    pub fn stack(&mut self, names: &(impl Names + ?Sized), stack: &[usize]) {
        self.key("stack");
        self.open("[");
        self.truncated |= stack.len() > self.limits.0;
        for &pc in stack.iter().take(self.limits.0) {
            self.comma();
            self.open("{");
            self.address("pc", pc);
            if let Some(location) = names.locate(pc) {
                self.string("module", location.module);
                self.address("offset", location.offset);
            }
            self.close("}");
        }
        self.close("]");
    }

    /// An allocation or a free.
    #[inline(never)]
    pub fn event(&mut self, key: &str, names: &(impl Names + ?Sized), event: &Event) {
        self.object(key, |this| {
            this.number("operation", event.when);
            this.thread(names, event.thread);
            let mut frames = [0; FRAMES];
            let count = names.stack(event.stack, &mut frames);
            this.stack(names, frames.get(..count).unwrap_or(&[]));
        });
    }
}

/// Writes one object and a line break into `buffer`; returns it. `members` is called until
/// everything fits, each time with less room for what can be left out. Empty if even that does
/// not fit.
pub fn line(buffer: &mut [u8], members: impl Fn(&mut Writer<'_>)) -> &[u8] {
    for limits in LIMITS {
        let mut writer = Writer {
            line: Line::over(&mut *buffer),
            limits,
            first: true,
            truncated: false,
        };
        writer.open("{");
        writer.number("fencepost", 1);
        members(&mut writer);
        if writer.truncated {
            writer.flag("truncated", true);
        }
        writer.close("}");
        writer.line.text("\n");
        if !writer.line.is_cut() {
            let len = writer.line.as_bytes().len();
            return buffer.get(..len).unwrap_or(&[]);
        }
    }
    &[]
}

/// Bytes of the buffer that the sentence is built in.
const SENTENCE: usize = 1024;

/// Writes a whole report into `buffer`, with a line break; returns it. 16 KiB hold all frames of
/// three long stacks, 2 KiB hold the report without them; empty if that does not fit.
pub fn report<'b>(
    verdict: &Verdict<'_>,
    incident: &Incident<'_>,
    names: &(impl Names + ?Sized),
    buffer: &'b mut [u8],
) -> &'b [u8] {
    let Some((room, buffer)) = buffer.split_at_mut_checked(SENTENCE.min(buffer.len() / 4)) else {
        return &[];
    };
    let mut message = Line::over(room);
    sentence(verdict, &mut message);
    let cut = message.is_cut();
    let message = message.as_bytes();
    let message = message.strip_prefix(PREFIX.as_bytes()).unwrap_or(message);
    line(buffer, |json| {
        json.string("kind", verdict.kind().as_bytes());
        json.string("message", message);
        json.truncated |= cut;
        json.number("pid", incident.process.into());
        json.string("program", incident.program);
        if let Some((signal, code)) = incident.signal {
            json.signed("signal", signal.into());
            json.signed("code", code.into());
        }
        details(json, verdict, names);
        json.object("fault", |json| {
            json.thread(names, incident.thread);
            json.stack(names, incident.stack);
        });
        json.number("operation", incident.now);
        json.number("sampled", incident.sampled);
    })
}

#[inline(never)]
fn details(json: &mut Writer<'_>, verdict: &Verdict<'_>, names: &(impl Names + ?Sized)) {
    if let Some(addr) = verdict.address() {
        json.address("address", addr);
    }
    if let Some(access) = verdict.access() {
        json.string(
            "access",
            match access {
                Access::Read => b"read",
                Access::Write => b"write",
                Access::Exec => b"execute",
            },
        );
    }
    if let Some(place) = verdict.place() {
        let (word, distance) = match place {
            Place::Within(offset) => ("within", offset),
            Place::Past(by) => ("past", by),
            Place::Before(by) => ("before", by),
        };
        json.string("place", word.as_bytes());
        json.number("distance", distance as u64);
    }
    match *verdict {
        Verdict::UseAfterFree { age, .. }
        | Verdict::DoubleFree { age, .. }
        | Verdict::FreedBefore { age, .. } => json.number("age", age),
        Verdict::WrongSize { given, .. } | Verdict::WrongAlign { given, .. } => {
            json.number("given", given as u64);
        }
        Verdict::Canary {
            first, last, found, ..
        } => {
            json.signed("first", first as i64);
            json.signed("last", last as i64);
            json.string("found", found.name().as_bytes());
        }
        Verdict::NonCanonical {
            suspects,
            registers,
            ..
        } => json.object("registers", |json| {
            for (bit, (name, value)) in REGISTERS.iter().zip(registers).enumerate() {
                if suspects >> bit & 1 != 0 {
                    json.address(name, value);
                }
            }
        }),
        Verdict::InvalidPointer {
            why: Why::Foreign(ground),
            ..
        }
        | Verdict::ReadOnly { ground, .. } => self::ground(json, &ground),
        _ => {}
    }
    if let Some(block) = verdict.block() {
        json.object("block", |json| {
            json.address("address", block.payload);
            json.number("size", block.size as u64);
            json.number("align", block.align as u64);
            json.string("state", if block.is_live() { b"live" } else { b"freed" });
            json.event("allocated", names, &block.allocated);
            if block.freed.when != 0 {
                json.event("freed", names, &block.freed);
            }
        });
    }
}

fn ground(json: &mut Writer<'_>, ground: &Ground<'_>) {
    let (word, name): (&str, &[u8]) = match *ground {
        Ground::Unmapped { .. } => ("unmapped", b""),
        Ground::Stack { .. } => ("stack", b""),
        Ground::Heap => ("heap", b""),
        Ground::Static { module } => ("static", module),
        Ground::Mapped { name, .. } => ("mapped", name),
    };
    json.string("ground", word.as_bytes());
    if !name.is_empty() {
        json.string("module", name);
    }
}
