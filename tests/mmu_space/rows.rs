//! Rows of the inventory about areas and their layout.

use crate::tree::Random;
use crate::world::{ANON, BASE, SHARED, World};
use fencepost::mmu::addr::{PAGE, Rights};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Backing, Limits, Traits};
use fencepost::mmu::fault::Cause;
use fencepost::mmu::space::{Image, Layout, Space};

const RW: u32 = PROT_READ | PROT_WRITE;

#[test]
fn row_046_the_map_is_printed_from_low_to_high() {
    for seed in [0, 1, 2026] {
        let mut world = World::new();
        world.space = Space::new(Layout::linux_default(seed), Limits::NONE);
        let file = world.file(20);
        let image = Image {
            object: Some(file),
            text: 30_000,
            data: 5000,
            bss: 9000,
            stack: 132 << 10,
            arguments: 200,
            environment: 3000,
        };
        world
            .space
            .load(&mut world.pool, &mut world.fx, &image)
            .expect("loaded");
        assert_eq!(world.brk(132 << 10), 132 << 10);
        world.mmap(0, 5 * PAGE, RW, ANON, None, 0).expect("mapped");
        let parts = world.space.parts(&world.pool, &image);
        let names = parts.0.map(|part| part.name);
        let order = [
            "reserved",
            "text",
            "data",
            "bss",
            "heap, grows up",
            "mappings, grow down",
            "stack, grows down",
            "arguments",
            "environment",
        ];
        assert_eq!(names, order);
        for pair in parts.0.windows(2) {
            assert!(pair[0].start < pair[0].end, "{} is not empty", pair[0].name);
            assert!(pair[0].end <= pair[1].start, "{}", pair[1].name);
        }
        assert_eq!(parts.0[8].end, world.space.layout().stack_top);
        let sizes = parts.0.map(|part| part.end - part.start);
        let [text, data, bss] = [8, 2, 3].map(|pages| pages * PAGE);
        assert_eq!(sizes[..6], [PAGE, text, data, bss, 33 * PAGE, 5 * PAGE]);
        assert_eq!(sizes[7..], [200, 3000]);
        // What is printed is what is mapped.
        let printed = parts.to_string();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 9);
        for (line, part) in lines.iter().zip(parts.0) {
            let range = format!("{:012x}-{:012x} ", part.start, part.end);
            assert!(
                line.starts_with(&range) && line.ends_with(part.name),
                "{line}"
            );
            let area = world.space.find(&world.pool, part.start);
            assert_eq!(area.is_some(), part.name != "reserved", "{line}");
        }
        let rights = |part: usize| world.space.find(&world.pool, parts.0[part].start);
        assert_eq!(rights(1).expect("text").rights.to_string(), "r-x");
        assert_eq!(rights(2).expect("data").rights.to_string(), "rw-");
        assert_eq!(rights(3).expect("bss").backing, Backing::Anonymous);
        assert!(rights(4).expect("heap").traits.has(Traits::HEAP));
        assert!(rights(6).expect("stack").traits.has(Traits::GROWS_DOWN));
        // The reserved page cannot be mapped.
        let null = world.mmap(0, PAGE, RW, ANON | MAP_FIXED, None, 0);
        assert!(null.is_err());
    }
}

#[test]
fn row_048_the_break_moves_the_end_of_the_heap() {
    let mut world = World::new();
    let start = world.space.layout().start_brk;
    assert_eq!(world.space.break_now(), start);
    assert_eq!(
        world.brk(135_168),
        135_168,
        "132 KiB, as glibc's first malloc"
    );
    let heap = world.space.find(&world.pool, start).expect("there");
    assert_eq!((heap.start, heap.len()), (start, 33 * PAGE));
    assert_eq!(world.brk(100), 100);
    assert_eq!(world.space.break_now(), start + 100, "to the byte");
    let heap = world.space.find(&world.pool, start).expect("there");
    assert_eq!(heap.len(), PAGE, "whole pages");
}

#[test]
fn row_049_a_stack_grows_from_4_pages_to_its_limit() {
    for (limit, pages) in [(Limits::NONE.stack, 2048), (4 << 20, 1024)] {
        assert_eq!(limit, pages * PAGE);
        let mut world = World::limited(Limits {
            stack: limit,
            ..Limits::NONE
        });
        let top = 5000;
        world.map(top - 4, 4, RW, ANON | MAP_GROWSDOWN);
        for below in 5..=pages {
            assert_eq!(world.grow_stack(BASE + (top - below) * PAGE), Ok(()));
        }
        let stack = world
            .space
            .find(&world.pool, BASE + (top - 1) * PAGE)
            .expect("there");
        assert_eq!(stack.len() / PAGE, pages);
        let next = world.grow_stack(BASE + (top - pages) * PAGE - 1);
        assert_eq!(next, Err(Cause::StackLimit));
    }
}

#[test]
fn row_050_mappings_are_placed_from_the_top_down_and_merge() {
    let mut world = World::new();
    let base = world.space.layout().mmap_base;
    let mut below = base;
    for pages in [1, 7, 3, 100, 2] {
        let len = pages * PAGE;
        let addr = world.mmap(0, len, RW, ANON, None, 0).expect("mapped");
        assert_eq!(addr + len, below, "adjacent");
        assert_eq!(world.space.len(), 1, "one area");
        below = addr;
    }
    let library = world.file(4);
    let flags = MAP_PRIVATE;
    let addr = world.mmap(0, 4 * PAGE, PROT_READ | PROT_EXEC, flags, Some(library), 0);
    assert_eq!(addr, Ok(below - 4 * PAGE), "a library lies beside them");
    assert_eq!(world.space.len(), 2);
    assert!(base < world.space.layout().stack_top);
}

#[test]
fn row_051_offsets_follow_the_seed() {
    let parts = |seed| {
        let layout = Layout::linux_default(seed);
        [layout.start_brk, layout.mmap_base, layout.stack_top]
    };
    assert_eq!(
        parts(0),
        [0x5555_5565_4000, 0x7fff_f7ff_f000, 0x7fff_ffff_f000],
        "none"
    );
    for seed in 1..200 {
        let here = parts(seed);
        assert_eq!(here, parts(seed), "again the same");
        for other in seed + 1..200 {
            let there = parts(other);
            assert!(
                here.iter().zip(there).all(|(a, b)| *a != b),
                "{seed} {other}"
            );
        }
        assert!(here.iter().all(|at| at.is_multiple_of(PAGE)));
        let Layout {
            mmap_min, user_end, ..
        } = Layout::linux_default(seed);
        assert!(
            mmap_min < here[0] && here[0] < here[1] && here[1] < here[2] && here[2] <= user_end
        );
        // The stack has room for its limit, and the gap below it.
        assert!(here[2] - here[1] >= (8 << 20) + 256 * PAGE);
    }
}

#[test]
fn row_055_areas_are_sorted_disjoint_and_aligned() {
    let mut world = World::new();
    let mut random = Random(55);
    for _ in 0..2000 {
        let (page, pages) = (random.below(500), 1 + random.below(9));
        match random.below(4) {
            0 => drop(world.munmap(page, pages)),
            1 => drop(world.mprotect(page, pages, random.below(8) as u32)),
            2 => world.map(page, pages, RW, SHARED),
            _ => world.map(page, pages, RW, ANON),
        }
        let areas: Vec<_> = world.space.areas(&world.pool).collect();
        assert_eq!(areas.len(), world.space.len());
        for area in &areas {
            assert!(area.start < area.end);
            assert!(area.start.is_multiple_of(PAGE) && area.end.is_multiple_of(PAGE));
            assert_eq!(world.space.find(&world.pool, area.end - 1), Some(*area));
        }
        for pair in areas.windows(2) {
            assert!(pair[0].end <= pair[1].start);
            // Each knows its neighbour.
            let next = world.space.at_or_after(&world.pool, pair[0].end);
            assert_eq!(next, Some(pair[1]));
        }
    }
    assert!(world.space.len() > 20);
}

#[test]
fn row_056_only_what_is_mapped_is_described() {
    let mut world = World::new();
    let tib = 1 << 40;
    let addr = world.mmap(0, tib, RW, ANON, None, 0).expect("mapped");
    assert_eq!(world.space.totals().size, tib);
    assert_eq!(
        (world.space.len(), world.pool.used()),
        (1, 1),
        "one area, one node"
    );
    assert!(world.told().is_empty(), "no page was asked for");
    assert_eq!(world.space.find(&world.pool, addr - 1), None);
    assert_eq!(world.space.find(&world.pool, addr + tib), None);
    world
        .madvise_bytes(addr, 5 * PAGE, MADV_POPULATE_WRITE)
        .expect("populated");
    assert_eq!(world.told().len(), 1, "pages come one by one");
    assert_eq!(world.space.totals().size, tib);
}

#[test]
fn row_057_fork_copies_the_areas() {
    let mut world = World::new();
    for (page, prot, flags) in [
        (0, RW, ANON),
        (4, RW, SHARED),
        (8, PROT_READ, ANON),
        (12, RW, ANON),
    ] {
        world.map(page, 3, prot, flags);
    }
    world.madvise(8, 1, MADV_WIPEONFORK).expect("advised");
    world.madvise(12, 3, MADV_DONTFORK).expect("advised");
    let child = world.fork().expect("room");
    let ours: Vec<_> = world.space.areas(&world.pool).collect();
    let theirs: Vec<_> = child.areas(&world.pool).collect();
    assert_eq!(theirs[..], ours[..4], "the last one is absent");
    assert!(theirs[2].traits.has(Traits::WIPE_ON_FORK));
    assert_eq!(theirs[2].rights, Rights::READ);
    assert_eq!(child.layout(), world.space.layout());
}
