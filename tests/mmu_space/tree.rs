//! The tree of areas against a sorted map, and its searches against a walk.

use fencepost::mmu::addr::{PAGE, Rights};
use fencepost::mmu::area::{Area, Backing, Traits};
use fencepost::mmu::areas::{AreaPool, Areas, Node, PoolEmpty};
use std::collections::BTreeMap;

/// xorshift64 (Marsaglia, 2003).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn area(first: u64, pages: u64) -> Area {
    Area {
        start: first * PAGE,
        end: (first + pages) * PAGE,
        rights: Rights::READ,
        backing: Backing::Anonymous,
        traits: Traits(0),
    }
}

struct Pair<'m> {
    tree: Areas,
    pool: AreaPool<'m>,
    map: BTreeMap<u64, Area>,
}

impl Pair<'_> {
    /// Inserts if nothing overlaps.
    fn insert(&mut self, new: Area) {
        let below = self.map.range(..new.end).next_back();
        if below.is_some_and(|(_, below)| below.end > new.start) {
            return;
        }
        assert_eq!(self.tree.insert(&mut self.pool, new), Ok(()));
        self.map.insert(new.start, new);
    }

    fn remove_near(&mut self, addr: u64) {
        let next = self.map.range(addr..).next().map(|(start, _)| *start);
        if let Some(start) = next {
            let gone = self.tree.remove(&mut self.pool, start);
            assert_eq!(self.map.remove(&start), Some(gone));
        }
    }

    /// Makes an area's first page go, or its start move down into the hole before it.
    fn replace_near(&mut self, addr: u64) {
        let Some((&start, &old)) = self.map.range(addr..).next() else {
            return;
        };
        let floor = self
            .map
            .range(..start)
            .next_back()
            .map_or(0, |(_, a)| a.end);
        let new = Area {
            start: if old.len() > PAGE {
                start + PAGE
            } else {
                floor
            },
            rights: Rights::READ_WRITE,
            ..old
        };
        self.tree.replace(&mut self.pool, start, new);
        self.map.remove(&start);
        self.map.insert(new.start, new);
    }

    fn agree(&self) {
        assert_eq!(self.tree.check(&self.pool), Ok(()));
        assert_eq!(self.tree.len(), self.map.len());
        assert!(self.tree.iter(&self.pool).eq(self.map.values().copied()));
    }

    fn agree_at(&self, addr: u64) {
        let after = self.map.values().find(|a| a.end > addr).copied();
        assert_eq!(self.tree.at_or_after(&self.pool, addr), after);
        let inside = after.filter(|a| a.start <= addr);
        assert_eq!(self.tree.find(&self.pool, addr), inside);
        let before = self.map.range(..addr).next_back().map(|(_, a)| *a);
        assert_eq!(self.tree.before(&self.pool, addr), before);
    }

    fn agree_on_holes(&self, low: u64, high: u64, len: u64) {
        let ends = [0].into_iter().chain(self.map.values().map(|a| a.end));
        let starts = self.map.values().map(|a| a.start).chain([high.max(low)]);
        let holes: Vec<(u64, u64)> = ends
            .zip(starts)
            .map(|(from, to)| (from.max(low), to.min(high)))
            .filter(|(from, to)| to >= from && to - from >= len)
            .collect();
        let highest = holes.last().map(|(_, to)| to - len);
        assert_eq!(self.tree.highest_hole(&self.pool, low, high, len), highest);
        let lowest = holes.first().map(|(from, _)| *from);
        assert_eq!(self.tree.lowest_hole(&self.pool, low, high, len), lowest);
    }
}

#[test]
fn the_tree_agrees_with_a_sorted_map() {
    let mut nodes = vec![Node::EMPTY; AreaPool::nodes_for(3000)];
    let mut pair = Pair {
        tree: Areas::new(),
        pool: AreaPool::new(&mut nodes),
        map: BTreeMap::new(),
    };
    let mut random = Random(12345);
    let pages = 20_000;
    let mut most = 0;
    for step in 0..40_000 {
        // Grows, shrinks, grows again.
        let grow = step / 8000 % 2 == 0;
        let at = random.below(pages);
        match random.below(8) {
            0 => pair.replace_near(at * PAGE),
            n if (n < 6) == grow => pair.insert(area(at, 1 + random.below(4))),
            _ => pair.remove_near(at * PAGE),
        }
        pair.agree_at(random.below(pages) * PAGE + random.below(PAGE));
        if step % 61 == 0 {
            most = most.max(pair.map.len());
            pair.agree();
            let (a, b) = (random.below(pages), random.below(pages));
            for len in [1, 2, 5, 20, 300] {
                pair.agree_on_holes(a.min(b) * PAGE, a.max(b) * PAGE, len * PAGE);
                pair.agree_on_holes(0, pages * PAGE, len * PAGE);
            }
        }
    }
    assert!(most > 1000, "only {most} areas");
    while !pair.map.is_empty() {
        pair.remove_near(0);
        pair.agree_on_holes(0, pages * PAGE, 3 * PAGE);
    }
    pair.agree();
    assert_eq!(pair.pool.used(), 0);
}

#[test]
fn the_named_number_of_nodes_is_enough_in_any_order() {
    for all in [1, 2, 12, 13, 100, 1000, 5000] {
        let mut nodes = vec![Node::EMPTY; AreaPool::nodes_for(all as usize)];
        let at: [fn(u64, u64) -> u64; 3] = [|n, _| n, |n, all| all - n, |n, all| n * 7919 % all];
        for place in at {
            let mut pool = AreaPool::new(&mut nodes);
            let mut tree = Areas::new();
            for n in 0..all {
                tree.insert(&mut pool, area(2 * place(n, all), 1))
                    .expect("enough");
            }
            assert_eq!(tree.check(&pool), Ok(()));
            assert_eq!(tree.len() as u64, all);
        }
    }
}

#[test]
fn an_empty_pool_changes_nothing() {
    let mut nodes = [Node::EMPTY; 4];
    let mut pool = AreaPool::new(&mut nodes);
    let mut tree = Areas::new();
    let mut page = 0;
    while tree.insert(&mut pool, area(page, 1)).is_ok() {
        page += 2;
        assert!(page < 1000);
    }
    assert!(tree.len() > 12);
    let before: Vec<Area> = tree.iter(&pool).collect();
    assert_eq!(tree.insert(&mut pool, area(page, 1)), Err(PoolEmpty));
    assert_eq!(tree.check(&pool), Ok(()));
    assert!(tree.iter(&pool).eq(before));
    assert!(tree.duplicate(&mut pool).is_err());
}

#[test]
fn room_that_is_promised_is_there() {
    let mut nodes = [Node::EMPTY; 40];
    for spare in 0..12 {
        for seed in 1..60 {
            let mut random = Random(seed);
            let mut pool = AreaPool::new(&mut nodes);
            let mut tree = Areas::new();
            while pool.spare() > spare {
                let at = 8 * random.below(100_000);
                let free = tree.find(&pool, at * PAGE).is_none();
                if free && tree.insert(&mut pool, area(at, 4)).is_err() {
                    break;
                }
            }
            for wanted in 1..5 {
                let at = 8 * random.below(100_000) + 4;
                if !tree.has_room(&pool, wanted, &[at * PAGE]) {
                    continue;
                }
                for n in 0..wanted as u64 {
                    assert_eq!(tree.insert(&mut pool, area(at + n, 1)), Ok(()));
                }
                for n in 0..wanted as u64 {
                    tree.remove(&mut pool, (at + n) * PAGE);
                }
            }
            assert_eq!(tree.check(&pool), Ok(()));
        }
    }
}

#[test]
fn trees_share_a_pool() {
    let mut nodes = vec![Node::EMPTY; 200];
    let mut pool = AreaPool::new(&mut nodes);
    let mut tree = Areas::new();
    for n in 0..300 {
        tree.insert(&mut pool, area(3 * n, 1)).expect("enough");
    }
    let mut copy = tree.duplicate(&mut pool).expect("enough");
    assert_eq!(pool.used(), tree.nodes() + copy.nodes());
    for n in 0..150 {
        tree.remove(&mut pool, 3 * n * PAGE);
        copy.insert(&mut pool, area(3 * n + 1, 1)).expect("enough");
    }
    assert_eq!((tree.check(&pool), copy.check(&pool)), (Ok(()), Ok(())));
    assert_eq!((tree.len(), copy.len()), (150, 450));
    assert_eq!(pool.used(), tree.nodes() + copy.nodes());
    tree.clear(&mut pool);
    copy.clear(&mut pool);
    assert_eq!((pool.used(), pool.spare()), (0, 200));
    assert!(tree.is_empty());
}
