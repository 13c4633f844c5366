//! The memory model against the kernel that runs the tests.
//!
//! Three systems answer the same operations: a naive model of a row of pages, the kernel, and
//! the model of the library. After each operation return value and errno, the areas, what is
//! present, guards and contents are compared. What differs is printed as a script.
//!
//! `FENCEPOST_KERNEL_OPS=n` does n operations against the kernel (and a tenth of that on the
//! program break) from seed `FENCEPOST_KERNEL_SEED` on; `FENCEPOST_NAIVE_OPS=n` and
//! `FENCEPOST_NAIVE_SEED` do the same for the two models against each other, which compare all
//! pages after every `FENCEPOST_NAIVE_EVERY` operations (answers after each).
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![cfg(not(miri))] // System calls.
#![allow(unsafe_code)] // Raw system calls, and accesses that fault.

mod kernel;
mod support;

use kernel::crowd;
use kernel::drive::{self, Tally};
use kernel::fast::{Fast, Size};
use kernel::generate::Generator;
use kernel::naive::Naive;
use kernel::quirks::Quirks;
use kernel::real::Kernel;
use kernel::remote::Remote;
use kernel::{Answer, Op, PAGES, System, WINDOW};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// Each operation, and everything that it can come to.
const RESULTS: &[(&str, &str)] = &[
    ("mmap", "ok, ENOMEM"),
    ("mmap fixed", "ok, EINVAL, ENOMEM, EBADF, EPERM, EOPNOTSUPP"),
    ("mmap noreplace", "ok, EEXIST"),
    ("munmap", "ok, EINVAL"),
    ("mprotect", "ok, EINVAL, ENOMEM"),
    ("mprotect growsdown", "ok, EINVAL, ENOMEM"),
    ("madvise dontneed", "ok, EINVAL, ENOMEM"),
    ("madvise dontneed_locked", "ok, ENOMEM"),
    ("madvise free", "ok, EINVAL, ENOMEM"),
    ("madvise remove", "ok, EINVAL, EACCES, ENOMEM"),
    ("madvise populate_read", "ok, EINVAL, ENOMEM, EFAULT"),
    ("madvise populate_write", "ok, EINVAL, ENOMEM, EFAULT"),
    ("madvise guard_install", "ok, EINVAL, ENOMEM"),
    ("madvise guard_remove", "ok, ENOMEM"),
    ("madvise dontfork", "ok, ENOMEM"),
    ("madvise wipeonfork", "ok, EINVAL, ENOMEM"),
    ("madvise hugepage", "ok, ENOMEM"),
    ("madvise cold", "ok, EINVAL, ENOMEM"),
    ("madvise other", "ok, EINVAL, ENOMEM"),
    ("mremap", "ok, EINVAL, EFAULT, ENOMEM"),
    ("mremap maymove", "ok, EINVAL, EFAULT"),
    ("mremap fixed", "ok, EINVAL, EFAULT"),
    ("mremap dontunmap", "ok, EINVAL, EFAULT"),
    ("read", "ok, EFAULT"),
    ("write", "ok, EFAULT"),
    (
        "load",
        "ok, SEGV 1 trap 14 0x4, SEGV 2 trap 14 0x4, SEGV 1 trap 14 0x5, BUS 2 trap 14 0x4, \
         SEGV 128 trap 13 0x0",
    ),
    (
        "store",
        "ok, SEGV 1 trap 14 0x6, SEGV 2 trap 14 0x6, SEGV 2 trap 14 0x7, SEGV 1 trap 14 0x7, \
         BUS 2 trap 14 0x6, SEGV 128 trap 13 0x0",
    ),
    (
        "fetch",
        "SEGV 1 trap 14 0x14, SEGV 2 trap 14 0x14, SEGV 2 trap 14 0x15, SEGV 1 trap 14 0x15, \
         BUS 2 trap 14 0x14",
    ),
];

/// [`RESULTS`] without those of operations that this kernel does not have.
fn expected(quirks: &Quirks) -> Vec<(&'static str, &'static str)> {
    let lacks = |op: &str| {
        op == "mmap noreplace" && !quirks.no_replace
            || op.contains("populate") && !quirks.populate
            || (op.contains("guard") || op.contains("dontneed_locked")) && !quirks.guard
            || op.contains("hugepage") && !quirks.huge
            || op.contains("cold") && !quirks.reclaim
            || op == "load" && !quirks.exec_reads
            || !quirks.lock
                && ["madvise cold", "madvise guard_install", "madvise other"].contains(&op)
    };
    RESULTS
        .iter()
        .copied()
        .filter(|&(op, _)| !lacks(op))
        .collect()
}

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
    tally.expect(&expected(&Quirks::of_this_kernel()));
    assert!(
        tally.well * 10 >= tally.done * 6,
        "only {} of {} operations succeeded",
        tally.well,
        tally.done
    );
    assert!(tally.skipped * 10 < tally.done, "{} skipped", tally.skipped);
}

/// Pages from the beginning of the heap that are looked at.
const REACH: u64 = 520;

/// A remote at its break, and a model that begins there.
fn around_the_break() -> (Remote, Naive) {
    let mut remote = Remote::new(None, REACH);
    let start = remote.brk(0);
    let mut naive = Naive::new(start, REACH, Quirks::of_this_kernel());
    naive.start_brk = start;
    naive.brk = start;
    (remote, naive)
}

fn agree_around_the_break<S: System>(make: fn() -> (S, Naive), title: &str) {
    let count = number("FENCEPOST_KERNEL_OPS", 200_000) / 10;
    let mut tally = Tally::default();
    for seed in 0..10 {
        let next = Generator::around_the_break;
        drive::random_of(seed, count / 10, 1, make, &mut tally, next);
    }
    tally.print(title);
    assert!(
        tally.done * 10 > count * 9,
        "most operations can be compared"
    );
    assert!(
        tally.well * 10 >= tally.done * 6,
        "only {} of {} operations succeeded",
        tally.well,
        tally.done
    );
    for result in ["ok", "refused"] {
        let n = tally.table[&("brk", result.to_owned())];
        assert!(n * 100 > tally.done, "only {n} of them: {result}");
    }
}

#[test]
fn the_program_break_agrees_with_the_kernel() {
    agree_around_the_break(around_the_break, "the program break against the kernel");
}

#[test]
fn row_048_the_program_break_of_the_model_is_the_kernels() {
    let make = || {
        let mut naive = Naive::new(WINDOW, REACH, Quirks::ALL);
        naive.start_brk = WINDOW;
        naive.brk = WINDOW;
        (Fast::new(WINDOW, WINDOW, Size::WINDOW), naive)
    };
    agree_around_the_break(make, "the program break of the model");
}

/// The kernel and both models, operation by operation.
#[test]
fn row_112_calls_of_the_model_agree_with_the_kernel() {
    let base = window(3);
    let mut tally = Tally::default();
    for seed in 500..510 {
        let (mut kernel, mut naive) = against_the_kernel(base);
        let mut fast = Fast::new(base, WINDOW + (1 << 41), Size::WINDOW);
        let mut second = naive.clone();
        second.objects = Rc::new(RefCell::new(naive.objects.borrow().clone()));
        if naive.quirks != Quirks::ALL {
            println!("skipped: this kernel lacks something that the model has");
            return;
        }
        let mut generator = Generator::new(seed);
        kernel.look();
        for _ in 0..5000 {
            let op = generator.op(&naive);
            let theirs = drive::step(&mut kernel, &mut naive, &op, true);
            let theirs = theirs.unwrap_or_else(|why| panic!("kernel, {op:?}: {why}"));
            let Some(theirs) = theirs else {
                tally.skipped += 1;
                continue;
            };
            tally.count(&op, &theirs);
            let ours = drive::step(&mut fast, &mut second, &op, true);
            let ours = ours.unwrap_or_else(|why| panic!("model, {op:?}: {why}"));
            // Neighbours of shared pages may be present at the kernel's, see `drive`.
            if !matches!(theirs, Answer::Fault(_)) {
                assert_eq!(ours, Some(theirs), "{op:?}");
            }
        }
        fast.check().expect("a machine in order");
    }
    tally.print("kernel, naive model and the library's");
}

/// Scripts that showed a difference once.
#[test]
fn scripts_of_the_past_agree_with_the_kernel() {
    let mut number = 0;
    for (name, ops) in drive::kept_scripts() {
        let base = window(1);
        let ops = drive::moved(&ops, base - WINDOW);
        let (mut kernel, mut naive) = against_the_kernel(base);
        let result = drive::replay(&mut kernel, &mut naive, &ops, &mut Tally::default());
        if let Err((line, why)) = result {
            panic!("{name}, operation {line}: {why}");
        }
        number += 1;
    }
    assert!(number > 0, "there are scripts");
}

#[test]
fn scripts_of_the_past_agree_with_the_model() {
    for (name, ops) in drive::kept_scripts() {
        let (mut fast, mut naive) = naive_and_fast();
        let result = drive::replay(&mut fast, &mut naive, &ops, &mut Tally::default());
        if let Err((line, why)) = result {
            panic!("{name}, operation {line}: {why}");
        }
    }
}

/// Scripts of several spaces that showed something once; fuzzing adds to them.
#[test]
fn scripts_of_crowds_agree_with_the_model() {
    let scripts = crowd::kept_scripts();
    assert!(!scripts.is_empty(), "there are scripts");
    for (name, script) in scripts {
        if let Err((line, why)) = crowd::run(&script, |_, _| ()) {
            panic!("{name}, step {line}: {why}");
        }
    }
}

/// A machine that forgets to drop translations is found out: the comparison sees what its
/// instructions see.
#[test]
fn a_machine_with_stale_translations_is_noticed() {
    let make = || {
        let (fast, naive) = naive_and_fast();
        fast.on(|machine, _| machine.mmu_mut().stale = true);
        (fast, naive)
    };
    let mut state = naive_and_fast().1;
    let mut generator = Generator::new(5);
    let ops: Vec<Op> = (0..20_000)
        .map(|_| {
            let op = generator.op(&state);
            state.apply(&op);
            op
        })
        .collect();
    let fails = |ops: &[Op]| {
        let (mut fast, mut naive) = make();
        let result = drive::replay(&mut fast, &mut naive, ops, &mut Tally::default());
        result.err().map(|(line, _)| line)
    };
    let line = fails(&ops).expect("somebody noticed");
    let small = drive::shrink(ops[..line].to_vec(), fails);
    assert!(small.len() <= 5, "{}", drive::script(&small));
}

/// A model that is wrong in one thing is found out, and the script that shows it is short.
#[test]
fn a_falsified_model_is_noticed() {
    type Falsify = fn(&mut Naive);
    let wrongs: [(&str, Falsify); 4] = [
        ("guards", |naive| naive.quirks.guard = false),
        ("shared guards", |naive| naive.quirks.guard_shared = false),
        ("moves of many", |naive| naive.quirks.move_many = false),
        ("contents", |naive| naive.objects.borrow_mut()[1][3][7] ^= 1),
    ];
    let base = window(2);
    let (kernel, honest) = against_the_kernel(base);
    drop(kernel);
    for (what, falsify) in wrongs {
        let make = || {
            let (kernel, mut naive) = against_the_kernel(base);
            falsify(&mut naive);
            (kernel, naive)
        };
        if make().1.quirks == honest.quirks && what != "contents" {
            println!("skipped: this kernel lacks {what}");
            continue;
        }
        // The operations that suit an honest model.
        let mut state = against_the_kernel(base).1;
        let mut generator = Generator::new(77);
        let ops: Vec<Op> = (0..6000)
            .map(|_| {
                let op = generator.op(&state);
                state.apply(&op);
                op
            })
            .collect();
        let fails = |ops: &[Op]| {
            let (mut kernel, mut naive) = make();
            let result = drive::replay(&mut kernel, &mut naive, ops, &mut Tally::default());
            result.err().map(|(line, _)| line)
        };
        let line = fails(&ops).unwrap_or_else(|| panic!("{what}: nobody noticed"));
        let small = drive::shrink(ops[..line].to_vec(), fails);
        assert!(small.len() <= 8, "{what}:\n{}", drive::script(&small));
    }
}

fn naive_and_fast() -> (Fast, Naive) {
    let fast = Fast::new(WINDOW, WINDOW + (1 << 41), Size::WINDOW);
    (fast, Naive::new(WINDOW, PAGES, Quirks::ALL))
}

/// Two models that share nothing but types, at a rate that no kernel reaches.
#[test]
fn the_models_agree() {
    const LENGTH: u64 = 100_000;
    let count = number("FENCEPOST_NAIVE_OPS", 2_000_000);
    let every = number("FENCEPOST_NAIVE_EVERY", 16);
    let first = number("FENCEPOST_NAIVE_SEED", 1);
    let mut tally = Tally::default();
    let began = Instant::now();
    for seed in first..first + count.div_ceil(LENGTH) {
        drive::random(seed, LENGTH, every, naive_and_fast, &mut tally);
    }
    let rate = tally.done as f64 / began.elapsed().as_secs_f64();
    tally.print("naive model against the library's");
    println!("{rate:.0} operations per second");
    tally.expect(RESULTS);
}
