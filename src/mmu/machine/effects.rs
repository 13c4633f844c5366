//! The machine as the keeper of pages for the areas of one space.

use crate::mmu::addr::{ObjectId, PAGE, Rights};
use crate::mmu::area::{Area, Errno};
use crate::mmu::effects::Effects;
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::geometry::Geometry;
use crate::mmu::physical::mark;
use crate::mmu::tables::{Leaf, Tables};

use super::pages::Pages;
use super::resolve::Unavailable;

/// The pages of one space, while a call changes its areas.
pub(super) struct Keeper<'p, 'm, G: Geometry> {
    pub pages: &'p mut Pages<'m, G>,
    pub space: usize,
}

impl<G: Geometry> Pages<'_, G> {
    /// The same page with other rights: hidden without any, writable only if a store need not
    /// copy first.
    pub(super) fn with_rights(entry: Entry<G>, rights: Rights) -> Entry<G> {
        let (Meaning::Present(frame) | Meaning::Hidden(frame)) = entry.meaning() else {
            return entry;
        };
        let kept = entry.bits()
            & (Entry::<G>::ACCESSED | Entry::<G>::DIRTY | Entry::<G>::COW | Entry::<G>::LAZY_FREE);
        if rights == Rights::NONE {
            return Entry::hidden(frame).with(kept);
        }
        let entry = Entry::present(frame, Entry::<G>::user_flags(rights)).with(kept);
        if entry.has(Entry::<G>::COW) {
            entry.without(Entry::<G>::WRITABLE)
        } else {
            entry
        }
    }

    fn set_and_shoot(&mut self, space: usize, leaf: &Leaf<G>, entry: Entry<G>) {
        Tables::set(&mut self.memory, leaf.slot, entry);
        self.shoot(space, leaf.start);
    }

    /// Where the entry of an empty page lies, throwing others out for its tables if need be.
    fn make_place(&mut self, space: usize, va: u64) -> Option<crate::mmu::addr::PhysAddr> {
        loop {
            match self.room(self.missing(space, va), 0) {
                Ok(true) => {}
                Ok(false) => return self.make(space, va).ok(),
                Err(_) => return None,
            }
        }
    }
}

impl<G: Geometry> Effects for Keeper<'_, '_, G> {
    fn forget(&mut self, start: u64, end: u64) {
        self.pages.drop_range(self.space, start, end, true);
    }

    fn discard(&mut self, start: u64, end: u64) {
        self.pages.drop_range(self.space, start, end, false);
    }

    fn free_lazily(&mut self, start: u64, end: u64) {
        let space = self.space;
        self.pages.each(space, start, end, |pages, leaf| {
            match leaf.entry.meaning() {
                Meaning::Present(frame) | Meaning::Hidden(frame) if !pages.is_zero(frame) => {
                    let record = pages.memory.record_mut(frame);
                    // As Linux, which leaves pages alone that others map too.
                    if record.refs == 1 {
                        record.marks |= mark::LAZY;
                        let entry = leaf
                            .entry
                            .with(Entry::<G>::LAZY_FREE)
                            .without(Entry::<G>::DIRTY);
                        pages.set_and_shoot(space, &leaf, entry);
                    }
                }
                Meaning::Swapped(_) => pages.drop_leaf(space, &leaf, Entry::EMPTY),
                _ => {}
            }
        });
    }

    fn protect(&mut self, start: u64, end: u64, rights: Rights) {
        let space = self.space;
        self.pages.each(space, start, end, |pages, leaf| {
            let entry = Pages::with_rights(leaf.entry, rights);
            if entry != leaf.entry {
                pages.set_and_shoot(space, &leaf, entry);
            }
        });
    }

    fn relocate(&mut self, from: u64, to: u64, len: u64) {
        let space = self.space;
        self.pages.each(space, from, from + len, |pages, leaf| {
            let target = leaf.start - from + to;
            let Some(slot) = pages.make_place(space, target) else {
                pages.short = true;
                return;
            };
            // Making room may have thrown this very page out.
            let Some(leaf) = pages.leaf(space, leaf.start) else {
                return;
            };
            pages.set_and_shoot(space, &leaf, Entry::EMPTY);
            Tables::set(&mut pages.memory, slot, leaf.entry);
            if let Meaning::Present(frame) | Meaning::Hidden(frame) = leaf.entry.meaning()
                && !pages.is_zero(frame)
            {
                let record = pages.memory.record_mut(frame);
                if usize::from(record.space) == space && record.page == leaf.start / PAGE {
                    record.page = target / PAGE;
                }
            }
        });
    }

    fn guard(&mut self, start: u64, end: u64) {
        self.pages.drop_range(self.space, start, end, true);
        let mut at = start;
        while at < end {
            let Some(slot) = self.pages.make_place(self.space, at) else {
                self.pages.short = true;
                return;
            };
            Tables::set(&mut self.pages.memory, slot, Entry::<G>::GUARD);
            at += PAGE;
        }
    }

    fn unguard(&mut self, start: u64, end: u64) {
        let space = self.space;
        self.pages.each(space, start, end, |pages, leaf| {
            if leaf.entry.meaning() == Meaning::Guard {
                pages.drop_leaf(space, &leaf, Entry::EMPTY);
            }
        });
    }

    fn populate(&mut self, area: &Area, start: u64, end: u64, write: bool) -> Result<(), Errno> {
        let mut at = start;
        while at < end {
            let done = self.pages.fault_in(self.space, area, at, write);
            done.map_err(|why| match why {
                Unavailable::Guard | Unavailable::BeyondEnd => Errno::EFAULT,
                Unavailable::Memory => Errno::ENOMEM,
            })?;
            at += PAGE;
        }
        Ok(())
    }

    fn prune(&mut self, floor: u64, ceiling: u64) {
        let pages = &mut *self.pages;
        if let Some(tables) = pages
            .maps
            .get_mut(self.space)
            .and_then(|m| m.tables.as_mut())
        {
            // Linux keeps the last page of the user's part free; nothing is behind it.
            let end = G::USER_END;
            let ceiling = if ceiling >= end - PAGE { end } else { ceiling };
            tables.prune(&mut pages.memory, floor, ceiling);
        }
    }

    fn create(&mut self, len: u64) -> Result<ObjectId, Errno> {
        self.pages.objects.add(len, None).ok_or(Errno::ENOMEM)
    }

    fn hold(&mut self, object: ObjectId) {
        if let Some(record) = self.pages.objects.get_mut(object) {
            record.holds += 1;
        }
    }

    fn release(&mut self, object: ObjectId) {
        let Some(record) = self.pages.objects.get_mut(object) else {
            return;
        };
        if record.holds > 1 {
            record.holds -= 1;
        } else {
            self.pages.end_object(object);
        }
    }

    fn punch(&mut self, object: ObjectId, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        self.pages.drop_cached(object, offset, end, false);
        self.pages.zero_file(object, offset, end);
    }
}
