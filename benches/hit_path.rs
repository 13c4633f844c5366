//! The hit path: calls that the thread's cache serves. fencepost against the C library's malloc.
#![allow(missing_docs)] // What the macros of criterion make.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;
use support::{Block, FENCEPOST, Random, SYSTEM, give, take};

const BATCH: usize = 1000;

fn each(group: &mut BenchmarkGroup<'_, WallTime>, id: &str, f: impl Fn(&mut dyn Bench)) {
    group.bench_function(format!("{id}/fencepost"), |b| {
        f(&mut Runner(&FENCEPOST, b));
    });
    group.bench_function(format!("{id}/system"), |b| f(&mut Runner(&SYSTEM, b)));
}

/// A benchmark body, once per allocator, compiled for it.
trait Bench {
    fn pair(&mut self, size: usize);
    fn batch(&mut self, order: &[usize], sizes: &[usize]);
    fn replace(&mut self, slots: usize, sizes: &[usize]);
}

struct Runner<'r, 'b, A: 'static>(&'static A, &'r mut criterion::Bencher<'b>);

impl<A: GlobalAlloc> Bench for Runner<'_, '_, A> {
    fn pair(&mut self, size: usize) {
        let a = self.0;
        self.1.iter(|| give(a, take(a, size)));
    }

    fn batch(&mut self, order: &[usize], sizes: &[usize]) {
        let a = self.0;
        let mut blocks = vec![Block::NONE; sizes.len()];
        self.1.iter(|| {
            for (block, size) in blocks.iter_mut().zip(sizes) {
                *block = take(a, *size);
            }
            for index in order {
                give(a, blocks[*index]);
            }
        });
    }

    fn replace(&mut self, slots: usize, sizes: &[usize]) {
        let a = self.0;
        let mut blocks: Vec<Block> = (0..slots)
            .map(|i| take(a, sizes[i % sizes.len()]))
            .collect();
        let mut random = Random::new();
        self.1.iter(|| {
            for size in sizes {
                let slot = random.below(slots);
                give(a, blocks[slot]);
                blocks[slot] = take(a, *size);
            }
        });
        for block in blocks {
            give(a, block);
        }
    }
}

fn pairs(c: &mut Criterion) {
    let mut group = c.benchmark_group("pair");
    for size in [16, 64, 256, 1000, 4000, 16_000, 60_000] {
        each(&mut group, &size.to_string(), |b| b.pair(size));
    }
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch1000");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut random = Random::new();
    let sizes: Vec<usize> = (0..BATCH).map(|_| 16 + random.below(1008)).collect();
    let first_in: Vec<usize> = (0..BATCH).collect();
    let last_in: Vec<usize> = (0..BATCH).rev().collect();
    let mut shuffled = first_in.clone();
    for i in (1..BATCH).rev() {
        shuffled.swap(i, random.below(i + 1));
    }
    for (name, order) in [("lifo", last_in), ("fifo", first_in), ("random", shuffled)] {
        each(&mut group, name, |b| b.batch(&order, &sizes));
        each(&mut group, &format!("{name}64"), |b| {
            b.batch(&order, &[64; BATCH])
        });
    }
}

fn replacement(c: &mut Criterion) {
    let mut group = c.benchmark_group("replace");
    group.throughput(Throughput::Elements(BATCH as u64));
    let mut random = Random::new();
    let mixed: Vec<usize> = (0..BATCH).map(|_| 16 + random.below(1008)).collect();
    let small: Vec<usize> = (0..BATCH).map(|_| 16 + random.below(112)).collect();
    each(&mut group, "1000", |b| b.replace(1000, &mixed));
    each(&mut group, "1000small", |b| b.replace(1000, &small));
    each(&mut group, "100000", |b| b.replace(100_000, &mixed));
}

criterion_group!(benches, pairs, batches, replacement);
criterion_main!(benches);
