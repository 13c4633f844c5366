//! What operator new does beyond malloc: the new_handler, `std::bad_alloc`, the nothrow forms.
//!
//! C++ has no NULL for "out of memory": operator new calls the current new_handler and tries
//! again for as long as there is one, then throws `std::bad_alloc`. The handler may throw too.
//! An exception must not pass through a Rust frame (with `panic = "abort"` that ends the
//! process), so every frame that one may pass through is written in assembly here, with unwind
//! tables of its own; the Rust functions below are called from those frames and return to them.
//!
//! So this is for the architectures whose assembly is below. On others the operators of the C++
//! runtime itself serve, which call our malloc, aligned_alloc and free.
//!
//! The C++ runtime is not a dependency. Its functions are weak symbols, which are null in a
//! process that has none; a runtime that came later, with a plugin, is looked for by name.
//! The nothrow forms catch what a handler throws with the runtime's own personality routine,
//! so in that last case alone a throwing handler escapes from them.
// Labels with names: naked functions are emitted once and never inlined, so none is defined twice.
#![allow(named_asm_labels)]

use core::ffi::{CStr, c_void};
use core::{mem, ptr};

use super::aligned;
use crate::front::{self, UNKNOWN};
use crate::os::Caller;
use crate::report::Line;
use crate::size::ALIGN;

/// Operator new as far as the cache serves it: `size` bytes, or null without any further step.
#[inline]
#[must_use]
pub extern "C" fn operator_new(size: usize) -> *mut c_void {
    front::cached_unless_due(size).cast()
}

/// One attempt of the loops below; `align` 0 is the alignment that every block has. Unlike
/// malloc it leaves errno alone.
extern "C" fn attempt(size: usize, align: usize, pc: usize, fp: usize) -> *mut c_void {
    let caller = Caller { pc, fp };
    if align == 0 {
        return aligned(ALIGN, size, caller).cast();
    }
    if !align.is_power_of_two() {
        return ptr::null_mut();
    }
    aligned(align, size, caller).cast()
}

/// Operator delete with an alignment.
///
/// # Safety
/// As for [`free`](super::free).
pub unsafe extern "C" fn delete_aligned(block: *mut c_void, align: usize) {
    // SAFETY: the same contract.
    unsafe { front::free(block.cast(), UNKNOWN, align) }
}

/// Operator delete with a size.
///
/// # Safety
/// As for [`free`](super::free).
pub unsafe extern "C" fn delete_sized(block: *mut c_void, size: usize) {
    // SAFETY: the same contract.
    unsafe { front::free(block.cast(), size, UNKNOWN) }
}

/// Operator delete with size and alignment.
///
/// # Safety
/// As for [`free`](super::free).
pub unsafe extern "C" fn delete_sized_aligned(block: *mut c_void, size: usize, align: usize) {
    // SAFETY: the same contract.
    unsafe { front::free(block.cast(), size, align) }
}

/// `std::new_handler`.
type Handler = Option<unsafe extern "C" fn()>;

/// The current new_handler.
extern "C" fn handler() -> Handler {
    let function = runtime(weak_get_new_handler(), c"_ZSt15get_new_handlerv")?;
    // SAFETY: the C++ runtime declares this symbol as `new_handler std::get_new_handler()
    // noexcept`; a null handler is None.
    unsafe { mem::transmute::<ptr::NonNull<c_void>, unsafe extern "C" fn() -> Handler>(function)() }
}

/// The function that throws `std::bad_alloc`. Without a C++ runtime nobody could catch that:
/// then the process ends here.
extern "C" fn thrower() -> ptr::NonNull<c_void> {
    if let Some(function) = runtime(weak_throw_bad_alloc(), c"_ZSt17__throw_bad_allocv") {
        return function;
    }
    Line::new()
        .text("fencepost: operator new: out of memory, and no C++ runtime to throw std::bad_alloc")
        .write_to(2);
    // SAFETY: abort(3) takes nothing and does not return.
    unsafe { libc::abort() }
}

/// A function of the C++ runtime: `known` unless that is null, otherwise from a runtime that
/// was loaded after us and that weak symbols therefore miss.
#[cold]
fn runtime(known: usize, name: &CStr) -> Option<ptr::NonNull<c_void>> {
    if let Some(function) = ptr::NonNull::new(ptr::with_exposed_provenance_mut(known)) {
        return Some(function);
    }
    for library in [c"libstdc++.so.6", c"libc++abi.so.1", c"libc++.so.1"] {
        // SAFETY: both names are C strings; RTLD_NOLOAD loads nothing, so nothing of the
        // library runs, and what the program has loaded stays loaded after dlclose.
        let found = unsafe {
            let handle = libc::dlopen(library.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            if handle.is_null() {
                continue;
            }
            let found = libc::dlsym(handle, name.as_ptr());
            libc::dlclose(handle);
            found
        };
        if let Some(function) = ptr::NonNull::new(found) {
            return Some(function);
        }
    }
    None
}

#[cfg(target_arch = "x86_64")]
macro_rules! weak_address {
    ($symbol:literal) => {{
        let address: usize;
        // SAFETY: reads a word of the global offset table.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $symbol),
                concat!("mov {}, qword ptr [rip + ", $symbol, "@GOTPCREL]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        address
    }};
}

#[cfg(target_arch = "aarch64")]
macro_rules! weak_address {
    ($symbol:literal) => {{
        let address: usize;
        // SAFETY: reads a word of the global offset table.
        unsafe {
            core::arch::asm!(
                concat!(".weak ", $symbol),
                concat!("adrp {0}, :got:", $symbol),
                concat!("ldr {0}, [{0}, :got_lo12:", $symbol, "]"),
                out(reg) address,
                options(pure, readonly, nostack, preserves_flags)
            );
        }
        address
    }};
}

fn weak_get_new_handler() -> usize {
    weak_address!("_ZSt15get_new_handlerv")
}

fn weak_throw_bad_alloc() -> usize {
    weak_address!("_ZSt17__throw_bad_allocv")
}

#[cfg(target_arch = "aarch64")]
pub use aarch64::{new_or_null, new_or_throw, null_if_thrown};
#[cfg(target_arch = "x86_64")]
pub use x86_64::{new_or_null, new_or_throw, null_if_thrown};

/// The table that tells the C++ personality routine that everything thrown between the labels
/// 3 and 4 is caught at 5, and the indirect reference to that routine.
macro_rules! catch_everything {
    () => {
        concat!(
            // The routine's address has to be found from read-only unwind tables, so it gets
            // a word that the dynamic linker may write to.
            ".weak __gxx_personality_v0\n",
            ".pushsection .data.rel.ro, \"aw\", @progbits\n",
            ".p2align 3\n",
            ".Lfencepost_personality: .8byte __gxx_personality_v0\n",
            ".popsection\n",
            ".pushsection .gcc_except_table, \"a\", @progbits\n",
            ".p2align 2\n",
            ".Lfencepost_lsda:\n",
            ".byte 0xff\n", // Landing pads are relative to the function.
            ".byte 0x03\n", // Types are four bytes each...
            ".uleb128 .Lfencepost_types - .Lfencepost_calls_head\n", // ...and end there.
            ".Lfencepost_calls_head: .byte 0x01\n", // Call sites are ULEB128.
            ".uleb128 .Lfencepost_calls_end - .Lfencepost_calls\n",
            ".Lfencepost_calls:\n",
            ".uleb128 .Lfencepost_call - .Lfencepost_begin\n",
            ".uleb128 .Lfencepost_return - .Lfencepost_call\n",
            ".uleb128 .Lfencepost_caught - .Lfencepost_begin\n",
            ".uleb128 1\n",                        // The first action:
            ".Lfencepost_calls_end: .byte 1, 0\n", // catch the first type, no other action.
            ".p2align 2\n",
            ".long 0\n", // The first type: everything.
            ".Lfencepost_types:\n",
            ".popsection\n",
        )
    };
}

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use core::arch::naked_asm;
    use core::ffi::c_void;

    use super::{attempt, handler, thrower};

    /// Tries, calls the handler and tries again. At label 3 there is no handler (any more), the
    /// frame is gone and the return address that of the caller; `$end` follows. `$caller` is how
    /// many bytes above the frame's end the address lies that the user's call returns to.
    macro_rules! attempts {
        ($caller:literal, $end:literal) => {
            concat!(
                ".cfi_startproc\n",
                "push rbx\n",
                ".cfi_def_cfa_offset 16\n",
                ".cfi_offset rbx, -16\n",
                "push r12\n",
                ".cfi_def_cfa_offset 24\n",
                ".cfi_offset r12, -24\n",
                "push rax\n", // The third word aligns the stack.
                ".cfi_def_cfa_offset 32\n",
                "mov rbx, rdi\n",
                "mov r12, rsi\n",
                "2:\n",
                "mov rdi, rbx\n",
                "mov rsi, r12\n",
                concat!("mov rdx, qword ptr [rsp + ", $caller, "]\n"), // Who called,
                "mov rcx, rbp\n",                                      // and his frame.
                "call {attempt}\n",
                "test rax, rax\n",
                "jne 4f\n",
                "call {handler}\n",
                "test rax, rax\n",
                "je 3f\n",
                "call rax\n",
                "jmp 2b\n",
                "3:\n",
                $end,
                "4:\n",
                "add rsp, 8\n",
                ".cfi_def_cfa_offset 24\n",
                "pop r12\n",
                ".cfi_def_cfa_offset 16\n",
                "pop rbx\n",
                ".cfi_def_cfa_offset 8\n",
                "ret\n",
                ".cfi_endproc\n",
            )
        };
    }

    /// `operator new(size, align)`, `align` 0 being the default: a block, or the end of the
    /// new_handlers and `std::bad_alloc`.
    ///
    /// # Safety
    /// The caller can be unwound by the C++ runtime: it is C++, or assembly with unwind tables.
    #[unsafe(naked)]
    pub unsafe extern "C-unwind" fn new_or_throw(size: usize, align: usize) -> *mut c_void {
        naked_asm!(
            attempts!(
                "24",
                "call {thrower}
                .cfi_remember_state
                add rsp, 8
                .cfi_def_cfa_offset 24
                pop r12
                .cfi_def_cfa_offset 16
                .cfi_restore r12
                pop rbx
                .cfi_def_cfa_offset 8
                .cfi_restore rbx
                jmp rax
                .cfi_restore_state
                "
            ),
            attempt = sym attempt,
            handler = sym handler,
            thrower = sym thrower,
        )
    }

    /// [`new_or_throw`] that returns null where that throws. What a handler throws still
    /// passes.
    ///
    /// # Safety
    /// As for [`new_or_throw`]. It is called by way of [`null_if_thrown`].
    #[unsafe(naked)]
    pub unsafe extern "C-unwind" fn new_or_null(size: usize, align: usize) -> *mut c_void {
        naked_asm!(
            // The caller is [`null_if_thrown`], two words behind whose caller is the one.
            attempts!("40", "xor eax, eax\n"),
            attempt = sym attempt,
            handler = sym handler,
        )
    }

    /// Calls `new` with the other two arguments; null instead of any exception.
    ///
    /// # Safety
    /// `new` may be called with these arguments.
    #[unsafe(naked)]
    pub unsafe extern "C" fn null_if_thrown(
        size: usize,
        align: usize,
        new: unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void,
    ) -> *mut c_void {
        naked_asm!(
            ".weak __cxa_begin_catch",
            ".weak __cxa_end_catch",
            ".Lfencepost_begin:",
            ".cfi_startproc",
            ".cfi_personality 0x9b, .Lfencepost_personality",
            ".cfi_lsda 0x1b, .Lfencepost_lsda",
            "push rax",
            ".cfi_def_cfa_offset 16",
            ".Lfencepost_call:",
            "call rdx",
            ".Lfencepost_return:",
            "pop rcx",
            ".cfi_remember_state",
            ".cfi_def_cfa_offset 8",
            "ret",
            ".cfi_restore_state",
            ".Lfencepost_caught:",
            "mov rdi, rax",
            "call qword ptr [rip + __cxa_begin_catch@GOTPCREL]",
            "call qword ptr [rip + __cxa_end_catch@GOTPCREL]",
            "xor eax, eax",
            "pop rcx",
            ".cfi_def_cfa_offset 8",
            "ret",
            ".cfi_endproc",
            catch_everything!(),
        )
    }
}

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use core::arch::naked_asm;
    use core::ffi::c_void;

    use super::{attempt, handler, thrower};

    /// As on x86-64.
    macro_rules! attempts {
        ($end:literal) => {
            concat!(
                ".cfi_startproc\n",
                "stp x29, x30, [sp, #-32]!\n",
                "stp x19, x20, [sp, #16]\n",
                "mov x29, sp\n",
                ".cfi_def_cfa_offset 32\n",
                ".cfi_offset x29, -32\n",
                ".cfi_offset x30, -24\n",
                ".cfi_offset x19, -16\n",
                ".cfi_offset x20, -8\n",
                "mov x19, x0\n",
                "mov x20, x1\n",
                "2:\n",
                "mov x0, x19\n",
                "mov x1, x20\n",
                "ldp x3, x2, [sp]\n", // Who called, and his frame.
                "bl {attempt}\n",
                "cbnz x0, 4f\n",
                "bl {handler}\n",
                "cbz x0, 3f\n",
                "blr x0\n",
                "b 2b\n",
                "3:\n",
                $end,
                "4:\n",
                "ldp x19, x20, [sp, #16]\n",
                "ldp x29, x30, [sp], #32\n",
                ".cfi_def_cfa_offset 0\n",
                "ret\n",
                ".cfi_endproc\n",
            )
        };
    }

    /// As on x86-64.
    ///
    /// # Safety
    /// The caller can be unwound by the C++ runtime: it is C++, or assembly with unwind tables.
    #[unsafe(naked)]
    pub unsafe extern "C-unwind" fn new_or_throw(size: usize, align: usize) -> *mut c_void {
        naked_asm!(
            attempts!(
                "bl {thrower}
                mov x16, x0
                .cfi_remember_state
                ldp x19, x20, [sp, #16]
                ldp x29, x30, [sp], #32
                .cfi_def_cfa_offset 0
                .cfi_restore x19
                .cfi_restore x20
                .cfi_restore x29
                .cfi_restore x30
                br x16
                .cfi_restore_state
                "
            ),
            attempt = sym attempt,
            handler = sym handler,
            thrower = sym thrower,
        )
    }

    /// As on x86-64.
    ///
    /// # Safety
    /// As for [`new_or_throw`].
    #[unsafe(naked)]
    pub unsafe extern "C-unwind" fn new_or_null(size: usize, align: usize) -> *mut c_void {
        naked_asm!(
            attempts!("mov x0, #0\n"),
            attempt = sym attempt,
            handler = sym handler,
        )
    }

    /// As on x86-64.
    ///
    /// # Safety
    /// `new` may be called with these arguments.
    #[unsafe(naked)]
    pub unsafe extern "C" fn null_if_thrown(
        size: usize,
        align: usize,
        new: unsafe extern "C-unwind" fn(usize, usize) -> *mut c_void,
    ) -> *mut c_void {
        naked_asm!(
            ".weak __cxa_begin_catch",
            ".weak __cxa_end_catch",
            ".Lfencepost_begin:",
            ".cfi_startproc",
            ".cfi_personality 0x9b, .Lfencepost_personality",
            ".cfi_lsda 0x1b, .Lfencepost_lsda",
            "stp x29, x30, [sp, #-16]!",
            "mov x29, sp",
            ".cfi_def_cfa_offset 16",
            ".cfi_offset x29, -16",
            ".cfi_offset x30, -8",
            ".Lfencepost_call:",
            "blr x2",
            ".Lfencepost_return:",
            "ldp x29, x30, [sp], #16",
            ".cfi_remember_state",
            ".cfi_def_cfa_offset 0",
            "ret",
            ".cfi_restore_state",
            ".Lfencepost_caught:",
            "adrp x8, :got:__cxa_begin_catch",
            "ldr x8, [x8, :got_lo12:__cxa_begin_catch]",
            "blr x8",
            "adrp x8, :got:__cxa_end_catch",
            "ldr x8, [x8, :got_lo12:__cxa_end_catch]",
            "blr x8",
            "mov x0, #0",
            "ldp x29, x30, [sp], #16",
            ".cfi_def_cfa_offset 0",
            "ret",
            ".cfi_endproc",
            catch_everything!(),
        )
    }
}
