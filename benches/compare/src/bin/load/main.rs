//! Synthetic loads on the C allocator: one subcommand per load, so that each
//! runs in a process of its own under whichever library is preloaded.
//!
//! `compare-load NAME PERCENT` runs one load at a percentage of its full length
//! and prints a checksum of what it stored in its blocks. The checksum does not
//! depend on addresses: it is the same under every allocator that works.
//! `compare-load --list` prints the names with their thread counts and groups.

mod block;
mod classic;
mod crowd;
mod single;
mod threads;

use std::process::ExitCode;

/// A load: its name, its number of threads, and its body, which takes a
/// percentage of the full length and returns a checksum.
pub struct Load {
    /// The name on the command line and in the tables.
    pub name: &'static str,
    /// How many threads allocate at the same time.
    pub threads: u32,
    /// The body.
    pub run: fn(u64) -> u64,
}

fn main() -> ExitCode {
    let groups = [
        ("synthetic", single::LOADS),
        ("synthetic", threads::LOADS),
        ("classic", classic::LOADS),
        ("classic", crowd::LOADS),
    ];
    let loads = || groups.iter().flat_map(|(_, loads)| loads.iter());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => {
            for (group, loads) in groups {
                for load in loads {
                    println!("{} {} {group}", load.name, load.threads);
                }
            }
            ExitCode::SUCCESS
        }
        [name, percent] => {
            let Some(load) = loads().find(|load| load.name == name) else {
                eprintln!("compare-load: no load is called {name}");
                return ExitCode::from(2);
            };
            let Ok(percent) = percent.parse::<u64>() else {
                eprintln!("compare-load: {percent} is no percentage");
                return ExitCode::from(2);
            };
            println!("{name} {:016x}", (load.run)(percent.max(1)));
            ExitCode::SUCCESS
        }
        _ => {
            eprintln!("usage: compare-load NAME PERCENT | --list");
            ExitCode::from(2)
        }
    }
}
