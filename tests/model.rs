//! Seeded operation lists on heaps over a host block and over the real kernel.
#![allow(unsafe_code)] // The interpreter plays the user of raw memory.

#[path = "model/mod.rs"]
mod model;

use model::{Op, Script, Source, World};

const SCRIPTS: u64 = if cfg!(miri) { 2 } else { 100 };
const LENGTH: usize = if cfg!(miri) { 60 } else { 200 };

/// Runs seeded scripts; a script that fails is made small and shown.
fn seeded(source: Source) {
    for seed in 0..SCRIPTS {
        let script = Script::from_seed(seed, source, LENGTH);
        if let Err(why) = model::try_run(&script, 5) {
            panic!("seed {seed}: {why}");
        }
    }
}

#[test]
fn seeded_scripts_on_the_break() {
    seeded(Source::Break);
}

#[test]
fn seeded_scripts_in_a_region() {
    seeded(Source::Region);
}

#[test]
fn seeded_scripts_in_granules() {
    seeded(Source::Granules);
}

#[test]
fn seeded_scripts_in_segments() {
    seeded(Source::Segments);
}
