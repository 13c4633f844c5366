//! Brings mimalloc 2 and 3; each is built by its own CMake project.
