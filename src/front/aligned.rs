//! Blocks at aligned addresses.
#![allow(unsafe_code)] // The thread's own cache.

use super::guarding::{self, guard};
use super::process::{DIRECT_MALLOCS, KEYS, SETTINGS, SHARED, enter};
use super::{Served, clear, perturb, serve, serve_mapped, trace};
use crate::cache::{Cache, Route, Thread, aligned_class};
use crate::chunk::State;
use crate::config::Key;
use crate::heap::Batch;
use crate::os::{Caller, Region};
use crate::size::{CACHED_REQUEST, Native, class_size};
use crate::sync::count;

/// A block of at least `size` bytes at a multiple of `align`, a power of two. Null if there is
/// no memory.
#[must_use]
pub fn memalign(align: usize, size: usize, caller: Caller) -> *mut u8 {
    if align > Native::ALIGN {
        let hit = cached_aligned(align, size);
        if !hit.is_null() {
            return hit;
        }
    }
    let p = memalign_untraced(align, size, caller);
    trace::allocated(caller, p.addr(), size);
    p
}

/// A block of at least `size` bytes at a multiple of `align`, a power of two above 16, from the
/// thread's cache; null if it has none, or one that should be guarded.
fn cached_aligned(align: usize, size: usize) -> *mut u8 {
    let cache = Thread::cache();
    if cache.is_null() || size > CACHED_REQUEST {
        return core::ptr::null_mut();
    }
    let Ok(class) = aligned_class(size, align) else {
        return core::ptr::null_mut();
    };
    enter();
    // SAFETY: the thread's own pointer; the size was bounded.
    let (payload, is_due) = unsafe { Cache::pop_aligned(cache, &SHARED, class, align) };
    if is_due {
        let size = Native::usable(class_size(class));
        // SAFETY: the block was popped just now and is nobody's.
        return unsafe { guarding::put_back(payload, size) };
    }
    KEYS.region.at(payload)
}

fn memalign_untraced(align: usize, size: usize, caller: Caller) -> *mut u8 {
    let p = guard(size, align, caller);
    perturb(p.addr(), size, false);
    if !p.is_null() {
        return p;
    }
    let served = if align > Native::ALIGN {
        serve_aligned(align, size)
    } else {
        serve(size, false)
    };
    perturb(served.payload, size, false);
    KEYS.region.at(served.payload)
}

/// As [`memalign`], all zero.
#[must_use]
pub fn memalign_zeroed(align: usize, size: usize, caller: Caller) -> *mut u8 {
    if align > Native::ALIGN {
        let hit = cached_aligned(align, size);
        if !hit.is_null() {
            // SAFETY: the block has that many bytes and nobody else knows it.
            unsafe { hit.write_bytes(0, size) };
            return hit;
        }
    }
    let p = memalign_zeroed_untraced(align, size, caller);
    trace::allocated(caller, p.addr(), size);
    p
}

fn memalign_zeroed_untraced(align: usize, size: usize, caller: Caller) -> *mut u8 {
    let p = guard(size, align, caller);
    if !p.is_null() {
        return p;
    }
    let served = if align > Native::ALIGN {
        serve_aligned(align, size)
    } else {
        serve(size, true)
    };
    let p = KEYS.region.at(served.payload);
    if !p.is_null() {
        // SAFETY: the block has `size` bytes.
        unsafe { clear(p, size, served.zero) };
    }
    p
}

fn serve_aligned(align: usize, size: usize) -> Served {
    let cache = enter();
    let Some(mut chunk_size) = Native::chunk_size(size) else {
        return Served::NONE;
    };
    if size
        .checked_add(align)
        .and_then(Native::chunk_size)
        .is_none()
    {
        return Served::NONE;
    }
    let mappable = SHARED.maps.may_map(&SETTINGS);
    if chunk_size >= SHARED.maps.threshold(&SETTINGS) && mappable {
        let served = serve_mapped(size, align, false);
        if served.payload != 0 {
            return served;
        }
    }
    // SAFETY: the thread's own cache.
    let Route { direct, arena, .. } = unsafe { Cache::route(cache) };
    if size <= CACHED_REQUEST {
        chunk_size = match aligned_class(size, align) {
            Err(chunk_size) => chunk_size,
            Ok(class) => {
                if !direct && size <= SETTINGS.get(Key::TcacheMax) {
                    // SAFETY: not direct, so it is this thread's alone.
                    let payload = unsafe { (*cache).refill_aligned(&SHARED, class, align) };
                    if payload != 0 {
                        return Served {
                            payload,
                            zero: (0, 0),
                        };
                    }
                }
                // A size that the cache can take when the block is freed.
                class_size(class)
            }
        };
    }
    count(&DIRECT_MALLOCS);
    let mut batch = Batch::wanting(1);
    if SHARED.fill_aligned(arena, align, chunk_size, &mut batch)
        && let Some(chunk) = batch.pop(&KEYS)
    {
        chunk.mark(chunk.low(), State::Used);
        return Served {
            payload: chunk.payload(),
            zero: (0, 0),
        };
    }
    if mappable {
        serve_mapped(size, align, false)
    } else {
        Served::NONE
    }
}
