//! A kernel with an account of every page: each call that moves memory is mirrored in a map of
//! page states, and whoever uses the memory notes what it does with whole pages.
//!
//! A call that takes memory away is recorded before it is made (another thread may be given the
//! same addresses at once) and rolled back if it fails; one that brings memory is recorded
//! after. Where the record itself finds no memory, the pages around are `Unknown`, which every
//! reader takes for "ours, dirty".
#![allow(unsafe_code)] // Passes unsafe calls on, and keeps its nodes in raw pages.

use super::nodes::{At, Pool, Room};
use super::{Os, OsError, Prot};
use crate::mmu::states::{PAGES, PageState, PageStates};
use crate::size::align_up;

/// How many runs of different states a refused call can restore exactly; of more, the rest
/// becomes `Unknown`.
const RUNS: usize = 8;

/// Passes every call on to another [`Os`] and keeps the account.
#[derive(Debug)]
pub struct Ledger<O> {
    inner: O,
    states: PageStates,
    pool: Pool,
}

/// The states of a range, to restore them.
struct Saved {
    runs: [(usize, PageState); RUNS],
    count: usize,
    from: usize,
    to: usize,
}

impl<O> Ledger<O> {
    /// An account in which nothing is ours yet.
    #[must_use]
    #[allow(clippy::large_stack_frames)] // Only for statics.
    pub const fn new(inner: O) -> Ledger<O> {
        Ledger {
            inner,
            states: PageStates::new(),
            pool: Pool::new(),
        }
    }

    /// The kernel behind it.
    pub const fn inner(&self) -> &O {
        &self.inner
    }
}

impl<O: Os> Ledger<O> {
    /// The state of the page at an address.
    #[inline]
    pub fn state(&self, addr: usize) -> PageState {
        self.states.get(&self.nodes(), addr >> self.shift())
    }

    /// Visits every run of pages that are ours, in order: addresses and state.
    pub fn each(&self, mut visit: impl FnMut(usize, usize, PageState)) {
        let shift = self.shift();
        self.states
            .each(&self.nodes(), 0, PAGES, |from, to, state| {
                visit(from << shift, to << shift, state);
            });
    }

    /// Bytes of nodes that the account itself occupies.
    pub fn own_bytes(&self) -> usize {
        self.pool.bytes()
    }

    /// Takes the room for the first nodes from the program's image, where the inner kernel's
    /// [`Region`](super::Region) reaches it.
    pub fn lend(&self, room: &'static Room) {
        self.pool.lend(room);
        // What is mapped lies near the stack, and the program's root entry near that one.
        let here = 0u8;
        self.states.touch((&raw const here).addr() >> self.shift());
    }

    fn nodes(&self) -> At<'_, O> {
        At {
            os: &self.inner,
            pool: &self.pool,
        }
    }

    /// Bits of an address below the page number.
    #[inline]
    fn shift(&self) -> u32 {
        self.inner.page_size().trailing_zeros()
    }

    #[inline]
    fn set(&self, from: usize, to: usize, state: PageState) {
        let (page, shift) = (self.inner.page_size(), self.shift());
        let end = align_up(to, page) >> shift;
        self.states.set(&self.nodes(), from >> shift, end, state);
        if let Some((start, end)) = self.pool.unrecorded() {
            self.states
                .set(&self.nodes(), start >> shift, end >> shift, PageState::Meta);
        }
    }

    /// Remembers the states of `from..to`.
    fn save(&self, from: usize, to: usize) -> Saved {
        let mut saved = Saved {
            runs: [(to, PageState::Unknown); RUNS],
            count: 0,
            from,
            to,
        };
        let mut at = from;
        for run in &mut saved.runs {
            if at >= to {
                break;
            }
            let (state, end) = self.run(at, to);
            *run = (end, state);
            saved.count += 1;
            at = end;
        }
        saved
    }

    /// Writes saved states down, `by` bytes further up.
    fn restore(&self, saved: &Saved, by: usize) {
        let mut at = saved.from;
        for &(end, state) in saved.runs.iter().take(saved.count) {
            self.set(at.wrapping_add(by), end.wrapping_add(by), state);
            at = end;
        }
        if at < saved.to {
            let (at, to) = (at.wrapping_add(by), saved.to.wrapping_add(by));
            self.set(at, to, PageState::Unknown);
        }
    }

    /// After a successful call: the pages of `from..to` in one of the states that `change` maps
    /// to another go there.
    fn change(&self, from: usize, to: usize, change: impl Fn(PageState) -> PageState) {
        let mut at = from;
        while at < to {
            let (state, end) = self.run(at, to);
            let next = change(state);
            if next != state {
                self.set(at, end, next);
            }
            at = end;
        }
    }
}

// SAFETY: every call is the inner kernel's.
unsafe impl<O: Os> Os for Ledger<O> {
    type Region = O::Region;

    #[inline(always)]
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
        let page = self.inner.page_size();
        let old = self.inner.program_break();
        if to < old {
            let saved = self.save(align_up(to, page), align_up(old, page));
            self.set(saved.from, saved.to, PageState::None);
            // SAFETY: the caller's promise is passed on.
            let done = unsafe { self.inner.set_break(to) };
            if done.is_err() {
                self.restore(&saved, 0);
            }
            return done;
        }
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.set_break(to) }?;
        // The rest of somebody else's last page stays his until the caller notes that he uses it.
        self.set(align_up(old, page), align_up(to, page), PageState::Fresh);
        Ok(())
    }

    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        let addr = self.inner.map(hint, len, prot)?;
        let state = match prot {
            Prot::None => PageState::Reserved,
            Prot::ReadWrite => PageState::Fresh,
        };
        self.set(addr, addr + len, state);
        Ok(addr)
    }

    unsafe fn unmap(&self, addr: usize, len: usize) -> Result<(), OsError> {
        let saved = self.save(addr, addr + len);
        self.set(addr, addr + len, PageState::None);
        // SAFETY: the caller's promise is passed on.
        let done = unsafe { self.inner.unmap(addr, len) };
        if done.is_err() {
            self.restore(&saved, 0);
        }
        done
    }

    unsafe fn remap(&self, addr: usize, old: usize, new: usize) -> Result<usize, OsError> {
        let kept = old.min(new);
        let saved = self.save(addr, addr + kept);
        let tail = self.save(addr + kept, addr + old);
        self.set(addr, addr + old, PageState::None);
        // SAFETY: the caller's promise is passed on.
        let done = unsafe { self.inner.remap(addr, old, new) };
        let Ok(to) = done else {
            self.restore(&saved, 0);
            self.restore(&tail, 0);
            return done;
        };
        self.restore(&saved, to.wrapping_sub(addr));
        self.set(to + kept, to + new, PageState::Fresh);
        done
    }

    unsafe fn protect(&self, addr: usize, len: usize, prot: Prot) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.protect(addr, len, prot) }?;
        self.change(addr, addr + len, |state| match (prot, state) {
            (Prot::ReadWrite, PageState::Reserved) => PageState::Fresh,
            (Prot::ReadWrite, PageState::Guard) => PageState::Unknown,
            (Prot::None, PageState::Reserved | PageState::None) => state,
            (Prot::None, _) => PageState::Guard,
            (Prot::ReadWrite, _) => state,
        });
        Ok(())
    }

    unsafe fn discard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.discard(addr, len) }?;
        self.change(addr, addr + len, |state| {
            if state.is_accessible() && state != PageState::Fresh {
                PageState::Released
            } else {
                state
            }
        });
        Ok(())
    }

    unsafe fn populate(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // Before: a child of fork may come in between. Even a refused call may have made the
        // first pages resident.
        self.change(addr, addr + len, |state| {
            if state.is_zero() {
                PageState::Populated
            } else {
                state
            }
        });
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.populate(addr, len) }
    }

    unsafe fn guard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        let done = unsafe { self.inner.guard(addr, len) };
        match done {
            Ok(()) => self.set(addr, addr + len, PageState::Guard),
            // Some may be guards now.
            Err(_) => self.change(addr, addr + len, |state| match state {
                PageState::Guard => state,
                _ => PageState::Unknown,
            }),
        }
        done
    }

    unsafe fn unguard(&self, addr: usize, len: usize) -> Result<(), OsError> {
        // SAFETY: the caller's promise is passed on.
        unsafe { self.inner.unguard(addr, len) }?;
        self.set(addr, addr + len, PageState::Live);
        Ok(())
    }

    #[inline]
    fn note(&self, from: usize, to: usize, state: PageState) {
        self.set(from, to, state);
    }

    #[inline]
    fn run(&self, from: usize, to: usize) -> (PageState, usize) {
        let (page, shift) = (self.inner.page_size(), self.shift());
        let last = align_up(to, page) >> shift;
        let (state, end) = self.states.run(&self.nodes(), from >> shift, last);
        (state, (end << shift).min(to))
    }
}
