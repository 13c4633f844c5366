//! `fencepost run`: starts a program under the preload library.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use crate::exec::exec;
use crate::failure::{Failure, Status, say};
use crate::guard;
use crate::library::{self, Library, Places};
use crate::path::{self, Unusable};
use crate::program::{Ids, Inspection, Problem};

/// Run a program on fencepost
///
/// The preload library is taken from --lib, from FENCEPOST_LIB, or from where
/// this command lies: beside it, or in ../lib. It is put in front of
/// what LD_PRELOAD names already. The program then takes this process over:
/// its process id, terminal, signals and exit status are its own.
///
/// A program that the library cannot be loaded into is not started: a
/// statically linked one, one that runs with more privileges than its caller
/// (setuid, setgid, file capabilities), one for another architecture or C
/// library. Scripts are followed to their interpreters.
///
/// With --guard the program is run in guard mode, which catches heap errors in the act: overflow,
/// use after free, double and invalid free, leaks. This command stays its parent then, passes
/// signals on, prints the reports of the program and of all its descendants to standard error when
/// it has ended, with functions, files and lines, and ends as the program ended: with its exit
/// status, or by the same signal.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the allocator's statistics when the program exits
    #[arg(long)]
    stats: bool,

    /// Run the program even if the library cannot be loaded into it
    #[arg(long)]
    force: bool,

    /// The preload library to use
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    lib: Option<PathBuf>,

    #[command(flatten)]
    guard: guard::GuardOptions,

    /// The program to run, and its arguments
    #[arg(
        value_name = "PROGRAM",
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = false,
        value_hint = clap::ValueHint::CommandWithArguments
    )]
    program: Vec<OsString>,
}

/// The environment in its order, which `env` and others show.
struct Environment(Vec<(OsString, OsString)>);

impl Environment {
    fn get(&self, name: &str) -> Option<&OsStr> {
        let mut all = self.0.iter();
        all.find_map(|(other, value)| (other == name).then_some(value.as_os_str()))
    }

    fn set(&mut self, name: &str, value: OsString) {
        match self.0.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }
}

/// Runs the program; returns only if it cannot be started.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut environment = Environment(std::env::vars_os().collect());
    let variable = environment.get(library::VARIABLE);
    let library = library::find(&Places::new(args.lib.as_deref(), variable))?;

    let search = environment.get("PATH").map(OsStr::to_os_string);
    let name = &args.program[0];
    let path = path::resolve(name, search.as_deref()).map_err(|error| match error {
        Unusable::NotFound => fail(Status::NotFound, Path::new(name), "command not found"),
        Unusable::NotExecutable(path, reason) => {
            let reason = format!("cannot be executed: {reason}");
            fail(Status::NotExecutable, &path, &reason)
        }
    })?;
    check(&library, &path, search, args.force)?;

    let preload = library::preload(&library.path, environment.get("LD_PRELOAD"));
    environment.set("LD_PRELOAD", preload);
    if args.stats {
        environment.set("FENCEPOST_STATS", "1".into());
    }
    let guard = args.guard.prepare()?;
    for (name, value) in guard.iter().flat_map(|guard| guard.variables()) {
        environment.set(name, value.clone());
    }
    let start = || start(&path, &args.program, &environment, args.force);
    let error = match guard {
        Some(guard) => guard.run(start),
        None => start(),
    };
    let status = match error.kind() {
        io::ErrorKind::NotFound => Status::NotFound,
        _ => Status::NotExecutable,
    };
    Err(fail(status, &path, &format!("cannot be executed: {error}")))
}

/// Stops what cannot be preloaded, and passes warnings on.
fn check(
    library: &Library,
    path: &Path,
    search: Option<OsString>,
    force: bool,
) -> Result<(), Failure> {
    match Inspection::new(library, Ids::current(), search).inspect(path) {
        Ok(warnings) => {
            for warning in warnings {
                say(&format!("warning: {}: {warning}", path.display()));
            }
            Ok(())
        }
        Err(Problem::Unpreloadable(reason)) if force => {
            let path = path.display();
            say(&format!(
                "warning: {path}: runs without fencepost: {reason}"
            ));
            Ok(())
        }
        Err(Problem::Unpreloadable(reason)) => {
            let reason = format!("cannot be preloaded: {reason} (--force runs it anyway)");
            Err(fail(Status::NotPreloadable, path, &reason))
        }
        // The kernel has the last word on these: forced, it is asked.
        Err(Problem::NotExecutable(_) | Problem::NotFound(_)) if force => Ok(()),
        Err(Problem::NotExecutable(reason)) => Err(fail(Status::NotExecutable, path, &reason)),
        Err(Problem::NotFound(reason)) => Err(fail(Status::NotFound, path, &reason)),
    }
}

fn start(path: &Path, program: &[OsString], environment: &Environment, force: bool) -> io::Error {
    let variables = || environment.0.iter().cloned();
    let error = exec(path, program, variables());
    if !force || error.raw_os_error() != Some(libc::ENOEXEC) {
        return error;
    }
    // A script without a #! line: execvp and the shells hand it to sh.
    let mut arguments: Vec<OsString> = vec!["sh".into(), path.into()];
    arguments.extend_from_slice(&program[1..]);
    exec(Path::new("/bin/sh"), &arguments, variables())
}

fn fail(status: Status, path: &Path, reason: &str) -> Failure {
    Failure::new(status, format_args!("{}: {reason}", path.display()))
}
