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
//! that blocks the signal, or does not answer for long, is given up: it is `silent`, and what only
//! its registers hold is not seen. System calls that the kernel does not start anew after a signal
//! fail with EINTR in the program's threads (poll, nanosleep and their like).
//!
//! Slots are never unmapped, and every round has a number of its own, so that a signal may arrive
//! as late as it likes.
#![allow(unsafe_code)] // Signals, system calls, slots in raw pages.

use super::call::{keeping_errno, system_call};
use super::lines::Lines;
use super::{Os, OsError, PageState, PageVec, Prot, Region, process_id, thread_id};
use crate::sync::overlay::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use core::ffi::{c_int, c_void};

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

/// What a stopped thread holds outside of its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Its stack pointer.
    pub sp: usize,
    /// Where its registers lie: from, to.
    pub general: (usize, usize),
    /// Where those lie that are for vectors.
    pub vector: (usize, usize),
}

/// The other threads, standing still until this is dropped.
pub struct World<O: Os + Copy> {
    os: O,
    threads: PageVec<Thread, 1>,
    round: u32,
    signal: c_int,
    before: libc::sigaction,
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
        match send(id, self.signal, number) {
            Ok(()) => {}
            Err(error) => {
                thread.done = true;
                thread.gone = error == OsError(libc::ESRCH);
            }
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
        // SAFETY: all zero is a valid action.
        let mut ignore: libc::sigaction = unsafe { core::mem::zeroed() };
        ignore.sa_sigaction = libc::SIG_IGN;
        action(self.signal, Some(&ignore));
        action(self.signal, Some(&self.before));
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

unsafe extern "C" {
    /// The C library's own, which no program replaces by name.
    #[cfg_attr(target_env = "gnu", link_name = "__sigaction")]
    #[cfg_attr(not(target_env = "gnu"), link_name = "sigaction")]
    fn real_sigaction(
        signal: c_int,
        new: *const libc::sigaction,
        old: *mut libc::sigaction,
    ) -> c_int;
}

/// What is done on a signal; sets it if `new` says something.
fn action(signal: c_int, new: Option<&libc::sigaction>) -> Option<libc::sigaction> {
    let new = new.map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: all zero is a valid action; both pointers are valid or null, and our handler may
    // run at any time.
    unsafe {
        let mut old: libc::sigaction = core::mem::zeroed();
        let result = keeping_errno(|| real_sigaction(signal, new, &mut old));
        (result == 0).then_some(old)
    }
}

/// Takes a real-time signal that nobody has an action for and that is not blocked here. Returns it
/// with the action it had.
fn take_signal() -> Result<(c_int, libc::sigaction), OsError> {
    /// The last ones are what programs begin with that count downwards.
    const FIRST: c_int = 60;
    const LAST: c_int = 35;
    let blocked = blocked_here();
    // SAFETY: all zero is a valid action; its mask is set to all ones.
    let mut ours: libc::sigaction = unsafe { core::mem::zeroed() };
    let handler: unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = handle;
    ours.sa_sigaction = handler as *const () as usize;
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: a set is plain bits.
    unsafe { (&raw mut ours.sa_mask).write_bytes(0xff, 1) };
    for signal in (LAST..=FIRST).rev() {
        if blocked & (1 << (signal - 1)) != 0 {
            continue;
        }
        if action(signal, None).is_some_and(|now| now.sa_sigaction == libc::SIG_DFL)
            && let Some(before) = action(signal, Some(&ours))
        {
            return Ok((signal, before));
        }
    }
    Err(OsError(libc::EAGAIN))
}

fn blocked_here() -> u64 {
    let mut mask = 0u64;
    let to = (&raw mut mask).expose_provenance();
    let args = [libc::SIG_BLOCK as usize, 0, to, size_of::<u64>(), 0, 0];
    // SAFETY: writes one mask.
    let _ = unsafe { system_call(libc::SYS_rt_sigprocmask, args) };
    mask
}

/// Sends a signal to a thread of ours, with a number.
fn send(thread: u32, signal: c_int, number: usize) -> Result<(), OsError> {
    // As the kernel lays a siginfo out: signal, errno, code; then process, user, value.
    let sender = process_id();
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

/// Why a thread does not answer.
enum Condition {
    Running,
    /// It blocks the signal.
    Blocked,
    /// It has ended, or it is the kernel's own.
    Gone,
}

/// Looks into `/proc/self/task/ID/status`.
fn condition(id: u32, signal: c_int) -> Condition {
    let mut path = crate::report::Line::new();
    path.text("/proc/self/task/").decimal(u64::from(id));
    path.text("/status").raw(&[0]);
    let Ok(path) = core::ffi::CStr::from_bytes_until_nul(path.as_bytes()) else {
        return Condition::Running;
    };
    let mut buffer = [0; 1024];
    let Ok(mut lines) = Lines::open(path, &mut buffer) else {
        return Condition::Gone;
    };
    let mut found = Condition::Running;
    let bit = 1u64 << (signal - 1);
    while let Some(said) = lines.next(|line| {
        let value = |key: &[u8]| line.strip_prefix(key).map(<[u8]>::trim_ascii);
        if let Some(state) = value(b"State:")
            && matches!(state.first(), Some(b'Z' | b'X' | b'x'))
        {
            return Some(Condition::Gone);
        }
        // Workers of io_uring are listed, but never run the program's code.
        if value(b"Name:").is_some_and(|name| name.starts_with(b"iou-")) {
            return Some(Condition::Gone);
        }
        let mut mask = 0u64;
        for &digit in value(b"SigBlk:")? {
            mask = mask << 4 | u64::from(char::from(digit).to_digit(16)?);
        }
        (mask & bit != 0).then_some(Condition::Blocked)
    }) {
        match said {
            Some(Condition::Gone) => return Condition::Gone,
            Some(condition) => found = condition,
            None => {}
        }
    }
    found
}

/// Passes on the ids of all threads of the process.
fn each_thread(mut visit: impl FnMut(u32)) -> Result<(), OsError> {
    /// Where the name begins in an entry, and its length.
    const LENGTH: usize = 16;
    const NAME: usize = 19;
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    let path = c"/proc/self/task".as_ptr().expose_provenance();
    let args = [libc::AT_FDCWD as usize, path, flags, 0, 0, 0];
    // SAFETY: the path ends with zero.
    let directory = unsafe { system_call(libc::SYS_openat, args) }?;
    let mut buffer = [0u64; 512];
    let result = loop {
        let to = buffer.as_mut_ptr().expose_provenance();
        let args = [directory, to, size_of_val(&buffer), 0, 0, 0];
        // SAFETY: the buffer is ours and of the length given.
        let len = match unsafe { system_call(libc::SYS_getdents64, args) } {
            Ok(0) => break Ok(()),
            Ok(len) => len,
            Err(error) => break Err(error),
        };
        let first = buffer.as_ptr().cast::<u8>();
        // SAFETY: the buffer's bytes.
        let bytes = unsafe { core::slice::from_raw_parts(first, size_of_val(&buffer)) };
        let mut rest = bytes.get(..len).unwrap_or(&[]);
        while let Some(&[low, high]) = rest.get(LENGTH..LENGTH + 2) {
            let length = usize::from(u16::from_ne_bytes([low, high]));
            let name = rest.get(NAME..length).unwrap_or(&[]);
            let digits = name.iter().take_while(|byte| byte.is_ascii_digit());
            let id = digits.fold(0u32, |id, digit| {
                id.wrapping_mul(10).wrapping_add(u32::from(digit - b'0'))
            });
            if id != 0 {
                visit(id);
            }
            if length == 0 {
                break;
            }
            rest = rest.get(length..).unwrap_or(&[]);
        }
    };
    // SAFETY: our own descriptor.
    let _ = unsafe { system_call(libc::SYS_close, [directory, 0, 0, 0, 0, 0]) };
    result
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

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod machine {
    use super::Registers;

    const RSP: usize = 15;
    /// Bytes of the legacy area, in which x87 and SSE registers lie.
    const LEGACY: usize = 512;

    /// # Safety
    /// The address is that of a context which the kernel gave a handler that has not returned.
    pub unsafe fn registers(context: usize) -> Registers {
        let context: *const libc::ucontext_t = core::ptr::with_exposed_provenance(context);
        // SAFETY: the caller's promise.
        let machine = unsafe { &(*context).uc_mcontext };
        let from = machine.gregs.as_ptr().expose_provenance();
        let vector = machine.fpregs.addr();
        Registers {
            sp: machine.gregs[RSP] as usize,
            general: (from, from + size_of_val(&machine.gregs)),
            vector: if vector == 0 {
                (0, 0)
            } else {
                (vector, vector + LEGACY)
            },
        }
    }

    /// How many registers a function must keep for its caller.
    pub const KEPT: usize = 6;

    #[inline(always)]
    pub fn own() -> ([usize; KEPT], usize) {
        let mut kept = [0; KEPT];
        let sp: usize;
        // SAFETY: stores six registers into the array and copies the stack pointer.
        unsafe {
            core::arch::asm!(
                "mov [{to}], rbx",
                "mov [{to} + 8], rbp",
                "mov [{to} + 16], r12",
                "mov [{to} + 24], r13",
                "mov [{to} + 32], r14",
                "mov [{to} + 40], r15",
                "mov {sp}, rsp",
                to = in(reg) kept.as_mut_ptr(),
                sp = lateout(reg) sp,
                options(nostack, preserves_flags),
            );
        }
        (kept, sp)
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod machine {
    use super::Registers;

    /// # Safety
    /// The address is that of a context which the kernel gave a handler that has not returned.
    pub unsafe fn registers(context: usize) -> Registers {
        let context: *const libc::ucontext_t = core::ptr::with_exposed_provenance(context);
        // SAFETY: the caller's promise.
        let machine = unsafe { &(*context).uc_mcontext };
        let from = machine.regs.as_ptr().expose_provenance();
        let end = core::ptr::from_ref(machine).wrapping_add(1).addr();
        Registers {
            sp: machine.sp as usize,
            general: (from, from + size_of_val(&machine.regs)),
            // The records behind the registers, in which those for vectors lie.
            vector: (from + size_of_val(&machine.regs), end),
        }
    }

    /// How many registers a function must keep for its caller.
    pub const KEPT: usize = 20;

    #[inline(always)]
    pub fn own() -> ([usize; KEPT], usize) {
        let mut kept = [0; KEPT];
        let sp: usize;
        // SAFETY: stores registers into the array and copies the stack pointer.
        unsafe {
            core::arch::asm!(
                "stp x19, x20, [{to}]",
                "stp x21, x22, [{to}, #16]",
                "stp x23, x24, [{to}, #32]",
                "stp x25, x26, [{to}, #48]",
                "stp x27, x28, [{to}, #64]",
                "str x29, [{to}, #80]",
                "stp d8, d9, [{to}, #88]",
                "stp d10, d11, [{to}, #104]",
                "stp d12, d13, [{to}, #120]",
                "stp d14, d15, [{to}, #136]",
                "mov {sp}, sp",
                to = in(reg) kept.as_mut_ptr(),
                sp = lateout(reg) sp,
                options(nostack, preserves_flags),
            );
        }
        (kept, sp)
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod machine {
    use super::Registers;

    /// Where registers lie is not known here: the memory after the context, in which they are.
    ///
    /// # Safety
    /// None.
    pub unsafe fn registers(context: usize) -> Registers {
        Registers {
            sp: context,
            general: (context, context + 4096),
            vector: (0, 0),
        }
    }

    /// How many registers a function must keep for its caller.
    pub const KEPT: usize = 1;

    #[inline(always)]
    pub fn own() -> ([usize; KEPT], usize) {
        let kept = [0; KEPT];
        (kept, kept.as_ptr().expose_provenance())
    }
}

/// The registers that the calling function keeps for its caller, and the stack pointer.
#[inline(always)]
#[must_use]
pub fn own_registers() -> ([usize; machine::KEPT], usize) {
    machine::own()
}
