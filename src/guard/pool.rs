//! The pool: slots by size, their records, and the quarantine.
//!
//! The address space of the pool is cut into one region per class; a slot of class k has a body
//! of 2^k pages and a guard page after it ([`geometry`]). All that is not open is guard: by
//! `MADV_GUARD_INSTALL` where the kernel has it, which needs no mapping of its own per guard,
//! otherwise (and for large bodies, whose single pages would be too many) by taking all access
//! away. That costs two mappings per live object, so there are only so many of those.
//!
//! A slot belongs to whoever changed its state to `Busy` in one step; the lists of a class are
//! behind its lock. Every moment is a valid one for a child of fork: it forgets the lists of a
//! class that somebody had locked, whose freed slots then stay guards for ever.
#![allow(unsafe_code)] // Objects and records in raw pages.

mod check;
mod slots;

pub use check::PoolDamage;

use super::canary::{self, Damage};
use super::geometry;
use super::record::{Event, Record, Side, SlotState, StackId};
use super::scene::Slots;
use super::stacks::{FRAMES, Stacks};
use super::verdict::Given;
use crate::os::{self, Os, Prot, Region};
use crate::sync::Lock;
use crate::sync::overlay::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// Classes, and bits of their number.
pub const CLASSES: usize = 1 << CLASS_BITS;
const CLASS_BITS: u32 = 5;
/// Bodies of this class and above are closed by taking access away.
const LARGE: usize = 6;
/// Address space that the pool asks for, and the least that it takes.
const MOST_SPACE: usize = if usize::BITS == 64 { 1 << 44 } else { 1 << 28 };
const LEAST_SPACE: usize = 64 << 20;
/// Address space that is made ready at once, at least and at most.
const LEAST_STEP: usize = 32 << 10;
const MOST_STEP: usize = 4 << 20;

/// Where a slot is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotIndex {
    /// Its class: the body has 2^class pages.
    pub class: usize,
    /// Its number in the class.
    pub index: usize,
}

/// Why an object was not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The address is not the beginning of an object in use.
    NotLive,
    /// The caller believes in another size.
    Size,
    /// The caller believes in another alignment.
    Align,
    /// Bytes beside the object were overwritten.
    Overwritten(Damage),
}

/// Counters of the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuardTotals {
    /// Objects that were guarded.
    pub guarded: u64,
    /// Objects that should have been, but could not be.
    pub refused: u64,
    /// Guarded objects in use.
    pub live: u64,
    /// Bytes of their pages.
    pub live_bytes: u64,
    /// The most that these were.
    pub peak_bytes: u64,
    /// Freed objects that rest.
    pub resting: u64,
    /// Bytes that they had.
    pub resting_bytes: u64,
}

#[derive(Debug)]
struct Class {
    lock: Lock,
    /// Slots that were ever used.
    used: AtomicU32,
    /// Bytes of the region that are in slots that were ever used, or guards for later ones; what
    /// lies beyond has no access.
    ready: AtomicUsize,
    /// Where the records lie; 0 before there are any.
    records: AtomicUsize,
    /// Bytes of records that can be used.
    recorded: AtomicUsize,
    /// The quarantine, oldest first: numbers of slots plus one, 0 for none.
    first: AtomicU32,
    last: AtomicU32,
}

impl Class {
    const fn new() -> Class {
        Class {
            lock: Lock::new(),
            used: AtomicU32::new(0),
            ready: AtomicUsize::new(0),
            records: AtomicUsize::new(0),
            recorded: AtomicUsize::new(0),
            first: AtomicU32::new(0),
            last: AtomicU32::new(0),
        }
    }
}

/// The debug pool.
#[derive(Debug)]
pub struct Pool<O: Os + Copy + 'static> {
    os: O,
    base: AtomicUsize,
    /// 0 before the pool was started, or if it could not be.
    len: AtomicUsize,
    classes: [Class; CLASSES],
    stacks: Stacks,
    /// Keys the canaries.
    secret: AtomicU64,
    operations: AtomicU64,
    guarded: AtomicU64,
    refused: AtomicU64,
    live: AtomicU64,
    live_bytes: AtomicU64,
    peak_bytes: AtomicU64,
    resting: AtomicU64,
    resting_bytes: AtomicU64,
    /// The quarantine's measure.
    most_resting: AtomicU64,
    most_resting_bytes: AtomicU64,
    /// Whether the kernel has guards; otherwise access is taken away.
    has_guards: AtomicBool,
    /// Live objects whose pages have mappings of their own, and how many there may be.
    mapped: AtomicUsize,
    most_mapped: AtomicUsize,
    /// Whether it was said that there are no more mappings.
    said: AtomicBool,
    /// Whether somebody sweeps.
    sweeping: AtomicBool,
    /// The generation of forks that the lists are in order for.
    generation: AtomicU32,
}

impl<O: Os + Copy + 'static> Pool<O> {
    /// A pool without address space.
    #[must_use]
    pub const fn new(os: O) -> Pool<O> {
        Pool {
            os,
            base: AtomicUsize::new(0),
            len: AtomicUsize::new(0),
            classes: [const { Class::new() }; CLASSES],
            stacks: Stacks::new(),
            secret: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            guarded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            live: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            peak_bytes: AtomicU64::new(0),
            resting: AtomicU64::new(0),
            resting_bytes: AtomicU64::new(0),
            most_resting: AtomicU64::new(u64::MAX),
            most_resting_bytes: AtomicU64::new(u64::MAX),
            has_guards: AtomicBool::new(false),
            mapped: AtomicUsize::new(0),
            most_mapped: AtomicUsize::new(os::USUAL_MAPPINGS / 4),
            said: AtomicBool::new(false),
            sweeping: AtomicBool::new(false),
            generation: AtomicU32::new(0),
        }
    }

    /// Reserves the pool's addresses, of which there are as many as can be had up to `most`
    /// bytes; asks the kernel whether it has guards. `false` if nothing could be reserved. To be
    /// called once.
    pub fn start(&self, secret: u64, most: Option<usize>) -> bool {
        self.secret.store(secret, Ordering::Relaxed);
        let mut len = most.unwrap_or(MOST_SPACE);
        let base = loop {
            match self.os.map(0, len, Prot::None) {
                Ok(base) => break base,
                Err(_) if len / 2 >= LEAST_SPACE.min(most.unwrap_or(LEAST_SPACE)) => len /= 2,
                Err(_) => return false,
            }
        };
        self.has_guards.store(self.probe(), Ordering::Relaxed);
        self.base.store(base, Ordering::Relaxed);
        self.len.store(len, Ordering::Release);
        true
    }

    /// How much may rest: freed objects, and bytes that they had.
    pub fn set_quarantine(&self, count: usize, bytes: usize) {
        self.most_resting.store(count as u64, Ordering::Relaxed);
        self.most_resting_bytes
            .store(bytes as u64, Ordering::Relaxed);
    }

    /// How many live objects may have mappings of their own, out of all that the process may
    /// have: a quarter as many, for each needs two and others need some.
    pub fn set_mappings(&self, most: usize) {
        self.most_mapped.store(most / 4, Ordering::Relaxed);
    }

    /// Whether the kernel guards pages without a mapping for each guard.
    fn probe(&self) -> bool {
        let page = self.os.page_size();
        let Ok(at) = self.os.map(0, page, Prot::ReadWrite) else {
            return false;
        };
        let byte = self.os.region().at(at);
        // SAFETY: a page of our own.
        unsafe {
            // Emulators say yes to any advice: that a guard was there is seen from what is gone.
            byte.write_volatile(1);
            let has = self.os.guard(at, page).is_ok()
                && self.os.unguard(at, page).is_ok()
                && byte.read_volatile() == 0;
            let _ = self.os.unmap(at, page);
            has
        }
    }

    /// The kernel below.
    pub const fn os(&self) -> O {
        self.os
    }

    /// Whether an address lies in the pool.
    #[inline(always)]
    pub fn holds(&self, addr: usize) -> bool {
        addr.wrapping_sub(self.base.load(Ordering::Relaxed)) < self.len.load(Ordering::Relaxed)
    }

    /// Where the pool lies, and how long it is; 0 if it was not started.
    pub fn range(&self) -> (usize, usize) {
        let len = self.len.load(Ordering::Acquire);
        (self.base.load(Ordering::Relaxed), len)
    }

    /// Operations so far.
    pub fn now(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// The counters, now.
    pub fn totals(&self) -> GuardTotals {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        GuardTotals {
            guarded: get(&self.guarded),
            refused: get(&self.refused),
            live: get(&self.live),
            live_bytes: get(&self.live_bytes),
            peak_bytes: get(&self.peak_bytes),
            resting: get(&self.resting),
            resting_bytes: get(&self.resting_bytes),
        }
    }

    /// Keeps a stack for an [`Event`]; its number and how often one that
    /// `counts` came before.
    pub fn keep_stack(&self, frames: &[usize], counts: bool) -> (StackId, u32) {
        self.stacks.keep(&self.os, frames, counts)
    }

    /// The return addresses of a stack, innermost first; how many were written.
    pub fn stack(&self, id: StackId, frames: &mut [usize; FRAMES]) -> usize {
        self.stacks.get(&self.os, id, frames)
    }

    /// Puts the pool in order if this is a new process, whose number of forks is `generation`.
    /// Called before any lock of the pool is taken.
    #[inline]
    pub fn enter(&self, generation: u32) {
        let before = self.generation.load(Ordering::Relaxed);
        if before != generation {
            self.abandon(before, generation);
        }
    }

    #[cold]
    fn abandon(&self, before: u32, now: u32) {
        let first =
            self.generation
                .compare_exchange(before, now, Ordering::AcqRel, Ordering::Relaxed);
        if first.is_err() {
            return;
        }
        self.stacks.abandon();
        if self.sweeping.swap(false, Ordering::Relaxed) {
            self.each(|slot, _| {
                if let Some(cell) = self.cell(slot) {
                    let _ = cell.change(SlotState::Swept, SlotState::Live);
                }
            });
        }
        for class in &self.classes {
            if class.lock.is_locked() {
                class.first.store(0, Ordering::Relaxed);
                class.last.store(0, Ordering::Relaxed);
                class.lock.unlock();
            }
        }
    }

    /// Makes the next operation's event.
    pub fn event(&self, thread: u32, stack: StackId) -> Event {
        Event {
            when: self.operations.fetch_add(1, Ordering::Relaxed) + 1,
            thread,
            stack,
        }
    }

    /// Guards an object of `size` bytes at a multiple of `align`, a power of two. It is zero.
    /// Its address, or 0 if it cannot be: nothing has changed then.
    pub fn allocate(&self, size: usize, align: usize, side: Side, event: Event) -> usize {
        let payload = self.try_allocate(size, align, side, event).unwrap_or(0);
        if payload == 0 {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        payload
    }

    fn try_allocate(&self, size: usize, align: usize, side: Side, event: Event) -> Option<usize> {
        let page = self.os.page_size();
        let pages = geometry::pages(size, align, page)?;
        let class = pages.checked_next_power_of_two()?.trailing_zeros() as usize;
        if self.closes_by_access(class) && !self.may_map() {
            return None;
        }
        let (slot, cell) = self.take(class)?;
        let body = self.body(slot);
        let place = geometry::place(body, body + (page << class), size, align, page, side);
        let reused = cell.read().allocated.when != 0;
        if !self.open(cell, &place) {
            self.put(slot, cell);
            return None;
        }
        let record = Record {
            payload: place.payload,
            size,
            align,
            state: SlotState::Live,
            side,
            allocated: event,
            freed: Event::default(),
        };
        let region = self.os.region();
        if reused && cell.is_protected() && size != 0 {
            // Locked memory keeps its contents.
            // SAFETY: the object's bytes, which are open and nobody's yet.
            unsafe { region.at(place.payload).write_bytes(0, size) };
        }
        // SAFETY: the pages are open and nobody's yet.
        unsafe { canary::plant(region, &record, &place, self.secret.load(Ordering::Relaxed)) };
        cell.fill(&record);
        self.guarded.fetch_add(1, Ordering::Relaxed);
        self.live.fetch_add(1, Ordering::Relaxed);
        let bytes = (place.close - place.open) as u64;
        let before = self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.peak_bytes.fetch_max(before + bytes, Ordering::Relaxed);
        Some(place.payload)
    }

    /// Takes an object back: its pages become guards and rest.
    ///
    /// # Errors
    /// If `addr` is not the beginning of an object in use, or something is wrong with it; the
    /// object is then as before.
    ///
    /// # Safety
    /// If `addr` is an object in use, nobody uses it any more.
    pub unsafe fn release(&self, addr: usize, given: Given, event: Event) -> Result<(), Refusal> {
        let (slot, cell) = self.locate(addr).ok_or(Refusal::NotLive)?;
        let record = self.claim(cell, addr).ok_or(Refusal::NotLive)?;
        let place = self.placement(&record);
        let refuse = |why: Refusal| {
            let _ = cell.change(SlotState::Busy, SlotState::Live);
            Err(why)
        };
        if given.size.is_some_and(|size| size != record.size) {
            return refuse(Refusal::Size);
        }
        // Up to malloc's own alignment all are one.
        let natural = crate::size::ALIGN;
        if given
            .align
            .is_some_and(|align| align.max(natural) != record.align.max(natural))
        {
            return refuse(Refusal::Align);
        }
        // SAFETY: the slot is ours now, and its pages are open.
        if let Some(damage) = unsafe { self.examine(&record, &place) } {
            return refuse(Refusal::Overwritten(damage));
        }
        cell.set_freed(event);
        // SAFETY: the caller's promise: nobody uses the object.
        unsafe { self.close(cell, &place) };
        self.live.fetch_sub(1, Ordering::Relaxed);
        self.live_bytes
            .fetch_sub((place.close - place.open) as u64, Ordering::Relaxed);
        self.put(slot, cell);
        Ok(())
    }

    /// The object in use that begins at `addr`.
    pub fn live(&self, addr: usize) -> Option<Record> {
        let (_, cell) = self.locate(addr)?;
        let record = cell.read();
        (record.is_live() && record.payload == addr).then_some(record)
    }

    /// The object in use that holds `addr`, or ends there.
    pub fn find(&self, addr: usize) -> Option<(SlotIndex, Record)> {
        let (slot, cell) = self.locate(addr)?;
        let record = cell.read();
        let within = record.payload <= addr && addr <= record.end();
        (record.is_live() && within).then_some((slot, record))
    }

    /// Whether an address lies in the pages of an object in use: an access that is refused there is
    /// the program's own doing. Takes no lock.
    pub fn is_open(&self, addr: usize) -> bool {
        self.locate(addr).is_some_and(|(_, cell)| {
            let record = cell.read();
            let place = self.placement(&record);
            record.is_live() && place.open <= addr && addr < place.close
        })
    }

    /// Visits every slot that was ever used.
    pub fn each(&self, mut visit: impl FnMut(SlotIndex, Record)) {
        for (number, class) in self.classes.iter().enumerate() {
            for index in 0..class.used.load(Ordering::Acquire) as usize {
                let slot = SlotIndex {
                    class: number,
                    index,
                };
                if let Some(cell) = self.cell(slot) {
                    visit(slot, cell.read());
                }
            }
        }
    }

    /// How many slots of a class were ever used.
    pub fn used(&self, class: usize) -> usize {
        self.classes
            .get(class)
            .map_or(0, |class| class.used.load(Ordering::Acquire) as usize)
    }

    /// Looks at the canaries of every object in use. Nothing happens if somebody else does so at
    /// this moment.
    pub fn sweep(&self, mut found: impl FnMut(Record, Damage)) {
        if self.sweeping.swap(true, Ordering::Acquire) {
            return;
        }
        self.each(|slot, seen| {
            let Some(cell) = self.cell(slot).filter(|_| seen.is_live()) else {
                return;
            };
            if cell.change(SlotState::Live, SlotState::Swept).is_err() {
                return;
            }
            let record = cell.read();
            // SAFETY: who frees the object waits as long as it is being swept.
            let damage = unsafe { self.examine(&record, &self.placement(&record)) };
            let _ = cell.change(SlotState::Swept, SlotState::Live);
            if let Some(damage) = damage {
                found(record, damage);
            }
        });
        self.sweeping.store(false, Ordering::Release);
    }

    /// What the pool knows of the surroundings of an address. Takes no lock.
    pub fn slots(&self, addr: usize) -> Slots {
        let Some((class, offset)) = self.split(addr) else {
            return Slots::default();
        };
        let page = self.os.page_size();
        let record = |index: usize| {
            let known = self.cell(SlotIndex { class, index }).map(|c| c.read());
            known.filter(|record| record.allocated.when != 0)
        };
        let Some(offset) = offset.checked_sub(page) else {
            return Slots {
                above: record(0),
                ..Slots::default()
            };
        };
        let stride = self.stride(class);
        let index = offset.checked_div(stride).unwrap_or(0);
        // Behind the slots that were ever used the last of them is the nearest.
        let nearest = |index: usize| record(index.min(self.used(class).checked_sub(1)?));
        let before = index.checked_sub(1).and_then(nearest);
        if offset - index * stride < page << class {
            Slots {
                inside: record(index),
                below: before,
                above: record(index + 1),
            }
        } else {
            Slots {
                inside: None,
                below: nearest(index),
                above: record(index + 1),
            }
        }
    }
}
