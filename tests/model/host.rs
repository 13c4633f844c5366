//! The simulated kernel over one block of the test's memory, and what it is made of.
//!
//! The block has a program break in its lower part and mappings in its upper part. What a kernel
//! would let pass but an allocator must not do (unmapping part of the break, moving the break
//! below what others got from it) is a panic.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, Ref, RefCell};

use fencepost::mmu::addr::{Access, Mode, VirtAddr};
use fencepost::mmu::area::{Limits, Overcommit};
use fencepost::mmu::areas::Node;
use fencepost::mmu::fault::Fault;
use fencepost::mmu::geometry::X86L4;
use fencepost::mmu::lookaside::LookasideLine;
use fencepost::mmu::machine::{Machine, Options, PageMap, SpaceRecord, Storage};
use fencepost::mmu::objects::ObjectRecord;
use fencepost::mmu::physical::FrameRecord;
use fencepost::mmu::space;
use fencepost::mmu::swap::SwapRecord;
use fencepost::mmu::tlb::{Shape, TlbLine};
use fencepost::os::{
    Board, Computer, GRANULE, Mark, Os, OsError, Prot, SIM_CALLS, Sim, SimPlan, Watched,
};

/// Lines of the translation cache: everything that is made is too much for Miri.
const LOOKASIDE: usize = if cfg!(miri) { 16 } else { 256 };

use super::Bound;

/// How a [`Host`] is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of a page.
    pub page: usize,
    /// How far the break may move, in bytes.
    pub breakable: usize,
    /// Room for mappings, in bytes.
    pub mappable: usize,
    /// Whether break and mappings share a granule of the map of extents. Otherwise a border
    /// between granules runs through the break's half.
    pub near: bool,
    /// What the process may use.
    pub limits: Limits,
    /// Frames of the computer.
    pub frames: usize,
}

impl Plan {
    /// Enough for a heap of a few megabytes, in pages of 4 KiB.
    pub const SMALL: Plan = Plan {
        page: 4096,
        breakable: if cfg!(miri) { 1 << 20 } else { 24 << 20 },
        mappable: if cfg!(miri) { 2 << 20 } else { 48 << 20 },
        near: true,
        limits: Limits::NONE,
        frames: if cfg!(miri) { 700 } else { 20_000 },
    };

    /// Little: a heap reaches the end of it.
    pub const TIGHT: Plan = Plan {
        breakable: 2 << 20,
        mappable: if cfg!(miri) { 4 << 20 } else { 12 << 20 },
        frames: if cfg!(miri) { 1500 } else { 4000 },
        ..Plan::SMALL
    };

    /// Enough for a reserved granule too.
    pub const WIDE: Plan = Plan {
        mappable: 4 * GRANULE,
        near: false,
        ..Plan::SMALL
    };
}

/// Slices that live until they are dropped here, whoever uses them.
#[derive(Debug, Default)]
struct Kept(Vec<(*mut u8, Layout)>);

impl Kept {
    /// # Safety
    /// Nobody uses the slice after `self` is dropped.
    unsafe fn keep<T>(&mut self, count: usize, value: impl Fn() -> T) -> &'static mut [T] {
        let slice: &mut [T] = Box::leak((0..count).map(|_| value()).collect());
        // A type that needs drop would have its contents forgotten.
        assert!(!std::mem::needs_drop::<T>());
        let layout = Layout::for_value(slice);
        let slice: *mut [T] = slice;
        self.0.push((slice.cast(), layout));
        // SAFETY: just leaked; freed by `drop` only.
        unsafe { &mut *slice }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (start, layout) in &self.0 {
            if layout.size() != 0 {
                // SAFETY: a leaked boxed slice of this layout, which nobody uses any more.
                unsafe { dealloc(*start, *layout) }
            }
        }
    }
}

/// The kernel.
#[derive(Debug)]
pub struct Host {
    sim: Sim<'static>,
    limits: Limits,
    foreign: RefCell<Vec<(usize, usize)>>,
    board: *mut Board<'static>,
    memory: *mut u8,
    layout: Layout,
    _kept: Kept,
}

impl Host {
    /// A kernel with nothing mapped.
    pub fn new(plan: Plan) -> Host {
        let Plan {
            page,
            breakable,
            mappable,
            near,
            limits: plan_limits,
            ..
        } = plan;
        let layout = Layout::from_size_align(3 * GRANULE + breakable + mappable, 16)
            .expect("a plan fits the address space");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        assert!(!memory.is_null(), "the host has no memory for {plan:?}");
        let granule = memory.addr().next_multiple_of(GRANULE);
        let (start, maps) = if near {
            (granule + page, granule + page + breakable)
        } else {
            let maps = granule + 2 * GRANULE;
            (maps - GRANULE - breakable / 2, maps)
        };
        // Two pages: one before the mappings is somebody else's, and growth keeps one free.
        let maps = (maps + 2 * 4096).next_multiple_of(page);
        let end = maps + mappable;
        assert!(end <= memory.addr() + layout.size());
        let mut kept = Kept::default();
        let pages = (end - start) / 4096;
        // SAFETY: the kernel goes before what it is made of.
        let storage = unsafe {
            Storage::<'static, X86L4> {
                memory: kept.keep(512 * (8 + pages / 400), || 0),
                frames: kept.keep(plan.frames, || FrameRecord::EMPTY),
                swap: kept.keep(0, || SwapRecord::EMPTY),
                disk: kept.keep(0, || 0),
                nodes: kept.keep(if cfg!(miri) { 12 } else { 2000 }, || Node::EMPTY),
                objects: kept.keep(1, || ObjectRecord::EMPTY),
                spaces: kept.keep(1, || SpaceRecord::EMPTY),
                maps: kept.keep(1, || PageMap::EMPTY),
                // Nobody asks how often it hits.
                tlb: kept.keep(0, || TlbLine::EMPTY),
                lookaside: kept.keep(LOOKASIDE, || LookasideLine::EMPTY),
            }
        };
        let options = Options {
            contents: false,
            first: Shape::NONE,
            second: Shape::NONE,
            ..Options::DEFAULT
        };
        let mut machine = Machine::new(storage, options);
        let layout_of_space = space::Layout {
            start_brk: start as u64,
            mmap_base: end as u64,
            mmap_min: 4096,
            stack_top: end as u64,
            user_end: end as u64,
        };
        let process = machine
            .spawn(layout_of_space, plan.limits)
            .expect("room for one process");
        machine.switch_to(process).expect("it exists");
        let board = Box::into_raw(Box::new(Board::new(machine)));
        let plan = SimPlan {
            page,
            start_break: start,
            maps,
            end,
        };
        // SAFETY: the block is zero and lives as long as the kernel, as does the computer.
        let sim = unsafe {
            let marks = kept.keep(pages, || Cell::new(Mark::Zero));
            Sim::new(memory, &*board, marks, plan).expect("room for the neighbours")
        };
        Host {
            sim,
            limits: plan_limits,
            foreign: RefCell::default(),
            board,
            memory,
            layout,
            _kept: kept,
        }
    }

    /// How often each of [`SIM_CALLS`] was made.
    pub fn calls(&self) -> [u64; SIM_CALLS.len()] {
        self.sim.calls()
    }

    /// How many calls were refused for want of room.
    pub fn refused(&self) -> u64 {
        self.sim.refused()
    }

    /// Bytes that are mapped and accessible, the break's included.
    pub fn mapped(&self) -> usize {
        self.sim.mapped()
    }

    /// Whether all of a range may be read and written.
    pub fn is_writable(&self, addr: usize, len: usize) -> bool {
        self.sim.is_writable(addr, len)
    }

    /// The computer, to look at it.
    pub fn computer(&self) -> Ref<'_, Computer<'static>> {
        self.sim.board().look()
    }

    /// Somebody else moves the break up by `len` bytes and writes there.
    pub fn sbrk(&self, len: usize) -> bool {
        let Ok(from) = self.sim.foreign_break(len) else {
            return false;
        };
        // SAFETY: the break moved over it just now.
        unsafe { self.memory.with_addr(from).write_bytes(0x5b, len) };
        self.foreign.borrow_mut().push((from, len));
        true
    }

    /// Somebody else's mapping stands right above the break, or goes away.
    pub fn set_wall(&self, stands: bool) {
        self.sim.set_wall(stands);
    }

    /// Accesses a byte as a program would.
    ///
    /// # Errors
    /// The fault.
    pub fn access(&self, addr: usize, access: Access) -> Result<(), Fault> {
        let addr = VirtAddr::new(addr as u64);
        let mut computer = self.sim.board().change();
        computer.access(addr, 1, access, Mode::User).map(drop)
    }

    /// The process may have so much more of one thing than it has now; or what it was made
    /// with.
    pub fn limit(&self, bound: Option<(Bound, usize)>) {
        let mut computer = self.sim.board().change();
        let process = computer.current().expect("the process");
        let space = computer.space_mut(process).expect("the process");
        let (has, areas) = (space.totals(), space.len());
        let limits = &mut space.limits;
        *limits = self.limits;
        match bound {
            None => {}
            Some((Bound::Space, n)) => limits.address_space = has.size + n as u64,
            Some((Bound::Data, n)) => limits.data = has.data + n as u64,
            Some((Bound::Memory, n)) => {
                limits.overcommit = Overcommit::Never;
                limits.memory = 2 * (has.committed + n as u64 + 1);
            }
            Some((Bound::Areas, n)) => limits.areas = areas + n,
        }
    }

    /// Looks at what others own.
    ///
    /// # Panics
    /// If somebody wrote there.
    pub fn check_foreign(&self) {
        for &(addr, len) in self.foreign.borrow().iter() {
            // SAFETY: the range lies in the block; nobody writes meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(self.memory.with_addr(addr), len) };
            assert!(
                all(bytes, 0x5b),
                "somebody else's memory after {addr:#x} was written to"
            );
        }
    }

    /// Whether the computer is in order.
    ///
    /// # Panics
    /// If it is not.
    pub fn check_computer(&self) {
        if cfg!(miri) {
            return; // It looks at every frame.
        }
        let checked = self.sim.board().change().check();
        assert_eq!(checked, Ok(()), "the computer");
    }
}

/// Whether all bytes are `byte`; compares long runs, for tests are not optimised.
pub fn all(bytes: &[u8], byte: u8) -> bool {
    let line = [byte; 1024];
    bytes
        .chunks(line.len())
        .all(|run| *run == line[..run.len()])
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: made in `new`; whoever used the memory is gone, and nothing of the simulated
        // kernel is called any more.
        unsafe {
            drop(Box::from_raw(self.board));
            dealloc(self.memory, self.layout);
        }
    }
}

// SAFETY: every call is the simulated kernel's.
unsafe impl Os for Host {
    type Region = Watched<'static>;

    fn region(&self) -> Watched<'static> {
        self.sim.region()
    }
    fn page_size(&self) -> usize {
        self.sim.page_size()
    }
    fn program_break(&self) -> usize {
        self.sim.program_break()
    }
    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        let foreign = self.foreign.borrow().iter().any(|(a, n)| a + n > to);
        assert!(!foreign, "the break went below what others got from it");
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.set_break(to) }
    }
    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        self.sim.map(hint, len, prot)
    }
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.unmap(addr, len) }
    }
    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.remap(addr, old, new) }
    }
    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.protect(addr, len, prot) }
    }
    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.discard(addr, len) }
    }
    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.populate(addr, len) }
    }

    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.guard(addr, len) }
    }

    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.sim.unguard(addr, len) }
    }
}
