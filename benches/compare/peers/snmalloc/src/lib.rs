//! Brings snmalloc; its build script leaves the static library.
