//! The tree of page states against an array, with and without memory for its nodes.

use core::sync::atomic::{AtomicU32, AtomicU64};
use fencepost::mmu::states::{LEAF, LEAF_WORDS, MID, Nodes, PAGES, PageState, PageStates};
use std::cell::{Cell, RefCell};

/// Nodes on the heap, of which there may be too few.
#[derive(Default)]
struct Shelf {
    mids: RefCell<Vec<&'static [AtomicU32; MID]>>,
    leaves: RefCell<Vec<&'static [AtomicU64; LEAF_WORDS]>>,
    recycled: RefCell<Vec<u32>>,
    /// A bit for each of the next additions: whether it is refused. Repeats.
    refuse: Cell<u64>,
}

impl Shelf {
    fn admit(&self) -> Option<()> {
        let refused = self.refuse.get() & 1 != 0;
        self.refuse.set(self.refuse.get().rotate_right(1));
        (!refused).then_some(())
    }
}

impl Nodes for Shelf {
    fn mid(&self, node: u32) -> Option<&[AtomicU32; MID]> {
        self.mids.borrow().get(node as usize).copied()
    }
    fn leaf(&self, node: u32) -> Option<&[AtomicU64; LEAF_WORDS]> {
        assert!(
            !self.recycled.borrow().contains(&node),
            "used after it was recycled"
        );
        self.leaves.borrow().get(node as usize).copied()
    }
    fn add_mid(&self) -> Option<(u32, bool)> {
        self.admit()?;
        let mid: Box<[AtomicU32; MID]> = Box::new([const { AtomicU32::new(99) }; MID]);
        self.mids.borrow_mut().push(Box::leak(mid));
        Some((self.mids.borrow().len() as u32 - 1, false))
    }
    fn add_leaf(&self) -> Option<(u32, bool)> {
        self.admit()?;
        if let Some(again) = self.recycled.borrow_mut().pop() {
            return Some((again, false));
        }
        // A new leaf is zero, one that is used again is not.
        let leaf = Box::new([const { AtomicU64::new(0) }; LEAF_WORDS]);
        self.leaves.borrow_mut().push(Box::leak(leaf));
        Some((self.leaves.borrow().len() as u32 - 1, true))
    }
    fn recycle(&self, leaf: u32) {
        assert!(!self.recycled.borrow().contains(&leaf), "recycled twice");
        self.recycled.borrow_mut().push(leaf);
    }
}

fn next(seed: &mut u64) -> usize {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 11) as usize
}

/// Sets ranges at random and compares every page around them with an array. Where a node was
/// refused, a page may be `Unknown` instead.
fn agrees(mut seed: u64, refuse: u64, steps: usize) -> (usize, usize) {
    const SPAN: usize = 4 * LEAF;
    let states = Box::new(PageStates::new());
    let shelf = Shelf::default();
    shelf.refuse.set(refuse);
    let base = MID * LEAF - 2 * LEAF;
    let mut array = vec![PageState::None; SPAN];
    let (mut known, mut unknown) = (0, 0);
    for _ in 0..steps {
        let from = next(&mut seed) % SPAN;
        let len = match next(&mut seed) % 4 {
            0 => 1,
            1 => next(&mut seed) % 40,
            2 => LEAF - from % LEAF,
            _ => next(&mut seed) % SPAN,
        };
        let to = (from + len).min(SPAN);
        let state = PageState::ALL[next(&mut seed) % PageState::ALL.len()];
        states.set(&shelf, base + from, base + to, state);
        array[from..to].fill(state);
        for (page, expected) in array.iter().enumerate().step_by(37) {
            let found = states.get(&shelf, base + page);
            if found == *expected {
                known += 1;
            } else {
                assert_eq!(found, PageState::Unknown, "page {page} after {from}..{to}");
                assert_ne!(refuse, 0, "nothing was refused");
                unknown += 1;
            }
        }
        let from = next(&mut seed) % SPAN;
        let (state, end) = states.run(&shelf, base + from, base + SPAN);
        assert_eq!(state, states.get(&shelf, base + from));
        for page in base + from..end {
            assert_eq!(states.get(&shelf, page), state);
        }
        if end < base + SPAN {
            assert_ne!(states.get(&shelf, end), state, "a run ends where it must");
        }
    }
    assert_eq!(
        states.get(&shelf, base - 1),
        states.get(&shelf, base - LEAF)
    );
    (known, unknown)
}

#[test]
fn every_page_has_the_state_that_was_set_last() {
    for seed in 1..6 {
        let (known, unknown) = agrees(seed * 0x9e37_79b9, 0, 400);
        assert!(known > 0 && unknown == 0);
    }
}

#[test]
fn without_nodes_a_page_is_unknown_and_never_wrong() {
    let mut unknowns = 0;
    for refuse in [1, 2, 0b1101, 0xffff_0000, u64::MAX] {
        unknowns += agrees(refuse ^ 77, refuse, 200).1;
    }
    assert!(unknowns > 0);
}

#[test]
fn large_ranges_need_no_nodes() {
    let states = Box::new(PageStates::new());
    let shelf = Shelf::default();
    // A whole 64 GiB, and whole leaves inside one.
    states.set(&shelf, 0, MID * LEAF, PageState::Reserved);
    assert!(shelf.leaves.borrow().is_empty());
    states.set(&shelf, LEAF, 3 * LEAF, PageState::Fresh);
    assert_eq!(
        (shelf.mids.borrow().len(), shelf.leaves.borrow().len()),
        (1, 0)
    );
    assert_eq!(states.get(&shelf, LEAF - 1), PageState::Reserved);
    assert_eq!(
        states.run(&shelf, LEAF, PAGES),
        (PageState::Fresh, 3 * LEAF)
    );
    let mut runs = Vec::new();
    states.each(&shelf, 0, PAGES, |from, to, state| {
        runs.push((from, to, state))
    });
    let expected = [
        (0, LEAF, PageState::Reserved),
        (LEAF, 3 * LEAF, PageState::Fresh),
        (3 * LEAF, MID * LEAF, PageState::Reserved),
    ];
    assert_eq!(runs, expected);
}

#[test]
fn a_leaf_that_is_not_needed_any_more_is_used_again() {
    let states = Box::new(PageStates::new());
    let shelf = Shelf::default();
    for turn in 0..10 {
        let base = turn * LEAF;
        states.set(&shelf, base + 5, base + 6, PageState::Live);
        states.set(&shelf, base, base + LEAF, PageState::Cached);
    }
    assert_eq!(shelf.leaves.borrow().len(), 1);
    let (state, end) = states.run(&shelf, 0, PAGES);
    assert_eq!((state, end), (PageState::Cached, 10 * LEAF));
}

#[test]
fn pages_beyond_the_tree_are_nobodys() {
    let states = Box::new(PageStates::new());
    let shelf = Shelf::default();
    states.set(&shelf, PAGES, PAGES + 10, PageState::Live);
    assert_eq!(states.get(&shelf, PAGES + 3), PageState::None);
    assert_eq!(states.get(&shelf, 3), PageState::None);
}
