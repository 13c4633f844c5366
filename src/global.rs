//! Layer 9: the allocator of a Rust program.
#![allow(unsafe_code)] // `GlobalAlloc` is an unsafe trait.

use crate::front::{self, Source};
use crate::os::{Audit, Finding, OsError};
use crate::size::ALIGN;
use crate::stats::Snapshot;
use core::alloc::{GlobalAlloc, Layout};

/// The allocator, to be set as a program's `#[global_allocator]`.
///
/// Every value of this type is the same allocator: its state belongs to the process.
///
/// ```
/// #[global_allocator]
/// static A: fencepost::Fencepost = fencepost::Fencepost::new();
///
/// let squares: Vec<u64> = (0..1000).map(|n| n * n).collect();
/// assert_eq!(squares[31], 961);
/// assert!(fencepost::Fencepost::stats().live_bytes >= 8000);
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Fencepost {
    program_break: bool,
}

impl Fencepost {
    /// The allocator, whose main arena grows in a reserved region: glibc's malloc lives in the
    /// same process and moves the program break, which cannot be shared safely.
    #[must_use]
    pub const fn new() -> Fencepost {
        Fencepost {
            program_break: false,
        }
    }

    /// The allocator, whose main arena grows by the program break.
    ///
    /// For programs in which nobody else moves the break while memory is allocated: without C
    /// code that calls malloc or sbrk from another thread.
    ///
    /// ```
    /// #[global_allocator]
    /// static A: fencepost::Fencepost = fencepost::Fencepost::with_program_break();
    ///
    /// let words = vec!["fence", "post"];
    /// assert_eq!(words.concat(), "fencepost");
    /// assert!(fencepost::Fencepost::stats().break_bytes > 0);
    /// ```
    #[must_use]
    pub const fn with_program_break() -> Fencepost {
        Fencepost {
            program_break: true,
        }
    }

    /// Compares the allocator's account of pages with the kernel's (`/proc/self/maps`, pagemap,
    /// smaps, mincore); `found` is told each contradiction and must not allocate.
    ///
    /// # Errors
    /// If the files in `/proc` cannot be read.
    pub fn audit(found: impl FnMut(Finding)) -> Result<Audit, OsError> {
        front::audit(found)
    }

    /// All counters of the process's allocator, now.
    #[must_use]
    pub fn stats() -> Snapshot {
        front::snapshot()
    }

    /// Gives back to the system all memory that is free. `true` if there was any.
    ///
    /// ```
    /// #[global_allocator]
    /// static A: fencepost::Fencepost = fencepost::Fencepost::new();
    ///
    /// let blocks: Vec<Box<[u8; 1000]>> = (0..10_000).map(|_| Box::new([1; 1000])).collect();
    /// drop(blocks);
    /// fencepost::Fencepost::trim();
    /// assert!(fencepost::Fencepost::stats().returned_bytes > 5_000_000);
    /// ```
    pub fn trim() -> bool {
        front::trim(0)
    }

    #[inline(always)]
    fn start(self) {
        front::init(if self.program_break {
            Source::ProgramBreak
        } else {
            Source::Reserved
        });
    }

    #[cold]
    fn first(self, layout: Layout, zeroed: bool) -> *mut u8 {
        self.start();
        match (layout.align() <= ALIGN, zeroed) {
            (true, false) => front::malloc(layout.size()),
            (true, true) => front::calloc(layout.size()),
            (false, false) => front::memalign(layout.align(), layout.size()),
            (false, true) => front::memalign_zeroed(layout.align(), layout.size()),
        }
    }
}

// SAFETY: a block is as large and aligned as the layout asks, nobody else's until it is freed,
// and its contents survive `realloc`; nothing here unwinds.
unsafe impl GlobalAlloc for Fencepost {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            let hit = front::cached(layout.size());
            if !hit.is_null() {
                return hit;
            }
        }
        self.first(layout, false)
    }

    #[inline]
    unsafe fn dealloc(&self, p: *mut u8, _: Layout) {
        // SAFETY: the caller's contract: a block of this allocator, not used again.
        unsafe { front::free(p) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            let hit = front::cached(layout.size());
            if !hit.is_null() {
                // SAFETY: the block has that many bytes.
                unsafe { hit.write_bytes(0, layout.size()) };
                return hit;
            }
        }
        self.first(layout, true)
    }

    #[inline]
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's contract: a block of this allocator.
        unsafe {
            if layout.align() <= ALIGN {
                return front::realloc(p, size);
            }
            // A move might lose the alignment: stay, or copy.
            let usable = front::usable_size(p);
            if size <= usable && size >= usable / 2 {
                return p;
            }
            let to = front::memalign(layout.align(), size);
            if !to.is_null() {
                to.copy_from_nonoverlapping(p, layout.size().min(size));
                front::free(p);
            }
            to
        }
    }
}
