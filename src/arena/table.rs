//! The out-of-line record of mappings: which payload address owns how many bytes.
//!
//! A lock-free hash table in a few levels. Every change is the publication of one word, so a
//! child of fork finds it valid whenever the fork came.
#![allow(unsafe_code)] // Levels beyond the first live in mapped pages.

use crate::os::{Os, PageState, Prot, Region};
use crate::sync::overlay::{AtomicUsize, Ordering};

const FIRST: usize = 64;
/// Entries of each level; together more mappings than a process may have.
const LEVELS: [usize; 4] = [FIRST, 1 << 10, 1 << 14, 1 << 18];
/// How far from its home an entry may lie.
const PROBES: usize = 16;

/// Key states: 0 never used, 1 being written, `payload` (a multiple of 16) live,
/// `payload | GONE` freed.
const EMPTY: usize = 0;
const BUSY: usize = 1;
const GONE: usize = 2;

#[derive(Debug)]
struct Entry {
    key: AtomicUsize,
    len: AtomicUsize,
}

/// Whether an address owns a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// It does, of this many bytes.
    Live(usize),
    /// It did.
    Freed(usize),
    /// It never did, as far as the table remembers.
    Never,
}

/// The table.
#[derive(Debug)]
pub struct MapTable {
    first: [Entry; FIRST],
    more: [AtomicUsize; LEVELS.len() - 1],
}

impl MapTable {
    /// An empty table.
    #[must_use]
    pub const fn new() -> MapTable {
        MapTable {
            first: [const {
                Entry {
                    key: AtomicUsize::new(EMPTY),
                    len: AtomicUsize::new(0),
                }
            }; FIRST],
            more: [const { AtomicUsize::new(0) }; LEVELS.len() - 1],
        }
    }

    fn level<O: Os>(&self, os: &O, level: usize) -> Option<&[Entry]> {
        if level == 0 {
            return Some(&self.first);
        }
        let pages = self.more.get(level - 1)?.load(Ordering::Acquire);
        if pages == 0 {
            return None;
        }
        // SAFETY: a published level is a zeroed mapping of this many entries that is never
        // unmapped, and zero is an empty entry.
        Some(unsafe {
            core::slice::from_raw_parts(os.region().at(pages).cast::<Entry>(), *LEVELS.get(level)?)
        })
    }

    fn add_level<O: Os>(&self, os: &O, level: usize) -> bool {
        let Some(slot) = self.more.get(level - 1) else {
            return false;
        };
        let Some(entries) = LEVELS.get(level) else {
            return false;
        };
        let bytes = crate::size::align_up(entries * size_of::<Entry>(), os.page_size());
        let Ok(pages) = os.map(0, bytes, Prot::ReadWrite) else {
            return false;
        };
        os.note(pages, pages + bytes, PageState::Meta);
        if slot
            .compare_exchange(0, pages, Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            // SAFETY: just mapped, lost the race, nobody has seen it.
            let _ = unsafe { os.unmap(pages, bytes) };
        }
        true
    }

    /// Makes room ahead of an [`insert`](MapTable::insert) that must not fail, with `live`
    /// entries in use: a level of which at most a quarter is. `false` if there is no memory.
    pub fn reserve<O: Os>(&self, os: &O, live: usize) -> bool {
        (1..LEVELS.len())
            .take_while(|level| LEVELS[level - 1] < 4 * live)
            .all(|level| self.level(os, level).is_some() || self.add_level(os, level))
    }

    fn probes(payload: usize, entries: &[Entry]) -> impl Iterator<Item = &Entry> {
        let mask = entries.len() - 1;
        let home = (payload >> 12).wrapping_mul(0x9e37_79b9) >> 7;
        (0..PROBES).filter_map(move |i| entries.get((home + i) & mask))
    }

    /// Records that `payload` owns a mapping of `len` bytes. `false` if there is no room.
    pub fn insert<O: Os>(&self, os: &O, payload: usize, len: usize) -> bool {
        for level in 0..LEVELS.len() {
            let entries = match self.level(os, level) {
                Some(entries) => entries,
                None if self.add_level(os, level) => match self.level(os, level) {
                    Some(entries) => entries,
                    None => return false,
                },
                None => return false,
            };
            for entry in Self::probes(payload, entries) {
                let key = entry.key.load(Ordering::Relaxed);
                let vacant = key == EMPTY || key & GONE != 0;
                if vacant
                    && entry
                        .key
                        .compare_exchange(key, BUSY, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok()
                {
                    entry.len.store(len, Ordering::Relaxed);
                    entry.key.store(payload, Ordering::Release);
                    return true;
                }
            }
        }
        false
    }

    fn entry<O: Os>(&self, os: &O, payload: usize, key: usize) -> Option<&Entry> {
        (0..LEVELS.len())
            .map_while(|level| self.level(os, level))
            .find_map(|entries| {
                Self::probes(payload, entries).find(|e| e.key.load(Ordering::Acquire) == key)
            })
    }

    /// Looks an address up.
    pub fn find<O: Os>(&self, os: &O, payload: usize) -> Owned {
        if let Some(entry) = self.entry(os, payload, payload) {
            return Owned::Live(entry.len.load(Ordering::Relaxed));
        }
        match self.entry(os, payload, payload | GONE) {
            Some(entry) => Owned::Freed(entry.len.load(Ordering::Relaxed)),
            None => Owned::Never,
        }
    }

    /// Removes an address. Of two that try, one gets the length.
    pub fn remove<O: Os>(&self, os: &O, payload: usize) -> Option<usize> {
        let entry = self.entry(os, payload, payload)?;
        let len = entry.len.load(Ordering::Relaxed);
        entry
            .key
            .compare_exchange(payload, payload | GONE, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        Some(len)
    }

    /// Records another length for an address that is live.
    pub fn set_len<O: Os>(&self, os: &O, payload: usize, len: usize) {
        if let Some(entry) = self.entry(os, payload, payload) {
            entry.len.store(len, Ordering::Relaxed);
        }
    }

    /// The live mapping whose range contains an address: payload and length. Looks at every
    /// entry; for diagnosis.
    pub fn containing<O: Os>(&self, os: &O, addr: usize) -> Option<(usize, usize)> {
        (0..LEVELS.len())
            .map_while(|level| self.level(os, level))
            .flatten()
            .find_map(|entry| {
                let payload = entry.key.load(Ordering::Acquire);
                let len = entry.len.load(Ordering::Relaxed);
                let base = crate::size::align_down(payload, os.page_size());
                (payload > GONE && payload & GONE == 0 && base <= addr && addr < base + len)
                    .then_some((payload, len))
            })
    }
}

impl Default for MapTable {
    fn default() -> MapTable {
        MapTable::new()
    }
}
