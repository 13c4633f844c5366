//! `mprotect`, `mlock` and `munlock`.

use crate::world::{ANON, BASE, SHARED, Told, World};
use fencepost::mmu::addr::{PAGE, Rights};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Errno, Limits, Traits};

const RW: u32 = PROT_READ | PROT_WRITE;

#[test]
fn mprotect_checks_its_arguments_in_this_order() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    let both = PROT_GROWSDOWN | PROT_GROWSUP;
    assert_eq!(world.mprotect_bytes(BASE, 0, both), Err(Errno::EINVAL));
    assert_eq!(world.mprotect_bytes(BASE + 1, 0, RW), Err(Errno::EINVAL));
    assert_eq!(
        world.mprotect_bytes(BASE, 0, 0x70),
        Ok(()),
        "no length is no error"
    );
    assert_eq!(world.mprotect_bytes(BASE, u64::MAX, RW), Err(Errno::ENOMEM));
    assert_eq!(
        world.mprotect_bytes(BASE, 0u64.wrapping_sub(BASE), 0x70),
        Err(Errno::ENOMEM)
    );
    assert_eq!(
        world.mprotect(0, 1, 0x10),
        Err(Errno::EINVAL),
        "unknown bits"
    );
    assert_eq!(
        world.mprotect(10, 1, 0x10),
        Err(Errno::EINVAL),
        "before the hole"
    );
    assert_eq!(
        world.mprotect(0, 1, RW | PROT_SEM),
        Ok(()),
        "a bit that means nothing"
    );
    assert_eq!(
        world.mprotect(0, 1, RW | PROT_GROWSDOWN),
        Err(Errno::EINVAL)
    );
    assert_eq!(world.mprotect(0, 1, RW | PROT_GROWSUP), Err(Errno::EINVAL));
    assert_eq!(
        world.mprotect(10, 1, RW | PROT_GROWSDOWN),
        Err(Errno::ENOMEM)
    );
    world.shows(&["0-4 rw-p"]);
}

#[test]
fn mprotect_rounds_up() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    assert_eq!(world.mprotect_bytes(BASE, PAGE + 1, PROT_READ), Ok(()));
    world.shows(&["0-2 r--p", "2-4 rw-p"]);
}

#[test]
fn a_hole_at_the_beginning_changes_nothing() {
    let mut world = World::new();
    world.map(1, 4, RW, ANON);
    assert_eq!(world.mprotect(0, 4, PROT_READ), Err(Errno::ENOMEM));
    assert_eq!(world.mprotect(6, 1, PROT_READ), Err(Errno::ENOMEM));
    world.shows(&["1-5 rw-p"]);
}

#[test]
fn a_hole_later_leaves_the_part_before_changed() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(3, 2, RW, ANON);
    world.told();
    assert_eq!(world.mprotect(1, 4, PROT_READ), Err(Errno::ENOMEM));
    world.shows(&["0-1 rw-p", "1-2 r--p", "3-5 rw-p"]);
    assert_eq!(world.told(), [Told::Protect(1, 2, Rights::READ)]);
}

#[test]
fn the_end_beyond_the_last_area_is_a_hole_too() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    assert_eq!(world.mprotect(0, 3, 0), Err(Errno::ENOMEM));
    world.shows(&["0-2 ---p"]);
}

#[test]
fn restoring_merges_again() {
    let mut world = World::new();
    world.map(0, 9, RW, ANON);
    assert_eq!(world.mprotect(3, 3, PROT_READ), Ok(()));
    world.shows(&["0-3 rw-p", "3-6 r--p", "6-9 rw-p"]);
    assert_eq!(world.mprotect(3, 1, RW), Ok(()));
    world.shows(&["0-4 rw-p", "4-6 r--p", "6-9 rw-p"]);
    assert_eq!(world.mprotect(5, 1, RW), Ok(()));
    world.shows(&["0-4 rw-p", "4-5 r--p", "5-9 rw-p"]);
    assert_eq!(world.mprotect(4, 1, RW), Ok(()));
    world.shows(&["0-9 rw-p"]);
}

#[test]
fn several_areas_become_one() {
    let mut world = World::new();
    for (page, prot) in [(0, RW), (2, PROT_READ), (4, 0), (6, PROT_EXEC)] {
        world.map(page, 2, prot, ANON);
    }
    world.told();
    assert_eq!(world.mprotect(1, 6, PROT_READ), Ok(()));
    world.shows(&["0-1 rw-p", "1-7 r--p", "7-8 --xp"]);
    let told = [(1, 2), (4, 6), (6, 7)].map(|(a, b)| Told::Protect(a, b, Rights::READ));
    assert_eq!(
        world.told(),
        told,
        "what has the rights already is left alone"
    );
}

#[test]
fn objects_are_held_once_by_each_part() {
    let mut world = World::new();
    world.map(0, 6, RW, SHARED);
    world.told();
    assert_eq!(world.mprotect(2, 2, PROT_READ), Ok(()));
    world.shows(&["0-2 rw-s 0:0", "2-4 r--s 0:2", "4-6 rw-s 0:4"]);
    assert_eq!(world.fx.objects[&0].0, 3);
    assert_eq!(world.mprotect(2, 2, RW), Ok(()));
    world.shows(&["0-6 rw-s 0:0"]);
    assert_eq!(world.fx.objects[&0].0, 1);
}

#[test]
fn growsdown_reaches_to_the_beginning_of_a_stack() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON | MAP_GROWSDOWN);
    assert_eq!(world.mprotect(2, 1, PROT_READ | PROT_GROWSDOWN), Ok(()));
    world.shows(&["0-3 r--p", "3-4 rw-p"]);
}

#[test]
fn what_is_writable_is_committed_and_counts_as_data() {
    let mut world = World::new();
    world.map(0, 4, 0, ANON);
    world.map(4, 4, 0, ANON | MAP_NORESERVE);
    let totals = world.space.totals();
    assert_eq!((totals.data, totals.committed), (0, 0));
    world.mprotect(0, 8, RW).expect("changed");
    let totals = world.space.totals();
    assert_eq!((totals.data, totals.committed), (8 * PAGE, 4 * PAGE));
    world.mprotect(1, 5, PROT_READ).expect("changed");
    let totals = world.space.totals();
    assert_eq!((totals.data, totals.committed), (3 * PAGE, PAGE));
}

#[test]
fn a_private_mapping_of_an_object_stays_committed() {
    let mut world = World::new();
    let file = world.file(4);
    world.map_file(0, 4, PROT_READ, MAP_PRIVATE, file);
    assert_eq!(world.space.totals().committed, 0);
    world.mprotect(0, 4, RW).expect("changed");
    world.mprotect(0, 4, PROT_READ).expect("changed");
    assert_eq!(world.space.totals().committed, 4 * PAGE);
}

#[test]
fn canonical_areas_differ_only_in_what_a_listing_shows() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    world.madvise(1, 1, MADV_DONTFORK).expect("advised");
    world.mprotect(3, 1, PROT_READ).expect("changed");
    world.shows(&["0-1 rw-p", "1-2 rw-p", "2-3 rw-p", "3-4 r--p"]);
    assert_eq!(world.canonical(), ["0-3 rw-p", "3-4 r--p"]);
    world.map(4, 2, PROT_READ, SHARED);
    world.madvise(5, 1, MADV_HUGEPAGE).expect("advised");
    assert_eq!(world.space.len(), 6);
    assert_eq!(world.canonical(), ["0-3 rw-p", "3-4 r--p", "4-6 r--s 0:0"]);
}

#[test]
fn mlock_locks_every_page_that_is_touched_and_faults_it_in() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    world.told();
    let (pool, fx) = (&mut world.pool, &mut world.fx);
    let done = world.space.mlock(pool, fx, BASE + PAGE + 5, PAGE);
    assert_eq!(done, Ok(()));
    assert_eq!(world.told(), [Told::Populate(1, 3, true)]);
    world.shows(&["0-1 rw-p", "1-3 rw-p", "3-4 rw-p"]);
    assert_eq!(world.space.totals().locked, 2 * PAGE);
    assert_eq!(world.munlock(0, 4), Ok(()));
    world.shows(&["0-4 rw-p"]);
    assert_eq!(world.told(), []);
}

#[test]
fn mlock_is_limited_but_not_by_what_is_locked_already() {
    let mut world = World::limited(Limits {
        locked: 4 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 8, RW, ANON);
    assert_eq!(world.mlock(0, 5), Err(Errno::ENOMEM));
    assert_eq!(world.mlock(0, 4), Ok(()));
    assert_eq!(world.mlock(0, 4), Ok(()));
    assert_eq!(world.mlock(3, 2), Err(Errno::ENOMEM));
    world.space.limits.locked = 0;
    assert_eq!(world.mlock(0, 1), Err(Errno::EPERM));
    assert_eq!(world.munlock(0, 1), Ok(()));
}

#[test]
fn mlock_stops_at_holes_and_at_pages_that_cannot_be_had() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(4, 2, 0, ANON);
    world.map(8, 2, RW, ANON);
    assert_eq!(world.mlock(1, 2), Err(Errno::ENOMEM));
    assert_eq!(
        world.space.totals().locked,
        PAGE,
        "what is before the hole is locked"
    );
    assert_eq!(world.mlock(4, 1), Err(Errno::ENOMEM), "no rights");
    assert_eq!(world.space.totals().locked, 2 * PAGE);
    world.madvise(8, 1, MADV_GUARD_INSTALL).expect("guarded");
    assert_eq!(world.mlock(8, 1), Err(Errno::ENOMEM));
    world.fx.no_memory.insert(BASE + 9 * PAGE);
    assert_eq!(world.mlock(9, 1), Err(Errno::EAGAIN));
    assert_eq!(world.munlock(1, 2), Err(Errno::ENOMEM));
    assert_eq!(world.space.totals().locked, 3 * PAGE);
    let area = world.space.find(&world.pool, BASE + PAGE).expect("there");
    assert!(!area.traits.has(Traits::LOCKED));
}
