//! `fencepost pmap`: the memory of a process as procps' pmap shows it.

use std::borrow::Cow;
use std::io::Write;

use fencepost::mmu::listing::{self, Line, Malformed, Name, Sizes};

use crate::failure::Failure;
use crate::man::print;
use crate::process::{Process, pid_parser};

/// Print the memory of a process, as pmap does
///
/// A line for each area: address, size in KiB, rights, and what is mapped. With --extended also
/// what of it is in memory (RSS) and what was changed there (Dirty).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print what is in memory and what was changed, too
    #[arg(short = 'x', long)]
    extended: bool,

    /// Print whole paths, not only the names of files
    #[arg(short = 'p', long)]
    show_path: bool,

    /// The process
    #[arg(value_name = "PID", value_parser = pid_parser())]
    pid: u32,
}

/// An area, with its sizes where they were asked for.
type Area<'a> = (Line<'a>, Sizes);

/// Prints the listing to standard output.
pub fn run(args: &Args) -> Result<(), Failure> {
    let process = Process::new(args.pid);
    let file = if args.extended { "smaps" } else { "maps" };
    let text = process.memory_file(file)?;
    let areas: Result<Vec<Area<'_>>, Malformed> = if args.extended {
        listing::smaps(&text).collect()
    } else {
        let plain = |line| (line, Sizes::default());
        listing::maps(&text).map(|line| line.map(plain)).collect()
    };
    let areas =
        areas.map_err(|wrong| process.failure(format_args!("a line of its {file}: {wrong}")))?;
    let mut out = Vec::new();
    // Writing to memory does not fail.
    let _ = write!(out, "{}:   ", args.pid);
    out.extend(visible(&process.command()).bytes());
    out.push(b'\n');
    if args.extended {
        extended(&mut out, &areas, args.show_path);
    } else {
        plain(&mut out, &areas, args.show_path);
    }
    print(&out)
}

fn plain(out: &mut Vec<u8>, areas: &[Area<'_>], paths: bool) {
    let mut total = 0;
    for (line, _) in areas {
        let size = line.len() >> 10;
        total += size;
        let _ = writeln!(
            out,
            "{:016x} {size:>6}K {} {}",
            line.start,
            mode(line),
            mapping(line, paths)
        );
    }
    let _ = writeln!(out, " total {total:>16}K");
}

fn extended(out: &mut Vec<u8>, areas: &[Area<'_>], paths: bool) {
    let mut totals = [0; 3];
    let _ = writeln!(
        out,
        "Address           Kbytes     RSS   Dirty Mode  Mapping"
    );
    for (line, sizes) in areas {
        let row = [line.len() >> 10, sizes.rss, sizes.dirty()];
        for (total, size) in totals.iter_mut().zip(row) {
            *total += size;
        }
        let [size, rss, dirty] = row;
        let _ = writeln!(
            out,
            "{:016x} {size:>7} {rss:>7} {dirty:>7} {} {}",
            line.start,
            mode(line),
            mapping(line, paths)
        );
    }
    let [size, rss, dirty] = totals;
    let _ = writeln!(out, "---------------- ------- ------- ------- ");
    let _ = writeln!(out, "total kB         {size:>7} {rss:>7} {dirty:>7}");
}

/// Rights, `s` for shared areas, and a dash where Solaris says whether swap is reserved.
fn mode(line: &Line<'_>) -> String {
    format!("{}{}-", line.rights, if line.shared { 's' } else { '-' })
}

/// What is mapped: a file by its name, the main stack, a System V segment; everything else is
/// anonymous.
fn mapping(line: &Line<'_>, path: bool) -> Cow<'static, str> {
    let name = line.name;
    if line.device.0 == 0 && name.starts_with(b"/SYSV") {
        return format!("  [ shmid={:#x} ]", line.inode).into();
    }
    match line.kind() {
        Name::Stack => "  [ stack ]".into(),
        Name::File { .. } if path => visible(name).into(),
        Name::File { .. } => {
            let last = name.rsplit(|byte| *byte == b'/').next();
            match last {
                Some(last) if !last.is_empty() => visible(last).into(),
                _ => visible(name).into(),
            }
        }
        _ => "  [ anon ]".into(),
    }
}

/// Text that leaves the terminal alone.
fn visible(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bash of the notes, as it was when pmap looked: its heap had grown by 16 KiB.
    const BASH: &str = "\
00400000-004f4000 r-xp 00000000 fd:00 4849671                            /bin/bash
006f3000-006f4000 r--p 000f3000 fd:00 4849671                            /bin/bash
006f4000-006fd000 rw-p 000f4000 fd:00 4849671                            /bin/bash
006fd000-00703000 rw-p 00000000 00:00 0
016d3000-018bb000 rw-p 00000000 00:00 0                                  [heap]
7f1ecbe1f000-7f1ecbe2a000 r-xp 00000000 fd:00 11407931                   /lib/x86_64-linux-gnu/libnss_files-2.23.so
7f1ecda31000-7f1ecda38000 r--s 00000000 fd:00 11407700                   /usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache
7ffe0ded1000-7ffe0def2000 rw-p 00000000 00:00 0                          [stack]
7ffe0dff7000-7ffe0dff9000 r--p 00000000 00:00 0                          [vvar]
7ffe0dff9000-7ffe0dffb000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 r-xp 00000000 00:00 0                  [vsyscall]
";

    fn areas(text: &str) -> Vec<Area<'_>> {
        let areas = listing::maps(text.as_bytes());
        areas
            .map(|line| (line.unwrap(), Sizes::default()))
            .collect()
    }

    #[test]
    fn row_067_pmap_listing_of_a_bash() {
        let mut out = Vec::new();
        plain(&mut out, &areas(BASH), false);
        let want = "\
0000000000400000    976K r-x-- bash
00000000006f3000      4K r---- bash
00000000006f4000     36K rw--- bash
00000000006fd000     24K rw---   [ anon ]
00000000016d3000   1952K rw---   [ anon ]
00007f1ecbe1f000     44K r-x-- libnss_files-2.23.so
00007f1ecda31000     28K r--s- gconv-modules.cache
00007ffe0ded1000    132K rw---   [ stack ]
00007ffe0dff7000      8K r----   [ anon ]
00007ffe0dff9000      8K r-x--   [ anon ]
ffffffffff600000      4K r-x--   [ anon ]
 total             3216K
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
        // The total of the whole process, of which the notes show a part, stands as wide.
        let text = "00001000-01d58000 rw-p 00000000 00:00 0 \n";
        let mut out = Vec::new();
        plain(&mut out, &areas(text), false);
        assert!(out.ends_with(b"\n total            30044K\n"));
    }

    #[test]
    fn names_are_shown_as_pmap_shows_them() {
        let shown = |device: &str, name: &str, path| {
            let text = format!("00001000-00002000 rw-p 00000000 {device} 15  {name}");
            mapping(&areas(&text)[0].0, path).into_owned()
        };
        assert_eq!(shown("fd:00", "/a/b c (deleted)", false), "b c (deleted)");
        assert_eq!(shown("fd:00", "/a/b c (deleted)", true), "/a/b c (deleted)");
        assert_eq!(shown("fd:00", "/a/\u{1b}[31m", false), "?[31m");
        assert_eq!(shown("fd:00", "/", false), "/");
        assert_eq!(
            shown("00:01", "/SYSV0000002a (deleted)", false),
            "  [ shmid=0xf ]"
        );
        assert_eq!(shown("fd:00", "/SYSV0000002a", false), "SYSV0000002a");
        assert_eq!(shown("00:00", "[anon:x]", true), "  [ anon ]");
        assert_eq!(shown("00:00", "anon_inode:[y]", true), "  [ anon ]");
    }

    #[test]
    fn sizes_in_memory_have_columns_and_totals() {
        let line = areas(BASH)[2].0;
        let sizes = Sizes {
            rss: 36,
            shared_dirty: 8,
            private_dirty: 20,
            ..Sizes::default()
        };
        let mut out = Vec::new();
        extended(&mut out, &[(line, sizes), (line, sizes)], true);
        let want = "\
Address           Kbytes     RSS   Dirty Mode  Mapping
00000000006f4000      36      36      28 rw--- /bin/bash
00000000006f4000      36      36      28 rw--- /bin/bash
---------------- ------- ------- ------- 
total kB              72      72      56
";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }
}
