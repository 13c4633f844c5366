//! The Rust programs on rusty_alloc.

use rusty_alloc_api::RustyAlloc;

#[path = "../../src/bin/rust/programs.rs"]
mod programs;

#[global_allocator]
static GLOBAL: RustyAlloc = RustyAlloc;

fn main() -> std::process::ExitCode {
    programs::run()
}
