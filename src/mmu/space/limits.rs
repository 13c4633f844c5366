//! What may be promised: `RLIMIT_AS`, `RLIMIT_DATA`, `RLIMIT_MEMLOCK` and overcommit.
//!
//! After Linux `may_expand_vm`, `mlock_future_ok` and `__vm_enough_memory`. What the kernel
//! counts over all processes is counted for each space alone here, and half of
//! [`Limits::memory`](crate::mmu::area::Limits) stands for the commit limit: swap is not told
//! apart from RAM, nothing is kept for the administrator.

use super::Space;
use crate::mmu::addr::{PAGE_SHIFT, Rights};
use crate::mmu::area::{Area, Errno, Overcommit, Traits};
use crate::mmu::areas::AreaPool;

/// Sums over all areas, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// All areas: `VmSize`.
    pub size: u64,
    /// Private and writable, stacks aside: what `RLIMIT_DATA` limits.
    pub data: u64,
    /// Locked: what `RLIMIT_MEMLOCK` limits.
    pub locked: u64,
    /// Promised: [`Traits::ACCOUNTED`].
    pub committed: u64,
}

impl Totals {
    /// Nothing.
    pub const NONE: Totals = Totals {
        size: 0,
        data: 0,
        locked: 0,
        committed: 0,
    };

    pub(super) fn add(&mut self, area: &Area) {
        let len = area.len();
        self.size += len;
        self.data += if is_data(area) { len } else { 0 };
        self.locked += if area.traits.has(Traits::LOCKED) {
            len
        } else {
            0
        };
        self.committed += if area.traits.has(Traits::ACCOUNTED) {
            len
        } else {
            0
        };
    }

    pub(super) fn subtract(&mut self, area: &Area) {
        let len = area.len();
        self.size -= len;
        self.data -= if is_data(area) { len } else { 0 };
        self.locked -= if area.traits.has(Traits::LOCKED) {
            len
        } else {
            0
        };
        self.committed -= if area.traits.has(Traits::ACCOUNTED) {
            len
        } else {
            0
        };
    }
}

/// Whether it counts for `RLIMIT_DATA`.
fn is_data(area: &Area) -> bool {
    area.rights.holds(Rights::WRITE) && !area.is_shared() && !area.traits.has(Traits::GROWS_DOWN)
}

/// Whether a new area like it is counted as committed.
pub(super) fn is_accountable(area: &Area) -> bool {
    area.rights.holds(Rights::WRITE) && !area.is_shared() && !area.traits.has(Traits::NO_RESERVE)
}

impl Space {
    /// Whether `bytes` more of areas like `like` are within the limits.
    pub(super) fn may_grow(&self, like: &Area, bytes: u64) -> bool {
        let pages = |bytes: u64| bytes >> PAGE_SHIFT;
        let beyond = |used: u64, limit: u64| pages(used) + pages(bytes) > pages(limit);
        let size = beyond(self.totals.size, self.limits.address_space);
        let data = is_data(like) && beyond(self.totals.data, self.limits.data);
        !size && !data
    }

    /// Whether `bytes` more may be committed.
    pub(super) fn may_commit(&self, bytes: u64) -> Result<(), Errno> {
        let memory = self.limits.memory;
        let fits = match self.limits.overcommit {
            Overcommit::Always => true,
            Overcommit::Guess => bytes >> PAGE_SHIFT <= memory >> PAGE_SHIFT,
            Overcommit::Never => self.totals.committed + bytes < memory / 2,
        };
        if fits { Ok(()) } else { Err(Errno::ENOMEM) }
    }

    /// Whether `bytes` more may be locked, if `like` is.
    pub(super) fn may_lock(&self, like: &Area, bytes: u64) -> bool {
        let pages = (self.totals.locked >> PAGE_SHIFT) + (bytes >> PAGE_SHIFT);
        !like.traits.has(Traits::LOCKED) || pages <= self.limits.locked >> PAGE_SHIFT
    }

    /// Whether the pool has room for so many insertions near some addresses: see
    /// [`Areas::has_room`](crate::mmu::areas::Areas::has_room).
    pub(super) fn room(&self, pool: &AreaPool, inserts: usize, near: &[u64]) -> Result<(), Errno> {
        if self.areas.has_room(pool, inserts, near) {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        }
    }
}
