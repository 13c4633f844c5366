//! `mmap` and `munmap`.

use super::change::{hold, part};
use super::limits::is_accountable;
use super::place::Wish;
use super::{Space, pages_up};
use crate::mmu::addr::{ObjectId, PAGE, Rights};
use crate::mmu::area::linux::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_GROWSDOWN, MAP_HUGETLB, MAP_LOCKED,
    MAP_NONBLOCK, MAP_NORESERVE, MAP_POPULATE, MAP_PRIVATE, MAP_SHARED, MAP_STACK,
};
use crate::mmu::area::{Area, Backing, Errno, Overcommit, Traits};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;

/// The bits of the flags that say how a mapping is shared.
const MAP_TYPE: u32 = 0xf;
/// `MAP_SHARED_VALIDATE`: as shared, but unknown flags are refused.
const MAP_SHARED_VALIDATE: u32 = 3;
/// What `MAP_SHARED_VALIDATE` knows: Linux's `LEGACY_MAP_MASK`.
const MAP_KNOWN: u32 = 0x7c07_f9f3;

impl Space {
    /// `mmap`: maps `len` bytes, rounded up to pages, and says where.
    ///
    /// `prot` and `flags` are Linux's numbers (`area::linux`). `object` is the file, `None` for
    /// the descriptor -1; with `MAP_ANONYMOUS` it is ignored, as the descriptor is. A shared
    /// anonymous mapping gets a new object. Objects allow every access.
    ///
    /// # Errors
    /// In this order: `EINVAL` for an unaligned offset, `EBADF` without an object, `EINVAL` for
    /// no length; `ENOMEM` for too much of it or too many areas (beyond `max_map_count`: one
    /// above it is still mapped); of a fixed address `ENOMEM` beyond the user's part, `EINVAL`
    /// unaligned, `EPERM` below `mmap_min`; `EEXIST` (no replacement); `EPERM`, `EAGAIN`
    /// (locked memory); `EINVAL` for the type of mapping; `ENOMEM` for huge pages, of which
    /// there is no pool, and for limits; whatever [`Effects::create`] says.
    #[allow(clippy::too_many_arguments)] // The arguments of the call.
    pub fn mmap<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        object: Option<ObjectId>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let anonymous = flags & MAP_ANONYMOUS != 0;
        let object = object.filter(|_| !anonymous);
        if !offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if object.is_none() && !anonymous {
            return Err(Errno::EBADF);
        }
        if len == 0 || object.is_some() && flags & MAP_HUGETLB != 0 {
            return Err(Errno::EINVAL);
        }
        let len = pages_up(len);
        if len == 0 || self.areas.len() > self.limits.areas {
            return Err(Errno::ENOMEM);
        }
        let wish = if flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0 {
            Wish::Fixed(hint)
        } else {
            Wish::Hint(self.round_hint(hint))
        };
        let private = anonymous && flags & MAP_TYPE == MAP_PRIVATE;
        let addr = self.place(pool, wish, len, private)?;
        if flags & MAP_FIXED_NOREPLACE != 0 {
            let next = self.areas.at_or_after(pool, addr);
            if next.is_some_and(|next| next.start < addr + len) {
                return Err(Errno::EEXIST);
            }
        }
        let mut area = Area {
            start: addr,
            end: addr + len,
            rights: Rights::from_bits(prot),
            backing: Backing::Anonymous,
            traits: self.traits_of(flags),
        };
        if flags & MAP_LOCKED != 0 && self.limits.locked == 0 {
            return Err(Errno::EPERM);
        }
        if !self.may_lock(&area, len) {
            return Err(Errno::EAGAIN);
        }
        let shared = sharing(flags, anonymous)?;
        if flags & MAP_HUGETLB != 0 {
            return Err(Errno::ENOMEM);
        }
        if let Some(object) = object {
            area.backing = Backing::Object {
                object,
                offset,
                shared,
            };
        }
        self.map_there(pool, fx, area, shared)?;
        let populate = flags & (MAP_POPULATE | MAP_NONBLOCK) == MAP_POPULATE;
        if populate || area.traits.has(Traits::LOCKED) {
            self.prefault(pool, fx, addr, addr + len);
        }
        Ok(addr)
    }

    /// The traits that flags ask for.
    fn traits_of(&self, flags: u32) -> Traits {
        let reserve = self.limits.overcommit == Overcommit::Never;
        [
            (MAP_GROWSDOWN, Traits::GROWS_DOWN),
            (MAP_LOCKED, Traits::LOCKED),
            (MAP_STACK, Traits::NO_HUGE),
            (if reserve { 0 } else { MAP_NORESERVE }, Traits::NO_RESERVE),
        ]
        .into_iter()
        .filter(|(flag, _)| flags & flag != 0)
        .fold(Traits::default(), |all, (_, this)| all.with(this))
    }

    /// Maps `area` in place of what is there: Linux's `mmap_region`. A shared one without an
    /// object gets a new one.
    fn map_there<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        mut area: Area,
        shared: bool,
    ) -> Result<(), Errno> {
        let cut = self.cuts_middle(pool, area.start, area.end);
        if cut && self.areas.len() >= self.limits.areas {
            return Err(Errno::ENOMEM);
        }
        self.room(pool, 1 + usize::from(cut), &[area.start])?;
        let (replaced, uncommitted) = self.inside(pool, area.start, area.end);
        let new = shared && area.backing == Backing::Anonymous;
        let like = if new {
            // What it will be: neither data nor committed by the area.
            Area {
                backing: Backing::Object {
                    object: ObjectId::new(0),
                    offset: 0,
                    shared: true,
                },
                ..area
            }
        } else {
            area
        };
        if !self.may_grow(&like, area.len() - replaced) {
            return Err(Errno::ENOMEM);
        }
        if is_accountable(&like) {
            self.may_commit(area.len() - uncommitted)?;
            area.traits = area.traits.with(Traits::ACCOUNTED);
        }
        if new {
            if !area.traits.has(Traits::NO_RESERVE) {
                self.may_commit(area.len())?;
            }
            area.backing = Backing::Object {
                object: fx.create(area.len())?,
                offset: 0,
                shared: true,
            };
        } else {
            hold(fx, &area);
        }
        self.carve(pool, fx, area.start, area.end);
        self.put(pool, fx, area);
        Ok(())
    }

    /// Bytes that are mapped in a range, and how many of them are committed.
    fn inside(&self, pool: &AreaPool, start: u64, end: u64) -> (u64, u64) {
        let (mut mapped, mut committed) = (0, 0);
        let mut at = start;
        while let Some(area) = self.areas.at_or_after(pool, at) {
            if area.start >= end {
                break;
            }
            let len = part(&area, area.start.max(start), area.end.min(end)).len();
            mapped += len;
            if area.traits.has(Traits::ACCOUNTED) {
                committed += len;
            }
            at = area.end;
        }
        (mapped, committed)
    }

    /// Faults a range in as `MAP_POPULATE` does: private writable areas as if written, others as
    /// if read, those without rights not at all. Failures are nobody's business.
    pub(super) fn prefault<E: Effects>(&self, pool: &AreaPool, fx: &mut E, start: u64, end: u64) {
        let mut at = start;
        while let Some(area) = self.areas.at_or_after(pool, at) {
            if area.start >= end {
                break;
            }
            if area.rights != Rights::NONE {
                let write = area.rights.holds(Rights::WRITE) && !area.is_shared();
                let (from, to) = (area.start.max(start), area.end.min(end));
                let _ = fx.populate(&area, from, to, write);
            }
            at = area.end;
        }
    }

    /// `munmap`: unmaps `len` bytes, rounded up to pages. Holes are no error.
    ///
    /// # Errors
    /// `EINVAL` unaligned, for no length, or beyond the user's part. `ENOMEM` if one area would
    /// become two and there are `max_map_count` already, or the pool has no room.
    pub fn munmap<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        addr: u64,
        len: u64,
    ) -> Result<(), Errno> {
        let end = self.layout.user_end;
        if !addr.is_multiple_of(PAGE) || addr > end || len > end - addr || len == 0 {
            return Err(Errno::EINVAL);
        }
        let end = addr + pages_up(len);
        if self.cuts_middle(pool, addr, end) {
            if self.areas.len() >= self.limits.areas {
                return Err(Errno::ENOMEM);
            }
            self.room(pool, 1, &[addr])?;
        }
        self.carve(pool, fx, addr, end);
        Ok(())
    }
}

/// Whether the flags ask for a shared mapping.
fn sharing(flags: u32, anonymous: bool) -> Result<bool, Errno> {
    let shared = match flags & MAP_TYPE {
        MAP_SHARED_VALIDATE if anonymous => return Err(Errno::EINVAL),
        MAP_SHARED_VALIDATE if flags & !MAP_KNOWN != 0 => return Err(Errno::EOPNOTSUPP),
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        MAP_PRIVATE => false,
        _ => return Err(Errno::EINVAL),
    };
    if flags & MAP_GROWSDOWN != 0 && (shared || !anonymous) {
        return Err(Errno::EINVAL);
    }
    Ok(shared)
}
