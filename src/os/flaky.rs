//! A kernel whose n-th call fails.
#![allow(unsafe_code)] // Passes unsafe calls on.

use super::{Os, OsError, PageState, Prot};
use crate::sync::overlay::{AtomicU64, Ordering};

/// Passes every call on to another [`Os`], except those that it was told to refuse.
///
/// Reading (the page size, the break) is never refused and not counted.
#[derive(Debug)]
pub struct Flaky<O> {
    inner: O,
    made: AtomicU64,
    fail_from: AtomicU64,
    fail_to: AtomicU64,
    refused: AtomicU64,
}

impl<O> Flaky<O> {
    /// Refuses nothing yet.
    pub const fn new(inner: O) -> Flaky<O> {
        Flaky {
            inner,
            made: AtomicU64::new(0),
            fail_from: AtomicU64::new(u64::MAX),
            fail_to: AtomicU64::new(u64::MAX),
            refused: AtomicU64::new(0),
        }
    }

    /// Refuses the calls numbered `from` up to but not including `to`, counted from now on
    /// starting at 0.
    pub fn refuse(&self, from: u64, to: u64) {
        self.made.store(0, Ordering::Relaxed);
        self.fail_from.store(from, Ordering::Relaxed);
        self.fail_to.store(to, Ordering::Relaxed);
    }

    /// How many calls were made since the last [`refuse`](Flaky::refuse).
    pub fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }

    /// How many calls were refused in all.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The kernel behind it.
    pub const fn inner(&self) -> &O {
        &self.inner
    }

    fn admit(&self) -> Result<(), OsError> {
        let n = self.made.fetch_add(1, Ordering::Relaxed);
        let refused =
            n >= self.fail_from.load(Ordering::Relaxed) && n < self.fail_to.load(Ordering::Relaxed);
        if refused {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(OsError::NO_MEMORY);
        }
        Ok(())
    }
}

// SAFETY: what is not refused is the inner kernel's answer; a refusal changes nothing.
unsafe impl<O: Os> Os for Flaky<O> {
    type Region = O::Region;

    fn region(&self) -> O::Region {
        self.inner.region()
    }
    fn page_size(&self) -> usize {
        self.inner.page_size()
    }
    fn program_break(&self) -> usize {
        self.inner.program_break()
    }
    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.set_break(to) }
    }
    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        self.admit()?;
        self.inner.map(hint, len, prot)
    }
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.unmap(addr, len) }
    }
    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.remap(addr, old, new) }
    }
    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.protect(addr, len, prot) }
    }
    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.discard(addr, len) }
    }
    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.populate(addr, len) }
    }
    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.guard(addr, len) }
    }
    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        self.admit()?;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.unguard(addr, len) }
    }
    fn note(&self, from: usize, to: usize, state: PageState) {
        self.inner.note(from, to, state);
    }
    fn run(&self, from: usize, to: usize) -> (PageState, usize) {
        self.inner.run(from, to)
    }
}
