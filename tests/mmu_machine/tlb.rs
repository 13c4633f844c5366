//! Rows 15, 16 and 59: the TLB and what it saves.

use crate::support::*;
use fencepost::mmu::addr::{Access, Mode, VirtAddr};
use fencepost::mmu::cpu::Mmu;
use fencepost::mmu::entry::Entry;
use fencepost::mmu::geometry::{Flat, Geometry, Pae, X86L2, X86L4, X86L5};
use fencepost::mmu::lookaside::Lookaside;
use fencepost::mmu::machine::Options;
use fencepost::mmu::physical::{FrameRecord, Physical, Use};
use fencepost::mmu::tables::Tables;
use fencepost::mmu::tlb::{Shape, Tlb, TlbLine};

/// An MMU over tables in which `pages` pages from address 0 on are on one frame.
struct Bench<G: Geometry> {
    ram: Physical<'static>,
    mmu: Mmu<'static, G>,
}

impl<G: Geometry> Bench<G> {
    fn new(pages: u64, first: Shape, second: Shape) -> Bench<G> {
        let mut ram = memory(1200);
        let mut tables = Tables::<G>::new(&mut ram).expect("a root");
        let frame = ram.take(Use::Kernel).expect("room");
        for page in 0..pages {
            let flags = Entry::<G>::USER | Entry::<G>::WRITABLE;
            let at = VirtAddr::new(page * PAGE);
            tables.map(&mut ram, at, frame, flags).expect("room");
        }
        let lines = leak(TlbLine::EMPTY, first.lines() + second.lines());
        let mut mmu = Mmu::new(Tlb::new(lines, first, second), Lookaside::new(&mut []));
        mmu.load_cr3(tables.root());
        Bench { ram, mmu }
    }

    fn go(&mut self, page: u64) {
        let at = VirtAddr::new(page * PAGE);
        let reached = self.mmu.reach(&mut self.ram, at, Access::Read, Mode::User);
        assert!(reached.is_ok());
    }

    fn misses(mut self, pages: impl Iterator<Item = u64>) -> u64 {
        pages.for_each(|page| self.go(page));
        self.mmu.tlb.counts.misses
    }
}

fn round(pages: u64, times: u64) -> impl Iterator<Item = u64> {
    (0..times).flat_map(move |_| 0..pages)
}

#[test]
fn row_015_the_tlb_misses_as_computed() {
    let usual = || Bench::<X86L4>::new(4096, Shape { sets: 16, ways: 4 }, Shape::NONE);
    let full = || Bench::<X86L4>::new(4096, Shape { sets: 1, ways: 64 }, Shape::NONE);
    assert_eq!(usual().misses(round(64, 10)), 64);
    assert_eq!(usual().misses(round(65, 10)), 110);
    assert_eq!(full().misses(round(65, 10)), 650);
    let clash = || (0..10).flat_map(|_| [0, 16, 32, 48, 64]);
    assert_eq!((usual().misses(clash()), full().misses(clash())), (50, 5));
    let local = usual().misses((0..4096).flat_map(|page| [page; 64]));
    assert_eq!((local, 4096 * 64), (4096, 262_144));
    assert!((local as f64 / 262_144.0 - 0.015_625).abs() < 1e-12);
}

#[test]
fn the_tlb_misses_on_a_random_string_as_computed() {
    let string = || {
        let mut random = Random(12345);
        (0..100_000).map(move |_| random.next() % 256)
    };
    let of =
        |sets, ways| Bench::<X86L4>::new(256, Shape { sets, ways }, Shape::NONE).misses(string());
    assert_eq!(of(16, 4), 75_001);
    assert_eq!(of(1, 64), 75_002);
    assert_eq!(of(256, 4), 256);
    // Three ways and twelve sets take the paths that are not specialised.
    assert!(of(12, 3) > of(12, 4));
}

#[test]
fn row_016_without_a_tlb_every_access_costs_its_levels() {
    fn cost<G: Geometry>() -> f64 {
        let mut bench = Bench::<G>::new(8, Shape::NONE, Shape::NONE);
        round(8, 10).for_each(|page| bench.go(page));
        bench.mmu.counts.references_per_access()
    }
    assert!((cost::<Flat>() - 2.0).abs() < 1e-12);
    assert!((cost::<X86L2>() - 3.0).abs() < 1e-12);
    assert!((cost::<Pae>() - 4.0).abs() < 1e-12);
    assert!((cost::<X86L4>() - 5.0).abs() < 1e-12);
    assert!((cost::<X86L5>() - 6.0).abs() < 1e-12);
    // 2 misses in 100 accesses: 0.98 + 0.02 x 5.
    let mut bench = Bench::<X86L4>::new(8, Shape::L1, Shape::NONE);
    (0..50).for_each(|_| bench.go(0));
    (0..50).for_each(|_| bench.go(1));
    let counts = bench.mmu.counts;
    assert_eq!((counts.accesses(), counts.walks), (100, 2));
    assert!((counts.references_per_access() - 1.08).abs() < 1e-12);
}

#[test]
fn the_second_level_answers_what_the_first_lost() {
    let mut bench = Bench::<X86L4>::new(512, Shape::L1, Shape::L2);
    round(512, 2).for_each(|page| bench.go(page));
    let counts = bench.mmu.tlb.counts;
    assert_eq!(counts.misses, 512);
    assert_eq!((counts.first[0], counts.second[0]), (0, 512));
}

#[test]
fn the_same_page_filter_changes_no_count() {
    let mut random = Random(3);
    let string: Vec<u64> = (0..50_000)
        .map(|i| if i % 3 == 0 { random.below(80) } else { 7 })
        .collect();
    let counts = |filtered: bool| {
        let mut bench = Bench::<X86L4>::new(512, Shape::L1, Shape::L2);
        for page in &string {
            bench.go(*page);
            if !filtered {
                // Ends the filter, and no line: nothing is known of that page.
                bench.mmu.invlpg(VirtAddr::new(0x7000_0000));
            }
        }
        let counts = bench.mmu.tlb.counts;
        (counts.first, counts.second, counts.misses, bench.mmu.counts)
    };
    assert_eq!(counts(true), counts(false));
}

#[test]
fn row_059_a_context_switch_flushes_or_is_tagged() {
    for tagged in [false, true] {
        let options = Options {
            tagged,
            ..Options::DEFAULT
        };
        let (mut m, a) = one::<X86L4>(Size::full(64, 0), options);
        map(&mut m, 0x7000, 1, RW);
        store(&mut m, 0x7000, 1).expect("mapped");
        let b = spawn(&mut m);
        map(&mut m, 0x7000, 1, RW);
        store(&mut m, 0x7000, 2).expect("mapped");
        let before = m.report();
        for _ in 0..10 {
            m.switch_to(a).expect("it exists");
            assert_eq!(load(&mut m, 0x7000), Ok(1));
            m.switch_to(b).expect("it exists");
            assert_eq!(load(&mut m, 0x7000), Ok(2));
        }
        let after = m.report();
        let flushes = after.tlb.flushes - before.tlb.flushes;
        let misses = after.tlb.misses - before.tlb.misses;
        let expected = if tagged { (0, 0) } else { (20, 20) };
        assert_eq!((flushes, misses), expected, "tagged: {tagged}");
        sound(&mut m);
        // A space that ends takes its translations with it.
        m.exit(b);
        let c = spawn(&mut m);
        assert_eq!(c, b, "the same number");
        assert!(load(&mut m, 0x7000).is_err());
        sound(&mut m);
    }
}

#[test]
fn global_pages_survive_a_switch() {
    use fencepost::mmu::addr::Rights;
    let (mut m, a) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    let kernel = VirtAddr::new(0xffff_8880_0000_0000);
    m.map_kernel_page(kernel).expect("room");
    let far = VirtAddr::new(0xffff_ffff_8000_0000);
    let frame = m.memory_mut().take(Use::Kernel).expect("room");
    m.map_kernel(far, frame, Rights::READ).expect("room");
    let go = |m: &mut fencepost::mmu::machine::Machine<'_, X86L4>, at| {
        m.access(at, 1, Access::Read, Mode::Supervisor)
    };
    go(&mut m, kernel).expect("mapped");
    let b = spawn(&mut m);
    let misses = m.report().tlb.misses;
    go(&mut m, kernel).expect("mapped");
    m.switch_to(a).expect("it exists");
    go(&mut m, kernel).expect("mapped");
    assert_eq!(m.report().tlb.misses, misses);
    // Until everything is dropped.
    m.flush();
    go(&mut m, kernel).expect("mapped");
    assert_eq!(m.report().tlb.misses, misses + 1);
    let store = m.access(far, 1, Access::Write, Mode::Supervisor);
    assert!(store.is_err(), "the kernel is bound by the writable bit");
    let _ = b;
    sound(&mut m);
}

#[test]
fn the_fast_cache_answers_as_the_tables_do() {
    let (mut m, id) = one::<X86L4>(Size::full(256, 64), Options::DEFAULT);
    map(&mut m, 0x10_0000, 128, RW);
    let mut random = Random(11);
    for _ in 0..20_000 {
        let at = 0x10_0000 + random.below(128) * PAGE + random.below(PAGE);
        match random.below(10) {
            0 => touch(&mut m, at, Access::Write).expect("mapped"),
            1 => drop(m.page_out(id, at)),
            2 => m
                .mprotect(
                    at & !(PAGE - 1),
                    PAGE,
                    if random.below(2) == 0 { 0 } else { RW },
                )
                .expect("mapped"),
            _ => {
                let slow = m.walk(VirtAddr::new(at), |_| {}).expect("paging is on");
                let slow = slow.target(VirtAddr::new(at));
                assert_eq!(m.translate(VirtAddr::new(at), Mode::User), slow);
            }
        }
        let _ = m.mprotect(0x10_0000, 128 * PAGE, RW);
    }
    sound(&mut m);
}

#[test]
fn storage_without_words_is_all_numbers() {
    let records = leak(FrameRecord::EMPTY, 100);
    let ram = Physical::new(leak(0, 10 * 512), records, false);
    assert!(ram.has_room(10, 90) && !ram.has_room(11, 0) && !ram.has_room(0, 91));
}
