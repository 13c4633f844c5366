//! Which page has to go when memory is full.
//!
//! A [`Policy`] keeps its order in the frame records: it costs no memory of its own. FIFO and
//! LRU are lists, CLOCK is the list with a reference bit (second chance: Corbató 1968), RANDOM
//! guesses. OPT needs the future and is in [`offline`], with
//! Mattson's stack distances.

pub mod offline;

use super::addr::FrameNumber;
use super::physical::{FrameRecord, NONE, mark};

/// An order of replacement over frames.
pub trait Policy {
    /// A page came into the frame.
    fn insert(&mut self, frames: &mut [FrameRecord], frame: FrameNumber);

    /// The frame's page was used.
    fn touch(&mut self, frames: &mut [FrameRecord], frame: FrameNumber);

    /// The page that should go first, of those that `accept` lets go. It stays listed.
    fn victim(
        &mut self,
        frames: &mut [FrameRecord],
        accept: &dyn Fn(&FrameRecord) -> bool,
    ) -> Option<FrameNumber>;

    /// The frame's page is gone.
    fn remove(&mut self, frames: &mut [FrameRecord], frame: FrameNumber);
}

/// The policies by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// First in, first out.
    Fifo,
    /// Least recently used, exactly.
    Lru,
    /// Second chance.
    Clock,
    /// Any page, by a seed.
    Random(u64),
}

/// A list of frames, the next victim first.
#[derive(Debug, Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    const EMPTY: List = List {
        head: NONE,
        tail: NONE,
        len: 0,
    };

    fn append(&mut self, frames: &mut [FrameRecord], frame: u32) {
        let record = &mut frames[frame as usize];
        record.prev = self.tail;
        record.next = NONE;
        record.marks |= mark::LISTED;
        match self.tail {
            NONE => self.head = frame,
            tail => frames[tail as usize].next = frame,
        }
        self.tail = frame;
        self.len += 1;
    }

    fn unlink(&mut self, frames: &mut [FrameRecord], frame: u32) {
        let FrameRecord { prev, next, .. } = frames[frame as usize];
        match prev {
            NONE => self.head = next,
            prev => frames[prev as usize].next = next,
        }
        match next {
            NONE => self.tail = prev,
            next => frames[next as usize].prev = prev,
        }
        let record = &mut frames[frame as usize];
        record.prev = NONE;
        record.next = NONE;
        record.marks &= !mark::LISTED;
        self.len -= 1;
    }

    fn find(
        &self,
        frames: &[FrameRecord],
        accept: &dyn Fn(&FrameRecord) -> bool,
    ) -> Option<FrameNumber> {
        let mut at = self.head;
        while at != NONE {
            let record = &frames[at as usize];
            if accept(record) {
                return Some(FrameNumber::new(at));
            }
            at = record.next;
        }
        None
    }
}

/// Any of the policies, with its state.
#[derive(Debug, Clone, Copy)]
pub struct Replacement {
    kind: Kind,
    list: List,
    random: u64,
}

impl Replacement {
    /// Nothing is listed.
    #[must_use]
    pub const fn new(kind: Kind) -> Replacement {
        Replacement {
            kind,
            list: List::EMPTY,
            random: match kind {
                // The generator must not begin with zero.
                Kind::Random(seed) => seed ^ 0x9e37_79b9_7f4a_7c15 | 1,
                _ => 1,
            },
        }
    }

    /// Which policy it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Frames that are listed.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.list.len as usize
    }

    /// Whether no frame is listed.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.list.len == 0
    }

    /// Whether uses change the order at all.
    #[must_use]
    #[inline]
    pub const fn wants_touches(&self) -> bool {
        matches!(self.kind, Kind::Lru | Kind::Clock)
    }

    /// The listed frames, in the list's order, at most as many as there are frames: for checks.
    pub fn listed<'f>(&self, frames: &'f [FrameRecord]) -> impl Iterator<Item = FrameNumber> + 'f {
        let mut at = self.list.head;
        core::iter::from_fn(move || {
            let frame = (at != NONE).then_some(at)?;
            at = frames[frame as usize].next;
            Some(FrameNumber::new(frame))
        })
        .take(frames.len() + 1)
    }

    fn next_random(&mut self) -> u64 {
        // Marsaglia's xorshift64.
        let x = &mut self.random;
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        *x
    }
}

/// The frame was used since the hand came by.
#[inline]
fn set_used(frames: &mut [FrameRecord], frame: FrameNumber) {
    let number = frame.raw() as usize;
    if let Some(group) = frames.get_mut(number / 64) {
        group.used |= 1 << (number % 64);
    }
}

/// Whether the frame was used; no more from now on.
fn take_used(frames: &mut [FrameRecord], frame: FrameNumber) -> bool {
    let number = frame.raw() as usize;
    let bit = 1 << (number % 64);
    let group = &mut frames[number / 64].used;
    let used = *group & bit != 0;
    *group &= !bit;
    used
}

impl Policy for Replacement {
    fn insert(&mut self, frames: &mut [FrameRecord], frame: FrameNumber) {
        self.list.append(frames, frame.raw());
        set_used(frames, frame);
    }

    #[inline]
    fn touch(&mut self, frames: &mut [FrameRecord], frame: FrameNumber) {
        let number = frame.raw();
        match self.kind {
            // Of frames that are not listed the bit says nothing.
            Kind::Clock => set_used(frames, frame),
            Kind::Lru if self.list.tail != number && frames[number as usize].has(mark::LISTED) => {
                self.list.unlink(frames, number);
                self.list.append(frames, number);
            }
            _ => {}
        }
    }

    fn victim(
        &mut self,
        frames: &mut [FrameRecord],
        accept: &dyn Fn(&FrameRecord) -> bool,
    ) -> Option<FrameNumber> {
        match self.kind {
            Kind::Fifo | Kind::Lru => self.list.find(frames, accept),
            Kind::Clock => {
                // Each frame gets its second chance; after two rounds nobody has one left.
                for _ in 0..2 * self.list.len {
                    let head = self.list.head;
                    let used = take_used(frames, FrameNumber::new(head));
                    if !used && accept(&frames[head as usize]) {
                        return Some(FrameNumber::new(head));
                    }
                    self.list.unlink(frames, head);
                    self.list.append(frames, head);
                }
                None
            }
            Kind::Random(_) => {
                // When memory is full nearly every frame is listed, so guessing is quick.
                let all = frames.len() as u64;
                let may = |frame: &u32| {
                    let record = &frames[*frame as usize];
                    record.has(mark::LISTED) && accept(record)
                };
                for _ in 0..64 {
                    let guess = self.next_random().checked_rem(all)? as u32;
                    if may(&guess) {
                        return Some(FrameNumber::new(guess));
                    }
                }
                let first = self.next_random() % all;
                (0..all)
                    .map(|i| ((first + i) % all) as u32)
                    .find(may)
                    .map(FrameNumber::new)
            }
        }
    }

    fn remove(&mut self, frames: &mut [FrameRecord], frame: FrameNumber) {
        self.list.unlink(frames, frame.raw());
    }
}

/// Notices that a program does nothing but page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThrashDetector {
    window: u32,
    limit: u32,
    seen: u32,
    faults: u32,
    fires: bool,
}

impl ThrashDetector {
    /// Fires while, of the last full `window` of references, more than `limit` were faults that
    /// had to read from a device.
    #[must_use]
    pub const fn new(window: u32, limit: u32) -> ThrashDetector {
        ThrashDetector {
            window,
            limit,
            seen: 0,
            faults: 0,
            fires: false,
        }
    }

    /// One more reference.
    #[inline]
    pub fn note(&mut self, fault: bool) {
        self.seen += 1;
        self.faults += u32::from(fault);
        if self.seen >= self.window {
            self.fires = self.faults > self.limit;
            self.seen = 0;
            self.faults = 0;
        }
    }

    /// Whether it fires.
    #[must_use]
    pub const fn fires(&self) -> bool {
        self.fires
    }
}
