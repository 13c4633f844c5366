//! The search for lost blocks, on generated graphs, against reachability as it is defined.

use std::collections::{BTreeMap, BTreeSet};

use fencepost::guard::{Block, Event, Search, StackId};
use fencepost::os::Kernel;

/// Numbers that look random; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % below
    }
}

/// One block of a made-up heap: where it lies, what is written in it, who allocated it.
#[derive(Clone, Debug)]
struct Made {
    start: usize,
    size: usize,
    words: Vec<usize>,
    stack: u32,
    when: u64,
}

/// What is reached, by the definition: any word from `start` to `start + size`, over and over
/// until nothing changes.
fn oracle(blocks: &[Made], roots: &[usize]) -> BTreeSet<usize> {
    let hit =
        |word: usize| move |block: &&Made| block.start <= word && word <= block.start + block.size;
    let mut reached = BTreeSet::new();
    let mut words: Vec<usize> = roots.to_vec();
    loop {
        let mut fresh = Vec::new();
        for word in words {
            for block in blocks.iter().filter(hit(word)) {
                if reached.insert(block.start) {
                    fresh.extend(&block.words);
                }
            }
        }
        if fresh.is_empty() {
            return reached;
        }
        words = fresh;
    }
}

/// A heap of `count` blocks that point to each other, `roots` of them also from outside.
fn heap(dice: &mut Dice, count: usize, roots: usize) -> (Vec<Made>, Vec<usize>) {
    let mut at = 0x10_0000;
    let mut blocks = Vec::new();
    for number in 0..count {
        // Some touch the one before, some are empty.
        at += [0, 1, 16, 4096][dice.roll(4)];
        let size = [0, 1, 8, 24, 100, 5000][dice.roll(6)].max(usize::from(number == 0));
        if size == 0 {
            at += 1; // Two blocks do not begin at one address.
        }
        blocks.push(Made {
            start: at,
            size,
            words: Vec::new(),
            stack: dice.roll(5) as u32 + 1,
            when: number as u64 + 1,
        });
        at += size.max(1);
    }
    let anywhere = |dice: &mut Dice, blocks: &[Made]| {
        let block = &blocks[dice.roll(blocks.len())];
        match dice.roll(8) {
            0..4 => block.start,
            4 => block.start + dice.roll(block.size + 1),
            5 => block.start + block.size,
            6 => block.start.wrapping_sub(1 + dice.roll(3)),
            _ => [0, usize::MAX, 0xffff, at + dice.roll(100)][dice.roll(4)],
        }
    };
    for number in 0..count {
        let room = blocks[number].size / size_of::<usize>();
        let many = if room == 0 {
            0
        } else {
            dice.roll(room.min(4) + 1)
        };
        let words = (0..many).map(|_| anywhere(dice, &blocks)).collect();
        blocks[number].words = words;
    }
    let roots = (0..roots).map(|_| anywhere(dice, &blocks)).collect();
    (blocks, roots)
}

fn search<'k>(os: &'k Kernel, blocks: &[Made], roots: &[usize]) -> Search<&'k Kernel> {
    let contents: BTreeMap<usize, &Made> = blocks.iter().map(|b| (b.start, b)).collect();
    let mut search = Search::new(os);
    for block in blocks {
        let event = Event {
            when: block.when,
            thread: 1,
            stack: StackId(block.stack),
        };
        let block = Block::new(block.start, block.size, event);
        search.add(block).expect("there is memory");
    }
    search.start();
    for &word in roots {
        search.word(word);
    }
    while let Some(block) = search.take() {
        for &word in &contents[&block.start].words {
            search.word(word);
        }
    }
    search
}

fn shuffle(dice: &mut Dice, blocks: &mut [Made]) {
    for last in (1..blocks.len()).rev() {
        blocks.swap(last, dice.roll(last + 1));
    }
}

#[test]
fn what_is_reached_is_what_the_definition_says() {
    let os = Kernel::new();
    let (mut lost, mut kept) = (0, 0);
    for seed in 1..=400 {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let count = 1 + dice.roll(60);
        let roots = dice.roll(4);
        let (mut blocks, roots) = heap(&mut dice, count, roots);
        if seed % 2 == 0 {
            shuffle(&mut dice, &mut blocks);
        }
        let expected = oracle(&blocks, &roots);
        let search = search(&os, &blocks, &roots);
        let reached: BTreeSet<usize> = search
            .blocks()
            .iter()
            .filter(|block| block.is_reachable())
            .map(|block| block.start)
            .collect();
        assert_eq!(reached, expected, "seed {seed}: {blocks:x?} {roots:x?}");
        let (lost_sum, kept_sum) = search.sums();
        let size = |reachable: bool| -> usize {
            let of = blocks
                .iter()
                .filter(|b| expected.contains(&b.start) == reachable);
            of.map(|b| b.size).sum()
        };
        assert_eq!(lost_sum.blocks, blocks.len() - expected.len());
        assert_eq!(kept_sum.blocks, expected.len());
        assert_eq!((lost_sum.bytes, kept_sum.bytes), (size(false), size(true)));
        lost += lost_sum.blocks;
        kept += kept_sum.blocks;
        search.end();
    }
    // The heaps were neither all lost nor all kept.
    assert!(lost > 1000 && kept > 1000, "{lost} lost, {kept} kept");
}

#[test]
fn groups_are_by_stack_and_the_largest_comes_first() {
    let os = Kernel::new();
    let mut seen = 0;
    for seed in 1..=200 {
        let mut dice = Dice(seed * 0x85eb_ca6b);
        let count = 1 + dice.roll(80);
        let (mut blocks, roots) = heap(&mut dice, count, 2);
        shuffle(&mut dice, &mut blocks);
        let reached = oracle(&blocks, &roots);
        // Bytes, blocks, and the earliest allocation with its address, by stack.
        let mut by_stack: BTreeMap<u32, (usize, usize, u64, usize)> = BTreeMap::new();
        for block in blocks.iter().filter(|b| !reached.contains(&b.start)) {
            let group = by_stack.entry(block.stack).or_insert((0, 0, u64::MAX, 0));
            group.0 += block.size;
            group.1 += 1;
            if block.when < group.2 {
                (group.2, group.3) = (block.when, block.start);
            }
        }
        let mut expected: Vec<_> = by_stack
            .into_iter()
            .map(|(stack, (bytes, count, when, start))| (bytes, count, when, start, stack))
            .collect();
        expected.sort_by_key(|&(bytes, count, when, ..)| {
            (usize::MAX - bytes, usize::MAX - count, when)
        });
        let mut search = search(&os, &blocks, &roots);
        let mut groups = search.groups().expect("there is memory");
        let found: Vec<_> = groups
            .as_slice(&&os)
            .iter()
            .map(|g| (g.bytes, g.blocks, g.first.when, g.address, g.first.stack.0))
            .collect();
        assert_eq!(found, expected, "seed {seed}");
        seen += found.len();
        groups.release(&&os);
        search.end();
    }
    assert!(seen > 200, "{seen} groups");
}

#[test]
fn a_ring_of_lost_blocks_is_lost_and_a_long_chain_is_not() {
    let os = Kernel::new();
    let count = 300_000;
    let made = |number: usize, to: usize| Made {
        start: 0x10_0000 + 64 * number,
        size: 16,
        words: vec![0x10_0000 + 64 * to],
        stack: 1,
        when: number as u64 + 1,
    };
    // The first half is a chain, each to the next; the second half a ring.
    let half = count / 2;
    let blocks: Vec<Made> = (0..count)
        .map(|n| match n {
            n if n + 1 == half => made(n, 0),
            n if n + 1 == count => made(n, half),
            n => made(n, n + 1),
        })
        .collect();
    // In reverse, so that they have to be sorted.
    let reversed: Vec<Made> = blocks.iter().rev().cloned().collect();
    let search = search(&os, &reversed, &[blocks[0].start]);
    let (lost, reachable) = search.sums();
    assert_eq!((lost.blocks, lost.bytes), (half, half * 16));
    assert_eq!((reachable.blocks, reachable.bytes), (half, half * 16));
    search.end();
}
