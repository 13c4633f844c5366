//! What is known of every page: a radix tree over the page number with one small state a page.
//!
//! Three levels of 12, 11 and 13 bits cover 48-bit addresses (a root of 4 bits is more than enough
//! for 32-bit ones). The root stands by itself, the
//! nodes below are 8 KiB each and come from outside ([`Nodes`]). As long as all pages below an
//! entry are in one state the entry says so itself and needs no node (the idea of Memcheck's
//! distinguished secondary maps: Nethercote and Seward 2007).
//!
//! Readers and writers take no lock. Each page belongs to one writer at a time, as memory does;
//! two writers may meet in a node, never in a page. Everything is published by single words, so
//! that whatever a fork copies is a valid tree.

use crate::sync::overlay::{AtomicU32, AtomicU64, Ordering};

const LEAF_BITS: u32 = 13;
const MID_BITS: u32 = 11;
/// Of narrow addresses a few are enough; all page numbers of the tree and one more are a `usize`.
const ROOT_BITS: u32 = if usize::BITS < 64 {
    4
} else if cfg!(target_arch = "x86_64") {
    11
} else {
    12
};
/// Pages that a leaf tells apart: 32 MiB.
pub const LEAF: usize = 1 << LEAF_BITS;
/// Leaves below a node of the middle level: 64 GiB.
pub const MID: usize = 1 << MID_BITS;
const ROOT: usize = 1 << ROOT_BITS;
const SPAN: usize = LEAF * MID;
/// Pages in a word of a leaf, a byte each.
const WORD: usize = 8;
/// Words of a leaf.
pub const LEAF_WORDS: usize = LEAF / WORD;
/// Bytes of a node.
pub const NODE_BYTES: usize = LEAF;
const _: () = assert!(NODE_BYTES == MID * size_of::<u32>());

/// What an allocator knows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum PageState {
    /// Not ours.
    None = 0,
    /// Ours, without access and without memory.
    Reserved = 1,
    /// From the kernel, zero, never written.
    Fresh = 2,
    /// As `Fresh`, but made resident ahead of need.
    Populated = 3,
    /// In use: with users, in caches, or partly a free chunk's own words.
    Live = 4,
    /// Free, with old contents.
    Cached = 5,
    /// Free and given back: reads as zero.
    Released = 6,
    /// Free and given back when the kernel needs it; reads as old contents or zero.
    LazyFree = 7,
    /// Any access is a fault.
    Guard = 8,
    /// The allocator's own records.
    Meta = 9,
    /// Ours, but what became of it could not be recorded.
    Unknown = 10,
}

impl PageState {
    /// Every state.
    pub const ALL: [PageState; 11] = [
        PageState::None,
        PageState::Reserved,
        PageState::Fresh,
        PageState::Populated,
        PageState::Live,
        PageState::Cached,
        PageState::Released,
        PageState::LazyFree,
        PageState::Guard,
        PageState::Meta,
        PageState::Unknown,
    ];

    /// Its name, in small letters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            PageState::None => "none",
            PageState::Reserved => "reserved",
            PageState::Fresh => "fresh",
            PageState::Populated => "populated",
            PageState::Live => "live",
            PageState::Cached => "cached",
            PageState::Released => "released",
            PageState::LazyFree => "lazily freed",
            PageState::Guard => "guard",
            PageState::Meta => "meta",
            PageState::Unknown => "unknown",
        }
    }

    /// Whether the page reads as zero.
    #[must_use]
    pub const fn is_zero(self) -> bool {
        matches!(
            self,
            PageState::Fresh | PageState::Populated | PageState::Released
        )
    }

    /// Whether the page can be part of free memory that is handed out.
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.is_zero()
            || matches!(
                self,
                PageState::Cached | PageState::LazyFree | PageState::Unknown
            )
    }

    /// Whether the page may hold memory that discarding it would give back.
    #[must_use]
    pub const fn is_discardable(self) -> bool {
        matches!(
            self,
            PageState::Cached | PageState::LazyFree | PageState::Populated | PageState::Unknown
        )
    }

    /// Whether the page can be read and written.
    #[must_use]
    pub const fn is_accessible(self) -> bool {
        !matches!(
            self,
            PageState::None | PageState::Reserved | PageState::Guard
        )
    }

    const fn from_bits(bits: u32) -> PageState {
        match bits {
            0 => PageState::None,
            1 => PageState::Reserved,
            2 => PageState::Fresh,
            3 => PageState::Populated,
            4 => PageState::Live,
            5 => PageState::Cached,
            6 => PageState::Released,
            7 => PageState::LazyFree,
            8 => PageState::Guard,
            9 => PageState::Meta,
            _ => PageState::Unknown,
        }
    }
}

/// Where the nodes of a tree lie.
pub trait Nodes {
    /// A node of the middle level.
    fn mid(&self, node: u32) -> Option<&[AtomicU32; MID]>;
    /// A leaf.
    fn leaf(&self, node: u32) -> Option<&[AtomicU64; LEAF_WORDS]>;
    /// A new node of the middle level, and whether it is all zero. `None` without memory.
    fn add_mid(&self) -> Option<(u32, bool)>;
    /// A new leaf, and whether it is all zero. `None` without memory.
    fn add_leaf(&self) -> Option<(u32, bool)>;
    /// A leaf is not needed any more.
    fn recycle(&self, leaf: u32);
}

/// An entry above the leaves: a node's number, or the one state of everything below.
#[derive(Clone, Copy)]
enum Entry {
    Node(u32),
    All(PageState),
}

impl Entry {
    const fn decode(bits: u32) -> Entry {
        if bits & 1 != 0 {
            Entry::Node(bits >> 1)
        } else {
            Entry::All(PageState::from_bits(bits >> 1))
        }
    }

    const fn encode(self) -> u32 {
        match self {
            Entry::Node(node) => node << 1 | 1,
            Entry::All(state) => (state as u32) << 1,
        }
    }
}

/// The tree.
#[derive(Debug)]
pub struct PageStates {
    root: [AtomicU32; ROOT],
}

impl PageStates {
    /// Every page is [`PageState::None`].
    #[must_use]
    #[allow(clippy::large_stack_frames, clippy::new_without_default)] // Only for statics.
    pub const fn new() -> PageStates {
        PageStates {
            root: [const { AtomicU32::new(0) }; ROOT],
        }
    }

    /// The state of page number `page`.
    #[inline]
    #[must_use]
    pub fn get(&self, nodes: &impl Nodes, page: usize) -> PageState {
        match self.find(nodes, page) {
            Found::Leaf(leaf) => at(leaf, page),
            Found::All(state, _) => state,
        }
    }

    /// The leaf of a page; or the state that an entry above says, and how many pages, a power of
    /// two, share that entry.
    #[inline]
    fn find<'n>(&self, nodes: &'n impl Nodes, page: usize) -> Found<'n> {
        let Some(entry) = self.root.get(page >> (LEAF_BITS + MID_BITS)) else {
            return Found::All(PageState::None, SPAN);
        };
        let node = match Entry::decode(entry.load(Ordering::Acquire)) {
            Entry::All(state) => return Found::All(state, SPAN),
            Entry::Node(node) => node,
        };
        let Some(mid) = nodes.mid(node) else {
            return Found::All(PageState::Unknown, SPAN);
        };
        let node = match Entry::decode(mid[page >> LEAF_BITS & (MID - 1)].load(Ordering::Acquire)) {
            Entry::All(state) => return Found::All(state, LEAF),
            Entry::Node(node) => node,
        };
        match nodes.leaf(node) {
            Some(leaf) => Found::Leaf(leaf),
            None => Found::All(PageState::Unknown, LEAF),
        }
    }

    /// The state of page `from`, and where the run of pages in the same state that begins there
    /// ends, at `to` at the latest.
    #[inline]
    #[must_use]
    pub fn run(&self, nodes: &impl Nodes, from: usize, to: usize) -> (PageState, usize) {
        let mut found = self.find(nodes, from);
        let state = match found {
            Found::Leaf(leaf) => at(leaf, from),
            Found::All(state, _) => state,
        };
        let mut end = from;
        loop {
            match found {
                Found::Leaf(leaf) => {
                    let limit = to.min((end | (LEAF - 1)) + 1);
                    end = other(leaf, end, limit, state);
                    if end < limit {
                        return (state, end);
                    }
                }
                Found::All(all, _) if all != state => return (state, end),
                Found::All(_, share) => end = (end | (share - 1)) + 1,
            }
            if end >= to {
                return (state, to);
            }
            found = self.find(nodes, end);
        }
    }

    /// Puts the pages `from..to` into one state. Where a node cannot be had, everything that
    /// the missing node would have told apart becomes [`PageState::Unknown`].
    #[inline]
    pub fn set(&self, nodes: &impl Nodes, from: usize, to: usize, state: PageState) {
        let mut page = from;
        while page < to {
            page = self.set_some(nodes, page, to, state);
        }
    }

    /// Sets the first pages of a range, as many as one entry covers; returns where they end.
    #[inline]
    fn set_some(&self, nodes: &impl Nodes, page: usize, to: usize, state: PageState) -> usize {
        let Some(entry) = self.root.get(page / SPAN) else {
            return to;
        };
        let whole = page.is_multiple_of(SPAN) && to - page >= SPAN;
        let node = match Entry::decode(entry.load(Ordering::Acquire)) {
            Entry::Node(node) => node,
            Entry::All(all) => {
                let made = if whole || all == state {
                    None
                } else {
                    split_root(entry, all, nodes, page)
                };
                match made {
                    Some(node) => node,
                    None => {
                        put(entry, all, state, whole);
                        return (page / SPAN + 1) * SPAN;
                    }
                }
            }
        };
        let end = ((page >> LEAF_BITS) + 1) << LEAF_BITS;
        let Some(mid) = nodes.mid(node) else {
            return end;
        };
        let entry = &mid[page >> LEAF_BITS & (MID - 1)];
        let whole = page.is_multiple_of(LEAF) && to >= end;
        let node = match Entry::decode(entry.load(Ordering::Acquire)) {
            Entry::Node(node) if whole => {
                // Every page of the leaf is the caller's: nobody else writes there.
                entry.store(Entry::All(state).encode(), Ordering::Release);
                nodes.recycle(node);
                return end;
            }
            Entry::Node(node) => node,
            Entry::All(all) => {
                let made = if whole || all == state {
                    None
                } else {
                    split_mid(entry, all, nodes, page)
                };
                match made {
                    Some(node) => node,
                    None => {
                        put(entry, all, state, whole);
                        return end;
                    }
                }
            }
        };
        if let Some(leaf) = nodes.leaf(node) {
            fill(leaf, page & (LEAF - 1), end.min(to) - page, state);
        }
        end
    }

    /// Touches the entry of a page, by a write: the first look at it would be a fault, and the
    /// first change another.
    pub fn touch(&self, page: usize) {
        if let Some(entry) = self.root.get(page / SPAN) {
            let _ = entry.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Visits the runs of equal state in `from..to` that are not [`PageState::None`].
    pub fn each(
        &self,
        nodes: &impl Nodes,
        from: usize,
        to: usize,
        mut visit: impl FnMut(usize, usize, PageState),
    ) {
        let mut page = from;
        while page < to {
            let (state, end) = self.run(nodes, page, to);
            if state != PageState::None {
                visit(page, end, state);
            }
            page = end;
        }
    }
}

/// Where a page's state is written.
enum Found<'n> {
    Leaf(&'n [AtomicU64; LEAF_WORDS]),
    All(PageState, usize),
}

/// A word whose pages are all in one state.
const fn word_of(state: PageState) -> u64 {
    state as u64 * 0x0101_0101_0101_0101
}

#[inline]
fn at(leaf: &[AtomicU64; LEAF_WORDS], page: usize) -> PageState {
    let page = page & (LEAF - 1);
    let word = leaf[page / WORD].load(Ordering::Relaxed);
    PageState::from_bits((word >> (page % WORD * 8)) as u32 & 0xff)
}

/// The first page of `from..to`, all in one leaf, that is in another state; `to` if none is.
#[inline]
fn other(leaf: &[AtomicU64; LEAF_WORDS], from: usize, to: usize, state: PageState) -> usize {
    let mut page = from;
    while page < to {
        let word = leaf[(page & (LEAF - 1)) / WORD].load(Ordering::Relaxed);
        let differs = (word ^ word_of(state)) >> (page % WORD * 8);
        if differs != 0 {
            return (page + differs.trailing_zeros() as usize / 8).min(to);
        }
        page = (page / WORD + 1) * WORD;
    }
    to
}

/// Writes `count` pages of a leaf, from `first` on. Words that others write to as well are
/// exchanged.
#[inline]
fn fill(leaf: &[AtomicU64; LEAF_WORDS], first: usize, count: usize, state: PageState) {
    let value = word_of(state);
    let end = first + count;
    let mut page = first;
    while page < end {
        let word = &leaf[(page / WORD) & (LEAF_WORDS - 1)];
        let next = (page / WORD + 1) * WORD;
        if page.is_multiple_of(WORD) && next <= end {
            word.store(value, Ordering::Relaxed);
        } else {
            let pages = next.min(end) - page;
            let mask = (!0 >> (64 - 8 * pages)) << (page % WORD * 8);
            let mut old = word.load(Ordering::Relaxed);
            while let Err(now) = word.compare_exchange_weak(
                old,
                old & !mask | value & mask,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                old = now;
            }
        }
        page = next;
    }
}

/// The last page number that a tree tells apart, and one.
pub const PAGES: usize = 1 << (LEAF_BITS + MID_BITS + ROOT_BITS);

/// An entry that cannot be, or need not be, told apart: the state if it is to be that as a whole
/// or is so already, else nobody knows.
#[inline]
fn put(entry: &AtomicU32, all: PageState, state: PageState, whole: bool) {
    if all == state {
        return;
    }
    let state = if whole { state } else { PageState::Unknown };
    entry.store(Entry::All(state).encode(), Ordering::Release);
}

/// Puts a node of the middle level in the place of an entry that says `all`; the node says so
/// too. `None` if there is no node to be had.
#[cold]
fn split_root(entry: &AtomicU32, all: PageState, nodes: &impl Nodes, page: usize) -> Option<u32> {
    let (node, zero) = nodes.add_mid()?;
    let words = nodes.mid(node)?;
    // What says "none" already is not touched: most of a node stays without memory. But the
    // first touch of what is wanted next had better be a write: after a read that is a second
    // fault.
    if zero && all == PageState::None {
        words[page >> LEAF_BITS & (MID - 1)].store(0, Ordering::Relaxed);
    } else {
        for word in words {
            word.store(Entry::All(all).encode(), Ordering::Relaxed);
        }
    }
    publish(entry, all, node)
}

/// As [`split_root`] with a leaf.
#[cold]
fn split_mid(entry: &AtomicU32, all: PageState, nodes: &impl Nodes, page: usize) -> Option<u32> {
    let (node, zero) = nodes.add_leaf()?;
    let words = nodes.leaf(node)?;
    if zero && all == PageState::None {
        words[(page & (LEAF - 1)) / WORD].store(0, Ordering::Relaxed);
    } else {
        for word in words {
            word.store(word_of(all), Ordering::Relaxed);
        }
    }
    let published = publish(entry, all, node);
    if published != Some(node) {
        nodes.recycle(node);
    }
    published
}

fn publish(entry: &AtomicU32, all: PageState, node: u32) -> Option<u32> {
    let (old, new) = (Entry::All(all).encode(), Entry::Node(node).encode());
    match entry.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(node),
        // Somebody else was first: his will do.
        Err(theirs) => match Entry::decode(theirs) {
            Entry::Node(node) => Some(node),
            Entry::All(_) => None,
        },
    }
}
