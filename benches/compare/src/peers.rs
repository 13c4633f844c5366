//! Builds the peers that come from crates, each in its own override mode.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::allocators::{self, Role};
use crate::globals;

/// How a peer is built.
pub struct Recipe {
    /// The peer's name; its library is called `lib<name>.so`.
    pub name: &'static str,
    /// The crate that carries its source.
    source: &'static str,
    how: How,
    version: Version,
}

enum How {
    /// The crate's build script leaves a static library with malloc in it,
    /// which becomes a shared one.
    Archive {
        file: &'static str,
        cflags: &'static str,
    },
    /// The crate carries a CMake project with a target for the shared library.
    CMake {
        directory: &'static str,
        target: &'static str,
        options: &'static [&'static str],
    },
}

/// Where a peer's version is written down.
enum Version {
    /// In the crate's version, behind the plus sign.
    Build,
    /// It is the crate's version.
    Crate,
    /// In a header, as `#define MI_MALLOC_VERSION 30302`.
    Header(&'static str),
    /// On the first line of a file.
    FirstLine(&'static str),
}

/// Only the shared library: the crate leaves the tests out.
const MIMALLOC: &[&str] = &[
    "-DMI_BUILD_TESTS=OFF",
    "-DMI_BUILD_STATIC=OFF",
    "-DMI_BUILD_OBJECT=OFF",
];

/// The peers that come from crates.
pub const RECIPES: &[Recipe] = &[
    Recipe {
        name: "jemalloc",
        source: "tikv-jemalloc-sys",
        how: How::Archive {
            file: "libjemalloc_pic.a",
            cflags: "",
        },
        version: Version::Build,
    },
    Recipe {
        name: "mimalloc2",
        source: "libmimalloc-sys2",
        how: How::CMake {
            directory: "c_src/mimalloc",
            target: "mimalloc",
            options: MIMALLOC,
        },
        version: Version::Header("c_src/mimalloc/include/mimalloc.h"),
    },
    Recipe {
        name: "mimalloc3",
        source: "libmimalloc-sys2",
        how: How::CMake {
            directory: "c_src/mimalloc3",
            target: "mimalloc",
            options: MIMALLOC,
        },
        version: Version::Header("c_src/mimalloc3/include/mimalloc.h"),
    },
    Recipe {
        name: "snmalloc",
        source: "snmalloc-sys",
        how: How::CMake {
            directory: "upstream",
            target: "snmallocshim",
            options: &[],
        },
        version: Version::Crate,
    },
    Recipe {
        name: "rpmalloc",
        source: "rpmalloc-sys",
        how: How::Archive {
            file: "librpmalloc.a",
            cflags: "-DENABLE_OVERRIDE=1 -DENABLE_PRELOAD=1",
        },
        version: Version::FirstLine("rpmalloc/CHANGELOG"),
    },
];

/// Builds all peers into `directory` and prints what could be had: `libraries`
/// is the workspace of those to be preloaded, `programs` that of the Rust
/// programs with other global allocators.
pub fn build_all(libraries: &Path, programs: &Path, directory: &Path) -> Result<()> {
    println!(
        "Packages that peers and programs come from:\n  apt-get install --no-install-recommends {}\n",
        packages().join(" ")
    );
    std::fs::create_dir_all(directory)?;
    for recipe in RECIPES {
        println!("building {} from {}", recipe.name, recipe.source);
        let library = directory.join(format!("lib{}.so", recipe.name));
        if let Err(error) = build(recipe, libraries, directory, &library) {
            // What an earlier build left would be measured under a wrong name.
            let _ = std::fs::remove_file(&library);
            println!("  not built: {error:#}");
        }
    }
    println!("building the Rust programs with other global allocators");
    if let Err(error) = globals::build(programs, directory, false) {
        println!("  not built: {error:#}");
    }
    println!("\nWhat can be had:");
    let (found, skipped) = allocators::peers(directory);
    for peer in found {
        match allocators::check(&peer) {
            Ok(()) => println!("  {:<14} {}", peer.name, peer.version),
            Err(error) => println!("  {:<14} does not work: {error:#}", peer.name),
        }
    }
    let mut missing = Vec::new();
    for one in globals::take_part(directory, |_| true, &mut missing) {
        if one.role == Role::Peer {
            println!("  {:<14} {} as a global allocator", one.name, one.version);
        }
    }
    for one in skipped.into_iter().chain(missing) {
        println!("  {:<14} left out: {}", one.name, one.reason);
    }
    Ok(())
}

/// The names in `packages.txt`.
fn packages() -> Vec<&'static str> {
    include_str!("../packages.txt")
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

fn build(recipe: &Recipe, workspace: &Path, directory: &Path, library: &Path) -> Result<()> {
    let manifest = workspace.join("Cargo.toml");
    let source = source(&manifest, recipe.source)?;
    match recipe.how {
        How::Archive { file, cflags } => {
            let out = compile(recipe, &manifest, &directory.join("build"), cflags)?;
            let archive = find(&out, file)
                .with_context(|| format!("the build of {} left no {file}", recipe.source))?;
            link(&archive, library)?;
        }
        How::CMake {
            directory: part,
            target,
            options,
        } => {
            let build = directory.join("build").join(recipe.name);
            let source = source.directory.join(part);
            // A project that was configured elsewhere refuses to be built here.
            if build.exists() {
                std::fs::remove_dir_all(&build)?;
            }
            run(Command::new("cmake")
                .arg("-DCMAKE_BUILD_TYPE=Release")
                .args(options)
                .arg("-S")
                .arg(source)
                .arg("-B")
                .arg(&build))?;
            run(Command::new("cmake")
                .args(["--build"])
                .arg(&build)
                .args(["--target", target]))?;
            std::fs::copy(build.join(format!("lib{target}.so")), library)?;
        }
    }
    std::fs::write(library.with_extension("version"), version(recipe, &source)?)?;
    Ok(())
}

/// Where cargo keeps a crate's source, and which version that is.
struct Source {
    directory: PathBuf,
    version: String,
}

/// cargo, free of what the comparison itself was started with.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env_remove("LD_PRELOAD").env_remove("RUSTFLAGS");
    command
}

fn source(manifest: &Path, name: &str) -> Result<Source> {
    let output = cargo()
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--manifest-path",
        ])
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "cargo metadata: {}", output.status);
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == name)
        .with_context(|| format!("no package is called {name}"))?;
    let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
    Ok(Source {
        directory: Path::new(&text("manifest_path"))
            .parent()
            .context("a manifest lies in a directory")?
            .to_path_buf(),
        version: text("version"),
    })
}

/// Builds a peer's package; returns the directory that its build script wrote.
fn compile(recipe: &Recipe, manifest: &Path, target: &Path, cflags: &str) -> Result<PathBuf> {
    let mut command = cargo();
    command
        .args(["build", "--release", "--locked", "--quiet"])
        .args(["--message-format=json-render-diagnostics", "-p"])
        .arg(format!("peer-{}", recipe.name))
        .arg("--manifest-path")
        .arg(manifest)
        .arg("--target-dir")
        .arg(target)
        .stderr(Stdio::inherit());
    if !cflags.is_empty() {
        command.env("CFLAGS", cflags);
    }
    let output = command.output()?;
    ensure!(output.status.success(), "cargo build: {}", output.status);
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "build-script-executed")
        .find(|message| {
            message["package_id"]
                .as_str()
                .is_some_and(|id| id.contains(&format!("#{}@", recipe.source)))
        })
        .and_then(|message| message["out_dir"].as_str().map(PathBuf::from))
        .with_context(|| format!("{} has no build script", recipe.source))
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    entries.sort();
    let here = entries
        .iter()
        .find(|path| path.is_file() && path.file_name().is_some_and(|file| file == name));
    here.cloned().or_else(|| {
        entries
            .iter()
            .filter(|path| path.is_dir() && !path.is_symlink())
            .find_map(|path| find(path, name))
    })
}

fn link(archive: &Path, library: &Path) -> Result<()> {
    run(Command::new("cc")
        .args(["-shared", "-Wl,--whole-archive"])
        .arg(archive)
        .args(["-Wl,--no-whole-archive", "-lpthread", "-ldl", "-lm", "-o"])
        .arg(library))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| {
        format!(
            "{} cannot be started",
            command.get_program().to_string_lossy()
        )
    })?;
    if !output.status.success() {
        bail!(
            "{}: {}\n{}",
            command.get_program().to_string_lossy(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

fn version(recipe: &Recipe, source: &Source) -> Result<String> {
    let (own, behind) = source
        .version
        .split_once('+')
        .unwrap_or((&source.version, ""));
    let version = match recipe.version {
        Version::Crate => return Ok(format!("{} {own}", recipe.source)),
        Version::Build => behind.split('-').next().unwrap_or(behind).to_owned(),
        Version::Header(path) => {
            let text = std::fs::read_to_string(source.directory.join(path))?;
            packed_version(&text).context("the header names no version")?
        }
        Version::FirstLine(path) => std::fs::read_to_string(source.directory.join(path))?
            .lines()
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned(),
    };
    Ok(format!("{version}, {} {own}", recipe.source))
}

/// `30302` is 3.3.2: major, then two digits each.
fn packed_version(header: &str) -> Option<String> {
    let digits: u32 = header
        .lines()
        .find_map(|line| line.strip_prefix("#define MI_MALLOC_VERSION "))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(format!(
        "{}.{}.{}",
        digits / 10_000,
        digits / 100 % 100,
        digits % 100
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_version_is_unpacked() {
        let header = "// x\n#define MI_MALLOC_VERSION 30302   // packed\n";
        assert_eq!(packed_version(header).as_deref(), Some("3.3.2"));
        assert_eq!(packed_version("#define OTHER 1"), None);
    }

    #[test]
    fn the_package_list_holds_names_only() {
        let names = packages();
        assert!(names.contains(&"libjemalloc2"));
        for name in names {
            assert!(
                name.chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".+-".contains(c)),
                "{name}"
            );
        }
    }
}
