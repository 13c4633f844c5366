//! Brings jemalloc 5.3.1; its build script leaves the static library.
