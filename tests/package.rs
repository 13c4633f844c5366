//! What the packages promise to those who depend on them: what is in them, that
//! they build from it, how little the library brings along, which compiler is
//! enough, and what is said on a system that is not Linux.

#[path = "support/source.rs"]
mod source;

use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The most crates that `cargo add fencepost` may bring besides itself.
const MOST_CRATES: usize = 6;
/// Crates whose presence in the tree means that a C compiler is needed.
const C_BUILDERS: [&str; 6] = ["cc", "cmake", "bindgen", "pkg-config", "autotools", "meson"];
/// The targets that the library is for.
const TARGETS: [&str; 5] = [
    "x86_64-unknown-linux-gnu",
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-gnu",
    "aarch64-unknown-linux-musl",
    "i686-unknown-linux-gnu",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory for what these tests build, apart from the build that runs them.
fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO"));
    clean(&mut command).args(args);
    command
}

/// Takes what the outer cargo set out of the environment.
fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "LD_PRELOAD",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(name);
    }
    command.current_dir(root())
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .unwrap_or_else(|e| panic!("{command:?} cannot be started: {e}"))
}

/// Standard output of a command that must succeed.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

/// Says that a check was skipped; an error where programs are required.
fn skip(why: &str) {
    assert!(
        std::env::var_os("FENCEPOST_REQUIRE_PROGRAMS").is_none_or(|v| v != "1"),
        "{why}, and FENCEPOST_REQUIRE_PROGRAMS=1 is set"
    );
    println!("skipped: {why}");
}

/// A member of the workspace.
struct Member {
    name: String,
    dir: PathBuf,
    published: bool,
    rust_version: String,
    about: Value,
}

fn members() -> Vec<Member> {
    let text = output(&mut cargo(&[
        "metadata",
        "--no-deps",
        "--format-version",
        "1",
    ]));
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages
        .iter()
        .map(|package| {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            Member {
                name: text("name"),
                dir: Path::new(&text("manifest_path"))
                    .parent()
                    .expect("a manifest lies in a directory")
                    .to_path_buf(),
                published: package["publish"].is_null(),
                rust_version: text("rust_version"),
                about: package.clone(),
            }
        })
        .collect()
}

#[test]
fn every_member_says_what_it_is() {
    let members = members();
    let names: BTreeSet<&str> = members.iter().map(|m| m.name.as_str()).collect();
    for name in ["fencepost", "fencepost-preload", "fencepost-cli"] {
        assert!(names.contains(name), "{name} is no member");
    }
    let versions: BTreeSet<&str> = members.iter().map(|m| m.rust_version.as_str()).collect();
    assert_eq!(versions.len(), 1, "members differ in MSRV: {versions:?}");
    for member in &members {
        let mut keys = vec!["description", "license", "edition", "rust_version"];
        if member.published {
            keys.extend(["repository", "readme"]);
        }
        for key in keys {
            let value = member.about[key].as_str().unwrap_or_default();
            assert!(!value.is_empty(), "{} has no {key}", member.name);
        }
        assert_eq!(
            member.about["license"], "MIT OR Apache-2.0",
            "{}",
            member.name
        );
    }
}

/// The sources that belong to the member in `dir`: below it (below `src/` for
/// the library), without members that lie inside.
fn sources(dir: &Path, members: &[Member]) -> BTreeSet<String> {
    let from = if dir == root() {
        dir.join("src")
    } else {
        dir.to_path_buf()
    };
    // A linker script belongs to the sources of the member that links with it.
    let scripts = fs::read_dir(&from).into_iter().flatten().flatten();
    let scripts = scripts
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ld"));
    source::rust_files(&from)
        .into_iter()
        .chain(scripts)
        .filter(|path| {
            members
                .iter()
                .all(|m| m.dir == dir || dir.starts_with(&m.dir) || !path.starts_with(&m.dir))
        })
        .map(|path| {
            let path = path.strip_prefix(dir).expect("the file lies in the member");
            path.to_str().expect("file names are UTF-8").to_owned()
        })
        .collect()
}

/// Compares what a package lists with what it must and may list.
fn judge(listed: &BTreeSet<String>, sources: &BTreeSet<String>) -> Vec<String> {
    let needed = ["Cargo.toml", "README.md", "LICENSE-MIT", "LICENSE-APACHE"];
    let made_by_cargo = [".cargo_vcs_info.json", "Cargo.toml.orig", "Cargo.lock"];
    let mut wrong: Vec<String> = needed
        .iter()
        .map(|name| (*name).to_owned())
        .chain(sources.iter().cloned())
        .filter(|name| !listed.contains(name))
        .map(|name| format!("{name} is missing"))
        .collect();
    for name in listed {
        let page = name == "CHANGELOG.md" || name.starts_with("docs/") && name.ends_with(".md");
        if !(needed.contains(&&**name)
            || made_by_cargo.contains(&&**name)
            || sources.contains(name)
            || page)
        {
            wrong.push(format!("{name} does not belong there"));
        }
    }
    wrong
}

#[test]
fn packages_hold_what_they_need_and_nothing_odd() {
    let members = members();
    for member in members.iter().filter(|m| m.published) {
        let list = output(&mut cargo(&[
            "package",
            "--list",
            "--allow-dirty",
            "-p",
            &member.name,
        ]));
        let listed: BTreeSet<String> = list.lines().map(str::to_owned).collect();
        let sources = sources(&member.dir, &members);
        assert!(!sources.is_empty(), "{} has no sources", member.name);
        let wrong = judge(&listed, &sources);
        assert!(wrong.is_empty(), "{}: {wrong:#?}", member.name);
    }
}

#[test]
fn the_judge_of_packages_sees_what_is_missing_and_what_is_odd() {
    let set = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    };
    let sources = set(&["src/lib.rs", "src/heap/mod.rs"]);
    let sound = [
        "Cargo.toml",
        "Cargo.lock",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "docs/inventory.md",
        "src/lib.rs",
        "src/heap/mod.rs",
    ];
    assert_eq!(judge(&set(&sound), &sources), [""; 0]);
    assert_eq!(
        judge(&set(&sound[..7]), &sources),
        ["src/heap/mod.rs is missing"]
    );
    assert_eq!(
        judge(&set(&sound[1..]), &sources),
        ["Cargo.toml is missing"]
    );
    let mut odd = set(&sound);
    odd.insert("src/preload/lib.rs".into());
    odd.insert("core.1234".into());
    assert_eq!(
        judge(&odd, &sources),
        [
            "core.1234 does not belong there",
            "src/preload/lib.rs does not belong there"
        ]
    );
}

/// Every published member is packaged, carries the texts of both licences, and
/// builds from nothing but its package.
///
/// The packages are built beside each other, where a workspace of their own
/// stands in for the registry: what cargo itself does to verify them leaves
/// copies of unpublished crates in the user's registry and reuses stale ones.
#[test]
fn packages_build_from_their_own_files() {
    let members = members();
    let target = scratch("package");
    let mut package = cargo(&["package", "--allow-dirty", "--no-verify", "--quiet"]);
    for member in members.iter().filter(|m| m.published) {
        package.args(["-p", &member.name]);
    }
    output(package.arg("--target-dir").arg(&target));

    let room = target.join("unpacked");
    let _ = fs::remove_dir_all(&room);
    fs::create_dir_all(&room).expect("a directory can be made");
    let mut manifest =
        String::from("[workspace]\nresolver = \"3\"\nmembers = [\"*\"]\n[patch.crates-io]\n");
    for member in members.iter().filter(|m| m.published) {
        let version = member.about["version"].as_str().expect("a version");
        let name = format!("{}-{version}", member.name);
        let archive = target.join("package").join(format!("{name}.crate"));
        output(
            Command::new("tar")
                // With times of their own: those in the archive never change, and nothing
                // would be built anew.
                .arg("-xzmf")
                .arg(&archive)
                .arg("-C")
                .arg(&room),
        );
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let packed = fs::read_to_string(room.join(&name).join(licence))
                .unwrap_or_else(|e| panic!("{name} {licence}: {e}"));
            let ours = fs::read_to_string(root().join(licence)).expect("the licence can be read");
            assert_eq!(packed, ours, "{name} {licence}");
        }
        if member.name == "fencepost" {
            manifest += &format!("fencepost = {{ path = \"{name}\" }}\n");
        }
    }
    fs::write(room.join("Cargo.toml"), manifest).expect("a manifest can be written");
    fs::copy(root().join("Cargo.lock"), room.join("Cargo.lock")).expect("the lock can be copied");
    let mut build = cargo(&["build", "--quiet", "--workspace", "--target-dir"]);
    output(build.arg(target.join("build")).current_dir(&room));
}

/// The names of all crates in a `cargo tree` listing but `fencepost` itself.
fn crates_in(listing: &str) -> BTreeSet<String> {
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "fencepost")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_library_brings_few_crates_and_no_c_compiler() {
    let tree = |edges: &str, target: &str| {
        let args = [
            "tree",
            "-p",
            "fencepost",
            "-e",
            edges,
            "--target",
            target,
            "--prefix",
            "none",
        ];
        crates_in(&output(&mut cargo(&args)))
    };
    let metadata = output(&mut cargo(&["metadata", "--format-version", "1"]));
    let metadata: Value = serde_json::from_str(&metadata).expect("cargo metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    for target in TARGETS {
        let brought = tree("normal", target);
        assert!(
            (1..=MOST_CRATES).contains(&brought.len()),
            "{target}: {} crates: {brought:?}",
            brought.len()
        );
        let built = tree("normal,build", target);
        for name in C_BUILDERS {
            assert!(!built.contains(name), "{target}: {name} needs a C compiler");
        }
        for package in packages {
            let name = package["name"].as_str().expect("a package has a name");
            assert!(
                !built.contains(name) || package["links"].is_null(),
                "{target}: {name} links the native library {}",
                package["links"]
            );
        }
    }
}

/// The versions that `text` states as the oldest that will do: `1.88` in a line
/// that speaks of the MSRV, or as `Rust 1.88 or newer`.
fn stated_versions(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let low = line.to_lowercase();
        let speaks = low.contains("msrv")
            || low.contains("minimum supported rust")
            || low.contains("or newer")
            || low.contains("or later");
        if !speaks || !low.contains("rust") && !low.contains("msrv") {
            continue;
        }
        found.extend(
            line.split(|c: char| !(c.is_ascii_digit() || c == '.'))
                .map(|word| word.trim_matches('.'))
                .filter(|word| word.starts_with("1.") && word.len() > 2)
                .map(str::to_owned),
        );
    }
    found
}

#[test]
fn the_readme_states_the_msrv_of_the_manifest() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else {
        println!("skipped: there is no README.md yet");
        return;
    };
    let msrv = &members()[0].rust_version;
    let stated = stated_versions(&readme);
    assert!(!stated.is_empty(), "the README states no MSRV");
    for version in stated {
        assert_eq!(&version, msrv, "README.md");
    }
}

#[test]
fn stated_versions_are_found() {
    let text = "# MSRV\nThe MSRV is 1.88.\nMeasured with rustc 1.95.0.\nNeeds Rust 1.70 or newer.\n\
                glibc 2.36 or newer\n";
    assert_eq!(stated_versions(text), ["1.88", "1.70"]);
}

#[test]
fn the_msrv_is_enough() {
    let msrv = members()[0].rust_version.clone();
    let full = if msrv.matches('.').count() == 1 {
        format!("{msrv}.0")
    } else {
        msrv
    };
    let rustup = |args: &[&str]| {
        let mut command = Command::new("rustup");
        clean(&mut command)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC")
            .args(["run", full.as_str()])
            .args(args);
        command
    };
    let probe = rustup(&["cargo", "--version"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip(&format!("the toolchain {full} is not installed"));
        return;
    }
    output(
        rustup(&["cargo", "check", "--quiet"])
            .args(["-p", "fencepost", "-p", "fencepost-preload", "--target-dir"])
            .arg(scratch("msrv")),
    );
}

/// Whether the text of `lib.rs` stops the compiler on other systems.
fn refuses_other_systems(text: &str) -> bool {
    let words = source::words(text.parse().expect("lib.rs is Rust"));
    words
        .windows(4)
        .any(|w| w == ["cfg", "not", "target_os", "compile_error"])
}

#[test]
fn other_systems_are_refused_in_words() {
    let text = fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs can be read");
    assert!(refuses_other_systems(&text), "lib.rs has no compile_error!");

    let target = "x86_64-pc-windows-gnu";
    let rustc = Path::new(env!("CARGO")).with_file_name("rustc");
    let rustc = if rustc.exists() {
        rustc
    } else {
        "rustc".into()
    };
    let libdir =
        output(Command::new(&rustc).args(["--print", "target-libdir", "--target", target]));
    if !Path::new(libdir.trim()).exists() {
        skip(&format!("the target {target} is not installed"));
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory can be made");
    let output = run(clean(&mut Command::new(&rustc))
        .args([
            "--crate-type",
            "lib",
            "--edition",
            "2024",
            "--emit",
            "metadata",
        ])
        .args(["--target", target, "--out-dir"])
        .arg(dir.path())
        .arg("src/lib.rs"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it compiles for {target}");
    let first = said.lines().find(|line| line.starts_with("error"));
    assert!(
        first.is_some_and(|line| line.contains("fencepost supports Linux only")),
        "{said}"
    );
}
