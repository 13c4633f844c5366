//! What we ask the process and the kernel once: page size, environment, CPUs, randomness, and
//! whether we are still the same process.
#![allow(unsafe_code)] // Foreign functions and the environment block.

use super::call::system_call;
use super::lines::File;
use super::{Os, OsError, PageState, Prot, Region};
use crate::sync::overlay::{AtomicU32, AtomicUsize, Ordering};
use core::ffi::c_char;

unsafe extern "C" {
    static environ: *const *const c_char;
}

static PAGE_SIZE: AtomicUsize = AtomicUsize::new(0);

/// The page size in bytes, as the kernel told the process at its start.
#[must_use]
#[inline]
pub fn page_size() -> usize {
    let known = PAGE_SIZE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: getauxval only reads the auxiliary vector.
    let told = unsafe { libc::getauxval(libc::AT_PAGESZ) } as usize;
    let size = if told.is_power_of_two() { told } else { 4096 };
    PAGE_SIZE.store(size, Ordering::Relaxed);
    size
}

/// Whether the process runs with privileges that its caller does not have (AT_SECURE), so that
/// the environment must not be believed.
#[must_use]
pub fn is_secure() -> bool {
    // SAFETY: getauxval only reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Where the program begins, as opposed to the libraries that it uses.
#[must_use]
pub fn entry_point() -> usize {
    // SAFETY: getauxval only reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_ENTRY) as usize }
}

/// The environment block; may be null very early. Read directly because a program may replace
/// getenv by a function that allocates.
#[must_use]
pub fn environment() -> *const *const c_char {
    // SAFETY: reading one word; at the first allocation no other thread changes it.
    unsafe { environ }
}

/// How many CPUs the process may run on; at least 1.
#[must_use]
pub fn available_cpus() -> usize {
    let mut mask = [0u64; 128];
    let args = [0, size_of_val(&mask), mask.as_mut_ptr().addr(), 0, 0, 0];
    mask.as_mut_ptr().expose_provenance();
    // SAFETY: the kernel writes at most the given number of bytes into the mask.
    match unsafe { system_call(libc::SYS_sched_getaffinity, args) } {
        Ok(_) => mask
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum::<usize>()
            .max(1),
        Err(_) => 1,
    }
}

/// Asks for no huge pages under a large static. Only a hint.
pub fn no_huge_pages<T>(of: *const T) {
    let from = crate::size::align_up(of.expose_provenance(), page_size());
    let to = crate::size::align_down(of.addr() + size_of::<T>(), page_size());
    let args = [
        from,
        to.saturating_sub(from),
        libc::MADV_NOHUGEPAGE as usize,
        0,
        0,
        0,
    ];
    // SAFETY: changes only which pages the kernel puts there.
    let _ = unsafe { system_call(libc::SYS_madvise, args) };
}

/// For how many nanoseconds the calling thread has run; 0 if the kernel does not tell.
#[must_use]
pub fn thread_time() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let into = (&raw mut time).expose_provenance();
    let clock = libc::CLOCK_THREAD_CPUTIME_ID as usize;
    // SAFETY: the kernel writes one time.
    let told = unsafe { system_call(libc::SYS_clock_gettime, [clock, into, 0, 0, 0, 0]) };
    if told.is_err() {
        return 0;
    }
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the kernel allows a process of mappings unless it says otherwise.
pub const USUAL_MAPPINGS: usize = 65_530;

/// How many mappings the kernel allows a process (`vm.max_map_count`).
#[must_use]
pub fn most_mappings() -> usize {
    let mut digits = [0; 20];
    let read = File::open(c"/proc/sys/vm/max_map_count").map_or(0, |file| file.read(&mut digits));
    let told = digits.get(..read).and_then(crate::config::parse);
    told.unwrap_or(USUAL_MAPPINGS)
}

/// Lets another thread run.
pub fn yield_now() {
    // SAFETY: sched_yield takes nothing.
    let _ = unsafe { system_call(libc::SYS_sched_yield, [0; 6]) };
}

/// Four words that an attacker cannot know: from getrandom(2), mixed with the kernel's
/// AT_RANDOM bytes in case getrandom has nothing yet.
#[must_use]
pub fn random_words() -> [u64; 4] {
    let mut words = [0u64; 4];
    let at = words.as_mut_ptr().expose_provenance();
    let args = [
        at,
        size_of_val(&words),
        libc::GRND_NONBLOCK as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the buffer is ours and of the length given. Failure leaves zeros, mixed below.
    let _ = unsafe { system_call(libc::SYS_getrandom, args) };
    // SAFETY: getauxval only reads the auxiliary vector.
    let at = unsafe { libc::getauxval(libc::AT_RANDOM) } as usize;
    if at != 0 {
        let seed: *const [u8; 16] = core::ptr::with_exposed_provenance(at);
        // SAFETY: AT_RANDOM points to 16 bytes that live as long as the process.
        let seed = unsafe { *seed };
        let (low, high) = (
            u64::from_ne_bytes([
                seed[0], seed[1], seed[2], seed[3], seed[4], seed[5], seed[6], seed[7],
            ]),
            u64::from_ne_bytes([
                seed[8], seed[9], seed[10], seed[11], seed[12], seed[13], seed[14], seed[15],
            ]),
        );
        for (i, word) in words.iter_mut().enumerate() {
            let turn = (low.rotate_left(17 * i as u32) ^ high).wrapping_add(i as u64);
            *word ^= turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
        }
    }
    words
}

/// A page that a child process finds empty: tells any path that takes a lock that it runs in a
/// new process, whichever way that came about (fork, _Fork, a raw clone).
///
/// | word | meaning |
/// |---|---|
/// | 0 | a new process that has not been put in order |
/// | 1 | somebody is putting it in order |
/// | 2 | in order |
#[derive(Debug)]
pub struct ForkPage {
    page: AtomicUsize,
}

impl ForkPage {
    const NEW: u32 = 0;
    const BUSY: u32 = 1;
    const READY: u32 = 2;

    /// Not watching yet.
    #[must_use]
    pub const fn new() -> ForkPage {
        ForkPage {
            page: AtomicUsize::new(0),
        }
    }

    /// Starts watching, at a page of the image that nobody else uses; at one of its own if `page`
    /// is 0. Where the kernel cannot wipe a page on fork, `Err` says so and an
    /// atfork handler must call [`forget`](ForkPage::forget).
    ///
    /// # Errors
    /// No page, or no MADV_WIPEONFORK (before Linux 4.14).
    pub fn watch<O: Os>(&self, os: &O, page: usize) -> Result<(), OsError> {
        let page = if page == 0 {
            let page = os.map(0, os.page_size(), Prot::ReadWrite)?;
            os.note(page, page + os.page_size(), PageState::Meta);
            page
        } else {
            page
        };
        self.word(os, page).store(Self::READY, Ordering::Relaxed);
        self.page.store(page, Ordering::Release);
        let args = [
            page,
            os.page_size(),
            libc::MADV_WIPEONFORK as usize,
            0,
            0,
            0,
        ];
        // SAFETY: the page is ours; the advice changes only what a child finds in it.
        unsafe { system_call(libc::SYS_madvise, args) }.map(drop)
    }

    fn word<'a, O: Os>(&'a self, os: &O, page: usize) -> &'a AtomicU32 {
        // SAFETY: the page is mapped for as long as the process lives and is only ever
        // accessed as this atomic.
        unsafe { AtomicU32::from_ptr(os.region().at(page).cast()) }
    }

    /// Marks the process as new (from an atfork handler, where pages cannot be wiped).
    pub fn forget<O: Os>(&self, os: &O) {
        let page = self.page.load(Ordering::Acquire);
        if page != 0 {
            self.word(os, page).store(Self::NEW, Ordering::Relaxed);
        }
    }

    /// Runs `put_in_order` once if this is a new process; others wait for it to end.
    #[inline]
    pub fn check<O: Os>(&self, os: &O, put_in_order: impl FnOnce()) {
        let page = self.page.load(Ordering::Acquire);
        if page != 0 && self.word(os, page).load(Ordering::Acquire) != Self::READY {
            self.check_slow(self.word(os, page), put_in_order);
        }
    }

    #[cold]
    fn check_slow(&self, word: &AtomicU32, put_in_order: impl FnOnce()) {
        let won =
            word.compare_exchange(Self::NEW, Self::BUSY, Ordering::Acquire, Ordering::Relaxed);
        if won.is_ok() {
            put_in_order();
            word.store(Self::READY, Ordering::Release);
        }
        while word.load(Ordering::Acquire) == Self::BUSY {
            core::hint::spin_loop();
        }
    }
}

impl Default for ForkPage {
    fn default() -> ForkPage {
        ForkPage::new()
    }
}
