//! The typed numbers of the model. None converts silently into another.

use core::fmt;

use super::geometry::Geometry;

/// Bytes of a page and of a frame in every geometry of x86, as a power of two.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes of a page and of a frame.
pub const PAGE: u64 = 1 << PAGE_SHIFT;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name($raw);

        impl $name {
            /// The number as it is.
            #[must_use]
            pub const fn new(raw: $raw) -> $name {
                $name(raw)
            }

            /// The bare number.
            #[must_use]
            pub const fn raw(self) -> $raw {
                self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

number! {
    /// An address as a program uses it. It need not be canonical: an access with one that is
    /// not is a fault of its own.
    VirtAddr(u64)
}
number! {
    /// An address on the memory bus. Page tables and CR3 hold these and only these.
    ///
    /// ```compile_fail
    /// use fencepost::mmu::addr::{PhysAddr, VirtAddr};
    /// let root: PhysAddr = VirtAddr::new(0x1000);
    /// ```
    PhysAddr(u64)
}
number! {
    /// A virtual page: an address without its offset.
    PageNumber(u64)
}
number! {
    /// A page of physical memory.
    FrameNumber(u32)
}
number! {
    /// A page-sized place on the swap device.
    SwapSlot(u32)
}
number! {
    /// The tag that keeps translations of several address spaces apart in one TLB.
    Asid(u16)
}
number! {
    /// A file, or a piece of memory that several mappings share.
    ObjectId(u32)
}

impl VirtAddr {
    /// The address if the geometry can translate it.
    #[must_use]
    pub fn canonical<G: Geometry>(raw: u64) -> Option<VirtAddr> {
        G::is_canonical(VirtAddr(raw)).then_some(VirtAddr(raw))
    }

    /// The page it lies in.
    #[must_use]
    pub const fn page(self) -> PageNumber {
        PageNumber(self.0 >> PAGE_SHIFT)
    }

    /// How far into the page, in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE - 1)
    }
}

impl PageNumber {
    /// Its first address.
    #[must_use]
    pub const fn start(self) -> VirtAddr {
        VirtAddr(self.0 << PAGE_SHIFT)
    }
}

impl FrameNumber {
    /// Its first address.
    #[must_use]
    pub const fn start(self) -> PhysAddr {
        PhysAddr((self.0 as u64) << PAGE_SHIFT)
    }
}

impl PhysAddr {
    /// The frame it lies in; `None` beyond 16 TiB, which no frame number reaches.
    #[must_use]
    pub const fn frame(self) -> Option<FrameNumber> {
        let frame = self.0 >> PAGE_SHIFT;
        if frame > u32::MAX as u64 {
            None
        } else {
            Some(FrameNumber(frame as u32))
        }
    }

    /// How far into the frame, in bytes.
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.0 & (PAGE - 1)
    }
}

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Loads data.
    Read,
    /// Stores data.
    Write,
    /// Fetches an instruction.
    Exec,
}

/// Who accesses: the two privilege levels of x86 that Linux uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Privilege level 3: a program.
    User,
    /// Privilege level 0: the kernel.
    Supervisor,
}

impl Mode {
    /// The current privilege level as the processor counts it.
    #[must_use]
    pub const fn level(self) -> u8 {
        match self {
            Mode::Supervisor => 0,
            Mode::User => 3,
        }
    }
}

/// Permissions of pages: any combination of read, write and execute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rights(u8);

impl Rights {
    /// No access.
    pub const NONE: Rights = Rights(0);
    /// Loads.
    pub const READ: Rights = Rights(1);
    /// Stores. On x86 what can be stored to can be loaded from.
    pub const WRITE: Rights = Rights(2);
    /// Instruction fetches.
    pub const EXEC: Rights = Rights(4);
    /// Loads and stores.
    pub const READ_WRITE: Rights = Rights(3);

    /// From the bits of `mmap` and `mprotect`; others are ignored.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Rights {
        Rights((bits & 7) as u8)
    }

    /// As `mmap` and `mprotect` spell them.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0 as u32
    }

    /// Both together.
    #[must_use]
    pub const fn or(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }

    /// Whether all of `other` is allowed too.
    #[must_use]
    pub const fn holds(self, other: Rights) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether the processor lets the access through: on x86 a page that may be written or
    /// executed can be read.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        match access {
            Access::Read => self.0 != 0,
            Access::Write => self.0 & 2 != 0,
            Access::Exec => self.0 & 4 != 0,
        }
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As in `/proc/PID/maps`: `rw-`.
impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in [(1, 'r'), (2, 'w'), (4, 'x')] {
            fmt::Write::write_char(f, if self.0 & bit != 0 { letter } else { '-' })?;
        }
        Ok(())
    }
}
