//! The interpreter: one heap, its live blocks, and the shadow that knows what must be true.

use std::collections::BTreeMap;
use std::fmt::Debug;

use fencepost::chunk::{Chunk, Stack, State};
use fencepost::config::Key;
use fencepost::heap::{Batch, Growth, Heap, Reserved};
use fencepost::os::{Flaky, GRANULE, Ledger, Os, PageState, Region};
use fencepost::size::{ALIGN, HEADER, MIN_CHUNK, Native};

use super::host::all;
use super::{Ground, Host, Machine, Op, Plan, Script, Source};

/// Bytes of a block's beginning and end that are verified; the middle is sampled.
const EDGE: usize = if cfg!(miri) { 64 } else { 4096 };
/// Address space that a region asks for, in bytes.
const REGION: usize = if cfg!(miri) { 1 << 20 } else { 8 << 20 };

/// A block in a user's hands.
#[derive(Debug, Clone, Copy)]
struct Live {
    payload: usize,
    usable: usize,
    pattern: u8,
}

/// A heap and its shadow.
#[derive(Debug)]
pub struct World<O: Machine + 'static> {
    /// The heap. It goes before the ground does.
    pub heap: Heap<&'static Ledger<Flaky<O>>>,
    live: Vec<Live>,
    /// Start and end of every live block.
    spans: BTreeMap<usize, usize>,
    owner: usize,
    patterns: u8,
    /// Refusals that were known when the current operation began.
    refused: u64,
    region: Option<(usize, usize)>,
    ground: Ground<Ledger<Flaky<O>>>,
}

impl World<Host> {
    /// A heap over a [`Host`], as the script wants it.
    pub fn over_host(script: &Script) -> World<Host> {
        let plan = match (script.source, script.tight) {
            (Source::Granules, _) => Plan::WIDE,
            (_, true) => Plan::TIGHT,
            (_, false) => Plan::SMALL,
        };
        let host = Host::new(Plan {
            page: script.page,
            near: script.near,
            ..plan
        });
        World::new(host, script.source)
    }
}

impl<O: Machine + Debug + 'static> World<O> {
    /// A heap without memory over a kernel.
    pub fn new(machine: O, source: Source) -> World<O> {
        // SAFETY: the heap is the first field and the references stay in this world.
        let ground = unsafe { Ground::new(Ledger::new(Flaky::new(machine)), 7) };
        let os = ground.os();
        let mut region = None;
        let growth = match source {
            Source::Break => Growth::Break { end: 0 },
            Source::Region => {
                let reserved = Reserved::up_to(os, REGION, 1 << 16).expect("room for a region");
                region = Some((reserved.start(), REGION));
                Growth::Region(reserved)
            }
            Source::Granules => {
                let reserved = Reserved::granule(os).expect("room for a granule");
                assert_eq!(reserved.start() % GRANULE, 0);
                region = Some((reserved.start(), GRANULE));
                Growth::Region(reserved)
            }
            Source::Segments => Growth::Segments,
        };
        let owner = if source == Source::Granules { 5 } else { 0 };
        World {
            heap: ground.heap(owner, growth),
            live: Vec::new(),
            spans: BTreeMap::new(),
            owner,
            patterns: 0,
            refused: 0,
            region,
            ground,
        }
    }

    /// The kernel, to count and refuse its calls.
    pub fn os(&self) -> &'static Flaky<O> {
        self.ground.os().inner()
    }

    /// For a test of the shadow: overwrites a word of a live block.
    pub fn scribble(&self, place: usize, offset: usize) {
        let at = self.live[place].payload + offset;
        // SAFETY: the block is live and large enough.
        unsafe { self.ground.keys().region.at(at).cast::<u64>().write(0) }
    }

    /// For a test of the shadow: says something false about the page of a live block.
    pub fn note(&self, place: usize, state: PageState) {
        let os = self.ground.os();
        let page = os.page_size();
        let start = self.live[place].payload / page * page;
        os.note(start, start + page, state);
    }

    /// How many blocks are live.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Carries out operations, checks everything after every `check_every`th, then frees what
    /// is left and looks that nothing was lost.
    pub fn run(&mut self, ops: &[Op], check_every: usize) {
        self.run_with(ops, check_every, |_, _| ());
    }

    /// As [`run`](World::run); `after` is called after every operation, before it is checked.
    pub fn run_with(
        &mut self,
        ops: &[Op],
        check_every: usize,
        mut after: impl FnMut(&mut World<O>, Op),
    ) {
        for (step, op) in ops.iter().enumerate() {
            self.refused = self.refusals();
            self.apply(*op);
            after(self, *op);
            if step % check_every == 0 {
                self.check();
            }
        }
        self.finish();
    }

    /// Carries out one operation.
    pub fn apply(&mut self, op: Op) {
        let settings = self.ground.settings();
        match op {
            Op::Malloc(n) => {
                self.fill(n, 1);
            }
            Op::Fill(n, count) => {
                self.fill(n, count);
            }
            Op::Aligned(shift, n) => self.aligned(1 << shift, n),
            Op::Free(place) => {
                if let Some(block) = self.forget(place) {
                    let chunk = self.verified(block);
                    self.heap.free(chunk);
                }
            }
            Op::Flush(place, count) => self.flush(place, count),
            Op::Realloc(place, n) => self.realloc(place, n),
            Op::Consolidate => self.heap.consolidate(),
            Op::Trim(pad) => {
                self.heap.trim(pad);
            }
            Op::Sbrk(n) => self.os().inner().sbrk(n),
            Op::Wall(stands) => self.os().inner().set_wall(stands != 0),
            Op::Refuse(from, count) => self.os().refuse(from as u64, (from + count) as u64),
            Op::Limit(bound, n) => self.os().inner().limit(Some((bound, n))),
            Op::Unlimited => self.os().inner().limit(None),
            Op::Mxfast(n) => assert!(settings.set(Key::Mxfast, n.min(160))),
            Op::TopPad(n) => assert!(settings.set(Key::TopPad, n)),
            Op::TrimThreshold(n) => assert!(settings.set(Key::TrimThreshold, n)),
        }
    }

    fn refusals(&self) -> u64 {
        self.os().refused() + self.os().inner().refused()
    }

    /// No memory: there must have been a reason.
    fn no_memory(&self, wanted: usize) {
        let beyond_arena = self.owner != 0 && wanted + MIN_CHUNK + HEADER > GRANULE;
        assert!(
            self.refusals() != self.refused || beyond_arena,
            "no memory for {wanted} bytes although nothing was refused"
        );
    }

    /// Allocates up to `count` blocks in a batch; `false` if there was no memory.
    pub fn fill(&mut self, n: usize, count: usize) -> bool {
        let size = Native::chunk_size(n).expect("the request is not absurd");
        let mut batch = Batch::wanting(count);
        if !self.heap.fill(size, &mut batch) {
            assert!(batch.stack().is_empty() && batch.count() == 0);
            self.no_memory(size);
            return false;
        }
        assert!((1..=count).contains(&batch.count()));
        let zero = batch.zero();
        let mut left = batch.count();
        while let Some(chunk) = batch.pop(self.ground.keys()) {
            left -= 1;
            assert_eq!(chunk.size(), size, "a batch holds chunks of one size");
            chunk.mark(chunk.low(), State::Used);
            self.check_zero(chunk, zero);
            self.adopt(chunk, n, ALIGN);
        }
        assert_eq!(left, 0, "the batch counted wrongly");
        true
    }

    /// What is said to be zero is.
    fn check_zero(&self, chunk: Chunk<'static, O::Region>, zero: (usize, usize)) {
        let payload = chunk.payload();
        let end = zero.1.min(payload + Native::usable(chunk.size()));
        let from = zero.0.max(payload + 24);
        if from < end {
            // Of a large block Miri looks at the beginning only.
            let len = if cfg!(miri) {
                (end - from).min(256)
            } else {
                end - from
            };
            assert!(
                all(self.bytes(from, len), 0),
                "memory after {from:#x} is not zero"
            );
        }
    }

    fn aligned(&mut self, align: usize, n: usize) {
        let size = Native::chunk_size(n).expect("the request is not absurd");
        let mut batch = Batch::wanting(1);
        self.heap.fill_aligned(align, size, &mut batch);
        match batch.pop(self.ground.keys()) {
            Some(chunk) => {
                chunk.mark(chunk.low(), State::Used);
                self.adopt(chunk, n, align);
            }
            None => self.no_memory(size + align + MIN_CHUNK),
        }
    }

    /// A block arrives: everything that a user may expect of it.
    fn adopt(&mut self, chunk: Chunk<'static, O::Region>, n: usize, align: usize) {
        let payload = chunk.payload();
        let usable = Native::usable(chunk.size());
        assert!(chunk.is(State::Used));
        assert_eq!(payload % align, 0, "{payload:#x} is not aligned to {align}");
        assert!(usable >= n, "{usable} bytes for a request of {n}");
        let machine = self.os().inner();
        assert!(
            machine.is_writable(payload, usable),
            "{payload:#x}: not mapped"
        );
        assert!(self.ground.keys().extents.holds(payload));
        self.insert_span(payload, usable);
        self.patterns = self.patterns % 255 + 1;
        let block = Live {
            payload,
            usable,
            pattern: self.patterns,
        };
        self.paint(block);
        self.live.push(block);
    }

    fn insert_span(&mut self, payload: usize, usable: usize) {
        let end = payload + usable;
        if let Some((from, to)) = self.spans.range(..end).next_back() {
            assert!(
                *to <= payload,
                "{payload:#x} to {end:#x} overlaps {from:#x} to {to:#x}"
            );
        }
        self.spans.insert(payload, end);
    }

    fn bytes(&self, addr: usize, len: usize) -> &[u8] {
        let first = self.ground.keys().region.at(addr);
        // SAFETY: live blocks are mapped and initialised (the kernel zeroed them), and nobody
        // writes while the slice is looked at.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    fn paint(&self, block: Live) {
        // SAFETY: the block is live and has that many bytes.
        unsafe {
            let first = self.ground.keys().region.at(block.payload);
            first.write_bytes(block.pattern, block.usable);
        }
    }

    /// The first `len` bytes of a block are as they were written.
    fn verify(&self, block: Live, len: usize) {
        let bytes = self.bytes(block.payload, len);
        let edge = EDGE.min(len);
        let (first, last) = (&bytes[..edge], &bytes[len - edge..]);
        let mut middle = bytes.iter().step_by(1021);
        assert!(
            all(first, block.pattern)
                && middle.all(|b| *b == block.pattern)
                && all(last, block.pattern),
            "{:#x}: somebody wrote into a live block",
            block.payload
        );
    }

    /// The chunk of a block whose contents are as they were written.
    fn verified(&self, block: Live) -> Chunk<'static, O::Region> {
        self.verify(block, block.usable);
        // SAFETY: the block is live.
        let chunk = unsafe { self.ground.keys().chunk(block.payload - HEADER) };
        assert!(chunk.is(State::Used), "{:#x}: its head", block.payload);
        assert_eq!(
            Native::usable(chunk.size()),
            block.usable,
            "{:#x}: its usable size changed",
            block.payload
        );
        chunk
    }

    fn forget(&mut self, place: usize) -> Option<Live> {
        if self.live.is_empty() {
            return None;
        }
        let block = self.live.swap_remove(place % self.live.len());
        self.spans.remove(&block.payload);
        Some(block)
    }

    /// Blocks go home as a thread's cache sends them.
    fn flush(&mut self, place: usize, count: usize) {
        let mut stack = Stack::EMPTY;
        for _ in 0..count {
            let Some(block) = self.forget(place) else {
                break;
            };
            let chunk = self.verified(block);
            stack.push(chunk, chunk.low(), State::Cached);
        }
        self.heap.check().expect("cached chunks look used");
        while let Some(chunk) = stack.pop(self.ground.keys(), State::Cached) {
            self.heap.free(chunk);
        }
    }

    fn realloc(&mut self, place: usize, n: usize) {
        if self.live.is_empty() {
            return;
        }
        let place = place % self.live.len();
        let block = self.live[place];
        let chunk = self.verified(block);
        let wanted = Native::chunk_size(n).expect("the request is not absurd");
        if self.heap.resize(chunk, wanted) {
            let size = chunk.size();
            assert!(chunk.is(State::Used));
            assert!(
                (wanted..=wanted + 16).contains(&size),
                "{size} bytes instead of {wanted}"
            );
            let usable = Native::usable(size);
            self.verify(block, block.usable.min(usable));
            assert!(self.os().inner().is_writable(block.payload, usable));
            self.spans.remove(&block.payload);
            self.insert_span(block.payload, usable);
            self.live[place].usable = usable;
            self.paint(self.live[place]);
            return;
        }
        assert!(
            wanted > chunk.size(),
            "a block can always stay where it is to shrink"
        );
        self.verified(block);
        if !self.fill(n, 1) {
            return;
        }
        self.forget(place);
        let chunk = self.verified(block);
        self.heap.free(chunk);
    }

    /// Checks the heap and every live block.
    pub fn check(&self) {
        if let Err(damage) = self.heap.check() {
            panic!("{damage:?}");
        }
        let used: usize = self.live.iter().map(|b| b.usable + HEADER / 2).sum();
        assert_eq!(self.heap.used_bytes(), used, "bytes used");
        for block in &self.live {
            self.verified(*block);
        }
        self.os().inner().check_foreign();
    }

    /// Frees everything and looks that it all came together again.
    pub fn finish(&mut self) {
        self.os().refuse(u64::MAX, u64::MAX);
        self.os().inner().limit(None);
        self.check();
        while let Some(block) = self.forget(0) {
            let chunk = self.verified(block);
            self.heap.free(chunk);
        }
        self.heap.consolidate();
        self.check();
        let totals = self.heap.totals();
        assert_eq!(totals.used_bytes, 0);
        assert!(totals.fast.iter().all(|fast| fast.chunks == 0));
        // Closed segments are one free chunk each, the last is top.
        let closed = self.heap.segments().split_last().map_or(&[][..], |s| s.1);
        let free: u64 = totals.bins.iter().map(|bin| bin.chunks).sum();
        let possible = closed
            .iter()
            .filter(|s| s.end - s.start >= HEADER + MIN_CHUNK);
        assert_eq!(
            free,
            possible.count() as u64,
            "free chunks in closed segments"
        );
        if let Some(last) = self.heap.segments().last() {
            let (top, size, _) = self.heap.top();
            assert_eq!((top, top + size), (last.start, last.end), "one top chunk");
        }
        self.heap.trim(0);
        self.check();
        self.os().inner().check_itself();
    }
}

impl<O: Machine + 'static> Drop for World<O> {
    fn drop(&mut self) {
        let os = self.ground.os();
        os.inner().refuse(u64::MAX, u64::MAX);
        os.inner().inner().limit(None);
        let within = |addr: usize| {
            self.region
                .is_some_and(|(start, len)| (start..start + len).contains(&addr))
        };
        // SAFETY: nobody uses the heap's memory after this. Memory of the break stays.
        unsafe {
            for segment in self.heap.segments() {
                if segment.mapped && !within(segment.start) {
                    let _ = os.unmap(segment.start, segment.end - segment.start);
                }
            }
            if let Some((start, len)) = self.region {
                let _ = os.unmap(start, len);
            }
        }
    }
}
