//! What C programs may ask about the heap: mallinfo, malloc_stats, malloc_info.
//!
//! The counters are copied first, arena by arena, and written afterwards: the stream that is
//! written to may allocate its buffer from us.

use core::ffi::{c_int, c_void};

use super::start;
use crate::front;
use crate::report::Line;
use crate::stats::{ArenaSnapshot, Snapshot, Totals};

/// What [`mallinfo2`] returns: `struct mallinfo2` of `<malloc.h>`. Sizes are in bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct MallInfo2 {
    /// Obtained from the system, mappings of single blocks excepted.
    pub arena: usize,
    /// Free chunks, those in fast bins excepted; each arena's top counts as one.
    pub ordblks: usize,
    /// Chunks in fast bins.
    pub smblks: usize,
    /// Blocks that have a mapping of their own.
    pub hblks: usize,
    /// Their size.
    pub hblkhd: usize,
    /// Always 0.
    pub usmblks: usize,
    /// Free in fast bins.
    pub fsmblks: usize,
    /// In use: `arena` without `fordblks`.
    pub uordblks: usize,
    /// Free, wherever it lies; the thread caches and the depot included.
    pub fordblks: usize,
    /// Free at the top of the main arena.
    pub keepcost: usize,
}

/// What [`mallinfo`] returns: [`MallInfo2`] in the narrow type of `struct mallinfo`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)] // The fields are those of MallInfo2.
pub struct MallInfo {
    pub arena: c_int,
    pub ordblks: c_int,
    pub smblks: c_int,
    pub hblks: c_int,
    pub hblkhd: c_int,
    pub usmblks: c_int,
    pub fsmblks: c_int,
    pub uordblks: c_int,
    pub fordblks: c_int,
    pub keepcost: c_int,
}

/// The state of the heap in numbers.
#[must_use]
pub fn mallinfo2() -> MallInfo2 {
    start();
    let all = front::snapshot();
    let binned = |of: fn(Totals) -> u64| of(all.unsorted) + of(all.small) + of(all.large);
    let arena = all.break_bytes + all.segment_bytes;
    let free = binned(|t| t.bytes) + all.fast.bytes + all.top_bytes + all.cached_bytes;
    MallInfo2 {
        arena: arena as usize,
        ordblks: (binned(|t| t.chunks) + all.arenas) as usize,
        smblks: all.fast.chunks as usize,
        hblks: all.mapped.chunks as usize,
        hblkhd: all.mapped.bytes as usize,
        usmblks: 0,
        fsmblks: all.fast.bytes as usize,
        // The counters move while they are read; a difference below zero is such a moment.
        uordblks: arena.saturating_sub(free) as usize,
        fordblks: free as usize,
        keepcost: front::arena_snapshot(0).map_or(0, |main| main.top_bytes as usize),
    }
}

/// [`mallinfo2`] for programs that are older than large heaps: what exceeds an `int` is shown
/// as the largest one.
#[must_use]
pub fn mallinfo() -> MallInfo {
    let wide = mallinfo2();
    let narrow = |n: usize| c_int::try_from(n).unwrap_or(c_int::MAX);
    MallInfo {
        arena: narrow(wide.arena),
        ordblks: narrow(wide.ordblks),
        smblks: narrow(wide.smblks),
        hblks: narrow(wide.hblks),
        hblkhd: narrow(wide.hblkhd),
        usmblks: narrow(wide.usmblks),
        fsmblks: narrow(wide.fsmblks),
        uordblks: narrow(wide.uordblks),
        fordblks: narrow(wide.fordblks),
        keepcost: narrow(wide.keepcost),
    }
}

/// The free memory of one arena: in fast bins, and everywhere else.
fn free_memory(arena: &ArenaSnapshot) -> (Totals, Totals) {
    let mut fast = Totals::default();
    for bin in &arena.fast {
        add(&mut fast, *bin);
    }
    let mut rest = arena.unsorted;
    for bin in &arena.bins {
        add(&mut rest, *bin);
    }
    add(
        &mut rest,
        Totals {
            chunks: 1,
            bytes: arena.top_bytes,
        },
    );
    (fast, rest)
}

fn add(sum: &mut Totals, part: Totals) {
    sum.chunks += part.chunks;
    sum.bytes += part.bytes;
}

/// The snapshots of all arenas, one at a time.
fn arenas(all: &Snapshot) -> impl Iterator<Item = ArenaSnapshot> {
    (0..all.arenas as usize).filter_map(front::arena_snapshot)
}

const STDERR: c_int = 2;

/// Prints system and used bytes of every arena, and of all with their mappings, to standard
/// error.
pub fn malloc_stats() {
    start();
    let all = front::snapshot();
    let (mut system, mut used) = (all.mapped.bytes, all.mapped.bytes);
    for arena in arenas(&all) {
        let (fast, rest) = free_memory(&arena);
        let in_use = arena.system_bytes.saturating_sub(fast.bytes + rest.bytes);
        Line::new()
            .text("Arena ")
            .decimal(arena.index as u64)
            .text(":")
            .write_to(STDERR);
        count("system bytes     = ", arena.system_bytes);
        count("in use bytes     = ", in_use);
        system += arena.system_bytes;
        used += in_use;
    }
    Line::new().text("Total (incl. mmap):").write_to(STDERR);
    count("system bytes     = ", system);
    count("in use bytes     = ", used);
    count("max mmap regions = ", all.mapped_peak.chunks);
    count("max mmap bytes   = ", all.mapped_peak.bytes);
}

/// Prints a label and a number, right-aligned to ten columns.
fn count(label: &str, number: u64) {
    let digits = number.checked_ilog10().map_or(1, |log| log + 1);
    let mut line = Line::new();
    line.text(label);
    for _ in digits..10 {
        line.text(" ");
    }
    line.decimal(number).write_to(STDERR);
}

/// Writes the state of the heap to a stream as an XML document of glibc's shape. Sizes in it
/// are chunk bytes. Returns 0.
///
/// # Errors
/// Returns EINVAL (and keeps errno) if `options` is not 0, and -1 with the stream's errno if it
/// cannot be written.
///
/// # Safety
/// `stream` is an open stream.
pub unsafe fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    start();
    let mut xml = Xml {
        stream,
        complete: true,
    };
    let all = front::snapshot();
    let (mut fast, mut rest) = (Totals::default(), Totals::default());
    let (mut current, mut most) = (0, 0);
    xml.line("<malloc version=\"1\">", &[]);
    for arena in arenas(&all) {
        let (arena_fast, arena_rest) = free_memory(&arena);
        xml.line("<heap nr=\"?\">", &[arena.index as u64]);
        xml.sizes(&arena);
        xml.totals(arena_fast, arena_rest);
        xml.system(arena.system_bytes, arena.system_peak);
        if arena.index != 0 {
            xml.line("<aspace type=\"subheaps\" size=\"?\"/>", &[1]);
        }
        xml.line("</heap>", &[]);
        add(&mut fast, arena_fast);
        add(&mut rest, arena_rest);
        current += arena.system_bytes;
        most += arena.system_peak;
    }
    xml.totals(fast, rest);
    let mapped = [all.mapped.chunks, all.mapped.bytes];
    xml.line("<total type=\"mmap\" count=\"?\" size=\"?\"/>", &mapped);
    xml.system(current, most);
    xml.line("</malloc>", &[]);
    if xml.complete { 0 } else { -1 }
}

/// Lines of XML on their way to a stream.
struct Xml {
    stream: *mut libc::FILE,
    /// Every line so far was taken.
    complete: bool,
}

impl Xml {
    /// Writes a line; each `?` in it stands for the next of `numbers`.
    fn line(&mut self, text: &str, numbers: &[u64]) {
        let mut line = Line::new();
        let mut numbers = numbers.iter();
        for piece in text.split_inclusive('?') {
            match piece.strip_suffix('?') {
                Some(piece) => line
                    .text(piece)
                    .decimal(numbers.next().copied().unwrap_or(0)),
                None => line.text(piece),
            };
        }
        let bytes = line.text("\n").as_bytes();
        // SAFETY: the bytes are ours, the stream is open (the caller of malloc_info says so).
        let written =
            unsafe { libc::fwrite(bytes.as_ptr().cast::<c_void>(), 1, bytes.len(), self.stream) };
        self.complete &= written == bytes.len();
    }

    /// The free chunks of an arena by size.
    fn sizes(&mut self, arena: &ArenaSnapshot) {
        const SIZE: &str = "  <size from=\"?\" to=\"?\" total=\"?\" count=\"?\"/>";
        const UNSORTED: &str = "  <unsorted from=\"?\" to=\"?\" total=\"?\" count=\"?\"/>";
        self.line("<sizes>", &[]);
        for (index, bin) in arena.fast.iter().enumerate() {
            if bin.chunks != 0 {
                let (from, to) = arena.fast_range(index);
                self.line(SIZE, &[from, to, bin.bytes, bin.chunks]);
            }
        }
        for (index, bin) in arena.bins.iter().enumerate() {
            if bin.chunks != 0 {
                let (from, to) = arena.bin_range(index);
                self.line(SIZE, &[from, to, bin.bytes, bin.chunks]);
            }
        }
        if arena.unsorted.chunks != 0 {
            let (from, to) = arena.unsorted_range();
            let Totals { chunks, bytes } = arena.unsorted;
            self.line(UNSORTED, &[from, to, bytes, chunks]);
        }
        self.line("</sizes>", &[]);
    }

    fn totals(&mut self, fast: Totals, rest: Totals) {
        self.line(
            "<total type=\"fast\" count=\"?\" size=\"?\"/>",
            &[fast.chunks, fast.bytes],
        );
        self.line(
            "<total type=\"rest\" count=\"?\" size=\"?\"/>",
            &[rest.chunks, rest.bytes],
        );
    }

    fn system(&mut self, current: u64, most: u64) {
        self.line("<system type=\"current\" size=\"?\"/>", &[current]);
        self.line("<system type=\"max\" size=\"?\"/>", &[most]);
        self.line("<aspace type=\"total\" size=\"?\"/>", &[current]);
        self.line("<aspace type=\"mprotect\" size=\"?\"/>", &[current]);
    }
}
