//! A Rust program whose global allocator is fencepost: this test binary itself.
#![allow(unsafe_code)] // The allocator's interface, and thread-specific data of the C library.

use fencepost::Fencepost;
use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hint::black_box;
use std::sync::{Arc, Barrier, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};

#[global_allocator]
static A: Fencepost = Fencepost::new();

/// Statistics are the process's: a test that reads them runs alone, the others together.
static TURN: RwLock<()> = RwLock::new(());

fn together() -> RwLockReadGuard<'static, ()> {
    TURN.read().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// What other tests' threads, which wait for their turn, may allocate while one runs alone.
const SLACK: u64 = 64 << 10;

/// As many threads may the harness start or end meanwhile.
const HARNESS: u64 = 8;

/// A small generator of numbers, so that every run is the same.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

/// A block from the allocator, filled with a pattern that its place in the test determines.
struct Block {
    at: *mut u8,
    layout: Layout,
    pattern: u8,
}

impl Block {
    fn new(size: usize, align: usize, pattern: u8, zeroed: bool) -> Block {
        let layout = Layout::from_size_align(size, align).expect("a valid layout");
        // SAFETY: no layout here has size 0.
        let at = unsafe {
            if zeroed {
                A.alloc_zeroed(layout)
            } else {
                A.alloc(layout)
            }
        };
        let at = black_box(at);
        assert!(!at.is_null(), "{layout:?}");
        let block = Block {
            at,
            layout,
            pattern,
        };
        block.assert_aligned();
        if zeroed {
            assert!(block.holds(0, size), "{layout:?} dirty");
        }
        block.fill();
        block
    }

    fn assert_aligned(&self) {
        assert_eq!(self.at.addr() % self.layout.align(), 0, "{:?}", self.layout);
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the block has this many bytes, and they were written or are zero.
        unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) }
    }

    fn fill(&self) {
        // SAFETY: the block has this many bytes.
        unsafe { self.at.write_bytes(self.pattern, self.layout.size()) };
    }

    /// Whether the first `len` bytes are all `byte`. By the page: quick in a debug build, too.
    fn holds(&self, byte: u8, len: usize) -> bool {
        let like = [byte; 4096];
        let mut pieces = self.bytes()[..len].chunks(like.len());
        pieces.all(|piece| *piece == like[..piece.len()])
    }

    fn assert_intact(&self, len: usize) {
        assert!(
            self.holds(self.pattern, len),
            "{:?} overwritten",
            self.layout
        );
    }

    fn resize(&mut self, size: usize) {
        self.assert_intact(self.layout.size());
        let kept = size.min(self.layout.size());
        // SAFETY: a live block with its layout; the size is not 0.
        let at = black_box(unsafe { A.realloc(self.at, self.layout, size) });
        assert!(!at.is_null());
        self.at = at;
        self.layout = Layout::from_size_align(size, self.layout.align()).expect("valid");
        self.assert_aligned();
        self.assert_intact(kept);
        self.fill();
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_intact(self.layout.size());
        }
        // SAFETY: a live block with its layout.
        unsafe { A.dealloc(self.at, self.layout) };
    }
}

// ---- std on top of it ----

#[test]
fn collections() {
    let _turn = together();
    let mut map = HashMap::new();
    let mut tree = BTreeMap::new();
    let mut queue = VecDeque::new();
    for n in 0..20_000u64 {
        map.insert(n, n.to_string());
        tree.insert(
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            vec![n; (n % 40) as usize],
        );
        queue.push_back(Box::new(n));
        if n % 3 == 0 {
            map.remove(&(n / 2));
            queue.pop_front();
        }
    }
    for (n, text) in &map {
        assert_eq!(*text, n.to_string());
    }
    for (key, list) in &tree {
        assert!(
            list.iter()
                .all(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) == *key)
        );
    }
    assert!(
        queue
            .iter()
            .zip(queue.iter().skip(1))
            .all(|(a, b)| **a + 1 == **b)
    );

    let mut text = String::new();
    for n in 0..50_000 {
        text.push_str(&n.to_string());
    }
    assert_eq!(text.len(), 238_890);
    assert!(text.starts_with("01234567891011") && text.ends_with("4999849999"));
    let mut numbers: Vec<u32> = (0..200_000u32)
        .map(|n| n.wrapping_mul(2_654_435_761))
        .collect();
    numbers.sort();
    assert!(numbers.is_sorted());
    let shared: Vec<Arc<str>> = (0..1000).map(|n| Arc::from(format!("arc {n}"))).collect();
    assert_eq!(shared.clone()[999].as_ref(), "arc 999");
}

// ---- layouts ----

#[test]
fn every_layout() {
    let _turn = together();
    let sizes = [
        1, 2, 3, 7, 8, 15, 16, 17, 24, 25, 100, 1000, 1032, 1033, 4096, 4097, 65_544, 65_545,
        131_048, 131_049, 300_001, 5_000_001,
    ];
    for shift in 0..=21 {
        let align = 1 << shift;
        let blocks: Vec<Block> = sizes
            .iter()
            .enumerate()
            .map(|(i, size)| Block::new(*size, align, (shift * 11 + i) as u8 | 1, i % 2 == 0))
            .collect();
        // Dropping checks every pattern: no two blocks overlapped.
        drop(blocks);
    }
}

#[test]
fn a_random_mix_of_layouts_keeps_every_pattern() {
    let _turn = together();
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut blocks: Vec<Option<Block>> = (0..300).map(|_| None).collect();
    for turn in 0..30_000 {
        let slot = random.below(blocks.len());
        let shift = if random.below(4) == 0 {
            random.below(13)
        } else {
            random.below(5)
        };
        let span = [64, 1024, 16 << 10, 300 << 10][random.below(40).min(3)];
        let size = 1 + random.below(span);
        match &mut blocks[slot] {
            Some(block) if random.below(2) == 0 => block.resize(size),
            full @ Some(_) => *full = None,
            empty => *empty = Some(Block::new(size, 1 << shift, turn as u8 | 1, turn % 5 == 0)),
        }
    }
}

#[test]
fn what_cannot_be_is_null() {
    let _turn = together();
    let too_much = Layout::from_size_align(isize::MAX as usize & !15, 16).expect("valid");
    // SAFETY: the layout's size is not 0.
    assert!(unsafe { A.alloc(too_much) }.is_null());
    // SAFETY: as above.
    assert!(unsafe { A.alloc_zeroed(too_much) }.is_null());
    let block = Block::new(100, 8, 3, false);
    // SAFETY: a live block with its layout.
    assert!(unsafe { A.realloc(block.at, block.layout, isize::MAX as usize & !15) }.is_null());
    // A refusal leaves the block as it was.
    block.assert_intact(100);
    let mut vector: Vec<u8> = Vec::new();
    assert!(vector.try_reserve(isize::MAX as usize / 2).is_err());
}

#[test]
fn zeroed_is_zero_even_where_others_wrote() {
    let _turn = together();
    for align in [1, 16, 64, 4096] {
        for size in [
            1, 24, 40, 100, 1000, 1040, 5000, 30_000, 100_000, 200_000, 3_000_000,
        ] {
            for _ in 0..4 {
                // Dropping leaves memory behind that is full of the pattern.
                let dirty: Vec<Block> = (0..6)
                    .map(|_| Block::new(size, align, 0xa5, false))
                    .collect();
                drop(dirty);
                let _zero: Vec<Block> = (0..6)
                    .map(|_| Block::new(size, align, 0x5a, true))
                    .collect();
            }
        }
    }
    let zeros = vec![0u64; 1 << 20];
    assert!(black_box(&zeros).iter().all(|n| *n == 0));
}

// ---- realloc ----

#[test]
fn realloc_stays_where_it_can() {
    let _turn = alone();
    // Within the chunk's usable bytes: always in place.
    let mut block = Block::new(100, 8, 7, false);
    let before = block.at;
    block.resize(104);
    block.resize(97);
    assert_eq!(block.at, before);

    // Into free neighbours: blocks of which many lie in a row, every other one freed.
    const SIZE: usize = 80 << 10;
    let mut row: Vec<Option<Block>> = (0..64)
        .map(|i| Some(Block::new(SIZE, 16, i | 1, false)))
        .collect();
    let place = |block: &Option<Block>| block.as_ref().expect("alive").at.addr();
    let paired: Vec<usize> = (0..64)
        .step_by(2)
        .filter(|i| place(&row[i + 1]).wrapping_sub(place(&row[*i])) < SIZE + 64)
        .collect();
    assert!(
        paired.len() >= 8,
        "only {} pairs of neighbours",
        paired.len()
    );
    for i in &paired {
        row[i + 1] = None;
    }
    for i in &paired {
        let block = row[*i].as_mut().expect("alive");
        let before = block.at;
        block.resize(SIZE * 3 / 2);
        assert_eq!(block.at, before, "moved, although its neighbour was free");
    }
    drop(row);

    // Shrinking a large block gives up the tail, not the place.
    let mut large = Block::new(60 << 10, 16, 9, false);
    let before = large.at;
    large.resize(40 << 10);
    assert_eq!(large.at, before);
}

#[test]
fn realloc_moves_contents() {
    let _turn = together();
    for align in [1, 16, 32, 4096] {
        let mut block = Block::new(1, align, 0x3c, false);
        let mut size = 1;
        while size < 20 << 20 {
            size = size * 3 / 2 + 1;
            block.resize(size);
        }
        while size > 1 {
            size /= 3;
            block.resize(size.max(1));
        }
    }
}

#[test]
fn a_growing_buffer_is_remapped_not_copied() {
    let _turn = alone();
    let remaps = |stats: &fencepost::stats::Snapshot| {
        let index = fencepost::stats::OS_CALLS
            .iter()
            .position(|name| *name == "mremap")
            .expect("mremap is counted");
        stats.os_calls[index]
    };
    let before = remaps(&Fencepost::stats());
    // Beyond what the threshold ever slides to, so that it has a mapping of its own.
    let mut vector: Vec<u64> = vec![1; 5 << 20];
    for n in 0..1 << 20 {
        vector.push(n);
    }
    assert!(vector[..5 << 20].iter().all(|n| *n == 1));
    assert!(vector[5 << 20..].iter().zip(0..).all(|(a, b)| *a == b));
    assert!(remaps(&Fencepost::stats()) > before, "40 MiB were copied");
}

// ---- threads ----

#[test]
fn blocks_cross_threads() {
    let _turn = together();
    let (to, from) = mpsc::sync_channel::<Vec<Block>>(4);
    let producers: Vec<_> = (0..3u8)
        .map(|me| {
            let to = to.clone();
            std::thread::spawn(move || {
                let mut random = Random(u64::from(me) + 77);
                for round in 0..200 {
                    let blocks = (0..50)
                        .map(|_| {
                            let size = 1 + random.below(3000);
                            Block::new(size, 8, me * 50 + round % 50, round % 7 == 0)
                        })
                        .collect();
                    to.send(blocks).expect("somebody receives");
                }
            })
        })
        .collect();
    drop(to);
    // Dropping checks the patterns, and frees what other threads allocated.
    let received: usize = from.into_iter().map(|blocks| blocks.len()).sum();
    assert_eq!(received, 3 * 200 * 50);
    for producer in producers {
        producer.join().expect("the producer ends");
    }
}

// SAFETY: a block is memory and nobody else's.
unsafe impl Send for Block {}

#[test]
fn threads_that_end_give_back_what_they_cached() {
    const THREADS: usize = 20;
    if std::env::var_os("FENCEPOST_CACHE").is_some_and(|v| v == "0") {
        println!("skipped: the caches are switched off");
        return;
    }
    let _turn = alone();
    Fencepost::trim();
    let before = Fencepost::stats();
    let full = Arc::new(Barrier::new(THREADS + 1));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let full = Arc::clone(&full);
            std::thread::spawn(move || {
                // Of several classes, so much at once that the caches fill up.
                for size in [48, 200, 900, 2000, 6000] {
                    let blocks: Vec<Block> =
                        (0..300).map(|_| Block::new(size, 8, 1, false)).collect();
                    drop(blocks);
                }
                full.wait();
                full.wait();
            })
        })
        .collect();
    full.wait();
    let during = Fencepost::stats();
    assert!(during.threads + HARNESS >= before.threads + THREADS as u64);
    // What stays when the depot is emptied is in the caches.
    Fencepost::trim();
    let cached = Fencepost::stats().cached_bytes;
    assert!(
        cached > before.cached_bytes + 10_000 * THREADS as u64,
        "{cached}"
    );
    full.wait();
    for thread in threads {
        thread.join().expect("the thread ends");
    }
    // Whatever they left in the depot for others goes home now; nothing is left in a cache.
    Fencepost::trim();
    let after = Fencepost::stats();
    assert!(after.threads <= before.threads + HARNESS, "{after:?}");
    assert!(
        after.cached_bytes <= before.cached_bytes + SLACK,
        "{after:?}"
    );
    assert!(after.live_bytes <= before.live_bytes + SLACK, "{after:?}");
}

#[test]
fn thread_churn_does_not_grow_the_heap() {
    let _turn = alone();
    let generation = |n: u64| {
        for i in 0..n {
            let threads: Vec<_> = (0..4)
                .map(|t| {
                    std::thread::spawn(move || {
                        let mut random = Random(i * 4 + t + 1);
                        let blocks: Vec<Block> = (0..200)
                            .map(|_| Block::new(1 + random.below(4000), 8, 5, false))
                            .collect();
                        drop(blocks);
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("the thread ends");
            }
        }
    };
    generation(20);
    let early = Fencepost::stats();
    generation(150);
    let late = Fencepost::stats();
    assert!(late.threads <= early.threads + HARNESS);
    assert!(
        late.live_bytes <= early.live_bytes + SLACK,
        "{early:?} {late:?}"
    );
    let bound = early.system_bytes + early.system_bytes / 4 + (1 << 20);
    assert!(late.system_bytes <= bound, "{early:?} {late:?}");
}

struct Late(Vec<String>);

impl Drop for Late {
    fn drop(&mut self) {
        // The cache may be gone by now: all of these must still work.
        let more: Vec<String> = self.0.iter().map(|s| s.repeat(20)).collect();
        self.0.clear();
        self.0.shrink_to_fit();
        let blocks: Vec<Block> = (1..100).map(|n| Block::new(n * 37, 8, 3, true)).collect();
        DROPPED.fetch_add(
            more.len() + blocks.len(),
            std::sync::atomic::Ordering::Relaxed,
        );
    }
}

static DROPPED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

thread_local! {
    static LATE: std::cell::RefCell<Option<Late>> = const { std::cell::RefCell::new(None) };
}

unsafe extern "C" fn last_of_all(value: *mut libc::c_void) {
    // SAFETY: the value that `destructors_that_run_after_ours_can_allocate` stored.
    drop(unsafe { Box::from_raw(value.cast::<Late>()) });
}

#[test]
fn destructors_that_run_after_ours_can_allocate() {
    let _turn = alone();
    let mut key: libc::pthread_key_t = 0;
    // The allocator made its key long ago, so this one's destructor runs after the thread's
    // cache was given back.
    // SAFETY: the key is written before it is read.
    let made = unsafe { libc::pthread_key_create(&mut key, Some(last_of_all)) };
    assert_eq!(made, 0);
    let words = || Late((0..50).map(|n| n.to_string()).collect());
    let before = Fencepost::stats();
    for _ in 0..20 {
        std::thread::spawn(move || {
            LATE.with(|late| *late.borrow_mut() = Some(words()));
            let value = Box::into_raw(Box::new(words()));
            // SAFETY: the key exists; the destructor takes the value over.
            assert_eq!(unsafe { libc::pthread_setspecific(key, value.cast()) }, 0);
        })
        .join()
        .expect("the thread ends");
    }
    assert_eq!(
        DROPPED.load(std::sync::atomic::Ordering::Relaxed),
        20 * 2 * (50 + 99)
    );
    Fencepost::trim();
    let after = Fencepost::stats();
    assert!(after.threads <= before.threads + HARNESS);
    assert!(
        after.live_bytes <= before.live_bytes + SLACK,
        "{before:?} {after:?}"
    );
}

// ---- panics ----

#[test]
fn unwinding_frees_what_it_drops() {
    let _turn = alone();
    std::panic::set_hook(Box::new(|_| ()));
    let before = Fencepost::stats();
    for round in 0..50 {
        let caught = std::panic::catch_unwind(|| {
            let _held: Vec<Vec<u8>> = (0..100).map(|n| vec![n; 2000]).collect();
            let _boxed = Box::new([round; 5000]);
            std::panic::panic_any(format!("round {round}"));
        });
        let message = *caught
            .expect_err("it panicked")
            .downcast::<String>()
            .expect("a string");
        assert_eq!(message, format!("round {round}"));
    }
    let thread = std::thread::spawn(|| {
        let _held = vec![1u8; 1 << 20];
        panic!("in a thread");
    });
    assert!(thread.join().is_err());
    let _ = std::panic::take_hook();
    let after = Fencepost::stats();
    assert!(
        after.live_bytes <= before.live_bytes + SLACK,
        "{before:?} {after:?}"
    );
}

// ---- statistics, giving back ----

/// The counters when the thread of the last test, which gives back what it cached as it ends, is
/// through with that.
fn settled() -> fencepost::stats::Snapshot {
    let mut last = Fencepost::stats();
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        let now = Fencepost::stats();
        if (now.live_bytes, now.cached_bytes) == (last.live_bytes, last.cached_bytes) {
            break;
        }
        last = now;
    }
    last
}

#[test]
fn stats_count_what_happens() {
    let _turn = alone();
    let before = settled();
    let small: Vec<Block> = (0..1000).map(|_| Block::new(100, 8, 1, false)).collect();
    // Beyond what the threshold ever slides to.
    let large = Block::new(40 << 20, 8, 2, false);
    let during = Fencepost::stats();
    assert!(during.mallocs >= before.mallocs + 1001);
    assert_eq!(during.mapped.chunks, before.mapped.chunks + 1);
    assert!(during.mapped.bytes >= before.mapped.bytes + (40 << 20));
    let live = during.live_bytes - before.live_bytes;
    let ours = 1000 * 112 + (40 << 20);
    // The harness frees what it kept of the last test at any moment.
    assert!((ours - SLACK..ours + SLACK).contains(&live), "{live}");
    assert!(during.peak_bytes >= during.live_bytes - during.mapped.bytes);
    assert!(during.system_bytes >= during.live_bytes);
    drop((small, large));
    let after = Fencepost::stats();
    assert!(after.frees >= before.frees + 1001);
    assert_eq!(after.mapped.chunks, before.mapped.chunks);
    assert!(after.live_bytes <= before.live_bytes + SLACK);
    assert_eq!(after.break_bytes, 0, "the break belongs to the C library");
    assert!(after.arenas >= 1 && after.rungs.iter().sum::<u64>() > 0);
    fencepost::front::check().expect("the heap is in order");
}

#[test]
fn trim_gives_back_what_is_free() {
    let _turn = alone();
    let mut blocks: Vec<Option<Block>> = (0..20_000)
        .map(|_| Some(Block::new(1000, 8, 1, false)))
        .collect();
    // One of 500 stays and keeps top from falling.
    for (i, block) in blocks.iter_mut().enumerate() {
        if i % 500 != 499 {
            *block = None;
        }
    }
    let before = (Fencepost::stats(), resident());
    assert!(Fencepost::trim());
    let after = (Fencepost::stats(), resident());
    assert!(after.1 < before.1 || after.0.returned_bytes > before.0.returned_bytes);
    // Every page without a block is gone, whether trimmed now or before.
    let free: u64 = 20_000 * 1000;
    assert!(after.0.returned_bytes >= free / 2, "{:?}", after.0);
    // Nothing is left to give (but what the comparison itself used).
    Fencepost::trim();
    let again = Fencepost::stats();
    assert!(again.returned_bytes <= after.0.returned_bytes + SLACK);
    for block in blocks.iter().flatten() {
        block.assert_intact(1000);
    }
}

/// The resident set in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: u64 = statm
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number");
    pages * 4096
}

#[test]
fn memory_returns_after_a_peak() {
    let _turn = alone();
    let before = resident();
    let mut peak = 0;
    for size in [120, 700, 5000, 40_000] {
        let count = (256 << 20) / size;
        let blocks: Vec<Box<[u8]>> = (0..count)
            .map(|_| vec![1; size].into_boxed_slice())
            .collect();
        peak = peak.max(resident());
        // In an order that is not that of the addresses.
        let (even, odd): (Vec<_>, Vec<_>) =
            blocks.into_iter().enumerate().partition(|b| b.0 % 2 == 0);
        drop(even);
        drop(odd);
    }
    let after = resident();
    assert!(peak > before + (256 << 20));
    // Nobody called trim.
    let stats = Fencepost::stats();
    assert!(
        after < before + (64 << 20),
        "{} of {} MiB stayed; {stats:?}",
        after >> 20,
        peak >> 20
    );
}
