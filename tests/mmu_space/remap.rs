//! `mremap`.

use crate::world::{ANON, BASE, SHARED, Told, World};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Errno, Limits, Overcommit, Traits};

const RW: u32 = PROT_READ | PROT_WRITE;
const END: u64 = 0x7fff_ffff_f000;
const MAY: u32 = MREMAP_MAYMOVE;
const TO: u32 = MREMAP_MAYMOVE | MREMAP_FIXED;
const STAY: u32 = MREMAP_MAYMOVE | MREMAP_DONTUNMAP;

#[test]
fn mremap_checks_its_arguments() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    let mut bytes = |old, old_len, new_len, flags, new| {
        world
            .mremap_bytes(BASE + old, old_len, new_len, flags, BASE + new)
            .map(drop)
    };
    let wrong = Err(Errno::EINVAL);
    let far = 20 * PAGE;
    assert_eq!(bytes(1, PAGE, PAGE, 0, 0), wrong, "unaligned");
    assert_eq!(bytes(0, PAGE, 0, 0, 0), wrong, "no new length");
    assert_eq!(bytes(0, PAGE, u64::MAX, 0, 0), wrong, "which wraps to none");
    assert_eq!(
        bytes(0, PAGE, 1 << 47, MAY, 0),
        wrong,
        "beyond all addresses"
    );
    assert_eq!(bytes(0, PAGE, PAGE, 8, 0), wrong, "unknown flag");
    assert_eq!(
        bytes(0, PAGE, PAGE, MREMAP_FIXED, far),
        wrong,
        "without MAYMOVE"
    );
    assert_eq!(
        bytes(0, PAGE, PAGE, MREMAP_DONTUNMAP, far),
        wrong,
        "without MAYMOVE"
    );
    assert_eq!(bytes(0, PAGE, PAGE, TO, far + 1), wrong, "unaligned");
    assert_eq!(bytes(0, PAGE, PAGE, TO, END - BASE), wrong, "out of range");
    assert_eq!(bytes(0, PAGE, 2 * PAGE, STAY, far), wrong, "unequal");
    assert_eq!(bytes(0, 2 * PAGE, 2 * PAGE, TO, PAGE), wrong, "overlapping");
    assert_eq!(bytes(PAGE, 2 * PAGE, 2 * PAGE, TO, 0), wrong, "overlapping");
    assert_eq!(
        bytes(0, 2 * PAGE, 2 * PAGE, TO, 2 * PAGE),
        Ok(()),
        "touching"
    );
}

#[test]
fn what_is_not_mapped_cannot_be_remapped() {
    let mut world = World::new();
    for (new, flags) in [(1, 0), (2, MAY), (1, TO), (2, TO), (1, STAY)] {
        assert_eq!(
            world.mremap(0, 1, new, flags, 9),
            Err(Errno::EFAULT),
            "{new} {flags}"
        );
    }
    assert_eq!(world.mremap(0, 2, 1, 0, 0), Err(Errno::EFAULT));
}

#[test]
fn a_range_that_leaves_its_area_may_shrink_but_not_grow() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(2, 2, PROT_READ, ANON);
    world.map(4, 2, RW, ANON);
    assert_eq!(world.mremap(0, 4, 5, MAY, 0), Err(Errno::EFAULT));
    assert_eq!(world.mremap(0, 4, 4, 0, 0), Ok(0));
    assert_eq!(world.mremap(0, 5, 1, 0, 0), Ok(0));
    world.shows(&["0-1 rw-p", "5-6 rw-p"]);
}

#[test]
fn a_shrinking_move_may_leave_its_area_with_what_goes() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(2, 4, PROT_READ, ANON);
    world.map(10, 8, PROT_EXEC, ANON);
    assert_eq!(world.mremap(0, 5, 3, TO, 12), Err(Errno::EFAULT));
    world.shows(&["0-2 rw-p", "2-6 r--p", "10-18 --xp"]);
    assert_eq!(world.mremap(0, 5, 1, TO, 12), Ok(12));
    world.shows(&["5-6 r--p", "10-12 --xp", "12-13 rw-p", "13-18 --xp"]);
}

#[test]
fn growth_in_place() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(5, 1, RW, ANON);
    world.told();
    assert_eq!(world.mremap(0, 2, 4, 0, 0), Ok(0));
    world.shows(&["0-4 rw-p", "5-6 rw-p"]);
    assert_eq!(world.mremap(0, 4, 6, 0, 0), Err(Errno::ENOMEM), "no room");
    assert_eq!(world.mremap(2, 2, 3, 0, 0), Ok(2), "its end is the area's");
    world.shows(&["0-6 rw-p"]);
    assert_eq!(world.told(), [], "no page is concerned");
}

#[test]
fn growth_moves_if_it_must_and_may() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(2, 1, PROT_READ, ANON);
    world.told();
    let base = world.space.layout().mmap_base;
    let len = 3 * PAGE;
    let moved = world.mremap_bytes(BASE, 2 * PAGE, len, MAY, 0);
    assert_eq!(moved, Ok(base - len));
    let to = (base - len - BASE).cast_signed() / PAGE.cast_signed();
    let prune = Told::Prune(0, BASE + 2 * PAGE);
    assert_eq!(
        world.told(),
        [Told::Relocate(0, to, 2), Told::Forget(0, 2), prune]
    );
    assert_eq!(
        world.areas(),
        ["2-3 r--p".to_owned(), format!("{to}-{} rw-p", to + 3)]
    );
}

#[test]
fn growth_from_the_middle_moves_that_part() {
    let mut world = World::new();
    world.map(0, 6, RW, ANON);
    assert_eq!(world.mremap(1, 2, 3, 0, 0), Err(Errno::ENOMEM));
    let base = world.space.layout().mmap_base;
    let moved = world.mremap_bytes(BASE + PAGE, 2 * PAGE, 3 * PAGE, MAY, 0);
    assert_eq!(moved, Ok(base - 3 * PAGE));
    assert_eq!(world.areas()[..2], ["0-1 rw-p", "3-6 rw-p"]);
}

#[test]
fn a_multiple_of_2_mib_moves_to_a_multiple_of_2_mib() {
    let mut world = World::new();
    world.map(1, 512, RW, ANON);
    world.map(513, 1, PROT_READ, ANON);
    let moved = world.mremap_bytes(BASE + PAGE, 512 * PAGE, 1024 * PAGE, MAY, 0);
    assert!(moved.expect("moved").is_multiple_of(2 << 20));
}

#[test]
fn fixed_replaces_what_is_at_the_target() {
    let mut world = World::new();
    world.map(0, 3, RW, ANON);
    world.map(10, 6, PROT_READ, ANON);
    world.told();
    assert_eq!(world.mremap(0, 2, 2, TO, 12), Ok(12));
    world.shows(&["2-3 rw-p", "10-12 r--p", "12-14 rw-p", "14-16 r--p"]);
    let told = [
        Told::Forget(12, 14),
        Told::Prune(BASE + 12 * PAGE, BASE + 14 * PAGE),
        Told::Relocate(0, 12, 2),
        Told::Forget(0, 2),
        Told::Prune(0, BASE + 2 * PAGE),
    ];
    assert_eq!(world.told(), told);
}

#[test]
fn the_target_is_gone_even_if_the_move_fails() {
    let mut world = World::limited(Limits {
        overcommit: Overcommit::Guess,
        memory: 8 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 2, RW, ANON);
    world.map(20, 2, PROT_READ, ANON);
    assert_eq!(world.mremap(0, 2, 12, TO, 18), Err(Errno::ENOMEM));
    world.shows(&["0-2 rw-p"]);
}

#[test]
fn fixed_at_an_address_too_low() {
    let mut world = World::new();
    world.map(0, 1, RW, ANON);
    let low = world.mremap_bytes(BASE, PAGE, PAGE, TO, 0);
    assert_eq!(low, Err(Errno::EPERM));
}

#[test]
fn several_areas_move_with_their_holes() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(2, 2, PROT_READ, ANON);
    world.map(6, 2, RW, SHARED);
    world.map(24, 2, PROT_EXEC, ANON);
    world.told();
    assert_eq!(world.mremap(1, 6, 6, TO, 21), Ok(21));
    world.shows(&[
        "0-1 rw-p",
        "7-8 rw-s 0:1",
        "21-22 rw-p",
        "22-24 r--p",
        "24-26 --xp",
        "26-27 rw-s 0:0",
    ]);
    let moves: Vec<Told> = world.told();
    let moves = moves
        .into_iter()
        .filter(|told| matches!(told, Told::Relocate(..)));
    let expected = [(1, 21, 1), (2, 22, 2), (6, 26, 1)];
    assert!(moves.eq(expected.map(|(from, to, n)| Told::Relocate(from, to, n))));
}

#[test]
fn a_move_of_several_areas_begins_at_one() {
    let mut world = World::new();
    world.map(1, 2, RW, ANON);
    assert_eq!(world.mremap(0, 2, 2, TO, 20), Err(Errno::EFAULT));
    assert_eq!(
        world.mremap(2, 4, 4, TO, 20),
        Ok(20),
        "a hole at the end is nothing"
    );
    world.shows(&["1-2 rw-p", "20-21 rw-p"]);
}

#[test]
fn growth_and_dontunmap_are_for_one_area() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(2, 2, PROT_READ, ANON);
    assert_eq!(world.mremap(0, 4, 5, TO, 20), Err(Errno::EFAULT));
    assert_eq!(world.mremap(0, 4, 4, STAY, 20), Err(Errno::EFAULT));
    world.shows(&["0-2 rw-p", "2-4 r--p"]);
}

#[test]
fn no_old_length_maps_shared_memory_once_more() {
    let mut world = World::new();
    world.map(0, 4, RW, SHARED);
    world.map(10, 1, RW, ANON);
    world.told();
    assert_eq!(
        world.mremap(10, 0, 1, MAY, 0),
        Err(Errno::EINVAL),
        "private"
    );
    assert_eq!(
        world.mremap(1, 0, 1, 0, 0),
        Err(Errno::ENOMEM),
        "it cannot stay"
    );
    assert_eq!(world.mremap(1, 0, 2, TO, 20), Ok(20));
    world.shows(&["0-4 rw-s 0:0", "10-11 rw-p", "20-22 rw-s 0:1"]);
    assert_eq!(world.told(), [Told::Hold(0)], "no page moves");
    assert!(world.mremap(1, 0, 2, MAY, 0).is_ok());
    assert_eq!(world.fx.objects[&0].0, 3);
    assert_eq!(
        world.mremap(0, 0, 9, TO, 30),
        Ok(30),
        "longer than the object"
    );
}

#[test]
fn growth_of_shared_memory_goes_beyond_its_object() {
    let mut world = World::new();
    world.map(0, 2, RW, SHARED);
    assert_eq!(world.mremap(0, 2, 4, 0, 0), Ok(0));
    world.shows(&["0-4 rw-s 0:0"]);
    assert_eq!(world.fx.objects[&0], (1, 2 * PAGE));
}

#[test]
fn dontunmap_leaves_an_empty_area() {
    let mut world = World::new();
    world.map(0, 3, RW, ANON);
    world.told();
    assert_eq!(
        world.mremap(1, 1, 1, STAY, 20),
        Ok(20),
        "the address is a hint"
    );
    world.shows(&["0-3 rw-p", "20-21 rw-p"]);
    assert_eq!(world.told(), [Told::Relocate(1, 20, 1)]);
    assert_eq!(world.mremap(0, 3, 3, STAY | MREMAP_FIXED, 30), Ok(30));
    world.shows(&["0-3 rw-p", "20-21 rw-p", "30-33 rw-p"]);
    assert_eq!(world.space.totals().committed, 7 * PAGE);
}

#[test]
fn dontunmap_unlocks_what_stays() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON | MAP_LOCKED);
    assert_eq!(world.mremap(1, 1, 1, STAY, 20), Ok(20));
    let locked = |page| {
        let area = world.space.find(&world.pool, BASE + page * PAGE);
        area.expect("mapped").traits.has(Traits::LOCKED)
    };
    assert!(!locked(0) && !locked(1) && !locked(3) && locked(20));
}

#[test]
fn dontunmap_counts_twice() {
    let mut world = World::limited(Limits {
        address_space: 5 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 3, RW, ANON);
    assert_eq!(world.mremap(0, 3, 3, STAY, 20), Err(Errno::ENOMEM));
    assert_eq!(world.mremap(0, 3, 3, TO, 20), Ok(20), "a move does not");
    assert_eq!(world.mremap(20, 2, 2, STAY, 30), Ok(30));
}

#[test]
fn locked_memory_grows_within_its_limit_and_is_faulted_in() {
    let mut world = World::limited(Limits {
        locked: 4 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 2, RW, ANON | MAP_LOCKED);
    world.told();
    assert_eq!(world.mremap(0, 2, 5, 0, 0), Err(Errno::EAGAIN));
    assert_eq!(world.mremap(0, 2, 3, 0, 0), Ok(0));
    assert_eq!(world.told(), [Told::Populate(2, 3, true)]);
    assert_eq!(world.mremap(0, 3, 4, TO, 20), Ok(20));
    assert!(world.told().contains(&Told::Populate(23, 24, true)));
}

#[test]
fn growth_is_committed() {
    let mut world = World::limited(Limits {
        overcommit: Overcommit::Never,
        memory: 20 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 4, RW, ANON);
    assert_eq!(world.mremap(0, 4, 10, 0, 0), Err(Errno::ENOMEM));
    assert_eq!(world.mremap(0, 4, 10, MAY, 0), Err(Errno::ENOMEM));
    assert_eq!(world.mremap(0, 4, 9, 0, 0), Ok(0));
    assert_eq!(world.space.totals().committed, 9 * PAGE);
    assert_eq!(
        world.mremap(0, 9, 9, TO, 20),
        Ok(20),
        "a move costs nothing"
    );
}

#[test]
fn a_part_that_moves_next_to_what_it_joins_merges() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    world.map(10, 2, RW, ANON);
    assert_eq!(world.mremap(10, 2, 2, TO, 4), Ok(4));
    world.shows(&["0-6 rw-p"]);
    world.map(20, 4, RW, SHARED);
    assert_eq!(world.mremap(22, 2, 2, TO, 30), Ok(30));
    assert_eq!(world.mremap(30, 2, 2, TO, 22), Ok(22));
    world.shows(&["0-6 rw-p", "20-24 rw-s 0:0"]);
    assert_eq!(world.fx.objects[&0].0, 1);
}
