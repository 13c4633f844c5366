//! Huge pages: what they cost, and that every change of a part splits them.

use crate::support::*;
use fencepost::mmu::addr::{Access, Mode, PhysAddr, VirtAddr};
use fencepost::mmu::area::{Errno, linux};
use fencepost::mmu::entry::Entry;
use fencepost::mmu::geometry::{Geometry, Pae, X86L2, X86L4};
use fencepost::mmu::machine::{Machine, Options, SpaceId};
use fencepost::mmu::physical::{FrameRecord, Physical};
use fencepost::mmu::tables::{MapError, Tables};

const MIB2: u64 = 2 << 20;
const AT: u64 = 0x1000_0000_0000;

#[test]
fn one_gibibyte_takes_515_or_3_or_2_tables() {
    let tables = |level: usize| {
        let records = leak(FrameRecord::EMPTY, 262_144 + 600);
        let mut ram = Physical::new(leak(0, 600 * 512), records, false);
        let mut tables = Tables::<X86L4>::new(&mut ram).expect("a root");
        let frame = fencepost::mmu::addr::FrameNumber::new(0);
        let span = X86L4::span(level);
        for at in (AT..AT + (1 << 30)).step_by(span as usize) {
            let flags = Entry::<X86L4>::USER;
            tables
                .map_huge(&mut ram, VirtAddr::new(at), level, frame, flags)
                .expect("room");
        }
        tables.nodes() + 1
    };
    assert_eq!([tables(0), tables(1), tables(2)], [515, 3, 2]);
}

#[test]
fn huge_pages_are_aligned_and_of_the_geometrys_sizes() {
    let mut ram = memory(16);
    let frame = fencepost::mmu::addr::FrameNumber::new(0);
    let mut map = |level, at: u64, number: u32| {
        let mut tables = Tables::<X86L4>::new(&mut ram).expect("a root");
        let frame = fencepost::mmu::addr::FrameNumber::new(number);
        let done = tables.map_huge(&mut ram, VirtAddr::new(at), level, frame, 0);
        tables.unmap(&mut ram, VirtAddr::new(at));
        tables.prune(&mut ram, 0, 1 << 47);
        tables.end(&mut ram);
        done
    };
    assert_eq!(map(1, AT, 512), Ok(()));
    assert_eq!(map(1, AT + PAGE, 512), Err(MapError::BadSize));
    assert_eq!(map(1, AT, 513), Err(MapError::BadSize));
    assert_eq!(map(3, 0, 0), Err(MapError::BadSize), "no pages of 512 GiB");
    assert_eq!((X86L2::span(1), Pae::span(1)), (4 << 20, 2 << 20));
    let mut tables = Tables::<X86L4>::new(&mut ram).expect("a root");
    tables
        .map(&mut ram, VirtAddr::new(AT), frame, 0)
        .expect("room");
    let over = tables.map_huge(&mut ram, VirtAddr::new(AT), 1, frame, 0);
    assert_eq!(over, Err(MapError::Occupied));
}

#[test]
fn a_split_changes_no_translation() {
    let mut ram = memory(16);
    let mut tables = Tables::<X86L4>::new(&mut ram).expect("a root");
    let frame = fencepost::mmu::addr::FrameNumber::new(1 << 18);
    let flags = Entry::<X86L4>::USER | Entry::<X86L4>::WRITABLE | Entry::<X86L4>::NO_EXECUTE;
    tables
        .map_huge(&mut ram, VirtAddr::new(AT), 2, frame, flags)
        .expect("room");
    let to = |tables: &Tables<X86L4>, ram: &Physical<'_>, at: u64| {
        let step = tables.walk(ram, VirtAddr::new(at), |_| {});
        (step.target(VirtAddr::new(at)), step.entry.has(flags))
    };
    let probes: Vec<u64> = (0..999).map(|i| AT + i * 0x10_2345).collect();
    let before: Vec<_> = probes.iter().map(|at| to(&tables, &ram, *at)).collect();
    assert_eq!(before[1].0, Some(PhysAddr::new((1 << 30) + 0x10_2345)));
    assert_eq!(tables.nodes(), 1);
    tables
        .split(&mut ram, VirtAddr::new(AT + MIB2))
        .expect("room");
    assert_eq!(tables.nodes(), 3, "one table of 2 MiB pages, one of pages");
    let after: Vec<_> = probes.iter().map(|at| to(&tables, &ram, *at)).collect();
    assert_eq!(before, after);
}

fn huge() -> (Machine<'static, X86L4>, SpaceId) {
    let (mut m, id) = one::<X86L4>(Size::full(1600, 600), Options::DEFAULT);
    map(&mut m, AT, 1024, RW);
    m.populate_huge(id, AT, 1).expect("room");
    (m, id)
}

#[test]
fn a_huge_page_is_one_tlb_line() {
    let (mut m, id) = huge();
    assert_eq!(m.sizes(id).anonymous, 512);
    assert_eq!(m.table_bytes(id), 2 * PAGE);
    for page in 0..512 {
        store(&mut m, AT + page * PAGE, page).expect("mapped");
    }
    let report = m.report();
    assert_eq!((report.tlb.misses, report.faults.minor), (1, 0));
    assert_eq!(report.tlb.first[1], 511);
    // One reference to memory for each level but the last.
    assert_eq!(report.accesses.references, 512 + 3);
    sound(&mut m);
    assert!(!m.page_out(id, AT), "it stays until it is split");
    let child = m.fork(id).expect("room");
    sound(&mut m);
    m.switch_to(child).expect("it exists");
    store(&mut m, AT, 9).expect("mapped");
    assert_eq!(load(&mut m, AT + 5 * PAGE), Ok(5));
    m.switch_to(id).expect("it exists");
    assert_eq!(load(&mut m, AT), Ok(0));
    sound(&mut m);
}

#[test]
fn changing_a_part_splits() {
    type Change = fn(&mut Machine<'static, X86L4>) -> Result<(), Errno>;
    let changes: [(&str, Change, u64); 5] = [
        ("munmap", |m| m.munmap(AT + 4 * PAGE, PAGE), 511),
        ("mprotect", |m| m.mprotect(AT + 4 * PAGE, PAGE, R), 512),
        (
            "dontneed",
            |m| m.madvise(AT + 4 * PAGE, PAGE, linux::MADV_DONTNEED),
            511,
        ),
        (
            "guard",
            |m| m.madvise(AT + 4 * PAGE, PAGE, linux::MADV_GUARD_INSTALL),
            511,
        ),
        (
            "move",
            |m| {
                let new = AT + (64 << 20);
                let flags = linux::MREMAP_MAYMOVE | linux::MREMAP_FIXED;
                m.mremap(AT + 4 * PAGE, PAGE, PAGE, flags, new).map(|_| ())
            },
            512,
        ),
    ];
    for (name, change, left) in changes {
        let (mut m, id) = huge();
        for page in 0..512 {
            store(&mut m, AT + page * PAGE, page).expect("mapped");
        }
        assert_eq!(change(&mut m), Ok(()), "{name}");
        sound(&mut m);
        assert_eq!(m.sizes(id).anonymous, left, "{name}");
        assert_eq!(load(&mut m, AT + 5 * PAGE), Ok(5), "{name}");
        assert!(m.page_out(id, AT), "{name}: now it is like any other");
        sound(&mut m);
    }
    // All of it goes as one.
    let (mut m, id) = huge();
    m.munmap(AT, 1024 * PAGE).expect("mapped");
    assert_eq!((m.sizes(id).resident(), m.table_bytes(id)), (0, 0));
    sound(&mut m);
}

#[test]
fn huge_pages_are_refused_where_they_cannot_be() {
    let (mut m, id) = huge();
    assert_eq!(m.populate_huge(id, AT, 1), Err(Errno::EINVAL), "taken");
    assert_eq!(m.populate_huge(id, AT + PAGE, 1), Err(Errno::EINVAL));
    assert_eq!(m.populate_huge(id, AT + 2 * MIB2, 1), Err(Errno::EINVAL));
    assert_eq!(m.populate_huge(id, AT + MIB2, 1), Ok(()));
    assert_eq!(m.populate_huge(id, AT, 2), Err(Errno::EINVAL));
    let last = u64::MAX << 21;
    assert_eq!(m.populate_huge(id, last, 1), Err(Errno::EINVAL), "wraps");
    map(&mut m, AT + 2 * MIB2, 512, RW);
    assert_eq!(m.populate_huge(id, AT + 2 * MIB2, 1), Err(Errno::ENOMEM));
    let at = VirtAddr::new(AT + 5 * PAGE);
    assert_eq!(
        m.access(at, 1, Access::Exec, Mode::User)
            .map_err(|f| f.present),
        Err(true)
    );
    sound(&mut m);
}
