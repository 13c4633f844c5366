//! Layer 7: the debug pool. Every object on pages of its own between guards, every error explained.
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
