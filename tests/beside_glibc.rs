//! The C library's malloc lives in the same process, and moves the program break while fencepost
//! allocates in other threads. Without the harness: its threads would have made the C library
//! open a second arena, away from the break, before the test begins.
#![cfg_attr(not(target_env = "gnu"), allow(dead_code, unused_imports))]
#![allow(unsafe_code)] // The C library's malloc and break.

use fencepost::Fencepost;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[global_allocator]
static A: Fencepost = Fencepost::new();

/// sbrk is not atomic: those who call it, and the C library's malloc, which does, take turns
/// here. fencepost takes no part in it.
static BREAK: Mutex<()> = Mutex::new(());

fn program_break() -> usize {
    // SAFETY: only reads the break.
    unsafe { libc::sbrk(0) }.addr()
}

/// A block of the C library's malloc, full of one byte.
struct FromC(*mut u8, usize, u8);

impl FromC {
    fn new(size: usize, byte: u8) -> FromC {
        let _turn = BREAK.lock().expect("nobody panics inside");
        // SAFETY: a plain malloc, checked before it is written to.
        let p = black_box(unsafe { libc::malloc(size) }).cast::<u8>();
        assert!(!p.is_null());
        // SAFETY: the block has this many bytes.
        unsafe { p.write_bytes(byte, size) };
        FromC(p, size, byte)
    }
}

impl Drop for FromC {
    fn drop(&mut self) {
        // SAFETY: a live block of this size, all written.
        let bytes = unsafe { std::slice::from_raw_parts(self.0, self.1) };
        assert!(
            bytes.iter().all(|b| *b == self.2),
            "the C library's block was overwritten"
        );
        let _turn = BREAK.lock().expect("nobody panics inside");
        // SAFETY: from the C library's malloc, freed once.
        unsafe { libc::free(self.0.cast()) };
    }
}

#[cfg(not(target_env = "gnu"))]
fn main() {
    println!("skipped: no malloc of glibc here");
}

#[cfg(target_env = "gnu")]
fn main() {
    // One C heap for all threads, grown by the break and trimmed whenever it can be.
    // SAFETY: settings of the C library's malloc.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 4096);
        libc::mallopt(libc::M_TOP_PAD, 0);
    }
    let (lowest, highest) = (AtomicUsize::new(usize::MAX), AtomicUsize::new(0));
    let moves = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let c: Vec<_> = (0..2u8)
            .map(|me| {
                let (lowest, highest, moves) = (&lowest, &highest, &moves);
                scope.spawn(move || {
                    let mut last = program_break();
                    for round in 0..100usize {
                        let blocks: Vec<FromC> = (0..250)
                            .map(|n| FromC::new(1 + (round * 997 + n * 4001) % 30_000, me + 1))
                            .collect();
                        let now = program_break();
                        moves.fetch_add(usize::from(now != last), Ordering::Relaxed);
                        lowest.fetch_min(now, Ordering::Relaxed);
                        highest.fetch_max(now, Ordering::Relaxed);
                        last = now;
                        drop(blocks);
                        if round % 30 == 0 {
                            let _turn = BREAK.lock().expect("nobody panics inside");
                            // SAFETY: moves the break up; nobody owns what lies there.
                            let old = unsafe { libc::sbrk(8192) };
                            assert_ne!(old.addr(), usize::MAX);
                            // SAFETY: two pages that were just made, ours alone.
                            unsafe { old.cast::<u8>().write_bytes(0xee, 8192) };
                        }
                    }
                })
            })
            .collect();
        let ours: Vec<_> = (0..2u64)
            .map(|me| {
                let done = &done;
                scope.spawn(move || {
                    let mut rounds = 0u64;
                    while !done.load(Ordering::Relaxed) || rounds < 20 {
                        let lists: Vec<Vec<u64>> = (0..100)
                            .map(|n| {
                                vec![
                                    me * 1000 + n;
                                    (rounds as usize * 37 + n as usize * 101) % 6000
                                ]
                            })
                            .collect();
                        for (list, n) in lists.iter().zip(0..) {
                            assert!(list.iter().all(|value| *value == me * 1000 + n));
                        }
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for thread in c {
            thread.join().expect("the C side is sound");
        }
        done.store(true, Ordering::Relaxed);
        for thread in ours {
            assert!(thread.join().expect("our side is sound") >= 20);
        }
    });
    // The test is one only if the break was on the move all the while.
    let (lowest, highest) = (lowest.into_inner(), highest.into_inner());
    assert!(highest - lowest > 1 << 20, "{lowest:#x}..{highest:#x}");
    let moves = moves.into_inner();
    assert!(moves > 20, "{moves}");
    let stats = Fencepost::stats();
    assert_eq!(stats.break_bytes, 0);
    assert!(stats.system_peak > 1 << 20);
    fencepost::front::check().expect("our heap is in order");
    println!("{moves} moves of the break beside us: ok");
}
