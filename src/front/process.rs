//! The process: its statics, its start, its threads.
//!
//! The statics that the allocator needs are here: the kernel with its counters, the tunables,
//! the map of extents, the secret, what threads share, and the caches.
#![allow(unsafe_code)] // The environment, foreign functions, a thread's own cache.

use super::account::Account;
use crate::arena::Shared;
use crate::cache::{Cache, Caches, Thread, on_thread_exit, set_exit_hook};
use crate::chunk::{Keys, Secret};
use crate::config::{Key, Settings};
use crate::heap::{Growth, Reserved};
use crate::os::{self, Exposed, Extents, Kernel, Ledger, Room};
use crate::sync::overlay::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::cell::UnsafeCell;
use core::ffi::c_void;

pub(super) static KERNEL: Ledger<Kernel> = Ledger::new(Kernel::new());
static ROOM: Room = Room::new();
pub(super) static SETTINGS: Settings = Settings::new();
pub(super) static EXTENTS: Extents = Extents::new();
pub(super) static KEYS: Keys<Exposed> = Keys {
    region: Exposed,
    secret: Secret::new([0; 4]),
    extents: &EXTENTS,
};
pub(super) static SHARED: Shared<Account> = Shared::new(Account, &KEYS, &SETTINGS);
pub(super) static CACHES: Caches = Caches::new();
/// Calls that no cache served.
pub(super) static DIRECT_MALLOCS: AtomicU64 = AtomicU64::new(0);
pub(super) static DIRECT_FREES: AtomicU64 = AtomicU64::new(0);
/// Where threads point that have ended.
static ENDED: Ended = Ended(UnsafeCell::new(Cache::direct()));
static STARTED: AtomicU32 = AtomicU32::new(NO);

const NO: u32 = 0;
const STARTING: u32 = 1;
const YES: u32 = 2;

/// Address space that a reserved main arena asks for, and the least that it takes.
const RESERVATION: usize = if usize::BITS == 64 {
    64 << 30
} else {
    256 << 20
};
const LEAST_RESERVATION: usize = 1 << 20;

struct Ended(UnsafeCell<Cache>);

// SAFETY: a direct cache is never written to.
unsafe impl Sync for Ended {}

/// Whose break the main arena uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The program break: where this is the process's malloc.
    ProgramBreak,
    /// A reserved region with a break of its own: where the C library's malloc lives beside us
    /// and moves the program break too.
    Reserved,
}

/// What a thread does before it takes any lock: the process is started, the thread has a
/// pointer to a cache, and if this is a new process, it is put in order.
pub(super) fn enter() -> *mut Cache {
    let cache = Thread::cache();
    if cache.is_null() {
        return attach();
    }
    SHARED.enter();
    // SAFETY: this thread's cache.
    unsafe {
        if Caches::survived(&SHARED, cache) {
            CACHES.bury(&SHARED, cache);
        }
    }
    cache
}

#[cold]
fn attach() -> *mut Cache {
    init(Source::Reserved, 0);
    SHARED.enter();
    if !READ.load(Ordering::Relaxed) {
        // Whether there are to be caches is not known yet.
        return ENDED.0.get();
    }
    let direct = !SETTINGS.caches()
        || SETTINGS.get(Key::Perturb) != 0
        || super::guarding::guards_all()
        || super::trace::may_be();
    let cache = CACHES.claim(&SHARED, direct);
    if cache.is_null() {
        return ENDED.0.get();
    }
    super::guarding::arm(cache);
    Thread::set_cache(cache);
    // From here on this thread can allocate, which asking for the hook may do.
    on_thread_exit(thread_ends);
    super::trace::begin_with_process();
    super::faults::thread_begins();
    cache
}

unsafe extern "C" fn thread_ends(_: *mut c_void) {
    let cache = Thread::cache();
    if cache.is_null() || cache == ENDED.0.get() {
        return;
    }
    super::leaks::thread_ends();
    SHARED.enter();
    super::faults::thread_ends();
    Thread::set_cache(ENDED.0.get());
    // SAFETY: this thread's cache, which it has just let go of.
    unsafe { CACHES.give_back(&SHARED, cache) };
}

/// Starts the allocator of the process; the first call decides where the main arena's memory
/// comes from, and which allocations are guarded unless the environment says otherwise: one in
/// `guard`, none if 0.
#[inline]
pub fn init(source: Source, guard: u32) {
    if STARTED.load(Ordering::Acquire) != YES {
        start(source, guard);
    }
    read_environment();
}

/// Whether the environment was read.
static READ: AtomicBool = AtomicBool::new(false);

/// Takes the tunables over, once. The very first calls come from the dynamic linker, before the
/// C library has set its pointer to the environment.
fn read_environment() {
    let block = os::environment();
    if block.is_null() || READ.load(Ordering::Relaxed) || READ.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: the process's environment block, read before the program runs.
    unsafe {
        SETTINGS.read_environment(block, os::is_secure(), &mut crate::config::warn_to_stderr);
    }
}

/// The program runs: if there is no environment by now, there is none. A program that allocates
/// nothing pays nothing: the allocator starts with the first block, unless something is to be
/// watched or reported before.
pub fn program_starts(source: Source) {
    read_environment();
    READ.store(true, Ordering::Relaxed);
    let watched = [Key::Stats, Key::Audit, Key::Guard, Key::Mtrace];
    if watched.into_iter().any(|key| SETTINGS.get(key) != 0) {
        init(source, 0);
        super::guarding::program_starts();
    }
}

#[cold]
fn start(source: Source, guard: u32) {
    if STARTED
        .compare_exchange(NO, STARTING, Ordering::Acquire, Ordering::Acquire)
        .is_err()
    {
        while STARTED.load(Ordering::Acquire) != YES {
            os::yield_now();
        }
        return;
    }
    if guard != 0 && !SETTINGS.is_set(Key::Guard) {
        SETTINGS.preset(Key::Guard, guard as usize);
    }
    read_environment();
    // Where the kernel makes huge pages unasked, a touch of the map would cost one.
    os::no_huge_pages(&raw const EXTENTS);
    KEYS.secret.set(os::random_words());
    KERNEL.lend(&ROOM);
    let growth = match source {
        Source::ProgramBreak => Growth::Break { end: 0 },
        Source::Reserved => match Reserved::up_to(&KERNEL, RESERVATION, LEAST_RESERVATION) {
            Ok(region) => Growth::Region(region),
            Err(_) => Growth::Segments,
        },
    };
    if !SHARED.start(growth, ROOM.page()) {
        // SAFETY: registers a function that lives as long as the process.
        unsafe { libc::pthread_atfork(None, None, Some(forked)) };
    }
    set_exit_hook(thread_ends);
    STARTED.store(YES, Ordering::Release);
}

unsafe extern "C" fn forked() {
    os::stop::forget_stopper();
    SHARED.forked();
}

/// Whether the process was started.
pub(super) fn is_started() -> bool {
    STARTED.load(Ordering::Acquire) == YES
}
