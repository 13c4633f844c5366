//! The real kernel.
#![allow(unsafe_code)] // System calls.

use super::call::system_call;
use super::{Exposed, Os, OsError, Prot, page_size};
use crate::mmu::area::linux::{MADV_GUARD_INSTALL, MADV_GUARD_REMOVE};
use crate::sync::overlay::{AtomicU64, Ordering};

/// The names of the calls that [`Kernel::calls`] counts, in its order.
pub const CALLS: [&str; 6] = ["brk", "mmap", "munmap", "mremap", "mprotect", "madvise"];

#[derive(Clone, Copy)]
enum Call {
    Brk,
    Map,
    Unmap,
    Remap,
    Protect,
    Advise,
}

/// Linux, with a counter per kind of call.
#[derive(Debug)]
pub struct Kernel {
    calls: [AtomicU64; CALLS.len()],
}

impl Kernel {
    /// A kernel that was not called yet.
    #[must_use]
    pub const fn new() -> Kernel {
        Kernel {
            calls: [const { AtomicU64::new(0) }; CALLS.len()],
        }
    }

    /// How often each of [`CALLS`] was made.
    #[must_use]
    pub fn calls(&self) -> [u64; CALLS.len()] {
        core::array::from_fn(|i| self.calls[i].load(Ordering::Relaxed))
    }

    fn count(&self, call: Call) {
        self.calls[call as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Kernel {
    fn default() -> Kernel {
        Kernel::new()
    }
}

// SAFETY: anonymous private mappings are fresh zero memory of their own; their provenance is
// exposed when they are made, so `Exposed` may reach them. The break is the kernel's too.
unsafe impl Os for Kernel {
    type Region = Exposed;

    #[inline(always)]
    fn region(&self) -> Exposed {
        Exposed
    }

    fn page_size(&self) -> usize {
        page_size()
    }

    fn program_break(&self) -> usize {
        // libc's view is the kernel's: whoever moves the break by libc's brk or sbrk keeps it so.
        // SAFETY: sbrk(0) only reads the break.
        let current = unsafe { libc::sbrk(0) };
        current.expose_provenance()
    }

    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        self.count(Call::Brk);
        super::call::keeping_errno(|| {
            // SAFETY: the caller owns the range that the break moves over.
            unsafe { libc::brk(core::ptr::without_provenance_mut(to)) }
        });
        // The return value is not to be trusted (glibc reports success for some refusals).
        if self.program_break() == to {
            Ok(())
        } else {
            Err(OsError::NO_MEMORY)
        }
    }

    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        self.count(Call::Map);
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let flags = match prot {
            Prot::None => anonymous | libc::MAP_NORESERVE,
            Prot::ReadWrite => anonymous,
        };
        // SAFETY: without MAP_FIXED the kernel chooses a range that nobody uses.
        let mapped =
            unsafe { system_call(MMAP, [hint, len, bits(prot), flags as usize, usize::MAX, 0])? };
        // The kernel made this memory: from here on it may be reached by its address.
        Ok(core::ptr::without_provenance_mut::<u8>(mapped).expose_provenance())
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Unmap);
        // SAFETY: the caller owns the range and nobody uses it.
        unsafe { system_call(libc::SYS_munmap, [addr, len, 0, 0, 0, 0]) }.map(drop)
    }

    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        self.count(Call::Remap);
        let flags = libc::MREMAP_MAYMOVE as usize;
        // SAFETY: the caller owns exactly this mapping.
        unsafe { system_call(libc::SYS_mremap, [addr, old, new, flags, 0, 0]) }
    }

    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        self.count(Call::Protect);
        // SAFETY: the caller owns the range.
        unsafe { system_call(libc::SYS_mprotect, [addr, len, bits(prot), 0, 0, 0]) }.map(drop)
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Advise);
        let advice = libc::MADV_DONTNEED as usize;
        // SAFETY: the caller owns the range and nobody needs its contents.
        unsafe { system_call(libc::SYS_madvise, [addr, len, advice, 0, 0, 0]) }.map(drop)
    }

    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Advise);
        let advice = libc::MADV_POPULATE_WRITE as usize;
        // SAFETY: the caller owns the range; its contents stay.
        unsafe { system_call(libc::SYS_madvise, [addr, len, advice, 0, 0, 0]) }.map(drop)
    }

    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Advise);
        let advice = MADV_GUARD_INSTALL as usize;
        // SAFETY: the caller owns the range and nobody uses it.
        unsafe { system_call(libc::SYS_madvise, [addr, len, advice, 0, 0, 0]) }.map(drop)
    }

    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Advise);
        let advice = MADV_GUARD_REMOVE as usize;
        // SAFETY: the caller owns the range.
        unsafe { system_call(libc::SYS_madvise, [addr, len, advice, 0, 0, 0]) }.map(drop)
    }
}

/// The mapping call; the one that counts its offset in pages where the other does not exist.
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const MMAP: libc::c_long = libc::SYS_mmap;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const MMAP: libc::c_long = libc::SYS_mmap2;

const fn bits(prot: Prot) -> usize {
    match prot {
        Prot::None => libc::PROT_NONE as usize,
        Prot::ReadWrite => (libc::PROT_READ | libc::PROT_WRITE) as usize,
    }
}
