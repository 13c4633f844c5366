//! The loads of two threads.

use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::Load;
use crate::block::{Block, Random};
use crate::single::{Order, batches, calloc_slots, replace, shbench, trees};

/// The loads of two threads.
pub const LOADS: &[Load] = &[
    Load {
        name: "replace-1k-2t",
        threads: 2,
        run: |p| twice(21, |seed| replace(seed, 10_000, 16, 1024, 65_000 * p)),
    },
    Load {
        name: "replace-32k-2t",
        threads: 2,
        run: |p| twice(22, |seed| replace(seed, 2_000, 16, 32 << 10, 25_000 * p)),
    },
    Load {
        name: "batch-random-2t",
        threads: 2,
        run: |p| twice(23, |seed| batches(seed, Order::Random, 16 * p)),
    },
    Load {
        name: "calloc-2t",
        threads: 2,
        run: |p| twice(24, |seed| calloc_slots(seed, 14_000 * p)),
    },
    Load {
        name: "binary-trees-2t",
        threads: 2,
        run: |p| twice(25, |seed| trees(seed, 12, 3 * p)),
    },
    Load {
        name: "shbench-2t",
        threads: 2,
        run: |p| twice(26, |seed| shbench(seed, 35 * p)),
    },
    Load {
        name: "producer-consumer",
        threads: 2,
        run: producer_consumer,
    },
    Load {
        name: "pipeline-32k",
        threads: 2,
        run: pipeline,
    },
    Load {
        name: "exchange",
        threads: 2,
        run: exchange,
    },
    Load {
        name: "thread-churn",
        threads: 2,
        run: thread_churn,
    },
    Load {
        name: "larson",
        threads: 2,
        run: |p| larson(2, 8_000 * p),
    },
    Load {
        name: "replace-256k-2t",
        threads: 2,
        run: |p| twice(27, |seed| replace(seed, 300, 1024, 256 << 10, 7_000 * p)),
    },
];

/// The same body in two threads with seeds of their own.
fn twice(seed: u64, body: impl Fn(u64) -> u64 + Sync) -> u64 {
    together(2, seed, |seed, _| body(seed))
}

/// The same body in several threads, the calling one among them; each has a
/// seed of its own and knows its number.
pub fn together(threads: usize, seed: u64, body: impl Fn(u64, usize) -> u64 + Sync) -> u64 {
    let body = &body;
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .map(|number| scope.spawn(move || body(seed + 100 * number as u64, number)))
            .collect();
        let own = body(seed + 100 * threads as u64, 0);
        others.into_iter().fold(own, |sum, other| {
            sum.wrapping_add(other.join().expect("the other threads finish"))
        })
    })
}

/// One thread allocates, the other frees; `low..=high` are the sizes.
fn handed_over(seed: u64, low: usize, high: usize, batch: usize, batches: u64) -> u64 {
    let (sender, receiver) = sync_channel::<Vec<Block>>(8);
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut random = Random::new(seed);
            for _ in 0..batches {
                let blocks = (0..batch)
                    .map(|_| {
                        let mut block = Block::new(random.size(low, high), random.tag());
                        block.touch();
                        block
                    })
                    .collect();
                sender.send(blocks).expect("the consumer is still there");
            }
        });
        let mut sum = 0u64;
        for blocks in receiver {
            sum = blocks
                .into_iter()
                .fold(sum, |sum, block| sum.wrapping_add(block.free()));
        }
        sum
    })
}

fn producer_consumer(percent: u64) -> u64 {
    handed_over(31, 16, 512, 256, 200 * percent)
}

fn pipeline(percent: u64) -> u64 {
    handed_over(32, 1024, 32 << 10, 32, 300 * percent)
}

/// Both threads allocate, swap their batches, and free the other's.
fn exchange(percent: u64) -> u64 {
    let (to_left, left_in) = sync_channel::<Vec<Block>>(2);
    let (to_right, right_in) = sync_channel::<Vec<Block>>(2);
    let rounds = 100 * percent;
    let side = move |seed: u64,
                     out: std::sync::mpsc::SyncSender<Vec<Block>>,
                     input: std::sync::mpsc::Receiver<Vec<Block>>| {
        let mut random = Random::new(seed);
        let mut sum = 0u64;
        for _ in 0..rounds {
            let blocks = (0..256)
                .map(|_| Block::new(random.size(16, 1024), random.tag()))
                .collect();
            out.send(blocks).expect("the other side is still there");
            let received = input.recv().expect("the other side sends as often");
            sum = received
                .into_iter()
                .fold(sum, |sum, block| sum.wrapping_add(block.free()));
        }
        sum
    };
    thread::scope(|scope| {
        let other = scope.spawn(move || side(33, to_left, right_in));
        let own = side(34, to_right, left_in);
        own.wrapping_add(other.join().expect("the other side finishes"))
    })
}

/// Threads that allocate a little, leave some of it to others, and exit.
fn thread_churn(percent: u64) -> u64 {
    let left_behind = Mutex::new(Vec::new());
    let worker = |seed: u64| {
        let mut random = Random::new(seed);
        let mut sum = 0u64;
        let mut own = Vec::new();
        for _ in 0..600 {
            own.push(Block::new(random.size(16, 2048), random.tag()));
        }
        // Half stays behind for whoever comes later: a fixed half, so that the
        // checksum does not depend on the order of the threads.
        let rest = own.split_off(300);
        sum = own
            .into_iter()
            .fold(sum, |sum, block| sum.wrapping_add(block.free()));
        let taken = {
            let mut shelf = left_behind.lock().expect("no thread panics");
            let taken = if shelf.len() > 8 {
                shelf.remove(0)
            } else {
                Vec::new()
            };
            shelf.push(rest);
            taken
        };
        taken
            .into_iter()
            .fold(sum, |sum, block| sum.wrapping_add(block.free()))
    };
    let mut sum = 0u64;
    for round in 0..30 * percent {
        thread::scope(|scope| {
            let first = scope.spawn(|| worker(2 * round + 1));
            let second = scope.spawn(|| worker(2 * round + 2));
            for one in [first, second] {
                sum = sum.wrapping_add(one.join().expect("the worker finishes"));
            }
        });
    }
    let rest = left_behind.into_inner().expect("no thread panics");
    rest.into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// A server in the manner of larson: threads that replace blocks in tables
/// which are then passed on to threads that come after them.
pub fn larson(threads: usize, steps: u64) -> u64 {
    const GENERATIONS: u64 = 10;
    together(threads, 35, |seed, _| {
        let mut table: Vec<Block> = Vec::new();
        let mut random = Random::new(seed);
        for _ in 0..5_000 {
            table.push(Block::new(random.size(16, 1024), random.tag()));
        }
        let mut sum = 0u64;
        for generation in 0..GENERATIONS {
            // Each generation is a new thread: it frees what its ancestors allocated.
            (table, sum) = thread::scope(|scope| {
                scope
                    .spawn(move || {
                        let mut random = Random::new(seed + 1000 * (generation + 1));
                        for _ in 0..steps {
                            let slot = random.below(table.len());
                            let fresh = Block::new(random.size(16, 1024), random.tag());
                            let old = std::mem::replace(&mut table[slot], fresh);
                            sum = sum.wrapping_add(old.free());
                        }
                        (table, sum)
                    })
                    .join()
                    .expect("the generation finishes")
            });
        }
        table
            .into_iter()
            .fold(sum, |sum, block| sum.wrapping_add(block.free()))
    })
}
