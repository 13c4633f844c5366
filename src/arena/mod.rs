//! Layer 6: heaps behind locks, and what all threads of a process share.
//!
//! [`Shared`] holds the arenas, the [`Depot`], the [`Maps`], and the rules between them: which
//! thread uses which arena, which arena a chunk goes home to, what a new process abandons.
//!
//! **Fork.** No lock is taken before a fork and none is held by the forking thread. Whoever is
//! about to take a lock first looks at the [`ForkPage`]; in a new process the first to do so
//! puts it in order: an arena that somebody had locked is abandoned (its memory stays valid,
//! frees to it are parked), a locked shelf or mapping cache is forgotten.
#![allow(unsafe_code)] // Arenas live in raw pages.

mod crowd;
mod depot;
mod drain;
mod large;
mod limits;
mod maps;
mod roster;
mod table;

pub use depot::{AISLES, Depot, Freight, Magazine};
pub use maps::{Mapped, Maps};
pub use roster::{Member, Roster, Usage};
pub use table::{MapTable, Owned};

use drain::Drain;

use crate::chunk::{Chunk, Keys, Stack, State};
use crate::config::{Key, Settings};
use crate::heap::{Batch, Growth, Heap, Reserved, Run, Swing};
use crate::os::{ForkPage, Os, PageState, Prot, Region, available_cpus};
use crate::size::{CLASSES, align_up, class_size};
use crate::sync::overlay::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The most arenas a process has.
pub const MAX_ARENAS: usize = 64;
/// Arenas per CPU, unless the user says otherwise. The caches and the depot keep threads away
/// from the arenas; more of them only spread the memory.
const ARENAS_PER_CPU: usize = 2;

/// What the depot holds is idle when it was not needed for so many ticks.
const DEPOT_TICKS: u32 = 8;

/// A heap, its lock, and who uses it.
#[derive(Debug)]
pub struct Arena<O: Os + 'static> {
    heap: Mutex<Heap<O>>,
    usage: Usage,
    /// Bytes of its chunks that are outside; written under the lock.
    outside: AtomicUsize,
}

impl<O: Os + 'static> Arena<O> {
    #[cfg(not(loom))]
    const fn new(heap: Heap<O>) -> Arena<O> {
        Arena {
            heap: Mutex::new(heap),
            usage: Usage::new(),
            outside: AtomicUsize::new(0),
        }
    }

    #[cfg(loom)]
    fn new(heap: Heap<O>) -> Arena<O> {
        Arena {
            heap: Mutex::new(heap),
            usage: Usage::new(),
            outside: AtomicUsize::new(0),
        }
    }
}

impl<O: Os + 'static> Member for Arena<O> {
    #[inline]
    fn usage(&self) -> &Usage {
        &self.usage
    }
}

/// What all threads of a process share.
///
/// In this order: a small process has no use for the depot's pages; what it needs follows.
#[derive(Debug)]
#[repr(C)]
pub struct Shared<O: Os + Copy + 'static> {
    /// The depot of magazines.
    pub depot: Depot,
    /// The mapped chunks.
    pub maps: Maps,
    os: O,
    keys: &'static Keys<O::Region>,
    settings: &'static Settings,
    /// Number 0 is the main arena.
    arenas: Roster<Arena<O>, MAX_ARENAS>,
    limit: AtomicUsize,
    fork: ForkPage,
    parked: AtomicU64,
    /// The most bytes of chunks outside the arenas in recent ticks.
    high: AtomicUsize,
    ticks: AtomicU32,
    /// Whether the heaps were told that most threads are idle.
    crowded: AtomicU32,
    swing: Swing,
    /// Bytes that were put into the depot since it was last looked at.
    passed: AtomicUsize,
    /// How many forks lie between the first process and this one.
    generation: AtomicU32,
}

impl<O: Os + Copy + 'static> Shared<O> {
    /// Arena 0 without memory; nothing is asked of the system yet.
    #[cfg(not(loom))]
    pub const fn new(os: O, keys: &'static Keys<O::Region>, settings: &'static Settings) -> Self {
        Shared {
            os,
            keys,
            settings,
            arenas: Roster::new(Arena::new(Heap::new(
                os,
                keys,
                settings,
                0,
                Growth::Segments,
            ))),
            limit: AtomicUsize::new(0),
            depot: Depot::new(),
            maps: Maps::new(),
            fork: ForkPage::new(),
            parked: AtomicU64::new(0),
            high: AtomicUsize::new(0),
            ticks: AtomicU32::new(0),
            crowded: AtomicU32::new(0),
            swing: Swing::new(),
            passed: AtomicUsize::new(0),
            generation: AtomicU32::new(0),
        }
    }

    /// Says how the main arena grows, and starts to watch for forks. `false` if the kernel
    /// cannot wipe a page on fork: then [`forked`](Shared::forked) must be called in children.
    /// `page` is a page of the image to watch, or 0.
    pub fn start(&self, growth: Growth, page: usize) -> bool {
        self.arenas.first().heap.lock().set_growth(growth);
        self.maps.touch();
        self.depot.touch();
        self.fork.watch(&self.os, page).is_ok()
    }

    /// The kernel.
    pub const fn os(&self) -> &O {
        &self.os
    }

    /// What it takes to read chunks.
    #[inline(always)]
    pub const fn keys(&self) -> &'static Keys<O::Region> {
        self.keys
    }

    /// The tunables.
    pub const fn settings(&self) -> &'static Settings {
        self.settings
    }

    /// Tells that this is a new process, where the kernel does not.
    pub fn forked(&self) {
        self.fork.forget(&self.os);
    }

    /// Looks whether this is a new process and puts it in order. Every path that may take a
    /// lock comes by here first.
    #[inline]
    pub fn enter(&self) {
        self.fork.check(&self.os, || self.put_in_order());
    }

    #[cold]
    fn put_in_order(&self) {
        self.arenas.after_fork(|arena| arena.heap.is_locked());
        self.depot.after_fork();
        self.maps.after_fork();
        self.end_crowd();
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    /// How many forks lie between the first process and this one.
    pub fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether an arena was locked by a thread that does not exist in this process.
    #[inline]
    pub fn is_abandoned(&self, number: usize) -> bool {
        self.arenas
            .get(number)
            .is_none_or(|arena| arena.usage.is_abandoned())
    }

    /// Locks the heap of an arena; `None` if there is none of this number or it was abandoned.
    pub fn lock(&self, number: usize) -> Option<MutexGuard<'_, Heap<O>>> {
        let arena = self.arenas.get(number)?;
        if let Some(heap) = arena.heap.try_lock() {
            return Some(heap);
        }
        // Before waiting: the holder may not exist in this process.
        self.enter();
        if arena.usage.is_abandoned() {
            return None;
        }
        Some(arena.heap.lock())
    }

    /// How many arenas there are.
    pub fn arenas(&self) -> usize {
        self.arenas.iter().count()
    }

    /// One more than the highest number of an arena.
    pub fn arena_numbers(&self) -> usize {
        self.arenas.numbers()
    }

    /// Threads that are attached now.
    pub fn threads(&self) -> usize {
        self.arenas.threads()
    }

    /// Bytes of chunks outside the arenas: with users, in caches, in the depot.
    pub fn outside(&self) -> usize {
        let each = self.arenas.iter();
        each.map(|(_, arena)| arena.outside.load(Ordering::Relaxed))
            .sum()
    }

    /// Tells the others what is outside of an arena, before its lock is given up. A plain store:
    /// a sum that all arenas add to would have to wait for whatever was written into the chunks.
    #[inline]
    fn publish(&self, number: usize, heap: &Heap<O>) {
        if let Some(arena) = self.arenas.get(number) {
            arena.outside.store(heap.used_bytes(), Ordering::Relaxed);
        }
    }

    /// Chunks that came home to an abandoned arena.
    pub fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    fn arena_limit(&self) -> usize {
        let asked = self.settings.get(Key::ArenaMax);
        if asked != 0 {
            return asked.min(MAX_ARENAS);
        }
        let known = self.limit.load(Ordering::Relaxed);
        if known != 0 {
            return known;
        }
        let mut limit = (available_cpus() * ARENAS_PER_CPU).clamp(1, MAX_ARENAS);
        if self.settings.is_set(Key::ArenaTest) {
            limit = limit.max(self.settings.get(Key::ArenaTest)).min(MAX_ARENAS);
        }
        self.limit.store(limit, Ordering::Relaxed);
        limit
    }

    /// Gives a thread an arena: the first the main one, then a new one each until there are
    /// enough, then the least used.
    pub fn attach(&self) -> usize {
        let number = self
            .arenas
            .attach(|| self.arena_limit(), |n| self.make_arena(n));
        self.look_at_crowd();
        number
    }

    /// As [`attach`](Shared::attach) for a thread whose arena was abandoned.
    pub fn choose(&self) -> usize {
        self.arenas
            .choose(|| self.arena_limit(), |n| self.make_arena(n))
    }

    /// Ends a thread's use of its arena.
    pub fn detach(&self, number: usize) {
        self.arenas.detach(number);
    }

    #[cold]
    fn make_arena(&self, number: usize) -> Option<&'static Arena<O>> {
        let bytes = align_up(size_of::<Arena<O>>(), self.os.page_size());
        let pages = self.os.map(0, bytes, Prot::ReadWrite).ok()?;
        self.os.note(pages, pages + bytes, PageState::Meta);
        let Ok(region) = Reserved::granule(&self.os) else {
            // SAFETY: mapped just now; nobody knows these pages. A refusal leaks them.
            let _ = unsafe { self.os.unmap(pages, bytes) };
            return None;
        };
        let arena: *mut Arena<O> = self.os.region().at(pages).cast();
        let heap = Heap::new(
            self.os,
            self.keys,
            self.settings,
            number,
            Growth::Region(region),
        );
        // SAFETY: fresh pages of ours, large and aligned enough, never unmapped; nobody else
        // knows them yet.
        unsafe {
            arena.write(Arena::new(heap));
            Some(&*arena)
        }
    }

    /// Fills a batch with chunks of `size` bytes from arena `number`, or from another one if
    /// that has no memory. `false` if none has. Before memory is taken that nobody has touched yet,
    /// `rest` is called, which may put what it does not need into the depot.
    pub fn fill(&self, number: usize, size: usize, batch: &mut Batch, rest: impl FnMut()) -> bool {
        let serve = |heap: &mut Heap<O>, may_grow: bool| {
            if may_grow {
                heap.fill(size, batch)
            } else {
                heap.fill_from_free(size, batch)
            }
        };
        self.fill_by(number, size, serve, rest)
    }

    /// As [`fill`](Shared::fill), with chunks whose payload addresses are multiples of `align`:
    /// one at least, as [`Heap::fill_aligned`] does.
    pub fn fill_aligned(
        &self,
        number: usize,
        align: usize,
        size: usize,
        batch: &mut Batch,
    ) -> bool {
        let serve = |heap: &mut Heap<O>, may_grow: bool| {
            if may_grow {
                heap.fill_aligned(align, size, batch)
            } else {
                heap.fill_aligned_from_free(align, size, batch)
            }
        };
        self.fill_by(number, size, serve, || ())
    }

    /// Has a heap serve a request for `size` bytes: from what is free, or, if it may, by growing.
    fn fill_by(
        &self,
        number: usize,
        size: usize,
        mut serve: impl FnMut(&mut Heap<O>, bool) -> bool,
        mut rest: impl FnMut(),
    ) -> bool {
        if self.fill_from_any(number, size, &mut serve, &mut rest) {
            return true;
        }
        // There is no more memory: what was put aside may be neighbours that make room together.
        let has_room = |number| {
            self.lock(number)
                .is_some_and(|heap| heap.system_bytes() >= size)
        };
        if self.depot.bytes_about() == 0 || !(0..self.arenas.numbers()).any(has_room) {
            return false;
        }
        // What the first call finds in use rests at the second.
        rest();
        rest();
        self.drain_depot();
        self.fill_from_any(number, size, &mut serve, &mut rest)
    }

    /// As [`fill_by`](Shared::fill_by), without giving up what is worth keeping while there is
    /// memory.
    fn fill_from_any(
        &self,
        number: usize,
        size: usize,
        serve: &mut impl FnMut(&mut Heap<O>, bool) -> bool,
        rest: &mut impl FnMut(),
    ) -> bool {
        let numbers = self.arenas.numbers();
        'arenas: for turn in 0..=numbers {
            // The thread's own arena first, then all, the main one (it can always map) leading.
            let candidate = if turn == 0 { number } else { turn - 1 };
            if turn != 0 && candidate == number {
                continue;
            }
            let Some(mut heap) = self.lock(candidate) else {
                continue;
            };
            let mut filled = serve(&mut heap, false);
            if !filled && turn == 0 && heap.has_advanced() {
                drop(heap);
                rest();
                heap = match self.lock(candidate) {
                    Some(heap) => heap,
                    None => continue,
                };
            }
            // Before the system is asked for memory, the depot gives up what it holds: first
            // what nobody needed lately, then the rest.
            let mut drains = [Drain::Large, Drain::Idle, Drain::All].into_iter();
            let mut drain = drains.next();
            while let Some(what) = drain
                && !filled
            {
                if !self.is_worth_it(what, size, heap.system_bytes()) {
                    drain = drains.next();
                    continue;
                }
                drop(heap);
                if !self.drain(what) {
                    drain = drains.next();
                }
                heap = match self.lock(candidate) {
                    Some(heap) => heap,
                    None => continue 'arenas,
                };
                filled = serve(&mut heap, false);
            }
            let before = heap.system_bytes();
            if !filled {
                filled = serve(&mut heap, true);
            }
            let grown = heap.system_bytes().saturating_sub(before);
            self.publish(candidate, &heap);
            drop(heap);
            self.has_grown(grown);
            if filled {
                self.look_at_past_crowd();
                return true;
            }
        }
        // In a child whose arenas were all abandoned, there is none left to ask.
        if self.arenas.least_used().1 == u32::MAX
            && let Some(made) = self.arenas.add(MAX_ARENAS, |n| self.make_arena(n))
            && let Some(mut heap) = self.lock(made)
        {
            let filled = serve(&mut heap, true);
            self.publish(made, &heap);
            return filled;
        }
        false
    }

    /// The number of the arena that owns a chunk.
    #[inline]
    pub fn owner_of(&self, chunk: Chunk<'static, O::Region>) -> usize {
        self.keys.extents.owner(chunk.addr())
    }

    /// Sends a stack of cached chunks home to the arenas that own them.
    pub fn release(&self, stack: Stack) {
        let ticked = self.release_without_ticks(stack);
        if ticked {
            self.on_tick();
        }
    }

    fn release_without_ticks(&self, mut stack: Stack) -> bool {
        let mut ticked = false;
        while let Some(chunk) = stack.peek(self.keys) {
            let owner = self.owner_of(chunk);
            match self.lock(owner) {
                Some(mut heap) => ticked |= self.release_to(&mut heap, owner, &mut stack),
                None => {
                    let _ = stack.pop(self.keys, State::Cached);
                    self.park();
                }
            }
        }
        ticked
    }

    /// Takes chunks off a stack for as long as `heap`, whose number is `owner`, owns them.
    /// `true` if a tick passed.
    fn release_to(&self, heap: &mut Heap<O>, owner: usize, stack: &mut Stack) -> bool {
        let ticks = heap.ticks();
        let mut run = Run::default();
        while let Some(chunk) = stack.peek(self.keys)
            && self.owner_of(chunk) == owner
            && let Some(chunk) = stack.pop(self.keys, State::Cached)
        {
            heap.free_with(&mut run, chunk);
        }
        heap.end_run(&mut run);
        self.publish(owner, heap);
        heap.ticks() != ticks
    }

    /// A chunk of an abandoned arena stays as it is, marked cached: valid memory that nobody
    /// hands out again.
    fn park(&self) {
        self.parked.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends one chunk, verified as used, home.
    pub fn free(&self, chunk: Chunk<'static, O::Region>) {
        let owner = self.owner_of(chunk);
        let ticked = match self.lock(owner) {
            Some(mut heap) => {
                let before = heap.ticks();
                heap.free(chunk);
                self.publish(owner, &heap);
                heap.ticks() != before
            }
            None => {
                chunk.mark(chunk.low(), State::Retired);
                self.park();
                false
            }
        };
        if ticked {
            self.on_tick();
        }
    }

    /// Enough was freed somewhere: what the depot and the mapping cache held without need goes.
    #[cold]
    fn on_tick(&self) {
        let high = self.high.load(Ordering::Relaxed);
        let outside = self.outside();
        self.high
            .store(outside.max(high - high / 64), Ordering::Relaxed);
        let live = outside.saturating_sub(self.depot.bytes_about());
        self.swing.tick(live, high);
        self.maps.age(&self.os);
        // Phases in which a program frees all that another allocates are longer than a tick.
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        if ticks.is_multiple_of(DEPOT_TICKS) {
            self.drain_idle();
        }
    }

    /// Gives back all that is free, keeping `pad` bytes at each top. `true` if anything was.
    pub fn trim(&self, pad: usize) -> bool {
        self.drain_depot();
        let mut any = self.maps.give_up(&self.os, usize::MAX) != 0;
        for number in 0..self.arenas.numbers() {
            if let Some(mut heap) = self.lock(number) {
                any |= heap.trim(pad);
            }
        }
        any
    }
}

const _: () = assert!(class_size(CLASSES - 1) < 128 << 10);
