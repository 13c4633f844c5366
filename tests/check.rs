//! The checker is tested by damage: for each invariant the heap is broken on purpose, and
//! `check` must name that invariant and no other.
#![allow(unsafe_code)] // Damage is done by writes to raw memory.

#[path = "model/mod.rs"]
mod model;

use fencepost::chunk::{Low, State};
use fencepost::heap::{Invariant, Place};
use fencepost::os::PageState;
use fencepost::os::{Os, Prot};
use fencepost::size::HEADER;
use model::{Bed, Piece};

/// What cases do with a heap besides allocating.
trait Arrange {
    fn freed(&mut self, request: usize) -> Piece;
    fn two_unsorted(&mut self) -> (Piece, Piece);
    fn binned(&mut self, requests: &[usize]) -> Vec<Piece>;
    fn shrink(&self, chunk: Piece);
}

impl Arrange for Bed {
    /// Frees a block of this request that has neighbours in use.
    fn freed(&mut self, request: usize) -> Piece {
        let chunk = self.get(request);
        self.get(200);
        self.heap.free(chunk);
        chunk
    }

    /// The oldest and the newest chunk of the unsorted bin, which holds only these.
    fn two_unsorted(&mut self) -> (Piece, Piece) {
        let [oldest, newest] = [500, 600].map(|n| {
            let chunk = self.get(n);
            self.get(200);
            chunk
        });
        // Sorts what lies there.
        self.get(90_000);
        self.heap.free(oldest);
        self.heap.free(newest);
        (oldest, newest)
    }

    /// Chunks of these requests in the bins of their sizes.
    fn binned(&mut self, requests: &[usize]) -> Vec<Piece> {
        let chunks: Vec<Piece> = requests
            .iter()
            .map(|n| {
                let chunk = self.get(*n);
                self.get(200);
                chunk
            })
            .collect();
        chunks.iter().for_each(|c| self.heap.free(*c));
        // A request that none of them can serve sorts them.
        self.get(100_000);
        for chunk in &chunks {
            assert!(matches!(self.heap.place_of(chunk.payload()), Place::Bin(_)));
        }
        chunks
    }

    /// Cuts the last 32 bytes off a binned chunk and makes them a block in use. Everybody but
    /// the bin agrees.
    fn shrink(&self, chunk: Piece) {
        let rest = chunk.size() - 32;
        let behind = self.at(chunk.addr() + chunk.size());
        chunk.begin(chunk.low().resized(rest), State::Binned);
        let cut = self.at(chunk.addr() + rest);
        cut.begin(Low::of(32), State::Used);
        cut.set_prev_size(rest);
        behind.set_low(behind.low().with_prev_in_use(true));
    }
}

const FD: usize = 16;
const BK: usize = 24;
const FD_SIZE: usize = 32;
const BK_SIZE: usize = 40;

type Break = fn(&mut Bed);

/// Every case: the invariant that must be named, what is done, and how.
const CASES: &[(Invariant, &str, Break)] = &[
    (
        Invariant::Coverage,
        "a chunk that ends in the middle of the next",
        |bed| {
            let chunk = bed.get(200);
            let behind = bed.get(200);
            bed.get(10);
            // What lies in its middle is the user's data, made to look like a chunk too large.
            let forged = bed.at(behind.addr() + 64);
            forged.begin(Low::of(1 << 30).with_prev_in_use(true), State::Used);
            chunk.begin(chunk.low().resized(chunk.size() + 64), State::Used);
        },
    ),
    (Invariant::Coverage, "a chunk of size 0", |bed| {
        let chunk = bed.get(200);
        chunk.begin(Low::of(0).with_prev_in_use(true), State::Used);
    }),
    (
        Invariant::Coverage,
        "a chunk smaller than the smallest",
        |bed| {
            let chunk = bed.get(200);
            chunk.begin(Low::of(16).with_prev_in_use(true), State::Used);
        },
    ),
    (Invariant::Coverage, "a fencepost in the middle", |bed| {
        let chunk = bed.get(200);
        chunk.begin(Low::of(0).with_prev_in_use(true), State::Fence);
    }),
    (Invariant::Coverage, "a second top", |bed| {
        let chunk = bed.get(200);
        chunk.begin(Low::of(0).with_prev_in_use(true), State::Top);
    }),
    (Invariant::Coverage, "a chunk that was swallowed", |bed| {
        let chunk = bed.get(200);
        chunk.mark(chunk.low(), State::Retired);
    }),
    (
        Invariant::Coverage,
        "a segment that ends too early",
        |bed| {
            bed.get(200);
            bed.host().sbrk(4096);
            bed.get(500_000);
            bed.heap.forge().segments[0].end -= 4096;
            let chunk = bed.at(bed.heap.segments()[0].end);
            assert!(bed.heap.segments().len() == 2 && chunk.addr() > 0);
        },
    ),
    (Invariant::Tag, "an overwritten tag", |bed| {
        let chunk = bed.get(200);
        chunk.set_tag(chunk.tag() ^ 1);
    }),
    (Invariant::Tag, "an overwritten size", |bed| {
        let chunk = bed.get(200);
        chunk.set_low(chunk.low().resized(416));
    }),
    (Invariant::Tag, "a chunk that says it is mapped", |bed| {
        let chunk = bed.get(200);
        chunk.set_low(chunk.low().with_mapped());
    }),
    (
        Invariant::Tag,
        "a chunk that says it is of another arena",
        |bed| {
            let chunk = bed.get(200);
            chunk.set_low(chunk.low().with_arena(true));
        },
    ),
    (
        Invariant::Tag,
        "an overwritten link of a fast chunk",
        |bed| {
            let chunk = bed.freed(24);
            bed.write(chunk.addr() + FD, 0x41);
        },
    ),
    (Invariant::Tag, "an overwritten fencepost", |bed| {
        bed.get(200);
        bed.host().sbrk(4096);
        bed.get(500_000);
        let fence = bed.at(bed.heap.segments()[0].end - HEADER);
        assert!(fence.is(State::Fence));
        fence.set_tag(0);
    }),
    (
        Invariant::Boundary,
        "a flag that says the free chunk before is in use",
        |bed| {
            let chunk = bed.freed(500);
            let behind = bed.at(chunk.addr() + chunk.size());
            behind.set_low(behind.low().with_prev_in_use(true));
        },
    ),
    (
        Invariant::Boundary,
        "a flag that says the used chunk before is free",
        |bed| {
            bed.get(500);
            let chunk = bed.get(500);
            chunk.set_low(chunk.low().with_prev_in_use(false));
        },
    ),
    (
        Invariant::Boundary,
        "an overwritten size behind a free chunk",
        |bed| {
            let chunk = bed.freed(500);
            bed.at(chunk.addr() + chunk.size()).set_prev_size(16);
        },
    ),
    (Invariant::Merged, "a free chunk that is two", |bed| {
        let chunk = bed.freed(600);
        let half = chunk.size() / 2;
        let rest = bed.at(chunk.addr() + half);
        chunk.begin(chunk.low().resized(half), State::Unsorted);
        rest.begin(Low::of(half), State::Unsorted);
        rest.set_prev_size(half);
        bed.at(chunk.addr() + 2 * half).set_prev_size(half);
    }),
    (Invariant::Merged, "a free chunk before top", |bed| {
        let chunk = bed.get(90_000);
        chunk.mark(chunk.low(), State::Binned);
        let top = bed.top();
        assert!(chunk.addr() + chunk.size() == top.addr());
        top.set_low(top.low().with_prev_in_use(false));
        top.set_prev_size(chunk.size());
        for at in (chunk.addr() + 4096..top.addr() & !4095).step_by(4096) {
            bed.note(at, PageState::Cached);
        }
    }),
    (Invariant::Binned, "a link to nowhere", |bed| {
        let (oldest, _) = bed.two_unsorted();
        bed.write(oldest.addr() + BK, 0x41);
    }),
    (
        Invariant::Binned,
        "a first chunk with one before it",
        |bed| {
            let (_, newest) = bed.two_unsorted();
            bed.write(newest.addr() + BK, 0x41);
        },
    ),
    (
        Invariant::Binned,
        "a last chunk with one behind it",
        |bed| {
            let (oldest, _) = bed.two_unsorted();
            bed.write(oldest.addr() + FD, 0x41);
        },
    ),
    (Invariant::Binned, "a list that ends too early", |bed| {
        let (_, newest) = bed.two_unsorted();
        bed.link(newest, FD, 0);
    }),
    (Invariant::Binned, "a list that is a ring", |bed| {
        let (oldest, newest) = bed.two_unsorted();
        bed.link(oldest, FD, newest.addr());
    }),
    (
        Invariant::Binned,
        "a chunk in the bin of another size",
        |bed| {
            let chunk = bed.binned(&[500])[0];
            bed.shrink(chunk);
        },
    ),
    (
        Invariant::Binned,
        "a sorted chunk that says unsorted",
        |bed| {
            let chunk = bed.binned(&[500])[0];
            chunk.mark(chunk.low(), State::Unsorted);
        },
    ),
    (Invariant::Binned, "a free chunk that is in no bin", |bed| {
        let chunk = bed.get(500);
        let behind = bed.get(200);
        chunk.mark(chunk.low(), State::Unsorted);
        chunk.set_dirt(0, 0);
        behind.set_low(behind.low().with_prev_in_use(false));
        behind.set_prev_size(chunk.size());
    }),
    (
        Invariant::Sorted,
        "a larger chunk behind a smaller one",
        |bed| {
            // One bin holds chunks of 2032, 2016 and 2000 bytes.
            let largest = bed.binned(&[2024, 2008, 1992])[0];
            bed.shrink(largest);
        },
    ),
    (
        Invariant::Sorted,
        "a size that the size list leaves out",
        |bed| {
            let c = bed.binned(&[2024, 2008, 1992]);
            bed.link(c[0], FD_SIZE, c[2].addr());
        },
    ),
    (
        Invariant::Sorted,
        "a smallest size with a smaller one",
        |bed| {
            let c = bed.binned(&[2024, 2008, 1992]);
            bed.write(c[2].addr() + FD_SIZE, 0x41);
        },
    ),
    (
        Invariant::Sorted,
        "a largest size with a larger one",
        |bed| {
            let c = bed.binned(&[2024, 2008, 1992]);
            bed.write(c[0].addr() + BK_SIZE, 0x41);
        },
    ),
    (Invariant::Sorted, "a size list that goes on", |bed| {
        let c = bed.binned(&[2024, 2008, 2008]);
        let leader = if bed.link_of(c[1], FD) == c[2].addr() {
            1
        } else {
            2
        };
        bed.link(c[leader], FD_SIZE, c[3 - leader].addr());
    }),
    (
        Invariant::Sorted,
        "a size list that does not lead back",
        |bed| {
            let c = bed.binned(&[2024, 2008, 1992]);
            bed.link(c[2], BK_SIZE, c[0].addr());
        },
    ),
    (Invariant::Map, "a bin that the map forgot", |bed| {
        bed.binned(&[500]);
        bed.heap.forge().bins.forge_map(512 / 16, false);
    }),
    (Invariant::Map, "an empty bin that the map names", |bed| {
        bed.get(10);
        bed.heap.forge().bins.forge_map(70, true);
    }),
    (
        Invariant::Fast,
        "a fast chunk that says it is in use",
        |bed| {
            let chunk = bed.freed(24);
            chunk.mark(chunk.low(), State::Used);
        },
    ),
    (
        Invariant::Fast,
        "a chunk in no fast bin that says it is fast",
        |bed| {
            let chunk = bed.get(24);
            bed.get(10);
            chunk.stack_on(chunk.low(), State::Fast, 0);
        },
    ),
    (
        Invariant::Fast,
        "a chunk in the fast bin of another size",
        |bed| {
            let chunk = bed.freed(56);
            assert_eq!(chunk.size(), 64);
            let rest = bed.at(chunk.addr() + 32);
            let low = chunk.low().resized(32);
            chunk.set_low(low);
            chunk.stack_on(low, State::Fast, 0);
            rest.begin(low, State::Used);
        },
    ),
    (Invariant::Fast, "a fast bin that is a ring", |bed| {
        let below = bed.get(24);
        let above = bed.freed(24);
        bed.heap.free(below);
        above.stack_on(above.low(), State::Fast, below.payload());
    }),
    (
        Invariant::Fast,
        "fast bytes that are counted wrongly",
        |bed| {
            bed.freed(24);
            *bed.heap.forge().fast_bytes += 16;
        },
    ),
    (Invariant::Top, "top's head overwritten", |bed| {
        bed.get(24);
        bed.top().set_tag(0);
    }),
    (
        Invariant::Top,
        "top's size overwritten by an overflow",
        |bed| {
            let chunk = bed.get(90_000);
            let size_word = chunk.addr() + chunk.size() + 8;
            bed.write(size_word, u64::MAX);
        },
    ),
    (Invariant::Top, "top's size word too small", |bed| {
        bed.get(24);
        *bed.heap.forge().top_size -= 16;
    }),
    (Invariant::Top, "top's size word too large", |bed| {
        bed.get(24);
        *bed.heap.forge().top_size += 4096;
    }),
    (
        Invariant::Top,
        "top in a segment that is not the last",
        |bed| {
            bed.get(24);
            bed.host().sbrk(4096);
            bed.get(500_000);
            bed.heap.forge().segments.swap(0, 1);
        },
    ),
    (Invariant::Pages, "zero memory that is not", |bed| {
        bed.get(24);
        let (_, _, zero) = bed.heap.top();
        bed.write(zero, 1);
    }),
    (Invariant::Pages, "a page of top that is in use", |bed| {
        bed.get(24);
        let (_, _, zero) = bed.heap.top();
        bed.note(zero, PageState::Live);
    }),
    (
        Invariant::Pages,
        "a page of a free chunk that is in use",
        |bed| {
            let chunk = bed.freed(9000);
            bed.note(chunk.addr() + 4096, PageState::Live);
        },
    ),
    (
        Invariant::Pages,
        "a page of a free chunk that is not ours",
        |bed| {
            let chunk = bed.freed(9000);
            bed.note(chunk.addr() + 4096, PageState::None);
        },
    ),
    (
        Invariant::Pages,
        "a dirty page of a free chunk that is said to be zero",
        |bed| {
            let chunk = bed.get(9000);
            bed.get(24);
            bed.write((chunk.addr() + 4096) & !4095, 1);
            bed.heap.free(chunk);
            bed.note(chunk.addr() + 4096, PageState::Released);
        },
    ),
    (
        Invariant::Pages,
        "a page in use that is said to be free",
        |bed| {
            let chunk = bed.get(9000);
            bed.note(chunk.addr(), PageState::Cached);
        },
    ),
    (Invariant::Counters, "bytes used", |bed| {
        bed.get(24);
        *bed.heap.forge().used_bytes += 16;
    }),
    (Invariant::Counters, "bytes of free chunks", |bed| {
        bed.freed(500);
        *bed.heap.forge().binned_bytes -= 16;
    }),
    (Invariant::Counters, "dirty bytes", |bed| {
        let chunk = bed.freed(5000);
        let (stamp, dirt) = chunk.dirt();
        chunk.set_dirt(stamp, dirt - 1);
    }),
    (Invariant::Counters, "bytes from the system", |bed| {
        bed.get(24);
        *bed.heap.forge().system_bytes += 4096;
    }),
    (Invariant::Counters, "bytes from the break", |bed| {
        bed.get(24);
        *bed.heap.forge().break_bytes -= 4096;
    }),
    (
        Invariant::Extents,
        "memory that the map does not hold",
        |bed| {
            bed.get(24);
            let segment = bed.heap.segments()[0];
            bed.ground.keys().extents.cut(segment.start, segment.end);
        },
    ),
    (Invariant::Extents, "the end of the memory cut off", |bed| {
        bed.get(24);
        bed.get(2000);
        let chunk = bed.get(24);
        let segment = bed.heap.segments()[0];
        bed.ground.keys().extents.cut(chunk.addr(), segment.end);
    }),
    (
        Invariant::Extents,
        "memory that the map gives to another heap",
        |bed| {
            bed.get(24);
            let segment = bed.heap.segments()[0];
            bed.ground.keys().extents.cut(segment.start, segment.end);
            bed.ground.keys().extents.add(segment.start, segment.end, 9);
        },
    ),
];

#[test]
fn every_invariant_has_a_breaking_case() {
    for invariant in Invariant::ALL {
        assert!(
            CASES.iter().any(|(named, ..)| *named == invariant),
            "nothing breaks {invariant:?}"
        );
    }
}

#[test]
fn each_broken_invariant_is_named() {
    let mut wrong = Vec::new();
    // For Miri a few will do: it looks for unsound code, not for damage.
    let step = if cfg!(miri) { 8 } else { 1 };
    for (expected, what, damage) in CASES.iter().step_by(step) {
        let mut bed = Bed::new();
        bed.get(40);
        bed.freed(70_000);
        bed.freed(24);
        bed.heap.check().expect("whole before the damage");
        damage(&mut bed);
        match bed.heap.check() {
            Err(found) if found.invariant == *expected => {}
            other => wrong.push(format!("{expected:?}: {what}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_whole_heap_is_not_accused() {
    let mut bed = Bed::new();
    assert_eq!(bed.heap.check(), Ok(()), "a heap without memory");
    bed.binned(&[2024, 2008, 2008, 1992, 500, 500]);
    bed.freed(24);
    bed.freed(3000);
    bed.host().sbrk(100);
    bed.get(400_000);
    let os = bed.ground.os();
    os.map(0, os.page_size(), Prot::ReadWrite).expect("room");
    assert_eq!(bed.heap.check(), Ok(()));
}
