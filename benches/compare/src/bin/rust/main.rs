//! Rust programs as workloads. They bundle no allocator: the standard library
//! takes the C allocator, hence whichever library is preloaded.
//!
//! `compare-rust NAME PERCENT` runs one of them and prints its result. The same
//! programs with other global allocators are built from `globals/`.

mod programs;

fn main() -> std::process::ExitCode {
    programs::run()
}
