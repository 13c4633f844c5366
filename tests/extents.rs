//! The map of heap memory, the growable array in pages, and the chunks' secrets.
#![allow(unsafe_code)] // Chunks are made in raw memory.

#[path = "model/mod.rs"]
mod model;

use fencepost::chunk::{Low, Secret, Stack, State};
use fencepost::os::{Extents, Flaky, GRANULE, Ledger, Os, PageVec};
use model::{Bed, Host, Plan};

/// 18 MiB: only for statics, so each test has its own place in one.
static MAP: Extents = Extents::new();

#[test]
fn an_empty_map_holds_nothing() {
    static EMPTY: Extents = Extents::new();
    for p in [
        0,
        8,
        16,
        4096,
        GRANULE,
        1 << 46,
        usize::MAX,
        usize::MAX & !15,
    ] {
        assert!(!EMPTY.holds(p), "{p:#x}");
    }
}

#[test]
fn a_range_is_held_from_its_first_to_its_last_byte() {
    let base = 100 * GRANULE;
    MAP.add(base + 4096, base + 8192, 0);
    for (offset, held) in [(4080, false), (4096, true), (8176, true), (8192, false)] {
        assert_eq!(MAP.holds(base + offset), held, "{offset}");
    }
    assert_eq!(MAP.owner(base + 4096), 0);
}

#[test]
fn misaligned_and_non_canonical_addresses_are_not_held() {
    let base = 200 * GRANULE;
    MAP.add(base, base + GRANULE, 0);
    for low in 1..16 {
        assert!(!MAP.holds(base + 64 + low), "{low}");
    }
    assert!(MAP.holds(base + 64));
    let p = base + 64;
    for bit in [48, 52, 60, 63] {
        assert!(!MAP.holds(p | 1 << bit), "bit {bit}");
    }
    assert_eq!(MAP.owner(p | 1 << 63), 0);
}

#[test]
fn a_range_may_span_granules_and_grow_both_ways() {
    let base = 300 * GRANULE;
    let (from, to) = (base + GRANULE - 4096, base + 2 * GRANULE + 4096);
    MAP.add(from, to, 3);
    let inside = [
        from,
        base + GRANULE - 16,
        base + GRANULE,
        base + 2 * GRANULE,
        to - 16,
    ];
    for p in inside {
        assert!(MAP.holds(p), "{p:#x}");
        assert_eq!(MAP.owner(p), 3);
    }
    assert!(!MAP.holds(from - 16) && !MAP.holds(to));
    MAP.add(to, to + 4096, 3);
    MAP.add(from - 4096, from, 3);
    assert!(MAP.holds(to) && MAP.holds(from - 16));
    assert!(!MAP.holds(to + 4096) && !MAP.holds(from - 4112));
}

#[test]
fn what_is_cut_off_is_not_held() {
    let base = 400 * GRANULE;
    let to = base + GRANULE + 8192;
    MAP.add(base, to, 4);
    MAP.cut(base + GRANULE - 4096, to);
    for (p, held) in [
        (base, true),
        (base + GRANULE - 4112, true),
        (base + GRANULE - 4096, false),
        (base + GRANULE, false),
        (base + GRANULE + 4096, false),
    ] {
        assert_eq!(MAP.holds(p), held, "{p:#x}");
    }
    // All of it, and then it belongs to somebody else.
    MAP.cut(base, base + GRANULE);
    assert!(!MAP.holds(base));
    MAP.add(base, base + 4096, 5);
    assert_eq!((MAP.owner(base), MAP.holds(base)), (5, true));
}

#[test]
fn memory_above_what_is_cut_off_stays_held() {
    let base = 500 * GRANULE;
    MAP.add(base, base + 8192, 0);
    MAP.add(base + 65536, base + 69632, 0);
    MAP.cut(base + 4096, base + 8192);
    assert!(MAP.holds(base) && MAP.holds(base + 65536));
    MAP.cut(base + 65536, base + 69632);
    assert!(!MAP.holds(base + 65536));
}

#[test]
fn a_page_vector_moves_to_pages_and_survives_refusals() {
    let os = Ledger::new(Flaky::new(Host::new(Plan::SMALL)));
    let mut vector: PageVec<u64, 4> = PageVec::new(0);
    assert!(vector.as_slice(&os).is_empty());
    let mut refused = 0;
    for value in 0..3000 {
        // Every growth is refused once, and the vector then still whole.
        os.inner().refuse(0, 1);
        if vector.reserve_one(&os).is_err() {
            refused += 1;
            assert_eq!(vector.as_slice(&os).len() as u64, value);
            vector.push(&os, 99);
            assert_eq!(vector.as_slice(&os).len() as u64, value, "no room, no push");
            vector.reserve_one(&os).expect("refused once only");
        }
        vector.push(&os, value);
    }
    assert!(refused >= 3, "{refused}");
    let expected: Vec<u64> = (0..3000).collect();
    assert_eq!(vector.as_slice(&os), expected);
    vector.as_mut_slice(&os)[2999] = 7;
    assert_eq!(vector.as_slice(&os).last(), Some(&7));
    // Only the pages in use are left, and the account's own.
    assert!(os.inner().inner().mapped() <= 8 * 4096 + os.own_bytes());
    assert_eq!(os.page_size(), 4096);
}

#[test]
fn tags_depend_on_address_size_flags_and_state() {
    let secret = Secret::new([1, 2, 3, 4].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let low = Low::of(64);
    let tag = |payload, low, state| secret.tag(payload, low, state);
    let genuine = tag(0x1000, low, State::Used);
    for state in State::ALL.into_iter().skip(1) {
        assert_ne!(tag(0x1000, low, state), genuine, "{state:?}");
    }
    assert_ne!(tag(0x1010, low, State::Used), genuine);
    assert_ne!(tag(0x1000, Low::of(80), State::Used), genuine);
    assert_ne!(tag(0x1000, low.with_mapped(), State::Used), genuine);
    // A neighbour sets this flag while the owner reads.
    assert_eq!(
        tag(0x1000, low.with_prev_in_use(true), State::Used),
        genuine
    );
    // Nobody believes this one: the map of extents knows.
    assert_eq!(tag(0x1000, low.with_arena(true), State::Used), genuine);
    let keyed = secret.keyed(low);
    assert_ne!(secret.keyed(Low::of(80)), keyed);
    let (used, cached) = secret.user_tags(0x1000, keyed);
    assert_eq!((used, cached), (genuine, tag(0x1000, low, State::Cached)));
    let other = Secret::new([5, 6, 7, 8].map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    assert_ne!(other.tag(0x1000, low, State::Used), genuine);
    assert_eq!(format!("{secret:?}"), "Secret", "it is not printed");
}

#[test]
fn a_head_decodes_to_what_was_put_in() {
    let low = Low::of(4032)
        .with_prev_in_use(true)
        .with_mapped()
        .with_arena(true);
    assert_eq!(low.size(), 4032);
    assert!(low.prev_in_use() && low.is_mapped() && low.in_arena());
    assert_eq!(format!("{low:?}"), "4032 PREV_INUSE MAPPED ARENA");
    let resized = low.resized(64).with_prev_in_use(false);
    assert_eq!(format!("{resized:?}"), "64 MAPPED ARENA");
    assert_eq!(Low::from_bits(low.bits()), low);
    let largest = Low::of(fencepost::size::MAX_CHUNK);
    assert_eq!(largest.size(), fencepost::size::MAX_CHUNK);
}

#[test]
fn stacks_are_last_in_first_out() {
    let mut bed = Bed::new();
    let chunks = [0; 5].map(|_| bed.get(100));
    let keys = bed.ground.keys();
    let mut stack = Stack::EMPTY;
    for chunk in chunks {
        stack.push(chunk, chunk.low(), State::Cached);
    }
    assert_eq!(stack.top(), chunks[4].payload());
    assert_eq!(stack.rest(keys).top(), chunks[3].payload());
    for chunk in chunks.into_iter().rev() {
        assert!(chunk.is(State::Cached));
        assert_eq!(stack.pop(keys, State::Cached), Some(chunk));
    }
    assert!(stack.is_empty() && stack.pop(keys, State::Cached).is_none());
    // Two words ride along in the top chunk of a stack, sealed.
    let top = chunks[0];
    top.set_freight(0x1230, 17);
    assert_eq!(top.freight(), Some((0x1230, 17)));
    bed.write(top.addr() + 24, 0);
    assert_eq!(top.freight(), None);
}
