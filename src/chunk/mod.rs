//! Layer 3: one chunk in memory.
//!
//! ```text
//!            offset
//! chunk ->     0   prev_size       size of the chunk before, if that one is free; else its data
//!              8   size | flags    low half of the head: size/16 and PREV_INUSE, MAPPED, ARENA
//!             12   tag             high half of the head: keyed over address, size and state
//! payload ->  16   fd              next chunk in its bin      \
//!             24   bk              previous chunk in its bin   | in a free chunk;
//!             32   fd_nextsize     next smaller size           | the user's data
//!             40   bk_nextsize     next larger size            | in one that is in use
//!             48   dirt            pages that may be resident /
//!            ...
//! next  ->   size  prev_size of the next chunk: the last 8 bytes of a chunk in use
//! ```
//!
//! Exceptions. `fd_nextsize`, `bk_nextsize` exist only in large chunks, `dirt` only in those of
//! [`DIRT_MIN`] bytes and more. *Top* ends a heap's memory: its size is kept in the heap, out of
//! reach, and its head says 0. A *fencepost* (16 bytes of head, size 0) closes a segment whose
//! end is not top. A *mapped* chunk owns a mapping; its length is kept out of line and its head
//! says 0. A *cached* chunk (thread cache, depot) and a *fast* one look used to their
//! neighbours.
//!
//! The soundness boundary of the allocator is this module: a [`Chunk`] is made only from memory
//! that the caller vouches for, or found from another chunk whose head was verified, and its
//! methods touch only the first 64 bytes and the boundary tag of the chunk itself.
#![allow(unsafe_code)] // Every access to a head or a link goes through a raw pointer.

mod head;
mod list;
mod stack;

pub use head::{Low, Secret, State};
pub use list::{List, Through, next, previous};
pub use stack::Stack;

use crate::os::{Extents, Region};
use crate::size::HEADER;
use crate::sync::overlay::{AtomicU32, Ordering};

/// Free chunks of at least this many bytes carry the field `dirt`.
pub const DIRT_MIN: usize = 1024;

/// What it takes to read chunks: where memory is, and the process's secret.
///
/// Read by every call of every thread: aligned so that nothing that is written shares its lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct Keys<R> {
    /// Turns addresses into pointers.
    pub region: R,
    /// Keys of tags and links.
    pub secret: Secret,
    /// Which addresses are heap: asked before a link that may be forged is followed.
    pub extents: &'static Extents,
}

impl<R: Region> Keys<R> {
    /// The chunk at `addr`.
    ///
    /// # Safety
    /// `addr` is a multiple of 16 and the address of a chunk (or of 64 writable bytes in which
    /// the caller is about to make one) in memory of the region that stays mapped.
    #[inline(always)]
    pub unsafe fn chunk(&self, addr: usize) -> Chunk<'_, R> {
        Chunk { addr, keys: self }
    }

    /// The chunk at `addr`, if that is a possible address of one inside heap memory. Its head
    /// has yet to be verified.
    #[must_use]
    pub fn find(&self, addr: usize) -> Option<Chunk<'_, R>> {
        (addr != 0 && self.extents.holds(addr.wrapping_add(HEADER)))
            .then_some(Chunk { addr, keys: self })
    }
}

/// A chunk: its address, and the keys to read it.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'k, R> {
    addr: usize,
    keys: &'k Keys<R>,
}

/// The four links of a free chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Next in the bin.
    Fd = 16,
    /// Previous in the bin.
    Bk = 24,
    /// Next smaller size in a large bin.
    FdSize = 32,
    /// Next larger size in a large bin.
    BkSize = 40,
}

impl<'k, R: Region> Chunk<'k, R> {
    /// The chunk's address: that of its `prev_size` field.
    #[inline(always)]
    #[must_use]
    pub fn addr(self) -> usize {
        self.addr
    }

    /// The address that the user gets.
    #[inline(always)]
    #[must_use]
    pub fn payload(self) -> usize {
        self.addr + HEADER
    }

    /// The chunk `distance` bytes further up.
    ///
    /// # Safety
    /// There is a chunk, or room that the caller owns for one.
    #[inline(always)]
    unsafe fn up(self, distance: usize) -> Chunk<'k, R> {
        Chunk {
            addr: self.addr + distance,
            keys: self.keys,
        }
    }

    #[inline(always)]
    fn word(self, offset: usize) -> *mut u64 {
        self.keys.region.at(self.addr + offset).cast()
    }

    #[inline(always)]
    fn half(self, offset: usize) -> &'k AtomicU32 {
        // SAFETY: the head of a live chunk is mapped, aligned, and only ever accessed as these
        // two atomics.
        unsafe { AtomicU32::from_ptr(self.keys.region.at(self.addr + offset).cast()) }
    }

    /// The low half of the head: size and flags.
    #[inline(always)]
    #[must_use]
    pub fn low(self) -> Low {
        Low::from_bits(self.half(8).load(Ordering::Relaxed))
    }

    /// Writes the low half. Only under the lock of the heap that owns the chunk.
    #[inline(always)]
    pub fn set_low(self, low: Low) {
        self.half(8).store(low.bits(), Ordering::Relaxed);
    }

    /// The high half of the head.
    #[inline(always)]
    #[must_use]
    pub fn tag(self) -> u32 {
        self.half(12).load(Ordering::Relaxed)
    }

    /// Writes the high half: only the chunk's owner does.
    #[inline(always)]
    pub fn set_tag(self, tag: u32) {
        self.half(12).store(tag, Ordering::Relaxed);
    }

    /// The size in bytes that the head states.
    #[inline(always)]
    #[must_use]
    pub fn size(self) -> usize {
        self.low().size()
    }

    /// The tag that this chunk's head must carry in `state`, given its low half.
    #[inline(always)]
    #[must_use]
    pub fn expected(self, low: Low, state: State) -> u32 {
        self.keys.secret.tag(self.payload(), low, state)
    }

    /// The tags for used and for cached (without the seal of its link).
    #[inline(always)]
    #[must_use]
    pub fn user_tags(self, keyed: u64) -> (u32, u32) {
        self.keys.secret.user_tags(self.payload(), keyed)
    }

    /// Whether the head is genuine and says `state`. For [`State::Cached`] the answer covers
    /// the link too: see [`Stack`].
    #[inline(always)]
    #[must_use]
    pub fn is(self, state: State) -> bool {
        let low = self.low();
        let mut expected = self.expected(low, state);
        if state.seals_link() {
            expected ^= self.keys.secret.seal(self.stacked_below());
        }
        self.tag() == expected
    }

    /// Whether the head is genuine and says that the chunk is in a bin: then in which state,
    /// [`State::Binned`] or [`State::Unsorted`].
    #[inline(always)]
    #[must_use]
    pub fn binned(self) -> Option<State> {
        let (binned, unsorted) = self.free_tags();
        let tag = self.tag();
        if tag == unsorted {
            Some(State::Unsorted)
        } else if tag == binned {
            Some(State::Binned)
        } else {
            None
        }
    }

    /// The tags that this chunk's head must carry as [`State::Binned`] and [`State::Unsorted`].
    #[inline(always)]
    #[must_use]
    pub fn free_tags(self) -> (u32, u32) {
        self.keys.secret.free_tags(self.payload(), self.low())
    }

    /// Writes low half and tag: the chunk begins a life as `state`.
    #[inline(always)]
    pub fn begin(self, low: Low, state: State) {
        self.set_low(low);
        self.mark(low, state);
    }

    /// Writes the tag for `state`; the low half stays.
    #[inline(always)]
    pub fn mark(self, low: Low, state: State) {
        self.set_tag(self.expected(low, state));
    }

    /// The chunk after this one, whose size is `size`.
    ///
    /// # Safety
    /// `size` is this chunk's true size, and it is not the last of its segment.
    #[inline(always)]
    #[must_use]
    pub unsafe fn after(self, size: usize) -> Chunk<'k, R> {
        // SAFETY: a chunk, top or a fencepost follows every chunk of a heap.
        unsafe { self.up(size) }
    }

    /// The size that the chunk before left in this one's first field. Only meaningful if
    /// `PREV_INUSE` is clear.
    #[inline(always)]
    #[must_use]
    pub fn prev_size(self) -> usize {
        // SAFETY: the field is part of a live chunk.
        unsafe { self.word(0).read() as usize }
    }

    /// Leaves the size of the free chunk before this one.
    #[inline(always)]
    pub fn set_prev_size(self, size: usize) {
        // SAFETY: the field belongs to the free chunk before, hence to the heap.
        unsafe { self.word(0).write(size as u64) }
    }

    /// The chunk before this one by the size that it left here, if that is a possible place.
    /// Its head has yet to be verified.
    #[must_use]
    pub fn before(self) -> Option<Chunk<'k, R>> {
        self.keys.find(self.addr.wrapping_sub(self.prev_size()))
    }

    /// Reads a link; 0 ends a list.
    #[inline(always)]
    #[must_use]
    pub fn link(self, link: Link) -> usize {
        let offset = link as usize;
        // SAFETY: a free chunk in a list has this field.
        let masked = unsafe { self.word(offset).read() };
        self.keys.secret.mask(self.addr + offset, masked) as usize
    }

    /// Writes a link.
    #[inline(always)]
    pub fn set_link(self, link: Link, to: usize) {
        let offset = link as usize;
        let masked = self.keys.secret.mask(self.addr + offset, to as u64);
        // SAFETY: the field lies in a free chunk that the heap owns.
        unsafe { self.word(offset).write(masked) }
    }

    /// When, and with how many bytes that may be resident, a free chunk was made; see the
    /// heap's `purge`. Only for chunks of [`DIRT_MIN`] bytes and more.
    #[must_use]
    pub fn dirt(self) -> (u32, usize) {
        // SAFETY: a free chunk of this size has the field.
        let word = unsafe { self.word(48).read() };
        ((word >> 40) as u32, (word & ((1 << 40) - 1)) as usize)
    }

    /// As [`dirt`](Chunk::dirt) for a free chunk of any size, `size`: one that carries no such
    /// field is as dirty as it is long, and made at `now`. Without a branch, for nobody can
    /// predict which it is.
    #[inline(always)]
    #[must_use]
    pub fn dirt_or(self, size: usize, now: u32) -> (u32, usize) {
        let carries = size >= DIRT_MIN;
        // SAFETY: a free chunk has a link at 16, and one of this size the field at 48.
        let word = unsafe { self.word(if carries { 48 } else { 16 }).read() };
        let bytes = (word & ((1 << 40) - 1)) as usize;
        (
            if carries { (word >> 40) as u32 } else { now },
            // No tag covers the word.
            if carries { bytes.min(size) } else { size },
        )
    }

    /// Writes what [`dirt`](Chunk::dirt) reads; the stamp keeps its low 24 bits.
    pub fn set_dirt(self, stamp: u32, bytes: usize) {
        let word = (u64::from(stamp & 0xff_ffff) << 40) | bytes as u64;
        // SAFETY: as in `dirt`.
        unsafe { self.word(48).write(word) }
    }

    /// The payload below this one in its stack (see [`Stack`]); 0 at the bottom.
    #[inline(always)]
    #[must_use]
    pub fn stacked_below(self) -> usize {
        self.link(Link::Fd)
    }

    /// Puts `below` under this chunk and marks it with a tag that covers the link.
    #[inline(always)]
    pub fn stack_on(self, low: Low, state: State, below: usize) {
        self.seal_on(self.expected(low, state), below);
    }

    /// As [`stack_on`](Chunk::stack_on) with the state's tag at hand.
    #[inline(always)]
    pub fn seal_on(self, tag: u32, below: usize) {
        self.set_link(Link::Fd, below);
        self.set_tag(tag ^ self.keys.secret.seal(below));
    }

    /// Two words for the chunk at the head of a stack that travels as a whole: what is below
    /// the stack, and how many it holds.
    #[must_use]
    pub fn freight(self) -> Option<(usize, usize)> {
        // SAFETY: every chunk has 24 bytes of payload, and this one is ours.
        let (a, b) = unsafe { (self.word(24).read(), self.word(32).read()) };
        let secret = &self.keys.secret;
        let below = secret.mask(self.addr + 24, a);
        let count = b & 0xffff_ffff;
        let seal = secret.seal((below ^ count) as usize ^ self.addr);
        (b >> 32 == u64::from(seal)).then_some((below as usize, count as usize))
    }

    /// Writes what [`freight`](Chunk::freight) reads.
    pub fn set_freight(self, below: usize, count: usize) {
        let secret = &self.keys.secret;
        let seal = secret.seal((below ^ count) ^ self.addr);
        let a = secret.mask(self.addr + 24, below as u64);
        // SAFETY: as in `freight`.
        unsafe {
            self.word(24).write(a);
            self.word(32).write((u64::from(seal) << 32) | count as u64);
        }
    }
}

impl<R: Region> PartialEq for Chunk<'_, R> {
    fn eq(&self, other: &Self) -> bool {
        self.addr == other.addr
    }
}
