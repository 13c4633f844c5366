//! The handler of faults, over the process's own heap and pool.

use super::guarding::GUARD;
use super::process::{KERNEL, SETTINGS, SHARED, enter, is_started};
use crate::config::{Key, Text};
use crate::guard::desk::{Desk, Style};
use crate::guard::handler::{self, Witness};
use crate::os::PageState;
use crate::os::signals::{Action, Trap};

/// Where reports are written.
pub(super) static DESK: Desk = Desk::new();

/// How reports are to be made.
pub(super) fn style() -> Style<'static> {
    Style {
        text: SETTINGS.get(Key::GuardText) != 0,
        file: SETTINGS.text(Text::GuardReport),
        sampled: SETTINGS.get(Key::Guard) as u64,
    }
}

/// Installs the handler for the process, and gives the calling thread an alternate stack.
pub fn begin() {
    handler::install(&KERNEL, &WITNESS);
    handler::thread_begins(&KERNEL);
}

/// Puts the handler in order if this is a new process. The caller has come in.
#[inline]
pub(super) fn check_fork() {
    if handler::enter(&KERNEL, SHARED.generation()) {
        DESK.forked();
    }
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
        check_fork();
    }
    handler::wish(signal, new)
}

struct Process;

static WITNESS: &dyn Witness = &Process;

impl Witness for Process {
    fn holds(&self, addr: usize) -> bool {
        GUARD.holds(addr)
    }

    fn explain(&self, trap: &Trap) {
        let page = trap.addr.map_or(PageState::None, |addr| KERNEL.state(addr));
        DESK.fault(&GUARD, style(), page, trap);
    }
}
