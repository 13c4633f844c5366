//! Loads of several threads in the manner of the well-known allocator
//! benchmarks, some with more threads than small machines have CPUs.
//!
//! Blocks pass between threads in an order that depends on the scheduler; the
//! checksum adds up all blocks that were ever freed, so it does not.

use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::Load;
use crate::block::{Block, Random};
use crate::classic::{lognormal, loop_small, slots};
use crate::threads::{larson, together};

/// The loads of several threads.
pub const LOADS: &[Load] = &[
    Load {
        name: "loop-small-2t",
        threads: 2,
        run: |p| together(2, 51, |seed, _| loop_small(seed, 8 * p)),
    },
    Load {
        name: "loop-small-4t",
        threads: 4,
        run: |p| together(4, 52, |seed, _| loop_small(seed, 4 * p)),
    },
    Load {
        name: "slots-2t",
        threads: 2,
        run: |p| together(2, 53, |seed, _| slots(seed, 110_000 * p)),
    },
    Load {
        name: "slots-8t",
        threads: 8,
        run: |p| together(8, 54, |seed, _| slots(seed, 28_000 * p)),
    },
    Load {
        name: "lognormal-2t",
        threads: 2,
        run: |p| together(2, 55, |seed, _| lognormal(seed, 110_000 * p)),
    },
    Load {
        name: "thrash-2t",
        threads: 2,
        run: |p| together(2, 56, |seed, _| thrash(seed, None, 12_000 * p)),
    },
    Load {
        name: "scratch-2t",
        threads: 2,
        run: scratch,
    },
    Load {
        name: "passed-on-2t",
        threads: 2,
        run: |p| passed_on(2, 200 * p),
    },
    Load {
        name: "passed-on-4t",
        threads: 4,
        run: |p| passed_on(4, 100 * p),
    },
    Load {
        name: "larson-8t",
        threads: 8,
        run: |p| larson(8, 2_500 * p),
    },
    Load {
        name: "stress-4t",
        threads: 4,
        run: |p| stress(4, p.div_ceil(5)),
    },
    Load {
        name: "stress-8t",
        threads: 8,
        run: |p| stress(8, p.div_ceil(10)),
    },
    Load {
        name: "growing-set-2t",
        threads: 2,
        run: |p| growing_set(2, 20 * p),
    },
    Load {
        name: "growing-set-8t",
        threads: 8,
        run: |p| growing_set(8, 5 * p),
    },
    Load {
        name: "mixed-4t",
        threads: 4,
        run: |p| mixed(4, 30 * p),
    },
    Load {
        name: "mixed-8t",
        threads: 8,
        run: |p| mixed(8, 15 * p),
    },
];

/// Takes a small object, writes to it for a while, gives it back, again and
/// again: slow where two threads have objects in one cache line.
fn thrash(seed: u64, first: Option<Block>, rounds: u64) -> u64 {
    let mut random = Random::new(seed);
    let mut sum = 0u64;
    let mut object = first;
    for _ in 0..rounds {
        let mut own = object.take().unwrap_or_else(|| Block::new(8, random.tag()));
        own.work(2);
        sum = sum.wrapping_add(own.free());
    }
    sum
}

/// The same, but each thread begins with an object that lies beside those of
/// the others, as all of them came from one thread.
fn scratch(percent: u64) -> u64 {
    let mut random = Random::new(57);
    let given: Vec<_> = (0..2)
        .map(|_| Mutex::new(Some(Block::new(8, random.tag()))))
        .collect();
    together(2, 58, |seed, number| {
        let first = given[number].lock().expect("no thread panics").take();
        thrash(seed, first, 12_000 * percent)
    })
}

/// Every thread puts batches of small objects into a pool, and frees the
/// batches that it finds there.
fn passed_on(threads: usize, rounds: u64) -> u64 {
    let pool: Mutex<Vec<Vec<Block>>> = Mutex::new(Vec::new());
    let sum = together(threads, 59, |seed, _| {
        let mut random = Random::new(seed);
        let mut sum = 0u64;
        for _ in 0..rounds {
            let batch = (0..120)
                .map(|_| Block::new(8 << random.below(6), random.tag()))
                .collect();
            // As many as came in since, but no more than two: a thread that
            // runs alone for a while keeps the pool from growing.
            let found: Vec<Vec<Block>> = {
                let mut pool = pool.lock().expect("no thread panics");
                let keep = pool
                    .len()
                    .saturating_sub(if pool.len() > 40 { 2 } else { 1 });
                let found = if pool.len() > 8 {
                    pool.split_off(keep)
                } else {
                    Vec::new()
                };
                pool.insert(0, batch);
                found
            };
            sum = found
                .into_iter()
                .flatten()
                .fold(sum, |sum, block| sum.wrapping_add(block.free()));
        }
        sum
    });
    let rest = pool.into_inner().expect("no thread panics");
    rest.into_iter()
        .flatten()
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// Rounds of new threads that allocate objects of many sizes, keep some, free
/// some, and swap others with whatever lies in a table that all share.
fn stress(threads: usize, rounds: u64) -> u64 {
    let shared: Vec<Mutex<Option<Block>>> = (0..1000).map(|_| Mutex::new(None)).collect();
    let mut sum = 0u64;
    for round in 0..rounds {
        let body = |seed: u64, number: usize| {
            let mut random = Random::new(seed);
            let mut sum = 0u64;
            let (mut kept, mut passing) = (Vec::new(), Vec::new());
            // The later a thread, the more it does.
            for _ in 0..36_000 + 2_000 * number {
                let high = match random.below(400) {
                    0 => 128 << 10,
                    1..8 => 8 << 10,
                    _ => 512,
                };
                let block = Block::new(random.size(16, high), random.tag());
                if random.below(5) == 0 {
                    kept.push(block);
                } else {
                    passing.push(Some(block));
                }
                if random.below(2) == 0 {
                    let index = random.below(passing.len().max(1));
                    if let Some(block) = passing.get_mut(index).and_then(Option::take) {
                        sum = sum.wrapping_add(block.free());
                    }
                }
                if random.below(4) == 0 {
                    let index = random.below(passing.len().max(1));
                    let slot = &shared[random.below(shared.len())];
                    if let Some(block) = passing.get_mut(index).and_then(Option::take) {
                        // What lay there goes: another thread allocated it.
                        let old = slot.lock().expect("no thread panics").replace(block);
                        if let Some(old) = old {
                            sum = sum.wrapping_add(old.free());
                        }
                    }
                }
            }
            kept.into_iter()
                .chain(passing.into_iter().flatten())
                .fold(sum, |sum, block| sum.wrapping_add(block.free()))
        };
        sum = sum.wrapping_add(together(threads, 1000 * (round + 1), body));
        // A tenth of what the threads left is freed between the rounds.
        for slot in shared.iter().skip(round as usize % 10).step_by(10) {
            if let Some(old) = slot.lock().expect("no thread panics").take() {
                sum = sum.wrapping_add(old.free());
            }
        }
    }
    shared
        .into_iter()
        .filter_map(|slot| slot.into_inner().expect("no thread panics"))
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// Each thread's live set grows, with frees at random, over sizes up to 16 KiB;
/// some blocks are freed by the next thread, through its mailbox.
fn growing_set(threads: usize, rounds: u64) -> u64 {
    let mailboxes: Vec<Mutex<Vec<Block>>> = (0..threads).map(|_| Mutex::new(Vec::new())).collect();
    let take = |number: usize| -> Vec<Block> {
        std::mem::take(&mut *mailboxes[number].lock().expect("no thread panics"))
    };
    let sum = together(threads, 60, |seed, number| {
        let mut random = Random::new(seed);
        let mut sum = 0u64;
        let mut live: Vec<Block> = Vec::new();
        for _ in 0..rounds {
            for _ in 0..450 {
                let mut block = Block::new(random.size(16, 16 << 10), random.tag());
                block.touch();
                live.push(block);
            }
            // A little less goes than came.
            let mut outgoing = Vec::new();
            for step in 0..440 {
                let block = live.swap_remove(random.below(live.len()));
                if step % 6 == 0 {
                    outgoing.push(block);
                } else {
                    sum = sum.wrapping_add(block.free());
                }
            }
            {
                let mut mailbox = mailboxes[(number + 1) % threads]
                    .lock()
                    .expect("no thread panics");
                // A thread that is not running now does not get ever more.
                if mailbox.len() < 1000 {
                    mailbox.append(&mut outgoing);
                }
            }
            sum = take(number)
                .into_iter()
                .chain(outgoing)
                .fold(sum, |sum, block| sum.wrapping_add(block.free()));
        }
        live.into_iter()
            .fold(sum, |sum, block| sum.wrapping_add(block.free()))
    });
    (0..threads)
        .flat_map(take)
        .fold(sum, |sum, block| sum.wrapping_add(block.free()))
}

/// What long-running servers do, all of it in turn: a table of sessions,
/// buffers that grow, bursts, zeroed and aligned blocks, and messages to a
/// thread that frees them.
fn mixed(threads: usize, rounds: u64) -> u64 {
    let (sender, receiver) = sync_channel::<Vec<Block>>(64);
    thread::scope(|scope| {
        let reader = scope.spawn(move || {
            receiver
                .into_iter()
                .flatten()
                .fold(0u64, |sum, block| sum.wrapping_add(block.free()))
        });
        let sum = together(threads - 1, 61, |seed, _| {
            let sender = sender.clone();
            let mut random = Random::new(seed);
            let mut sum = 0u64;
            let mut sessions: Vec<Option<Block>> = (0..5000).map(|_| None).collect();
            for round in 0..rounds {
                for _ in 0..400 {
                    let slot = random.below(sessions.len());
                    let size = random.size(16, 2048);
                    let fresh = match random.below(8) {
                        0 => Block::zeroed(size, random.tag()),
                        1 => Block::aligned(64, size, random.tag()),
                        _ => Block::new(size, random.tag()),
                    };
                    if let Some(old) = sessions[slot].replace(fresh) {
                        sum = sum.wrapping_add(old.free());
                    }
                }
                let mut buffer = Block::new(64, random.tag());
                let mut size = 64;
                let limit = random.size(1024, 64 << 10);
                while size < limit {
                    buffer = buffer.resize(2 * size);
                    buffer.fill_from(size);
                    size *= 2;
                }
                let burst: Vec<Block> = (0..200)
                    .map(|_| Block::new(random.size(16, 256), random.tag()))
                    .collect();
                sum = burst
                    .into_iter()
                    .rev()
                    .fold(sum, |sum, block| sum.wrapping_add(block.free()));
                if round % 4 == 0 {
                    let message = (0..100)
                        .map(|_| Block::new(random.size(16, 1024), random.tag()))
                        .collect();
                    sender.send(message).expect("the reader is still there");
                }
                sum = sum.wrapping_add(buffer.free());
            }
            sessions
                .into_iter()
                .flatten()
                .fold(sum, |sum, block| sum.wrapping_add(block.free()))
        });
        drop(sender);
        sum.wrapping_add(reader.join().expect("the reader finishes"))
    })
}
