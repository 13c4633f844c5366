//! Rows 19, 37, 40, 50, 80 to 91, 103, 118 and 122 of the inventory (`docs/inventory.md`), each by
//! a test named after its row: what concerns the functions of C, called as Rust functions, in a
//! child process where counters, crimes or the environment matter. The main arena is a reserved region here,
//! because the C library's malloc serves the test harness. `rows.rs` has the others.
#![allow(unsafe_code)] // Raw blocks, as a C program has them.

#[path = "model/mod.rs"]
mod model;
mod support;

use fencepost::abi;
use fencepost::front::{self, Source};
use fencepost::os::page_size;
use fencepost::size::Geometry;
use fencepost::stats::Snapshot;
use model::{Bed, Rng};
use std::ffi::c_void;
use support::{Outcome, Run};

/// Which part of a test a child process is to play.
const CASE: &str = "FENCEPOST_TEST_CASE";

fn start() {
    front::init(Source::Reserved, 0);
}

fn case() -> Option<String> {
    start();
    std::env::var(CASE).ok()
}

/// Runs the test of this name alone in a child process, which plays `case`.
fn child(test: &str, case: &str, env: &[(&str, &str)]) -> Outcome {
    Run::new(std::env::current_exe().expect("a test knows its program"))
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CASE, case)
        .envs(env)
        .output()
}

/// Runs the body in a process where nobody else allocates from us.
fn alone(test: &str, body: impl FnOnce()) {
    if case().is_some() {
        body();
    } else {
        child(test, "alone", &[]).expect_success(test);
    }
}

/// The address that a child wrote before its crime.
fn address(end: &Outcome) -> String {
    let out = end.out();
    let line = out.lines().find_map(|l| l.strip_prefix("block "));
    line.unwrap_or_else(|| panic!("no address: {}", end.tail()))
        .into()
}

fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

fn set_errno(to: i32) {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = to }
}

fn free(block: *mut c_void) {
    // SAFETY: every caller passes NULL or a block that it owns, or means the crime.
    unsafe { abi::free(block) }
}

/// Which pages of a range are in memory.
fn in_memory(addr: usize, len: usize) -> Vec<bool> {
    let mut told = vec![0u8; len.div_ceil(page_size())];
    // SAFETY: a byte for every page; only the page tables are looked at.
    let done = unsafe {
        let start = std::ptr::without_provenance_mut(addr);
        libc::mincore(start, len, told.as_mut_ptr())
    };
    assert_eq!(done, 0, "mincore: {}", errno());
    told.into_iter().map(|page| page & 1 != 0).collect()
}

#[test]
fn row_019_the_page_size_is_the_kernels() {
    // SAFETY: asks a number.
    let told = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    assert_eq!(page_size(), told as usize);
    // valloc and pvalloc go by it.
    start();
    // SAFETY: nothing is demanded.
    let (page, pages) = unsafe { (abi::valloc(1), abi::pvalloc(page_size() + 1)) };
    assert_eq!(
        (page.addr() % page_size(), pages.addr() % page_size()),
        (0, 0)
    );
    // SAFETY: a block in use.
    assert!(unsafe { abi::malloc_usable_size(pages) } >= 2 * page_size());
    free(page);
    free(pages);
}

#[test]
fn row_037_no_memory_until_it_is_touched() {
    alone("row_037_no_memory_until_it_is_touched", || {
        // SAFETY: huge pages would come many at a time.
        let done = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
        assert_eq!(done, 0);
        let page = page_size();
        for block in [abi::malloc(1 << 20), abi::calloc(1 << 10, 1 << 10)] {
            // The block's own words are in its mapping's first page.
            let first = (block.addr() & !(page - 1)) + page;
            let len = (block.addr() + (1 << 20) - first) & !(page - 1);
            let pages = len / page;
            assert!(pages * page >= (1 << 20) - 2 * page);
            assert_eq!(in_memory(first, len), vec![false; pages]);
            for touched in [pages / 2, 0, pages - 1] {
                let before = in_memory(first, len);
                assert!(!before[touched]);
                // SAFETY: inside the block.
                unsafe {
                    block
                        .cast::<u8>()
                        .with_addr(first + touched * page)
                        .write(1)
                };
                let mut expected = before;
                expected[touched] = true;
                assert_eq!(in_memory(first, len), expected, "one page came");
            }
            free(block);
        }
    });
}

#[test]
fn row_040_system_calls_per_million_allocations() {
    alone("row_040_system_calls_per_million_allocations", || {
        let calls = || front::snapshot().os_calls.iter().sum::<u64>();
        let mut random = Rng::new(40);
        let mut blocks = vec![std::ptr::null_mut(); 1000];
        let mut churn = |count: usize, largest: usize| {
            for _ in 0..count {
                let place = random.below(blocks.len());
                free(blocks[place]);
                blocks[place] = abi::malloc(1 + random.below(largest));
                assert!(!blocks[place].is_null());
            }
        };
        churn(20_000, 2000);
        let before = (calls(), front::snapshot().mallocs);
        churn(1_000_000, 2000);
        let made = calls() - before.0;
        assert!(front::snapshot().mallocs - before.1 >= 1_000_000);
        assert!(made < 100, "{made} calls for a million allocations");
        // Large blocks that come and go reuse what is kept; those that stay cost a call each.
        let before = calls();
        for _ in 0..10_000 {
            free(abi::malloc(1 << 20));
        }
        let reused = calls() - before;
        assert!(reused < 100, "{reused} calls for 10,000 large blocks");
        assert_eq!(abi::mallopt(-3, 128 << 10), 1); // M_MMAP_THRESHOLD
        let before = calls();
        let kept = [(); 100].map(|()| abi::malloc(1 << 20));
        assert!(calls() - before >= 99, "they are counted");
        kept.into_iter().for_each(free);
    });
}

#[test]
fn row_050_large_blocks_are_placed_from_the_top_down_and_merge() {
    alone(
        "row_050_large_blocks_are_placed_from_the_top_down_and_merge",
        || {
            // Too large for the gaps between libraries; no multiple of a huge page, to which the
            // kernel would align it.
            let len = (64 << 20) + 3 * page_size();
            let blocks = [(); 4].map(|()| abi::malloc(len - 100));
            for pair in blocks.windows(2) {
                assert_eq!(pair[0].addr() - pair[1].addr(), len, "just below the last");
            }
            let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is there");
            let areas: Vec<(usize, usize, &str)> = maps
                .lines()
                .map(|line| {
                    let (range, rest) = line.split_once(' ').expect("a range");
                    let (from, to) = range.split_once('-').expect("two ends");
                    let number = |text| usize::from_str_radix(text, 16).expect("an address");
                    (number(from), number(to), rest)
                })
                .collect();
            let area = |addr: usize| {
                let found = areas
                    .iter()
                    .find(|(from, to, _)| (*from..*to).contains(&addr));
                *found.unwrap_or_else(|| panic!("{addr:#x} in {maps}"))
            };
            // One area of private anonymous memory, below libraries and stack.
            let (from, to, rest) = area(blocks[3].addr());
            assert!(from <= blocks[3].addr() && blocks[0].addr() + len - 100 <= to);
            assert!(rest.starts_with("rw-p 00000000 00:00 0"), "{rest}");
            let local = 0u8;
            assert!(to <= area((&raw const local).addr()).0);
            let library = areas.iter().find(|(.., rest)| rest.contains("/libc.so"));
            let library = library.expect("the test runs with the C library");
            assert!(to <= library.0);
            blocks.into_iter().for_each(free);
        },
    );
}

#[test]
fn row_080_malloc_returns_aligned_memory_or_null() {
    start();
    for size in (0..3000).chain([40_000, 131_048, 131_049, 3_000_000]) {
        let block = abi::malloc(size);
        assert!(!block.is_null());
        assert_eq!(block.addr() % 16, 0, "a block of {size} bytes");
        // SAFETY: the block has that many bytes.
        unsafe { block.cast::<u8>().write_bytes(0xaa, size) };
        free(block);
    }
    assert_eq!((Geometry::<8>::ALIGN, Geometry::<4>::ALIGN), (16, 8));
}

#[test]
fn row_082_malloc_zero_is_unique_and_freeable() {
    start();
    let (a, b) = (abi::malloc(0), abi::malloc(0));
    assert!(!a.is_null() && !b.is_null() && a != b);
    // SAFETY: both blocks are in use.
    let usable = unsafe { [abi::malloc_usable_size(a), abi::malloc_usable_size(b)] };
    assert_eq!(usable, [24, 24]);
    free(a);
    free(b);
}

#[test]
fn row_083_free_null_does_nothing() {
    alone("row_083_free_null_does_nothing", || {
        free(abi::malloc(100));
        let before = format!("{:?}", front::snapshot());
        set_errno(77);
        free(std::ptr::null_mut());
        assert_eq!(errno(), 77);
        assert_eq!(format!("{:?}", front::snapshot()), before);
    });
}

#[test]
fn row_084_free_leaves_the_pointer_dangling() {
    start();
    let block = abi::malloc(1000);
    let dangling = block;
    free(block);
    assert_eq!(dangling, block, "free cannot change the pointer");
    assert_eq!(abi::malloc(1000), dangling, "its block is handed out again");
    free(dangling);
}

#[test]
fn row_085_double_free_is_caught_on_every_path() {
    const NAME: &str = "row_085_double_free_is_caught_on_every_path";
    /// Where the block is, its request, what happens between the two frees, how many bytes the
    /// message names.
    type Path = (&'static str, usize, fn(), usize);
    const PATHS: [Path; 6] = [
        ("cache", 24, || (), 24),
        ("fast bin", 24, || (), 24),
        ("unsorted bin", 500, || (), 504),
        (
            "small bin",
            500,
            || {
                let _ = abi::malloc(20_000);
            },
            504,
        ),
        ("top", 70_000, || (), 0),
        ("mapping", 300_000, || (), 0),
    ];
    if let Some(case) = case() {
        let (name, request, between, _) = PATHS
            .into_iter()
            .find(|(name, ..)| *name == case)
            .expect("a path of this name");
        let block = abi::malloc(request);
        if name != "top" {
            // So that the freed block does not become part of top.
            let _ = abi::malloc(request);
        }
        println!("\nblock {:#x}", block.addr());
        free(block);
        between();
        free(block);
        println!("not caught");
        return;
    }
    for (name, _, _, bytes) in PATHS {
        let cache = if name == "cache" { "1" } else { "0" };
        let end = child(NAME, name, &[("FENCEPOST_CACHE", cache)]);
        assert_eq!(end.signal(), Some(libc::SIGABRT), "{name}: {}", end.tail());
        let said = format!("fencepost: double free: {} (", address(&end));
        let err = end.err();
        assert!(err.starts_with(&said), "{name}: {err}");
        assert_eq!(err.lines().count(), 1, "{name}: {err}");
        if bytes != 0 {
            assert!(
                err.ends_with(&format!("({bytes} bytes)\n")),
                "{name}: {err}"
            );
        }
    }
}

#[test]
fn row_086_free_of_foreign_pointers_is_refused() {
    const NAME: &str = "row_086_free_of_foreign_pointers_is_refused";
    static STATIC: [u128; 4] = [0; 4];
    let inside = " is inside a chunk (";
    let foreign = " was not allocated here\n";
    let kinds = [
        ("misaligned", inside),
        ("interior", inside),
        ("interior of a mapping", inside),
        ("stack", foreign),
        ("static", foreign),
        ("misaligned static", foreign),
        ("null page", foreign),
        ("kernel half", foreign),
        ("first byte of the heap", foreign),
        ("last bytes of the heap", inside),
    ];
    if let Some(case) = case() {
        let local = [1u128; 4];
        let block = abi::malloc(500);
        let mapping = abi::malloc(300_000);
        let at = |base: usize, offset: usize| std::ptr::without_provenance_mut(base + offset);
        let bad: *mut c_void = match &case[..] {
            "misaligned" => at(block.addr(), 8),
            "interior" => at(block.addr(), 64),
            "interior of a mapping" => at(mapping.addr(), 4096),
            "stack" => at(local.as_ptr().addr(), 16),
            "static" => at(STATIC.as_ptr().addr(), 16),
            "misaligned static" => at(STATIC.as_ptr().addr(), 3),
            "null page" => at(64, 0),
            "kernel half" => at(usize::MAX - 63, 0),
            // Regions begin at the beginning of a page and this one with the first block.
            "first byte of the heap" => at(block.addr() & !4095, 0),
            "last bytes of the heap" => at(block.addr() | 4095, 0),
            _ => unreachable!(),
        };
        println!("\nblock {:#x}", bad.addr());
        free(bad);
        println!("not caught {local:?}");
        return;
    }
    for (name, class) in kinds {
        let end = child(NAME, name, &[]);
        assert_eq!(end.signal(), Some(libc::SIGABRT), "{name}: {}", end.tail());
        let said = format!("fencepost: invalid free: {}{class}", address(&end));
        assert!(end.err().starts_with(&said), "{name}: {}", end.err());
        assert_eq!(end.err().lines().count(), 1, "{name}: {}", end.err());
    }
}

#[test]
fn row_087_members_before_owner_example() {
    #[repr(C)]
    struct Unit {
        number: i32,
        text: *mut u8,
    }
    alone("row_087_members_before_owner_example", || {
        free(abi::malloc(10));
        let before = front::snapshot().live_bytes;
        let unit: *mut Unit = abi::malloc(size_of::<Unit>()).cast();
        let text: *mut u8 = abi::malloc(20).cast();
        // SAFETY: two blocks of these sizes.
        unsafe {
            unit.write(Unit { number: 1, text });
            text.write_bytes(b'x', 20);
            assert_eq!(front::snapshot().live_bytes - before, 64);
            assert_eq!((*unit).number, 1);
            free((*unit).text.cast());
            (*unit).text = std::ptr::null_mut();
        }
        free(unit.cast());
        assert_eq!(front::snapshot().live_bytes, before);
    });
    // Two chunks of 32, side by side in one page.
    let mut bed = Bed::new();
    let (unit, text) = (bed.get(16), bed.get(20));
    assert_eq!((unit.size(), text.size()), (32, 32));
    assert_eq!(text.addr(), unit.addr() + 32);
    assert_eq!(unit.addr() / 4096, (text.addr() + 32) / 4096);
}

#[test]
fn row_088_a_lost_block_stays_counted_as_live() {
    fn foo() {
        let _lost = abi::malloc(10);
    }
    alone("row_088_a_lost_block_stays_counted_as_live", || {
        free(abi::malloc(10));
        let before = front::snapshot();
        foo();
        let after = front::snapshot();
        assert_eq!(after.live_bytes - before.live_bytes, 32);
        assert_eq!(
            after.mallocs - after.frees,
            before.mallocs - before.frees + 1
        );
        front::trim(0);
        assert_eq!(front::snapshot().live_bytes, after.live_bytes);
    });
}

#[test]
fn row_089_calloc_zeroes_and_realloc_edges() {
    start();
    for size in [1, 24, 100, 5000, 70_000, 300_000] {
        let dirty = abi::malloc(size);
        // SAFETY: the block has that many bytes.
        unsafe { dirty.cast::<u8>().write_bytes(0xff, size) };
        free(dirty);
        let block = abi::calloc(size, 1);
        // SAFETY: as above, and calloc's memory is initialised.
        let bytes = unsafe { std::slice::from_raw_parts(block.cast::<u8>(), size) };
        assert!(bytes.iter().all(|b| *b == 0), "calloc of {size}");
        free(block);
    }
    set_errno(0);
    assert!(abi::calloc(usize::MAX / 2, 3).is_null());
    assert_eq!(errno(), libc::ENOMEM);
    set_errno(0);
    assert!(abi::malloc(isize::MAX as usize).is_null());
    assert_eq!(errno(), libc::ENOMEM);
    // SAFETY: NULL, then blocks in use.
    unsafe {
        let block = abi::realloc(std::ptr::null_mut(), 100);
        assert!(!block.is_null());
        block.cast::<u8>().write_bytes(7, 100);
        let block = abi::realloc(block, 5000);
        assert_eq!(block.cast::<u8>().add(99).read(), 7);
        assert!(abi::realloc(block, 0).is_null());
    }
}

#[test]
fn row_091_free_keeps_memory_below_the_hysteresis() {
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
        let pages = statm.split(' ').nth(1).expect("the second field");
        pages.parse::<usize>().expect("a number") * page_size()
    }
    alone("row_091_free_keeps_memory_below_the_hysteresis", || {
        let blocks: Vec<*mut c_void> = (0..5000)
            .map(|_| {
                let block = abi::malloc(100);
                // SAFETY: the block has that many bytes.
                unsafe { block.cast::<u8>().write_bytes(1, 100) };
                block
            })
            .collect();
        let made = front::snapshot();
        let calls: u64 = made.os_calls.iter().sum();
        assert!(made.mallocs >= 5000);
        assert!(
            calls * 100 < made.mallocs,
            "{calls} calls for {} mallocs",
            made.mallocs
        );
        let before = resident();
        blocks.into_iter().for_each(free);
        let after = resident();
        // Half a megabyte was freed; the kernel got none of it.
        assert!(after + (64 << 10) > before, "{before} to {after}");
        let now: u64 = front::snapshot().os_calls.iter().sum();
        assert!(now <= calls + 2, "{calls} to {now} calls");
    });
}

#[test]
fn row_103_large_requests_are_mapped_and_the_threshold_slides() {
    alone(
        "row_103_large_requests_are_mapped_and_the_threshold_slides",
        || {
            let mapped = || front::snapshot().mapped;
            let heap = abi::malloc(131_048);
            assert_eq!(mapped().chunks, 0);
            let mapping = abi::malloc(131_049);
            // 32 pages are enough; glibc needs one more (135,168 bytes), for its size word is
            // followed by a field that ours does without.
            assert_eq!((mapped().chunks, mapped().bytes), (1, 131_072));
            // A mapping goes to no bin.
            let bins = |s: Snapshot| s.unsorted.bytes + s.small.bytes + s.large.bytes;
            let before = bins(front::snapshot());
            free(mapping);
            assert_eq!(mapped().chunks, 0);
            assert_eq!(bins(front::snapshot()), before);
            free(heap);
            // It slides up to what was freed.
            let served = || front::snapshot().mapped_served;
            let before = served();
            let once = abi::malloc(200_000);
            assert_eq!(served(), before + 1);
            free(once);
            let again = abi::malloc(200_000);
            assert_eq!(served(), before + 1, "from the heap now");
            free(again);
            // And stops where the user says so.
            assert_eq!(abi::mallopt(-3, 140_000), 1);
            let fixed = [150_000, 150_000].map(|n| {
                let block = abi::malloc(n);
                free(block);
                served()
            });
            assert_eq!(fixed, [before + 2, before + 3]);
        },
    );
}

/// Whether a byte can be stored, as the kernel sees it: without a signal if not.
fn can_store(at: *mut u8) -> Result<(), i32> {
    let mut byte = 1u8;
    let part = |base: *mut u8| libc::iovec {
        iov_base: base.cast(),
        iov_len: 1,
    };
    let (from, to) = (part(&raw mut byte), part(at));
    // SAFETY: the byte that is overwritten is a block's own.
    let done = unsafe { libc::process_vm_writev(libc::getpid(), &from, 1, &to, 1, 0) };
    if done == 1 { Ok(()) } else { Err(errno()) }
}

#[test]
fn row_122_aligned_pages_can_be_protected() {
    const NAME: &str = "row_122_aligned_pages_can_be_protected";
    fn protect(at: *mut u8, prot: i32) -> Result<(), i32> {
        // SAFETY: the page of a block that nobody looks at meanwhile.
        match unsafe { libc::mprotect(at.cast(), page_size(), prot) } {
            0 => Ok(()),
            _ => Err(errno()),
        }
    }
    const BOTH: i32 = libc::PROT_READ | libc::PROT_WRITE;
    let page = page_size();
    // SAFETY: nothing is demanded.
    let get = || unsafe { abi::aligned_alloc(page, page) }.cast::<u8>();
    match case().as_deref() {
        Some("crime") => {
            let block = get();
            assert_eq!(protect(block, libc::PROT_READ), Ok(()));
            println!("\nprotected");
            // SAFETY: it is not; that is the crime.
            unsafe { block.write_volatile(1) };
            println!("not caught");
        }
        Some(_) => {
            let plain = abi::malloc(100).cast::<u8>();
            let within = plain.with_addr(plain.addr() & !(page - 1) | 16);
            assert_eq!(protect(within, libc::PROT_READ), Err(libc::EINVAL));
            let blocks = [(); 20].map(|()| get());
            for (index, block) in blocks.iter().enumerate() {
                assert_eq!(block.addr() % page, 0);
                // SAFETY: a block of one page.
                unsafe { block.write_bytes(index as u8, page) };
            }
            for block in blocks.iter().step_by(2) {
                assert_eq!(protect(*block, libc::PROT_READ), Ok(()));
            }
            // The heap goes on around them: nothing of its own lies in those pages.
            let others: Vec<*mut c_void> = (0..2000).map(|n| abi::malloc(n * 7)).collect();
            blocks
                .iter()
                .skip(1)
                .step_by(2)
                .for_each(|b| free(b.cast()));
            others.into_iter().for_each(free);
            front::trim(0);
            for (index, block) in blocks.iter().enumerate().step_by(2) {
                assert_eq!(can_store(*block), Err(libc::EFAULT));
                assert_eq!(protect(*block, BOTH), Ok(()));
                assert_eq!(can_store(*block), Ok(()));
                // SAFETY: a block of one page, all of it written.
                let bytes = unsafe { std::slice::from_raw_parts(*block, page) };
                assert!(bytes[1..].iter().all(|b| *b == index as u8));
                free(block.cast());
            }
            // Freed, they are memory like any other.
            let again: Vec<*mut u8> = (0..20).map(|_| get()).collect();
            assert!(again.iter().any(|block| blocks.contains(block)));
            for block in again {
                // SAFETY: a block of one page.
                unsafe { block.write_bytes(0xff, page) };
                free(block.cast());
            }
        }
        None => {
            child(NAME, "alone", &[]).expect_success(NAME);
            let end = child(NAME, "crime", &[]);
            assert_eq!(end.signal(), Some(libc::SIGSEGV), "{}", end.tail());
            assert!(end.out().contains("protected"), "{}", end.tail());
        }
    }
}

/// The numbers in the line of the statistics about free memory: all bytes, bytes of the largest
/// block, percent.
fn told_of_free(text: &str) -> [u64; 3] {
    let line = text.lines().find_map(|line| line.strip_prefix("  free "));
    let line = line.unwrap_or_else(|| panic!("no line about free memory: {text}"));
    let numbers: Vec<u64> = line
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers.try_into().expect("three numbers")
}

#[test]
fn row_118_the_largest_free_block_is_reported() {
    const NAME: &str = "row_118_the_largest_free_block_is_reported";
    const REQUEST: usize = 100_000;
    if case().is_some() {
        let mut blocks: Vec<*mut c_void> = (0..2000).map(|_| abi::malloc(1000)).collect();
        while front::snapshot().top_bytes >= 2000 {
            blocks.push(abi::malloc(1000));
        }
        // The last one stays, so that nothing merges with top.
        let last = blocks.pop().expect("many");
        blocks.iter().step_by(2).for_each(|block| free(*block));
        let holes = front::snapshot();
        holes.write_to(1, 0);
        // Ten times as much is free, and none of it is of use.
        assert!(holes.free_bytes > 10 * REQUEST as u64, "{holes:?}");
        assert!(holes.largest_free < 2000, "{holes:?}");
        assert!(holes.external_fragmentation() > 0.99, "{holes:?}");
        let large = abi::malloc(REQUEST);
        let grown = front::snapshot();
        assert_eq!(grown.mapped.chunks, 0, "it is the heap's");
        let more = grown.system_bytes - holes.system_bytes;
        assert!(more > (REQUEST - 8192) as u64, "it grew by {more}");
        assert!(grown.free_bytes >= 1000 * 1008, "the holes are still there");
        // What fits into a hole needs nothing.
        let small = abi::malloc(1000);
        assert_eq!(front::snapshot().system_bytes, grown.system_bytes);
        free(small);
        // Without the blocks between the holes they are one block, and the next request fits.
        let rest = blocks.iter().skip(1);
        rest.step_by(2).for_each(|block| free(*block));
        free(last);
        let whole = front::snapshot();
        let binned = [whole.unsorted, whole.small, whole.large];
        assert_eq!(binned.map(|t| t.chunks).iter().sum::<u64>(), 1);
        assert!(whole.largest_free >= 2000 * 1008, "{whole:?}");
        // It and top are two.
        assert!(whole.external_fragmentation() <= 0.5, "{whole:?}");
        let second = abi::malloc(REQUEST);
        assert!(front::snapshot().system_bytes <= whole.system_bytes);
        free(second);
        free(large);
        return;
    }
    // Without caches a free block is free at once, and without a pad top is small.
    let env = [("FENCEPOST_CACHE", "0"), ("MALLOC_TOP_PAD_", "0")];
    let outcome = child(NAME, "holes", &env).expect_success(NAME);
    let [free, largest, percent] = told_of_free(&outcome.out());
    assert!(free > 10 * REQUEST as u64, "{free}");
    assert!((1008..2000).contains(&largest), "{largest}");
    assert_eq!(percent, (free - largest) * 100 / free);
    assert_eq!(percent, 99);
}

#[test]
fn row_118_free_memory_of_all_arenas_is_reported() {
    const NAME: &str = "row_118_free_memory_of_all_arenas_is_reported";
    if case().is_none() {
        let env = [("FENCEPOST_CACHE", "0"), ("MALLOC_ARENA_MAX", "2")];
        child(NAME, "arenas", &env).expect_success(NAME);
        return;
    }
    let ours = abi::malloc(1000);
    std::thread::scope(|scope| {
        scope.spawn(|| free(abi::malloc(50_000)));
    });
    // Nothing lies in a bin, so all that is free are the two tops.
    let all = front::snapshot();
    let tops: Vec<u64> = (0..all.arenas as usize)
        .map(|index| front::arena_snapshot(index).expect("an arena").top_bytes)
        .collect();
    assert_eq!(tops.len(), 2);
    assert!(tops[0] != tops[1] && tops.iter().all(|top| *top > 0));
    assert_eq!(all.free_bytes, tops[0] + tops[1]);
    assert_eq!(all.largest_free, tops[0].max(tops[1]));
    free(ours);
}
