//! The call stack of a fault.
//!
//! The chain of frame pointers begins with the function that set the register last. That need not
//! be the one that faults: `memcpy` and its like have no frame, and then their caller is missing,
//! which is the very place that the error is in. So where the stack's top (or the link register)
//! is the return address of a call that fits, it is taken for that caller. If there is no chain at
//! all, the words of the stack that look so are better than nothing.

use super::stacks::FRAMES;
use crate::os::signals::Trap;
use crate::os::stack::{Bounds, walk};
use crate::os::{Modules, entry_point, peek};

/// How far into a function a fault may be, in bytes, so that a call of its beginning is believed.
const FUNCTION: usize = 16 << 10;
/// Words of the stack that are looked at where there is no chain.
const WORDS: usize = 512;

/// The frames of a fault, the instruction itself first. How many there were.
pub fn of_trap(trap: &Trap, modules: &Modules, frames: &mut [usize; FRAMES]) -> usize {
    let bounds = Bounds::probed(trap.sp, trap.fp);
    // The instruction may well be at 0.
    let mut count = walk(trap.pc.max(1), trap.fp, bounds, frames);
    frames[0] = trap.pc;
    if trap.sp == 0 {
        return count;
    }
    let caller = if trap.link != 0 {
        trap.link
    } else {
        word(trap.sp)
    };
    if frames.get(1).filter(|_| count > 1) != Some(&caller) && is_caller(caller, trap.pc, modules) {
        insert_second(frames, caller);
        count = (count + 1).min(FRAMES);
    }
    if count > 1 {
        return count;
    }
    let own = own_module(modules);
    let mut at = trap.sp;
    for _ in 0..WORDS {
        let back = word(at);
        at = at.wrapping_add(size_of::<usize>());
        if call_to(back, modules).is_none()
            || own.is_some() && module_of(back, modules) == own
            || frames.iter().take(count).any(|frame| *frame == back)
        {
            continue;
        }
        let Some(slot) = frames.get_mut(count) else {
            break;
        };
        *slot = back;
        count += 1;
    }
    count
}

fn insert_second(frames: &mut [usize; FRAMES], caller: usize) {
    let mut moved = caller;
    for frame in frames.iter_mut().skip(1) {
        core::mem::swap(frame, &mut moved);
    }
}

/// The word at an address; 0 if there is none.
fn word(addr: usize) -> usize {
    let mut bytes = [0; size_of::<usize>()];
    if peek(addr, &mut bytes) {
        usize::from_ne_bytes(bytes)
    } else {
        0
    }
}

/// What tells one module from another.
fn module_of(addr: usize, modules: &Modules) -> Option<usize> {
    modules
        .locate(addr)
        .map(|found| found.module.as_ptr().addr())
}

/// The library that this is, unless it is part of the program: what its calls have left on the
/// stack is not how the program came to where it is.
fn own_module(modules: &Modules) -> Option<usize> {
    let own = module_of(own_module as *const () as usize, modules);
    let program = module_of(entry_point(), modules);
    own.filter(|_| own != program)
}

/// Whether the function that `pc` is in may have been called from before `back`.
fn is_caller(back: usize, pc: usize, modules: &Modules) -> bool {
    let Some(target) = call_to(back, modules) else {
        return false;
    };
    // Into another module, or into none, a call goes by a table.
    module_of(pc, modules) != module_of(back, modules)
        || target.is_some_and(|to| pc.wrapping_sub(to) < FUNCTION)
}

/// Where the call leads that ends at an address: `Some(None)` if that is in a register or in
/// memory, `None` if there is no call.
fn call_to(back: usize, modules: &Modules) -> Option<Option<usize>> {
    if back < 4096 {
        return None;
    }
    modules.locate(back)?;
    #[cfg(target_arch = "x86_64")]
    {
        let mut code = [0u8; 7];
        if !peek(back - 7, &mut code) {
            return None;
        }
        match code {
            [_, _, 0xe8, a, b, c, d] => {
                let distance = i32::from_le_bytes([a, b, c, d]);
                Some(Some(back.wrapping_add_signed(distance as isize)))
            }
            // By a register or a pointer: with a displacement of four bytes, of one, of none;
            // with an index or without.
            [_, 0xff, 0x15 | 0x90..=0x97, ..]
            | [0xff, 0x94, ..]
            | [_, _, _, 0xff, 0x54, ..]
            | [_, _, _, _, 0xff, 0x50..=0x57, _]
            | [_, _, _, _, 0xff, 0x14, _]
            | [_, _, _, _, _, 0xff, 0x10..=0x17 | 0xd0..=0xd7] => Some(None),
            _ => None,
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        let mut code = [0u8; 4];
        if !back.is_multiple_of(4) || !peek(back - 4, &mut code) {
            return None;
        }
        let code = u32::from_le_bytes(code);
        // bl: 26 bits of words; blr and its authenticating forms.
        if code >> 26 == 0b10_0101 {
            let distance = ((code << 6) as i32 >> 4) as isize;
            return Some(Some((back - 4).wrapping_add_signed(distance)));
        }
        (code & 0xfedf_f000 == 0xd61f_0000 && code & 0x0020_0000 != 0).then_some(None)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    None
}
