//! Layer 8: who serves a request. The only file that knows cache, arenas and mappings together.
//!
//! The hit path stands first and can be read in one breath; everything else is cold. The
//! process's statics, start and threads are in `process.rs`; what is wrong with a bad pointer
//! is found out in `diagnosis.rs`; `counters.rs` adds everything up.
#![allow(unsafe_code)] // Pointers from users.

mod account;
mod aligned;
mod audit;
mod counters;
mod diagnosis;
mod faults;
mod guarding;
mod leaks;
mod modules;
mod process;
mod resize;
mod trace;

pub use aligned::{memalign, memalign_zeroed};
pub use audit::{audit, print_audit};
pub use counters::{arena_snapshot, exit_guarded, exit_report, snapshot};
pub use faults::wish;
pub use leaks::{Leaks, leaks, print_leaks};
pub use process::{Source, init, program_starts};
pub use resize::{realloc, realloc_cached};
pub use trace::{start as start_trace, stop as stop_trace};

use crate::arena::Owned;
use crate::cache::{Cache, Route, Thread};
use crate::chunk::{Chunk, Low, State};
use crate::config::{Key, Settings};
use crate::heap::Batch;
use crate::os::{Caller, Exposed, Region, with_caller};
use crate::report::Call;
use crate::size::{
    CACHED_REQUEST, CLASSES, HEADER, Native, SMALL_REQUEST, class_of, class_size, large_size,
    small_class_of,
};
use crate::sync::count;
use diagnosis::misuse;
use guarding::{guard, guarded};
pub use guarding::{guard_totals, sampled, sweep};
use process::{DIRECT_FREES, DIRECT_MALLOCS, EXTENTS, KEYS, SETTINGS, SHARED, enter};

type KernelChunk = Chunk<'static, Exposed>;

/// The largest chunk that the cache of a thread takes, in bytes.
const CACHED_CHUNK: usize = class_size(CLASSES - 1);

/// What [`free`] is told of a block of unknown size or alignment.
pub const UNKNOWN: usize = usize::MAX;

/// A block of at least `size` bytes from the thread's cache: what `hit` makes of it, or `miss` if
/// the cache has none (or there is no cache yet), which says nothing about memory: [`malloc`] does.
/// Where a sample is due, it is what `due` makes of the payload of such a block. Every one of them
/// comes last, so that those that look for their caller are jumped to.
#[inline(always)]
pub fn cached_with<R>(
    size: usize,
    hit: impl FnOnce(*mut u8) -> R,
    due: impl FnOnce(usize) -> R,
    miss: impl FnOnce() -> R,
) -> R {
    let cache = Thread::cache();
    if cache.is_null() {
        return miss();
    }
    let class = if size <= SMALL_REQUEST {
        small_class_of(size)
    } else if size <= CACHED_REQUEST {
        class_of(Native::chunk_size_unchecked(size))
    } else {
        return miss();
    };
    // SAFETY: the thread's own pointer; the size was bounded.
    let (payload, is_due) = unsafe { Cache::pop(cache, &KEYS, class) };
    if is_due {
        return due(payload);
    }
    if payload == 0 {
        return miss();
    }
    hit(KEYS.region.at(payload))
}

/// As [`cached_with`], but null if the cache has no block, or one that should be guarded: those
/// that know their caller, as [`malloc`] does, see to it.
#[inline(always)]
#[must_use]
pub fn cached_unless_due(size: usize) -> *mut u8 {
    cached_with(
        size,
        |block| block,
        // SAFETY: the block was popped just now and is nobody's.
        |payload| unsafe { guarding::put_back(payload, size) },
        core::ptr::null_mut,
    )
}

/// Frees a block; null does nothing. Keeps errno. Aborts with one line if `p` is not a block in
/// use. What the caller knows of the block's size and alignment (or [`UNKNOWN`]) is compared if
/// the block is guarded.
///
/// # Safety
/// If `p` is a block in use, the caller owns it and does not use it again.
#[inline(always)]
pub unsafe fn free(p: *mut u8, size: usize, align: usize) {
    let addr = p.addr();
    if EXTENTS.holds(addr) {
        // SAFETY: the address is aligned and lies in heap memory.
        let chunk = unsafe { KEYS.chunk(addr - HEADER) };
        let low = chunk.low();
        let keyed = KEYS.secret.keyed(low);
        let (used, cached) = chunk.user_tags(keyed);
        if chunk.tag() == used {
            let cache = Thread::cache();
            // SAFETY: the thread's own pointer, not null.
            if !cache.is_null() && unsafe { Cache::push(cache, chunk, low, keyed, cached) } {
                return;
            }
            // SAFETY: a chunk that was verified as used.
            return unsafe { free_overflowing(addr) };
        }
    }
    // SAFETY: nothing is demanded.
    unsafe { free_odd(addr, size, align) };
}

/// Frees a chunk that was verified as used and that the cache did not take at once.
///
/// # Safety
/// The payload of such a chunk.
#[cold]
#[inline(never)]
unsafe fn free_overflowing(payload: usize) {
    let cache = Thread::cache();
    if !cache.is_null() {
        // SAFETY: the caller's promise.
        let chunk = unsafe { KEYS.chunk(payload - HEADER) };
        enter();
        // SAFETY: the thread's own cache. One that is not direct sees neither traces nor patterns.
        if unsafe { Cache::overflow(cache, &SHARED, chunk, chunk.low()) } {
            return;
        }
    }
    // SAFETY: the same contract.
    unsafe { free_verified(payload) }
}

/// Fills the thread's cache for a request that it could not serve from what other places hold
/// ready: `false` if there is no such place, or no cache.
#[inline]
fn reload(size: usize) -> bool {
    let cache = Thread::cache();
    if cache.is_null() || size > CACHED_REQUEST {
        return false;
    }
    enter();
    // SAFETY: the thread's own cache, or one that several share.
    unsafe { Cache::reload(cache, &SHARED, class_of(Native::chunk_size_unchecked(size))) }
}

/// As [`cached_with`], for a request that it did not serve: what other places hold ready is
/// looked at too.
#[inline(always)]
pub fn reloaded_with<R>(
    size: usize,
    hit: impl FnOnce(*mut u8) -> R,
    due: impl FnOnce(usize) -> R,
    miss: impl FnOnce() -> R,
) -> R {
    if reload(size) {
        cached_with(size, hit, due, miss)
    } else {
        miss()
    }
}

/// Whether a block is guarded.
#[must_use]
pub fn is_guarded(p: *mut u8) -> bool {
    guarded(p.addr())
}

/// As [`free`], for a caller who is known.
///
/// # Safety
/// As for [`free`].
pub unsafe fn free_by(p: *mut u8, caller: Caller) {
    let (addr, Caller { pc, fp }) = (p.addr(), caller);
    // SAFETY: the same contract; a chunk that was verified as used.
    unsafe {
        if guarded(addr) {
            free_odd_from(addr, UNKNOWN, UNKNOWN, pc, fp);
        } else if !trace::is_on() {
            free(p, UNKNOWN, UNKNOWN);
        } else if let Named::Chunk(..) = named(Call::Free, addr, caller) {
            free_verified_from(addr, pc, fp);
        } else {
            free_odd_from(addr, UNKNOWN, UNKNOWN, pc, fp);
        }
    }
}

with_caller! {
    /// Frees a chunk that was verified as used and that the cache did not take.
    fn free_verified(payload: usize) => free_verified_from;
    /// Frees what is not in the heaps.
    fn free_odd(addr: usize, size: usize, align: usize) => free_odd_from;
}

/// Where a block was found, and between which addresses its memory is zero.
struct Served {
    payload: usize,
    zero: (usize, usize),
}

impl Served {
    const NONE: Served = Served {
        payload: 0,
        zero: (0, 0),
    };
}

/// A block of at least `size` bytes that the cache does not have, aligned to 16; a guarded one
/// to `align`, which may be less. Null if there is no memory or `size` is beyond `PTRDIFF_MAX`.
/// Does not touch errno.
#[cold]
#[inline(never)]
#[must_use]
pub fn malloc(size: usize, align: usize, caller: Caller) -> *mut u8 {
    let p = malloc_untraced(size, align, caller);
    trace::allocated(caller, p.addr(), size);
    p
}

fn malloc_untraced(size: usize, align: usize, caller: Caller) -> *mut u8 {
    let p = guard(size, align, caller);
    perturb(p.addr(), size, false);
    if !p.is_null() {
        return p;
    }
    let served = serve(size, false);
    perturb(served.payload, size, false);
    KEYS.region.at(served.payload)
}

/// As [`malloc`], all zero.
#[cold]
#[inline(never)]
#[must_use]
pub fn calloc(size: usize, align: usize, caller: Caller) -> *mut u8 {
    let p = calloc_untraced(size, align, caller);
    trace::allocated(caller, p.addr(), size);
    p
}

fn calloc_untraced(size: usize, align: usize, caller: Caller) -> *mut u8 {
    let p = guard(size, align, caller);
    if !p.is_null() {
        return p;
    }
    let served = serve(size, true);
    let p = KEYS.region.at(served.payload);
    if !p.is_null() {
        // SAFETY: the block has `size` bytes.
        unsafe { clear(p, size, served.zero) };
    }
    p
}

/// Clears the block but for what is zero already.
///
/// # Safety
/// The `size` bytes at `p` are the caller's.
unsafe fn clear(p: *mut u8, size: usize, zero: (usize, usize)) {
    let from = zero.0.saturating_sub(p.addr()).min(size);
    let to = zero.1.saturating_sub(p.addr()).clamp(from, size);
    // SAFETY: both ranges lie in the block.
    unsafe {
        p.write_bytes(0, from);
        p.add(to).write_bytes(0, size - to);
    }
}

/// The route of a request that the cache could not serve: mapping, cache refill, arena, and at
/// last a mapping whatever the size.
fn serve(size: usize, zeroed: bool) -> Served {
    let cache = enter();
    let Some(chunk_size) = Native::chunk_size(size) else {
        return Served::NONE;
    };
    // The threshold slides upwards only: of small requests the mappings are not even asked.
    if chunk_size >= SETTINGS.get(Key::MmapThreshold)
        && chunk_size >= SHARED.maps.threshold(&SETTINGS)
        && SHARED.maps.may_map(&SETTINGS)
    {
        let served = serve_mapped(size, Native::ALIGN, zeroed);
        if served.payload != 0 {
            return served;
        }
    }
    // SAFETY: the thread's own cache.
    let route = unsafe { Cache::route(cache) };
    let Route { direct, arena, .. } = route;
    if !direct && size <= SETTINGS.get(Key::TcacheMax) {
        // SAFETY: not direct, so it is this thread's alone.
        let payload = unsafe { (*cache).refill(&SHARED, class_of(chunk_size)) };
        if payload != 0 {
            return Served {
                payload,
                zero: (0, 0),
            };
        }
    }
    count(&DIRECT_MALLOCS);
    let mut batch = Batch::wanting(1);
    let mut chunk_size = chunk_size;
    if !direct && size > CACHED_REQUEST {
        chunk_size = large_size(chunk_size);
        if let Some(chunk) = SHARED.take_large(route.aisle, chunk_size) {
            chunk.mark(chunk.low(), State::Used);
            return Served {
                payload: chunk.payload(),
                zero: (0, 0),
            };
        }
    }
    let rest = || {
        if !direct {
            // SAFETY: not direct, so it is this thread's alone.
            unsafe { (*cache).rest(&SHARED) };
        }
    };
    if SHARED.fill(arena, chunk_size, &mut batch, rest) {
        let zero = batch.zero();
        if let Some(chunk) = batch.pop(&KEYS) {
            chunk.mark(chunk.low(), State::Used);
            return Served {
                payload: chunk.payload(),
                zero,
            };
        }
    }
    if SHARED.maps.may_map(&SETTINGS) {
        serve_mapped(size, Native::ALIGN, zeroed)
    } else {
        Served::NONE
    }
}

fn serve_mapped(size: usize, align: usize, zeroed: bool) -> Served {
    match SHARED
        .maps
        .allocate(SHARED.os(), &KEYS, size, align, zeroed)
    {
        Some(mapped) => Served {
            payload: mapped.payload,
            zero: mapped.zero,
        },
        None => Served::NONE,
    }
}

/// # Safety
/// The payload of a chunk in use that was verified.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_verified_from(payload: usize, pc: usize, fp: usize) {
    // SAFETY: the caller's promise.
    let chunk = unsafe { KEYS.chunk(payload - HEADER) };
    let low = chunk.low();
    // The map of extents knows one range per granule: a mapping between two segments is in it.
    if low.is_mapped() {
        // SAFETY: nothing is demanded.
        return unsafe { free_odd_from(payload, UNKNOWN, UNKNOWN, pc, fp) };
    }
    trace::freed(Caller { pc, fp }, payload);
    take_chunk(chunk, low);
}

/// Takes back a chunk that was verified as used and that the cache did not take.
fn take_chunk(chunk: KernelChunk, low: Low) {
    let cache = enter();
    let payload = chunk.payload();
    perturb(payload, Native::usable(low.size()), true);
    // SAFETY: the thread's own cache, or one that several share.
    unsafe {
        if Cache::overflow(cache, &SHARED, chunk, low) {
            return;
        }
    }
    count(&DIRECT_FREES);
    // SAFETY: the thread's own cache, or one that several share.
    let Route { direct, aisle, .. } = unsafe { Cache::route(cache) };
    if direct || low.size() <= CACHED_CHUNK || !SHARED.put_large(aisle, chunk) {
        SHARED.free(chunk);
    }
}

/// Null, a guarded object, a mapping, or a misuse.
///
/// # Safety
/// None; it is `unsafe` as all functions with a caller are.
#[cold]
#[inline(never)]
unsafe extern "C" fn free_odd_from(addr: usize, size: usize, align: usize, pc: usize, fp: usize) {
    if addr == 0 {
        return;
    }
    enter();
    let caller = Caller { pc, fp };
    trace::freed(caller, addr);
    if guarded(addr) {
        return guarding::release(addr, size, align, caller);
    }
    take_mapping(addr, caller);
}

/// Takes back a mapping; anything else is a misuse.
fn take_mapping(addr: usize, caller: Caller) {
    if !SHARED.maps.free(SHARED.os(), &KEYS, &SETTINGS, addr) {
        misuse(Call::Free, addr, caller);
    }
}

/// The size of the chunk that a pointer from a user names, or what else it is.
enum Named {
    Chunk(KernelChunk, Low),
    Mapping(usize),
    /// So many bytes were asked for.
    Guarded(usize),
}

/// The chunk in use of a heap whose payload this is, and the low half of its head.
#[inline(always)]
fn chunk_in_use(addr: usize) -> Option<(KernelChunk, Low)> {
    if !EXTENTS.holds(addr) {
        return None;
    }
    // SAFETY: the address is aligned and lies in heap memory.
    let chunk = unsafe { KEYS.chunk(addr - HEADER) };
    let low = chunk.low();
    // A mapping may lie between two segments of a granule.
    (!low.is_mapped() && chunk.is(State::Used)).then_some((chunk, low))
}

/// Looks a user's pointer up; aborts if it names no block in use.
#[inline]
fn named(call: Call, addr: usize, caller: Caller) -> Named {
    if let Some((chunk, low)) = chunk_in_use(addr) {
        return Named::Chunk(chunk, low);
    }
    if guarded(addr) {
        return Named::Guarded(guarding::size_of(call, addr, caller));
    }
    match SHARED.maps.find(SHARED.os(), addr) {
        Owned::Live(len) => {
            SHARED.maps.verify(SHARED.os(), &KEYS, addr, len);
            Named::Mapping(len)
        }
        _ => misuse(call, addr, caller),
    }
}

/// As [`usable_size`], if the block is a chunk of a heap; `None` says nothing. Needs no caller.
#[inline(always)]
#[must_use]
pub fn usable_size_in_heap(p: *mut u8) -> Option<usize> {
    chunk_in_use(p.addr()).map(|(_, low)| Native::usable(low.size()))
}

/// How many bytes of a block may be used; 0 for null. Stable for the block's life. Aborts if
/// `p` is not a block in use.
///
/// # Safety
/// If `p` is a block in use, the caller owns it.
#[must_use]
pub unsafe fn usable_size(p: *mut u8, caller: Caller) -> usize {
    // SAFETY: the caller's contract.
    unsafe { usable_size_for(Call::UsableSize, p, caller) }
}

/// As [`usable_size`], for `call`, which is named if `p` is not a block in use.
///
/// # Safety
/// As there.
#[must_use]
pub unsafe fn usable_size_for(call: Call, p: *mut u8, caller: Caller) -> usize {
    if p.is_null() {
        return 0;
    }
    match named(call, p.addr(), caller) {
        Named::Guarded(size) => size,
        Named::Chunk(_, low) => Native::usable(low.size()),
        Named::Mapping(len) => crate::arena::Maps::usable(SHARED.os(), p.addr(), len),
    }
}

/// M_PERTURB: fills a block when it is handed out and when it comes back. Only calls that no
/// cache serves get here, and with M_PERTURB there are no caches.
#[inline]
fn perturb(payload: usize, len: usize, freed: bool) {
    let byte = SETTINGS.get(Key::Perturb) as u8;
    if byte != 0 && payload != 0 {
        // SAFETY: the block has that many bytes and is not in use yet, or no more.
        unsafe {
            KEYS.region
                .at(payload)
                .write_bytes(if freed { byte } else { !byte }, len)
        };
    }
}

/// Gives back to the system all that is free, keeping `pad` bytes at each top. `true` if
/// anything was given back.
pub fn trim(pad: usize) -> bool {
    let cache = enter();
    // SAFETY: the thread's own cache; if it is not direct, it is this thread's alone.
    unsafe {
        if !Cache::route(cache).direct {
            (*cache).flush(&SHARED);
        }
    }
    SHARED.trim(pad)
}

/// The tunables. A new `M_PERTURB` or cache switch counts for threads that start later.
#[must_use]
pub fn settings() -> &'static Settings {
    &SETTINGS
}

/// Checks every arena; for tests.
///
/// # Errors
/// The number of the first arena that is damaged, and how.
pub fn check() -> Result<(), (usize, crate::heap::Damage)> {
    enter();
    for number in 0..SHARED.arena_numbers() {
        if let Some(heap) = SHARED.lock(number) {
            heap.check().map_err(|damage| (number, damage))?;
        }
    }
    Ok(())
}
