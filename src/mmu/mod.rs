//! Layer 1: a pure model of virtual memory.
//!
//! Addresses, entries, page tables, TLB, frames, swap, areas (what Linux calls VMAs), address
//! spaces, segments, faults, and the states of pages. It knows nothing of an allocator, holds no
//! `unsafe`, and allocates nothing: its storage is handed in from outside as slices, so that it
//! can live in raw pages, in a `Vec`, or in shared memory.
//!
//! | part | what it is |
//! |---|---|
//! | [`addr`] | the typed numbers: a virtual address is not a physical one |
//! | [`geometry`] | how an address is cut into indices: x86 with 2, 4 and 5 levels, PAE, flat |
//! | [`entry`] | one page table entry with x86-64's bits |
//! | [`fault`] | everything that can go wrong with an access, and the signal it becomes |
//! | [`area`] | one virtual memory area, and the constants of Linux's memory calls |
//! | [`effects`] | what a change of areas asks of whoever keeps the pages |
//! | [`segment`] | segments: logical addresses, limits and levels; segments over pages; memory of whole segments |
//! | [`listing`] | the text of `/proc/PID/maps` and `/proc/PID/smaps`, read and written |
//! | [`areas`] | the areas of address spaces: B+trees with the largest hole at hand |
//! | [`space`] | an address space: Linux's `mmap`, `brk` and the rest, errors and limits included |
//! | [`physical`] | frames, their owners and their words |
//! | [`tables`] | page tables, which lie in frames |
//! | [`tlb`] | the modelled TLB, which reports count |
//! | [`lookaside`] | the translation cache that only makes the model fast |
//! | [`cpu`] | the processor's part: CR3, the walker, permissions |
//! | [`replace`] | who goes when memory is full: FIFO, LRU, CLOCK, RANDOM, OPT |
//! | [`swap`] | the swap device |
//! | [`objects`] | files and shared memory |
//! | [`machine`] | all of it together, and the kernel between the parts |
//! | [`states`] | what an allocator knows of each page |
#![forbid(unsafe_code)]

pub mod addr;
pub mod area;
pub mod areas;
pub mod cpu;
pub mod effects;
pub mod entry;
pub mod fault;
pub mod geometry;
pub mod listing;
pub mod lookaside;
pub mod machine;
pub mod objects;
pub mod physical;
pub mod replace;
pub mod segment;
pub mod space;
pub mod states;
pub mod swap;
pub mod tables;
pub mod tlb;
