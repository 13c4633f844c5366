//! What the test files share: a bench with a stand-in for the preload library.
#![allow(dead_code)]

pub mod reports;
mod sources;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The exit status of a program that the library cannot be loaded into.
pub const UNPRELOADABLE: i32 = 122;
/// The exit status of fencepost's own failures.
pub const OWN: i32 = 125;

/// The command under test.
pub const FENCEPOST: &str = env!("CARGO_BIN_EXE_fencepost");

/// A directory with a small shared library that stands in for the allocator:
/// each process that it is loaded into adds the library's tag to a log.
pub struct Bench {
    pub dir: TempDir,
    pub library: PathBuf,
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Other users must be able to come here.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("dummy")).unwrap();
        let library = dir.path().join("dummy/libfencepost.so");
        let bench = Bench { dir, library };
        bench.library("dummy", &bench.library);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Compiles a stand-in library that logs `tag`.
    pub fn library(&self, tag: &str, path: &Path) {
        let source = format!(
            r#"#include <fcntl.h>
            #include <stdlib.h>
            #include <unistd.h>
            __attribute__((constructor)) static void loaded(void) {{
                const char *log = getenv("DUMMY_LOG");
                int fd = log ? open(log, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
                if (fd >= 0 && write(fd, "{tag}\n", sizeof "{tag}\n" - 1) < 0) abort();
                if (fd >= 0) close(fd);
            }}"#
        );
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        self.compile(&source, path, &["-shared", "-fPIC"])
            .expect("cc makes a shared library");
    }

    /// Compiles a C program; `None` when the compiler cannot.
    pub fn compile(&self, source: &str, output: &Path, flags: &[&str]) -> Option<()> {
        let file = output.with_extension("c");
        fs::write(&file, source).unwrap();
        let compiled = Command::new("cc")
            .args([&file, Path::new("-o"), output])
            .args(flags)
            .output()
            .expect("cc can be started: it links the tests too");
        if !compiled.status.success() {
            println!("cc {flags:?}: {}", text(&compiled.stderr));
        }
        compiled.status.success().then_some(())
    }

    /// `fencepost` with the stand-in named by FENCEPOST_LIB.
    pub fn fencepost(&self) -> Command {
        let mut command = self.plain(Path::new(FENCEPOST));
        command.env("FENCEPOST_LIB", &self.library);
        command
    }

    /// A `fencepost` at another place, with nothing that names the library.
    pub fn plain(&self, executable: &Path) -> Command {
        let mut command = Command::new(executable);
        command
            .env_remove("LD_PRELOAD")
            .env_remove("FENCEPOST_LIB")
            .env_remove("FENCEPOST_STATS")
            .env("DUMMY_LOG", self.path("log"));
        command
    }

    /// The tags logged so far, in order; the log starts anew.
    pub fn log(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        let _ = fs::remove_file(self.path("log"));
        log.lines().map(str::to_string).collect()
    }

    /// Writes an executable file.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let content_at = self.path("content");
        fs::write(&content_at, content).unwrap();
        let path = self.path(name);
        copy(&content_at, &path);
        path
    }
}

/// Copies an executable by a process of its own. Were this process to write
/// it, a child that another test starts meanwhile could hold it open for
/// writing, and exec would answer "Text file busy".
pub fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(done.success());
    fs::set_permissions(to, Permissions::from_mode(0o755)).unwrap();
}

/// What a process wrote, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs `command`, which must fail with `status` and one line on stderr that
/// names all of `parts`, and print nothing on stdout.
#[track_caller]
pub fn refused(command: &mut Command, status: i32, parts: &[&str]) {
    let output = command.output().unwrap();
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{message}");
    assert_eq!(text(&output.stdout), "", "it ran: {message}");
    one_line(&output);
    for part in parts {
        assert!(message.contains(part), "no {part:?} in: {message}");
    }
}

/// stderr holds exactly one line of ours.
#[track_caller]
pub fn one_line(output: &Output) {
    let message = text(&output.stderr);
    assert!(message.starts_with("fencepost: "), "{message:?}");
    assert!(message.ends_with('\n'), "{message:?}");
    assert_eq!(message.matches('\n').count(), 1, "{message:?}");
}

/// Something optional is absent: says so, or fails if nothing may be.
pub fn absent(what: &str) {
    println!("skipped: {what}");
    assert!(
        std::env::var_os("FENCEPOST_REQUIRE_PROGRAMS").is_none_or(|value| value != "1"),
        "required: {what}"
    );
}

/// Says that this account or file system cannot show what a test is about.
pub fn skipped(why: &str) {
    println!("skipped: {why}");
}

/// Whether the tests run as root.
pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}
