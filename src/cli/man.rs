//! `fencepost man`: the man pages, generated from the command line itself.

use std::io::{self, Write};

use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args;
use crate::failure::{Failure, Status};
use crate::library::{NAME, VARIABLE};

/// Print the man page
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The subcommand whose page is printed, such as run or mmu-paging; the command's own by
    /// default
    subcommand: Option<String>,
}

/// Prints a page to standard output.
pub fn run(args: &Args) -> Result<(), Failure> {
    let wanted = match &args.subcommand {
        None => "fencepost.1".to_string(),
        Some(name) => format!("fencepost-{name}.1"),
    };
    let pages = pages().map_err(Failure::own)?;
    match pages.into_iter().find(|(name, _)| *name == wanted) {
        Some((_, page)) => print(&page),
        None => Err(Failure::own(format_args!(
            "there is no subcommand {}",
            args.subcommand.as_deref().unwrap_or_default()
        ))),
    }
}

/// Writes to standard output and says so if that fails.
pub fn print(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::own(format_args!("standard output: {error}")))
}

/// All pages with their file names: the command's, then its subcommands'.
pub fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = args::command();
    command.build();
    let mut pages = vec![("fencepost.1".into(), main_page(&command)?)];
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

/// The pages of a command's subcommands, and of theirs.
fn add_pages(command: &clap::Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for subcommand in command.get_subcommands() {
        let page = Man::new(subcommand.clone());
        let mut text = Vec::new();
        page.render(&mut text)?;
        pages.push((page.get_filename(), text));
        add_pages(subcommand, pages)?;
    }
    Ok(())
}

fn main_page(command: &clap::Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    man.render_subcommands_section(&mut page)?;
    exit_status().to_writer(&mut page)?;
    environment().to_writer(&mut page)?;
    examples().to_writer(&mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

fn entry(page: &mut Roff, term: &str, text: &str) {
    page.control("TP", []);
    page.text([bold(term)]);
    page.text([roman(text)]);
}

fn exit_status() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXIT STATUS"]);
    page.text([roman(
        "A program that was started takes the process over: the exit status is \
         the program's own, death by a signal included. In guard mode this command ends as \
         the program did; what was reported does not change that. Otherwise:",
    )]);
    for (status, text) in [
        (
            Status::NotPreloadable,
            "The library cannot be loaded into the program, which was not started.",
        ),
        (
            Status::Own,
            "fencepost itself failed: bad usage, no library, no such process, \
             a file that cannot be written.",
        ),
        (
            Status::NotExecutable,
            "The program was found, but cannot be executed.",
        ),
        (
            Status::NotFound,
            "The program, its interpreter or its loader was not found.",
        ),
    ] {
        entry(&mut page, &(status as i32).to_string(), text);
    }
    page
}

fn environment() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["ENVIRONMENT"]);
    let library = format!("The preload library ({NAME}) to use; --lib goes before it.");
    entry(&mut page, VARIABLE, &library);
    entry(
        &mut page,
        "LD_PRELOAD",
        "The library is put in front of what this names already.",
    );
    entry(
        &mut page,
        "FENCEPOST_STATS",
        "1 prints the allocator's statistics at exit, as --stats does.",
    );
    entry(
        &mut page,
        "FENCEPOST_GUARD, FENCEPOST_GUARD_REPORT and others",
        "Guard mode without this command; run --guard sets them. The reports that it leaves \
         are read by fencepost explain.",
    );
    page
}

fn examples() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["EXAMPLES"]);
    for line in [
        "fencepost run -- python3 script.py",
        "fencepost run --stats -- sort big.txt",
        "fencepost run --guard -- ./program --its-options",
        "fencepost run --guard=1000 --report reports.json -- ./server",
        "fencepost explain reports.json",
        "fencepost pmap -x 1234",
        "fencepost mmu translate 0x7f1ecc031234",
        "fencepost install --prefix /usr/local",
    ] {
        page.control("PP", []);
        page.text([roman(line)]);
    }
    page
}
