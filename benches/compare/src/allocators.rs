//! The allocators that are compared: what they are, where their libraries lie,
//! and whether a library works at all.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSymbol};
use serde::{Deserialize, Serialize};

/// What an allocator is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// glibc: what every ratio is taken against.
    Baseline,
    /// glibc a second time: its ratio is the noise of the measurement.
    Again,
    /// fencepost, or another library under development.
    Candidate,
    /// One of the field.
    Peer,
}

/// An allocator that programs are run with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Allocator {
    /// The column's name.
    pub name: String,
    /// What it is compared as.
    pub role: Role,
    /// Its version, and where it comes from.
    pub version: String,
    /// The library to preload; none for glibc.
    #[serde(skip)]
    pub library: Option<PathBuf>,
    /// The build of the Rust programs that has it as the global allocator,
    /// where it is not preloaded.
    #[serde(skip)]
    pub program: Option<PathBuf>,
    /// Environment variables that go with it.
    pub environment: Vec<(String, String)>,
}

/// What was left out, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Skipped {
    /// An allocator or a workload.
    pub name: String,
    /// The reason, in one line.
    pub reason: String,
}

/// A peer as a distribution packages it.
struct Packaged {
    name: &'static str,
    package: &'static str,
    file: &'static str,
    /// The peer from a crate that is the same allocator, only newer.
    newer: Option<&'static str>,
}

const PACKAGED: [Packaged; 3] = [
    Packaged {
        name: "jemalloc-deb",
        package: "libjemalloc2",
        file: "libjemalloc.so.2",
        newer: Some("jemalloc"),
    },
    Packaged {
        name: "mimalloc2-deb",
        package: "libmimalloc2.0",
        file: "libmimalloc.so.2",
        newer: Some("mimalloc2"),
    },
    Packaged {
        name: "tcmalloc",
        package: "libtcmalloc-minimal4",
        file: "libtcmalloc_minimal.so.4",
        newer: None,
    },
];

/// Where distributions keep shared libraries.
const LIBRARY_DIRECTORIES: [&str; 5] = [
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
];

/// glibc, and glibc again.
pub fn glibc() -> [Allocator; 2] {
    let version = output_of("getconf", &["GNU_LIBC_VERSION"])
        .map_or("unknown".to_owned(), |text| text.replace("glibc ", ""));
    [("glibc", Role::Baseline), ("glibc again", Role::Again)].map(|(name, role)| Allocator {
        name: name.to_owned(),
        role,
        version: version.clone(),
        library: None,
        program: None,
        environment: Vec::new(),
    })
}

/// A library that the command line names: `NAME=PATH`, then `,KEY=VALUE` as
/// often as needed for its environment.
pub fn named(text: &str, role: Role) -> Result<Allocator> {
    let mut parts = text.split(',');
    let (name, path) = parts
        .next()
        .and_then(|first| first.split_once('='))
        .with_context(|| format!("`{text}` is not of the form NAME=PATH[,KEY=VALUE…]"))?;
    let environment = parts
        .map(|part| {
            part.split_once('=')
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .with_context(|| format!("`{part}` is not of the form KEY=VALUE"))
        })
        .collect::<Result<_>>()?;
    Ok(Allocator {
        name: name.to_owned(),
        role,
        version: match role {
            Role::Candidate => env!("CARGO_PKG_VERSION").to_owned(),
            _ => "unknown".to_owned(),
        },
        library: Some(PathBuf::from(path)),
        program: None,
        environment,
    })
}

/// The peers that can be had: those of the distribution, and those that the
/// `peers` subcommand has built into `directory`.
pub fn peers(directory: &Path) -> (Vec<Allocator>, Vec<Skipped>) {
    let mut found = Vec::new();
    let mut skipped = Vec::new();
    let built = |name: &str| directory.join(format!("lib{name}.so"));
    for packaged in &PACKAGED {
        if let Some(newer) = packaged.newer.filter(|newer| built(newer).exists()) {
            skipped.push(Skipped {
                name: packaged.name.to_owned(),
                reason: format!("{newer} is the same allocator in a newer version"),
            });
            continue;
        }
        let library = LIBRARY_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join(packaged.file))
            .find(|path| path.exists());
        match library {
            Some(library) => found.push(peer(
                packaged.name,
                installed_version(packaged.package),
                library,
            )),
            None => skipped.push(Skipped {
                name: packaged.name.to_owned(),
                reason: format!("{} is not installed", packaged.package),
            }),
        }
    }
    for recipe in crate::peers::RECIPES {
        let library = built(recipe.name);
        if library.exists() {
            let version = std::fs::read_to_string(library.with_extension("version"))
                .unwrap_or_else(|_| "unknown".to_owned());
            found.push(peer(recipe.name, version, library));
        } else {
            skipped.push(Skipped {
                name: recipe.name.to_owned(),
                reason: "not built yet: the `peers` subcommand builds it".to_owned(),
            });
        }
    }
    (found, skipped)
}

fn peer(name: &str, version: String, library: PathBuf) -> Allocator {
    Allocator {
        name: name.to_owned(),
        role: Role::Peer,
        version,
        library: Some(library),
        program: None,
        environment: Vec::new(),
    }
}

fn installed_version(package: &str) -> String {
    output_of("dpkg-query", &["-W", "-f", "${Version}", package])
        .map_or("unknown".to_owned(), |version| {
            format!("{version}, packaged")
        })
}

/// What a program prints, or nothing if it fails.
pub fn output_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Small programs whose output under the preload has to be what it is without.
const CHECKS: [(&str, &[&str]); 2] = [
    (
        "python3",
        &[
            "-c",
            "import json; d = {str(i): [i] * (i % 90) for i in range(3000)}; print(len(json.dumps(d)))",
        ],
    ),
    (
        "perl",
        &[
            "-e",
            "my %h; push @{$h{$_ % 700}}, 'x' x $_ for 1 .. 3000; print join ',', map { length join '', @{$h{$_}} } sort keys %h;",
        ],
    ),
];

/// Checks that a library replaces malloc and that real programs run on it.
pub fn check(allocator: &Allocator) -> Result<()> {
    let Some(library) = &allocator.library else {
        return Ok(());
    };
    let data = std::fs::read(library).with_context(|| format!("{}", library.display()))?;
    let file = object::File::parse(&*data)?;
    let exports: Vec<&str> = file
        .dynamic_symbols()
        .filter(|symbol| symbol.is_definition())
        .filter_map(|symbol| symbol.name().ok())
        .collect();
    for name in ["malloc", "free", "calloc", "realloc", "posix_memalign"] {
        ensure!(
            exports.contains(&name),
            "the library does not define {name}"
        );
    }
    let maps = run_with(allocator, library, "cat", &["/proc/self/maps"])?;
    let name = library
        .canonicalize()?
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    ensure!(
        String::from_utf8_lossy(&maps).contains(&name),
        "the loader did not load the library"
    );
    for (program, arguments) in CHECKS {
        let Some(program) = find_program(program) else {
            continue;
        };
        let program = program.to_string_lossy().into_owned();
        let plain = Command::new(&program).args(arguments).output()?;
        let preloaded = run_with(allocator, library, &program, arguments)?;
        ensure!(
            plain.stdout == preloaded,
            "{program} prints something else under the preload"
        );
    }
    Ok(())
}

fn run_with(
    allocator: &Allocator,
    library: &Path,
    program: &str,
    arguments: &[&str],
) -> Result<Vec<u8>> {
    let output = Command::new(program)
        .args(arguments)
        .env("LD_PRELOAD", library)
        .envs(allocator.environment.iter().cloned())
        .output()?;
    if !output.status.success() {
        bail!("{program} under the preload: {}", output.status);
    }
    Ok(output.stdout)
}

/// The program of this name: the distribution's own before any other, so that
/// wrappers of version managers are not what is measured.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["/usr/bin", "/bin"]
        .map(PathBuf::from)
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_is_a_name_a_path_and_an_environment() {
        let candidate = |text| named(text, Role::Candidate);
        let parsed = candidate("new=/lib/new.so,A=1,B=x=y").expect("it parses");
        assert_eq!(parsed.name, "new");
        assert_eq!(parsed.library, Some(PathBuf::from("/lib/new.so")));
        assert_eq!(
            parsed.environment,
            [("A", "1"), ("B", "x=y")].map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        assert!(candidate("/lib/new.so").is_err());
        assert!(candidate("new=/lib/new.so,A").is_err());
    }

    #[test]
    fn a_library_without_malloc_is_refused() {
        let library = LIBRARY_DIRECTORIES
            .iter()
            .map(|directory| Path::new(directory).join("libm.so.6"))
            .find(|path| path.exists())
            .expect("the C library brings libm");
        let error = check(&peer("libm", String::new(), library)).expect_err("libm has no malloc");
        assert!(
            error.to_string().contains("does not define malloc"),
            "{error}"
        );
    }
}
