//! The page side of the machine: what lies behind the areas.
//!
//! Everything that maps or unmaps a frame goes through here, so that reference counts, sizes and
//! the TLB never disagree with the tables.

use crate::mmu::addr::{Asid, FrameNumber, ObjectId, PAGE, PhysAddr, SwapSlot, VirtAddr};
use crate::mmu::cpu::Mmu;
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::geometry::Geometry;
use crate::mmu::objects::{Objects, PageTree};
use crate::mmu::physical::{FRAME_WORDS, Physical, Use, mark};
use crate::mmu::replace::{Policy, Replacement};
use crate::mmu::swap::Swap;
use crate::mmu::tables::{Leaf, NoFrame, Tables};

use super::FaultTrace;

/// Neither a frame nor a slot is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NoMemory;

impl From<NoFrame> for NoMemory {
    fn from(_: NoFrame) -> NoMemory {
        NoMemory
    }
}

/// Sizes of one address space's pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sizes {
    /// Private pages in memory.
    pub anonymous: u64,
    /// Pages of files in memory.
    pub file: u64,
    /// Pages of shared memory in memory.
    pub shared: u64,
    /// Pages on the swap device.
    pub swapped: u64,
    /// The most pages that were in memory at once.
    pub peak: u64,
}

impl Sizes {
    /// Pages in memory (RSS). The page of zeros is not counted.
    #[must_use]
    pub const fn resident(&self) -> u64 {
        self.anonymous + self.file + self.shared
    }
}

/// The pages of one address space. Plain data, to be handed in as storage.
#[derive(Debug, Clone, Copy)]
pub struct PageMap<G> {
    pub(super) tables: Option<Tables<G>>,
    pub(super) sizes: Sizes,
}

impl<G> PageMap<G> {
    /// A map of nothing, to make storage of.
    pub const EMPTY: PageMap<G> = PageMap {
        tables: None,
        sizes: Sizes {
            anonymous: 0,
            file: 0,
            shared: 0,
            swapped: 0,
            peak: 0,
        },
    };
}

/// Counters of the kernel's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FaultCounts {
    /// Faults that needed no device.
    pub minor: u64,
    /// Faults that read from swap or a file.
    pub major: u64,
    /// Private pages of zeros that were made.
    pub zero_filled: u64,
    /// Frames that a store copied.
    pub copied: u64,
    /// Pages thrown out, dropped ones too.
    pub evicted: u64,
    /// Pages read from files.
    pub file_ins: u64,
    /// Pages written to files.
    pub file_outs: u64,
}

/// All of the page side.
#[derive(Debug)]
pub(super) struct Pages<'m, G: Geometry> {
    pub memory: Physical<'m>,
    pub maps: &'m mut [PageMap<G>],
    pub mmu: Mmu<'m, G>,
    pub policy: Replacement,
    pub swap: Swap<'m>,
    /// Swap slots, then the blocks of files.
    pub disk: &'m mut [u64],
    pub objects: Objects<'m>,
    /// The page of zeros that loads from untouched pages see.
    pub zero: Option<FrameNumber>,
    pub kernel: Option<Tables<G>>,
    /// Entries carry a space number, so that a switch need not flush.
    pub tagged: bool,
    pub counts: FaultCounts,
    /// A call that cannot fail by itself ran out of memory for page tables.
    pub short: bool,
    pub trace: FaultTrace<G>,
}

impl<G: Geometry> Pages<'_, G> {
    pub(super) fn tables(&self, space: usize) -> Option<&Tables<G>> {
        self.maps.get(space)?.tables.as_ref()
    }

    pub(super) fn leaf(&self, space: usize, va: u64) -> Option<Leaf<G>> {
        self.tables(space)?.leaf(&self.memory, VirtAddr::new(va))
    }

    pub(super) fn next(&self, space: usize, from: u64, end: u64) -> Option<Leaf<G>> {
        self.tables(space)?.next(&self.memory, from, end)
    }

    /// Page tables that a page at `va` still needs.
    pub(super) fn missing(&self, space: usize, va: u64) -> usize {
        self.tables(space)
            .map_or(0, |t| t.missing(&self.memory, VirtAddr::new(va), 0))
    }

    /// Where the entry of the page at `va` lies, with its tables made.
    pub(super) fn make(&mut self, space: usize, va: u64) -> Result<PhysAddr, NoFrame> {
        let map = self.maps.get_mut(space).ok_or(NoFrame)?;
        let tables = map.tables.as_mut().ok_or(NoFrame)?;
        tables.make(&mut self.memory, VirtAddr::new(va), 0)
    }

    /// What the TLB calls a space.
    pub(super) fn asid(&self, space: usize) -> Asid {
        Asid::new(if self.tagged { space as u16 } else { 0 })
    }

    /// The TLB forgets a page of a space.
    pub(super) fn shoot(&mut self, space: usize, va: u64) {
        let here = self.tables(space).map(Tables::root) == self.mmu.root();
        if here || self.tagged {
            self.mmu.shoot(VirtAddr::new(va), self.asid(space));
        }
    }

    pub(super) fn is_zero(&self, frame: FrameNumber) -> bool {
        self.zero == Some(frame)
    }

    /// The counter that a mapping of the frame belongs to.
    fn size_mut(&mut self, space: usize, frame: FrameNumber) -> Option<&mut u64> {
        let record = self.memory.record(frame);
        let (usage, file) = (record.usage, record.has(mark::FILE));
        let sizes = &mut self.maps.get_mut(space)?.sizes;
        match usage {
            Use::Anonymous => Some(&mut sizes.anonymous),
            Use::Cached if file => Some(&mut sizes.file),
            Use::Cached => Some(&mut sizes.shared),
            _ => None,
        }
    }

    /// An entry that names `frame` is stored in an empty place, or in place of a swapped page.
    pub(super) fn map(
        &mut self,
        space: usize,
        va: u64,
        slot: PhysAddr,
        frame: FrameNumber,
        entry: Entry<G>,
    ) {
        Tables::set(&mut self.memory, slot, entry);
        if self.is_zero(frame) {
            return;
        }
        let record = self.memory.record_mut(frame);
        record.refs += 1;
        record.space = space as u16;
        record.page = va / PAGE;
        if let Some(size) = self.size_mut(space, frame) {
            *size += 1;
        }
        let sizes = &mut self.maps[space].sizes;
        sizes.peak = sizes.peak.max(sizes.resident());
    }

    /// The entry named `frame` and does so no more. The last name of a frame frees it.
    pub(super) fn unname(&mut self, space: usize, frame: FrameNumber, entry: Entry<G>) {
        if self.is_zero(frame) {
            return;
        }
        if let Some(size) = self.size_mut(space, frame) {
            *size -= 1;
        }
        let record = self.memory.record_mut(frame);
        record.refs -= 1;
        if record.usage == Use::Cached && entry.has(Entry::<G>::DIRTY) {
            record.marks |= mark::DIRTY;
        }
        if record.refs == 0 {
            self.free(frame);
        }
    }

    /// Gives a frame back that no entry names.
    pub(super) fn free(&mut self, frame: FrameNumber) {
        if self.memory.record(frame).has(mark::LISTED) {
            self.policy.remove(self.memory.records(), frame);
        }
        self.memory.give(frame);
    }

    /// Replaces an entry by one that names no frame, and lets go of what it named.
    pub(super) fn drop_leaf(&mut self, space: usize, leaf: &Leaf<G>, by: Entry<G>) {
        Tables::set(&mut self.memory, leaf.slot, by);
        self.shoot(space, leaf.start);
        match leaf.entry.meaning() {
            Meaning::Present(first) => {
                let pages = (G::span(leaf.level) / PAGE) as u32;
                for number in first.raw()..first.raw() + pages {
                    self.unname(space, FrameNumber::new(number), leaf.entry);
                }
            }
            Meaning::Hidden(frame) => self.unname(space, frame, leaf.entry),
            Meaning::Swapped(slot) => self.drop_slot(space, slot),
            Meaning::Empty | Meaning::Guard => {}
        }
    }

    pub(super) fn drop_slot(&mut self, space: usize, slot: SwapSlot) {
        self.swap.release(slot);
        self.maps[space].sizes.swapped -= 1;
    }

    /// Makes the huge page around `va` ordinary ones, whose frames may then be thrown out.
    pub(super) fn split(&mut self, space: usize, va: u64) -> Result<(), NoMemory> {
        while let Some(leaf) = self.leaf(space, va).filter(|leaf| leaf.level > 0) {
            if self.room(1, 0)? {
                continue;
            }
            let map = &mut self.maps[space];
            let tables = map.tables.as_mut().ok_or(NoMemory)?;
            tables.make(&mut self.memory, VirtAddr::new(va), leaf.level - 1)?;
            self.shoot(space, leaf.start);
            if leaf.level > 1 {
                continue;
            }
            let Meaning::Present(first) = leaf.entry.meaning() else {
                return Ok(());
            };
            for number in 0..(G::span(1) / PAGE) as u32 {
                let frame = FrameNumber::new(first.raw() + number);
                let record = self.memory.record_mut(frame);
                if record.usage == Use::Anonymous && record.has(mark::PINNED) {
                    record.marks &= !mark::PINNED;
                    self.policy.insert(self.memory.records(), frame);
                }
            }
        }
        Ok(())
    }

    /// Calls `f` for every leaf of a range, all of them ordinary pages.
    pub(super) fn each(
        &mut self,
        space: usize,
        start: u64,
        end: u64,
        mut f: impl FnMut(&mut Self, Leaf<G>),
    ) {
        let mut at = start;
        while let Some(leaf) = self.next(space, at, end) {
            if leaf.level > 0 {
                if self.split(space, at.max(leaf.start)).is_err() {
                    self.short = true;
                    at = leaf.start + G::span(leaf.level);
                }
                continue;
            }
            at = leaf.start + PAGE;
            f(self, leaf);
        }
    }

    /// Drops everything in a range, guards too if `guards`.
    pub(super) fn drop_range(&mut self, space: usize, start: u64, end: u64, guards: bool) {
        let mut at = start;
        while let Some(leaf) = self.next(space, at, end) {
            let span = G::span(leaf.level);
            if leaf.level > 0 && (leaf.start < start || leaf.start + span > end) {
                if self.split(space, at.max(leaf.start)).is_err() {
                    self.short = true;
                    at = leaf.start + span;
                }
                continue;
            }
            at = leaf.start + span;
            if guards || leaf.entry.meaning() != Meaning::Guard {
                self.drop_leaf(space, &leaf, Entry::EMPTY);
            }
        }
    }

    /// Makes room for so many page tables and data frames, throwing out one page at most.
    /// `true` if it did: whoever looked something up before looks again, as it may be gone.
    pub(super) fn room(&mut self, tables: usize, data: usize) -> Result<bool, NoMemory> {
        if self.memory.has_room(tables, data) {
            return Ok(false);
        }
        let hopeless = self.memory.tables_are_apart() && !self.memory.has_room(tables, 0);
        if hopeless || !self.evict_one() {
            return Err(NoMemory);
        }
        Ok(true)
    }

    /// A frame for a page, as [`Pages::room`] promised one, which the policy knows from now on
    /// unless it must stay in memory.
    pub(super) fn take(&mut self, usage: Use, pinned: bool) -> Result<FrameNumber, NoMemory> {
        let frame = self.memory.take(usage).ok_or(NoMemory)?;
        if pinned {
            self.memory.record_mut(frame).marks |= mark::PINNED;
        } else {
            self.policy.insert(self.memory.records(), frame);
        }
        self.trace.frame = Some(frame);
        Ok(frame)
    }

    /// Copies a block of the disk into a frame; zeros where there is no disk.
    pub(super) fn read_block(&mut self, block: u32, frame: FrameNumber) {
        let from = block as usize * FRAME_WORDS;
        let words = self.memory.words_mut(frame);
        match self.disk.get(from..from + words.len()) {
            Some(bytes) => words.copy_from_slice(bytes),
            None => words.fill(0),
        }
    }

    /// Copies a frame to a block of the disk.
    pub(super) fn write_block(&mut self, frame: FrameNumber, block: u32) {
        let words = self.memory.words(frame);
        let to = block as usize * FRAME_WORDS;
        if let Some(place) = self.disk.get_mut(to..to + words.len()) {
            place.copy_from_slice(words);
        }
    }

    pub(super) fn tree(&self, object: ObjectId) -> Option<PageTree> {
        self.objects.get(object)?.tree
    }
}
