//! The Rust programs on the C library's allocator: what the others are compared with.

use std::alloc::System;

#[path = "../../src/bin/rust/programs.rs"]
mod programs;

#[global_allocator]
static GLOBAL: System = System;

fn main() -> std::process::ExitCode {
    programs::run()
}
