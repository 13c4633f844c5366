//! The Rust programs with other global allocators: pure-Rust peers cannot be
//! preloaded, so each is a build of its own, compared with the system's.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::allocators::{self, Allocator, Role, Skipped};
use crate::peers;

/// The pure-Rust peers: the name of the build, and the crate behind it.
const PEERS: [(&str, &str); 3] = [
    ("rusty_alloc", "rusty_alloc-api"),
    ("dlmalloc", "dlmalloc"),
    ("talc", "talc"),
];

/// Where a build lies.
fn program(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("rust-{name}"))
}

/// Builds the programs in `workspace` into `directory`: all of them, or only
/// the one with fencepost, which changes while the others do not.
pub fn build(workspace: &Path, directory: &Path, fencepost_only: bool) -> Result<()> {
    let target = directory.join("build");
    let mut command = peers::cargo();
    command
        .args(["build", "--release", "--quiet", "--manifest-path"])
        .arg(workspace.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .stdin(Stdio::null());
    if fencepost_only {
        command.args(["--bin", "rust-fencepost"]);
    }
    let status = command.status().context("cargo cannot be started")?;
    ensure!(status.success(), "cargo build: {status}");
    let names = if fencepost_only {
        vec!["fencepost"]
    } else {
        let versions = versions(workspace)?;
        for (name, source) in PEERS {
            let version = versions
                .iter()
                .find(|(package, _)| package == source)
                .map_or("unknown", |(_, version)| version);
            let file = program(directory, name).with_extension("version");
            std::fs::write(file, format!("{version}, {source}"))?;
        }
        let others = PEERS.iter().map(|(name, _)| *name);
        ["system", "fencepost"].into_iter().chain(others).collect()
    };
    for name in names {
        let file = format!("rust-{name}");
        // Beside it and then moved: the old one may be running.
        let new = directory.join(format!("{file}.new"));
        std::fs::copy(target.join("release").join(&file), &new)?;
        std::fs::rename(new, program(directory, name))?;
    }
    Ok(())
}

fn versions(workspace: &Path) -> Result<Vec<(String, String)>> {
    let output = peers::cargo()
        .args(["metadata", "--format-version", "1", "--manifest-path"])
        .arg(workspace.join("Cargo.toml"))
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|package| (text(&package["name"]), text(&package["version"])))
        .collect())
}

/// The names that can be asked for, beside fencepost.
pub fn names() -> impl Iterator<Item = &'static str> {
    PEERS.iter().map(|(name, _)| *name)
}

/// Whether the programs have been built at all.
pub fn built(directory: &Path) -> bool {
    program(directory, "system").exists()
}

/// The allocators that are there and wanted. Nothing if there is nothing to
/// compare the system's with.
pub fn take_part(
    directory: &Path,
    wanted: impl Fn(&str) -> bool,
    skipped: &mut Vec<Skipped>,
) -> Vec<Allocator> {
    let own = |name: &str, role: Role, version: String| Allocator {
        name: name.to_owned(),
        role,
        version,
        library: None,
        program: Some(program(directory, name)),
        environment: Vec::new(),
    };
    let mut all: Vec<Allocator> = allocators::glibc()
        .into_iter()
        .map(|glibc| Allocator {
            name: glibc.name.replace("glibc", "system"),
            program: Some(program(directory, "system")),
            ..glibc
        })
        .collect();
    let baselines = all.len();
    if wanted("fencepost") {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        all.push(own("fencepost", Role::Candidate, version));
    }
    for name in names().filter(|name| wanted(name)) {
        let file = program(directory, name).with_extension("version");
        let version = std::fs::read_to_string(file).unwrap_or_else(|_| "unknown".to_owned());
        all.push(own(name, Role::Peer, version));
    }
    all.retain(|one| {
        let there = one.program.as_deref().is_some_and(Path::exists);
        if !there && one.role != Role::Again {
            skipped.push(Skipped {
                name: format!("{} as a global allocator", one.name),
                reason: "not built yet: the `peers` subcommand builds it".to_owned(),
            });
        }
        there
    });
    if all.len() <= baselines {
        all.clear();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(names: &[&str]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for name in names {
            std::fs::write(program(directory.path(), name), "").expect("it can be written");
        }
        directory
    }

    #[test]
    fn only_what_is_built_takes_part_and_the_rest_is_named() {
        let built = directory(&["system", "talc"]);
        std::fs::write(built.path().join("rust-talc.version"), "5, talc").expect("written");
        let mut skipped = Vec::new();
        let all = take_part(built.path(), |_| true, &mut skipped);
        let names: Vec<&str> = all.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["system", "system again", "talc"]);
        assert_eq!(all[2].version, "5, talc");
        assert!(all.iter().all(|one| one.library.is_none()));
        let missing: Vec<&str> = skipped.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(
            missing,
            ["fencepost", "rusty_alloc", "dlmalloc"]
                .map(|one| format!("{one} as a global allocator"))
        );
    }

    #[test]
    fn the_system_alone_is_no_comparison() {
        let built = directory(&["system", "talc"]);
        let mut skipped = Vec::new();
        assert!(take_part(built.path(), |_| false, &mut skipped).is_empty());
        assert!(skipped.is_empty());
    }
}
