//! Layer 4: where free chunks wait. One unsorted bin, 62 small, 63 large bins and a map of the
//! ones that are not empty. Where memory comes from is somebody else's business.

mod index;

pub use index::{BINS, bin_index, bin_range};

use crate::chunk::{Chunk, Keys, Link, List, State, Through, next, previous};
use crate::os::Region;
use crate::size::Native;

/// Number of the unsorted bin.
pub const UNSORTED: usize = 1;
/// Room for bins 0 to 127. An index modulo this power of two needs no check that could panic.
const SLOTS: usize = BINS + 1;
/// Number of the first large bin.
pub const FIRST_LARGE: usize = 64;

/// The bins of one heap.
///
/// Free chunks enter [`unsorted`](Bins::put_unsorted) and are sorted when a request looks
/// through it. Small bins hold one size each, oldest last; large bins hold a range of sizes,
/// largest first, and run a second list through the first chunk of each size.
#[derive(Debug)]
pub struct Bins {
    lists: [List; SLOTS],
    sizes: [List; SLOTS - FIRST_LARGE],
    map: [u64; SLOTS / 64],
}

impl Bins {
    /// Empty bins.
    #[must_use]
    pub const fn new() -> Bins {
        Bins {
            lists: [List::EMPTY; SLOTS],
            sizes: [List::EMPTY; SLOTS - FIRST_LARGE],
            map: [0; SLOTS / 64],
        }
    }

    /// The list of bin `index`.
    #[must_use]
    pub fn list(&self, index: usize) -> &List {
        &self.lists[index % SLOTS]
    }

    /// The size list of the large bin `index`.
    #[must_use]
    pub fn size_list(&self, index: usize) -> &List {
        &self.sizes[(index - FIRST_LARGE) % (SLOTS - FIRST_LARGE)]
    }

    /// Whether the map says that bin `index` may hold chunks.
    #[must_use]
    pub fn is_mapped(&self, index: usize) -> bool {
        self.map[index / 64 % (SLOTS / 64)] >> (index % 64) & 1 == 1
    }

    /// Puts a free chunk into the unsorted bin and marks it so.
    #[inline]
    pub fn put_unsorted<R: Region>(&mut self, chunk: Chunk<'_, R>) {
        chunk.mark(chunk.low(), State::Unsorted);
        self.lists[UNSORTED].push_front(Through::Bin, chunk);
    }

    /// The oldest chunk of the unsorted bin.
    #[must_use]
    pub fn oldest_unsorted<'k, R: Region>(&self, keys: &'k Keys<R>) -> Option<Chunk<'k, R>> {
        self.lists[UNSORTED].last(keys)
    }

    /// Takes the [oldest chunk](Bins::oldest_unsorted) out of the unsorted bin.
    #[inline]
    pub fn take_oldest<R: Region>(&mut self, chunk: Chunk<'_, R>) {
        self.lists[UNSORTED].unlink_last(Through::Bin, chunk);
    }

    /// Puts a free chunk into the bin of its size and marks it so by `tag`, that of
    /// [`State::Binned`].
    pub fn put_sorted<R: Region>(&mut self, keys: &Keys<R>, chunk: Chunk<'_, R>, tag: u32) {
        let size = chunk.size();
        let index = bin_index(size);
        chunk.set_tag(tag);
        self.map[index / 64 % (SLOTS / 64)] |= 1 << (index % 64);
        if index < FIRST_LARGE {
            self.lists[index % SLOTS].push_front(Through::Bin, chunk);
            return;
        }
        let (list, sizes) = (
            &mut self.lists[index % SLOTS],
            &mut self.sizes[(index - FIRST_LARGE) % (SLOTS - FIRST_LARGE)],
        );
        // The usual newcomer is no larger than the smallest.
        let smallest = sizes.last(keys);
        let place = match smallest {
            Some(leader) if leader.size() > size => None,
            _ => sizes
                .iter(Through::Sizes, keys)
                .find(|leader| leader.size() <= size),
        };
        match place {
            Some(leader) if leader.size() == size => {
                // Second of its size: the leader keeps its place in the size list.
                list.insert(Through::Bin, chunk, next(Through::Bin, leader));
            }
            _ => {
                list.insert(Through::Bin, chunk, place);
                sizes.insert(Through::Sizes, chunk, place);
            }
        }
    }

    /// Takes the [oldest chunk](Bins::small_exact) of `size` bytes out of its small bin.
    #[inline]
    pub fn take_small<R: Region>(&mut self, chunk: Chunk<'_, R>, size: usize) {
        let index = bin_index(size);
        let list = &mut self.lists[index % SLOTS];
        list.unlink_last(Through::Bin, chunk);
        if list.is_empty() {
            self.map[index / 64 % (SLOTS / 64)] &= !(1 << (index % 64));
        }
    }

    /// Takes a chunk of `size` bytes out of its large bin.
    fn take_large<R: Region>(&mut self, chunk: Chunk<'_, R>, size: usize) {
        let index = bin_index(size);
        let leads = previous(Through::Bin, chunk).is_none_or(|p| p.size() != size);
        if leads {
            let heir = next(Through::Bin, chunk).filter(|n| n.size() == size);
            let sizes = &mut self.sizes[index.wrapping_sub(FIRST_LARGE) % (SLOTS - FIRST_LARGE)];
            if let Some(heir) = heir {
                sizes.insert(Through::Sizes, heir, Some(chunk));
            }
            sizes.unlink(Through::Sizes, chunk);
        }
        self.lists[index % SLOTS].unlink(Through::Bin, chunk);
        if self.lists[index % SLOTS].is_empty() {
            self.map[index / 64 % (SLOTS / 64)] &= !(1 << (index % 64));
        }
    }

    /// Takes a free chunk of `size` bytes out of the bin that its state names.
    #[inline]
    pub fn take<R: Region>(&mut self, chunk: Chunk<'_, R>, size: usize, state: State) {
        let is_unsorted = state == State::Unsorted;
        if !is_unsorted && !Native::is_small(size) {
            self.take_large(chunk, size);
            return;
        }
        // One path for both, for nobody can predict which it is.
        let index = if is_unsorted {
            UNSORTED
        } else {
            size / crate::size::ALIGN
        };
        let list = &mut self.lists[index % SLOTS];
        list.unlink(Through::Bin, chunk);
        // The map never has the bit of the unsorted bin.
        self.map[index / 64 % (SLOTS / 64)] &= !(u64::from(list.is_empty()) << (index % 64));
    }

    /// The oldest chunk of exactly `size` bytes in a small bin.
    #[must_use]
    pub fn small_exact<'k, R: Region>(
        &self,
        keys: &'k Keys<R>,
        size: usize,
    ) -> Option<Chunk<'k, R>> {
        self.lists[bin_index(size)].last(keys)
    }

    /// The smallest chunk of at least `size` bytes: first in the bin of `size` if that is a
    /// large one, then in the next larger bin that is not empty.
    #[must_use]
    pub fn best_fit<'k, R: Region>(&self, keys: &'k Keys<R>, size: usize) -> Option<Chunk<'k, R>> {
        let index = bin_index(size);
        if index >= FIRST_LARGE
            && let Some(chunk) = self.smallest_from(keys, index, size)
        {
            return Some(chunk);
        }
        let index = self.next_filled(index + 1)?;
        if index < FIRST_LARGE {
            self.lists[index % SLOTS].last(keys)
        } else {
            self.smallest_from(keys, index, size)
        }
    }

    /// The smallest chunk of at least `size` bytes in a large bin. Among equals not the leader,
    /// so that the size list need not change.
    fn smallest_from<'k, R: Region>(
        &self,
        keys: &'k Keys<R>,
        index: usize,
        size: usize,
    ) -> Option<Chunk<'k, R>> {
        let largest = self.lists[index % SLOTS].first(keys)?;
        if largest.size() < size {
            return None;
        }
        let mut leader = self.size_list(index).last(keys)?;
        while leader.size() < size {
            leader = previous(Through::Sizes, leader)?;
        }
        let second = next(Through::Bin, leader).filter(|c| c.size() == leader.size());
        Some(second.unwrap_or(leader))
    }

    /// The first bin from `index` on that the map says is not empty.
    #[must_use]
    pub fn next_filled(&self, index: usize) -> Option<usize> {
        let mut word = index / 64;
        let mut bits = *self.map.get(word)? & (u64::MAX << (index % 64));
        while bits == 0 {
            word += 1;
            bits = *self.map.get(word)?;
        }
        Some(word * 64 + bits.trailing_zeros() as usize)
    }

    /// Whether a chunk of this size has links through the size list.
    #[must_use]
    pub const fn is_large(size: usize) -> bool {
        !Native::is_small(size)
    }

    /// For tests of the checker: overwrites the map.
    #[doc(hidden)]
    pub fn forge_map(&mut self, index: usize, filled: bool) {
        let bit = 1 << (index % 64);
        if filled {
            self.map[index / 64 % (SLOTS / 64)] |= bit;
        } else {
            self.map[index / 64 % (SLOTS / 64)] &= !bit;
        }
    }
}

impl Default for Bins {
    fn default() -> Bins {
        Bins::new()
    }
}

const _: () = assert!(SLOTS.is_power_of_two() && SLOTS == 2 * FIRST_LARGE);
const _: () = assert!(Link::BkSize as usize + 8 <= Native::MIN_LARGE);
