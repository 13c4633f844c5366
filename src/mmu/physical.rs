//! Physical memory: frames, who holds them, and their words.
//!
//! Everything that the machine remembers lies in frames, page tables included: an entry is read
//! and written in the words by its physical address, as the processor does it. A frame record
//! says what the frame is used for and how many entries name it (its reverse map names one of
//! them; the others are found by looking).
//!
//! Where only the accounting matters, data frames have no bytes: the first frames, as many as
//! there are words for, hold page tables, the others are mere numbers.

use super::addr::{FrameNumber, PAGE, PAGE_SHIFT, PhysAddr};
use super::entry::Entry;
use super::geometry::Geometry;

/// Words of a frame.
pub const FRAME_WORDS: usize = (PAGE / 8) as usize;

/// The end of a list of frames.
pub(super) const NONE: u32 = u32::MAX;

/// What a frame is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Nothing.
    Free,
    /// A page table (or a piece of one).
    Table,
    /// A private page.
    Anonymous,
    /// A page of an object: [`FrameRecord::index`] is its number in the object.
    Cached,
    /// Taken for something of the kernel's: never moved, never counted as a program's.
    Kernel,
}

/// Marks of a frame, beside its use. Bits of [`FrameRecord::marks`].
pub mod mark {
    /// Must stay in memory.
    pub const PINNED: u8 = 2;
    /// A cached page that the file does not have yet.
    pub const DIRTY: u8 = 4;
    /// May have been given up by `MADV_FREE`.
    pub const LAZY: u8 = 8;
    /// The policy knows the frame.
    pub const LISTED: u8 = 16;
    /// A cached page that can be read again from a file.
    pub const FILE: u8 = 32;
}

/// What is known of a frame. Plain data, to be handed in as storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRecord {
    /// A virtual page that maps the frame, if any does: where to look first.
    pub page: u64,
    /// The number of a cached page in its object.
    pub index: u64,
    /// Not of this frame: in the record of frame `n`, a bit for each of the frames `64n` to
    /// `64n + 63` that CLOCK saw used. So close together they stay in the host's caches.
    pub used: u64,
    /// Entries that name it, and one more if an object's cache does. For a table: its entries
    /// that say something.
    pub refs: u32,
    /// Neighbour in a list: free frames, or the policy's.
    pub prev: u32,
    /// Neighbour in a list.
    pub next: u32,
    /// The object of a cached page.
    pub object: u32,
    /// The address space of [`FrameRecord::page`].
    pub space: u16,
    /// What it is used for.
    pub usage: Use,
    /// A set of [`mark`]s.
    pub marks: u8,
}

impl FrameRecord {
    /// A record of nothing, to make storage of.
    pub const EMPTY: FrameRecord = FrameRecord {
        page: 0,
        index: 0,
        used: 0,
        refs: 0,
        prev: NONE,
        next: NONE,
        object: NONE,
        space: 0,
        usage: Use::Free,
        marks: 0,
    };

    /// Whether all of these marks are set.
    #[must_use]
    pub const fn has(&self, marks: u8) -> bool {
        self.marks & marks == marks
    }
}

/// One of the two stocks of free frames.
#[derive(Debug, Clone, Copy)]
struct Stock {
    head: u32,
    count: u32,
}

/// The frames of a machine.
#[derive(Debug)]
pub struct Physical<'m> {
    words: &'m mut [u64],
    frames: &'m mut [FrameRecord],
    /// Frames below this number have words.
    worded: u32,
    contents: bool,
    /// Free frames that have words, and those that have none.
    stocks: [Stock; 2],
}

impl<'m> Physical<'m> {
    /// All of `frames` free. With `contents`, only as many as `words` suffices for are used;
    /// without, data frames have no bytes and words serve page tables.
    ///
    /// # Panics
    /// With 2^32 - 1 frames or more.
    #[must_use]
    pub fn new(
        words: &'m mut [u64],
        frames: &'m mut [FrameRecord],
        contents: bool,
    ) -> Physical<'m> {
        let worded = (words.len() / FRAME_WORDS).min(frames.len());
        let used = if contents { worded } else { frames.len() };
        assert!(used < NONE as usize, "frame numbers have 32 bits");
        let (frames, _) = frames.split_at_mut(used);
        let mut physical = Physical {
            words,
            frames,
            worded: worded as u32,
            contents,
            stocks: [Stock {
                head: NONE,
                count: 0,
            }; 2],
        };
        for number in (0..used as u32).rev() {
            physical.frames[number as usize] = FrameRecord::EMPTY;
            physical.push(number);
        }
        physical
    }

    fn stock_of(&self, number: u32) -> usize {
        usize::from(number >= self.worded)
    }

    fn push(&mut self, number: u32) {
        let which = self.stock_of(number);
        let head = self.stocks[which].head;
        if head != NONE {
            self.frames[head as usize].prev = number;
        }
        self.frames[number as usize] = FrameRecord {
            next: head,
            used: self.frames[number as usize].used,
            ..FrameRecord::EMPTY
        };
        self.stocks[which].head = number;
        self.stocks[which].count += 1;
    }

    fn unlink(&mut self, number: u32) {
        let which = self.stock_of(number);
        let FrameRecord { prev, next, .. } = self.frames[number as usize];
        if prev == NONE {
            self.stocks[which].head = next;
        } else {
            self.frames[prev as usize].next = next;
        }
        if next != NONE {
            self.frames[next as usize].prev = prev;
        }
        self.stocks[which].count -= 1;
    }

    fn claim(&mut self, number: u32, usage: Use) -> FrameNumber {
        self.unlink(number);
        self.frames[number as usize] = FrameRecord {
            usage,
            used: self.frames[number as usize].used,
            ..FrameRecord::EMPTY
        };
        FrameNumber::new(number)
    }

    fn data_stock(&self) -> usize {
        usize::from(!self.contents)
    }

    /// A zeroed frame for a page table.
    pub fn take_table(&mut self) -> Option<FrameNumber> {
        let head = self.stocks[0].head;
        if head == NONE {
            return None;
        }
        let frame = self.claim(head, Use::Table);
        self.zero(frame);
        Some(frame)
    }

    /// Zeroed frames in a row for one page table.
    pub fn take_table_run(&mut self, count: u32) -> Option<FrameNumber> {
        if count == 1 {
            return self.take_table();
        }
        let first = self.free_run(count, 1, self.worded)?;
        for number in first..first + count {
            let frame = self.claim(number, Use::Table);
            self.zero(frame);
        }
        Some(FrameNumber::new(first))
    }

    /// A frame for data, with whatever it held last.
    pub fn take(&mut self, usage: Use) -> Option<FrameNumber> {
        let head = self.stocks[self.data_stock()].head;
        (head != NONE).then(|| self.claim(head, usage))
    }

    /// Frames in a row for a huge page, the first a multiple of their count.
    pub fn take_run(&mut self, count: u32, usage: Use) -> Option<FrameNumber> {
        let first = self.free_run(count, count, self.frames.len() as u32)?;
        for number in first..first + count {
            self.claim(number, usage);
        }
        Some(FrameNumber::new(first))
    }

    /// This very frame, if it is free.
    pub fn take_at(&mut self, frame: FrameNumber, usage: Use) -> Option<FrameNumber> {
        let record = self.frames.get(frame.raw() as usize)?;
        (record.usage == Use::Free).then(|| self.claim(frame.raw(), usage))
    }

    /// The frame is free again.
    ///
    /// # Panics
    /// If it is free already, or if a policy still lists it.
    pub fn give(&mut self, frame: FrameNumber) {
        let record = &self.frames[frame.raw() as usize];
        assert!(record.usage != Use::Free, "{frame} is free already");
        assert!(!record.has(mark::LISTED), "{frame} is in the policy's list");
        self.push(frame.raw());
    }

    fn free_run(&self, count: u32, align: u32, below: u32) -> Option<u32> {
        let mut run = 0;
        let mut first = 0;
        for number in 0..below {
            if self.frames[number as usize].usage != Use::Free {
                run = 0;
                continue;
            }
            if run == 0 {
                if number % align != 0 {
                    continue;
                }
                first = number;
            }
            run += 1;
            if run == count {
                return Some(first);
            }
        }
        None
    }

    /// The most free frames that lie side by side.
    #[must_use]
    pub fn longest_free_run(&self) -> usize {
        let (mut longest, mut run) = (0, 0);
        for record in self.frames.iter() {
            run = if record.usage == Use::Free {
                run + 1
            } else {
                0
            };
            longest = longest.max(run);
        }
        longest
    }

    /// All frames.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.len()
    }

    /// Free frames.
    #[must_use]
    pub fn free(&self) -> usize {
        self.stocks.iter().map(|stock| stock.count as usize).sum()
    }

    /// Whether so many page tables and so many data frames can be taken.
    #[must_use]
    pub fn has_room(&self, tables: usize, data: usize) -> bool {
        let of = |which: usize| self.stocks[which].count as usize;
        if self.contents {
            of(0) >= tables + data
        } else {
            of(0) >= tables && of(1) >= data
        }
    }

    /// Whether so many page tables can be had without giving anything up. Where data has no
    /// bytes, giving data up does not help.
    #[must_use]
    pub fn tables_are_apart(&self) -> bool {
        !self.contents
    }

    /// Whether data frames have bytes.
    #[must_use]
    pub const fn has_contents(&self) -> bool {
        self.contents
    }

    /// What is known of a frame.
    ///
    /// # Panics
    /// If there is no such frame.
    #[must_use]
    #[inline]
    pub fn record(&self, frame: FrameNumber) -> &FrameRecord {
        &self.frames[frame.raw() as usize]
    }

    /// What is known of a frame, to change it.
    #[inline]
    pub(super) fn record_mut(&mut self, frame: FrameNumber) -> &mut FrameRecord {
        &mut self.frames[frame.raw() as usize]
    }

    /// All records, for a policy.
    #[inline]
    pub(super) fn records(&mut self) -> &mut [FrameRecord] {
        self.frames
    }

    /// All records, to look at.
    pub(super) fn all_records(&self) -> &[FrameRecord] {
        self.frames
    }

    /// Free frames as the lists have them: for the checker.
    pub(super) fn free_list(&self, which: usize) -> impl Iterator<Item = FrameNumber> + '_ {
        let mut at = self.stocks[which].head;
        core::iter::from_fn(move || {
            let number = (at != NONE).then_some(at)?;
            at = self.frames[number as usize].next;
            Some(FrameNumber::new(number))
        })
        .take(self.frames.len() + 1)
    }

    /// The entry of geometry `G` at a physical address. Nothing, beyond the end of memory.
    #[must_use]
    #[inline]
    pub fn entry<G: Geometry>(&self, at: PhysAddr) -> Entry<G> {
        let word = self.words.get((at.raw() >> 3) as usize).copied();
        let word = word.unwrap_or(0);
        Entry::from_bits(if G::ENTRY_BYTES == 4 {
            (word >> ((at.raw() & 4) * 8)) & 0xffff_ffff
        } else {
            word
        })
    }

    /// Stores an entry as it is: whoever counts a table's entries does so before.
    #[inline]
    pub(super) fn set_entry<G: Geometry>(&mut self, at: PhysAddr, entry: Entry<G>) {
        let word = &mut self.words[(at.raw() >> 3) as usize];
        if G::ENTRY_BYTES == 4 {
            let shift = (at.raw() & 4) * 8;
            *word = *word & !(0xffff_ffff << shift) | (entry.bits() & 0xffff_ffff) << shift;
        } else {
            *word = entry.bits();
        }
    }

    fn span(&self, frame: FrameNumber) -> Option<core::ops::Range<usize>> {
        let first = frame.raw() as usize * FRAME_WORDS;
        (frame.raw() < self.worded).then_some(first..first + FRAME_WORDS)
    }

    /// The frame's words; none where data has no bytes.
    #[must_use]
    pub fn words(&self, frame: FrameNumber) -> &[u64] {
        self.span(frame).map_or(&[], |span| &self.words[span])
    }

    /// The frame's words, to change them.
    pub fn words_mut(&mut self, frame: FrameNumber) -> &mut [u64] {
        match self.span(frame) {
            Some(span) => &mut self.words[span],
            None => &mut [],
        }
    }

    /// Makes every byte of the frame zero.
    pub fn zero(&mut self, frame: FrameNumber) {
        self.words_mut(frame).fill(0);
    }

    /// Copies a frame.
    pub fn copy(&mut self, from: FrameNumber, to: FrameNumber) {
        if let (Some(from), Some(to)) = (self.span(from), self.span(to)) {
            self.words.copy_within(from, to.start);
        }
    }

    /// Reads bytes that do not leave their frame. Zero where data has no bytes.
    pub fn read(&self, at: PhysAddr, bytes: &mut [u8]) {
        for (byte, place) in bytes.iter_mut().zip(at.raw()..) {
            let word = self.words.get((place >> 3) as usize).copied();
            *byte = (word.unwrap_or(0) >> ((place & 7) * 8)) as u8;
        }
    }

    /// Writes bytes that do not leave their frame. Lost where data has no bytes.
    pub fn write(&mut self, at: PhysAddr, bytes: &[u8]) {
        for (byte, place) in bytes.iter().zip(at.raw()..) {
            if let Some(word) = self.words.get_mut((place >> 3) as usize) {
                let shift = (place & 7) * 8;
                *word = *word & !(0xff << shift) | u64::from(*byte) << shift;
            }
        }
    }
}

/// Frames that so many bytes take.
#[must_use]
pub(super) const fn frames_for(bytes: u64) -> u64 {
    bytes.div_ceil(PAGE)
}

const _: () = assert!(FRAME_WORDS * 8 == 1 << PAGE_SHIFT);
