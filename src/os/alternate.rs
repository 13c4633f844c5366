//! Alternate signal stacks: a thread whose stack is used up has nowhere else to run a handler.
//!
//! Only a thread that has none is given one. It is taken back when the thread ends, after the
//! kernel was told to forget it, and the next thread gets it.
#![allow(unsafe_code)] // System calls, tables in raw pages.

use super::call::system_call;
use super::signals::thread_id;
use super::{Os, OsError, PageState, Prot, Region};
use crate::sync::overlay::{AtomicU32, AtomicUsize, Ordering};

/// Bytes of an alternate stack.
const STACK: usize = 64 << 10;

/// Stacks in one table: it fills a page on most machines.
const PER_TABLE: usize = 255;

/// The alternate stacks of a process.
#[derive(Debug)]
pub struct Alternates {
    first: AtomicUsize,
}

/// Never unmapped, so that it can be read without a lock.
#[repr(C)]
#[derive(Debug)]
struct Table {
    next: AtomicUsize,
    entries: [Entry; PER_TABLE],
}

#[repr(C)]
#[derive(Debug)]
struct Entry {
    /// Where the stack begins, above its guard; 0: there is none yet.
    stack: AtomicUsize,
    /// The thread that has it; 0: nobody.
    owner: AtomicU32,
}

/// What the kernel says of the thread's alternate stack.
struct Current {
    /// Where it begins; `None` if there is none.
    stack: Option<usize>,
    /// Whether the thread runs on it.
    in_use: bool,
}

impl Alternates {
    /// None yet.
    #[must_use]
    pub const fn new() -> Alternates {
        Alternates {
            first: AtomicUsize::new(0),
        }
    }

    /// Gives the calling thread an alternate stack unless it has one.
    ///
    /// # Errors
    /// If there is no memory, or the thread may not change its stack now.
    pub fn take<O: Os>(&self, os: &O) -> Result<(), OsError> {
        if current()?.stack.is_some() {
            return Ok(());
        }
        let entry = self.claim(os, thread_id())?;
        let mut stack = entry.stack.load(Ordering::Acquire);
        if stack == 0 {
            stack = match map(os) {
                Ok(stack) => stack,
                Err(error) => {
                    entry.owner.store(0, Ordering::Release);
                    return Err(error);
                }
            };
            entry.stack.store(stack, Ordering::Release);
        }
        set(Some(stack)).inspect_err(|_| entry.owner.store(0, Ordering::Release))
    }

    /// Takes back what [`take`](Alternates::take) gave to the calling thread.
    pub fn give_back<O: Os>(&self, os: &O) {
        let thread = thread_id();
        self.each(os, &mut |entry| {
            if entry.owner.load(Ordering::Relaxed) != thread {
                return false;
            }
            let Ok(current) = current() else {
                return false;
            };
            let is_set = current.stack == Some(entry.stack.load(Ordering::Relaxed));
            if !is_set || !current.in_use && set(None).is_ok() {
                entry.owner.store(0, Ordering::Release);
            }
            false
        });
    }

    /// In a child of fork: only the calling thread is left, under another number.
    pub fn forked<O: Os>(&self, os: &O) {
        let (thread, current) = (thread_id(), current().ok().and_then(|c| c.stack));
        self.each(os, &mut |entry| {
            if entry.owner.load(Ordering::Relaxed) != 0 {
                let stack = entry.stack.load(Ordering::Relaxed);
                let mine = stack != 0 && current == Some(stack);
                let owner = if mine { thread } else { 0 };
                entry.owner.store(owner, Ordering::Relaxed);
            }
            false
        });
    }

    /// An entry that is the thread's from now on.
    fn claim<'a, O: Os>(&'a self, os: &O, thread: u32) -> Result<&'a Entry, OsError> {
        loop {
            let mut found = None;
            let last = self.each(os, &mut |entry| {
                let free = entry.owner.load(Ordering::Relaxed) == 0;
                let mine = free
                    && entry
                        .owner
                        .compare_exchange(0, thread, Ordering::Acquire, Ordering::Relaxed)
                        .is_ok();
                if mine {
                    found = Some(entry);
                }
                mine
            });
            if let Some(entry) = found {
                return Ok(entry);
            }
            let bytes = crate::size::align_up(size_of::<Table>(), os.page_size());
            let table = os.map(0, bytes, Prot::ReadWrite)?;
            os.note(table, table + bytes, PageState::Meta);
            let appended = last.compare_exchange(0, table, Ordering::AcqRel, Ordering::Relaxed);
            if appended.is_err() {
                // SAFETY: mapped just now, and nobody knows it.
                let _ = unsafe { os.unmap(table, bytes) };
            }
        }
    }

    /// Shows `visit` every entry until it says that this was it. The link behind the last table.
    fn each<'a, O: Os>(
        &'a self,
        os: &O,
        visit: &mut dyn FnMut(&'a Entry) -> bool,
    ) -> &'a AtomicUsize {
        let mut link = &self.first;
        loop {
            let table = link.load(Ordering::Acquire);
            if table == 0 {
                return link;
            }
            // SAFETY: a whole table in zeroed pages that stay mapped; accessed atomically only.
            let table = unsafe { &*os.region().at(table).cast::<Table>() };
            if table.entries.iter().any(&mut *visit) {
                return link;
            }
            link = &table.next;
        }
    }
}

impl Default for Alternates {
    fn default() -> Alternates {
        Alternates::new()
    }
}

/// Maps a stack of its own with a guard below. Where it begins, above the guard.
///
/// # Errors
/// If there is no memory.
pub fn map<O: Os>(os: &O) -> Result<usize, OsError> {
    let page = os.page_size();
    let whole = os.map(0, page + STACK, Prot::None)?;
    let stack = whole + page;
    // SAFETY: pages of our own that nobody knows.
    unsafe {
        if let Err(error) = os.protect(stack, STACK, Prot::ReadWrite) {
            let _ = os.unmap(whole, page + STACK);
            return Err(error);
        }
    }
    os.note(stack, stack + STACK, PageState::Meta);
    Ok(stack)
}

/// The end of a stack that [`map`] made, where it is entered.
#[must_use]
pub const fn top(stack: usize) -> usize {
    stack + STACK
}

fn current() -> Result<Current, OsError> {
    let mut old = libc::stack_t {
        ss_sp: core::ptr::null_mut(),
        ss_flags: 0,
        ss_size: 0,
    };
    let args = [0, (&raw mut old).expose_provenance(), 0, 0, 0, 0];
    // SAFETY: the kernel writes one stack_t.
    unsafe { system_call(libc::SYS_sigaltstack, args)? };
    Ok(Current {
        stack: (old.ss_flags & libc::SS_DISABLE == 0).then_some(old.ss_sp.addr()),
        in_use: old.ss_flags & libc::SS_ONSTACK != 0,
    })
}

fn set(stack: Option<usize>) -> Result<(), OsError> {
    let new = libc::stack_t {
        ss_sp: core::ptr::with_exposed_provenance_mut(stack.unwrap_or(0)),
        ss_flags: if stack.is_some() { 0 } else { libc::SS_DISABLE },
        ss_size: STACK,
    };
    let args = [(&raw const new).expose_provenance(), 0, 0, 0, 0, 0];
    // SAFETY: a stack that is the calling thread's alone, or none.
    unsafe { system_call(libc::SYS_sigaltstack, args) }.map(drop)
}
