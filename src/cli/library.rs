//! Finds the preload library and learns what it fits.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::elf::{self, Elf, Libc, Machine};
use crate::failure::Failure;

/// The file name of the preload library.
pub const NAME: &str = "libfencepost.so";

/// The environment variable that names the library.
pub const VARIABLE: &str = "FENCEPOST_LIB";

/// The preload library.
#[derive(Debug)]
pub struct Library {
    /// Its absolute path.
    pub path: PathBuf,
    /// The processor it is built for.
    pub machine: Machine,
    /// The C library it is linked to.
    pub libc: Option<Libc>,
}

/// Where the library was looked for.
pub struct Places<'a> {
    /// The value of `--lib`.
    pub option: Option<&'a Path>,
    /// The value of `FENCEPOST_LIB`.
    pub variable: Option<&'a OsStr>,
    /// The path of this executable, symbolic links resolved.
    pub executable: io::Result<PathBuf>,
}

impl<'a> Places<'a> {
    /// The places that this process knows of. `variable` is what
    /// [`VARIABLE`] holds.
    pub fn new(option: Option<&'a Path>, variable: Option<&'a OsStr>) -> Self {
        Places {
            option,
            variable,
            executable: std::env::current_exe(),
        }
    }
}

/// Finds the library: `--lib`, then `FENCEPOST_LIB`, then beside the
/// executable, then in `../lib`. What is named outright must be there: another
/// library in its place would surprise.
///
/// # Errors
/// When there is none, or it is no shared library, or LD_PRELOAD cannot name it.
pub fn find(places: &Places) -> Result<Library, Failure> {
    let path = locate(places)?;
    let fail = |reason: &str| Failure::own(format_args!("{}: {reason}", path.display()));
    if let Err(reason) = nameable(&path) {
        return Err(fail(reason));
    }
    let file = File::open(&path).map_err(|error| fail(&error.to_string()))?;
    let no_library = |reason: &str| fail(&format!("it is no shared library: {reason}"));
    let machine = elf::machine(&elf::head(&file).map_err(|error| fail(&error.to_string()))?)
        .ok_or_else(|| no_library("it has no ELF header"))?;
    let elf = Elf::read(file, false).map_err(|error| no_library(&error))?;
    if elf.kind != elf::Kind::Shared {
        return Err(no_library("it is another kind of ELF file"));
    }
    Ok(Library {
        libc: elf.libc(),
        machine,
        path,
    })
}

fn locate(places: &Places) -> Result<PathBuf, Failure> {
    let variable = places.variable.filter(|value| !value.is_empty());
    let named = (places.option.map(|path| (path, "--lib")))
        .or(variable.map(|path| (Path::new(path), VARIABLE)));
    if let Some((path, by)) = named {
        let fail = |reason: &str| {
            let path = path.display();
            Failure::own(format_args!("{path}: {reason} (named by {by})"))
        };
        return match path.metadata() {
            // The loader searches names without a slash in directories of its
            // own, and the program may change directory: the path is absolute.
            Ok(found) if found.is_file() => {
                std::path::absolute(path).map_err(|error| fail(&error.to_string()))
            }
            Ok(_) => Err(fail("it is not a file")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(fail("no such file")),
            Err(error) => Err(fail(&error.to_string())),
        };
    }
    let executable = places.executable.as_ref().map_err(|error| {
        Failure::own(format_args!(
            "cannot tell where this executable lies ({error}): name the library by --lib or {VARIABLE}"
        ))
    })?;
    let beside = executable.parent().unwrap_or(Path::new("/"));
    let mut candidates = vec![beside.join(NAME)];
    candidates.extend(beside.parent().map(|prefix| prefix.join("lib").join(NAME)));
    if let Some(found) = candidates.iter().find(|path| path.is_file()) {
        return Ok(found.clone());
    }
    let tried: Vec<_> = candidates.iter().map(|path| path.display()).collect();
    let tried: Vec<_> = tried.iter().map(ToString::to_string).collect();
    Err(Failure::own(format_args!(
        "{NAME} not found: tried {}; name it by --lib or {VARIABLE}",
        tried.join(" and ")
    )))
}

/// Whether LD_PRELOAD can name the path: the loader splits the variable at
/// blanks and colons, knows no quoting, and expands `$` tokens.
pub fn nameable(path: &Path) -> Result<(), &'static str> {
    let bytes = path.as_os_str().as_bytes();
    if bytes
        .iter()
        .any(|&byte| byte == b':' || byte.is_ascii_whitespace() || byte == 0x0b)
    {
        Err("LD_PRELOAD cannot name a path with a blank or a colon in it")
    } else if bytes.contains(&b'$') {
        Err("LD_PRELOAD cannot name a path with a dollar sign in it")
    } else {
        Ok(())
    }
}

/// The value of LD_PRELOAD with `library` in front of what is there already.
pub fn preload(library: &Path, existing: Option<&OsStr>) -> OsString {
    let existing = existing.unwrap_or_default().as_bytes();
    let mut entries = existing
        .split(|&byte| byte == b':' || byte.is_ascii_whitespace())
        .filter(|entry| !entry.is_empty());
    let mut value = library.as_os_str().to_os_string();
    match entries.next() {
        None => value,
        // A run inside a run: the list is as it should be.
        Some(first) if first == value.as_bytes() => OsStr::from_bytes(existing).to_os_string(),
        Some(_) => {
            value.push(":");
            value.push(OsStr::from_bytes(existing));
            value
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_comes_first_and_the_users_list_stays() {
        let library = Path::new("/l/libfencepost.so");
        let value = |existing: &str| preload(library, Some(OsStr::new(existing)));
        assert_eq!(preload(library, None), "/l/libfencepost.so");
        assert_eq!(value(""), "/l/libfencepost.so");
        assert_eq!(value(" : "), "/l/libfencepost.so");
        assert_eq!(value("a.so b.so"), "/l/libfencepost.so:a.so b.so");
        assert_eq!(
            value("a.so:/l/libfencepost.so"),
            "/l/libfencepost.so:a.so:/l/libfencepost.so"
        );
        assert_eq!(value("/l/libfencepost.so:a.so"), "/l/libfencepost.so:a.so");
    }

    #[test]
    fn paths_that_the_loader_would_split_or_expand_are_refused() {
        assert_eq!(nameable(Path::new("/opt/a-b_c/libfencepost.so")), Ok(()));
        for path in ["/a b/l.so", "/a:b/l.so", "/a\tb/l.so", "/$ORIGIN/l.so"] {
            assert!(nameable(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn an_executable_of_unknown_place_asks_for_the_name() {
        let places = Places {
            option: None,
            variable: None,
            executable: Err(io::Error::other("no /proc")),
        };
        let failure = find(&places).unwrap_err();
        assert!(failure.message().contains("no /proc"));
        assert!(failure.message().contains("--lib"));
    }
}
