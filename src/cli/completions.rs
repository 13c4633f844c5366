//! `fencepost completions`: completion scripts for the shells.

use clap_complete::Shell;

use crate::args;
use crate::failure::Failure;
use crate::man;

/// Print the completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell to complete in
    shell: Shell,
}

/// Prints the script to standard output.
pub fn run(args: &Args) -> Result<(), Failure> {
    man::print(&script(args.shell))
}

/// The completion script for `shell`.
pub fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "fencepost", &mut script);
    script
}
