//! For tests of the checker: damage that no call can do.

use crate::mmu::addr::{FrameNumber, SwapSlot, VirtAddr};
use crate::mmu::cpu::Mmu;
use crate::mmu::entry::Entry;
use crate::mmu::geometry::Geometry;
use crate::mmu::physical::{FrameRecord, Physical};
use crate::mmu::replace::Policy;
use crate::mmu::tables::Tables;

use super::pages::Pages;
use super::{Machine, Sizes, SpaceId};

/// What the checker compares, to overwrite it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Forge<'p, 'm, G: Geometry> {
    pages: &'p mut Pages<'m, G>,
}

#[doc(hidden)]
#[allow(missing_docs)] // Each does what its name says, and nothing else.
impl<G: Geometry> Forge<'_, '_, G> {
    pub fn frame(&mut self, frame: FrameNumber) -> &mut FrameRecord {
        self.pages.memory.record_mut(frame)
    }

    pub fn sizes(&mut self, space: SpaceId) -> &mut Sizes {
        &mut self.pages.maps[usize::from(space.raw())].sizes
    }

    pub fn slot_refs(&mut self, slot: SwapSlot, refs: u32) {
        self.pages.swap.forge(slot, refs);
    }

    /// Changes an entry behind everybody's back.
    pub fn entry(&mut self, space: SpaceId, va: u64, change: impl FnOnce(Entry<G>) -> Entry<G>) {
        if let Some(leaf) = self.pages.leaf(usize::from(space.raw()), va) {
            self.pages.memory.set_entry(leaf.slot, change(leaf.entry));
        }
    }

    /// As [`Forge::entry`], but the table's count is kept and the TLB told.
    pub fn entry_told(&mut self, space: SpaceId, va: u64, entry: Entry<G>) {
        let place = usize::from(space.raw());
        if let Some(leaf) = self.pages.leaf(place, va) {
            Tables::set(&mut self.pages.memory, leaf.slot, entry);
            self.pages.shoot(place, va);
        }
    }

    pub fn unlist(&mut self, frame: FrameNumber) {
        let records = self.pages.memory.records();
        self.pages.policy.remove(records, frame);
    }

    /// The TLB alone forgets a page.
    pub fn drop_line(&mut self, space: SpaceId, va: u64) {
        let asid = self.pages.asid(usize::from(space.raw()));
        let tlb = &mut self.pages.mmu.tlb;
        tlb.drop_page::<G>(VirtAddr::new(va), asid);
    }

    /// The fast cache keeps what the entry says now.
    pub fn remember(&mut self, va: u64) {
        let va = VirtAddr::new(va);
        let user = crate::mmu::addr::Mode::User;
        self.pages.mmu.translate(&self.pages.memory, va, user);
    }
}

impl<'m, G: Geometry> Machine<'m, G> {
    /// For tests of the checker: the machine's own words, to overwrite them.
    #[doc(hidden)]
    pub fn forge(&mut self) -> Forge<'_, 'm, G> {
        Forge {
            pages: &mut self.pages,
        }
    }

    /// For tests of the hardware alone: the processor's part and memory, without a kernel.
    #[doc(hidden)]
    pub fn forge_hardware(&mut self) -> (&mut Mmu<'m, G>, &mut Physical<'m>) {
        (&mut self.pages.mmu, &mut self.pages.memory)
    }
}
