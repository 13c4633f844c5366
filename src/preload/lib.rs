//! The exported C and C++ names, each a forward to [`fencepost::abi`].
//!
//! A crate of its own, so that a program that merely depends on `fencepost` does not have its
//! malloc replaced, and so that `no_builtins` reaches exactly these functions: the compiler
//! must not recognise the bodies of malloc and calloc and turn them into calls of themselves.
//! Nothing in here or below ever calls one of these names.
// The profiles of the workspace abort on panic, and that is the library people run. Where panics
// unwind (cargo packs and checks the crate alone, without profiles) only std can compile it.
#![cfg_attr(panic = "abort", no_std)]
#![no_builtins]
#![allow(unsafe_code)] // Exported names and C signatures.
#![allow(clippy::missing_safety_doc)] // The contracts are those of the C and C++ standards.

mod lifecycle;
#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
))]
mod operators;
#[cfg(target_env = "gnu")]
mod signals;

use core::ffi::{c_int, c_void};

use fencepost::abi::{self, MallInfo, MallInfo2};

/// Exports functions that pass their arguments on to their namesakes in `abi`.
macro_rules! export {
    ($($name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of C.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            #[allow(unused_unsafe)]
            // SAFETY: C's contract for this name is the contract of the function in `abi`.
            unsafe { abi::$name($($argument),*) }
        }
    )*};
}

export! {
    malloc(size: usize) -> *mut c_void;
    free(block: *mut c_void);
    calloc(count: usize, size: usize) -> *mut c_void;
    realloc(block: *mut c_void, size: usize) -> *mut c_void;
    reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void;
    memalign(align: usize, size: usize) -> *mut c_void;
    aligned_alloc(align: usize, size: usize) -> *mut c_void;
    posix_memalign(result: *mut *mut c_void, align: usize, size: usize) -> c_int;
    valloc(size: usize) -> *mut c_void;
    pvalloc(size: usize) -> *mut c_void;
    malloc_usable_size(block: *mut c_void) -> usize;
    free_sized(block: *mut c_void, size: usize);
    free_aligned_sized(block: *mut c_void, align: usize, size: usize);
    mallopt(parameter: c_int, value: c_int) -> c_int;
    mallinfo() -> MallInfo;
    mallinfo2() -> MallInfo2;
    malloc_stats();
    malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int;
    malloc_trim(pad: usize) -> c_int;
    fencepost_audit() -> c_int;
    fencepost_leak_check() -> c_int;
    fencepost_sweep() -> c_int;
    mtrace();
    muntrace();
}

/// `cfree` of old C libraries: `free`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the same contract.
    unsafe { abi::free(block) }
}

/// Compiles only if the C library's declaration has the type of our definition.
macro_rules! same_type {
    ($($name:ident: $type:ty;)*) => {$(
        const _: [$type; 2] = [$name, libc::$name];
    )*};
}

same_type! {
    malloc: unsafe extern "C" fn(usize) -> *mut c_void;
    free: unsafe extern "C" fn(*mut c_void);
    calloc: unsafe extern "C" fn(usize, usize) -> *mut c_void;
    realloc: unsafe extern "C" fn(*mut c_void, usize) -> *mut c_void;
    reallocarray: unsafe extern "C" fn(*mut c_void, usize, usize) -> *mut c_void;
    memalign: unsafe extern "C" fn(usize, usize) -> *mut c_void;
    aligned_alloc: unsafe extern "C" fn(usize, usize) -> *mut c_void;
    posix_memalign: unsafe extern "C" fn(*mut *mut c_void, usize, usize) -> c_int;
    malloc_usable_size: unsafe extern "C" fn(*mut c_void) -> usize;
}

#[cfg(target_env = "gnu")]
same_type! {
    mallopt: unsafe extern "C" fn(c_int, c_int) -> c_int;
    malloc_stats: unsafe extern "C" fn();
    malloc_info: unsafe extern "C" fn(c_int, *mut libc::FILE) -> c_int;
    malloc_trim: unsafe extern "C" fn(usize) -> c_int;
}

/// Compiles only if a structure of ours lies in memory as the C library's does.
#[cfg(target_env = "gnu")]
macro_rules! same_layout {
    ($ours:ident, $theirs:ident: $($field:ident)*) => {
        const _: () = {
            assert!(size_of::<$ours>() == size_of::<libc::$theirs>());
            assert!(align_of::<$ours>() == align_of::<libc::$theirs>());
            $(assert!(
                core::mem::offset_of!($ours, $field) == core::mem::offset_of!(libc::$theirs, $field)
            );)*
            let _: [unsafe extern "C" fn() -> libc::$theirs; 1] = [libc::$theirs];
        };
    };
}

#[cfg(target_env = "gnu")]
same_layout!(MallInfo, mallinfo: arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost);
#[cfg(target_env = "gnu")]
same_layout!(MallInfo2, mallinfo2: arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost);
