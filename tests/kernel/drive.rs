//! Random operations on a system and on the naive model, compared after each one; scripts.

use super::generate::Generator;
use super::naive::{From, Naive};
use super::{Answer, Op, PAGES, System, WINDOW, with_traits};
use fencepost::mmu::addr::{Access, PAGE};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Area, Traits};
use fencepost::mmu::fault::Signature;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// What was done, and what came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub table: BTreeMap<(&'static str, String), u64>,
    pub done: u64,
    pub well: u64,
    /// Operations whose result depends on how the kernel left equal neighbours unmerged.
    pub skipped: u64,
}

/// The operation's name in the table.
pub fn name(op: &Op) -> &'static str {
    match *op {
        Op::Mmap { flags, .. } if flags & MAP_FIXED_NOREPLACE != 0 => "mmap noreplace",
        Op::Mmap { flags, .. } if flags & MAP_FIXED != 0 => "mmap fixed",
        Op::Mmap { .. } => "mmap",
        Op::Munmap { .. } => "munmap",
        Op::Mprotect { prot, .. } if prot & PROT_GROWSDOWN != 0 => "mprotect growsdown",
        Op::Mprotect { .. } => "mprotect",
        Op::Madvise { advice, .. } => match advice {
            MADV_DONTNEED => "madvise dontneed",
            MADV_DONTNEED_LOCKED => "madvise dontneed_locked",
            MADV_FREE => "madvise free",
            MADV_REMOVE => "madvise remove",
            MADV_POPULATE_READ => "madvise populate_read",
            MADV_POPULATE_WRITE => "madvise populate_write",
            MADV_GUARD_INSTALL => "madvise guard_install",
            MADV_GUARD_REMOVE => "madvise guard_remove",
            MADV_DONTFORK | MADV_DOFORK => "madvise dontfork",
            MADV_WIPEONFORK | MADV_KEEPONFORK => "madvise wipeonfork",
            MADV_HUGEPAGE | MADV_NOHUGEPAGE => "madvise hugepage",
            MADV_COLD | MADV_PAGEOUT => "madvise cold",
            _ => "madvise other",
        },
        Op::Mremap { flags, .. } if flags & MREMAP_DONTUNMAP != 0 => "mremap dontunmap",
        Op::Mremap { flags, .. } if flags & MREMAP_FIXED != 0 => "mremap fixed",
        Op::Mremap { flags, .. } if flags & MREMAP_MAYMOVE != 0 => "mremap maymove",
        Op::Mremap { .. } => "mremap",
        Op::Brk { .. } => "brk",
        Op::Read { .. } => "read",
        Op::Write { .. } => "write",
        Op::Touch {
            access: Access::Read,
            ..
        } => "load",
        Op::Touch {
            access: Access::Write,
            ..
        } => "store",
        Op::Touch { .. } => "fetch",
    }
}

/// The result's name in the table.
pub fn result_name(answer: &Answer) -> String {
    match answer {
        Answer::Done(_) | Answer::Bytes(..) => "ok".into(),
        Answer::Refused(errno) => match errno.0 {
            1 => "EPERM".into(),
            9 => "EBADF".into(),
            11 => "EAGAIN".into(),
            12 => "ENOMEM".into(),
            13 => "EACCES".into(),
            14 => "EFAULT".into(),
            17 => "EEXIST".into(),
            22 => "EINVAL".into(),
            95 => "EOPNOTSUPP".into(),
            other => format!("errno {other}"),
        },
        Answer::Fault(s) => {
            let signal = if s.signal == Signature::BUS {
                "BUS"
            } else {
                "SEGV"
            };
            format!("{signal} {} trap {} {:#x}", s.code, s.trap, s.error)
        }
    }
}

impl Tally {
    pub fn count(&mut self, op: &Op, answer: &Answer) {
        self.done += 1;
        // The break's refusal is no error.
        let stays = matches!((op, answer), (Op::Brk { to }, Answer::Done(at)) if at != to);
        self.well += u64::from(answer.success() && !stays);
        let result = if stays {
            "refused".into()
        } else {
            result_name(answer)
        };
        *self.table.entry((name(op), result)).or_default() += 1;
    }

    /// The table of operations by result.
    pub fn print(&self, title: &str) {
        let share = 100.0 * self.well as f64 / self.done as f64;
        println!(
            "{title}: {} operations, {share:.1} % succeeded, {} skipped",
            self.done, self.skipped
        );
        for ((op, result), n) in &self.table {
            println!("  {op:23} {result:22} {n:>9}");
        }
    }

    /// Whether each of the results occurred: an operation, and what it can come to.
    pub fn expect(&self, wanted: &[(&'static str, &str)]) {
        let missing: Vec<_> = wanted
            .iter()
            .flat_map(|&(op, results)| results.split(", ").map(move |result| (op, result)))
            .filter(|&(op, result)| !self.table.contains_key(&(op, result.to_owned())))
            .collect();
        assert!(missing.is_empty(), "never occurred: {missing:?}");
    }
}

/// A script of operations, one per line.
pub fn script(ops: &[Op]) -> String {
    let mut text = String::new();
    for op in ops {
        let _ = match *op {
            Op::Mmap {
                hint,
                len,
                prot,
                flags,
                file,
                offset,
            } => {
                let file = file.map_or("none".into(), |file| file.to_string());
                writeln!(
                    text,
                    "mmap {hint:#x} {len:#x} {prot:#x} {flags:#x} {file} {offset:#x}"
                )
            }
            Op::Munmap { addr, len } => writeln!(text, "munmap {addr:#x} {len:#x}"),
            Op::Mprotect { addr, len, prot } => {
                writeln!(text, "mprotect {addr:#x} {len:#x} {prot:#x}")
            }
            Op::Madvise { addr, len, advice } => {
                writeln!(text, "madvise {addr:#x} {len:#x} {advice}")
            }
            Op::Mremap {
                old,
                old_len,
                new_len,
                flags,
                new,
            } => writeln!(
                text,
                "mremap {old:#x} {old_len:#x} {new_len:#x} {flags} {new:#x}"
            ),
            Op::Brk { to } => writeln!(text, "brk {to:#x}"),
            Op::Read { addr, len } => writeln!(text, "read {addr:#x} {len}"),
            Op::Write { addr, len, seed } => writeln!(text, "write {addr:#x} {len} {seed}"),
            Op::Touch {
                addr,
                len,
                access,
                seed,
            } => {
                let access = match access {
                    Access::Read => "r",
                    Access::Write => "w",
                    Access::Exec => "x",
                };
                writeln!(text, "touch {addr:#x} {len} {access} {seed}")
            }
        };
    }
    text
}

/// The operations of a script; `#` begins a comment.
pub fn parse(text: &str) -> Vec<Op> {
    fn number(word: Option<&str>) -> u64 {
        let word = word.expect("a number");
        let digits = word.strip_prefix("0x");
        digits
            .map_or_else(|| word.parse(), |hex| u64::from_str_radix(hex, 16))
            .unwrap_or_else(|_| panic!("not a number: {word}"))
    }
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let mut next = || words.next();
        Some(match name {
            "mmap" => Op::Mmap {
                hint: number(next()),
                len: number(next()),
                prot: number(next()) as u32,
                flags: number(next()) as u32,
                file: Some(next())
                    .filter(|&word| word != Some("none"))
                    .map(|word| number(word) as usize),
                offset: number(next()),
            },
            "munmap" => Op::Munmap {
                addr: number(next()),
                len: number(next()),
            },
            "mprotect" => Op::Mprotect {
                addr: number(next()),
                len: number(next()),
                prot: number(next()) as u32,
            },
            "madvise" => Op::Madvise {
                addr: number(next()),
                len: number(next()),
                advice: number(next()) as u32,
            },
            "mremap" => Op::Mremap {
                old: number(next()),
                old_len: number(next()),
                new_len: number(next()),
                flags: number(next()) as u32,
                new: number(next()),
            },
            "brk" => Op::Brk { to: number(next()) },
            "read" => Op::Read {
                addr: number(next()),
                len: number(next()),
            },
            "write" => Op::Write {
                addr: number(next()),
                len: number(next()),
                seed: number(next()) as u8,
            },
            "touch" => Op::Touch {
                addr: number(next()),
                len: number(next()),
                access: match next() {
                    Some("r") => Access::Read,
                    Some("w") => Access::Write,
                    Some("x") => Access::Exec,
                    other => panic!("not an access: {other:?}"),
                },
                seed: number(next()) as u8,
            },
            other => panic!("not an operation: {other}"),
        })
    };
    text.lines()
        .filter_map(|text| line(text.split('#').next().unwrap_or("")))
        .collect()
}

/// The scripts that are kept, by name.
pub fn kept_scripts() -> Vec<(String, Vec<Op>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/scripts");
    let entries = std::fs::read_dir(dir).expect("the directory can be read");
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a script can be read");
            let ops = parse(&text);
            assert_eq!(parse(&script(&ops)), ops, "scripts are read as written");
            (path.display().to_string(), ops)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// The same operations in a window that lies `by` further on.
pub fn moved(ops: &[Op], by: u64) -> Vec<Op> {
    let shift = |addr: &mut u64| {
        if (WINDOW..WINDOW + PAGES * PAGE).contains(addr) {
            *addr += by;
        }
    };
    let mut ops = ops.to_vec();
    for op in &mut ops {
        match op {
            Op::Mremap { old, new, .. } => {
                shift(old);
                shift(new);
            }
            Op::Mmap { hint: addr, .. }
            | Op::Munmap { addr, .. }
            | Op::Mprotect { addr, .. }
            | Op::Madvise { addr, .. }
            | Op::Brk { to: addr }
            | Op::Read { addr, .. }
            | Op::Write { addr, .. }
            | Op::Touch { addr, .. } => shift(addr),
        }
    }
    ops
}

/// Whether the kernel cuts the areas that the range touches as the naive model does.
fn cut_alike(raw: &[Area], naive: &Naive, start: u64, end: u64) -> bool {
    let touching = |area: &&Area| area.start < end.max(start + 1) && area.end > start;
    let ends = |area: &Area| (area.start, area.end);
    let cuts = naive.raw_areas();
    raw.iter()
        .filter(touching)
        .map(ends)
        .eq(cuts.iter().filter(touching).map(ends))
}

/// Whether the result depends on what only the kernel knows.
fn is_open(raw: &[Area], naive: &Naive, op: &Op) -> bool {
    match *op {
        Op::Mremap {
            old,
            old_len,
            new_len,
            flags,
            ..
        } => {
            if flags & MREMAP_DONTUNMAP == 0 && naive.at(old).is_none() {
                return false;
            }
            !cut_alike(raw, naive, old, old.saturating_add(old_len.max(new_len)))
        }
        Op::Mprotect { addr, len, prot } if prot & PROT_GROWSDOWN != 0 => {
            !cut_alike(raw, naive, addr, addr.saturating_add(len))
        }
        // A locked area is faulted in until its first problem.
        Op::Mprotect { addr, len, .. } => {
            let range = naive.range(addr, addr.saturating_add(len));
            let locked = naive.pages[range]
                .iter()
                .flatten()
                .any(|page| page.traits.has(Traits::LOCKED) && page.from != From::Zero);
            locked && !cut_alike(raw, naive, addr, addr.saturating_add(len))
        }
        _ => false,
    }
}

fn same_answer(naive: &Naive, op: &Op, theirs: &Answer, ours: &Answer) -> bool {
    if theirs == ours {
        return true;
    }
    // Neighbours in shared memory and files may be present without an access.
    if let (Answer::Fault(a), Answer::Fault(b), Op::Touch { .. }) = (theirs, ours, op)
        && let Some(page) = naive.at(b.addr)
    {
        let mut a = *a;
        a.error &= !1;
        return page.from != From::Zero && !page.own && a == *b;
    }
    false
}

/// Does one operation on both and compares everything. `None` if it was skipped.
pub fn step<S: System>(
    system: &mut S,
    naive: &mut Naive,
    op: &Op,
    full: bool,
) -> Result<Option<Answer>, String> {
    if let Op::Touch {
        addr,
        access: Access::Exec,
        ..
    } = *op
        && naive.would_execute(addr)
    {
        return Ok(None);
    }
    if let Some(raw) = system.unmerged()
        && is_open(&raw, naive, op)
    {
        return Ok(None);
    }
    let theirs = system.apply(op);
    let ours = naive.apply(op);
    if !same_answer(naive, op, &theirs, &ours) {
        return Err(format!("answered {theirs:?}, expected {ours:?}"));
    }
    if full {
        compare(system, naive)?;
    }
    Ok(Some(theirs))
}

/// Compares areas, presence, guards and contents.
pub fn compare<S: System>(system: &mut S, naive: &mut Naive) -> Result<(), String> {
    system.look();
    let (theirs, ours) = (system.areas(), naive.areas());
    if theirs != ours {
        return Err(format!("areas {theirs:#?}, expected {ours:#?}"));
    }
    if let Some(cuts) = system.cuts() {
        let visible = Traits(u16::MAX).without(Traits::HEAP);
        let theirs = with_traits(cuts, visible);
        let ours = with_traits(naive.raw_areas(), visible);
        if theirs != ours {
            return Err(format!("traits {theirs:#?}, expected {ours:#?}"));
        }
    }
    let around = system.faults_around();
    for index in 0..naive.pages.len() {
        let addr = naive.addr(index);
        let theirs = system.page(addr);
        let mut ours = naive.view(addr);
        let Some(page) = &naive.pages[index] else {
            if theirs != ours {
                return Err(format!("{addr:#x}: {theirs:?}, expected {ours:?}"));
            }
            continue;
        };
        if page.guard && !naive.quirks.guard_visible {
            continue;
        }
        if page.lazy && !theirs.present {
            naive.was_dropped(addr);
            continue;
        }
        if around && page.from != From::Zero && !page.own && !page.guard {
            ours.present |= theirs.present;
        }
        if theirs != ours {
            return Err(format!(
                "{addr:#x}: {theirs:?}, expected {ours:?} of {page:?}"
            ));
        }
        let readable = page.rights.allows(Access::Read)
            && (naive.quirks.exec_reads || page.rights.bits() & 3 != 0);
        if ours.present && readable {
            let expected = naive
                .contents(page)
                .ok_or_else(|| format!("{addr:#x} is present beyond the end of its object"))?;
            let found = system.peek(addr);
            if found != expected {
                return Err(format!(
                    "{addr:#x} holds {found:x?}, expected {expected:x?}"
                ));
            }
        }
    }
    Ok(())
}

/// How often a system checks itself, in operations.
const CHECKED: u64 = 1000;

/// Runs a script; what is wrong, and after how many operations.
pub fn replay<S: System>(
    system: &mut S,
    naive: &mut Naive,
    ops: &[Op],
    tally: &mut Tally,
) -> Result<(), (usize, String)> {
    system.look();
    for (i, op) in ops.iter().enumerate() {
        match step(system, naive, op, true) {
            Ok(Some(answer)) => tally.count(op, &answer),
            Ok(None) => tally.skipped += 1,
            Err(why) => return Err((i + 1, why)),
        }
    }
    system.check().map_err(|why| (ops.len(), why))
}

/// Leaves out operations as long as the rest still fails.
pub fn shrink(mut ops: Vec<Op>, fails: impl Fn(&[Op]) -> Option<usize>) -> Vec<Op> {
    let mut size = ops.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < ops.len() {
            let end = (at + size).min(ops.len());
            let fewer: Vec<Op> = ops[..at].iter().chain(&ops[end..]).copied().collect();
            match fails(&fewer) {
                Some(len) => ops = fewer[..len].to_vec(),
                None => at = end,
            }
        }
        size /= 2;
    }
    ops
}

/// Random operations from a seed on a new system and a new model, everything compared after
/// every `every` operations, answers after each.
///
/// # Panics
/// At the first difference, with a script that shows it.
pub fn random<S: System>(
    seed: u64,
    count: u64,
    every: u64,
    make: impl Fn() -> (S, Naive),
    tally: &mut Tally,
) {
    random_of(seed, count, every, make, tally, Generator::op);
}

/// As [`random`], with operations of another kind.
pub fn random_of<S: System>(
    seed: u64,
    count: u64,
    every: u64,
    make: impl Fn() -> (S, Naive),
    tally: &mut Tally,
    next: impl Fn(&mut Generator, &Naive) -> Op,
) {
    let (mut system, mut naive) = make();
    let mut generator = Generator::new(seed);
    let mut ops = Vec::with_capacity(count as usize);
    system.look();
    for i in 1..=count {
        let op = next(&mut generator, &naive);
        ops.push(op);
        let mut done = step(&mut system, &mut naive, &op, i % every == 0);
        if i % CHECKED == 0
            && done.is_ok()
            && let Err(why) = system.check()
        {
            done = Err(why);
        }
        match done {
            Ok(Some(answer)) => tally.count(&op, &answer),
            Ok(None) => tally.skipped += 1,
            Err(why) => {
                drop(system);
                report(seed, ops, &why, make);
            }
        }
    }
}

fn report<S: System>(seed: u64, ops: Vec<Op>, why: &str, make: impl Fn() -> (S, Naive)) -> ! {
    let run = |ops: &[Op]| {
        let (mut system, mut naive) = make();
        replay(&mut system, &mut naive, ops, &mut Tally::default()).err()
    };
    let number = ops.len();
    // The same kind of difference, by the first word.
    let kind = |why: &str| why.split([':', ' ']).next().map(str::to_owned);
    let last = ops[number - 1];
    let small = shrink(ops, |ops| {
        let (len, other) = run(ops)?;
        (kind(&other) == kind(why)).then_some(len)
    });
    let small_why = run(&small).map_or("nothing when it is replayed".into(), |(_, why)| why);
    panic!(
        "seed {seed}, operation {number}, {last:?}: {why}\n\nas a script (put it into \
         tests/kernel/scripts):\n{}# {small_why}\n",
        script(&small)
    );
}
