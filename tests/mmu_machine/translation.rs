//! Rows 1 to 14, 17 to 19: addresses, page tables and what they cost.

use crate::support::*;
use fencepost::mmu::addr::{Access, FrameNumber, Mode, PhysAddr, VirtAddr};
use fencepost::mmu::area::linux;
use fencepost::mmu::cpu::Mmu;
use fencepost::mmu::entry::Entry;
use fencepost::mmu::geometry::{Flat, Geometry, Pae, X86L2, X86L4, X86L5};
use fencepost::mmu::machine::Options;
use fencepost::mmu::physical::{FrameRecord, Physical, Use};
use fencepost::mmu::tables::Tables;

const USER: Mode = Mode::User;

fn va(raw: u64) -> VirtAddr {
    VirtAddr::new(raw)
}

#[test]
fn row_001_without_an_mmu_programs_clobber_each_other() {
    let mut ram = memory(16);
    let mut bare = Mmu::<X86L4>::bare();
    let mut go = |ram: &mut Physical<'_>, at| bare.reach(ram, va(at), Access::Write, USER);
    for at in [0, 0x1234, 0xb700_1008, u64::MAX] {
        assert_eq!(go(&mut ram, at), Ok(PhysAddr::new(at)));
    }
    // Two programs at one address: the second one's byte is what the first one reads.
    let first = go(&mut ram, 0x2000).expect("bare");
    ram.write(first, &[1]);
    let second = go(&mut ram, 0x2000).expect("bare");
    ram.write(second, &[2]);
    let mut byte = [0];
    ram.read(first, &mut byte);
    assert_eq!(byte, [2]);
    // With paging on they do not meet; with paging off in the same machine they do.
    let (mut m, a) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x2000, 1, RW);
    store(&mut m, 0x2000, 1).expect("mapped");
    let b = spawn(&mut m);
    map(&mut m, 0x2000, 1, RW);
    store(&mut m, 0x2000, 2).expect("mapped");
    m.switch_to(a).expect("it exists");
    assert_eq!(load(&mut m, 0x2000), Ok(1));
    m.switch_to(b).expect("it exists");
    assert_eq!(load(&mut m, 0x2000), Ok(2));
    m.turn_paging_off();
    assert_eq!(m.translate(va(0x2000), USER), Some(PhysAddr::new(0x2000)));
}

#[test]
fn row_002_translation_comes_before_memory() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 1, RW);
    store(&mut m, 0x7010, 0xabcd).expect("mapped");
    let frame = m.frame(id, 0x7000).expect("present");
    let at = m.translate(va(0x7010), USER).expect("present");
    assert_eq!(at.frame(), Some(frame));
    assert_eq!(m.memory().words(frame)[2], 0xabcd);
    assert_ne!(at.raw(), 0x7010);
}

#[test]
fn row_003_virtual_and_physical_sizes_are_independent() {
    fn reaches<G: Geometry>(frames: usize, frame: u32) -> bool {
        let records = leak(FrameRecord::EMPTY, frames);
        let mut ram = Physical::new(leak(0, 8 * 512), records, false);
        let mut tables = Tables::<G>::new(&mut ram).expect("a root");
        let frame = FrameNumber::new(frame);
        if ram.take_at(frame, Use::Kernel).is_none() {
            return false;
        }
        let flags = Entry::<G>::USER | Entry::<G>::WRITABLE;
        if tables.map(&mut ram, va(0xbfff_f000), frame, flags).is_err() {
            return false;
        }
        let at = tables.walk(&ram, va(0xbfff_f123), |_| {});
        at.target(va(0xbfff_f123)) == Some(PhysAddr::new(frame.start().raw() + 0x123))
    }
    // 1 MiB of memory under 4 GiB of addresses.
    assert!(reaches::<X86L2>(256, 255));
    // PAE: 36 physical bits, a frame above 4 GiB, with 32-bit virtual addresses.
    assert!(reaches::<Pae>((5 << 30) / 4096, (1 << 20) + 5));
    // Without PAE an entry has no room for that frame.
    assert!(!reaches::<X86L2>((5 << 30) / 4096, (1 << 20) + 5));
    assert_eq!((Pae::PA_BITS, X86L2::PA_BITS, Pae::VA_BITS), (36, 32, 32));
}

#[test]
fn row_004_mapping_goes_by_pages() {
    let mut ram = memory(16);
    let mut tables = Tables::<X86L2>::new(&mut ram).expect("a root");
    let frame = FrameNumber::new(2);
    ram.take_at(frame, Use::Kernel).expect("it is free");
    tables
        .map(&mut ram, va(0xb700_1000), frame, Entry::<X86L2>::USER)
        .expect("room");
    let to = |at: u64| tables.walk(&ram, va(at), |_| {}).target(va(at));
    assert_eq!(to(0xb700_1008), Some(PhysAddr::new(0x2008)));
    assert_eq!(to(0xb700_1fff), Some(PhysAddr::new(0x2fff)));
    assert_eq!((to(0xb700_0fff), to(0xb700_2000)), (None, None));
    let mut indices = Vec::new();
    tables.walk(&ram, va(0xb700_1008), |step| indices.push(step.index));
    assert_eq!((indices, va(0xb700_1008).offset()), (vec![732, 1], 8));
}

#[test]
fn row_005_frames_pages_and_slots_have_one_size() {
    use fencepost::mmu::addr::{PAGE, PAGE_SHIFT, PageNumber};
    assert_eq!(1 << PAGE_SHIFT, PAGE);
    assert_eq!(FrameNumber::new(3).start().raw(), 3 * PAGE);
    assert_eq!(PageNumber::new(3).start().raw(), 3 * PAGE);
    let (mut m, id) = one::<X86L4>(Size::full(32, 4), Options::DEFAULT);
    map(&mut m, 0x10000, 1, RW);
    store(&mut m, 0x10000 + 4088, 77).expect("mapped");
    assert!(m.page_out(id, 0x10000));
    // The last word of the page is the last of its slot.
    assert_eq!(m.disk(0)[511], 77);
    assert_eq!(m.swap().bytes(), 4096);
}

#[test]
fn row_006_page_tables_lie_in_physical_memory() {
    let (mut m, a) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 1, RW);
    store(&mut m, 0x7000, 1).expect("mapped");
    let root = m.tables(a).expect("it lives").root();
    assert_eq!(m.cr3(), Some(root));
    // By hand: four entries, each read as a word of memory.
    let mut at = root.raw();
    for level in (0..4).rev() {
        let index = X86L4::index(va(0x7000), level) as u64;
        let table = PhysAddr::new(at).frame().expect("memory");
        assert_eq!(m.memory().record(table).usage, Use::Table);
        at = m.memory().words(table)[index as usize] & 0x000f_ffff_ffff_f000;
    }
    assert_eq!(PhysAddr::new(at).frame(), m.frame(a, 0x7000));
    // Another root is another address space.
    let b = spawn(&mut m);
    assert_ne!(m.tables(b).expect("it lives").root(), root);
    assert_eq!(m.translate(va(0x7000), USER), None);
    m.load_cr3(root);
    assert_eq!(m.current(), Some(a));
    assert!(m.translate(va(0x7000), USER).is_some());
}

/// That a virtual address does not fit is shown by the `compile_fail` example of `PhysAddr`.
#[test]
fn row_007_cr3_holds_a_physical_address() {
    let (mut m, a) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 1, RW);
    store(&mut m, 0x7000, 1).expect("mapped");
    let root: PhysAddr = m.cr3().expect("paging is on");
    let before = m.report();
    m.load_cr3(root);
    assert_eq!(m.report().tlb.flushes, before.tlb.flushes + 1);
    // The hit after the load is a walk again, without the kernel.
    touch(&mut m, 0x7000, Access::Read).expect("mapped");
    let after = m.report();
    assert_eq!(after.tlb.misses, before.tlb.misses + 1);
    assert_eq!(after.faults, before.faults);
    assert_eq!(m.current(), Some(a));
    sound(&mut m);
}

#[test]
fn row_008_every_access_goes_through_the_mmu() {
    let (mut m, _) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 1, RW | X);
    for (access, times) in [(Access::Read, 3), (Access::Write, 5), (Access::Exec, 7)] {
        for _ in 0..times {
            touch(&mut m, 0x7000, access).expect("mapped");
        }
    }
    let counts = m.report().accesses;
    assert_eq!((counts.reads, counts.writes, counts.fetches), (3, 5, 7));
    assert_eq!(counts.accesses(), 15);
    assert_eq!(
        m.report().tlb.hits() + m.report().tlb.misses,
        m.report().tlb.lookups()
    );
}

#[test]
fn row_009_translation_is_split_look_up_put_together() {
    let mut random = Random(9);
    let mut ram = memory(64);
    let mut tables = Tables::<X86L4>::new(&mut ram).expect("a root");
    for round in 0..10_000 {
        let at = va(random.next() & 0x7fff_ffff_ffff);
        assert_eq!(at.page().raw() * 4096 + at.offset(), at.raw());
        if round < 10 {
            let frame = ram.take(Use::Kernel).expect("room");
            tables
                .map(&mut ram, at, frame, Entry::<X86L4>::USER)
                .expect("room");
            let to = tables.walk(&ram, at, |_| {}).target(at).expect("mapped");
            assert_eq!(to.raw(), frame.start().raw() + at.offset());
        }
    }
}

#[test]
fn row_010_a_flat_table_costs_four_mebibytes() {
    assert_eq!(Flat::table_bytes(0), 4_194_304);
    assert_eq!(100 * Flat::table_bytes(0), 400 << 20);
    let flat = |bits: u32, entry: u64| (1u64 << (bits - 12)) * entry;
    assert_eq!(flat(32, 4), Flat::table_bytes(0));
    assert_eq!(flat(48, 8), 512 << 30);
    assert_eq!(flat(57, 8), 256 << 40);
    // It is there in full for one page, as frames of the model's.
    let mut ram = memory(1100);
    let mut tables = Tables::<Flat>::new(&mut ram).expect("1024 frames in a row");
    assert_eq!(ram.frames() - ram.free(), 1024);
    let frame = ram.take(Use::Kernel).expect("room");
    let flags = Entry::<Flat>::USER;
    tables
        .map(&mut ram, va(0xbfff_f000), frame, flags)
        .expect("room");
    assert_eq!((tables.nodes(), tables.bytes_with_root()), (0, 4 << 20));
    let step = tables.walk(&ram, va(0xbfff_f00f), |_| {});
    assert_eq!(step.index, 0xbffff);
    assert_eq!(
        step.target(va(0xbfff_f00f)).map(PhysAddr::offset),
        Some(0xf)
    );
}

/// Maps one page at each of `pages` addresses on the same frame, without areas.
fn sparse<G: Geometry>(frames: usize, pages: impl Iterator<Item = u64>) -> (u64, u64, usize) {
    let mut ram = memory(frames);
    let mut tables = Tables::<G>::new(&mut ram).expect("a root");
    let frame = ram.take(Use::Kernel).expect("room");
    for at in pages {
        tables
            .map(&mut ram, va(at), frame, Entry::<G>::USER)
            .expect("room");
    }
    (tables.bytes(), tables.bytes_with_root(), tables.nodes())
}

#[test]
fn row_011_two_level_tables_cost_what_is_used() {
    let of = |tables: u64| sparse::<X86L2>(1100, (0..tables).map(|i| i << 22)).1;
    assert_eq!(of(1024), 4_198_400);
    // A fifth of 1024 tables is 204.8 of them; the notes' 0.804 "MB" are MiB of that formula.
    assert_eq!(of(205), 843_776);
    assert_eq!(of(204), 839_680);
    let formula = 4096.0 + 0.2 * 4_194_304.0;
    assert!((formula - 842_956.8f64).abs() < 1e-6);
    assert!((formula / f64::from(1 << 20) - 0.803_906_25).abs() < 1e-12);
}

#[test]
fn row_012_tables_exist_only_where_they_are_needed() {
    let (mut m, id) = one::<X86L2>(Size::full(64, 0), Options::DEFAULT);
    let with_root = |m: &fencepost::mmu::machine::Machine<'_, X86L2>| {
        m.tables(id).expect("it lives").nodes() + 1
    };
    assert_eq!(with_root(&m), 1);
    map(&mut m, 0x0900_0000, 1, RW);
    assert_eq!(with_root(&m), 1, "an area needs no table");
    store(&mut m, 0x0900_0000, 1).expect("mapped");
    assert_eq!(with_root(&m), 2);
    assert_eq!(m.translate(va(0x5000_0000), USER), None);
    assert!(touch(&mut m, 0x5000_0000, Access::Read).is_err());
    assert_eq!(with_root(&m), 2, "a look elsewhere makes none");
    // Dropping contents leaves tables, unmapping does not.
    m.madvise(0x0900_0000, PAGE, linux::MADV_DONTNEED)
        .expect("mapped");
    assert_eq!(with_root(&m), 2);
    m.munmap(0x0900_0000, PAGE).expect("mapped");
    assert_eq!(with_root(&m), 1);
    assert_eq!(X86L2::entries(1) as u64 * X86L2::span(1), 4 << 30);
    sound(&mut m);
}

#[test]
fn row_013_four_levels_on_64_bits() {
    let indices = |at: u64| {
        let mut all: Vec<usize> = (0..4).rev().map(|l| X86L4::index(va(at), l)).collect();
        all.push(va(at).offset() as usize);
        all
    };
    assert_eq!(indices(0x7f1e_cc03_1000), [254, 123, 96, 49, 0]);
    assert_eq!(indices(0x7ffe_0ded_1000), [255, 504, 111, 209, 0]);
    assert_eq!(indices(0xffff_ffff_ff60_0000), [511, 511, 507, 0, 0]);
    let mut ram = memory(16);
    let mut tables = Tables::<X86L4>::new(&mut ram).expect("a root");
    let frame = ram.take(Use::Kernel).expect("room");
    tables
        .map(&mut ram, va(0x7f1e_cc03_1000), frame, Entry::<X86L4>::USER)
        .expect("room");
    let mut steps = Vec::new();
    tables.walk(&ram, va(0x7f1e_cc03_1000), |s| {
        steps.push((s.level, s.index))
    });
    assert_eq!(steps, [(3, 254), (2, 123), (1, 96), (0, 49)]);
}

#[test]
fn row_014_locality_keeps_tables_small() {
    let kib =
        |pages: &mut dyn Iterator<Item = u64>, frames| sparse::<X86L4>(frames, pages).0 / 1024;
    let base = 0x1000_0000_0000u64;
    // One page in each 2 MiB of 1 GiB: 514 tables; VmPTE does not count the root.
    assert_eq!(kib(&mut (0..512).map(|i| base + (i << 21)), 600), 2056);
    assert_eq!(kib(&mut [base].into_iter(), 16), 12);
    assert_eq!(kib(&mut (0..64).map(|i| base + (i << 30)), 200), 516);
    assert_eq!(
        kib(&mut (0..131_072).map(|i| base + i * PAGE), 600),
        1032,
        "a dense 512 MiB"
    );
    // The same through the machine, by touching.
    let (mut m, id) = one::<X86L4>(Size::bare(600, 600, 0), Options::DEFAULT);
    map(&mut m, base, 262_144, RW);
    for i in 0..512 {
        touch(&mut m, base + (i << 21), Access::Write).expect("mapped");
    }
    assert_eq!(m.table_bytes(id), 2056 << 10);
    m.munmap(base, 1 << 30).expect("mapped");
    assert_eq!(m.table_bytes(id), 0);
    sound(&mut m);
}

/// Bit positions and indices against the crate `x86_64`.
#[test]
fn entries_and_indices_are_those_of_the_x86_64_crate() {
    use x86_64::structures::paging::PageTableFlags as Theirs;
    type E = Entry<X86L4>;
    for (ours, theirs) in [
        (E::PRESENT, Theirs::PRESENT),
        (E::WRITABLE, Theirs::WRITABLE),
        (E::USER, Theirs::USER_ACCESSIBLE),
        (E::WRITE_THROUGH, Theirs::WRITE_THROUGH),
        (E::NO_CACHE, Theirs::NO_CACHE),
        (E::ACCESSED, Theirs::ACCESSED),
        (E::DIRTY, Theirs::DIRTY),
        (E::HUGE, Theirs::HUGE_PAGE),
        (E::GLOBAL, Theirs::GLOBAL),
        (E::COW, Theirs::BIT_9),
        (E::LAZY_FREE, Theirs::BIT_11),
        (E::NO_EXECUTE, Theirs::NO_EXECUTE),
    ] {
        assert_eq!(ours, theirs.bits());
    }
    let mut random = Random(5);
    for _ in 0..100_000 {
        // Shifted so that the interesting boundaries are hit often.
        let raw = random.next() >> (random.below(32)) << random.below(20);
        let theirs = x86_64::VirtAddr::try_new(raw);
        assert_eq!(X86L4::is_canonical(va(raw)), theirs.is_ok(), "{raw:#x}");
        let Ok(theirs) = theirs else { continue };
        let ours: Vec<u16> = (0..4).map(|l| X86L4::index(va(raw), l) as u16).collect();
        let indices = [
            theirs.p1_index(),
            theirs.p2_index(),
            theirs.p3_index(),
            theirs.p4_index(),
        ];
        assert_eq!(ours, indices.map(u16::from));
        assert_eq!(va(raw).offset() as u16, u16::from(theirs.page_offset()));
    }
    assert_eq!(X86L5::index(va(0xff00_0000_0000_0000), 4), 256);
}

#[test]
fn row_017_paging_has_no_external_fragmentation() {
    // The story of segments (row 24): 1 GiB is 262,144 frames.
    let (mut m, _) = one::<X86L4>(Size::bare(262_144, 600, 0), Options::DEFAULT);
    let free = |m: &fencepost::mmu::machine::Machine<'_, X86L4>| {
        m.memory().frames() - 600 - (m.report().frames_used - tables_used(m))
    };
    fn tables_used(m: &fencepost::mmu::machine::Machine<'_, X86L4>) -> usize {
        let id = m.current().expect("one runs");
        m.tables(id).expect("it lives").nodes() + 1
    }
    let mib = |n: u64| n << 20;
    let base = 0x1000_0000_0000u64;
    let load = |m: &mut fencepost::mmu::machine::Machine<'_, X86L4>, at: u64, len: u64| {
        map(m, at, len / PAGE, RW);
        for page in 0..len / PAGE {
            touch(m, at + page * PAGE, Access::Write).expect("a frame");
        }
    };
    load(&mut m, base, mib(512)); // the game
    load(&mut m, base + mib(512), mib(128)); // the browser
    load(&mut m, base + mib(640), mib(256)); // the player
    m.munmap(base + mib(512), mib(128))
        .expect("the browser ends");
    assert_eq!(free(&m), 65_536);
    // 200 MiB of one program, over holes of 128 and 128.
    load(&mut m, base + mib(2048), mib(200));
    assert_eq!((mib(200) / PAGE, free(&m)), (51_200, 14_336));
}

#[test]
fn row_018_programs_are_loaded_on_demand() {
    let size = Size {
        blocks: 1000,
        ..Size::full(64, 0)
    };
    let (mut m, id) = one::<X86L4>(size, Options::DEFAULT);
    m.disk(999)[0] = 999;
    let file = m.open(0, 1000 * PAGE).expect("room");
    let at = m
        .mmap(0, 1000 * PAGE, R | X, linux::MAP_PRIVATE, Some(file), 0)
        .expect("room");
    assert_eq!(m.sizes(id).resident(), 0);
    for page in [0, 500, 999] {
        touch(&mut m, at + page * PAGE, Access::Exec).expect("mapped");
    }
    let report = m.report();
    assert_eq!((m.sizes(id).resident(), report.faults.major), (3, 3));
    assert_eq!((report.faults.minor, report.restarts), (0, 3));
    assert_eq!(load(&mut m, at + 999 * PAGE), Ok(999));
    sound(&mut m);
}
