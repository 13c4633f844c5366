//! Several address spaces of one machine: forks, switches, pages thrown out to swap. Scripts of
//! that, for fuzzing.
//!
//! A script begins with the machine it is for. On a *watched* one there is memory enough, every
//! space has its naive model, and both answer alike. A *poor* one has as few frames, nodes and
//! swap slots as its head says, its operations may have any numbers, and it checks itself.
//!
//! ```text
//! watched 900 clock tagged          swap slots, who is thrown out, how the TLB tells spaces apart
//! mmap 0x100000000000 0x3000 0x3 0x32 none 0x0
//! write 0x100000000000 8 7
//! fork                              the child is the last space of the list
//! switch 1
//! page_out 0x100000000000
//! ```

use super::drive::{self, script};
use super::fast::{Fast, Size};
use super::naive::Naive;
use super::quirks::Quirks;
use super::{Answer, Op, PAGES, System, WINDOW, written};
use fencepost::mmu::addr::{Access, Mode, ObjectId, PAGE, VirtAddr};
use fencepost::mmu::area::Errno;
use fencepost::mmu::area::linux::MAP_FIXED;
use fencepost::mmu::area::{Limits, Overcommit, Traits};
use fencepost::mmu::entry::Entry;
use fencepost::mmu::replace::Kind;
use std::fmt;
use std::str::FromStr;

/// How many spaces there may be.
pub const SPACES: usize = 4;
/// Where the break of a machine begins.
pub const BREAK: u64 = WINDOW + (1 << 41);

/// What a space can be limited in, with its name.
pub const BOUNDS: [&str; 5] = ["space", "data", "locked", "areas", "memory"];

/// One line of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The current space does it.
    Op(Op),
    /// The current space has a child.
    Fork,
    /// Another space is current, by its place modulo their number.
    Switch(usize),
    /// The current space ends; not the last one.
    Exit,
    /// The page of the current space goes.
    PageOut(u64),
    /// Any page goes.
    Reclaim,
    /// Locks or unlocks a range.
    Lock(bool, u64, u64),
    /// The current space may have so much more of one of [`BOUNDS`], and as much as it wants of
    /// the others.
    Limit(usize, u64),
}

/// A machine and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Whether it is watched.
    pub watched: bool,
    /// Frames; of a watched machine as many as it takes.
    pub frames: usize,
    /// Nodes for areas; as above.
    pub nodes: usize,
    pub swap: usize,
    pub replacement: Kind,
    pub tagged: bool,
    pub steps: Vec<Step>,
}

const KINDS: [(&str, Kind); 4] = [
    ("fifo", Kind::Fifo),
    ("lru", Kind::Lru),
    ("clock", Kind::Clock),
    ("random", Kind::Random(1)),
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Op(op) => write!(f, "{}", script(&[op]).trim_end()),
            Step::Fork => write!(f, "fork"),
            Step::Switch(to) => write!(f, "switch {to}"),
            Step::Exit => write!(f, "exit"),
            Step::PageOut(addr) => write!(f, "page_out {addr:#x}"),
            Step::Reclaim => write!(f, "reclaim"),
            Step::Lock(true, addr, len) => write!(f, "mlock {addr:#x} {len:#x}"),
            Step::Lock(false, addr, len) => write!(f, "munlock {addr:#x} {len:#x}"),
            Step::Limit(what, more) => write!(f, "limit {} {more:#x}", BOUNDS[what]),
        }
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = KINDS.iter().find(|(_, kind)| *kind == self.replacement);
        let kind = kind.map_or("random", |(name, _)| name);
        if self.watched {
            write!(f, "watched {} {kind}", self.swap)?;
        } else {
            write!(
                f,
                "poor {} {} {} {kind}",
                self.frames, self.nodes, self.swap
            )?;
        }
        writeln!(f, "{}", if self.tagged { " tagged" } else { "" })?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

fn number(word: Option<&&str>) -> Result<u64, String> {
    let word = word.ok_or("a number is missing")?;
    let digits = word.strip_prefix("0x");
    digits
        .map_or_else(|| word.parse(), |hex| u64::from_str_radix(hex, 16))
        .map_err(|e| format!("{word}: {e}"))
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Step, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        Ok(match words[..] {
            ["fork"] => Step::Fork,
            ["switch", ..] => Step::Switch(number(words.get(1))? as usize),
            ["exit"] => Step::Exit,
            ["page_out", ..] => Step::PageOut(number(words.get(1))?),
            ["reclaim"] => Step::Reclaim,
            [lock @ ("mlock" | "munlock"), ..] => {
                let (addr, len) = (number(words.get(1))?, number(words.get(2))?);
                Step::Lock(lock == "mlock", addr, len)
            }
            ["limit", what, ..] => {
                let what = BOUNDS.iter().position(|name| *name == what);
                Step::Limit(what.ok_or("no such limit")?, number(words.get(2))?)
            }
            _ => match drive::parse(line)[..] {
                [op] => Step::Op(op),
                _ => return Err(format!("not one operation: {line}")),
            },
        })
    }
}

impl FromStr for Script {
    type Err = String;

    /// Words that are no operations are a panic, as for the scripts of one space.
    fn from_str(text: &str) -> Result<Script, String> {
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or("").trim());
        let mut lines = lines.filter(|line| !line.is_empty());
        let head: Vec<&str> = lines.next().unwrap_or("").split_whitespace().collect();
        let (tagged, head) = match &head[..] {
            [head @ .., "tagged"] => (true, head),
            head => (false, head),
        };
        let (watched, numbers, kind) = match head {
            ["watched", numbers @ .., kind] if numbers.len() == 1 => (true, numbers, kind),
            ["poor", numbers @ .., kind] if numbers.len() == 3 => (false, numbers, kind),
            _ => return Err(format!("no machine: {head:?}")),
        };
        let kind = KINDS.iter().find(|(name, _)| name == kind);
        let mut all = [Size::WINDOW.frames, Size::WINDOW.nodes, 0];
        for (place, word) in all.iter_mut().rev().zip(numbers.iter().rev()) {
            *place = number(Some(word))? as usize;
        }
        Ok(Script {
            watched,
            frames: all[0],
            nodes: all[1],
            swap: all[2],
            replacement: kind.ok_or("no such replacement")?.1,
            tagged,
            steps: lines.map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

/// Scripts that are kept, by name.
pub fn kept_scripts() -> Vec<(String, Script)> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/crowds");
    let entries = std::fs::read_dir(dir).expect("the directory can be read");
    let mut all: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("a script can be read");
            let script: Script = text.parse().expect("a script");
            assert_eq!(script.to_string().parse().as_ref(), Ok(&script));
            (path.display().to_string(), script)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

/// Spaces of one machine, with their models if they are watched.
struct Crowd {
    all: Vec<(Fast, Option<Naive>)>,
    now: usize,
    /// Pages were thrown out: what is present is not compared any more.
    pressed: bool,
}

/// Carries a script out; what is wrong, and in which line of it. `before` is called before each
/// step, with the machine.
pub fn run(script: &Script, mut before: impl FnMut(&Fast, &Step)) -> Result<(), (usize, String)> {
    let size = Size {
        frames: script.frames,
        nodes: script.nodes,
        contents: true,
        swap: script.swap,
        replacement: script.replacement,
        tagged: script.tagged,
    };
    let fast = Fast::new(WINDOW, BREAK, size);
    let naive = script
        .watched
        .then(|| Naive::new(WINDOW, PAGES, Quirks::ALL));
    let mut crowd = Crowd {
        all: vec![(fast, naive)],
        now: 0,
        pressed: false,
    };
    for (line, step) in script.steps.iter().enumerate() {
        before(&crowd.all[crowd.now].0, step);
        let done = crowd.step(step).and_then(|()| {
            if line % 8 == 0 || line + 1 == script.steps.len() {
                crowd.look()
            } else {
                Ok(())
            }
        });
        done.map_err(|why| (line + 1, why))?;
    }
    Ok(())
}

impl Crowd {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let room = self.all.len() < SPACES;
        let (fast, naive) = &mut self.all[self.now];
        match *step {
            Step::Op(op) => match naive {
                Some(naive) => {
                    together(fast, naive, &op, self.pressed)?;
                    if self.pressed {
                        // Lazily free pages that are on swap have no contents any more.
                        drop_lazy(fast, naive);
                    } else {
                        drive::compare(fast, naive)?;
                    }
                }
                None => alone(fast, &op)?,
            },
            Step::Fork => {
                if !room {
                    return Ok(());
                }
                match fast.try_fork() {
                    Ok(mut child) => {
                        let mut young = naive.as_ref().map(Naive::fork);
                        if let Some(naive) = &mut young {
                            adopt(&mut child, naive);
                        }
                        self.all.push((child, young));
                    }
                    Err(why) if naive.is_some() => return Err(format!("no child: {why:?}")),
                    Err(_) => {}
                }
            }
            Step::Switch(to) => self.now = to % self.all.len(),
            Step::Exit => {
                if self.all.len() > 1 {
                    let (gone, _) = self.all.remove(self.now);
                    gone.on(|machine, space| machine.exit(space));
                    self.now = 0;
                }
            }
            Step::PageOut(addr) => {
                fast.on(|machine, space| machine.page_out(space, addr));
                self.after_pressure();
            }
            Step::Reclaim => {
                fast.on(|machine, _| machine.reclaim());
                self.after_pressure();
            }
            // The naive model knows neither.
            Step::Lock(..) | Step::Limit(..) if naive.is_some() => {}
            Step::Lock(lock, addr, len) => {
                let _ = fast.on(|machine, _| {
                    if lock {
                        machine.mlock(addr, len)
                    } else {
                        machine.munlock(addr, len)
                    }
                });
            }
            Step::Limit(what, more) => limit(fast, what, more),
        }
        Ok(())
    }

    /// What might be dropped may have been.
    fn after_pressure(&mut self) {
        self.pressed = true;
        for (fast, naive) in &mut self.all {
            if let Some(naive) = naive {
                drop_lazy(fast, naive);
            }
        }
    }

    /// Looks at everything.
    fn look(&mut self) -> Result<(), String> {
        for (place, (fast, naive)) in self.all.iter_mut().enumerate() {
            let Some(naive) = naive else { continue };
            let same = if self.pressed {
                roughly(fast, naive)
            } else {
                drive::compare(fast, naive)
            };
            same.map_err(|why| format!("space {place}: {why}"))?;
        }
        self.all[self.now].0.check()
    }
}

/// What the machine dropped of what it might.
fn drop_lazy(fast: &Fast, naive: &mut Naive) {
    for index in 0..naive.pages.len() {
        let addr = naive.addr(index);
        if naive.pages[index].is_some_and(|page| page.lazy)
            && fast.on(|machine, _| {
                let step = machine.walk(VirtAddr::new(addr), |_| {});
                step.is_none_or(|step| step.entry == Entry::EMPTY)
            })
        {
            naive.was_dropped(addr);
        }
    }
}

/// The child's pages of shared memory are left to be faulted in.
fn adopt(child: &mut Fast, naive: &mut Naive) {
    for index in 0..naive.pages.len() {
        let there = child.page(naive.addr(index)).present;
        if let Some(page) = &mut naive.pages[index]
            && !page.own
        {
            page.present &= there;
        }
    }
}

/// One operation on both.
fn together(fast: &mut Fast, naive: &mut Naive, op: &Op, pressed: bool) -> Result<(), String> {
    if !pressed {
        return drive::step(fast, naive, op, false).map(|_| ());
    }
    if let Op::Touch {
        addr,
        access: Access::Exec,
        ..
    } = *op
        && naive.would_execute(addr)
    {
        return Ok(());
    }
    let (theirs, ours) = (fast.apply(op), naive.apply(op));
    let same = match (theirs, ours) {
        // Whether the page is present is not known.
        (Answer::Fault(mut a), Answer::Fault(mut b)) => {
            a.error &= !1;
            b.error &= !1;
            a == b
        }
        (theirs, ours) => theirs == ours,
    };
    if same {
        return Ok(());
    }
    Err(format!("answered {theirs:?}, expected {ours:?}"))
}

/// Compares areas, guards, and contents of what is in memory.
fn roughly(fast: &mut Fast, naive: &Naive) -> Result<(), String> {
    let visible = Traits(u16::MAX).without(Traits::HEAP);
    let cuts = fast.cuts().unwrap_or_default();
    let theirs = super::with_traits(cuts, visible);
    let ours = super::with_traits(naive.raw_areas(), visible);
    if theirs != ours {
        return Err(format!("traits {theirs:#?}, expected {ours:#?}"));
    }
    for index in 0..naive.pages.len() {
        let addr = naive.addr(index);
        let theirs = fast.page(addr);
        let Some(page) = &naive.pages[index] else {
            if theirs.present || theirs.guard {
                return Err(format!("{addr:#x}: {theirs:?}, expected nothing"));
            }
            continue;
        };
        if theirs.guard != page.guard || theirs.present && page.guard {
            return Err(format!("{addr:#x}: {theirs:?}, expected {page:?}"));
        }
        if theirs.present && page.rights.allows(Access::Read) {
            let (found, expected) = (fast.peek(addr), naive.contents(page));
            if Some(found) != expected {
                return Err(format!("{addr:#x} holds {found:x?}, not {expected:x?}"));
            }
        }
    }
    Ok(())
}

fn limit(fast: &Fast, what: usize, more: u64) {
    fast.on(|machine, id| {
        let space = machine.space_mut(id).expect("it exists");
        let (has, areas) = (space.totals(), space.len());
        let sum = |used: u64| used.saturating_add(more);
        let limits = &mut space.limits;
        *limits = Limits::NONE;
        match what {
            0 => limits.address_space = sum(has.size),
            1 => limits.data = sum(has.data),
            2 => limits.locked = sum(has.locked),
            3 => limits.areas = areas.saturating_add(more as usize),
            _ => {
                limits.overcommit = Overcommit::Never;
                limits.memory = sum(has.committed).saturating_mul(2);
            }
        }
    });
}

/// One operation on a machine that has no model: what must be true whatever the numbers are.
fn alone(fast: &mut Fast, op: &Op) -> Result<(), String> {
    let before = fast.cuts();
    let file = |file: Option<usize>| -> Option<ObjectId> { fast.file(file?) };
    let refused: Option<Errno> = match *op {
        Op::Mmap {
            hint,
            len,
            prot,
            flags,
            file: number,
            offset,
        } => {
            let object = file(number);
            let done = fast.on(|m, _| m.mmap(hint, len, prot, flags, object, offset));
            if let Ok(at) = done
                && (at % PAGE != 0 || !mapped(fast, at, at.wrapping_add(len)))
            {
                return Err(format!("mmap answered {at:#x}"));
            }
            // What was there may be gone by then.
            done.err().filter(|_| flags & MAP_FIXED == 0)
        }
        Op::Munmap { addr, len } => {
            let done = fast.on(|m, _| m.munmap(addr, len));
            let end = addr.wrapping_add(len);
            if done.is_ok() && before.is_some() {
                let left = fast.cuts().unwrap_or_default();
                if left.iter().any(|area| area.start < end && area.end > addr) {
                    return Err("something is left".into());
                }
            }
            done.err()
        }
        Op::Mprotect { addr, len, prot } => {
            let _ = fast.on(|m, _| m.mprotect(addr, len, prot));
            None
        }
        Op::Madvise { addr, len, advice } => {
            let _ = fast.on(|m, _| m.madvise(addr, len, advice));
            None
        }
        Op::Mremap {
            old,
            old_len,
            new_len,
            flags,
            new,
        } => {
            let done = fast.on(|m, _| m.mremap(old, old_len, new_len, flags, new));
            if let Ok(at) = done
                // A range that shrinks or stays may have holes.
                && new_len > old_len
                && !mapped(fast, at, at.wrapping_add(new_len))
            {
                return Err(format!("mremap answered {at:#x}"));
            }
            None
        }
        Op::Brk { to } => {
            let was = fast.brk(0);
            let now = fast.brk(to);
            if now != was && now != to {
                return Err(format!("the break is {now:#x}"));
            }
            None
        }
        Op::Read { addr, len } => {
            let mut bytes = [0; 16];
            let _ = fast.read(addr, &mut bytes[..len.min(16) as usize]);
            None
        }
        Op::Write { addr, len, seed } => {
            let bytes: [u8; 16] = std::array::from_fn(|i| written(seed, i as u64));
            let done = fast.write(addr, &bytes[..len.min(16) as usize]);
            let mut again = [0; 16];
            if let Ok(n) = done
                && let Ok(m) = fast.read(addr, &mut again[..n as usize])
                && again[..m as usize] != bytes[..m as usize]
            {
                return Err(format!("wrote {bytes:x?}, read {again:x?}"));
            }
            None
        }
        Op::Touch {
            addr,
            len,
            access,
            seed,
        } => {
            touch(fast, addr, len.min(16) as usize, access, seed)?;
            None
        }
    };
    if refused.is_some() && fast.cuts() != before {
        return Err(format!("refused with {refused:?}, yet areas changed"));
    }
    Ok(())
}

fn mapped(fast: &mut Fast, start: u64, end: u64) -> bool {
    let mut at = start;
    for area in fast.cuts().unwrap_or_default() {
        if area.start <= at && at < area.end {
            at = area.end;
        }
    }
    at >= end && end > start
}

fn touch(fast: &Fast, addr: u64, len: usize, access: Access, seed: u8) -> Result<(), String> {
    let va = VirtAddr::new(addr);
    let bytes: [u8; 16] = std::array::from_fn(|i| written(seed, i as u64));
    fast.on(|machine, _| {
        let done = machine.access(va, len as u64, access, Mode::User);
        let mut again = [0; 16];
        match access {
            Access::Write => {
                let stored = machine.write(va, &bytes[..len], Mode::User);
                if stored.is_ok()
                    && machine.read(va, &mut again[..len], Mode::User).is_ok()
                    && again[..len] != bytes[..len]
                {
                    return Err(format!("stored {bytes:x?}, loaded {again:x?}"));
                }
            }
            Access::Read => {
                let _ = machine.read(va, &mut again[..len], Mode::User);
            }
            Access::Exec => {}
        }
        match done {
            Err(fault) if fault.addr.raw() < addr => Err(format!("{fault:?} before {addr:#x}")),
            _ => Ok(()),
        }
    })
}
