//! `fencepost maps` and `fencepost pmap`: the memory of another process, and why there is none.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{FENCEPOST, OWN, absent, refused, root, skipped, text};

/// A process that waits and does not change while it does.
struct Still(Child);

impl Still {
    fn new() -> Still {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Once it has answered it is loaded, and waits in read(2).
        child.stdin.as_mut().unwrap().write_all(b"ready\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut answer)
            .unwrap();
        assert_eq!(answer, "ready\n");
        Still(child)
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[track_caller]
fn print(args: &[&str]) -> Vec<u8> {
    let output = Command::new(FENCEPOST).args(args).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    output.stdout
}

#[test]
fn maps_shows_what_the_kernel_shows() {
    let still = Still::new();
    let pid = still.pid();
    let want = fs::read(format!("/proc/{pid}/maps")).unwrap();
    assert_eq!(text(&print(&["maps", &pid])), text(&want));

    let sized = text(&print(&["maps", "--sizes", &pid]));
    let mut lines: Vec<&str> = sized.lines().collect();
    let total = lines.pop().unwrap();
    let mut sum = 0;
    for (line, plain) in lines.iter().zip(text(&want).lines()) {
        let (size, rest) = line.trim_start().split_once("K ").unwrap();
        assert_eq!(rest, plain);
        let (start, end) = plain.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        assert_eq!(size.parse(), Ok((end - start) / 1024));
        sum += (end - start) / 1024;
    }
    assert_eq!(lines.len(), text(&want).lines().count());
    assert_eq!(total.trim(), format!("{sum}K in {} areas", lines.len()));
}

#[test]
fn pmap_shows_what_procps_shows() {
    if Command::new("pmap").arg("-V").output().is_err() {
        return absent("pmap of procps");
    }
    let still = Still::new();
    let pid = still.pid();
    for options in [&[][..], &["-x"], &["-p"], &["-x", "-p"]] {
        let theirs = Command::new("pmap")
            .args(options)
            .arg(&pid)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        let ours = print(&[&["pmap"], options, &[&pid]].concat());
        // Column by column: the blanks between them vary with the version.
        let words = |bytes: &[u8]| -> Vec<Vec<String>> {
            let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect();
            text(bytes).lines().map(columns).collect()
        };
        assert!(words(&ours).len() > 10, "{}", text(&ours));
        assert_eq!(words(&ours), words(&theirs.stdout), "pmap {options:?}");
    }
    assert!(text(&print(&["pmap", &pid])).starts_with(&format!("{pid}:   cat\n")));
}

#[test]
fn a_process_that_is_not_there_or_has_no_memory_is_told_apart() {
    // Beyond the largest id that Linux gives.
    let nobody = (1 << 22) + 1;
    for command in [&["maps"][..], &["maps", "-s"], &["pmap"], &["pmap", "-x"]] {
        let run = |pid: &str| {
            let mut tool = Command::new(FENCEPOST);
            tool.args(command).arg(pid);
            tool
        };
        refused(
            &mut run(&nobody.to_string()),
            OWN,
            &[&format!("there is no process {nobody}")],
        );
        // It ends, but nobody has asked for its exit status.
        let mut ended = Command::new("true").spawn().unwrap();
        let stat = format!("/proc/{}/stat", ended.id());
        while !fs::read_to_string(&stat).unwrap().contains(") Z ") {
            std::thread::yield_now();
        }
        let mut tool = run(&ended.id().to_string());
        refused(&mut tool, OWN, &["it has ended"]);
        ended.wait().unwrap();

        let kernel = Path::new("/proc/2/comm");
        if fs::read(kernel).is_ok_and(|name| name == b"kthreadd\n") {
            refused(
                &mut run("2"),
                OWN,
                &["process 2: it is a thread of the kernel"],
            );
        } else {
            skipped("no thread of the kernel is seen from here");
        }
    }
}

#[test]
fn a_process_of_another_user_is_refused() {
    if !root() {
        return skipped("another user's process is needed, and root to become two users");
    }
    let still = Still::new();
    let directory = tempfile::tempdir().unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(directory.path(), open).unwrap();
    let tool = directory.path().join("fencepost");
    support::copy(Path::new(FENCEPOST), &tool);
    for command in [&["maps"][..], &["pmap"], &["pmap", "-x"]] {
        let mut nobody = Command::new(&tool);
        nobody.args(command).arg(still.pid()).uid(65534).gid(65534);
        refused(&mut nobody, OWN, &[&still.pid(), "permission denied"]);
    }
}

#[test]
fn a_closed_standard_output_is_an_error() {
    let still = Still::new();
    for command in ["maps", "pmap"] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut tool = Command::new(FENCEPOST);
        tool.arg(command).arg(still.pid()).stdout(full);
        refused(&mut tool, OWN, &["standard output"]);
    }
}
