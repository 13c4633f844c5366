//! The checker notices each kind of damage, and dropped shootdowns.

use crate::support::*;
use fencepost::mmu::addr::{Access, FrameNumber, SwapSlot};
use fencepost::mmu::area::linux;
use fencepost::mmu::entry::Entry;
use fencepost::mmu::geometry::X86L4;
use fencepost::mmu::machine::{Forge, Invariant, Machine, Options, SpaceId};
use fencepost::mmu::physical::{Use, mark};

type M = Machine<'static, X86L4>;
type E = Entry<X86L4>;

const AT: u64 = 0x10_0000;

/// A machine with a bit of everything.
fn scene() -> (M, SpaceId) {
    let (mut m, id) = one::<X86L4>(Size::full(256, 16), Options::DEFAULT);
    map(&mut m, AT, 8, RW);
    for page in 0..4 {
        store(&mut m, AT + page * PAGE, page).expect("mapped");
    }
    assert!(m.page_out(id, AT + 3 * PAGE));
    let file = m.open(16, 4 * PAGE).expect("room");
    m.mmap(
        AT + 16 * PAGE,
        2 * PAGE,
        R,
        linux::MAP_PRIVATE | FIXED,
        Some(file),
        0,
    )
    .expect("room");
    touch(&mut m, AT + 16 * PAGE, Access::Read).expect("mapped");
    m.fork(id).expect("room");
    store(&mut m, AT + PAGE, 1).expect("mapped");
    let _ = m.translate(
        fencepost::mmu::addr::VirtAddr::new(AT),
        fencepost::mmu::addr::Mode::User,
    );
    sound(&mut m);
    (m, id)
}

#[test]
fn each_invariant_can_be_broken_and_is_noticed() {
    type Break = fn(&mut Forge<'_, 'static, X86L4>, SpaceId, FrameNumber);
    let cases: [(Invariant, Break); 15] = [
        (Invariant::Free, |f, _, frame| {
            f.frame(frame).usage = Use::Free;
        }),
        (Invariant::References, |f, _, frame| {
            f.frame(frame).refs += 1
        }),
        (Invariant::References, |f, id, _| {
            f.entry_told(id, AT + 2 * PAGE, E::GUARD);
        }),
        (Invariant::Tables, |f, id, _| f.entry(id, AT, |_| E::EMPTY)),
        (Invariant::Cache, |f, _, frame| {
            f.frame(frame).usage = Use::Cached;
        }),
        (Invariant::Listed, |f, _, frame| f.unlist(frame)),
        (Invariant::Listed, |f, _, frame| {
            f.frame(frame).marks |= mark::PINNED;
        }),
        (Invariant::Sizes, |f, id, _| f.sizes(id).anonymous += 1),
        (Invariant::Sizes, |f, id, _| f.sizes(id).swapped -= 1),
        (Invariant::Swap, |f, _, _| f.slot_refs(SwapSlot::new(0), 7)),
        (Invariant::Swap, |f, _, _| f.slot_refs(SwapSlot::new(9), 1)),
        (Invariant::Rights, |f, id, _| {
            // Writable although the child sees it.
            f.entry(id, AT, |e| e.with(E::WRITABLE));
        }),
        (Invariant::Rights, |f, id, _| {
            f.entry(id, AT + PAGE, |e| e.without(E::NO_EXECUTE));
        }),
        (Invariant::Tlb, |f, id, _| {
            f.entry(id, AT + PAGE, |e| e.without(E::DIRTY));
        }),
        (Invariant::Lookaside, |f, id, _| {
            f.remember(AT + PAGE);
            f.entry(id, AT + PAGE, |e| e.without(E::DIRTY));
            f.drop_line(id, AT + PAGE);
        }),
    ];
    let mut seen = Vec::new();
    for (number, (invariant, damage)) in cases.into_iter().enumerate() {
        let (mut m, id) = scene();
        let frame = m.frame(id, AT + PAGE).expect("present");
        damage(&mut m.forge(), id, frame);
        let found = m.check().map_err(|d| d.invariant);
        assert_eq!(found, Err(invariant), "case {number}");
        // The checker left everything as it was.
        assert_eq!(m.check().map_err(|d| d.invariant), Err(invariant));
        seen.push(invariant);
    }
    // Areas have a checker, and tests of it, of their own.
    let missing: Vec<_> = Invariant::ALL
        .into_iter()
        .filter(|i| !seen.contains(i) && *i != Invariant::Areas)
        .collect();
    assert_eq!(missing, []);
}

#[test]
fn dropped_shootdowns_are_noticed() {
    type Change = fn(&mut M, SpaceId);
    let changes: [(&str, Change); 5] = [
        ("munmap", |m, _| m.munmap(AT, PAGE).expect("mapped")),
        ("mprotect", |m, _| m.mprotect(AT, PAGE, R).expect("mapped")),
        ("madvise", |m, _| {
            m.madvise(AT, PAGE, linux::MADV_DONTNEED).expect("mapped");
        }),
        ("page out", |m, id| assert!(m.page_out(id, AT))),
        ("fork", |m, id| assert!(m.fork(id).is_ok())),
    ];
    for (name, change) in changes {
        for stale in [false, true] {
            let (mut m, id) = one::<X86L4>(Size::full(64, 8), Options::DEFAULT);
            map(&mut m, AT, 2, RW);
            store(&mut m, AT, 1).expect("mapped");
            m.mmu_mut().stale = stale;
            change(&mut m, id);
            let found = m.check().map_err(|d| d.invariant);
            let expected = if stale { Err(Invariant::Tlb) } else { Ok(()) };
            assert_eq!(found, expected, "{name}");
            if stale {
                // And it does harm: the program goes on using what is not its own.
                assert_eq!(store(&mut m, AT, 2), Ok(()), "{name}");
            }
        }
    }
}
