//! More than one thread: blocks that one allocates and another frees, and threads that come and
//! go. fencepost against the C library's malloc.
#![allow(missing_docs)] // What the macros of criterion make.

mod support;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use std::alloc::GlobalAlloc;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use support::{Block, FENCEPOST, Random, SYSTEM, give, take};

const PACK: usize = 100;
/// Packs on their way at once.
const AHEAD: usize = 64;

type Group<'a> = BenchmarkGroup<'a, WallTime>;

/// One thread allocates packs of blocks, another frees them. The empty packs travel back, so
/// that the blocks are all that is allocated.
fn one_way<A: GlobalAlloc + Sync>(a: &A, sizes: &[usize], packs: u64) -> Duration {
    let (full, incoming) = mpsc::sync_channel::<Vec<Block>>(AHEAD);
    let (empty, returned) = mpsc::sync_channel::<Vec<Block>>(AHEAD);
    for _ in 0..AHEAD {
        empty.send(Vec::with_capacity(PACK)).expect("room for all");
    }
    std::thread::scope(|scope| {
        let consumer = scope.spawn(move || {
            for mut pack in incoming {
                pack.drain(..).for_each(|block| give(a, block));
                // The producer may be done and gone.
                let _ = empty.send(pack);
            }
        });
        let start = Instant::now();
        for _ in 0..packs {
            let mut pack = returned.recv().expect("the consumer lives");
            pack.extend(sizes.iter().map(|size| take(a, *size)));
            full.send(pack).expect("the consumer lives");
        }
        drop(full);
        drop(returned);
        consumer.join().expect("no panic");
        start.elapsed()
    })
}

fn producer_consumer(c: &mut Criterion) {
    let mut random = Random::new();
    let mixed: Vec<usize> = (0..PACK).map(|_| 16 + random.below(1000)).collect();
    let mut group = c.benchmark_group("producer_consumer");
    group.throughput(Throughput::Elements(PACK as u64));
    for (name, sizes) in [("64", vec![64; PACK]), ("mixed", mixed)] {
        group.bench_function(format!("{name}/fencepost"), |b| {
            b.iter_custom(|packs| one_way(&FENCEPOST, &sizes, packs));
        });
        group.bench_function(format!("{name}/system"), |b| {
            b.iter_custom(|packs| one_way(&SYSTEM, &sizes, packs));
        });
    }
}

/// Threads that live for a few hundred blocks each, four at a time.
fn churn_with<A: GlobalAlloc + Sync>(group: &mut Group<'_>, name: &str, a: &A) {
    group.bench_function(name, |b| {
        b.iter(|| {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let mut random = Random::new();
                        let mut blocks = [Block::NONE; 200];
                        for block in &mut blocks {
                            *block = take(a, 16 + random.below(2000));
                        }
                        for block in blocks {
                            give(a, block);
                        }
                    });
                }
            });
        });
    });
}

fn churn(c: &mut Criterion) {
    let mut group = c.benchmark_group("thread_churn");
    group.throughput(Throughput::Elements(4));
    churn_with(&mut group, "fencepost", &FENCEPOST);
    churn_with(&mut group, "system", &SYSTEM);
}

criterion_group!(benches, producer_consumer, churn);
criterion_main!(benches);
