//! A plugin: a shared library that brings its own copy of fencepost.
//!
//! Whatever malloc its host uses, the plugin's blocks are its own: they must be freed by it.
//! The allocator asks to be told when a thread ends, so a library with a copy of it must never
//! be unloaded: link it so that `dlclose` keeps it,
//!
//! ```text
//! cargo rustc --release --example plugin -- -C link-arg=-Wl,-z,nodelete
//! ```
#![allow(unsafe_code)] // Exported functions.

use fencepost::Fencepost;
use std::collections::HashMap;

#[global_allocator]
static A: Fencepost = Fencepost::new();

/// Counts the words of a text that is made from `seed`.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_work(seed: u64) -> u64 {
    let text: Vec<String> = (0..2000)
        .map(|n| format!("word{}", (n * 31 + seed) % 97))
        .collect();
    let mut counts: HashMap<&str, u64> = HashMap::new();
    for word in &text {
        *counts.entry(word).or_default() += 1;
    }
    counts.values().map(|n| n * n).sum()
}

/// A list of `len` numbers on the plugin's heap.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_new(len: usize) -> *mut Vec<u64> {
    Box::into_raw(Box::new((0..len as u64).collect()))
}

/// Frees a list and returns the sum of its numbers.
///
/// # Safety
/// The list comes from [`plugin_new`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn plugin_end(list: *mut Vec<u64>) -> u64 {
    // SAFETY: the caller's promise.
    let list = unsafe { Box::from_raw(list) };
    list.iter().sum()
}

/// How many blocks this copy of the allocator has handed out.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_mallocs() -> u64 {
    Fencepost::stats().mallocs
}

/// How many threads use this copy of the allocator now.
#[unsafe(no_mangle)]
pub extern "C" fn plugin_threads() -> u64 {
    Fencepost::stats().threads
}
