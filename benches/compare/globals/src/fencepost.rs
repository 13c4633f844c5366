//! The Rust programs on fencepost.

use fencepost::Fencepost;

#[path = "../../src/bin/rust/programs.rs"]
mod programs;

#[global_allocator]
static GLOBAL: Fencepost = Fencepost::new();

fn main() -> std::process::ExitCode {
    programs::run()
}
