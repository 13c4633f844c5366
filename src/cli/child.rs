//! A program as our child, so that the two look like one process to everybody else: signals that
//! are meant for it reach it, and we end as it ends.
//!
//! `std::process::Command` would change signals and their mask on the way; the program must find
//! them as our caller left them.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use libc::{c_int, sigset_t};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{
    DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getrlimit, kill_process,
    set_dumpable_behavior, set_parent_process_death_signal, setrlimit, waitpid,
};

/// The signals that ask a process for something. Whoever knows only our process id sends them to
/// us and means the program. Those that stop and continue go to the whole process group.
const FORWARDED: [Signal; 8] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::TERM,
    Signal::XCPU,
];

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this status.
    Status(i32),
    /// This signal killed it.
    Signal(c_int),
}

/// A running child. While it lives, the signals that we watch are blocked in this process.
pub struct Child {
    pid: Pid,
    watched: sigset_t,
    before: sigset_t,
}

impl Child {
    /// Starts a child. `become_program` runs in it, on a copy of our memory, and returns only if
    /// it fails. This process must have one thread only.
    ///
    /// # Errors
    /// Why there is no child, or why it did not become the program.
    pub fn start(become_program: impl FnOnce() -> io::Error) -> io::Result<Child> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let watched = watched();
        let before = block(&watched);
        // Were SIGCHLD ignored, the child would vanish without a trace.
        let child_signal = set_action(libc::SIGCHLD, &default_action());
        // SAFETY: there is one thread only, so that the child may do whatever we may.
        let forked = unsafe { libc::fork() };
        if forked == 0 {
            // Whoever kills us without mercy means the program.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            drop(reader);
            set_action(libc::SIGCHLD, &child_signal);
            set_mask(&before);
            let error = become_program();
            let number = error.raw_os_error().unwrap_or(libc::EINVAL);
            let _ = File::from(writer).write_all(&number.to_ne_bytes());
            // SAFETY: ends the process and runs nothing of ours that stands for the parent.
            unsafe { libc::_exit(127) }
        }
        let fork_error = io::Error::last_os_error();
        drop(writer);
        let Some(pid) = Pid::from_raw(forked).filter(|_| forked > 0) else {
            set_action(libc::SIGCHLD, &child_signal);
            set_mask(&before);
            return Err(fork_error);
        };
        let child = Child {
            pid,
            watched,
            before,
        };
        let mut number = [0; 4];
        // The pipe closes when the child becomes the program.
        match File::from(reader).read_exact(&mut number) {
            Ok(()) => {
                child.wait();
                Err(io::Error::from_raw_os_error(i32::from_ne_bytes(number)))
            }
            Err(_) => Ok(child),
        }
    }

    /// The child's process id.
    pub fn id(&self) -> u64 {
        u64::from(self.pid.as_raw_nonzero().get().unsigned_abs())
    }

    /// Waits for the child's end and passes signals on to it meanwhile.
    pub fn wait(self) -> End {
        let end = loop {
            match waitpid(Some(self.pid), WaitOptions::NOHANG | WaitOptions::UNTRACED) {
                Ok(Some((_, status))) => {
                    if let Some(signal) = status.terminating_signal() {
                        break End::Signal(signal);
                    }
                    if let Some(status) = status.exit_status() {
                        break End::Status(status);
                    }
                    self.stop_too();
                }
                Ok(None) => self.pass_on(None),
                Err(rustix::io::Errno::INTR) => {}
                // Nobody else can have waited for it.
                Err(error) => break End::Status(error.raw_os_error()),
            }
        };
        // What arrived for it until now is not for us.
        while self.next_signal(Some(Duration::ZERO)).is_some() {}
        set_mask(&self.before);
        end
    }

    /// The program was stopped: so are we, for a shell looks at us.
    fn stop_too(&self) {
        // A terminal continues us and the program one after the other: let it be seen running.
        std::thread::sleep(Duration::from_millis(50));
        let path = format!("/proc/{}/stat", self.pid.as_raw_nonzero());
        let stat = std::fs::read_to_string(path).unwrap_or_default();
        let state = stat.rsplit_once(") ").map_or("", |(_, behind)| behind);
        if state.starts_with('T') {
            let _ = kill_process(getpid(), Signal::STOP);
            let _ = kill_process(self.pid, Signal::CONT);
        }
    }

    /// Waits for one of the watched signals and passes it on.
    fn pass_on(&self, limit: Option<Duration>) {
        let Some(info) = self.next_signal(limit) else {
            return;
        };
        let Some(signal) = FORWARDED.into_iter().find(|s| s.as_raw() == info.si_signo) else {
            return;
        };
        // What the kernel sends of itself, it sends to the whole process group of a terminal, but
        // for timers and limits, which are ours alone.
        let own = matches!(signal, Signal::ALARM | Signal::XCPU);
        let by_kernel = info.si_code == libc::SI_KERNEL;
        // SAFETY: the kernel filled the structure for a signal that a process sent.
        let by_child = !by_kernel && unsafe { info.si_pid() } == self.pid.as_raw_nonzero().get();
        if own || !(by_kernel || by_child) {
            // It may have ended meanwhile.
            let _ = kill_process(self.pid, signal);
        }
    }

    /// The next of the watched signals; `None` when the time is up.
    fn next_signal(&self, limit: Option<Duration>) -> Option<libc::siginfo_t> {
        let mut info = MaybeUninit::zeroed();
        let limit = limit.map(|limit| libc::timespec {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_nsec: limit.subsec_nanos() as libc::c_long,
        });
        let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: all three point at values that live until the call returns; null means for ever.
        let signal = unsafe { libc::sigtimedwait(&self.watched, info.as_mut_ptr(), limit) };
        // SAFETY: every bit pattern is a siginfo_t, and the memory was zeroed.
        (signal > 0).then(|| unsafe { info.assume_init() })
    }
}

/// Ends this process as the program ended.
pub fn end_as(end: End) -> ! {
    let signal = match end {
        End::Status(status) => std::process::exit(status),
        End::Signal(signal) => signal,
    };
    let _ = io::stdout().flush();
    // The core that counts is the program's. A limit does not bind a handler behind a pipe.
    let hard = getrlimit(Resource::Core).maximum;
    let none = Rlimit {
        current: Some(0),
        maximum: hard,
    };
    let _ = setrlimit(Resource::Core, none);
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    set_action(signal, &default_action());
    // SAFETY: the signal is one that just killed a process.
    unsafe { libc::raise(signal) };
    let mut set = empty();
    // SAFETY: the set is a valid one.
    unsafe { libc::sigaddset(&mut set, signal) };
    // SAFETY: the set is a valid one, and the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_UNBLOCK, &set, ptr::null_mut()) };
    // As a shell would say it, should we still live.
    std::process::exit(128 + signal)
}

/// Lets writes to closed pipes fail instead of killing this process: whatever happens to the
/// output, it must end as the program did.
pub fn survive_closed_pipes() {
    let mut action = default_action();
    action.sa_sigaction = libc::SIG_IGN;
    set_action(libc::SIGPIPE, &action);
}

fn empty() -> sigset_t {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: the call fills the set in, and zeros are one already.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

fn watched() -> sigset_t {
    let mut set = empty();
    for signal in FORWARDED.iter().map(|s| s.as_raw()).chain([libc::SIGCHLD]) {
        // SAFETY: the set is a valid one.
        unsafe { libc::sigaddset(&mut set, signal) };
    }
    set
}

/// Blocks the signals and returns the mask from before.
fn block(set: &sigset_t) -> sigset_t {
    let mut before = empty();
    // SAFETY: both are valid sets.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, set, &mut before) };
    before
}

fn set_mask(set: &sigset_t) {
    // SAFETY: the set is a valid one, and the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, set, ptr::null_mut()) };
}

fn default_action() -> libc::sigaction {
    // SAFETY: zeros are a valid action: the default, without flags.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Sets what a signal does and returns what it did.
fn set_action(signal: c_int, action: &libc::sigaction) -> libc::sigaction {
    let mut before = default_action();
    // SAFETY: both are valid actions, and the new one runs no code of ours.
    unsafe { libc::sigaction(signal, action, &mut before) };
    before
}
