//! What the benchmarks share: blocks from an allocator under test, and fixed random numbers.
//!
//! Every pointer goes through `black_box`: the compiler deletes allocations that nobody looks at.
#![allow(dead_code)] // Each benchmark uses a part.
#![allow(unsafe_code)] // The allocator's interface.

use fencepost::Fencepost;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

/// The allocator of this crate.
pub static FENCEPOST: Fencepost = Fencepost::new();
/// The C library's malloc.
pub static SYSTEM: System = System;

/// A block that was not freed yet.
#[derive(Clone, Copy)]
pub struct Block {
    at: *mut u8,
    layout: Layout,
}

// SAFETY: a block is memory; whoever has it frees it.
unsafe impl Send for Block {}

impl Block {
    /// In the place of a block.
    pub const NONE: Block = Block {
        at: std::ptr::null_mut(),
        layout: Layout::new::<u8>(),
    };
}

/// Allocates, and writes the first byte as every program does.
#[inline(always)]
pub fn take<A: GlobalAlloc>(from: &A, size: usize) -> Block {
    let layout = Layout::from_size_align(black_box(size), 8).expect("a valid layout");
    // SAFETY: no benchmark asks for 0 bytes; the block has at least one.
    unsafe {
        let at = black_box(from.alloc(layout));
        at.write(1);
        Block { at, layout }
    }
}

/// Allocates zeroed memory and reads its first and last byte.
#[inline(always)]
pub fn take_zeroed<A: GlobalAlloc>(from: &A, size: usize) -> Block {
    let layout = Layout::from_size_align(black_box(size), 8).expect("a valid layout");
    // SAFETY: as in `take`.
    unsafe {
        let at = black_box(from.alloc_zeroed(layout));
        black_box(at.read() | at.add(size - 1).read());
        Block { at, layout }
    }
}

/// Frees.
#[inline(always)]
pub fn give<A: GlobalAlloc>(to: &A, block: Block) {
    // SAFETY: every benchmark gives each block back once, to where it came from.
    unsafe { to.dealloc(black_box(block.at), block.layout) };
}

/// Changes the size of a block.
#[inline(always)]
pub fn resize<A: GlobalAlloc>(by: &A, block: Block, size: usize) -> Block {
    // SAFETY: a live block, replaced by the answer; the size is not 0.
    let at = black_box(unsafe { by.realloc(black_box(block.at), block.layout, size) });
    let layout = Layout::from_size_align(size, 8).expect("a valid layout");
    Block { at, layout }
}

/// Touches every page of a block.
pub fn touch(block: Block) {
    for offset in (0..block.layout.size()).step_by(4096) {
        // SAFETY: inside the block.
        unsafe { block.at.add(offset).write(2) };
    }
}

/// Fixed random numbers.
pub struct Random(u64);

impl Random {
    /// The same numbers on every run.
    pub const fn new() -> Random {
        Random(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `n`.
    #[inline(always)]
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }

    /// Sizes between `least` and `most`, each doubling as likely as the next: as in programs,
    /// small ones are many.
    pub fn sizes(&mut self, least: usize, most: usize, count: usize) -> Vec<usize> {
        let doublings = (most / least).ilog2() as usize;
        (0..count)
            .map(|_| {
                let base = least << self.below(doublings.max(1));
                (base + self.below(base)).min(most)
            })
            .collect()
    }
}
