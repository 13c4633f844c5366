//! What the program wants done on a signal that we handle.
//!
//! Where the names of C's `sigaction` and `signal` are ours, there is one wish per signal, and it
//! is exact. Elsewhere a program talks to the kernel behind our back: what it installs is found
//! later and put on top of what was there, for it may pass signals on to us as to the handler that
//! it replaced. The kernel's action of ours is *marked* with the height of the pile, in bits of
//! its mask that stand for real-time signals: if a program puts back the action that it once
//! replaced, the mark says up to where its handlers are gone.

use crate::os::signals::Action;
use crate::sync::Lock;
use crate::sync::overlay::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// The highest pile.
pub const HEIGHT: usize = 4;

/// Handlers in the order in which they are called, last first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pile {
    actions: [Action; HEIGHT],
    top: usize,
}

impl Pile {
    /// A program that wants nothing.
    pub const EMPTY: Pile = Pile {
        actions: [Action::DEFAULT; HEIGHT],
        top: 0,
    };

    /// The action that is asked when `level` handlers have passed a signal on to us in turn.
    #[must_use]
    pub fn at(&self, level: usize) -> Action {
        self.top
            .checked_sub(level)
            .and_then(|at| self.actions.get(at))
            .copied()
            .unwrap_or(Action::DEFAULT)
    }

    /// The mark of our action in the kernel.
    #[must_use]
    pub const fn mark(&self) -> usize {
        self.top
    }

    /// Replaces what the program wants.
    pub fn set(&mut self, action: Action) {
        if let Some(top) = self.actions.get_mut(self.top) {
            *top = action;
        }
    }

    /// Takes over what the kernel had instead of ours.
    pub fn adopt(&mut self, action: Action) {
        let again = self.at(0).handler == action.handler;
        if action.is_function() && !again && self.top + 1 < HEIGHT {
            self.top += 1;
        }
        self.set(action);
    }

    /// Forgets what came after our action was marked.
    pub fn cut(&mut self, mark: usize) {
        self.top = self.top.min(mark);
    }
}

#[derive(Debug)]
struct Words {
    handler: AtomicUsize,
    flags: AtomicU32,
    mask: AtomicU64,
}

/// One signal's pile. Handlers read it without a lock; who writes has all signals blocked, so
/// that no handler ever waits for its own thread.
#[derive(Debug)]
pub struct Wishes {
    lock: Lock,
    /// Odd while somebody writes.
    version: AtomicU32,
    words: [Words; HEIGHT],
    top: AtomicUsize,
}

impl Wishes {
    /// Nothing is wanted.
    #[must_use]
    pub const fn new() -> Wishes {
        Wishes {
            lock: Lock::new(),
            version: AtomicU32::new(0),
            words: [const {
                Words {
                    handler: AtomicUsize::new(libc::SIG_DFL),
                    flags: AtomicU32::new(0),
                    mask: AtomicU64::new(0),
                }
            }; HEIGHT],
            top: AtomicUsize::new(0),
        }
    }

    /// The pile at one moment.
    #[must_use]
    pub fn read(&self) -> Pile {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let pile = self.copy();
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.version.load(Ordering::Relaxed) == before {
                return pile;
            }
            core::hint::spin_loop();
        }
    }

    /// Changes the pile. The caller has blocked all signals.
    pub fn change<R>(&self, change: impl FnOnce(&mut Pile) -> R) -> R {
        self.lock.lock();
        let mut pile = self.copy();
        let result = change(&mut pile);
        self.version.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (words, action) in self.words.iter().zip(&pile.actions) {
            words.handler.store(action.handler, Ordering::Relaxed);
            words.flags.store(action.flags as u32, Ordering::Relaxed);
            words.mask.store(action.mask, Ordering::Relaxed);
        }
        self.top.store(pile.top, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Release);
        self.lock.unlock();
        result
    }

    /// In a child of fork: whoever was writing is gone.
    pub fn forked(&self) {
        if self.lock.is_locked() {
            let version = self.version.load(Ordering::Relaxed);
            self.version.store(version & !1, Ordering::Relaxed);
            self.lock.unlock();
        }
    }

    fn copy(&self) -> Pile {
        let mut pile = Pile::EMPTY;
        for (words, action) in self.words.iter().zip(&mut pile.actions) {
            *action = Action {
                handler: words.handler.load(Ordering::Relaxed),
                flags: words.flags.load(Ordering::Relaxed) as i32,
                mask: words.mask.load(Ordering::Relaxed),
            };
        }
        pile.top = self.top.load(Ordering::Relaxed);
        pile
    }
}

impl Default for Wishes {
    fn default() -> Wishes {
        Wishes::new()
    }
}
