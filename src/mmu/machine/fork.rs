//! `fork`, `exec` and `exit` as far as memory goes.

use crate::mmu::addr::Rights;
use crate::mmu::area::{Area, Backing, Errno, Traits};
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::geometry::Geometry;
use crate::mmu::physical::{Use, mark};
use crate::mmu::tables::{Leaf, Tables};

use super::effects::Keeper;
use super::pages::{PageMap, Pages};
use super::{Machine, SpaceId, SpaceRecord};

impl<G: Geometry> Machine<'_, G> {
    /// A copy of a space: a new root with the kernel's part, equal areas (without those that are
    /// not for children), private pages shared until either side stores to them. Pages of shared
    /// mappings are left to be faulted in, pages to be wiped are not there, guards are.
    ///
    /// # Errors
    /// `ENOMEM` without frames, nodes or a place, or if so much may not be committed; there is
    /// no child then. `EINVAL` if there is no such space.
    pub fn fork(&mut self, parent: SpaceId) -> Result<SpaceId, Errno> {
        let from = usize::from(parent.raw());
        self.space(parent).ok_or(Errno::EINVAL)?;
        let to = self.free_place()?;
        let root = self.new_root()?;
        self.pages.maps[to].tables = Some(root);
        let mut keeper = Keeper {
            pages: &mut self.pages,
            space: to,
        };
        let forked = match &self.spaces[from].0 {
            Some(space) => space.fork(&mut self.pool, &mut keeper),
            None => Err(Errno::EINVAL),
        };
        let space = match forked {
            Ok(space) => space,
            Err(errno) => {
                self.end_root(to);
                return Err(errno);
            }
        };
        let mut at = 0;
        while let Some(area) = space.at_or_after(&self.pool, at) {
            self.pages.share(from, to, &area);
            at = area.end;
        }
        self.spaces[to] = SpaceRecord(Some(space));
        let child = SpaceId(to as u16);
        if core::mem::take(&mut self.pages.short) {
            self.exit(child);
            return Err(Errno::ENOMEM);
        }
        Ok(child)
    }

    /// Ends a space: everything it has is given back. If it was current, paging is off.
    pub fn exit(&mut self, id: SpaceId) {
        let place = usize::from(id.raw());
        if self.space(id).is_none() {
            return;
        }
        self.exec(id);
        self.spaces[place] = SpaceRecord::EMPTY;
        let asid = self.pages.asid(place);
        if self.pages.tagged {
            self.pages.mmu.shoot_space(asid);
        }
        if self.current == Some(id) {
            self.turn_paging_off();
        }
        self.end_root(place);
    }

    /// Empties a space, as `exec` does before it loads the next program.
    pub fn exec(&mut self, id: SpaceId) {
        let place = usize::from(id.raw());
        let Some(SpaceRecord(Some(space))) = self.spaces.get_mut(place) else {
            return;
        };
        let mut keeper = Keeper {
            pages: &mut self.pages,
            space: place,
        };
        space.clear(&mut self.pool, &mut keeper);
    }

    fn end_root(&mut self, place: usize) {
        if let Some(mut tables) = self.pages.maps[place].tables.take() {
            // Whatever the layout says where the user's part ends.
            tables.prune(&mut self.pages.memory, 0, G::USER_END);
            tables.forget_kernel(&mut self.pages.memory);
            tables.end(&mut self.pages.memory);
        }
        self.pages.maps[place] = PageMap::EMPTY;
    }

    /// Makes one huge page of private memory at `va`: the entry is in a table of `level`, the
    /// frames lie side by side and stay in memory until the page is split, as any change of a
    /// part of it does.
    ///
    /// # Errors
    /// `EINVAL` if the geometry has no such page, `va` is not its beginning, no one private and
    /// writable area covers it, or something is mapped there; `ENOMEM` without frames side by
    /// side.
    pub fn populate_huge(&mut self, id: SpaceId, va: u64, level: usize) -> Result<(), Errno> {
        let place = usize::from(id.raw());
        if !G::is_huge_level(level) || va & (G::span(level) - 1) != 0 {
            return Err(Errno::EINVAL);
        }
        let end = va.checked_add(G::span(level)).ok_or(Errno::EINVAL)?;
        let area = self.space(id).and_then(|s| s.find(&self.pool, va));
        let area = area.filter(|area| {
            area.end >= end
                && area.backing == Backing::Anonymous
                && area.rights.holds(Rights::WRITE)
        });
        let area = area.ok_or(Errno::EINVAL)?;
        if self.pages.next(place, va, end).is_some() {
            return Err(Errno::EINVAL);
        }
        self.pages.map_huge(place, &area, va, level)
    }
}

impl<G: Geometry> Pages<'_, G> {
    /// The pages of an area of `from` are `to`'s too, until a store.
    fn share(&mut self, from: usize, to: usize, area: &Area) {
        if area.traits.has(Traits::WIPE_ON_FORK) {
            return;
        }
        self.each(from, area.start, area.end, |pages, leaf| {
            if pages.is_copied(area, &leaf) && pages.share_page(from, to, leaf.start).is_none() {
                pages.short = true;
            }
        });
    }

    /// Whether fork copies the entry. What can be had again from an object is not copied.
    fn is_copied(&self, area: &Area, leaf: &Leaf<G>) -> bool {
        match leaf.entry.meaning() {
            Meaning::Guard => true,
            Meaning::Swapped(_) => !area.is_shared(),
            Meaning::Present(frame) | Meaning::Hidden(frame) => {
                !area.is_shared() && self.memory.record(frame).usage != Use::Cached
            }
            Meaning::Empty => false,
        }
    }

    fn share_page(&mut self, from: usize, to: usize, va: u64) -> Option<()> {
        while self.room(self.missing(to, va), 0).ok()? {}
        let slot = self.make(to, va).ok()?;
        // Only now: room may have been made of this very page.
        let leaf = self.leaf(from, va)?;
        match leaf.entry.meaning() {
            Meaning::Present(frame) | Meaning::Hidden(frame) => {
                let mut entry = leaf.entry.with(Entry::<G>::COW);
                if entry.is_present() {
                    entry = entry.without(Entry::<G>::WRITABLE);
                }
                if entry != leaf.entry {
                    Tables::set(&mut self.memory, leaf.slot, entry);
                    self.shoot(from, va);
                }
                let fresh = entry.without(Entry::<G>::ACCESSED);
                self.map(to, va, slot, frame, fresh);
            }
            Meaning::Swapped(place) => {
                self.swap.hold(place);
                self.maps[to].sizes.swapped += 1;
                Tables::set(&mut self.memory, slot, leaf.entry);
            }
            Meaning::Guard => Tables::set(&mut self.memory, slot, leaf.entry),
            Meaning::Empty => {}
        }
        Some(())
    }

    fn map_huge(&mut self, space: usize, area: &Area, va: u64, level: usize) -> Result<(), Errno> {
        let pages = (G::span(level) / crate::mmu::addr::PAGE) as u32;
        let first = self.memory.take_run(pages, Use::Anonymous);
        let first = first.ok_or(Errno::ENOMEM)?;
        let flags = Entry::<G>::user_flags(area.rights);
        let map = &mut self.maps[space];
        let tables = map.tables.as_mut().ok_or(Errno::EINVAL)?;
        let at = crate::mmu::addr::VirtAddr::new(va);
        let done = tables.map_huge(&mut self.memory, at, level, first, flags);
        for number in first.raw()..first.raw() + pages {
            let frame = crate::mmu::addr::FrameNumber::new(number);
            if done.is_err() {
                self.memory.give(frame);
                continue;
            }
            self.memory.zero(frame);
            let record = self.memory.record_mut(frame);
            record.refs = 1;
            record.marks |= mark::PINNED;
            record.space = space as u16;
            record.page = va / crate::mmu::addr::PAGE + u64::from(number - first.raw());
        }
        // An empty table may lie where the huge page would.
        done.map_err(|why| match why {
            crate::mmu::tables::MapError::NoFrame => Errno::ENOMEM,
            _ => Errno::EINVAL,
        })?;
        let sizes = &mut self.maps[space].sizes;
        sizes.anonymous += u64::from(pages);
        sizes.peak = sizes.peak.max(sizes.resident());
        Ok(())
    }
}
