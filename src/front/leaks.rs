//! Blocks that nothing leads to any more, in the running process.
//!
//! Every other thread is held still ([`World`]), every guarded object in use becomes a [`Block`],
//! and the search begins at the roots:
//!
//! | root | where it is read |
//! |---|---|
//! | registers | the frame that the kernel made for the signal; the caller's own by instruction |
//! | stacks | from the stack pointer up; all of it where a thread did not stop |
//! | statics, thread-local data, mappings, memory of another malloc | every private page that was ever written to, and shared memory |
//! | heap blocks that are not guarded | pages that our account calls in use |
//!
//! No root are: the pool itself, our own records, free pages of the heaps, what lies below a stack
//! pointer, and stacks whose threads have ended (the C library keeps them for the next thread). A
//! stack is known by the guard below it; where there is none all of it is a root. Memory that
//! cannot be read (no access, another device's) is no root either: a program that takes the access
//! away from what it keeps pointers in will see them reported.
#![allow(unsafe_code)] // Names of functions come from the dynamic linker.

use super::account::Account;
use super::guarding::{GUARD, guards_all};
use super::modules::Snapshot;
use super::process::{KERNEL, SETTINGS, SHARED, enter, is_started};
use crate::config::{Key, Text};
use crate::guard::scene::Names;
use crate::guard::{Block, FRAMES, Group, Search, Sum, json, text};
use crate::mmu::addr::Rights;
use crate::os::signals::{process_id, thread_id};
use crate::os::stop::{DESCRIPTOR, Own, RED_ZONE, World, own_registers, thread_pointer};
use crate::os::{Area, Os, OsError, PageState, PageVec, Reader, Sink, each_area};
use crate::report::Line;
use crate::sync::overlay::{AtomicUsize, Ordering};

/// What a search for leaks found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leaks {
    /// Blocks that nothing leads to, without those suppressed.
    pub lost: Sum,
    /// Blocks that something leads to.
    pub reachable: Sum,
    /// Lost blocks that `FENCEPOST_GUARD_SUPPRESS` names.
    pub suppressed: Sum,
    /// Whether every allocation of the process is guarded; otherwise only some were looked at.
    pub complete: bool,
    /// Threads that did not stop, so that what only their registers hold counts as lost.
    pub silent: usize,
}

/// Groups that are told as text; the others are counted.
const TOLD: usize = 100;

/// The thread pointers of threads that have ended, newest over oldest.
static ENDED: [AtomicUsize; 1024] = [const { AtomicUsize::new(0) }; 1024];
static ENDED_COUNT: AtomicUsize = AtomicUsize::new(0);

/// The calling thread ends: what its stack holds leads nowhere any more.
pub(super) fn thread_ends() {
    // The first thread's data do not lie on its stack.
    if SETTINGS.get(Key::Guard) == 0 || thread_id() == process_id() {
        return;
    }
    let pointer = thread_pointer();
    if pointer != 0 {
        let number = ENDED_COUNT.fetch_add(1, Ordering::Relaxed);
        if let Some(slot) = ENDED.get(number % ENDED.len()) {
            slot.store(pointer, Ordering::Relaxed);
        }
    }
}

/// Searches for leaks, and if `tell`, reports what is lost: as text on standard error and as JSON
/// in the file that `FENCEPOST_GUARD_REPORT` names. Other threads stand still meanwhile; system
/// calls of theirs may fail with EINTR.
///
/// # Errors
/// If nothing is guarded (`ENOSYS`), the kernel does not let us look (its error), somebody else
/// searches at this moment (`EBUSY`), or there is no memory.
#[inline(never)]
pub fn leaks(tell: bool) -> Result<Leaks, OsError> {
    // Before anything else is done with registers: from here up the stack is the program's.
    look(&own_registers(), tell)
}

/// What a preloaded or guarded process reports when it exits.
pub(super) fn exit_leaks(here: &Own) {
    let wanted = if SETTINGS.is_set(Key::GuardLeaks) {
        SETTINGS.get(Key::GuardLeaks) != 0
    } else {
        guards_all()
    };
    if is_started()
        && wanted
        && SETTINGS.get(Key::Guard) != 0
        && let Err(error) = look(here, true)
    {
        cannot(error);
    }
}

/// Says that the search could not be done.
fn cannot(error: OsError) {
    // Nothing was ever guarded.
    if error == OsError(libc::ENOSYS) {
        return;
    }
    let mut line = Line::new();
    line.text("fencepost: leaks: cannot be looked for (errno ");
    line.decimal(error.0.unsigned_abs().into())
        .text(")")
        .write_to(2);
}

/// Searches, reports, and returns how many blocks are lost; -1 if that cannot be told.
pub fn print_leaks() -> i32 {
    match leaks(true) {
        Ok(leaks) => i32::try_from(leaks.lost.blocks).unwrap_or(i32::MAX),
        Err(error) => {
            cannot(error);
            -1
        }
    }
}

/// From `here` up the stack is the program's, and so are the registers.
#[inline(never)]
fn look(here: &Own, tell: bool) -> Result<Leaks, OsError> {
    let (kept, sp) = here;
    enter();
    GUARD.enter(SHARED.generation());
    if GUARD.range().1 == 0 {
        return Err(OsError(libc::ENOSYS));
    }
    let mut search = Search::new(Account);
    let silent = mark(&mut search, *sp, kept);
    let result = silent.and_then(|silent| report(&mut search, silent, tell));
    search.end();
    result
}

/// Fills the search and follows the roots. How many threads did not stop.
fn mark(search: &mut Search<Account>, sp: usize, kept: &[usize]) -> Result<usize, OsError> {
    let mut reader = Reader::new(Account)?;
    let world = World::stop(Account)?;
    let mut failed = Ok(());
    GUARD.each(|_, record| {
        if record.is_live() && failed.is_ok() {
            failed = search.add(Block::of(&record));
        }
    });
    failed?;
    search.start();
    let mut areas = PageVec::<Area, 1>::new(Area::NONE);
    let mut stacks = PageVec::<usize, 1>::new(0);
    let result = collect(&world, &mut areas, &mut stacks, sp).map(|()| {
        let roots = Roots {
            areas: areas.as_slice(&Account),
            stacks: stacks.as_slice(&Account),
            all_stopped: world.silent().next().is_none(),
        };
        for &word in kept {
            search.word(word);
        }
        for registers in world.registers() {
            for (from, to) in [registers.general, registers.vector] {
                reader.words(from, to, false, &mut |word| search.word(word));
            }
        }
        roots.follow(&mut reader, search);
        while let Some(block) = search.take() {
            reader.words(block.start, block.end, false, &mut |word| search.word(word));
        }
        world.silent().count()
    });
    areas.release(&Account);
    stacks.release(&Account);
    result
}

/// Lists the areas and the stack pointers.
fn collect(
    world: &World<Account>,
    areas: &mut PageVec<Area, 1>,
    stacks: &mut PageVec<usize, 1>,
    sp: usize,
) -> Result<(), OsError> {
    stacks.add(&Account, sp)?;
    for registers in world.registers() {
        stacks.add(&Account, registers.sp.saturating_sub(RED_ZONE))?;
    }
    each_area(|area| areas.add(&Account, area))
}

struct Roots<'r> {
    areas: &'r [Area],
    /// Where the parts of stacks begin that are in use.
    stacks: &'r [usize],
    /// Whether those are all there are.
    all_stopped: bool,
}

impl Roots<'_> {
    fn follow(&self, reader: &mut Reader<Account>, search: &mut Search<Account>) {
        let mut below: Option<&Area> = None;
        for area in self.areas {
            let readable = area.rights.holds(Rights::READ);
            if readable && (!area.shared || area.shared_memory) {
                let (from, to) = self.in_use(area, below, reader);
                let (pool, len) = GUARD.range();
                let private = !area.shared;
                self.range(from, to.min(pool), private, reader, search);
                self.range(from.max(pool + len), to, private, reader, search);
            }
            below = Some(area);
        }
    }

    /// The part of an area that is in use. A stack grows downwards from its end; of one whose
    /// thread has ended the C library keeps its own description of the thread for the next.
    fn in_use(
        &self,
        area: &Area,
        below: Option<&Area>,
        reader: &mut Reader<Account>,
    ) -> (usize, usize) {
        let inside = |sp: &usize| *sp >= area.start && *sp < area.end;
        let sp = self.stacks.iter().copied().filter(inside).min();
        let guarded = || below.is_some_and(|b| b.end == area.start && b.rights == Rights::NONE);
        let is_stack = area.stack
            || (!area.file && !area.shared && (guarded() || reader.is_guard(area.start)));
        match (sp, ended_in(area)) {
            (Some(sp), _) if is_stack => (sp, area.end),
            (None, Some(thread)) if is_stack && !area.stack && self.all_stopped => {
                let (before, behind) = DESCRIPTOR;
                (
                    thread.saturating_sub(before).max(area.start),
                    thread.saturating_add(behind).min(area.end),
                )
            }
            _ => (area.start, area.end),
        }
    }

    /// The part of a range that is not our own, or is in use.
    fn range(
        &self,
        from: usize,
        to: usize,
        private: bool,
        reader: &mut Reader<Account>,
        search: &mut Search<Account>,
    ) {
        let mut at = from;
        while at < to {
            let (state, end) = KERNEL.run(at, to);
            let holds_pointers = matches!(
                state,
                PageState::None | PageState::Live | PageState::Populated | PageState::Unknown
            );
            if holds_pointers {
                reader.words(at, end, private, &mut |word| search.word(word));
            }
            if end <= at {
                return;
            }
            at = end;
        }
    }
}

/// The thread pointer of a thread that has ended and whose stack this was.
fn ended_in(area: &Area) -> Option<usize> {
    let pointers = ENDED.iter().map(|slot| slot.load(Ordering::Relaxed));
    let mut inside = pointers.filter(|p| *p >= area.start && *p < area.end);
    inside.next()
}

/// Groups what is lost, and tells it.
fn report(search: &mut Search<Account>, silent: usize, tell: bool) -> Result<Leaks, OsError> {
    let (lost, reachable) = search.sums();
    let totals = GUARD.totals();
    let mut leaks = Leaks {
        lost,
        reachable,
        suppressed: Sum::default(),
        complete: guards_all() && totals.refused == 0,
        silent,
    };
    if lost.blocks == 0 {
        return Ok(leaks);
    }
    let mut groups = search.groups()?;
    let snapshot = Snapshot::take();
    let sink = tell.then(open_report).flatten();
    let mut teller = Teller {
        snapshot: snapshot.as_ref(),
        // What cannot be filed is told at least.
        text: tell && (SETTINGS.get(Key::GuardText) != 0 || sink.is_none()),
        sink,
        told: 0,
        complete: leaks.complete,
    };
    for group in groups.as_slice(&Account) {
        if teller.is_suppressed(group) {
            leaks.suppressed.add(group.blocks, group.bytes);
            leaks.lost.blocks -= group.blocks;
            leaks.lost.bytes -= group.bytes;
        } else if tell {
            teller.group(group);
        }
    }
    groups.release(&Account);
    if tell && leaks.lost.blocks != 0 {
        teller.sums(&leaks);
    }
    if let Some(sink) = teller.sink {
        sink.close();
    }
    Ok(leaks)
}

fn open_report() -> Option<Sink> {
    let path = SETTINGS.text(Text::GuardReport);
    if path.is_empty() {
        return None;
    }
    Sink::open(path, true).ok()
}

/// Bytes that a line of JSON is built in, and a line of text.
const JSON: usize = 8 << 10;
const TEXT: usize = 1024;

struct Teller<'s> {
    snapshot: Option<&'s Snapshot>,
    sink: Option<Sink>,
    text: bool,
    /// Groups told as text.
    told: usize,
    complete: bool,
}

impl Teller<'_> {
    fn is_suppressed(&self, group: &Group) -> bool {
        let patterns = SETTINGS.text(Text::GuardSuppress);
        if patterns.is_empty() {
            return false;
        }
        let mut frames = [0; FRAMES];
        let count = GUARD.stack(group.first.stack, &mut frames);
        frames.iter().take(count).any(|&frame| {
            let pc = frame.saturating_sub(1);
            let name = function(pc);
            let location = self.snapshot.and_then(|snapshot| snapshot.locate(frame));
            let mut place = Line::over([0u8; 4200]);
            if let Some(location) = location {
                place.raw(location.module).text("+").hex(location.offset);
            }
            let module = location.map_or(&[][..], |location| location.module);
            patterns
                .split(|&byte| byte == b':')
                .filter(|pattern| !pattern.is_empty())
                .any(|pattern| {
                    [name, module, place.as_bytes()]
                        .iter()
                        .any(|text| !text.is_empty() && matches(pattern, text))
                })
        })
    }

    fn group(&mut self, group: &Group) {
        if self.text {
            self.told += 1;
            if self.told <= TOLD {
                self.group_as_text(group);
            }
        }
        let (Some(sink), Some(snapshot)) = (self.sink, self.snapshot) else {
            return;
        };
        let mut message = Line::new();
        sentence(group, &mut message);
        let mut buffer = [0; JSON];
        let line = json::line(&mut buffer, |json| {
            json.string("kind", b"leak");
            json.string("message", message.as_bytes());
            json.number("pid", process_id().into());
            json.flag("reachable", false);
            json.number("blocks", group.blocks as u64);
            json.number("bytes", group.bytes as u64);
            json.flag("complete", self.complete);
            json.address("address", group.address);
            json.event("allocated", snapshot, &group.first);
        });
        sink.write(line);
    }

    fn group_as_text(&self, group: &Group) {
        let mut line = Line::new();
        line.text("fencepost: ");
        sentence(group, &mut line);
        line.write_to(2);
        if let Some(snapshot) = self.snapshot {
            let mut buffer = [0; TEXT];
            let mut write = |line: &[u8]| crate::report::write(2, line);
            let mut writer = text::Writer::new(snapshot, &mut buffer, &mut write);
            writer.event("allocated", &group.first, GUARD.now());
        }
    }

    fn sums(&self, leaks: &Leaks) {
        if self.text {
            self.sums_as_text(leaks);
        }
        let Some(sink) = self.sink else {
            return;
        };
        let mut buffer = [0; TEXT];
        let line = json::line(&mut buffer, |json| {
            json.string("kind", b"leaks");
            json.number("pid", process_id().into());
            for (key, sum) in [
                ("lost", leaks.lost),
                ("reachable", leaks.reachable),
                ("suppressed", leaks.suppressed),
            ] {
                json.object(key, |json| {
                    json.number("blocks", sum.blocks as u64);
                    json.number("bytes", sum.bytes as u64);
                });
            }
            json.number("silent", leaks.silent as u64);
            json.flag("complete", leaks.complete);
        });
        sink.write(line);
    }

    fn sums_as_text(&self, leaks: &Leaks) {
        let mut line = Line::new();
        if let Some(more) = self.told.checked_sub(TOLD).filter(|more| *more != 0) {
            line.text("fencepost: leaks: ");
            line.count(more as u64, "more place")
                .text(" that allocated what is lost");
            line.write_to(2);
        }
        if leaks.silent != 0 {
            line.text("fencepost: leaks: ");
            line.count(leaks.silent as u64, "thread")
                .text(" did not stop; what only registers hold there counts as lost");
            line.write_to(2);
        }
        if !leaks.complete {
            line.text("fencepost: leaks: only guarded blocks were looked at, which are not all");
            line.write_to(2);
        }
        line.text("fencepost: leaks: ");
        amount(leaks.lost, &mut line);
        line.text(" lost, ");
        amount(leaks.reachable, &mut line);
        line.text(" still reachable");
        if leaks.suppressed.blocks != 0 {
            line.text(", ");
            amount(leaks.suppressed, &mut line);
            line.text(" suppressed");
        }
        line.write_to(2);
    }
}

/// `48 bytes in 3 blocks`.
fn amount(sum: Sum, line: &mut Line) {
    line.count(sum.bytes as u64, "byte").text(" in ");
    line.count(sum.blocks as u64, "block");
}

fn sentence(group: &Group, line: &mut Line) {
    line.text("leak: ");
    let sum = Sum {
        blocks: group.blocks,
        bytes: group.bytes,
    };
    amount(sum, line);
    line.text(if group.blocks == 1 {
        " is lost"
    } else {
        " are lost"
    });
}

/// The name of the exported function that an instruction belongs to; empty if there is none. No
/// lock of ours is held, and no thread is held still.
fn function(pc: usize) -> &'static [u8] {
    // SAFETY: all zero is a valid value.
    let mut found: libc::Dl_info = unsafe { core::mem::zeroed() };
    // SAFETY: the address is only looked up; the name belongs to a library that is loaded, and is
    // used at once.
    unsafe {
        if libc::dladdr(core::ptr::without_provenance(pc), &mut found) == 0
            || found.dli_sname.is_null()
        {
            return &[];
        }
        core::ffi::CStr::from_ptr(found.dli_sname).to_bytes()
    }
}

/// Whether a text is of the pattern, in which `*` stands for any bytes.
fn matches(mut pattern: &[u8], mut text: &[u8]) -> bool {
    // Where to go on if what follows the last star does not fit.
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        match (pattern, text) {
            ([b'*', rest @ ..], _) => {
                pattern = rest;
                retry = Some((rest, text));
            }
            ([], []) => return true,
            ([a, after @ ..], [b, rest @ ..]) if a == b => (pattern, text) = (after, rest),
            _ => match retry {
                Some((after, [_, rest @ ..])) => {
                    (pattern, text) = (after, rest);
                    retry = Some((after, rest));
                }
                _ => return false,
            },
        }
    }
}
