//! The words of the verdicts, and whole reports as text.

use crate::lab::event;
use fencepost::guard::scene::{Ground, Incident, Location, Names, REGISTERS, ThreadName};
use fencepost::guard::text::{Writer, sentence};
use fencepost::guard::verdict::{Occasion, Place, Refusal, Verdict, Why};
use fencepost::guard::{Event, FRAMES, Record, Side, SlotState, StackId};
use fencepost::mmu::addr::{Access, Rights};
use fencepost::report::{Call, Line};

pub const BLOCK: Record = Record {
    payload: 0x7000,
    size: 100,
    align: 64,
    state: SlotState::Live,
    side: Side::Right,
    allocated: Event {
        when: 5,
        thread: 4711,
        stack: StackId(1),
    },
    freed: Event {
        when: 0,
        thread: 0,
        stack: StackId(0),
    },
};

pub fn freed() -> Record {
    Record {
        state: SlotState::Freed,
        freed: event(8),
        ..BLOCK
    }
}

/// A block of one byte.
fn tiny() -> Record {
    Record { size: 1, ..BLOCK }
}

/// Every kind of verdict with what has to be said of it.
pub fn all() -> Vec<(Verdict<'static>, &'static str)> {
    let (read, write, jump) = (Some(Access::Read), Some(Access::Write), Some(Access::Exec));
    let overflow = |access, by, block| Verdict::Overflow {
        addr: 0x7064 + by,
        access,
        block,
        by,
    };
    let underflow = |by| Verdict::Underflow {
        addr: 0x7000 - by,
        access: read,
        block: BLOCK,
        by,
    };
    let dead = |place, age| Verdict::UseAfterFree {
        addr: 0x7005,
        access: write,
        block: freed(),
        place,
        age,
    };
    let pointer = |call, why| Verdict::InvalidPointer {
        call,
        addr: 0x7005,
        why,
    };
    let foreign = |ground| pointer(Call::Free, Why::Foreign(ground));
    let mapped = |name| Ground::Mapped {
        rights: Rights::READ,
        name,
    };
    let canary = |first, last, found| Verdict::Canary {
        block: BLOCK,
        first,
        last,
        found,
    };
    let wild = |refusal| Verdict::Wild {
        addr: 0x5000,
        access: write,
        refusal,
    };
    let nowhere = Ground::Unmapped {
        below: None,
        above: None,
    };
    let read_only = |ground| Verdict::ReadOnly {
        addr: 0x5000,
        ground,
    };
    let other = |addr, pc, signal, code| Verdict::NotOurs {
        addr,
        pc,
        signal,
        code,
    };
    let mut all = vec![
        (
            overflow(write, 12, BLOCK),
            "heap overflow: write 12 bytes past the end of 0x7000 (100 bytes)",
        ),
        (
            overflow(None, 0, BLOCK),
            "heap overflow: access 0 bytes past the end of 0x7000 (100 bytes)",
        ),
        (
            overflow(jump, 1, tiny()),
            "heap overflow: execution 1 byte past the end of 0x7000 (1 byte)",
        ),
        (
            underflow(1),
            "heap underflow: read 1 byte before 0x7000 (100 bytes)",
        ),
        (
            underflow(4096),
            "heap underflow: read 4096 bytes before 0x7000 (100 bytes)",
        ),
        (
            dead(Place::Within(5), 17),
            "use after free: write at byte 5 of 0x7000 (100 bytes), freed 17 operations ago",
        ),
        (
            dead(Place::Past(12), 1),
            "use after free: write 12 bytes past the end of 0x7000 (100 bytes), freed 1 operation ago",
        ),
        (
            dead(Place::Before(3), 0),
            "use after free: write 3 bytes before 0x7000 (100 bytes), freed 0 operations ago",
        ),
        (
            Verdict::DoubleFree {
                block: freed(),
                age: 17,
            },
            "double free: 0x7000 (100 bytes), freed 17 operations ago",
        ),
        (
            Verdict::FreedBefore {
                call: Call::Realloc,
                block: freed(),
                age: 17,
            },
            "invalid realloc: 0x7000 was freed before (100 bytes)",
        ),
        (
            pointer(Call::Free, Why::Near(BLOCK, Place::Within(5))),
            "invalid free: 0x7005 is inside a chunk (5 bytes into a block of 100 bytes)",
        ),
        (
            pointer(Call::UsableSize, Why::Near(freed(), Place::Within(1))),
            "invalid usable_size: 0x7005 is inside a freed block (1 byte into a block of 100 bytes)",
        ),
        (
            pointer(Call::Free, Why::Near(BLOCK, Place::Past(12))),
            "invalid free: 0x7005 is 12 bytes past the end of 0x7000 (100 bytes)",
        ),
        (
            pointer(Call::Free, Why::Near(freed(), Place::Before(1))),
            "invalid free: 0x7005 is 1 byte before the freed block 0x7000 (100 bytes)",
        ),
        (
            foreign(Ground::Stack { main: false }),
            "invalid free: 0x7005 was not allocated here: it lies on a stack",
        ),
        (
            foreign(Ground::Static { module: b"/bin/x" }),
            "invalid free: 0x7005 was not allocated here: it is static data of /bin/x",
        ),
        (
            foreign(nowhere),
            "invalid free: 0x7005 was not allocated here: nothing is mapped there",
        ),
        (
            foreign(mapped(b"/a\nb")),
            "invalid free: 0x7005 was not allocated here: it lies in /a?b",
        ),
        (
            foreign(mapped(b"")),
            "invalid free: 0x7005 was not allocated here: it lies in [anonymous memory]",
        ),
        (
            foreign(Ground::Heap),
            "invalid free: 0x7005 was not allocated here: it lies in [heap]",
        ),
        (
            Verdict::WrongSize {
                block: BLOCK,
                given: 90,
            },
            "wrong size: 0x7000 (100 bytes) freed as 90 bytes",
        ),
        (
            Verdict::WrongAlign {
                block: BLOCK,
                given: 32,
            },
            "wrong alignment: 0x7000 (aligned to 64) freed as aligned to 32",
        ),
        (
            canary(100, 103, Occasion::Free),
            "heap overflow: bytes 100 to 103 of 0x7000 (100 bytes) were overwritten, found at free",
        ),
        (
            canary(100, 100, Occasion::Realloc),
            "heap overflow: byte 100 of 0x7000 (100 bytes) was overwritten, found at realloc",
        ),
        (
            canary(-4, -1, Occasion::Exit),
            "heap underflow: bytes -4 to -1 of 0x7000 (100 bytes) were overwritten, found at exit",
        ),
        (
            canary(-1, -1, Occasion::Sweep),
            "heap underflow: byte -1 of 0x7000 (100 bytes) was overwritten, found at sweep",
        ),
        (
            Verdict::Null {
                addr: 8,
                access: read,
            },
            "null pointer: read at 0x8",
        ),
        (
            wild(Refusal::Unmapped),
            "wild pointer: write at 0x5000: nothing is mapped there",
        ),
        (
            wild(Refusal::NoAccess),
            "wild pointer: write at 0x5000: no access is allowed there",
        ),
        (
            read_only(mapped(b"/lib/x.so")),
            "write to read-only memory at 0x5000 (/lib/x.so)",
        ),
        (
            read_only(mapped(b"")),
            "write to read-only memory at 0x5000 ([anonymous memory])",
        ),
        (read_only(nowhere), "write to read-only memory at 0x5000"),
        (
            Verdict::Execute {
                addr: 0x5000,
                heap: true,
            },
            "execution of heap memory at 0x5000",
        ),
        (
            Verdict::Execute {
                addr: 0x5000,
                heap: false,
            },
            "execution of data at 0x5000",
        ),
        (
            Verdict::StackOverflow {
                addr: 0x5000,
                block: None,
            },
            "stack overflow at 0x5000",
        ),
        (
            Verdict::StackOverflow {
                addr: 0x6ff8,
                block: Some(BLOCK),
            },
            "stack overflow at 0x6ff8: the stack is the block 0x7000 (100 bytes)",
        ),
        (
            other(Some(0x5000), Some(0x1234), 7, 2),
            "fault at 0x5000 that is not of the heap (signal 7, code 2)",
        ),
        (
            other(None, Some(0x1234), 11, 128),
            "fault of the instruction at 0x1234 that is not of the heap (signal 11, code 128)",
        ),
        (
            other(None, None, 11, -6),
            "fault that is not of the heap (signal 11, code -6)",
        ),
    ];
    if cfg!(target_arch = "x86_64") {
        let number = |name: &str| REGISTERS.iter().position(|n| *n == name).unwrap();
        let mut registers = [0; 18];
        registers[number("rdi")] = 0xdead_beef_dead_beef;
        registers[number("rax")] = 0x8000_0000_0000;
        let wild = |access, names: &[&str]| Verdict::NonCanonical {
            access,
            suspects: names.iter().map(|name| 1 << number(name)).sum(),
            registers,
        };
        all.push((
            wild(read, &["rdi"]),
            "wild pointer: read through a non-canonical address (rdi = 0xdeadbeefdeadbeef)",
        ));
        all.push((
            wild(None, &["rdi", "rax"]),
            "wild pointer: access through a non-canonical address \
             (rdi = 0xdeadbeefdeadbeef, rax = 0x800000000000)",
        ));
    }
    all
}

pub fn said(verdict: &Verdict<'_>) -> String {
    let mut line = Line::new();
    sentence(verdict, &mut line);
    String::from_utf8(line.as_bytes().to_vec()).expect("it is text")
}

#[test]
fn every_verdict_has_its_sentence() {
    let mut kinds = std::collections::BTreeSet::new();
    for (verdict, expected) in all() {
        assert_eq!(said(&verdict), format!("fencepost: {expected}"));
        assert!(expected.starts_with(verdict.kind()), "{expected}");
        kinds.insert(verdict.kind());
    }
    assert_eq!(kinds.len(), 16, "{kinds:?}");
}

#[test]
fn a_long_name_is_cut_off_and_the_line_still_ends() {
    let name = vec![b'x'; 5000];
    let verdict = Verdict::InvalidPointer {
        call: Call::Free,
        addr: 0x7005,
        why: Why::Foreign(Ground::Static { module: &name }),
    };
    for room in [1, 60, 100, 5000] {
        let mut buffer = vec![0; room];
        let mut line = Line::over(&mut buffer[..]);
        sentence(&verdict, &mut line);
        assert!(line.is_cut());
        let text = line.end().as_bytes();
        assert_eq!(text.len(), room);
        assert!(text.ends_with(b"\n"));
    }
}

/// Made-up names: stack n has n frames from n * 0x1000 on; what lies above 0x2000 is in a module.
#[derive(Debug)]
pub struct Book {
    pub module: Vec<u8>,
    pub thread: ThreadName,
}

pub fn thread_name(name: &[u8]) -> ThreadName {
    let mut full = [0; 16];
    full[..name.len()].copy_from_slice(name);
    full
}

impl Names for Book {
    fn stack(&self, id: StackId, frames: &mut [usize; FRAMES]) -> usize {
        let count = (id.0 as usize).min(FRAMES);
        for (number, frame) in frames.iter_mut().enumerate().take(count) {
            *frame = id.0 as usize * 0x1000 + number;
        }
        count
    }

    fn locate(&self, pc: usize) -> Option<Location<'_>> {
        (pc >= 0x2000).then(|| Location {
            module: &self.module,
            offset: pc - 0x2000,
        })
    }

    fn thread(&self, _: u32) -> ThreadName {
        self.thread
    }
}

pub fn incident(stack: &[usize]) -> Incident<'_> {
    Incident {
        thread: 77,
        stack,
        signal: Some((11, 1)),
        process: 76,
        program: b"/bin/prog",
        now: 20,
        sampled: 1,
    }
}

fn text(book: &Book, verdict: &Verdict<'_>, incident: &Incident<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut write = |line: &[u8]| {
        let line = line
            .strip_suffix(b"\n")
            .expect("each ends with a line break");
        assert!(!line.contains(&b'\n'));
        lines.push(String::from_utf8_lossy(line).into_owned());
    };
    Writer::new(book, &mut [0; 512], &mut write).report(verdict, incident);
    lines
}

#[test]
fn a_report_has_the_stacks_of_fault_allocation_and_free() {
    let mut book = Book {
        module: b"/lib/x.so".to_vec(),
        thread: thread_name(b"worker"),
    };
    let verdict = Verdict::DoubleFree {
        block: freed(),
        age: 12,
    };
    let stack = [0x1234, 0x2345];
    assert_eq!(
        text(&book, &verdict, &incident(&stack)),
        [
            "fencepost: double free: 0x7000 (100 bytes), freed 12 operations ago",
            "  by thread 77 (worker):",
            "    #0 0x1234",
            "    #1 0x2345 /lib/x.so+0x345",
            "  allocated by thread 4711 (worker), 15 operations ago:",
            "    #0 0x1000",
            "  freed by thread 4008 (worker), 12 operations ago:",
            "    #0 0x8000 /lib/x.so+0x6000",
            "    #1 0x8001 /lib/x.so+0x6001",
            "    #2 0x8002 /lib/x.so+0x6002",
            "    #3 0x8003 /lib/x.so+0x6003",
            "    #4 0x8004 /lib/x.so+0x6004",
            "    #5 0x8005 /lib/x.so+0x6005",
            "    #6 0x8006 /lib/x.so+0x6006",
            "    #7 0x8007 /lib/x.so+0x6007",
        ]
    );
    // A live object has no free; a thread without a name none in brackets.
    book.thread = [0; 16];
    book.module = b"/lib/\x1b[2J\n.so".to_vec();
    let verdict = Verdict::WrongSize {
        block: BLOCK,
        given: 1,
    };
    assert_eq!(
        text(&book, &verdict, &incident(&stack[1..])),
        [
            "fencepost: wrong size: 0x7000 (100 bytes) freed as 1 byte",
            "  by thread 77:",
            "    #0 0x2345 /lib/?[2J?.so+0x345",
            "  allocated by thread 4711, 15 operations ago:",
            "    #0 0x1000",
        ]
    );
}
