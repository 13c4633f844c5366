//! What a change of areas asks of whoever keeps the pages.

use super::addr::{ObjectId, Rights};
use super::area::{Area, Errno};

/// The keeper of pages: page tables and frames in the whole machine, a set of numbers in a test.
///
/// Ranges are whole pages of one address space, `start..end`. The areas tell the keeper after
/// they decided that a call succeeds, so nothing here can fail but what says so.
pub trait Effects {
    /// The range is unmapped: pages, guards and swap slots are forgotten.
    fn forget(&mut self, start: u64, end: u64);

    /// Contents of private pages are dropped, guards stay (`MADV_DONTNEED`).
    fn discard(&mut self, start: u64, end: u64);

    /// Contents may be dropped under pressure until the next store (`MADV_FREE`).
    fn free_lazily(&mut self, start: u64, end: u64);

    /// The area of the range now has these rights.
    fn protect(&mut self, start: u64, end: u64, rights: Rights);

    /// What is mapped in `from..from + len` (guards and swap slots too) is mapped from `to` on
    /// instead. Nothing is mapped there now.
    fn relocate(&mut self, from: u64, to: u64, len: u64);

    /// Every page of the range becomes a guard, its contents are dropped.
    fn guard(&mut self, start: u64, end: u64);

    /// Guards in the range are gone.
    fn unguard(&mut self, start: u64, end: u64);

    /// Faults the part `start..end` of an area in, as if every page were read, or written.
    /// Pages before the first that cannot be had stay.
    ///
    /// # Errors
    /// `EFAULT` at a guard or beyond the end of the object, `ENOMEM` without memory.
    fn populate(&mut self, area: &Area, start: u64, end: u64, write: bool) -> Result<(), Errno>;

    /// No area lies in `floor..ceiling` any more: page tables that serve only this range go.
    fn prune(&mut self, floor: u64, ceiling: u64);

    /// A new object of zero bytes, `len` long, for a shared anonymous mapping; held once.
    ///
    /// # Errors
    /// If there is no room for one more.
    fn create(&mut self, len: u64) -> Result<ObjectId, Errno>;

    /// One more area is backed by the object.
    fn hold(&mut self, object: ObjectId);

    /// One area less is backed by the object; the last one ends it.
    fn release(&mut self, object: ObjectId);

    /// The range `offset..offset + len` of the object is zero again, everywhere (`MADV_REMOVE`).
    fn punch(&mut self, object: ObjectId, offset: u64, len: u64);
}
