//! An ordinary Rust program whose global allocator is fencepost.
//!
//! Prints a digest of what it computed, the same on every run, in every thread and under any
//! preloaded malloc, and that the blocks came from its own allocator.
#![allow(unsafe_code)] // Blocks of the C library's malloc.

use fencepost::Fencepost;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::thread;

#[global_allocator]
static A: Fencepost = Fencepost::new();

fn digest(seed: u64) -> u64 {
    let mut tree = BTreeMap::new();
    let mut hash = seed | 1;
    for n in 0..5_000u64 {
        hash = (hash ^ n).wrapping_mul(0x0100_0000_01b3);
        tree.insert(hash % 1000, format!("{n}").repeat((hash % 50) as usize));
    }
    tree.iter().fold(seed, |sum, (key, text)| {
        sum.rotate_left(5) ^ key ^ text.len() as u64
    })
}

/// A string from the C library, which allocates by the malloc of the process.
fn from_c(n: u64) -> usize {
    let text = std::ffi::CString::new(n.to_string()).expect("no zero byte");
    // SAFETY: `strdup` gives a copy that is ours until it is freed, by its own `free`.
    unsafe {
        let copy = libc::strdup(text.as_ptr());
        let len = CStr::from_ptr(copy).count_bytes();
        libc::free(copy.cast());
        len
    }
}

fn main() {
    let threads: Vec<_> = (0..6)
        .map(|seed| {
            thread::spawn(move || {
                let c: usize = (0..2000).map(from_c).sum();
                (digest(seed), c)
            })
        })
        .collect();
    for thread in threads {
        let (digest, c) = thread.join().expect("no thread panics");
        println!("{digest:016x} {c}");
    }
    let large = vec![7u8; 10 << 20];
    let stats = Fencepost::stats();
    println!("large {}", large.iter().map(|b| u64::from(*b)).sum::<u64>());
    println!(
        "own {}",
        stats.mallocs > 30_000 && stats.live_bytes > 10 << 20
    );
    println!("break {}", stats.break_bytes);
    println!("sound {}", fencepost::front::check().is_ok());
}
