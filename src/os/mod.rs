//! Layer 2: the seam to the operating system.
//!
//! [`Os`] is the handful of calls that move memory between the kernel and us. In the words of
//! the page states, each is a transition:
//!
//! | call | from | to |
//! |---|---|---|
//! | [`Os::map`] no access | None | Reserved |
//! | [`Os::map`] read-write, [`Os::set_break`] up | None | Fresh (zero, never written) |
//! | [`Os::protect`] read-write | Reserved | Fresh |
//! | handing out a chunk | Fresh, Cached, Released | Live |
//! | freeing a chunk | Live | Cached (free, dirty) |
//! | [`Os::discard`] | Cached | Released (reads as zero) |
//! | [`Os::guard`], [`Os::protect`] no access | any | Guard |
//! | [`Os::unguard`] | Guard | Live |
//! | [`Os::unmap`], [`Os::set_break`] down | any | None |
//!
//! [`Kernel`] is the real thing, [`Flaky`] makes the n-th call fail.
#![allow(unsafe_code)] // Mapping and unmapping memory cannot be checked by the compiler.

mod alternate;
mod audit;
mod call;
mod caller;
mod elf;
mod extents;
mod flaky;
mod ground;
mod kernel;
mod ledger;
mod lines;
mod memory;
mod modules;
mod nodes;
mod pages;
mod process;
pub mod signals;
mod sim;
mod sink;
pub mod stack;
pub mod stop;

pub use crate::mmu::states::PageState;
pub use alternate::{Alternates, map as alternate_stack, top as alternate_top};
pub use audit::{Audit, Contradiction, Finding, audit};
pub use caller::Caller;
pub(crate) use caller::with_caller;
pub use extents::{Extents, GRANULE, OWNERS};
pub use flaky::Flaky;
pub use ground::{Ground, Survey, Surveyor, survey};
pub use kernel::{CALLS, Kernel};
pub use ledger::Ledger;
pub use lines::{BUFFER, File, Lines, append, link_target, peek, thread_name};
pub use memory::{Area, Reader, each_area};
pub use modules::{Location, Modules};
pub use nodes::Room;
pub use pages::PageVec;
pub use process::{
    ForkPage, USUAL_MAPPINGS, available_cpus, entry_point, environment, is_secure, most_mappings,
    no_huge_pages, page_size, random_words, thread_time, yield_now,
};
pub use sim::{Board, Computer, Mark, SIM_CALLS, Sim, SimPlan, Watched};
pub use sink::Sink;

/// Turns addresses inside the memory that an [`Os`] hands out into pointers: the only place
/// where an integer becomes a pointer.
///
/// `free` is given a pointer that the compiler may believe to reach no further than the user's
/// object; the head before it must be reached through the region's own provenance.
pub trait Region: Copy + core::fmt::Debug {
    /// The pointer to address `addr` with the provenance of the whole region.
    fn at(self, addr: usize) -> *mut u8;
}

/// Asks the processor to fetch the cache line at an address, which may be any: nothing is accessed.
#[inline(always)]
pub fn prefetch(addr: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint; every address is allowed.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(core::ptr::without_provenance(addr));
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) addr, options(nostack, preserves_flags, readonly));
    }
    #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
    let _ = addr;
}

/// Memory that the kernel gave us: its provenance is exposed when it is mapped.
#[derive(Debug, Clone, Copy)]
pub struct Exposed;

impl Region for Exposed {
    #[inline(always)]
    fn at(self, addr: usize) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(addr)
    }
}

/// Memory inside one block of the host program, for simulations: every pointer is derived from
/// the block's own.
#[derive(Debug, Clone, Copy)]
pub struct Block(*mut u8);

impl Block {
    /// A region over the block that starts at `base`.
    #[must_use]
    pub const fn new(base: *mut u8) -> Block {
        Block(base)
    }
}

impl Region for Block {
    #[inline(always)]
    fn at(self, addr: usize) -> *mut u8 {
        self.0.with_addr(addr)
    }
}

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prot {
    /// Reserved address space: no access, no memory, not counted as data.
    None,
    /// Readable and writable.
    ReadWrite,
}

/// The errno of a refused call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OsError(pub i32);

impl OsError {
    /// Not enough memory, address space or mappings.
    pub const NO_MEMORY: OsError = OsError(libc::ENOMEM);
}

/// The system calls of an allocator. Every call may fail at any time; a failing call has
/// changed nothing. None of them touches errno.
///
/// # Safety
/// An implementation hands out only memory that nobody else uses: what [`map`](Os::map)
/// returns is zero, readable and writable (for [`Prot::ReadWrite`]) until it is unmapped, and
/// [`Region::at`] of [`region`](Os::region) gives pointers that may access it.
pub unsafe trait Os {
    /// How addresses become pointers.
    type Region: Region;

    /// The region that contains everything that this `Os` hands out.
    fn region(&self) -> Self::Region;

    /// The page size in bytes, a power of two.
    fn page_size(&self) -> usize;

    /// The program break: the end of the data segment.
    fn program_break(&self) -> usize;

    /// Moves the program break to `to`.
    ///
    /// # Errors
    /// If the break is not at `to` afterwards.
    ///
    /// # Safety
    /// Moving it down, the caller owns what lies between; moving it up races with every other
    /// user of the break in the process, so the caller reads it again first.
    unsafe fn set_break(&self, to: usize) -> Result<(), OsError>;

    /// Maps `len` bytes (a multiple of the page size) of private anonymous memory, near `hint`
    /// if that is free and not 0. Returns the address.
    ///
    /// # Errors
    /// If the kernel refuses.
    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError>;

    /// Unmaps whole pages.
    ///
    /// # Errors
    /// If the kernel refuses (splitting a mapping needs one more).
    ///
    /// # Safety
    /// The range was mapped by this `Os` and nobody uses it any more.
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError>;

    /// Grows or shrinks a mapping, moving it if it must. Returns its address.
    ///
    /// # Errors
    /// If the kernel refuses; the mapping is then as before.
    ///
    /// # Safety
    /// The range is exactly one mapping made by this `Os`, and nobody else uses it.
    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError>;

    /// Changes the protection of whole pages.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Safety
    /// The range was mapped by this `Os` and belongs to the caller.
    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError>;

    /// Gives the memory of whole pages back; they read as zero from then on.
    ///
    /// # Errors
    /// If the kernel refuses (locked memory).
    ///
    /// # Safety
    /// The range was mapped by this `Os` and nobody needs its contents.
    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError>;

    /// Makes whole pages resident now, which costs less than a fault for each. Only a hint: a
    /// refusal, which is the default, changes nothing.
    ///
    /// # Errors
    /// If the kernel cannot, or has no memory.
    ///
    /// # Safety
    /// The range was mapped readable and writable by this `Os` and belongs to the caller.
    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        let _ = (addr, len);
        Err(OsError(libc::ENOSYS))
    }

    /// Makes whole pages fault at any access and gives their memory back, without splitting
    /// their mapping (`MADV_GUARD_INSTALL`, Linux 6.13). A refusal is the default.
    ///
    /// # Errors
    /// If the kernel cannot, or refuses (locked memory). Some of the pages may be guards then.
    ///
    /// # Safety
    /// The range was mapped readable and writable by this `Os` and nobody uses it.
    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        let _ = (addr, len);
        Err(OsError(libc::ENOSYS))
    }

    /// Takes guards away: the pages are in use, and zero.
    ///
    /// # Errors
    /// If the kernel refuses.
    ///
    /// # Safety
    /// The range was mapped readable and writable by this `Os` and belongs to the caller.
    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        let _ = (addr, len);
        Err(OsError(libc::ENOSYS))
    }

    /// Records what became of the whole pages of `from..to`, which the caller owns. Nothing
    /// happens where no account is kept.
    fn note(&self, from: usize, to: usize, state: PageState) {
        let _ = (from, to, state);
    }

    /// The state of the page at `from`, and up to where (`to` at the most) all pages are in it.
    /// `Unknown` where no account is kept.
    fn run(&self, from: usize, to: usize) -> (PageState, usize) {
        let _ = from;
        (PageState::Unknown, to)
    }

    /// The first run of pages in `from..to` that read as zero; empty if there is none.
    fn zero_run(&self, from: usize, to: usize) -> (usize, usize) {
        let mut start = to;
        let mut at = from;
        while at < to {
            let (state, end) = self.run(at, to);
            if state.is_zero() {
                start = start.min(at);
            } else if start != to {
                return (start, at);
            }
            at = end;
        }
        (start, to)
    }

    /// How many bytes of `from..to` (page boundaries) lie in pages whose state is one that
    /// `counted` accepts.
    fn count(&self, from: usize, to: usize, counted: impl Fn(PageState) -> bool) -> usize
    where
        Self: Sized,
    {
        let (mut at, mut bytes) = (from, 0);
        while at < to {
            let (state, end) = self.run(at, to);
            if counted(state) {
                bytes += end - at;
            }
            at = end;
        }
        bytes
    }
}

// SAFETY: every call is passed on unchanged.
unsafe impl<O: Os> Os for &O {
    type Region = O::Region;

    #[inline(always)]
    fn region(&self) -> O::Region {
        (**self).region()
    }
    fn page_size(&self) -> usize {
        (**self).page_size()
    }
    fn program_break(&self) -> usize {
        (**self).program_break()
    }
    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).set_break(to) }
    }
    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        (**self).map(hint, len, prot)
    }
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).unmap(addr, len) }
    }
    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).remap(addr, old, new) }
    }
    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).protect(addr, len, prot) }
    }
    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).discard(addr, len) }
    }
    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).populate(addr, len) }
    }
    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).guard(addr, len) }
    }
    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { (**self).unguard(addr, len) }
    }
    fn note(&self, from: usize, to: usize, state: PageState) {
        (**self).note(from, to, state);
    }
    fn run(&self, from: usize, to: usize) -> (PageState, usize) {
        (**self).run(from, to)
    }
}
