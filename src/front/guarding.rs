//! Which allocations are guarded, and what becomes of guarded objects.
#![allow(unsafe_code)] // Blocks of the cache, the thread's own cache.

use super::account::Account;
use super::process::{KEYS, SETTINGS, SHARED, enter};
use super::{UNKNOWN, free};
use crate::cache::{Cache, Thread, aligned_class};
use crate::config::Key;
use crate::guard::verdict::{Given, Occasion};
use crate::guard::{Event, FRAMES, GuardTotals, Pool, Refusal, Side};
use crate::os::{self, Caller, Region, with_caller};
use crate::report::Call;
use crate::size::{CACHED_REQUEST, Native, class_size};
use crate::sync::overlay::{AtomicU32, AtomicU64, Ordering};

/// The pool of guarded objects.
pub(super) static GUARD: Pool<Account> = Pool::new(Account);
/// Whether the pool was started.
static STARTED: AtomicU32 = AtomicU32::new(NO);

/// Blocks that a cache served and took back at once, for a guarded object was due.
pub(super) static SWAPPED: AtomicU64 = AtomicU64::new(0);

const NO: u32 = 0;
const STARTING: u32 = 1;
const YES: u32 = 2;
const FAILED: u32 = 3;

/// Whether every allocation is to be guarded.
#[inline]
pub(super) fn guards_all() -> bool {
    SETTINGS.get(Key::Guard) == 1
}

/// Whether an address lies in the pool.
#[inline(always)]
pub(super) fn guarded(addr: usize) -> bool {
    GUARD.holds(addr)
}

/// The pool's counters.
#[must_use]
pub fn guard_totals() -> GuardTotals {
    GUARD.totals()
}

/// A guarded object for a request that no cache serves: null if it is not this one's turn, or if
/// it cannot be had.
#[inline]
pub(super) fn guard(size: usize, align: usize, caller: Caller) -> *mut u8 {
    match SETTINGS.get(Key::Guard) {
        0 => core::ptr::null_mut(),
        1 => allocate(size, align, caller),
        one_in => guard_sometimes(size, align, caller, one_in),
    }
}

/// Requests that caches serve are counted there; here come the others, and those of which a sample
/// is due.
#[cold]
fn guard_sometimes(size: usize, align: usize, caller: Caller, one_in: usize) -> *mut u8 {
    let cache = enter();
    // SAFETY: the thread's own cache, or one that several share, which is not written to.
    let due = unsafe {
        let direct = Cache::route(cache).direct;
        let mut served = !direct && size <= SETTINGS.get(Key::TcacheMax);
        let mut chunk_size = Native::chunk_size_unchecked(size.min(CACHED_REQUEST));
        if align > Native::ALIGN {
            match aligned_class(size.min(CACHED_REQUEST), align) {
                Ok(class) => chunk_size = class_size(class),
                Err(_) => served = false,
            }
        }
        if !Cache::is_owned(cache) {
            false
        } else if served && (*cache).is_due(chunk_size) {
            (*cache).arm_class_of(chunk_size, interval(cache, one_in));
            true
        } else {
            !served && (*cache).is_odd_one_due(|| interval(cache, one_in))
        }
    };
    if due && !is_spent() {
        return sample(cache, size, align, caller, one_in);
    }
    core::ptr::null_mut()
}

/// Guards an object as a sample, unless the thread has spent too much time on such lately. Null if
/// that cannot be.
fn sample(cache: *mut Cache, size: usize, align: usize, caller: Caller, one_in: usize) -> *mut u8 {
    let share = SETTINGS.get(Key::GuardShare) as u64;
    if share == 0 || one_in < RARE {
        return allocate(size, align, caller);
    }
    let begun = os::thread_time();
    // SAFETY: the thread's own cache.
    if unsafe { !(*cache).may_spend(begun, share) } {
        return core::ptr::null_mut();
    }
    let p = allocate(size, align, caller);
    // To free the object will cost about as much.
    let spent = 2 * os::thread_time().saturating_sub(begun);
    // SAFETY: as above.
    unsafe { (*cache).spend(spent) };
    p
}

/// Who guards more often than one in so many wants that, whatever it costs.
const RARE: usize = 100;

/// Whether guarded objects in use take all that samples may take.
fn is_spent() -> bool {
    GUARD.totals().live_bytes >= SETTINGS.get(Key::GuardBytes) as u64
}

with_caller! {
    /// Guards an object in the place of a block that was popped when a sample was due; the block
    /// itself if that cannot be. `align`, at most 16, is what the object is aligned to.
    ///
    /// # Safety
    /// The block was popped from the thread's cache and is nobody's.
    pub fn sampled(payload: usize, size: usize, align: usize) -> *mut u8 => sampled_from;
}

/// # Safety
/// The block was popped from the thread's cache and is nobody's.
#[cold]
#[inline(never)]
unsafe extern "C" fn sampled_from(
    payload: usize,
    size: usize,
    align: usize,
    pc: usize,
    fp: usize,
) -> *mut u8 {
    let block = KEYS.region.at(payload);
    let one_in = SETTINGS.get(Key::Guard);
    let cache = Thread::cache();
    if cache.is_null() {
        return block;
    }
    let next = if one_in < 2 {
        0
    } else {
        interval(cache, one_in)
    };
    // SAFETY: the thread's own cache, not a direct one, for it had the block.
    unsafe { (*cache).arm_class_of(Native::chunk_size_unchecked(size), next) };
    if next == 0 || is_spent() {
        return block;
    }
    let p = sample(cache, size, align, Caller { pc, fp }, one_in);
    if p.is_null() {
        return block;
    }
    // SAFETY: popped just now.
    unsafe { free(block, UNKNOWN, UNKNOWN) };
    SWAPPED.fetch_add(1, Ordering::Relaxed);
    p
}

/// Takes back what was popped when a sample was due, so that it is due again. Null.
///
/// # Safety
/// The block was popped from the thread's cache and is nobody's.
#[cold]
#[inline(never)]
pub(super) unsafe fn put_back(payload: usize, size: usize) -> *mut u8 {
    let cache = Thread::cache();
    if !cache.is_null() {
        let next = u32::from(SETTINGS.get(Key::Guard) > 1);
        // SAFETY: the thread's own cache, not a direct one, for it had the block.
        unsafe { (*cache).arm_class_of(Native::chunk_size_unchecked(size), next) };
    }
    // SAFETY: popped just now.
    unsafe { free(KEYS.region.at(payload), UNKNOWN, UNKNOWN) };
    SWAPPED.fetch_add(1, Ordering::Relaxed);
    core::ptr::null_mut()
}

/// How many allocations until the next sample: at random, `one_in` on average.
fn interval(cache: *mut Cache, one_in: usize) -> u32 {
    // SAFETY: the thread's own cache, which no other has.
    let random = unsafe { (*cache).random(|| KEYS.secret.seal(cache.addr()) as u64) };
    let most = (one_in as u64 * 2 - 1).min(u64::from(u32::MAX));
    // The upper half of a product is as random as the factor.
    1 + (((random & 0xffff_ffff) * most) >> 32) as u32
}

/// What a new thread's cache is to count.
pub(super) fn arm(cache: *mut Cache) {
    let one_in = SETTINGS.get(Key::Guard);
    if one_in > 1 {
        // SAFETY: the thread's own cache, as of now.
        unsafe { (*cache).arm_all(|| interval(cache, one_in)) };
    }
}

/// Guards an object, all zero. Null if that cannot be.
#[cold]
#[inline(never)]
fn allocate(size: usize, align: usize, caller: Caller) -> *mut u8 {
    // What nobody can have is not missed.
    if Native::chunk_size(size).is_none() || !is_started() {
        return core::ptr::null_mut();
    }
    let (event, seen) = event(caller, true);
    let side = match SETTINGS.get(Key::GuardAlign) {
        0 => Side::Right,
        1 => Side::Left,
        _ if seen & 1 == 0 => Side::Right,
        _ => Side::Left,
    };
    KEYS.region
        .at(GUARD.allocate(size, align.max(1), side, event))
}

/// The event of a call, and how many allocations had its stack before; it is one more if it
/// `counts`.
fn event(caller: Caller, counts: bool) -> (Event, u32) {
    let cache = enter();
    GUARD.enter(SHARED.generation());
    super::faults::check();
    let mut frames = [0; FRAMES];
    let here = 0u8;
    let sp = core::hint::black_box(&raw const here).addr();
    let bounds = os::stack::bounds_of_thread(sp);
    let count = os::stack::walk(caller.pc, caller.fp, bounds, &mut frames);
    let (stack, seen) = GUARD.keep_stack(frames.get(..count).unwrap_or(&[]), counts);
    // SAFETY: the thread's own cache or a direct one, which is not written to.
    let thread = unsafe { Cache::thread(cache) };
    (GUARD.event(thread, stack), seen)
}

/// Frees a guarded object; aborts with a report if it is none.
pub(super) fn release(addr: usize, size: usize, align: usize, caller: Caller) {
    let given = Given {
        size: (size != UNKNOWN).then_some(size),
        align: (align != UNKNOWN).then_some(align),
    };
    let (event, _) = event(caller, false);
    // SAFETY: the caller of free promises that nobody uses the object any more.
    if let Err(refusal) = unsafe { GUARD.release(addr, given, event) } {
        refused(Call::Free, addr, given, refusal, event);
    }
}

/// As [`release`], for a block that has moved.
pub(super) fn released_by_realloc(addr: usize, caller: Caller) {
    let (event, _) = event(caller, false);
    // SAFETY: the caller of realloc promises that nobody uses the object any more.
    if let Err(refusal) = unsafe { GUARD.release(addr, Given::default(), event) } {
        refused(Call::Realloc, addr, Given::default(), refusal, event);
    }
}

/// The size of a guarded object; aborts with a report if it is none.
pub(super) fn size_of(call: Call, addr: usize, caller: Caller) -> usize {
    match GUARD.live(addr) {
        Some(record) => record.size,
        None => {
            let (event, _) = event(caller, false);
            refused(call, addr, Given::default(), Refusal::NotLive, event)
        }
    }
}

/// Whether any allocation may be guarded.
pub(super) fn is_on() -> bool {
    SETTINGS.get(Key::Guard) != 0
}

/// Reports that a call was given what is none of ours, and aborts.
pub(super) fn foreign(call: Call, addr: usize, caller: Caller) -> ! {
    let (event, _) = event(caller, false);
    refused(call, addr, Given::default(), Refusal::NotLive, event)
}

/// Looks at the bytes beside every guarded object in use, and reports those that were
/// overwritten; returns how many objects these belong to.
pub fn sweep() -> usize {
    look_around(Occasion::Sweep)
}

/// As [`sweep`], at the end of the process.
pub(super) fn last_sweep() -> usize {
    look_around(Occasion::Exit)
}

fn look_around(occasion: Occasion) -> usize {
    /// Reports of more would be of one and the same mistake.
    const TOLD: usize = 20;
    enter();
    GUARD.enter(SHARED.generation());
    let mut found = 0;
    GUARD.sweep(|record, damage| {
        if found < TOLD {
            super::faults::explain_damage(record, damage, occasion, &[]);
        }
        found += 1;
    });
    found
}

/// Reports what is wrong with a call, and aborts.
#[cold]
fn refused(call: Call, addr: usize, given: Given, refusal: Refusal, event: Event) -> ! {
    let mut frames = [0; FRAMES];
    let count = GUARD.stack(event.stack, &mut frames);
    let stack = frames.get(..count).unwrap_or(&[]);
    super::faults::explain_call(call, addr, given, refusal, stack);
    crate::report::end()
}

/// Where every allocation is guarded, faults are explained from the program's start on, whether or
/// not it has allocated.
pub(super) fn program_starts() {
    if guards_all() {
        is_started();
    }
}

/// Starts the pool before the first object is guarded.
fn is_started() -> bool {
    match STARTED.load(Ordering::Acquire) {
        YES => true,
        FAILED => false,
        _ => start(),
    }
}

#[cold]
fn start() -> bool {
    enter();
    let mine = STARTED.compare_exchange(NO, STARTING, Ordering::Acquire, Ordering::Acquire);
    match mine {
        Ok(_) => {
            GUARD.set_quarantine(
                SETTINGS.get(Key::GuardQuarantine),
                SETTINGS.get(Key::GuardQuarantineBytes),
            );
            GUARD.set_mappings(os::most_mappings());
            let [secret, ..] = os::random_words();
            let done = if GUARD.start(secret, None) {
                YES
            } else {
                FAILED
            };
            super::faults::begin();
            STARTED.store(done, Ordering::Release);
            done == YES
        }
        // This thread itself, or another one: the object is not guarded.
        Err(now) => now == YES,
    }
}
