//! The choice of an address: from the top down, below stacks with their gap, 2 MiB aligned where
//! huge pages could be used.
//!
//! After Linux `__get_unmapped_area`, `arch_get_unmapped_area_topdown` and
//! `__thp_get_unmapped_area`.

use super::{STACK_GAP, Space};
use crate::mmu::addr::PAGE;
use crate::mmu::area::{Area, Errno, Traits};
use crate::mmu::areas::AreaPool;

/// Bytes of a huge page of the lowest level.
const HUGE: u64 = 2 << 20;

/// Hints below it are raised to it: `CONFIG_LSM_MMAP_MIN_ADDR` as distributions set it, which
/// limits fixed addresses and privileged processes less.
pub(super) const HINT_MIN: u64 = 64 << 10;

/// How an address is wished for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// There and nowhere else.
    Fixed(u64),
    /// There if nothing is, a whole page; 0 for anywhere.
    Hint(u64),
}

/// Where a mapping has to end at the latest below this one.
fn start_with_gap(area: &Area) -> u64 {
    if area.traits.has(Traits::GROWS_DOWN) {
        area.start.saturating_sub(STACK_GAP)
    } else {
        area.start
    }
}

impl Space {
    /// An address for `len` bytes, whole pages. `private` is private anonymous memory.
    pub(super) fn place(
        &self,
        pool: &AreaPool,
        wish: Wish,
        len: u64,
        private: bool,
    ) -> Result<u64, Errno> {
        let end = self.layout.user_end;
        if len > end {
            return Err(Errno::ENOMEM);
        }
        let addr = match wish {
            Wish::Fixed(addr) => addr,
            Wish::Hint(0) if private && len.is_multiple_of(HUGE) => {
                let padded = self.anywhere(pool, len + HUGE);
                padded
                    .map(align_huge)
                    .or_else(|_| self.anywhere(pool, len))?
            }
            Wish::Hint(addr) if self.is_free(pool, addr, len) => addr,
            Wish::Hint(_) => self.anywhere(pool, len)?,
        };
        if addr > end - len {
            Err(Errno::ENOMEM)
        } else if !addr.is_multiple_of(PAGE) {
            Err(Errno::EINVAL)
        } else if addr < self.layout.mmap_min {
            Err(Errno::EPERM)
        } else {
            Ok(addr)
        }
    }

    /// A hint as it is taken: whole pages, 0 for none, and not too low.
    pub(super) fn round_hint(&self, hint: u64) -> u64 {
        let hint = hint & !(PAGE - 1);
        if hint == 0 {
            0
        } else {
            hint.max(HINT_MIN).max(self.layout.mmap_min)
        }
    }

    /// Whether nothing is in the way of `len` bytes at `addr`, gaps of stacks included.
    fn is_free(&self, pool: &AreaPool, addr: u64, len: u64) -> bool {
        let end = self.layout.user_end;
        addr != 0 && addr <= end - len && {
            let next = self.areas.at_or_after(pool, addr);
            next.is_none_or(|next| addr + len <= start_with_gap(&next))
        }
    }

    /// The highest hole below the base of mappings, else the lowest one in the upper two thirds.
    fn anywhere(&self, pool: &AreaPool, len: u64) -> Result<u64, Errno> {
        let (mut high, low) = (self.layout.mmap_base, PAGE.max(self.layout.mmap_min));
        while let Some(addr) = self.areas.highest_hole(pool, low, high, len) {
            match self.areas.at_or_after(pool, addr + len) {
                Some(next) if addr + len > start_with_gap(&next) => high = start_with_gap(&next),
                _ => return Ok(addr),
            }
        }
        let mut low = (self.layout.user_end / 3) & !(PAGE - 1);
        while let Some(addr) = self.areas.lowest_hole(pool, low, self.layout.user_end, len) {
            match self.areas.at_or_after(pool, addr + len) {
                Some(next) if addr + len > start_with_gap(&next) => low = next.end,
                _ => return Ok(addr),
            }
        }
        Err(Errno::ENOMEM)
    }
}

/// The multiple of 2 MiB in a hole that is 2 MiB longer than what goes there: the upper one if
/// the hole itself begins at one.
fn align_huge(hole: u64) -> u64 {
    (hole & !(HUGE - 1)) + HUGE
}
