//! The swap device: places for pages that have no frame.
//!
//! A slot is held by as many entries as name it: after a fork both sides do.

use super::addr::{PAGE, SwapSlot};

/// What is known of a slot. Plain data, to be handed in as storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwapRecord {
    refs: u32,
    /// The next free slot.
    next: u32,
}

impl SwapRecord {
    /// A record of nothing, to make storage of.
    pub const EMPTY: SwapRecord = SwapRecord { refs: 0, next: 0 };

    /// Entries that name the slot.
    #[must_use]
    pub const fn refs(&self) -> u32 {
        self.refs
    }
}

/// The slots of the device.
#[derive(Debug)]
pub struct Swap<'m> {
    slots: &'m mut [SwapRecord],
    free: u32,
    used: usize,
    /// Pages read from it.
    pub ins: u64,
    /// Pages written to it.
    pub outs: u64,
}

const NONE: u32 = u32::MAX;

impl<'m> Swap<'m> {
    /// All slots free.
    ///
    /// # Panics
    /// With 2^32 - 1 slots or more.
    #[must_use]
    pub fn new(slots: &'m mut [SwapRecord]) -> Swap<'m> {
        assert!(slots.len() < NONE as usize, "slot numbers have 32 bits");
        let len = slots.len() as u32;
        for (number, slot) in slots.iter_mut().enumerate() {
            let next = number as u32 + 1;
            *slot = SwapRecord {
                refs: 0,
                next: if next < len { next } else { NONE },
            };
        }
        Swap {
            free: if len == 0 { NONE } else { 0 },
            slots,
            used: 0,
            ins: 0,
            outs: 0,
        }
    }

    /// All slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Slots that hold a page.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Bytes that went to the device and came from it.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        (self.ins + self.outs) * PAGE
    }

    /// Whether a slot is free.
    #[must_use]
    pub const fn has_room(&self) -> bool {
        self.free != NONE
    }

    /// What is known of a slot.
    #[must_use]
    pub fn record(&self, slot: SwapSlot) -> SwapRecord {
        self.slots[slot.raw() as usize]
    }

    /// A slot that `refs` entries will name.
    pub(super) fn take(&mut self, refs: u32) -> Option<SwapSlot> {
        let number = (self.free != NONE).then_some(self.free)?;
        let slot = &mut self.slots[number as usize];
        self.free = slot.next;
        *slot = SwapRecord { refs, next: NONE };
        self.used += 1;
        Some(SwapSlot::new(number))
    }

    /// One more entry names the slot.
    pub(super) fn hold(&mut self, slot: SwapSlot) {
        self.slots[slot.raw() as usize].refs += 1;
    }

    /// One entry less names the slot; the last one frees it.
    pub(super) fn release(&mut self, slot: SwapSlot) {
        let record = &mut self.slots[slot.raw() as usize];
        record.refs -= 1;
        if record.refs == 0 {
            record.next = self.free;
            self.free = slot.raw();
            self.used -= 1;
        }
    }

    /// For tests of the checker.
    pub(super) fn forge(&mut self, slot: SwapSlot, refs: u32) {
        self.slots[slot.raw() as usize].refs = refs;
    }
}
