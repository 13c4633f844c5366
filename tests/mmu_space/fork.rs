//! `fork` and the end of a space.

use crate::world::{ANON, BASE, SHARED, Told, World};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Errno, Limits, Overcommit, Traits};

const RW: u32 = PROT_READ | PROT_WRITE;

#[test]
fn a_child_has_the_same_areas_in_nodes_of_its_own() {
    let mut world = World::new();
    for n in 0..100 {
        world.map(2 * n, 1, RW, if n % 3 == 0 { SHARED } else { ANON });
    }
    world.brk(5000);
    let used = world.pool.used();
    let child = world.fork().expect("room");
    assert_eq!(world.pool.used(), 2 * used);
    let ours: Vec<_> = world.space.areas(&world.pool).collect();
    assert!(child.areas(&world.pool).eq(ours.iter().copied()));
    assert_eq!(child.break_now(), world.space.break_now());
    assert_eq!(child.totals(), world.space.totals());
    assert!(world.fx.objects.values().all(|(holders, _)| *holders == 2));
    let mut child = child;
    let done = child.munmap(&mut world.pool, &mut world.fx, BASE, 50 * PAGE);
    assert_eq!(done, Ok(()));
    assert!(
        world.space.areas(&world.pool).eq(ours),
        "the parent's are its own"
    );
    child.clear(&mut world.pool, &mut world.fx);
    assert_eq!(world.pool.used(), used);
    assert!(world.fx.objects.values().all(|(holders, _)| *holders == 1));
}

#[test]
fn what_is_not_for_children_is_left_out() {
    let mut world = World::new();
    world.map(0, 3, RW, ANON);
    world.map(3, 3, RW, SHARED);
    world.madvise(1, 3, MADV_DONTFORK).expect("advised");
    world.madvise(0, 1, MADV_WIPEONFORK).expect("advised");
    let child = world.fork().expect("room");
    let areas: Vec<_> = child.areas(&world.pool).collect();
    let pages = |a: &fencepost::mmu::area::Area| ((a.start - BASE) / PAGE, (a.end - BASE) / PAGE);
    assert_eq!(
        areas.iter().map(pages).collect::<Vec<_>>(),
        [(0, 1), (4, 6)]
    );
    assert!(
        areas[0].traits.has(Traits::WIPE_ON_FORK),
        "a grandchild's is wiped too"
    );
    assert_eq!(child.totals().size, 3 * PAGE);
    assert_eq!(world.fx.objects[&0].0, 3, "two areas here, one there");
}

#[test]
fn nothing_is_locked_in_a_child() {
    let mut world = World::new();
    world.map(0, 3, RW, ANON);
    world.map(4, 3, RW, SHARED);
    world.mlock(1, 1).expect("locked");
    world.mlock(5, 1).expect("locked");
    let child = world.fork().expect("room");
    assert_eq!(
        (child.len(), child.totals().locked),
        (2, 0),
        "and so they merge"
    );
    assert_eq!(world.space.totals().locked, 2 * PAGE);
    assert_eq!(world.fx.objects[&0].0, 4, "three areas here, one there");
}

#[test]
fn a_fork_without_room_or_memory_changes_nothing() {
    let mut world = World::with(Limits::NONE, 1);
    world.map(0, 1, RW, SHARED);
    world.told();
    assert_eq!(world.fork().map(drop), Err(Errno::ENOMEM));
    assert_eq!(world.told(), []);
    let mut world = World::limited(Limits {
        overcommit: Overcommit::Never,
        memory: 10 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 3, RW, ANON);
    assert_eq!(world.fork().map(drop), Err(Errno::ENOMEM));
    world.madvise(0, 2, MADV_DONTFORK).expect("advised");
    assert!(world.fork().is_ok());
    world.map(4, 1, RW, ANON);
    world.space.limits.memory = 11 * PAGE;
    assert_eq!(world.fork().map(drop), Err(Errno::ENOMEM), "the sum counts");
    world.space.limits.memory = 14 * PAGE;
    assert!(world.fork().is_ok());
}

#[test]
fn a_cleared_space_is_empty_and_can_be_used_again() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(4, 2, RW, SHARED);
    world.brk(100);
    world.told();
    let (pool, fx) = (&mut world.pool, &mut world.fx);
    world.space.clear(pool, fx);
    let told = world.told();
    assert!(told.contains(&Told::Release(0)));
    assert!(told.contains(&Told::Forget(0, 2)) && told.contains(&Told::Forget(4, 6)));
    assert_eq!(told.last(), Some(&Told::Prune(0, u64::MAX)));
    assert!(world.space.is_empty());
    assert_eq!(world.space.totals(), fencepost::mmu::space::Totals::NONE);
    assert_eq!(world.pool.used(), 0);
    assert_eq!(world.brk(0), 0);
    world.map(0, 2, RW, ANON);
    world.shows(&["0-2 rw-p"]);
}
