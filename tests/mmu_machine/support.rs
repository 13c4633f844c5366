//! Machines of all sizes, and short words for what tests do with them.

use fencepost::mmu::addr::{Access, Mode, VirtAddr};
use fencepost::mmu::area::{Limits, linux};
use fencepost::mmu::areas::Node;
use fencepost::mmu::fault::Fault;
use fencepost::mmu::geometry::Geometry;
use fencepost::mmu::lookaside::LookasideLine;
use fencepost::mmu::machine::{Machine, Options, PageMap, SpaceId, SpaceRecord, Storage};
use fencepost::mmu::objects::ObjectRecord;
use fencepost::mmu::physical::{FRAME_WORDS, FrameRecord, Physical};
use fencepost::mmu::space::Layout;
use fencepost::mmu::swap::SwapRecord;
use fencepost::mmu::tlb::TlbLine;

pub const RW: u32 = linux::PROT_READ | linux::PROT_WRITE;
pub const R: u32 = linux::PROT_READ;
pub const W: u32 = linux::PROT_WRITE;
pub const X: u32 = linux::PROT_EXEC;
pub const PRIVATE: u32 = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS;
pub const SHARED: u32 = linux::MAP_SHARED | linux::MAP_ANONYMOUS;
pub const FIXED: u32 = linux::MAP_FIXED;
pub const PAGE: u64 = 4096;

/// How large a machine is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// All frames.
    pub frames: usize,
    /// Frames that have words.
    pub worded: usize,
    pub slots: usize,
    /// Blocks of files, behind the slots.
    pub blocks: usize,
}

impl Size {
    /// With bytes.
    pub const fn full(frames: usize, slots: usize) -> Size {
        Size {
            frames,
            worded: frames,
            slots,
            blocks: 64,
        }
    }

    /// Data frames and frames for tables apart, no bytes.
    pub const fn bare(data: usize, tables: usize, slots: usize) -> Size {
        Size {
            frames: data + tables,
            worded: tables,
            slots,
            blocks: 0,
        }
    }
}

pub fn leak<T: Clone>(value: T, len: usize) -> &'static mut [T] {
    vec![value; len].leak()
}

pub fn memory(frames: usize) -> Physical<'static> {
    Physical::new(
        leak(0, frames * FRAME_WORDS),
        leak(FrameRecord::EMPTY, frames),
        true,
    )
}

/// A machine whose storage is never given back.
pub fn machine<G: Geometry>(size: Size, options: Options) -> Machine<'static, G> {
    let spaces: Vec<SpaceRecord> = (0..8).map(|_| SpaceRecord::EMPTY).collect();
    let nodes: Vec<Node> = (0..4096).map(|_| Node::EMPTY).collect();
    let options = Options {
        contents: size.worded == size.frames,
        ..options
    };
    Machine::new(
        Storage {
            memory: leak(0, size.worded * FRAME_WORDS),
            frames: leak(FrameRecord::EMPTY, size.frames),
            swap: leak(SwapRecord::EMPTY, size.slots),
            disk: leak(0, (size.slots + size.blocks) * FRAME_WORDS),
            nodes: nodes.leak(),
            objects: leak(ObjectRecord::EMPTY, 16),
            spaces: spaces.leak(),
            maps: leak(PageMap::EMPTY, 8),
            tlb: leak(
                TlbLine::EMPTY,
                options.first.lines() + options.second.lines(),
            ),
            lookaside: leak(LookasideLine::EMPTY, 256),
        },
        options,
    )
}

/// The layout of a 32-bit program.
pub const LAYOUT_32: Layout = Layout {
    start_brk: 0x0900_0000,
    mmap_base: 0xb700_0000,
    mmap_min: 0x1000,
    stack_top: 0xc000_0000,
    user_end: 0xc000_0000,
};

pub fn layout<G: Geometry>() -> Layout {
    if G::VA_BITS == 32 {
        LAYOUT_32
    } else {
        Layout::linux_default(0)
    }
}

/// One more process of a machine, which runs from now on.
pub fn spawn<G: Geometry>(m: &mut Machine<'_, G>) -> SpaceId {
    let id = m.spawn(layout::<G>(), Limits::NONE).expect("a space");
    m.switch_to(id).expect("it exists");
    id
}

/// A machine with one process that runs.
pub fn one<G: Geometry>(size: Size, options: Options) -> (Machine<'static, G>, SpaceId) {
    let mut m = machine::<G>(size, options);
    let id = spawn(&mut m);
    (m, id)
}

/// Private memory at exactly `at`.
#[track_caller]
pub fn map<G: Geometry>(m: &mut Machine<'_, G>, at: u64, pages: u64, prot: u32) {
    let got = m.mmap(at, pages * PAGE, prot, PRIVATE | FIXED, None, 0);
    assert_eq!(got, Ok(at));
}

pub fn touch<G: Geometry>(m: &mut Machine<'_, G>, at: u64, access: Access) -> Result<(), Fault> {
    m.access(VirtAddr::new(at), 1, access, Mode::User)
}

pub fn load<G: Geometry>(m: &mut Machine<'_, G>, at: u64) -> Result<u64, Fault> {
    let mut bytes = [0; 8];
    m.read(VirtAddr::new(at), &mut bytes, Mode::User)?;
    Ok(u64::from_le_bytes(bytes))
}

pub fn store<G: Geometry>(m: &mut Machine<'_, G>, at: u64, value: u64) -> Result<(), Fault> {
    m.write(VirtAddr::new(at), &value.to_le_bytes(), Mode::User)
}

#[track_caller]
pub fn sound<G: Geometry>(m: &mut Machine<'_, G>) {
    assert_eq!(m.check(), Ok(()));
}

/// Marsaglia's xorshift64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
