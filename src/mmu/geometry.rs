//! How an address is cut into indices and an offset.
//!
//! Levels are counted from the leaf: level 0 is the table whose entries name pages, the root is
//! level `LEVELS - 1`. (The notes count from the root.)

use core::fmt::Debug;

use super::addr::{PAGE_SHIFT, VirtAddr};

/// The most levels that any geometry has.
pub const MAX_LEVELS: usize = 5;

/// One way to translate: number of levels, bits of each index, size of an entry.
pub trait Geometry: Copy + Debug + PartialEq + Eq + 'static {
    /// For people.
    const NAME: &'static str;
    /// Bits of a virtual address.
    const VA_BITS: u32;
    /// Bits of a physical address.
    const PA_BITS: u32;
    /// Tables on the way to a page.
    const LEVELS: usize;
    /// Bits of the index into the table of each level, the leaf's first.
    const BITS: [u32; MAX_LEVELS];
    /// Bytes of an entry.
    const ENTRY_BYTES: usize;
    /// A bit for each level whose entries may name a huge page.
    const HUGE_LEVELS: u32;
    /// Whether the bits above `VA_BITS` repeat the topmost bit (else they are zero).
    const SIGN_EXTEND: bool;
    /// Whether an entry can forbid execution.
    const HAS_NX: bool;
    /// The first address that user mode may not use. On 64 bits it is the end of the lower
    /// half, on 32 bits 3 GiB.
    const USER_END: u64;

    /// Bits of an address below the index of a level.
    #[must_use]
    fn shift(level: usize) -> u32 {
        PAGE_SHIFT + Self::BITS.iter().take(level).sum::<u32>()
    }

    /// Entries of a table of a level.
    #[must_use]
    fn entries(level: usize) -> usize {
        1 << Self::BITS.get(level).copied().unwrap_or(0)
    }

    /// Bytes of a table of a level.
    #[must_use]
    fn table_bytes(level: usize) -> u64 {
        (Self::entries(level) * Self::ENTRY_BYTES) as u64
    }

    /// Bytes that one entry of a level spans: the page size of a (huge) page there.
    #[must_use]
    fn span(level: usize) -> u64 {
        1 << Self::shift(level)
    }

    /// The index into the table of a level.
    #[must_use]
    fn index(va: VirtAddr, level: usize) -> usize {
        (va.raw() >> Self::shift(level)) as usize & (Self::entries(level) - 1)
    }

    /// Whether the address can be translated at all.
    #[must_use]
    fn is_canonical(va: VirtAddr) -> bool {
        if Self::VA_BITS >= 64 {
            return true;
        }
        let unused = 64 - Self::VA_BITS;
        let raw = va.raw();
        let extended = if Self::SIGN_EXTEND {
            ((raw << unused).cast_signed() >> unused).cast_unsigned()
        } else {
            raw << unused >> unused
        };
        raw == extended
    }

    /// Whether a level may hold huge pages.
    #[must_use]
    fn is_huge_level(level: usize) -> bool {
        level > 0 && Self::HUGE_LEVELS >> level & 1 != 0
    }
}

macro_rules! geometry {
    ($(#[$doc:meta])* $name:ident {
        name: $text:literal, va: $va:literal, pa: $pa:literal, levels: $levels:literal,
        bits: $bits:expr, entry: $entry:literal, huge: $huge:literal, sign: $sign:literal,
        nx: $nx:literal, user_end: $end:expr
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;
        impl Geometry for $name {
            const NAME: &'static str = $text;
            const VA_BITS: u32 = $va;
            const PA_BITS: u32 = $pa;
            const LEVELS: usize = $levels;
            const BITS: [u32; MAX_LEVELS] = $bits;
            const ENTRY_BYTES: usize = $entry;
            const HUGE_LEVELS: u32 = $huge;
            const SIGN_EXTEND: bool = $sign;
            const HAS_NX: bool = $nx;
            const USER_END: u64 = $end;
        }
    };
}

geometry! {
    /// The 80386: 10/10/12, entries of 4 bytes, huge pages of 4 MiB.
    X86L2 {
        name: "x86, 2 levels", va: 32, pa: 32, levels: 2, bits: [10, 10, 0, 0, 0], entry: 4,
        huge: 0b10, sign: false, nx: false, user_end: 0xc000_0000
    }
}
geometry! {
    /// Physical address extension: 2/9/9/12, 36 bits of physical address, huge pages of 2 MiB.
    Pae {
        name: "x86 with PAE", va: 32, pa: 36, levels: 3, bits: [9, 9, 2, 0, 0], entry: 8,
        huge: 0b10, sign: false, nx: true, user_end: 0xc000_0000
    }
}
geometry! {
    /// x86-64: 9/9/9/9/12, huge pages of 2 MiB and 1 GiB.
    X86L4 {
        name: "x86-64, 4 levels", va: 48, pa: 52, levels: 4, bits: [9, 9, 9, 9, 0], entry: 8,
        huge: 0b110, sign: true, nx: true, user_end: 1 << 47
    }
}
geometry! {
    /// x86-64 with five levels: 57 bits.
    X86L5 {
        name: "x86-64, 5 levels", va: 57, pa: 52, levels: 5, bits: [9, 9, 9, 9, 9], entry: 8,
        huge: 0b110, sign: true, nx: true, user_end: 1 << 56
    }
}
geometry! {
    /// One table for everything: 20/12. A table of 4 MiB for each process.
    Flat {
        name: "flat, 32 bits", va: 32, pa: 32, levels: 1, bits: [20, 0, 0, 0, 0], entry: 4,
        huge: 0, sign: false, nx: false, user_end: 0xc000_0000
    }
}
