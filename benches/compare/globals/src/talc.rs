//! The Rust programs on talc behind a spin lock, with its memory from the C library: as its
//! documentation shows it.

use std::alloc::System;

use spinning_top::RawSpinlock;
use talc::{TalcLock, source::GlobalAllocSource};

#[path = "../../src/bin/rust/programs.rs"]
mod programs;

#[global_allocator]
static GLOBAL: TalcLock<RawSpinlock, GlobalAllocSource<System>> =
    TalcLock::new(GlobalAllocSource::new(System));

fn main() -> std::process::ExitCode {
    programs::run()
}
