//! Memory calls, accesses, forks and memory pressure on the machine: compared with the naive
//! model where there is memory enough, and with whatever numbers where there is not.
//!
//! Scripts are those of `tests/kernel/crowd.rs`; `tests/kernel/crowds` is where those go that
//! found something.

use crate::bytes::Bytes;
use crate::kernel::crowd::{self, BOUNDS, BREAK, SPACES, Script, Step};
use crate::kernel::generate::{Generator, Rng};
use crate::kernel::naive::Naive;
use crate::kernel::quirks::Quirks;
use crate::kernel::{Op, PAGES, System, TASK_END, WINDOW};
use crate::targets::{Target, planted};
use fencepost::mmu::addr::{Access, PAGE};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::replace::Kind;

/// The target.
pub const TARGET: Target = Target {
    name: "mmu",
    run: |data| carry_out(&from_bytes(data)),
    print: |data| from_bytes(data).to_string(),
    replay: |text| {
        carry_out(&text.parse()?);
        Ok(())
    },
};

fn carry_out(script: &Script) {
    let mut forked = false;
    let done = crowd::run(script, |fast, step| {
        // The bug: once there was a child, one kind of call forgets its shootdowns.
        forked |= *step == Step::Fork;
        let forgets = planted() && forked && matches!(step, Step::Op(Op::Mprotect { .. }));
        if planted() {
            fast.on(|machine, _| machine.mmu_mut().stale = forgets);
        }
    });
    if let Err((line, why)) = done {
        panic!("step {line}: {why}");
    }
}

fn from_bytes(data: &[u8]) -> Script {
    let mut bytes = Bytes(data);
    let head = bytes.byte();
    let replacement = bytes.of(&[Kind::Clock, Kind::Lru, Kind::Fifo, Kind::Random(1)]);
    let watched = head & 3 != 0;
    let mut script = Script {
        watched,
        frames: 3000,
        nodes: 512,
        swap: 900,
        replacement,
        tagged: head & 4 != 0,
        steps: Vec::new(),
    };
    if watched {
        sensible(&mut bytes, &mut script.steps);
    } else {
        script.frames = 40 + bytes.below(80) as usize;
        script.nodes = 4 + bytes.below(60) as usize;
        script.swap = bytes.below(50) as usize;
        arbitrary(&mut bytes, &mut script.steps);
    }
    script
}

/// Steps that suit the state that the naive models are in.
fn sensible(bytes: &mut Bytes<'_>, steps: &mut Vec<Step>) {
    let mut spaces = vec![Naive::new(WINDOW, PAGES, Quirks::ALL)];
    let mut now = 0;
    let mut generator = Generator { rng: Rng(0) };
    while !bytes.is_empty() && steps.len() < 1000 {
        let roll = bytes.below(100);
        let step = match roll {
            0..4 => Step::Fork,
            4..9 => Step::Switch(bytes.below(SPACES as u64) as usize),
            9 => Step::Exit,
            10..16 => Step::PageOut(WINDOW + bytes.below(PAGES) * PAGE),
            16 => Step::Reclaim,
            _ => {
                generator.rng = Rng(bytes.below(1 << 24) << 8 | roll);
                Step::Op(generator.op(&spaces[now]))
            }
        };
        match &step {
            Step::Op(op) => {
                let executes = matches!(*op, Op::Touch { addr, access: Access::Exec, .. }
                    if spaces[now].would_execute(addr));
                if !executes {
                    spaces[now].apply(op);
                }
            }
            Step::Fork if spaces.len() < SPACES => {
                let child = spaces[now].fork();
                spaces.push(child);
            }
            Step::Switch(to) => now = to % spaces.len(),
            Step::Exit if spaces.len() > 1 => {
                spaces.remove(now);
                now = 0;
            }
            _ => {}
        }
        steps.push(step);
    }
}

/// An address near something that matters.
fn addr(bytes: &mut Bytes<'_>) -> u64 {
    let base = match bytes.below(16) {
        0..10 => WINDOW,
        10 | 11 => BREAK,
        12 => TASK_END - 40 * PAGE,
        13 => 0,
        14 => 1 << 47,
        _ => return bytes.number(),
    };
    let page = base + bytes.below(64) * PAGE;
    match bytes.below(8) {
        0 => page + bytes.below(PAGE),
        1 => page + PAGE - 1 - bytes.below(16),
        _ => page,
    }
}

fn page(bytes: &mut Bytes<'_>) -> u64 {
    addr(bytes) & !(PAGE - 1)
}

fn len(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(16) {
        0 => bytes.number(),
        1 => bytes.below(3 * PAGE),
        2 => 600 * PAGE,
        _ => (1 + bytes.below(20)) * PAGE,
    }
}

fn prot(bytes: &mut Bytes<'_>) -> u32 {
    match bytes.below(12) {
        0 => bytes.number() as u32,
        1 => 3 | PROT_GROWSDOWN,
        2..6 => 3,
        more => more as u32 & 7,
    }
}

fn arbitrary(bytes: &mut Bytes<'_>, steps: &mut Vec<Step>) {
    const ADVICE: [u32; 22] = [
        MADV_DONTNEED,
        MADV_DONTNEED,
        MADV_FREE,
        MADV_FREE,
        MADV_REMOVE,
        MADV_DONTFORK,
        MADV_DOFORK,
        MADV_WIPEONFORK,
        MADV_KEEPONFORK,
        MADV_HUGEPAGE,
        MADV_NOHUGEPAGE,
        MADV_COLD,
        MADV_PAGEOUT,
        MADV_POPULATE_READ,
        MADV_POPULATE_READ,
        MADV_POPULATE_WRITE,
        MADV_POPULATE_WRITE,
        MADV_DONTNEED_LOCKED,
        MADV_GUARD_INSTALL,
        MADV_GUARD_INSTALL,
        MADV_GUARD_REMOVE,
        MADV_WILLNEED,
    ];
    while !bytes.is_empty() && steps.len() < 1000 {
        let step = match bytes.below(100) {
            0..22 => {
                let file = bytes.of(&[None, None, None, Some(0), Some(1), Some(7)]);
                let kind = if file.is_some() { 0 } else { MAP_ANONYMOUS };
                let place = bytes.of(&[MAP_FIXED, MAP_FIXED, MAP_FIXED_NOREPLACE, 0]);
                let sort = bytes.of(&[MAP_PRIVATE, MAP_PRIVATE, MAP_SHARED]);
                let more = match bytes.below(12) {
                    0 => bytes.number() as u32,
                    1 => MAP_GROWSDOWN,
                    2 => MAP_LOCKED,
                    3 => MAP_NORESERVE,
                    4 => MAP_POPULATE,
                    _ => 0,
                };
                Step::Op(Op::Mmap {
                    hint: if bytes.below(9) == 0 { 0 } else { page(bytes) },
                    len: len(bytes),
                    prot: prot(bytes),
                    flags: kind | place | sort | more,
                    file: file.filter(|file| *file < 2),
                    offset: match bytes.below(8) {
                        0 => bytes.number(),
                        n => n % 4 * PAGE,
                    },
                })
            }
            22..30 => Step::Op(Op::Munmap {
                addr: page(bytes),
                len: len(bytes),
            }),
            30..38 => Step::Op(Op::Mprotect {
                addr: page(bytes),
                len: len(bytes),
                prot: prot(bytes),
            }),
            38..50 => Step::Op(Op::Madvise {
                addr: page(bytes),
                len: len(bytes),
                advice: match bytes.below(20) {
                    0 => bytes.number() as u32,
                    _ => bytes.of(&ADVICE),
                },
            }),
            50..60 => Step::Op(Op::Mremap {
                old: page(bytes),
                old_len: len(bytes),
                new_len: len(bytes),
                flags: bytes.below(8) as u32,
                new: page(bytes),
            }),
            60..64 => Step::Op(Op::Brk {
                to: if bytes.below(3) == 0 {
                    addr(bytes)
                } else {
                    BREAK + bytes.below(40 * PAGE)
                },
            }),
            64..68 => Step::Op(Op::Read {
                addr: addr(bytes),
                len: 1 + bytes.below(16),
            }),
            68..76 => Step::Op(Op::Write {
                addr: addr(bytes),
                len: 1 + bytes.below(16),
                seed: bytes.byte(),
            }),
            76..86 => Step::Op(Op::Touch {
                addr: addr(bytes),
                len: 1 + bytes.below(16),
                access: bytes.of(&[Access::Read, Access::Write, Access::Write, Access::Exec]),
                seed: bytes.byte(),
            }),
            86..89 => Step::Fork,
            89..92 => Step::Switch(bytes.below(SPACES as u64) as usize),
            92 => Step::Exit,
            93 | 94 => Step::PageOut(page(bytes)),
            95 => Step::Reclaim,
            96 => Step::Lock(bytes.below(3) != 0, page(bytes), len(bytes)),
            _ => Step::Limit(
                bytes.below(BOUNDS.len() as u64) as usize,
                match bytes.below(4) {
                    0 => bytes.number(),
                    1 => bytes.below(4),
                    _ => bytes.below(30) * PAGE,
                },
            ),
        };
        steps.push(step);
    }
}
