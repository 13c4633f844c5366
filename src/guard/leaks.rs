//! Which blocks nothing leads to any more: a search from roots through blocks, by words that look
//! like addresses.
//!
//! The search is conservative. A word that points into a block, or to the first byte after it,
//! makes the block reachable, be it a pointer or a number that looks like one; then the words
//! inside the block count too. Blocks that only lead to each other stay lost. Only aligned words
//! are looked at, and a pointer that is stored in any other way (split, tagged in its upper bits,
//! compressed) is not seen.
//!
//! No recursion and no allocation while it runs: the blocks lie in one array, sorted by address,
//! and those that still have to be looked at are chained through it. A word costs a comparison
//! with the ends of the array, and if it lies between them a binary search.

use super::record::{Event, Record, StackId};
use crate::os::{Os, OsError, PageVec};

/// Not reached.
const NEVER: u32 = u32::MAX;
/// Reached, and the last of the chain or in no chain any more.
const NONE: u32 = u32::MAX - 1;

/// A block in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Its address.
    pub start: usize,
    /// The first address after it.
    pub end: usize,
    /// Its allocation.
    pub allocated: Event,
    /// [`NEVER`], [`NONE`], or the next in the chain of those to be looked at.
    next: u32,
}

impl Block {
    /// A block that nothing has led to yet.
    #[must_use]
    pub const fn new(start: usize, size: usize, allocated: Event) -> Block {
        Block {
            start,
            end: start + size,
            allocated,
            next: NEVER,
        }
    }

    /// The block of a record.
    #[must_use]
    pub const fn of(record: &Record) -> Block {
        Block::new(record.payload, record.size, record.allocated)
    }

    /// Whether anything leads to it.
    #[must_use]
    pub const fn is_reachable(&self) -> bool {
        self.next != NEVER
    }

    /// Bytes asked for.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.end - self.start
    }
}

/// Blocks that were allocated by the same stack, all reachable or all lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// The earliest of their allocations.
    pub first: Event,
    /// Where that block is.
    pub address: usize,
    /// How many they are.
    pub blocks: usize,
    /// Bytes asked for in all.
    pub bytes: usize,
}

/// A number of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// How many.
    pub blocks: usize,
    /// Bytes asked for in all.
    pub bytes: usize,
}

impl Sum {
    /// Adds as much.
    pub fn add(&mut self, blocks: usize, bytes: usize) {
        self.blocks += blocks;
        self.bytes += bytes;
    }
}

/// A search under way.
#[derive(Debug)]
pub struct Search<O: Os + Copy> {
    os: O,
    blocks: PageVec<Block, 1>,
    /// The first of those that were reached and not looked at.
    chain: u32,
    /// The lowest address that can be in a block, and the highest.
    low: usize,
    high: usize,
}

impl<O: Os + Copy> Search<O> {
    /// A search among no blocks.
    #[must_use]
    pub const fn new(os: O) -> Search<O> {
        Search {
            os,
            blocks: PageVec::new(Block::new(
                0,
                0,
                Event {
                    when: 0,
                    thread: 0,
                    stack: StackId(0),
                },
            )),
            chain: NONE,
            low: usize::MAX,
            high: 0,
        }
    }

    /// Adds a block. No two may overlap.
    ///
    /// # Errors
    /// If there is no memory for it, or there are too many.
    pub fn add(&mut self, block: Block) -> Result<(), OsError> {
        if self.blocks.as_slice(&self.os).len() >= NONE as usize {
            return Err(OsError::NO_MEMORY);
        }
        self.blocks.add(&self.os, block)?;
        self.low = self.low.min(block.start);
        self.high = self.high.max(block.end);
        Ok(())
    }

    /// All blocks have been added; now words may come.
    pub fn start(&mut self) {
        let blocks = self.blocks.as_mut_slice(&self.os);
        sort(blocks, |a, b| (a.start, a.end) < (b.start, b.end));
    }

    /// A word was found in a root or in a block that is reachable.
    #[inline]
    pub fn word(&mut self, word: usize) {
        if word >= self.low && word <= self.high {
            self.point(word);
        }
    }

    fn point(&mut self, to: usize) {
        let blocks = self.blocks.as_mut_slice(&self.os);
        let mut after = blocks.partition_point(|block| block.start <= to);
        // The one before, and where blocks touch, the one that ends there.
        while let Some(index) = after.checked_sub(1)
            && let Some(block) = blocks.get_mut(index)
            && block.end >= to
        {
            if block.next == NEVER {
                block.next = self.chain;
                self.chain = index as u32;
            }
            after = index;
        }
    }

    /// Takes a block that was reached and not looked at yet: its words are to be told. `None` if
    /// there is none left.
    pub fn take(&mut self) -> Option<Block> {
        if self.chain == NONE {
            return None;
        }
        let block = self
            .blocks
            .as_mut_slice(&self.os)
            .get_mut(self.chain as usize)?;
        self.chain = block.next;
        block.next = NONE;
        Some(*block)
    }

    /// The blocks; in the order of their addresses before [`groups`](Search::groups).
    #[must_use]
    pub fn blocks(&self) -> &[Block] {
        self.blocks.as_slice(&self.os)
    }

    /// What is lost, and what is still reachable.
    #[must_use]
    pub fn sums(&self) -> (Sum, Sum) {
        let (mut lost, mut reachable) = (Sum::default(), Sum::default());
        for block in self.blocks() {
            if block.is_reachable() {
                reachable.add(1, block.size());
            } else {
                lost.add(1, block.size());
            }
        }
        (lost, reachable)
    }

    /// Ends the search: what is lost, grouped by the stack that allocated it, the largest group
    /// first, and of equal ones that with more blocks, then the older one.
    ///
    /// # Errors
    /// If there is no memory for the groups.
    pub fn groups(&mut self) -> Result<PageVec<Group, 1>, OsError> {
        let stack = |block: &Block| block.allocated.stack.0;
        let when = |block: &Block| block.allocated.when;
        let blocks = self.blocks.as_mut_slice(&self.os);
        sort(blocks, |a, b| {
            (a.is_reachable(), stack(a), when(a)) < (b.is_reachable(), stack(b), when(b))
        });
        let mut groups = PageVec::new(Group {
            first: Event::default(),
            address: 0,
            blocks: 0,
            bytes: 0,
        });
        for block in blocks.iter().take_while(|block| !block.is_reachable()) {
            let last = groups.as_mut_slice(&self.os).last_mut();
            match last.filter(|group: &&mut Group| group.first.stack == block.allocated.stack) {
                Some(group) => {
                    group.blocks += 1;
                    group.bytes += block.size();
                }
                None => {
                    let group = Group {
                        first: block.allocated,
                        address: block.start,
                        blocks: 1,
                        bytes: block.size(),
                    };
                    if let Err(error) = groups.add(&self.os, group) {
                        groups.release(&self.os);
                        return Err(error);
                    }
                }
            }
        }
        sort(groups.as_mut_slice(&self.os), |a, b| {
            (b.bytes, b.blocks, a.first.when) < (a.bytes, a.blocks, b.first.when)
        });
        Ok(groups)
    }

    /// Gives the memory of the search back.
    pub fn end(mut self) {
        self.blocks.release(&self.os);
    }
}

/// Sorts in place, by a heap: neither the worst case nor a call of it needs more than it has.
fn sort<T: Copy>(values: &mut [T], less: impl Fn(&T, &T) -> bool) {
    let ordered = |pair: &[T]| match pair {
        [a, b] => !less(b, a),
        _ => true,
    };
    if values.windows(2).all(ordered) {
        return;
    }
    for root in (0..values.len() / 2).rev() {
        sink(values, root, &less);
    }
    let mut rest = values;
    while let Some(last) = rest.len().checked_sub(1) {
        exchange(rest, 0, last);
        let Some((_, before)) = rest.split_last_mut() else {
            return;
        };
        rest = before;
        sink(rest, 0, &less);
    }
}

/// Lets a value sink to its place in the heap.
fn sink<T: Copy>(values: &mut [T], mut at: usize, less: &impl Fn(&T, &T) -> bool) {
    loop {
        let left = 2 * at + 1;
        let (Some(value), Some(first)) = (values.get(at), values.get(left)) else {
            return;
        };
        let (child, greater) = match values.get(left + 1) {
            Some(second) if less(first, second) => (left + 1, second),
            _ => (left, first),
        };
        if !less(value, greater) {
            return;
        }
        exchange(values, at, child);
        at = child;
    }
}

fn exchange<T: Copy>(values: &mut [T], a: usize, b: usize) {
    if let (Some(&of_a), Some(&of_b)) = (values.get(a), values.get(b)) {
        if let Some(slot) = values.get_mut(a) {
            *slot = of_b;
        }
        if let Some(slot) = values.get_mut(b) {
            *slot = of_a;
        }
    }
}
