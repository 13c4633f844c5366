//! Out of memory at every call: a script is run again with its k-th call to the system refused,
//! for every k, and with all from the k-th on refused. Each time the answer is NULL or another
//! way, the heap is whole after every operation, and in the end nothing is lost.
#![allow(unsafe_code)] // Raw memory.

#[path = "model/mod.rs"]
mod model;

use fencepost::arena::{Maps, Owned};
use fencepost::os::SIM_CALLS as CALLS;
use fencepost::os::{Flaky, Ledger, Region};
use model::{Ground, Host, Op, Plan, Rng, Script, Source, World};

/// A script that makes every kind of call that a heap makes.
fn script(source: Source) -> Script {
    let mut ops = vec![Op::TopPad(0), Op::TrimThreshold(40_000)];
    // Segments beyond what the heap itself has room to note, each with a hole of whole pages.
    for i in 0..7 {
        ops.extend([
            Op::Sbrk(100),
            Op::Malloc(30_000 + 5000 * i),
            Op::Malloc(100),
            Op::Realloc(2 * i, 60_000),
            Op::Fill(48, 20),
            Op::Aligned(12, 3000),
            Op::Free(3 * i),
            Op::Wall(usize::from(i == 4)),
            Op::Malloc(1_100_000),
            Op::Trim(0),
        ]);
    }
    let seeded = Script::from_seed(99, source, 100);
    let quiet = |op: &Op| !matches!(op, Op::Refuse(..) | Op::TopPad(_) | Op::TrimThreshold(_));
    ops.extend(seeded.ops.into_iter().filter(quiet));
    Script {
        source,
        page: 4096,
        near: source != Source::Granules,
        tight: false,
        ops,
    }
}

/// How many calls the script makes when none is refused.
fn calls(script: &Script) -> (u64, [u64; CALLS.len()]) {
    let mut world = World::over_host(script);
    let before = world.os().inner().calls();
    world.os().refuse(u64::MAX, u64::MAX);
    script.ops.iter().for_each(|op| world.apply(*op));
    let made = world.os().made();
    let after = world.os().inner().calls();
    world.finish();
    (made, std::array::from_fn(|i| after[i] - before[i]))
}

fn every_call_refused(source: Source) {
    let script = script(source);
    let (calls, _) = calls(&script);
    for k in 0..calls {
        for to in [k + 1, u64::MAX] {
            let mut world = World::over_host(&script);
            world.os().refuse(k, to);
            world.run(&script.ops, 1);
            assert!(
                world.os().refused() >= 1,
                "call {k} of {calls} was not made"
            );
        }
    }
}

#[test]
fn every_call_refused_on_the_break() {
    every_call_refused(Source::Break);
}

#[test]
fn every_call_refused_in_a_region() {
    every_call_refused(Source::Region);
}

#[test]
fn every_call_refused_in_granules() {
    every_call_refused(Source::Granules);
}

#[test]
fn every_call_refused_in_segments() {
    every_call_refused(Source::Segments);
}

#[test]
fn the_scripts_make_every_kind_of_call() {
    let mut sum = [0; CALLS.len()];
    for source in Source::ALL {
        let (_, made) = calls(&script(source));
        sum.iter_mut().zip(made).for_each(|(sum, n)| *sum += n);
    }
    for (name, made) in CALLS.into_iter().zip(sum) {
        // The heap never remaps; mappings do, below. Guards are the debug pool's. Nor does it unmap: its segments stay.
        let expected = !matches!(name, "remap" | "unmap" | "guard" | "unguard");
        assert!((made > 0) == expected, "{name}: {made}");
    }
}

/// A machine with hardly any memory: every request beyond it is NULL, and what fits is served.
#[test]
fn a_small_machine_is_used_to_its_end() {
    for source in [Source::Break, Source::Segments] {
        let host = Host::new(Plan {
            breakable: 256 << 10,
            mappable: (2 << 20) + (64 << 10), // The account's nodes are mapped too.
            ..Plan::SMALL
        });
        let mut world = World::new(host, source);
        let mut served = 0;
        while world.fill(5000, 1) {
            served += 5000;
        }
        world.check();
        assert!(served > 1_900_000, "{source:?}: only {served} bytes");
        for _ in 0..100 {
            world.apply(Op::Free(7));
        }
        // What was freed is served again.
        assert!(world.fill(5000, 90));
        world.finish();
    }
}

#[derive(Debug, Clone, Copy)]
enum MapOp {
    Allocate(usize, usize),
    Resize(usize, usize),
    Free(usize),
    Age,
    GiveUp(usize),
}

fn map_script() -> Vec<MapOp> {
    let mut rng = Rng::new(5);
    let mut ops = Vec::new();
    for _ in 0..150 {
        let place = rng.below(1000);
        let size = 1 + rng.below(12_000);
        ops.push(match rng.below(20) {
            0..10 => MapOp::Allocate(size, 16),
            10 | 11 => MapOp::Allocate(size, 1 << (5 + rng.below(10))),
            12..15 => MapOp::Resize(place, 1 + rng.below(24_000)),
            15..18 => MapOp::Free(place),
            18 => MapOp::Age,
            _ => MapOp::GiveUp(size),
        });
    }
    ops
}

/// Mappings with a shadow.
struct Mapped {
    maps: Box<Maps>,
    /// Payload address, request, pattern.
    live: Vec<(usize, usize, u8)>,
    ground: Ground<Ledger<Flaky<Host>>>,
}

impl Mapped {
    fn new() -> Mapped {
        // SAFETY: nothing made from the ground outlives this struct's fields.
        let ground = unsafe { Ground::new(Ledger::new(Flaky::new(Host::new(Plan::SMALL))), 11) };
        Mapped {
            maps: Box::new(Maps::new()),
            live: Vec::new(),
            ground,
        }
    }

    fn os(&self) -> &'static Ledger<Flaky<Host>> {
        self.ground.os()
    }

    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        // SAFETY: the mapping is live, zeroed by the host, and written by nobody meanwhile.
        unsafe { std::slice::from_raw_parts(self.ground.keys().region.at(at), len) }
    }

    fn fill(&self, at: usize, len: usize, byte: u8) {
        // SAFETY: the mapping is live and that long.
        unsafe { self.ground.keys().region.at(at).write_bytes(byte, len) }
    }

    fn apply(&mut self, op: MapOp) {
        let (os, keys) = (self.os(), self.ground.keys());
        let settings = self.ground.settings();
        let place = |i: usize, live: &Vec<(usize, usize, u8)>| {
            (!live.is_empty()).then(|| i % live.len().max(1))
        };
        match op {
            MapOp::Allocate(n, align) => {
                let Some(got) = self.maps.allocate(os, keys, n, align, false) else {
                    return;
                };
                assert_eq!(got.payload % align, 0);
                assert!(os.inner().inner().is_writable(got.payload, n));
                let bytes = self.bytes(got.payload, n);
                let zero = got.zero.0 - got.payload..got.zero.1.min(got.payload + n) - got.payload;
                let said = bytes.get(zero).unwrap_or(&[]);
                assert!(
                    said.iter().all(|b| *b == 0),
                    "what is said to be zero is not"
                );
                let pattern = self.live.len() as u8 | 1;
                self.fill(got.payload, n, pattern);
                self.live.push((got.payload, n, pattern));
            }
            MapOp::Resize(i, n) => {
                let Some(i) = place(i, &self.live) else {
                    return;
                };
                let (at, old, pattern) = self.live[i];
                let Owned::Live(len) = self.maps.find(os, at) else {
                    panic!("a live mapping is not found");
                };
                let Some(to) = self.maps.resize(os, keys, at, len, n) else {
                    return;
                };
                assert!(os.inner().inner().is_writable(to, n));
                let kept = self.bytes(to, old.min(n)).iter().all(|b| *b == pattern);
                assert!(kept, "contents lost by a move");
                self.fill(to, n, pattern);
                self.live[i] = (to, n, pattern);
            }
            MapOp::Free(i) => {
                if let Some(i) = place(i, &self.live) {
                    let (at, ..) = self.live.swap_remove(i);
                    assert!(self.maps.free(os, keys, settings, at));
                    assert!(!self.maps.free(os, keys, settings, at), "freed twice");
                }
            }
            MapOp::Age => self.maps.age(os),
            MapOp::GiveUp(n) => {
                self.maps.give_up(os, n);
            }
        }
    }

    fn check(&self) {
        let os = self.os();
        for &(at, n, pattern) in &self.live {
            let Owned::Live(len) = self.maps.find(os, at) else {
                panic!("{at:#x}: a live mapping is not found");
            };
            assert!(Maps::usable(os, at, len) >= n);
            self.maps.verify(os, self.ground.keys(), at, len);
            let bytes = self.bytes(at, n);
            assert!(bytes.iter().step_by(509).all(|b| *b == pattern));
        }
        assert_eq!(self.maps.totals().chunks, self.live.len() as u64);
    }

    fn run(&mut self, ops: &[MapOp]) {
        for (step, op) in ops.iter().enumerate() {
            self.apply(*op);
            if step % 8 == 0 {
                self.check();
            }
        }
    }

    /// Frees all; returns how many bytes stay mapped, beyond the table's.
    fn finish(&mut self) -> usize {
        let os = self.os();
        os.inner().refuse(u64::MAX, u64::MAX);
        self.check();
        while !self.live.is_empty() {
            self.apply(MapOp::Free(0));
        }
        self.maps.give_up(os, usize::MAX);
        assert_eq!((self.maps.totals().bytes, self.maps.kept_bytes()), (0, 0));
        // The second level of the table stays, and the account's nodes.
        os.inner()
            .inner()
            .mapped()
            .saturating_sub((16 << 10) + os.own_bytes())
    }
}

#[test]
fn every_call_refused_to_mappings() {
    let ops = map_script();
    let mut world = Mapped::new();
    world.os().inner().refuse(u64::MAX, u64::MAX);
    world.run(&ops);
    let calls = world.os().inner().made();
    let made = world.os().inner().inner().calls();
    for (name, made) in CALLS.into_iter().zip(made) {
        assert!(
            made > 0 || !matches!(name, "map" | "unmap" | "remap"),
            "{name}"
        );
    }
    assert!(world.live.len() > 70, "the table's second level is needed");
    assert_eq!(world.finish(), 0, "nothing stays mapped");
    for k in 0..calls {
        for to in [k + 1, u64::MAX] {
            let mut world = Mapped::new();
            world.os().inner().refuse(k, to);
            world.run(&ops);
            assert!(world.os().inner().refused() > 0, "call {k}");
            let left = world.finish();
            // A refused unmapping leaves its addresses behind, without their memory.
            assert!(to == u64::MAX || left <= 64 << 10, "call {k}: {left} bytes");
        }
    }
}
