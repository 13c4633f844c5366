//! Loads of one thread in the manner of the well-known allocator benchmarks:
//! each stresses what one of them does, in a program of its own.

use std::cmp::Ordering;

use crate::Load;
use crate::block::{Block, Random, Words};

/// The loads of one thread.
pub const LOADS: &[Load] = &[
    Load {
        name: "loop-small",
        threads: 1,
        run: |p| loop_small(41, 13 * p),
    },
    Load {
        name: "slots",
        threads: 1,
        run: |p| slots(42, 180_000 * p),
    },
    Load {
        name: "lognormal",
        threads: 1,
        run: |p| lognormal(43, 200_000 * p),
    },
    Load {
        name: "bignum",
        threads: 1,
        run: bignum,
    },
    Load {
        name: "cubes",
        threads: 1,
        run: cubes,
    },
    Load {
        name: "huge-slots",
        threads: 1,
        run: huge_slots,
    },
];

/// A plain loop of malloc and free, one small size at a time: so many blocks,
/// then all of them back. Most of the time in it is the allocator's.
pub fn loop_small(seed: u64, rounds: u64) -> u64 {
    const SIZES: [usize; 10] = [16, 24, 40, 64, 100, 128, 256, 400, 700, 1024];
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let mut blocks = Vec::with_capacity(1600);
    for _ in 0..rounds {
        let tag = random.tag();
        for size in SIZES {
            for count in [1, 8, 25, 100, 400] {
                for _ in 0..400 / count {
                    for _ in 0..count {
                        blocks.push(Block::new(size, tag));
                    }
                    sum = blocks
                        .drain(..)
                        .fold(sum, |sum, block| sum.wrapping_add(block.free()));
                }
            }
        }
    }
    sum
}

/// Fills random slots of a small table: sizes up to 32 KiB, the larger the
/// rarer by the square, as a program's requests are.
pub fn slots(seed: u64, steps: u64) -> u64 {
    let mut random = Random::new(seed);
    let sizes: Vec<usize> = (0..2048)
        .map(|_| {
            // The inverse of the distribution: 1 - 1/x between 1 and 8192.
            let part = random.below(1 << 20) as f64 / f64::from(1 << 20);
            (4.0 / (1.0 - part * (1.0 - 1.0 / 8192.0))) as usize
        })
        .collect();
    let mut sum = 0u64;
    let mut table: Vec<Option<Block>> = (0..1024).map(|_| None).collect();
    for _ in 0..steps {
        let slot = random.below(table.len());
        if let Some(old) = table[slot].take() {
            sum = sum.wrapping_add(old.free());
        }
        let size = sizes[random.below(sizes.len())];
        table[slot] = Some(Block::new(size, random.tag()));
    }
    table
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// Many objects alive, whose sizes are log-normal about 48 bytes; a random one
/// goes or comes at each step, so that the live set wanders.
pub fn lognormal(seed: u64, steps: u64) -> u64 {
    let mut random = Random::new(seed);
    let sizes: Vec<usize> = (0..4096)
        .map(|_| {
            // The sum of twelve uniform numbers is as good as normal.
            let sum: usize = (0..12).map(|_| random.below(1 << 16)).sum();
            let normal = sum as f64 / f64::from(1 << 16) - 6.0;
            ((1.25 * normal + 48f64.ln()).exp() as usize).max(1)
        })
        .collect();
    let mut sum = 0u64;
    let mut table: Vec<Option<Block>> = (0..1 << 17).map(|_| None).collect();
    for _ in 0..steps {
        let slot = random.below(table.len());
        match table[slot].take() {
            Some(old) => sum = sum.wrapping_add(old.free()),
            None => {
                let size = sizes[random.below(sizes.len())];
                table[slot] = Some(Block::new(size, random.tag()));
            }
        }
    }
    table
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// Numbers of a few words, each result a block of its own.
struct Numbers {
    random: Random,
    sum: u64,
}

impl Numbers {
    fn free(&mut self, number: Words) {
        self.sum = self.sum.wrapping_add(number.free());
    }

    /// A number with as many words as it needs.
    fn make(&mut self, words: &[u32]) -> Words {
        let used = words
            .iter()
            .rposition(|&word| word != 0)
            .map_or(0, |p| p + 1);
        let mut number = Words::zero(used, self.random.tag());
        number.get_mut().copy_from_slice(&words[..used]);
        number
    }

    fn drawn(&mut self, words: usize) -> Words {
        let drawn: Vec<u32> = (0..words).map(|_| self.random.next() as u32 | 1).collect();
        self.make(&drawn)
    }

    fn multiply(&mut self, one: &Words, other: &Words) -> Words {
        let mut words = [0u32; 16];
        for (at, &left) in one.get().iter().enumerate() {
            let mut carry = 0u64;
            for (offset, &right) in other.get().iter().enumerate() {
                let digit = &mut words[at + offset];
                carry += u64::from(left) * u64::from(right) + u64::from(*digit);
                *digit = carry as u32;
                carry >>= 32;
            }
            words[at + other.get().len()] = carry as u32;
        }
        self.make(&words)
    }

    /// The difference; the first is not the smaller one.
    fn subtract(&mut self, one: &Words, other: &Words) -> Words {
        let mut words = [0u32; 16];
        let mut borrow = 0i64;
        for (at, &left) in one.get().iter().enumerate() {
            let right = other.get().get(at).copied().unwrap_or(0);
            borrow += i64::from(left) - i64::from(right);
            words[at] = borrow as u32;
            borrow >>= 32;
        }
        assert_eq!(borrow, 0, "the first number is not the smaller one");
        self.make(&words)
    }

    /// Without the zero bits at the end.
    fn odd_part(&mut self, number: &Words) -> Words {
        let mut words = [0u32; 16];
        let old = number.get();
        let skip = old.iter().position(|&word| word != 0).unwrap_or(0);
        let bits = old.get(skip).map_or(0, |word| word.trailing_zeros());
        for (at, &word) in old[skip..].iter().enumerate() {
            let next = old.get(skip + at + 1).copied().unwrap_or(0);
            let pair = (u64::from(next) << 32) | u64::from(word);
            words[at] = (pair >> bits) as u32;
        }
        self.make(&words)
    }

    /// The greatest common divisor of two odd numbers.
    fn divisor(&mut self, one: &Words, other: &Words) -> Words {
        let (mut one, mut other) = (self.make(one.get()), self.make(other.get()));
        loop {
            match compare(&one, &other) {
                Ordering::Equal => {
                    self.free(other);
                    return one;
                }
                Ordering::Less => std::mem::swap(&mut one, &mut other),
                Ordering::Greater => {}
            }
            let difference = self.subtract(&one, &other);
            let next = self.odd_part(&difference);
            self.free(difference);
            self.free(std::mem::replace(&mut one, next));
        }
    }
}

fn compare(one: &Words, other: &Words) -> Ordering {
    let (one, other) = (one.get(), other.get());
    one.len()
        .cmp(&other.len())
        .then_with(|| one.iter().rev().cmp(other.iter().rev()))
}

/// Arithmetic on numbers of up to a few hundred bits: very many tiny blocks
/// that hardly outlive the next step, among a few that stay.
fn bignum(percent: u64) -> u64 {
    let mut numbers = Numbers {
        random: Random::new(44),
        sum: 0,
    };
    let mut kept: Vec<Words> = Vec::new();
    for _ in 0..500 * percent {
        let (one, other) = (numbers.drawn(4), numbers.drawn(5));
        let factor = numbers.drawn(2);
        let divisor = numbers.divisor(&one, &other);
        let (left, right) = (
            numbers.multiply(&one, &factor),
            numbers.multiply(&other, &factor),
        );
        let of_products = numbers.divisor(&left, &right);
        let expected = numbers.multiply(&divisor, &factor);
        assert_eq!(
            of_products.get(),
            expected.get(),
            "the arithmetic is wrong: a number was overwritten"
        );
        for done in [one, other, divisor, left, right, of_products, expected] {
            numbers.free(done);
        }
        kept.push(factor);
        if kept.len() > 500 {
            let old = kept.swap_remove(numbers.random.below(500));
            numbers.free(old);
        }
    }
    for number in kept {
        numbers.free(number);
    }
    numbers.sum
}

/// Covers of sets, cut with one another and thinned out: lists of small arrays
/// of a few lengths, each step of which makes a new list and drops the old.
fn cubes(percent: u64) -> u64 {
    let mut random = Random::new(45);
    let mut sum = 0u64;
    for round in 0..30 * percent {
        let words = 2 + round as usize % 19;
        let draw = |random: &mut Random| {
            let mut set = Words::zero(words, random.tag());
            for word in set.get_mut() {
                *word = (random.next() | random.next()) as u32;
            }
            set
        };
        let mut cover: Vec<Words> = (0..24).map(|_| draw(&mut random)).collect();
        for _ in 0..6 {
            let others: Vec<Words> = (0..24).map(|_| draw(&mut random)).collect();
            let mut next = Vec::new();
            for one in &cover {
                for other in &others {
                    let mut both = Words::zero(words, random.tag());
                    let mut members = 0;
                    for ((new, left), right) in
                        both.get_mut().iter_mut().zip(one.get()).zip(other.get())
                    {
                        *new = left & right;
                        members += new.count_ones();
                    }
                    // About one in sixteen is kept.
                    if (members ^ both.get()[0]).is_multiple_of(16) {
                        next.push(both);
                    } else {
                        sum = sum.wrapping_add(both.free());
                    }
                }
            }
            let beyond = next.split_off(next.len().min(60));
            for old in cover.drain(..).chain(others).chain(beyond) {
                sum = sum.wrapping_add(old.free());
            }
            cover = next;
        }
        for set in cover {
            sum = sum
                .wrapping_add(u64::from(set.get()[0]))
                .wrapping_add(set.free());
        }
    }
    sum
}

/// Very large blocks of which a program uses a part, in twenty slots.
fn huge_slots(percent: u64) -> u64 {
    let mut random = Random::new(46);
    let mut sum = 0u64;
    let mut slots: Vec<Option<Block>> = (0..20).map(|_| None).collect();
    for _ in 0..60 * percent {
        let slot = random.below(slots.len());
        if let Some(old) = slots[slot].take() {
            sum = sum.wrapping_add(old.free());
        }
        let size = (5 << 20) + random.below(20 << 20);
        let mut block = Block::new(size, random.tag());
        block.touch_every(128 << 10);
        slots[slot] = Some(block);
    }
    slots
        .into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}
