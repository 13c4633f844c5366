//! A bare heap over a [`Host`], for tests that look at single chunks.

use fencepost::chunk::{Chunk, State};
use fencepost::heap::{Batch, Growth, Heap};
use fencepost::os::{Flaky, Ledger, Os, PageState, Region, Watched};
use fencepost::size::{HEADER, Native};

use super::{Ground, Host, Plan};

/// A chunk of a [`Bed`].
pub type Piece = Chunk<'static, Watched<'static>>;

/// A heap that grows by the break.
#[derive(Debug)]
pub struct Bed {
    /// The heap. It goes before the ground does.
    pub heap: Heap<&'static Ledger<Flaky<Host>>>,
    /// What it stands on.
    pub ground: Ground<Ledger<Flaky<Host>>>,
}

impl Bed {
    /// A heap without memory.
    pub fn new() -> Bed {
        // SAFETY: the heap is dropped before the ground; tests keep no reference.
        let ground = unsafe { Ground::new(Ledger::new(Flaky::new(Host::new(Plan::SMALL))), 3) };
        ground.open_account();
        let growth = Growth::Break { end: 0 };
        Bed {
            heap: ground.heap(0, growth),
            ground,
        }
    }

    /// A used chunk for this request, if there is memory.
    pub fn try_get(&mut self, request: usize) -> Option<Piece> {
        let size = Native::chunk_size(request)?;
        let mut batch = Batch::wanting(1);
        if !self.heap.fill(size, &mut batch) {
            return None;
        }
        let chunk = batch.pop(self.ground.keys()).expect("one chunk");
        chunk.mark(chunk.low(), State::Used);
        Some(chunk)
    }

    /// A used chunk for this request.
    pub fn get(&mut self, request: usize) -> Piece {
        self.try_get(request).expect("the host has memory")
    }

    /// The chunk at an address inside the heap's memory.
    pub fn at(&self, addr: usize) -> Piece {
        // SAFETY: tests ask for addresses inside the heap's memory.
        unsafe { self.ground.keys().chunk(addr) }
    }

    /// The chunk whose payload address this is.
    pub fn owning(&self, payload: usize) -> Piece {
        self.at(payload - HEADER)
    }

    /// The top chunk.
    pub fn top(&self) -> Piece {
        self.at(self.heap.top().0)
    }

    /// Overwrites a word of heap memory.
    pub fn write(&self, addr: usize, word: u64) {
        // SAFETY: tests name mapped memory of the heap.
        unsafe { self.ground.keys().region.at(addr).cast::<u64>().write(word) }
    }

    /// Reads a word of heap memory.
    pub fn read(&self, addr: usize) -> u64 {
        // SAFETY: as in `write`.
        unsafe { self.ground.keys().region.at(addr).cast::<u64>().read() }
    }

    /// Reads the link at an offset into a free chunk.
    pub fn link_of(&self, chunk: Piece, offset: usize) -> usize {
        let at = chunk.addr() + offset;
        self.ground.keys().secret.mask(at, self.read(at)) as usize
    }

    /// Writes a link as whoever knows the secret can.
    pub fn link(&self, chunk: Piece, offset: usize, to: usize) {
        let at = chunk.addr() + offset;
        self.write(at, self.ground.keys().secret.mask(at, to as u64));
    }

    /// The machine below, to disturb it.
    pub fn host(&self) -> &'static Host {
        self.ground.os().inner().inner()
    }

    /// Falsifies the state of the page at an address.
    pub fn note(&self, addr: usize, state: PageState) {
        let page = self.ground.os().page_size();
        let start = addr / page * page;
        self.ground.os().note(start, start + page, state);
    }
}
