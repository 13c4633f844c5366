//! Pointers that are given to free, realloc and usable_size, and damaged canaries.

use crate::lab::*;
use fencepost::guard::scene::{Ground, Scene};
use fencepost::guard::verdict::{Given, Occasion, Place, Verdict, Why, of_call, of_canary};
use fencepost::guard::{Damage, Record, Side, SlotState};
use fencepost::mmu::addr::{Access, Rights};
use fencepost::report::Call;

const CALLS: [Call; 3] = [Call::Free, Call::Realloc, Call::UsableSize];
const NONE: Given = Given {
    size: None,
    align: None,
};

fn wish(size: usize, side: Side, state: SlotState) -> Option<Wish> {
    Some(Wish {
        size,
        align: 16,
        side,
        state,
    })
}

/// Every pointer into a world of three objects, by a naive look at their bytes.
#[test]
fn every_pointer_into_the_pool_is_explained() {
    let states = [SlotState::Live, SlotState::Freed];
    let mut seen = [0; 5];
    for turn in 0..16 {
        let [first, second] = [turn & 1, turn >> 1 & 1].map(|bit| states[bit]);
        let sides = [Side::Right, Side::Left];
        let [one, two] = [turn >> 2 & 1, turn >> 3].map(|bit| sides[bit]);
        let wishes = [wish(100, one, first), None, wish(33, two, second)];
        let world = World::new(0x20_0000_0000, Backend::Advice, &wishes);
        let all: Vec<Record> = world.slots.iter().flatten().copied().collect();
        for addr in world.base..world.end() {
            for call in CALLS {
                let verdict = of_call(call, addr, NONE, &world.scene(addr));
                let beginning = all.iter().find(|record| record.payload == addr);
                let within = all.iter().find(|record| gap(record, addr) == 0);
                match (beginning, within) {
                    (Some(block), _) if block.state == SlotState::Live => {
                        seen[0] += 1;
                        assert_eq!(verdict, None);
                    }
                    (Some(&block), _) => {
                        seen[1] += 1;
                        let age = NOW - block.freed.when;
                        let expected = if call == Call::Free {
                            Verdict::DoubleFree { block, age }
                        } else {
                            Verdict::FreedBefore { call, block, age }
                        };
                        assert_eq!(verdict, Some(expected));
                    }
                    (None, Some(&block)) => {
                        seen[2] += 1;
                        let place = Place::Within(addr - block.payload);
                        let why = Why::Near(block, place);
                        assert_eq!(verdict, Some(Verdict::InvalidPointer { call, addr, why }));
                    }
                    (None, None) => {
                        let Some(Verdict::InvalidPointer {
                            call: said,
                            addr: pointer,
                            why: Why::Near(block, place),
                        }) = verdict
                        else {
                            panic!("{addr:#x}: {verdict:?} in {world:#x?}");
                        };
                        assert_eq!((said, pointer), (call, addr));
                        let (nth, end) = match place {
                            Place::Before(by) => (3, addr + by == block.payload),
                            Place::Past(by) => (4, addr - by == block.end()),
                            Place::Within(_) => panic!("{addr:#x} is outside of {block:#x?}"),
                        };
                        seen[nth] += 1;
                        assert!(end && all.contains(&block));
                    }
                }
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 10), "{seen:?}");
}

#[test]
fn what_the_caller_says_of_the_object_must_be_true() {
    for align in [1, 2, 16, 64, 4096] {
        for size in [0, 1, 100, 5000] {
            let world = World::new(
                0x20_0000_0000,
                Backend::Protect,
                &[Some(Wish {
                    size,
                    align,
                    side: Side::Right,
                    state: SlotState::Live,
                })],
            );
            let block = world.slots[0].unwrap();
            let scene = world.scene(block.payload);
            for given in [None, Some(size), Some(size + 1), Some(0), Some(usize::MAX)] {
                for stated in [None, Some(align), Some(align * 2), Some(align / 2)] {
                    let said = Given {
                        size: given,
                        align: stated,
                    };
                    let verdict = of_call(Call::Free, block.payload, said, &scene);
                    let expected = if let Some(given) = given.filter(|given| *given != size) {
                        Some(Verdict::WrongSize { block, given })
                    } else {
                        stated
                            .filter(|given| *given != align)
                            .map(|given| Verdict::WrongAlign { block, given })
                    };
                    assert_eq!(verdict, expected);
                }
            }
        }
    }
}

/// Two threads free the same object: one of them finds it busy.
#[test]
fn a_free_during_a_free_is_a_double_free() {
    let world = World::new(
        0x20_0000_0000,
        Backend::Advice,
        &[wish(100, Side::Right, SlotState::Busy)],
    );
    let block = world.slots[0].unwrap();
    let scene = world.scene(block.payload);
    let verdict = of_call(Call::Free, block.payload, NONE, &scene);
    assert_eq!(verdict, Some(Verdict::DoubleFree { block, age: 0 }));
    let verdict = of_call(Call::Realloc, block.payload, NONE, &scene);
    assert!(matches!(verdict, Some(Verdict::FreedBefore { age: 0, .. })));
}

#[test]
fn what_is_not_of_the_pool_is_said_to_lie_where_it_lies() {
    let grounds = [
        Ground::Unmapped {
            below: Some(1),
            above: None,
        },
        Ground::Stack { main: true },
        Ground::Static { module: b"/bin/x" },
        Ground::Heap,
        Ground::Mapped {
            rights: Rights::READ,
            name: b"/data",
        },
    ];
    for ground in grounds {
        for call in CALLS {
            let scene = Scene {
                ground,
                ..Scene::NOWHERE
            };
            let expected = Verdict::InvalidPointer {
                call,
                addr: 0x1234,
                why: Why::Foreign(ground),
            };
            assert_eq!(of_call(call, 0x1234, NONE, &scene), Some(expected));
        }
    }
}

#[test]
fn a_damaged_canary_is_an_overflow_or_an_underflow() {
    let world = World::new(
        0x20_0000_0000,
        Backend::Advice,
        &[wish(100, Side::Right, SlotState::Live)],
    );
    let block = world.slots[0].unwrap();
    for (first, last) in [(100, 100), (100, 111), (105, 107), (-1, -1), (-3984, -1)] {
        let found = Occasion::Sweep;
        let verdict = of_canary(block, Damage { first, last }, found);
        let expected = Verdict::Canary {
            block,
            first,
            last,
            found,
        };
        assert_eq!(verdict, expected);
        let place = if first < 0 {
            Place::Before(first.unsigned_abs())
        } else {
            Place::Past(first.unsigned_abs() - 100)
        };
        assert_eq!(verdict.place(), Some(place));
        assert_eq!(verdict.access(), Some(Access::Write));
        let kind = if first < 0 {
            "heap underflow"
        } else {
            "heap overflow"
        };
        assert_eq!(verdict.kind(), kind);
    }
}
