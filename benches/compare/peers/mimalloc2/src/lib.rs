//! Brings mimalloc 2; its build script leaves the static library.
