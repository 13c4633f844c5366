//! The pool of guarded objects on the simulated kernel: where objects lie, that everything else
//! is guard, what refused calls leave, and that the checker notices what it should.
#![allow(unsafe_code)] // Objects by their addresses.

#[path = "model/mod.rs"]
mod model;

use fencepost::guard::geometry::{pages, place};
use fencepost::guard::verdict::Given;
use fencepost::guard::{Event, FRAMES, Pool, PoolDamage, Refusal, Side, SlotIndex, SlotState};
use fencepost::mmu::addr::Access;
use fencepost::mmu::fault::Cause;
use fencepost::os::{Flaky, Ledger, Os, PageState, Region};
use model::{Bound, Ground, Host, Plan};
use std::collections::BTreeMap;

const PAGE: usize = 4096;
const SPACE: usize = 32 << 20;

type Kernel = Ledger<Flaky<Host>>;
type Guards = Pool<&'static Kernel>;

/// A small generator of numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn ground() -> Ground<Kernel> {
    // SAFETY: pools are dropped before the ground is.
    unsafe { Ground::new(Ledger::new(Flaky::new(Host::new(Plan::SMALL))), 7) }
}

fn pool(ground: &Ground<Kernel>) -> Guards {
    let pool = Pool::new(ground.os());
    assert!(pool.start(0x5eed, Some(SPACE)));
    pool.set_quarantine(8, 1 << 20);
    pool
}

fn bytes(ground: &Ground<Kernel>, addr: usize, len: usize) -> &'static mut [u8] {
    // SAFETY: tests name objects in use.
    unsafe { std::slice::from_raw_parts_mut(ground.os().region().at(addr), len) }
}

fn release(pool: &Guards, addr: usize) -> Result<(), Refusal> {
    // SAFETY: tests do not use it any more.
    unsafe {
        pool.release(
            addr,
            Given::default(),
            pool.event(1, pool.keep_stack(&[], true).0),
        )
    }
}

fn get(pool: &Guards, size: usize, align: usize, side: Side) -> usize {
    pool.allocate(
        size,
        align,
        side,
        pool.event(1, pool.keep_stack(&[4096, 5000], true).0),
    )
}

/// What becomes of a read at an address.
fn read(ground: &Ground<Kernel>, addr: usize) -> Option<Cause> {
    let read = ground.os().inner().inner().access(addr, Access::Read);
    read.err().map(|fault| fault.cause)
}

#[test]
fn objects_lie_where_the_notes_put_them() {
    // Size, alignment; offset in the page or pages, bytes left behind.
    let right = [
        (1, 16, 4080, 15),
        (10, 16, 4080, 6),
        (16, 16, 4080, 0),
        (20, 16, 4064, 12),
        (100, 16, 3984, 12),
        (4096, 16, 0, 0),
        (4097, 16, 4080, 15),
        (100, 1, 3996, 0),
    ];
    for (size, align, offset, slack) in right {
        let count = pages(size, align, PAGE).expect("a small object");
        assert_eq!(count, size.div_ceil(PAGE));
        let (from, to) = (10 * PAGE, (10 + count) * PAGE);
        let at = place(from, to, size, align, PAGE, Side::Right);
        assert_eq!(at.payload - from, offset, "{size}/{align}");
        assert_eq!(at.close - at.payload - size, slack, "{size}/{align}");
        assert_eq!((at.open, at.close), (from, to));
        let left = place(from, to, size, align, PAGE, Side::Left);
        assert_eq!((left.payload, left.open), (from, from));
    }
    // Beyond a page the alignment needs room, and only the object's own pages are opened.
    let count = pages(100, 4 * PAGE, PAGE).expect("a small object");
    let (from, to) = (9 * PAGE, (9 + count) * PAGE);
    for side in [Side::Right, Side::Left] {
        let at = place(from, to, 100, 4 * PAGE, PAGE, side);
        assert!(at.payload.is_multiple_of(4 * PAGE) && at.payload >= from);
        assert_eq!((at.open, at.close), (at.payload, at.payload + PAGE));
        assert!(at.close <= to);
    }
    assert_eq!(pages(usize::MAX, 16, PAGE), None);
    assert_eq!(pages(usize::MAX - PAGE, 1 << 20, PAGE), None);
}

/// Random calls beside a list of what is in use.
#[test]
fn everything_but_objects_in_use_is_guard() {
    let operations = if cfg!(miri) { 60 } else { 3000 };
    for seed in 1..=if cfg!(miri) { 1 } else { 6 } {
        let ground = ground();
        let pool = pool(&ground);
        let mut random = Random(seed * 0x9e37_79b9);
        let mut used: BTreeMap<usize, (usize, u8)> = BTreeMap::new();
        let mut gone = Vec::new();
        for turn in 0..operations {
            if random.below(100) < 55 {
                let size = match random.below(10) {
                    0 => 0,
                    1 => 1 + random.below(9 * PAGE),
                    2 => PAGE * random.below(4),
                    _ => 1 + random.below(600),
                };
                let shifts = if random.below(20) == 0 { 15 } else { 5 };
                let align = 1 << random.below(shifts);
                let side = [Side::Right, Side::Left][random.below(2)];
                let at = get(&pool, size, align, side);
                if at == 0 {
                    continue;
                }
                assert!(at.is_multiple_of(align), "{at:#x} {align}");
                let pattern = turn as u8 | 1;
                if size > 0 {
                    let object = bytes(&ground, at, size);
                    assert!(object.iter().all(|&byte| byte == 0), "fresh ones are zero");
                    object.fill(pattern);
                }
                assert!(used.insert(at, (size, pattern)).is_none());
                assert_eq!(pool.live(at).map(|record| record.size), Some(size));
            } else if !used.is_empty() {
                let chosen = random.below(used.len());
                let (&at, &(size, pattern)) = used.iter().nth(chosen).expect("one of them");
                if size > 0 {
                    assert!(bytes(&ground, at, size).iter().all(|&byte| byte == pattern));
                }
                used.remove(&at);
                assert_eq!(release(&pool, at), Ok(()));
                assert_eq!(release(&pool, at), Err(Refusal::NotLive));
                gone.push(at);
            }
            if turn % 64 == 0 || cfg!(miri) {
                pool.check().expect("the pool is in order");
            }
        }
        pool.check().expect("the pool is in order");
        assert_eq!(pool.totals().live, used.len() as u64);
        // The model is asked about both ends of every object, and about the freed ones.
        for (&at, &(size, _)) in &used {
            let record = pool.live(at).expect("in use");
            for addr in [at.wrapping_sub(1), at + size] {
                let inside = size > 0
                    && addr >= at / PAGE * PAGE
                    && addr < (at + size).next_multiple_of(PAGE);
                assert_eq!(read(&ground, addr).is_none(), inside, "{record:?}");
            }
            let (slot, found) = pool.find(at + size / 2).expect("an address inside");
            assert_eq!(found, record);
            assert_eq!(pool.slots(at).inside, Some(record), "{slot:?}");
        }
        let rests = |at: &usize| {
            let slot = pool.slots(*at).inside;
            slot.is_some_and(|record| record.state == SlotState::Freed)
        };
        for at in gone.into_iter().filter(rests) {
            let fault = read(&ground, at);
            assert!(
                matches!(fault, Some(Cause::Guard | Cause::ProtRead)),
                "{fault:?}"
            );
        }
    }
}

#[test]
fn a_freed_slot_rests_until_enough_others_do() {
    let ground = ground();
    let pool = pool(&ground);
    let first = get(&pool, 100, 16, Side::Right);
    release(&pool, first).expect("in use");
    // Eight may rest: the ninth is the first again.
    let others: Vec<usize> = (0..8).map(|_| get(&pool, 100, 16, Side::Right)).collect();
    assert!(!others.contains(&first));
    others
        .iter()
        .for_each(|&at| release(&pool, at).expect("in use"));
    assert_eq!(get(&pool, 100, 16, Side::Right), first);
    assert_eq!(pool.totals().resting, 8);
    // By bytes: two of a page may rest.
    pool.set_quarantine(1000, 2 * PAGE);
    let large = get(&pool, 3 * PAGE, 16, Side::Right);
    release(&pool, large).expect("in use");
    assert_eq!(get(&pool, 3 * PAGE, 16, Side::Right), large);
    pool.check().expect("the pool is in order");
}

#[test]
fn a_class_that_is_full_takes_back_what_rests_then_refuses() {
    let ground = ground();
    let pool = pool(&ground);
    pool.set_quarantine(1000, 1 << 30);
    let mut all = Vec::new();
    loop {
        match get(&pool, 64, 16, Side::Right) {
            0 => break,
            at => all.push(at),
        }
    }
    // A region of a mebibyte, slots of two pages, and the guard before the first.
    assert_eq!(all.len(), (SPACE / 32 - PAGE) / (2 * PAGE));
    assert_eq!(pool.totals().refused, 1);
    release(&pool, all[5]).expect("in use");
    assert_eq!(get(&pool, 64, 16, Side::Right), all[5]);
    // Other classes have room still.
    assert_ne!(get(&pool, 2 * PAGE, 16, Side::Right), 0);
    pool.check().expect("the pool is in order");
}

#[test]
fn what_callers_believe_is_compared() {
    let ground = ground();
    let pool = pool(&ground);
    let at = get(&pool, 100, 64, Side::Right);
    let free = |size, align| {
        let given = Given { size, align };
        // SAFETY: not used any more.
        unsafe { pool.release(at, given, Event::default()) }
    };
    assert_eq!(free(Some(99), None), Err(Refusal::Size));
    assert_eq!(free(Some(100), Some(128)), Err(Refusal::Align));
    assert_eq!(release(&pool, at + 1), Err(Refusal::NotLive));
    assert_eq!(release(&pool, at + 100), Err(Refusal::NotLive));
    assert_eq!(free(None, Some(32)), Err(Refusal::Align));
    // Refusals leave the object as it was.
    assert_eq!(
        pool.live(at).map(|record| record.state),
        Some(SlotState::Live)
    );
    assert_eq!(free(Some(100), Some(64)), Ok(()));
}

#[test]
fn overwritten_bytes_are_named() {
    let ground = ground();
    let pool = pool(&ground);
    for (side, offset, first, last) in [
        (Side::Right, 100, 100, 100),
        (Side::Right, 111, 111, 111),
        (Side::Right, -1, -1, -1),
        (Side::Right, -3984, -3984, -3984),
        (Side::Left, 100, 100, 100),
        (Side::Left, 4095, 4095, 4095),
    ] {
        let at = get(&pool, 100, 16, side);
        let target = at.wrapping_add_signed(offset);
        let old = bytes(&ground, target, 1)[0];
        bytes(&ground, target, 1)[0] = !old;
        let Err(Refusal::Overwritten(damage)) = release(&pool, at) else {
            panic!("{side:?} {offset}: not noticed");
        };
        assert_eq!((damage.first, damage.last), (first, last));
        let mut swept = Vec::new();
        pool.sweep(|record, damage| swept.push((record.payload, damage)));
        assert_eq!(swept, [(at, damage)]);
        // A byte with the pattern's value changes nothing.
        bytes(&ground, target, 1)[0] = old;
        assert_eq!(release(&pool, at), Ok(()));
    }
    let at = get(&pool, 100, 16, Side::Right);
    bytes(&ground, at + 102, 5).fill(0);
    let Err(Refusal::Overwritten(damage)) = release(&pool, at) else {
        panic!("not noticed");
    };
    assert_eq!((damage.first, damage.last), (102, 106));
}

/// Every call is refused once, then all from each on: the answer is an object or none, and what
/// is there stays in order.
#[test]
fn refused_calls_cost_objects_not_order() {
    let script = |pool: &Guards, ground: &Ground<Kernel>| {
        let mut used = Vec::new();
        for round in 0..12 {
            for size in [0, 40, 5000, 250_000] {
                let at = get(pool, size, 16, Side::Right);
                if at != 0 {
                    if size > 0 {
                        bytes(ground, at, 1)[0] = 1;
                    }
                    used.push(at);
                }
            }
            if round % 3 == 2 {
                used.drain(..used.len() / 2)
                    .for_each(|at| release(pool, at).expect("in use"));
            }
        }
        used
    };
    let calls = {
        let ground = ground();
        let pool = pool(&ground);
        ground.os().inner().refuse(u64::MAX, u64::MAX);
        script(&pool, &ground);
        ground.os().inner().made()
    };
    assert!(calls > 50, "{calls}");
    let step = if cfg!(miri) { 17 } else { 1 };
    for from in (0..calls).step_by(step) {
        for to in [from + 1, u64::MAX] {
            let ground = ground();
            let pool = pool(&ground);
            let flaky = ground.os().inner();
            flaky.refuse(from, to);
            let used = script(&pool, &ground);
            flaky.refuse(u64::MAX, u64::MAX);
            for &at in &used {
                assert_eq!(release(&pool, at), Ok(()), "call {from}");
            }
            let at = get(&pool, 40, 16, Side::Right);
            assert_ne!(at, 0, "call {from}: objects can be had again");
            assert_eq!(pool.totals().live, 1);
        }
    }
}

#[test]
fn without_mappings_large_objects_are_refused_and_small_ones_are_not() {
    let ground = ground();
    let pool = pool(&ground);
    pool.set_mappings(4);
    let large = get(&pool, 250_000, 16, Side::Right);
    assert_ne!(large, 0);
    assert_eq!(
        get(&pool, 200_000, 16, Side::Right),
        0,
        "one mapping in four"
    );
    let resting = pool.totals().resting;
    assert_eq!(resting, 0, "what is refused takes no place");
    assert_ne!(get(&pool, 100, 16, Side::Right), 0);
    release(&pool, large).expect("in use");
    assert_ne!(get(&pool, 200_000, 16, Side::Right), 0);
    // When the kernel itself has none left.
    let host = ground.os().inner().inner();
    host.limit(Some((Bound::Areas, 0)));
    assert_ne!(
        get(&pool, 100, 16, Side::Right),
        0,
        "guards need no mapping"
    );
    pool.check().expect("the pool is in order");
}

#[test]
fn where_the_kernel_has_no_guards_access_is_taken_away() {
    let ground = ground();
    let flaky = ground.os().inner();
    let pool = Pool::new(ground.os());
    // Two mappings, then the question.
    flaky.refuse(2, 3);
    assert!(pool.start(0x5eed, Some(SPACE)));
    assert_eq!(flaky.refused(), 1, "the kernel was asked");
    pool.set_quarantine(4, 1 << 20);
    pool.set_mappings(40);
    let objects: Vec<usize> = (0..10).map(|_| get(&pool, 100, 16, Side::Right)).collect();
    assert!(!objects.contains(&0));
    assert_eq!(get(&pool, 100, 16, Side::Right), 0, "ten may have mappings");
    for &at in &objects {
        bytes(&ground, at, 100).fill(1);
        for beside in [at + 112, at / PAGE * PAGE - 1] {
            assert_eq!(read(&ground, beside), Some(Cause::ProtRead));
        }
    }
    for &at in &objects {
        assert_eq!(release(&pool, at), Ok(()));
        assert_eq!(read(&ground, at), Some(Cause::ProtRead));
    }
    let again = get(&pool, 100, 16, Side::Right);
    assert!(
        objects.contains(&again),
        "four may rest, six are used again"
    );
    assert!(bytes(&ground, again, 100).iter().all(|&byte| byte == 0));
    pool.check().expect("the pool is in order");
    assert_eq!(
        ground.os().inner().inner().calls()[8],
        0,
        "no guard was made"
    );
}

#[test]
fn stacks_are_kept_once() {
    let ground = ground();
    let pool = pool(&ground);
    let frames: Vec<usize> = (1..=FRAMES + 4).map(|n| n * 4096).collect();
    let (long, before) = pool.keep_stack(&frames, true);
    assert_eq!(before, 0);
    let mut kept = [0; FRAMES];
    assert_eq!(pool.stack(long, &mut kept), FRAMES);
    assert_eq!(kept, frames[..FRAMES]);
    let mut ids = vec![long];
    for n in 0..2000 {
        let (id, before) = pool.keep_stack(&[n + 1, 4096], true);
        assert_eq!(before, 0);
        assert!(!ids.contains(&id), "every stack has a number of its own");
        ids.push(id);
    }
    for n in 0..2000 {
        assert_eq!(pool.keep_stack(&[n + 1, 4096], true), (ids[n + 1], 1));
        assert_eq!(pool.stack(ids[n + 1], &mut kept), 2);
        assert_eq!(kept[..2], [n + 1, 4096]);
    }
    assert_eq!(pool.keep_stack(&frames, true), (long, 1));
    assert_eq!(pool.keep_stack(&[], true).0.0, 0);
}

#[test]
fn a_child_forgets_what_somebody_had_in_hands() {
    let ground = ground();
    let pool = pool(&ground);
    let at = get(&pool, 100, 16, Side::Right);
    let freed = get(&pool, 100, 16, Side::Right);
    release(&pool, freed).expect("in use");
    pool.forge_lock(SlotIndex { class: 0, index: 0 });
    pool.enter(1);
    // The slot that rested is lost, the object is not.
    assert_eq!(pool.check(), Err(PoolDamage::Quarantine(0)));
    assert_eq!(release(&pool, at), Ok(()));
    assert_ne!(get(&pool, 100, 16, Side::Right), freed);
}

#[test]
fn a_child_takes_the_slot_that_its_parent_was_taking() {
    let ground = ground();
    let pool = pool(&ground);
    get(&pool, 100, 16, Side::Right);
    let record = pool.forge_record(SlotIndex { class: 0, index: 1 });
    // SAFETY: the first word of a record, which says what the slot holds.
    unsafe {
        let word = ground.os().region().at(record).cast::<u64>();
        word.write(SlotState::Busy as u64);
    }
    pool.enter(1);
    assert_ne!(get(&pool, 100, 16, Side::Right), 0);
    pool.check().expect("in order");
}

/// Damages a pool whose objects are given.
type Break<'b> = &'b dyn Fn(&Ground<Kernel>, &Guards, &[usize]);

/// Each invariant is broken on purpose, and must be named.
#[test]
fn the_checker_names_what_is_broken() {
    let slot = SlotIndex { class: 0, index: 1 };
    let check = |break_it: Break<'_>| {
        let ground = ground();
        let pool = pool(&ground);
        let mut objects: Vec<usize> = (0..4).map(|_| get(&pool, 100, 16, Side::Right)).collect();
        objects.push(get(&pool, 100, 16, Side::Left));
        release(&pool, objects[2]).expect("in use");
        release(&pool, objects[3]).expect("in use");
        pool.check().expect("in order before");
        break_it(&ground, &pool, &objects);
        pool.check()
    };
    let write = |ground: &Ground<Kernel>, addr: usize, word: u64| {
        // SAFETY: a word of a record.
        unsafe { ground.os().region().at(addr).cast::<u64>().write(word) };
    };
    assert_eq!(
        check(&|ground, pool, _| write(ground, pool.forge_record(slot) + 8, 4096)),
        Err(PoolDamage::Placement(slot))
    );
    assert_eq!(
        check(&|ground, pool, _| write(ground, pool.forge_record(slot) + 16, 1 << 40)),
        Err(PoolDamage::Placement(slot))
    );
    let note = |object: usize, state: PageState| {
        check(&move |ground, _, objects| {
            let page = objects[object] / PAGE * PAGE;
            ground.os().note(page, page + PAGE, state);
        })
    };
    for (object, state) in [
        (1, PageState::Guard),
        (1, PageState::Fresh),
        (2, PageState::Live),
    ] {
        let Err(PoolDamage::Pages(found, _)) = note(object, state) else {
            panic!("{object} {state:?}: not noticed");
        };
        assert_eq!(found.index, object);
    }
    // The guard between two objects.
    let between = check(&|ground, _, objects| {
        let page = objects[0] / PAGE * PAGE + PAGE;
        ground.os().note(page, page + PAGE, PageState::Live);
    });
    assert!(matches!(between, Err(PoolDamage::Pages(..))), "{between:?}");
    assert_eq!(
        check(&|ground, pool, _| {
            // A freed slot's link.
            let resting = SlotIndex { class: 0, index: 2 };
            write(ground, pool.forge_record(resting) + 56, 0);
        }),
        Err(PoolDamage::Quarantine(0))
    );
    assert_eq!(
        check(&|ground, pool, _| {
            // Its state: busy.
            let resting = SlotIndex { class: 0, index: 3 };
            write(ground, pool.forge_record(resting), 1);
        }),
        Err(PoolDamage::Quarantine(0))
    );
    assert_eq!(
        check(&|ground, _, objects| bytes(ground, objects[1] + 100, 1)[0] ^= 1),
        Err(PoolDamage::Canary(slot))
    );
    assert_eq!(
        check(&|ground, pool, objects| {
            // Busy, and closed behind the pool's back.
            write(ground, pool.forge_record(slot), 1);
            let page = objects[1] / PAGE * PAGE;
            ground.os().note(page, page + PAGE, PageState::Guard);
        }),
        Err(PoolDamage::Counters)
    );
}
