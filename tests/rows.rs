//! Rows 19, 26, 81, 92 to 105, 108 and 112 of the inventory (`docs/inventory.md`), each by a test
//! named after its row: chunks and bins, on a bare heap below the caches. `rows_c.rs` has the
//! others.
#![allow(unsafe_code)] // The heap's memory is raw.

#[path = "model/mod.rs"]
mod model;

use fencepost::bins::{BINS, FIRST_LARGE, UNSORTED, bin_index};
use fencepost::chunk::{Link, State};
use fencepost::config::Key;
use fencepost::heap::{Found, Place, RUNGS};
use fencepost::os::{Os, OsError, Prot, Region};
use fencepost::size::{Geometry, HEADER, MIN_CHUNK, Native, align_up};
use fencepost::stats::Snapshot;
use model::{Bed, Host, Op, Piece, Plan, Rng, Script, Source, World};
use std::io::Seek;
use std::os::fd::AsRawFd;

/// Everything below the heap's caches goes by the page size that the kernel tells.
#[test]
fn row_019_the_heap_works_with_the_kernels_page_size() {
    for page in [4096, 16 << 10, 64 << 10] {
        for source in Source::ALL {
            let script = Script {
                page,
                ..Script::from_seed(19, source, if cfg!(miri) { 10 } else { 200 })
            };
            World::over_host(&script).run(&script.ops, 5);
            // The first request takes whole pages: the need and the pad, rounded up.
            let mut world = World::over_host(&script);
            let before = world.os().program_break();
            assert!(world.fill(1, 1));
            let got = world.heap.system_bytes();
            assert_eq!(got % page, 0, "{source:?} in pages of {page}");
            if source == Source::Break {
                assert_eq!(got, align_up((128 << 10) + MIN_CHUNK, page));
                assert_eq!(world.os().program_break() - before, got);
            }
            // And whole pages go back.
            assert!(world.fill(60_000, 5));
            world.finish();
            assert_eq!(world.heap.system_bytes() % page, 0);
        }
    }
}

/// The part of its chunk that a request does not use.
fn internal(request: usize) -> f64 {
    let chunk = Native::chunk_size_unchecked(request);
    (chunk - request) as f64 / chunk as f64
}

#[test]
fn row_026_external_and_internal_fragmentation_of_a_heap() {
    let percent = |request| (internal(request) * 1000.0).round() / 10.0;
    assert_eq!([24, 25].map(percent), [25.0, 47.9]);
    assert_eq!([24, 25].map(Native::chunk_size_unchecked), [32, 48]);
    // A heap that cannot grow, full of chunks of 1008 bytes.
    let mut bed = Bed::new();
    bed.get(1000);
    bed.ground.os().inner().refuse(0, u64::MAX);
    let mut row: Vec<Piece> = std::iter::from_fn(|| bed.try_get(1000)).collect();
    while bed.try_get(24).is_some() {}
    let left = bed.heap.totals();
    assert_eq!(left.free_bytes(), left.top_bytes as u64);
    assert_eq!(left.external_fragmentation(), 0.0, "one free chunk");
    // With every second one free there are many small holes.
    let mut keep = false;
    let (kept, gone): (Vec<Piece>, Vec<Piece>) = row.drain(..).partition(|_| {
        keep = !keep;
        keep
    });
    gone.iter().for_each(|c| bed.heap.free(*c));
    let holes = bed.heap.totals();
    let free = 1008 * gone.len() as u64 + left.free_bytes();
    assert!(gone.len() > 50);
    assert_eq!((holes.free_bytes(), holes.largest_free), (free, 1008));
    let expected = 1.0 - 1008.0 / free as f64;
    assert_eq!(holes.external_fragmentation(), expected);
    assert!(expected > 0.98);
    assert!(bed.try_get(2000).is_none(), "{free} bytes, none for 2000");
    // Without what lies between they are one hole.
    kept.iter().for_each(|c| bed.heap.free(*c));
    let whole = bed.heap.totals();
    assert!(whole.external_fragmentation() < 0.01, "{whole:?}");
    assert!(bed.try_get(free as usize).is_some());
}

/// What the statistics print about free memory.
fn report_of_free(free_bytes: u64, largest_free: u64) -> String {
    let all = Snapshot {
        free_bytes,
        largest_free,
        ..Snapshot::default()
    };
    let mut file = tempfile::tempfile().expect("a file");
    all.write_to(file.as_raw_fd(), 0);
    file.rewind().expect("a file");
    let text = std::io::read_to_string(file).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix("  free "));
    line.expect("a line about free memory").trim().into()
}

#[test]
#[cfg(not(miri))] // A file.
fn row_026_the_report_says_how_fragmented_free_memory_is() {
    for (free, largest, percent) in [
        (0, 0, 0),
        (1008, 1008, 0),
        // Row 24's holes.
        (256 << 20, 128 << 20, 50),
        (800, 500, 37),
        // Not all of it, for the largest piece is a piece.
        (1_008_000, 1008, 99),
    ] {
        let expected = format!(
            "{free} bytes, {largest} in the largest block, {percent} % external fragmentation"
        );
        assert_eq!(report_of_free(free, largest), expected);
    }
    // A heap with chunks of 1008 bytes, every second one free, beside top.
    let mut bed = Bed::new();
    let row: Vec<Piece> = (0..200).map(|_| bed.get(1000)).collect();
    let fast = bed.get(24);
    bed.get(24);
    row.iter().step_by(2).for_each(|c| bed.heap.free(*c));
    let before = bed.heap.totals();
    let top = before.top_bytes as u64;
    assert_eq!(before.free_bytes(), 100 * 1008 + top);
    assert_eq!(before.largest_free as u64, top.max(1008));
    // A fast chunk is not free: nothing is merged with it.
    bed.heap.free(fast);
    let after = bed.heap.totals();
    assert_eq!(bed.heap.place_of(fast.payload()), Place::Fast(0));
    assert_eq!(after.free_bytes(), before.free_bytes());
    assert_eq!(after.largest_free, before.largest_free);
}

#[test]
fn row_081_failing_os_calls_give_null_and_lose_nothing() {
    let ops: Vec<Op> = (0..40)
        .flat_map(|i| {
            [
                Op::Malloc(100 + i * 1000),
                Op::Malloc(20),
                Op::Realloc(i * 7, 30_000),
                Op::Free(i * 3),
            ]
        })
        .collect();
    let script = Script {
        source: model::Source::Break,
        page: 4096,
        near: false,
        tight: false,
        ops,
    };
    let mut world = World::over_host(&script);
    world.os().refuse(u64::MAX, u64::MAX);
    script.ops.iter().for_each(|op| world.apply(*op));
    let calls = world.os().made();
    assert!(calls > 5, "only {calls} calls");
    for k in 0..calls {
        let mut world = World::over_host(&script);
        world.os().refuse(k, k + 1);
        world.run(&script.ops, 1);
        assert_eq!(world.os().refused(), 1, "call {k}");
    }
    // With nothing at all the answer is NULL.
    let mut world = World::over_host(&script);
    world.os().refuse(0, u64::MAX);
    assert!(!world.fill(100, 1));
}

#[test]
fn row_092_chunk_has_six_fields() {
    let fields = |of: fn(usize) -> usize| [0, 1, 2, 3, 4, 5].map(of);
    assert_eq!(fields(Geometry::<8>::field_offset), [0, 8, 16, 24, 32, 40]);
    assert_eq!(fields(Geometry::<4>::field_offset), [0, 4, 8, 12, 16, 20]);
    assert_eq!(
        (Geometry::<8>::MIN_CHUNK, Geometry::<4>::MIN_CHUNK),
        (32, 16)
    );
    // The same in memory: three large free chunks, the middle one with all its links.
    let mut bed = Bed::new();
    let chunks = [2024, 2008, 1992].map(|n| {
        let chunk = bed.get(n);
        bed.get(200);
        chunk
    });
    chunks.iter().for_each(|c| bed.heap.free(*c));
    bed.get(100_000);
    let [large, middle, small] = chunks;
    let behind = bed.at(middle.addr() + middle.size());
    assert_eq!(bed.read(behind.addr()), 2016, "prev_size");
    let head = bed.read(middle.addr() + 8) as u32;
    assert_eq!(head, 2016 / 2 + 1, "size/16 and PREV_INUSE in the low half");
    let links = [16, 24, 32, 40].map(|offset| bed.link_of(middle, offset));
    let (next, before) = (small.addr(), large.addr());
    assert_eq!(links, [next, before, next, before]);
    let named = [Link::Fd, Link::Bk, Link::FdSize, Link::BkSize].map(|l| l as usize);
    assert_eq!(named, [16, 24, 32, 40]);
}

#[test]
fn row_093_there_are_128_bins() {
    // Numbers 0 and 127 are never used.
    assert_eq!(BINS + 1, 128);
    let mut used = [false; BINS];
    let sizes = (MIN_CHUNK..1 << 20).step_by(16);
    sizes.for_each(|size| used[bin_index(size)] = true);
    let count = |range: std::ops::Range<usize>| used[range].iter().filter(|b| **b).count();
    assert_eq!(UNSORTED, 1);
    assert_eq!(count(0..2), 0);
    assert_eq!(count(2..FIRST_LARGE), 62);
    assert_eq!(count(FIRST_LARGE..BINS), 63);
}

#[test]
fn row_094_free_goes_to_the_unsorted_bin_first() {
    let mut bed = Bed::new();
    let chunk = bed.get(500);
    bed.get(500);
    bed.heap.free(chunk);
    assert_eq!(bed.heap.place_of(chunk.payload()), Place::Unsorted);
    bed.get(600);
    assert_eq!(bed.heap.place_of(chunk.payload()), Place::Bin(512 / 16));
}

#[test]
fn row_095_small_bins_are_62() {
    type Half = Geometry<4>;
    type Full = Geometry<8>;
    let bins = |index: fn(usize) -> usize, sizes: Vec<usize>| {
        let bins: Vec<usize> = sizes.into_iter().map(index).collect();
        bins
    };
    let expected: Vec<usize> = (2..64).collect();
    assert_eq!((504 - 16) / 8 + 1, expected.len());
    assert_eq!(
        bins(Half::bin_index, (16..=504).step_by(8).collect()),
        expected
    );
    assert_eq!(
        bins(Full::bin_index, (32..=1008).step_by(16).collect()),
        expected
    );
    let half = [500, 501].map(Half::chunk_size_unchecked);
    let full = [1000, 1001].map(Full::chunk_size_unchecked);
    assert_eq!((half, full), ([504, 512], [1008, 1024]));
    assert_eq!(half.map(Half::is_small), [true, false]);
    assert_eq!(full.map(Full::is_small), [true, false]);
}

#[test]
fn row_096_large_bins_are_sorted_and_split() {
    let sizes = [1024, 3136, 11264, 45056, 163_840, 786_432];
    let bins = sizes.map(Geometry::<8>::bin_index);
    assert_eq!(bins, [64, 97, 112, 120, 124, 126]);
    assert_eq!(Geometry::<4>::bin_index(512), 64);
    // Sorted whatever the order in which they come.
    let mut bed = Bed::new();
    let chunks = [2008, 2024, 1992, 2008].map(|n| {
        let chunk = bed.get(n);
        bed.get(200);
        chunk
    });
    chunks.iter().for_each(|c| bed.heap.free(*c));
    bed.get(100_000);
    let list = *bed.heap.forge().bins.list(bin_index(2016));
    let listed: Vec<usize> = list
        .iter(fencepost::chunk::Through::Bin, bed.ground.keys())
        .map(|c| c.size())
        .collect();
    assert_eq!(listed, [2032, 2016, 2016, 2000]);
    // Split: 4032 serves 1520, and the rest the next request.
    let mut bed = Bed::new();
    let block = bed.get(4024);
    bed.get(200);
    assert_eq!(block.size(), 4032);
    bed.heap.free(block);
    let first = bed.get(1512);
    assert_eq!((first.addr(), first.size()), (block.addr(), 1520));
    let rest = bed.at(block.addr() + 1520);
    assert_eq!(bed.heap.place_of(rest.payload()), Place::Unsorted);
    assert_eq!(bed.get(500).addr(), block.addr() + 1520);
}

#[test]
fn row_097_fast_bins_are_lifo_and_bounded() {
    type Half = Geometry<4>;
    let limit = Half::fast_limit(Half::DEFAULT_MXFAST);
    let sizes = [60, 61].map(Half::chunk_size_unchecked);
    assert_eq!((limit, sizes), (64, [64, 72]));
    let limit = Native::fast_limit(Native::DEFAULT_MXFAST);
    let sizes = [120, 121].map(Native::chunk_size_unchecked);
    assert_eq!((limit, sizes), (128, [128, 144]));
    let mut bed = Bed::new();
    let [fast, not_fast] = [120, 121].map(|n| bed.get(n));
    bed.get(200);
    bed.heap.free(fast);
    bed.heap.free(not_fast);
    let places = [fast, not_fast].map(|c| bed.heap.place_of(c.payload()));
    assert_eq!(places, [Place::Fast(128 / 16 - 2), Place::Unsorted]);
    let [a, b, c] = [40, 40, 40].map(|n| bed.get(n).addr());
    for addr in [a, b, c] {
        let chunk = bed.at(addr);
        bed.heap.free(chunk);
    }
    assert_eq!([40, 40, 40].map(|n| bed.get(n).addr()), [c, b, a]);
}

/// A request is served by the first rung that can. Each of the first requests finds every rung
/// from its own on able to serve it.
#[test]
fn row_098_the_ladder_is_searched_in_order() {
    let mut bed = Bed::new();
    let settings = bed.ground.settings();
    let [fast, small, unsorted, larger, large] = [40, 40, 40, 100, 2024].map(|n| {
        let chunk = bed.get(n);
        bed.get(200);
        chunk
    });
    // Ten fast chunks side by side.
    let row: Vec<Piece> = (0..10).map(|_| bed.get(120)).collect();
    bed.get(200);
    assert!(settings.set(Key::Mxfast, 0));
    [small, larger, large]
        .iter()
        .for_each(|c| bed.heap.free(*c));
    bed.get(100_000); // Sorts them.
    bed.heap.free(unsorted);
    assert!(settings.set(Key::Mxfast, 128));
    bed.heap.free(fast);
    let places = [fast, small, unsorted, larger, large].map(|c| bed.heap.place_of(c.payload()));
    use Place::{Bin, Fast, Unsorted};
    assert_eq!(places, [Fast(1), Bin(3), Unsorted, Bin(7), Bin(79)]);

    let mut log = Vec::new();
    let mut serve = |bed: &mut Bed, request: usize| -> usize {
        let before = bed.heap.totals().rungs;
        let chunk = bed.get(request);
        let after = bed.heap.totals().rungs;
        let rungs = (0..RUNGS.len()).filter(|i| after[*i] != before[*i]);
        let rungs: Vec<&str> = rungs.map(|i| RUNGS[i]).collect();
        log.push(format!("{request}: {}", rungs.join(", ")));
        chunk.addr()
    };
    let got = [0; 6].map(|_| serve(&mut bed, 40));
    let from = [fast, small, unsorted, larger, large].map(|c| c.addr());
    assert_eq!(got[..5], from);
    assert_eq!(got[5], large.addr() + 48);
    // Nothing in the bins is large enough.
    serve(&mut bed, 3000);
    // A large request consolidates the fast bins before it looks further.
    row.iter().for_each(|c| bed.heap.free(*c));
    assert_eq!(bed.heap.place_of(row[0].payload()), Fast(6));
    assert_eq!(serve(&mut bed, 1272), row[0].addr());
    // Too large for what top has left.
    serve(&mut bed, 300_000);
    let expected = [
        "40: fast bin",
        "40: small bin",
        "40: unsorted bin",
        "40: split small",
        "40: large bin",
        "40: last remainder",
        "3000: top",
        "1272: unsorted bin",
        "300000: grown top",
    ];
    assert_eq!(log, expected);
}

#[test]
fn row_099_consolidation_merges_fast_chunks() {
    // Two adjacent blocks of 2000 become one chunk, which serves what neither could.
    let mut bed = Bed::new();
    let [a, b] = [2000, 2000].map(|n| bed.get(n));
    bed.get(200);
    bed.heap.free(a);
    bed.heap.free(b);
    assert_eq!(
        (a.size(), bed.heap.place_of(b.payload())),
        (4032, Place::Nowhere)
    );
    assert_eq!(bed.get(4024).addr(), a.addr());
    // Fast chunks stay apart until a request, or a large free, consolidates them.
    let mut bed = Bed::new();
    let [a, b] = [100, 100].map(|n| bed.get(n));
    bed.get(200);
    let large = bed.get(66_000);
    bed.get(200);
    bed.heap.free(a);
    bed.heap.free(b);
    let places = [a, b].map(|c| bed.heap.place_of(c.payload()));
    assert_eq!(places, [Place::Fast(5), Place::Fast(5)]);
    bed.heap.free(large);
    let places = [a, b].map(|c| bed.heap.place_of(c.payload()));
    assert_eq!(places, [Place::Unsorted, Place::Nowhere]);
    assert_eq!(a.size(), 224);
    bed.get(100_000);
    assert_eq!(bed.heap.place_of(a.payload()), Place::Bin(14));
    assert_eq!(
        bed.heap.place_of(large.payload()),
        Place::Bin(bin_index(66_016))
    );
}

#[test]
fn row_100_best_fit_then_top() {
    let mut bed = Bed::new();
    let chunks = [6000, 3000, 4000, 5000].map(|n| {
        let chunk = bed.get(n);
        bed.get(200);
        chunk
    });
    chunks.iter().for_each(|c| bed.heap.free(*c));
    // The smallest that is large enough, not the first.
    assert_eq!(bed.get(3500).addr(), chunks[2].addr());
    let top = bed.top().addr();
    assert_eq!(bed.get(7000).addr(), top, "no chunk fits");
}

#[test]
fn row_101_top_is_split_by_the_chunk_size() {
    let mut bed = Bed::new();
    bed.get(1);
    for request in [1, 100, 5000] {
        let (addr, size, _) = bed.heap.top();
        let chunk = bed.get(request);
        let (now, left, _) = bed.heap.top();
        assert_eq!(chunk.addr(), addr);
        assert_eq!((now, left), (addr + chunk.size(), size - chunk.size()));
        assert_eq!(bed.heap.place_of(now + HEADER), Place::Top);
    }
    assert!(bed.top().is(State::Top));
    let end = bed.heap.segments()[0].end;
    assert_eq!(
        bed.heap.top().0 + bed.heap.top().1,
        end,
        "top ends the heap"
    );
}

#[test]
fn row_102_top_grows_by_a_larger_piece() {
    let mut bed = Bed::new();
    let os = bed.ground.os();
    let before = os.program_break();
    bed.get(1);
    let grown = os.program_break() - before;
    // The need and a top pad of 128 KiB, rounded up to pages: as glibc does.
    assert_eq!(grown, 135_168);
    assert_eq!(os.inner().made(), 1);
    // The piece serves until it is used up; then top grows in place.
    while os.inner().made() == 1 {
        bed.get(1000);
    }
    assert!(bed.heap.used_bytes() > 128 << 10);
    assert_eq!(bed.heap.segments().len(), 1);
    assert_eq!(bed.heap.system_bytes(), os.program_break() - before);
}

#[test]
fn row_104_no_two_adjacent_free_chunks() {
    for seed in 0..20 {
        let script = Script::from_seed(1000 + seed, model::Source::Break, 150);
        let mut world = World::over_host(&script);
        for op in &script.ops {
            world.apply(*op);
            assert_merged(&world);
        }
    }
}

/// Walks the heap by itself, without the checker.
fn assert_merged(world: &World<model::Host>) {
    for segment in world.heap.segments() {
        let mut payload = segment.start + HEADER;
        let mut free_before = false;
        while let Found::Chunk(size, state) = world.heap.locate(payload) {
            let free = matches!(state, Some(State::Unsorted | State::Binned));
            let merges = free || state == Some(State::Top);
            assert!(!(free_before && merges), "two free chunks at {payload:#x}");
            if size == 0 {
                break;
            }
            free_before = free;
            payload += size;
        }
        assert!(payload > segment.start + HEADER || world.heap.top().0 == segment.start);
    }
}

#[test]
fn row_105_a_pool_of_blocks_costs_one_os_call() {
    let mut bed = Bed::new();
    let os = bed.ground.os();
    let blocks: Vec<Piece> = (0..1000).map(|_| bed.get(100)).collect();
    assert_eq!(os.inner().made(), 1, "one call for 1000 blocks");
    // Given back they are one piece again, without a call.
    blocks.iter().for_each(|c| bed.heap.free(*c));
    bed.heap.consolidate();
    let (top, size, _) = bed.heap.top();
    let segment = bed.heap.segments()[0];
    assert_eq!((top, top + size), (segment.start, segment.end));
    // The pool is enlarged from the system when it is used up.
    let more: Vec<Piece> = (0..2000).map(|_| bed.get(100)).collect();
    assert_eq!(os.inner().made(), 2);
    assert_eq!(more[0].addr(), segment.start);
}

/// What a heap looked like at one moment of a long run.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    external: f64,
    internal: f64,
    /// Memory from the system for each byte in use.
    overhead: f64,
}

/// The mean of some samples.
fn mean(of: &[Sample]) -> Sample {
    let by = |part: fn(&Sample) -> f64| of.iter().map(part).sum::<f64>() / of.len() as f64;
    Sample {
        external: by(|s| s.external),
        internal: by(|s| s.internal),
        overhead: by(|s| s.overhead),
    }
}

/// Blocks of mixed sizes come and go for a long time, about `places / 2` of them at once.
fn mixed_run(seed: u64, places: usize, steps: usize) -> Vec<Sample> {
    let mut bed = Bed::new();
    let mut random = Rng::new(seed);
    let mut blocks: Vec<Option<(Piece, usize)>> = vec![None; places];
    let (mut asked, mut samples) = (0, Vec::new());
    for step in 0..steps {
        let place = &mut blocks[random.below(places)];
        if let Some((chunk, request)) = place.take() {
            bed.heap.free(chunk);
            asked -= request;
        } else {
            let limit = [130, 130, 1100, 5000][random.below(4)];
            let request = 1 + random.below(limit);
            *place = Some((bed.get(request), request));
            asked += request;
        }
        if step % 100 == 0 && step >= 4 * places {
            let totals = bed.heap.totals();
            samples.push(Sample {
                external: totals.external_fragmentation(),
                internal: 1.0 - asked as f64 / totals.used_bytes as f64,
                overhead: totals.system_bytes as f64 / totals.used_bytes as f64,
            });
        }
    }
    bed.heap.check().expect("a sound heap");
    samples
}

/// From the middle of long runs to their end no measure of fragmentation becomes worse. A heap
/// that does not merge its free chunks needs a quarter more memory there, and more than twice as
/// much as this one everywhere.
#[test]
#[cfg(not(miri))] // A long run.
fn row_108_fragmentation_stays_flat_in_a_long_run() {
    let (mut middle, mut end) = (Vec::new(), Vec::new());
    // How large top is differs from run to run.
    for seed in 0..10 {
        let samples = mixed_run(seed, 1000, 100_000);
        let fifth = samples.len() / 5;
        middle.extend_from_slice(&samples[2 * fifth..3 * fifth]);
        end.extend_from_slice(&samples[4 * fifth..]);
    }
    assert!(middle.len() > 1000 && end.len() >= middle.len());
    let (middle, end) = (mean(&middle), mean(&end));
    let told = format!("{middle:?} {end:?}");
    assert!(end.external < middle.external + 0.03, "{told}");
    assert!((end.internal - middle.internal).abs() < 0.001, "{told}");
    assert!(end.overhead < 1.03 * middle.overhead, "{told}");
    assert!(end.external < 0.6 && end.overhead < 2.0, "{told}");
}

/// What the allocator asks of `mmap`: private anonymous memory, with NULL as the address.
fn calls_of_mmap<O: Os>(os: &O) {
    let page = os.page_size();
    let region = os.region();
    let bytes = |at: usize, len| {
        // SAFETY: only memory that was mapped for reading is asked for, and nobody writes it.
        unsafe { std::slice::from_raw_parts(region.at(at), len) }
    };
    // The kernel chooses: whole pages that nobody else has, zero.
    let maps = [1, 3, 2].map(|pages| {
        let at = os.map(0, pages * page, Prot::ReadWrite).expect("room");
        assert!(at != 0 && at.is_multiple_of(page));
        assert!(model::host::all(bytes(at, pages * page), 0));
        (at, pages * page)
    });
    for (index, &(at, len)) in maps.iter().enumerate() {
        for &(other, size) in &maps[..index] {
            assert!(at + len <= other || other + size <= at, "they overlap");
        }
        // SAFETY: mapped just now, ours alone.
        unsafe { region.at(at).write_bytes(index as u8 + 1, len) }
    }
    for (index, &(at, len)) in maps.iter().enumerate() {
        assert!(model::host::all(bytes(at, len), index as u8 + 1));
    }
    // An address is a wish: what is taken there stays as it is.
    let (at, len) = maps[1];
    let elsewhere = os.map(at, page, Prot::ReadWrite).expect("room");
    assert!(elsewhere + page <= at || at + len <= elsewhere);
    assert!(model::host::all(bytes(at, len), 2));
    // Reserved first, accessible later.
    let reserved = os.map(0, 4 * page, Prot::None).expect("room");
    // SAFETY: mapped just now, and unmapped once, as are the others.
    unsafe {
        os.protect(reserved, page, Prot::ReadWrite).expect("ours");
        assert!(model::host::all(bytes(reserved, page), 0));
        os.unmap(reserved, 4 * page).expect("ours");
        os.unmap(elsewhere, page).expect("ours");
        for (at, len) in maps {
            os.unmap(at, len).expect("ours");
        }
    }
    let absurd = usize::MAX / page * page;
    assert_eq!(os.map(0, absurd, Prot::None), Err(OsError::NO_MEMORY));
}

#[test]
fn row_112_both_kernels_map_what_the_allocator_asks_for() {
    calls_of_mmap(&Host::new(Plan::SMALL));
    #[cfg(not(miri))] // System calls.
    calls_of_mmap(&fencepost::os::Kernel::new());
}
