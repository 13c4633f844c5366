//! Row 109 of the inventory (`docs/inventory.md`): the steps that the example prints, and what
//! each of them moves. One test alone, for the steps have to be the process's first.
#![cfg(not(miri))] // System calls.

#[allow(dead_code)] // Its main function.
#[path = "../examples/heap_steps.rs"]
mod example;

use example::Step;
use fencepost::size::Native;
use fencepost::stats::{Snapshot, Totals};

/// Chunks and bytes in bins: fast, unsorted, small, large.
fn bins(heap: &Snapshot) -> [(u64, u64); 4] {
    let pair = |total: Totals| (total.chunks, total.bytes);
    [heap.fast, heap.unsorted, heap.small, heap.large].map(pair)
}

#[test]
fn row_109_break_top_and_bins_step_by_step() {
    const EMPTY: (u64, u64) = (0, 0);
    let chunk = |request| Native::chunk_size_unchecked(request) as u64;
    let steps = example::steps();
    let names: Vec<&str> = steps.iter().map(|step| step.call).collect();
    let [
        nothing,
        first,
        more,
        fast,
        unsorted,
        consolidated,
        split,
        beside_top,
        mapped,
        unmapped,
        freed,
        trimmed,
        cached,
    ] = &steps[..]
    else {
        panic!("{names:?}");
    };
    let top = |step: &Step| step.heap.top_bytes;
    let start = nothing.program_break;
    assert_eq!((nothing.heap.system_bytes, top(nothing)), (0, 0));

    // The first malloc moves the break wholesale, the others do not move it.
    let bought = (first.program_break - start) as u64;
    assert!(bought >= (128 << 10) + chunk(100), "{bought}");
    assert!(bought < (128 << 10) + chunk(100) + 2 * fencepost::os::page_size() as u64);
    assert_eq!(first.heap.break_bytes, bought);
    for step in &steps[1..11] {
        let moved = (step.program_break, step.heap.break_bytes);
        assert_eq!(moved, (first.program_break, bought), "{}", step.call);
    }
    assert_eq!(bins(&first.heap), [EMPTY; 4]);
    let cut = 5 * chunk(100) + chunk(5000);
    assert_eq!(top(first) - top(more), cut);
    assert_eq!(bins(&more.heap), [EMPTY; 4]);

    // What is freed goes into bins, and top stays.
    let three = (3, 3 * chunk(100));
    assert_eq!(bins(&fast.heap), [three, EMPTY, EMPTY, EMPTY]);
    let one = (1, chunk(5000));
    assert_eq!(bins(&unsorted.heap), [three, one, EMPTY, EMPTY]);
    assert_eq!([top(fast), top(unsorted)], [top(more); 2]);

    // A large request merges the fast chunks, sorts, and comes from top.
    let merged = (1, 3 * chunk(100));
    assert_eq!(bins(&consolidated.heap), [EMPTY, EMPTY, merged, one]);
    assert_eq!(top(unsorted) - top(consolidated), chunk(6000));
    let rest = (1, chunk(5000) - chunk(2000));
    assert_eq!(bins(&split.heap), [EMPTY, rest, merged, EMPTY]);
    assert_eq!(top(split), top(consolidated));
    assert_eq!(bins(&beside_top.heap), bins(&split.heap));
    assert_eq!(top(beside_top), top(more));

    // A mapping is no matter of the heap's.
    assert_eq!(mapped.heap.mapped.chunks, 1);
    assert!(mapped.heap.mapped.bytes >= 200_000);
    assert_eq!(unmapped.heap.mapped, Totals::default());
    assert_eq!(unmapped.heap.mapping_cache_bytes, mapped.heap.mapped.bytes);
    for step in [mapped, unmapped] {
        assert_eq!(bins(&step.heap), bins(&beside_top.heap));
        assert_eq!(top(step), top(beside_top));
    }

    // Without blocks nearly all is top; trimmed it goes back to the kernel.
    assert_eq!(freed.heap.live_bytes, 0);
    assert_eq!(freed.heap.free_bytes + freed.heap.fast.bytes, bought);
    assert_eq!(freed.heap.fast.chunks, 3);
    assert_eq!(bins(&trimmed.heap), [EMPTY; 4]);
    assert!(trimmed.program_break < first.program_break);
    assert!(trimmed.heap.break_bytes <= fencepost::os::page_size() as u64);
    assert_eq!(top(trimmed), trimmed.heap.break_bytes);
    assert_eq!(trimmed.heap.mapping_cache_bytes, 0);
    assert!(trimmed.heap.returned_bytes >= bought - trimmed.heap.break_bytes);

    // A thread's cache holds what it freed, and the bins know nothing of it.
    assert_eq!((unmapped.heap.cached_bytes, cached.heap.live_bytes), (0, 0));
    assert!(cached.heap.cached_bytes >= chunk(100));
    assert_eq!(bins(&cached.heap), [EMPTY; 4]);
    for step in &steps {
        assert!(step.answer.ends_with('.'), "{}", step.call);
    }
    fencepost::front::check().expect("a sound heap");
}
