//! What page tables cost: the kernel's `VmPTE` against the number of tables that a radix tree of
//! four levels needs for the same pages.

use super::fast::{Fast, Size};
use super::remote::Remote;
use super::{System, WINDOW};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;
use std::collections::BTreeSet;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// The tables below the root that pages at these addresses need: one for each 2 MiB, 1 GiB and
/// 512 GiB that has a page. `VmPTE` counts all but the root.
fn tables(pages: &[u64]) -> u64 {
    let distinct = |shift: u32| {
        let spans: BTreeSet<u64> = pages.iter().map(|page| page >> shift).collect();
        spans.len() as u64
    };
    distinct(21) + distinct(30) + distinct(39)
}

/// The four cases: the span, the distance between pages, and `VmPTE` in kB.
const CASES: [(&str, u64, u64, u64); 4] = [
    ("one page per 2 MiB over 1 GiB", GIB, 2 * MIB, 2056),
    ("one page in 1 GiB", GIB, GIB, 12),
    ("one page per GiB over 64 GiB", 64 * GIB, GIB, 516),
    ("512 MiB without holes", 512 * MIB, PAGE, 1032),
];

fn map<S: System>(system: &mut S, span: u64) {
    let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    let mapped = system.mmap(WINDOW, span, PROT_READ | PROT_WRITE, flags, None, 0);
    assert_eq!(mapped, Ok(WINDOW));
}

#[test]
fn row_014_page_tables_cost_what_the_kernel_says() {
    for (what, span, step, kilobytes) in CASES {
        let mut remote = Remote::new(Some(WINDOW), 96);
        let before = remote.status("VmPTE");
        map(&mut remote, span);
        assert_eq!(
            remote.status("VmPTE"),
            before,
            "{what}: a mapping needs no table"
        );
        let pages: Vec<u64> = (WINDOW..WINDOW + span).step_by(step as usize).collect();
        for &page in &pages {
            // The zero page costs tables, but no memory.
            assert_eq!(remote.read(page, &mut [0]), Ok(1));
        }
        let needed = remote.status("VmPTE") - before;
        assert_eq!(tables(&pages) * 4, kilobytes, "{what}");
        assert_eq!(needed * 4, kilobytes, "{what}: the kernel's");
        assert_eq!(remote.munmap(WINDOW, span), Ok(0));
        assert_eq!(remote.status("VmPTE"), before, "{what}: unmapped");
    }
}

#[test]
fn row_014_page_tables_of_the_model_cost_what_the_kernels_do() {
    for (what, span, step, kilobytes) in CASES {
        let size = Size {
            frames: 8192,
            nodes: 16,
            contents: false,
            ..Size::WINDOW
        };
        let mut fast = Fast::new(WINDOW, WINDOW + (1 << 42), size);
        let cost = |fast: &Fast| fast.on(|machine, space| machine.table_bytes(space));
        let before = cost(&fast);
        map(&mut fast, span);
        assert_eq!(cost(&fast), before, "{what}: a mapping needs no table");
        for page in (WINDOW..WINDOW + span).step_by(step as usize) {
            assert_eq!(fast.read(page, &mut [0]), Ok(1));
        }
        assert_eq!(cost(&fast) - before, kilobytes << 10, "{what}");
        assert_eq!(fast.munmap(WINDOW, span), Ok(0));
        assert_eq!(cost(&fast), before, "{what}: unmapped");
    }
}

/// A table goes when nothing is mapped in its span any more, and not before.
#[test]
fn tables_go_with_the_last_area_of_their_span() {
    let mut remote = Remote::new(Some(WINDOW), 96);
    let before = remote.status("VmPTE");
    map(&mut remote, 4 * MIB);
    for page in [WINDOW, WINDOW + 2 * MIB] {
        assert_eq!(remote.write(page, &[1]), Ok(1));
    }
    assert_eq!(remote.status("VmPTE") - before, 4);
    // The rest of the first 2 MiB is still mapped, though it has no page.
    assert_eq!(remote.munmap(WINDOW, MIB), Ok(0));
    assert_eq!(remote.status("VmPTE") - before, 4);
    assert_eq!(remote.munmap(WINDOW + MIB, MIB), Ok(0));
    assert_eq!(remote.status("VmPTE") - before, 3);
    let mut drop = |len| {
        assert_eq!(remote.madvise(WINDOW + 2 * MIB, len, MADV_DONTNEED), Ok(0));
        remote.status("VmPTE") - before
    };
    assert_eq!(drop(MIB), 3, "a part's dropped contents leave the table");
    // Since 6.14 the kernel may free a table whose whole span was dropped (CONFIG_PT_RECLAIM).
    let left = drop(2 * MIB);
    assert!(left == 2 || left == 3, "{left} tables");
    assert_eq!(remote.munmap(WINDOW + 2 * MIB, 2 * MIB), Ok(0));
    assert_eq!(remote.status("VmPTE"), before);
}
