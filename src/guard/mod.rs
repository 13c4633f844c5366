//! Layer 7: the debug pool. Every object on pages of its own between guards, every error explained.
mod diagnosis;
pub mod json;
mod record;
pub mod scene;
pub mod text;
pub mod verdict;

pub use record::{Event, Record, Side, SlotState, StackId};
