//! The real kernel.
#![allow(unsafe_code)] // System calls.

use super::{Exposed, Os, OsError, Prot, page_size};
use crate::sync::overlay::{AtomicU64, Ordering};
use rustix::mm::{Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags};

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

fn code(error: rustix::io::Errno) -> OsError {
    OsError(error.raw_os_error())
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
        // SAFETY: errno is this thread's own; it is put back because free() must keep it.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            // SAFETY (brk): the caller owns the range that the break moves over.
            libc::brk(core::ptr::without_provenance_mut(to));
            *errno = before;
        }
        // The return value is not to be trusted (glibc reports success for some refusals).
        if self.program_break() == to {
            Ok(())
        } else {
            Err(OsError::NO_MEMORY)
        }
    }

    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        self.count(Call::Map);
        let (prot, flags) = match prot {
            Prot::None => (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE),
            Prot::ReadWrite => (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE),
        };
        // SAFETY: without MAP_FIXED the kernel chooses a range that nobody uses.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::without_provenance_mut(hint), len, prot, flags)
        };
        mapped.map(|p| p.expose_provenance()).map_err(code)
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Unmap);
        // SAFETY: the caller owns the range and nobody uses it.
        unsafe { rustix::mm::munmap(core::ptr::with_exposed_provenance_mut(addr), len) }
            .map_err(code)
    }

    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        self.count(Call::Remap);
        // SAFETY: the caller owns exactly this mapping.
        unsafe {
            rustix::mm::mremap(
                core::ptr::with_exposed_provenance_mut(addr),
                old,
                new,
                MremapFlags::MAYMOVE,
            )
        }
        .map(|p| p.expose_provenance())
        .map_err(code)
    }

    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        self.count(Call::Protect);
        let flags = match prot {
            Prot::None => MprotectFlags::empty(),
            Prot::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        // SAFETY: the caller owns the range.
        unsafe { rustix::mm::mprotect(core::ptr::with_exposed_provenance_mut(addr), len, flags) }
            .map_err(code)
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(Call::Advise);
        // SAFETY: the caller owns the range and nobody needs its contents.
        unsafe {
            rustix::mm::madvise(
                core::ptr::with_exposed_provenance_mut(addr),
                len,
                Advice::LinuxDontNeed,
            )
        }
        .map_err(code)
    }
}
