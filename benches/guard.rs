//! Guard mode: an allocation and a free of guarded objects, by size and by number of threads,
//! with a thousand others alive; and what the kernel alone takes for the calls and the page fault
//! of such a pair, with 100,000 pages alive that are replaced at random.
#![allow(missing_docs)] // What the macros of criterion make.
#![allow(unsafe_code)] // Memory calls.

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

const PAGE: usize = 4096;
/// A page and the guard behind it.
const STRIDE: usize = 2 * PAGE;
const MANY: usize = 100_000;
const INSTALL: i32 = 102;
const REMOVE: i32 = 103;

/// Pages between guards, without any record of them.
struct Pages {
    base: *mut u8,
    alive: Vec<usize>,
    /// Pages that were given back, used again oldest first.
    resting: std::collections::VecDeque<usize>,
}

impl Pages {
    /// `None` if the kernel has no guards.
    fn new() -> Option<Pages> {
        let len = 4 * MANY * STRIDE;
        let (rights, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
        );
        // SAFETY: a new mapping, then advice about it.
        let (base, done) = unsafe {
            let base = libc::mmap(std::ptr::null_mut(), len, rights, flags, -1, 0);
            assert_ne!(base, libc::MAP_FAILED);
            (base.cast::<u8>(), libc::madvise(base, len, INSTALL))
        };
        if done != 0 {
            return None;
        }
        let mut pages = Pages {
            base,
            alive: Vec::new(),
            resting: (0..4 * MANY).collect(),
        };
        for _ in 0..MANY {
            let page = pages.open();
            pages.alive.push(page);
        }
        Some(pages)
    }

    fn open(&mut self) -> usize {
        let page = self.resting.pop_front().expect("some rest");
        // SAFETY: a page of the mapping, which is open then.
        unsafe {
            let at = self.base.add(page * STRIDE);
            assert_eq!(libc::madvise(at.cast(), PAGE, REMOVE), 0);
            at.write_volatile(1);
        }
        page
    }

    fn close(&mut self, page: usize) {
        // SAFETY: a page of the mapping that nobody uses.
        let done = unsafe { libc::madvise(self.base.add(page * STRIDE).cast(), PAGE, INSTALL) };
        assert_eq!(done, 0);
        self.resting.push_back(page);
    }
}

fn the_kernel_alone(c: &mut Criterion) {
    let Some(mut pages) = Pages::new() else {
        println!("skipped: this kernel has no MADV_GUARD_INSTALL");
        return;
    };
    let mut random = 88_172_645_463_325_252u64;
    c.bench_function("kernel_alone", |b| {
        b.iter(|| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let chosen = (random % MANY as u64) as usize;
            let page = pages.alive[chosen];
            pages.close(page);
            pages.alive[chosen] = pages.open();
        });
    });
}

criterion_group!(benches, by_size, by_threads, the_kernel_alone);

criterion_main!(benches);
