//! Seeded operation lists on heaps over a host block and over the real kernel.
//!
//! `FENCEPOST_SCRIPTS=n` runs n scripts per test, `FENCEPOST_SEEDS=1` names each seed before it
//! runs (for a heap that aborts; with `--nocapture`).
#![allow(unsafe_code)] // The interpreter plays the user of raw memory.

#[path = "model/mod.rs"]
mod model;
#[cfg(not(miri))]
mod support;

use model::{Script, Source, World};
#[cfg(not(miri))]
use {fencepost::heap::RUNGS, fencepost::os::Kernel, fencepost::os::SIM_CALLS as CALLS};

const SCRIPTS: u64 = if cfg!(miri) { 1 } else { 400 };
const LENGTH: usize = if cfg!(miri) { 20 } else { 200 };

/// The seeds to try.
fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = std::env::var("FENCEPOST_SCRIPTS").map(|n| n.parse().expect("a number"));
    let named = std::env::var_os("FENCEPOST_SEEDS").is_some();
    (0..number.unwrap_or(usual)).inspect(move |seed| {
        if named {
            eprintln!("seed {seed}");
        }
    })
}

/// Runs seeded scripts; a script that fails is made small and shown.
fn seeded(source: Source) {
    for seed in seeds(SCRIPTS) {
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

/// On the real kernel; the C library's malloc serves the test meanwhile.
#[cfg(not(miri))]
fn on_the_kernel(source: Source) {
    for seed in seeds(SCRIPTS / 2) {
        let script = Script::from_seed(5000 + seed, source, LENGTH);
        World::new(Kernel::new(), source).run(&script.ops, 10);
    }
}

#[test]
#[cfg(not(miri))] // System calls.
fn seeded_scripts_in_a_region_of_the_kernel() {
    on_the_kernel(Source::Region);
}

#[test]
#[cfg(not(miri))] // System calls.
fn seeded_scripts_in_granules_of_the_kernel() {
    on_the_kernel(Source::Granules);
}

#[test]
#[cfg(not(miri))] // System calls.
fn seeded_scripts_in_segments_of_the_kernel() {
    on_the_kernel(Source::Segments);
}

/// The real break, in a process of its own: the C library's malloc moves it too, but only from
/// the main thread, which waits for this one.
#[test]
#[cfg(not(miri))] // System calls.
fn seeded_scripts_on_the_real_break() {
    const CHILD: &str = "FENCEPOST_TEST_CASE";
    if std::env::var_os(CHILD).is_some() {
        return on_the_kernel(Source::Break);
    }
    support::Run::new(std::env::current_exe().expect("a test knows its program"))
        .args(["seeded_scripts_on_the_real_break", "--exact", "--nocapture"])
        .env(CHILD, "break")
        .output()
        .expect_success("scripts on the real break");
}

/// Scripts that showed something once; fuzzing adds to them.
#[test]
#[cfg(not(miri))] // Files.
fn scripts_of_the_past() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/model/scripts");
    let mut number = 0;
    for entry in std::fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("an entry").path();
        let text = std::fs::read_to_string(&path).expect("a script can be read");
        let script: Script = text.parse().expect("a script");
        if let Err(why) = model::try_run(&script, 1) {
            panic!("{}: {why}", path.display());
        }
        number += 1;
    }
    assert!(number > 0, "there are scripts");
}

#[test]
fn a_script_survives_being_printed() {
    for (seed, source) in Source::ALL.into_iter().enumerate() {
        let script = Script::from_seed(seed as u64, source, 200);
        let text = script.to_string();
        assert_eq!(text.parse::<Script>().as_ref(), Ok(&script), "{text}");
    }
    let bytes: Vec<u8> = (0..500).map(|i| (i * 37 % 251) as u8).collect();
    let script = Script::from_bytes(&bytes);
    assert!(script.ops.len() > 100);
    assert_eq!(script.to_string().parse(), Ok(script));
    assert!("heap Break 4096 near\nmalloc".parse::<Script>().is_err());
    assert!("heap Break 100 near\n".parse::<Script>().is_err());
}

/// The shadow would notice: a script that writes behind a block fails.
#[test]
fn the_shadow_sees_a_stray_write() {
    let script: Script = "heap Segments 4096 near\nmalloc 100\nmalloc 100"
        .parse()
        .expect("a script");
    let stray = std::panic::catch_unwind(|| {
        let mut world = World::over_host(&script);
        script.ops.iter().for_each(|op| world.apply(*op));
        world.check();
        world.scribble(1, 8);
        world.check();
    });
    assert!(stray.is_err());
}

/// Scripts reach every rung of the ladder and every call to the system.
#[test]
#[cfg(not(miri))] // Needs more scripts than Miri can run.
fn scripts_reach_every_rung_and_call() {
    let mut rungs = [0; RUNGS.len()];
    let mut calls = [0; CALLS.len()];
    for source in Source::ALL {
        for seed in 0..20 {
            let script = Script::from_seed(seed, source, LENGTH);
            let mut world = World::over_host(&script);
            world.run(&script.ops, LENGTH);
            let served = world.heap.totals().rungs;
            rungs.iter_mut().zip(served).for_each(|(sum, n)| *sum += n);
            let made = world.os().inner().calls();
            calls.iter_mut().zip(made).for_each(|(sum, n)| *sum += n);
        }
    }
    assert!(rungs.iter().all(|n| *n > 10), "{RUNGS:?} {rungs:?}");
    // Only blocks with a mapping of their own are remapped, and guards are the debug pool's.
    let used = CALLS
        .iter()
        .zip(calls)
        .filter(|(name, _)| !matches!(**name, "remap" | "guard" | "unguard"));
    assert!(used.clone().all(|(_, n)| n > 5), "{CALLS:?} {calls:?}");
}
