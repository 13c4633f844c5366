//! A space with a recorder in place of pages.

use fencepost::mmu::addr::{ObjectId, PAGE, Rights};
use fencepost::mmu::area::linux::{MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED};
use fencepost::mmu::area::{Area, Backing, Errno, Limits};
use fencepost::mmu::areas::{AreaPool, Node};
use fencepost::mmu::effects::Effects;
use fencepost::mmu::fault::Cause;
use fencepost::mmu::space::{Layout, Space};
use std::collections::{BTreeMap, BTreeSet};

/// Where the tests map: far from everything.
pub const BASE: u64 = 0x1000_0000_0000;
/// Private anonymous.
pub const ANON: u32 = MAP_PRIVATE | MAP_ANONYMOUS;
/// Shared anonymous.
pub const SHARED: u32 = MAP_SHARED | MAP_ANONYMOUS;

/// One call of the recorder, addresses in pages from [`BASE`] where they are such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    Forget(i64, i64),
    Discard(i64, i64),
    FreeLazily(i64, i64),
    Protect(i64, i64, Rights),
    /// From, to, pages.
    Relocate(i64, i64, u64),
    Guard(i64, i64),
    Unguard(i64, i64),
    Populate(i64, i64, bool),
    Prune(u64, u64),
    Create(u64),
    Hold(u32),
    Release(u32),
    /// Object, offset, length.
    Punch(u32, u64, u64),
}

/// Records what it is told, knows guards and lengths and holders of objects.
#[derive(Debug, Default)]
pub struct Recorder {
    pub told: Vec<Told>,
    pub guards: BTreeSet<u64>,
    /// Holders and length of each object.
    pub objects: BTreeMap<u32, (u32, u64)>,
    /// Objects that were ever made.
    pub made: u32,
    /// Whether the next object cannot be made.
    pub no_objects: bool,
    /// Pages that cannot be had for want of memory.
    pub no_memory: BTreeSet<u64>,
}

/// An address in pages from [`BASE`].
pub fn page_of(addr: u64) -> i64 {
    (addr.cast_signed() - BASE.cast_signed()) / PAGE.cast_signed()
}

fn range(start: u64, end: u64) -> (i64, i64) {
    assert!(start < end && start.is_multiple_of(PAGE) && end.is_multiple_of(PAGE));
    (page_of(start), page_of(end))
}

impl Recorder {
    fn tell(&mut self, told: Told) {
        self.told.push(told);
    }
}

impl Effects for Recorder {
    fn forget(&mut self, start: u64, end: u64) {
        let (from, to) = range(start, end);
        self.guards.retain(|page| !(start..end).contains(page));
        self.tell(Told::Forget(from, to));
    }

    fn discard(&mut self, start: u64, end: u64) {
        let (from, to) = range(start, end);
        self.tell(Told::Discard(from, to));
    }

    fn free_lazily(&mut self, start: u64, end: u64) {
        let (from, to) = range(start, end);
        self.tell(Told::FreeLazily(from, to));
    }

    fn protect(&mut self, start: u64, end: u64, rights: Rights) {
        let (from, to) = range(start, end);
        self.tell(Told::Protect(from, to, rights));
    }

    fn relocate(&mut self, from: u64, to: u64, len: u64) {
        range(from, from + len);
        let moved: Vec<u64> = self.guards.range(from..from + len).copied().collect();
        for page in moved {
            self.guards.remove(&page);
            self.guards.insert(page - from + to);
        }
        self.tell(Told::Relocate(page_of(from), page_of(to), len / PAGE));
    }

    fn guard(&mut self, start: u64, end: u64) {
        let (from, to) = range(start, end);
        self.guards.extend((start..end).step_by(PAGE as usize));
        self.tell(Told::Guard(from, to));
    }

    fn unguard(&mut self, start: u64, end: u64) {
        let (from, to) = range(start, end);
        self.guards.retain(|page| !(start..end).contains(page));
        self.tell(Told::Unguard(from, to));
    }

    fn populate(&mut self, area: &Area, start: u64, end: u64, write: bool) -> Result<(), Errno> {
        let (from, to) = range(start, end);
        assert!(area.start <= start && end <= area.end);
        self.tell(Told::Populate(from, to, write));
        for page in (start..end).step_by(PAGE as usize) {
            if self.no_memory.contains(&page) {
                return Err(Errno::ENOMEM);
            }
            let beyond = match area.backing_at(page) {
                Backing::Object { object, offset, .. } => offset >= self.objects[&object.raw()].1,
                Backing::Anonymous => false,
            };
            if self.guards.contains(&page) || beyond {
                return Err(Errno::EFAULT);
            }
        }
        Ok(())
    }

    fn prune(&mut self, floor: u64, ceiling: u64) {
        self.tell(Told::Prune(floor, ceiling));
    }

    fn create(&mut self, len: u64) -> Result<ObjectId, Errno> {
        if self.no_objects {
            return Err(Errno::ENOMEM);
        }
        let id = self.made;
        self.made += 1;
        self.objects.insert(id, (1, len));
        self.tell(Told::Create(len));
        Ok(ObjectId::new(id))
    }

    fn hold(&mut self, object: ObjectId) {
        self.objects.get_mut(&object.raw()).expect("it exists").0 += 1;
        self.tell(Told::Hold(object.raw()));
    }

    fn release(&mut self, object: ObjectId) {
        let holders = &mut self.objects.get_mut(&object.raw()).expect("it exists").0;
        *holders = holders.checked_sub(1).expect("it is held");
        self.tell(Told::Release(object.raw()));
    }

    fn punch(&mut self, object: ObjectId, offset: u64, len: u64) {
        self.tell(Told::Punch(object.raw(), offset, len));
    }
}

/// A space, its pool, and the recorder. Everything is checked after every call.
pub struct World {
    pub space: Space,
    pub pool: AreaPool<'static>,
    pub fx: Recorder,
}

impl World {
    pub fn new() -> World {
        World::with(Limits::NONE, 1000)
    }

    pub fn limited(limits: Limits) -> World {
        World::with(limits, 1000)
    }

    pub fn with(limits: Limits, nodes: usize) -> World {
        World {
            space: Space::new(Layout::linux_default(0), limits),
            pool: AreaPool::new(vec![Node::EMPTY; nodes].leak()),
            fx: Recorder::default(),
        }
    }

    /// An object that others hold once, as an open file is.
    pub fn file(&mut self, pages: u64) -> ObjectId {
        self.fx.create(pages * PAGE).expect("objects can be made")
    }

    #[allow(clippy::too_many_arguments)] // Those of the call.
    pub fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        object: Option<ObjectId>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let (pool, fx) = (&mut self.pool, &mut self.fx);
        let result = self
            .space
            .mmap(pool, fx, hint, len, prot, flags, object, offset);
        self.check();
        result
    }

    /// Maps pages from [`BASE`] on at exactly there.
    #[track_caller]
    pub fn map(&mut self, page: u64, pages: u64, prot: u32, flags: u32) {
        let addr = BASE + page * PAGE;
        let done = self.mmap(addr, pages * PAGE, prot, flags | MAP_FIXED, None, 0);
        assert_eq!(done, Ok(addr));
    }

    /// Maps a file's pages, from its beginning.
    #[track_caller]
    pub fn map_file(&mut self, page: u64, pages: u64, prot: u32, flags: u32, file: ObjectId) {
        let addr = BASE + page * PAGE;
        let flags = flags | MAP_FIXED;
        let done = self.mmap(addr, pages * PAGE, prot, flags, Some(file), 0);
        assert_eq!(done, Ok(addr));
    }

    pub fn munmap(&mut self, page: u64, pages: u64) -> Result<(), Errno> {
        self.munmap_bytes(BASE + page * PAGE, pages * PAGE)
    }

    pub fn munmap_bytes(&mut self, addr: u64, len: u64) -> Result<(), Errno> {
        let result = self.space.munmap(&mut self.pool, &mut self.fx, addr, len);
        self.check();
        result
    }

    pub fn mprotect(&mut self, page: u64, pages: u64, prot: u32) -> Result<(), Errno> {
        self.mprotect_bytes(BASE + page * PAGE, pages * PAGE, prot)
    }

    pub fn mprotect_bytes(&mut self, addr: u64, len: u64, prot: u32) -> Result<(), Errno> {
        let (pool, fx) = (&mut self.pool, &mut self.fx);
        let result = self.space.mprotect(pool, fx, addr, len, prot);
        self.check();
        result
    }

    pub fn madvise(&mut self, page: u64, pages: u64, advice: u32) -> Result<(), Errno> {
        self.madvise_bytes(BASE + page * PAGE, pages * PAGE, advice)
    }

    pub fn madvise_bytes(&mut self, addr: u64, len: u64, advice: u32) -> Result<(), Errno> {
        let (pool, fx) = (&mut self.pool, &mut self.fx);
        let result = self.space.madvise(pool, fx, addr, len, advice);
        self.check();
        result
    }

    pub fn mlock(&mut self, page: u64, pages: u64) -> Result<(), Errno> {
        let (pool, fx) = (&mut self.pool, &mut self.fx);
        let result = self.space.mlock(pool, fx, BASE + page * PAGE, pages * PAGE);
        self.check();
        result
    }

    pub fn munlock(&mut self, page: u64, pages: u64) -> Result<(), Errno> {
        let (pool, fx) = (&mut self.pool, &mut self.fx);
        let result = self
            .space
            .munlock(pool, fx, BASE + page * PAGE, pages * PAGE);
        self.check();
        result
    }

    /// In pages from [`BASE`].
    pub fn mremap(
        &mut self,
        old: u64,
        old_pages: u64,
        new_pages: u64,
        flags: u32,
        new: u64,
    ) -> Result<i64, Errno> {
        let (old, new) = (BASE + old * PAGE, BASE + new * PAGE);
        self.mremap_bytes(old, old_pages * PAGE, new_pages * PAGE, flags, new)
            .map(page_of)
    }

    pub fn mremap_bytes(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let (pool, fx) = (&mut self.pool, &mut self.fx);
        let result = self
            .space
            .mremap(pool, fx, old, old_len, new_len, flags, new);
        self.check();
        result
    }

    /// In bytes from the beginning of the heap.
    pub fn brk(&mut self, to: u64) -> u64 {
        let start = self.space.layout().start_brk;
        let now = self.space.brk(&mut self.pool, &mut self.fx, start + to);
        self.check();
        now - start
    }

    pub fn grow_stack(&mut self, addr: u64) -> Result<(), Cause> {
        let result = self.space.grow_stack(&mut self.pool, &mut self.fx, addr);
        self.check();
        result
    }

    pub fn fork(&mut self) -> Result<Space, Errno> {
        let child = self.space.fork(&mut self.pool, &mut self.fx)?;
        assert_eq!(child.check(&self.pool), Ok(()));
        Ok(child)
    }

    /// What was told since the last time.
    pub fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.fx.told)
    }

    /// All areas, as they are: `0-4 rw-p` in pages from [`BASE`]; shared ones with object and
    /// page of it.
    pub fn areas(&self) -> Vec<String> {
        self.space
            .areas(&self.pool)
            .map(|area| text(&area))
            .collect()
    }

    /// All areas as the maps listing shows them.
    pub fn canonical(&self) -> Vec<String> {
        let areas = self.space.canonical(&self.pool);
        areas.map(|area| text(&area)).collect()
    }

    #[track_caller]
    pub fn shows(&self, areas: &[&str]) {
        assert_eq!(self.areas(), areas);
    }

    /// Invariants, and that objects are held once by each area.
    #[track_caller]
    fn check(&self) {
        assert_eq!(self.space.check(&self.pool), Ok(()));
        let mut held: BTreeMap<u32, u32> = BTreeMap::new();
        for area in self.space.areas(&self.pool) {
            if let Backing::Object { object, .. } = area.backing {
                *held.entry(object.raw()).or_default() += 1;
            }
        }
        for (id, (holders, _)) in &self.fx.objects {
            let areas = held.get(id).copied().unwrap_or(0);
            assert!(
                (areas..=areas + 1).contains(holders),
                "object {id}: {holders} {areas}"
            );
        }
    }
}

fn text(area: &Area) -> String {
    let (start, end) = (page_of(area.start), page_of(area.end));
    let rights = area.rights;
    match area.backing {
        Backing::Anonymous => format!("{start}-{end} {rights}p"),
        Backing::Object {
            object,
            offset,
            shared,
        } => {
            let letter = if shared { 's' } else { 'p' };
            let (object, page) = (object.raw(), offset / PAGE);
            format!("{start}-{end} {rights}{letter} {object}:{page}")
        }
    }
}
