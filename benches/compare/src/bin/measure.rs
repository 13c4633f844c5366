//! Runs one program, measures it, and prints the measurement as JSON.
//!
//! It is a program of its own because the kernel credits the peak of a forking
//! process to the child that it starts: exec takes over the larger of the two.
//! A large measuring process would hide the footprint of small programs. This
//! one holds next to nothing, and is linked statically when the comparison
//! builds it.
//!
//! `compare-measure [--preload LIB] [--stdin FILE] --stdout FILE
//! [--repeat N] [--timeout SECONDS] [--driver SCRIPT] -- PROGRAM ARGUMENT...`
//!
//! With `--driver`, PROGRAM is a server: the driver runs beside it without the
//! preload, its output is the output, and it makes the server end.
// wait4 and kill have no safe counterpart that reports resource usage.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

#[derive(Default)]
struct Options {
    preload: Option<String>,
    stdin: Option<String>,
    stdout: String,
    repeat: u32,
    timeout: u64,
    driver: Option<String>,
    program: Vec<String>,
}

fn options() -> Option<Options> {
    let mut options = Options {
        repeat: 1,
        timeout: 120,
        ..Options::default()
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--" {
            options.program = arguments.collect();
            break;
        }
        let value = arguments.next()?;
        match name.as_str() {
            "--preload" => options.preload = Some(value),
            "--stdin" => options.stdin = Some(value),
            "--stdout" => options.stdout = value,
            "--repeat" => options.repeat = value.parse().ok()?,
            "--timeout" => options.timeout = value.parse().ok()?,
            "--driver" => options.driver = Some(value),
            _ => return None,
        }
    }
    (!options.program.is_empty() && !options.stdout.is_empty()).then_some(options)
}

/// What one run used; `maxrss` in KiB as the kernel counts it.
#[derive(Default)]
struct Usage {
    user: f64,
    system: f64,
    maxrss: i64,
    minor: i64,
    major: i64,
    status: String,
}

fn seconds(time: libc::timeval) -> f64 {
    time.tv_sec as f64 + time.tv_usec as f64 / 1e6
}

/// Waits for the child until `deadline`, then kills its process group.
fn reap(child: &Child, deadline: Instant) -> io::Result<Usage> {
    let pid = libc::pid_t::try_from(child.id()).map_err(io::Error::other)?;
    // SAFETY: pidfd_open takes a pid and flags and returns a descriptor or -1.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let mut late = false;
    if pidfd >= 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut poll = libc::pollfd {
            fd: pidfd as i32,
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one valid pollfd, which outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
        // SAFETY: the descriptor is ours and is not used again.
        unsafe { libc::close(pidfd as i32) };
        if ready == 0 {
            late = true;
            // SAFETY: the child leads a process group of its own, and it is not
            // reaped yet, so that the number still means that group.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
    }
    let mut status = 0;
    // SAFETY: rusage is plain data for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for writing, and the child is ours.
    if unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) } != pid {
        return Err(io::Error::last_os_error());
    }
    let status = if late {
        "timeout".to_owned()
    } else if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else if libc::WEXITSTATUS(status) != 0 {
        format!("exit {}", libc::WEXITSTATUS(status))
    } else {
        String::new()
    };
    Ok(Usage {
        user: seconds(usage.ru_utime),
        system: seconds(usage.ru_stime),
        maxrss: usage.ru_maxrss,
        minor: usage.ru_minflt,
        major: usage.ru_majflt,
        status,
    })
}

fn command(program: &[String], preload: Option<&str>) -> Command {
    let mut command = Command::new(&program[0]);
    command
        .args(&program[1..])
        .env_remove("LD_PRELOAD")
        .process_group(0);
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

fn run(options: &Options, output: &File) -> io::Result<Usage> {
    let deadline = Instant::now() + Duration::from_secs(options.timeout);
    let mut main = command(&options.program, options.preload.as_deref());
    if let Some(input) = &options.stdin {
        main.stdin(File::open(input)?);
    }
    let Some(driver) = &options.driver else {
        main.stdout(output.try_clone()?);
        return reap(&main.spawn()?, deadline);
    };
    let server = main.stdout(Stdio::null()).spawn()?;
    let driver = command(&["/bin/bash".to_owned(), driver.clone()], None)
        .stdout(output.try_clone()?)
        .spawn()?;
    let driven = reap(&driver, deadline)?;
    let mut usage = reap(
        &server,
        deadline.min(Instant::now() + Duration::from_secs(10)),
    )?;
    if usage.status.is_empty() && !driven.status.is_empty() {
        usage.status = format!("driver: {}", driven.status);
    }
    Ok(usage)
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("compare-measure: the arguments are not understood");
        return ExitCode::from(2);
    };
    let started = Instant::now();
    let mut total = Usage::default();
    let measured = File::create(&options.stdout).and_then(|output| {
        for _ in 0..options.repeat {
            let usage = run(&options, &output)?;
            total.user += usage.user;
            total.system += usage.system;
            total.minor += usage.minor;
            total.major += usage.major;
            total.maxrss = total.maxrss.max(usage.maxrss);
            if !usage.status.is_empty() {
                total.status = usage.status;
                break;
            }
        }
        Ok(())
    });
    if let Err(error) = measured {
        eprintln!("compare-measure: {}: {error}", options.program[0]);
        return ExitCode::FAILURE;
    }
    println!(
        r#"{{"wall":{},"user":{},"system":{},"rss_kib":{},"minor":{},"major":{},"failure":"{}"}}"#,
        started.elapsed().as_secs_f64(),
        total.user,
        total.system,
        total.maxrss,
        total.minor,
        total.major,
        total.status
    );
    ExitCode::SUCCESS
}
