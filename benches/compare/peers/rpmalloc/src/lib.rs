//! Brings rpmalloc; its build script leaves the static library.
