//! Brings mimalloc 3; its build script leaves the static library.
