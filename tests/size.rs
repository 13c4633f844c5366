//! Sizes, cache classes, bin numbers, and the line that reports are made of: pure functions.

use fencepost::bins::{BINS, FIRST_LARGE, bin_index, bin_range};
use fencepost::report::{Call, Line, Misuse};
use fencepost::size::{
    ALIGN, CACHED_REQUEST, CLASSES, DEPOT_CHUNK, DEPOT_CLASSES, Geometry, MAX_CHUNK, MIN_CHUNK,
    Native, align_down, align_up, class_of, class_size, large_size,
};

#[test]
fn every_request_gets_a_chunk_that_holds_it() {
    for request in 0..70_000 {
        let size = Native::chunk_size(request).expect("small");
        assert!(Native::usable(size) >= request, "{request}");
        assert!(size >= MIN_CHUNK && size.is_multiple_of(ALIGN), "{request}");
        // And no larger than it must be.
        let smaller = size - ALIGN;
        assert!(
            size == MIN_CHUNK || Native::usable(smaller) < request,
            "{request} in {size}"
        );
    }
}

#[test]
fn every_cached_request_has_a_class_that_holds_it() {
    let mut last = 0;
    for request in 0..=CACHED_REQUEST {
        let size = Native::chunk_size_unchecked(request);
        let class = class_of(size);
        assert!((2..CLASSES).contains(&class), "{request}: class {class}");
        let given = class_size(class);
        assert!(Native::usable(given) >= request, "{request} in {given}");
        // Small classes are exact; of the others at most a ninth of the chunk is waste.
        let waste = given - size;
        assert!(
            waste == 0 || size > 1040 && waste * 9 <= given,
            "{request}: {waste} of {given} bytes wasted"
        );
        assert!(class == last || class == last + 1 || last == 0, "{request}");
        last = class;
    }
    assert_eq!(last, CLASSES - 1);
}

#[test]
fn a_power_of_two_wastes_nothing() {
    for shift in 5..=16 {
        let request = 1 << shift;
        let size = Native::chunk_size_unchecked(request);
        assert_eq!(class_size(class_of(size)), size, "{request}");
    }
}

#[test]
fn class_sizes_grow_and_are_their_own_class() {
    assert_eq!((class_size(0), class_size(1)), (0, 0));
    for class in 2..DEPOT_CLASSES {
        let size = class_size(class);
        assert_eq!(class_of(size), class);
        assert!(size > class_size(class - 1));
        assert_eq!(class_of(size + ALIGN), class + 1);
    }
}

#[test]
fn large_chunks_come_in_few_sizes() {
    for shift in 17..33 {
        for eighth in 0..8 {
            let size = (1 << shift) + (eighth << (shift - 3)) + ALIGN;
            let given = large_size(size);
            assert!(
                given >= size && given.is_multiple_of(ALIGN),
                "{size}: {given}"
            );
            let part = if given <= DEPOT_CHUNK { 8 } else { 32 };
            assert!((given - size) * part <= size, "{size}: {given}");
            assert_eq!(large_size(given), given);
            assert!(
                given == size || large_size(given - ALIGN) == given,
                "{size}: {given}"
            );
        }
    }
    assert_eq!(large_size(MAX_CHUNK), MAX_CHUNK);
    assert_eq!(large_size(MAX_CHUNK - ALIGN), MAX_CHUNK - ALIGN);
    // What is written at even distances in blocks that follow each other lies in the same pages.
    assert!(large_size(5 << 20).is_multiple_of(128 << 10));
}

#[test]
fn absurd_requests_have_no_chunk() {
    for request in [usize::MAX, isize::MAX as usize, isize::MAX as usize - 8] {
        assert_eq!(Native::chunk_size(request), None, "{request}");
        assert_eq!(Geometry::<4>::chunk_size(request), None, "{request}");
    }
    let last = isize::MAX as usize - 2 * MIN_CHUNK;
    assert!(Native::chunk_size(last).is_some_and(|size| size <= isize::MAX as usize));
    assert_eq!(Native::chunk_size(last + 1), None);
}

#[test]
fn fast_limits_follow_mxfast() {
    assert_eq!(Native::fast_limit(0), 0);
    assert_eq!(Native::fast_limit(Native::DEFAULT_MXFAST), 128);
    assert_eq!(Native::fast_limit(Native::MAX_MXFAST), 160);
    assert_eq!(Geometry::<4>::fast_limit(Geometry::<4>::MAX_MXFAST), 80);
    assert_eq!(Native::fast_index(MIN_CHUNK), 0);
}

#[test]
fn bins_cover_every_size_in_order() {
    let mut last = 2;
    for size in (MIN_CHUNK..2 << 20).step_by(ALIGN) {
        let index = bin_index(size);
        assert!(index == last || index == last + 1, "{size}: bin {index}");
        let (from, to) = bin_range_cached(index);
        assert!((from..=to).contains(&size), "{size}: bin {index}");
        last = index;
    }
    assert_eq!(last, BINS - 1);
    assert_eq!(bin_index(MAX_CHUNK), BINS - 1);
    assert_eq!(bin_range(BINS - 1).1, MAX_CHUNK);
}

/// The ranges, found once.
fn bin_range_cached(index: usize) -> (usize, usize) {
    static RANGES: std::sync::OnceLock<Vec<(usize, usize)>> = std::sync::OnceLock::new();
    RANGES.get_or_init(|| (0..BINS).map(|i| bin_range(i.max(2))).collect())[index]
}

#[test]
fn bin_ranges_touch() {
    for index in 2..BINS - 1 {
        let (from, to) = bin_range(index);
        assert_eq!((bin_index(from), bin_index(to)), (index, index));
        assert_eq!(bin_range(index + 1).0, to + ALIGN, "after bin {index}");
        assert!(
            index >= FIRST_LARGE || from == to,
            "small bins hold one size"
        );
    }
}

#[test]
fn alignment_rounds_both_ways() {
    assert_eq!(
        [0, 1, 15, 16, 17].map(|n| align_up(n, 16)),
        [0, 16, 16, 16, 32]
    );
    assert_eq!(
        [0, 1, 15, 16, 17].map(|n| align_down(n, 16)),
        [0, 0, 0, 16, 16]
    );
}

fn text(line: &Line) -> &str {
    std::str::from_utf8(line.as_bytes()).expect("a line is text")
}

#[test]
fn lines_hold_numbers_and_columns() {
    let mut line = Line::new();
    line.decimal(0).text(" ").decimal(u64::MAX).text(" ").hex(0);
    line.text(" ").hex(0xdead_beef).text(" ").hex(usize::MAX);
    let max = format!("{:#x}", usize::MAX);
    assert_eq!(
        text(&line),
        format!("0 18446744073709551615 0x0 0xdeadbeef {max}")
    );
    let mut line = Line::new();
    line.column("ab", 5).column("too long", 3).raw(b"|");
    assert_eq!(text(&line), "ab   too long|");
}

#[test]
fn lines_end_at_their_capacity() {
    let mut line = Line::new();
    for _ in 0..100 {
        line.text("0123456789");
    }
    assert_eq!(line.as_bytes().len(), 256);
    line.column("x", 40).decimal(7);
    assert_eq!(line.as_bytes().len(), 256);
}

#[test]
fn every_misuse_is_one_sentence() {
    let (address, size, offset) = (0x7000, 48, 16);
    let call = Call::Realloc;
    let said = |misuse: Misuse| {
        let mut line = Line::new();
        misuse.describe(&mut line);
        text(&line).to_owned()
    };
    let sentences = [
        said(Misuse::DoubleFree { address, size }),
        said(Misuse::UseAfterFree {
            call,
            address,
            size,
        }),
        said(Misuse::InsideChunk {
            call: Call::Free,
            address,
            offset,
            size,
        }),
        said(Misuse::Foreign {
            call: Call::UsableSize,
            address,
        }),
        said(Misuse::CorruptHead { address }),
        said(Misuse::CorruptLink { address }),
    ];
    assert_eq!(
        sentences,
        [
            "fencepost: double free: 0x7000 (48 bytes)",
            "fencepost: invalid realloc: 0x7000 was freed before (48 bytes)",
            "fencepost: invalid free: 0x7000 is inside a chunk (16 bytes into a block of 48 bytes)",
            "fencepost: invalid usable_size: 0x7000 was not allocated here",
            "fencepost: corrupted chunk head: 0x7000",
            "fencepost: corrupted free list link: 0x7000",
        ]
    );
}
