//! Segmentation: what came before paging, and what x86 kept under it.
//!
//! A logical address is a selector and an offset. The selector picks a [`Segment`] from the
//! table: base, limit, privilege level, kind, present. An access that the segment allows goes on
//! to a [`Stage`], which decides what the base means:
//!
//! | stage | base is | as in |
//! |---|---|---|
//! | [`Physical`] | a physical address | the 80286: segments alone |
//! | [`Linear`] | a linear address, which paging translates | the 80386: one address space of pages under all segments |
//! | [`PageTables`] | the physical address of the segment's own page table | segmented paging, as Multics had it |
//!
//! Checks come in the order of the Intel SDM, volume 3, chapter 5: privilege and kind first, then
//! whether the segment is there, then the limit. The limit is the number of bytes of the segment;
//! a descriptor of x86 holds that number less one. A processor keeps the descriptor in the hidden
//! part of a segment register; here every access reads the table, and is counted so.
//!
//! [`paging`] puts the model's MMU under [`Linear`]. [`memory`] is how a system places whole
//! segments: first fit, fragmentation, compaction.

pub mod memory;
pub mod paging;

use super::addr::{Access, Mode, PAGE_SHIFT, PhysAddr, VirtAddr};
use super::entry::{Entry, Meaning};
use super::fault::{Cause, Fault};
use super::geometry::Geometry;

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Instructions.
    Code {
        /// Whether they can be loaded as data too.
        readable: bool,
    },
    /// Data, a heap or a stack.
    Data {
        /// Whether it can be stored to.
        writable: bool,
    },
}

impl Kind {
    /// Whether the kind of segment is made for this kind of access.
    #[must_use]
    pub const fn allows(self, access: Access) -> bool {
        match (self, access) {
            (Kind::Code { readable }, Access::Read) => readable,
            (Kind::Code { .. }, Access::Write) | (Kind::Data { .. }, Access::Exec) => false,
            (Kind::Code { .. }, Access::Exec) | (Kind::Data { .. }, Access::Read) => true,
            (Kind::Data { writable }, Access::Write) => writable,
        }
    }
}

/// One entry of the segment table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Where it begins; the [`Stage`] knows in which address space.
    pub base: u64,
    /// Its length in bytes: offsets below this are allowed.
    pub limit: u64,
    /// The descriptor's privilege level, 0 (kernel) to 3 (programs).
    pub level: u8,
    /// What it holds.
    pub kind: Kind,
    /// Whether it is in memory.
    pub present: bool,
}

impl Segment {
    /// No segment.
    pub const ABSENT: Segment = Segment {
        base: 0,
        limit: 0,
        level: 0,
        kind: Kind::Data { writable: false },
        present: false,
    };

    /// A segment in memory for programs, data that can be stored to.
    #[must_use]
    pub const fn data(base: u64, limit: u64) -> Segment {
        Segment {
            base,
            limit,
            level: 3,
            kind: Kind::Data { writable: true },
            present: true,
        }
    }

    /// A segment in memory for programs, instructions that can be read.
    #[must_use]
    pub const fn code(base: u64, limit: u64) -> Segment {
        Segment {
            kind: Kind::Code { readable: true },
            ..Segment::data(base, limit)
        }
    }

    /// The same for another privilege level.
    #[must_use]
    pub const fn at_level(self, level: u8) -> Segment {
        Segment { level, ..self }
    }

    /// Whether whoever runs at level `current`, through a selector that asks for `requested`,
    /// may do the access at `offset`.
    ///
    /// Data of a level is for that level and more privileged ones; code of a level is for that
    /// level alone (x86's gates and conforming segments are not modelled).
    ///
    /// # Errors
    /// The first thing that forbids it.
    pub const fn check(
        &self,
        offset: u64,
        access: Access,
        current: u8,
        requested: u8,
    ) -> Result<(), Cause> {
        let weakest = if current > requested {
            current
        } else {
            requested
        };
        let privileged = match access {
            Access::Exec => current == self.level && weakest == self.level,
            Access::Read | Access::Write => weakest <= self.level,
        };
        if !privileged {
            Err(Cause::SegmentPrivilege)
        } else if !self.kind.allows(access) {
            Err(Cause::SegmentType)
        } else if !self.present {
            Err(Cause::SegmentNotPresent)
        } else if offset >= self.limit {
            Err(Cause::SegmentLimit)
        } else {
            Ok(())
        }
    }
}

/// Which segment, and at which privilege level it is asked for: bits 3 to 15 are the index into
/// the table, bits 0 and 1 the level. Bit 2 chooses between two tables on x86; here there is one
/// and the bit says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Selector(u16);

impl Selector {
    /// A selector of a program for a segment; `None` beyond the 8192 that a table can have.
    #[must_use]
    pub const fn user(index: u16) -> Option<Selector> {
        if index < 1 << 13 {
            Some(Selector(index << 3 | 3))
        } else {
            None
        }
    }

    /// As a segment register holds it.
    #[must_use]
    pub const fn from_bits(bits: u16) -> Selector {
        Selector(bits)
    }

    /// As a segment register holds it.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Which entry of the table.
    #[must_use]
    pub const fn index(self) -> u16 {
        self.0 >> 3
    }

    /// The requested privilege level.
    #[must_use]
    pub const fn level(self) -> u8 {
        (self.0 & 3) as u8
    }
}

/// Linux on the 80386: every segment starts at 0 and spans 4 GiB, so that an offset is a linear
/// address and only the privilege level matters.
pub mod linux {
    use super::{Segment, Selector};

    /// The kernel's instructions.
    pub const KERNEL_CODE: Selector = Selector::from_bits(0x60);
    /// The kernel's data.
    pub const KERNEL_DATA: Selector = Selector::from_bits(0x68);
    /// A program's instructions.
    pub const USER_CODE: Selector = Selector::from_bits(0x73);
    /// A program's data.
    pub const USER_DATA: Selector = Selector::from_bits(0x7b);

    /// The table that these selectors point into (entries 12 to 15 of the real one).
    pub const TABLE: [Segment; 16] = {
        let mut table = [Segment::ABSENT; 16];
        table[12] = Segment::code(0, 1 << 32).at_level(0);
        table[13] = Segment::data(0, 1 << 32).at_level(0);
        table[14] = Segment::code(0, 1 << 32);
        table[15] = Segment::data(0, 1 << 32);
        table
    };
}

/// Where an access that the segment allowed ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// Base and offset together, where there is such an address.
    pub linear: Option<VirtAddr>,
    /// The byte in memory.
    pub physical: PhysAddr,
    /// Accesses to memory that were needed without any cache. A [`Stage`] counts its own tables;
    /// [`Seg`] adds the segment table and the byte itself.
    pub references: u32,
}

/// What follows the segment table.
pub trait Stage {
    /// Finds the byte `offset` of a segment that begins at `base`.
    ///
    /// # Errors
    /// A fault of paging; its `instruction` is filled in by [`Seg`].
    fn locate(
        &mut self,
        base: u64,
        offset: u64,
        access: Access,
        mode: Mode,
    ) -> Result<Located, Fault>;
}

/// Nothing: base and offset are the physical address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Physical;

impl Stage for Physical {
    fn locate(&mut self, base: u64, offset: u64, _: Access, _: Mode) -> Result<Located, Fault> {
        let sum = base.wrapping_add(offset);
        Ok(Located {
            linear: Some(VirtAddr::new(sum)),
            physical: PhysAddr::new(sum),
            references: 0,
        })
    }
}

/// A paging unit, as far as segments need to know it.
pub trait Paging {
    /// How it cuts addresses.
    type Geometry: Geometry;

    /// The physical address, and the number of accesses to page tables without a TLB.
    ///
    /// # Errors
    /// A page fault.
    fn translate(
        &mut self,
        linear: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<(PhysAddr, u32), Fault>;
}

impl<P: Paging> Paging for &mut P {
    type Geometry = P::Geometry;

    fn translate(
        &mut self,
        linear: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<(PhysAddr, u32), Fault> {
        P::translate(self, linear, access, mode)
    }
}

/// One paged address space under all segments. Addresses of 32 bits wrap around at their end.
#[derive(Debug, Clone, Copy)]
pub struct Linear<P>(pub P);

impl<P: Paging> Stage for Linear<P> {
    fn locate(
        &mut self,
        base: u64,
        offset: u64,
        access: Access,
        mode: Mode,
    ) -> Result<Located, Fault> {
        let mut sum = base.wrapping_add(offset);
        if !P::Geometry::SIGN_EXTEND && P::Geometry::VA_BITS < 64 {
            sum &= (1 << P::Geometry::VA_BITS) - 1;
        }
        let linear = VirtAddr::new(sum);
        let (physical, references) = self.0.translate(linear, access, mode)?;
        Ok(Located {
            linear: Some(linear),
            physical,
            references,
        })
    }
}

/// A page table for each segment: the pieces of physical memory from `at` on that hold them all.
/// Tables have one level, an entry for each page of the segment, and a base must be a multiple of
/// the size of an entry.
#[derive(Debug)]
pub struct PageTables<'m, G: Geometry> {
    at: PhysAddr,
    entries: &'m mut [Entry<G>],
}

impl<'m, G: Geometry> PageTables<'m, G> {
    /// Tables that lie in memory from `at` on, one after the other or however bases say.
    pub fn new(at: PhysAddr, entries: &'m mut [Entry<G>]) -> PageTables<'m, G> {
        PageTables { at, entries }
    }

    /// The entry of a page of the segment whose table begins at `base`.
    pub fn entry(&mut self, base: u64, page: u64) -> Option<&mut Entry<G>> {
        let bytes = G::ENTRY_BYTES as u64;
        let at = base.checked_add(page.checked_mul(bytes)?)?;
        let at = at.checked_sub(self.at.raw())?;
        if at % bytes != 0 {
            return None;
        }
        self.entries.get_mut(usize::try_from(at / bytes).ok()?)
    }
}

impl<G: Geometry> Stage for PageTables<'_, G> {
    fn locate(
        &mut self,
        base: u64,
        offset: u64,
        access: Access,
        mode: Mode,
    ) -> Result<Located, Fault> {
        let refuse = |cause, present| Fault {
            cause,
            addr: VirtAddr::new(offset),
            access,
            mode,
            present,
            instruction: 0,
        };
        let entry = self
            .entry(base, offset >> PAGE_SHIFT)
            .ok_or(refuse(Cause::NotMapped, false))?;
        let frame = match entry.meaning() {
            Meaning::Present(frame) => frame,
            Meaning::Guard => return Err(refuse(Cause::Guard, false)),
            Meaning::Hidden(_) => return Err(refuse(Cause::ProtRead, false)),
            Meaning::Empty | Meaning::Swapped(_) => return Err(refuse(Cause::NotMapped, false)),
        };
        if mode == Mode::User && !entry.has(Entry::<G>::USER) {
            return Err(refuse(Cause::UserSupervisor, true));
        }
        let marks = match access {
            Access::Read => Entry::<G>::ACCESSED,
            Access::Write if !entry.has(Entry::<G>::WRITABLE) => {
                return Err(refuse(Cause::ProtWrite, true));
            }
            Access::Write => Entry::<G>::ACCESSED | Entry::<G>::DIRTY,
            Access::Exec if G::HAS_NX && entry.has(Entry::<G>::NO_EXECUTE) => {
                return Err(refuse(Cause::ExecNx, true));
            }
            Access::Exec => Entry::<G>::ACCESSED,
        };
        *entry = entry.with(marks);
        let within = offset & ((1 << PAGE_SHIFT) - 1);
        Ok(Located {
            linear: None,
            physical: PhysAddr::new(frame.start().raw() | within),
            references: 1,
        })
    }
}

/// A segment table, and what follows it.
#[derive(Debug)]
pub struct Seg<'m, S> {
    table: &'m mut [Segment],
    stage: S,
    accesses: u64,
}

impl<'m, S: Stage> Seg<'m, S> {
    /// A unit that reads `table`.
    pub fn new(table: &'m mut [Segment], stage: S) -> Seg<'m, S> {
        Seg {
            table,
            stage,
            accesses: 0,
        }
    }

    /// The table, to change it as a kernel does.
    pub fn table(&mut self) -> &mut [Segment] {
        self.table
    }

    /// What follows the table.
    pub fn stage(&mut self) -> &mut S {
        &mut self.stage
    }

    /// Translates the logical address `selector:offset`.
    ///
    /// # Errors
    /// A segment fault, whose address is the offset, or what the next stage refuses.
    pub fn translate(
        &mut self,
        selector: Selector,
        offset: u64,
        access: Access,
        mode: Mode,
    ) -> Result<Located, Fault> {
        let instruction = self.accesses;
        self.accesses += 1;
        let segment = self
            .table
            .get(usize::from(selector.index()))
            .unwrap_or(&Segment::ABSENT);
        let checked = if *segment == Segment::ABSENT {
            Err(Cause::SegmentNotPresent)
        } else {
            segment.check(offset, access, mode.level(), selector.level())
        };
        checked.map_err(|cause| Fault {
            cause,
            addr: VirtAddr::new(offset),
            access,
            mode,
            present: false,
            instruction,
        })?;
        let base = segment.base;
        match self.stage.locate(base, offset, access, mode) {
            Ok(located) => Ok(Located {
                references: located.references + 2,
                ..located
            }),
            Err(fault) => Err(Fault {
                instruction,
                ..fault
            }),
        }
    }
}
