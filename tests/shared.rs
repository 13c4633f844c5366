//! What all threads share: the accounts between arenas and depot.
#![allow(unsafe_code)] // A thread's cache.

use fencepost::arena::{Magazine, Shared};
use fencepost::cache::Caches;
use fencepost::chunk::{Keys, Secret, State};
use fencepost::config::Settings;
use fencepost::heap::{Batch, Growth};
use fencepost::os::{Exposed, Extents, Flaky, Kernel};
use fencepost::size::{class_of, class_size};

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
    let mut stored = 0;
    while stored < 512 << 10 {
        let mut batch = Batch::wanting(15);
        assert!(SHARED.fill(0, class_size(class), &mut batch));
        stored += batch.count() * class_size(class);
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
    assert!(SHARED.fill(0, 8 << 20, &mut large));
    assert_eq!(SHARED.depot.bytes(), 0, "the depot was drained");
    assert_ne!(KERNEL.calls(), before, "the arena had to grow");
    assert_eq!(used(), 8 << 20);
    assert_eq!(SHARED.outside(), used());
    SHARED.release(large.stack());
    assert_eq!((SHARED.outside(), used()), (0, 0));
}

/// Bytes that come home because blocks shrink where they are let ticks pass like any others: what
/// nobody needs leaves the depot.
#[test]
fn ticks_of_blocks_that_shrink_drain_the_depot() {
    shared!(Kernel, Kernel::new());
    SHARED.start(Growth::Segments, 0);
    let class = class_of(1040);
    let mut batch = Batch::wanting(4);
    assert!(SHARED.fill(0, class_size(class), &mut batch));
    let magazine = Magazine {
        stack: batch.stack(),
        count: batch.count(),
    };
    let put = SHARED.depot.put(&KEYS, 0, class, magazine, usize::MAX);
    assert_eq!(put, None);
    let mut large = Batch::wanting(1);
    assert!(SHARED.fill(0, 8 << 20, &mut large));
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
        assert!(SHARED.fill(0, class_size(class), &mut batch));
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
