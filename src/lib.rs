//! fencepost: a ptmalloc-style memory allocator in pure Rust.
#![no_std]

#[cfg(not(target_os = "linux"))]
compile_error!("fencepost supports Linux only: it is built on brk, mmap, madvise and futex");

pub mod size;
pub mod report;
pub mod config;
pub mod sync;
pub mod os;
pub mod chunk;
pub mod bins;
pub mod heap;
pub mod arena;
pub mod cache;
#[cfg(not(loom))]
pub mod front;
pub mod stats;
#[cfg(not(loom))]
pub mod abi;
#[cfg(not(loom))]
pub mod global;

#[cfg(not(loom))]
pub use global::Fencepost;
