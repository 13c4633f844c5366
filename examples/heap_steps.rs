//! What happens to heap and break at `malloc` and `free`, step by step.
//!
//! Prints after each step where the program break is, how large top is and what lies in which
//! kind of bin. The thread caches are off until the last step, so that chunks go where ptmalloc
//! puts them.
#![allow(unsafe_code)] // Raw blocks, and the break.

use fencepost::Fencepost;
use fencepost::config::Key;
use fencepost::front::{self, Source};
use fencepost::stats::Snapshot;
use std::ffi::c_void;
use std::thread;

/// The heap after a step.
pub struct Step {
    /// What the program did.
    pub call: &'static str,
    /// What that shows.
    pub answer: &'static str,
    /// Address of the program break.
    pub program_break: usize,
    /// The counters of the heap.
    pub heap: Snapshot,
}

fn malloc(size: usize) -> *mut c_void {
    let block = fencepost::abi::malloc(size);
    assert!(!block.is_null(), "out of memory");
    block
}

fn free(block: *mut c_void) {
    // SAFETY: every caller passes a block of its own, once.
    unsafe { fencepost::abi::free(block) }
}

fn note(steps: &mut Vec<Step>, call: &'static str, answer: &'static str) {
    steps.push(Step {
        call,
        answer,
        // SAFETY: only reads the break.
        program_break: unsafe { libc::sbrk(0) }.addr(),
        heap: Fencepost::stats(),
    });
}

/// Takes all steps, once in a process, whose first blocks from fencepost these have to be.
pub fn steps() -> Vec<Step> {
    // The C library's malloc moves the same break, so it is not called between the steps.
    let mut steps = Vec::with_capacity(16);
    front::init(Source::ProgramBreak, 0);
    let settings = front::settings();
    assert!(settings.set(Key::Cache, 0) && settings.set(Key::ArenaMax, 1));
    let s = &mut steps;
    note(
        s,
        "nothing",
        "A heap that nobody asked has no memory, and the break is where the program's start left it.",
    );
    let first = malloc(100);
    note(
        s,
        "malloc(100)",
        "The first malloc moves the break by the need and 128 KiB more, in whole pages: asking the kernel is dear, so it is asked wholesale. What is not handed out is top, the last chunk of the heap.",
    );
    let row = [(); 4].map(|()| malloc(100));
    let [middle, last] = [5000, 100].map(malloc);
    note(
        s,
        "4 x malloc(100), malloc(5000), malloc(100)",
        "Further mallocs cut their chunks off top and leave the break alone.",
    );
    row[..3].iter().for_each(|block| free(*block));
    note(
        s,
        "3 x free, of 100 bytes each",
        "Small chunks go into the fast bin of their size, the last in being the first out. They are not merged, and neither break nor top moves: free gives to the allocator, not to the kernel.",
    );
    free(middle);
    note(
        s,
        "free, of 5000 bytes",
        "A larger chunk is merged with free neighbours, of which it has none here, and goes into the unsorted bin, from which the next malloc may take it at once.",
    );
    let large = malloc(6000);
    note(
        s,
        "malloc(6000)",
        "A large request consolidates first: fast chunks side by side become one. Then it searches the unsorted bin and puts what does not fit into the small or large bin of its size. Nothing fits, so it is served by top.",
    );
    let split = malloc(2000);
    note(
        s,
        "malloc(2000)",
        "The best fit is the chunk of the 5000 bytes in its large bin. It is split, and the remainder goes to the unsorted bin.",
    );
    free(large);
    note(
        s,
        "free, of 6000 bytes",
        "A chunk that ends where top begins becomes part of top and enters no bin.",
    );
    let mapped = malloc(200_000);
    note(
        s,
        "malloc(200000)",
        "From 128 KiB on a block has a mapping of its own, in the area between heap and stack, which the kernel manages and finds a place in. It is there because the break can only fall from its end: a large block below one small one that stays could never go back.",
    );
    free(mapped);
    note(
        s,
        "free, of 200000 bytes",
        "A mapping enters no bin. It is no part of the heap any more, but it is kept for a while, since the next large request may want it; ptmalloc unmaps it at once. As in ptmalloc the threshold has slid: blocks of this size come from the heap from now on.",
    );
    [first, row[3], last, split].into_iter().for_each(free);
    note(
        s,
        "free, of all the rest",
        "Nothing is in use any more, and yet it is not one piece: the blocks of 100 bytes lie in their fast bin, count as in use there and keep what lies between them from merging. The break stays: the same memory will be asked for again.",
    );
    Fencepost::trim();
    note(
        s,
        "malloc_trim(0)",
        "Trimming consolidates, unmaps what was kept and moves the break back, for top is all that there is.",
    );
    assert!(settings.set(Key::Cache, 1));
    let (call, answer) = (
        "in a new thread, with its cache: malloc(100), free",
        "A thread takes several chunks at a time from its arena and keeps what it frees, up to a bound, without a lock. For the arena such chunks are in use, so they are in none of its bins.",
    );
    thread::scope(|scope| {
        scope.spawn(|| {
            free(malloc(100));
            note(s, call, answer);
        });
    });
    steps
}

fn main() {
    let steps = steps();
    let start = steps[0].program_break;
    for (number, step) in steps.iter().enumerate() {
        let heap = &step.heap;
        println!("{number}. {}", step.call);
        println!(
            "   break {:#x} (+{}), top {} bytes",
            step.program_break,
            step.program_break - start,
            heap.top_bytes
        );
        let bins = [
            ("fast", heap.fast),
            ("unsorted", heap.unsorted),
            ("small", heap.small),
            ("large", heap.large),
        ]
        .map(|(kind, total)| format!("{kind} {} of {} bytes", total.chunks, total.bytes));
        println!("   bins: {}", bins.join(", "));
        println!(
            "   mappings: {} of {} bytes, {} bytes kept; {} bytes in caches",
            heap.mapped.chunks, heap.mapped.bytes, heap.mapping_cache_bytes, heap.cached_bytes
        );
        println!("   {}\n", step.answer);
    }
}
