//! The memory model against the kernel that runs the tests.
//!
//! Three systems answer the same operations: a naive model of a row of pages, the kernel, and
//! the model of the library. After each operation return value and errno, the areas, what is
//! present, guards and contents are compared. What differs is printed as a script.
//!
//! `FENCEPOST_KERNEL_OPS=n` does n operations against the kernel.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![cfg(not(miri))] // System calls.
#![allow(unsafe_code)] // Raw system calls, and accesses that fault.

mod kernel;
mod support;

use kernel::drive::{self, Tally};
use kernel::naive::Naive;
use kernel::quirks::Quirks;
use kernel::real::Kernel;
use kernel::{PAGES, WINDOW};
use std::time::Instant;

/// What section by section of the semantics can be refused, by operation.
const REFUSALS: &[(&str, &str)] = &[
    ("mmap", "EINVAL"),
    ("mmap", "ENOMEM"),
    ("mmap", "EBADF"),
    ("mmap", "EPERM"),
    ("mmap", "EEXIST"),
    ("mmap", "EOPNOTSUPP"),
    ("munmap", "EINVAL"),
    ("mprotect", "EINVAL"),
    ("mprotect", "ENOMEM"),
    ("madvise", "EINVAL"),
    ("madvise", "ENOMEM"),
    ("madvise", "EFAULT"),
    ("madvise", "EACCES"),
    ("mremap", "EINVAL"),
    ("mremap", "EFAULT"),
    ("mremap", "ENOMEM"),
    ("read", "EFAULT"),
    ("write", "EFAULT"),
];

/// Every signature of a fault that random accesses can have: trap/si_code error signal.
const FAULTS: &[(&str, &str)] = &[
    ("touch", "14/1 0x4 sig 11"),
    ("touch", "14/1 0x6 sig 11"),
    ("touch", "14/1 0x14 sig 11"),
    ("touch", "14/2 0x4 sig 11"),
    ("touch", "14/2 0x6 sig 11"),
    ("touch", "14/2 0x7 sig 11"),
    ("touch", "14/1 0x15 sig 11"),
    ("touch", "14/2 0x14 sig 7"),
    ("touch", "14/2 0x14 sig 11"),
    ("touch", "14/2 0x15 sig 11"),
    ("touch", "14/1 0x5 sig 11"),
    ("touch", "14/1 0x7 sig 11"),
    ("touch", "14/2 0x4 sig 7"),
    ("touch", "14/2 0x6 sig 7"),
    ("touch", "13/128 0x0 sig 11"),
];

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |n| n.parse().expect("a number"))
}

/// A window of its own for each test, far from the others'.
fn window(test: u64) -> u64 {
    WINDOW + (test << 32)
}

fn against_the_kernel(base: u64) -> (Kernel, Naive) {
    let quirks = Quirks::of_this_kernel();
    (Kernel::new(base, PAGES), Naive::new(base, PAGES, quirks))
}

#[test]
fn random_operations_agree_with_the_kernel() {
    const LENGTH: u64 = 20_000;
    let count = number("FENCEPOST_KERNEL_OPS", 200_000);
    let first = number("FENCEPOST_KERNEL_SEED", 1);
    let mut tally = Tally::default();
    let began = Instant::now();
    for seed in first..first + count.div_ceil(LENGTH) {
        drive::random(seed, LENGTH, 1, || against_the_kernel(WINDOW), &mut tally);
    }
    let rate = tally.done as f64 / began.elapsed().as_secs_f64();
    tally.print("naive model against the kernel");
    println!("{rate:.0} operations per second");
    tally.expect(REFUSALS);
    tally.expect(FAULTS);
    assert!(
        tally.well * 10 >= tally.done * 6,
        "only {} of {} operations succeeded",
        tally.well,
        tally.done
    );
    assert!(tally.skipped * 10 < tally.done, "{} skipped", tally.skipped);
}
