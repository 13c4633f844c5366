//! `mremap`, in the form that it has since Linux 6.17 (`mm/mremap.c`).

use super::change::{hold, part};
use super::place::Wish;
use super::{Space, pages_up};
use crate::mmu::addr::PAGE;
use crate::mmu::area::linux::{MREMAP_DONTUNMAP, MREMAP_FIXED, MREMAP_MAYMOVE};
use crate::mmu::area::{Area, Backing, Errno, Traits};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;

/// Areas below the limit that a move wants to find: it makes up to so many on its way.
const MARGIN: usize = 3;

/// One call's arguments, lengths in whole pages.
#[derive(Clone, Copy)]
struct Remap {
    old: u64,
    old_len: u64,
    new_len: u64,
    flags: u32,
    new: u64,
}

impl Remap {
    fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether the call says where the new mapping goes (or may go).
    fn names_place(&self) -> bool {
        self.has(MREMAP_FIXED | MREMAP_DONTUNMAP)
    }

    fn growth(&self) -> u64 {
        self.new_len.saturating_sub(self.old_len)
    }
}

impl Space {
    /// `mremap`: makes the mapping of `old_len` bytes at `old` one of `new_len`, elsewhere if
    /// `flags` allow it, and says where it is.
    ///
    /// With an `old_len` of 0 a shared mapping is mapped once more. With `MREMAP_DONTUNMAP` an
    /// empty mapping stays behind. With `MREMAP_FIXED` and equal lengths the range may span
    /// several areas, and holes behind the first one, which stay as they are at the target.
    ///
    /// # Errors
    /// `EINVAL` for unknown flags, unaligned, no or too much new length, a place without
    /// `MREMAP_MAYMOVE`, out of range, or overlapping, different lengths with
    /// `MREMAP_DONTUNMAP`; `ENOMEM` with too many areas; `EFAULT` if nothing is mapped or the
    /// range leaves its area; `EINVAL` for a second private mapping; `EAGAIN` (locked memory);
    /// `ENOMEM` at limits, if it cannot grow in place and may not move, or without room in the
    /// pool (which is asked for what a move may need at most); `EPERM` below
    /// `mmap_min`. After `MREMAP_FIXED` has passed the checks of its arguments the target is
    /// unmapped even if the call fails.
    #[allow(clippy::too_many_arguments)] // The arguments of the call.
    pub fn mremap<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let call = Remap {
            old,
            old_len: pages_up(old_len),
            new_len: pages_up(new_len),
            flags,
            new,
        };
        self.check_arguments(&call)?;
        if call.has(MREMAP_FIXED) && call.old_len == call.new_len {
            return self.move_all(pool, fx, call);
        }
        let area = self.check_area(pool, &call)?;
        if call.names_place() {
            return self.move_to(pool, fx, call);
        }
        if call.new_len < call.old_len {
            self.munmap(pool, fx, old + call.new_len, call.old_len - call.new_len)?;
        } else if call.new_len > call.old_len {
            return self.expand(pool, fx, call, &area);
        }
        Ok(old)
    }

    fn check_arguments(&self, call: &Remap) -> Result<(), Errno> {
        let user_end = self.layout.user_end;
        let known = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        let silly = call.new_len == 0 || call.new_len > user_end;
        if call.flags & !known != 0 || !call.old.is_multiple_of(PAGE) || silly {
            return Err(Errno::EINVAL);
        }
        if !call.names_place() {
            return Ok(());
        }
        let overlap = call.old.wrapping_add(call.old_len) > call.new
            && call.new.wrapping_add(call.new_len) > call.old;
        if !call.new.is_multiple_of(PAGE)
            || call.new > user_end - call.new_len
            || !call.has(MREMAP_MAYMOVE)
            || call.has(MREMAP_DONTUNMAP) && call.old_len != call.new_len
            || overlap
        {
            return Err(Errno::EINVAL);
        }
        if self.areas.len() + 2 >= self.limits.areas.saturating_sub(MARGIN) {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    /// The area at the old address, if what is asked for can be done with it.
    fn check_area(&self, pool: &AreaPool, call: &Remap) -> Result<Area, Errno> {
        let area = self.areas.find(pool, call.old).ok_or(Errno::EFAULT)?;
        if call.new_len <= call.old_len && !call.names_place() {
            return Ok(area);
        }
        if call.old_len == 0 && !area.is_shared() {
            return Err(Errno::EINVAL);
        }
        // What a shrinking move leaves behind may lie in other areas.
        if call.old_len.min(call.new_len) > area.end - call.old {
            return Err(Errno::EFAULT);
        }
        if call.new_len <= call.old_len {
            return Ok(area);
        }
        if !self.may_lock(&area, call.growth()) {
            return Err(Errno::EAGAIN);
        }
        if !self.may_grow(&area, call.growth()) {
            return Err(Errno::ENOMEM);
        }
        Ok(area)
    }

    /// Moves every area of a range to a fixed place, with the holes between them.
    fn move_all<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        call: Remap,
    ) -> Result<u64, Errno> {
        let end = call.old.saturating_add(call.old_len);
        let mut within = 0;
        let mut at = call.old;
        while let Some(area) = self.areas.at_or_after(pool, at) {
            if area.start >= end {
                break;
            }
            within += 1;
            at = area.end;
        }
        let first = self.areas.find(pool, call.old);
        first.ok_or(Errno::EFAULT)?;
        self.room_for_move(pool, &call, within)?;
        let mut at = call.old;
        while let Some(area) = self.areas.at_or_after(pool, at) {
            if area.start >= end {
                break;
            }
            let from = area.start.max(at);
            let len = area.end.min(end) - from;
            let one = Remap {
                old: from,
                old_len: len,
                new_len: len,
                new: call.new + (from - call.old),
                ..call
            };
            self.check_area(pool, &one)?;
            self.move_to(pool, fx, one)?;
            at = from + len;
            if at >= end {
                break;
            }
        }
        Ok(call.new)
    }

    /// Whether the pool has room for everything that a move of so many areas may insert: what
    /// they become, and one area more where the target, the end of what shrinks, or the source
    /// is in the middle of one.
    fn room_for_move(&self, pool: &AreaPool, call: &Remap, areas: usize) -> Result<(), Errno> {
        let old_end = call.old.wrapping_add(call.old_len);
        let new_end = call.new + call.new_len;
        self.room(pool, 3 + areas, &[call.old, call.new, old_end, new_end])
    }

    /// Moves to where the call says: Linux's `mremap_to`.
    fn move_to<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        mut call: Remap,
    ) -> Result<u64, Errno> {
        if call.has(MREMAP_FIXED) {
            self.room_for_move(pool, &call, 1)?;
            self.munmap(pool, fx, call.new, call.new_len)?;
        }
        if call.new_len < call.old_len {
            let rest = call.old_len - call.new_len;
            self.munmap(pool, fx, call.old + call.new_len, rest)?;
            call.old_len = call.new_len;
        }
        let area = self.areas.find(pool, call.old).ok_or(Errno::EFAULT)?;
        if call.has(MREMAP_DONTUNMAP) && !self.may_grow(&area, call.old_len) {
            return Err(Errno::ENOMEM);
        }
        let wish = if call.has(MREMAP_FIXED) {
            Wish::Fixed(call.new)
        } else {
            Wish::Hint(call.new)
        };
        let private = area.backing == Backing::Anonymous;
        call.new = self.place(pool, wish, call.new_len, private)?;
        self.move_there(pool, fx, call, &area)
    }

    /// Grows in place if there is room, else elsewhere: Linux's `expand_vma`.
    fn expand<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        mut call: Remap,
        area: &Area,
    ) -> Result<u64, Errno> {
        let growth = call.growth();
        let end = area.end.saturating_add(growth);
        let next = self.areas.at_or_after(pool, area.end);
        let room = end <= self.layout.user_end && next.is_none_or(|next| next.start >= end);
        if room && area.end - call.old == call.old_len {
            if area.traits.has(Traits::ACCOUNTED) {
                self.may_commit(growth)?;
            }
            let more = part(area, area.end, end);
            hold(fx, &more);
            self.put(pool, fx, more);
        } else if call.has(MREMAP_MAYMOVE) {
            let private = area.backing == Backing::Anonymous;
            call.new = self.place(pool, Wish::Hint(0), call.new_len, private)?;
            self.move_there(pool, fx, call, area)?;
            return Ok(call.new);
        } else {
            return Err(Errno::ENOMEM);
        }
        if area.traits.has(Traits::LOCKED) {
            self.prefault(pool, fx, area.end, end);
        }
        Ok(call.old)
    }

    /// Makes the new area, takes the pages there, and takes the old one out: Linux's `move_vma`.
    fn move_there<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        call: Remap,
        area: &Area,
    ) -> Result<u64, Errno> {
        if self.areas.len() >= self.limits.areas.saturating_sub(MARGIN) {
            return Err(Errno::ENOMEM);
        }
        if !call.has(MREMAP_FIXED) {
            self.room_for_move(pool, &call, 1)?;
        }
        let stays = call.has(MREMAP_DONTUNMAP);
        if area.traits.has(Traits::ACCOUNTED) {
            self.may_commit(if stays { call.new_len } else { call.growth() })?;
        }
        let new = Area {
            start: call.new,
            end: call.new + call.new_len,
            backing: area.backing_at(call.old),
            ..*area
        };
        hold(fx, &new);
        self.put(pool, fx, new);
        if call.old_len > 0 {
            fx.relocate(call.old, call.new, call.old_len);
        }
        if !stays && call.old_len > 0 {
            self.carve(pool, fx, call.old, call.old + call.old_len);
        } else if stays && area.traits.has(Traits::LOCKED) {
            // What stays is locked no more, all of the area. (What moved to its border stays
            // locked; the kernel unlocks that too if it made them one, which depends on
            // whether pages were touched.)
            if let Some(old) = self.areas.find(pool, call.old) {
                let traits = old.traits.without(Traits::LOCKED);
                self.alter(pool, fx, &old, area.start, area.end, old.rights, traits)?;
            }
        }
        if area.traits.has(Traits::LOCKED) && call.growth() > 0 {
            self.prefault(pool, fx, call.new + call.old_len, new.end);
        }
        Ok(call.new)
    }
}
