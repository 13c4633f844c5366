//! Layer 9: the allocator of a Rust program.
#![allow(unsafe_code)] // `GlobalAlloc` is an unsafe trait.

use crate::front::{self, Leaks, Source};
use crate::os::{Audit, Caller, Finding, OsError, with_caller};
use crate::report::Call;
use crate::size::ALIGN;
use crate::stats::Snapshot;
use crate::sync::overlay::{AtomicBool, Ordering};
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
    guard: u32,
}

impl Fencepost {
    /// The allocator, whose main arena grows in a reserved region: glibc's malloc lives in the
    /// same process and moves the program break, which cannot be shared safely.
    #[must_use]
    pub const fn new() -> Fencepost {
        Fencepost {
            program_break: false,
            guard: 0,
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
            guard: 0,
        }
    }

    /// In guard mode, unless `FENCEPOST_GUARD` says otherwise: 1 guards every allocation, `one_in`
    /// one in so many at random, 0 none ([`guard`](crate::guard)).
    ///
    /// ```
    /// #[global_allocator]
    /// static A: fencepost::Fencepost = fencepost::Fencepost::new().guarded(1);
    ///
    /// let boxed = Box::new([7u8; 100]);
    /// assert!(fencepost::Fencepost::stats().guard.live >= 1);
    /// ```
    #[must_use]
    pub const fn guarded(self, one_in: u32) -> Fencepost {
        Fencepost {
            program_break: self.program_break,
            guard: one_in,
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

    /// Looks for guarded blocks that nothing leads to any more: not a register, a stack, a static,
    /// or a block that something leads to. Words that only look like addresses count too. If
    /// `tell`, what is lost is reported on standard error and in the file that
    /// `FENCEPOST_GUARD_REPORT` names. A program in guard mode does so when it exits, unless
    /// `FENCEPOST_GUARD_LEAKS=0` says otherwise.
    ///
    /// All other threads stand still meanwhile, stopped by a signal: calls like `poll` and
    /// `nanosleep` that they wait in return early.
    ///
    /// ```
    /// #[global_allocator]
    /// static A: fencepost::Fencepost = fencepost::Fencepost::new().guarded(1);
    ///
    /// # if cfg!(target_arch = "x86_64") {
    /// let kept = Box::new([1u8; 100]);
    /// let leaks = fencepost::Fencepost::leaks(false).expect("the kernel lets us look");
    /// assert!(leaks.reachable.bytes >= 100);
    /// # drop(kept);
    /// # }
    /// ```
    ///
    /// # Errors
    /// If nothing is guarded (`ENOSYS`), the kernel does not let us look, another thread looks at
    /// this moment (`EBUSY`), or there is no memory.
    pub fn leaks(tell: bool) -> Result<Leaks, OsError> {
        front::leaks(tell)
    }

    /// Looks at the bytes beside every guarded object in use, and reports on standard error those
    /// that were overwritten. Returns how many objects these belong to.
    ///
    /// ```
    /// #[global_allocator]
    /// static A: fencepost::Fencepost = fencepost::Fencepost::new().guarded(1);
    ///
    /// assert_eq!(fencepost::Fencepost::sweep(), 0);
    /// ```
    pub fn sweep() -> usize {
        front::sweep()
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

    /// What `first` is told beside the layout: bit 0 for zeroed memory, bit 1 for the program
    /// break; then the guards.
    #[inline(always)]
    const fn told(self, zeroed: bool) -> usize {
        (self.guard as usize) << 2 | (self.program_break as usize) << 1 | zeroed as usize
    }
}

/// Whether this is a Rust program's allocator: in a preloaded library others report at the end.
static IN_USE: AtomicBool = AtomicBool::new(false);

/// Runs when the process exits, after the functions registered with `atexit`.
#[cfg(not(miri))]
extern "C" fn finish() {
    if IN_USE.load(Ordering::Relaxed) {
        front::exit_guarded();
    }
}

// SAFETY: a function that takes nothing, as the C library expects it there.
#[cfg(not(miri))]
#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

with_caller! {
    /// The first block of a process, or one that no cache serves.
    fn first(size: usize, align: usize, told: usize) -> *mut u8 => first_from;
    /// Changes a block's size.
    fn resize(block: *mut u8, align: usize, size: usize) -> *mut u8 => resize_from;
}

/// A block that the cache did not serve, aligned to 16 at most. Its caller is the program: it is
/// jumped to.
#[cold]
#[inline(never)]
fn missed(size: usize, align: usize, told: usize) -> *mut u8 {
    front::reloaded_with(
        size,
        |block| block,
        // SAFETY: the block was popped just now and is nobody's.
        |payload| unsafe { front::sampled(payload, size, align) },
        // SAFETY: a layout's alignment is a power of two.
        || unsafe { first(size, align, told) },
    )
}

/// # Safety
/// `align` is a power of two.
unsafe extern "C" fn first_from(
    size: usize,
    align: usize,
    told: usize,
    pc: usize,
    fp: usize,
) -> *mut u8 {
    let source = if told & 2 == 0 {
        Source::Reserved
    } else {
        Source::ProgramBreak
    };
    front::init(source, (told >> 2) as u32);
    if !IN_USE.load(Ordering::Relaxed) {
        IN_USE.store(true, Ordering::Relaxed);
    }
    let caller = Caller { pc, fp };
    if align > ALIGN {
        return if told & 1 == 0 {
            front::memalign(align, size, caller)
        } else {
            front::memalign_zeroed(align, size, caller)
        };
    }
    let hit = front::cached_unless_due(size);
    if hit.is_null() {
        return if told & 1 == 0 {
            front::malloc(size, align, caller)
        } else {
            front::calloc(size, align, caller)
        };
    }
    if told & 1 != 0 {
        // SAFETY: the block has that many bytes.
        unsafe { hit.write_bytes(0, size) };
    }
    hit
}

/// # Safety
/// The contract of `GlobalAlloc::realloc`.
unsafe extern "C" fn resize_from(
    p: *mut u8,
    align: usize,
    size: usize,
    pc: usize,
    fp: usize,
) -> *mut u8 {
    let caller = Caller { pc, fp };
    // SAFETY: the caller's contract: a block of this allocator.
    unsafe {
        if align <= ALIGN {
            return front::realloc(p, size, align, caller);
        }
        // A move might lose the alignment: stay, or copy.
        let usable = front::usable_size_for(Call::Realloc, p, caller);
        if size <= usable && size >= usable / 2 && !front::is_guarded(p) {
            return p;
        }
        let to = front::memalign(align, size, caller);
        if !to.is_null() {
            to.copy_from_nonoverlapping(p, usable.min(size));
            front::free_by(p, caller);
        }
        to
    }
}

// SAFETY: a block is as large and aligned as the layout asks, nobody else's until it is freed,
// and its contents survive `realloc`; nothing here unwinds.
unsafe impl GlobalAlloc for Fencepost {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        if align > ALIGN {
            // SAFETY: a layout's alignment is a power of two.
            return unsafe { first(size, align, self.told(false)) };
        }
        front::cached_with(
            size,
            |block| block,
            // SAFETY: the block was popped just now and is nobody's.
            |payload| unsafe { front::sampled(payload, size, align) },
            || missed(size, align, self.told(false)),
        )
    }

    #[inline]
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract: a block of this allocator, not used again.
        unsafe { front::free(p, layout.size(), layout.align()) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN {
            let hit = front::cached_unless_due(layout.size());
            if !hit.is_null() {
                // SAFETY: the block has that many bytes.
                unsafe { hit.write_bytes(0, layout.size()) };
                return hit;
            }
        }
        // SAFETY: a layout's alignment is a power of two.
        unsafe { first(layout.size(), layout.align(), self.told(true)) }
    }

    #[inline]
    unsafe fn realloc(&self, p: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if layout.align() <= ALIGN {
            // SAFETY: the caller's contract: a block of this allocator.
            let to = unsafe { front::realloc_cached(p, size) };
            if !to.is_null() {
                return to;
            }
        }
        // SAFETY: the caller's contract: a block of this allocator.
        unsafe { resize(p, layout.align(), size) }
    }
}
