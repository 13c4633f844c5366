//! What is looked up in the list of tunables while a program runs.
//!
//! The list itself is full of addresses, and an address in a static of a shared library is
//! written by the dynamic linker at every start. Here names are bytes, so what a program does not
//! look up costs it nothing.

use super::{COUNT, Key, TABLE, Unit};
use core::ffi::c_int;

/// The longest name of a tunable, in bytes.
const LONGEST: usize = 33;

/// A name in place; without any bytes where a tunable has no such name.
struct Name {
    len: u8,
    bytes: [u8; LONGEST],
}

impl Name {
    const fn of(name: Option<&str>) -> Name {
        let mut bytes = [0; LONGEST];
        let text: &[u8] = match name {
            Some(name) => name.as_bytes(),
            None => &[],
        };
        let mut i = 0;
        while i < text.len() {
            bytes[i] = text[i];
            i += 1;
        }
        Name {
            len: text.len() as u8,
            bytes,
        }
    }

    fn is(&self, name: &[u8]) -> bool {
        !name.is_empty() && self.bytes.get(..usize::from(self.len)) == Some(name)
    }
}

/// A tunable's names and range.
struct Lookup {
    key: Key,
    variable: Name,
    glibc: Name,
    mallopt: Option<c_int>,
    min: usize,
    max: usize,
}

static ENTRIES: [Lookup; COUNT] = {
    let mut entries = [const { entry(0) }; COUNT];
    let mut i = 0;
    while i < COUNT {
        entries[i] = entry(i);
        i += 1;
    }
    entries
};

const fn entry(index: usize) -> Lookup {
    let tunable = &TABLE[index];
    Lookup {
        key: tunable.key,
        variable: Name::of(tunable.variable),
        glibc: Name::of(tunable.glibc),
        mallopt: match tunable.mallopt {
            Some((_, constant)) => Some(constant),
            None => None,
        },
        min: tunable.min,
        max: tunable.max,
    }
}

/// What the numbers stand for. The words of a choice are addresses after all, but they are few.
static UNITS: [Unit; COUNT] = {
    let mut units = [Unit::Number; COUNT];
    let mut i = 0;
    while i < COUNT {
        units[i] = TABLE[i].unit;
        i += 1;
    }
    units
};

fn key_where(fits: impl Fn(&Lookup) -> bool) -> Option<Key> {
    ENTRIES.iter().find(|entry| fits(entry)).map(|e| e.key)
}

/// Whether a variable that we know may begin so: few of an environment's are looked at further.
pub(super) const fn begins_a_name(first: u8) -> bool {
    matches!(first, b'F' | b'G' | b'M')
}

/// Whether a variable may be one of ours. Those that are not cost no look at the tables. As a
/// pattern of bytes it is code, not one more constant that a start would read.
pub(super) const fn is_known(name: &[u8]) -> bool {
    matches!(
        name,
        [
            b'F',
            b'E',
            b'N',
            b'C',
            b'E',
            b'P',
            b'O',
            b'S',
            b'T',
            b'_',
            ..
        ] | [b'M', b'A', b'L', b'L', b'O', b'C', b'_', ..]
            | b"GLIBC_TUNABLES"
    )
}

/// The tunable with this environment variable.
pub(super) fn of_variable(name: &[u8]) -> Option<Key> {
    key_where(|entry| entry.variable.is(name))
}

/// The tunable with this name in `GLIBC_TUNABLES`, without the prefix.
pub(super) fn of_glibc(name: &[u8]) -> Option<Key> {
    key_where(|entry| entry.glibc.is(name))
}

/// The tunable with this constant of `mallopt(3)`.
#[must_use]
pub fn of_mallopt(constant: c_int) -> Option<Key> {
    key_where(|entry| entry.mallopt == Some(constant))
}

/// Whether the value is in the tunable's range.
pub(super) fn may_be(key: Key, value: usize) -> bool {
    ENTRIES
        .get(key as usize)
        .is_some_and(|entry| value >= entry.min && value <= entry.max)
}

/// The place of a word in the list of a tunable that is one of a list's words.
pub(super) fn word_of(key: Key, word: &[u8]) -> Option<usize> {
    match UNITS.get(key as usize) {
        Some(Unit::Choice(words)) => words.iter().position(|w| w.as_bytes() == word),
        _ => None,
    }
}
