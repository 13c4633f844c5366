//! `madvise`.

use crate::world::{ANON, BASE, SHARED, Told, World};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Errno, Traits};

const RW: u32 = PROT_READ | PROT_WRITE;

fn traits(world: &World, page: u64) -> Traits {
    let area = world.space.find(&world.pool, BASE + page * PAGE);
    area.expect("mapped").traits
}

#[test]
fn madvise_checks_its_arguments() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    assert_eq!(
        world.madvise_bytes(BASE + 1, 0, MADV_DONTNEED),
        Err(Errno::EINVAL)
    );
    assert_eq!(world.madvise_bytes(BASE, 0, MADV_DONTNEED), Ok(()));
    assert_eq!(
        world.madvise_bytes(BASE, u64::MAX, MADV_DONTNEED),
        Err(Errno::EINVAL)
    );
    assert_eq!(
        world.madvise_bytes(BASE, 0u64.wrapping_sub(BASE) + PAGE, MADV_DONTNEED),
        Err(Errno::EINVAL)
    );
    for unknown in [5, 6, 7, 25, 99, 100, 101, 104, u32::MAX] {
        assert_eq!(
            world.madvise(0, 1, unknown),
            Err(Errno::EINVAL),
            "{unknown}"
        );
        assert_eq!(
            world.madvise(0, 0, unknown),
            Err(Errno::EINVAL),
            "{unknown}"
        );
    }
    world.told();
    assert_eq!(world.madvise_bytes(BASE, PAGE + 1, MADV_DONTNEED), Ok(()));
    assert_eq!(world.told(), [Told::Discard(0, 2)], "rounded up");
}

#[test]
fn holes_are_an_error_after_everything_was_done() {
    let mut world = World::new();
    world.map(1, 2, RW, ANON);
    world.map(5, 2, RW, ANON);
    world.told();
    assert_eq!(world.madvise(0, 6, MADV_DONTNEED), Err(Errno::ENOMEM));
    assert_eq!(world.told(), [Told::Discard(1, 3), Told::Discard(5, 6)]);
    assert_eq!(world.madvise(5, 4, MADV_DONTNEED), Err(Errno::ENOMEM));
    assert_eq!(world.told(), [Told::Discard(5, 7)]);
    assert_eq!(world.madvise(10, 4, MADV_DONTNEED), Err(Errno::ENOMEM));
    assert_eq!(world.told(), []);
}

#[test]
fn dontneed_is_for_everything_but_locked_memory() {
    let mut world = World::new();
    world.map(0, 1, RW, ANON);
    world.map(1, 1, 0, ANON);
    world.map(2, 1, RW, SHARED);
    world.map(3, 1, RW, ANON | MAP_LOCKED);
    world.map(4, 1, RW, ANON);
    world.told();
    assert_eq!(world.madvise(0, 5, MADV_DONTNEED), Err(Errno::EINVAL));
    let before = [
        Told::Discard(0, 1),
        Told::Discard(1, 2),
        Told::Discard(2, 3),
    ];
    assert_eq!(world.told(), before, "it stops at locked memory");
    assert_eq!(world.madvise(3, 2, MADV_DONTNEED_LOCKED), Ok(()));
    assert_eq!(world.told(), [Told::Discard(3, 4), Told::Discard(4, 5)]);
}

#[test]
fn free_is_for_private_anonymous_memory_that_is_not_locked() {
    let mut world = World::new();
    let file = world.file(1);
    world.map(0, 1, RW, ANON);
    world.map(1, 1, RW, SHARED);
    world.map_file(2, 1, RW, MAP_PRIVATE, file);
    world.map(3, 1, RW, ANON | MAP_LOCKED);
    world.map(4, 1, 0, ANON);
    world.told();
    assert_eq!(world.madvise(0, 2, MADV_FREE), Err(Errno::EINVAL));
    assert_eq!(
        world.told(),
        [Told::FreeLazily(0, 1)],
        "the part before is done"
    );
    assert_eq!(world.madvise(2, 1, MADV_FREE), Err(Errno::EINVAL));
    assert_eq!(world.madvise(3, 1, MADV_FREE), Err(Errno::EINVAL));
    assert_eq!(world.told(), []);
    assert_eq!(world.madvise(4, 1, MADV_FREE), Ok(()));
    assert_eq!(world.told(), [Told::FreeLazily(4, 5)]);
}

#[test]
fn remove_punches_a_hole_into_a_shared_object() {
    let mut world = World::new();
    world.map(0, 1, RW, ANON);
    world.map(1, 4, RW, SHARED);
    let file = world.file(1);
    world.map_file(5, 1, RW, MAP_PRIVATE, file);
    world.told();
    assert_eq!(world.madvise(0, 1, MADV_REMOVE), Err(Errno::EINVAL));
    assert_eq!(world.madvise(5, 1, MADV_REMOVE), Err(Errno::EACCES));
    assert_eq!(world.madvise(2, 2, MADV_REMOVE), Ok(()));
    assert_eq!(world.told(), [Told::Punch(0, PAGE, 2 * PAGE)]);
    world.mlock(1, 1).expect("locked");
    assert_eq!(world.madvise(1, 1, MADV_REMOVE), Err(Errno::EINVAL));
}

#[test]
fn advice_for_children_and_pages_splits_areas_and_merges_them_again() {
    for (set, clear, sets) in [
        (MADV_DONTFORK, MADV_DOFORK, Traits::DONT_FORK),
        (MADV_WIPEONFORK, MADV_KEEPONFORK, Traits::WIPE_ON_FORK),
        (MADV_DONTDUMP, MADV_DODUMP, Traits::DONT_DUMP),
        (MADV_MERGEABLE, MADV_UNMERGEABLE, Traits::MERGEABLE),
        (MADV_SEQUENTIAL, MADV_NORMAL, Traits::SEQUENTIAL),
        (MADV_RANDOM, MADV_NORMAL, Traits::RANDOM),
    ] {
        let mut world = World::new();
        world.map(0, 3, RW, ANON);
        world.told();
        let before = traits(&world, 1);
        assert_eq!(world.madvise(1, 1, set), Ok(()));
        world.shows(&["0-1 rw-p", "1-2 rw-p", "2-3 rw-p"]);
        assert_eq!(traits(&world, 1), before.with(sets), "{set}");
        assert_eq!(traits(&world, 0), before);
        assert_eq!(world.canonical(), ["0-3 rw-p"]);
        assert_eq!(world.madvise(1, 1, clear), Ok(()));
        world.shows(&["0-3 rw-p"]);
        assert_eq!(traits(&world, 1), before, "{clear}");
        assert_eq!(world.told(), [], "pages are not concerned");
    }
}

#[test]
fn advice_that_contradicts_earlier_advice_replaces_it() {
    let mut world = World::new();
    world.map(0, 1, RW, ANON);
    let plain = traits(&world, 0);
    for (advice, trait_) in [
        (MADV_HUGEPAGE, Traits::HUGE),
        (MADV_NOHUGEPAGE, Traits::NO_HUGE),
        (MADV_HUGEPAGE, Traits::HUGE),
    ] {
        assert_eq!(world.madvise(0, 1, advice), Ok(()));
        assert_eq!(traits(&world, 0), plain.with(trait_));
    }
    let plain = traits(&world, 0);
    for (advice, trait_) in [
        (MADV_RANDOM, Traits::RANDOM),
        (MADV_SEQUENTIAL, Traits::SEQUENTIAL),
        (MADV_RANDOM, Traits::RANDOM),
    ] {
        assert_eq!(world.madvise(0, 1, advice), Ok(()));
        assert_eq!(traits(&world, 0), plain.with(trait_));
    }
}

#[test]
fn wipe_on_fork_is_for_private_anonymous_memory() {
    let mut world = World::new();
    let file = world.file(1);
    world.map(0, 1, RW, SHARED);
    world.map_file(1, 1, RW, MAP_PRIVATE, file);
    assert_eq!(world.madvise(0, 1, MADV_WIPEONFORK), Err(Errno::EINVAL));
    assert_eq!(world.madvise(1, 1, MADV_WIPEONFORK), Err(Errno::EINVAL));
    assert_eq!(world.madvise(0, 2, MADV_KEEPONFORK), Ok(()));
    assert_eq!(world.madvise(0, 1, MADV_MERGEABLE), Ok(()));
    assert!(
        !traits(&world, 0).has(Traits::MERGEABLE),
        "shared memory is never merged"
    );
}

#[test]
fn populate_needs_the_right_that_it_uses() {
    let mut world = World::new();
    for (page, prot) in [
        (0, RW),
        (2, PROT_READ),
        (4, PROT_WRITE),
        (6, 0),
        (8, PROT_EXEC),
    ] {
        world.map(page, 1, prot, ANON);
    }
    world.told();
    let mut both = |page| {
        let read = world.madvise(page, 1, MADV_POPULATE_READ);
        (read, world.madvise(page, 1, MADV_POPULATE_WRITE))
    };
    let refused = Err(Errno::EINVAL);
    assert_eq!(both(0), (Ok(()), Ok(())));
    assert_eq!(both(2), (Ok(()), refused));
    assert_eq!(both(4), (refused, Ok(())));
    assert_eq!(both(6), (refused, refused));
    assert_eq!(both(8), (refused, refused));
    let told = [(0, false), (0, true), (2, false), (4, true)];
    assert_eq!(
        world.told(),
        told.map(|(at, write)| Told::Populate(at, at + 1, write))
    );
}

#[test]
fn populate_stops_at_the_first_problem() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(2, 2, PROT_READ, ANON);
    world.map(6, 2, RW, ANON);
    world.told();
    assert_eq!(world.madvise(1, 2, MADV_POPULATE_WRITE), Err(Errno::EINVAL));
    assert_eq!(world.told(), [Told::Populate(1, 2, true)]);
    assert_eq!(
        world.madvise(0, 8, MADV_POPULATE_READ),
        Err(Errno::ENOMEM),
        "a hole"
    );
    assert_eq!(
        world.told(),
        [Told::Populate(0, 2, false), Told::Populate(2, 4, false)]
    );
    assert_eq!(world.madvise(4, 1, MADV_POPULATE_READ), Err(Errno::ENOMEM));
    world.madvise(0, 1, MADV_GUARD_INSTALL).expect("guarded");
    assert_eq!(world.madvise(0, 4, MADV_POPULATE_READ), Err(Errno::EFAULT));
    world.fx.no_memory.insert(BASE + 6 * PAGE);
    assert_eq!(world.madvise(6, 1, MADV_POPULATE_READ), Err(Errno::ENOMEM));
    world.map(6, 1, RW, SHARED);
    assert_eq!(
        world.mremap(6, 1, 3, MREMAP_MAYMOVE | MREMAP_FIXED, 20),
        Ok(20)
    );
    assert_eq!(
        world.madvise(20, 3, MADV_POPULATE_READ),
        Err(Errno::EFAULT),
        "beyond the object"
    );
}

#[test]
fn guards_are_for_everything_but_locked_memory_and_split_nothing() {
    let mut world = World::new();
    world.map(0, 3, RW, ANON);
    world.map(3, 1, 0, ANON);
    world.map(4, 1, RW, SHARED);
    world.told();
    assert_eq!(world.madvise(1, 1, MADV_GUARD_INSTALL), Ok(()));
    assert_eq!(world.madvise(3, 2, MADV_GUARD_INSTALL), Ok(()));
    world.shows(&["0-3 rw-p", "3-4 ---p", "4-5 rw-s 0:0"]);
    assert_eq!(world.madvise(0, 4, MADV_GUARD_REMOVE), Ok(()));
    let told = [Told::Guard(1, 2), Told::Guard(3, 4), Told::Guard(4, 5)];
    let removed = [Told::Unguard(0, 3), Told::Unguard(3, 4)];
    assert_eq!(world.told(), [&told[..], &removed].concat());
    world.mlock(0, 1).expect("locked");
    assert_eq!(world.madvise(0, 1, MADV_GUARD_INSTALL), Err(Errno::EINVAL));
    assert_eq!(world.madvise(0, 1, MADV_GUARD_REMOVE), Ok(()));
}

#[test]
fn advice_about_pressure_changes_nothing_here() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.told();
    for advice in [MADV_WILLNEED, MADV_COLD, MADV_PAGEOUT, MADV_NORMAL] {
        assert_eq!(world.madvise(0, 2, advice), Ok(()));
        assert_eq!(world.madvise(0, 3, advice), Err(Errno::ENOMEM));
    }
    world.mlock(0, 2).expect("locked");
    world.told();
    for advice in [MADV_COLD, MADV_PAGEOUT] {
        assert_eq!(world.madvise(0, 2, advice), Err(Errno::EINVAL));
    }
    assert_eq!(world.madvise(0, 2, MADV_WILLNEED), Ok(()));
    assert_eq!(world.told(), []);
}
