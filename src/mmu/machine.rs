//! The whole machine: areas, page tables, frames, TLB, swap, and the kernel between them.
//!
//! A program's access goes to [`Mmu::reach`], which is the hardware. What it refuses is judged
//! here by the areas: either it is a fault for the program, or the page is found or made and the
//! same access begins again. Memory calls go to [`Space`], which changes areas and tells the
//! page side what that means ([`Effects`](super::effects::Effects)).
//!
//! ```text
//! access ──> Mmu: TLB ──miss──> walk ──ok──> physical address
//!                                 │ refused
//!                                 v
//!             areas: no such area, no right ──> Fault
//!                                 │ legal
//!                                 v
//!             zero fill, copy, swap in, file in ──> the same access again
//! ```
//!
//! Simplifications, all on the side of fewer surprises: pages are faulted in one at a time (no
//! fault-around), a page that two spaces have on the swap device comes back as two frames, huge
//! pages of a program are made on request only and stay in memory until they are split.
//!
//! Storage is handed in as slices. Nothing here allocates.

mod access;
mod calls;
mod check;
mod effects;
mod forge;
mod fork;
mod kernel;
mod pages;
mod reclaim;
mod report;
mod resolve;

pub use check::{Damage, Invariant};
pub use forge::Forge;
pub use kernel::{LINEAR_BYTES, LINEAR_START};
pub use pages::{FaultCounts, PageMap, Sizes};
pub use report::Report;
pub use resolve::{FaultTrace, Resolution};

use super::addr::{Asid, PAGE_SHIFT, PhysAddr};
use super::area::{Errno, Limits};
use super::areas::{AreaPool, Node};
use super::cpu::Mmu;
use super::geometry::Geometry;
use super::lookaside::{Lookaside, LookasideLine};
use super::objects::{ObjectRecord, Objects};
use super::physical::{FRAME_WORDS, FrameRecord, Physical};
use super::replace::{Kind, Replacement};
use super::space::{Layout, Space};
use super::swap::{Swap, SwapRecord};
use super::tables::Tables;
use super::tlb::{Shape, Tlb, TlbLine};

use pages::Pages;

/// An address space of a machine, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(u16);

impl SpaceId {
    /// The number: its place in the storage.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }
}

/// A place for an address space. Plain data, to be handed in as storage.
#[derive(Debug)]
pub struct SpaceRecord(Option<Space>);

impl SpaceRecord {
    /// No space, to make storage of.
    pub const EMPTY: SpaceRecord = SpaceRecord(None);
}

/// What a machine is made of. What the slices hold does not matter.
#[derive(Debug)]
pub struct Storage<'m, G: Geometry> {
    /// The words of memory, 512 for a frame.
    pub memory: &'m mut [u64],
    /// A record for each frame.
    pub frames: &'m mut [FrameRecord],
    /// A record for each swap slot.
    pub swap: &'m mut [SwapRecord],
    /// The words of the disk: first the swap slots, then the blocks of files. With less, pages
    /// come back as zeros.
    pub disk: &'m mut [u64],
    /// Nodes for areas, shared by all spaces.
    pub nodes: &'m mut [Node],
    /// A record for each object.
    pub objects: &'m mut [ObjectRecord],
    /// A place for each address space.
    pub spaces: &'m mut [SpaceRecord],
    /// As many as `spaces`.
    pub maps: &'m mut [PageMap<G>],
    /// The TLB's lines: as many as both shapes need.
    pub tlb: &'m mut [TlbLine],
    /// The translation cache that no report shows: 256 to 4096 lines, or none.
    pub lookaside: &'m mut [LookasideLine],
}

/// How a machine is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Whether data frames have bytes. Without, words of memory serve page tables only, and
    /// there may be more frames than words for them.
    pub contents: bool,
    /// Who goes when memory is full.
    pub replacement: Kind,
    /// The TLB's first level.
    pub first: Shape,
    /// The TLB's second level.
    pub second: Shape,
    /// Whether TLB entries carry the number of their space. If not, each switch flushes.
    pub tagged: bool,
}

impl Options {
    /// Bytes, CLOCK, a TLB of two levels that is flushed at each switch.
    pub const DEFAULT: Options = Options {
        contents: true,
        replacement: Kind::Clock,
        first: Shape::L1,
        second: Shape::L2,
        tagged: false,
    };
}

/// A machine with one processor.
#[derive(Debug)]
pub struct Machine<'m, G: Geometry> {
    pool: AreaPool<'m>,
    spaces: &'m mut [SpaceRecord],
    pages: Pages<'m, G>,
    current: Option<SpaceId>,
    /// Accesses so far: the number of the next one.
    instruction: u64,
    restarts: u64,
}

impl<'m, G: Geometry> Machine<'m, G> {
    /// A machine without address spaces, paging off.
    ///
    /// # Panics
    /// If there are fewer page maps than places for spaces, more than 65,534 of them, fewer TLB
    /// lines than the shapes need, or more frames than the geometry has physical addresses for.
    #[must_use]
    pub fn new(storage: Storage<'m, G>, options: Options) -> Machine<'m, G> {
        let Storage {
            memory,
            frames,
            swap,
            disk,
            nodes,
            objects,
            spaces,
            maps,
            tlb,
            lookaside,
        } = storage;
        assert!(spaces.len() < usize::from(u16::MAX), "too many spaces");
        assert!(maps.len() >= spaces.len(), "a page map for each space");
        let reach = 1u64 << (G::PA_BITS - PAGE_SHIFT);
        assert!(frames.len() as u64 <= reach, "more frames than addresses");
        spaces.fill_with(|| SpaceRecord::EMPTY);
        maps.fill(PageMap::EMPTY);
        Machine {
            pool: AreaPool::new(nodes),
            spaces,
            pages: Pages {
                memory: Physical::new(memory, frames, options.contents),
                maps,
                mmu: Mmu::new(
                    Tlb::new(tlb, options.first, options.second),
                    Lookaside::new(lookaside),
                ),
                policy: Replacement::new(options.replacement),
                swap: Swap::new(swap),
                disk,
                objects: Objects::new(objects),
                zero: None,
                kernel: None,
                tagged: options.tagged,
                counts: FaultCounts::default(),
                short: false,
                trace: FaultTrace::NONE,
            },
            current: None,
            instruction: 0,
            restarts: 0,
        }
    }

    /// A new, empty address space. It is not switched to.
    ///
    /// # Errors
    /// `ENOMEM` without a place for it or a frame for its root.
    pub fn spawn(&mut self, layout: Layout, limits: Limits) -> Result<SpaceId, Errno> {
        let id = self.free_place()?;
        self.pages.maps[id].tables = Some(self.new_root()?);
        self.spaces[id] = SpaceRecord(Some(Space::new(layout, limits)));
        Ok(SpaceId(id as u16))
    }

    fn free_place(&self) -> Result<usize, Errno> {
        let free = self.spaces.iter().position(|space| space.0.is_none());
        free.ok_or(Errno::ENOMEM)
    }

    /// A root that has the kernel's part and nothing else.
    fn new_root(&mut self) -> Result<Tables<G>, Errno> {
        loop {
            if let Some(tables) = Tables::new(&mut self.pages.memory) {
                if let Some(kernel) = &self.pages.kernel {
                    tables.adopt_kernel(&mut self.pages.memory, kernel);
                }
                return Ok(tables);
            }
            if self.pages.memory.tables_are_apart() || !self.pages.evict_one() {
                return Err(Errno::ENOMEM);
            }
        }
    }

    /// Loads CR3 with the root of a space. Drops all translations but global ones, unless they
    /// carry the number of their space.
    ///
    /// # Errors
    /// `EINVAL` if there is no such space.
    pub fn switch_to(&mut self, space: SpaceId) -> Result<(), Errno> {
        let tables = self.pages.tables(usize::from(space.0));
        let root = tables.ok_or(Errno::EINVAL)?.root();
        let asid = self.pages.asid(usize::from(space.0));
        if self.pages.tagged {
            self.pages.mmu.load_cr3_tagged(root, asid);
        } else {
            self.pages.mmu.load_cr3(root);
        }
        self.current = Some(space);
        Ok(())
    }

    /// Loads CR3 with any physical address. If it is the root of a space, that space is current
    /// from now on; if not, none is, and whatever those tables do not allow is a fault.
    pub fn load_cr3(&mut self, root: PhysAddr) {
        let owner = (0..self.spaces.len())
            .find(|space| self.pages.tables(*space).map(Tables::root) == Some(root));
        self.current = owner.map(|space| SpaceId(space as u16));
        // Tables of unknown origin get a number that no space has.
        let asid = owner.map_or(Asid::new(u16::MAX - 1), |space| self.pages.asid(space));
        self.pages.mmu.set_asid(asid);
        self.pages.mmu.load_cr3(root);
    }

    /// Turns paging off: addresses go out on the bus as they are.
    pub fn turn_paging_off(&mut self) {
        self.current = None;
        self.pages.mmu.turn_off();
    }

    /// CR3; `None` with paging off.
    #[must_use]
    pub fn cr3(&self) -> Option<PhysAddr> {
        self.pages.mmu.root()
    }

    /// The space that runs.
    #[must_use]
    pub const fn current(&self) -> Option<SpaceId> {
        self.current
    }

    /// The areas of a space.
    #[must_use]
    pub fn space(&self, id: SpaceId) -> Option<&Space> {
        self.spaces.get(usize::from(id.0))?.0.as_ref()
    }

    /// The areas of a space, to change its limits.
    pub fn space_mut(&mut self, id: SpaceId) -> Option<&mut Space> {
        self.spaces.get_mut(usize::from(id.0))?.0.as_mut()
    }

    /// The nodes that all areas lie in: what methods of [`Space`] want to be handed.
    #[must_use]
    pub const fn pool(&self) -> &AreaPool<'m> {
        &self.pool
    }

    /// The page tables of a space.
    #[must_use]
    pub fn tables(&self, id: SpaceId) -> Option<&Tables<G>> {
        self.pages.tables(usize::from(id.0))
    }

    /// Physical memory.
    #[must_use]
    pub const fn memory(&self) -> &Physical<'m> {
        &self.pages.memory
    }

    /// Physical memory, to prepare a scene: to take certain frames away, to build tables for
    /// [`Machine::load_cr3`].
    pub fn memory_mut(&mut self) -> &mut Physical<'m> {
        &mut self.pages.memory
    }

    /// The processor's part.
    #[must_use]
    pub const fn mmu(&self) -> &Mmu<'m, G> {
        &self.pages.mmu
    }

    /// The processor's part, to reset counters or to let it drop shootdowns.
    pub fn mmu_mut(&mut self) -> &mut Mmu<'m, G> {
        &mut self.pages.mmu
    }

    /// The swap device.
    #[must_use]
    pub const fn swap(&self) -> &Swap<'m> {
        &self.pages.swap
    }

    /// Files and shared memory.
    #[must_use]
    pub const fn objects(&self) -> &Objects<'m> {
        &self.pages.objects
    }

    /// A block of the disk (or swap slot): 512 words, or none if the disk ends before.
    pub fn disk(&mut self, block: u32) -> &mut [u64] {
        let from = block as usize * FRAME_WORDS;
        let range = from..from + FRAME_WORDS;
        self.pages.disk.get_mut(range).unwrap_or_default()
    }
}
