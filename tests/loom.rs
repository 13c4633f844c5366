//! Models of the protocols between threads, run over every interleaving by loom.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 cargo test --release --test loom
//! ```
//!
//! Loom's types cannot overlay chunk memory, so the tests own the nodes: what a chunk would
//! carry is a loom cell here, and loom reports every access to it that is not ordered.
#![cfg(loom)]
#![allow(unsafe_code)] // Cells and published nodes.

use fencepost::arena::{Depot, Freight, Magazine, Member, Roster, Usage};
use fencepost::cache::{Claim, Claimed, Roll};
use fencepost::chunk::Stack;
use fencepost::size::class_size;
use fencepost::sync::{Lock, Mutex};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A value that belongs to one thread at a time. Loom fails the model if two uses of it are not
/// ordered by the protocol under test.
#[derive(Debug)]
struct Owned(UnsafeCell<u64>);

// SAFETY: what the models prove.
unsafe impl Sync for Owned {}
// SAFETY: as above.
unsafe impl Send for Owned {}

impl Owned {
    fn new(value: u64) -> Owned {
        Owned(UnsafeCell::new(value))
    }

    fn get(&self) -> u64 {
        // SAFETY: loom checks that no write is concurrent.
        self.0.with(|value| unsafe { *value })
    }

    fn set(&self, to: u64) {
        // SAFETY: loom checks that no other access is concurrent.
        self.0.with_mut(|value| unsafe { *value = to });
    }

    fn add(&self, n: u64) {
        self.set(self.get() + n);
    }
}

// ---- the lock ----

#[test]
fn lock_admits_one_and_wakes_all() {
    // Two rounds in one thread, one in each of two others: a sleeper behind a sleeper, and a
    // lock that is taken anew by the one that has just given it back.
    loom::model(|| {
        let shared = Arc::new((Lock::new(), Owned::new(0)));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    shared.0.lock();
                    shared.1.add(1);
                    shared.0.unlock();
                })
            })
            .collect();
        for _ in 0..2 {
            shared.0.lock();
            shared.1.add(1);
            shared.0.unlock();
        }
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(shared.1.get(), 4);
        assert!(!shared.0.is_locked());
    });
}

#[test]
fn try_lock_never_waits_and_never_intrudes() {
    loom::model(|| {
        let shared = Arc::new((Mutex::new(0u64), Owned::new(0)));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || match shared.0.try_lock() {
                Some(mut guard) => {
                    *guard += 1;
                    shared.1.add(1);
                    1
                }
                None => 0,
            })
        };
        {
            let mut guard = shared.0.lock();
            *guard += 1;
            shared.1.add(1);
        }
        let others = other.join().unwrap();
        assert_eq!(*shared.0.lock(), 1 + others);
        assert_eq!(shared.1.get(), 1 + others);
        assert!(!shared.0.is_locked());
    });
}

// ---- the depot ----

const CLASS: usize = 4;

/// Nodes in the place of chunks: the payload address of node `i` is `(i + 1) * 16`.
struct Nodes<const N: usize> {
    contents: [Owned; N],
    below: [Owned; N],
    count: [Owned; N],
}

impl<const N: usize> Nodes<N> {
    fn new() -> Self {
        let fresh = || core::array::from_fn(|_| Owned::new(0));
        Nodes {
            contents: fresh(),
            below: fresh(),
            count: fresh(),
        }
    }

    const fn address(node: usize) -> usize {
        (node + 1) * 16
    }

    const fn node(address: usize) -> usize {
        address / 16 - 1
    }

    /// A magazine that says to hold `count` chunks, with `contents` in its top one.
    fn fill(&self, node: usize, contents: u64, count: usize) -> Magazine {
        self.contents[node].set(contents);
        Magazine {
            stack: Stack::from_top(Self::address(node)),
            count,
        }
    }

    fn contents(&self, magazine: Magazine) -> u64 {
        self.contents[Self::node(magazine.stack.top())].get()
    }
}

impl<const N: usize> Freight for Nodes<N> {
    fn read(&self, top: usize) -> Option<(usize, usize)> {
        let node = Self::node(top);
        Some((
            self.below[node].get() as usize,
            self.count[node].get() as usize,
        ))
    }

    fn write(&self, top: usize, below: usize, count: usize) {
        self.below[Self::node(top)].set(below as u64);
        self.count[Self::node(top)].set(count as u64);
    }

    fn damaged(&self, top: usize) -> ! {
        panic!("damaged: {top:#x}")
    }
}

struct Store<const N: usize> {
    depot: Depot,
    nodes: Nodes<N>,
}

impl<const N: usize> Store<N> {
    fn new() -> Arc<Self> {
        Arc::new(Store {
            depot: Depot::new(),
            nodes: Nodes::new(),
        })
    }

    fn put(&self, node: usize, contents: u64, count: usize) {
        let magazine = self.nodes.fill(node, contents, count);
        let back = self.depot.put(&self.nodes, 0, CLASS, magazine, usize::MAX);
        assert_eq!(back, None);
    }

    fn take(&self) -> Option<Magazine> {
        self.depot.take(&self.nodes, 1, CLASS)
    }
}

#[test]
fn magazines_pass_from_thread_to_thread() {
    // Two threads fill a magazine each, put it, and take one, which may be the other's: both
    // then own what they got, read what its filler wrote and write it again.
    loom::model(|| {
        let store = Store::<2>::new();
        let run = |store: &Store<2>, me: usize| {
            store.put(me, 10 + me as u64, me + 1);
            let mut got = Vec::new();
            if let Some(magazine) = store.take() {
                let contents = store.nodes.contents(magazine);
                assert_eq!(magazine.count as u64, contents - 9);
                let node = Nodes::<2>::node(magazine.stack.top());
                store.nodes.contents[node].set(contents);
                got.push(contents);
            }
            got
        };
        let other = {
            let store = Arc::clone(&store);
            thread::spawn(move || run(&store, 1))
        };
        let mut all = run(&store, 0);
        all.extend(other.join().unwrap());
        // Each put its own first, so nobody can have found the shelf empty.
        all.sort_unstable();
        assert_eq!(all, [10, 11]);
        assert_eq!(store.depot.bytes(), 0);
        assert_eq!(store.take(), None);
    });
}

#[test]
fn a_magazine_is_taken_once() {
    // One on the shelf, two that want it, one more put meanwhile; and whoever looks after idle
    // magazines takes part.
    loom::model(|| {
        let store = Store::<2>::new();
        store.put(0, 10, 1);
        store.depot.age(CLASS);
        let taker = {
            let store = Arc::clone(&store);
            thread::spawn(move || store.take().map(|m| store.nodes.contents(m)))
        };
        let keeper = {
            let store = Arc::clone(&store);
            thread::spawn(move || {
                let idle = store.depot.take_idle(&store.nodes, CLASS);
                // One lay there when the interval began: one at most is idle.
                let second = store.depot.take_idle(&store.nodes, CLASS);
                assert_eq!(second, None);
                idle.map(|m| store.nodes.contents(m))
            })
        };
        store.put(1, 11, 2);
        let mut all: Vec<u64> = [taker, keeper]
            .into_iter()
            .filter_map(|thread| thread.join().unwrap())
            .collect();
        while let Some(magazine) = store.take() {
            all.push(store.nodes.contents(magazine));
        }
        all.sort_unstable();
        assert_eq!(all, [10, 11]);
        assert_eq!(store.depot.bytes(), 0);
    });
}

#[test]
fn a_full_depot_gives_the_magazine_back() {
    // Room for one of two: whoever is sent away still owns what he brought.
    loom::model(|| {
        let store = Store::<2>::new();
        let limit = class_size(CLASS);
        let run = move |store: &Store<2>, me: usize| {
            let magazine = store.nodes.fill(me, 10 + me as u64, 1);
            let back = store.depot.put(&store.nodes, 0, CLASS, magazine, limit);
            back.map(|magazine| {
                assert_eq!(store.nodes.contents(magazine), 10 + me as u64);
                magazine.count
            })
        };
        let other = {
            let store = Arc::clone(&store);
            thread::spawn(move || run(&store, 1))
        };
        let mut there = usize::from(run(&store, 0).is_none());
        there += usize::from(other.join().unwrap().is_none());
        assert_ne!(there, 0);
        assert_eq!(store.depot.bytes(), there * class_size(CLASS));
        for _ in 0..there {
            assert!(store.take().is_some());
        }
        assert_eq!(store.take(), None);
        assert_eq!(store.depot.bytes(), 0);
    });
}

// ---- arenas: attach, creation, detach ----

/// An arena without a heap.
struct Plain {
    usage: Usage,
    /// Its number, written by its maker before it is published.
    number: Owned,
    heap: Mutex<u64>,
}

impl Plain {
    fn new(number: usize) -> Plain {
        Plain {
            usage: Usage::new(),
            number: Owned::new(number as u64),
            heap: Mutex::new(0),
        }
    }

    /// Arenas are never unmapped; the few bytes that a model leaves behind go with the process.
    fn leak(number: usize) -> Option<&'static Plain> {
        Some(Box::leak(Box::new(Plain::new(number))))
    }
}

impl Member for Plain {
    fn usage(&self) -> &Usage {
        &self.usage
    }
}

type Arenas = Roster<Plain, 4>;

fn attached(arenas: &Arenas) -> u32 {
    arenas.iter().map(|(_, arena)| arena.usage.attached()).sum()
}

fn work_in(arenas: &Arenas, number: usize) {
    let arena = arenas.get(number).expect("an arena that threads attach to");
    assert_eq!(arena.number.get(), number as u64);
    *arena.heap.lock() += 1;
}

#[test]
fn threads_attach_within_the_limit() {
    // One thread is there, two come at once; a second arena is allowed, a third is not.
    loom::model(|| {
        let arenas = Arc::new(Arenas::new(Plain::new(0)));
        assert_eq!(arenas.attach(|| 2, Plain::leak), 0);
        let come = |arenas: &Arenas| {
            let number = arenas.attach(|| 2, Plain::leak);
            work_in(arenas, number);
            number
        };
        let others: Vec<_> = (0..2)
            .map(|_| {
                let arenas = Arc::clone(&arenas);
                thread::spawn(move || come(&arenas))
            })
            .collect();
        let numbers: Vec<usize> = others.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(arenas.numbers() <= 2 && arenas.iter().count() <= 2);
        assert!(
            numbers.contains(&1),
            "{numbers:?}: nobody made the arena that is allowed"
        );
        assert_eq!((attached(&arenas), arenas.threads()), (3, 3));
        let work: u64 = arenas.iter().map(|(_, arena)| *arena.heap.lock()).sum();
        assert_eq!(work, 2);
        for number in numbers.into_iter().chain([0]) {
            arenas.detach(number);
        }
        assert_eq!((attached(&arenas), arenas.threads()), (0, 0));
    });
}

#[test]
fn arenas_that_cannot_be_made_cost_nothing() {
    // Of two that come at once, one gets no memory for its arena and shares one; there is
    // still room for as many arenas as before.
    loom::model(|| {
        let arenas = Arc::new(Arenas::new(Plain::new(0)));
        assert_eq!(arenas.attach(|| 3, Plain::leak), 0);
        let unlucky = {
            let arenas = Arc::clone(&arenas);
            thread::spawn(move || {
                let number = arenas.attach(|| 3, |_| None);
                work_in(&arenas, number);
                number
            })
        };
        let lucky = arenas.attach(|| 3, Plain::leak);
        work_in(&arenas, lucky);
        let shared = unlucky.join().unwrap();
        assert!(arenas.numbers() <= 3);
        assert!(arenas.get(shared).is_some());
        assert_eq!((attached(&arenas), arenas.threads()), (3, 3));
        assert!(lucky != 0);
        // A number stays empty only if somebody else took the next one meanwhile.
        assert_eq!(arenas.iter().count(), 2);
        assert!(arenas.numbers() == 2 || lucky == 2);
    });
}

#[test]
fn detaching_makes_room_for_the_next() {
    // One leaves while one comes: the newcomer may share or make an arena, no count is lost.
    loom::model(|| {
        let arenas = Arc::new(Arenas::new(Plain::new(0)));
        assert_eq!(arenas.attach(|| 2, Plain::leak), 0);
        let leaving = {
            let arenas = Arc::clone(&arenas);
            thread::spawn(move || arenas.detach(0))
        };
        let number = arenas.attach(|| 2, Plain::leak);
        work_in(&arenas, number);
        leaving.join().unwrap();
        assert_eq!((attached(&arenas), arenas.threads()), (1, 1));
        assert_eq!(arenas.get(number).map(|a| a.usage.attached()), Some(1));
    });
}

// ---- caches ----

/// A cache: its record, and what only its owner touches.
struct Node {
    claim: Claim<Node>,
    inside: Owned,
}

// SAFETY: projects the pointer to one field.
unsafe impl Claimed for Node {
    fn claim(this: *mut Node) -> *const Claim<Node> {
        this.wrapping_byte_add(core::mem::offset_of!(Node, claim))
            .cast()
    }
}

/// What a thread does when it starts: takes a cache that is nobody's, or adds one.
fn claim(roll: &Roll<Node>) -> &'static Node {
    let mut node = roll.take(0);
    if node.is_null() {
        node = Box::into_raw(Box::new(Node {
            claim: Claim::new(),
            inside: Owned::new(0),
        }));
        // SAFETY: leaked just now, so valid forever and in no list.
        unsafe { roll.add(node, 0) };
    }
    // SAFETY: leaked, above or by another thread.
    unsafe { &*node }
}

#[test]
fn a_cache_has_one_owner() {
    // Two threads claim, write, give back and claim again; a third only walks the list.
    loom::model(|| {
        let roll = Arc::new(Roll::<Node>::new());
        let live = |roll: &Roll<Node>, lives: u64| {
            for _ in 0..lives {
                let node = claim(roll);
                node.inside.add(1);
                assert!(node.claim.is_owned());
                node.claim.give_back();
            }
        };
        let other = {
            let roll = Arc::clone(&roll);
            thread::spawn(move || live(&roll, 1))
        };
        let walker = {
            let roll = Arc::clone(&roll);
            thread::spawn(move || assert!(roll.iter().count() <= 2))
        };
        live(&roll, 2);
        other.join().unwrap();
        walker.join().unwrap();
        let mut sum = 0;
        let mut caches = 0;
        for node in roll.iter() {
            // SAFETY: leaked.
            let node = unsafe { &*node };
            assert!(!node.claim.is_owned());
            sum += node.inside.get();
            caches += 1;
        }
        // Never more caches than threads at once, and nothing lost.
        assert!(caches == 1 || caches == 2);
        assert_eq!(sum, 3);
    });
}

#[test]
fn what_a_thread_cached_reaches_its_successor() {
    // A thread frees into its cache, hands the magazine to the depot and ends; another, alive
    // meanwhile, may get its cache, its magazine, both or neither, and reads what was written.
    loom::model(|| {
        let roll = Arc::new(Roll::<Node>::new());
        let store = Store::<1>::new();
        let ending = {
            let (roll, store) = (Arc::clone(&roll), Arc::clone(&store));
            thread::spawn(move || {
                let node = claim(&roll);
                node.inside.set(7);
                store.put(0, 42, 1);
                node.claim.give_back();
            })
        };
        let node = claim(&roll);
        let inherited = node.inside.get();
        assert!(inherited == 0 || inherited == 7);
        let found = store.take().map(|m| store.nodes.contents(m));
        assert!(found.is_none_or(|contents| contents == 42));
        if inherited == 7 {
            // Its cache came after its magazine.
            assert_eq!(found, Some(42));
        }
        node.inside.set(8);
        node.claim.give_back();
        ending.join().unwrap();
        let left = store.take().map(|m| store.nodes.contents(m));
        assert_eq!(found.or(left), Some(42));
    });
}
