//! fencepost: a ptmalloc-style memory allocator in pure Rust.
#![no_std]
#![cfg_attr(not(target_os = "linux"), allow(unused))]

#[cfg(not(target_os = "linux"))]
compile_error!("fencepost supports Linux only: it is built on brk, mmap, madvise and futex");
