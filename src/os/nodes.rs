//! The nodes of the page states, in raw pages of their own.
#![allow(unsafe_code)] // Raw memory.

use super::{Os, Prot, Region};
use crate::mmu::states::{LEAF, MID, NODE_BYTES, Nodes};
use crate::sync::overlay::{AtomicU16, AtomicU32, AtomicUsize, Ordering};

/// Nodes of the first chunk; each further one holds twice as many as the one before.
const FIRST: u32 = 8;
const CHUNKS: usize = 24;

/// Numbered nodes, never moved and never freed. Published by single words.
#[derive(Debug)]
pub(super) struct Pool {
    chunks: [AtomicUsize; CHUNKS],
    next: AtomicU32,
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
            recorded: AtomicUsize::new(0),
        }
    }

    /// Bytes mapped for nodes.
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

impl<O: Os> Nodes for At<'_, O> {
    #[inline]
    fn mid(&self, node: u32) -> Option<&[AtomicU32; MID]> {
        let node = self.os.region().at(self.pool.address(node)?);
        // SAFETY: a node is NODE_BYTES of a page-aligned mapping that is never unmapped, zero
        // at first, used by nothing but atomics. Its number says that it is of this kind.
        Some(unsafe { &*node.cast() })
    }

    #[inline]
    fn leaf(&self, node: u32) -> Option<&[AtomicU16; LEAF]> {
        let node = self.os.region().at(self.pool.address(node)?);
        // SAFETY: as in `mid`.
        Some(unsafe { &*node.cast() })
    }

    fn add(&self) -> Option<u32> {
        self.pool.add(self.os)
    }
}
