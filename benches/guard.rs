//! Guard mode: an allocation and a free of guarded objects, by size and by number of threads,
//! with a thousand others alive.
#![allow(missing_docs)] // What the macros of criterion make.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fencepost::Fencepost;
use std::time::{Duration, Instant};
use support::{Block, Random, give, take};

static GUARDED: Fencepost = Fencepost::new().guarded(1);

const ALIVE: usize = 1000;

/// Frees the oldest of the live objects and allocates another, `pairs` times.
fn replace(sizes: &[usize], pairs: u64) -> Duration {
    let mut alive: Vec<Block> = (0..ALIVE)
        .map(|i| take(&GUARDED, sizes[i % sizes.len()]))
        .collect();
    let start = Instant::now();
    for pair in 0..pairs as usize {
        let slot = &mut alive[pair % ALIVE];
        give(&GUARDED, *slot);
        *slot = take(&GUARDED, sizes[pair % sizes.len()]);
    }
    let took = start.elapsed();
    alive.into_iter().for_each(|block| give(&GUARDED, block));
    took
}

fn by_size(c: &mut Criterion) {
    give(&GUARDED, take(&GUARDED, 100));
    let totals = Fencepost::stats().guard;
    assert!(totals.guarded > 0, "nothing is guarded: {totals:?}");
    let mut group = c.benchmark_group("guarded_pair");
    group.throughput(Throughput::Elements(1));
    for size in [16, 100, 1024, 4096, 20_000, 1 << 20] {
        group.bench_function(size.to_string(), |b| {
            b.iter_custom(|pairs| replace(&[size], pairs));
        });
    }
    let mixed = Random::new().sizes(16, 1024, 4096);
    group.bench_function("mixed", |b| b.iter_custom(|pairs| replace(&mixed, pairs)));
    group.finish();
}

fn by_threads(c: &mut Criterion) {
    let mixed = &Random::new().sizes(16, 1024, 4096);
    let mut group = c.benchmark_group("guarded_pair_threads");
    group.throughput(Throughput::Elements(1));
    for threads in [1, 2, 4] {
        group.bench_function(threads.to_string(), |b| {
            // All threads' pairs over the time of all: the time of a pair to the process.
            b.iter_custom(|pairs| {
                let start = Instant::now();
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| replace(mixed, pairs.div_ceil(threads)));
                    }
                });
                start.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, by_size, by_threads);

criterion_main!(benches);
