//! One address space: its areas, its break, and what Linux's memory calls do to them.
//!
//! Results, errors and their order, partial effects and limits are those of Linux 6.18 on x86-64;
//! where it matters they were read off the kernel itself. The pages are somebody else's: every
//! change is told to an [`Effects`](super::effects::Effects).
//!
//! | file | calls |
//! |---|---|
//! | `layout` | where heap, mappings and stack begin |
//! | `limits` | `RLIMIT_AS`, `RLIMIT_DATA`, overcommit |
//! | `change` | the three changes that everything is made of: put, carve, alter |
//! | `mmap`, `place` | `mmap`, `munmap`, and the choice of an address |
//! | `protect` | `mprotect`, `mlock`, `munlock` |
//! | `advise` | `madvise` |
//! | `remap` | `mremap` |
//! | `heap` | `brk`, and the growth of stacks |
//! | `fork` | `fork`, and the end of a space |
//!
//! The kernel leaves areas apart that could be one, after faults and moves. Here areas that
//! [`Area::joins`] are one at any time, so that numbers of areas are lower bounds of the kernel's.

mod advise;
mod change;
mod fork;
mod heap;
mod layout;
mod limits;
mod mmap;
mod place;
mod protect;
mod remap;

pub use layout::{Image, Layout, Part, Parts};
pub use limits::Totals;

use super::addr::PAGE;
use super::area::{Area, Limits, Traits};
use super::areas::{AreaPool, Areas, Broken};

/// Pages that stay free below a stack, in bytes: `stack_guard_gap`.
pub const STACK_GAP: u64 = 256 * PAGE;

/// An address space. Plain data; its areas are in the pool that every method is given, which
/// must always be the same one. [`Space::clear`] gives them back.
#[derive(Debug)]
pub struct Space {
    /// What it may use. May be changed at any time, as `setrlimit` does.
    pub limits: Limits,
    layout: Layout,
    areas: Areas,
    brk: u64,
    totals: Totals,
}

/// `bytes` rounded up to whole pages; 0 if that is 2^64.
const fn pages_up(bytes: u64) -> u64 {
    bytes.wrapping_add(PAGE - 1) & !(PAGE - 1)
}

impl Space {
    /// A space without areas, the break at its beginning.
    #[must_use]
    pub const fn new(layout: Layout, limits: Limits) -> Space {
        Space {
            limits,
            layout,
            areas: Areas::new(),
            brk: layout.start_brk,
            totals: Totals::NONE,
        }
    }

    /// Where things begin.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the break is, to the byte.
    #[must_use]
    pub const fn break_now(&self) -> u64 {
        self.brk
    }

    /// How much is mapped, of which kind.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// How many areas there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.areas.len()
    }

    /// Whether nothing is mapped.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.areas.is_empty()
    }

    /// The area that contains `addr`.
    #[must_use]
    pub fn find(&self, pool: &AreaPool, addr: u64) -> Option<Area> {
        self.areas.find(pool, addr).map(|area| self.marked(area))
    }

    /// The first area that ends behind `addr`.
    #[must_use]
    pub fn at_or_after(&self, pool: &AreaPool, addr: u64) -> Option<Area> {
        self.areas
            .at_or_after(pool, addr)
            .map(|area| self.marked(area))
    }

    /// All areas in order.
    pub fn areas<'a>(&'a self, pool: &'a AreaPool) -> impl Iterator<Item = Area> + 'a {
        self.areas.iter(pool).map(|area| self.marked(area))
    }

    /// The areas as `/proc/PID/maps` can tell them apart: neighbours with equal rights and one
    /// backing are one, whatever else differs.
    pub fn canonical<'a>(&'a self, pool: &'a AreaPool) -> impl Iterator<Item = Area> + 'a {
        let mut rest = self.areas(pool).peekable();
        core::iter::from_fn(move || {
            let mut area = rest.next()?;
            while let Some(next) = rest.next_if(|next| {
                area.joins(&Area {
                    traits: area.traits,
                    ..*next
                })
            }) {
                area.end = next.end;
            }
            Some(area)
        })
    }

    /// The area with [`Traits::HEAP`] if the heap touches it, which is how the kernel decides
    /// what it calls `[heap]`.
    fn marked(&self, area: Area) -> Area {
        let heap = area.start < self.brk && area.end > self.layout.start_brk;
        if heap {
            Area {
                traits: area.traits.with(Traits::HEAP),
                ..area
            }
        } else {
            area
        }
    }

    /// Verifies the invariants of the tree, and of the space: areas lie in the user's part,
    /// neighbours that join are one, totals are the sums over all areas, the break is not below
    /// its beginning.
    ///
    /// # Errors
    /// What is broken first.
    pub fn check(&self, pool: &AreaPool) -> Result<(), Broken> {
        self.areas.check(pool)?;
        let mut totals = Totals::NONE;
        let mut last: Option<Area> = None;
        for area in self.areas.iter(pool) {
            if area.end > self.layout.user_end || area.traits.has(Traits::HEAP) {
                return Err(Broken::Outside(area.start));
            }
            if last.is_some_and(|last| last.joins(&area)) {
                return Err(Broken::Unmerged(area.start));
            }
            totals.add(&area);
            last = Some(area);
        }
        if totals != self.totals || self.brk < self.layout.start_brk {
            return Err(Broken::Totals);
        }
        Ok(())
    }
}
