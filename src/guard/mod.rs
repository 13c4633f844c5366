//! Layer 7: the debug pool. Every object on pages of its own between guards, every error explained.
//!
//! | module | what it knows |
//! |---|---|
//! | [`geometry`], `record`, `canary`, `stacks` | where an object lies; what is kept of it; the bytes beside it; call stacks |
//! | `pool` | slots, guards, the quarantine, and the checker of all that |
//! | [`scene`], [`verdict`], `diagnosis` | what was found; what it means; the pure function from one to the other |
//! | [`text`], [`json`], [`desk`] | verdicts in words and in JSON; where reports are made, one at a time |
//! | [`handler`], `wishes`, `unwind` | the signals, the program's own handlers beside ours, the stack of a fault |
//! | `leaks` | which blocks nothing leads to, given the roots |
//!
//! Which allocations come here, and what the process's roots are, is the front's to know.
mod canary;
pub mod desk;
mod diagnosis;
pub mod geometry;
pub mod handler;
pub mod json;
mod leaks;
mod pool;
mod record;
pub mod scene;
mod stacks;
pub mod text;
mod unwind;
pub mod verdict;
mod wishes;

pub use canary::Damage;
pub use diagnosis::{of_call, of_canary, of_fault};
pub use leaks::{Block, Group, Search, Sum};
pub use pool::{CLASSES, GuardTotals, Pool, PoolDamage, Refusal, SlotIndex};
pub use record::{Event, Record, Side, SlotState, StackId};
pub use stacks::{FRAMES, Stacks};
