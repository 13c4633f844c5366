//! What the machine counted.

use crate::mmu::addr::{FrameNumber, PAGE};
use crate::mmu::cpu::AccessCounts;
use crate::mmu::entry::Meaning;
use crate::mmu::geometry::Geometry;
use crate::mmu::physical::Use;
use crate::mmu::tlb::TlbCounts;

use super::{FaultCounts, Machine, Sizes, SpaceId};

/// Everything that is counted for the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Accesses, walks, references to memory.
    pub accesses: AccessCounts,
    /// The modelled TLB.
    pub tlb: TlbCounts,
    /// Page faults.
    pub faults: FaultCounts,
    /// Accesses that were begun again after a fault was resolved.
    pub restarts: u64,
    /// Pages read from swap.
    pub swap_ins: u64,
    /// Pages written to swap.
    pub swap_outs: u64,
    /// Slots in use.
    pub swap_used: usize,
    /// Frames in use.
    pub frames_used: usize,
}

impl<G: Geometry> Machine<'_, G> {
    /// What was counted so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            accesses: self.pages.mmu.counts,
            tlb: self.pages.mmu.tlb.counts,
            faults: self.pages.counts,
            restarts: self.restarts,
            swap_ins: self.pages.swap.ins,
            swap_outs: self.pages.swap.outs,
            swap_used: self.pages.swap.used(),
            frames_used: self.pages.memory.frames() - self.pages.memory.free(),
        }
    }

    /// Pages of a space in memory and on the device.
    #[must_use]
    pub fn sizes(&self, id: SpaceId) -> Sizes {
        let map = self.pages.maps.get(usize::from(id.raw()));
        map.map_or(Sizes::default(), |map| map.sizes)
    }

    /// Bytes of a space in memory (RSS).
    #[must_use]
    pub fn resident_bytes(&self, id: SpaceId) -> u64 {
        self.sizes(id).resident() * PAGE
    }

    /// Bytes of all areas of a space (VSZ).
    #[must_use]
    pub fn virtual_bytes(&self, id: SpaceId) -> u64 {
        self.space(id)
            .map_or(0, |space| space.areas(&self.pool).map(|a| a.len()).sum())
    }

    /// Bytes of a space's page tables without the root (`VmPTE`).
    #[must_use]
    pub fn table_bytes(&self, id: SpaceId) -> u64 {
        self.tables(id).map_or(0, |tables| tables.bytes())
    }

    /// A space's share of the memory that it maps (Pss), in bytes: a page that `n` entries map
    /// counts an `n`-th for each.
    #[must_use]
    pub fn proportional_bytes(&self, id: SpaceId) -> u64 {
        let place = usize::from(id.raw());
        let mut at = 0;
        // As Linux, with 12 bits behind the point.
        let mut sum = 0;
        while let Some(leaf) = self.pages.next(place, at, G::USER_END) {
            let span = G::span(leaf.level);
            at = leaf.start + span;
            if let Meaning::Present(first) | Meaning::Hidden(first) = leaf.entry.meaning() {
                for number in 0..(span / PAGE) as u32 {
                    let frame = FrameNumber::new(first.raw() + number);
                    sum += (PAGE << 12).checked_div(self.mappings(frame)).unwrap_or(0);
                }
            }
        }
        sum >> 12
    }

    /// Entries of programs that name a frame; 0 for the page of zeros.
    #[must_use]
    pub fn mappings(&self, frame: FrameNumber) -> u64 {
        let record = self.pages.memory.record(frame);
        match record.usage {
            Use::Anonymous => u64::from(record.refs),
            Use::Cached => u64::from(record.refs) - 1,
            Use::Free | Use::Table | Use::Kernel => 0,
        }
    }

    /// Whether the page at `va` is in memory as `mincore` tells it: the page of zeros counts,
    /// a page without rights does too.
    #[must_use]
    pub fn is_resident(&self, id: SpaceId, va: u64) -> bool {
        self.frame(id, va).is_some()
    }

    /// Whether the page at `va` is a guard.
    #[must_use]
    pub fn is_guard(&self, id: SpaceId, va: u64) -> bool {
        let leaf = self.pages.leaf(usize::from(id.raw()), va);
        leaf.is_some_and(|leaf| leaf.entry.meaning() == Meaning::Guard)
    }
}
