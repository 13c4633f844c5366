//! The command line: one entry per subcommand, each in a file of its own.

use std::ffi::OsString;

use clap::{CommandFactory, Parser, Subcommand};

use crate::failure::Failure;
use crate::{completions, explain, install, man, maps, mmu, pmap, run};

/// Runs programs on the fencepost memory allocator.
#[derive(Debug, Parser)]
#[command(name = "fencepost", version, about, long_about = LONG_ABOUT)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Runs programs on the fencepost memory allocator.

`fencepost run -- PROGRAM` loads libfencepost.so into any dynamically linked \
program; every malloc, free and operator new in it is served by fencepost then. \
With `--guard` heap errors in it are caught and explained; `fencepost explain FILE` \
puts functions and lines into reports that were made without the command. \
`fencepost maps PID` and `fencepost pmap PID` show the memory of a process. \
`fencepost mmu` shows how memory management works. \
`fencepost install --prefix DIR` installs the command and the library.";

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Explain(explain::Args),
    Maps(maps::Args),
    Pmap(pmap::Args),
    Mmu(mmu::Args),
    Install(install::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Reads the command line (the first argument is our own name) and does what
/// it says.
///
/// # Errors
/// Whatever goes wrong, help and version included (their status is 0).
pub fn dispatch(args: Vec<OsString>) -> Result<(), Failure> {
    // A caller may leave out even the name.
    let args = if args.is_empty() {
        vec!["fencepost".into()]
    } else {
        args
    };
    match Cli::try_parse_from(args).map_err(Failure::usage)?.command {
        Command::Run(args) => run::run(args),
        Command::Explain(args) => explain::run(&args),
        Command::Maps(args) => maps::run(&args),
        Command::Pmap(args) => pmap::run(&args),
        Command::Mmu(args) => mmu::run(&args),
        Command::Install(args) => install::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// The command line as clap sees it, for the man pages and the completions.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn every_part_of_the_command_line_is_explained() {
        explained(&command());
    }

    fn explained(command: &clap::Command) {
        for subcommand in command.get_subcommands() {
            let name = subcommand.get_name();
            assert!(subcommand.get_about().is_some(), "{name}");
            for argument in subcommand.get_arguments() {
                let id = argument.get_id();
                assert!(argument.get_help().is_some(), "{name} {id}");
            }
            explained(subcommand);
        }
    }

    #[test]
    fn bad_usage_is_an_error_of_our_own() {
        for line in [
            &["fencepost", "--bogus"][..],
            &["fencepost", "run"],
            &["fencepost", "run", "--bogus", "--", "true"],
            &["fencepost", "run", "--guard=0", "--", "true"],
            &["fencepost", "run", "--guard=x", "--", "true"],
            &["fencepost", "run", "--leaks", "--", "true"],
            &["fencepost", "run", "--align", "left", "--", "true"],
            &["fencepost", "explain"],
            &["fencepost", "install"],
            &["fencepost", "maps"],
            &["fencepost", "maps", "0"],
            &["fencepost", "pmap", "-1"],
            &["fencepost", "pmap", "bash"],
            &["fencepost", "mmu"],
            &["fencepost", "mmu", "translate"],
            &["fencepost", "mmu", "translate", "address"],
            &["fencepost", "mmu", "translate", "0", "--write", "--exec"],
            &["fencepost", "mmu", "segments", "3"],
            &["fencepost", "mmu", "paging", "--frames", "0"],
            &["fencepost", "mmu", "paging", "--pages", "9"],
            &[
                "fencepost",
                "mmu",
                "paging",
                "--refs",
                "1",
                "--pattern",
                "loop",
            ],
            &["fencepost", "completions", "csh"],
            &["fencepost"],
            &[],
        ] {
            let args = line.iter().map(OsString::from).collect();
            assert_eq!(dispatch(args).unwrap_err().status(), 125, "{line:?}");
        }
        for flag in ["--help", "--version"] {
            let failure = dispatch(vec!["fencepost".into(), flag.into()]).unwrap_err();
            assert_eq!(failure.status(), 0);
        }
    }
}
