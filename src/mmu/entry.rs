//! One page table entry.
//!
//! Bits as in x86-64 (Intel SDM volume 3, section 4.5); entries of 4 bytes have the same low
//! ones. What the processor ignores holds the model's own marks, as in Linux. An entry whose
//! present bit is clear may still say something: which swap slot has the page, that the page is
//! a guard, or that it has a frame but no permission (`PROT_NONE`, for which Linux clears the
//! present bit too).

use core::fmt;
use core::marker::PhantomData;

use super::addr::{FrameNumber, PAGE_SHIFT, PhysAddr, Rights, SwapSlot};
use super::geometry::Geometry;

/// An entry of a page table of geometry `G`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Entry<G>(u64, PhantomData<G>);

/// What an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing was ever here, or it is gone.
    Empty,
    /// A frame that the processor may use.
    Present(FrameNumber),
    /// A frame that nobody may access for now.
    Hidden(FrameNumber),
    /// The page is on the swap device.
    Swapped(SwapSlot),
    /// Any access is a fault.
    Guard,
}

const KIND_SWAP: u64 = 1 << 1;
const KIND_GUARD: u64 = 2 << 1;
const KIND_HIDDEN: u64 = 3 << 1;
const KIND_MASK: u64 = 7 << 1;

impl<G: Geometry> Entry<G> {
    /// The processor may use the entry.
    pub const PRESENT: u64 = 1 << 0;
    /// Stores are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// User mode is allowed.
    pub const USER: u64 = 1 << 2;
    /// Write-through.
    pub const WRITE_THROUGH: u64 = 1 << 3;
    /// Not cached.
    pub const NO_CACHE: u64 = 1 << 4;
    /// Somebody accessed the page.
    pub const ACCESSED: u64 = 1 << 5;
    /// Somebody wrote to the page.
    pub const DIRTY: u64 = 1 << 6;
    /// Above level 0: a huge page. (At level 0 the bit is PAT.)
    pub const HUGE: u64 = 1 << 7;
    /// The translation survives a change of address space.
    pub const GLOBAL: u64 = 1 << 8;
    /// Ours: a store must copy the frame first.
    pub const COW: u64 = 1 << 9;
    /// Ours: contents may be dropped at any time until the next store (`MADV_FREE`).
    pub const LAZY_FREE: u64 = 1 << 11;
    /// Instructions must not be fetched from here, where the geometry can say so.
    pub const NO_EXECUTE: u64 = if G::HAS_NX { 1 << 63 } else { 0 };

    pub(super) const ADDRESS: u64 = if G::PA_BITS >= 64 {
        !0
    } else {
        (1 << G::PA_BITS) - 1
    } & !((1 << PAGE_SHIFT) - 1);

    /// Nothing.
    pub const EMPTY: Entry<G> = Entry(0, PhantomData);
    /// A page whose every access is a fault.
    pub const GUARD: Entry<G> = Entry(KIND_GUARD, PhantomData);

    /// The entry that memory holds as `bits`.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Entry<G> {
        Entry(bits, PhantomData)
    }

    /// As memory holds it.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// A present entry. `flags` are constants of this type.
    #[must_use]
    pub const fn present(frame: FrameNumber, flags: u64) -> Entry<G> {
        Entry(
            frame.start().raw() & Self::ADDRESS | flags | Self::PRESENT,
            PhantomData,
        )
    }

    /// The flags of a user page with these rights. Readability is not a flag: whoever may not
    /// even read has no present entry.
    #[must_use]
    pub const fn user_flags(rights: Rights) -> u64 {
        let mut flags = Self::USER;
        if rights.holds(Rights::WRITE) {
            flags |= Self::WRITABLE;
        }
        if !rights.holds(Rights::EXEC) {
            flags |= Self::NO_EXECUTE;
        }
        flags
    }

    /// A frame that nobody may access for now.
    #[must_use]
    pub const fn hidden(frame: FrameNumber) -> Entry<G> {
        Entry(
            frame.start().raw() & Self::ADDRESS | KIND_HIDDEN,
            PhantomData,
        )
    }

    /// A page on the swap device.
    #[must_use]
    pub const fn swapped(slot: SwapSlot) -> Entry<G> {
        Entry((slot.raw() as u64) << PAGE_SHIFT | KIND_SWAP, PhantomData)
    }

    /// What it says.
    #[must_use]
    pub const fn meaning(self) -> Meaning {
        let number = ((self.0 & Self::ADDRESS) >> PAGE_SHIFT) as u32;
        if self.0 & Self::PRESENT != 0 {
            return Meaning::Present(FrameNumber::new(number));
        }
        match self.0 & KIND_MASK {
            KIND_SWAP => Meaning::Swapped(SwapSlot::new((self.0 >> PAGE_SHIFT) as u32)),
            KIND_GUARD => Meaning::Guard,
            KIND_HIDDEN => Meaning::Hidden(FrameNumber::new(number)),
            _ => Meaning::Empty,
        }
    }

    /// Whether the processor may use it.
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & Self::PRESENT != 0
    }

    /// Whether all of `flags` are set.
    #[must_use]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// With these flags set too.
    #[must_use]
    pub const fn with(self, flags: u64) -> Entry<G> {
        Entry(self.0 | flags, PhantomData)
    }

    /// Without these flags.
    #[must_use]
    pub const fn without(self, flags: u64) -> Entry<G> {
        Entry(self.0 & !flags, PhantomData)
    }

    /// The physical address that a present entry names.
    #[must_use]
    pub const fn address(self) -> PhysAddr {
        PhysAddr::new(self.0 & Self::ADDRESS)
    }
}

impl<G: Geometry> fmt::Debug for Entry<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x} {:?}", self.0, self.meaning())
    }
}

/// The flags of a present entry as letters, a dash for each that is not set: `P W U A D H G C L X`
/// (present, writable, user, accessed, dirty, huge, global, copy on write, lazily freed, may be
/// executed).
impl<G: Geometry> fmt::Display for Entry<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letters = [
            (Self::PRESENT, 'P'),
            (Self::WRITABLE, 'W'),
            (Self::USER, 'U'),
            (Self::ACCESSED, 'A'),
            (Self::DIRTY, 'D'),
            (Self::HUGE, 'H'),
            (Self::GLOBAL, 'G'),
            (Self::COW, 'C'),
            (Self::LAZY_FREE, 'L'),
        ];
        for (flag, letter) in letters {
            fmt::Write::write_char(f, if self.has(flag) { letter } else { '-' })?;
        }
        let executable = !G::HAS_NX || !self.has(Self::NO_EXECUTE);
        fmt::Write::write_char(f, if executable { 'X' } else { '-' })
    }
}
