//! Call stacks, each kept once: thousands of objects come from one place.
//!
//! A hash table of chains in blocks that are mapped as they are needed and never moved or
//! unmapped: readers take no lock, so a signal handler may read.
#![allow(unsafe_code)] // Blocks of words in pages of their own.

use super::record::StackId;
use crate::os::{Os, PageState, Prot, Region};
use crate::sync::Lock;
use crate::sync::overlay::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The most return addresses that are kept of a stack.
pub const FRAMES: usize = 16;
/// Words of a block. A stack's number is its block's number and its place in it.
const BLOCK: usize = 1 << BLOCK_BITS;
const BLOCK_BITS: u32 = 13;
/// 64 MiB of stacks at the most.
const BLOCKS: usize = 1024;
const BUCKETS: usize = 1 << 14;
/// Words before the addresses: hash and length, and two halves.
const HEAD: usize = 2;
/// The halves of the second word: how often the stack was kept, and the next one in the chain.
const COUNT: usize = 0;
const NEXT: usize = 1;

/// The stacks.
#[derive(Debug)]
pub struct Stacks {
    blocks: [AtomicUsize; BLOCKS],
    buckets: AtomicUsize,
    /// Words given out so far, in all blocks. The first is never a stack's, so that no stack
    /// has the number 0.
    used: AtomicUsize,
    lock: Lock,
}

impl Stacks {
    /// None yet.
    #[must_use]
    pub const fn new() -> Stacks {
        Stacks {
            blocks: [const { AtomicUsize::new(0) }; BLOCKS],
            buckets: AtomicUsize::new(0),
            used: AtomicUsize::new(1),
            lock: Lock::new(),
        }
    }

    /// Keeps a stack (the first [`FRAMES`] addresses of it, innermost first). Returns its number
    /// and how often it was kept before by a call that `counts`. Number 0 if there is no room.
    pub fn keep<O: Os>(&self, os: &O, frames: &[usize], counts: bool) -> (StackId, u32) {
        let frames = frames.get(..FRAMES).unwrap_or(frames);
        if frames.is_empty() {
            return (StackId(0), 0);
        }
        let hash = hash(frames);
        let Some(bucket) = self.bucket(os, hash) else {
            return (StackId(0), 0);
        };
        let first = bucket.load(Ordering::Acquire);
        if let Some(found) = self.look(os, first, hash, frames, counts) {
            return found;
        }
        self.lock.lock();
        let now = bucket.load(Ordering::Acquire);
        // Somebody may have put it there meanwhile.
        let kept = self
            .look(os, now, hash, frames, counts)
            .or_else(|| self.add(os, bucket, hash, frames, counts));
        self.lock.unlock();
        kept.unwrap_or((StackId(0), 0))
    }

    /// The return addresses of a stack, innermost first; how many were written.
    pub fn get<O: Os>(&self, os: &O, id: StackId, frames: &mut [usize; FRAMES]) -> usize {
        let Some(entry) = self.entry(os, id.0) else {
            return 0;
        };
        let len = (entry.word(0) & 0xff) as usize;
        for (i, frame) in frames.iter_mut().enumerate().take(len) {
            *frame = entry.word(HEAD + i) as usize;
        }
        len.min(FRAMES)
    }

    /// In a child process: whoever held the lock is gone. What he added is in no chain yet.
    pub fn abandon(&self) {
        if self.lock.is_locked() {
            self.lock.unlock();
        }
    }

    /// Bytes in use for stacks.
    pub fn bytes(&self) -> usize {
        self.used.load(Ordering::Relaxed) * size_of::<u64>()
    }

    fn bucket<O: Os>(&self, os: &O, hash: u32) -> Option<&AtomicU32> {
        let mut table = self.buckets.load(Ordering::Acquire);
        if table == 0 {
            table = map(os, BUCKETS * size_of::<AtomicU32>())?;
            let first =
                self.buckets
                    .compare_exchange(0, table, Ordering::AcqRel, Ordering::Acquire);
            if let Err(other) = first {
                // SAFETY: mapped just now, nobody knows it.
                let _ = unsafe { os.unmap(table, BUCKETS * size_of::<AtomicU32>()) };
                table = other;
            }
        }
        let at = table + (hash as usize % BUCKETS) * size_of::<AtomicU32>();
        // SAFETY: inside the table, which is never unmapped and only accessed as atomics.
        Some(unsafe { AtomicU32::from_ptr(os.region().at(at).cast()) })
    }

    /// Looks a stack up in a chain.
    fn look<O: Os>(
        &self,
        os: &O,
        mut at: u32,
        hash: u32,
        frames: &[usize],
        counts: bool,
    ) -> Option<(StackId, u32)> {
        while let Some(entry) = self.entry(os, at) {
            if entry.is(hash, frames) {
                return Some((
                    StackId(at),
                    entry
                        .half(COUNT)
                        .fetch_add(u32::from(counts), Ordering::Relaxed),
                ));
            }
            at = entry.half(NEXT).load(Ordering::Relaxed);
        }
        None
    }

    /// Adds a stack, under the lock.
    fn add<O: Os>(
        &self,
        os: &O,
        bucket: &AtomicU32,
        hash: u32,
        frames: &[usize],
        counts: bool,
    ) -> Option<(StackId, u32)> {
        let words = HEAD + frames.len();
        let mut at = self.used.load(Ordering::Relaxed);
        if (at % BLOCK) + words > BLOCK {
            at = (at / BLOCK + 1) * BLOCK;
        }
        let block = self.blocks.get(at / BLOCK)?;
        if block.load(Ordering::Acquire) == 0 {
            block.store(map(os, BLOCK * size_of::<u64>())?, Ordering::Release);
        }
        self.used.store(at + words, Ordering::Relaxed);
        let id = at as u32;
        let entry = self.entry(os, id)?;
        for (i, &frame) in frames.iter().enumerate() {
            entry.set(HEAD + i, frame as u64);
        }
        entry.set(0, u64::from(hash) << 32 | frames.len() as u64);
        let next = bucket.load(Ordering::Relaxed);
        entry
            .half(COUNT)
            .store(u32::from(counts), Ordering::Relaxed);
        entry.half(NEXT).store(next, Ordering::Relaxed);
        bucket.store(id, Ordering::Release);
        Some((StackId(id), 0))
    }

    fn entry<O: Os>(&self, os: &O, id: u32) -> Option<Entry<O::Region>> {
        let at = id as usize;
        let block = self.blocks.get(at / BLOCK)?.load(Ordering::Acquire);
        (at != 0 && block != 0).then(|| Entry {
            region: os.region(),
            at: block + (at % BLOCK) * size_of::<u64>(),
        })
    }
}

impl Default for Stacks {
    fn default() -> Stacks {
        Stacks::new()
    }
}

/// A stack in its block.
struct Entry<R> {
    region: R,
    at: usize,
}

impl<R: Region> Entry<R> {
    fn slot(&self, index: usize) -> &AtomicU64 {
        let at = self.at + index * size_of::<u64>();
        // SAFETY: a word of the stack, whose length bounds the index; blocks are never unmapped
        // and only accessed as atomics.
        unsafe { AtomicU64::from_ptr(self.region.at(at).cast()) }
    }

    fn word(&self, index: usize) -> u64 {
        self.slot(index).load(Ordering::Relaxed)
    }

    fn set(&self, index: usize, word: u64) {
        self.slot(index).store(word, Ordering::Relaxed);
    }

    /// One half of the second word, which is only accessed by halves.
    fn half(&self, index: usize) -> &AtomicU32 {
        let at = self.at + size_of::<u64>() + index * size_of::<u32>();
        // SAFETY: as in `slot`.
        unsafe { AtomicU32::from_ptr(self.region.at(at).cast()) }
    }

    fn is(&self, hash: u32, frames: &[usize]) -> bool {
        self.word(0) == u64::from(hash) << 32 | frames.len() as u64
            && frames
                .iter()
                .enumerate()
                .all(|(i, &frame)| self.word(HEAD + i) == frame as u64)
    }
}

fn map<O: Os>(os: &O, len: usize) -> Option<usize> {
    let len = crate::size::align_up(len, os.page_size());
    let at = os.map(0, len, Prot::ReadWrite).ok()?;
    os.note(at, at + len, PageState::Meta);
    Some(at)
}

fn hash(frames: &[usize]) -> u32 {
    let mut hash = 0u64;
    for &frame in frames {
        hash = (hash.rotate_left(5) ^ frame as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    (hash >> 32) as u32
}

const _: () = assert!(BLOCKS * BLOCK <= u32::MAX as usize);
