//! A kernel of our own over one block of the host program: the calls of [`Os`] answered from
//! memory that Miri can follow.
//!
//! The block has a program break in its lower part and mappings in its upper part. Memory that
//! is not mapped is poisoned when it goes and looked at when it comes back, so that a write to
//! memory that was given back (or never had) is found. What the kernel would refuse as a bug of
//! the caller (discarding what is not mapped) is a panic.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::{Cell, RefCell};

use fencepost::os::{Block, GRANULE, Os, OsError, Prot, Region};

/// The names of the calls that [`Host::calls`] counts, in its order.
pub const CALLS: [&str; 7] = [
    "break up",
    "break down",
    "map",
    "unmap",
    "remap",
    "protect",
    "discard",
];

const STATE: u8 = 3;
const NONE: u8 = 0;
const RESERVED: u8 = 1;
const WRITABLE: u8 = 2;
/// Flag of a page that is not accessible: it was used before and is now full of [`POISON`].
const POISONED: u8 = 4;
const POISON: u8 = 0xa5;

/// How a [`Host`] is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of a page.
    pub page: usize,
    /// How far the break may move, in bytes.
    pub breakable: usize,
    /// Room for mappings, in bytes.
    pub mappable: usize,
    /// Whether break and mappings share a granule of the map of extents. Otherwise a border
    /// between granules runs through the break's half.
    pub near: bool,
}

impl Plan {
    /// Enough for a heap of a few megabytes, in pages of 4 KiB.
    pub const SMALL: Plan = Plan {
        page: 4096,
        breakable: if cfg!(miri) { 1 << 20 } else { 24 << 20 },
        mappable: if cfg!(miri) { 4 << 20 } else { 48 << 20 },
        near: true,
    };

    /// Enough for a reserved granule too.
    pub const WIDE: Plan = Plan {
        mappable: 4 * GRANULE,
        near: false,
        ..Plan::SMALL
    };
}

/// The kernel.
#[derive(Debug)]
pub struct Host {
    memory: *mut u8,
    layout: Layout,
    page: usize,
    /// State of each page from `start` on.
    pages: RefCell<Vec<u8>>,
    start: usize,
    first_break: usize,
    last_break: usize,
    /// Where mappings begin.
    maps: usize,
    end: usize,
    brk: Cell<usize>,
    wall: Cell<usize>,
    foreign: RefCell<Vec<(usize, usize)>>,
    mapped: Cell<usize>,
    calls: [Cell<u64>; CALLS.len()],
    refused: Cell<u64>,
}

impl Host {
    /// A kernel with nothing mapped.
    pub fn new(plan: Plan) -> Host {
        let Plan {
            page,
            breakable,
            mappable,
            near,
        } = plan;
        let layout = Layout::from_size_align(3 * GRANULE + breakable + mappable, 16)
            .expect("a plan fits the address space");
        // SAFETY: the layout is not empty.
        let memory = unsafe { alloc_zeroed(layout) };
        assert!(!memory.is_null(), "the host has no memory for {plan:?}");
        let granule = memory.addr().next_multiple_of(GRANULE);
        let (start, maps) = if near {
            (granule + page, granule + page + breakable)
        } else {
            let maps = granule + 2 * GRANULE;
            (maps - GRANULE - breakable / 2, maps)
        };
        let end = maps + mappable;
        assert!(end <= memory.addr() + layout.size());
        Host {
            memory,
            layout,
            page,
            pages: RefCell::new(vec![NONE; (end - start) / page]),
            start,
            first_break: start,
            last_break: start + breakable,
            maps,
            end,
            brk: Cell::new(start),
            wall: Cell::new(start + breakable),
            foreign: RefCell::default(),
            mapped: Cell::new(0),
            calls: Default::default(),
            refused: Cell::new(0),
        }
    }

    /// How often each of [`CALLS`] was made.
    pub fn calls(&self) -> [u64; CALLS.len()] {
        std::array::from_fn(|i| self.calls[i].get())
    }

    /// How many calls were refused for want of room.
    pub fn refused(&self) -> u64 {
        self.refused.get()
    }

    /// Bytes that are mapped and accessible, the break's included.
    pub fn mapped(&self) -> usize {
        self.mapped.get()
    }

    /// Whether all of a range may be read and written.
    pub fn is_writable(&self, addr: usize, len: usize) -> bool {
        if addr < self.start || addr + len > self.end {
            return false;
        }
        let pages = self.pages.borrow();
        let range = (addr - self.start) / self.page..(addr + len - self.start).div_ceil(self.page);
        pages[range].iter().all(|p| p & STATE == WRITABLE)
    }

    /// Somebody else moves the break up by `len` bytes and writes there.
    pub fn sbrk(&self, len: usize) -> bool {
        let from = self.brk.get();
        // SAFETY: moves the break up only.
        if unsafe { self.set_break(from + len) }.is_err() {
            return false;
        }
        self.fill(from, len, 0x5b);
        self.foreign.borrow_mut().push((from, len));
        true
    }

    /// Somebody else's mapping stands right above the break, or goes away.
    pub fn set_wall(&self, stands: bool) {
        let to = if stands {
            self.brk.get()
        } else {
            self.last_break
        };
        self.wall.set(to);
    }

    /// Looks at what others own.
    ///
    /// # Panics
    /// If somebody wrote there.
    pub fn check_foreign(&self) {
        for &(addr, len) in self.foreign.borrow().iter() {
            let bytes = self.bytes(addr, len);
            assert!(
                all(bytes, 0x5b),
                "somebody else's memory after {addr:#x} was written to"
            );
        }
    }

    fn count(&self, call: usize) {
        self.calls[call].set(self.calls[call].get() + 1);
    }

    fn refuse<T>(&self) -> Result<T, OsError> {
        self.refused.set(self.refused.get() + 1);
        Err(OsError::NO_MEMORY)
    }

    fn bytes(&self, addr: usize, len: usize) -> &[u8] {
        let first = self.region().at(addr);
        // SAFETY: the range lies in the block, which is initialised; nobody writes meanwhile.
        unsafe { std::slice::from_raw_parts(first, len) }
    }

    fn fill(&self, addr: usize, len: usize, byte: u8) {
        // SAFETY: the range lies in the block.
        unsafe { self.region().at(addr).write_bytes(byte, len) }
    }

    fn indices(&self, addr: usize, len: usize) -> std::ops::Range<usize> {
        assert!(
            addr.is_multiple_of(self.page) && len.is_multiple_of(self.page) && len != 0,
            "{addr:#x}, {len:#x} are no whole pages"
        );
        assert!(
            addr >= self.start && addr.checked_add(len).is_some_and(|to| to <= self.end),
            "{addr:#x}, {len:#x} was never mapped"
        );
        (addr - self.start) / self.page..(addr + len - self.start) / self.page
    }

    /// Makes a page accessible and zero.
    fn commit(&self, pages: &mut [u8], index: usize) {
        let addr = self.start + index * self.page;
        let page = &mut pages[index];
        assert!(*page & STATE != WRITABLE);
        let poisoned = *page & POISONED != 0;
        // Byte by byte is too much for Miri.
        if !cfg!(miri) {
            let left = if poisoned { POISON } else { 0 };
            let bytes = self.bytes(addr, self.page);
            assert!(
                all(bytes, left),
                "the page at {addr:#x} was written to while it was not mapped"
            );
        }
        if poisoned {
            self.fill(addr, self.page, 0);
        }
        *page = WRITABLE;
        self.mapped.set(self.mapped.get() + self.page);
    }

    /// Takes a page away.
    fn drop_page(&self, pages: &mut [u8], index: usize) {
        let page = &mut pages[index];
        match *page & STATE {
            WRITABLE => {
                self.fill(self.start + index * self.page, self.page, POISON);
                *page = NONE | POISONED;
                self.mapped.set(self.mapped.get() - self.page);
            }
            RESERVED => *page = NONE | *page & POISONED,
            _ => panic!("unmapped twice"),
        }
    }

    /// The first free room for a mapping.
    fn room(&self, pages: &[u8], len: usize) -> Option<usize> {
        let count = len / self.page;
        let first = (self.maps - self.start) / self.page;
        let mut run = 0;
        for (index, page) in pages.iter().enumerate().skip(first) {
            run = if page & STATE == NONE { run + 1 } else { 0 };
            if run == count {
                return Some(index + 1 - count);
            }
        }
        None
    }
}

/// Whether all bytes are `byte`; compares long runs, for tests are not optimised.
pub fn all(bytes: &[u8], byte: u8) -> bool {
    let line = [byte; 1024];
    bytes
        .chunks(line.len())
        .all(|run| *run == line[..run.len()])
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout; whoever used the memory is gone.
        unsafe { dealloc(self.memory, self.layout) }
    }
}

// SAFETY: mappings are made where nothing is mapped, inside a block that lives as long as the
// kernel; `Block` derives every pointer from the block's own.
unsafe impl Os for Host {
    type Region = Block;

    fn region(&self) -> Block {
        Block::new(self.memory)
    }

    fn page_size(&self) -> usize {
        self.page
    }

    fn program_break(&self) -> usize {
        self.brk.get()
    }

    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        let from = self.brk.get();
        self.count(usize::from(to < from));
        if to < self.first_break || to > from && to > self.wall.get() {
            return self.refuse();
        }
        let foreign = self.foreign.borrow().iter().any(|(a, n)| a + n > to);
        assert!(!foreign, "the break went below what others got from it");
        let index = |addr: usize| (addr - self.start).div_ceil(self.page);
        let mut pages = self.pages.borrow_mut();
        (index(from)..index(to)).for_each(|i| self.commit(&mut pages, i));
        (index(to)..index(from)).for_each(|i| self.drop_page(&mut pages, i));
        self.brk.set(to);
        Ok(())
    }

    fn map(&self, _hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        assert!(
            len != 0 && len.is_multiple_of(self.page),
            "{len} are no whole pages"
        );
        self.count(2);
        let mut pages = self.pages.borrow_mut();
        let Some(first) = self.room(&pages, len) else {
            return self.refuse();
        };
        for index in first..first + len / self.page {
            match prot {
                Prot::None => pages[index] = RESERVED | pages[index] & POISONED,
                Prot::ReadWrite => self.commit(&mut pages, index),
            }
        }
        Ok(self.start + first * self.page)
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(3);
        assert!(addr >= self.maps, "the break is not unmapped");
        let range = self.indices(addr, len);
        let mut pages = self.pages.borrow_mut();
        range.for_each(|index| self.drop_page(&mut pages, index));
        Ok(())
    }

    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        self.count(4);
        assert!(new != 0 && new.is_multiple_of(self.page));
        assert!(self.is_writable(addr, old), "remap of what is not mapped");
        let range = self.indices(addr, old);
        let mut pages = self.pages.borrow_mut();
        let to = range.start + new / self.page;
        if new <= old {
            (to..range.end).for_each(|index| self.drop_page(&mut pages, index));
            return Ok(addr);
        }
        let in_place = to <= pages.len() && pages[range.end..to].iter().all(|p| p & STATE == NONE);
        if in_place {
            (range.end..to).for_each(|index| self.commit(&mut pages, index));
            return Ok(addr);
        }
        let Some(first) = self.room(&pages, new) else {
            return self.refuse();
        };
        (first..first + new / self.page).for_each(|index| self.commit(&mut pages, index));
        let moved = self.start + first * self.page;
        // SAFETY: the new place was free, so the two do not overlap.
        unsafe {
            let from = self.region().at(addr);
            self.region().at(moved).copy_from_nonoverlapping(from, old);
        }
        range.for_each(|index| self.drop_page(&mut pages, index));
        Ok(moved)
    }

    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        self.count(5);
        assert_eq!(prot, Prot::ReadWrite, "nothing takes access away yet");
        let range = self.indices(addr, len);
        let mut pages = self.pages.borrow_mut();
        for index in range {
            assert_eq!(
                pages[index] & STATE,
                RESERVED,
                "protect of what is not reserved"
            );
            self.commit(&mut pages, index);
        }
        Ok(())
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.count(6);
        self.indices(addr, len);
        assert!(self.is_writable(addr, len), "discard of what is not mapped");
        self.fill(addr, len, 0);
        Ok(())
    }
}
