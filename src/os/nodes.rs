//! The nodes of the page states, in raw pages of their own.
#![allow(unsafe_code)] // Raw memory.

use super::{Os, Prot, Region, page_size};
use crate::mmu::states::{LEAF_WORDS, MID, NODE_BYTES, Nodes};
use crate::size::align_up;
use crate::sync::overlay::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::cell::UnsafeCell;

/// Nodes of the first chunk; each further one holds twice as many as the one before.
const FIRST: u32 = 8;
const CHUNKS: usize = 24;

/// Room for the first nodes and for the page of [`ForkPage`](super::ForkPage), in the program's
/// image: a small process maps nothing for them, and has nothing to account for.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Room {
    nodes: UnsafeCell<[u8; FIRST as usize * NODE_BYTES]>,
    /// A page of the largest size there is, wherever its boundary lies.
    page: UnsafeCell<[u8; 2 * LARGEST_PAGE]>,
}

const LARGEST_PAGE: usize = 64 << 10;

// SAFETY: nodes and page are accessed as atomics only.
unsafe impl Sync for Room {}

impl Room {
    /// All zero.
    #[must_use]
    #[allow(clippy::large_stack_frames, clippy::new_without_default)] // Only for statics.
    pub const fn new() -> Room {
        Room {
            nodes: UnsafeCell::new([0; FIRST as usize * NODE_BYTES]),
            page: UnsafeCell::new([0; 2 * LARGEST_PAGE]),
        }
    }

    /// The address of the page; 0 if pages are larger than known.
    #[must_use]
    pub fn page(&'static self) -> usize {
        let size = page_size();
        if size > LARGEST_PAGE {
            return 0;
        }
        align_up(self.page.get().expose_provenance(), size)
    }
}

/// Numbered nodes, never moved and never unmapped; leaves are used again. Published by single
/// words.
#[derive(Debug)]
pub(super) struct Pool {
    chunks: [AtomicUsize; CHUNKS],
    next: AtomicU32,
    /// The leaf that was recycled last, plus 1, in the lower half; the upper half changes with
    /// each exchange, so that a stale one fails. A leaf's first word leads to the next.
    recycled: AtomicU64,
    /// How many of the chunks the account itself already knows.
    recorded: AtomicUsize,
}

/// Where a node lies: which chunk, and the how-manieth in it.
const fn place(node: u32) -> (usize, usize) {
    let chunk = (node / FIRST + 1).ilog2();
    let first = FIRST * ((1 << chunk) - 1);
    (chunk as usize, (node - first) as usize)
}

const fn chunk_bytes(chunk: usize) -> usize {
    (FIRST as usize * NODE_BYTES) << chunk
}

impl Pool {
    pub(super) const fn new() -> Pool {
        Pool {
            chunks: [const { AtomicUsize::new(0) }; CHUNKS],
            next: AtomicU32::new(0),
            recycled: AtomicU64::new(0),
            recorded: AtomicUsize::new(0),
        }
    }

    /// Takes the first nodes from `room`. No effect if there are nodes already.
    pub(super) fn lend(&self, room: &'static Room) {
        let at = room.nodes.get().expose_provenance();
        let [first, ..] = &self.chunks;
        if first
            .compare_exchange(0, at, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
        {
            // Not the account's to know.
            self.recorded.store(1, Ordering::Relaxed);
        }
    }

    /// Bytes of nodes.
    pub(super) fn bytes(&self) -> usize {
        let mapped = |chunk: &usize| self.chunks[*chunk].load(Ordering::Relaxed) != 0;
        (0..CHUNKS).filter(mapped).map(chunk_bytes).sum()
    }

    /// A chunk that was mapped and that nobody has been told of yet.
    pub(super) fn unrecorded(&self) -> Option<(usize, usize)> {
        let index = self.recorded.load(Ordering::Relaxed);
        let start = self.chunks.get(index)?.load(Ordering::Relaxed);
        if start == 0 {
            return None;
        }
        self.recorded
            .compare_exchange(index, index + 1, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| (start, start + chunk_bytes(index)))
    }

    fn add(&self, os: &impl Os) -> Option<u32> {
        loop {
            let node = self.next.load(Ordering::Relaxed);
            let (index, _) = place(node);
            let chunk = self.chunks.get(index)?;
            if chunk.load(Ordering::Acquire) == 0 {
                let pages = os.map(0, chunk_bytes(index), Prot::ReadWrite).ok()?;
                let first = chunk.compare_exchange(0, pages, Ordering::AcqRel, Ordering::Acquire);
                if first.is_err() {
                    // SAFETY: mapped just now; another thread's chunk is used instead.
                    let _ = unsafe { os.unmap(pages, chunk_bytes(index)) };
                }
            }
            let taken =
                self.next
                    .compare_exchange(node, node + 1, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                return Some(node);
            }
        }
    }

    #[inline]
    fn address(&self, node: u32) -> Option<usize> {
        let (chunk, index) = place(node);
        let start = self.chunks.get(chunk)?.load(Ordering::Acquire);
        (start != 0).then(|| start + index * NODE_BYTES)
    }
}

/// A pool, and the kernel that its pages come from.
pub(super) struct At<'p, O> {
    pub(super) os: &'p O,
    pub(super) pool: &'p Pool,
}

/// The upper half of the list's head, changed.
const fn turn(head: u64) -> u64 {
    (head & !0xffff_ffff).wrapping_add(1 << 32)
}

impl<O: Os> Nodes for At<'_, O> {
    #[inline]
    fn mid(&self, node: u32) -> Option<&[AtomicU32; MID]> {
        let node = self.os.region().at(self.pool.address(node)?);
        // SAFETY: a node is NODE_BYTES of a page-aligned mapping that is never unmapped, used by
        // nothing but atomics; it stays of the kind that it was added as.
        Some(unsafe { &*node.cast() })
    }

    #[inline]
    fn leaf(&self, node: u32) -> Option<&[AtomicU64; LEAF_WORDS]> {
        let node = self.os.region().at(self.pool.address(node)?);
        // SAFETY: as in `mid`.
        Some(unsafe { &*node.cast() })
    }

    fn add_mid(&self) -> Option<(u32, bool)> {
        self.pool.add(self.os).map(|node| (node, true))
    }

    fn add_leaf(&self) -> Option<(u32, bool)> {
        let list = &self.pool.recycled;
        let mut head = list.load(Ordering::Acquire);
        while let Some(node) = (head as u32).checked_sub(1) {
            let next = self.leaf(node)?[0].load(Ordering::Relaxed);
            let new = turn(head) | next & 0xffff_ffff;
            match list.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some((node, false)),
                Err(now) => head = now,
            }
        }
        self.pool.add(self.os).map(|node| (node, true))
    }

    fn recycle(&self, node: u32) {
        let Some(leaf) = self.leaf(node) else {
            return;
        };
        let list = &self.pool.recycled;
        let mut head = list.load(Ordering::Acquire);
        loop {
            leaf[0].store(head & 0xffff_ffff, Ordering::Relaxed);
            let new = turn(head) | u64::from(node + 1);
            match list.compare_exchange_weak(head, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }
}
