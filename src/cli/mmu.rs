//! `fencepost mmu`: the model of virtual memory, drawn for people who learn or teach.

mod address;
mod curve;
mod grid;
mod paging;
mod picture;
mod segments;
mod story;
mod strings;
mod translate;

use std::path::Path;

use crate::failure::Failure;

/// Show how memory management works, on a model of it
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true, disable_help_subcommand = true)]
pub struct Args {
    #[command(subcommand)]
    topic: Topic,
}

#[derive(Debug, clap::Subcommand)]
enum Topic {
    Translate(translate::Args),
    Segments(segments::Args),
    Paging(paging::Args),
}

/// Prints what was asked for to standard output.
pub fn run(args: &Args) -> Result<(), Failure> {
    match &args.topic {
        Topic::Translate(args) => translate::run(args),
        Topic::Segments(args) => segments::run(args),
        Topic::Paging(args) => paging::run(args),
    }
}

/// Writes a picture to a file.
fn save(path: &Path, picture: &str) -> Result<(), Failure> {
    std::fs::write(path, picture)
        .map_err(|error| Failure::own(format_args!("{}: {error}", path.display())))
}
