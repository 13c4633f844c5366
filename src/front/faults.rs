//! The handler of faults, over the process's own heap and pool.

use super::guarding::GUARD;
use super::process::{KERNEL, SETTINGS, SHARED, enter, is_started};
use crate::config::{Key, Text};
use crate::guard::desk::{Case, Desk, Style};
use crate::guard::handler::{self, Witness};
use crate::guard::verdict::{Given, Occasion};
use crate::guard::{Damage, Record, Refusal, of_call, of_canary};
use crate::os::PageState;
use crate::os::signals::{Action, Trap};
use crate::report::{Call, Line, Misuse};

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
fn check_fork() {
    handler::enter(&KERNEL, SHARED.generation());
}

/// Looks after the handler, at each of the pool's operations: see [`handler::recheck`].
#[inline]
pub(super) fn check() {
    /// Of this many operations one looks, and at the beginning more.
    const EVERY: u64 = 256;
    check_fork();
    let now = GUARD.now();
    if now & (EVERY - 1) == 0 || now.is_power_of_two() {
        handler::recheck();
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
        GUARD.holds(addr) && !GUARD.is_open(addr)
    }

    fn explain(&self, trap: &Trap) {
        let page = trap.addr.map_or(PageState::None, |addr| KERNEL.state(addr));
        DESK.fault(&GUARD, style(), page, trap);
    }
}

/// Explains why the pool refused what a call was given; `stack` is where the call came from.
pub(super) fn explain_call(
    call: Call,
    addr: usize,
    given: Given,
    refusal: Refusal,
    stack: &[usize],
) {
    let here = 0u8;
    let case = Case {
        addr: Some(addr),
        sp: core::hint::black_box(&raw const here).addr(),
        stack,
        signal: None,
        page: KERNEL.state(addr),
    };
    let said = DESK.explain(&GUARD, style(), &case, |scene| match refusal {
        Refusal::Overwritten(damage) => {
            let found = match call {
                Call::Realloc => Occasion::Realloc,
                _ => Occasion::Free,
            };
            let block = GUARD.slots(addr).inside?;
            Some(of_canary(block, damage, found))
        }
        _ => of_call(call, addr, given, scene),
    });
    if !said {
        let mut line = Line::new();
        Misuse::Foreign {
            call,
            address: addr,
        }
        .describe(&mut line);
        line.write_to(2);
    }
}

/// Explains that bytes beside an object were found overwritten; `stack` is who looked.
pub(super) fn explain_damage(block: Record, damage: Damage, found: Occasion, stack: &[usize]) {
    let here = 0u8;
    let case = Case {
        addr: Some(block.payload),
        sp: core::hint::black_box(&raw const here).addr(),
        stack,
        signal: None,
        page: KERNEL.state(block.payload),
    };
    DESK.explain(&GUARD, style(), &case, |_| {
        Some(of_canary(block, damage, found))
    });
}
