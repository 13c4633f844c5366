//! The heap under one operation interpreter, with a shadow that knows what must be true.
//!
//! [`Script`]s are lists of operations; [`run`] carries one out on a heap over [`Host`] and
//! panics when the heap breaks a promise. Seeded tests, Miri and fuzzing share this module:
//! `#[path = "model/mod.rs"] mod model;`.
#![allow(dead_code, unused_imports)] // Not every test uses all of it.
#![allow(unsafe_code)] // The heap's memory is written and read as a user would.

pub mod bed;
pub mod ground;
pub mod host;
pub mod script;
pub mod world;

pub use bed::{Bed, Piece};
pub use ground::{Ground, Machine};
pub use host::{Host, Plan};
pub use script::{Bound, Op, Rng, Script, Source};
pub use world::World;

/// Carries out a script over [`Host`], checking the whole heap after every `check_every`th
/// operation.
///
/// # Panics
/// When the heap breaks a promise.
pub fn run(script: &Script, check_every: usize) {
    World::over_host(script).run(&script.ops, check_every);
}

/// As [`run`]; a panic becomes the smallest script found that panics too, and its message.
///
/// # Errors
/// When the heap breaks a promise.
pub fn try_run(script: &Script, check_every: usize) -> Result<(), String> {
    let attempt = |script: &Script| {
        std::panic::catch_unwind(|| run(script, check_every)).map_err(|payload| {
            let text = payload.downcast_ref::<String>().cloned();
            text.unwrap_or_else(|| payload.downcast_ref::<&str>().unwrap_or(&"?").to_string())
        })
    };
    let Err(mut message) = attempt(script) else {
        return Ok(());
    };
    let mut small = script.clone();
    let mut step = small.ops.len().div_ceil(2);
    while step > 0 {
        let mut at = 0;
        while at < small.ops.len() {
            let mut less = small.clone();
            less.ops.drain(at..(at + step).min(small.ops.len()));
            match attempt(&less) {
                Err(said) => (small, message) = (less, said),
                Ok(()) => at += step,
            }
        }
        step /= 2;
    }
    Err(format!("{message}\n{small}"))
}
