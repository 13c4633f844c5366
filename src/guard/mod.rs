//! Layer 7: the debug pool. Every object on pages of its own between guards, every error explained.
mod canary;
pub mod geometry;
mod pool;
mod record;
pub mod scene;
mod stacks;
pub mod verdict;

pub use canary::Damage;
pub use pool::{CLASSES, GuardTotals, Pool, Refusal, SlotIndex};
pub use record::{Event, Record, Side, SlotState, StackId};
pub use stacks::{FRAMES, Stacks};
