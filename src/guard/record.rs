//! What is kept of every object: one record per slot.
#![allow(unsafe_code)] // Records live in pages of their own.

use crate::os::Region;
use crate::sync::overlay::{AtomicU64, Ordering};

/// Where a stack is kept; 0 is no stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StackId(pub u32);

/// An allocation or a free: who, when and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Event {
    /// The pool's operation number, counted from 1; 0 if it never happened.
    pub when: u64,
    /// The kernel's thread id.
    pub thread: u32,
    /// The call stack.
    pub stack: StackId,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Never used.
    Unused = 0,
    /// Somebody is filling or emptying it.
    Busy = 1,
    /// An object in use.
    Live = 2,
    /// A freed object, all guard.
    Freed = 3,
    /// An object in use whose canaries are being looked at.
    Swept = 4,
}

impl SlotState {
    const fn from_bits(bits: u64) -> SlotState {
        match bits & 0xff {
            1 => SlotState::Busy,
            2 => SlotState::Live,
            3 => SlotState::Freed,
            4 => SlotState::Swept,
            _ => SlotState::Unused,
        }
    }
}

/// Which end of the object touches a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The end: catches overflow.
    Right = 0,
    /// The beginning: catches underflow.
    Left = 1,
}

/// One object, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its address.
    pub payload: usize,
    /// Bytes asked for.
    pub size: usize,
    /// Alignment asked for, in bytes: a power of two.
    pub align: usize,
    /// What the slot holds.
    pub state: SlotState,
    /// Where in its pages the object lies.
    pub side: Side,
    /// Its allocation.
    pub allocated: Event,
    /// Its end; all zero while it lives.
    pub freed: Event,
}

impl Record {
    /// The first address after the object.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.payload + self.size
    }

    /// Whether the object is in use.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.state, SlotState::Live | SlotState::Swept)
    }
}

/// Words of a record in memory. The first says what the slot holds and is changed in one step;
/// the others belong to whoever made it `Busy`, and to its owner while it lives.
const WORDS: usize = 8;
/// Bytes of a record in memory.
pub const RECORD_BYTES: usize = WORDS * size_of::<u64>();

const STATE: usize = 0;
const PAYLOAD: usize = 1;
const SIZE: usize = 2;
const ALLOCATED: usize = 3;
const FREED: usize = 5;
const NEXT: usize = 7;

const SIDE_BIT: u64 = 1 << 8;
const PROTECTED_BIT: u64 = 1 << 9;
const ALIGN_SHIFT: u32 = 16;

/// A record in memory.
#[derive(Clone, Copy)]
pub struct Cell<R> {
    region: R,
    at: usize,
}

impl<R: Region> Cell<R> {
    /// The record at an address.
    ///
    /// # Safety
    /// There lie [`RECORD_BYTES`] readable and writable bytes, aligned to a word, that are only
    /// accessed as records and never unmapped.
    pub const unsafe fn new(region: R, at: usize) -> Cell<R> {
        Cell { region, at }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        let at = self.at + index * size_of::<u64>();
        // SAFETY: the index is one of the constants above, the rest is the promise of `new`.
        unsafe { AtomicU64::from_ptr(self.region.at(at).cast()) }
    }

    /// Changes what the slot holds, if it is `from`. Otherwise what it is.
    pub fn change(&self, from: SlotState, to: SlotState) -> Result<(), SlotState> {
        let now = self.word(STATE).load(Ordering::Relaxed);
        if SlotState::from_bits(now) != from {
            return Err(SlotState::from_bits(now));
        }
        self.word(STATE)
            .compare_exchange(
                now,
                now & !0xff | to as u64,
                Ordering::AcqRel,
                Ordering::Acquire,
            )
            .map(drop)
            .map_err(SlotState::from_bits)
    }

    /// Whether its pages, when closed, are without access; otherwise they are guards.
    pub fn is_protected(&self) -> bool {
        self.word(STATE).load(Ordering::Relaxed) & PROTECTED_BIT != 0
    }

    /// Notes how its pages are closed. The caller has made the slot `Busy`.
    pub fn set_protected(&self, protected: bool) {
        let bits = self.word(STATE).load(Ordering::Relaxed) & !PROTECTED_BIT;
        let bit = if protected { PROTECTED_BIT } else { 0 };
        self.word(STATE).store(bits | bit, Ordering::Relaxed);
    }

    /// Writes the record of a new object down and makes the slot `Live`. The caller has made it
    /// `Busy`.
    pub fn fill(&self, record: &Record) {
        self.word(PAYLOAD)
            .store(record.payload as u64, Ordering::Relaxed);
        self.word(SIZE).store(record.size as u64, Ordering::Relaxed);
        self.set_event(ALLOCATED, record.allocated);
        self.set_event(FREED, Event::default());
        let kept = self.word(STATE).load(Ordering::Relaxed) & PROTECTED_BIT;
        let side = if record.side == Side::Left {
            SIDE_BIT
        } else {
            0
        };
        let align = u64::from(record.align.trailing_zeros()) << ALIGN_SHIFT;
        self.word(STATE).store(
            kept | side | align | SlotState::Live as u64,
            Ordering::Release,
        );
    }

    /// Notes the object's end. The caller has made the slot `Busy`.
    pub fn set_freed(&self, event: Event) {
        self.set_event(FREED, event);
    }

    /// The next slot in the quarantine.
    pub fn next(&self) -> u32 {
        self.word(NEXT).load(Ordering::Relaxed) as u32
    }

    /// Sets the next slot in the quarantine.
    pub fn set_next(&self, next: u32) {
        self.word(NEXT).store(u64::from(next), Ordering::Relaxed);
    }

    /// What the record says, with the state as it is now; a racing change may mix two objects
    /// of one slot, so who must not be mistaken looks at the state before and after.
    pub fn read(&self) -> Record {
        let bits = self.word(STATE).load(Ordering::Acquire);
        Record {
            payload: self.word(PAYLOAD).load(Ordering::Relaxed) as usize,
            size: self.word(SIZE).load(Ordering::Relaxed) as usize,
            align: 1usize << ((bits >> ALIGN_SHIFT) & 0x3f).min(u64::from(usize::BITS - 1)),
            state: SlotState::from_bits(bits),
            side: if bits & SIDE_BIT == 0 {
                Side::Right
            } else {
                Side::Left
            },
            allocated: self.event(ALLOCATED),
            freed: self.event(FREED),
        }
    }

    fn event(&self, at: usize) -> Event {
        let who = self.word(at + 1).load(Ordering::Relaxed);
        Event {
            when: self.word(at).load(Ordering::Relaxed),
            thread: (who >> 32) as u32,
            stack: StackId(who as u32),
        }
    }

    fn set_event(&self, at: usize, event: Event) {
        self.word(at).store(event.when, Ordering::Relaxed);
        let who = u64::from(event.thread) << 32 | u64::from(event.stack.0);
        self.word(at + 1).store(who, Ordering::Relaxed);
    }
}
