//! Accesses around objects: what the model refuses is explained, to the byte.

use crate::lab::*;
use fencepost::guard::verdict::{Verdict, of_fault};
use fencepost::guard::{Record, Side, SlotState};
use fencepost::mmu::addr::Access;

const SIZES: [usize; 11] = [0, 1, 10, 16, 20, 100, 4080, 4095, 4096, 4097, 10_000];
const ALIGNS: [usize; 5] = [1, 8, 16, 64, 8192];
const SIDES: [Side; 2] = [Side::Right, Side::Left];
const BASE: usize = 0x20_0000_0000;

/// What lies beside the object in question: below and above.
const NEIGHBOURS: [(Option<SlotState>, Option<SlotState>); 6] = [
    (None, None),
    (Some(SlotState::Live), Some(SlotState::Live)),
    (Some(SlotState::Freed), Some(SlotState::Freed)),
    (Some(SlotState::Live), Some(SlotState::Freed)),
    (Some(SlotState::Freed), Some(SlotState::Live)),
    (None, Some(SlotState::Live)),
];

/// What the oracle says of an access to a closed page.
#[derive(Debug, PartialEq, Eq)]
enum Blame {
    /// It must be this one.
    Surely(Record),
    /// One of the objects around.
    Anyone,
}

fn is_jump(record: &Record, addr: usize) -> bool {
    let gap = gap(record, addr);
    let behind = addr >= record.payload;
    gap.is_power_of_two() || (behind && (gap - 1).is_power_of_two())
}

/// How many times nearer an object must be than another one.
fn handicap(record: &Record) -> usize {
    if record.is_live() { 1 } else { 8 }
}

/// The objects that can be to blame: those between which and the address no other slot lies that
/// was ever used.
fn around(world: &World, addr: usize) -> Vec<Record> {
    let used = || (0..world.slots.len()).filter(|n| world.slots[*n].is_some());
    let body = |n: usize| (world.body_of(n), world.body_of(n) + world.body);
    let hidden = |n: usize| {
        let (from, to) = body(n);
        used().any(|other| {
            let (low, high) = body(other);
            (to <= low && high <= addr) || (addr < low && high <= from)
        })
    };
    let seen = used().filter(|n| !hidden(*n));
    seen.filter_map(|n| world.slots[n]).collect()
}

/// Who is to blame, by properties that any sensible rule has: the freed object that holds the
/// address; the one that is more than twice as near as any other; of comparable ones the one
/// that is a round number of bytes away. Otherwise nobody can tell.
fn blame(world: &World, addr: usize) -> Blame {
    let all = around(world, addr);
    if let Some(holder) = all.iter().find(|record| gap(record, addr) == 0) {
        return Blame::Surely(*holder);
    }
    let weight = |record: &Record| gap(record, addr) * handicap(record);
    for one in &all {
        let others = || all.iter().filter(|other| other.payload != one.payload);
        if others().all(|other| weight(other) > 2 * weight(one)) {
            return Blame::Surely(*one);
        }
        let rounder = |other: &Record| !is_jump(other, addr) && 2 * weight(other) > weight(one);
        if is_jump(one, addr) && others().all(rounder) {
            return Blame::Surely(*one);
        }
    }
    Blame::Anyone
}

/// Whether a verdict is what the oracle allows.
fn judge(world: &World, addr: usize, access: Access, verdict: &Verdict<'_>) -> Result<(), String> {
    let expected: Vec<Verdict<'_>> = match blame(world, addr) {
        Blame::Surely(record) => vec![blaming(record, addr, access)],
        Blame::Anyone => {
            let all = around(world, addr).into_iter();
            all.map(|record| blaming(record, addr, access)).collect()
        }
    };
    if expected.contains(verdict) {
        Ok(())
    } else {
        Err(format!("{verdict:#x?}\nis none of\n{expected:#x?}"))
    }
}

/// How often something was seen.
#[derive(Debug, Default)]
struct Seen {
    open: usize,
    overflow: usize,
    underflow: usize,
    freed: usize,
    executed: usize,
    victim_named: usize,
}

/// Distances from the object's beginning at which it is accessed.
fn offsets(size: usize) -> Vec<isize> {
    let size = size as isize;
    let mut all = vec![0, size / 2, size - 1];
    for step in [1, 2, 3, 7, 8, 12, 16, 64, 100, 2048, 4095, 4096, 4097, 8192] {
        all.push(-step);
        all.push(size + step - 1);
    }
    all
}

fn try_all(lab: &mut Lab, world: &World, seen: &mut Seen) {
    lab.build(world);
    let victim = world.slots[1].expect("it is there");
    let mut places: Vec<usize> = offsets(victim.size)
        .into_iter()
        .map(|offset| victim.payload.wrapping_add_signed(offset))
        .filter(|addr| (world.base..world.end()).contains(addr))
        .collect();
    // The first bytes on both sides that are refused.
    let closed = |addr: &usize| !world.is_open(*addr);
    places.extend((victim.payload..world.end()).find(closed));
    places.extend((world.base..victim.payload).rev().find(closed));
    for addr in places {
        for access in ACCESSES {
            let result = lab.access(addr, access);
            let open = world.is_open(addr) && access != Access::Exec;
            assert_eq!(result.is_ok(), open, "{addr:#x} {access:?} {world:#x?}");
            let Err(fault) = result else {
                seen.open += 1;
                continue;
            };
            assert_eq!(fault.addr, Some(addr));
            assert_eq!(fault.access, Some(access));
            let verdict = of_fault(&fault, &world.scene(addr));
            if world.is_open(addr) {
                seen.executed += 1;
                assert_eq!(verdict, Verdict::Execute { addr, heap: true });
                continue;
            }
            if let Err(why) = judge(world, addr, access, &verdict) {
                panic!("{addr:#x} {access:?} in {world:#x?}:\n{why}");
            }
            match verdict {
                Verdict::Overflow { .. } => seen.overflow += 1,
                Verdict::Underflow { .. } => seen.underflow += 1,
                _ => seen.freed += 1,
            }
            let named = verdict.block().expect("an object is blamed").payload;
            seen.victim_named += usize::from(named == victim.payload);
            // Alone, it is always the one.
            let alone = world.slots.iter().flatten().count() == 1;
            assert!(!alone || named == victim.payload);
        }
    }
    lab.clear(world);
}

fn worlds(mut each: impl FnMut(World)) {
    for backend in BACKENDS {
        for size in SIZES {
            for align in ALIGNS {
                for side in SIDES {
                    for state in [SlotState::Live, SlotState::Freed] {
                        for (turn, (below, above)) in NEIGHBOURS.into_iter().enumerate() {
                            let wish = |state, turn: usize| Wish {
                                size: SIZES[turn % SIZES.len()].min(size.max(1)),
                                align: ALIGNS[turn % 4],
                                side: SIDES[turn % 2],
                                state,
                            };
                            let wishes = [
                                below.map(|state| wish(state, turn + size)),
                                Some(Wish {
                                    size,
                                    align,
                                    side,
                                    state,
                                }),
                                above.map(|state| wish(state, turn + align)),
                            ];
                            each(World::new(BASE, backend, &wishes));
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_the_model_refuses_is_blamed_on_the_right_object_to_the_byte() {
    let mut lab = Lab::new();
    let mut seen = Seen::default();
    worlds(|world| try_all(&mut lab, &world, &mut seen));
    assert!(seen.open > 10_000, "{seen:?}");
    assert!(seen.overflow > 10_000, "{seen:?}");
    assert!(seen.underflow > 10_000, "{seen:?}");
    assert!(seen.freed > 10_000, "{seen:?}");
    assert!(seen.executed > 1_000, "{seen:?}");
    // Most accesses are near the object that they were meant for.
    let refused = seen.overflow + seen.underflow + seen.freed;
    assert!(seen.victim_named * 10 > refused * 8, "{seen:?}");
}

/// The verdict must follow the records: each lie about them is noticed by the oracle.
#[test]
fn the_oracle_notices_wrong_verdicts() {
    let mut lab = Lab::new();
    let (mut judged, mut noticed) = (0, 0);
    worlds(|world| {
        if world.backend == Backend::Protect || world.slots.iter().flatten().count() != 3 {
            return;
        }
        lab.build(&world);
        let victim = world.slots[1].expect("it is there");
        let addr = if victim.side == Side::Right {
            (victim.payload..).find(|addr| !world.is_open(*addr))
        } else {
            (0..victim.payload).rev().find(|addr| !world.is_open(*addr))
        };
        let addr = addr.expect("there is a guard");
        let fault = lab.access(addr, Access::Write).expect_err("it is closed");
        let right = world.scene(addr);
        assert_eq!(
            judge(&world, addr, Access::Write, &of_fault(&fault, &right)),
            Ok(())
        );
        for lie in 0..4 {
            let mut wrong = right;
            let mut each = |change: &dyn Fn(&mut Record)| {
                let slots = &mut wrong.slots;
                for slot in [&mut slots.inside, &mut slots.below, &mut slots.above] {
                    slot.iter_mut().for_each(change);
                }
            };
            match lie {
                0 => each(&|record| record.size += 1),
                1 => each(&|record| record.payload += 1),
                2 => each(&|record| {
                    record.state = match record.state {
                        SlotState::Live => SlotState::Freed,
                        _ => SlotState::Live,
                    };
                }),
                _ => wrong.now += 1,
            }
            let verdict = of_fault(&fault, &wrong);
            let freed = matches!(verdict, Verdict::UseAfterFree { .. });
            if lie == 3 && !freed {
                continue; // Only freed objects have an age.
            }
            judged += 1;
            noticed += usize::from(judge(&world, addr, Access::Write, &verdict).is_err());
        }
        lab.clear(&world);
    });
    assert!(judged > 1_000);
    assert_eq!(noticed, judged);
}

/// The rules for addresses that several objects could claim, each with a twin that shows the
/// other side of it.
#[test]
fn between_two_objects_the_likelier_one_is_blamed() {
    let wish = |size, side, state| {
        Some(Wish {
            size,
            align: 16,
            side,
            state,
        })
    };
    let named = |below: Option<Wish>, above: Option<Wish>, offset: isize| {
        // Offsets are from the end of the object below, or of the first byte above if negative.
        let world = World::new(BASE, Backend::Advice, &[below, above]);
        let (low, high) = (world.slots[0].unwrap(), world.slots[1].unwrap());
        let addr = if offset >= 0 {
            low.end() + offset as usize
        } else {
            high.payload - offset.unsigned_abs()
        };
        let mut lab = Lab::new();
        lab.build(&world);
        let fault = lab.access(addr, Access::Read).expect_err("it is closed");
        let verdict = of_fault(&fault, &world.scene(addr));
        let block = verdict.block().expect("an object is blamed").payload;
        if block == low.payload { 0 } else { 1 }
    };
    let (right, left) = (Side::Right, Side::Left);
    let (live, freed) = (SlotState::Live, SlotState::Freed);
    // The nearer one.
    assert_eq!(
        named(wish(96, right, live), wish(4096, left, live), 1000),
        0
    );
    assert_eq!(
        named(wish(96, right, live), wish(4096, left, live), -1000),
        1
    );
    // A page before the object, though the end of the one below is as near.
    assert_eq!(
        named(wish(96, right, live), wish(96, right, live), -4096),
        1
    );
    assert_eq!(
        named(wish(96, right, live), wish(96, right, live), -4100),
        0
    );
    // In the middle: behind the end.
    assert_eq!(
        named(wish(96, right, live), wish(4096, left, live), 2047),
        0
    );
    // As near as can be: 2050 bytes from either.
    assert_eq!(
        named(wish(109, right, live), wish(4096, left, live), 2049),
        0
    );
    assert_eq!(
        named(wish(109, right, live), wish(4096, left, live), 2050),
        1
    );
    // A freed one must be much nearer.
    assert_eq!(
        named(wish(96, right, freed), wish(4096, left, live), 1000),
        1
    );
    assert_eq!(
        named(wish(96, right, freed), wish(4096, left, live), 100),
        0
    );
    assert_eq!(
        named(wish(96, right, live), wish(4096, left, freed), -1000),
        0
    );
    assert_eq!(
        named(wish(96, right, live), wish(4096, left, freed), -100),
        1
    );
}

#[test]
fn what_is_too_far_is_nobodys() {
    let wish = Wish {
        size: 100,
        align: 16,
        side: Side::Right,
        state: SlotState::Live,
    };
    let world = World::new(BASE, Backend::Advice, &[Some(wish), None]);
    let record = world.slots[0].unwrap();
    let mut lab = Lab::new();
    lab.build(&world);
    let fault = lab.access(record.payload - 0x1000, Access::Read);
    let mut fault = fault.expect_err("it is closed");
    let mut scene = world.scene(record.payload - 0x1000);
    for (distance, blamed) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        fault.addr = Some(record.payload - distance);
        let verdict = of_fault(&fault, &scene);
        assert_eq!(verdict.block().is_some(), blamed, "{verdict:?}");
    }
    // A large object reaches as far as it is long.
    scene.slots.above = Some(Record {
        size: 1 << 30,
        ..record
    });
    fault.addr = Some(record.payload - (1 << 29));
    assert_eq!(of_fault(&fault, &scene).block(), scene.slots.above.as_ref());
}

/// Who is being freed or made while somebody accesses it was freed before, for that one.
#[test]
fn an_access_during_a_free_is_one_after_it() {
    let wish = Wish {
        size: 100,
        align: 16,
        side: Side::Right,
        state: SlotState::Live,
    };
    let world = World::new(BASE, Backend::Advice, &[Some(wish), None]);
    let record = world.slots[0].unwrap();
    let mut lab = Lab::new();
    lab.build(&World {
        slots: vec![None, None],
        ..World::new(BASE, Backend::Advice, &[Some(wish), None])
    });
    let addr = record.payload + 5;
    let fault = lab.access(addr, Access::Write).expect_err("it is closed");
    let mut scene = world.scene(addr);
    scene.page = fencepost::os::PageState::Guard;
    for state in [SlotState::Live, SlotState::Busy, SlotState::Swept] {
        scene.slots.inside = Some(Record { state, ..record });
        let verdict = of_fault(&fault, &scene);
        assert!(
            matches!(verdict, Verdict::UseAfterFree { age: 0, .. }),
            "{verdict:?}"
        );
    }
    // An open page is another matter.
    scene.page = fencepost::os::PageState::Live;
    scene.slots.inside = Some(record);
    assert_eq!(of_fault(&fault, &scene).block(), None);
}
