//! The checker: walks every table of every space and compares what it finds with the records.
//!
//! [`Machine::check`] returns the first damage, by invariant. It counts references by taking
//! each one off its record, looks that nothing is left, and puts them back with a second walk:
//! so it needs no memory of its own.

use crate::mmu::addr::{FrameNumber, PAGE, PhysAddr, Rights, VirtAddr};
use crate::mmu::area::Area;
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::geometry::{Geometry, X86L4};
use crate::mmu::objects::MAX_OBJECT;
use crate::mmu::physical::{Use, mark};
use crate::mmu::tables::{Leaf, Tables};
use crate::mmu::tlb::{Cached, GLOBAL};

use super::pages::Pages;
use super::{Machine, Sizes, SpaceRecord};

/// A broken invariant, and where it showed: an address, a frame or a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub invariant: Invariant,
    /// Where.
    pub at: u64,
}

/// The invariants of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// I1: the lists of free frames hold each free frame once and no other.
    Free = 1,
    /// I2: a frame has as many references as entries and objects name it, and is not free.
    References = 2,
    /// I3: each table's count is that of its entries, and no table is in two places.
    Tables = 3,
    /// I4: an object's tree and its frames name each other.
    Cache = 4,
    /// I5: the policy lists each frame that may go once, and no other.
    Listed = 5,
    /// I6: the sizes of each space are those of its entries.
    Sizes = 6,
    /// I7: a slot has as many references as entries name it.
    Swap = 7,
    /// I8: no entry allows what its area does not, or a store to what others see unchanged.
    Rights = 8,
    /// I9: the TLB says what the tables say.
    Tlb = 9,
    /// I10: the fast cache says what the tables say.
    Lookaside = 10,
    /// I11: areas are as they must be.
    Areas = 11,
}

impl Invariant {
    /// Every invariant.
    pub const ALL: [Invariant; 11] = [
        Invariant::Free,
        Invariant::References,
        Invariant::Tables,
        Invariant::Cache,
        Invariant::Listed,
        Invariant::Sizes,
        Invariant::Swap,
        Invariant::Rights,
        Invariant::Tlb,
        Invariant::Lookaside,
        Invariant::Areas,
    ];
}

const fn damage(invariant: Invariant, at: u64) -> Damage {
    Damage { invariant, at }
}

fn ensure(holds: bool, invariant: Invariant, at: u64) -> Result<(), Damage> {
    if holds {
        Ok(())
    } else {
        Err(damage(invariant, at))
    }
}

impl<G: Geometry> Machine<'_, G> {
    /// Verifies every invariant of the machine. It is left as it was, but takes time
    /// proportional to all entries.
    ///
    /// # Errors
    /// The first invariant found broken.
    pub fn check(&mut self) -> Result<(), Damage> {
        self.pages.check_free()?;
        self.pages.check_tables()?;
        self.pages.check_cache()?;
        self.pages.check_references()?;
        self.pages.check_listed()?;
        self.pages.check_sizes()?;
        for (place, record) in self.spaces.iter().enumerate() {
            self.check_areas(place, record)?;
        }
        self.pages.check_tlb()?;
        self.pages.check_fast()
    }

    fn check_areas(&self, place: usize, record: &SpaceRecord) -> Result<(), Damage> {
        let Some(space) = &record.0 else {
            let has_tables = self.pages.tables(place).is_some();
            return ensure(!has_tables, Invariant::Areas, place as u64);
        };
        let sound = space.check(&self.pool).is_ok();
        ensure(sound, Invariant::Areas, place as u64)?;
        let mut at = 0;
        while let Some(leaf) = self.pages.next(place, at, G::USER_END) {
            at = leaf.start + G::span(leaf.level);
            let area = space.find(&self.pool, leaf.start);
            let covered = area.filter(|area| area.end >= at);
            let area = covered.ok_or(damage(Invariant::Rights, leaf.start))?;
            let fits = self.pages.leaf_fits(&leaf, &area);
            ensure(fits, Invariant::Rights, leaf.start)?;
        }
        Ok(())
    }
}

impl<G: Geometry> Pages<'_, G> {
    fn check_free(&self) -> Result<(), Damage> {
        let mut listed = 0;
        for which in 0..2 {
            for frame in self.memory.free_list(which) {
                let free = self.memory.record(frame).usage == Use::Free;
                ensure(free, Invariant::Free, u64::from(frame.raw()))?;
                listed += 1;
            }
        }
        let free = self.all_frames().filter(|f| self.is(*f, Use::Free)).count();
        let sound = listed == free && free == self.memory.free();
        ensure(sound, Invariant::Free, listed as u64)
    }

    fn all_frames(&self) -> impl Iterator<Item = FrameNumber> + use<G> {
        (0..self.memory.frames() as u32).map(FrameNumber::new)
    }

    fn is(&self, frame: FrameNumber, usage: Use) -> bool {
        self.memory.record(frame).usage == usage
    }

    fn check_tables(&self) -> Result<(), Damage> {
        let mut found = Ok(());
        let mut frames = 0;
        let mut nodes;
        for map in self.maps.iter().filter_map(|map| map.tables) {
            nodes = 0;
            map.each_table(&self.memory, false, &mut |table, level, telling| {
                let counted = self.telling::<G>(table, level);
                found = found.and(ensure(
                    counted == Some(telling),
                    Invariant::Tables,
                    table.raw(),
                ));
                nodes += 1;
            });
            found?;
            let sound = nodes == map.nodes() + 1;
            ensure(sound, Invariant::Tables, map.root().raw())?;
            frames += nodes - 1 + Tables::<G>::root_frames();
        }
        if let Some(kernel) = self.kernel {
            nodes = 0;
            kernel.each_table(&self.memory, true, &mut |_, _, _| nodes += 1);
            let sound = nodes == kernel.nodes() + 1;
            ensure(sound, Invariant::Tables, kernel.root().raw())?;
            frames += nodes - 1 + Tables::<G>::root_frames();
        }
        for tree in self.objects.all().filter_map(|(_, object)| object.tree) {
            nodes = 0;
            tree.each_table(&self.memory, true, &mut |table, level, telling| {
                let counted = self.telling::<X86L4>(table, level);
                found = found.and(ensure(
                    counted == Some(telling),
                    Invariant::Tables,
                    table.raw(),
                ));
                nodes += 1;
            });
            found?;
            frames += nodes;
        }
        // A table in two places was counted twice.
        let all = self
            .all_frames()
            .filter(|f| self.is(*f, Use::Table))
            .count();
        ensure(frames == all, Invariant::Tables, frames as u64)
    }

    /// The count of a table's entries as its frames' records have it.
    fn telling<T: Geometry>(&self, table: PhysAddr, level: usize) -> Option<usize> {
        let first = table.frame()?.raw();
        let frames = T::table_bytes(level).div_ceil(PAGE) as u32;
        let mut sum = 0;
        for number in first..first + frames {
            let frame = FrameNumber::new(number);
            if number as usize >= self.memory.frames() || !self.is(frame, Use::Table) {
                return None;
            }
            sum += self.memory.record(frame).refs as usize;
        }
        Some(sum)
    }

    fn check_cache(&self) -> Result<(), Damage> {
        let mut cached = 0;
        for (id, object) in self.objects.all() {
            let Some(tree) = object.tree else { continue };
            let mut at = 0;
            while let Some(leaf) = tree.next(&self.memory, at, MAX_OBJECT) {
                at = leaf.start + PAGE;
                let Meaning::Present(frame) = leaf.entry.meaning() else {
                    continue;
                };
                let record = self.memory.record(frame);
                let sound = record.usage == Use::Cached
                    && record.object == id.raw()
                    && record.index == leaf.start / PAGE
                    && record.has(mark::FILE) == object.is_file()
                    && object.covers(leaf.start);
                ensure(sound, Invariant::Cache, u64::from(frame.raw()))?;
                cached += 1;
            }
        }
        let all = self
            .all_frames()
            .filter(|f| self.is(*f, Use::Cached))
            .count();
        ensure(cached == all, Invariant::Cache, cached as u64)
    }

    /// Takes every reference off, looks, and puts them back.
    fn check_references(&mut self) -> Result<(), Damage> {
        let wrong = self.each_reference(u32::MAX);
        let left = self.all_frames().find(|frame| {
            let record = self.memory.record(*frame);
            match record.usage {
                Use::Anonymous | Use::Cached => record.refs != 0,
                _ => false,
            }
        });
        let slots = (0..self.swap.slots() as u32).map(crate::mmu::addr::SwapSlot::new);
        let mut used = 0;
        let slot = slots.into_iter().find(|slot| {
            // A free slot has no reference, before and after.
            self.swap.record(*slot).refs() != 0
        });
        let _ = self.each_reference(1);
        for slot in (0..self.swap.slots() as u32).map(crate::mmu::addr::SwapSlot::new) {
            used += usize::from(self.swap.record(slot).refs() > 0);
        }
        wrong?;
        if let Some(frame) = left {
            return Err(damage(Invariant::References, u64::from(frame.raw())));
        }
        if let Some(slot) = slot {
            return Err(damage(Invariant::Swap, u64::from(slot.raw())));
        }
        ensure(used == self.swap.used(), Invariant::Swap, used as u64)
    }

    /// Adds `what` (modulo 2^32) to what every entry names; says if an entry names what it
    /// cannot.
    fn each_reference(&mut self, what: u32) -> Result<(), Damage> {
        let mut found = Ok(());
        for space in 0..self.maps.len() {
            let mut at = 0;
            while let Some(leaf) = self.next(space, at, G::USER_END) {
                let span = G::span(leaf.level);
                at = leaf.start + span;
                found = found.and(self.add_reference(leaf.entry, span / PAGE, what));
            }
        }
        for object in 0.. {
            let id = crate::mmu::addr::ObjectId::new(object);
            if self.objects.all().all(|(known, _)| known < id) {
                break;
            }
            let Some(tree) = self.tree(id) else { continue };
            let mut at = 0;
            while let Some(leaf) = tree.next(&self.memory, at, MAX_OBJECT) {
                at = leaf.start + PAGE;
                let entry = Entry::<G>::from_bits(leaf.entry.bits());
                found = found.and(self.add_reference(entry, 1, what));
            }
        }
        found
    }

    fn add_reference(&mut self, entry: Entry<G>, pages: u64, what: u32) -> Result<(), Damage> {
        match entry.meaning() {
            Meaning::Present(first) | Meaning::Hidden(first) => {
                for number in first.raw()..first.raw() + pages as u32 {
                    let frame = FrameNumber::new(number);
                    let broken = damage(Invariant::References, u64::from(number));
                    if number as usize >= self.memory.frames() {
                        return Err(broken);
                    }
                    if self.is_zero(frame) {
                        continue;
                    }
                    let record = self.memory.record_mut(frame);
                    if !matches!(record.usage, Use::Anonymous | Use::Cached) {
                        return Err(broken);
                    }
                    record.refs = record.refs.wrapping_add(what);
                }
            }
            Meaning::Swapped(slot) => {
                if slot.raw() as usize >= self.swap.slots() {
                    return Err(damage(Invariant::Swap, u64::from(slot.raw())));
                }
                let refs = self.swap.record(slot).refs();
                self.swap.forge(slot, refs.wrapping_add(what));
            }
            Meaning::Empty | Meaning::Guard => {}
        }
        Ok(())
    }

    fn check_listed(&self) -> Result<(), Damage> {
        let records = self.memory.all_records();
        let mut listed = 0;
        for frame in self.policy.listed(records) {
            let sound = self.memory.record(frame).has(mark::LISTED);
            ensure(sound, Invariant::Listed, u64::from(frame.raw()))?;
            listed += 1;
        }
        for frame in self.all_frames() {
            let record = self.memory.record(frame);
            let may_go =
                matches!(record.usage, Use::Anonymous | Use::Cached) && !record.has(mark::PINNED);
            let sound = may_go == record.has(mark::LISTED);
            ensure(sound, Invariant::Listed, u64::from(frame.raw()))?;
            listed -= usize::from(may_go).min(listed);
        }
        let sound = listed == 0 && self.policy.listed(records).count() == self.policy.len();
        ensure(sound, Invariant::Listed, listed as u64)
    }

    fn check_sizes(&self) -> Result<(), Damage> {
        for (space, map) in self.maps.iter().enumerate() {
            let mut sizes = Sizes {
                peak: map.sizes.peak,
                ..Sizes::default()
            };
            let mut at = 0;
            while let Some(leaf) = self.next(space, at, G::USER_END) {
                let span = G::span(leaf.level);
                at = leaf.start + span;
                match leaf.entry.meaning() {
                    Meaning::Present(frame) | Meaning::Hidden(frame) => {
                        let record = self.memory.record(frame);
                        let size = match record.usage {
                            Use::Anonymous => &mut sizes.anonymous,
                            Use::Cached if record.has(mark::FILE) => &mut sizes.file,
                            Use::Cached => &mut sizes.shared,
                            _ => continue,
                        };
                        *size += span / PAGE;
                    }
                    Meaning::Swapped(_) => sizes.swapped += 1,
                    Meaning::Empty | Meaning::Guard => {}
                }
            }
            let sound = sizes == map.sizes && sizes.resident() <= sizes.peak;
            ensure(sound, Invariant::Sizes, space as u64)?;
        }
        Ok(())
    }

    fn leaf_fits(&self, leaf: &Leaf<G>, area: &Area) -> bool {
        let entry = leaf.entry;
        match entry.meaning() {
            Meaning::Present(frame) => {
                let record = self.memory.record(frame);
                let executable = Entry::<G>::NO_EXECUTE != 0 && !entry.has(Entry::<G>::NO_EXECUTE);
                let writable = entry.has(Entry::<G>::WRITABLE);
                let alone = record.usage == Use::Anonymous && record.refs == 1;
                area.rights != Rights::NONE
                    && entry.has(Entry::<G>::USER)
                    && (!executable || area.rights.holds(Rights::EXEC))
                    && (!writable
                        || area.rights.holds(Rights::WRITE)
                            && !entry.has(Entry::<G>::COW)
                            && (area.is_shared() || alone))
            }
            Meaning::Hidden(_) => area.rights == Rights::NONE,
            Meaning::Swapped(_) => !area.is_shared(),
            Meaning::Guard => true,
            Meaning::Empty => false,
        }
    }

    /// The tables that a space number of the TLB stands for.
    fn tables_of(&self, asid: crate::mmu::addr::Asid, va: u64) -> Option<Tables<G>> {
        if asid == GLOBAL && va >= G::USER_END && self.kernel.is_some() {
            return self.kernel;
        }
        if self.tagged {
            return self.tables(usize::from(asid.raw())).copied();
        }
        self.mmu.root().map(Tables::at)
    }

    fn check_tlb(&self) -> Result<(), Damage> {
        for line in self.mmu.tlb.lines() {
            let Some((held, cached)) = line.held::<G>() else {
                continue;
            };
            let broken = damage(Invariant::Tlb, held.start);
            let tables = self.tables_of(held.asid, held.start).ok_or(broken)?;
            let mut flags = !0;
            let mut forbidden = 0;
            let step = tables.walk(&self.memory, VirtAddr::new(held.start), |step| {
                flags &= step.entry.bits();
                forbidden |= step.entry.bits() & Entry::<G>::NO_EXECUTE;
            });
            let now = Cached::of(step.entry, flags & !Entry::<G>::NO_EXECUTE | forbidden);
            let sound = step.is_leaf()
                && step.entry.is_present()
                && step.level == held.level
                && step.entry.has(Entry::<G>::ACCESSED)
                && now.page() == cached.page()
                && (now.writable() || !cached.writable())
                && (now.user() || !cached.user())
                && (now.executable() || !cached.executable())
                && (now.dirty() || !cached.dirty());
            ensure(sound, Invariant::Tlb, held.start)?;
        }
        Ok(())
    }

    fn check_fast(&self) -> Result<(), Damage> {
        for (va, _, at, write) in self.mmu.fast() {
            let broken = damage(Invariant::Lookaside, va.raw());
            let root = self.mmu.root().ok_or(broken)?;
            let step = Tables::<G>::at(root).walk(&self.memory, va, |_| {});
            let sound = step.target(va) == Some(at)
                && (!write || step.entry.has(Entry::<G>::DIRTY | Entry::<G>::WRITABLE));
            ensure(sound, Invariant::Lookaside, va.raw())?;
        }
        Ok(())
    }
}
