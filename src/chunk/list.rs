//! Doubly linked lists through free chunks.
//!
//! Both ends are kept outside the heap memory, which never points back at them (ptmalloc's ring
//! through the bin array would be undefined behaviour in Rust). Every link is checked from both
//! sides when it is followed to unlink a chunk.

use super::{Chunk, Keys, Link};
use crate::os::Region;
use crate::report::{Misuse, abort};

/// A list of free chunks, by one of the two pairs of links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct List {
    first: usize,
    last: usize,
}

/// Which pair of links a list runs through: bin order or size order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// `fd` and `bk`.
    Bin,
    /// `fd_nextsize` and `bk_nextsize`.
    Sizes,
}

impl Through {
    const fn next(self) -> Link {
        match self {
            Through::Bin => Link::Fd,
            Through::Sizes => Link::FdSize,
        }
    }

    const fn previous(self) -> Link {
        match self {
            Through::Bin => Link::Bk,
            Through::Sizes => Link::BkSize,
        }
    }
}

impl List {
    /// The empty list.
    pub const EMPTY: List = List { first: 0, last: 0 };

    /// Whether it is empty.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.first == 0
    }

    /// The first chunk.
    #[must_use]
    pub fn first<'k, R: Region>(&self, keys: &'k Keys<R>) -> Option<Chunk<'k, R>> {
        at(keys, self.first)
    }

    /// The last chunk.
    #[must_use]
    pub fn last<'k, R: Region>(&self, keys: &'k Keys<R>) -> Option<Chunk<'k, R>> {
        at(keys, self.last)
    }

    /// Inserts `chunk` before `place`, or at the end if that is `None`.
    pub fn insert<R: Region>(
        &mut self,
        through: Through,
        chunk: Chunk<'_, R>,
        place: Option<Chunk<'_, R>>,
    ) {
        let (before, after) = match place {
            Some(place) => (place.link(through.previous()), place.addr()),
            None => (self.last, 0),
        };
        chunk.set_link(through.next(), after);
        chunk.set_link(through.previous(), before);
        match at(chunk.keys, before) {
            Some(previous) => previous.set_link(through.next(), chunk.addr()),
            None => self.first = chunk.addr(),
        }
        match at(chunk.keys, after) {
            Some(next) => next.set_link(through.previous(), chunk.addr()),
            None => self.last = chunk.addr(),
        }
    }

    /// Inserts `chunk` at the front.
    #[inline]
    pub fn push_front<R: Region>(&mut self, through: Through, chunk: Chunk<'_, R>) {
        let first = self.first;
        chunk.set_link(through.next(), first);
        chunk.set_link(through.previous(), 0);
        match at(chunk.keys, first) {
            Some(next) => next.set_link(through.previous(), chunk.addr()),
            None => self.last = chunk.addr(),
        }
        self.first = chunk.addr();
    }

    /// Takes `chunk` out, following its links from both sides.
    ///
    /// Aborts if they were overwritten.
    pub fn unlink<R: Region>(&mut self, through: Through, chunk: Chunk<'_, R>) {
        let after = chunk.link(through.next());
        let before = chunk.link(through.previous());
        // The neighbours must know the chunk before either is believed to be one: a list end
        // knows it by our own word, a chunk by its back link, which is masked too.
        let next = neighbour(chunk, after, through.previous(), self.last);
        let previous = neighbour(chunk, before, through.next(), self.first);
        match previous {
            Some(previous) => previous.set_link(through.next(), after),
            None => self.first = after,
        }
        match next {
            Some(next) => next.set_link(through.previous(), before),
            None => self.last = before,
        }
    }

    /// As [`unlink`](List::unlink) for the last chunk: only the one before it is touched.
    #[inline]
    pub fn unlink_last<R: Region>(&mut self, through: Through, chunk: Chunk<'_, R>) {
        if chunk.link(through.next()) != 0 || self.last != chunk.addr() {
            damaged(chunk);
        }
        let before = chunk.link(through.previous());
        match neighbour(chunk, before, through.next(), self.first) {
            Some(previous) => previous.set_link(through.next(), 0),
            None => self.first = 0,
        }
        self.last = before;
    }

    /// The chunks from first to last.
    pub fn iter<'k, R: Region>(&self, through: Through, keys: &'k Keys<R>) -> Iter<'k, R> {
        Iter {
            next: self.first,
            through,
            keys,
        }
    }
}

/// The chunks of a [`List`].
#[derive(Debug)]
pub struct Iter<'k, R> {
    next: usize,
    through: Through,
    keys: &'k Keys<R>,
}

impl<'k, R: Region> Iterator for Iter<'k, R> {
    type Item = Chunk<'k, R>;

    fn next(&mut self) -> Option<Chunk<'k, R>> {
        let chunk = self.keys.find(self.next)?;
        self.next = chunk.link(self.through.next());
        Some(chunk)
    }
}

/// The chunk after `chunk` in its list.
pub fn next<'k, R: Region>(through: Through, chunk: Chunk<'k, R>) -> Option<Chunk<'k, R>> {
    chunk.keys.find(chunk.link(through.next()))
}

/// The chunk before `chunk` in its list.
pub fn previous<'k, R: Region>(through: Through, chunk: Chunk<'k, R>) -> Option<Chunk<'k, R>> {
    chunk.keys.find(chunk.link(through.previous()))
}

/// The chunk at `to` in the list of `chunk`, if that is not its end; aborts unless its link `back`,
/// or our own word `end`, leads to `chunk`.
#[inline(always)]
fn neighbour<'k, R: Region>(
    chunk: Chunk<'k, R>,
    to: usize,
    back: Link,
    end: usize,
) -> Option<Chunk<'k, R>> {
    if to == 0 {
        if end != chunk.addr() {
            damaged(chunk);
        }
        return None;
    }
    match chunk.keys.find(to) {
        Some(there) if there.link(back) == chunk.addr() => Some(there),
        _ => damaged(chunk),
    }
}

#[cold]
fn damaged<R: Region>(chunk: Chunk<'_, R>) -> ! {
    abort(Misuse::CorruptLink {
        address: chunk.payload(),
    })
}

#[allow(unsafe_code)] // See the comment.
#[inline(always)]
fn at<R: Region>(keys: &Keys<R>, addr: usize) -> Option<Chunk<'_, R>> {
    // SAFETY: lists link only chunks that were inserted; `unlink` checks both sides.
    (addr != 0).then(|| unsafe { keys.chunk(addr) })
}
