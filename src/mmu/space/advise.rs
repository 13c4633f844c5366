//! `madvise`.

use super::{Space, pages_up};
use crate::mmu::addr::{PAGE, Rights};
use crate::mmu::area::linux::{
    MADV_COLD, MADV_DODUMP, MADV_DOFORK, MADV_DONTDUMP, MADV_DONTFORK, MADV_DONTNEED,
    MADV_DONTNEED_LOCKED, MADV_FREE, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_HUGEPAGE,
    MADV_KEEPONFORK, MADV_MERGEABLE, MADV_NOHUGEPAGE, MADV_NORMAL, MADV_PAGEOUT,
    MADV_POPULATE_READ, MADV_POPULATE_WRITE, MADV_RANDOM, MADV_REMOVE, MADV_SEQUENTIAL,
    MADV_UNMERGEABLE, MADV_WILLNEED, MADV_WIPEONFORK,
};
use crate::mmu::area::{Area, Backing, Errno, Traits};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;

impl Space {
    /// `madvise`: does what `advice` says to every area in `len` bytes, rounded up to pages.
    ///
    /// Advice that only tells the kernel what to expect changes nothing here but the areas.
    /// `MADV_COLLAPSE` and the poisoning of pages are unknown.
    ///
    /// # Errors
    /// `EINVAL` for unknown advice, unaligned, or a range that wraps; (no length is no error.)
    /// Areas are done one by one; what an area refuses ends the call with the areas before done:
    /// `EINVAL`, `EACCES` (punching a hole into a private mapping of an object), `EAGAIN` if
    /// an area would have to be split beyond `max_map_count` or without room in the pool.
    /// `ENOMEM` if there was a hole, after everything else was done. `MADV_POPULATE_READ` and
    /// `MADV_POPULATE_WRITE` stop at the first page that cannot be had: `ENOMEM` at a hole,
    /// `EINVAL` without the right, and what [`Effects::populate`] says.
    pub fn madvise<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        addr: u64,
        len: u64,
        advice: u32,
    ) -> Result<(), Errno> {
        let rounded = pages_up(len);
        let end = addr.wrapping_add(rounded);
        let wraps = len != 0 && rounded == 0 || end < addr;
        if !is_known(advice) || !addr.is_multiple_of(PAGE) || wraps {
            return Err(Errno::EINVAL);
        }
        if end == addr {
            return Ok(());
        }
        let populates = matches!(advice, MADV_POPULATE_READ | MADV_POPULATE_WRITE);
        let (mut at, mut hole) = (addr, false);
        while at < end {
            let area = self.areas.at_or_after(pool, at);
            let Some(area) = area.filter(|area| area.start < end) else {
                return Err(Errno::ENOMEM);
            };
            if area.start > at {
                if populates {
                    return Err(Errno::ENOMEM);
                }
                hole = true;
                at = area.start;
            }
            let to = area.end.min(end);
            self.advise_part(pool, fx, &area, at, to, advice)?;
            at = to;
        }
        if hole { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// Advises a part of one area.
    fn advise_part<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        area: &Area,
        from: u64,
        to: u64,
        advice: u32,
    ) -> Result<(), Errno> {
        let locked = area.traits.has(Traits::LOCKED);
        let refuse = |wrong: bool| if wrong { Err(Errno::EINVAL) } else { Ok(()) };
        match advice {
            MADV_DONTNEED | MADV_DONTNEED_LOCKED => {
                refuse(locked && advice == MADV_DONTNEED)?;
                fx.discard(from, to);
            }
            MADV_FREE => {
                refuse(locked || area.backing != Backing::Anonymous)?;
                fx.free_lazily(from, to);
            }
            MADV_REMOVE => {
                let Backing::Object { object, offset, .. } = area.backing else {
                    return Err(Errno::EINVAL);
                };
                refuse(locked)?;
                if !area.is_shared() {
                    return Err(Errno::EACCES);
                }
                fx.punch(object, offset + (from - area.start), to - from);
            }
            MADV_GUARD_INSTALL => {
                refuse(locked)?;
                fx.guard(from, to);
            }
            MADV_GUARD_REMOVE => fx.unguard(from, to),
            MADV_POPULATE_READ => {
                refuse(!area.rights.holds(Rights::READ))?;
                fx.populate(area, from, to, false)?;
            }
            MADV_POPULATE_WRITE => {
                refuse(!area.rights.holds(Rights::WRITE))?;
                fx.populate(area, from, to, true)?;
            }
            MADV_COLD | MADV_PAGEOUT => refuse(locked)?,
            MADV_WILLNEED => {}
            _ => {
                let traits = advised(area, advice)?;
                let cuts = usize::from(area.start < from) + usize::from(area.end > to);
                if traits != area.traits {
                    self.room(pool, cuts, &[from])
                        .and_then(|()| self.alter(pool, fx, area, from, to, area.rights, traits))
                        // The kernel takes it for something that passes.
                        .map_err(|_| Errno::EAGAIN)?;
                }
            }
        }
        Ok(())
    }
}

fn is_known(advice: u32) -> bool {
    matches!(
        advice,
        MADV_NORMAL..=MADV_DONTNEED
            | MADV_FREE..=MADV_DONTNEED_LOCKED
            | MADV_GUARD_INSTALL
            | MADV_GUARD_REMOVE
    )
}

/// The traits of an area after advice about how it is used.
fn advised(area: &Area, advice: u32) -> Result<Traits, Errno> {
    let traits = area.traits;
    Ok(match advice {
        MADV_NORMAL => traits.without(Traits::RANDOM).without(Traits::SEQUENTIAL),
        MADV_RANDOM => traits.without(Traits::SEQUENTIAL).with(Traits::RANDOM),
        MADV_SEQUENTIAL => traits.without(Traits::RANDOM).with(Traits::SEQUENTIAL),
        MADV_DONTFORK => traits.with(Traits::DONT_FORK),
        MADV_DOFORK => traits.without(Traits::DONT_FORK),
        MADV_WIPEONFORK if area.backing != Backing::Anonymous => return Err(Errno::EINVAL),
        MADV_WIPEONFORK => traits.with(Traits::WIPE_ON_FORK),
        MADV_KEEPONFORK => traits.without(Traits::WIPE_ON_FORK),
        MADV_DONTDUMP => traits.with(Traits::DONT_DUMP),
        MADV_DODUMP => traits.without(Traits::DONT_DUMP),
        MADV_HUGEPAGE => traits.without(Traits::NO_HUGE).with(Traits::HUGE),
        MADV_NOHUGEPAGE => traits.without(Traits::HUGE).with(Traits::NO_HUGE),
        MADV_MERGEABLE if !area.is_shared() => traits.with(Traits::MERGEABLE),
        MADV_UNMERGEABLE => traits.without(Traits::MERGEABLE),
        _ => traits,
    })
}
