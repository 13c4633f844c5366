//! Call stacks, by the chain of frame pointers.
//!
//! A frame pointer is only a register: code compiled without them leaves anything in it. So no
//! step is believed. [`walk`] reads inside [`Bounds`] only, which is memory that is readable for
//! sure, and a chain must be aligned, grow strictly and not leap.
//!
//! What is readable for sure, without asking the kernel at every walk:
//!
//! | stack | from | to | known by |
//! |---|---|---|---|
//! | the main thread's | sp | the kernel's AT_RANDOM bytes above it | sp is nearer to them than the stack may grow; the kernel maps nothing there |
//! | another thread's | sp | the thread pointer: the C library keeps the thread's own data at the top of its stack | every page was probed once, the deepest so far is kept |
//! | any other (a coroutine's, an alternate stack) | sp | the end of sp's page | sp is in use |
//!
//! glibc's `pthread_getattr_np` would tell the bounds of a thread's stack, but it allocates with
//! the thread's lock held: called from inside that very allocation it would wait for itself.
#![allow(unsafe_code)] // Memory by its address, thread-local words.

use super::call::system_call;
use super::{OsError, page_size};
use crate::sync::overlay::{AtomicUsize, Ordering::Relaxed};

const WORD: usize = size_of::<usize>();

/// The longest frame that a chain may step over, in bytes.
const LONGEST_FRAME: usize = 64 << 10;

/// The first page is never code.
const LEAST_CODE: usize = 4096;

/// How many pages of a thread's stack one call probes at the most.
const PROBES: usize = 256;

/// A part of a stack, all of it readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    low: usize,
    high: usize,
}

impl Bounds {
    /// Nothing: no frame lies in it.
    pub const EMPTY: Bounds = Bounds { low: 0, high: 0 };

    /// The memory from `low` to before `high`.
    ///
    /// # Safety
    /// It stays readable for as long as the bounds are used.
    #[must_use]
    pub const unsafe fn new(low: usize, high: usize) -> Bounds {
        Bounds { low, high }
    }

    /// The lowest address.
    #[must_use]
    pub const fn low(self) -> usize {
        self.low
    }

    /// The first address after.
    #[must_use]
    pub const fn high(self) -> usize {
        self.high
    }

    /// What is readable from the frame at `fp` on, by asking the kernel page for page: for a
    /// handler, which may find any stack, and the stack pointer beyond its end. Empty if `fp`
    /// cannot belong to a stack whose pointer is `sp`.
    #[must_use]
    pub fn probed(sp: usize, fp: usize) -> Bounds {
        if fp < sp || fp - sp > LONGEST_FRAME {
            return Bounds::EMPTY;
        }
        let page = page_size();
        let first = fp & !(page - 1);
        let mut high = first;
        for _ in 0..PROBES {
            if !is_readable(high) {
                break;
            }
            high = high.saturating_add(page);
        }
        if high == first {
            Bounds::EMPTY
        } else {
            Bounds { low: fp, high }
        }
    }
}

/// What is known of the stack that the calling thread runs on. `sp` is its stack pointer, now or
/// in a caller that has not returned. Any context; a few instructions, and a system call for
/// each page by which a thread's stack is deeper than ever before.
#[must_use]
#[inline]
pub fn bounds_of_thread(sp: usize) -> Bounds {
    let (low, high) = main_stack();
    if low <= sp && sp < high {
        return Bounds { low: sp, high };
    }
    own::bounds(sp)
}

/// Writes `pc` (unless it is 0) and the return addresses of the frames from `fp` on, innermost
/// first, and returns how many these are. Never faults, whatever `fp` is.
#[inline]
pub fn walk(pc: usize, fp: usize, bounds: Bounds, frames: &mut [usize]) -> usize {
    let mut slots = frames.iter_mut();
    let mut count = 0;
    if pc != 0
        && let Some(slot) = slots.next()
    {
        *slot = pc;
        count = 1;
    }
    if !HAS_FRAMES {
        return count;
    }
    let (mut last, mut fp) = (bounds.low, fp);
    for slot in slots {
        if !fp.is_multiple_of(WORD)
            || fp < last
            || fp - last > LONGEST_FRAME
            || fp >= bounds.high
            || bounds.high - fp < 2 * WORD
        {
            break;
        }
        let frame: *const usize = core::ptr::with_exposed_provenance(fp);
        // SAFETY: aligned, and two words from here lie inside the bounds, which are readable.
        let (next, back) = unsafe { (frame.read_volatile(), frame.add(1).read_volatile()) };
        let back = plain(back);
        if back < LEAST_CODE {
            break;
        }
        *slot = back;
        count += 1;
        if next <= fp {
            break;
        }
        (last, fp) = (fp, next);
    }
    count
}

/// Whether eight bytes can be read at `addr`, rounded down to a multiple of 8. Any context.
///
/// The kernel copies a signal mask before it looks at what shall be done with it, and there is
/// no such thing as 'what' here: the mask stays as it is.
#[must_use]
pub fn is_readable(addr: usize) -> bool {
    const NOTHING: usize = usize::MAX;
    let args = [NOTHING, addr & !7, 0, 8, 0, 0];
    if addr & !7 == 0 {
        return false;
    }
    // SAFETY: the call is refused, whatever the address is.
    let refused = unsafe { system_call(libc::SYS_rt_sigprocmask, args) };
    refused == Err(OsError(libc::EINVAL))
}

/// What every thread has of its own, in initial-exec thread-local storage. All of it is one
/// variable: GNU ld for aarch64 gives all that begin in one section the place of the first.
///
/// A signal handler may come in between at any time: what is known of the stack only ever falls
/// back to what was also true.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
#[repr(C)]
#[derive(Debug)]
pub struct Words {
    /// The pointer to the thread's cache, whose owner is [`crate::cache`]. It stands first.
    cache: AtomicUsize,
    /// All from here to the thread pointer is readable; 0: nothing is known.
    known: AtomicUsize,
    /// The stack's end, once it was met; 0: not yet.
    floor: AtomicUsize,
    chain: Chain,
}

/// Never accessed as the static that it seems to be: only through its TLS symbol. The section
/// makes it thread-local: the linker gives every thread zeroed words.
#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(miri)))]
#[unsafe(link_section = ".tbss.fencepost")]
pub static WORDS: Words = Words {
    cache: AtomicUsize::new(0),
    known: AtomicUsize::new(0),
    floor: AtomicUsize::new(0),
    chain: Chain {
        context: AtomicUsize::new(0),
        level: AtomicUsize::new(0),
    },
};

/// Two words of every thread: which signal a handler is passing on to other handlers.
#[repr(C)]
#[derive(Debug)]
pub struct Chain {
    /// The address of the signal's context; 0: none.
    pub context: AtomicUsize,
    /// How many handlers have passed it on to us in turn.
    pub level: AtomicUsize,
}

/// The calling thread's words, where threads have some. Any context.
#[must_use]
pub fn chain() -> Option<&'static Chain> {
    own::chain()
}

/// Whether two words at the frame pointer are the caller's frame pointer and the return address.
const HAS_FRAMES: bool = cfg!(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64"
));

/// A return address without the signature that aarch64 may have put in its upper bits.
#[inline(always)]
fn plain(back: usize) -> usize {
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    {
        let mut back = back;
        // SAFETY: xpaclri, which changes one register; nothing at all on older processors.
        unsafe {
            core::arch::asm!("hint #7", inout("x30") back, options(pure, nomem, nostack, preserves_flags));
        }
        back
    }
    #[cfg(not(all(target_arch = "aarch64", not(miri))))]
    back
}

/// Where the main thread's stack may reach to, and its AT_RANDOM bytes. Both 1 if unknown.
#[inline]
fn main_stack() -> (usize, usize) {
    let low = MAIN_LOW.load(Relaxed);
    if low != 0 {
        return (low, MAIN_HIGH.load(Relaxed));
    }
    find_main_stack()
}

static MAIN_LOW: AtomicUsize = AtomicUsize::new(0);
static MAIN_HIGH: AtomicUsize = AtomicUsize::new(1);

#[cold]
fn find_main_stack() -> (usize, usize) {
    /// Believed of a stack without limit.
    const MOST: u64 = if usize::BITS == 64 { 1 << 30 } else { 8 << 20 };
    let mut limit = [0u64; 2];
    let args = [
        0,
        libc::RLIMIT_STACK as usize,
        0,
        limit.as_mut_ptr().expose_provenance(),
        0,
        0,
    ];
    // SAFETY: getauxval only reads the auxiliary vector.
    let high = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    // SAFETY: the kernel writes two 64-bit numbers.
    let known = unsafe { system_call(libc::SYS_prlimit64, args) }.is_ok();
    let [most, _] = limit;
    let low = high.saturating_sub(most.min(MOST) as usize);
    let (low, high) = if known && high != 0 && low != 0 {
        (low, high & !(WORD - 1))
    } else {
        (1, 1)
    };
    // Whoever sees the lower end without the upper one finds nothing in between.
    MAIN_HIGH.store(high, Relaxed);
    MAIN_LOW.store(low, Relaxed);
    (low, high)
}

/// The page of the stack pointer: the stack is in use, so it is there.
fn one_page(sp: usize) -> Bounds {
    let high = (sp | (page_size() - 1)).saturating_add(1);
    Bounds { low: sp, high }
}

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_env = "gnu",
    not(miri)
))]
mod own {
    use super::{Bounds, Chain, PROBES, WORDS, Words, is_readable, one_page, page_size};
    use crate::sync::overlay::Ordering::Relaxed;

    /// The thread pointer, and this thread's words.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn place() -> (usize, *const Words) {
        let pointer: usize;
        let words: *const Words;
        // SAFETY: reads the thread pointer and computes the copy's address by the initial-exec
        // sequence.
        unsafe {
            core::arch::asm!(
                "mov {0}, qword ptr fs:[0]",
                "mov {1}, qword ptr [rip + {2}@GOTTPOFF]",
                "add {1}, {0}",
                out(reg) pointer,
                out(reg) words,
                sym WORDS,
                options(pure, readonly, nostack),
            );
        }
        (pointer, words)
    }

    /// The thread pointer, and this thread's words.
    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    fn place() -> (usize, *const Words) {
        let pointer: usize;
        let words: *const Words;
        // SAFETY: reads the thread pointer and computes the copy's address by the initial-exec
        // sequence.
        unsafe {
            core::arch::asm!(
                "mrs {0}, tpidr_el0",
                "adrp {1}, :gottprel:{2}",
                "ldr {1}, [{1}, :gottprel_lo12:{2}]",
                "add {1}, {1}, {0}",
                out(reg) pointer,
                out(reg) words,
                sym WORDS,
                options(pure, readonly, nostack, preserves_flags),
            );
        }
        (pointer, words)
    }

    #[inline]
    pub fn chain() -> Option<&'static Chain> {
        // SAFETY: this thread's words, which nobody else accesses otherwise than atomically; the
        // reference is not given to other threads.
        Some(unsafe { &(*place().1).chain })
    }

    #[inline]
    pub fn bounds(sp: usize) -> Bounds {
        let (pointer, words) = place();
        // SAFETY: this thread's words, which nobody else accesses otherwise than atomically.
        let words = unsafe { &*words };
        let known = words.known.load(Relaxed);
        if sp >= pointer || sp < words.floor.load(Relaxed) {
            return one_page(sp);
        }
        if known != 0 && sp >= known {
            return Bounds {
                low: sp,
                high: pointer & !(super::WORD - 1),
            };
        }
        deeper(sp, pointer, words)
    }

    /// Probes downwards from what is known. A hole is the end of the stack.
    #[cold]
    #[inline(never)]
    fn deeper(sp: usize, pointer: usize, words: &Words) -> Bounds {
        let page = page_size();
        let mut known = words.known.load(Relaxed);
        if known == 0 {
            known = pointer & !(page - 1);
        }
        for _ in 0..PROBES {
            if sp >= known {
                break;
            }
            if !is_readable(known - page) {
                words.floor.store(known, Relaxed);
                break;
            }
            known -= page;
        }
        words.known.store(known, Relaxed);
        if sp < known {
            return one_page(sp);
        }
        Bounds {
            low: sp,
            high: pointer & !(super::WORD - 1),
        }
    }
}

#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_env = "gnu",
    not(miri)
)))]
mod own {
    use super::{Bounds, Chain, one_page};

    pub fn chain() -> Option<&'static Chain> {
        None
    }

    /// Where the thread's stack ends is not known here.
    pub fn bounds(sp: usize) -> Bounds {
        one_page(sp)
    }
}
