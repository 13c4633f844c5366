//! Reports as JSON, read by a real parser.

use crate::words::{BLOCK, Book, all, freed, incident, said, thread_name};
use fencepost::guard::json::report;
use fencepost::guard::scene::{Ground, Incident};
use fencepost::guard::verdict::{Place, Verdict, Why};
use fencepost::guard::{Event, FRAMES, Record, SlotState, StackId};
use fencepost::mmu::addr::Access;
use fencepost::report::Call;
use serde_json::{Map, Value, json};

fn book() -> Book {
    Book {
        module: b"/lib/x.so".to_vec(),
        thread: thread_name(b"worker"),
    }
}

fn parse(line: &[u8]) -> Map<String, Value> {
    let text = line.strip_suffix(b"\n").expect("it ends with a line break");
    assert!(!text.contains(&b'\n'), "it is one line");
    match serde_json::from_slice(text) {
        Ok(Value::Object(object)) => object,
        other => panic!("{other:?}: {}", String::from_utf8_lossy(text)),
    }
}

fn told(verdict: &Verdict<'_>, incident: &Incident<'_>, book: &Book) -> Map<String, Value> {
    parse(report(verdict, incident, book, &mut [0; 16 << 10]))
}

fn hex(number: usize) -> Value {
    json!(format!("{number:#x}"))
}

/// Frames as the made-up names have them.
fn frames(stack: &[usize], module: &str) -> Value {
    let frame = |pc: &usize| match pc.checked_sub(0x2000) {
        Some(offset) => json!({"pc": hex(*pc), "module": module, "offset": hex(offset)}),
        None => json!({ "pc": hex(*pc) }),
    };
    stack.iter().map(frame).collect()
}

fn event(event: &Event) -> Value {
    let id = event.stack.0 as usize;
    let stack: Vec<usize> = (0..id.min(FRAMES)).map(|n| id * 0x1000 + n).collect();
    json!({
        "operation": event.when, "thread": event.thread, "name": "worker",
        "stack": frames(&stack, "/lib/x.so"),
    })
}

/// The same from the verdict, by another way.
fn expected(verdict: &Verdict<'_>, stack: &[usize]) -> Map<String, Value> {
    let message = said(verdict).replacen("fencepost: ", "", 1);
    let mut object = json!({
        "fencepost": 1, "kind": verdict.kind(), "message": message, "pid": 76,
        "program": "/bin/prog", "signal": 11, "code": 1, "operation": 20, "sampled": 1,
        "fault": {"thread": 77, "name": "worker", "stack": frames(stack, "/lib/x.so")},
    });
    let mut add = |key: &str, value: Value| object[key] = value;
    if let Some(addr) = verdict.address() {
        add("address", hex(addr));
    }
    if let Some(access) = verdict.access() {
        let words = [
            (Access::Read, "read"),
            (Access::Write, "write"),
            (Access::Exec, "execute"),
        ];
        let word = words.into_iter().find(|(a, _)| *a == access).unwrap().1;
        add("access", json!(word));
    }
    if let Some(block) = verdict.block() {
        let state = if block.state == SlotState::Live {
            "live"
        } else {
            "freed"
        };
        let mut told = json!({
            "address": hex(block.payload), "size": block.size, "align": block.align,
            "state": state, "allocated": event(&block.allocated),
        });
        if state == "freed" {
            told["freed"] = event(&block.freed);
        }
        add("block", told);
        let addr = verdict.address().unwrap() as i64 - block.payload as i64;
        let size = block.size as i64;
        let (place, distance) = match addr {
            ..0 => ("before", -addr),
            _ if addr < size => ("within", addr),
            _ => ("past", addr - size),
        };
        add("place", json!(place));
        add("distance", json!(distance));
    }
    match *verdict {
        Verdict::UseAfterFree { age, .. }
        | Verdict::DoubleFree { age, .. }
        | Verdict::FreedBefore { age, .. } => add("age", json!(age)),
        Verdict::WrongSize { given, .. } | Verdict::WrongAlign { given, .. } => {
            add("given", json!(given));
        }
        Verdict::Canary {
            first, last, found, ..
        } => {
            add("first", json!(first));
            add("last", json!(last));
            add("found", json!(format!("{found:?}").to_lowercase()));
        }
        Verdict::NonCanonical {
            suspects,
            registers,
            ..
        } => {
            let names = fencepost::guard::scene::REGISTERS;
            let wild = (0..18).filter(|n| suspects & (1 << n) != 0);
            let wild = wild.map(|n| (names[n].to_owned(), hex(registers[n])));
            add("registers", Value::Object(wild.collect()));
        }
        Verdict::ReadOnly { ground, .. }
        | Verdict::InvalidPointer {
            why: Why::Foreign(ground),
            ..
        } => {
            let (word, name) = match ground {
                Ground::Unmapped { .. } => ("unmapped", &b""[..]),
                Ground::Stack { .. } => ("stack", &b""[..]),
                Ground::Heap => ("heap", &b""[..]),
                Ground::Static { module } => ("static", module),
                Ground::Mapped { name, .. } => ("mapped", name),
            };
            add("ground", json!(word));
            if !name.is_empty() {
                add("module", json!(String::from_utf8_lossy(name)));
            }
        }
        _ => {}
    }
    let Value::Object(object) = object else {
        unreachable!()
    };
    object
}

#[test]
fn every_verdict_is_told_field_by_field() {
    let stack = [0x1234, 0x2345, 0x7fff_ffff_f000];
    for (verdict, _) in all() {
        let told = told(&verdict, &incident(&stack), &book());
        assert_eq!(told, expected(&verdict, &stack), "{verdict:?}");
    }
}

#[test]
fn what_is_no_fault_has_no_signal() {
    let verdict = Verdict::DoubleFree {
        block: freed(),
        age: 1,
    };
    let incident = Incident {
        signal: None,
        ..incident(&[])
    };
    let told = told(&verdict, &incident, &book());
    assert!(!told.contains_key("signal") && !told.contains_key("code"));
    assert_eq!(told["fault"]["stack"], json!([]));
}

#[test]
fn nasty_names_arrive_as_they_are() {
    let mut names: Vec<Vec<u8>> = vec![
        br#"/tmp/a "quoted" name"#.to_vec(),
        br"/back\slash\".to_vec(),
        b"/new\nline\r\n\ttab".to_vec(),
        "/münchen/\u{1f980}/\u{7f}\u{80}\u{2028}"
            .as_bytes()
            .to_vec(),
        b"/not\xffutf\xc3(8\xf0\x9f".to_vec(),
        b"\"}],\"kind\":\"forged\"".to_vec(),
        (0..=255).collect(),
    ];
    names.extend((0..=255).map(|byte| vec![b'/', byte, b'x']));
    for name in names {
        let mut book = book();
        let short: Vec<u8> = name.iter().copied().filter(|b| *b != 0).take(15).collect();
        book.thread = thread_name(&short);
        book.module.clone_from(&name);
        let verdict = Verdict::InvalidPointer {
            call: Call::Free,
            addr: 0x7005,
            why: Why::Foreign(Ground::Static { module: &name }),
        };
        let stack = [0x2345];
        let incident = Incident {
            program: &name,
            ..incident(&stack)
        };
        let told = told(&verdict, &incident, &book);
        let text = json!(String::from_utf8_lossy(&name));
        assert_eq!(told["program"], text);
        assert_eq!(told["module"], text);
        assert_eq!(told["fault"]["stack"][0]["module"], text);
        assert_eq!(
            told["fault"]["name"],
            json!(String::from_utf8_lossy(&short))
        );
        assert_eq!(told["kind"], "invalid free");
    }
}

/// In every buffer, however small, there is a valid line or none; and the more room, the more is
/// told.
#[test]
fn what_does_not_fit_is_left_out_and_the_rest_is_valid() {
    let deep = |id| Event {
        stack: StackId(id),
        ..freed().freed
    };
    let verdict = Verdict::UseAfterFree {
        addr: 0x7005,
        access: Some(Access::Read),
        block: Record {
            allocated: deep(15),
            freed: deep(16),
            ..freed()
        },
        place: Place::Within(5),
        age: 1,
    };
    let mut book = book();
    book.module = [b"/".repeat(40), b"\"\x01".repeat(40)].concat();
    let program = b"/program".repeat(30);
    let stack: Vec<usize> = (0..100).map(|n| 0x5000 + n).collect();
    let incident = Incident {
        program: &program,
        ..incident(&stack)
    };
    let whole = told_whole(&verdict, &incident, &book);
    assert!(!whole.contains_key("truncated"));
    assert_eq!(frames_of(&whole), 100 + 15 + 16);
    let (mut before, mut truncated) = (0, 0);
    let mut first = None;
    for room in 0..64 << 10 {
        if room > 2 << 10 && room % 61 != 0 {
            continue;
        }
        let mut buffer = vec![0xaa; room];
        let line = report(&verdict, &incident, &book, &mut buffer);
        if line.is_empty() {
            assert_eq!(first, None, "less room held a report");
            continue;
        }
        first.get_or_insert(room);
        let told = parse(line);
        let frames = frames_of(&told);
        assert!(frames >= before, "{room}: {frames} < {before}");
        before = frames;
        for key in [
            "kind",
            "signal",
            "address",
            "access",
            "distance",
            "operation",
        ] {
            assert_eq!(told[key], whole[key], "{room}");
        }
        let complete = told.len() == whole.len() && frames == 131;
        assert_eq!(told.contains_key("truncated"), !complete, "{room}");
        truncated += usize::from(!complete);
    }
    assert!(first.is_some_and(|room| room <= 2048), "{first:?}");
    assert!(truncated > 300, "{truncated}");
    assert_eq!(before, 131, "64 KiB hold everything");
}

fn told_whole(verdict: &Verdict<'_>, incident: &Incident<'_>, book: &Book) -> Map<String, Value> {
    parse(report(verdict, incident, book, &mut vec![0; 1 << 20]))
}

fn frames_of(told: &Map<String, Value>) -> usize {
    let count = |of: &Value| of["stack"].as_array().map_or(0, Vec::len);
    count(&told["fault"]) + count(&told["block"]["allocated"]) + count(&told["block"]["freed"])
}

/// A report of ordinary size tells everything in 16 KiB.
#[test]
fn three_long_stacks_fit_into_16_kib() {
    let deep = Event {
        stack: StackId(16),
        ..BLOCK.allocated
    };
    let verdict = Verdict::DoubleFree {
        block: Record {
            allocated: deep,
            freed: deep,
            ..freed()
        },
        age: 3,
    };
    let book = Book {
        module: b"/usr/lib/x86_64-linux-gnu/libsomething.so.6.0.30".to_vec(),
        ..book()
    };
    let stack: Vec<usize> = (0..32).map(|n| 0x7fff_1234_5000 + n).collect();
    let told = told(&verdict, &incident(&stack), &book);
    assert!(!told.contains_key("truncated"));
    assert_eq!(frames_of(&told), 64);
}
