//! Faults that are no matter of objects.

use crate::lab::*;
use crate::machine::{PAGE, R, RW, map, store, touch};
use fencepost::guard::scene::{Fault, Ground, REGISTERS, Scene, Slots};
use fencepost::guard::verdict::{Refusal, Verdict, of_fault};
use fencepost::guard::{Record, Side, SlotState};
use fencepost::mmu::addr::{Access, Rights};
use fencepost::mmu::area::linux;
use fencepost::os::PageState;

const AT: u64 = 0x10_0000;

fn mapped(rights: Rights) -> Scene<'static> {
    Scene {
        ground: Ground::Mapped {
            rights,
            name: b"/data",
        },
        rights,
        ..Scene::NOWHERE
    }
}

/// The model's fault and the scene as the model's areas are; the verdict.
fn verdict(lab: &mut Lab, at: u64, access: Access, scene: &Scene<'static>) -> Verdict<'static> {
    let fault = lab.access(at as usize, access).expect_err("it is illegal");
    of_fault(&fault, scene)
}

#[test]
fn each_fault_of_the_model_has_its_verdict() {
    let mut lab = Lab::new();
    let m = lab.machine();
    map(m, AT, 8, RW);
    m.mprotect(AT, PAGE, R).expect("mapped");
    m.mprotect(AT + PAGE, PAGE, 0).expect("mapped");
    m.madvise(AT + 2 * PAGE, PAGE, linux::MADV_GUARD_INSTALL)
        .expect("mapped");
    let file = m.open(0, PAGE).expect("room");
    let file = m.mmap(0, 2 * PAGE, R, linux::MAP_PRIVATE, Some(file), 0);
    let behind = file.expect("room") + PAGE;
    for touched in [false, true] {
        if touched {
            touch(lab.machine(), AT, Access::Read).expect("readable");
            store(lab.machine(), AT + 3 * PAGE, 1).expect("writable");
        }
        for access in ACCESSES {
            let wild = |at: u64, refusal| Verdict::Wild {
                addr: at as usize,
                access: Some(access),
                refusal,
            };
            let mut said = |at, scene| verdict(&mut lab, at, access, &scene);
            for at in [0, 8, 0xfff8, 0xffff] {
                let null = Verdict::Null {
                    addr: at as usize,
                    access: Some(access),
                };
                assert_eq!(said(at, Scene::NOWHERE), null);
            }
            for at in [0x1_0000, 0x5000_0000, 0x7fff_ffff_f000] {
                assert_eq!(said(at, Scene::NOWHERE), wild(at, Refusal::Unmapped));
            }
            for at in [0xffff_8000_0000_0000, 0xffff_ffff_ff60_0000, u64::MAX] {
                assert_eq!(said(at, Scene::NOWHERE), wild(at, Refusal::Unmapped));
            }
            let none = said(AT + PAGE, mapped(Rights::NONE));
            assert_eq!(none, wild(AT + PAGE, Refusal::NoAccess));
            // Somebody else's guards: the listing says that all is well.
            let guard = said(AT + 2 * PAGE, mapped(Rights::READ_WRITE));
            if access == Access::Exec {
                assert!(matches!(guard, Verdict::Execute { heap: false, .. }));
            } else {
                assert_eq!(guard, wild(AT + 2 * PAGE, Refusal::NoAccess));
            }
        }
        let read_only = mapped(Rights::READ);
        assert_eq!(
            verdict(&mut lab, AT + 5, Access::Write, &read_only),
            Verdict::ReadOnly {
                addr: AT as usize + 5,
                ground: read_only.ground
            }
        );
        for (page, heap) in [(PageState::None, false), (PageState::Live, true)] {
            let scene = Scene {
                page,
                ..mapped(Rights::READ_WRITE)
            };
            assert_eq!(
                verdict(&mut lab, AT + 3 * PAGE, Access::Exec, &scene),
                Verdict::Execute {
                    addr: (AT + 3 * PAGE) as usize,
                    heap
                }
            );
        }
    }
    // Not the heap's: behind the end of a file.
    let bus = verdict(&mut lab, behind, Access::Read, &mapped(Rights::READ));
    let expected = Verdict::NotOurs {
        addr: Some(behind as usize),
        pc: Some(0x40_1000),
        signal: 7,
        code: 2,
    };
    assert_eq!(bus, expected);
}

/// Without `/proc` nothing is known of areas; the error code still tells some things.
#[test]
fn without_a_listing_the_error_code_helps() {
    let mut lab = Lab::new();
    map(lab.machine(), AT, 2, R);
    touch(lab.machine(), AT, Access::Read).expect("readable");
    let unknown = Scene::NOWHERE;
    assert!(matches!(
        verdict(&mut lab, AT, Access::Write, &unknown),
        Verdict::ReadOnly { .. }
    ));
    assert!(matches!(
        verdict(&mut lab, AT, Access::Exec, &unknown),
        Verdict::Execute { heap: false, .. }
    ));
    // A page that was never touched: nobody can tell.
    assert!(matches!(
        verdict(&mut lab, AT + PAGE, Access::Write, &unknown),
        Verdict::Wild {
            refusal: Refusal::NoAccess,
            ..
        }
    ));
}

/// A general protection fault has no address: the registers are searched.
#[cfg(target_arch = "x86_64")]
#[test]
fn addresses_that_are_not_canonical_are_found_in_registers() {
    let canonical = [
        0,
        1,
        0x7fff_ffff_ffff,
        0xffff_8000_0000_0000,
        usize::MAX,
        0x1000,
    ];
    let wild = [
        0x8000_0000_0000,
        0xffff_7fff_ffff_ffff,
        0xdead_beef_dead_beef,
        0x4141_4141_4141_4141,
    ];
    let mut lab = Lab::new();
    for value in wild {
        let real = lab.access(value, Access::Write).expect_err("not canonical");
        assert_eq!((real.addr, real.trap, real.code), (None, 13, 128));
        for (number, name) in REGISTERS.into_iter().enumerate() {
            let mut fault = real;
            for (other, register) in fault.registers.iter_mut().enumerate() {
                *register = canonical[other % canonical.len()];
            }
            let plain = of_fault(&fault, &Scene::NOWHERE);
            assert!(matches!(plain, Verdict::NotOurs { addr: None, .. }));
            fault.registers[number] = value;
            let verdict = of_fault(&fault, &Scene::NOWHERE);
            if name == "eflags" {
                assert_eq!(verdict, plain);
                continue;
            }
            let expected = Verdict::NonCanonical {
                access: None,
                suspects: 1 << number,
                registers: fault.registers,
            };
            assert_eq!(verdict, expected, "{name}");
            assert_eq!(verdict.address(), Some(value));
            // By way of the stack it is another exception, and another signal.
            let stack = Fault {
                trap: 12,
                signal: 7,
                ..fault
            };
            let verdict = of_fault(&stack, &Scene::NOWHERE);
            let of_stack = matches!(name, "rsp" | "rbp");
            assert_eq!(verdict == expected, of_stack, "{name}");
            // Of two nobody knows which.
            fault.registers[(number + 1) % 16] = value;
            let verdict = of_fault(&fault, &Scene::NOWHERE);
            let Verdict::NonCanonical { suspects, .. } = verdict else {
                panic!("{verdict:?}");
            };
            assert_eq!(suspects.count_ones(), 2);
            assert_eq!(verdict.address(), None);
        }
    }
}

#[test]
fn other_signals_are_not_ours() {
    let mut lab = Lab::new();
    let real = lab.access(0x5000_0000, Access::Read).expect_err("unmapped");
    // The kernel's word for "no address" is 0.
    let protection = Fault {
        code: 128,
        addr: Some(0),
        ..real
    };
    let expected = Verdict::NotOurs {
        addr: None,
        pc: Some(0x40_1000),
        signal: 11,
        code: 128,
    };
    assert_eq!(of_fault(&protection, &Scene::NOWHERE), expected);
    // Sent with kill and tgkill; bounds, protection keys, tags.
    for (signal, code) in [(11, 0), (11, -6), (11, 3), (11, 4), (11, 9), (7, 1), (7, 3)] {
        let fault = Fault {
            signal,
            code,
            ..real
        };
        let expected = Verdict::NotOurs {
            addr: Some(0x5000_0000).filter(|_| code > 0),
            pc: Some(0x40_1000).filter(|_| code > 0),
            signal,
            code,
        };
        assert_eq!(of_fault(&fault, &Scene::NOWHERE), expected);
    }
}

/// A jump is one even where the processor does not say so.
#[test]
fn a_fault_at_the_instruction_itself_is_a_jump() {
    let mut lab = Lab::new();
    let real = lab.access(0x5000_0000, Access::Read).expect_err("unmapped");
    for (pc, access) in [(0x5000_0000, Some(Access::Exec)), (0x5000_0001, None)] {
        let fault = Fault {
            access: None,
            pc,
            ..real
        };
        assert_eq!(of_fault(&fault, &Scene::NOWHERE).access(), access);
    }
}

fn stack_fault(lab: &mut Lab, addr: usize, sp: usize) -> Fault {
    let fault = lab.access(addr, Access::Write).expect_err("it is closed");
    Fault { sp, ..fault }
}

#[test]
fn row_064_a_stack_that_has_run_out_is_named() {
    let mut lab = Lab::new();
    // What the listing says decides, unless the page is ours.
    let at = 0x5000_0000usize;
    let fault = stack_fault(&mut lab, at, at + 8);
    for page in PageState::ALL {
        for below_stack in [false, true] {
            let scene = Scene {
                page,
                below_stack,
                ..Scene::NOWHERE
            };
            let verdict = of_fault(&fault, &scene);
            let guard = matches!(page, PageState::Guard | PageState::Reserved);
            let named = matches!(verdict, Verdict::StackOverflow { block: None, .. });
            assert_eq!(named, below_stack && !guard, "{page:?}");
        }
    }
    // A guard in the stack's own area, made by advice.
    let m = lab.machine();
    map(m, AT, 8, RW);
    m.madvise(AT, PAGE, linux::MADV_GUARD_INSTALL)
        .expect("mapped");
    let at = AT as usize + 0xff8;
    let scene = Scene {
        ground: Ground::Stack { main: false },
        rights: Rights::READ_WRITE,
        ..Scene::NOWHERE
    };
    for (sp, near) in [
        (at, true),
        (at + 8, true),
        (at + (64 << 10), true),
        (at + (64 << 10) + 1, false),
        (at - (1 << 19), true),
    ] {
        let verdict = of_fault(&stack_fault(&mut lab, at, sp), &scene);
        let named = matches!(verdict, Verdict::StackOverflow { .. });
        assert_eq!(named, near, "{verdict:?}");
    }
}

/// A coroutine's stack that was allocated.
#[test]
fn a_stack_in_an_object_runs_out_at_its_lower_end() {
    let wish = Wish {
        size: 0x4_0000,
        align: 16,
        side: Side::Right,
        state: SlotState::Live,
    };
    for backend in BACKENDS {
        let world = World::new(0x20_0000_0000, backend, &[Some(wish), Some(wish)]);
        let stack = world.slots[1].expect("it is there");
        let mut lab = Lab::new();
        lab.build(&world);
        let addr = stack.payload - 8;
        let scene = world.scene(addr);
        let elsewhere = stack.end() + 1;
        for sp in [addr, stack.payload, stack.payload + 64] {
            let verdict = of_fault(&stack_fault(&mut lab, addr, sp), &scene);
            let block = Some(stack);
            assert_eq!(verdict, Verdict::StackOverflow { addr, block });
        }
        // On another stack, or deep in this one.
        for sp in [elsewhere, 0x7fff_0000_0000, addr + (64 << 10) + 1] {
            let verdict = of_fault(&stack_fault(&mut lab, addr, sp), &scene);
            assert!(matches!(verdict, Verdict::Underflow { by: 8, .. }));
        }
        // Behind its end it is an overflow.
        let addr = stack.end();
        let fault = lab.access(addr, Access::Write);
        let Err(fault) = fault else {
            panic!("the world ends with a guard");
        };
        let fault = Fault {
            sp: stack.end() - 8,
            ..fault
        };
        let verdict = of_fault(&fault, &world.scene(addr));
        assert!(matches!(verdict, Verdict::Overflow { by: 0, .. }));
    }
}

/// The account's word counts more than the listing's: a guard under a mapping that looks
/// accessible is blamed on the object.
#[test]
fn the_account_of_pages_decides_first() {
    let record = Record {
        payload: 0x5000_0000 - 100,
        size: 100,
        align: 1,
        state: SlotState::Live,
        side: Side::Right,
        allocated: event(1),
        freed: fencepost::guard::Event::default(),
    };
    let mut lab = Lab::new();
    let fault = lab.access(0x5000_0000, Access::Read).expect_err("unmapped");
    for page in PageState::ALL {
        let scene = Scene {
            page,
            slots: Slots {
                below: Some(record),
                ..Slots::default()
            },
            ..mapped(Rights::READ_WRITE)
        };
        let closed = matches!(
            page,
            PageState::Guard | PageState::Reserved | PageState::None | PageState::Unknown
        );
        let verdict = of_fault(&fault, &scene);
        let named = matches!(verdict, Verdict::Overflow { by: 0, .. });
        assert_eq!(named, closed, "{page:?}");
    }
}
