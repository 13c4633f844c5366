//! `fencepost maps`: the memory map of a process.

use std::io::Write;

use fencepost::mmu::listing;

use crate::failure::Failure;
use crate::man::print;
use crate::process::{Process, pid_parser};

/// Print the memory map of a process
///
/// The lines of /proc/PID/maps, byte for byte, so that whatever reads that file can read this.
/// With --sizes the size of each area stands in front of it, and a total at the end.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the size of each area in KiB, and their sum
    #[arg(short, long)]
    sizes: bool,

    /// The process
    #[arg(value_name = "PID", value_parser = pid_parser())]
    pid: u32,
}

/// Prints the map to standard output.
pub fn run(args: &Args) -> Result<(), Failure> {
    let process = Process::new(args.pid);
    let text = process.memory_file("maps")?;
    if !args.sizes {
        return print(&text);
    }
    let sized = sizes(&text).map_err(|wrong| process.failure(wrong))?;
    print(&sized)
}

/// The listing with sizes.
fn sizes(text: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len() * 5 / 4);
    let (mut total, mut areas) = (0, 0);
    for (index, line) in listing::maps(text).enumerate() {
        let line = line.map_err(|wrong| format!("line {} of its maps: {wrong}", index + 1))?;
        total += line.len() >> 10;
        areas += 1;
        // Writing to memory does not fail.
        let _ = write!(out, "{:>10}K ", line.len() >> 10);
        line.print(|part| out.extend_from_slice(part));
        out.push(b'\n');
    }
    let _ = writeln!(out, "{total:>10}K in {areas} areas");
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stand_before_the_lines_and_their_sum_at_the_end() {
        let text =
            b"00400000-004f4000 r-xp 00000000 fd:00 4849671                            /a\xff b\n\
            006fd000-00703000 rw-p 00000000 00:00 0 \n";
        let want = b"       976K 00400000-004f4000 r-xp 00000000 fd:00 4849671                            /a\xff b\n        24K 006fd000-00703000 rw-p 00000000 00:00 0 \n      1000K in 2 areas\n";
        assert_eq!(
            String::from_utf8_lossy(&sizes(text).unwrap()),
            String::from_utf8_lossy(want)
        );
        let wrong = sizes(b"00400000-004f4000 r-xp 00000000 fd:00 1  /a\nnonsense\n");
        assert_eq!(
            wrong.unwrap_err(),
            "line 2 of its maps: no start address as Linux writes it at column 0"
        );
    }
}
