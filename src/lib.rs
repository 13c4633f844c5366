//! fencepost: a ptmalloc-style memory allocator in pure Rust.
#![no_std]

#[cfg(not(target_os = "linux"))]
compile_error!("fencepost supports Linux only: it is built on brk, mmap, madvise and futex");

#[cfg(not(loom))]
pub mod abi;
pub mod arena;
pub mod bins;
pub mod cache;
pub mod chunk;
pub mod config;
#[cfg(not(loom))]
pub mod front;
#[cfg(not(loom))]
pub mod global;
pub mod heap;
pub mod os;
pub mod report;
pub mod size;
pub mod stats;
pub mod sync;

#[cfg(not(loom))]
pub use global::Fencepost;
