//! `fencepost install`: copies the command, the library, the man pages and
//! the completions under a prefix.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap_complete::Shell;
use tempfile::{Builder, NamedTempFile};

use crate::completions;
use crate::failure::Failure;
use crate::library::{self, Places};
use crate::man;

/// Install the command and the preload library under a prefix
///
/// Writes bin/fencepost, lib/libfencepost.so, the man pages and the shell
/// completions. Every file is written under a temporary name first, and only
/// when all of them are there do they take their places, so that programs that
/// run on an older version go on with it undisturbed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory to install under; it is created if need be
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    prefix: PathBuf,

    /// The preload library to install
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    lib: Option<PathBuf>,
}

const EXECUTABLE: u32 = 0o755;
const DATA: u32 = 0o644;

/// Installs everything and prints one line per file.
pub fn run(args: &Args) -> Result<(), Failure> {
    let prefix = std::path::absolute(&args.prefix).map_err(|error| at(&args.prefix, &error))?;
    let variable = std::env::var_os(library::VARIABLE);
    let library = library::find(&Places::new(args.lib.as_deref(), variable.as_deref()))?;
    let destination = prefix.join("lib").join(library::NAME);
    // Found out now rather than at the first run.
    library::nameable(&destination)
        .map_err(|reason| Failure::own(format_args!("{}: {reason}", prefix.display())))?;
    let executable = std::env::current_exe().map_err(|error| {
        Failure::own(format_args!(
            "cannot tell where this executable lies: {error}"
        ))
    })?;

    let mut files = Staged::default();
    files.copy(&executable, prefix.join("bin/fencepost"))?;
    files.copy(&library.path, destination)?;
    let share = prefix.join("share");
    for (name, page) in man::pages().map_err(Failure::own)? {
        files.write(&page, share.join("man/man1").join(name))?;
    }
    for (shell, name) in [
        (Shell::Bash, "bash-completion/completions/fencepost"),
        (Shell::Zsh, "zsh/site-functions/_fencepost"),
        (Shell::Fish, "fish/vendor_completions.d/fencepost.fish"),
    ] {
        files.write(&completions::script(shell), share.join(name))?;
    }
    let done = files.put_in_place()?;
    let lines: Vec<String> = done
        .iter()
        .map(|path| format!("installed {}\n", path.display()))
        .collect();
    man::print(lines.concat().as_bytes())
}

/// Files that are complete under temporary names beside their destinations.
/// Dropped, they vanish and nothing has changed.
#[derive(Default)]
struct Staged {
    files: Vec<(NamedTempFile, PathBuf)>,
}

impl Staged {
    fn copy(&mut self, source: &Path, destination: PathBuf) -> Result<(), Failure> {
        let mut source_file = File::open(source).map_err(|error| at(source, &error))?;
        self.stage(destination, EXECUTABLE, |file| {
            io::copy(&mut source_file, file).map(drop)
        })
    }

    fn write(&mut self, bytes: &[u8], destination: PathBuf) -> Result<(), Failure> {
        self.stage(destination, DATA, |file| file.write_all(bytes))
    }

    fn stage(
        &mut self,
        destination: PathBuf,
        mode: u32,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), Failure> {
        if destination.is_dir() {
            let destination = destination.display();
            return Err(Failure::own(format_args!("{destination}: is a directory")));
        }
        let directory = destination.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(|error| at(directory, &error))?;
        let staged = Builder::new().prefix(".fencepost-").tempfile_in(directory);
        let mut staged = staged.map_err(|error| at(directory, &error))?;
        let file = staged.as_file_mut();
        fill(file)
            .and_then(|()| file.set_permissions(Permissions::from_mode(mode)))
            // On the disk before its name is: a crash leaves the old file or
            // the new one.
            .and_then(|()| file.sync_all())
            .map_err(|error| at(&destination, &error))?;
        self.files.push((staged, destination));
        Ok(())
    }

    /// Renames every file to its destination and returns the destinations.
    fn put_in_place(self) -> Result<Vec<PathBuf>, Failure> {
        let mut done = Vec::new();
        for (file, destination) in self.files {
            file.persist(&destination)
                .map_err(|error| at(&destination, &error.error))?;
            done.push(destination);
        }
        Ok(done)
    }
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::own(format_args!("{}: {error}", path.display()))
}
