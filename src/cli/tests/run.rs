//! `fencepost run`: the program takes the process over, with the library in it.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};

use support::{Bench, FENCEPOST, refused, text};

#[test]
fn the_exit_status_is_the_programs() {
    let bench = Bench::new();
    // Statuses that fencepost uses itself are passed on like any other.
    for code in [0, 1, 2, 42, 122, 125, 126, 127, 255] {
        let mut command = bench.fencepost();
        command.args(["run", "--", "sh", "-c", &format!("exit {code}")]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        assert_eq!(text(&output.stderr), "");
        assert_eq!(bench.log(), ["dummy"]);
    }
}

#[test]
fn death_by_signal_is_the_programs() {
    let bench = Bench::new();
    for signal in ["TERM", "KILL", "INT", "PIPE", "USR1"] {
        let mut command = bench.fencepost();
        command.args(["run", "--", "sh", "-c", &format!("kill -{signal} $$")]);
        let status = command.status().unwrap();
        let number = match signal {
            "TERM" => 15,
            "KILL" => 9,
            "INT" => 2,
            "PIPE" => 13,
            _ => 10,
        };
        assert_eq!(status.signal(), Some(number), "{signal}: {status}");
    }
}

#[test]
fn the_program_has_the_process_and_its_signals() {
    let bench = Bench::new();
    let mut command = bench.fencepost();
    command.args([
        "run",
        "--",
        "sh",
        "-c",
        "trap 'echo caught; exit 7' TERM; echo $$; while :; do sleep 0.05; done",
    ]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let id = child.id();
    assert_eq!(lines.next().unwrap().unwrap(), id.to_string());
    let process = rustix::process::Pid::from_raw(id as i32).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

/// Runs `script` in a shell that calls the program directly or through
/// fencepost: `$RUN` stands in front of it.
fn shell(bench: &Bench, script: &str, through: bool) -> String {
    let mut command = bench.plain(Path::new("sh"));
    let run = if through {
        format!("{FENCEPOST} run --")
    } else {
        String::new()
    };
    let output = command
        .args(["-c", script])
        .env("RUN", run)
        .env("FENCEPOST_LIB", &bench.library)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn signal_dispositions_and_open_files_are_passed_on_unchanged() {
    let bench = Bench::new();
    for script in [
        "$RUN grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        "trap '' PIPE INT QUIT; $RUN grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        "$RUN sh -c 'ls /proc/self/fd' <&-",
        "$RUN sh -c 'ls /proc/self/fd' 2>&-",
        "exec 7</dev/null; $RUN sh -c 'ls /proc/self/fd'",
    ] {
        let direct = shell(&bench, script, false);
        bench.log();
        assert_eq!(shell(&bench, script, true), direct, "{script}");
        assert!(!bench.log().is_empty(), "{script} ran without the library");
    }
    // The comparison can tell the difference.
    let ignored = shell(
        &bench,
        "trap '' PIPE; $RUN grep ^SigIgn /proc/self/status",
        true,
    );
    assert_ne!(
        ignored,
        shell(&bench, "$RUN grep ^SigIgn /proc/self/status", true)
    );
}

#[test]
fn arguments_and_standard_input_reach_the_program() {
    let bench = Bench::new();
    let mut command = bench.fencepost();
    let script = r#"printf '<%s>' "$0" "$@"; cat"#;
    command.args([
        "run", "--", "sh", "-c", script, "a b", "", "--stats", "--", "-x",
    ]);
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(text(&output.stdout), "<a b><><--stats><--><-x>");
    // Without the `--`, too: what follows the program is the program's.
    let mut command = bench.fencepost();
    command.args(["run", "echo", "--stats", "--force"]);
    assert_eq!(text(&command.output().unwrap().stdout), "--stats --force\n");
}

#[test]
fn bytes_that_are_not_utf8_are_passed_on() {
    use std::os::unix::ffi::OsStrExt;
    let bench = Bench::new();
    let odd = std::ffi::OsStr::from_bytes(b"a\xff\xfeb");
    let mut command = bench.fencepost();
    command
        .args(["run", "--", "printenv", "ODD"])
        .env("ODD", odd);
    assert_eq!(command.output().unwrap().stdout, b"a\xff\xfeb\n");
    let mut command = bench.fencepost();
    command.args(["run", "--", "printf", "%s"]).arg(odd);
    assert_eq!(command.output().unwrap().stdout, b"a\xff\xfeb");
}

#[test]
fn the_program_is_called_as_the_user_called_it() {
    let bench = Bench::new();
    let mut command = bench.fencepost();
    command.args([
        "run",
        "--",
        "sh",
        "-c",
        "tr '\\0' '\\n' </proc/$$/cmdline | head -1",
    ]);
    assert_eq!(text(&command.output().unwrap().stdout), "sh\n");
}

#[test]
fn the_environment_gains_the_library_and_nothing_else() {
    let bench = Bench::new();
    let environment = |through: bool, stats: bool| -> Vec<String> {
        let mut command = if through {
            let mut command = bench.fencepost();
            command.arg("run");
            command.args(stats.then_some("--stats"));
            command.args(["--", "env"]);
            command
        } else {
            let mut command = bench.plain(Path::new("env"));
            command.env("FENCEPOST_LIB", &bench.library);
            command
        };
        let output = command.output().unwrap();
        text(&output.stdout).lines().map(str::to_string).collect()
    };
    let preload = format!("LD_PRELOAD={}", bench.library.display());
    let mut expected = environment(false, false);
    expected.push(preload);
    assert_eq!(environment(true, false), expected);
    expected.push("FENCEPOST_STATS=1".into());
    assert_eq!(environment(true, true), expected);
}

#[test]
fn the_users_preloads_stay_behind_ours() {
    let bench = Bench::new();
    let theirs = bench.path("theirs.so");
    bench.library("theirs", &theirs);
    let mut command = bench.fencepost();
    command.args(["run", "--", "sh", "-c", "echo \"$LD_PRELOAD\""]);
    let output = command.env("LD_PRELOAD", &theirs).output().unwrap();
    let value = format!("{}:{}\n", bench.library.display(), theirs.display());
    assert_eq!(text(&output.stdout), value);
    // Constructors run last library first; fencepost itself had only theirs.
    assert_eq!(bench.log(), ["theirs", "theirs", "dummy"]);
}

#[test]
fn a_run_inside_a_run_names_the_library_once() {
    let bench = Bench::new();
    let mut command = bench.fencepost();
    let inner = [
        "run",
        "--",
        FENCEPOST,
        "run",
        "--",
        "printenv",
        "LD_PRELOAD",
    ];
    let output = command.args(inner).output().unwrap();
    let value = format!("{}\n", bench.library.display());
    assert_eq!(text(&output.stdout), value);
}

#[test]
fn what_is_not_there_is_127_and_what_cannot_run_is_126() {
    let bench = Bench::new();
    let run = |program: &str| {
        let mut command = bench.fencepost();
        command
            .args(["run", "--", program])
            .current_dir(bench.dir.path());
        command
    };
    refused(
        &mut run("no-such-tool"),
        127,
        &["no-such-tool: command not found"],
    );
    refused(
        &mut run("./no-such-tool"),
        127,
        &["./no-such-tool: command not found"],
    );
    refused(&mut run(""), 127, &["command not found"]);
    refused(&mut run("./dummy"), 126, &["./dummy", "directory"]);
    std::fs::write(bench.path("plain"), "#!/bin/sh\n").unwrap();
    refused(&mut run("./plain"), 126, &["./plain", "permission denied"]);
    let mut command = run("plain");
    refused(
        command.env("PATH", bench.dir.path()),
        126,
        &["plain", "permission denied"],
    );
    // Another user's directory in PATH hides nothing and refuses nothing.
    if support::root() {
        let fencepost = bench.path("fencepost");
        support::copy(Path::new(FENCEPOST), &fencepost);
        let closed = bench.path("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
        let mut command = bench.plain(&fencepost);
        command.env("FENCEPOST_LIB", &bench.library);
        command
            .args(["run", "--", "tool"])
            .env("PATH", closed)
            .uid(65534);
        refused(&mut command, 127, &["tool: command not found"]);
    }
    // A name that would tear the message apart.
    refused(&mut run("a\nb"), 127, &["a\\nb: command not found"]);
    assert_eq!(bench.log(), [""; 0], "nothing was started");
}

#[test]
fn too_many_arguments_are_an_error_of_exec() {
    let bench = Bench::new();
    // One string may have 128 KiB (32 pages); LD_PRELOAD is made longer here,
    // by what the user brings, than exec takes.
    let long = "x".repeat(128 * 1024 - 30);
    let mut command = bench.plain(Path::new(FENCEPOST));
    command.args(["run", "--lib"]).arg(&bench.library);
    command.args(["--", "true"]).env("LD_PRELOAD", long);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("Argument list too long"));
}

#[test]
fn usage_errors_start_nothing() {
    let bench = Bench::new();
    for line in [
        &["run"][..],
        &["run", "--bogus", "--", "echo"],
        &["walk"],
        &[],
    ] {
        let output = Command::new(FENCEPOST).args(line).output().unwrap();
        assert_eq!(output.status.code(), Some(support::OWN), "{line:?}");
        assert_eq!(text(&output.stdout), "");
        assert!(text(&output.stderr).contains("Usage:"), "{line:?}");
    }
    drop(bench);
}
