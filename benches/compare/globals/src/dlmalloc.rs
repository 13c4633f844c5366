//! The Rust programs on dlmalloc in Rust.

use dlmalloc::GlobalDlmalloc;

#[path = "../../src/bin/rust/programs.rs"]
mod programs;

#[global_allocator]
static GLOBAL: GlobalDlmalloc = GlobalDlmalloc;

fn main() -> std::process::ExitCode {
    programs::run()
}
