//! Page tables: trees of frames under a physical root.
//!
//! A table is freed only by [`Tables::prune`], when no area lies in its span any more, as
//! Linux's `free_pgtables` does it; dropping contents leaves it. Each table's frame record
//! counts the entries that say something.

use core::marker::PhantomData;

use super::addr::{FrameNumber, PAGE, PAGE_SHIFT, PhysAddr, VirtAddr};
use super::entry::{Entry, Meaning};
use super::geometry::Geometry;
use super::physical::{Physical, frames_for};

/// No frame is left for a table that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoFrame;

/// Why a page cannot be mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapError {
    /// No frame is left for a table.
    NoFrame,
    /// Something is there.
    Occupied,
    /// The geometry has no such huge page, the frame is not aligned to it, or its address has
    /// more bits than an entry.
    BadSize,
}

impl From<NoFrame> for MapError {
    fn from(_: NoFrame) -> MapError {
        MapError::NoFrame
    }
}

/// One step of a walk: an entry that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step<G: Geometry> {
    /// Its table's level, 0 for those that name pages.
    pub level: usize,
    /// Its place in the table.
    pub index: usize,
    /// Where the table begins.
    pub table: PhysAddr,
    /// Where the entry lies.
    pub slot: PhysAddr,
    /// What it says.
    pub entry: Entry<G>,
}

impl<G: Geometry> Step<G> {
    /// Whether the walk ends here with a page.
    #[must_use]
    pub fn is_leaf(&self) -> bool {
        self.level == 0 || is_huge(self.level, self.entry)
    }

    /// The physical address that `va` is translated to, if the walk ended with a page.
    #[must_use]
    pub fn target(&self, va: VirtAddr) -> Option<PhysAddr> {
        (self.is_leaf() && self.entry.is_present()).then(|| {
            let offset = va.raw() & (G::span(self.level) - 1);
            PhysAddr::new(self.entry.address().raw() + offset)
        })
    }
}

/// An entry of some address that says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<G: Geometry> {
    /// The first address that it serves.
    pub start: u64,
    /// The level of its table; above 0 it is a huge page.
    pub level: usize,
    /// Where it lies.
    pub slot: PhysAddr,
    /// What it says.
    pub entry: Entry<G>,
}

fn is_huge<G: Geometry>(level: usize, entry: Entry<G>) -> bool {
    level > 0 && entry.is_present() && entry.has(Entry::<G>::HUGE)
}

/// The page tables of one address space. Plain data: the tables themselves lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables<G> {
    root: PhysAddr,
    nodes: usize,
    geometry: PhantomData<G>,
}

impl<G: Geometry> Tables<G> {
    const TOP: usize = G::LEVELS - 1;

    /// An empty root; `None` without frames.
    #[must_use]
    pub fn new(memory: &mut Physical<'_>) -> Option<Tables<G>> {
        let root = memory.take_table_run(frames_for(G::table_bytes(Self::TOP)) as u32)?;
        Some(Self::at(root.start()))
    }

    /// The tables below a root that somebody else made.
    #[must_use]
    pub const fn at(root: PhysAddr) -> Tables<G> {
        Tables {
            root,
            nodes: 0,
            geometry: PhantomData,
        }
    }

    /// What CR3 must hold.
    #[must_use]
    pub const fn root(&self) -> PhysAddr {
        self.root
    }

    /// Tables beside the root.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Bytes of tables without the root: what Linux calls `VmPTE`.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.nodes as u64 * PAGE
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes_with_root(&self) -> u64 {
        self.bytes() + G::table_bytes(Self::TOP)
    }

    fn slot_in(table: PhysAddr, index: usize) -> PhysAddr {
        PhysAddr::new(table.raw() + (index * G::ENTRY_BYTES) as u64)
    }

    /// Looks `va` up, `visit`ing every entry on the way. The last step is the answer.
    pub fn walk(
        &self,
        memory: &Physical<'_>,
        va: VirtAddr,
        mut visit: impl FnMut(&Step<G>),
    ) -> Step<G> {
        let mut table = self.root;
        let mut level = Self::TOP;
        loop {
            let index = G::index(va, level);
            let slot = Self::slot_in(table, index);
            let entry = memory.entry::<G>(slot);
            let step = Step {
                level,
                index,
                table,
                slot,
                entry,
            };
            visit(&step);
            if step.is_leaf() || !entry.is_present() {
                return step;
            }
            table = entry.address();
            level -= 1;
        }
    }

    /// What `va` is mapped to; anything else than a present or otherwise telling leaf is `None`.
    #[must_use]
    pub fn leaf(&self, memory: &Physical<'_>, va: VirtAddr) -> Option<Leaf<G>> {
        let step = self.walk(memory, va, |_| {});
        (step.is_leaf() && step.entry != Entry::EMPTY).then(|| Leaf {
            start: va.raw() & !(G::span(step.level) - 1),
            level: step.level,
            slot: step.slot,
            entry: step.entry,
        })
    }

    /// The first leaf at or after `from` and before `end` (in one half of the address space)
    /// that says something. A huge page that begins before `from` counts.
    #[must_use]
    pub fn next(&self, memory: &Physical<'_>, from: u64, end: u64) -> Option<Leaf<G>> {
        let mut at = from;
        'root: while at < end {
            let mut table = self.root;
            let mut level = Self::TOP;
            loop {
                let span = G::span(level);
                let slot = Self::slot_in(table, G::index(VirtAddr::new(at), level));
                let entry = memory.entry::<G>(slot);
                if entry == Entry::EMPTY {
                    at = (at & !(span - 1)).checked_add(span)?;
                    if at >= end {
                        return None;
                    }
                    if G::index(VirtAddr::new(at), level) == 0 {
                        continue 'root;
                    }
                } else if level == 0 || is_huge(level, entry) {
                    return Some(Leaf {
                        start: at & !(span - 1),
                        level,
                        slot,
                        entry,
                    });
                } else {
                    table = entry.address();
                    level -= 1;
                }
            }
        }
        None
    }

    /// How many tables [`Tables::make`] would take.
    #[must_use]
    pub fn missing(&self, memory: &Physical<'_>, va: VirtAddr, level: usize) -> usize {
        let step = self.walk(memory, va, |_| {});
        step.level.saturating_sub(level)
    }

    /// Where the entry for `va` at `level` lies, with all tables on the way made and huge pages
    /// on the way split.
    ///
    /// # Errors
    /// If there are not frames enough; then nothing was made.
    pub fn make(
        &mut self,
        memory: &mut Physical<'_>,
        va: VirtAddr,
        level: usize,
    ) -> Result<PhysAddr, NoFrame> {
        let mut step = self.walk(memory, va, |_| {});
        if step.level < level {
            // A table lies where a huge page would: the caller looks at the entry.
            let mut found = step;
            self.walk(memory, va, |s| {
                if s.level == level {
                    found = *s;
                }
            });
            return Ok(found.slot);
        }
        if !memory.has_room(step.level - level, 0) {
            return Err(NoFrame);
        }
        while step.level > level {
            let frame = memory.take_table().ok_or(NoFrame)?;
            self.nodes += 1;
            let table = frame.start();
            if step.is_leaf() {
                Self::fill_split(memory, &step, frame);
            }
            let pointer = Entry::present(frame, Entry::<G>::WRITABLE | Entry::<G>::USER);
            Self::set(memory, step.slot, pointer);
            let level = step.level - 1;
            let index = G::index(va, level);
            let slot = Self::slot_in(table, index);
            step = Step {
                level,
                index,
                table,
                slot,
                entry: memory.entry(slot),
            };
        }
        Ok(step.slot)
    }

    /// The pages of a huge page, one level below, in a fresh table.
    fn fill_split(memory: &mut Physical<'_>, huge: &Step<G>, table: FrameNumber) {
        let below = huge.level - 1;
        let pages = (G::span(below) >> PAGE_SHIFT) as u32;
        let Meaning::Present(first) = huge.entry.meaning() else {
            return;
        };
        let mut flags = huge.entry.bits() & !Entry::<G>::ADDRESS;
        if below == 0 {
            flags &= !Entry::<G>::HUGE;
        }
        for index in 0..G::entries(below) {
            let frame = FrameNumber::new(first.raw() + index as u32 * pages);
            let slot = Self::slot_in(table.start(), index);
            Self::set(memory, slot, Entry::present(frame, flags));
        }
    }

    /// Stores an entry and keeps its table's count of entries.
    #[inline]
    pub(super) fn set(memory: &mut Physical<'_>, slot: PhysAddr, entry: Entry<G>) {
        let was = memory.entry::<G>(slot) != Entry::EMPTY;
        let is = entry != Entry::EMPTY;
        if was != is
            && let Some(frame) = slot.frame()
        {
            let record = memory.record_mut(frame);
            if is {
                record.refs += 1;
            } else {
                record.refs -= 1;
            }
        }
        memory.set_entry(slot, entry);
    }

    /// Maps a page. `flags` are those of [`Entry`].
    ///
    /// # Errors
    /// Without frames for tables, or where something is.
    pub fn map(
        &mut self,
        memory: &mut Physical<'_>,
        va: VirtAddr,
        frame: FrameNumber,
        flags: u64,
    ) -> Result<(), MapError> {
        self.map_huge(memory, va, 0, frame, flags)
    }

    /// Maps a huge page: the entry is in a table of `level`. (Level 0 is an ordinary page.)
    ///
    /// # Errors
    /// As [`Tables::map`]; if the geometry has no huge pages of this level; if the frame or the
    /// address is not a multiple of the page size.
    pub fn map_huge(
        &mut self,
        memory: &mut Physical<'_>,
        va: VirtAddr,
        level: usize,
        frame: FrameNumber,
        flags: u64,
    ) -> Result<(), MapError> {
        let span = G::span(level);
        if level > 0 && !G::is_huge_level(level)
            || frame.start().raw() & (span - 1) != 0
            || Entry::<G>::present(frame, 0).address() != frame.start()
            || level > 0 && va.raw() & (span - 1) != 0
        {
            return Err(MapError::BadSize);
        }
        let step = self.walk(memory, va, |_| {});
        if step.level < level || step.entry != Entry::EMPTY {
            return Err(MapError::Occupied);
        }
        let slot = self.make(memory, va, level)?;
        let huge = if level > 0 { Entry::<G>::HUGE } else { 0 };
        Self::set(memory, slot, Entry::present(frame, flags | huge));
        Ok(())
    }

    /// Makes the huge page around `va`, if there is one, ordinary pages.
    ///
    /// # Errors
    /// Without frames for the tables; then nothing changed.
    pub fn split(&mut self, memory: &mut Physical<'_>, va: VirtAddr) -> Result<(), NoFrame> {
        match self.leaf(memory, va) {
            Some(leaf) if leaf.level > 0 => self.make(memory, va, 0).map(|_| ()),
            _ => Ok(()),
        }
    }

    /// Takes the page at `va` out and says what was there. Tables stay.
    pub fn unmap(&mut self, memory: &mut Physical<'_>, va: VirtAddr) -> Option<Leaf<G>> {
        let leaf = self.leaf(memory, va)?;
        Self::set(memory, leaf.slot, Entry::EMPTY);
        Some(leaf)
    }

    /// Frees the tables whose whole span lies in `floor..ceiling`, where nothing is mapped any
    /// more. (The source of the rule is Linux's `free_pgtables`.)
    ///
    /// # Panics
    /// If a table to be freed still says something.
    pub fn prune(&mut self, memory: &mut Physical<'_>, floor: u64, ceiling: u64) {
        self.prune_table(memory, self.root, Self::TOP, 0, floor, ceiling);
    }

    fn prune_table(
        &mut self,
        memory: &mut Physical<'_>,
        table: PhysAddr,
        level: usize,
        base: u64,
        floor: u64,
        ceiling: u64,
    ) {
        if level == 0 || floor >= ceiling {
            return;
        }
        let span = G::span(level);
        let first = floor.saturating_sub(base) >> G::shift(level);
        let last = (ceiling - 1 - base) >> G::shift(level);
        for index in first..=last.min(G::entries(level) as u64 - 1) {
            let slot = Self::slot_in(table, index as usize);
            let entry = memory.entry::<G>(slot);
            if !entry.is_present() || is_huge(level, entry) {
                continue;
            }
            let start = base + index * span;
            let child = entry.address();
            self.prune_table(memory, child, level - 1, start, floor.max(start), ceiling);
            let Some(frame) = child.frame() else {
                continue;
            };
            if start >= floor && start + (span - 1) < ceiling {
                let left = memory.record(frame).refs;
                assert!(left == 0, "a page table of {left} entries is freed");
                Self::set(memory, slot, Entry::EMPTY);
                memory.give(frame);
                self.nodes -= 1;
            }
        }
    }

    /// Frees the root. Everything else was pruned before.
    pub fn end(self, memory: &mut Physical<'_>) {
        let first = self.root.raw() >> PAGE_SHIFT;
        for number in first..first + frames_for(G::table_bytes(Self::TOP)) {
            memory.give(FrameNumber::new(number as u32));
        }
    }

    /// Takes over the kernel's part of another root: everything from [`Geometry::USER_END`] on.
    /// The tables below are shared, only the root's entries are copied.
    pub fn adopt_kernel(&self, memory: &mut Physical<'_>, kernel: &Tables<G>) {
        for index in Self::kernel_indices() {
            let entry = memory.entry::<G>(Self::slot_in(kernel.root, index));
            Self::set(memory, Self::slot_in(self.root, index), entry);
        }
    }

    /// The places of a root that serve the kernel: the upper half of 64 bits, the last quarter
    /// of 32.
    #[must_use]
    pub fn kernel_indices() -> core::ops::Range<usize> {
        let all = G::entries(Self::TOP);
        let user = G::USER_END >> G::shift(Self::TOP);
        (user as usize).min(all)..all
    }

    /// Forgets the kernel's part, which is not this root's to free.
    pub(super) fn forget_kernel(&self, memory: &mut Physical<'_>) {
        for index in Self::kernel_indices() {
            Self::set(memory, Self::slot_in(self.root, index), Entry::EMPTY);
        }
    }

    /// Calls `visit` for every table, the root first, with its level and its present count of
    /// entries: for checks and reports. Kernel entries of the root are followed only if `kernel`.
    pub(super) fn each_table(
        &self,
        memory: &Physical<'_>,
        kernel: bool,
        visit: &mut dyn FnMut(PhysAddr, usize, usize),
    ) {
        self.visit_table(memory, self.root, Self::TOP, kernel, visit);
    }

    fn visit_table(
        &self,
        memory: &Physical<'_>,
        table: PhysAddr,
        level: usize,
        kernel: bool,
        visit: &mut dyn FnMut(PhysAddr, usize, usize),
    ) {
        let entries = G::entries(level);
        let telling = (0..entries)
            .filter(|i| memory.entry::<G>(Self::slot_in(table, *i)) != Entry::EMPTY)
            .count();
        visit(table, level, telling);
        if level == 0 {
            return;
        }
        for index in 0..entries {
            if level == Self::TOP && !kernel && Self::kernel_indices().contains(&index) {
                continue;
            }
            let entry = memory.entry::<G>(Self::slot_in(table, index));
            if entry.is_present() && !is_huge(level, entry) {
                self.visit_table(memory, entry.address(), level - 1, kernel, visit);
            }
        }
    }

    /// Frames of the root.
    #[must_use]
    pub fn root_frames() -> usize {
        frames_for(G::table_bytes(Self::TOP)) as usize
    }
}
