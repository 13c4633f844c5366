//! Finds a command as a shell does: by `PATH`, unless its name has a slash.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

/// What the C library searches when there is no `PATH`.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Why a command cannot be started.
#[derive(Debug, PartialEq, Eq)]
pub enum Unusable {
    /// There is no such file.
    NotFound,
    /// There is, but executing it is refused.
    NotExecutable(PathBuf, &'static str),
}

/// Resolves `name` to the file that exec would start. `search` is the value of
/// `PATH`, `None` when it is not set.
///
/// # Errors
/// When no file of the name exists, or none of them can be executed.
pub fn resolve(name: &OsStr, search: Option<&OsStr>) -> Result<PathBuf, Unusable> {
    if name.is_empty() {
        return Err(Unusable::NotFound);
    }
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return executable(&path).map(|()| path);
    }
    let mut refused = Unusable::NotFound;
    let search = search.unwrap_or(OsStr::new(DEFAULT_PATH));
    for directory in search.as_bytes().split(|&byte| byte == b':') {
        // An empty entry is the current directory; "./" keeps the slash that
        // makes the result a path rather than a name.
        let directory = match directory {
            b"" => Path::new("."),
            some => Path::new(OsStr::from_bytes(some)),
        };
        let path = directory.join(name);
        match executable(&path) {
            Ok(()) => return Ok(path),
            Err(Unusable::NotFound) => {}
            // Directories, and entries that cannot be looked into, are passed
            // over without a word, as bash does it.
            Err(_) if !path.is_file() => {}
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Whether exec could start the file at `path`, symbolic links followed.
pub fn executable(path: &Path) -> Result<(), Unusable> {
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        Err(error) => {
            use std::io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
            return Err(match error.kind() {
                NotFound | NotADirectory => Unusable::NotFound,
                PermissionDenied => refuse(path, "permission denied"),
                _ => refuse(path, "it cannot be examined"),
            });
        }
    };
    if metadata.is_dir() {
        return Err(refuse(path, "it is a directory"));
    }
    if !metadata.is_file() {
        return Err(refuse(path, "it is not a regular file"));
    }
    // The effective ids count, as they do for exec.
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)
        .map_err(|_| refuse(path, "permission denied"))
}

fn refuse(path: &Path, reason: &'static str) -> Unusable {
    Unusable::NotExecutable(path.to_path_buf(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn file(path: &Path, mode: u32) {
        std::fs::write(path, "x").unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_executable_wins_and_a_refusal_is_remembered() {
        let root = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| root.path().join(name));
        for directory in [&a, &b, &c] {
            std::fs::create_dir(directory).unwrap();
        }
        let search = std::env::join_paths([&a, &b, &c]).unwrap();
        let find = || resolve(OsStr::new("tool"), Some(&search));

        assert_eq!(find(), Err(Unusable::NotFound));
        // A directory of the name is passed over in silence.
        std::fs::create_dir(a.join("tool")).unwrap();
        assert_eq!(find(), Err(Unusable::NotFound));
        file(&b.join("tool"), 0o644);
        assert_eq!(
            find(),
            Err(Unusable::NotExecutable(b.join("tool"), "permission denied"))
        );
        file(&c.join("tool"), 0o755);
        assert_eq!(find(), Ok(c.join("tool")));
    }

    #[test]
    fn names_with_a_slash_are_not_searched() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("tool");
        file(&path, 0o755);
        let search = Some(OsStr::new("/nowhere"));
        assert_eq!(resolve(path.as_os_str(), search), Ok(path.clone()));
        assert_eq!(
            resolve(OsStr::new("./no/such/tool"), search),
            Err(Unusable::NotFound)
        );
        // A file used as a directory is not found, as in the shells.
        let below = path.join("x");
        assert_eq!(resolve(below.as_os_str(), search), Err(Unusable::NotFound));
        let directory = root.path();
        assert_eq!(
            resolve(directory.as_os_str(), search),
            Err(Unusable::NotExecutable(
                directory.to_path_buf(),
                "it is a directory"
            ))
        );
    }

    #[test]
    fn without_path_the_default_directories_are_searched() {
        assert!(resolve(OsStr::new("sh"), None).is_ok());
        assert_eq!(resolve(OsStr::new(""), None), Err(Unusable::NotFound));
        // An empty PATH is the current directory, which has no shell.
        assert_eq!(
            resolve(OsStr::new("sh"), Some(OsStr::new(""))),
            Err(Unusable::NotFound)
        );
    }
}
