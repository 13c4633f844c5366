//! The three changes that every call is made of. None can fail for want of nodes: callers ask
//! for room first.
//!
//! Each area that an object backs holds it once, so a split holds it once more and a join
//! releases it.

use super::Space;
use crate::mmu::addr::Rights;
use crate::mmu::area::{Area, Backing, Errno, Traits};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;

/// The part `start..end` of an area.
pub(super) fn part(area: &Area, start: u64, end: u64) -> Area {
    Area {
        start,
        end,
        backing: area.backing_at(start),
        ..*area
    }
}

pub(super) fn hold<E: Effects>(fx: &mut E, area: &Area) {
    if let Backing::Object { object, .. } = area.backing {
        fx.hold(object);
    }
}

pub(super) fn release<E: Effects>(fx: &mut E, area: &Area) {
    if let Backing::Object { object, .. } = area.backing {
        fx.release(object);
    }
}

impl Space {
    /// Adds an area where nothing is, and makes it one with its neighbours if they join. Its
    /// object is held already. Takes one insertion if they do not.
    pub(super) fn put<E: Effects>(&mut self, pool: &mut AreaPool, fx: &mut E, area: Area) {
        self.totals.add(&area);
        let before = self.areas.before(pool, area.start);
        let before = before.filter(|before| before.joins(&area));
        let after = self.areas.at_or_after(pool, area.end);
        let after = after.filter(|after| area.joins(after));
        match (before, after) {
            (None, None) => self.insert(pool, area),
            (Some(before), None) => {
                let whole = Area {
                    end: area.end,
                    ..before
                };
                self.areas.replace(pool, before.start, whole);
                release(fx, &area);
            }
            (None, Some(after)) => {
                let whole = Area {
                    end: after.end,
                    ..area
                };
                self.areas.replace(pool, after.start, whole);
                release(fx, &area);
            }
            (Some(before), Some(after)) => {
                let whole = Area {
                    end: after.end,
                    ..before
                };
                self.areas.remove(pool, after.start);
                self.areas.replace(pool, before.start, whole);
                release(fx, &area);
                release(fx, &area);
            }
        }
    }

    /// Whether taking `start..end` out would cut one area into two.
    pub(super) fn cuts_middle(&self, pool: &AreaPool, start: u64, end: u64) -> bool {
        let around = self.areas.find(pool, start);
        around.is_some_and(|area| area.start < start && area.end > end)
    }

    /// Takes everything in `start..end` out. Takes one insertion if it
    /// [cuts one area into two](Space::cuts_middle).
    pub(super) fn carve<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        start: u64,
        end: u64,
    ) {
        let mut any = false;
        while let Some(area) = self.areas.at_or_after(pool, start) {
            if area.start >= end {
                break;
            }
            any = true;
            let (from, to) = (area.start.max(start), area.end.min(end));
            fx.forget(from, to);
            self.totals.subtract(&part(&area, from, to));
            let left = part(&area, area.start, from);
            let right = part(&area, to, area.end);
            match (left.len() > 0, right.len() > 0) {
                (false, false) => {
                    self.areas.remove(pool, area.start);
                    release(fx, &area);
                }
                (true, false) => self.areas.replace(pool, area.start, left),
                (false, true) => self.areas.replace(pool, area.start, right),
                (true, true) => {
                    self.areas.replace(pool, area.start, left);
                    self.insert(pool, right);
                    hold(fx, &right);
                }
            }
        }
        if any {
            let floor = self.areas.before(pool, start).map_or(0, |area| area.end);
            let next = self.areas.at_or_after(pool, end);
            // Beyond the last area nothing is anybody's, the end of user space included: Linux's
            // `USER_PGTABLES_CEILING`.
            fx.prune(floor, next.map_or(u64::MAX, |area| area.start));
        }
    }

    /// Gives the part `start..end` of an area other rights and traits, and makes it one with
    /// neighbours that it joins then. Takes one insertion for each end that is not the area's.
    ///
    /// # Errors
    /// `ENOMEM` if an area would have to be split beyond `max_map_count`.
    #[allow(clippy::too_many_arguments)] // A part of an area, and what becomes of it.
    pub(super) fn alter<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        area: &Area,
        start: u64,
        end: u64,
        rights: Rights,
        traits: Traits,
    ) -> Result<(), Errno> {
        if (area.rights, area.traits) == (rights, traits) {
            return Ok(());
        }
        let old = part(area, start, end);
        let mut new = Area {
            rights,
            traits,
            ..old
        };
        let (left, right) = (area.start < start, end < area.end);
        // What a neighbour can swallow is no split.
        let before = self.areas.before(pool, start);
        let before = before.filter(|before| !left && before.joins(&new));
        let after = self.areas.at_or_after(pool, end);
        let after = after.filter(|after| !right && new.joins(after));
        let splits = usize::from(left && after.is_none()) + usize::from(right && before.is_none());
        if splits > 0 && self.areas.len() + splits > self.limits.areas {
            return Err(Errno::ENOMEM);
        }
        self.totals.subtract(&old);
        self.totals.add(&new);
        if let Some(before) = before {
            self.areas.remove(pool, before.start);
            new.start = before.start;
            new.backing = before.backing;
        }
        if let Some(after) = after {
            self.areas.remove(pool, after.start);
            new.end = after.end;
        }
        if left {
            let rest = part(area, area.start, start);
            self.areas.replace(pool, area.start, rest);
            self.insert(pool, new);
            hold(fx, &new);
        } else {
            self.areas.replace(pool, area.start, new);
        }
        if right {
            let rest = part(area, end, area.end);
            self.insert(pool, rest);
            hold(fx, &rest);
        }
        for gone in [before, after].into_iter().flatten() {
            release(fx, &gone);
        }
        if area.rights != rights {
            fx.protect(start, end, rights);
        }
        Ok(())
    }

    /// Insertions that [`Space::alter`] takes at most when the whole range is altered, area by
    /// area.
    pub(super) fn cuts(&self, pool: &AreaPool, start: u64, end: u64) -> usize {
        let cut = |addr| {
            let area = self.areas.find(pool, addr);
            usize::from(area.is_some_and(|area| area.start < addr))
        };
        cut(start) + cut(end)
    }

    fn insert(&mut self, pool: &mut AreaPool, area: Area) {
        let done = self.areas.insert(pool, area);
        assert!(done.is_ok(), "callers ask for room first");
    }
}
