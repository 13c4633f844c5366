//! Compares memory allocators on whole programs.
fn main() {}
