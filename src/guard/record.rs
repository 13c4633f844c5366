//! What is kept of every object: one record per slot.

/// Where a stack is kept; 0 is no stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StackId(pub u32);

/// An allocation or a free: who, when and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Event {
    /// The pool's operation number, counted from 1; 0 if it never happened.
    pub when: u64,
    /// The kernel's thread id.
    pub thread: u32,
    /// The call stack.
    pub stack: StackId,
}

/// What a slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Never used.
    Unused = 0,
    /// Somebody is filling or emptying it.
    Busy = 1,
    /// An object in use.
    Live = 2,
    /// A freed object, all guard.
    Freed = 3,
}

/// Which end of the object touches a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The end: catches overflow.
    Right = 0,
    /// The beginning: catches underflow.
    Left = 1,
}

/// One object, or what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its address.
    pub payload: usize,
    /// Bytes asked for.
    pub size: usize,
    /// Alignment asked for, in bytes: a power of two.
    pub align: usize,
    /// What the slot holds.
    pub state: SlotState,
    /// Where in its pages the object lies.
    pub side: Side,
    /// Its allocation.
    pub allocated: Event,
    /// Its end; all zero while it lives.
    pub freed: Event,
}

impl Record {
    /// The first address after the object.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.payload + self.size
    }
}
