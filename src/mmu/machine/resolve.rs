//! What the kernel does about a page fault: finds the page, or makes it.
//!
//! Each step first sees to it that everything it will need is there (which may throw another
//! page out, after which it looks again), so that it cannot stop half-way.

use crate::mmu::addr::{FrameNumber, ObjectId, PAGE, PAGE_SHIFT, PhysAddr, SwapSlot, VirtAddr};
use crate::mmu::area::{Area, Backing, Traits};
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::geometry::{Geometry, X86L4};
use crate::mmu::objects::PageTree;
use crate::mmu::physical::{Use, mark};
use crate::mmu::replace::Policy;
use crate::mmu::tables::{Leaf, Tables};

use super::pages::{NoMemory, Pages};

/// Why a page of an area cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unavailable {
    Guard,
    BeyondEnd,
    Memory,
}

impl From<NoMemory> for Unavailable {
    fn from(_: NoMemory) -> Unavailable {
        Unavailable::Memory
    }
}

/// What was done about a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// Nothing: the page was there.
    Present,
    /// A private page of zeros was made.
    ZeroFill,
    /// The one page of zeros was mapped.
    ZeroPage,
    /// The frame was copied.
    Copied,
    /// The frame is not shared any more and may be written to as it is.
    Reused,
    /// The page came back from the swap device.
    SwappedIn,
    /// The page was read from its file.
    FileIn,
    /// The object had the page in memory, or it is a new one of zeros.
    Cached,
}

/// The kernel's way through the last page fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultTrace<G: Geometry> {
    /// The address.
    pub addr: u64,
    /// The area that covers it.
    pub area: Option<Area>,
    /// Page tables that were made on the way down, the object's own not counted.
    pub tables: usize,
    /// The frame that was taken, if one was.
    pub frame: Option<FrameNumber>,
    /// The entry that was set.
    pub entry: Entry<G>,
    /// How the page was had.
    pub resolution: Resolution,
}

impl<G: Geometry> FaultTrace<G> {
    pub(super) const NONE: FaultTrace<G> = FaultTrace {
        addr: 0,
        area: None,
        tables: 0,
        frame: None,
        entry: Entry::EMPTY,
        resolution: Resolution::Present,
    };
}

/// A step that made room says so and is begun again.
enum Outcome {
    Again,
    Done(Resolution),
}

impl<G: Geometry> Pages<'_, G> {
    /// Makes the page at `va` of `area` accessible, for a store if `write`. The area's rights
    /// were looked at before.
    pub(super) fn fault_in(
        &mut self,
        space: usize,
        area: &Area,
        va: u64,
        write: bool,
    ) -> Result<(), Unavailable> {
        let page = va & !(PAGE - 1);
        self.mmu.forget_last();
        self.trace = FaultTrace {
            addr: va,
            area: Some(*area),
            ..FaultTrace::NONE
        };
        loop {
            let missing = self.missing(space, page);
            if let Outcome::Done(resolution) = self.step(space, area, page, write)? {
                self.trace.tables = missing - self.missing(space, page);
                self.trace.resolution = resolution;
                let entry = self.leaf(space, page).map(|leaf| leaf.entry);
                self.trace.entry = entry.unwrap_or(Entry::EMPTY);
                match resolution {
                    Resolution::SwappedIn | Resolution::FileIn => self.counts.major += 1,
                    Resolution::Present => {}
                    _ => self.counts.minor += 1,
                }
                return Ok(());
            }
        }
    }

    fn step(
        &mut self,
        space: usize,
        area: &Area,
        va: u64,
        write: bool,
    ) -> Result<Outcome, Unavailable> {
        let Some(leaf) = self.leaf(space, va) else {
            return self.absent(space, area, va, write);
        };
        match leaf.entry.meaning() {
            Meaning::Guard => Err(Unavailable::Guard),
            Meaning::Present(frame) if !write || leaf.entry.has(Entry::<G>::WRITABLE) => {
                if Self::pinned(area) && leaf.level == 0 {
                    self.pin(frame);
                }
                Ok(Outcome::Done(Resolution::Present))
            }
            Meaning::Present(_) if leaf.level > 0 => {
                self.split(space, va)?;
                Ok(Outcome::Again)
            }
            Meaning::Present(frame) => self.store(space, area, &leaf, frame),
            Meaning::Hidden(_) => {
                let entry = Self::with_rights(leaf.entry, area.rights);
                Tables::set(&mut self.memory, leaf.slot, entry);
                Ok(Outcome::Again)
            }
            Meaning::Swapped(slot) => self.swap_in(space, area, &leaf, slot),
            Meaning::Empty => self.absent(space, area, va, write),
        }
    }

    fn pinned(area: &Area) -> bool {
        area.traits.has(Traits::LOCKED)
    }

    /// The page stays in memory from now on: its area is locked.
    fn pin(&mut self, frame: FrameNumber) {
        if self.memory.record(frame).has(mark::LISTED) {
            self.policy.remove(self.memory.records(), frame);
            self.memory.record_mut(frame).marks |= mark::PINNED;
        }
    }

    /// A present entry of a private page, or of a shared one, that nobody else needs unchanged.
    fn own_entry(frame: FrameNumber, area: &Area) -> Entry<G> {
        Entry::present(frame, Entry::<G>::user_flags(area.rights))
    }

    /// A present entry of a page that a store must copy first.
    fn borrowed_entry(frame: FrameNumber, area: &Area) -> Entry<G> {
        Self::own_entry(frame, area)
            .without(Entry::<G>::WRITABLE)
            .with(Entry::<G>::COW)
    }

    /// A store to a present page that may not be written to as it is.
    fn store(
        &mut self,
        space: usize,
        area: &Area,
        leaf: &Leaf<G>,
        frame: FrameNumber,
    ) -> Result<Outcome, Unavailable> {
        let record = *self.memory.record(frame);
        let alone = record.usage == Use::Anonymous && record.refs == 1;
        if area.is_shared() || alone {
            let entry = leaf
                .entry
                .with(Entry::<G>::WRITABLE)
                .without(Entry::<G>::COW);
            Tables::set(&mut self.memory, leaf.slot, entry);
            self.shoot(space, leaf.start);
            if Self::pinned(area) {
                self.pin(frame);
            }
            return Ok(Outcome::Done(Resolution::Reused));
        }
        if self.room(0, 1)? {
            return Ok(Outcome::Again);
        }
        let copy = self.take(Use::Anonymous, Self::pinned(area))?;
        let zero = self.is_zero(frame);
        if zero {
            self.memory.zero(copy);
            self.counts.zero_filled += 1;
        } else {
            self.memory.copy(frame, copy);
            self.counts.copied += 1;
        }
        self.drop_leaf(space, leaf, Entry::EMPTY);
        let entry = Self::own_entry(copy, area);
        self.map(space, leaf.start, leaf.slot, copy, entry);
        Ok(Outcome::Done(if zero {
            Resolution::ZeroFill
        } else {
            Resolution::Copied
        }))
    }

    fn swap_in(
        &mut self,
        space: usize,
        area: &Area,
        leaf: &Leaf<G>,
        slot: SwapSlot,
    ) -> Result<Outcome, Unavailable> {
        if self.room(0, 1)? {
            return Ok(Outcome::Again);
        }
        let frame = self.take(Use::Anonymous, Self::pinned(area))?;
        self.read_block(slot.raw(), frame);
        self.swap.ins += 1;
        self.drop_slot(space, slot);
        let entry = Self::own_entry(frame, area);
        self.map(space, leaf.start, leaf.slot, frame, entry);
        Ok(Outcome::Done(Resolution::SwappedIn))
    }

    fn absent(
        &mut self,
        space: usize,
        area: &Area,
        va: u64,
        write: bool,
    ) -> Result<Outcome, Unavailable> {
        match area.backing_at(va) {
            Backing::Anonymous => self.absent_anonymous(space, area, va, write),
            Backing::Object { object, offset, .. } => {
                self.absent_object(space, area, va, write, object, offset)
            }
        }
    }

    fn absent_anonymous(
        &mut self,
        space: usize,
        area: &Area,
        va: u64,
        write: bool,
    ) -> Result<Outcome, Unavailable> {
        let missing = self.missing(space, va);
        let data = usize::from(write || self.zero.is_none());
        if self.room(missing, data)? {
            return Ok(Outcome::Again);
        }
        let slot = self.make(space, va).map_err(NoMemory::from)?;
        if write {
            let frame = self.take(Use::Anonymous, Self::pinned(area))?;
            self.memory.zero(frame);
            self.counts.zero_filled += 1;
            self.map(space, va, slot, frame, Self::own_entry(frame, area));
            return Ok(Outcome::Done(Resolution::ZeroFill));
        }
        let zero = match self.zero {
            Some(zero) => zero,
            None => {
                let zero = self.memory.take(Use::Kernel).ok_or(NoMemory)?;
                self.memory.zero(zero);
                self.memory.record_mut(zero).refs = 1;
                *self.zero.insert(zero)
            }
        };
        self.map(space, va, slot, zero, Self::borrowed_entry(zero, area));
        Ok(Outcome::Done(Resolution::ZeroPage))
    }

    fn absent_object(
        &mut self,
        space: usize,
        area: &Area,
        va: u64,
        write: bool,
        object: ObjectId,
        offset: u64,
    ) -> Result<Outcome, Unavailable> {
        let record = *self
            .objects
            .get(object)
            .filter(|record| record.covers(offset))
            .ok_or(Unavailable::BeyondEnd)?;
        let at = VirtAddr::new(offset);
        let (known, own) = match record.tree {
            Some(tree) => (
                tree.leaf(&self.memory, at),
                tree.missing(&self.memory, at, 0),
            ),
            None => (None, X86L4::LEVELS),
        };
        let cached = match known.map(|leaf| leaf.entry.meaning()) {
            Some(Meaning::Present(frame)) => Some(frame),
            _ => None,
        };
        let copies = write && !area.is_shared();
        let data = usize::from(cached.is_none()) + usize::from(copies);
        let own = if cached.is_some() { 0 } else { own };
        if self.room(self.missing(space, va) + own, data)? {
            return Ok(Outcome::Again);
        }
        let (frame, resolution) = match cached {
            Some(frame) => (frame, Resolution::Cached),
            None => self.cache_page(area, object, offset)?,
        };
        let slot = self.make(space, va).map_err(NoMemory::from)?;
        if copies {
            let copy = self.take(Use::Anonymous, Self::pinned(area))?;
            self.memory.copy(frame, copy);
            self.counts.copied += 1;
            self.map(space, va, slot, copy, Self::own_entry(copy, area));
            let copied = Resolution::Copied;
            let read = resolution != Resolution::Cached;
            return Ok(Outcome::Done(if read { resolution } else { copied }));
        }
        let entry = if area.is_shared() {
            Self::own_entry(frame, area)
        } else {
            Self::borrowed_entry(frame, area)
        };
        self.map(space, va, slot, frame, entry);
        Ok(Outcome::Done(resolution))
    }

    /// Brings a page of an object into memory; there is room.
    fn cache_page(
        &mut self,
        area: &Area,
        object: ObjectId,
        offset: u64,
    ) -> Result<(FrameNumber, Resolution), NoMemory> {
        let block = self.objects.get(object).and_then(|record| record.block);
        let slot = self.tree_slot(object, offset)?;
        let frame = self.take(Use::Cached, Self::pinned(area))?;
        let mut resolution = Resolution::Cached;
        let old = self.memory.entry::<X86L4>(slot);
        if let Meaning::Swapped(place) = old.meaning() {
            self.read_block(place.raw(), frame);
            self.swap.ins += 1;
            self.swap.release(place);
            resolution = Resolution::SwappedIn;
        } else if let Some(first) = block {
            self.read_file(object, first, offset, frame);
            resolution = Resolution::FileIn;
        } else {
            self.memory.zero(frame);
        }
        let record = self.memory.record_mut(frame);
        record.refs = 1;
        record.object = object.raw();
        record.index = offset >> PAGE_SHIFT;
        if block.is_some() {
            record.marks |= mark::FILE;
        }
        let entry = Entry::present(frame, 0);
        Tables::<X86L4>::set(&mut self.memory, slot, entry);
        Ok((frame, resolution))
    }

    /// Reads a page of a file; what lies behind its end reads as zero.
    fn read_file(&mut self, object: ObjectId, first: u32, offset: u64, frame: FrameNumber) {
        self.read_block(first + (offset >> PAGE_SHIFT) as u32, frame);
        self.counts.file_ins += 1;
        let len = self.objects.get(object).map_or(0, |record| record.len);
        let kept = len.saturating_sub(offset).min(PAGE);
        let words = self.memory.words_mut(frame);
        for (at, word) in words.iter_mut().enumerate() {
            let bytes = kept.saturating_sub(at as u64 * 8).min(8);
            if bytes < 8 {
                *word &= (1 << (bytes * 8)) - 1;
            }
        }
    }

    fn tree_slot(&mut self, object: ObjectId, offset: u64) -> Result<PhysAddr, NoMemory> {
        let mut tree = match self.tree(object) {
            Some(tree) => tree,
            None => PageTree::new(&mut self.memory).ok_or(NoMemory)?,
        };
        let slot = tree.make(&mut self.memory, VirtAddr::new(offset), 0);
        if let Some(record) = self.objects.get_mut(object) {
            record.tree = Some(tree);
        }
        Ok(slot?)
    }
}
