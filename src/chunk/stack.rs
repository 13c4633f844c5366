//! A LIFO of chunks with masked links: fast bins, caches, magazines.

use super::{Chunk, Keys, Low, State};
use crate::os::Region;
use crate::report::{Misuse, abort};

/// A stack of chunks that are free but look used to their neighbours, all in one state.
///
/// The link in a chunk is masked by the secret and its address, and the chunk's tag covers the
/// link: an overwritten link is noticed before it is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stack {
    top: usize,
}

impl Stack {
    /// An empty stack.
    pub const EMPTY: Stack = Stack { top: 0 };

    /// A stack whose top is the chunk with this payload address (0: empty).
    #[must_use]
    pub const fn from_top(payload: usize) -> Stack {
        Stack { top: payload }
    }

    /// The payload address of the top chunk; 0 if empty.
    #[inline(always)]
    #[must_use]
    pub const fn top(self) -> usize {
        self.top
    }

    /// Whether it is empty.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.top == 0
    }

    /// Puts a chunk on top, marking it as `state`.
    #[inline(always)]
    pub fn push<R: Region>(&mut self, chunk: Chunk<'_, R>, low: Low, state: State) {
        chunk.stack_on(low, state, self.top);
        self.top = chunk.payload();
    }

    /// Takes the top chunk off. Its tag must say `state`; the caller marks it anew.
    ///
    /// Aborts if head or link of the chunk were overwritten.
    #[inline]
    pub fn pop<'k, R: Region>(&mut self, keys: &'k Keys<R>, state: State) -> Option<Chunk<'k, R>> {
        let chunk = self.peek(keys)?;
        if !chunk.is(state) {
            abort(Misuse::CorruptLink {
                address: chunk.payload(),
            });
        }
        self.top = chunk.stacked_below();
        Some(chunk)
    }

    /// The top chunk.
    #[must_use]
    #[allow(unsafe_code)] // See the comment.
    pub fn peek<'k, R: Region>(&self, keys: &'k Keys<R>) -> Option<Chunk<'k, R>> {
        if self.top == 0 {
            return None;
        }
        // SAFETY: only pushed chunks, and links that their chunk's tag vouched for, become top.
        Some(unsafe { keys.chunk(self.top - crate::size::HEADER) })
    }

    /// The stack without its top chunk.
    #[must_use]
    pub fn rest<R: Region>(&self, keys: &Keys<R>) -> Stack {
        self.peek(keys).map_or(Stack::EMPTY, |chunk| Stack {
            top: chunk.stacked_below(),
        })
    }
}
