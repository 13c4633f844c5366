//! What several test files share: the built artefacts, small C programs, and
//! child processes under a watchdog.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

mod compile;
mod run;

// Not every test file compiles or runs something.
#[allow(unused_imports)]
pub use compile::compile_c;
#[allow(unused_imports)]
pub use run::{Outcome, Run, kill_group, program};

/// The directory that cargo builds into.
pub fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("the test directory lies inside the target directory")
        .to_path_buf()
}

fn build(package: &str) {
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--release",
            "--quiet",
            "-p",
            package,
            "--target-dir",
        ])
        .arg(target_dir())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("LD_PRELOAD")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "cargo build -p {package} failed");
}

/// The preload library, built in release mode: `target/release/libfencepost.so`.
pub fn preload_library() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        build("fencepost-preload");
        target_dir().join("release/libfencepost.so")
    })
}

/// The command line tool, built in release mode: `target/release/fencepost`.
pub fn cli() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        build("fencepost-cli");
        target_dir().join("release/fencepost")
    })
}

/// The number of objects that were guarded, as the statistics on `stderr` say, over all
/// processes that printed some.
pub fn guarded_objects(stderr: &str) -> u64 {
    stderr
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("guarded"))
        .filter_map(|line| line.split_once(" objects"))
        .map(|(number, _)| number.trim().parse::<u64>().expect("a number"))
        .sum()
}
