//! Child processes: a clean environment, an optional preload, a watchdog.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

/// Tunables that a preloaded child inherits from the test's environment.
const FORWARDED: &[&str] = &[
    "FENCEPOST_CACHE",
    "FENCEPOST_DEPOT",
    "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES",
];

/// How a child ended and what it said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The exit status or the deadly signal.
    pub status: ExitStatus,
    /// Everything written to standard output.
    pub stdout: Vec<u8>,
    /// Everything written to standard error.
    pub stderr: Vec<u8>,
    /// The watchdog killed the child, so `status` says SIGKILL.
    pub timed_out: bool,
}

impl Outcome {
    /// The signal that ended the child, if one did.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Passes the outcome on if the child exited with 0 in time.
    ///
    /// # Panics
    /// Otherwise, naming `what` and quoting the tail of both outputs.
    #[track_caller]
    pub fn expect_success(self, what: &str) -> Self {
        assert!(!self.timed_out, "{what}: hung\n{}", self.tail());
        assert!(
            self.status.success(),
            "{what}: {}\n{}",
            self.status,
            self.tail()
        );
        self
    }

    /// The last lines of both outputs, for messages.
    pub fn tail(&self) -> String {
        let last = |bytes: &[u8]| {
            let from = bytes.len().saturating_sub(2000);
            String::from_utf8_lossy(&bytes[from..]).into_owned()
        };
        format!(
            "--- stdout (tail)\n{}\n--- stderr (tail)\n{}",
            last(&self.stdout),
            last(&self.stderr)
        )
    }
}

/// One child process to be run to its end.
///
/// The environment starts empty but for `PATH`, `HOME`, `TZ` and `LC_ALL`, so
/// two runs differ only in what the test says and no tunable leaks in. The
/// child leads a process group of its own; when it is gone or late, the whole
/// group is killed, so nothing that it forked outlives the test.
#[derive(Clone, Debug)]
pub struct Run {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Vec<u8>,
    dir: Option<PathBuf>,
    timeout: Duration,
}

impl Run {
    /// A run of `program` with no arguments, empty input and 60 s to live.
    pub fn new(program: impl AsRef<Path>) -> Self {
        Run {
            program: program.as_ref().to_path_buf(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            dir: None,
            timeout: Duration::from_secs(60),
        }
    }

    /// Adds one argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_os_string());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args
            .extend(args.into_iter().map(|a| a.as_ref().to_os_string()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((key.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Sets several environment variables.
    pub fn envs(mut self, pairs: &[(&str, &str)]) -> Self {
        for (key, value) in pairs {
            self = self.env(key, value);
        }
        self
    }

    /// Loads the preload library into the child and into whatever it starts.
    /// The tunables in [`FORWARDED`] go along when the test's own environment
    /// has them, so `FENCEPOST_CACHE=0 cargo test` tests without the caches.
    pub fn preload(mut self) -> Self {
        for name in FORWARDED {
            if let Some(value) = std::env::var_os(name) {
                self = self.env(name, value);
            }
        }
        self.env("LD_PRELOAD", super::preload_library())
    }

    /// Feeds `bytes` to standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Runs in `dir`.
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = Some(dir.as_ref().to_path_buf());
        self
    }

    /// Kills the child's process group after `timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The command behind this run, for a child that is not run to its end (a
    /// server): environment and directory set, a process group of its own.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", env!("CARGO_TARGET_TMPDIR"))
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .process_group(0);
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command
    }

    /// Runs the child to its end or to the timeout.
    ///
    /// # Panics
    /// When the child cannot be started.
    pub fn output(self) -> Outcome {
        let mut child = self
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));

        let mut input = child.stdin.take().expect("stdin is piped");
        let bytes = self.stdin;
        let writer = std::thread::spawn(move || {
            // A child that does not read its input is no error.
            let _ = input.write_all(&bytes);
        });
        let stdout = drain(child.stdout.take().expect("stdout is piped"));
        let stderr = drain(child.stderr.take().expect("stderr is piped"));

        let timed_out = !wait_until_exit(&child, self.timeout);
        // Before the leader is reaped its id cannot be used anew, so this can
        // reach no stranger.
        kill_group(&child);
        let status = child.wait().expect("the child can be waited for");
        writer.join().expect("the writer thread ends");
        Outcome {
            status,
            stdout: stdout.join().expect("the reader thread ends"),
            stderr: stderr.join().expect("the reader thread ends"),
            timed_out,
        }
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        bytes
    })
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id() as i32).expect("a child has a process id")
}

/// Waits, without reaping, until the child is gone; false after `timeout`.
fn wait_until_exit(child: &Child, timeout: Duration) -> bool {
    let deadline = Instant::now() + timeout;
    let mut nap = Duration::from_micros(200);
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        if rustix::process::waitid(WaitId::Pid(pid(child)), options)
            .expect("a child can be waited for")
            .is_some()
        {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(nap);
        nap = (nap * 2).min(Duration::from_millis(10));
    }
}

/// Kills the process group that a child of [`Run`] leads; the child must not
/// have been waited for yet.
pub fn kill_group(child: &Child) {
    let _ = rustix::process::kill_process_group(pid(child), Signal::KILL);
}

/// Where an optional outside program is, or `None` with the reason printed.
///
/// `/usr/bin` comes before `PATH`, because version managers put shell scripts
/// in front of the real interpreters.
///
/// # Panics
/// When it is missing and `FENCEPOST_REQUIRE_PROGRAMS=1` asks for all of them.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["/usr/bin", "/bin"]
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        let required = std::env::var_os("FENCEPOST_REQUIRE_PROGRAMS").is_some_and(|v| v == "1");
        assert!(
            !required,
            "{name} is not installed, and FENCEPOST_REQUIRE_PROGRAMS=1"
        );
        println!("skipped: {name} is not installed");
    }
    found
}
