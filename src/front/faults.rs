//! The handler of faults, over the process's own heap and pool.

use super::process::{KERNEL, SHARED, enter, is_started};
use crate::guard::handler::{self, Witness};
use crate::guard::scene::{Fault, Incident, Location, Names, Scene, ThreadName};
use crate::guard::{FRAMES, StackId, text, verdict::Verdict};
use crate::os::signals::{Action, Trap, process_id, thread_id};
use crate::os::stack::{Bounds, walk};

/// Installs the handler for the process, and gives the calling thread an alternate stack.
pub fn begin() {
    handler::install(&KERNEL, &WITNESS);
    handler::thread_begins(&KERNEL);
}

/// What a thread does when it first comes in.
pub(super) fn thread_begins() {
    if handler::is_installed() {
        handler::thread_begins(&KERNEL);
    }
}

/// What a thread does when it ends.
pub(super) fn thread_ends() {
    if handler::is_installed() {
        handler::thread_ends(&KERNEL);
    }
}

/// The program's wish about a signal, see [`handler::wish`].
#[must_use]
pub fn wish(signal: i32, new: Option<Action>) -> Option<Action> {
    if !handler::is_installed() {
        return None;
    }
    if is_started() {
        enter();
        handler::enter(&KERNEL, SHARED.generation());
    }
    handler::wish(signal, new)
}

struct Process;

static WITNESS: &dyn Witness = &Process;

impl Witness for Process {
    fn holds(&self, _: usize) -> bool {
        false
    }

    fn explain(&self, trap: &Trap) {
        let mut frames = [0; 32];
        let bounds = Bounds::probed(trap.sp, trap.fp);
        let count = walk(trap.pc, trap.fp, bounds, &mut frames);
        let fault = Fault {
            addr: trap.addr,
            access: trap.access,
            signal: trap.signal,
            code: trap.code,
            trap: trap.trap,
            error: trap.error,
            pc: trap.pc,
            sp: trap.sp,
            fp: trap.fp,
            registers: trap.registers,
        };
        let incident = Incident {
            thread: thread_id(),
            stack: frames.get(..count).unwrap_or(&[]),
            signal: Some((trap.signal, trap.code)),
            process: process_id(),
            program: b"",
            now: 0,
            sampled: 0,
        };
        let verdict = Verdict::NotOurs {
            addr: fault.addr,
            pc: Some(fault.pc),
            signal: fault.signal,
            code: fault.code,
        };
        let mut buffer = [0; 512];
        text::Writer::new(self, &mut buffer, &mut |line| {
            crate::report::write(2, line);
        })
        .report(&verdict, &incident);
        let _ = Scene::NOWHERE;
    }
}

impl Names for Process {
    fn stack(&self, id: StackId, frames: &mut [usize; FRAMES]) -> usize {
        super::guarding::GUARD.stack(id, frames)
    }
    fn locate(&self, _: usize) -> Option<Location<'_>> {
        None
    }
    fn thread(&self, _: u32) -> ThreadName {
        [0; 16]
    }
}
