//! Whether a program can be preloaded: told before it is started, for the
//! loader says nothing when it leaves LD_PRELOAD out.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::elf::{self, Elf, Kind};
use crate::env;
use crate::library::Library;
use crate::path::{self, Unusable};
use crate::script;

/// How many programs are looked at behind one command, `env` chains included.
const MAX_HOPS: usize = 20;

/// Why a program should not be started, or cannot be.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// It would run, but without the library.
    Unpreloadable(String),
    /// exec would refuse it.
    NotExecutable(String),
    /// A file that it needs to run is missing.
    NotFound(String),
}

/// The identity of this process, which decides what a setuid bit means.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    real: (u32, u32),
    effective: (u32, u32),
    /// The kernel ignores setuid bits (`PR_SET_NO_NEW_PRIVS`).
    no_new_privileges: bool,
}

impl Ids {
    /// The identity of this process.
    pub fn current() -> Self {
        use rustix::process::{getegid, geteuid, getgid, getuid};
        Ids {
            real: (getuid().as_raw(), getgid().as_raw()),
            effective: (geteuid().as_raw(), getegid().as_raw()),
            no_new_privileges: rustix::thread::no_new_privs().unwrap_or(false),
        }
    }
}

/// What the inspection of one command goes by.
pub struct Inspection<'a> {
    library: &'a Library,
    ids: Ids,
    search: Option<OsString>,
    warnings: Vec<String>,
}

/// One program on the way from the command to what finally runs.
struct Step {
    path: PathBuf,
    /// How the program is called in a message: "it", or an interpreter.
    subject: String,
    /// What follows it on its command line.
    arguments: Vec<OsString>,
    /// The interpreters that the kernel has followed so far.
    depth: usize,
    /// Whether a `#!` line, not the user, named it.
    scripted: bool,
    search: Option<OsString>,
}

impl<'a> Inspection<'a> {
    /// An inspection for `library`; `search` is `PATH`.
    pub fn new(library: &'a Library, ids: Ids, search: Option<OsString>) -> Self {
        Inspection {
            library,
            ids,
            search,
            warnings: Vec::new(),
        }
    }

    /// Looks at the program at `path` and at every interpreter behind it.
    /// Returns the warnings: what is worth a word, but no reason to stop.
    ///
    /// # Errors
    /// The first thing that keeps the library out of the program.
    pub fn inspect(mut self, path: &Path) -> Result<Vec<String>, Problem> {
        let mut next = Some(Step {
            path: path.to_path_buf(),
            subject: "it".into(),
            arguments: Vec::new(),
            depth: 0,
            scripted: false,
            search: self.search.take(),
        });
        for _ in 0..MAX_HOPS {
            let Some(step) = next else {
                return Ok(self.warnings);
            };
            next = self.step(step)?;
        }
        Err(Problem::NotExecutable(format!(
            "it runs through more than {MAX_HOPS} interpreters"
        )))
    }

    fn step(&mut self, step: Step) -> Result<Option<Step>, Problem> {
        let subject = &step.subject;
        let unreadable = |error: io::Error| format!("{subject} cannot be read ({error})");
        let opened = File::open(&step.path).and_then(|file| {
            let head = elf::head(&file)?;
            Ok((file.metadata()?, head, file))
        });
        let (metadata, head, file) = match opened {
            Ok(opened) => opened,
            // A program may be executable and secret. The loader decides then.
            Err(error) => {
                let text = unreadable(error);
                self.warnings.push(format!("{text}, so it is not checked"));
                return Ok(None);
            }
        };
        if let Some(line) = script::interpreter(&head) {
            return self.interpreter(step, line);
        }
        let refuse = |reason: &str| Problem::Unpreloadable(format!("{subject} {reason}"));
        if !elf::is_elf(&head) {
            return Err(refuse(
                "is neither an ELF program nor a script with a #! line",
            ));
        }
        let Some(machine) = elf::machine(&head) else {
            return Err(refuse("has an ELF header that makes no sense"));
        };
        let library = self.library;
        if machine != library.machine {
            return Err(refuse(&format!(
                "is for another architecture ({machine}) than {} ({})",
                library.path.display(),
                library.machine
            )));
        }
        let elf = Elf::read(file, true)
            .map_err(|error| refuse(&format!("is a damaged ELF file ({error})")))?;
        if elf.kind == Kind::Other {
            return Err(refuse("is an ELF file, but no program"));
        }
        if elf.interpreter.is_none() && !elf.is_loader() {
            return Err(refuse("is statically linked: no loader reads LD_PRELOAD"));
        }
        if let Some(reason) = self.secure(&step.path, &metadata) {
            return Err(refuse(&reason));
        }
        if let (Some(theirs), Some(ours)) = (elf.libc(), library.libc)
            && theirs != ours
        {
            return Err(refuse(&format!(
                "runs on {theirs}, but {} is built for {ours}",
                library.path.display()
            )));
        }
        if let Some(loader) = &elf.interpreter {
            let loader = Path::new(OsStr::from_bytes(loader));
            if !loader.exists() {
                return Err(Problem::NotFound(format!(
                    "{subject} needs the loader {}, which does not exist",
                    loader.display()
                )));
            }
        }
        if let Some(symbol) = &elf.allocator {
            self.warnings.push(format!(
                "{subject} brings its own allocator ({symbol}), whose memory fencepost does not manage"
            ));
        }
        self.behind_env(step)
    }

    /// From a script to its interpreter.
    fn interpreter(
        &self,
        script: Step,
        line: script::Interpreter,
    ) -> Result<Option<Step>, Problem> {
        if script.depth == script::MAX_DEPTH {
            return Err(Problem::NotExecutable(format!(
                "it runs through more than {} interpreters, and the kernel follows no more",
                script::MAX_DEPTH
            )));
        }
        let subject = format!("its interpreter {}", line.path.display());
        match path::executable(&line.path) {
            Ok(()) => {}
            Err(Unusable::NotFound) => {
                return Err(Problem::NotFound(format!("{subject} does not exist")));
            }
            Err(Unusable::NotExecutable(_, reason)) => {
                return Err(Problem::NotExecutable(format!(
                    "{subject} cannot be executed: {reason}"
                )));
            }
        }
        let mut arguments: Vec<_> = line.argument.into_iter().collect();
        arguments.push(script.path.into_os_string());
        arguments.extend(script.arguments);
        Ok(Some(Step {
            path: line.path,
            subject,
            arguments,
            depth: script.depth + 1,
            scripted: true,
            search: script.search,
        }))
    }

    /// From `env` in a `#!` line to the program that it starts.
    fn behind_env(&self, env: Step) -> Result<Option<Step>, Problem> {
        // Only below a script: on a command line of the user's own, `env` is
        // the program that was asked for.
        if !env.scripted || env.path.file_name() != Some(OsStr::new("env")) {
            return Ok(None);
        }
        let launch = env::parse(env.arguments, |name| std::env::var_os(name));
        let Some(command) = launch.command else {
            return Ok(None);
        };
        if let Some(reason) = launch.drops_preload {
            return Err(Problem::Unpreloadable(format!(
                "its #! line says `{reason}`, which drops LD_PRELOAD"
            )));
        }
        let search = launch.path.unwrap_or(env.search);
        let command = match launch.directory {
            Some(directory) if command.as_bytes().contains(&b'/') => {
                Path::new(&directory).join(command).into_os_string()
            }
            _ => command,
        };
        // What env cannot find it reports itself, with its own exit status.
        let Ok(path) = path::resolve(&command, search.as_deref()) else {
            return Ok(None);
        };
        Ok(Some(Step {
            subject: format!("its interpreter {}", path.display()),
            path,
            arguments: launch.arguments,
            depth: 0, // env calls exec anew
            scripted: true,
            search,
        }))
    }

    /// Why the loader would run the program in secure mode (AT_SECURE), in
    /// which it ignores a library named by a path.
    fn secure(&self, path: &Path, metadata: &Metadata) -> Option<String> {
        let nosuid = rustix::fs::statvfs(path)
            .is_ok_and(|mount| mount.f_flag.contains(StatVfsMountFlags::NOSUID));
        let owner = (metadata.uid(), metadata.gid());
        if let Some(bit) = changes_identity(metadata.mode(), owner, self.ids, nosuid) {
            return Some(format!("{bit}: the loader ignores LD_PRELOAD then"));
        }
        // Root has the capabilities already, so that it gains none.
        let capabilities = rustix::fs::getxattr(path, "security.capability", &mut [0_u8; 64][..]);
        (self.ids.real.0 != 0 && !nosuid && capabilities.is_ok())
            .then(|| "has file capabilities: the loader ignores LD_PRELOAD then".into())
    }
}

/// Whether exec makes the effective ids differ from the real ones, as the
/// kernel decides it, and by what.
fn changes_identity(mode: u32, owner: (u32, u32), ids: Ids, nosuid: bool) -> Option<&'static str> {
    const SETUID: u32 = 0o4000;
    // Without the group's execute bit, setgid once meant mandatory locking.
    const SETGID: u32 = 0o2010;
    let honoured = !nosuid && !ids.no_new_privileges;
    let setuid = honoured && mode & SETUID != 0;
    let setgid = honoured && mode & SETGID == SETGID;
    let uid = if setuid { owner.0 } else { ids.effective.0 };
    let gid = if setgid { owner.1 } else { ids.effective.1 };
    if uid != ids.real.0 {
        Some(if setuid {
            "is setuid"
        } else {
            "inherits an effective user id"
        })
    } else if gid != ids.real.1 {
        Some(if setgid {
            "is setgid"
        } else {
            "inherits an effective group id"
        })
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: Ids = Ids {
        real: (1000, 100),
        effective: (1000, 100),
        no_new_privileges: false,
    };

    #[test]
    fn only_bits_that_change_the_identity_count() {
        let changes = |mode, owner, ids| changes_identity(mode, owner, ids, false);
        assert_eq!(changes(0o4755, (0, 0), USER), Some("is setuid"));
        assert_eq!(changes(0o2755, (0, 0), USER), Some("is setgid"));
        assert_eq!(changes(0o0755, (0, 0), USER), None);
        // Set to what one is already.
        assert_eq!(changes(0o4755, (1000, 0), USER), None);
        assert_eq!(changes(0o2755, (0, 100), USER), None);
        // Not executable by the group.
        assert_eq!(changes(0o2745, (0, 0), USER), None);
        // A user id that fencepost has from its own caller goes on.
        let setuid = Ids {
            effective: (0, 100),
            ..USER
        };
        assert!(changes(0o0755, (0, 0), setuid).is_some());
    }

    #[test]
    fn the_kernel_may_ignore_the_bits() {
        assert_eq!(changes_identity(0o6755, (0, 0), USER, true), None);
        let ids = Ids {
            no_new_privileges: true,
            ..USER
        };
        assert_eq!(changes_identity(0o6755, (0, 0), ids, false), None);
    }
}
