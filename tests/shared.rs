//! What all threads share: the accounts between arenas and depot; and when a heap gives back.
#![allow(unsafe_code)] // A thread's cache.

use fencepost::arena::{Magazine, Shared};
use fencepost::cache::{Cache, Caches};
use fencepost::chunk::{Chunk, Keys, Secret, Stack, State};
use fencepost::config::{Key, Settings};
use fencepost::heap::{Batch, Growth, Heap, Reserved};
use fencepost::os::{Exposed, Extents, Flaky, Kernel, Ledger};
use fencepost::size::{ALIGN, DEPOT_CHUNK, HEADER, MAX_CHUNK, class_of, class_size, large_size};

/// A process's shared state of its own: tests run at the same time.
macro_rules! shared {
    ($os:ty, $new:expr) => {
        static KERNEL: $os = $new;
        static SETTINGS: Settings = Settings::new();
        static EXTENTS: Extents = Extents::new();
        static KEYS: Keys<Exposed> = Keys {
            region: Exposed,
            secret: Secret::new([11, 22, 33, 44]),
            extents: &EXTENTS,
        };
        static SHARED: Shared<&'static $os> = Shared::new(&KERNEL, &KEYS, &SETTINGS);
    };
}

/// A depot that is emptied before the arena grows is subtracted once from what is outside.
#[test]
fn what_is_outside_agrees_with_the_arena_when_the_depot_is_drained() {
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    let used = || SHARED.lock(0).expect("the main arena").used_bytes();
    let class = class_of(1040);
    // All are there before the first is stored, or the depot would be drained for the others.
    let (mut batches, mut bytes) = (Vec::new(), 0);
    while bytes < 512 << 10 {
        let mut batch = Batch::wanting(15);
        assert!(SHARED.fill(0, class_size(class), &mut batch, || ()));
        bytes += batch.count() * class_size(class);
        batches.push(batch);
    }
    for batch in batches {
        let magazine = Magazine {
            stack: batch.stack(),
            count: batch.count(),
        };
        assert_eq!(
            SHARED.depot.put(&KEYS, 0, class, magazine, usize::MAX),
            None
        );
        assert_eq!(SHARED.outside(), used());
    }
    let before = KERNEL.calls();
    let mut large = Batch::wanting(1);
    assert!(SHARED.fill(0, 8 << 20, &mut large, || ()));
    assert_eq!(SHARED.depot.bytes(), 0, "the depot was drained");
    assert_ne!(KERNEL.calls(), before, "the arena had to grow");
    assert_eq!(used(), 8 << 20);
    assert_eq!(SHARED.outside(), used());
    SHARED.release(large.stack());
    assert_eq!((SHARED.outside(), used()), (0, 0));
}

/// A chunk that is too large for a thread's cache waits in the depot for a request of its own size
/// or a little less, and goes home before the heap grows for another.
#[test]
fn a_large_chunk_waits_in_the_depot() {
    shared!(Kernel, Kernel::new());
    let large = |size| {
        let mut batch = Batch::wanting(1);
        assert!(SHARED.fill(0, size, &mut batch, || ()));
        let chunk = batch.pop(&KEYS).expect("one was there");
        chunk.mark(chunk.low(), State::Used);
        chunk
    };
    SHARED.start(Growth::Segments, 0);
    // The program is large enough to keep some.
    let rest: Vec<_> = (0..16).map(|_| large(large_size(1 << 20))).collect();
    let size = large_size(200_000);
    let mut chunk: Chunk<'static, Exposed> = large(size);
    for asked in [size, class_size(class_of(size) - 1)] {
        assert!(SHARED.put_large(0, chunk));
        assert_eq!(SHARED.depot.bytes(), size);
        let taken = SHARED
            .take_large(0, asked)
            .expect("one of that size or a little more");
        assert_eq!((taken.addr(), taken.low().size()), (chunk.addr(), size));
        assert_eq!(SHARED.depot.bytes(), 0);
        taken.mark(taken.low(), State::Used);
        chunk = taken;
    }
    assert!(SHARED.put_large(0, chunk));
    for other in [
        size + ALIGN,
        class_size(class_of(size) - 2),
        DEPOT_CHUNK + ALIGN,
    ] {
        assert!(SHARED.take_large(0, other).is_none(), "{other}");
    }
    // Chunks of other sizes are not for the depot.
    for odd in [size - ALIGN, large_size(DEPOT_CHUNK + 1)] {
        let odd = large(odd);
        assert!(!SHARED.put_large(0, odd));
        SHARED.free(odd);
    }
    assert_eq!(SHARED.depot.bytes(), size);
    let more: Vec<_> = (0..7).map(|_| large(size)).collect();
    for chunk in more {
        assert!(SHARED.put_large(0, chunk));
    }
    assert_eq!(SHARED.depot.bytes(), 8 * size);
    let system = || SHARED.lock(0).expect("the main arena").system_bytes();
    let (before, mut others) = (system(), Vec::new());
    while system() == before {
        others.push(large(large_size(100_000)));
    }
    assert_eq!(SHARED.depot.bytes(), 0, "sent home before the heap grew");
    for chunk in rest.into_iter().chain(others) {
        SHARED.free(chunk);
    }
    assert_eq!(SHARED.outside(), 0);
    SHARED
        .lock(0)
        .expect("the main arena")
        .check()
        .expect("a sound heap");
}

static ACCOUNT: Ledger<Kernel> = Ledger::new(Kernel::new());
static SWING_EXTENTS: Extents = Extents::new();
static SWING_KEYS: Keys<Exposed> = Keys {
    region: Exposed,
    secret: Secret::new([99, 111, 122, 133]),
    extents: &SWING_EXTENTS,
};

/// A heap whose use falls for the first time gives pages back; one whose use is known to come back
/// from there keeps them, until it has not come back for long.
#[test]
fn a_heap_whose_use_swings_keeps_its_pages() {
    const MIB: usize = 1 << 20;
    type Swinging = Heap<&'static Ledger<Kernel>>;
    static DEFAULTS: Settings = Settings::new();
    let mut heap = Swinging::new(&ACCOUNT, &SWING_KEYS, &DEFAULTS, 0, Growth::Segments);
    let take = |heap: &mut Swinging| {
        let mut batch = Batch::wanting(1);
        assert!(heap.fill(MIB, &mut batch));
        batch.pop(&SWING_KEYS).expect("one was there")
    };
    let mut live = Vec::new();
    let mut returned = Vec::new();
    for _ in 0..4 {
        while live.len() < 90 {
            live.push(take(&mut heap));
        }
        while live.len() > 4 {
            heap.free(live.pop().expect("more than four"));
        }
        returned.push(heap.totals().returned_bytes);
    }
    assert!(returned[0] > 8 * MIB as u64, "{returned:?}");
    assert_eq!(returned[1], returned[3], "{returned:?}");
    // It stays small: 2 GiB come and go.
    for _ in 0..2000 {
        let chunk = take(&mut heap);
        heap.free(chunk);
    }
    let last = heap.totals().returned_bytes;
    assert!(
        last > returned[3] + 8 * MIB as u64,
        "{last} after {returned:?}"
    );
    heap.check().expect("a sound heap");
}

/// When most of what was in use was freed the depot is to hold next to nothing, unless the use is
/// known to come back.
#[test]
fn a_program_whose_use_swings_keeps_its_depot() {
    const MIB: usize = 1 << 20;
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    let mut live = Vec::new();
    let mut limits = Vec::new();
    for _ in 0..3 {
        while live.len() < 124 {
            let mut batch = Batch::wanting(1);
            assert!(SHARED.fill(0, MIB, &mut batch, || ()));
            live.push(batch.stack());
        }
        while live.len() > 4 {
            SHARED.release(live.pop().expect("more than four"));
        }
        limits.push(SHARED.depot_limit());
    }
    assert_eq!(limits[0], 64 << 10, "{limits:?}");
    assert_eq!(limits[2], 32 * MIB, "{limits:?}");
}

/// A program that frees and allocates in a steady mix hardly gives its heap anything back, so that no
/// tick passes: what passes through the depot shows what nobody needs.
#[test]
fn what_passes_through_the_depot_shows_what_is_idle() {
    const MIB: usize = 1 << 20;
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    let magazine = |size: usize| {
        let mut batch = Batch::wanting(4);
        assert!(SHARED.fill(0, size, &mut batch, || ()));
        Magazine {
            stack: batch.stack(),
            count: batch.count(),
        }
    };
    let class = class_of(1024);
    let put = |one| assert_eq!(SHARED.depot.put(&KEYS, 0, class, one, MIB), None);
    for _ in 0..2 {
        put(magazine(class_size(class)));
    }
    let pass = || {
        let busy = SHARED.depot.take(&KEYS, 0, class);
        put(busy.expect("what is needed all the time stays"));
        SHARED.passed(MIB);
    };
    let (both, mut rounds) = (SHARED.depot.bytes(), 0);
    while SHARED.depot.bytes() == both {
        pass();
        rounds += 1;
        assert!(rounds < 1000, "what is idle is found out");
    }
    assert!(rounds > 64, "after a while only: {rounds}");
    (0..1000).for_each(|_| pass());
    assert_eq!(SHARED.depot.bytes(), both / 2);
}

/// What is kept of freed mappings makes up for what a heap takes, also when a block grows in place.
#[test]
fn a_block_that_grows_in_place_takes_the_place_of_kept_mappings() {
    const MIB: usize = 1 << 20;
    shared!(Ledger<Kernel>, Ledger::new(Kernel::new()));
    let region = Reserved::up_to(&KERNEL, 256 * MIB, 256 * MIB).expect("addresses");
    SHARED.start(Growth::Region(region), 0);
    let mut batch = Batch::wanting(1);
    assert!(SHARED.fill(0, MIB, &mut batch, || ()));
    let block = batch.pop(&KEYS).expect("one was asked for");
    block.mark(block.low(), State::Used);
    for _ in 0..2 {
        let mapped = SHARED
            .maps
            .allocate(SHARED.os(), &KEYS, 20 * MIB, ALIGN, true)
            .expect("there is memory");
        assert!(
            SHARED
                .maps
                .free(SHARED.os(), &KEYS, &SETTINGS, mapped.payload)
        );
    }
    assert!(SHARED.maps.kept_bytes() >= 20 * MIB);
    assert!(SHARED.resize(block, 64 * MIB));
    assert_eq!(SHARED.maps.kept_bytes(), 0);
}

/// The chunk behind a block that is to grow is looked for among so many of its class as go home at
/// once.
#[test]
fn a_block_that_grows_in_place_leaves_a_large_depot() {
    const MIB: usize = 1 << 20;
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    let size = class_size(class_of(200_000));
    let chunks: Vec<Chunk<'static, Exposed>> = (0..40 * MIB / size)
        .map(|_| {
            let mut batch = Batch::wanting(1);
            assert!(SHARED.fill(0, size, &mut batch, || ()));
            let chunk = batch.pop(&KEYS).expect("one was asked for");
            chunk.mark(chunk.low(), State::Used);
            chunk
        })
        .collect();
    let put = |chunk| {
        let mut stack = Stack::EMPTY;
        stack.push(chunk, chunk.low(), State::Cached);
        let one = Magazine { stack, count: 1 };
        let back = SHARED.depot.put(&KEYS, 0, class_of(size), one, usize::MAX);
        assert_eq!(back, None);
    };
    // The block's neighbour is the last to be taken.
    let (block, behind) = (chunks[0], chunks[1]);
    assert_eq!(block.addr() + size, behind.addr());
    chunks.iter().skip(1).for_each(|chunk| put(*chunk));
    let before = SHARED.depot.bytes();
    assert!(!SHARED.resize(block, 2 * size));
    let gone = before - SHARED.depot.bytes();
    assert!((16 * MIB..17 * MIB).contains(&gone), "{gone}");
    // It goes on where it ended.
    assert!(!SHARED.resize(block, 2 * size));
    assert!(SHARED.resize(block, 2 * size));
}

/// A crowd whose threads have ended is one until the use is near its height again, and then a
/// program like any other; a child of fork, in which one thread is left, is so at once.
#[test]
fn a_crowd_ends_when_its_threads_have_ended() {
    const MIB: usize = 1 << 20;
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    assert!(SETTINGS.set(Key::ArenaMax, 1), "a crowd is eight threads");
    // The use swings all the time: only a crowd does not count on its return when it has fallen.
    let swing = || {
        let take = |_| {
            let mut batch = Batch::wanting(1);
            assert!(SHARED.fill(0, MIB, &mut batch, || ()));
            batch.stack()
        };
        let live: Vec<_> = (0..124).map(take).collect();
        live.into_iter().for_each(|stack| SHARED.release(stack));
        SHARED.depot_limit()
    };
    let (calm, crowded) = (32 * MIB, 64 << 10);
    assert!((0..3).all(|_| swing() >= crowded));
    let mut threads: Vec<usize> = (0..7).map(|_| SHARED.attach()).collect();
    assert_eq!(swing(), calm);
    threads.extend((0..10).map(|_| SHARED.attach()));
    assert_eq!(swing(), crowded);
    // One that comes and goes makes no difference.
    while threads.len() > 6 {
        SHARED.detach(threads.pop().expect("more than six"));
        assert_eq!(swing(), crowded, "{}", threads.len());
    }
    threads.into_iter().for_each(|arena| SHARED.detach(arena));
    assert_eq!(SHARED.depot_limit(), crowded);
    assert_eq!(swing(), calm);
    assert!((0..8).all(|_| SHARED.attach() == 0));
    assert_eq!(swing(), crowded);
    SHARED.forked();
    SHARED.enter();
    assert_eq!((SHARED.threads(), SHARED.depot_limit()), (1, calm));
}

/// In a crowd a thread earns what it may cache. Those that come after it inherit some: in a pool they
/// do as it did, but if they do not, it is soon spent.
#[test]
fn what_a_thread_of_a_crowd_has_earned_fades_after_it() {
    shared!(Kernel, Kernel::new());
    static CACHES: Caches = Caches::new();
    SHARED.start(Growth::Segments, 0);
    assert!(SETTINGS.set(Key::ArenaMax, 1), "a crowd is eight threads");
    assert!((0..8).all(|_| SHARED.attach() == 0));
    // The bytes that a thread's cache holds after some blocks of each class were freed.
    let life = |visits: usize| {
        let cache = CACHES.claim(&SHARED, false);
        // SAFETY: not null, and this thread's.
        let own = unsafe { cache.as_mut() }.expect("there is memory");
        let mut block = |class| {
            let payload = own.refill(&SHARED, class);
            assert_ne!(payload, 0);
            payload
        };
        assert!((0..visits).all(|n| block(30 + n % 30) != 0));
        let blocks: Vec<usize> = (0..3000).map(|n| block(30 + n % 30)).collect();
        for payload in blocks {
            // SAFETY: a block of this cache's in use, which is freed once.
            unsafe {
                let chunk = KEYS.chunk(payload - HEADER);
                let (low, keyed) = (chunk.low(), KEYS.secret.keyed(chunk.low()));
                let (_, cached) = chunk.user_tags(keyed);
                assert!(
                    Cache::push(cache, chunk, low, keyed, cached)
                        || Cache::overflow(cache, &SHARED, chunk, low)
                );
            }
        }
        let held = CACHES.counts().2;
        // SAFETY: claimed above, not used any more.
        unsafe { CACHES.give_back(&SHARED, cache) };
        held
    };
    let (first, busy) = (life(0), life(50_000));
    assert!(busy > 2 * first, "{busy} bytes after {first}");
    let heirs: Vec<u64> = (0..24).map(|_| life(0)).collect();
    assert!(heirs[0] > first, "{heirs:?} after {busy} and {first}");
    assert!(heirs[23] < busy / 2, "{heirs:?} after {busy} and {first}");
}

/// Free blocks that become a chunk as large as a head can tell of, and a bit: that is not one.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_block_grows_no_larger_than_a_head_can_tell() {
    shared!(Kernel, Kernel::new());
    static SWITCHES: Settings = Settings::new();
    assert!(SWITCHES.set(Key::Purge, 0));
    let region = Reserved::up_to(&KERNEL, 2 * MAX_CHUNK, 2 * MAX_CHUNK).expect("addresses");
    let growth = Growth::Region(region);
    let mut heap: Heap<&'static Kernel> = Heap::new(&KERNEL, &KEYS, &SWITCHES, 0, growth);
    let _ = &SHARED;
    let half = (MAX_CHUNK + ALIGN) / 2;
    let [low, high, _wall] = [half, half, 4096].map(|size| {
        let mut batch = Batch::wanting(1);
        assert!(heap.fill(size, &mut batch), "untouched memory");
        let chunk = batch.pop(&KEYS).expect("one was there");
        chunk.mark(chunk.low(), State::Used);
        chunk
    });
    high.mark(high.low(), State::Cached);
    heap.free(high);
    assert!(
        !heap.resize(low, MAX_CHUNK),
        "sixteen bytes would stick to it"
    );
    assert!(heap.resize(low, MAX_CHUNK - ALIGN));
    assert_eq!(low.size(), MAX_CHUNK - ALIGN);
    heap.check().expect("a sound heap");
}

/// Bytes that come home because blocks shrink where they are let ticks pass like any others: what
/// nobody needs leaves the depot.
#[test]
fn ticks_of_blocks_that_shrink_drain_the_depot() {
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    let class = class_of(1040);
    let mut batch = Batch::wanting(4);
    assert!(SHARED.fill(0, class_size(class), &mut batch, || ()));
    let magazine = Magazine {
        stack: batch.stack(),
        count: batch.count(),
    };
    let put = SHARED.depot.put(&KEYS, 0, class, magazine, usize::MAX);
    assert_eq!(put, None);
    let mut large = Batch::wanting(1);
    assert!(SHARED.fill(0, 8 << 20, &mut large, || ()));
    let block = large.pop(&KEYS).expect("one was asked for");
    block.mark(block.low(), State::Used);
    let ticks = || SHARED.lock(0).expect("the main arena").ticks();
    let before = ticks();
    while ticks() < before + 10 {
        assert_ne!(SHARED.depot.bytes(), 0, "nothing was idle long enough");
        for size in [4 << 20, 8 << 20] {
            assert!(SHARED.resize(block, size), "there is room behind it");
        }
        if SHARED.depot.bytes() == 0 {
            break;
        }
    }
    assert_eq!(SHARED.depot.bytes(), 0, "ten ticks without need");
    assert!(ticks() > before + 1, "a magazine stays for a while");
    SHARED.free(block);
}

/// What other threads' aisles do not lend is lent when there is no other memory.
#[test]
fn a_thread_without_memory_gets_what_others_put_aside() {
    shared!(Flaky<Kernel>, Flaky::new(Kernel::new()));
    static CACHES: Caches = Caches::new();
    SHARED.start(Growth::Segments, 0);
    let class = class_of(112);
    let aisle = SHARED.depot.enter(1);
    let filled = || {
        let mut batch = Batch::wanting(3);
        assert!(SHARED.fill(0, class_size(class), &mut batch, || ()));
        Magazine {
            stack: batch.stack(),
            count: batch.count(),
        }
    };
    let put = |magazine| {
        let back = SHARED.depot.put(&KEYS, aisle, class, magazine, usize::MAX);
        assert_eq!(back, None);
    };
    let cache = CACHES.claim(&SHARED, false);
    // SAFETY: not null, and this thread's.
    let cache = unsafe { cache.as_mut() }.expect("there is memory yet");
    // The aisle's thread takes back what it puts, so its magazine is not lent,
    put(filled());
    put(SHARED
        .depot
        .take(&KEYS, aisle, class)
        .expect("put just now"));
    let bytes = SHARED.depot.bytes();
    assert!(!SHARED.depot.may_hold(0, class));
    // and as long as the arena has something, that serves.
    KERNEL.refuse(0, u64::MAX);
    let mut own = 0;
    while SHARED.depot.bytes() == bytes {
        assert_ne!(cache.refill(&SHARED, class), 0, "after {own}");
        own += 1;
    }
    assert!(own > 100, "the arena first");
    // The rest of that magazine.
    assert_ne!(cache.refill(&SHARED, class), 0);
    assert_ne!(cache.refill(&SHARED, class), 0);
    assert_eq!(cache.refill(&SHARED, class), 0);
}

/// What lies in the depot is worth keeping only as long as there is other memory: blocks of another
/// size become one that is asked for.
#[test]
fn a_request_without_memory_gets_what_lies_in_the_depot() {
    shared!(Flaky<Kernel>, Flaky::new(Kernel::new()));
    SHARED.start(Growth::Segments, 0);
    let class = class_of(1040);
    let (mut magazines, mut bytes) = (Vec::new(), 0);
    while bytes < 512 << 10 {
        let mut batch = Batch::wanting(15);
        assert!(SHARED.fill(0, class_size(class), &mut batch, || ()));
        bytes += batch.count() * class_size(class);
        magazines.push(Magazine {
            stack: batch.stack(),
            count: batch.count(),
        });
    }
    // In a heap of this size they are too few to be asked for.
    let mut large = Batch::wanting(1);
    assert!(SHARED.fill(0, 8 << 20, &mut large, || ()));
    for magazine in magazines {
        let back = SHARED.depot.put(&KEYS, 0, class, magazine, usize::MAX);
        assert_eq!(back, None);
    }
    KERNEL.refuse(0, u64::MAX);
    // More than any heap has is no reason to give it up.
    let mut batch = Batch::wanting(1);
    assert!(!SHARED.fill(0, 1 << 30, &mut batch, || ()));
    assert_eq!(SHARED.depot.bytes(), bytes);
    let mut rests = 0;
    let mut served = 0;
    loop {
        let mut batch = Batch::wanting(1);
        let before = SHARED.depot.bytes();
        if !SHARED.fill(0, 300 << 10, &mut batch, || rests += 1) {
            break;
        }
        served += usize::from(SHARED.depot.bytes() != before);
    }
    assert_eq!((SHARED.depot.bytes(), served), (0, 1));
    assert!(rests >= 2, "caches were asked");
}
