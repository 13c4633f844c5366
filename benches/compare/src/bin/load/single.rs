//! The loads of one thread.

use crate::Load;
use crate::block::{Block, Random};

/// The loads of one thread.
pub const LOADS: &[Load] = &[
    Load {
        name: "replace-128",
        threads: 1,
        run: |p| replace(1, 50_000, 16, 128, 90_000 * p),
    },
    Load {
        name: "replace-1k",
        threads: 1,
        run: |p| replace(2, 20_000, 16, 1024, 130_000 * p),
    },
    Load {
        name: "replace-32k",
        threads: 1,
        run: |p| replace(3, 4_000, 16, 32 << 10, 70_000 * p),
    },
    Load {
        name: "replace-256k",
        threads: 1,
        run: |p| replace(4, 600, 1024, 256 << 10, 15_000 * p),
    },
    Load {
        name: "batch-lifo",
        threads: 1,
        run: |p| batches(5, Order::Lifo, 40 * p),
    },
    Load {
        name: "batch-fifo",
        threads: 1,
        run: |p| batches(6, Order::Fifo, 40 * p),
    },
    Load {
        name: "batch-random",
        threads: 1,
        run: |p| batches(7, Order::Random, 35 * p),
    },
    Load {
        name: "fragmentation",
        threads: 1,
        run: fragmentation,
    },
    Load {
        name: "growing-vectors",
        threads: 1,
        run: growing_vectors,
    },
    Load {
        name: "realloc-large",
        threads: 1,
        run: realloc_large,
    },
    Load {
        name: "large-buffers",
        threads: 1,
        run: large_buffers,
    },
    Load {
        name: "calloc",
        threads: 1,
        run: calloc,
    },
    Load {
        name: "aligned",
        threads: 1,
        run: aligned,
    },
    Load {
        name: "binary-trees",
        threads: 1,
        run: |p| trees(14, 13, 4 * p),
    },
    Load {
        name: "shbench-1",
        threads: 1,
        run: |p| shbench(15, 70 * p),
    },
    Load {
        name: "realloc-small",
        threads: 1,
        run: realloc_small,
    },
];

/// Replaces random slots of a table: the steady state of a long-lived program.
pub fn replace(seed: u64, slots: usize, low: usize, high: usize, steps: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let mut table: Vec<Option<Block>> = (0..slots).map(|_| None).collect();
    for _ in 0..steps {
        let slot = random.below(slots);
        if let Some(old) = table[slot].take() {
            sum = sum.wrapping_add(old.free());
        }
        let mut block = Block::new(random.size(low, high), random.tag());
        // A program writes what it asks for: every page of it is present.
        block.touch();
        table[slot] = Some(block);
    }
    table
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// The order in which a batch is freed.
#[derive(Clone, Copy)]
pub enum Order {
    /// Last allocated, first freed.
    Lifo,
    /// First allocated, first freed.
    Fifo,
    /// Any order.
    Random,
}

/// Allocates a batch of small blocks and frees all of it in one order.
pub fn batches(seed: u64, order: Order, rounds: u64) -> u64 {
    const BATCH: usize = 1000;
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let mut batch = Vec::with_capacity(16 * BATCH);
    for round in 0..rounds {
        // Every eighth batch is larger than what a cache would hold.
        let length = if round % 8 == 0 { 16 * BATCH } else { BATCH };
        for _ in 0..length {
            batch.push(Block::new(random.size(16, 512), random.tag()));
        }
        match order {
            Order::Lifo => batch.reverse(),
            Order::Fifo => {}
            Order::Random => random.shuffle(&mut batch),
        }
        sum = batch
            .drain(..)
            .fold(sum, |sum, block| sum.wrapping_add(block.free()));
    }
    sum
}

/// Fills the heap, frees most of it here and there, then asks for blocks of
/// another size that have to find room between the survivors.
fn fragmentation(percent: u64) -> u64 {
    let mut random = Random::new(8);
    let mut sum = 0u64;
    for round in 0..percent.div_ceil(3) {
        let scale = 1 + (round as usize % 4);
        let mut live: Vec<Block> = Vec::new();
        for _ in 0..24_000 {
            live.push(Block::new(
                random.size(16 * scale, 1024 * scale),
                random.tag(),
            ));
        }
        for phase in 0..4 {
            random.shuffle(&mut live);
            for block in live.drain(6_000..) {
                sum = sum.wrapping_add(block.free());
            }
            for _ in 0..18_000 {
                live.push(Block::new(random.size(24 << phase, 2048), random.tag()));
            }
        }
        sum = live
            .drain(..)
            .fold(sum, |sum, block| sum.wrapping_add(block.free()));
    }
    sum
}

/// Grows vectors as pushes do, several at a time, so that each is in the way
/// of the others; what is new of a vector is written after each step.
fn growing_vectors(percent: u64) -> u64 {
    let mut random = Random::new(9);
    let mut sum = 0u64;
    for _ in 0..4 * percent {
        let mut vectors: Vec<(Option<Block>, usize, usize)> = (0..8)
            .map(|_| {
                let limit = random.size(4096, 4 << 20);
                (Some(Block::new(64, random.tag())), 64, limit)
            })
            .collect();
        while !vectors.is_empty() {
            let chosen = random.below(vectors.len());
            let (block, size, limit) = &mut vectors[chosen];
            if *size >= *limit {
                let (block, ..) = vectors.swap_remove(chosen);
                sum = block
                    .into_iter()
                    .fold(sum, |sum, block| sum.wrapping_add(block.free()));
                continue;
            }
            let grown = 2 * *size;
            *block = block.take().map(|old| {
                let mut new = old.resize(grown);
                new.fill_from(*size);
                new
            });
            *size = grown;
        }
    }
    sum
}

/// Grows one very large block by steps that have to move or remap it.
fn realloc_large(percent: u64) -> u64 {
    let mut random = Random::new(10);
    let mut sum = 0u64;
    for _ in 0..percent.div_ceil(10) {
        let mut block = Block::new(1 << 20, random.tag());
        // Something that keeps the block from simply growing where it is.
        let mut neighbours = Vec::new();
        for megabytes in (2..=96).step_by(2) {
            block = block.resize(megabytes << 20);
            block.touch();
            neighbours.push(Block::new(64 << 10, random.tag()));
        }
        sum = sum.wrapping_add(block.free());
        sum = neighbours
            .drain(..)
            .fold(sum, |sum, block| sum.wrapping_add(block.free()));
    }
    sum
}

/// Strings that grow by a few bytes at a time and are cut to length at last.
fn realloc_small(percent: u64) -> u64 {
    let mut random = Random::new(16);
    let mut sum = 0u64;
    let mut strings: Vec<(Option<Block>, usize)> = (0..1000).map(|_| (None, 0)).collect();
    for _ in 0..65_000 * percent {
        let chosen = random.below(strings.len());
        let (string, size) = &mut strings[chosen];
        let Some(block) = string.take() else {
            *size = 16 + random.below(48);
            *string = Some(Block::new(*size, random.tag()));
            continue;
        };
        if *size > 2000 || random.below(24) == 0 {
            sum = sum.wrapping_add(block.resize(*size - *size / 8).free());
            continue;
        }
        *size += 8 + random.below(1 + *size / 2);
        *string = Some(block.resize(*size));
    }
    strings
        .into_iter()
        .filter_map(|(string, _)| string)
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// Takes, fills and frees large buffers in a loop, as readers of files and
/// images do; a few of them live at a time.
fn large_buffers(percent: u64) -> u64 {
    let mut random = Random::new(11);
    let mut sum = 0u64;
    let mut slots: Vec<Option<Block>> = (0..6).map(|_| None).collect();
    for _ in 0..12 * percent {
        let slot = random.below(slots.len());
        if let Some(old) = slots[slot].take() {
            sum = sum.wrapping_add(old.free());
        }
        let mut buffer = Block::new(random.size(64 << 10, 16 << 20), random.tag());
        buffer.touch();
        slots[slot] = Some(buffer);
    }
    slots
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// Zeroed blocks from small to large, a few of them alive at a time.
pub fn calloc_slots(seed: u64, steps: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let mut slots: Vec<Option<Block>> = (0..2048).map(|_| None).collect();
    for step in 0..steps {
        let slot = random.below(slots.len());
        if let Some(old) = slots[slot].take() {
            sum = sum.wrapping_add(old.free());
        }
        let high = if step % 64 == 0 { 256 << 10 } else { 4096 };
        let mut block = Block::zeroed(random.size(16, high), random.tag());
        block.fill();
        slots[slot] = Some(block);
    }
    slots
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

fn calloc(percent: u64) -> u64 {
    calloc_slots(12, 28_000 * percent)
}

/// Requests with alignments from 32 bytes to a page.
fn aligned(percent: u64) -> u64 {
    let mut random = Random::new(13);
    let mut sum = 0u64;
    let mut slots: Vec<Option<Block>> = (0..4096).map(|_| None).collect();
    for _ in 0..25_000 * percent {
        let slot = random.below(slots.len());
        if let Some(old) = slots[slot].take() {
            sum = sum.wrapping_add(old.free());
        }
        let alignment = 32 << random.below(8);
        let size = random.size(16, 2048);
        slots[slot] = Some(Block::aligned(alignment, size, random.tag()));
    }
    slots
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

struct Node {
    block: Block,
    children: Option<Box<(Node, Node)>>,
}

impl Node {
    fn grow(random: &mut Random, depth: u32) -> Node {
        let block = Block::new(32 + random.below(33), random.tag());
        let children = (depth > 0)
            .then(|| Box::new((Node::grow(random, depth - 1), Node::grow(random, depth - 1))));
        Node { block, children }
    }

    fn fell(self, sum: &mut u64) {
        if let Some(children) = self.children {
            let (left, right) = *children;
            left.fell(sum);
            right.fell(sum);
        }
        *sum = sum.wrapping_add(self.block.free());
    }
}

/// Builds and fells binary trees while one long-lived tree stands.
pub fn trees(seed: u64, depth: u32, rounds: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let standing = Node::grow(&mut random, depth + 2);
    for _ in 0..rounds {
        Node::grow(&mut random, depth).fell(&mut sum);
        for _ in 0..64 {
            Node::grow(&mut random, depth - 6).fell(&mut sum);
        }
    }
    standing.fell(&mut sum);
    sum
}

/// Small blocks whose lives overlap in runs, in the manner of shbench: a third
/// is freed at once, a third after its run, a third much later.
pub fn shbench(seed: u64, rounds: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let mut late: std::collections::VecDeque<Block> = std::collections::VecDeque::new();
    let mut run = Vec::new();
    for _ in 0..rounds {
        for step in 0..2_000 {
            let high = if step % 10 == 0 { 1000 } else { 120 };
            let block = Block::new(8 + random.below(high), random.tag());
            match step % 3 {
                0 => sum = sum.wrapping_add(block.free()),
                1 => run.push(block),
                _ => late.push_back(block),
            }
        }
        sum = run
            .drain(..)
            .fold(sum, |sum, block| sum.wrapping_add(block.free()));
        while late.len() > 20_000 {
            if let Some(block) = late.pop_front() {
                sum = sum.wrapping_add(block.free());
            }
        }
    }
    late.into_iter()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}
