//! The account of pages: what each call does to it, what a refusal leaves, and that the heap goes
//! by it. One falsified page changes what calloc clears, what trimming gives back, and ends the
//! process where top or a mapping is checked.
#![allow(unsafe_code)] // Memory calls.

#[path = "model/mod.rs"]
mod model;

use fencepost::arena::Maps;
use fencepost::heap::Batch;
use fencepost::os::{Flaky, Ledger, Os, PageState, Prot};
use fencepost::size::Native;
use model::{Bed, Ground, Host, Piece, Plan};

const PAGE: usize = 4096;

type Kernel = Ledger<Flaky<Host>>;

fn ledger() -> Kernel {
    Ledger::new(Flaky::new(Host::new(Plan::SMALL)))
}

/// The runs of a range: pages and state.
fn runs(os: &Kernel, from: usize, pages: usize) -> Vec<(usize, PageState)> {
    let (mut at, to) = (from, from + pages * PAGE);
    let mut runs = Vec::new();
    while at < to {
        let (state, end) = os.run(at, to);
        runs.push(((end - at) / PAGE, state));
        at = end;
    }
    runs
}

#[test]
fn each_call_is_a_transition() {
    let os = ledger();
    let base = os.map(0, 20 * PAGE, Prot::ReadWrite).expect("room");
    assert_eq!(runs(&os, base, 20), [(20, PageState::Fresh)]);
    os.note(base, base + 6 * PAGE, PageState::Live);
    os.note(base + 6 * PAGE, base + 8 * PAGE, PageState::Cached);
    // SAFETY: the test's own mapping.
    unsafe {
        os.discard(base + 6 * PAGE, 3 * PAGE).expect("ours");
        os.populate(base + 15 * PAGE, 2 * PAGE).expect("ours");
    }
    let after = [
        (6, PageState::Live),
        (2, PageState::Released),
        (7, PageState::Fresh),
        (2, PageState::Populated),
        (3, PageState::Fresh),
    ];
    assert_eq!(runs(&os, base, 20), after);
    assert_eq!(
        os.zero_run(base, base + 20 * PAGE),
        (base + 6 * PAGE, base + 20 * PAGE)
    );
    // SAFETY: the test's own mapping; the last pages are cut off, then it grows, perhaps elsewhere.
    let grown = unsafe {
        os.unmap(base + 18 * PAGE, 2 * PAGE).expect("ours");
        let left = [(1, PageState::Fresh), (1, PageState::None)];
        assert_eq!(runs(&os, base + 17 * PAGE, 2), left);
        os.remap(base, 18 * PAGE, 30 * PAGE).expect("room")
    };
    if grown != base {
        assert_eq!(runs(&os, base, 18), [(18, PageState::None)]);
    }
    assert_eq!(runs(&os, grown, 30)[0], (6, PageState::Live));
    assert_eq!(
        *runs(&os, grown, 30).last().expect("runs"),
        (13, PageState::Fresh)
    );
    // A reservation becomes memory page by page.
    let reserved = os.map(0, 10 * PAGE, Prot::None).expect("room");
    // SAFETY: the test's own reservation.
    unsafe { os.protect(reserved, 4 * PAGE, Prot::ReadWrite) }.expect("room");
    assert_eq!(
        runs(&os, reserved, 10),
        [(4, PageState::Fresh), (6, PageState::Reserved)]
    );
}

#[test]
fn the_break_is_in_the_account() {
    let os = ledger();
    let start = os.program_break();
    // SAFETY: nobody else uses this break.
    unsafe {
        os.set_break(start + 5 * PAGE).expect("room");
        assert_eq!(
            runs(&os, start, 6),
            [(5, PageState::Fresh), (1, PageState::None)]
        );
        os.set_break(start + 2 * PAGE).expect("ours");
    }
    assert_eq!(
        runs(&os, start, 6),
        [(2, PageState::Fresh), (4, PageState::None)]
    );
    // Somebody else took half a page: the other half is not fresh, nor ours by itself.
    assert!(os.inner().inner().sbrk(100));
    let there = os.program_break();
    // SAFETY: as above.
    unsafe { os.set_break(there + 3 * PAGE) }.expect("room");
    assert_eq!(os.state(there), PageState::None);
    assert_eq!(os.state(there + PAGE), PageState::Fresh);
}

/// A heap goes on behind what somebody else took of the break: in the rest of his last page, if a
/// head has room there.
#[test]
fn a_heap_behind_somebody_elses_bytes_adds_up() {
    for taken in [1, 100, 4080, 4081, 4095, 4096] {
        let mut bed = Bed::new();
        let accessible = |bed: &Bed| {
            let mut bytes = 0;
            bed.ground.os().each(|from, to, state| {
                if state.is_accessible() && state != PageState::Meta {
                    bytes += to - from;
                }
            });
            bytes
        };
        let before = accessible(&bed);
        bed.get(100);
        assert!(bed.host().sbrk(taken));
        bed.get(300_000);
        assert_eq!(bed.heap.segments().len(), 2);
        assert_eq!(accessible(&bed) - before, bed.heap.page_bytes(), "{taken}");
        bed.heap.check().expect("a heap in order");
        bed.host().check_foreign();
    }
}

#[test]
fn a_refused_call_leaves_the_account_as_it_was() {
    let os = ledger();
    let base = os.map(0, 40 * PAGE, Prot::ReadWrite).expect("room");
    for page in [1, 2, 5, 30] {
        os.note(
            base + page * PAGE,
            base + (page + 1) * PAGE,
            PageState::Live,
        );
    }
    let before = runs(&os, base, 40);
    os.inner().refuse(0, u64::MAX);
    // SAFETY: the test's own mapping.
    unsafe {
        assert!(os.unmap(base, 40 * PAGE).is_err());
        assert!(os.remap(base, 40 * PAGE, 60 * PAGE).is_err());
        assert!(os.remap(base, 40 * PAGE, 3 * PAGE).is_err());
        assert!(os.discard(base, 40 * PAGE).is_err());
        assert!(os.protect(base, 40 * PAGE, Prot::None).is_err());
    }
    assert_eq!(runs(&os, base, 40), before);
    // More runs than a refusal can restore: the rest is unknown, nothing is wrong.
    for page in (0..40).step_by(2) {
        os.note(
            base + page * PAGE,
            base + (page + 1) * PAGE,
            PageState::Live,
        );
    }
    let before = runs(&os, base, 40);
    assert!(before.len() > 20);
    // SAFETY: the test's own mapping.
    assert!(unsafe { os.unmap(base, 40 * PAGE) }.is_err());
    let after = runs(&os, base, 40);
    assert_eq!(after[..8], before[..8]);
    let kept: usize = before[..8].iter().map(|run| run.0).sum();
    assert_eq!(after[8..], [(40 - kept, PageState::Unknown)]);
}

/// Four threads, each with every fourth piece of the address space: sometimes a whole leaf of the
/// tree, which gives the node back, sometimes single pages beside those of other threads.
#[test]
#[cfg_attr(miri, ignore = "the real kernel, and many pages")]
fn threads_that_share_nodes_do_not_disturb_each_other() {
    use fencepost::os::Kernel;
    const THREADS: usize = 4;
    const LEAF: usize = 32 << 20;
    let os: Ledger<Kernel> = Ledger::new(Kernel::new());
    let base = 0x1000_0000_0000;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let os = &os;
            scope.spawn(move || {
                for turn in 0..3000 {
                    let whole = base + (turn % 3 * THREADS + thread) * LEAF;
                    let state = PageState::ALL[1 + turn % 8];
                    os.note(whole, whole + LEAF, state);
                    // Between pages of the other threads, in the words of one leaf.
                    let shared = base + 12 * LEAF + (turn % 50 * THREADS + thread) * PAGE;
                    os.note(shared, shared + PAGE, state);
                    let middle = whole + 77 * PAGE;
                    os.note(middle, middle + 5 * PAGE, PageState::Meta);
                    assert_eq!(os.state(shared), state);
                    assert_eq!(os.run(whole, whole + LEAF), (state, middle));
                    assert_eq!(
                        os.run(middle, whole + LEAF),
                        (PageState::Meta, middle + 5 * PAGE)
                    );
                    let (after, end) = os.run(middle + 5 * PAGE, whole + LEAF);
                    assert_eq!((after, end), (state, whole + LEAF));
                }
            });
        }
    });
    // Leaves were used again: without that each turn would have taken one.
    assert!(os.own_bytes() < 4 << 20, "{}", os.own_bytes());
}

fn serve(bed: &mut Bed, request: usize) -> (Piece, (usize, usize)) {
    let size = Native::chunk_size(request).expect("not absurd");
    let mut batch = Batch::wanting(1);
    assert!(bed.heap.fill(size, &mut batch));
    let zero = batch.zero();
    let chunk = batch.pop(bed.ground.keys()).expect("one");
    chunk.mark(chunk.low(), fencepost::chunk::State::Used);
    (chunk, zero)
}

/// A free chunk of 100,000 bytes whose pages were all used, and one behind it in use.
fn freed(bed: &mut Bed) -> Piece {
    let chunk = bed.get(100_000);
    bed.get(100);
    for offset in (0..100_000).step_by(PAGE) {
        bed.write((chunk.payload() + offset) & !7, 7);
    }
    bed.heap.free(chunk);
    chunk
}

#[test]
fn calloc_goes_by_the_account() {
    // Whole pages that were given back are zero and need no clearing.
    let mut bed = Bed::new();
    let chunk = freed(&mut bed);
    assert!(bed.heap.trim(0));
    let (again, zero) = serve(&mut bed, 100_000);
    assert_eq!(again.addr(), chunk.addr());
    assert!(zero.1 - zero.0 >= 22 * PAGE, "{zero:x?}");
    // One page that the account calls dirty, and only what lies before it is left alone.
    let mut bed = Bed::new();
    let chunk = freed(&mut bed);
    assert!(bed.heap.trim(0));
    let middle = (chunk.addr() + 50_000) & !(PAGE - 1);
    bed.note(middle, PageState::Cached);
    let (_, zero) = serve(&mut bed, 100_000);
    assert_eq!(zero.1, middle);
    // And a dirty page that the account calls zero would be left dirty.
    let mut bed = Bed::new();
    let chunk = freed(&mut bed);
    let middle = (chunk.addr() + 50_000) & !(PAGE - 1);
    bed.note(middle, PageState::Released);
    let (_, zero) = serve(&mut bed, 100_000);
    assert_eq!(zero, (middle, middle + PAGE));
}

#[test]
fn trimming_goes_by_the_account() {
    let resident = |bed: &Bed, addr: usize| {
        let computer = bed.host().computer();
        let process = computer.current().expect("one process");
        computer.is_resident(process, addr as u64)
    };
    for falsified in [None, Some(PageState::Released), Some(PageState::Fresh)] {
        let mut bed = Bed::new();
        let chunk = freed(&mut bed);
        let middle = (chunk.addr() + 50_000) & !(PAGE - 1);
        // The interpreter's own writes do not go through the model: touch the page there.
        bed.read(middle);
        bed.read(middle + PAGE);
        assert!(resident(&bed, middle));
        if let Some(state) = falsified {
            bed.note(middle, state);
        }
        bed.heap.trim(0);
        assert_eq!(resident(&bed, middle), falsified.is_some(), "{falsified:?}");
        assert!(!resident(&bed, middle + PAGE));
    }
}

/// Mappings, and ends of them, that the kernel refuses to unmap: the account and the counters still
/// add up.
#[test]
fn what_cannot_be_unmapped_stays_in_the_sums() {
    // SAFETY: the maps go before the ground.
    let ground = unsafe { Ground::new(ledger(), 5) };
    let maps = Box::new(Maps::new());
    let (os, keys) = (ground.os(), ground.keys());
    let accounted = || {
        let mut bytes = 0;
        os.each(|from, to, state| {
            if state.is_accessible() && state != PageState::Meta {
                bytes += to - from;
            }
        });
        bytes
    };
    let counted = || maps.totals().bytes as usize + maps.kept_bytes() + maps.stranded_bytes();
    let made = maps.allocate(os, keys, 200_000, 16, false).expect("room");
    maps.free(os, keys, ground.settings(), made.payload);
    assert_eq!((accounted(), maps.stranded_bytes()), (counted(), 0));
    os.inner().refuse(0, 1);
    assert!(maps.give_up(os, 1) >= 200_000);
    assert!(maps.stranded_bytes() >= 200_000);
    assert_eq!(accounted(), counted());
    // The mapping itself succeeds, cutting off its ends does not.
    let before = maps.stranded_bytes();
    os.inner().refuse(1, 3);
    let aligned = maps.allocate(os, keys, 200_000, 1 << 20, false);
    os.inner().refuse(0, 0);
    assert!(aligned.is_some());
    assert!(maps.stranded_bytes() - before >= 1 << 20);
    assert_eq!(accounted(), counted());
}

/// A process that locks its memory cannot give any back: one refusal is enough.
#[test]
fn a_refused_discard_ends_the_purge() {
    let mut bed = Bed::new();
    let chunks: Vec<Piece> = (0..5)
        .map(|_| {
            let chunk = bed.get(50_000);
            bed.get(100);
            chunk
        })
        .collect();
    chunks.into_iter().for_each(|chunk| bed.heap.free(chunk));
    let os = bed.ground.os().inner();
    os.refuse(0, u64::MAX);
    assert!(!bed.heap.trim(1 << 30));
    assert_eq!(os.made(), 1);
    os.refuse(u64::MAX, u64::MAX);
    assert!(bed.heap.trim(1 << 30));
    assert!(os.made() >= 5);
}

/// Runs a crime in a process of its own; it must die by abort with a line that says why.
fn ends_the_process(crime: &str) {
    let me = std::env::current_exe().expect("a path");
    let child = std::process::Command::new(me)
        .args(["--exact", "commit", "--nocapture"])
        .env("FENCEPOST_CRIME", crime)
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&child.stderr).into_owned();
    let signal = std::os::unix::process::ExitStatusExt::signal(&child.status);
    assert_eq!(signal, Some(libc::SIGABRT), "{crime}: {said}");
    let line = "fencepost: page in the wrong state: 0x";
    assert!(said.lines().any(|l| l.starts_with(line)), "{crime}: {said}");
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn a_wrong_page_ends_the_process() {
    for crime in ["top", "bin", "trim", "mapping"] {
        ends_the_process(crime);
    }
}

/// Not a test by itself: commits the crime that the environment names.
#[test]
fn commit() {
    let Ok(crime) = std::env::var("FENCEPOST_CRIME") else {
        return;
    };
    let mut bed = Bed::new();
    match crime.as_str() {
        // A page of top that is in use says that top's size was forged.
        "top" => {
            bed.get(100);
            let (_, _, zero) = bed.heap.top();
            bed.note(zero + PAGE, PageState::Live);
            bed.get(20_000);
        }
        "bin" => {
            let chunk = freed(&mut bed);
            bed.note(chunk.addr() + 20_000, PageState::Live);
            bed.get(90_000);
        }
        "trim" => {
            bed.get(100);
            let (top, size, _) = bed.heap.top();
            bed.note(top + size - PAGE, PageState::Live);
            bed.heap.trim(0);
        }
        "mapping" => {
            // SAFETY: the maps go before the ground.
            let ground = unsafe { Ground::new(ledger(), 5) };
            let maps = Box::new(Maps::new());
            let (os, keys) = (ground.os(), ground.keys());
            let made = maps.allocate(os, keys, 200_000, 16, false).expect("room");
            let page = made.payload & !(PAGE - 1);
            os.note(page, page + PAGE, PageState::None);
            maps.free(os, keys, ground.settings(), made.payload);
        }
        other => panic!("{other}?"),
    }
}
