//! All other threads of the process held still, with their registers at hand.
//!
//! Each thread is sent a real-time signal that nobody uses. Its handler says where the kernel put
//! the thread's registers and waits until it is released:
//!
//! | | the stopper | the handler |
//! |---|---|---|
//! | 1 | writes thread and round into a slot, `ASKED` | |
//! | 2 | sends the signal with the slot's number | |
//! | 3 | | `ASKED` to `HERE`; who finds anything else is late and returns |
//! | 4 | waits for `STOPPED`, until it gives up | writes where the registers are, `STOPPED` |
//! | 5 | works | waits as long as the round lasts |
//! | 6 | ends the round, wakes all | returns |
//!
//! Threads that are born meanwhile are found by looking again until there are no new ones. One
//! that blocks the signal or waits for it (`sigwait` for all signals), or does not answer for long,
//! is given up: it is `silent`, and what only its registers hold is not seen. System calls that the kernel does not start anew after a signal
//! fail with EINTR in the program's threads (poll, nanosleep and their like).
//!
//! Slots are never unmapped, and every round has a number of its own, so that a signal may arrive
//! as late as it likes.
#![allow(unsafe_code)] // Signals, system calls, slots in raw pages.

mod machine;
mod threads;

pub use machine::{DESCRIPTOR, Registers, thread_pointer};

use super::call::system_call;
use super::signals::{self, Action, process_id, thread_id};
use super::{Os, OsError, PageState, PageVec, Prot, Region};
use crate::sync::overlay::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use core::ffi::{c_int, c_void};
use threads::{Condition, condition, each_thread, waits_for};

/// A slot that a thread has to answer in: the round above, and one of these below.
const ASKED: u32 = 0;
const HERE: u32 = 1;
const STOPPED: u32 = 2;
const STATE_BITS: u32 = 2;

/// Slots of a block, and blocks: the most threads.
const SLOTS: usize = 256;
const BLOCKS: usize = 1024;

/// How often a silent thread is looked at, in milliseconds, and how long it has time to answer.
const LOOK: u64 = 250;
const PATIENCE: u64 = 10_000;
/// How often new threads are looked for.
const PASSES: u32 = 1000;

/// What lies below the stack pointer and is in use all the same.
pub const RED_ZONE: usize = 128;

#[repr(C)]
struct Slot {
    thread: AtomicU32,
    state: AtomicU32,
    context: AtomicUsize,
}

/// A meeting place of the stopper and the handlers.
struct Place {
    /// Whether somebody stops the others.
    busy: AtomicBool,
    /// The number of the round; an even one is over.
    round: AtomicU32,
    /// Changes with each answer.
    answers: AtomicU32,
    blocks: [AtomicUsize; BLOCKS],
}

static PLACE: Place = Place {
    busy: AtomicBool::new(false),
    round: AtomicU32::new(0),
    answers: AtomicU32::new(0),
    blocks: [const { AtomicUsize::new(0) }; BLOCKS],
};

impl Place {
    fn slot(&self, number: usize) -> Option<&Slot> {
        let block = self.blocks.get(number / SLOTS)?.load(Ordering::Acquire);
        if block == 0 {
            return None;
        }
        let at = block + (number % SLOTS) * size_of::<Slot>();
        let slot: *const Slot = core::ptr::with_exposed_provenance(at);
        // SAFETY: blocks hold slots, of which zeros are one, are never unmapped, and only
        // accessed as atomics.
        Some(unsafe { &*slot })
    }

    /// As [`slot`](Place::slot), with a new block if need be.
    fn room<O: Os>(&self, os: &O, number: usize) -> Option<&Slot> {
        let block = self.blocks.get(number / SLOTS)?;
        if block.load(Ordering::Relaxed) == 0 {
            let bytes = crate::size::align_up(SLOTS * size_of::<Slot>(), os.page_size());
            let at = os.map(0, bytes, Prot::ReadWrite).ok()?;
            os.note(at, at + bytes, PageState::Meta);
            os.region().at(at).expose_provenance();
            block.store(at, Ordering::Release);
        }
        self.slot(number)
    }
}

/// A thread that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thread {
    /// The kernel's id.
    pub id: u32,
    /// Where the kernel put its registers; 0 if it did not answer.
    context: usize,
    /// Whether there is nothing more to wait for.
    done: bool,
    /// Whether it has ended, or never runs the program's code.
    gone: bool,
}

/// The other threads, standing still until this is dropped.
pub struct World<O: Os + Copy> {
    os: O,
    threads: PageVec<Thread, 1>,
    round: u32,
    signal: c_int,
    before: Action,
}

impl<O: Os + Copy> World<O> {
    /// Stops all other threads.
    ///
    /// # Errors
    /// If somebody else does at this moment, if there is no signal left for it, or if the threads
    /// cannot be listed.
    pub fn stop(os: O) -> Result<World<O>, OsError> {
        if PLACE.busy.swap(true, Ordering::Acquire) {
            return Err(OsError(libc::EBUSY));
        }
        let round = PLACE.round.load(Ordering::Relaxed) | 1;
        let taken = take_signal();
        let Ok((signal, before)) = taken else {
            PLACE.busy.store(false, Ordering::Release);
            return Err(OsError(libc::EAGAIN));
        };
        PLACE.round.store(round, Ordering::Release);
        let mut world = World {
            os,
            threads: PageVec::new(Thread {
                id: 0,
                context: 0,
                done: true,
                gone: true,
            }),
            round,
            signal,
            before,
        };
        // Dropped on failure, which releases those that were stopped.
        for _ in 0..PASSES {
            let known = world.threads().len();
            world.look_around()?;
            if world.threads().len() == known {
                break;
            }
            world.wait();
        }
        Ok(world)
    }

    fn threads(&self) -> &[Thread] {
        self.threads.as_slice(&self.os)
    }

    /// The stopped threads' registers.
    pub fn registers(&self) -> impl Iterator<Item = Registers> {
        self.threads()
            .iter()
            .filter(|thread| thread.context != 0)
            // SAFETY: the handler that was given the context does not return before the drop.
            .map(|thread| unsafe { machine::registers(thread.context) })
    }

    /// The threads that did not answer.
    pub fn silent(&self) -> impl Iterator<Item = u32> {
        self.threads()
            .iter()
            .filter(|thread| thread.context == 0 && !thread.gone)
            .map(|thread| thread.id)
    }

    /// Asks every thread that is not known yet.
    fn look_around(&mut self) -> Result<(), OsError> {
        let own = thread_id();
        let mut failed = Ok(());
        each_thread(|id| {
            let known = id == own || self.threads().iter().any(|thread| thread.id == id);
            if !known && failed.is_ok() {
                failed = self.ask(id);
            }
        })?;
        failed
    }

    fn ask(&mut self, id: u32) -> Result<(), OsError> {
        let mut thread = Thread {
            id,
            context: 0,
            done: false,
            gone: false,
        };
        let number = self.threads().len();
        self.threads.reserve_one(&self.os)?;
        let slot = PLACE.room(&self.os, number).ok_or(OsError::NO_MEMORY)?;
        slot.thread.store(id, Ordering::Relaxed);
        slot.state
            .store(self.round << STATE_BITS | ASKED, Ordering::Release);
        if waits_for(id, self.signal) {
            thread.done = true;
        } else if let Err(error) = send(id, self.signal, number) {
            thread.done = true;
            thread.gone = error == OsError(libc::ESRCH);
        }
        self.threads.push(&self.os, thread);
        Ok(())
    }

    /// Waits until every thread that was asked has answered or is given up.
    fn wait(&mut self) {
        let (os, round, signal) = (self.os, self.round, self.signal);
        let start = now();
        let mut looked = start;
        let mut blocked_before = false;
        loop {
            let seen = PLACE.answers.load(Ordering::Acquire);
            let time = now();
            let look = time.saturating_sub(looked) >= LOOK;
            if look {
                looked = time;
            }
            let late = time.saturating_sub(start) >= PATIENCE;
            let mut waiting = false;
            let threads = self.threads.as_mut_slice(&os);
            for (number, thread) in threads.iter_mut().enumerate().filter(|(_, t)| !t.done) {
                let Some(slot) = PLACE.slot(number) else {
                    continue;
                };
                let state = slot.state.load(Ordering::Acquire);
                if state == round << STATE_BITS | STOPPED {
                    thread.context = slot.context.load(Ordering::Relaxed);
                    thread.done = true;
                    continue;
                }
                waiting = true;
                // Who has begun to answer ends it as soon as the processor is his.
                if state != round << STATE_BITS | ASKED || !look {
                    continue;
                }
                match condition(thread.id, signal) {
                    Condition::Gone => (thread.done, thread.gone) = (true, true),
                    // Twice, for some functions of the C library block all signals for a moment.
                    Condition::Blocked if blocked_before => thread.done = true,
                    _ => thread.done = late,
                }
            }
            if !waiting {
                return;
            }
            blocked_before |= look;
            futex_wait(&PLACE.answers, seen, 50);
        }
    }
}

impl<O: Os + Copy> Drop for World<O> {
    fn drop(&mut self) {
        PLACE
            .round
            .store(self.round.wrapping_add(1), Ordering::Release);
        futex_wake(&PLACE.round);
        // Signals that are still pending are dropped with the action, then it is as it was.
        let ignore = Action {
            handler: libc::SIG_IGN,
            ..Action::DEFAULT
        };
        for action in [ignore, self.before] {
            // SAFETY: no function, or the one that was there before.
            let _ = unsafe { signals::exchange(self.signal, Some(action)) };
        }
        self.threads.release(&self.os);
        PLACE.busy.store(false, Ordering::Release);
    }
}

/// In a child process: whoever stopped the others is not there any more.
pub fn forget_stopper() {
    if PLACE.busy.load(Ordering::Relaxed) {
        let round = PLACE.round.load(Ordering::Relaxed);
        PLACE
            .round
            .store((round | 1).wrapping_add(1), Ordering::Relaxed);
        PLACE.busy.store(false, Ordering::Relaxed);
    }
}

/// Takes a real-time signal that nobody has an action for and that is not blocked here. Returns it
/// with the action it had.
fn take_signal() -> Result<(c_int, Action), OsError> {
    /// The last ones are what programs begin with that count downwards.
    const FIRST: c_int = 60;
    const LAST: c_int = 35;
    let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    let ours = Action {
        handler: handler as *const () as usize,
        flags: libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK,
        mask: u64::MAX,
    };
    let blocked = signals::mask();
    for signal in (LAST..=FIRST).rev() {
        if blocked & signals::bit(signal) != 0 {
            continue;
        }
        // SAFETY: the handler may run at any time, for any reason.
        unsafe {
            if signals::exchange(signal, None).is_ok_and(|now| now.handler == libc::SIG_DFL)
                && let Ok(before) = signals::exchange(signal, Some(ours))
            {
                return Ok((signal, before));
            }
        }
    }
    Err(OsError(libc::EAGAIN))
}

/// Sends a signal to a thread of ours, with a number.
fn send(thread: u32, signal: c_int, number: usize) -> Result<(), OsError> {
    // As the kernel lays a siginfo out: signal, errno, code; then process, user, value.
    let sender = u64::from(process_id());
    #[cfg(target_pointer_width = "64")]
    let info: [u64; 16] = {
        let code = u64::from(libc::SI_QUEUE as u32);
        let mut info = [0; 16];
        let fields = [signal as u64, code, sender, number as u64];
        for (to, from) in info.iter_mut().zip(fields) {
            *to = from;
        }
        info
    };
    #[cfg(target_pointer_width = "32")]
    let info: [u32; 32] = {
        let mut info = [0; 32];
        let fields = [
            signal as u32,
            0,
            libc::SI_QUEUE as u32,
            sender as u32,
            0,
            number as u32,
        ];
        for (to, from) in info.iter_mut().zip(fields) {
            *to = from;
        }
        info
    };
    let args = [
        sender as usize,
        thread as usize,
        signal as usize,
        info.as_ptr().expose_provenance(),
        0,
        0,
    ];
    // SAFETY: reads one siginfo; our handler takes the signal.
    unsafe { system_call(libc::SYS_rt_tgsigqueueinfo, args) }.map(drop)
}

/// Answers, and waits to be released. Async-signal-safe: atomics and system calls.
unsafe extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel's; the number is what `send` put there.
    let (code, number) = unsafe { ((*info).si_code, (*info).si_value().sival_ptr.addr()) };
    let Some(slot) = PLACE.slot(number).filter(|_| code == libc::SI_QUEUE) else {
        return;
    };
    let round = PLACE.round.load(Ordering::Acquire);
    if round & 1 == 0 || slot.thread.load(Ordering::Relaxed) != thread_id() {
        return;
    }
    let state = round << STATE_BITS;
    let asked = slot.state.compare_exchange(
        state | ASKED,
        state | HERE,
        Ordering::AcqRel,
        Ordering::Relaxed,
    );
    if asked.is_err() {
        return;
    }
    slot.context
        .store(context.expose_provenance(), Ordering::Relaxed);
    slot.state.store(state | STOPPED, Ordering::Release);
    PLACE.answers.fetch_add(1, Ordering::Release);
    futex_wake(&PLACE.answers);
    while PLACE.round.load(Ordering::Acquire) == round {
        futex_wait(&PLACE.round, round, 10_000);
    }
}

/// Milliseconds of a clock that never goes back.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let to = (&raw mut time).expose_provenance();
    let args = [libc::CLOCK_MONOTONIC as usize, to, 0, 0, 0, 0];
    // SAFETY: writes one timespec.
    let _ = unsafe { system_call(libc::SYS_clock_gettime, args) };
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}

/// Waits until the word is woken, is not `value` any more, or so many milliseconds have passed.
fn futex_wait(word: &AtomicU32, value: u32, milliseconds: u32) {
    let time = libc::timespec {
        tv_sec: (milliseconds / 1000) as _,
        tv_nsec: (milliseconds % 1000 * 1_000_000) as _,
    };
    let args = [
        word.as_ptr().expose_provenance(),
        (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize,
        value as usize,
        (&raw const time).expose_provenance(),
        0,
        0,
    ];
    // SAFETY: the word outlives the call.
    let _ = unsafe { system_call(libc::SYS_futex, args) };
}

fn futex_wake(word: &AtomicU32) {
    let args = [
        word.as_ptr().expose_provenance(),
        (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize,
        i32::MAX as usize,
        0,
        0,
        0,
    ];
    // SAFETY: the word outlives the call.
    let _ = unsafe { system_call(libc::SYS_futex, args) };
}

/// Registers that a function keeps for its caller, and a stack pointer.
pub type Own = ([usize; machine::KEPT], usize);

/// The registers that the calling function keeps for its caller, and the stack pointer.
#[inline(always)]
#[must_use]
pub fn own_registers() -> Own {
    machine::own()
}
