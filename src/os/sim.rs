//! The same calls answered by the model: an allocator runs on it as on Linux, with limits,
//! failures and neighbours as a test wants them.
//!
//! The bytes are real ones, in one block of the host program: a simulated address is the host's
//! address, so that everything runs at native speed and Miri can follow. Who may touch which
//! page is the model's word alone. In builds with debug assertions [`Watched`] asks it before it
//! hands out any pointer, and memory that is not mapped is full of poison that must still be
//! there when it is mapped again.
#![allow(unsafe_code)] // The block's memory.

use core::cell::{Cell, Ref, RefCell, RefMut};

use super::{Os, OsError, Prot, Region};
use crate::mmu::addr::{Access, Mode, PAGE, Rights, VirtAddr};
use crate::mmu::area::Errno;
use crate::mmu::area::linux::{
    MADV_DONTNEED, MADV_GUARD_INSTALL, MADV_GUARD_REMOVE, MADV_POPULATE_WRITE, MAP_ANONYMOUS,
    MAP_FIXED_NOREPLACE, MAP_NORESERVE, MAP_PRIVATE, MREMAP_MAYMOVE, PROT_NONE, PROT_READ,
    PROT_WRITE,
};
use crate::mmu::geometry::X86L4;
use crate::mmu::machine::Machine;
use crate::size::{align_down, align_up};

/// The simulated computer: x86-64 with one process.
pub type Computer<'m> = Machine<'m, X86L4>;

const STEP: usize = PAGE as usize;
const POISON: u8 = 0xa5;

/// What the bytes of a page of the block are, whatever the model says of it. Plain data, to be
/// handed in as storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Zero: never used.
    Zero,
    /// The allocator's.
    Used,
    /// Full of poison: given back.
    Poison,
}

/// The computer, shared between the kernel and the pointers that it hands out.
#[derive(Debug)]
pub struct Board<'m> {
    computer: RefCell<Computer<'m>>,
    /// Pages, plus one, that were touched since anything changed, each at its number modulo the
    /// length.
    touched: [Cell<usize>; 64],
}

impl<'m> Board<'m> {
    /// With this computer.
    pub const fn new(computer: Computer<'m>) -> Board<'m> {
        Board {
            computer: RefCell::new(computer),
            touched: [const { Cell::new(0) }; 64],
        }
    }

    /// The computer, to look at it.
    pub fn look(&self) -> Ref<'_, Computer<'m>> {
        self.computer.borrow()
    }

    /// The computer, to change it.
    pub fn change(&self) -> RefMut<'_, Computer<'m>> {
        self.touched.iter().for_each(|page| page.set(0));
        self.computer.borrow_mut()
    }
}

/// Pointers into the block. In builds with debug assertions the model is asked first.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'m> {
    base: *mut u8,
    board: &'m Board<'m>,
}

impl Region for Watched<'_> {
    fn at(self, addr: usize) -> *mut u8 {
        if cfg!(debug_assertions) {
            self.touch(addr);
        }
        self.base.with_addr(addr)
    }
}

impl Watched<'_> {
    /// The byte at `addr` is accessed, as a program would.
    ///
    /// # Panics
    /// If that is a fault.
    fn touch(self, addr: usize) {
        let page = addr / STEP;
        let touched = &self.board.touched[page % self.board.touched.len()];
        if touched.get() == page + 1 {
            return;
        }
        let mut computer = self.board.computer.borrow_mut();
        let va = VirtAddr::new(addr as u64);
        if let Err(fault) = computer.access(va, 1, Access::Write, Mode::User) {
            panic!("{addr:#x} is touched: {fault:?}");
        }
        touched.set(page + 1);
    }
}

/// The names of the calls that [`Sim::calls`] counts, in its order.
pub const SIM_CALLS: [&str; 10] = [
    "break up",
    "break down",
    "map",
    "unmap",
    "remap",
    "protect",
    "discard",
    "populate",
    "guard",
    "unguard",
];

/// Where things lie in the block, as addresses, all whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimPlan {
    /// Bytes of a page as the allocator sees it: a power of two of at least 4096.
    pub page: usize,
    /// Where the break begins.
    pub start_break: usize,
    /// The first address of mappings; the page before it is somebody else's.
    pub maps: usize,
    /// The end of mappings.
    pub end: usize,
}

/// A kernel of our own making.
#[derive(Debug)]
pub struct Sim<'m> {
    region: Watched<'m>,
    plan: SimPlan,
    /// A mark for each 4096 bytes from `start_break` on.
    marks: &'m [Cell<Mark>],
    calls: [Cell<u64>; SIM_CALLS.len()],
    refused: Cell<u64>,
    wall: Cell<u64>,
}

impl<'m> Sim<'m> {
    /// A kernel over the block at `base`, whose process is the current space of the board's
    /// computer. Its
    /// layout must begin the break at `plan.start_break`, base mappings at `plan.end` and end
    /// there. What lies outside the plan is mapped for somebody else.
    ///
    /// # Errors
    /// If the computer has no room for that.
    ///
    /// # Safety
    /// `base` is a pointer to a block, zero from `plan.start_break` to `plan.end`, that lives as
    /// long as the kernel does and that nobody else uses.
    pub unsafe fn new(
        base: *mut u8,
        board: &'m Board<'m>,
        marks: &'m [Cell<Mark>],
        plan: SimPlan,
    ) -> Result<Sim<'m>, Errno> {
        marks.iter().for_each(|mark| mark.set(Mark::Zero));
        let sim = Sim {
            region: Watched { base, board },
            plan,
            marks,
            calls: Default::default(),
            refused: Cell::new(0),
            wall: Cell::new(0),
        };
        sim.occupy(STEP, plan.start_break)?;
        sim.occupy(plan.maps - STEP, plan.maps)?;
        Ok(sim)
    }

    /// Maps a range for somebody else.
    fn occupy(&self, from: usize, to: usize) -> Result<(), Errno> {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
        let (from, len) = (from as u64, (to - from) as u64);
        let mut computer = self.board().change();
        computer
            .mmap(from, len, PROT_NONE, flags, None, 0)
            .map(drop)
    }

    /// The computer's board.
    pub const fn board(&self) -> &'m Board<'m> {
        self.region.board
    }

    /// How often each of [`SIM_CALLS`] was made.
    pub fn calls(&self) -> [u64; SIM_CALLS.len()] {
        core::array::from_fn(|i| self.calls[i].get())
    }

    /// How many calls were refused.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Bytes that are mapped and accessible.
    pub fn mapped(&self) -> usize {
        self.bytes_with(0, usize::MAX)
    }

    /// Whether all of a range may be read and written.
    pub fn is_writable(&self, addr: usize, len: usize) -> bool {
        addr.checked_add(len)
            .is_some_and(|end| self.bytes_with(addr, end) == len)
    }

    /// Bytes of `from..to` that may be read and written.
    fn bytes_with(&self, from: usize, to: usize) -> usize {
        self.bytes_that(from, to, |rights| rights.holds(Rights::READ_WRITE))
    }

    fn bytes_that(&self, from: usize, to: usize, usable: impl Fn(Rights) -> bool) -> usize {
        let computer = self.board().look();
        let Some(space) = computer.current().and_then(|id| computer.space(id)) else {
            return 0;
        };
        let parts = space
            .areas(computer.pool())
            .filter(|area| usable(area.rights))
            .map(|area| {
                let (start, end) = (area.start as usize, area.end as usize);
                end.min(to).saturating_sub(start.max(from))
            });
        parts.sum()
    }

    /// Somebody else moves the break up by `len` bytes. Returns where it was.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn foreign_break(&self, len: usize) -> Result<usize, OsError> {
        let from = self.program_break();
        // SAFETY: upwards only; nobody owns what lies there.
        unsafe { self.set_break(from + len) }.map(|()| from)
    }

    /// Somebody else's mapping right above the break comes or goes.
    pub fn set_wall(&self, stands: bool) {
        let there = self.wall.take();
        if there != 0 {
            let _ = self.board().change().munmap(there, PAGE);
        }
        if stands {
            let at = align_up(self.program_break(), STEP);
            if self.occupy(at, at + STEP).is_ok() {
                self.wall.set(at as u64);
            }
        }
    }

    fn made<T>(&self, call: usize, result: Result<T, Errno>) -> Result<T, OsError> {
        if let Some(count) = self.calls.get(call) {
            count.set(count.get() + 1);
        }
        result.map_err(|error| {
            self.refused.set(self.refused.get() + 1);
            OsError(error.0)
        })
    }

    /// Visits each page of a range: its address and its mark.
    fn each_page(&self, from: usize, to: usize, visit: impl Fn(usize, &Cell<Mark>)) {
        for addr in (align_down(from, STEP)..to).step_by(STEP) {
            if let Some(mark) = self.marks.get((addr - self.plan.start_break) / STEP) {
                visit(addr, mark);
            }
        }
    }

    fn bytes(&self, addr: usize, len: usize) -> &[u8] {
        // SAFETY: the range lies in the block; nobody writes meanwhile.
        unsafe { core::slice::from_raw_parts(self.region.base.with_addr(addr), len) }
    }

    fn fill(&self, addr: usize, len: usize, byte: u8) {
        // SAFETY: the range lies in the block and is no user's.
        unsafe { self.region.base.with_addr(addr).write_bytes(byte, len) }
    }

    /// The range became accessible, and is zero.
    ///
    /// # Panics
    /// If somebody wrote there while it was not mapped.
    fn begin(&self, from: usize, to: usize) {
        self.each_page(from, to, |addr, mark| {
            let left = match mark.get() {
                Mark::Zero => 0,
                Mark::Poison => POISON,
                Mark::Used => return,
            };
            // Byte by byte is too much for Miri.
            let intact = cfg!(miri) || self.bytes(addr, STEP).iter().all(|b| *b == left);
            assert!(intact, "{addr:#x} was written to while it was not mapped");
            if left != 0 {
                self.fill(addr, STEP, 0);
            }
            mark.set(Mark::Used);
        });
    }

    /// The range is gone.
    fn end(&self, from: usize, to: usize) {
        self.each_page(from, to, |addr, mark| {
            if mark.get() == Mark::Used {
                self.fill(addr, STEP, POISON);
                mark.set(Mark::Poison);
            }
        });
    }
}

// SAFETY: the model hands out what nobody has, inside a block that lives as long as the kernel,
// and made zero before; `Watched` derives every pointer from the block's own.
unsafe impl<'m> Os for Sim<'m> {
    type Region = Watched<'m>;

    fn region(&self) -> Watched<'m> {
        self.region
    }

    fn page_size(&self) -> usize {
        self.plan.page
    }

    fn program_break(&self) -> usize {
        self.board().change().brk(0) as usize
    }

    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        let from = self.program_break();
        let now = self.board().change().brk(to as u64) as usize;
        let moved = if now == to {
            Ok(())
        } else {
            Err(Errno::ENOMEM)
        };
        self.made(usize::from(to < from), moved)?;
        let (old, new) = (align_up(from, STEP), align_up(to, STEP));
        if new > old {
            self.begin(old, new);
        } else {
            self.end(new, old);
        }
        Ok(())
    }

    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        assert!(len != 0 && len.is_multiple_of(self.plan.page));
        let anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
        let (bits, flags) = match prot {
            Prot::None => (PROT_NONE, anonymous | MAP_NORESERVE),
            Prot::ReadWrite => (PROT_READ | PROT_WRITE, anonymous),
        };
        // The allocator's pages may be larger than the model's.
        let slack = self.plan.page - STEP;
        let mut computer = self.board().change();
        let wide = (len + slack) as u64;
        let mapped = computer.mmap(hint as u64, wide, bits, flags, None, 0);
        let wide = self.made(2, mapped)? as usize;
        let addr = align_up(wide, self.plan.page);
        let mut trim = |from: usize, to: usize| {
            if from < to {
                let _ = computer.munmap(from as u64, (to - from) as u64);
            }
        };
        trim(wide, addr);
        trim(addr + len, wide + len + slack);
        drop(computer);
        if prot == Prot::ReadWrite {
            self.begin(addr, addr + len);
        }
        Ok(addr)
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        let end = self.program_break();
        assert!(addr >= end || addr + len <= self.plan.start_break);
        let done = self.board().change().munmap(addr as u64, len as u64);
        self.made(3, done)?;
        self.end(addr, addr + len);
        Ok(())
    }

    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        assert!(self.is_writable(addr, old), "remap of what is not mapped");
        // Moving keeps the larger alignment only by chance: then the mapping stays.
        let flags = if self.plan.page == STEP {
            MREMAP_MAYMOVE
        } else {
            0
        };
        let moved = self
            .board()
            .change()
            .mremap(addr as u64, old as u64, new as u64, flags, 0);
        let to = self.made(4, moved)? as usize;
        if to == addr {
            self.begin(addr + old.min(new), addr + new);
            self.end(addr + new, addr + old);
            return Ok(addr);
        }
        self.begin(to, to + new);
        // SAFETY: the new place was free, so the two do not overlap; both lie in the block.
        unsafe {
            let base = self.region.base;
            base.with_addr(to)
                .copy_from_nonoverlapping(base.with_addr(addr), old.min(new));
        }
        self.end(addr, addr + old);
        Ok(to)
    }

    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        let bits = match prot {
            Prot::None => PROT_NONE,
            Prot::ReadWrite => PROT_READ | PROT_WRITE,
        };
        let done = self
            .board()
            .change()
            .mprotect(addr as u64, len as u64, bits);
        self.made(5, done)?;
        if prot == Prot::ReadWrite {
            self.begin(addr, addr + len);
        }
        Ok(())
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // Also of pages without access, as Linux does.
        let there = self.bytes_that(addr, addr + len, |_| true);
        assert!(there == len, "discard of what is not mapped");
        let done = self
            .board()
            .change()
            .madvise(addr as u64, len as u64, MADV_DONTNEED);
        self.made(6, done)?;
        self.fill(addr, len, 0);
        Ok(())
    }

    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        let done = self
            .board()
            .change()
            .madvise(addr as u64, len as u64, MADV_POPULATE_WRITE);
        self.made(7, done)
    }

    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        assert!(self.is_writable(addr, len), "guard of what is not mapped");
        let done = self
            .board()
            .change()
            .madvise(addr as u64, len as u64, MADV_GUARD_INSTALL);
        self.made(8, done)?;
        self.end(addr, addr + len);
        Ok(())
    }

    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        assert!(self.is_writable(addr, len), "unguard of what is not mapped");
        let done = self
            .board()
            .change()
            .madvise(addr as u64, len as u64, MADV_GUARD_REMOVE);
        self.made(9, done)?;
        self.begin(addr, addr + len);
        Ok(())
    }
}
