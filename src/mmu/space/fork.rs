//! `fork`, and the end of a space.

use super::Space;
use super::change::{hold, release};
use super::limits::Totals;
use crate::mmu::area::{Errno, Overcommit, Traits};
use crate::mmu::areas::{AreaPool, Areas};
use crate::mmu::effects::Effects;

impl Space {
    /// `fork`: a space with the same areas, break and limits. Areas that are not for children
    /// are left out; nothing is locked in the child. `fx` is told of the objects that
    /// the child's areas hold; the pages are its keeper's to share.
    ///
    /// # Errors
    /// `ENOMEM` if as much may not be committed once more, or without room in the pool; nothing
    /// is held then.
    pub fn fork<E: Effects>(&self, pool: &mut AreaPool, fx: &mut E) -> Result<Space, Errno> {
        let mut committed = 0;
        for area in self.areas.iter(pool) {
            let counts = area.traits.has(Traits::ACCOUNTED) && !area.traits.has(Traits::DONT_FORK);
            if counts {
                // Both count where the sum over all processes does.
                committed += area.len();
                let never = self.limits.overcommit == Overcommit::Never;
                self.may_commit(if never { committed } else { area.len() })?;
            }
        }
        let areas = self.areas.duplicate(pool).map_err(|_| Errno::ENOMEM)?;
        let mut child = Space {
            limits: self.limits,
            layout: self.layout,
            areas,
            brk: self.brk,
            totals: self.totals,
        };
        let mut at = 0;
        while let Some(area) = child.areas.at_or_after(pool, at) {
            at = area.end;
            if area.traits.has(Traits::DONT_FORK) {
                child.areas.remove(pool, area.start);
                child.totals.subtract(&area);
                continue;
            }
            hold(fx, &area);
            if area.traits.has(Traits::LOCKED) {
                let traits = area.traits.without(Traits::LOCKED);
                let (start, end) = (area.start, area.end);
                child.alter(pool, fx, &area, start, end, area.rights, traits)?;
            }
        }
        Ok(child)
    }

    /// Unmaps everything and gives the pool its nodes back: `exit`, and what `exec` begins
    /// with. The break is at its beginning again.
    pub fn clear<E: Effects>(&mut self, pool: &mut AreaPool, fx: &mut E) {
        let mut at = 0;
        while let Some(area) = self.areas.at_or_after(pool, at) {
            fx.forget(area.start, area.end);
            release(fx, &area);
            at = area.end;
        }
        if !self.areas.is_empty() {
            fx.prune(0, u64::MAX);
        }
        self.areas.clear(pool);
        self.areas = Areas::new();
        self.totals = Totals::NONE;
        self.brk = self.layout.start_brk;
    }
}
