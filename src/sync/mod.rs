//! Layer 0: atomics and the futex lock. The only place that knows loom.
//!
//! Under `--cfg loom` the atomics are loom's, so that the models in `tests/loom.rs` run the
//! protocols of this crate itself. Loom's types have no const constructors; what is built
//! from statics (layers 8 and up) does not exist in that build.

mod alone;
mod futex;

pub use alone::count;
pub use futex::{Lock, RawLock};

#[cfg(not(loom))]
pub use core::sync::atomic;
/// Atomics that lie over chunk memory or only count: loom cannot and need not see them.
pub use core::sync::atomic as overlay;
#[cfg(loom)]
pub use loom::sync::atomic;

/// A value behind a futex lock.
#[cfg(not(loom))]
pub type Mutex<T> = lock_api::Mutex<RawLock, T>;
/// The guard of a [`Mutex`].
#[cfg(not(loom))]
pub type MutexGuard<'a, T> = lock_api::MutexGuard<'a, RawLock, T>;

#[cfg(loom)]
pub use futex::modelled::{Mutex, MutexGuard};
