//! Layer 0: the tunables, each once, with its names in every dialect, default, range and meaning.
//!
//! [`TUNABLES`] is the only list of numbers, [`TEXTS`] of texts: `mallopt`, the environment,
//! `GLIBC_TUNABLES` and the table in the README are all read from them. [`Settings`] holds the
//! values. Nothing here allocates, locks
//! or panics, for the environment is read before the first block is handed out.
#![allow(unsafe_code)] // The environment is an array of C strings, ended by a null pointer.

mod lookup;
mod text;

pub use lookup::of_mallopt;
use lookup::{begins_a_name, is_known};
pub use text::{LONGEST, TEXTS, Text, TextTunable};

use core::ffi::{CStr, c_char, c_int};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use crate::report::Line;
use crate::size::{CACHED_REQUEST, Native};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// The largest mapping threshold, as glibc has it: half of its largest heap segment.
const MAX_MMAP_THRESHOLD: usize = if usize::BITS == 64 {
    32 * MIB
} else {
    512 * KIB
};
/// The largest object that there can be.
const PTRDIFF_MAX: usize = isize::MAX as usize;

/// Names one tunable; the order is that of [`TUNABLES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Largest fast request.
    Mxfast,
    /// Free bytes at top from which memory is given back.
    TrimThreshold,
    /// Bytes that top is grown by, and keeps, beyond the need.
    TopPad,
    /// Requests from here on get a mapping of their own.
    MmapThreshold,
    /// Most mappings of their own at a time.
    MmapMax,
    /// Most arenas.
    ArenaMax,
    /// Arenas that are made before the processors are counted.
    ArenaTest,
    /// Pattern byte for allocated and freed memory.
    Perturb,
    /// What to do on a detected error.
    CheckAction,
    /// Most chunks per size in a thread cache.
    TcacheCount,
    /// Largest request that the thread caches serve.
    TcacheMax,
    /// Most chunks taken off the unsorted list per refill.
    TcacheUnsortedLimit,
    /// Huge pages.
    Hugetlb,
    /// Thread caches on or off.
    Cache,
    /// Bytes that one thread may cache.
    CacheBytes,
    /// The depot of full magazines on or off.
    Depot,
    /// Bytes that the depot may hold.
    DepotBytes,
    /// Bytes of freed mappings that are kept for reuse.
    MappingCacheBytes,
    /// Whether free pages inside the heap are given back.
    Purge,
    /// Whether statistics are printed at exit.
    Stats,
    /// Whether the account of pages is audited at exit.
    Audit,
    /// Which allocations are guarded.
    Guard,
    /// Which end of a guarded object touches a guard.
    GuardAlign,
    /// Freed objects that rest as guards.
    GuardQuarantine,
    /// Bytes of freed objects that rest.
    GuardQuarantineBytes,
    /// Bytes of guarded objects' pages when only some are guarded.
    GuardBytes,
    /// Thousandths of a thread's time for samples.
    GuardShare,
    /// Whether errors are reported as text.
    GuardText,
    /// Whether lost blocks are reported at exit.
    GuardLeaks,
    /// Whether allocations are traced from the start.
    Mtrace,
}

/// How many tunables there are.
pub const COUNT: usize = TABLE.len();

/// What the number of a tunable stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A size in bytes.
    Bytes,
    /// A plain number.
    Number,
    /// 0 is off, 1 is on.
    Switch,
    /// A word of this list, or its place in it.
    Choice(&'static [&'static str]),
}

/// One tunable: its names, default, range and meaning.
#[derive(Debug, Clone, Copy)]
pub struct Tunable {
    /// Which one it is.
    pub key: Key,
    /// The constant of `mallopt(3)`: its name and value.
    pub mallopt: Option<(&'static str, c_int)>,
    /// The environment variable.
    pub variable: Option<&'static str>,
    /// The name in `GLIBC_TUNABLES`, without the prefix [`GLIBC_PREFIX`].
    pub glibc: Option<&'static str>,
    /// What the number stands for.
    pub unit: Unit,
    /// The value unless the user says otherwise.
    pub default: usize,
    /// The smallest value allowed.
    pub min: usize,
    /// The largest value allowed.
    pub max: usize,
    /// What it does, in a sentence.
    pub sentence: &'static str,
}

/// What every name of ours in `GLIBC_TUNABLES` begins with.
pub const GLIBC_PREFIX: &str = "glibc.malloc.";

impl Tunable {
    const fn new(key: Key, unit: Unit, default: usize, min: usize, max: usize) -> Tunable {
        let (mallopt, variable, glibc) = (None, None, None);
        Tunable {
            key,
            mallopt,
            variable,
            glibc,
            unit,
            default,
            min,
            max,
            sentence: "",
        }
    }

    const fn bytes(key: Key, default: usize, max: usize) -> Tunable {
        Tunable::new(key, Unit::Bytes, default, 0, max)
    }

    const fn number(key: Key, default: usize, max: usize) -> Tunable {
        Tunable::new(key, Unit::Number, default, 0, max)
    }

    const fn switch(key: Key, default: bool) -> Tunable {
        Tunable::new(key, Unit::Switch, default as usize, 0, 1)
    }

    const fn choice(key: Key, words: &'static [&'static str]) -> Tunable {
        Tunable::new(key, Unit::Choice(words), 0, 0, words.len() - 1)
    }

    const fn mallopt(mut self, name: &'static str, constant: c_int) -> Tunable {
        self.mallopt = Some((name, constant));
        self
    }

    const fn variable(mut self, name: &'static str) -> Tunable {
        self.variable = Some(name);
        self
    }

    const fn glibc(mut self, name: &'static str) -> Tunable {
        self.glibc = Some(name);
        self
    }

    const fn says(mut self, sentence: &'static str) -> Tunable {
        self.sentence = sentence;
        self
    }
}

/// Every tunable, in the order of [`Key`].
pub static TUNABLES: [Tunable; COUNT] = TABLE;

const TABLE: [Tunable; 30] = [
    Tunable::bytes(Key::Mxfast, Native::DEFAULT_MXFAST, Native::MAX_MXFAST)
        .mallopt("M_MXFAST", 1)
        .glibc("mxfast")
        .says("Freed chunks up to this request size wait in fast bins and are not merged at once; 0 switches the fast bins off."),
    Tunable::bytes(Key::TrimThreshold, 128 * KIB, usize::MAX)
        .mallopt("M_TRIM_THRESHOLD", -1)
        .variable("MALLOC_TRIM_THRESHOLD_")
        .glibc("trim_threshold")
        .says("When this much lies free at the end of the heap it is given back; -1 means never. Setting it stops the sliding of the mapping threshold."),
    Tunable::bytes(Key::TopPad, 128 * KIB, PTRDIFF_MAX)
        .mallopt("M_TOP_PAD", -2)
        .variable("MALLOC_TOP_PAD_")
        .glibc("top_pad")
        .says("How much more than needed the heap grows by, and keeps when it is trimmed. Setting it stops the sliding of the mapping threshold."),
    Tunable::bytes(Key::MmapThreshold, 128 * KIB, MAX_MMAP_THRESHOLD)
        .mallopt("M_MMAP_THRESHOLD", -3)
        .variable("MALLOC_MMAP_THRESHOLD_")
        .glibc("mmap_threshold")
        .says("Requests of this size and more get a mapping of their own. Unless set it slides up to the largest mapping that was freed."),
    Tunable::number(Key::MmapMax, 65_536, i32::MAX as usize)
        .mallopt("M_MMAP_MAX", -4)
        .variable("MALLOC_MMAP_MAX_")
        .glibc("mmap_max")
        .says("How many requests may have a mapping of their own at a time. Setting it stops the sliding of the mapping threshold."),
    Tunable::number(Key::ArenaMax, 0, 65_536)
        .mallopt("M_ARENA_MAX", -8)
        .variable("MALLOC_ARENA_MAX")
        .glibc("arena_max")
        .says("How many arenas there may be; 0 lets the number of processors decide."),
    Tunable::number(Key::ArenaTest, if usize::BITS == 64 { 8 } else { 2 }, 65_536)
        .mallopt("M_ARENA_TEST", -7)
        .variable("MALLOC_ARENA_TEST")
        .glibc("arena_test")
        .says("If set, the least number of arenas that may be made whatever the number of processors."),
    Tunable::number(Key::Perturb, 0, 255)
        .mallopt("M_PERTURB", -6)
        .variable("MALLOC_PERTURB_")
        .glibc("perturb")
        .says("Unless 0, allocated memory is filled with the complement of this byte (calloc's with zeros) and freed memory with the byte."),
    Tunable::number(Key::CheckAction, 3, 7)
        .mallopt("M_CHECK_ACTION", -5)
        .variable("MALLOC_CHECK_")
        .glibc("check")
        .says("Accepted; every check always runs, and a violation always ends in one line and an abort."),
    Tunable::number(Key::TcacheCount, 65_535, 65_535)
        .glibc("tcache_count")
        .says("How many chunks of one size a thread may cache; 0 switches the thread caches off."),
    Tunable::bytes(Key::TcacheMax, CACHED_REQUEST, CACHED_REQUEST)
        .glibc("tcache_max")
        .says("The largest request that the thread caches serve."),
    Tunable::number(Key::TcacheUnsortedLimit, 0, usize::MAX)
        .glibc("tcache_unsorted_limit")
        .says("Accepted without effect: a cache is refilled by the batch."),
    Tunable::number(Key::Hugetlb, 0, usize::MAX)
        .glibc("hugetlb")
        .says("Accepted without effect: whether to use huge pages is left to the kernel."),
    Tunable::switch(Key::Cache, true)
        .variable("FENCEPOST_CACHE")
        .says("The cache of free chunks that each thread has."),
    Tunable::bytes(Key::CacheBytes, 32 * KIB, PTRDIFF_MAX)
        .variable("FENCEPOST_CACHE_BYTES")
        .says("How much one thread may cache. Unless set, an only thread has a quarter of what the program has in use and several share half of it, 2 MiB in all at least (1 MiB from five on), up to 4 MiB each (less from nine on; of many threads each only what its traffic has earned), and each may have this much in any case."),
    Tunable::switch(Key::Depot, true)
        .variable("FENCEPOST_DEPOT")
        .says("The depot through which threads exchange full magazines of free chunks."),
    Tunable::bytes(Key::DepotBytes, 64 * MIB, PTRDIFF_MAX)
        .variable("FENCEPOST_DEPOT_BYTES")
        .says("The most that the depot may hold; within that it may hold as much as the program had in use lately. Unless set, it may also hold an eighth of that."),
    Tunable::bytes(Key::MappingCacheBytes, 64 * MIB, PTRDIFF_MAX)
        .variable("FENCEPOST_MAPPING_CACHE_BYTES")
        .says("How much of freed mappings is kept for the next large request."),
    Tunable::switch(Key::Purge, true)
        .variable("FENCEPOST_PURGE")
        .says("Whether whole free pages inside the heap are given back to the system."),
    Tunable::switch(Key::Stats, false)
        .variable("FENCEPOST_STATS")
        .says("Whether a preloaded process prints its statistics to standard error at exit."),
    Tunable::switch(Key::Audit, false)
        .variable("FENCEPOST_AUDIT")
        .says("Whether a preloaded process compares its account of pages with the kernel's at exit."),
    Tunable::number(Key::Guard, 0, u32::MAX as usize)
        .variable("FENCEPOST_GUARD")
        .says("Guard mode: 1 guards every allocation, N one in N at random, 0 none."),
    Tunable::choice(Key::GuardAlign, &["right", "left", "both"])
        .variable("FENCEPOST_GUARD_ALIGN")
        .says("Which end of a guarded object touches a guard: right catches overflow to the byte, left underflow, both takes turns at each place that allocates."),
    Tunable::number(Key::GuardQuarantine, 131_072, u32::MAX as usize)
        .variable("FENCEPOST_GUARD_QUARANTINE")
        .says("How many freed guarded objects rest as guards before their place is used again."),
    Tunable::bytes(Key::GuardQuarantineBytes, if usize::BITS == 64 { 16 << 30 } else { 64 * MIB }, PTRDIFF_MAX)
        .variable("FENCEPOST_GUARD_QUARANTINE_BYTES")
        .says("How many bytes freed guarded objects that rest may have had; only addresses, for their memory is given back at once."),
    Tunable::bytes(Key::GuardBytes, 8 * MIB, PTRDIFF_MAX)
        .variable("FENCEPOST_GUARD_BYTES")
        .says("How much the pages of guarded objects in use may take where only one allocation in N is guarded; while it is spent, none is."),
    Tunable::number(Key::GuardShare, 5, 1000)
        .variable("FENCEPOST_GUARD_SHARE")
        .says("How many thousandths of its time a thread may spend on guarded objects where one allocation in 100 or fewer is guarded, beyond the first millisecond of that; 0 for any."),
    Tunable::switch(Key::GuardText, true)
        .variable("FENCEPOST_GUARD_TEXT")
        .says("Whether guard mode reports errors as text on standard error."),
    Tunable::switch(Key::GuardLeaks, true)
        .variable("FENCEPOST_GUARD_LEAKS")
        .says("Whether blocks that nothing points to are reported at exit; by default only where every allocation is guarded."),
    Tunable::switch(Key::Mtrace, false)
        .variable("FENCEPOST_MTRACE")
        .says("Whether `MALLOC_TRACE` traces from the start of a preloaded process to its end, without a call of `mtrace()`."),
];

const DEFAULTS: [usize; COUNT] = {
    let mut defaults = [0; COUNT];
    let mut i = 0;
    while i < COUNT {
        defaults[i] = TABLE[i].default;
        i += 1;
    }
    defaults
};

/// The values of all tunables. Reading and writing are single relaxed atomic operations, so any
/// thread may do either at any time.
///
/// All zero at the defaults, so that a static needs no page of the library's file; what is read
/// often comes first.
#[derive(Debug)]
#[repr(C)]
pub struct Settings {
    /// Each value, exclusive-or its default.
    changes: [AtomicUsize; COUNT],
    /// Bit n: the user gave the n-th value.
    given: AtomicU32,
    texts: [text::Once; TEXTS.len()],
}

impl Settings {
    /// All tunables at their defaults.
    #[must_use]
    pub const fn new() -> Settings {
        Settings {
            changes: [const { AtomicUsize::new(0) }; COUNT],
            given: AtomicU32::new(0),
            texts: [const { text::Once::new() }; TEXTS.len()],
        }
    }

    /// The value of a tunable, in its unit.
    #[must_use]
    #[inline]
    pub fn get(&self, key: Key) -> usize {
        self.changes[key as usize].load(Relaxed) ^ DEFAULTS[key as usize]
    }

    fn put(&self, key: Key, value: usize) {
        self.changes[key as usize].store(value ^ DEFAULTS[key as usize], Relaxed);
    }

    /// A tunable that is text; empty if the user did not set it.
    #[must_use]
    pub fn text(&self, key: Text) -> &[u8] {
        self.texts.get(key as usize).map_or(&[], text::Once::get)
    }

    /// Sets a tunable that is text, once: what is set stays. `false` and no change if it is
    /// longer than [`LONGEST`].
    pub fn set_text(&self, key: Text, text: &[u8]) -> bool {
        self.texts
            .get(key as usize)
            .is_some_and(|once| once.set(text))
    }

    /// Sets another default, if it is in the tunable's range.
    pub fn preset(&self, key: Key, value: usize) {
        if lookup::may_be(key, value) {
            self.put(key, value);
        }
    }

    /// Sets a tunable as the user asked; `false` and no change if the value is out of range.
    pub fn set(&self, key: Key, value: usize) -> bool {
        if !lookup::may_be(key, value) {
            return false;
        }
        self.put(key, value);
        self.given.fetch_or(1 << key as usize, Relaxed);
        true
    }

    /// Whether the user gave this tunable a value, be it the default.
    #[must_use]
    #[inline]
    pub fn is_set(&self, key: Key) -> bool {
        self.given.load(Relaxed) & (1 << key as usize) != 0
    }

    /// Whether the mapping threshold slides: a user who sets it, or one of the three tunables
    /// that belong to it, wants what he said.
    #[must_use]
    pub fn sliding_threshold(&self) -> bool {
        const FIXED: u32 = 1 << Key::MmapThreshold as u32
            | 1 << Key::TrimThreshold as u32
            | 1 << Key::TopPad as u32
            | 1 << Key::MmapMax as u32;
        self.given.load(Relaxed) & FIXED == 0
    }

    /// Whether threads have caches: both dialects can switch them off.
    #[must_use]
    pub fn caches(&self) -> bool {
        self.get(Key::Cache) != 0 && self.get(Key::TcacheCount) != 0
    }

    /// Takes over what the environment says. `GLIBC_TUNABLES` wins over the variables, the first
    /// of several variables of one name counts, and the last of several entries in
    /// `GLIBC_TUNABLES`. For each value that is no number or out of range, or too long a text,
    /// `warn` is called with its name and text, and the value stays what it was.
    ///
    /// If `secure` (the process runs with more rights than its user, `AT_SECURE`) the environment
    /// is not even read.
    ///
    /// # Safety
    /// `environ` is null or points to an array of C strings that ends with a null pointer, and
    /// nothing changes array or strings meanwhile.
    pub unsafe fn read_environment(
        &self,
        environ: *const *const c_char,
        secure: bool,
        warn: &mut dyn FnMut(&[u8], &[u8]),
    ) {
        if secure || environ.is_null() {
            return;
        }
        let mut seen = 0u32;
        let mut seen_texts = 0u32;
        let mut tunables: Option<&[u8]> = None;
        let mut entry = environ;
        loop {
            // SAFETY: `entry` has not passed the null pointer that ends the array.
            let text = unsafe { *entry };
            if text.is_null() {
                break;
            }
            // SAFETY: this entry was not the last, so there is one more, if only the null.
            entry = unsafe { entry.add(1) };
            // SAFETY: a C string has a first byte, if only the null.
            if !begins_a_name(unsafe { *text.cast() }) {
                continue;
            }
            // SAFETY: the caller promises a C string that nobody changes while we read.
            let (name, value) = split(unsafe { CStr::from_ptr(text) }.to_bytes(), b'=');
            if !is_known(name) {
                continue;
            }
            if name == b"GLIBC_TUNABLES" {
                tunables = tunables.or(Some(value));
            }
            if let Some(key) = lookup::of_variable(name) {
                let bit = 1 << key as u32;
                if seen & bit == 0 {
                    seen |= bit;
                    self.take(key, name, value, warn);
                }
            }
            for tunable in &TEXTS {
                let bit = 1 << tunable.key as u32;
                if tunable.variable.as_bytes() == name && seen_texts & bit == 0 {
                    seen_texts |= bit;
                    if !self.set_text(tunable.key, value) {
                        warn(name, value);
                    }
                }
            }
        }
        let mut rest = tunables.unwrap_or(&[]);
        while !rest.is_empty() {
            let (item, after) = split(rest, b':');
            rest = after;
            let (name, value) = split(item, b'=');
            let Some(short) = name.strip_prefix(GLIBC_PREFIX.as_bytes()) else {
                continue;
            };
            if let Some(key) = lookup::of_glibc(short) {
                self.take(key, name, value, warn);
            }
        }
    }

    fn take(&self, key: Key, name: &[u8], value: &[u8], warn: &mut dyn FnMut(&[u8], &[u8])) {
        let number = lookup::word_of(key, value).or_else(|| parse(value));
        if !number.is_some_and(|number| self.set(key, number)) {
            warn(name, value);
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new()
    }
}

/// Writes the one line that tells the user of a value that cannot be used, to standard error: a
/// `warn` for [`Settings::read_environment`].
#[cold]
pub fn warn_to_stderr(name: &[u8], value: &[u8]) {
    // A value may be longer than a line; what matters is its beginning.
    let shown = value.get(..64).unwrap_or(value);
    let mut line = Line::new();
    line.text("fencepost: ignored ")
        .raw(name)
        .text("=")
        .raw(shown);
    line.text(if TEXTS.iter().any(|t| t.variable.as_bytes() == name) {
        ": too long"
    } else {
        ": not a number in its range"
    });
    line.write_to(2);
}

/// What lies before and after the first `at`; all and nothing if there is none.
fn split(text: &[u8], at: u8) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|&byte| byte == at)
        .unwrap_or(text.len());
    let (head, tail) = text.split_at_checked(end).unwrap_or((text, &[]));
    (head, tail.get(1..).unwrap_or(&[]))
}

/// Reads a number as the tunables are written: decimal, or hexadecimal after `0x`; then, if
/// wanted, `K`, `M` or `G` for powers of 1024. A minus sign wraps around as `strtoul` does, so
/// that `-1` is the largest number there is. `None` for anything else, and for what exceeds the
/// machine word.
#[must_use]
pub fn parse(text: &[u8]) -> Option<usize> {
    let text = text.trim_ascii();
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (text, shift) = match text.split_last() {
        Some((b'k' | b'K', rest)) => (rest, 10),
        Some((b'm' | b'M', rest)) => (rest, 20),
        Some((b'g' | b'G', rest)) => (rest, 30),
        _ => (text, 0),
    };
    let hexadecimal = text.strip_prefix(b"0x").or(text.strip_prefix(b"0X"));
    let (digits, base) = match hexadecimal {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    if digits.is_empty() {
        return None;
    }
    let mut number = 0usize;
    for &byte in digits {
        let digit = char::from(byte).to_digit(base)? as usize;
        number = number.checked_mul(base as usize)?.checked_add(digit)?;
    }
    let number = number.checked_mul(1 << shift)?;
    Some(if negative {
        number.wrapping_neg()
    } else {
        number
    })
}

const _: () = {
    assert!(COUNT <= u32::BITS as usize);
    let mut i = 0;
    while i < COUNT {
        let t = &TABLE[i];
        assert!(t.key as usize == i, "the table has the order of the keys");
        assert!(t.min <= t.default && t.default <= t.max);
        assert!(!t.sentence.is_empty());
        assert!(t.mallopt.is_some() || t.variable.is_some() || t.glibc.is_some());
        if let Some(name) = t.variable {
            assert!(begins_a_name(name.as_bytes()[0]) && is_known(name.as_bytes()));
        }
        i += 1;
    }
    assert!(begins_a_name(b"GLIBC_TUNABLES"[0]));
    i = 0;
    while i < TEXTS.len() {
        let name = TEXTS[i].variable.as_bytes();
        assert!(begins_a_name(name[0]) && is_known(name));
        i += 1;
    }
};
