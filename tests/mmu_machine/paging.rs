//! Rows 72 to 78: swap, replacement, thrashing.

use crate::support::*;
use fencepost::mmu::addr::{Access, VirtAddr};
use fencepost::mmu::area::linux;
use fencepost::mmu::entry::Meaning;
use fencepost::mmu::fault::Cause;
use fencepost::mmu::geometry::X86L4;
use fencepost::mmu::machine::{Machine, Options, Resolution};
use fencepost::mmu::physical::{FrameRecord, Use};
use fencepost::mmu::replace::offline::{Distances, faults, optimal};
use fencepost::mmu::replace::{Kind, ThrashDetector};

type M = Machine<'static, X86L4>;

const EXACT: [Kind; 3] = [Kind::Fifo, Kind::Lru, Kind::Clock];
const KINDS: [Kind; 4] = [Kind::Fifo, Kind::Lru, Kind::Clock, Kind::Random(7)];

fn with(kind: Kind, frames: usize, slots: usize) -> M {
    let options = Options {
        replacement: kind,
        ..Options::DEFAULT
    };
    let (mut m, _) = one(Size::bare(frames, 64, slots), options);
    map(&mut m, 0x10_0000, 4096, RW);
    m
}

fn write(m: &mut M, page: u64) -> Result<(), Cause> {
    touch(m, 0x10_0000 + page * PAGE, Access::Write).map_err(|f| f.cause)
}

#[test]
fn row_072_memory_is_frames_plus_slots() {
    for kind in KINDS {
        let mut m = with(kind, 4, 4);
        for page in 0..8 {
            assert_eq!(write(&mut m, page), Ok(()));
        }
        assert_eq!(write(&mut m, 8), Err(Cause::OutOfMemory));
        sound(&mut m);
        // All eight are there, and go on taking turns if one has a place to go to.
        m.munmap(0x10_0000 + 7 * PAGE, PAGE).expect("mapped");
        for page in 0..7 {
            assert_eq!(write(&mut m, page), Ok(()));
        }
        sound(&mut m);
    }
    assert_eq!(((512 + 256) << 20) / PAGE, 196_608);
}

#[test]
fn row_073_page_out() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 8), Options::DEFAULT);
    map(&mut m, 0x7000, 2, RW);
    store(&mut m, 0x7008, 0xfeed).expect("mapped");
    let frame = m.frame(id, 0x7000).expect("present");
    assert!(m.page_out(id, 0x7000));
    let entry = m.walk(VirtAddr::new(0x7000), |_| {}).expect("paging").entry;
    assert!(!entry.is_present());
    let Meaning::Swapped(slot) = entry.meaning() else {
        panic!("{entry:?} names a slot");
    };
    assert_eq!(m.memory().record(frame).usage, Use::Free);
    assert_eq!(m.disk(slot.raw())[1], 0xfeed);
    let sizes = m.sizes(id);
    assert_eq!((sizes.resident(), sizes.swapped), (0, 1));
    assert_eq!((m.swap().outs, m.swap().used()), (1, 1));
    assert!(!m.page_out(id, 0x7000), "it is out already");
    sound(&mut m);
}

#[test]
fn row_074_page_in() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 8), Options::DEFAULT);
    map(&mut m, 0x7000, 2, RW);
    store(&mut m, 0x7008, 0xfeed).expect("mapped");
    let before = m.frame(id, 0x7000);
    assert!(m.page_out(id, 0x7000));
    // Somebody else gets the frame.
    store(&mut m, 0x8000, 1).expect("mapped");
    assert_eq!(m.frame(id, 0x8000), before);
    assert_eq!(load(&mut m, 0x7008), Ok(0xfeed));
    assert_eq!(m.last_fault().resolution, Resolution::SwappedIn);
    assert_ne!(m.frame(id, 0x7000), before);
    assert_eq!((m.swap().ins, m.swap().used()), (1, 0));
    assert_eq!((m.report().faults.major, m.sizes(id).swapped), (1, 0));
    // Unmapped while it is out, its slot is free too; so is what a fork shared.
    assert!(m.page_out(id, 0x7000));
    let child = m.fork(id).expect("room");
    m.munmap(0x7000, PAGE).expect("mapped");
    assert_eq!(m.swap().used(), 1);
    m.switch_to(child).expect("it exists");
    assert_eq!(load(&mut m, 0x7008), Ok(0xfeed));
    assert_eq!(m.swap().used(), 0);
    sound(&mut m);
}

fn of(kind: Kind, string: &[u32], frames: usize) -> u64 {
    let mut resident = [0; 256];
    let frames = &mut vec![FrameRecord::EMPTY; frames];
    faults(kind, string.iter().copied(), frames, &mut resident)
}

fn best(string: &[u32], frames: usize) -> u64 {
    let mut next = vec![0; string.len()];
    let mut resident = vec![0; frames];
    optimal(string, &mut next, &mut [0; 256], &mut resident)
}

/// FIFO, LRU, CLOCK and OPT with so many frames.
fn all(string: &[u32], frames: usize) -> [u64; 4] {
    let [fifo, lru, clock, _] = KINDS.map(|kind| of(kind, string, frames));
    [fifo, lru, clock, best(string, frames)]
}

/// FIFO and the others as the machine itself does it, by touching pages.
fn machine_faults(kind: Kind, string: &[u32], frames: usize) -> u64 {
    let mut m = with(kind, frames, 300);
    for page in string {
        write(&mut m, u64::from(*page)).expect("there is swap");
    }
    sound(&mut m);
    m.report().faults.major + m.report().faults.minor
}

const BELADY: [u32; 12] = [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5];
const TEXTBOOK: [u32; 20] = [7, 0, 1, 2, 0, 3, 0, 4, 2, 3, 0, 3, 2, 1, 2, 0, 1, 7, 0, 1];

#[test]
fn row_075_the_least_recently_used_pages_go() {
    assert_eq!(all(&BELADY, 3), [9, 10, 9, 7]);
    assert_eq!(all(&BELADY, 4), [10, 8, 10, 6]);
    assert_eq!(all(&TEXTBOOK, 3), [15, 12, 14, 9]);
    assert_eq!(all(&TEXTBOOK, 4), [10, 8, 9, 8]);
    for (string, frames) in [
        (&BELADY[..], 3),
        (&BELADY, 4),
        (&TEXTBOOK, 3),
        (&TEXTBOOK, 4),
    ] {
        for kind in EXACT {
            let pure = of(kind, string, frames);
            assert_eq!(machine_faults(kind, string, frames), pure, "{kind:?}");
        }
    }
}

fn xorshift_string(len: usize) -> Vec<u32> {
    let mut random = Random(12345);
    (0..len).map(|_| (random.next() % 256) as u32).collect()
}

#[test]
fn replacement_on_a_random_string_as_computed() {
    let string = xorshift_string(20_000);
    assert_eq!(of(Kind::Lru, &string, 128), 9949);
    assert_eq!(of(Kind::Clock, &string, 128), 9996);
    assert_eq!(of(Kind::Fifo, &string, 128), 9965);
    let random = of(Kind::Random(1), &string, 128);
    assert!((9800..10_200).contains(&random), "{random}");
    for kind in EXACT {
        assert_eq!(machine_faults(kind, &string, 128), of(kind, &string, 128));
    }
    // What is guessed depends on the frames' numbers.
    let random = machine_faults(Kind::Random(1), &string, 128);
    assert!((9800..10_200).contains(&random), "{random}");
}

#[test]
fn stack_distances_give_every_size_of_memory() {
    let mut strings = vec![BELADY.to_vec(), TEXTBOOK.to_vec(), xorshift_string(5000)];
    let mut random = Random(4);
    strings.push(
        (0..3000)
            .map(|i| (i / 7 + random.below(9) as u32) % 200)
            .collect(),
    );
    for string in strings {
        let mut counts = [0; 257];
        let mut tree = vec![0; string.len() + 1];
        let distances = Distances::measure(&string, &mut counts, &mut [0; 256], &mut tree);
        for frames in [1, 2, 3, 4, 5, 17, 64, 128, 200, 256] {
            assert_eq!(distances.faults(frames), of(Kind::Lru, &string, frames));
            assert!(best(&string, frames) <= distances.faults(frames));
        }
    }
}

#[test]
fn row_076_few_pages_move_at_a_time() {
    // 64 pages in 60 frames, in use 8 at a time: what moves is 4 pages, not the program.
    let mut m = with(Kind::Lru, 60, 64);
    for page in 0..64 {
        write(&mut m, page).expect("there is swap");
    }
    assert_eq!(m.swap().bytes(), 4 * PAGE);
    for _ in 0..100 {
        for page in 0..8 {
            write(&mut m, page).expect("there is swap");
        }
    }
    // Pages 0 to 3 come in for 4 to 7, those for others; from then on nothing moves.
    assert_eq!((m.swap().outs, m.swap().ins), (12, 8));
    assert_eq!(m.swap().bytes(), 20 * PAGE);
}

#[test]
fn row_077_thrashing() {
    let round = |pages: u32| -> Vec<u32> { (0..100).map(|i| i % pages).collect() };
    assert_eq!(all(&round(5), 4), [100, 100, 100, 28]);
    assert_eq!(all(&round(4), 4), [4, 4, 4, 4]);
    let fires = |pages: u64| {
        let mut m = with(Kind::Lru, 4, 16);
        let mut detector = ThrashDetector::new(20, 10);
        for i in 0..100 {
            let before = m.report().faults.major;
            write(&mut m, i % pages).expect("there is swap");
            detector.note(m.report().faults.major > before);
        }
        detector.fires()
    };
    assert!(fires(5) && !fires(4));
}

#[test]
fn row_078_a_leak_ends_in_paging() {
    // 3 of 10 blocks are never given back, one page each; the program's own 8 pages are used on
    // and on.
    let mut m = with(Kind::Lru, 64, 4000);
    let mut majors = Vec::new();
    let mut leaked = 100;
    for _ in 0..20 {
        let before = m.report().faults.major;
        for step in 0..10 {
            write(&mut m, leaked).expect("there is swap");
            if step % 10 < 3 {
                leaked += 1;
            } else {
                let at = 0x10_0000 + leaked * PAGE;
                m.madvise(at, PAGE, linux::MADV_DONTNEED).expect("mapped");
            }
            for own in 0..8 {
                write(&mut m, own).expect("there is swap");
            }
            // The program also looks at what it leaked, as a list that only grows.
            for old in (100..leaked).step_by(3) {
                write(&mut m, old).expect("there is swap");
            }
        }
        majors.push(m.report().faults.major - before);
    }
    assert_eq!(majors[..5].iter().sum::<u64>(), 0, "{majors:?}");
    assert_eq!(
        majors[..15].iter().filter(|n| **n > 0).count(),
        0,
        "{majors:?}"
    );
    let end = leaked - 100;
    assert_eq!(end, 60);
    // Now more than memory.
    for page in 0..40 {
        write(&mut m, leaked + page).expect("there is swap");
    }
    let before = m.report().faults.major;
    for page in 0..100 {
        write(&mut m, 100 + page).expect("there is swap");
    }
    assert!(m.report().faults.major - before > 50);
    sound(&mut m);
}

/// A program in 64 frames that uses 8 pages of its own, and of every 10 blocks of a page forgets to
/// give back so many, which it keeps in a list and looks through once per round. For each of 40
/// rounds: pages that are leaked by then, faults that read from swap; and whether the program does
/// little else at the end.
fn leaking(forgotten: u64) -> (Vec<(u64, u64)>, bool) {
    let mut m = with(Kind::Lru, 64, 4000);
    let mut detector = ThrashDetector::new(100, 50);
    let mut next = 8;
    let mut rounds = Vec::new();
    let mut access = |m: &mut M, page: u64| {
        let before = m.report().faults.major;
        write(m, page).expect("there is swap");
        detector.note(m.report().faults.major > before);
    };
    for _ in 0..40 {
        let before = m.report().faults.major;
        for block in 0..10 {
            access(&mut m, next);
            if block < forgotten {
                next += 1;
            } else {
                let at = 0x10_0000 + next * PAGE;
                m.madvise(at, PAGE, linux::MADV_DONTNEED).expect("mapped");
            }
        }
        for page in 0..next {
            access(&mut m, page);
        }
        rounds.push((next - 8, m.report().faults.major - before));
    }
    sound(&mut m);
    (rounds, detector.fires())
}

#[test]
fn row_078_the_fault_rate_rises_once_memory_is_full() {
    let (rounds, thrashes) = leaking(3);
    let full = rounds.iter().position(|(_, faults)| *faults > 0);
    let full = full.expect("it leaks more than there is memory");
    // Not a round before memory is full, and soon afterwards; tables take some frames too.
    let (leaked, _) = rounds[full];
    assert!((64 - 8 - 10..64).contains(&leaked), "{rounds:?}");
    // From then on the rate rises with what is leaked, till each page of the list is read from
    // swap in each round.
    assert!(rounds[full..].is_sorted_by_key(|(_, faults)| *faults));
    let (leaked, faults) = *rounds.last().expect("40 rounds");
    assert_eq!(leaked, 120);
    assert!(faults >= leaked, "{rounds:?}");
    assert!(thrashes);
    // The same program without the leak never reads from swap.
    let (rounds, thrashes) = leaking(0);
    assert!(rounds.iter().all(|round| *round == (0, 0)), "{rounds:?}");
    assert!(!thrashes);
}

#[test]
fn locked_pages_stay() {
    for kind in KINDS {
        let mut m = with(kind, 8, 64);
        // One is there before, the others come with the call.
        write(&mut m, 1).expect("room");
        m.mlock(0x10_0000, 3 * PAGE).expect("allowed");
        for page in 3..40 {
            write(&mut m, page).expect("there is swap");
        }
        let id = m.current().expect("one runs");
        for page in 0..3 {
            assert!(m.is_resident(id, 0x10_0000 + page * PAGE), "{kind:?}");
        }
        sound(&mut m);
    }
}
