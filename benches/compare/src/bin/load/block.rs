//! A block of the C allocator, and the random numbers that the loads draw.
// The loads measure malloc and free themselves, so they call them directly.
#![allow(unsafe_code)]

use std::hint::black_box;
use std::ptr::NonNull;

/// A block from the C allocator. It is freed only by [`Block::free`]: the loads
/// decide the order of the frees themselves.
///
/// The first and the last byte carry a tag that is checked when the block is
/// freed, so that an allocator that hands out overlapping memory is found.
#[must_use]
pub struct Block {
    pointer: NonNull<u8>,
    size: usize,
    tag: u8,
}

// SAFETY: a block is owned memory that nothing else refers to, and the C
// allocator lets any thread free what another thread has allocated.
unsafe impl Send for Block {}

impl Block {
    fn adopt(pointer: *mut libc::c_void, size: usize, tag: u8) -> Self {
        assert!(size > 0, "a block has at least one byte");
        let Some(pointer) = NonNull::new(black_box(pointer).cast::<u8>()) else {
            panic!("no memory for {size} bytes");
        };
        let mut block = Block { pointer, size, tag };
        block.mark();
        block
    }

    fn mark(&mut self) {
        // SAFETY: the block has `size` bytes, at least one, and is ours alone.
        unsafe {
            self.pointer.write(self.tag);
            self.pointer.add(self.size - 1).write(self.tag);
        }
    }

    fn check(&self) {
        // SAFETY: both bytes lie inside the block and were written by `mark`.
        let (first, last) =
            unsafe { (self.pointer.read(), self.pointer.add(self.size - 1).read()) };
        assert!(
            first == self.tag && last == self.tag,
            "a block of {} bytes was overwritten by another",
            self.size
        );
    }

    /// malloc.
    pub fn new(size: usize, tag: u8) -> Self {
        // SAFETY: malloc takes any size.
        Self::adopt(unsafe { libc::malloc(black_box(size)) }, size, tag)
    }

    /// calloc; checks a byte in the middle for zero.
    pub fn zeroed(size: usize, tag: u8) -> Self {
        // SAFETY: calloc takes any size.
        let pointer = unsafe { libc::calloc(1, black_box(size)) };
        assert!(!pointer.is_null(), "no memory for {size} bytes");
        // SAFETY: the byte lies inside the block, and calloc has written it.
        let byte = unsafe { pointer.cast::<u8>().add(size / 2).read() };
        assert_eq!(byte, 0, "calloc returned a block that is not zero");
        Self::adopt(pointer, size, tag)
    }

    /// aligned_alloc, with an alignment that is a power of two.
    pub fn aligned(alignment: usize, size: usize, tag: u8) -> Self {
        let size = size.next_multiple_of(alignment);
        // SAFETY: the alignment is a power of two and divides the size.
        let pointer = unsafe { libc::aligned_alloc(black_box(alignment), black_box(size)) };
        assert_eq!(pointer.addr() % alignment, 0, "a block is not aligned");
        Self::adopt(pointer, size, tag)
    }

    /// realloc.
    pub fn resize(self, size: usize) -> Self {
        self.check();
        // SAFETY: the pointer came from the C allocator and is not used again.
        let pointer = unsafe { libc::realloc(self.pointer.as_ptr().cast(), black_box(size)) };
        // SAFETY: realloc has kept the first byte, and the block has at least one.
        let first = unsafe { pointer.cast::<u8>().read() };
        assert_eq!(first, self.tag, "realloc lost the contents of a block");
        Self::adopt(pointer, size, self.tag)
    }

    /// Checks the tag and calls free; returns what the checksum takes up.
    pub fn free(self) -> u64 {
        self.check();
        // SAFETY: the pointer came from the C allocator and is not used again.
        unsafe { libc::free(black_box(self.pointer.as_ptr()).cast()) };
        (self.size as u64) ^ (u64::from(self.tag) << 32)
    }

    /// Writes the whole block, as a program that asked for it would.
    pub fn fill(&mut self) {
        self.fill_from(0);
    }

    /// Writes the block from this offset on: what a vector has gained.
    pub fn fill_from(&mut self, offset: usize) {
        assert!(offset <= self.size, "the offset lies inside the block");
        // SAFETY: the range from the offset to the end lies inside the block,
        // which is ours alone.
        unsafe {
            self.pointer
                .add(offset)
                .write_bytes(self.tag, self.size - offset);
        }
        black_box(self.pointer.as_ptr());
    }

    /// Writes one byte of every 4 KiB, so that its pages are present.
    pub fn touch(&mut self) {
        self.touch_every(4096);
    }

    /// Writes one byte of every `stride` bytes.
    pub fn touch_every(&mut self, stride: usize) {
        for offset in (0..self.size).step_by(stride) {
            // SAFETY: the offset is below the size of the block.
            unsafe { self.pointer.add(offset).write_volatile(self.tag) };
        }
        self.mark();
    }

    /// Counts the first byte up `turns` times 256, so that the tag is there
    /// again at the end: a thread at work on an object of its own.
    pub fn work(&mut self, turns: u32) {
        for _ in 0..turns * 256 {
            // SAFETY: the block has at least one byte and is ours alone.
            unsafe {
                let byte = self.pointer.as_ptr();
                byte.write_volatile(byte.read_volatile().wrapping_add(1));
            }
        }
    }
}

/// Words in a block: a number, or a set. The tags stand around them.
#[must_use]
pub struct Words {
    block: Block,
    count: usize,
}

impl Words {
    /// What stands before the words: it keeps them aligned.
    const BEFORE: usize = 8;

    /// This many words, all zero.
    pub fn zero(count: usize, tag: u8) -> Self {
        let block = Block::new(Self::BEFORE + 4 * count + 1, tag);
        // SAFETY: the words lie inside the block, between its two tags.
        unsafe {
            let words = block.pointer.as_ptr().add(Self::BEFORE);
            words.write_bytes(0, 4 * count);
        }
        Words { block, count }
    }

    /// The words.
    pub fn get(&self) -> &[u32] {
        // SAFETY: `zero` has written the words; malloc aligns to 16 bytes, and
        // they lie 8 behind that. The borrow keeps the block alive.
        unsafe {
            let words = self.block.pointer.as_ptr().add(Self::BEFORE).cast();
            std::slice::from_raw_parts(words, self.count)
        }
    }

    /// The words, to be changed.
    pub fn get_mut(&mut self) -> &mut [u32] {
        // SAFETY: as for `get`, and the borrow is the only one.
        unsafe {
            let words = self.block.pointer.as_ptr().add(Self::BEFORE).cast();
            std::slice::from_raw_parts_mut(words, self.count)
        }
    }

    /// Frees the words.
    pub fn free(self) -> u64 {
        self.block.free()
    }
}

/// xorshift64*: the same numbers on every machine and in every run.
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound as u64) >> 32) as usize
    }

    /// A size from `low` to `high`, each power of two about as often as the
    /// next: small sizes are more common, as they are in programs.
    pub fn size(&mut self, low: usize, high: usize) -> usize {
        let span = (high / low).ilog2() as usize;
        let base = low << self.below(span + 1);
        (base + self.below(base)).min(high)
    }

    /// A tag for a block.
    pub fn tag(&mut self) -> u8 {
        (self.next() >> 56) as u8
    }

    /// A random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last + 1);
            items.swap(last, other);
        }
    }
}
