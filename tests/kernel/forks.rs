//! Parent and child: what is copied, what is shared, what is missing.

use super::drive::{self, Tally, compare, step};
use super::fast::{Fast, Size};
use super::generate::Generator;
use super::naive::Naive;
use super::quirks::Quirks;
use super::remote::Remote;
use super::{Answer, Op, PAGES, System, WINDOW};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;

/// The kernel does not copy entries that only say zero, if their area was never written to:
/// what is absent in the child and has no frame of its own is absent in its model too.
fn adopt<S: System>(child: &mut S, naive: &mut Naive) {
    child.look();
    for index in 0..naive.pages.len() {
        let addr = naive.addr(index);
        let there = child.page(addr).present;
        if let Some(page) = &mut naive.pages[index]
            && !page.own
        {
            page.present &= there;
        }
    }
}

/// Operations before a fork, the comparison of both, operations on both in turn.
fn agree<S: System>(
    rounds: u64,
    quirks: Quirks,
    make: impl Fn() -> S,
    fork: impl Fn(&mut S) -> S,
    tally: &mut Tally,
) {
    let mut generator = Generator::new(4711);
    for round in 0..rounds {
        let mut parent = make();
        let mut naive = Naive::new(WINDOW, PAGES, quirks);
        let mut ops = Vec::new();
        let fail = |who: &str, op: Op, why: String| -> ! {
            panic!("round {round}, {who}, {op:?}: {why}");
        };
        parent.look();
        for _ in 0..150 {
            let op = generator.without_faults(&naive);
            ops.push(op);
            match step(&mut parent, &mut naive, &op, true) {
                Ok(answer) => answer.iter().for_each(|answer| tally.count(&op, answer)),
                Err(why) => fail("before", op, why),
            }
        }
        let mut child = fork(&mut parent);
        let mut child_naive = naive.fork();
        adopt(&mut child, &mut child_naive);
        for (who, system, model) in [
            ("parent", &mut parent, &mut naive),
            ("child", &mut child, &mut child_naive),
        ] {
            if let Err(why) = compare(system, model) {
                panic!(
                    "round {round}, the {who} after fork: {why}\n{}",
                    drive::script(&ops)
                );
            }
        }
        for _ in 0..150 {
            let of_child = generator.rng.percent(50);
            let (system, model) = if of_child {
                (&mut child, &mut child_naive)
            } else {
                (&mut parent, &mut naive)
            };
            let op = generator.without_faults(model);
            match step(system, model, &op, true) {
                Ok(answer) => answer.iter().for_each(|answer| tally.count(&op, answer)),
                Err(why) => fail(if of_child { "child" } else { "parent" }, op, why),
            }
            // The other one's areas and pages are as they were, contents of shared memory too.
            let other = if of_child {
                compare(&mut parent, &mut naive)
            } else {
                compare(&mut child, &mut child_naive)
            };
            if let Err(why) = other {
                fail("the other one", op, why);
            }
        }
    }
    assert!(tally.well * 10 >= tally.done * 6, "most operations succeed");
    assert!(tally.done > rounds * 250, "most operations can be compared");
}

#[test]
fn parents_and_children_agree_with_the_kernel() {
    let mut tally = Tally::default();
    let make = || Remote::new(Some(WINDOW), PAGES);
    agree(40, Quirks::of_this_kernel(), make, Remote::fork, &mut tally);
    tally.print("parents and children against the kernel");
}

#[test]
fn row_057_parents_and_children_of_the_model_are_the_kernels() {
    let mut tally = Tally::default();
    let make = || Fast::new(WINDOW, WINDOW + (1 << 42), Size::WINDOW);
    agree(120, Quirks::ALL, make, |fast| fast.fork(), &mut tally);
    tally.print("parents and children of the model");
}

/// One page of each kind: what the child reads, and who sees the child's store.
fn copies_shares_wipes_and_leaves_out<S: System>(mut parent: S, fork: impl Fn(&mut S) -> S) {
    let at = |page: u64| WINDOW + page * PAGE;
    let private = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    let shared = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
    let mut map = |page, flags| {
        let done = parent.mmap(at(page), PAGE, 3, flags, None, 0);
        assert_eq!(done, Ok(at(page)), "mmap");
        assert_eq!(parent.write(at(page), b"old"), Ok(3));
    };
    for page in [0, 2, 4, 8] {
        map(page, private);
    }
    map(6, shared);
    let mut advise = |page, advice| {
        assert_eq!(parent.madvise(at(page), PAGE, advice), Ok(0), "madvise");
    };
    advise(2, MADV_WIPEONFORK);
    advise(4, MADV_DONTFORK);
    let guards = Quirks::of_this_kernel().guard;
    if guards {
        advise(8, MADV_GUARD_INSTALL);
    }

    let mut child = fork(&mut parent);
    let mut bytes = [0; 3];
    let mut read = |system: &mut S, page| {
        let result = system.read(at(page), &mut bytes);
        (result.map_err(|errno| errno.0), bytes)
    };
    assert_eq!(
        read(&mut child, 0),
        (Ok(3), *b"old"),
        "a private page is copied"
    );
    assert_eq!(read(&mut child, 2), (Ok(3), [0; 3]), "wiped");
    assert_eq!(read(&mut child, 4).0, Err(14), "left out");
    assert_eq!(read(&mut child, 6), (Ok(3), *b"old"), "shared");
    if guards {
        assert_eq!(read(&mut child, 8).0, Err(14), "a guard stays one");
    }
    assert_eq!(child.write(at(0), b"new"), Ok(3));
    assert_eq!(child.write(at(6), b"new"), Ok(3));
    assert_eq!(
        read(&mut parent, 0),
        (Ok(3), *b"old"),
        "a copy is the child's"
    );
    assert_eq!(
        read(&mut parent, 2),
        (Ok(3), *b"old"),
        "wiped in the child alone"
    );
    assert_eq!(
        read(&mut parent, 6),
        (Ok(3), *b"new"),
        "shared memory has both"
    );
    let answer = child.apply(&Op::Read {
        addr: at(4),
        len: 1,
    });
    assert_eq!(answer, Answer::Refused(fencepost::mmu::area::Errno::EFAULT));
}

#[test]
fn fork_of_the_kernel_copies_shares_wipes_and_leaves_out() {
    let remote = Remote::new(Some(WINDOW), PAGES);
    copies_shares_wipes_and_leaves_out(remote, Remote::fork);
}

#[test]
fn row_057_fork_of_the_model_copies_shares_wipes_and_leaves_out() {
    let fast = Fast::new(WINDOW, WINDOW + (1 << 42), Size::WINDOW);
    copies_shares_wipes_and_leaves_out(fast, |fast| fast.fork());
}
