//! `mprotect`, `mlock` and `munlock`: what walks over areas and stops at the first hole.

use super::limits::is_accountable;
use super::{Space, pages_up};
use crate::mmu::addr::{PAGE, Rights};
use crate::mmu::area::linux::{
    PROT_EXEC, PROT_GROWSDOWN, PROT_GROWSUP, PROT_READ, PROT_SEM, PROT_WRITE,
};
use crate::mmu::area::{Area, Backing, Errno, Traits};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;

impl Space {
    /// `mprotect`: gives `len` bytes, rounded up to pages, other rights.
    ///
    /// # Errors
    /// In this order: `EINVAL` for growing both ways, or unaligned; (no length is no error;)
    /// `ENOMEM` for a range that wraps; `EINVAL` for unknown bits; `ENOMEM` if the first page is
    /// not mapped; `EINVAL` for growth of an area that does not grow. Then, **after** the part
    /// before was changed: `ENOMEM` at a hole, at a limit, or if an area would have to be split
    /// beyond `max_map_count`. `ENOMEM` without a change if the pool has no room.
    pub fn mprotect<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        addr: u64,
        len: u64,
        prot: u32,
    ) -> Result<(), Errno> {
        let grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
        if grows == PROT_GROWSDOWN | PROT_GROWSUP || !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(());
        }
        let end = addr.wrapping_add(pages_up(len));
        if end <= addr {
            return Err(Errno::ENOMEM);
        }
        if prot & !grows & !(PROT_READ | PROT_WRITE | PROT_EXEC | PROT_SEM) != 0 {
            return Err(Errno::EINVAL);
        }
        let first = self.areas.at_or_after(pool, addr);
        let first = first.filter(|first| first.start < end);
        let first = first.ok_or(Errno::ENOMEM)?;
        let mut start = addr;
        if grows == PROT_GROWSDOWN {
            if !first.traits.has(Traits::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            start = first.start;
        } else if first.start > addr {
            return Err(Errno::ENOMEM);
        } else if grows == PROT_GROWSUP {
            return Err(Errno::EINVAL);
        }
        let rights = Rights::from_bits(prot);
        self.walk(pool, fx, start, end, |space, pool, fx, area, from, to| {
            space.protect_part(pool, fx, area, from, to, rights)
        })
    }

    /// Changes one area's part: Linux's `mprotect_fixup`.
    fn protect_part<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        area: &Area,
        from: u64,
        to: u64,
        rights: Rights,
    ) -> Result<(), Errno> {
        let mut new = Area { rights, ..*area };
        if area.rights != rights && rights.holds(Rights::WRITE) {
            // Only what makes it data counts: the range is mapped already.
            if !self.may_grow(&new, to - from) && self.may_grow(area, to - from) {
                return Err(Errno::ENOMEM);
            }
            let counted = area.traits.has(Traits::ACCOUNTED) || area.rights.holds(Rights::WRITE);
            if !counted && is_accountable(&new) {
                self.may_commit(to - from)?;
                new.traits = new.traits.with(Traits::ACCOUNTED);
            }
        } else if !rights.holds(Rights::WRITE) && area.backing == Backing::Anonymous {
            // The kernel does so as long as no page was touched; afterwards it goes on counting,
            // and keeps the area apart from neighbours that it does not count.
            new.traits = new.traits.without(Traits::ACCOUNTED);
        }
        self.alter(pool, fx, area, from, to, new.rights, new.traits)?;
        let was_idle = !area.rights.holds(Rights::WRITE) && !area.is_shared();
        if was_idle && area.traits.has(Traits::LOCKED) && rights.holds(Rights::WRITE) {
            // Locked memory that becomes writable is faulted in for that; what cannot be had is
            // left out.
            let part = Area {
                start: from,
                end: to,
                backing: area.backing_at(from),
                ..new
            };
            let _ = fx.populate(&part, from, to, true);
        }
        Ok(())
    }

    /// `mlock`: locks every page that the range touches, and faults it in.
    ///
    /// # Errors
    /// `EPERM` if nothing may be locked; `ENOMEM` beyond the limit; `EINVAL` for a range that
    /// wraps; `ENOMEM` at a hole, **after** the part before was locked. If pages cannot be had
    /// they stay locked: `ENOMEM` at a guard, `EAGAIN` without memory.
    pub fn mlock<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        addr: u64,
        len: u64,
    ) -> Result<(), Errno> {
        if self.limits.locked == 0 {
            return Err(Errno::EPERM);
        }
        let start = addr & !(PAGE - 1);
        let len = pages_up(len.wrapping_add(addr % PAGE));
        let end = start.wrapping_add(len);
        let limit = self.limits.locked & !(PAGE - 1);
        let locked = self.totals.locked.saturating_add(len);
        if self.limits.locked != u64::MAX
            && locked > limit
            && locked - self.locked_inside(pool, start, end) > limit
        {
            return Err(Errno::ENOMEM);
        }
        self.lock_range(pool, fx, start, end, true)?;
        let mut at = start;
        while let Some(area) = self.areas.find(pool, at).filter(|_| at < end) {
            let (from, to) = (at, area.end.min(end));
            if area.rights == Rights::NONE {
                return Err(Errno::ENOMEM);
            }
            let write = area.rights.holds(Rights::WRITE) && !area.is_shared();
            fx.populate(&area, from, to, write)
                .map_err(|errno| match errno {
                    Errno::EFAULT => Errno::ENOMEM,
                    Errno::ENOMEM => Errno::EAGAIN,
                    other => other,
                })?;
            at = to;
        }
        Ok(())
    }

    /// `munlock`: the pages that the range touches are locked no more.
    ///
    /// # Errors
    /// `EINVAL` for a range that wraps; `ENOMEM` at a hole, **after** the part before was
    /// unlocked.
    pub fn munlock<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        addr: u64,
        len: u64,
    ) -> Result<(), Errno> {
        let start = addr & !(PAGE - 1);
        let len = pages_up(len.wrapping_add(addr % PAGE));
        self.lock_range(pool, fx, start, start.wrapping_add(len), false)
    }

    fn lock_range<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        start: u64,
        end: u64,
        locked: bool,
    ) -> Result<(), Errno> {
        if end < start {
            return Err(Errno::EINVAL);
        }
        if end == start {
            return Ok(());
        }
        self.walk(pool, fx, start, end, |space, pool, fx, area, from, to| {
            let traits = if locked {
                area.traits.with(Traits::LOCKED)
            } else {
                area.traits.without(Traits::LOCKED)
            };
            space.alter(pool, fx, area, from, to, area.rights, traits)
        })
    }

    fn locked_inside(&self, pool: &AreaPool, start: u64, end: u64) -> u64 {
        let (mut bytes, mut at) = (0, start);
        while let Some(area) = self.areas.at_or_after(pool, at) {
            if area.start >= end {
                break;
            }
            if area.traits.has(Traits::LOCKED) {
                bytes += area.end.min(end) - area.start.max(start);
            }
            at = area.end;
        }
        bytes
    }

    /// Does something to every area's part of a range, up to the first hole or failure.
    fn walk<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        start: u64,
        end: u64,
        mut each: impl FnMut(&mut Space, &mut AreaPool, &mut E, &Area, u64, u64) -> Result<(), Errno>,
    ) -> Result<(), Errno> {
        self.room(pool, self.cuts(pool, start, end), &[start, end])?;
        let mut at = start;
        while at < end {
            // Areas join as they are changed, so that the next one is looked up.
            let area = self.areas.find(pool, at).ok_or(Errno::ENOMEM)?;
            let to = area.end.min(end);
            each(self, pool, fx, &area, at, to)?;
            at = to;
        }
        Ok(())
    }
}
