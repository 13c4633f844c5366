//! The process's kernel and account as a type without size.
//!
//! Statics that held a reference to it would hold an address, and the dynamic linker would write to
//! their pages before the program starts, whether or not it needs them.
#![allow(unsafe_code)] // Passes unsafe calls on.

use super::process::KERNEL;
use crate::os::{Kernel, Ledger, Os, OsError, PageState, Prot};
use core::ops::Deref;

/// Stands for [`KERNEL`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Account;

type Region = <Ledger<Kernel> as Os>::Region;

impl Deref for Account {
    type Target = Ledger<Kernel>;

    #[inline(always)]
    fn deref(&self) -> &Ledger<Kernel> {
        &KERNEL
    }
}

// SAFETY: every call is passed on unchanged.
unsafe impl Os for Account {
    type Region = Region;

    #[inline(always)]
    fn region(&self) -> Region {
        KERNEL.region()
    }
    fn page_size(&self) -> usize {
        KERNEL.page_size()
    }
    fn program_break(&self) -> usize {
        KERNEL.program_break()
    }
    unsafe fn set_break(&self, to: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.set_break(to) }
    }
    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        KERNEL.map(hint, len, prot)
    }
    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.unmap(addr, len) }
    }
    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.remap(addr, old, new) }
    }
    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.protect(addr, len, prot) }
    }
    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.discard(addr, len) }
    }
    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.populate(addr, len) }
    }
    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.guard(addr, len) }
    }
    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { KERNEL.unguard(addr, len) }
    }
    fn note(&self, from: usize, to: usize, state: PageState) {
        KERNEL.note(from, to, state);
    }
    fn run(&self, from: usize, to: usize) -> (PageState, usize) {
        KERNEL.run(from, to)
    }
}
