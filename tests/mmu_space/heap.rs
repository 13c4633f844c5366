//! `brk`, and stacks that grow.

use crate::world::{ANON, BASE, Told, World};
use fencepost::mmu::addr::{PAGE, Rights};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Limits, Overcommit, Traits};
use fencepost::mmu::areas::Node;
use fencepost::mmu::fault::Cause;

const RW: u32 = PROT_READ | PROT_WRITE;

/// Maps pages counted from the beginning of the heap.
fn map(world: &mut World, page: u64, pages: u64, prot: u32, flags: u32) {
    let addr = world.space.layout().start_brk + page * PAGE;
    let flags = flags | MAP_FIXED;
    let done = world.mmap(addr, pages * PAGE, prot, flags, None, 0);
    assert_eq!(done, Ok(addr));
}

fn unmap(world: &mut World, page: u64, pages: u64) {
    let addr = world.space.layout().start_brk + page * PAGE;
    assert_eq!(world.munmap_bytes(addr, pages * PAGE), Ok(()));
}

/// Areas in pages from the beginning of the heap.
fn areas(world: &World) -> Vec<(u64, u64)> {
    let start = world.space.layout().start_brk;
    let areas = world.space.areas(&world.pool);
    areas
        .map(|a| ((a.start - start) / PAGE, (a.end - start) / PAGE))
        .collect()
}

#[test]
fn the_break_is_exact_and_its_area_is_whole_pages() {
    let mut world = World::new();
    assert_eq!(areas(&world), [], "no area before the first growth");
    for (to, pages) in [(100, 1), (4096, 1), (4097, 2), (100, 1)] {
        assert_eq!(world.brk(to), to);
        assert_eq!(areas(&world), [(0, pages)], "{to}");
    }
    assert_eq!(world.brk(0), 0);
    assert_eq!(areas(&world), []);
}

#[test]
fn a_break_below_its_beginning_is_not_set() {
    let mut world = World::new();
    world.brk(5000);
    let (pool, fx) = (&mut world.pool, &mut world.fx);
    let start = world.space.layout().start_brk;
    assert_eq!(
        world.space.brk(pool, fx, 0),
        start + 5000,
        "which is how it is read"
    );
    assert_eq!(world.space.brk(pool, fx, start - 1), start + 5000);
    assert_eq!(world.space.brk(pool, fx, u64::MAX), start + 5000);
    assert_eq!(world.space.brk(pool, fx, 0x7fff_ffff_f001), start + 5000);
    assert_eq!(world.space.break_now(), start + 5000);
}

#[test]
fn a_change_within_a_page_moves_no_area() {
    let mut world = World::new();
    world.brk(100);
    map(&mut world, 1, 1, RW, ANON | MAP_NORESERVE);
    world.told();
    assert_eq!(world.brk(4000), 4000, "though the next page is taken");
    assert_eq!(world.brk(4096), 4096);
    assert_eq!(world.brk(4097), 4096);
    assert_eq!(world.told(), []);
}

#[test]
fn growth_keeps_a_page_away_from_the_next_area() {
    let mut world = World::new();
    map(&mut world, 4, 1, 0, ANON);
    assert_eq!(world.brk(4 * PAGE), 0);
    assert_eq!(world.brk(3 * PAGE + 1), 0);
    assert_eq!(world.brk(3 * PAGE), 3 * PAGE);
}

#[test]
fn growth_keeps_the_gap_below_a_stack() {
    let mut world = World::new();
    map(&mut world, 300, 1, RW, ANON | MAP_GROWSDOWN);
    assert_eq!(world.brk(44 * PAGE), 0);
    assert_eq!(world.brk(43 * PAGE), 43 * PAGE);
}

#[test]
fn growth_over_a_foreign_mapping_is_refused() {
    let mut world = World::new();
    world.brk(PAGE);
    map(&mut world, 1, 1, RW, ANON);
    assert_eq!(world.brk(2 * PAGE), PAGE);
    assert_eq!(world.brk(10 * PAGE), PAGE);
}

#[test]
fn after_mprotect_growth_makes_a_new_area() {
    let mut world = World::new();
    world.brk(3 * PAGE);
    let last = world.space.layout().start_brk + 2 * PAGE;
    assert_eq!(world.mprotect_bytes(last, PAGE, PROT_READ), Ok(()));
    assert_eq!(world.brk(5 * PAGE), 5 * PAGE);
    assert_eq!(areas(&world), [(0, 2), (2, 3), (3, 5)]);
}

#[test]
fn after_munmap_of_the_last_page_it_cannot_shrink_over_the_hole_but_grow() {
    let mut world = World::new();
    world.brk(3 * PAGE);
    unmap(&mut world, 2, 1);
    assert_eq!(
        world.brk(2 * PAGE),
        3 * PAGE,
        "nothing is mapped in what would go"
    );
    assert_eq!(world.brk(5 * PAGE), 5 * PAGE);
    assert_eq!(areas(&world), [(0, 2), (3, 5)]);
    assert_eq!(world.brk(PAGE), PAGE, "something is");
    assert_eq!(areas(&world), [(0, 1)]);
}

#[test]
fn shrinking_unmaps_whatever_lies_there() {
    let mut world = World::new();
    world.brk(6 * PAGE);
    map(&mut world, 3, 2, PROT_READ, ANON);
    world.told();
    assert_eq!(world.brk(PAGE + 1), PAGE + 1);
    assert_eq!(areas(&world), [(0, 2)]);
    let forgotten = world.told();
    let count = forgotten
        .iter()
        .filter(|t| matches!(t, Told::Forget(..)))
        .count();
    assert_eq!(count, 3);
    let prune = forgotten.last().expect("told");
    let end = world.space.layout().start_brk + 2 * PAGE;
    assert_eq!(*prune, Told::Prune(end, u64::MAX));
}

#[test]
fn the_heap_is_private_writable_memory_and_merges_with_such() {
    let mut world = World::new();
    world.brk(2 * PAGE);
    let heap = world.space.layout().start_brk;
    let area = world.space.find(&world.pool, heap).expect("there");
    assert_eq!(area.rights, Rights::READ_WRITE);
    assert!(area.traits.has(Traits::HEAP.with(Traits::ACCOUNTED)));
    map(&mut world, 2, 2, RW, ANON);
    assert_eq!(areas(&world), [(0, 4)], "as the kernel merges them");
    map(&mut world, 6, 1, RW, ANON);
    let other = world
        .space
        .find(&world.pool, heap + 6 * PAGE)
        .expect("there");
    assert!(!other.traits.has(Traits::HEAP));
}

#[test]
fn a_limit_refuses_growth_and_the_break_stays() {
    let refused = |limits: Limits| {
        let mut world = World::limited(limits);
        world.brk(4 * PAGE) == 0 && world.brk(2 * PAGE) == 2 * PAGE
    };
    let none = Limits::NONE;
    assert!(refused(Limits {
        address_space: 3 * PAGE,
        ..none
    }));
    assert!(refused(Limits {
        data: 3 * PAGE,
        ..none
    }));
    let overcommit = Overcommit::Never;
    assert!(refused(Limits {
        overcommit,
        memory: 8 * PAGE,
        ..none
    }));
    let overcommit = Overcommit::Guess;
    assert!(refused(Limits {
        overcommit,
        memory: 3 * PAGE,
        ..none
    }));
}

#[test]
fn the_data_limit_is_to_the_byte_for_the_break() {
    let mut world = World::limited(Limits {
        data: PAGE + 10,
        ..Limits::NONE
    });
    assert_eq!(world.brk(PAGE + 11), 0);
    assert_eq!(world.brk(PAGE), PAGE);
}

#[test]
fn a_pool_without_nodes_refuses_growth() {
    let mut nodes = [Node::EMPTY; 0];
    let mut world = World::new();
    let mut empty = fencepost::mmu::areas::AreaPool::new(&mut nodes);
    let start = world.space.layout().start_brk;
    assert_eq!(world.space.brk(&mut empty, &mut world.fx, start + 1), start);
}

/// A stack whose only page is at `page` pages from the base.
fn stack(page: u64) -> World {
    let mut world = World::new();
    world.map(page, 1, RW, ANON | MAP_GROWSDOWN);
    world.told();
    world
}

#[test]
fn a_stack_grows_to_the_page_that_is_touched_at_any_distance() {
    let mut world = stack(3000);
    assert_eq!(world.grow_stack(BASE + 2999 * PAGE + 17), Ok(()));
    world.shows(&["2999-3001 rw-p"]);
    assert_eq!(world.grow_stack(BASE + 2000 * PAGE), Ok(()));
    world.shows(&["2000-3001 rw-p"]);
    assert_eq!(world.told(), []);
}

#[test]
fn a_stack_grows_to_its_limit() {
    let mut world = stack(3000);
    assert_eq!(world.grow_stack(BASE + 952 * PAGE), Err(Cause::StackLimit));
    world.shows(&["3000-3001 rw-p"]);
    assert_eq!(world.grow_stack(BASE + 953 * PAGE), Ok(()));
    world.shows(&["953-3001 rw-p"]);
    world.space.limits.stack = 4 << 20;
    assert_eq!(world.grow_stack(BASE + 952 * PAGE), Err(Cause::StackLimit));
}

#[test]
fn a_stack_keeps_away_from_what_can_be_accessed() {
    for (prot, flags, nearest) in [
        (RW, ANON, 257),
        (PROT_READ, ANON, 257),
        (PROT_EXEC, ANON, 257),
        (0, ANON, 1),
        (PROT_READ, ANON | MAP_GROWSDOWN, 1),
    ] {
        let mut world = stack(300);
        world.map(0, 1, prot, flags);
        if nearest > 1 {
            let near = world.grow_stack(BASE + (nearest - 1) * PAGE);
            assert_eq!(near, Err(Cause::StackLimit), "{prot}");
        }
        assert_eq!(world.grow_stack(BASE + nearest * PAGE), Ok(()), "{prot}");
    }
}

#[test]
fn what_does_not_grow_is_not_mapped() {
    let mut world = World::new();
    assert_eq!(
        world.grow_stack(BASE),
        Err(Cause::NotMapped),
        "nothing follows"
    );
    world.map(10, 1, RW, ANON);
    world.map(20, 1, RW, ANON | MAP_GROWSDOWN);
    assert_eq!(world.grow_stack(BASE + 9 * PAGE), Err(Cause::NotMapped));
    assert_eq!(
        world.grow_stack(BASE + 10 * PAGE),
        Err(Cause::NotMapped),
        "covered"
    );
    assert_eq!(world.grow_stack(BASE + 21 * PAGE), Err(Cause::NotMapped));
}

#[test]
fn a_stack_is_limited_like_everything_else() {
    let cases = [
        Limits {
            address_space: 3 * PAGE,
            ..Limits::NONE
        },
        Limits {
            overcommit: Overcommit::Never,
            memory: 8 * PAGE,
            ..Limits::NONE
        },
    ];
    for limits in cases {
        let mut world = World::limited(limits);
        world.map(300, 1, RW, ANON | MAP_GROWSDOWN);
        assert_eq!(world.grow_stack(BASE + 297 * PAGE), Err(Cause::StackLimit));
        assert_eq!(world.grow_stack(BASE + 298 * PAGE), Ok(()));
    }
    let mut world = World::limited(Limits {
        locked: 2 * PAGE,
        ..Limits::NONE
    });
    world.map(300, 1, RW, ANON | MAP_GROWSDOWN | MAP_LOCKED);
    assert_eq!(world.grow_stack(BASE + 298 * PAGE), Err(Cause::StackLimit));
    assert_eq!(world.grow_stack(BASE + 299 * PAGE), Ok(()));
}

#[test]
fn a_stack_does_not_grow_below_the_lowest_page() {
    let mut world = World::new();
    let flags = ANON | MAP_GROWSDOWN | MAP_FIXED;
    let at = 0x2_0000;
    assert_eq!(world.mmap(at, PAGE, RW, flags, None, 0), Ok(at));
    assert_eq!(world.grow_stack(0xffff), Err(Cause::StackLimit));
    assert_eq!(world.grow_stack(0x1_0000), Ok(()));
}
