//! `max_map_count`, and a pool that runs out.

use crate::world::{ANON, BASE, SHARED, World};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Errno, Limits};
use fencepost::mmu::areas::AreaPool;

const RW: u32 = PROT_READ | PROT_WRITE;

/// A space with `count` areas of `max`: 100 pages at the base, the others single pages with
/// holes between them, every one from page 1000 on.
fn full(count: usize, max: usize) -> World {
    let limits = Limits {
        areas: max,
        ..Limits::NONE
    };
    let mut world = World::with(limits, AreaPool::nodes_for(max + 100));
    world.map(0, 100, RW, ANON);
    // Without the checks of the test world, which would take the square of the time.
    for n in 1..count as u64 {
        let addr = BASE + (998 + 2 * n) * PAGE;
        let (pool, fx) = (&mut world.pool, &mut world.fx);
        let done = world
            .space
            .mmap(pool, fx, addr, PAGE, RW, ANON | MAP_FIXED, None, 0);
        assert_eq!(done, Ok(addr));
    }
    assert_eq!(world.space.len(), count);
    world
}

#[test]
fn at_the_limit_splits_fail_and_one_more_mapping_succeeds() {
    let max = Limits::NONE.areas;
    assert_eq!(max, 65_530);
    let mut world = full(max, max);
    let no = Err(Errno::ENOMEM);
    assert_eq!(world.mprotect(99, 1, PROT_READ), no, "a split");
    assert_eq!(world.munmap(50, 1), no, "a split");
    assert_eq!(world.mlock(99, 1), no, "a split");
    let inside = world.mmap(BASE + 50 * PAGE, PAGE, 0, ANON | MAP_FIXED, None, 0);
    assert_eq!(inside, Err(Errno::ENOMEM));
    assert_eq!(world.space.len(), max);
    world.map(500, 1, RW, ANON);
    assert_eq!(world.space.len(), max + 1, "one above the limit");
    let apart = world.mmap(BASE + 600 * PAGE, PAGE, RW, ANON | MAP_FIXED, None, 0);
    assert_eq!(apart, Err(Errno::ENOMEM));
    let mergeable = world.mmap(BASE + 100 * PAGE, PAGE, RW, ANON | MAP_FIXED, None, 0);
    assert_eq!(mergeable, Err(Errno::ENOMEM), "even if it would merge");
    assert_eq!(world.brk(PAGE), 0);
    assert_eq!(
        world.mremap(500, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 700),
        Err(Errno::ENOMEM)
    );
    assert_eq!(
        world.mremap(500, 1, 1, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 700),
        Err(Errno::ENOMEM)
    );
    assert_eq!(
        world.mremap(1000, 1, 3, MREMAP_MAYMOVE, 0),
        Err(Errno::ENOMEM)
    );
    assert_eq!(
        world.mremap(40, 5, 2, 0, 0),
        Err(Errno::ENOMEM),
        "shrinking in the middle"
    );
    assert_eq!(
        world.madvise(99, 1, MADV_DONTFORK),
        Err(Errno::EAGAIN),
        "a split"
    );
    // What needs no new area works.
    assert_eq!(world.mremap(500, 1, 2, 0, 0), Ok(500));
    assert_eq!(world.madvise(50, 1, MADV_DONTNEED), Ok(()));
    assert_eq!(world.madvise(50, 1, MADV_GUARD_INSTALL), Ok(()));
    assert_eq!(world.madvise(500, 2, MADV_DONTFORK), Ok(()));
    assert_eq!(world.mprotect(500, 2, PROT_READ), Ok(()));
    assert_eq!(world.munmap(99, 1), Ok(()), "a cut at the end");
    assert_eq!(world.munmap(0, 1), Ok(()), "and at the beginning");
    assert_eq!(world.munmap(500, 2), Ok(()));
    assert_eq!(world.munmap(1000, 1), Ok(()));
    assert_eq!(world.space.len(), max - 1);
}

#[test]
fn one_below_the_limit_one_split_succeeds_but_not_two() {
    let mut world = full(19, 20);
    assert_eq!(
        world.mprotect(50, 1, PROT_READ),
        Err(Errno::ENOMEM),
        "two splits"
    );
    assert_eq!(world.space.len(), 19);
    assert_eq!(world.mprotect(99, 1, PROT_READ), Ok(()));
    assert_eq!(world.space.len(), 20);
    assert_eq!(
        world.mprotect(98, 1, PROT_READ),
        Ok(()),
        "a border that moves is no split"
    );
    assert_eq!(world.space.len(), 20);
    assert_eq!(world.munmap(1000, 1), Ok(()));
    assert_eq!(world.mprotect(0, 1, PROT_READ), Ok(()));
    assert_eq!(world.space.len(), 20);
    assert_eq!(
        world.mprotect(1, 1, PROT_READ),
        Ok(()),
        "nor on the other side"
    );
}

#[test]
fn moves_keep_a_margin() {
    let moves = |count| {
        let mut world = full(count, 20);
        let grown = world.mremap(1000, 1, 3, MREMAP_MAYMOVE, 0).is_ok();
        let mut world = full(count, 20);
        let fixed = world
            .mremap(1000, 1, 1, MREMAP_MAYMOVE | MREMAP_FIXED, 700)
            .is_ok();
        (grown, fixed)
    };
    assert_eq!(moves(14), (true, true));
    assert_eq!(moves(15), (true, false));
    assert_eq!(moves(16), (true, false));
    assert_eq!(moves(17), (false, false));
    let mut world = full(18, 20);
    let both = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(
        world.mremap(800, 1, 1, both, 700),
        Err(Errno::ENOMEM),
        "before the address"
    );
}

#[test]
fn a_failing_mprotect_leaves_what_was_before_the_limit() {
    let mut world = full(19, 20);
    world.map(100, 1, 0, ANON);
    assert_eq!(world.space.len(), 20);
    assert_eq!(world.mprotect(99, 2, PROT_READ), Err(Errno::ENOMEM));
    assert_eq!(world.mprotect(100, 1, RW), Ok(()));
    world.map(300, 2, PROT_READ, ANON);
    world.map(302, 2, 0, SHARED);
    assert_eq!(world.space.len(), 21);
    assert_eq!(world.mprotect(300, 3, PROT_EXEC), Err(Errno::ENOMEM));
    assert_eq!(&world.areas()[1..3], ["300-302 --xp", "302-304 ---s 0:0"]);
}

/// Every call on a pool with 0, 1, 2, … nodes: it fails with nothing changed until there are
/// enough.
#[test]
fn without_nodes_nothing_is_changed() {
    type Call = fn(&mut World) -> Result<(), Errno>;
    let calls: [(&str, Call); 10] = [
        ("mmap", |w| {
            let flags = ANON | MAP_FIXED;
            w.mmap(BASE + 7 * PAGE, PAGE, 0, flags, None, 0).map(drop)
        }),
        ("mmap inside", |w| {
            let flags = SHARED | MAP_FIXED;
            w.mmap(BASE + 51 * PAGE, PAGE, RW, flags, None, 0).map(drop)
        }),
        ("munmap", |w| w.munmap(51, 1)),
        ("mprotect", |w| w.mprotect(51, 1, 0)),
        ("mprotect across", |w| w.mprotect(51, 5, 0)),
        ("madvise", |w| w.madvise(51, 1, MADV_DONTFORK)),
        ("mlock", |w| w.mlock(51, 1)),
        ("mremap", |w| {
            let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
            w.mremap(51, 1, 1, flags, 7).map(drop)
        }),
        ("mremap several", |w| {
            let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
            w.mremap(51, 6, 6, flags, 7).map(drop)
        }),
        ("mremap to the middle", |w| {
            let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
            w.mremap(40, 1, 2, flags, 51).map(drop)
        }),
    ];
    // 12 areas, which fill one leaf: the next one needs two nodes more.
    let prepare = |nodes| {
        let mut world = World::with(Limits::NONE, nodes);
        for n in 0..8 {
            world.map(20 + 2 * n, 1, RW, SHARED);
        }
        for (page, prot) in [(40, RW), (50, RW), (53, PROT_READ), (56, PROT_EXEC)] {
            world.map(page, 3, prot, ANON);
        }
        assert_eq!(world.space.len(), 12);
        world
    };
    for (name, call) in calls {
        let mut refused = 0;
        let mut nodes = 1;
        loop {
            let mut world = prepare(nodes);
            world.told();
            let before = world.areas();
            match call(&mut world) {
                Ok(()) => break,
                Err(errno) => {
                    let expected = if name == "madvise" {
                        Errno::EAGAIN
                    } else {
                        Errno::ENOMEM
                    };
                    assert_eq!(errno, expected, "{name} with {nodes}");
                    assert_eq!(world.areas(), before, "{name} with {nodes}");
                    assert_eq!(world.told(), [], "{name} with {nodes}");
                }
            }
            refused += 1;
            nodes += 1;
            assert!(nodes < 40, "{name}");
        }
        assert!(refused > 0, "{name} needed no node");
    }
}

#[test]
fn a_full_pool_still_unmaps_and_changes_whole_areas() {
    let mut world = World::with(Limits::NONE, 3);
    let mut mapped = 0;
    while world
        .mmap(
            BASE + 3 * mapped * PAGE,
            2 * PAGE,
            RW,
            ANON | MAP_FIXED,
            None,
            0,
        )
        .is_ok()
    {
        mapped += 1;
    }
    assert!(mapped > 12);
    assert_eq!(
        world.munmap_bytes(BASE, PAGE),
        Ok(()),
        "a cut at the beginning"
    );
    assert_eq!(
        world.munmap_bytes(BASE + 4 * PAGE, PAGE),
        Ok(()),
        "a cut at the end"
    );
    assert_eq!(world.mprotect(6, 2, PROT_READ), Ok(()));
    assert_eq!(world.madvise(6, 2, MADV_DONTFORK), Ok(()));
    assert_eq!(world.munmap(0, 3 * mapped), Ok(()));
    assert_eq!(world.pool.used(), 0);
}
