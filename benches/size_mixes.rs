//! Mixes of sizes as programs have them, zeroed memory, growing vectors, large buffers.
//! fencepost against the C library's malloc.
#![allow(missing_docs)] // What the macros of criterion make.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;
use support::{Block, FENCEPOST, Random, SYSTEM, give, resize, take, take_zeroed, touch};

const ROUND: usize = 500;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// Random slots of a working set are replaced.
fn mix<A: GlobalAlloc>(group: &mut Group<'_>, name: &str, a: &A, sizes: &[usize], slots: usize) {
    group.bench_function(name, |b| {
        let mut blocks = vec![None; slots];
        let mut random = Random::new();
        b.iter(|| {
            for size in sizes {
                let slot = &mut blocks[random.below(slots)];
                if let Some(old) = slot.replace(take(a, *size)) {
                    give(a, old);
                }
            }
        });
        blocks
            .into_iter()
            .flatten()
            .for_each(|block| give(a, block));
    });
}

fn mixes(c: &mut Criterion) {
    let mut random = Random::new();
    for (name, most, slots) in [
        ("small", 128, 4000),
        ("to1k", 1 << 10, 2000),
        ("to32k", 32 << 10, 500),
        ("to256k", 256 << 10, 100),
    ] {
        let sizes = random.sizes(16, most, ROUND);
        let mut group = c.benchmark_group(format!("mix_{name}"));
        group.throughput(Throughput::Elements(ROUND as u64));
        mix(&mut group, "fencepost", &FENCEPOST, &sizes, slots);
        mix(&mut group, "system", &SYSTEM, &sizes, slots);
    }
}

fn zeroed_with<A: GlobalAlloc>(group: &mut Group<'_>, name: &str, a: &A, size: usize) {
    group.bench_function(format!("{size}/{name}"), |b| {
        let mut blocks = [Block::NONE; 8];
        b.iter(|| {
            for block in &mut blocks {
                *block = take_zeroed(a, size);
            }
            for block in blocks {
                give(a, block);
            }
        });
    });
}

fn zeroed(c: &mut Criterion) {
    let mut group = c.benchmark_group("calloc");
    group.throughput(Throughput::Elements(8));
    for size in [64, 1000, 20_000, 200_000, 4 << 20] {
        zeroed_with(&mut group, "fencepost", &FENCEPOST, size);
        zeroed_with(&mut group, "system", &SYSTEM, size);
    }
}

/// Vectors that grow side by side by doubling, as `Vec::push` makes them.
fn growing_with<A: GlobalAlloc>(group: &mut Group<'_>, name: &str, a: &A, to: usize) {
    group.bench_function(format!("{to}/{name}"), |b| {
        b.iter(|| {
            let mut vectors = [take(a, 16), take(a, 16), take(a, 16), take(a, 16)];
            let mut size = 32;
            while size <= to {
                for vector in &mut vectors {
                    *vector = resize(a, *vector, size);
                }
                size *= 2;
            }
            for vector in vectors {
                give(a, vector);
            }
        });
    });
}

fn growing(c: &mut Criterion) {
    let mut group = c.benchmark_group("realloc_growing");
    for to in [1 << 10, 64 << 10, 4 << 20] {
        growing_with(&mut group, "fencepost", &FENCEPOST, to);
        growing_with(&mut group, "system", &SYSTEM, to);
    }
}

/// A buffer is made, every page of it written, and freed: page faults decide.
fn large_with<A: GlobalAlloc>(group: &mut Group<'_>, name: &str, a: &A, size: usize) {
    group.bench_function(format!("{size}/{name}"), |b| {
        b.iter(|| {
            let block = take(a, size);
            touch(block);
            give(a, block);
        });
    });
}

fn large(c: &mut Criterion) {
    let mut group = c.benchmark_group("large_buffer");
    for size in [100_000, 300_000, 2 << 20, 20 << 20] {
        large_with(&mut group, "fencepost", &FENCEPOST, size);
        large_with(&mut group, "system", &SYSTEM, size);
    }
}

criterion_group!(benches, mixes, zeroed, growing, large);
criterion_main!(benches);
