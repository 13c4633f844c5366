//! `mmap` and `munmap`: arguments, placement, what is told.

use crate::world::{ANON, BASE, SHARED, Told, World};
use fencepost::mmu::addr::{PAGE, Rights};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Backing, Errno, Limits, Overcommit, Traits};

const RW: u32 = PROT_READ | PROT_WRITE;
const END: u64 = 0x7fff_ffff_f000;
const MIB: u64 = 1 << 20;

fn mmap(hint: u64, len: u64, prot: u32, flags: u32) -> Result<u64, Errno> {
    World::new().mmap(hint, len, prot, flags, None, 0)
}

#[test]
fn lengths_that_make_no_sense() {
    assert_eq!(mmap(0, 0, RW, ANON), Err(Errno::EINVAL));
    assert_eq!(mmap(0, u64::MAX, RW, ANON), Err(Errno::ENOMEM));
    assert_eq!(mmap(0, 1 << 47, RW, ANON), Err(Errno::ENOMEM));
}

#[test]
fn lengths_round_up_to_pages() {
    let mut world = World::new();
    let flags = ANON | MAP_FIXED;
    assert_eq!(world.mmap(BASE, 1, RW, flags, None, 0), Ok(BASE));
    assert_eq!(
        world.mmap(BASE + 2 * PAGE, 4097, RW, flags, None, 0),
        Ok(BASE + 2 * PAGE)
    );
    world.shows(&["0-1 rw-p", "2-4 rw-p"]);
    assert_eq!(world.space.totals().size, 3 * PAGE);
}

#[test]
fn a_mapping_is_private_or_shared() {
    assert_eq!(mmap(0, PAGE, RW, MAP_ANONYMOUS), Err(Errno::EINVAL));
    assert_eq!(mmap(0, PAGE, RW, ANON | MAP_SHARED), Err(Errno::EINVAL));
}

#[test]
fn shared_validate_is_for_objects_and_knows_its_flags() {
    let mut world = World::new();
    let file = world.file(1);
    let mut map = |flags| world.mmap(0, PAGE, RW, 3 | flags, Some(file), 0).map(drop);
    assert_eq!(map(0), Ok(()));
    assert_eq!(map(0x200), Err(Errno::EOPNOTSUPP));
    assert_eq!(map(MAP_ANONYMOUS), Err(Errno::EINVAL));
}

#[test]
fn offsets_are_whole_pages() {
    let mut world = World::new();
    let mut at = |offset| world.mmap(0, PAGE, RW, ANON, None, offset).map(drop);
    assert_eq!(at(1), Err(Errno::EINVAL));
    assert_eq!(at(4096), Ok(()), "an offset into nothing is accepted");
}

#[test]
fn without_an_object_a_mapping_must_be_anonymous() {
    assert_eq!(mmap(0, PAGE, RW, MAP_PRIVATE), Err(Errno::EBADF));
    assert_eq!(
        mmap(0, 0, RW, MAP_PRIVATE),
        Err(Errno::EBADF),
        "before the length"
    );
    let mut world = World::new();
    let odd = world.mmap(0, 0, RW, MAP_PRIVATE, None, 5);
    assert_eq!(odd, Err(Errno::EINVAL), "the offset before the descriptor");
}

#[test]
fn an_anonymous_mapping_ignores_the_object() {
    let mut world = World::new();
    let file = world.file(4);
    let addr = world
        .mmap(0, PAGE, RW, ANON, Some(file), 0)
        .expect("mapped");
    let area = world.space.find(&world.pool, addr).expect("there");
    assert_eq!(area.backing, Backing::Anonymous);
}

#[test]
fn unknown_protection_bits_are_ignored() {
    let mut world = World::new();
    world.map(0, 1, RW | 0x70, ANON);
    world.shows(&["0-1 rw-p"]);
}

#[test]
fn a_fixed_address_is_checked() {
    let fixed = |addr| mmap(addr, PAGE, RW, ANON | MAP_FIXED);
    assert_eq!(fixed(BASE + 1), Err(Errno::EINVAL));
    assert_eq!(fixed(END), Err(Errno::ENOMEM));
    assert_eq!(fixed(END + 1), Err(Errno::ENOMEM), "before the alignment");
    assert_eq!(fixed(END - PAGE), Ok(END - PAGE), "the last page");
    assert_eq!(fixed(0), Err(Errno::EPERM));
    assert_eq!(fixed(PAGE), Ok(PAGE), "the lowest page that may be mapped");
    let two = mmap(END - PAGE, 2 * PAGE, RW, ANON | MAP_FIXED);
    assert_eq!(two, Err(Errno::ENOMEM));
}

#[test]
fn the_address_is_checked_before_the_type() {
    let wrong = mmap(END, PAGE, RW, MAP_ANONYMOUS | MAP_FIXED);
    assert_eq!(wrong, Err(Errno::ENOMEM));
    let long = mmap(0, 1 << 48, RW, MAP_ANONYMOUS);
    assert_eq!(long, Err(Errno::ENOMEM));
}

#[test]
fn a_hint_is_taken_if_it_is_free() {
    assert_eq!(
        mmap(0x2000_0001, PAGE, RW, ANON),
        Ok(0x2000_0000),
        "rounded down"
    );
    assert_eq!(
        mmap(0x1000, PAGE, RW, ANON),
        Ok(0x1_0000),
        "not below 64 KiB"
    );
    let base = World::new().space.layout().mmap_base;
    assert_eq!(mmap(0x800, PAGE, RW, ANON), Ok(base - PAGE), "no hint");
    assert_eq!(mmap(END, PAGE, RW, ANON), Ok(base - PAGE), "ignored");
    assert_eq!(
        mmap(END - PAGE, 2 * PAGE, RW, ANON),
        Ok(base - 2 * PAGE),
        "ignored"
    );
}

#[test]
fn an_occupied_hint_leads_elsewhere() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    let base = world.space.layout().mmap_base;
    let hint = BASE - PAGE;
    assert_eq!(
        world.mmap(hint, 2 * PAGE, RW, ANON, None, 0),
        Ok(base - 2 * PAGE)
    );
    assert_eq!(world.mmap(hint, PAGE, RW, ANON, None, 0), Ok(hint));
}

#[test]
fn a_hint_keeps_away_from_stacks() {
    let mut world = World::new();
    world.map(300, 1, RW, ANON | MAP_GROWSDOWN);
    let at = |world: &mut World, page| {
        let hint = BASE + page * PAGE;
        world.mmap(hint, PAGE, PROT_NONE, ANON, None, 0) == Ok(hint)
    };
    assert!(at(&mut world, 43));
    assert!(!at(&mut world, 44));
}

/// No permission.
const PROT_NONE: u32 = 0;

#[test]
fn fixed_replaces_silently() {
    let mut world = World::new();
    world.map(0, 6, RW, ANON);
    world.told();
    world.map(2, 2, PROT_READ, ANON);
    world.shows(&["0-2 rw-p", "2-4 r--p", "4-6 rw-p"]);
    let bounds = Told::Prune(BASE + 2 * PAGE, BASE + 4 * PAGE);
    assert_eq!(world.told(), [Told::Forget(2, 4), bounds]);
}

#[test]
fn noreplace_refuses_any_overlap() {
    let mut world = World::new();
    world.map(2, 2, RW, ANON);
    let flags = ANON | MAP_FIXED_NOREPLACE;
    let mut at = |page, pages| {
        let (addr, len) = (BASE + page * PAGE, pages * PAGE);
        world.mmap(addr, len, RW, flags, None, 0).map(drop)
    };
    assert_eq!(at(2, 2), Err(Errno::EEXIST));
    assert_eq!(at(3, 4), Err(Errno::EEXIST));
    assert_eq!(at(0, 3), Err(Errno::EEXIST));
    assert_eq!(at(0, 9), Err(Errno::EEXIST));
    assert_eq!(at(0, 2), Ok(()));
    assert_eq!(at(4, 1), Ok(()));
    world.shows(&["0-5 rw-p"]);
}

#[test]
fn there_is_no_pool_of_huge_pages() {
    let huge = |flags| mmap(0, 2 * MIB, RW, flags | MAP_HUGETLB);
    assert_eq!(huge(ANON), Err(Errno::ENOMEM));
    assert_eq!(huge(MAP_ANONYMOUS), Err(Errno::EINVAL), "the type first");
    let mut world = World::new();
    let file = world.file(1);
    let of_file = world.mmap(0, PAGE, RW, MAP_PRIVATE | MAP_HUGETLB, Some(file), 0);
    assert_eq!(of_file, Err(Errno::EINVAL));
}

#[test]
fn only_private_anonymous_memory_grows_down() {
    assert_eq!(
        mmap(0, PAGE, RW, SHARED | MAP_GROWSDOWN),
        Err(Errno::EINVAL)
    );
    let mut world = World::new();
    let file = world.file(1);
    let of_file = world.mmap(0, PAGE, RW, MAP_PRIVATE | MAP_GROWSDOWN, Some(file), 0);
    assert_eq!(of_file, Err(Errno::EINVAL));
    assert!(mmap(0, PAGE, RW, ANON | MAP_GROWSDOWN).is_ok());
}

#[test]
fn placement_is_top_down_into_the_highest_hole_that_fits() {
    let mut world = World::new();
    let base = world.space.layout().mmap_base;
    let mut get = |pages: u64| {
        world
            .mmap(0, pages * PAGE, RW, ANON, None, 0)
            .expect("mapped")
    };
    assert_eq!(get(3), base - 3 * PAGE);
    assert_eq!(get(1), base - 4 * PAGE);
    assert_eq!(get(2), base - 6 * PAGE);
    assert_eq!(world.space.len(), 1, "neighbours merge");
    world.munmap_bytes(base - 2 * PAGE, PAGE).expect("unmapped");
    world
        .munmap_bytes(base - 5 * PAGE, 2 * PAGE)
        .expect("unmapped");
    let mut get = |pages: u64| {
        world
            .mmap(0, pages * PAGE, RW, ANON, None, 0)
            .expect("mapped")
    };
    assert_eq!(get(2), base - 5 * PAGE, "the upper hole is too small");
    assert_eq!(get(1), base - 2 * PAGE);
    assert_eq!(get(1), base - 7 * PAGE);
    assert_eq!(world.space.len(), 1);
}

#[test]
fn neighbours_merge_only_if_everything_agrees() {
    for (prot, flags) in [
        (PROT_READ, ANON),
        (RW, SHARED),
        (RW, ANON | MAP_NORESERVE),
        (RW, ANON | MAP_GROWSDOWN),
        (RW, ANON | MAP_LOCKED),
        (RW, ANON | MAP_STACK),
    ] {
        let mut world = World::new();
        world.map(0, 1, RW, ANON);
        world.map(1, 1, prot, flags);
        world.map(2, 1, RW, ANON);
        assert_eq!(world.space.len(), 3, "{prot} {flags:#x}");
        world.map(1, 1, RW, ANON);
        world.shows(&["0-3 rw-p"]);
    }
}

#[test]
fn multiples_of_2_mib_are_aligned_to_2_mib() {
    for (kib, aligned) in [(2048, true), (4096, true), (2052, false), (3072, false)] {
        let mut world = World::new();
        world.mmap(0, PAGE, RW, ANON, None, 0).expect("mapped");
        let addr = world.mmap(0, kib << 10, RW, ANON, None, 0).expect("mapped");
        assert_eq!(
            addr.is_multiple_of(2 * MIB),
            aligned,
            "{kib} KiB at {addr:#x}"
        );
        let below = world.space.layout().mmap_base - PAGE - (kib << 10);
        let highest = if aligned {
            below & !(2 * MIB - 1)
        } else {
            below
        };
        assert_eq!(addr, highest, "{kib} KiB");
    }
    let mut world = World::new();
    let base = world.space.layout().mmap_base;
    let hinted = world.mmap(BASE + PAGE, 2 * MIB, RW, ANON, None, 0);
    assert_eq!(hinted, Ok(BASE + PAGE), "a hint is taken as it is");
    let shared = world.mmap(0, 2 * MIB, RW, SHARED, None, 0);
    assert_eq!(shared, Ok(base - 2 * MIB), "shared memory is not aligned");
}

#[test]
fn a_full_mapping_area_is_left_for_what_is_above() {
    let mut world = World::new();
    let base = world.space.layout().mmap_base;
    let all = base - 2 * PAGE;
    assert_eq!(
        world.mmap(PAGE, all, 0, ANON | MAP_FIXED, None, 0),
        Ok(PAGE)
    );
    let last = world.mmap(0, PAGE, 0, ANON, None, 0);
    assert_eq!(last, Ok(base - PAGE), "the only page below the base");
    let above = world.mmap(0, PAGE, 0, ANON, None, 0);
    assert_eq!(above, Ok(base), "from the bottom up when nothing is left");
    assert_eq!(
        world.mmap(0, END - base, 0, ANON, None, 0),
        Err(Errno::ENOMEM)
    );
}

#[test]
fn placement_leaves_the_gap_below_stacks() {
    let mut world = World::new();
    let base = world.space.layout().mmap_base;
    let top = base - PAGE;
    let flags = ANON | MAP_GROWSDOWN | MAP_FIXED;
    assert_eq!(world.mmap(top, PAGE, RW, flags, None, 0), Ok(top));
    assert_eq!(world.mmap(0, PAGE, 0, ANON, None, 0), Ok(top - 257 * PAGE));
}

#[test]
fn shared_memory_gets_an_object_of_its_length() {
    let mut world = World::new();
    world.map(0, 3, RW, SHARED);
    assert_eq!(world.told(), [Told::Create(3 * PAGE)]);
    world.map(3, 2, RW, SHARED);
    world.shows(&["0-3 rw-s 0:0", "3-5 rw-s 1:0"]);
    world.fx.no_objects = true;
    let addr = BASE + 2 * PAGE;
    let refused = world.mmap(addr, 2 * PAGE, RW, SHARED | MAP_FIXED, None, 0);
    assert_eq!(refused, Err(Errno::ENOMEM));
    world.shows(&["0-3 rw-s 0:0", "3-5 rw-s 1:0"]);
}

#[test]
fn parts_of_an_object_merge_where_offsets_go_on() {
    let mut world = World::new();
    let file = world.file(10);
    let mut map = |page: u64, offset: u64, flags: u32| {
        let flags = flags | MAP_FIXED;
        let addr = BASE + page * PAGE;
        world
            .mmap(addr, PAGE, PROT_READ, flags, Some(file), offset * PAGE)
            .expect("mapped");
    };
    map(0, 5, MAP_SHARED);
    map(2, 7, MAP_SHARED);
    map(1, 6, MAP_SHARED);
    map(3, 7, MAP_SHARED);
    map(4, 8, MAP_PRIVATE);
    world.shows(&["0-3 r--s 0:5", "3-4 r--s 0:7", "4-5 r--p 0:8"]);
}

#[test]
fn populate_faults_in_what_may_be_accessed() {
    for (prot, flags, write) in [
        (RW, ANON, Some(true)),
        (PROT_READ, ANON, Some(false)),
        (PROT_WRITE, ANON, Some(true)),
        (PROT_EXEC, ANON, Some(false)),
        (RW, SHARED, Some(false)),
        (0, ANON, None),
    ] {
        for (extra, done) in [
            (MAP_POPULATE, true),
            (MAP_POPULATE | MAP_NONBLOCK, false),
            (MAP_LOCKED, true),
            (0, false),
        ] {
            let mut world = World::new();
            world.map(0, 2, prot, flags | extra);
            let told = world.told();
            let populated = told.iter().find_map(|told| match told {
                Told::Populate(0, 2, write) => Some(*write),
                _ => None,
            });
            assert_eq!(
                populated,
                write.filter(|_| done),
                "{prot} {flags:#x} {extra:#x}"
            );
        }
    }
}

#[test]
fn locked_memory_is_limited() {
    let mut world = World::limited(Limits {
        locked: 4 * PAGE + 100,
        ..Limits::NONE
    });
    let mut map = |pages: u64| {
        world
            .mmap(0, pages * PAGE, RW, ANON | MAP_LOCKED, None, 0)
            .map(drop)
    };
    assert_eq!(map(5), Err(Errno::EAGAIN));
    assert_eq!(map(3), Ok(()));
    assert_eq!(map(2), Err(Errno::EAGAIN));
    assert_eq!(map(1), Ok(()));
    world.space.limits.locked = 0;
    let none = world.mmap(0, PAGE, RW, ANON | MAP_LOCKED, None, 0);
    assert_eq!(none, Err(Errno::EPERM));
}

#[test]
fn overcommit_by_guess() {
    let limits = Limits {
        overcommit: Overcommit::Guess,
        memory: 24 << 30,
        ..Limits::NONE
    };
    let len = 64 << 30;
    let map = |prot, flags| {
        World::limited(limits)
            .mmap(0, len, prot, flags, None, 0)
            .map(drop)
    };
    assert_eq!(map(RW, ANON), Err(Errno::ENOMEM));
    assert_eq!(map(RW, ANON | MAP_NORESERVE), Ok(()));
    assert_eq!(map(0, ANON), Ok(()));
    assert_eq!(
        map(RW, SHARED),
        Err(Errno::ENOMEM),
        "whose object is counted when it is made"
    );
    assert_eq!(map(RW, SHARED | MAP_NORESERVE), Ok(()));
    let mut world = World::limited(limits);
    world.map(0, len / PAGE, 0, ANON);
    assert_eq!(world.mprotect(0, len / PAGE, RW), Err(Errno::ENOMEM));
    assert_eq!(world.mprotect(0, 1000, RW), Ok(()));
    assert_eq!(mmap(0, len, RW, ANON).map(drop), Ok(()), "always");
}

#[test]
fn overcommit_never() {
    let limits = Limits {
        overcommit: Overcommit::Never,
        memory: 200 * PAGE,
        ..Limits::NONE
    };
    let mut world = World::limited(limits);
    let mut map = |prot, flags| world.mmap(0, 60 * PAGE, prot, flags, None, 0).map(drop);
    assert_eq!(map(RW, ANON), Ok(()));
    assert_eq!(map(RW, ANON), Err(Errno::ENOMEM), "all together");
    assert_eq!(
        map(RW, ANON | MAP_NORESERVE),
        Err(Errno::ENOMEM),
        "not honoured"
    );
    assert_eq!(map(0, ANON), Ok(()));
    assert_eq!(map(PROT_READ, ANON), Ok(()));
    world.map(0, 60, 0, ANON);
    assert_eq!(world.mprotect(0, 60, RW), Err(Errno::ENOMEM));
    assert_eq!(world.mprotect(0, 39, RW), Ok(()));
    assert_eq!(world.space.totals().committed, 99 * PAGE);
    world.munmap(0, 60).expect("unmapped");
    assert_eq!(world.space.totals().committed, 60 * PAGE);
}

#[test]
fn what_is_replaced_does_not_count() {
    let mut world = World::limited(Limits {
        overcommit: Overcommit::Never,
        memory: 200 * PAGE,
        address_space: 100 * PAGE,
        data: 100 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 90, RW, ANON);
    world.map(5, 85, RW, ANON);
    world.map(5, 90, RW, ANON);
    assert_eq!(world.space.totals().committed, 95 * PAGE);
}

#[test]
fn rlimit_data_is_for_private_writable_memory() {
    let mut world = World::limited(Limits {
        data: MIB,
        ..Limits::NONE
    });
    let mut map = |prot, flags| world.mmap(0, 2 * MIB, prot, flags, None, 0).map(drop);
    assert_eq!(map(RW, ANON), Err(Errno::ENOMEM));
    assert_eq!(map(0, ANON), Ok(()));
    assert_eq!(map(PROT_READ | PROT_EXEC, ANON), Ok(()));
    assert_eq!(map(RW, SHARED), Ok(()));
    assert_eq!(map(RW, ANON | MAP_GROWSDOWN), Ok(()), "a stack is not data");
    world.map(0, 512, 0, ANON);
    assert_eq!(world.mprotect(0, 512, RW), Err(Errno::ENOMEM));
    assert_eq!(world.brk(2 * MIB), 0, "nor the heap");
    world.map(0, 256, RW, ANON);
    assert_eq!(world.brk(PAGE), 0, "together");
    world.map(0, 255, 0, ANON);
    assert_eq!(world.brk(PAGE), PAGE);
}

#[test]
fn rlimit_as_is_for_everything() {
    let mut world = World::limited(Limits {
        address_space: 10 * PAGE,
        ..Limits::NONE
    });
    world.map(0, 8, 0, ANON);
    let more = world.mmap(0, 3 * PAGE, 0, ANON, None, 0);
    assert_eq!(more, Err(Errno::ENOMEM));
    assert_eq!(
        world.mremap(0, 8, 11, MREMAP_MAYMOVE, 0),
        Err(Errno::ENOMEM)
    );
    assert_eq!(world.brk(3 * PAGE), 0);
    assert_eq!(
        world.mprotect(0, 8, RW),
        Ok(()),
        "changes the kind, not the size"
    );
    assert_eq!(world.brk(2 * PAGE), 2 * PAGE);
}

#[test]
fn munmap_checks_its_arguments() {
    let mut world = World::new();
    world.map(0, 4, RW, ANON);
    assert_eq!(world.munmap_bytes(BASE + 1, PAGE), Err(Errno::EINVAL));
    assert_eq!(world.munmap_bytes(BASE, 0), Err(Errno::EINVAL));
    assert_eq!(world.munmap_bytes(END, PAGE), Err(Errno::EINVAL));
    assert_eq!(world.munmap_bytes(END - PAGE, PAGE + 1), Err(Errno::EINVAL));
    assert_eq!(world.munmap_bytes(BASE, u64::MAX), Err(Errno::EINVAL));
    assert_eq!(
        world.munmap_bytes(END - PAGE, PAGE),
        Ok(()),
        "nothing is there"
    );
    world.shows(&["0-4 rw-p"]);
}

#[test]
fn munmap_takes_whole_pages_and_minds_no_holes() {
    let mut world = World::new();
    world.map(0, 2, RW, ANON);
    world.map(4, 2, RW, ANON);
    world.told();
    assert_eq!(world.munmap_bytes(BASE + PAGE, 3 * PAGE + 1), Ok(()));
    world.shows(&["0-1 rw-p", "5-6 rw-p"]);
    let prune = Told::Prune(BASE + PAGE, BASE + 5 * PAGE);
    assert_eq!(
        world.told(),
        [Told::Forget(1, 2), Told::Forget(4, 5), prune]
    );
    assert_eq!(world.munmap(1, 4), Ok(()));
    assert_eq!(world.told(), [], "nothing was there");
}

#[test]
fn munmap_splits_in_two_and_prunes_up_to_the_neighbours() {
    let mut world = World::new();
    world.map(0, 6, RW, SHARED);
    world.told();
    assert_eq!(world.munmap(2, 1), Ok(()));
    world.shows(&["0-2 rw-s 0:0", "3-6 rw-s 0:3"]);
    let prune = Told::Prune(BASE + 2 * PAGE, BASE + 3 * PAGE);
    assert_eq!(world.told(), [Told::Forget(2, 3), Told::Hold(0), prune]);
    assert_eq!(world.munmap(0, 2), Ok(()));
    let prune = Told::Prune(0, BASE + 3 * PAGE);
    assert_eq!(world.told(), [Told::Forget(0, 2), Told::Release(0), prune]);
    assert_eq!(world.munmap(3, 3), Ok(()));
    let prune = Told::Prune(0, u64::MAX);
    assert_eq!(world.told(), [Told::Forget(3, 6), Told::Release(0), prune]);
    assert_eq!(world.fx.objects[&0].0, 0, "nobody holds it any more");
}

#[test]
fn rights_of_a_mapping_are_what_was_asked_for() {
    for bits in 0..8 {
        let mut world = World::new();
        world.map(0, 1, bits, ANON);
        let area = world.space.find(&world.pool, BASE).expect("there");
        assert_eq!(area.rights, Rights::from_bits(bits));
        assert_eq!(area.traits.has(Traits::ACCOUNTED), bits & PROT_WRITE != 0);
    }
}
