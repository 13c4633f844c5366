//! A growable array in pages of its own, for the allocator's metadata.
#![allow(unsafe_code)] // Raw memory.

use super::{Os, OsError, PageState, Prot, Region};

/// A vector of plain values. The first `INLINE` need no page; beyond that it lives in pages
/// mapped from the [`Os`], away from every chunk.
#[derive(Debug)]
pub struct PageVec<T, const INLINE: usize> {
    inline: [T; INLINE],
    pages: usize,
    capacity: usize,
    len: usize,
}

impl<T: Copy, const INLINE: usize> PageVec<T, INLINE> {
    /// An empty vector; `filler` is never seen.
    pub const fn new(filler: T) -> Self {
        PageVec {
            inline: [filler; INLINE],
            pages: 0,
            capacity: INLINE,
            len: 0,
        }
    }

    /// The values.
    pub fn as_slice<O: Os>(&self, os: &O) -> &[T] {
        if self.pages == 0 {
            return self.inline.get(..self.len).unwrap_or(&[]);
        }
        let first = os.region().at(self.pages).cast::<T>();
        // SAFETY: `pages` is a live mapping of ours of at least `capacity` values, the first
        // `len` of which were written by `push`.
        unsafe { core::slice::from_raw_parts(first, self.len) }
    }

    /// The values, to change them.
    pub fn as_mut_slice<O: Os>(&mut self, os: &O) -> &mut [T] {
        if self.pages == 0 {
            return self.inline.get_mut(..self.len).unwrap_or(&mut []);
        }
        let first = os.region().at(self.pages).cast::<T>();
        // SAFETY: as in `as_slice`, and `&mut self` makes the borrow the only one.
        unsafe { core::slice::from_raw_parts_mut(first, self.len) }
    }

    /// Makes room for one more value.
    ///
    /// # Errors
    /// If the pages for it cannot be had; the vector is then unchanged.
    pub fn reserve_one<O: Os>(&mut self, os: &O) -> Result<(), OsError> {
        if self.len < self.capacity {
            return Ok(());
        }
        let bytes = crate::size::align_up(self.capacity * 2 * size_of::<T>(), os.page_size());
        let fresh = os.map(0, bytes, Prot::ReadWrite)?;
        os.note(fresh, fresh + bytes, PageState::Meta);
        let to = os.region().at(fresh).cast::<T>();
        let from = self.as_slice(os).as_ptr();
        // SAFETY: the new mapping holds more than `len` values and cannot overlap the old one.
        unsafe { core::ptr::copy_nonoverlapping(from, to, self.len) };
        if self.pages != 0 {
            let old = crate::size::align_up(self.capacity * size_of::<T>(), os.page_size());
            // SAFETY: the old pages are ours and were just replaced. A refusal leaks them.
            let _ = unsafe { os.unmap(self.pages, old) };
        }
        self.pages = fresh;
        self.capacity = bytes / size_of::<T>();
        Ok(())
    }

    /// Makes room for one more value, and appends it.
    ///
    /// # Errors
    /// If the pages for it cannot be had; the vector is then unchanged.
    pub fn add<O: Os>(&mut self, os: &O, value: T) -> Result<(), OsError> {
        self.reserve_one(os)?;
        self.push(os, value);
        Ok(())
    }

    /// Forgets all values and gives the pages back.
    pub fn release<O: Os>(&mut self, os: &O) {
        if self.pages != 0 {
            let bytes = crate::size::align_up(self.capacity * size_of::<T>(), os.page_size());
            // SAFETY: the pages are ours, and the vector forgets them. A refusal leaks them.
            let _ = unsafe { os.unmap(self.pages, bytes) };
        }
        self.pages = 0;
        self.capacity = INLINE;
        self.len = 0;
    }

    /// Appends a value for which [`reserve_one`](PageVec::reserve_one) made room; without room
    /// the value is dropped.
    pub fn push<O: Os>(&mut self, os: &O, value: T) {
        if self.len < self.capacity {
            self.len += 1;
            if let Some(last) = self.as_mut_slice(os).last_mut() {
                *last = value;
            }
        }
    }
}
