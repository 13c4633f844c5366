//! Tunables that are text: files and patterns.
//!
//! The environment's strings are the program's, which may write over them (many do, to change
//! what `ps` shows). So each is copied, once, into a buffer inside [`Settings`](super::Settings).
#![allow(unsafe_code)] // A buffer that is written once and shared from then on.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Names one tunable that is text; the order is that of [`TEXTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Text {
    /// The file that mtrace writes to.
    Trace,
    /// The file that reports are appended to.
    GuardReport,
    /// Which reports are left out.
    GuardSuppress,
}

/// One tunable that is text.
#[derive(Debug, Clone, Copy)]
pub struct TextTunable {
    /// Which one it is.
    pub key: Text,
    /// The environment variable.
    pub variable: &'static str,
    /// What the text is, in two words.
    pub holds: &'static str,
    /// What it does, in a sentence.
    pub sentence: &'static str,
}

/// Every tunable that is text, in the order of [`Text`]. None has a default: without it, what it
/// asks for is not done.
pub static TEXTS: [TextTunable; COUNT] = TABLE;

const COUNT: usize = TABLE.len();
const TABLE: [TextTunable; 3] = [
    TextTunable {
        key: Text::Trace,
        variable: "MALLOC_TRACE",
        holds: "a file",
        sentence: "Where `mtrace()` writes every allocation and free, until `muntrace()`, as the C library's `mtrace` script reads it. Set at the start it switches the thread caches off.",
    },
    TextTunable {
        key: Text::GuardReport,
        variable: "FENCEPOST_GUARD_REPORT",
        holds: "a file",
        sentence: "Where guard mode appends its reports, one JSON object per line; `%p` is the process id.",
    },
    TextTunable {
        key: Text::GuardSuppress,
        variable: "FENCEPOST_GUARD_SUPPRESS",
        holds: "patterns",
        sentence: "Leaks that are not reported, as patterns with `*`, separated by `:`: of a module's path, `module+0xoffset`, or the name of an exported function on the allocation's stack.",
    },
];

/// The longest text that is taken, in bytes: a path's longest.
pub const LONGEST: usize = 4095;

/// A text that is written at most once.
#[derive(Debug)]
pub(super) struct Once {
    bytes: UnsafeCell<[u8; LONGEST]>,
    /// The length; 0 as long as there is no text, `WRITING` while somebody writes it.
    len: AtomicUsize,
}

const WRITING: usize = usize::MAX;

// SAFETY: who moves `len` from 0 to `WRITING` is alone with the bytes until it publishes the
// length; from then on nobody writes them again.
unsafe impl Sync for Once {}

impl Once {
    pub(super) const fn new() -> Once {
        Once {
            bytes: UnsafeCell::new([0; LONGEST]),
            len: AtomicUsize::new(0),
        }
    }

    /// The text; empty if there is none.
    pub(super) fn get(&self) -> &[u8] {
        let len = self.len.load(Ordering::Acquire);
        if len == 0 || len == WRITING {
            return &[];
        }
        // SAFETY: the length is published after the bytes, which nobody writes again.
        let bytes = unsafe { &*self.bytes.get() };
        bytes.get(..len).unwrap_or(&[])
    }

    /// Takes the text over unless there is one. `false` if it is too long.
    pub(super) fn set(&self, text: &[u8]) -> bool {
        if text.len() > LONGEST {
            return false;
        }
        let free = self
            .len
            .compare_exchange(0, WRITING, Ordering::Acquire, Ordering::Relaxed);
        if free.is_ok() {
            // SAFETY: this thread alone has the bytes, see above.
            let bytes = unsafe { &mut *self.bytes.get() };
            for (to, from) in bytes.iter_mut().zip(text) {
                *to = *from;
            }
            self.len.store(text.len(), Ordering::Release);
        }
        true
    }
}

const _: () = {
    let mut i = 0;
    while i < COUNT {
        assert!(
            TABLE[i].key as usize == i,
            "the table has the order of the keys"
        );
        i += 1;
    }
};
