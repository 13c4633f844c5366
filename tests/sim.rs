//! The simulated kernel under the allocator: limits, neighbours, and that it notices what a real
//! one would let pass.
#![allow(unsafe_code)] // Memory calls.

#[path = "model/mod.rs"]
mod model;

use fencepost::mmu::area::{Limits, Overcommit};
use fencepost::os::{Os, OsError, Prot, Region};
use model::{Bed, Host, Op, Plan, Script, Source, World};

const PAGE: usize = 4096;
const SCRIPTS: u64 = if cfg!(miri) { 1 } else { 40 };

/// Runs seeded scripts on a computer with these limits. Returns how many calls were refused.
fn refused(limits: Limits, source: Source) -> u64 {
    let mut refused = 0;
    for seed in 0..SCRIPTS {
        let script = Script::from_seed(seed, source, if cfg!(miri) { 40 } else { 150 });
        let mut world = World::new(
            Host::new(Plan {
                limits,
                ..Plan::SMALL
            }),
            source,
        );
        // What does not fit is NULL and nothing else: the world checks that.
        world.run(&script.ops, 10);
        refused += world.os().inner().refused();
    }
    refused
}

#[test]
fn limits_are_met_and_survived() {
    let small = 2 << 20;
    let limits = [
        (
            "overcommit by guess",
            Limits {
                memory: small / 4,
                overcommit: Overcommit::Guess,
                ..Limits::NONE
            },
        ),
        (
            "RLIMIT_DATA",
            Limits {
                data: small / 4,
                ..Limits::NONE
            },
        ),
        (
            "max_map_count",
            Limits {
                areas: 4,
                ..Limits::NONE
            },
        ),
        (
            "overcommit never",
            Limits {
                memory: small,
                overcommit: Overcommit::Never,
                ..Limits::NONE
            },
        ),
    ];
    for (name, limits) in limits {
        // Equal neighbours are one area: only a reservation makes more.
        let source = if limits.areas < 10 {
            Source::Region
        } else {
            Source::Segments
        };
        let without = refused(Limits::NONE, source);
        let with = refused(limits, source);
        assert!(cfg!(miri) || with > without, "{name} refused nothing");
    }
}

#[test]
fn the_address_space_is_limited() {
    let used = {
        let host = Host::new(Plan::SMALL);
        let computer = host.computer();
        let process = computer.current().expect("one process");
        computer.virtual_bytes(process)
    };
    let limits = Limits {
        address_space: used + (1 << 20),
        ..Limits::NONE
    };
    let mut world = World::new(
        Host::new(Plan {
            limits,
            ..Plan::SMALL
        }),
        Source::Break,
    );
    let mut served = 0;
    while world.fill(10_000, 1) {
        served += 10_000;
    }
    assert!((500_000..1 << 20).contains(&served), "{served}");
    world.apply(Op::Free(3));
    assert!(world.fill(10_000, 1), "what was freed is served again");
    world.finish();
}

#[test]
fn a_neighbour_moves_the_break_and_stands_in_the_way() {
    let mut world = World::over_host(&Script::from_seed(1, Source::Break, 0));
    for round in 0..20 {
        for _ in 0..60 {
            world.fill(9000, 1);
        }
        match round % 4 {
            0 => drop(world.os().inner().sbrk(5000)),
            1 => world.os().inner().set_wall(true),
            3 => world.os().inner().set_wall(false),
            _ => {}
        }
        for place in 0..20 {
            world.apply(Op::Free(place));
        }
        world.check();
    }
    assert!(world.heap.segments().len() > 3, "the heap went elsewhere");
    world.finish();
}

#[test]
fn memory_comes_zero_and_is_poisoned_when_it_goes() {
    let host = Host::new(Plan::SMALL);
    let at = host.map(0, 4 * PAGE, Prot::ReadWrite).expect("room");
    let first = host.region().at(at);
    // SAFETY: the test's own mapping of this kernel.
    unsafe {
        assert_eq!(first.read(), 0);
        first.write_bytes(9, 4 * PAGE);
        host.discard(at, 2 * PAGE).expect("ours");
        assert_eq!((first.read(), first.add(2 * PAGE).read()), (0, 9));
        host.unmap(at, 4 * PAGE).expect("ours");
    }
    let again = host.map(0, 4 * PAGE, Prot::ReadWrite).expect("room");
    // SAFETY: as above.
    assert_eq!((again, unsafe { host.region().at(again).read() }), (at, 0));
    assert_eq!(host.mapped(), 4 * PAGE);
}

#[test]
fn errors_are_linuxs() {
    let host = Host::new(Plan::SMALL);
    let at = host.map(0, 4 * PAGE, Prot::ReadWrite).expect("room");
    let most = 1 << 46;
    assert_eq!(host.map(0, most, Prot::ReadWrite), Err(OsError::NO_MEMORY));
    // SAFETY: the test's own mapping.
    unsafe {
        assert_eq!(host.remap(at, 4 * PAGE, most), Err(OsError::NO_MEMORY));
        assert_eq!(host.unmap(at + 1, PAGE), Err(OsError(libc::EINVAL)));
        assert_eq!(
            host.protect(at + 4 * PAGE, PAGE, Prot::None),
            Err(OsError::NO_MEMORY)
        );
    }
    assert_eq!(host.refused(), 4);
}

#[test]
#[should_panic(expected = "NotMapped")]
#[cfg_attr(
    not(debug_assertions),
    ignore = "asks the model in checked builds only"
)]
fn a_core_that_touches_what_it_gave_back_is_caught() {
    let host = Host::new(Plan::SMALL);
    let at = host.map(0, PAGE, Prot::ReadWrite).expect("room");
    // SAFETY: the test's own mapping.
    unsafe { host.unmap(at, PAGE) }.expect("ours");
    host.region().at(at + 8);
}

#[test]
#[should_panic(expected = "ProtWrite")]
#[cfg_attr(
    not(debug_assertions),
    ignore = "asks the model in checked builds only"
)]
fn a_core_that_touches_what_it_only_reserved_is_caught() {
    let host = Host::new(Plan::SMALL);
    let at = host.map(0, PAGE, Prot::None).expect("room");
    host.region().at(at + 8);
}

/// What goes past the model (a user's stray write) is found when the memory comes back.
#[test]
#[should_panic(expected = "while it was not mapped")]
#[cfg_attr(miri, ignore = "byte by byte is too much for Miri")]
fn a_write_to_memory_that_was_given_back_is_found() {
    let bed = Bed::new();
    let host = bed.host();
    let at = host.map(0, PAGE, Prot::ReadWrite).expect("room");
    let user = host.region().at(at);
    // SAFETY: the block behind the simulation is writable; that is the point.
    unsafe {
        host.unmap(at, PAGE).expect("ours");
        user.add(100).write(1);
    }
    let _ = host.map(0, PAGE, Prot::ReadWrite);
}
