//! The main arena on the program break, by the builder's choice: a program of one thread, in
//! which others (the C library's malloc, a foreign sbrk) move the break too, but never at the
//! same time. Without the harness, whose threads would be just that.
#![allow(unsafe_code)] // The break.

use fencepost::Fencepost;
use std::hint::black_box;

#[global_allocator]
static A: Fencepost = Fencepost::with_program_break();

fn program_break() -> usize {
    // SAFETY: only reads the break.
    unsafe { libc::sbrk(0) }.addr()
}

fn grow(rounds: usize) -> Vec<Vec<usize>> {
    (0..rounds).map(|n| black_box(vec![n; n % 1500])).collect()
}

fn assert_intact(lists: &[Vec<usize>]) {
    for (n, list) in lists.iter().enumerate() {
        assert!(list.len() == n % 1500 && list.iter().all(|value| *value == n));
    }
}

fn main() {
    let start = program_break();
    let first = grow(3000);
    let stats = Fencepost::stats();
    assert!(program_break() - start >= 8 << 20, "the break did not move");
    assert!(stats.break_bytes >= 8 << 20, "{stats:?}");

    // Somebody else takes a piece above us and keeps it.
    // SAFETY: moves the break up; the pages are ours alone.
    let foreign = unsafe { libc::sbrk(3 << 12) }.cast::<u8>();
    assert_ne!(foreign.addr(), usize::MAX);
    // SAFETY: as above.
    unsafe { foreign.write_bytes(0x77, 3 << 12) };
    let second = grow(3000);

    // And the C library's malloc grows in between.
    // SAFETY: blocks of the C library, each checked and freed once.
    let blocks: Vec<*mut u8> = (1..200usize)
        .map(|n| unsafe {
            let p = black_box(libc::malloc(n * 100)).cast::<u8>();
            assert!(!p.is_null());
            p.write_bytes(n as u8, n * 100);
            p
        })
        .collect();
    let third = grow(3000);
    for (p, n) in blocks.into_iter().zip(1usize..) {
        // SAFETY: as above.
        unsafe {
            let bytes = std::slice::from_raw_parts(p, n * 100);
            assert!(bytes.iter().all(|b| *b == n as u8));
            libc::free(p.cast());
        }
    }
    // SAFETY: the foreign pages, written above.
    let foreign = unsafe { std::slice::from_raw_parts(foreign, 3 << 12) };
    assert!(
        foreign.iter().all(|b| *b == 0x77),
        "the foreign pages were overwritten"
    );
    for lists in [&first, &second, &third] {
        assert_intact(lists);
    }
    fencepost::front::check().expect("the heap is in order");

    let before = Fencepost::stats();
    drop((first, second, third));
    Fencepost::trim();
    let after = Fencepost::stats();
    assert!(after.live_bytes < 1 << 20, "{after:?}");
    assert!(after.returned_bytes > before.returned_bytes || before.returned_bytes > 8 << 20);
    fencepost::front::check().expect("the heap is in order");
    println!("the main arena grew by the program break: ok");
}
