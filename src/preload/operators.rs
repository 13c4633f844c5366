//! The replaceable C++ operators.
//!
//! A program may replace any of them, and what it does not replace must then behave as the
//! standard says of the defaults: the array, sized and nothrow forms call the plain one,
//! *the program's* plain one. So each of those is one jump through the global offset table,
//! where the dynamic linker has put whoever won the name. Only `operator new(size)` and the two
//! plain deletes, with and without alignment, know the allocator; a sized delete whose plain one
//! is ours passes the size on, to be compared with a guarded object's.
//!
//! The functions that exceptions may pass through are assembly with unwind tables, see
//! [`fencepost::abi::cxx::new_or_throw`].
// Labels with names: naked functions are emitted once and never inlined, so none is defined twice.
#![allow(named_asm_labels)]

use core::arch::naked_asm;
use core::ffi::c_void;

use fencepost::abi::{self, cxx};

#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod isa;

/// A second name of the function that it stands at the head of, for use inside this library:
/// other than the exported name it always means our definition.
macro_rules! inner_name {
    ($name:literal) => {
        concat!(".globl ", $name, "\n.hidden ", $name, "\n", $name, ":")
    };
}

/// `operator delete(void*)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZdlPv")]
pub unsafe extern "C" fn delete(block: *mut c_void) {
    naked_asm!(
        inner_name!("fencepost_delete"),
        isa::jump_local!(),
        target = sym free,
    )
}

/// `operator delete(void*, std::align_val_t)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZdlPvSt11align_val_t")]
pub unsafe extern "C" fn delete_aligned(block: *mut c_void, align: usize) {
    naked_asm!(
        inner_name!("fencepost_delete_aligned"),
        isa::jump_local!(),
        target = sym cxx::delete_aligned,
    )
}

/// `operator delete(void*, size)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZdlPvm")]
pub unsafe extern "C" fn delete_sized(block: *mut c_void, size: usize) {
    naked_asm!(
        inner_name!("fencepost_delete_sized"),
        isa::jump_if_ours!("_ZdlPv", "fencepost_delete", "{target}"),
        isa::jump!("_ZdlPv"),
        target = sym cxx::delete_sized,
    )
}

/// `operator delete(void*, size, std::align_val_t)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZdlPvmSt11align_val_t")]
pub unsafe extern "C" fn delete_sized_aligned(block: *mut c_void, size: usize, align: usize) {
    naked_asm!(
        inner_name!("fencepost_delete_sized_aligned"),
        isa::jump_if_ours!(
            "_ZdlPvSt11align_val_t",
            "fencepost_delete_aligned",
            "{target}"
        ),
        isa::drop_second_argument!(),
        isa::jump!("_ZdlPvSt11align_val_t"),
        target = sym cxx::delete_sized_aligned,
    )
}

/// `operator delete[](void*, size)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZdaPvm")]
pub unsafe extern "C" fn delete_array_sized(block: *mut c_void, size: usize) {
    naked_asm!(
        isa::jump_if_ours!("_ZdaPv", "fencepost_delete_array", "fencepost_delete_sized"),
        isa::jump!("_ZdaPv"),
    )
}

/// `operator delete[](void*, size, std::align_val_t)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZdaPvmSt11align_val_t")]
pub unsafe extern "C" fn delete_array_sized_aligned(block: *mut c_void, size: usize, align: usize) {
    naked_asm!(
        isa::jump_if_ours!(
            "_ZdaPvSt11align_val_t",
            "fencepost_delete_array_aligned",
            "fencepost_delete_sized_aligned"
        ),
        isa::drop_second_argument!(),
        isa::jump!("_ZdaPvSt11align_val_t"),
    )
}

/// What every plain operator delete does.
unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: C++'s contract is free's.
    unsafe { abi::free(block) }
}

/// `operator new(size)`.
#[unsafe(naked)]
#[unsafe(export_name = "_Znwm")]
pub unsafe extern "C-unwind" fn new(size: usize) -> *mut c_void {
    naked_asm!(
        inner_name!("fencepost_new"),
        ".cfi_startproc",
        isa::new!(),
        ".cfi_endproc",
        new = sym cxx::operator_new,
        new_or_throw = sym cxx::new_or_throw,
    )
}

/// `operator new(size, std::align_val_t)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZnwmSt11align_val_t")]
pub unsafe extern "C-unwind" fn new_aligned(size: usize, align: usize) -> *mut c_void {
    naked_asm!(
        inner_name!("fencepost_new_aligned"),
        isa::jump_local!(),
        target = sym cxx::new_or_throw,
    )
}

/// `operator new(size, std::nothrow)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZnwmRKSt9nothrow_t")]
pub unsafe extern "C" fn new_nothrow(size: usize, tag: usize) -> *mut c_void {
    naked_asm!(
        inner_name!("fencepost_new_nothrow"),
        isa::no_alignment!(),
        isa::guarded!("_Znwm", "fencepost_new"),
        new_or_null = sym cxx::new_or_null,
        null_if_thrown = sym cxx::null_if_thrown,
    )
}

/// `operator new(size, std::align_val_t, std::nothrow)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZnwmSt11align_val_tRKSt9nothrow_t")]
pub unsafe extern "C" fn new_aligned_nothrow(size: usize, align: usize, tag: usize) -> *mut c_void {
    naked_asm!(
        inner_name!("fencepost_new_aligned_nothrow"),
        isa::guarded!("_ZnwmSt11align_val_t", "fencepost_new_aligned"),
        new_or_null = sym cxx::new_or_null,
        null_if_thrown = sym cxx::null_if_thrown,
    )
}

/// `operator new[](size, std::nothrow)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZnamRKSt9nothrow_t")]
pub unsafe extern "C" fn new_array_nothrow(size: usize, tag: usize) -> *mut c_void {
    naked_asm!(
        isa::no_alignment!(),
        isa::guarded_array!("_Znam", "fencepost_new_array", "fencepost_new_nothrow"),
        null_if_thrown = sym cxx::null_if_thrown,
    )
}

/// `operator new[](size, std::align_val_t, std::nothrow)`.
#[unsafe(naked)]
#[unsafe(export_name = "_ZnamSt11align_val_tRKSt9nothrow_t")]
pub unsafe extern "C" fn new_array_aligned_nothrow(
    size: usize,
    align: usize,
    tag: usize,
) -> *mut c_void {
    naked_asm!(
        isa::guarded_array!(
            "_ZnamSt11align_val_t",
            "fencepost_new_array_aligned",
            "fencepost_new_aligned_nothrow"
        ),
        null_if_thrown = sym cxx::null_if_thrown,
    )
}

/// Defines operators that are a jump to another one.
macro_rules! forward {
    ($($what:literal $rust:ident = $name:literal ($($argument:ident),*) $(-> $result:ty)? => $target:literal $(, $before:expr)?;)*) => {$(
        #[doc = $what]
        #[unsafe(naked)]
        #[unsafe(export_name = $name)]
        pub unsafe extern "C-unwind" fn $rust($($argument: usize),*) $(-> $result)? {
            naked_asm!($($before,)? isa::jump!($target))
        }
    )*};
}

forward! {
    "`operator new[](size)`."
    new_array = "_Znam"(size) -> *mut c_void => "_Znwm", inner_name!("fencepost_new_array");
    "`operator new[](size, std::align_val_t)`."
    new_array_aligned = "_ZnamSt11align_val_t"(size, align) -> *mut c_void
        => "_ZnwmSt11align_val_t", inner_name!("fencepost_new_array_aligned");
    "`operator delete[](void*)`."
    delete_array = "_ZdaPv"(block) => "_ZdlPv", inner_name!("fencepost_delete_array");
    "`operator delete(void*, std::nothrow)`."
    delete_nothrow = "_ZdlPvRKSt9nothrow_t"(block, tag) => "_ZdlPv";
    "`operator delete[](void*, std::nothrow)`."
    delete_array_nothrow = "_ZdaPvRKSt9nothrow_t"(block, tag) => "_ZdaPv";
    "`operator delete[](void*, std::align_val_t)`."
    delete_array_aligned = "_ZdaPvSt11align_val_t"(block, align)
        => "_ZdlPvSt11align_val_t", inner_name!("fencepost_delete_array_aligned");
    "`operator delete(void*, std::align_val_t, std::nothrow)`."
    delete_aligned_nothrow = "_ZdlPvSt11align_val_tRKSt9nothrow_t"(block, align, tag)
        => "_ZdlPvSt11align_val_t";
    "`operator delete[](void*, std::align_val_t, std::nothrow)`."
    delete_array_aligned_nothrow = "_ZdaPvSt11align_val_tRKSt9nothrow_t"(block, align, tag)
        => "_ZdaPvSt11align_val_t";
}
