//! Blocks that change their size: in place, or moved.
#![allow(unsafe_code)] // Pointers from users.

use super::guarding;
use super::process::{KEYS, SETTINGS, SHARED, enter};
use super::{KernelChunk, Named, UNKNOWN, cached_unless_due, chunk_in_use, free};
use super::{malloc_untraced, named};
use super::{take_chunk, take_mapping, trace};
use crate::cache::{Cache, Thread};
use crate::os::{Caller, Region};
use crate::report::Call;
use crate::size::{CACHED_REQUEST, Native, SMALL_REQUEST, class_of, class_size, large_size};

/// A chunk in place, or moved, that holds `size` bytes; null, and the block as it was, if there
/// is no memory. A guarded block moves always, and is then aligned to `align`, which others are
/// to 16. Aborts if `p` is not a block in use.
///
/// # Safety
/// `p` is not null. If it is a block in use, the caller owns it, and if the answer is not null,
/// uses only that.
#[must_use]
pub unsafe fn realloc(p: *mut u8, size: usize, align: usize, caller: Caller) -> *mut u8 {
    let traced = trace::is_on();
    // SAFETY: the same contract.
    let to = unsafe { resize_or_move(p, size, align, caller, traced) };
    // A block that moved was traced before its old place was given back.
    if traced && (to.is_null() || to.addr() == p.addr()) {
        trace::resized(caller, p.addr(), to.addr(), size);
    }
    to
}

/// As [`realloc`], if the block can stay as it is or the thread's cache has what it takes: null,
/// and the block as it was, if not, which says nothing about memory. Needs no caller: what is
/// guarded or traced is not for it.
///
/// # Safety
/// As for [`realloc`]; `size` is not 0.
#[inline]
#[must_use]
pub unsafe fn realloc_cached(p: *mut u8, size: usize) -> *mut u8 {
    let cache = Thread::cache();
    // SAFETY: the thread's own cache.
    if size > CACHED_REQUEST || cache.is_null() || unsafe { Cache::route(cache).direct } {
        return core::ptr::null_mut();
    }
    let Some((_, low)) = chunk_in_use(p.addr()) else {
        return core::ptr::null_mut();
    };
    let (old, wanted) = (low.size(), Native::chunk_size_unchecked(size));
    match stays(old, class_size(class_of(wanted))) {
        Stays::AsItIs => return p,
        Stays::Changed => return core::ptr::null_mut(),
        Stays::Not => {}
    }
    let to = cached_unless_due(size);
    if !to.is_null() {
        // SAFETY: both blocks have that many bytes; the old one is verified and the caller's.
        unsafe {
            to.copy_from_nonoverlapping(p, Native::usable(old).min(size));
            free(p, UNKNOWN, UNKNOWN);
        }
    }
    to
}

/// # Safety
/// As for [`realloc`].
unsafe fn resize_or_move(
    p: *mut u8,
    size: usize,
    align: usize,
    caller: Caller,
    traced: bool,
) -> *mut u8 {
    let addr = p.addr();
    let Some(wanted) = Native::chunk_size(size) else {
        return core::ptr::null_mut();
    };
    let (usable, may_stay) = match named(Call::Realloc, addr, caller) {
        Named::Guarded(old) => (old, false),
        Named::Chunk(chunk, low) => {
            if fits(chunk, low.size(), wanted) {
                return p;
            }
            (Native::usable(low.size()), true)
        }
        Named::Mapping(len) => {
            enter();
            // The kernel moves a mapping in one step, before which nothing could be written down.
            if wanted >= SHARED.maps.threshold(&SETTINGS).min(len / 2) && !traced {
                let moved = SHARED.maps.resize(SHARED.os(), &KEYS, addr, len, size);
                if let Some(to) = moved {
                    return KEYS.region.at(to);
                }
            }
            (crate::arena::Maps::usable(SHARED.os(), addr, len), true)
        }
    };
    let hit = cached_unless_due(size);
    let to = if hit.is_null() {
        malloc_untraced(size, align, caller)
    } else {
        hit
    };
    if to.is_null() {
        // A block that need not grow serves as it is.
        return if may_stay && usable >= size { p } else { to };
    }
    // SAFETY: both blocks have that many bytes; the old one is verified and the caller's.
    unsafe {
        to.copy_from_nonoverlapping(KEYS.region.at(addr), usable.min(size));
        if traced {
            trace::resized(caller, addr, to.addr(), size);
        }
        if may_stay && traced {
            match named(Call::Realloc, addr, caller) {
                Named::Chunk(chunk, low) => take_chunk(chunk, low),
                _ => take_mapping(addr, caller),
            }
        } else if may_stay {
            free(p, UNKNOWN, UNKNOWN);
        } else {
            guarding::released_by_realloc(addr, caller);
        }
    }
    to
}

/// What becomes of a chunk in place when another size is asked for.
enum Stays {
    /// It serves as it is.
    AsItIs,
    /// It is worth trying to change it.
    Changed,
    /// It should move.
    Not,
}

/// What becomes of a chunk of `old` bytes when one of `target` bytes would be allocated.
#[inline]
fn stays(old: usize, target: usize) -> Stays {
    let is_small = old <= SMALL_REQUEST;
    if target > old {
        return if is_small { Stays::Not } else { Stays::Changed };
    }
    // Small chunks move to a smaller class when half is unused; of large ones the tail is cut
    // off when that is an eighth at least.
    let spare = old - target;
    if is_small && spare > old / 2 {
        Stays::Not
    } else if !is_small && spare >= old / 8 && spare >= 512 {
        Stays::Changed
    } else {
        Stays::AsItIs
    }
}

/// Whether a chunk of `old` bytes can stay where it is to serve `wanted`; changes it if it pays.
#[inline]
fn fits(chunk: KernelChunk, old: usize, wanted: usize) -> bool {
    match stays(old, large_size(wanted)) {
        Stays::AsItIs => true,
        Stays::Not => false,
        Stays::Changed => {
            enter();
            SHARED.resize(chunk, large_size(wanted))
        }
    }
}
