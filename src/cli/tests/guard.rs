//! `fencepost run --guard`: the program is a child that nobody tells from the process itself,
//! and its reports are printed with names at the end. The stand-in for the library reports
//! nothing; the programs here write the reports themselves.

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use support::reports::{compile, leak, line_of, places, report, source};
use support::{Bench, FENCEPOST, OWN, refused, text};

/// How long to wait for what must happen, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whoever runs the tests may ignore signals (`nohup`, a shell's background), and a shell does not
/// let go of that: they are as usual here.
const USUAL: [&str; 2] = ["env", "--default-signal"];

fn guarded(bench: &Bench, script: &str) -> Command {
    let mut command = bench.plain(Path::new(USUAL[0]));
    command.args([
        USUAL[1], FENCEPOST, "run", "--guard", "--", "sh", "-c", script,
    ]);
    command.env("FENCEPOST_LIB", &bench.library);
    command
}

/// A shell command that reports the lines of a file.
const REPORT: &str = "cat \"$REPORTS\" >>\"$FENCEPOST_GUARD_REPORT\";";

fn reporting(bench: &Bench, lines: &[String], script: &str) -> Command {
    let reports = bench.path("reports");
    let lines: Vec<String> = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(&reports, lines.concat()).unwrap();
    let mut command = guarded(bench, &format!("{REPORT} {script}"));
    command.env("REPORTS", reports);
    command
}

#[test]
fn the_options_become_variables() {
    let bench = Bench::new();
    let variables = |options: &[&str]| -> Vec<String> {
        let mut command = bench.fencepost();
        command.arg("run").args(options).args(["--", "env"]);
        let output = command.output().unwrap();
        assert_eq!(text(&output.stderr), "");
        let all = text(&output.stdout);
        let ours = all
            .lines()
            .filter_map(|line| line.strip_prefix("FENCEPOST_GUARD"));
        let ours = ours.filter(|line| !line.starts_with("_REPORT="));
        ours.map(str::to_string).collect()
    };
    assert_eq!(variables(&[]), [""; 0]);
    assert_eq!(variables(&["--guard"]), ["=1", "_TEXT=0"]);
    assert_eq!(
        variables(&[
            "--guard=1000",
            "--align",
            "both",
            "--leaks",
            "--quarantine",
            "5"
        ]),
        [
            "=1000",
            "_TEXT=0",
            "_ALIGN=both",
            "_LEAKS=1",
            "_QUARANTINE=5"
        ]
    );
    assert_eq!(
        variables(&["--guard", "--align=left", "--leaks=no"]),
        ["=1", "_TEXT=0", "_ALIGN=left", "_LEAKS=0"]
    );
    // With the library in the program, and what the program is given stays its own.
    let mut command = bench.fencepost();
    command.args(["run", "--guard", "echo", "--align", "--guard"]);
    assert_eq!(text(&command.output().unwrap().stdout), "--align --guard\n");
    assert_eq!(bench.log(), ["dummy"; 5]);
}

#[test]
fn options_of_guard_mode_need_it() {
    let bench = Bench::new();
    for options in [
        &["--align", "left"][..],
        &["--leaks"],
        &["--quarantine", "5"],
        &["--report", "file"],
        &["--suppress", "main"],
        &["--suppressions", "file"],
        &["--guard=0"],
        &["--guard", "--align", "middle"],
        &["--guard", "--report", "/no/such/directory/file"],
        &["--guard", "--report", "reports-%p"],
        &["--guard", "--suppressions", "/no/such/file"],
    ] {
        let mut command = bench.fencepost();
        command.arg("run").args(options).args(["--", "echo"]);
        let output = command.current_dir(bench.dir.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(OWN), "{options:?}");
        assert_eq!(text(&output.stdout), "", "{options:?}");
        assert_ne!(text(&output.stderr), "", "{options:?}");
    }
    assert_eq!(bench.log(), [""; 0], "nothing was started");
}

#[test]
fn it_ends_as_the_program_ends() {
    let bench = Bench::new();
    let leak = leak(48, 3, &[]).to_string();
    for code in [0, 1, 2, 42, 122, 125, 126, 127, 255] {
        let mut command = reporting(&bench, std::slice::from_ref(&leak), &format!("exit {code}"));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(code));
        let expected = "fencepost: leak: 48 bytes in 3 blocks are lost\n  allocated by thread 7:\n";
        assert_eq!(text(&output.stderr), expected);
    }
    for signal in [
        Signal::TERM,
        Signal::KILL,
        Signal::INT,
        Signal::QUIT,
        Signal::HUP,
        Signal::PIPE,
        Signal::USR1,
        Signal::SEGV,
        Signal::BUS,
        Signal::ABORT,
    ] {
        let number = signal.as_raw();
        let script = format!("kill -{number} $$");
        let guarded = reporting(&bench, std::slice::from_ref(&leak), &script);
        // A core may be written of the program, where cores are wanted, and not of us.
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -c unlimited; exec \"$@\"", "sh"]);
        command.arg(guarded.get_program()).args(guarded.get_args());
        for (name, value) in guarded.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let output = command.current_dir(bench.dir.path()).output().unwrap();
        assert_eq!(output.status.signal(), Some(number), "{}", output.status);
        assert!(!output.status.core_dumped(), "signal {number}");
        let errors = text(&output.stderr);
        assert!(
            errors.contains("leak: 48 bytes"),
            "signal {number}: {errors}"
        );
    }
}

#[test]
fn what_cannot_be_started_is_told_as_without_guard_mode() {
    let bench = Bench::new();
    let run = |program: &str| {
        let mut command = bench.fencepost();
        command.args(["run", "--guard", "--", program]);
        command.current_dir(bench.dir.path());
        command
    };
    refused(&mut run("no-such-tool"), 127, &["command not found"]);
    refused(&mut run("./dummy"), 126, &["./dummy", "directory"]);
    refused(&mut run("/no/such/program"), 127, &["command not found"]);
    // exec itself refuses, in the child.
    let mut command = bench.plain(Path::new(FENCEPOST));
    command
        .args(["run", "--guard", "--lib"])
        .arg(&bench.library);
    command.args(["--", "true"]);
    command.env("LD_PRELOAD", "x".repeat(128 * 1024 - 30));
    let output = command.env("TMPDIR", bench.path("dummy")).output().unwrap();
    assert_eq!(output.status.code(), Some(126), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("Argument list too long"));
    let left: Vec<_> = fs::read_dir(bench.path("dummy")).unwrap().collect();
    assert_eq!(left.len(), 2, "the library and its source: {left:?}");
    // A script without a #! line, forced.
    let script = bench.file("script", "echo \"<$1>\"; exit 9\n");
    let mut command = bench.fencepost();
    command.args(["run", "--guard", "--force", "--"]);
    let output = command.arg(script).arg("argument").output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    assert_eq!(text(&output.stdout), "<argument>\n");
}

/// Runs `script` in a shell that calls the program directly or as a guarded child.
fn shell(bench: &Bench, script: &str, through: bool) -> String {
    let run = if through {
        format!("{FENCEPOST} run --guard --")
    } else {
        String::new()
    };
    let mut command = bench.plain(Path::new("sh"));
    let command = command.args(["-c", script]).env("RUN", run);
    let output = command
        .env("FENCEPOST_LIB", &bench.library)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{script}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn the_program_finds_its_process_as_the_caller_made_it() {
    let bench = Bench::new();
    for script in [
        "$RUN grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        "trap '' PIPE INT QUIT TERM HUP CHLD; $RUN grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        "$RUN sh -c 'ls /proc/self/fd' <&-",
        "$RUN sh -c 'ls /proc/self/fd' 2>&-",
        "exec 7</dev/null; $RUN sh -c 'ls /proc/self/fd'",
        "ulimit -c 0; $RUN sh -c 'ulimit -c'",
        // Process group, session, terminal; all end alike, and nothing is left to wait for.
        "$RUN cut -d' ' -f6-8 /proc/self/stat",
        "env --ignore-signal=CHLD $RUN sh -c 'exit 9'; echo $?",
        "env --ignore-signal $RUN grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        "env --block-signal $RUN grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status",
        "$RUN sh -c 'exit 9' 2>&-; echo $?",
        "$RUN sh -c 'exit 9' >&- 2>&- <&-; echo $?",
    ] {
        let direct = shell(&bench, script, false);
        bench.log();
        assert_eq!(shell(&bench, script, true), direct, "{script}");
        assert!(!bench.log().is_empty(), "{script} ran without the library");
    }
    let group = "test $($RUN cut -d' ' -f5 /proc/self/stat) = $(cut -d' ' -f5 /proc/$$/stat)";
    shell(&bench, group, true);
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.try_into().unwrap()).unwrap()
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map(Result::unwrap)
}

#[test]
fn signals_that_are_sent_to_us_reach_the_program_once() {
    let bench = Bench::new();
    for signal in [
        Signal::TERM,
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
    ] {
        let number = signal.as_raw();
        let last = if signal == Signal::USR2 {
            Signal::USR1
        } else {
            Signal::USR2
        };
        let script = format!(
            "trap 'echo caught' {number}; trap 'exit 7' {}; echo ready;
            while :; do sleep 0.02; done",
            last.as_raw()
        );
        let mut command = guarded(&bench, &script);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = lines(&mut child);
        assert_eq!(said.next().unwrap(), "ready");
        kill_process(pid(child.id()), signal).unwrap();
        assert_eq!(said.next().unwrap(), "caught");
        kill_process(pid(child.id()), last).unwrap();
        assert_eq!(said.next(), None, "signal {number}");
        assert_eq!(child.wait().unwrap().code(), Some(7), "signal {number}");
    }
    // Uncaught, they end both.
    let mut command = guarded(&bench, "echo ready; while :; do sleep 0.02; done");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(lines(&mut child).next().unwrap(), "ready");
    kill_process(pid(child.id()), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::TERM.as_raw()));
}

#[test]
fn a_terminal_reaches_the_program_by_itself() {
    let bench = Bench::new();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let name = name.to_str().unwrap();
    let open = || File::options().read(true).write(true).open(name).unwrap();
    // It says so at every interrupt, at once.
    let program = bench.path("program");
    let code = "#include <signal.h>\n#include <stdio.h>\n#include <unistd.h>\n\
        static void caught(int s) { if (write(1, \"caught\\n\", 7) != 7 || s != SIGINT) _exit(1); }\n\
        static void ended(int s) { _exit(s == SIGTERM ? 7 : 1); }\n\
        int main(void) { signal(SIGINT, caught); signal(SIGTERM, ended);\n\
        printf(\"ready %d\\n\", getppid()); fflush(stdout); for (;;) pause(); }";
    bench.compile(code, &program, &[]).unwrap();
    // A session of its own whose terminal is the one that is made here.
    let mut command = bench.plain(Path::new("setsid"));
    command.args(["--ctty", "--wait"]).args(USUAL);
    command
        .args([FENCEPOST, "run", "--guard", "--"])
        .arg(program);
    command.env("FENCEPOST_LIB", &bench.library);
    command.stdin(open()).stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return support::absent(&format!("setsid: {error}")),
    };
    let mut said = lines(&mut child);
    let ready = said.next().expect("the program starts");
    let parent = ready.strip_prefix("ready ").unwrap().parse().unwrap();
    let mut terminal = File::from(master);
    // Two that arrive together would look like one: it is tried often.
    for _ in 0..50 {
        terminal.write_all(b"\x03").unwrap();
        assert_eq!(said.next().unwrap(), "caught");
        std::thread::sleep(Duration::from_millis(1));
    }
    kill_process(pid(parent), Signal::TERM).unwrap();
    assert_eq!(said.next(), None, "an interrupt came twice");
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

/// The state of a process, as `ps` writes it.
fn state(id: u32) -> char {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let (_, behind) = stat.rsplit_once(") ").unwrap();
    behind.chars().next().unwrap()
}

#[test]
fn a_program_that_stops_itself_stops_us_and_goes_on_with_us() {
    let bench = Bench::new();
    let mut command = guarded(&bench, "kill -STOP $$; exit 5");
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    while state(child.id()) != 'T' {
        assert!(start.elapsed() < PATIENCE, "state {}", state(child.id()));
        std::thread::sleep(Duration::from_millis(5));
    }
    kill_process(pid(child.id()), Signal::CONT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
}

#[test]
fn a_program_does_not_outlive_us() {
    let bench = Bench::new();
    let mut command = guarded(&bench, "echo $$; while :; do sleep 0.02; done");
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let id: u32 = lines(&mut child).next().unwrap().parse().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let start = Instant::now();
    // Whoever adopts it may be slow to bury it.
    let gone = || {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_none_or(|(_, state)| state.starts_with(['Z', 'X']))
    };
    while !gone() {
        assert!(start.elapsed() < PATIENCE, "it still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn reports_get_names_and_other_processes_are_told_apart() {
    let bench = Bench::new();
    let sources = ["main.c", "calls.c", "tell.c"];
    let program = compile(&bench, "program", &sources, &["-O1", "-g"]);
    let place = &places(&program, false)[0];
    let mut other = report(&[place.frame()]);
    other["program"] = "/opt/worker".into();
    let mut own = report(&[]);
    own["pid"] = "PID".into();
    let lines = [
        other.to_string(),
        own.to_string().replace("\"PID\"", "'$$'"),
    ];
    // The second line's process is the program itself.
    let script = format!("echo '{}' >>\"$FENCEPOST_GUARD_REPORT\"", lines[1]);
    let output = reporting(&bench, &lines[..1], &script).output().unwrap();
    let errors = text(&output.stderr);
    let first = "fencepost: double free: 0x1000 (100 bytes), freed 1 operation ago\n";
    let process = "  in process 1 (/opt/worker)\n";
    let thread = "  by thread 7 (main):\n";
    assert!(
        errors.starts_with(&format!("{first}{process}{thread}    #0 inner at ")),
        "{errors}"
    );
    let calls = source(&bench, "calls.c");
    let line = |mark: &str| format!("calls.c:{}", line_of(&calls, mark));
    assert!(errors.contains(&line("inner")), "{errors}");
    assert!(errors.contains(&line("outer")), "{errors}");
    assert!(errors.ends_with(&format!("\n{first}{thread}")), "{errors}");
}

#[test]
fn the_report_file_is_private_and_removed() {
    let bench = Bench::new();
    let script = "stat -c %a \"$FENCEPOST_GUARD_REPORT\"; echo \"$FENCEPOST_GUARD_REPORT\"";
    let mut command = guarded(&bench, script);
    let output = command.env("TMPDIR", bench.dir.path()).output().unwrap();
    let said = text(&output.stdout);
    let (mode, path) = said.trim_end().split_once('\n').unwrap();
    assert_eq!(mode, "600");
    assert!(Path::new(path).starts_with(bench.dir.path()), "{path}");
    assert!(!Path::new(path).exists());
    // Without a place for it nothing is started.
    let mut command = guarded(&bench, "echo ran");
    command.env("TMPDIR", "/no/such/directory");
    refused(&mut command, OWN, &["/no/such/directory"]);
}

#[test]
fn a_named_report_file_keeps_what_is_in_it() {
    let bench = Bench::new();
    let leak = leak(48, 3, &[]).to_string();
    let kept = bench.path("kept");
    let old = "what was there\n";
    fs::write(&kept, old).unwrap();
    for runs in 1..=2 {
        let reports = bench.path("reports");
        fs::write(&reports, format!("{leak}\n")).unwrap();
        let mut command = bench.fencepost();
        command.args(["run", "--guard", "--report", "kept", "--", "sh", "-c"]);
        // The program may go elsewhere.
        command
            .arg(format!("cd /; {REPORT}"))
            .env("REPORTS", reports);
        let output = command.current_dir(bench.dir.path()).output().unwrap();
        let errors = text(&output.stderr);
        assert_eq!(errors.matches("leak: 48 bytes").count(), 1, "{errors}");
        assert!(!errors.contains("cannot be read"), "{errors}");
        let expected = format!("{old}{}", format!("{leak}\n").repeat(runs));
        assert_eq!(fs::read_to_string(&kept).unwrap(), expected);
    }
}

#[test]
fn torn_reports_are_told_and_hide_no_others() {
    let bench = Bench::new();
    let leak = leak(48, 3, &[]).to_string();
    let lines = [
        leak[..30].to_string(),
        leak.clone(),
        format!("{}{leak}", &leak[..30]),
    ];
    let output = reporting(&bench, &lines, "kill -KILL $$").output().unwrap();
    assert_eq!(output.status.signal(), Some(Signal::KILL.as_raw()));
    let errors = text(&output.stderr);
    let refused = |line| format!("fencepost: a report cannot be read (line {line}): ");
    assert!(
        errors.starts_with(&format!("{}it is cut off: ", refused(1))),
        "{errors}"
    );
    assert!(errors.contains(&refused(3)), "{errors}");
    assert_eq!(errors.matches("cannot be read").count(), 2, "{errors}");
    assert_eq!(errors.matches("leak: 48 bytes").count(), 2, "{errors}");
}

#[test]
fn suppressed_leaks_are_counted() {
    let bench = Bench::new();
    let module = serde_json::json!({"pc": "0x1", "module": "/opt/lib/x.so", "offset": "0x1"});
    let reports = bench.path("reports");
    let lines = [leak(48, 3, &[module]), leak(10, 1, &[])];
    fs::write(&reports, lines.map(|line| format!("{line}\n")).concat()).unwrap();
    let mut command = bench.fencepost();
    command.args([
        "run",
        "--guard",
        "--suppress",
        "*/x.so",
        "--",
        "sh",
        "-c",
        REPORT,
    ]);
    let errors = text(&command.env("REPORTS", reports).output().unwrap().stderr);
    assert!(errors.starts_with("fencepost: leak: 10 bytes"), "{errors}");
    let end = "\nfencepost: 1 leak report suppressed: 48 bytes in 3 blocks\n";
    assert!(errors.ends_with(end), "{errors}");
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn a_closed_standard_error_does_not_change_the_end() {
    let bench = Bench::new();
    let leak = leak(48, 3, &[]).to_string();
    let mut command = reporting(&bench, &[leak], "echo closed >&2; read line; exit 3");
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut errors = child.stderr.take().unwrap();
    errors.read_exact(&mut [0; 7]).unwrap();
    drop(errors);
    drop(child.stdin.take());
    let output: Output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3));
}
