//! What is wrong with a pointer that is no block in use.
#![allow(unsafe_code)] // Reads the head before the pointer.

use super::process::{EXTENTS, KEYS, SHARED, enter};
use crate::arena::Owned;
use crate::chunk::State;
use crate::heap::Found;
use crate::os::Caller;
use crate::report::{Call, Misuse, abort};
use crate::size::{HEADER, Native};

/// Names what is wrong with a pointer that is no block in use.
#[cold]
#[inline(never)]
pub(super) fn misuse(call: Call, addr: usize, caller: Caller) -> ! {
    enter();
    let released = |size: usize| {
        if call == Call::Free {
            Misuse::DoubleFree {
                address: addr,
                size,
            }
        } else {
            Misuse::UseAfterFree {
                call,
                address: addr,
                size,
            }
        }
    };
    if EXTENTS.holds(addr) {
        // SAFETY: the address is aligned and lies in heap memory.
        let chunk = unsafe { KEYS.chunk(addr - HEADER) };
        let freed = [
            State::Cached,
            State::Fast,
            State::Unsorted,
            State::Binned,
            State::Retired,
        ];
        if freed.into_iter().any(|state| chunk.is(state)) {
            abort(released(Native::usable(chunk.size())));
        }
        if chunk.is(State::Top) {
            abort(released(0));
        }
    }
    let near = crate::size::align_down(addr, Native::ALIGN);
    if EXTENTS.holds(near)
        && let Some(heap) = SHARED.lock(EXTENTS.owner(near))
    {
        let found = heap.locate(addr);
        drop(heap);
        match found {
            Found::Inside(offset, size) => {
                let size = Native::usable(size);
                abort(Misuse::InsideChunk {
                    call,
                    address: addr,
                    offset,
                    size,
                });
            }
            Found::Chunk(..) => abort(Misuse::CorruptHead { address: addr }),
            Found::Damage(address) => abort(Misuse::CorruptHead { address }),
            Found::Nothing => {}
        }
    }
    let os = SHARED.os();
    if let Owned::Freed(len) = SHARED.maps.find(os, addr) {
        abort(released(crate::arena::Maps::usable(os, addr, len)));
    }
    if let Some((payload, len)) = SHARED.maps.containing(os, addr) {
        let size = crate::arena::Maps::usable(os, payload, len);
        let offset = addr.wrapping_sub(payload);
        abort(Misuse::InsideChunk {
            call,
            address: addr,
            offset,
            size,
        });
    }
    if super::guarding::is_on() {
        super::guarding::foreign(call, addr, caller);
    }
    abort(Misuse::Foreign {
        call,
        address: addr,
    })
}
