//! Chunks that own a mapping: 128 KiB and more, with the sliding threshold and a cache.
//!
//! A freed mapping is kept for the next large request, so that a loop over large buffers does
//! not fault its pages anew each time. What is kept is bounded, and is given up as soon as
//! memory is asked from the system for something else: keeping never raises the peak.
#![allow(unsafe_code)] // Maps, remaps and unmaps.

use super::table::{MapTable, Owned};
use crate::chunk::{Keys, Low, State};
use crate::config::{Key, Settings};
use crate::heap::Totals;
use crate::os::{Os, PageState, Prot};
use crate::report::{Misuse, abort};
use crate::size::{HEADER, align_down, align_up};
use crate::sync::Mutex;
use crate::sync::overlay::{AtomicU64, AtomicUsize, Ordering};

/// The threshold never slides beyond this, in bytes.
const MAX_SLIDING: usize = 32 << 20;
/// How many mappings the cache holds.
const CACHED: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Spare {
    base: usize,
    len: usize,
}

/// Freed mappings, oldest first.
#[derive(Debug)]
struct Spares {
    list: [Spare; CACHED],
    count: usize,
    bytes: usize,
    /// How many of them (the first) were there at the last tick.
    old: usize,
}

impl Spares {
    const EMPTY: Spares = Spares {
        list: [Spare { base: 0, len: 0 }; CACHED],
        count: 0,
        bytes: 0,
        old: 0,
    };

    /// Takes one out; the others move up. `None` if there are not so many.
    fn remove(&mut self, index: usize) -> Option<Spare> {
        let filled = self.list.get_mut(..self.count)?;
        let spare = *filled.get(index)?;
        filled.get_mut(index..)?.rotate_left(1);
        self.count -= 1;
        self.bytes -= spare.len;
        self.old -= usize::from(index < self.old);
        Some(spare)
    }

    /// Adds one, if there is a place for it.
    fn push(&mut self, spare: Spare) -> bool {
        let Some(place) = self.list.get_mut(self.count) else {
            return false;
        };
        *place = spare;
        self.count += 1;
        self.bytes += spare.len;
        true
    }

    /// The smallest that is large enough, else the largest.
    fn best(&self, len: usize) -> Option<usize> {
        let spares = self.list.iter().take(self.count).enumerate();
        let key = |have: usize| {
            if have >= len {
                (0, have)
            } else {
                (1, usize::MAX - have)
            }
        };
        spares
            .min_by_key(|(_, spare)| key(spare.len))
            .map(|(index, _)| index)
    }
}

/// A mapped block: its payload address, and whether its memory may hold old data.
#[derive(Debug, Clone, Copy)]
pub struct Mapped {
    /// The payload address.
    pub payload: usize,
    /// Addresses between which the payload is zero.
    pub zero: (usize, usize),
}

/// All mappings of the process.
#[derive(Debug)]
pub struct Maps {
    table: MapTable,
    spares: Mutex<Spares>,
    /// The sliding threshold; 0 until it slid.
    slid: AtomicUsize,
    count: AtomicUsize,
    bytes: AtomicUsize,
    count_peak: AtomicUsize,
    bytes_peak: AtomicUsize,
    /// Bytes that nobody uses and that the kernel would not unmap.
    stranded: AtomicUsize,
    returned: AtomicU64,
    served: AtomicU64,
    freed: AtomicU64,
}

impl Maps {
    /// No mappings.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Maps {
        Maps {
            table: MapTable::new(),
            spares: Mutex::new(Spares::EMPTY),
            slid: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            count_peak: AtomicUsize::new(0),
            bytes_peak: AtomicUsize::new(0),
            stranded: AtomicUsize::new(0),
            returned: AtomicU64::new(0),
            served: AtomicU64::new(0),
            freed: AtomicU64::new(0),
        }
    }

    /// Writes, and changes nothing: every miss reads close by, and of a library's data a read would
    /// bring in the pages around it, with a second fault for the first write.
    pub fn touch(&self) {
        let _ = self
            .slid
            .compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// The chunk size in bytes from which a request gets a mapping of its own.
    #[inline]
    pub fn threshold(&self, settings: &Settings) -> usize {
        let fixed = settings.get(Key::MmapThreshold);
        if settings.sliding_threshold() {
            fixed.max(self.slid.load(Ordering::Relaxed))
        } else {
            fixed
        }
    }

    /// Whether one more mapping is allowed.
    pub fn may_map(&self, settings: &Settings) -> bool {
        self.count.load(Ordering::Relaxed) < settings.get(Key::MmapMax)
    }

    /// Maps a block of at least `request` bytes at a multiple of `align` (a power of two). One
    /// that is to be `zeroed` is mapped anew: the user may touch little of it, a kept one would
    /// have to be cleared.
    /// `None` if the kernel refuses.
    pub fn allocate<O: Os>(
        &self,
        os: &O,
        keys: &Keys<O::Region>,
        request: usize,
        align: usize,
        zeroed: bool,
    ) -> Option<Mapped> {
        let page = os.page_size();
        let lead = align.max(HEADER);
        let len = align_up(request.checked_add(lead)?, page);
        if len > isize::MAX as usize {
            return None;
        }
        let (base, len) = if align <= HEADER {
            let kept = if zeroed {
                None
            } else {
                self.take_spare(os, len)
            };
            kept.or_else(|| {
                self.give_up(os, len);
                self.map(os, len).map(|base| (base, len))
            })?
        } else {
            self.give_up(os, len);
            self.map_aligned(os, request, align)?
        };
        let payload = align_up(base + HEADER, align.max(crate::size::ALIGN));
        // In use before it is written to: an audit takes no lock of ours.
        let (from, to) = os.zero_run(base, base + len);
        os.note(base, base + len, PageState::Live);
        // SAFETY: the 16 bytes before the payload lie in the mapping that was made for it.
        let chunk = unsafe { keys.chunk(payload - HEADER) };
        chunk.begin(Low::of(0).with_prev_in_use(true).with_mapped(), State::Used);
        if !self.table.insert(os, payload, len) {
            self.unmap(os, Spare { base, len });
            return None;
        }
        self.count_in(len);
        Some(Mapped {
            payload,
            zero: (from.max(payload), to),
        })
    }

    fn map<O: Os>(&self, os: &O, len: usize) -> Option<usize> {
        os.map(0, len, Prot::ReadWrite).ok()
    }

    /// A mapping whose payload can be aligned beyond its first page; ends that are not needed
    /// go back.
    fn map_aligned<O: Os>(&self, os: &O, request: usize, align: usize) -> Option<(usize, usize)> {
        let page = os.page_size();
        let wide = align_up(request.checked_add(align)?.checked_add(page)?, page);
        let base = self.map(os, wide)?;
        let payload = align_up(base + HEADER, align);
        let from = align_down(payload - HEADER, page);
        let to = align_up(payload + request, page);
        for (start, end) in [(base, from), (to, base + wide)] {
            // SAFETY: an end of a mapping that was made just now.
            if start < end && unsafe { os.unmap(start, end - start) }.is_err() {
                // No more mappings allowed: it stays, never touched.
                self.stranded.fetch_add(end - start, Ordering::Relaxed);
            }
        }
        Some((from, to - from))
    }

    fn count_in(&self, len: usize) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = self.bytes.fetch_add(len, Ordering::Relaxed) + len;
        self.count_peak.fetch_max(count, Ordering::Relaxed);
        self.bytes_peak.fetch_max(bytes, Ordering::Relaxed);
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// A kept mapping, made `len` bytes long: base and length.
    fn take_spare<O: Os>(&self, os: &O, len: usize) -> Option<(usize, usize)> {
        let spare = {
            let mut spares = self.spares.try_lock()?;
            let index = spares.best(len)?;
            spares.remove(index)?
        };
        let have = spare.len;
        if have < len {
            // SAFETY: the spare is one whole mapping of ours that nobody uses.
            return match unsafe { os.remap(spare.base, have, len) } {
                Ok(base) => Some((base, len)),
                Err(_) => {
                    self.unmap(os, spare);
                    None
                }
            };
        }
        if have > len + len / 8 {
            // SAFETY: the tail of a spare mapping.
            if unsafe { os.unmap(spare.base + len, have - len) }.is_ok() {
                self.returned
                    .fetch_add((have - len) as u64, Ordering::Relaxed);
                return Some((spare.base, len));
            }
        }
        Some((spare.base, have))
    }

    fn unmap<O: Os>(&self, os: &O, spare: Spare) {
        // SAFETY: one whole mapping of ours that nobody uses.
        unsafe {
            if os.unmap(spare.base, spare.len).is_err() {
                // Too many mappings to split one: keep the addresses, give the memory back.
                let _ = os.discard(spare.base, spare.len);
                self.stranded.fetch_add(spare.len, Ordering::Relaxed);
            }
        }
        self.returned.fetch_add(spare.len as u64, Ordering::Relaxed);
    }

    /// Unmaps kept mappings of `bytes` in all, oldest first: the system is about to be asked
    /// for as much. Returns how many bytes were given up.
    pub fn give_up<O: Os>(&self, os: &O, bytes: usize) -> usize {
        let mut given = 0;
        while given < bytes {
            let oldest = self
                .spares
                .try_lock()
                .and_then(|mut spares| spares.remove(0));
            let Some(spare) = oldest else {
                break;
            };
            given += spare.len;
            self.unmap(os, spare);
        }
        given
    }

    /// A tick passed: mappings that were kept for all of it are unmapped.
    pub fn age<O: Os>(&self, os: &O) {
        loop {
            let Some(mut spares) = self.spares.try_lock() else {
                return;
            };
            let oldest = if spares.old == 0 {
                None
            } else {
                spares.remove(0)
            };
            let Some(spare) = oldest else {
                spares.old = spares.count;
                return;
            };
            drop(spares);
            self.unmap(os, spare);
        }
    }

    /// What the address owns.
    #[inline]
    pub fn find<O: Os>(&self, os: &O, payload: usize) -> Owned {
        self.table.find(os, payload)
    }

    /// The live mapping that contains an address, for diagnosis.
    pub fn containing<O: Os>(&self, os: &O, addr: usize) -> Option<(usize, usize)> {
        self.table.containing(os, addr)
    }

    /// Usable bytes of the mapping of `len` bytes that `payload` owns.
    #[must_use]
    pub fn usable<O: Os>(os: &O, payload: usize, len: usize) -> usize {
        align_down(payload - HEADER, os.page_size()) + len - payload
    }

    /// Verifies the head of a live mapping of `len` bytes, and that the account of pages knows
    /// its first and its last page as in use; aborts if not.
    pub fn verify<O: Os>(&self, os: &O, keys: &Keys<O::Region>, payload: usize, len: usize) {
        // SAFETY: the table says that the address owns a mapping, which begins before its head.
        let chunk = unsafe { keys.chunk(payload - HEADER) };
        if !chunk.is(State::Used) || !chunk.low().is_mapped() {
            abort(Misuse::CorruptHead { address: payload });
        }
        let page = os.page_size();
        let base = align_down(payload - HEADER, page);
        for at in [base, base + len - page] {
            let (state, _) = os.run(at, at + page);
            if !matches!(state, PageState::Live | PageState::Unknown) {
                abort(Misuse::WrongPage { address: at });
            }
        }
    }

    /// Takes a mapping back; `false` if the address owns none (any more). Slides the threshold
    /// up to its size as glibc does.
    pub fn free<O: Os>(
        &self,
        os: &O,
        keys: &Keys<O::Region>,
        settings: &Settings,
        payload: usize,
    ) -> bool {
        if let Owned::Live(len) = self.find(os, payload) {
            self.verify(os, keys, payload, len);
        }
        let Some(len) = self.table.remove(os, payload) else {
            return false;
        };
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(len, Ordering::Relaxed);
        self.freed.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the mapping still exists and is ours alone now.
        unsafe { keys.chunk(payload - HEADER) }.set_tag(0);
        if settings.sliding_threshold() && len > self.threshold(settings) && len <= MAX_SLIDING {
            self.slid.store(len, Ordering::Relaxed);
        }
        let base = align_down(payload - HEADER, os.page_size());
        os.note(base, base + len, PageState::Cached);
        self.keep(os, settings, Spare { base, len });
        true
    }

    fn keep<O: Os>(&self, os: &O, settings: &Settings, spare: Spare) {
        let limit = settings.get(Key::MappingCacheBytes);
        if spare.len > limit {
            return self.unmap(os, spare);
        }
        loop {
            let Some(mut spares) = self.spares.try_lock() else {
                return self.unmap(os, spare);
            };
            if spares.bytes + spare.len <= limit && spares.push(spare) {
                return;
            }
            let oldest = spares.remove(0);
            drop(spares);
            match oldest {
                Some(oldest) => self.unmap(os, oldest),
                None => return self.unmap(os, spare),
            }
        }
    }

    /// Makes the mapping at `payload` large enough for `request` bytes, moving it if it must.
    /// Returns the new payload address; `None` if the kernel refuses, or if the block is
    /// aligned beyond what a move keeps.
    pub fn resize<O: Os>(
        &self,
        os: &O,
        keys: &Keys<O::Region>,
        payload: usize,
        old: usize,
        request: usize,
    ) -> Option<usize> {
        let page = os.page_size();
        let base = align_down(payload - HEADER, page);
        let offset = payload - base;
        let len = align_up(request.checked_add(offset)?, page);
        if len == old {
            return Some(payload);
        }
        if len > isize::MAX as usize {
            return None;
        }
        if len > old {
            // A move cannot be undone, so its record must find room.
            if !self.table.reserve(os, self.count.load(Ordering::Relaxed)) {
                return None;
            }
            self.give_up(os, len - old);
        }
        // The record goes first: an address that is moved must not be found meanwhile.
        self.table.remove(os, payload)?;
        // SAFETY: exactly one mapping of ours, owned by the caller who asked for the move.
        let moved = unsafe { os.remap(base, old, len) };
        let (at, now) = match moved {
            Ok(to) => (to + offset, len),
            Err(_) => (payload, old),
        };
        if at != payload {
            // SAFETY: the head moved along with the mapping.
            let chunk = unsafe { keys.chunk(at - HEADER) };
            chunk.mark(chunk.low(), State::Used);
        }
        os.note(at - offset, at - offset + now, PageState::Live);
        // The slot that was just left is free, so this finds room.
        self.table.insert(os, at, now);
        self.bytes.fetch_add(now, Ordering::Relaxed);
        let bytes = self.bytes.fetch_sub(old, Ordering::Relaxed) - old;
        self.bytes_peak.fetch_max(bytes, Ordering::Relaxed);
        moved.is_ok().then_some(at)
    }

    /// In a child process: forgets the cache if somebody held it at the fork.
    pub fn after_fork(&self) {
        if self.spares.is_locked() {
            // SAFETY: the holder does not exist in this process, and no other thread does
            // anything here before the child is in order.
            unsafe {
                self.spares.force_unlock();
            }
            *self.spares.lock() = Spares::EMPTY;
        }
    }

    /// Live mappings, now.
    pub fn totals(&self) -> Totals {
        Totals {
            chunks: self.count.load(Ordering::Relaxed) as u64,
            bytes: self.bytes.load(Ordering::Relaxed) as u64,
        }
    }

    /// Live mappings, at most (the two peaks may be of different times).
    pub fn peaks(&self) -> Totals {
        Totals {
            chunks: self.count_peak.load(Ordering::Relaxed) as u64,
            bytes: self.bytes_peak.load(Ordering::Relaxed) as u64,
        }
    }

    /// Bytes kept in freed mappings.
    pub fn kept_bytes(&self) -> usize {
        self.spares.lock().bytes
    }

    /// Bytes of address space that nobody uses but that the kernel refused to unmap: their memory
    /// was given back.
    pub fn stranded_bytes(&self) -> usize {
        self.stranded.load(Ordering::Relaxed)
    }

    /// Bytes given back so far, blocks served, blocks freed.
    pub fn counts(&self) -> (u64, u64, u64) {
        (
            self.returned.load(Ordering::Relaxed),
            self.served.load(Ordering::Relaxed),
            self.freed.load(Ordering::Relaxed),
        )
    }
}

#[cfg(not(loom))]
impl Default for Maps {
    fn default() -> Maps {
        Maps::new()
    }
}
