//! One redis server on a unix socket, killed with the value that holds it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::Stage;
use crate::support::{Run, kill_group};

/// A running server.
pub struct Server {
    child: Child,
    client: PathBuf,
    socket: PathBuf,
}

impl Server {
    /// Starts `server` in the stage's directory and waits until it answers.
    pub fn start(stage: &Stage, server: &Path, client: &Path) -> Self {
        let socket = stage.dir().join("redis.sock");
        let run = stage
            .dress(Run::new(server))
            .args(["--port", "0", "--unixsocket"])
            .arg(&socket)
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--io-threads", "2", "--io-threads-do-reads", "yes"])
            .args(["--enable-debug-command", "yes", "--loglevel", "warning"]);
        let log = std::fs::File::create(stage.dir().join("redis.log")).expect("a log file");
        let child = run
            .command()
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::piped())
            .spawn()
            .expect("redis-server can be started");
        let mut server = Server {
            child,
            client: client.to_path_buf(),
            socket,
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.ask(&["PING"]) != "PONG\n" {
            let gone = server
                .child
                .try_wait()
                .expect("the server can be waited for");
            assert!(
                gone.is_none() && Instant::now() < deadline,
                "redis-server: {gone:?}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// The socket to talk to.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One command through `redis-cli`; the reply as it prints it.
    pub fn ask(&self, command: &[&str]) -> String {
        let run = Run::new(&self.client)
            .arg("-s")
            .arg(&self.socket)
            .args(command);
        run.timeout(Duration::from_secs(60)).output().out()
    }

    /// Waits until a section of `INFO` has the line.
    pub fn wait_for(&self, section: &str, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let info = self.ask(&["INFO", section]);
            if info.lines().any(|l| l.trim_end() == line) {
                return;
            }
            assert!(Instant::now() < deadline, "no {line} in\n{info}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Shuts the server down in the orderly way; what it wrote on stderr.
    pub fn stop(mut self) -> Vec<u8> {
        self.ask(&["SHUTDOWN", "NOSAVE"]);
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the server can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "redis-server does not shut down");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success(), "redis-server: {status}");
        let mut stderr = Vec::new();
        let mut pipe = self.child.stderr.take().expect("stderr is piped");
        pipe.read_to_end(&mut stderr).expect("the pipe can be read");
        stderr
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_group(&self.child);
            let _ = self.child.wait();
        }
    }
}
