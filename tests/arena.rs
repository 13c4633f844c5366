//! What threads share: the depot, the table of mappings, mappings and their threshold, arenas.
#![allow(unsafe_code)] // Raw memory.

#[path = "model/mod.rs"]
mod model;

use fencepost::arena::{AISLES, Depot, Freight, MAX_ARENAS, Magazine, MapTable, Maps, Owned};
use fencepost::chunk::{Stack, State};
use fencepost::config::Key;
use fencepost::os::{Flaky, Ledger, Region};
use fencepost::size::{class_of, class_size};
use model::{Bed, Ground, Host, Piece, Plan};

type Os = Ledger<Flaky<Host>>;

/// Mappings on a host of their own. Nothing made from the ground leaves a test.
struct Bench {
    maps: Box<Maps>,
    ground: Ground<Os>,
}

impl Bench {
    fn new() -> Bench {
        // SAFETY: the maps are dropped before the ground and hold no reference into it.
        let ground = unsafe { Ground::new(Ledger::new(Flaky::new(Host::new(Plan::SMALL))), 23) };
        ground.open_account();
        Bench {
            maps: Box::new(Maps::new()),
            ground,
        }
    }

    fn get(&self, request: usize, align: usize) -> usize {
        let (os, keys) = (self.ground.os(), self.ground.keys());
        let got = self.maps.allocate(os, keys, request, align, false);
        got.expect("the host has room").payload
    }

    fn free(&self, payload: usize) -> bool {
        let (os, keys) = (self.ground.os(), self.ground.keys());
        self.maps.free(os, keys, self.ground.settings(), payload)
    }

    fn len(&self, payload: usize) -> usize {
        match self.maps.find(self.ground.os(), payload) {
            Owned::Live(len) => len,
            other => panic!("{payload:#x}: {other:?}"),
        }
    }

    fn resize(&self, payload: usize, request: usize) -> Option<usize> {
        let (os, keys) = (self.ground.os(), self.ground.keys());
        let old = self.len(payload);
        self.maps.resize(os, keys, payload, old, request)
    }

    fn threshold(&self) -> usize {
        self.maps.threshold(self.ground.settings())
    }

    fn made(&self) -> u64 {
        self.ground.os().inner().made()
    }

    fn set(&self, payload: usize, byte: u8) {
        // SAFETY: tests name a byte of a live mapping.
        unsafe { self.ground.keys().region.at(payload).write(byte) }
    }

    fn byte(&self, payload: usize) -> u8 {
        // SAFETY: as in `set`.
        unsafe { self.ground.keys().region.at(payload).read() }
    }
}

#[test]
fn the_threshold_slides_up_to_what_was_freed() {
    let bench = Bench::new();
    assert_eq!(bench.threshold(), 128 << 10);
    let block = bench.get(200_000, 16);
    assert_eq!(bench.threshold(), 128 << 10, "not by allocating");
    assert!(bench.free(block));
    assert_eq!(bench.threshold(), 200_704);
    // Never down, and never beyond 32 MiB.
    let smaller = bench.get(150_000, 16);
    let huge = bench.get(33 << 20, 16);
    assert!(bench.free(smaller) && bench.free(huge));
    assert_eq!(bench.threshold(), 200_704);
}

#[test]
fn the_threshold_stands_still_once_the_user_sets_it_or_its_kin() {
    for key in [
        Key::MmapThreshold,
        Key::TrimThreshold,
        Key::TopPad,
        Key::MmapMax,
    ] {
        let bench = Bench::new();
        assert!(bench.ground.settings().set(key, 150_000));
        let expected = if key == Key::MmapThreshold {
            150_000
        } else {
            128 << 10
        };
        let block = bench.get(300_000, 16);
        assert!(bench.free(block));
        assert_eq!(bench.threshold(), expected, "{key:?}");
    }
}

#[test]
fn a_freed_mapping_serves_the_next_request() {
    let bench = Bench::new();
    let block = bench.get(200_000, 16);
    assert!(bench.free(block));
    let made = bench.made();
    assert_eq!(bench.get(200_000, 16), block);
    assert_eq!(bench.made(), made, "no call for it");
    assert_eq!(bench.maps.kept_bytes(), 0);
    // Its dirt is told: a fresh one has none.
    bench.free(block);
    let (os, keys) = (bench.ground.os(), bench.ground.keys());
    let again = bench
        .maps
        .allocate(os, keys, 200_000, 16, false)
        .expect("room");
    assert_eq!(again.zero.0, again.zero.1);
    let fresh = bench
        .maps
        .allocate(os, keys, 200_000, 16, false)
        .expect("room");
    assert_eq!(fresh.zero.0, fresh.payload);
    assert!(fresh.zero.1 >= fresh.payload + 200_000);
}

#[test]
fn what_is_kept_is_bounded_and_ages() {
    let bench = Bench::new();
    assert!(bench.ground.settings().set(Key::MappingCacheBytes, 1 << 20));
    let blocks: Vec<usize> = (0..30).map(|_| bench.get(140_000, 16)).collect();
    for block in blocks {
        assert!(bench.free(block));
        assert!(bench.maps.kept_bytes() <= 1 << 20);
    }
    let kept = bench.maps.kept_bytes();
    assert!(kept > 500_000, "{kept}");
    let os = bench.ground.os();
    bench.maps.age(os);
    assert_eq!(bench.maps.kept_bytes(), kept, "young");
    bench.maps.age(os);
    assert_eq!(bench.maps.kept_bytes(), 0, "kept for a whole tick");
    assert_eq!(os.inner().inner().mapped(), os.own_bytes());
    // No more than a handful, however small.
    assert!(bench.ground.settings().set(Key::MappingCacheBytes, 1 << 30));
    let blocks: Vec<usize> = (0..40).map(|_| bench.get(5000, 16)).collect();
    blocks.into_iter().for_each(|b| assert!(bench.free(b)));
    assert_eq!(bench.maps.kept_bytes(), 16 * 8192);
    assert!(bench.maps.give_up(os, 8192) == 8192);
    assert_eq!(bench.maps.kept_bytes(), 15 * 8192);
}

#[test]
fn a_mapping_is_resized_in_place_or_by_a_move() {
    let bench = Bench::new();
    let block = bench.get(200_000, 16);
    bench.set(block, 1);
    bench.set(block + 199_999, 2);
    let shrunk = bench
        .resize(block, 150_000)
        .expect("shrinking needs nothing");
    assert_eq!((shrunk, bench.len(block)), (block, 151_552));
    assert_eq!(bench.resize(block, 151_000), Some(block), "same pages");
    // A neighbour is in the way.
    let neighbour = bench.get(140_000, 16);
    let moved = bench.resize(block, 400_000).expect("room");
    assert_ne!(moved, block);
    assert_eq!(bench.byte(moved), 1);
    assert_eq!(
        bench.maps.find(bench.ground.os(), block),
        Owned::Freed(151_552)
    );
    bench.maps.verify(
        bench.ground.os(),
        bench.ground.keys(),
        moved,
        bench.len(moved),
    );
    assert!(bench.free(moved) && bench.free(neighbour));
    assert_eq!(bench.maps.totals().bytes, 0);
}

#[test]
fn a_refused_resize_leaves_the_mapping() {
    let bench = Bench::new();
    let block = bench.get(200_000, 16);
    bench.get(140_000, 16);
    bench.ground.os().inner().refuse(0, u64::MAX);
    assert_eq!(bench.resize(block, 400_000), None);
    assert_eq!(bench.len(block), 200_704);
    assert_eq!(bench.resize(block, isize::MAX as usize), None);
    assert!(bench.free(block));
}

#[test]
fn mappings_are_aligned_as_asked() {
    let bench = Bench::new();
    for shift in 4..20 {
        let block = bench.get(140_000, 1 << shift);
        assert_eq!(block % (1 << shift), 0);
        let len = bench.len(block);
        assert!(Maps::usable(bench.ground.os(), block, len) >= 140_000);
        let (payload, _) = bench
            .maps
            .containing(bench.ground.os(), block + 100)
            .expect("it is live");
        assert_eq!(payload, block);
    }
}

#[test]
fn the_table_remembers_what_was_freed() {
    let os = Flaky::new(Host::new(Plan::SMALL));
    let table = MapTable::new();
    let at = |i: usize| 0x7000_0000_0000 + i * 0x21_000 + 16;
    assert_eq!(table.find(&os, at(0)), Owned::Never);
    // Enough for three levels.
    for i in 0..3000 {
        assert!(table.insert(&os, at(i), i + 1), "{i}");
    }
    for i in 0..3000 {
        assert_eq!(table.find(&os, at(i)), Owned::Live(i + 1));
    }
    assert_eq!(
        table.containing(&os, at(2000) + 1000),
        Some((at(2000), 2001))
    );
    for i in (0..3000).step_by(3) {
        assert_eq!(table.remove(&os, at(i)), Some(i + 1));
        assert_eq!(table.remove(&os, at(i)), None, "once");
        assert_eq!(table.find(&os, at(i)), Owned::Freed(i + 1));
    }
    table.set_len(&os, at(1), 77);
    assert_eq!(table.find(&os, at(1)), Owned::Live(77));
    assert!(os.made() <= 3, "a call per level");
}

#[test]
fn a_table_without_pages_says_that_it_is_full() {
    let os = Flaky::new(Host::new(Plan::SMALL));
    os.refuse(0, u64::MAX);
    let table = MapTable::new();
    let inserted = (0..200).filter(|i| table.insert(&os, 0x10_0000 + i * 0x1000, 1));
    assert!((16..=64).contains(&inserted.count()));
}

fn magazine(chunks: &[Piece]) -> Magazine {
    let mut stack = Stack::EMPTY;
    for chunk in chunks {
        stack.push(*chunk, chunk.low(), State::Cached);
    }
    Magazine {
        stack,
        count: chunks.len(),
    }
}

#[test]
fn the_depot_gives_back_what_was_put_last() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let class = class_of(112);
    let magazines: Vec<Magazine> = (1..=5)
        .map(|n| magazine(&(0..n).map(|_| bed.get(100)).collect::<Vec<_>>()))
        .collect();
    for put in &magazines {
        assert_eq!(depot.put(keys, 0, class, *put, usize::MAX), None);
    }
    assert_eq!(depot.bytes(), 15 * class_size(class));
    assert_eq!(depot.take(keys, 0, class + 1), None, "another class");
    for put in magazines.iter().rev() {
        assert_eq!(depot.take(keys, 0, class), Some(*put));
        let mut stack = put.stack;
        for _ in 0..put.count {
            assert!(stack.pop(keys, State::Cached).is_some());
        }
        assert!(stack.is_empty());
    }
    assert_eq!((depot.take(keys, 0, class), depot.bytes()), (None, 0));
}

#[test]
fn own_magazines_come_first_then_those_of_others() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let class = class_of(112);
    let [mine, other, third] = [0; 3].map(|_| magazine(&[bed.get(100)]));
    for (aisle, one) in [(0, mine), (1, other), (AISLES - 1, third)] {
        assert_eq!(depot.put(keys, aisle, class, one, usize::MAX), None);
    }
    // One more than there are is the first again.
    assert_eq!(depot.take(keys, AISLES + 1, class), Some(other));
    assert_eq!(depot.take(keys, 0, class), Some(mine));
    assert_eq!(depot.take(keys, 0, class), Some(third));
    assert_eq!((depot.take(keys, 0, class), depot.bytes()), (None, 0));
}

/// Aisle 0 puts a magazine and takes it back, as a thread does that allocates again.
fn take_back(depot: &Depot, keys: &impl Freight, class: usize, one: Magazine) {
    assert_eq!(depot.put(keys, 0, class, one, usize::MAX), None);
    assert_eq!(depot.take(keys, 0, class), Some(one));
}

#[test]
fn what_an_aisle_takes_back_is_not_lent() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let class = class_of(112);
    let [own, below, above] = [0; 3].map(|_| magazine(&[bed.get(100)]));
    assert_eq!(depot.enter(0), 0);
    take_back(&depot, keys, class, own);
    for one in [below, above] {
        assert_eq!(depot.put(keys, 0, class, one, usize::MAX), None);
    }
    assert!(!depot.may_hold(1, class), "nothing to spare");
    assert_eq!(depot.take(keys, 1, class), None);
    assert!(depot.may_hold(0, class));
    // The two lie there throughout: aisle 0 does not need them.
    let mut rounds = 0;
    while !depot.may_hold(1, class) {
        take_back(&depot, keys, class, own);
        rounds += 1;
        assert!(rounds < 10_000, "idle magazines are found out");
    }
    assert!(rounds > 30, "after a while only");
    assert_eq!(depot.take(keys, 1, class), Some(above));
    assert_eq!(depot.take(keys, 1, class), Some(below));
    // What is needed once in a while is not idle,
    for _ in 0..200 {
        assert_eq!(depot.put(keys, 0, class, below, usize::MAX), None);
        assert_eq!(depot.put(keys, 0, class, above, usize::MAX), None);
        assert_eq!(depot.take(keys, 1, class), None);
        assert_eq!(depot.take(keys, 0, class), Some(above));
        assert_eq!(depot.take(keys, 0, class), Some(below));
    }
    // but what a thread left behind is anybody's.
    assert_eq!(depot.put(keys, 0, class, below, usize::MAX), None);
    assert_eq!(depot.take(keys, 1, class), None);
    depot.leave(0);
    assert_eq!(depot.take(keys, 1, class), Some(below));
}

#[test]
fn what_an_aisle_only_puts_is_lent_at_once() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let class = class_of(112);
    let one = magazine(&[bed.get(100)]);
    assert_eq!(depot.enter(0), 0);
    for _ in 0..100 {
        assert_eq!(depot.put(keys, 0, class, one, usize::MAX), None);
        assert_eq!(depot.take(keys, 1, class), Some(one));
    }
    // It takes back for a while, then no more.
    (0..100).for_each(|_| take_back(&depot, keys, class, one));
    let mut lying = 0;
    while !depot.may_hold(1, class) {
        let next = magazine(&[bed.get(100)]);
        assert_eq!(depot.put(keys, 0, class, next, usize::MAX), None);
        lying += 1;
        assert!(lying < 10_000, "putting alone is found out");
    }
    let taken = core::iter::from_fn(|| depot.take(keys, 1, class)).count();
    assert!(taken > 0 && taken <= lying);
}

#[test]
fn large_chunks_are_lent_to_anybody() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let class = class_of(4016);
    let one = magazine(&[bed.get(4000)]);
    assert_eq!(depot.enter(0), 0);
    take_back(&depot, keys, class, one);
    assert_eq!(depot.put(keys, 0, class, one, usize::MAX), None);
    assert_eq!(depot.take(keys, 1, class), Some(one));
}

#[test]
fn threads_spread_over_the_aisles() {
    let depot = Box::new(Depot::new());
    assert_eq!(depot.enter(3), 3);
    assert_eq!(depot.enter(3), 0, "the first that is free");
    assert_eq!(depot.enter(AISLES + 2), 2);
    let mut others: Vec<usize> = (3..AISLES).map(|_| depot.enter(3)).collect();
    others.sort_unstable();
    let expected: Vec<usize> = (1..AISLES).filter(|n| *n != 2 && *n != 3).collect();
    assert_eq!(others, expected, "each has one of its own");
    assert_eq!(depot.enter(3), 3, "all are taken");
    assert_eq!(depot.enter(3), 0, "by one thread each but for that");
    depot.leave(2);
    assert_eq!(depot.enter(5), 2);
}

#[test]
fn a_full_depot_refuses() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let one = magazine(&[bed.get(100), bed.get(100)]);
    assert_eq!(depot.put(keys, 0, class_of(112), one, 223), Some(one));
    assert_eq!(depot.put(keys, 0, class_of(112), one, 0), Some(one));
    assert_eq!(depot.bytes(), 0);
    assert_eq!(depot.put(keys, 0, class_of(112), one, 224), None);
}

#[test]
fn idle_is_what_nobody_needed_for_a_whole_interval() {
    let mut bed = Bed::new();
    let keys = bed.ground.keys();
    let depot = Box::new(Depot::new());
    let class = class_of(112);
    let mut put = |depot: &Depot| {
        let one = magazine(&[bed.get(100)]);
        assert_eq!(depot.put(keys, 0, class, one, usize::MAX), None);
    };
    (0..4).for_each(|_| put(&depot));
    assert_eq!(
        depot.take_idle(keys, class),
        None,
        "the interval just began"
    );
    depot.age(class);
    // Two were needed at one time; two never were.
    depot.take(keys, 0, class).expect("four");
    depot.take(keys, 0, class).expect("three");
    put(&depot);
    put(&depot);
    assert!(depot.take_idle(keys, class).is_some());
    assert!(depot.take_idle(keys, class).is_some());
    assert_eq!(depot.take_idle(keys, class), None);
    assert_eq!(depot.bytes(), 2 * 112);
}

const _: () = assert!(MAX_ARENAS > 1);

/// The move is made before the table is asked for room: it must find some.
#[test]
fn a_moved_mapping_is_never_lost() {
    let bench = Bench::new();
    let os = bench.ground.os();
    let keys = bench.ground.keys();
    // As many as the table holds without pages of its own.
    let mut live = Vec::new();
    for _ in 0..200 {
        os.inner().refuse(1, u64::MAX);
        live.extend(
            bench
                .maps
                .allocate(os, keys, 5000, 16, false)
                .map(|m| m.payload),
        );
    }
    assert!(live.len() > 32);
    // What lies behind stands in the way of growing. First nothing but one call is allowed,
    // which must not be the move; then nothing is refused.
    let mut moved = 0;
    for turn in 0..2 * live.len() {
        let place = turn % live.len();
        os.inner()
            .refuse(if turn == place { 1 } else { u64::MAX }, u64::MAX);
        if let Some(to) = bench.resize(live[place], 9000 + turn * 40) {
            moved += usize::from(live[place] != to);
            live[place] = to;
        }
        for block in &live {
            bench.len(*block);
        }
    }
    assert!(moved > 10, "{moved}");
    os.inner().refuse(u64::MAX, u64::MAX);
    live.into_iter()
        .for_each(|block| assert!(bench.free(block)));
}
