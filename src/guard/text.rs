//! Reports as text: one line that says it all, then the call stacks.

use super::record::{Event, Record};
use super::scene::{Ground, Incident, Names, REGISTERS};
use super::stacks::FRAMES;
use super::verdict::{Occasion, Place, Refusal, Verdict, Why};
use crate::mmu::addr::Access;
use crate::report::{Line, Misuse};

/// What every message begins with.
pub const PREFIX: &str = "fencepost: ";

const fn access_word(access: Option<Access>) -> &'static str {
    match access {
        None => "access",
        Some(Access::Read) => "read",
        Some(Access::Write) => "write",
        Some(Access::Exec) => "execution",
    }
}

impl Occasion {
    /// In the words of the reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Occasion::Free => "free",
            Occasion::Realloc => "realloc",
            Occasion::Exit => "exit",
            Occasion::Sweep => "sweep",
        }
    }
}

/// What memory without a name is called.
const ANONYMOUS: &[u8] = b"[anonymous memory]";
const HEAP: &[u8] = b"[heap]";

/// The name of what lies there, if it has one.
fn ground_name<'m>(ground: &Ground<'m>) -> &'m [u8] {
    match *ground {
        Ground::Unmapped { .. } => b"",
        Ground::Stack { .. } => b"a stack",
        Ground::Heap => HEAP,
        Ground::Static { module } => module,
        Ground::Mapped { name: b"", .. } => ANONYMOUS,
        Ground::Mapped { name, .. } => name,
    }
}

/// Text of others, without what would upset a terminal.
fn foreign<B: AsRef<[u8]> + AsMut<[u8]>>(line: &mut Line<B>, bytes: &[u8]) {
    for &byte in bytes {
        line.raw(&[if byte.is_ascii_control() { b'?' } else { byte }]);
    }
}

fn block<B: AsRef<[u8]> + AsMut<[u8]>>(line: &mut Line<B>, payload: usize, size: usize) {
    line.hex(payload).text(" (");
    line.count(size as u64, "byte").text(")");
}

fn distance<B: AsRef<[u8]> + AsMut<[u8]>>(line: &mut Line<B>, place: Place) {
    match place {
        Place::Within(offset) => line.text("at byte ").decimal(offset as u64).text(" of "),
        Place::Past(by) => line.count(by as u64, "byte").text(" past the end of "),
        Place::Before(by) => line.count(by as u64, "byte").text(" before "),
    };
}

fn freed<B: AsRef<[u8]> + AsMut<[u8]>>(line: &mut Line<B>, age: u64) {
    line.text(", freed ").count(age, "operation").text(" ago");
}

fn signed<B: AsRef<[u8]> + AsMut<[u8]>>(line: &mut Line<B>, number: i64) {
    line.text(if number < 0 { "-" } else { "" })
        .decimal(number.unsigned_abs());
}

/// Puts the sentence that explains the error into a line, with [`PREFIX`].
#[inline(never)]
pub fn sentence<B: AsRef<[u8]> + AsMut<[u8]>>(verdict: &Verdict<'_>, line: &mut Line<B>) {
    if described_by_misuse(verdict, line) {
        return;
    }
    line.text(PREFIX).text(verdict.kind());
    match *verdict {
        Verdict::Overflow {
            access,
            block: found,
            by,
            ..
        } => {
            line.text(": ").text(access_word(access)).text(" ");
            distance(line, Place::Past(by));
            block(line, found.payload, found.size);
        }
        Verdict::Underflow {
            access,
            block: found,
            by,
            ..
        } => {
            line.text(": ").text(access_word(access)).text(" ");
            distance(line, Place::Before(by));
            block(line, found.payload, found.size);
        }
        Verdict::UseAfterFree {
            access,
            block: found,
            place,
            age,
            ..
        } => {
            line.text(": ").text(access_word(access)).text(" ");
            distance(line, place);
            block(line, found.payload, found.size);
            freed(line, age);
        }
        Verdict::InvalidPointer { addr, why, .. } => {
            line.text(": ").hex(addr).text(" is ");
            if let Why::Near(found, place) = why {
                near(line, &found, place);
            }
        }
        Verdict::WrongSize {
            block: found,
            given,
        } => {
            line.text(": ");
            block(line, found.payload, found.size);
            line.text(" freed as ").count(given as u64, "byte");
        }
        Verdict::WrongAlign {
            block: found,
            given,
        } => {
            line.text(": ").hex(found.payload).text(" (aligned to ");
            line.decimal(found.align as u64);
            line.text(") freed as aligned to ").decimal(given as u64);
        }
        Verdict::Canary {
            block: found,
            first,
            last,
            found: occasion,
        } => {
            line.text(if first == last { ": byte " } else { ": bytes " });
            signed(line, first as i64);
            if first != last {
                line.text(" to ");
                signed(line, last as i64);
            }
            line.text(" of ");
            block(line, found.payload, found.size);
            line.text(if first == last { " was" } else { " were" });
            line.text(" overwritten, found at ").text(occasion.name());
        }
        Verdict::Null { addr, access } => {
            line.text(": ").text(access_word(access)).text(" at ");
            line.hex(addr);
        }
        Verdict::Wild {
            addr,
            access,
            refusal,
        } => {
            line.text(": ").text(access_word(access)).text(" at ");
            line.hex(addr).text(match refusal {
                Refusal::Unmapped => ": nothing is mapped there",
                Refusal::NoAccess => ": no access is allowed there",
            });
        }
        Verdict::NonCanonical {
            access,
            suspects,
            registers,
        } => {
            line.text(": ").text(access_word(access));
            line.text(" through a non-canonical address");
            let mut before = " (";
            for (bit, (name, value)) in REGISTERS.iter().zip(registers).enumerate() {
                if suspects >> bit & 1 != 0 {
                    line.text(before).text(name).text(" = ").hex(value);
                    before = ", ";
                }
            }
            line.text(if suspects == 0 { "" } else { ")" });
        }
        Verdict::ReadOnly { addr, ground } => {
            line.text(" at ").hex(addr);
            let name = ground_name(&ground);
            if !name.is_empty() {
                line.text(" (");
                foreign(line, name);
                line.text(")");
            }
        }
        Verdict::Execute { addr, .. } => {
            line.text(" at ").hex(addr);
        }
        Verdict::StackOverflow { addr, block: found } => {
            line.text(" at ").hex(addr);
            if let Some(found) = found {
                line.text(": the stack is the block ");
                block(line, found.payload, found.size);
            }
        }
        Verdict::NotOurs {
            addr,
            pc,
            signal,
            code,
        } => {
            match (addr, pc) {
                (Some(addr), _) => line.text(" at ").hex(addr),
                (None, Some(pc)) => line.text(" of the instruction at ").hex(pc),
                (None, None) => line.text(""),
            };
            line.text(" that is not of the heap (signal ");
            signed(line, signal.into());
            line.text(", code ");
            signed(line, code.into());
            line.text(")");
        }
        Verdict::DoubleFree { .. } | Verdict::FreedBefore { .. } => {}
    }
}

/// What an allocation without guards can say too, in the same words. Whether it is one of these.
fn described_by_misuse<B: AsRef<[u8]> + AsMut<[u8]>>(
    verdict: &Verdict<'_>,
    line: &mut Line<B>,
) -> bool {
    match *verdict {
        Verdict::DoubleFree { block, age } => {
            Misuse::DoubleFree {
                address: block.payload,
                size: block.size,
            }
            .describe(line);
            freed(line, age);
        }
        Verdict::FreedBefore { call, block, .. } => Misuse::UseAfterFree {
            call,
            address: block.payload,
            size: block.size,
        }
        .describe(line),
        Verdict::InvalidPointer {
            call,
            addr,
            why: Why::Near(block, Place::Within(offset)),
        } if block.is_live() => Misuse::InsideChunk {
            call,
            address: addr,
            offset,
            size: block.size,
        }
        .describe(line),
        Verdict::InvalidPointer {
            call,
            addr,
            why: Why::Foreign(ground),
        } => {
            Misuse::Foreign {
                call,
                address: addr,
            }
            .describe(line);
            line.text(match ground {
                Ground::Unmapped { .. } => ": nothing is mapped there",
                Ground::Stack { .. } => ": it lies on ",
                Ground::Static { .. } => ": it is static data of ",
                Ground::Heap | Ground::Mapped { .. } => ": it lies in ",
            });
            foreign(line, ground_name(&ground));
        }
        _ => return false,
    }
    true
}

/// Where a pointer lies that is no object's beginning.
fn near<B: AsRef<[u8]> + AsMut<[u8]>>(line: &mut Line<B>, found: &Record, place: Place) {
    if let Place::Within(offset) = place {
        line.text("inside a freed block (")
            .count(offset as u64, "byte");
        line.text(" into a block of ")
            .count(found.size as u64, "byte")
            .text(")");
        return;
    }
    distance(line, place);
    line.text(if found.is_live() {
        ""
    } else {
        "the freed block "
    });
    block(line, found.payload, found.size);
}

/// Lines of a report, one after the other in the same storage.
pub struct Writer<'w, N: ?Sized> {
    names: &'w N,
    line: Line<&'w mut [u8]>,
    write: &'w mut dyn FnMut(&[u8]),
}

impl<N: ?Sized> core::fmt::Debug for Writer<'_, N> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl<'w, N: Names + ?Sized> Writer<'w, N> {
    /// Lines are built in `buffer`, what is longer is cut off; each is given to `write` with its
    /// line break.
    pub fn new(
        names: &'w N,
        buffer: &'w mut [u8],
        write: &'w mut dyn FnMut(&[u8]),
    ) -> Writer<'w, N> {
        Writer {
            names,
            line: Line::over(buffer),
            write,
        }
    }

    /// The line being built.
    pub fn line(&mut self) -> &mut Line<&'w mut [u8]> {
        &mut self.line
    }

    /// Ends the line.
    pub fn end(&mut self) {
        (self.write)(self.line.end().as_bytes());
        self.line.clear();
    }

    #[inline(never)]
    fn thread(&mut self, what: &str, thread: u32) {
        let blank = if what.is_empty() { "" } else { " " };
        self.line.text("  ").text(what).text(blank);
        self.line.text("by thread ");
        self.line.decimal(thread.into());
        let name = self.names.thread(thread);
        let len = name.iter().take_while(|byte| **byte != 0).count();
        if len != 0 {
            self.line.text(" (");
            foreign(&mut self.line, name.get(..len).unwrap_or(&[]));
            self.line.text(")");
        }
    }

    /// An allocation or a free (`what`) with its stack.
    #[inline(never)]
    pub fn event(&mut self, what: &str, event: &Event, now: u64) {
        self.thread(what, event.thread);
        self.line.text(", ");
        self.line
            .count(now.saturating_sub(event.when), "operation")
            .text(" ago:");
        self.end();
        let mut frames = [0; FRAMES];
        let count = self.names.stack(event.stack, &mut frames);
        self.stack(frames.get(..count).unwrap_or(&[]));
    }

    /// A call stack, a line for each frame.
    #[inline(never)]
    pub fn stack(&mut self, stack: &[usize]) {
        for (number, &pc) in stack.iter().enumerate() {
            self.line.text("    #").decimal(number as u64).text(" ");
            self.line.hex(pc);
            if let Some(location) = self.names.locate(pc) {
                self.line.text(" ");
                foreign(&mut self.line, location.module);
                self.line.text("+").hex(location.offset);
            }
            self.end();
        }
    }

    /// A whole report.
    pub fn report(&mut self, verdict: &Verdict<'_>, incident: &Incident<'_>) {
        sentence(verdict, &mut self.line);
        self.end();
        self.thread("", incident.thread);
        self.line.text(":");
        self.end();
        self.stack(incident.stack);
        if let Some(block) = verdict.block() {
            self.event("allocated", &block.allocated, incident.now);
            if block.freed.when != 0 {
                self.event("freed", &block.freed, incident.now);
            }
        }
    }
}
