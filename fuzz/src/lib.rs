//! What the fuzz targets do, apart from the fuzzer: bytes become a script, the script is carried
//! out and checked, and it can be printed and read again.
//!
//! | target | bytes become | checked against |
//! |---|---|---|
//! | [`allocator`] | operations of a heap on the simulated kernel | the interpreter's shadow, the whole heap |
//! | [`mmu`] | memory calls, accesses, forks on the machine | the naive model, the machine's own check |
//! | [`c_entry`] | calls of the C entry points | a shadow of all blocks |
//! | [`parsers`] | texts that we read | themselves printed again, a second simple reader |

pub mod allocator;
pub mod bytes;
pub mod c_entry;
pub mod mmu;
pub mod parsers;
pub mod targets;

#[path = "../../src/cli/elf.rs"]
#[allow(dead_code)]
mod elf;
#[path = "../../src/cli/env.rs"]
#[allow(dead_code)]
mod env;
#[path = "../../tests/kernel/mod.rs"]
#[allow(dead_code, unused_imports, unsafe_code, clippy::all)]
// Its tests against the kernel are not used here.
mod kernel;
#[path = "../../tests/model/mod.rs"]
mod model;
#[path = "../../src/cli/report"]
#[allow(dead_code)]
mod report {
    pub mod frames;
    pub mod parse;

    pub use parse::Frame;
}
#[path = "../../src/cli/script.rs"]
#[allow(dead_code)]
mod script;

/// What tests of the kernel want, and the fuzzer does not do.
mod support {
    use std::path::{Path, PathBuf};

    /// Compiles nothing.
    #[allow(dead_code)]
    pub fn compile_c(source: &Path, _: &[&str]) -> PathBuf {
        source.to_path_buf()
    }
}
