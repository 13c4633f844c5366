//! Signals as the kernel sees them: actions, masks, what a fault's frame says, alternate stacks.
//!
//! Everything here may be used in a signal handler: system calls, and the C library's
//! `sigaction` under a name that no program replaces, which knows how a handler returns.
#![allow(unsafe_code)] // System calls, the kernel's signal frames.

use super::OsError;
use super::call::{keeping_errno, system_call};
use crate::mmu::addr::Access;
use core::ffi::{c_int, c_void};

/// What a process does on a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// `SIG_DFL`, `SIG_IGN` or a function's address.
    pub handler: usize,
    /// `SA_...`.
    pub flags: c_int,
    /// Signals that are blocked meanwhile: bit n is signal n + 1.
    pub mask: u64,
}

impl Action {
    /// The default.
    pub const DEFAULT: Action = Action {
        handler: libc::SIG_DFL,
        flags: 0,
        mask: 0,
    };

    /// Whether a function is called.
    #[must_use]
    pub const fn is_function(self) -> bool {
        self.handler != libc::SIG_DFL && self.handler != libc::SIG_IGN
    }

    /// As C has it.
    #[must_use]
    pub fn to_c(self) -> libc::sigaction {
        // SAFETY: all zero is a valid value.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        action.sa_sigaction = self.handler;
        action.sa_flags = self.flags;
        action.sa_mask = to_set(self.mask);
        action
    }

    /// From what C has.
    #[must_use]
    pub fn from_c(action: &libc::sigaction) -> Action {
        Action {
            handler: action.sa_sigaction,
            flags: action.sa_flags,
            mask: from_set(&action.sa_mask),
        }
    }
}

/// The bit of a signal in a mask.
#[must_use]
pub const fn bit(signal: c_int) -> u64 {
    1u64.wrapping_shl((signal - 1) as u32)
}

/// The kernel's part of C's set.
#[must_use]
pub fn from_set(set: &libc::sigset_t) -> u64 {
    // SAFETY: a set is larger than this, and plain bits.
    unsafe { (&raw const *set).cast::<u64>().read_unaligned() }
}

fn to_set(mask: u64) -> libc::sigset_t {
    // SAFETY: all zero is a valid value, and larger than what is written.
    unsafe {
        let mut set: libc::sigset_t = core::mem::zeroed();
        (&raw mut set).cast::<u64>().write_unaligned(mask);
        set
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

/// C's `sigaction`, of the C library whatever the program has put in its place.
///
/// # Errors
/// -1 with errno.
///
/// # Safety
/// As for C's: the pointers are null or valid, and the handler may run from now on.
pub unsafe fn sigaction(
    signal: c_int,
    new: *const libc::sigaction,
    old: *mut libc::sigaction,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { real_sigaction(signal, new, old) }
}

/// What the kernel does on a signal; sets it if `new` says something. Errno stays.
///
/// # Errors
/// If there is no such signal.
///
/// # Safety
/// A function in `new` may be called as a handler at any time from now on.
pub unsafe fn exchange(signal: c_int, new: Option<Action>) -> Result<Action, OsError> {
    let new = new.map(Action::to_c);
    let new = new.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: all zero is a valid value.
    let mut old: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: both pointers are valid or null; the caller's promise about the function.
    let result = keeping_errno(|| unsafe { real_sigaction(signal, new, &mut old) });
    if result == 0 {
        Ok(Action::from_c(&old))
    } else {
        Err(OsError(libc::EINVAL))
    }
}

/// Sets the thread's signal mask and returns what it was.
pub fn set_mask(mask: u64) -> u64 {
    let mut old = 0u64;
    let args = [
        libc::SIG_SETMASK as usize,
        (&raw const mask).expose_provenance(),
        (&raw mut old).expose_provenance(),
        size_of::<u64>(),
        0,
        0,
    ];
    // SAFETY: reads and writes one mask each.
    let _ = unsafe { system_call(libc::SYS_rt_sigprocmask, args) };
    old
}

/// The thread's signal mask.
#[must_use]
pub fn mask() -> u64 {
    let mut old = 0u64;
    let args = [
        libc::SIG_SETMASK as usize,
        0,
        (&raw mut old).expose_provenance(),
        size_of::<u64>(),
        0,
        0,
    ];
    // SAFETY: writes one mask.
    let _ = unsafe { system_call(libc::SYS_rt_sigprocmask, args) };
    old
}

/// The kernel's id of the calling thread; never 0.
#[must_use]
pub fn thread_id() -> u32 {
    // SAFETY: gettid takes nothing.
    unsafe { system_call(libc::SYS_gettid, [0; 6]) }.map_or(1, |id| id as u32)
}

/// The kernel's id of the process. Asked anew: a child has another.
#[must_use]
pub fn process_id() -> u32 {
    // SAFETY: getpid takes nothing.
    unsafe { system_call(libc::SYS_getpid, [0; 6]) }.map_or(1, |id| id as u32)
}

/// Process and thread in one number, never 0. What a thread of another process has written, before
/// a fork, is told from what one of this process has.
#[must_use]
pub fn identity() -> u64 {
    u64::from(process_id()) << 32 | u64::from(thread_id())
}

/// Whether a number that [`identity`] gave is of another process than this one's thread `own`.
#[must_use]
pub const fn is_of_another_process(number: u64, own: u64) -> bool {
    number >> 32 != own >> 32
}

/// Sleeps for about `milliseconds`, less if a signal comes.
pub fn nap(milliseconds: u32) {
    let time = libc::timespec {
        tv_sec: 0,
        tv_nsec: (milliseconds.min(999) * 1_000_000) as _,
    };
    let args = [(&raw const time).expose_provenance(), 0, 0, 0, 0, 0];
    // SAFETY: reads one timespec.
    let _ = unsafe { system_call(libc::SYS_nanosleep, args) };
}

/// Sends the calling thread a signal with the very information it came with.
///
/// # Safety
/// `info` is a valid siginfo.
pub unsafe fn send_again(signal: c_int, info: *const libc::siginfo_t) {
    let args = [
        process_id() as usize,
        thread_id() as usize,
        signal as usize,
        info.expose_provenance(),
        0,
        0,
    ];
    // SAFETY: reads one siginfo.
    if unsafe { system_call(libc::SYS_rt_tgsigqueueinfo, args) }.is_err() {
        let [process, thread, signal, ..] = args;
        // SAFETY: sends a signal to the calling thread.
        let _ = unsafe { system_call(libc::SYS_tgkill, [process, thread, signal, 0, 0, 0]) };
    }
}

/// How many registers a [`Trap`] keeps.
pub const REGISTERS: usize = 18;

/// What the kernel tells a handler of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trap {
    /// The signal.
    pub signal: c_int,
    /// `si_code`.
    pub code: c_int,
    /// `si_addr`; `None` where the kernel does not know it.
    pub addr: Option<usize>,
    /// What was attempted, as far as the processor tells.
    pub access: Option<Access>,
    /// The processor's exception, and its error code; 0 if unknown.
    pub trap: u32,
    /// See `trap`.
    pub error: u32,
    /// The instruction; 0 if unknown, as the next two.
    pub pc: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The frame pointer.
    pub fp: usize,
    /// Where a function without a frame returns to; 0 where that lies on the stack.
    pub link: usize,
    /// x86-64: in the kernel's order, r8 to rip and the flags; aarch64: x0 to x17.
    pub registers: [usize; REGISTERS],
    /// The signals that were blocked.
    pub mask: u64,
}

impl Trap {
    /// Whether an instruction caused it; otherwise somebody sent the signal.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        self.code > 0
    }
}

/// `si_code` of faults about which the kernel knows no address.
const SI_KERNEL: c_int = 0x80;

/// Reads what a handler was given.
///
/// # Safety
/// `info` and `context` are what the kernel gave a handler with `SA_SIGINFO`, which has not
/// returned yet.
#[must_use]
pub unsafe fn decode(signal: c_int, info: *const libc::siginfo_t, context: *const c_void) -> Trap {
    // SAFETY: the caller's promise.
    let (code, addr) = unsafe { ((*info).si_code, (*info).si_addr().addr()) };
    let mut trap = Trap {
        signal,
        code,
        addr: (code > 0 && code != SI_KERNEL).then_some(addr),
        access: None,
        trap: 0,
        error: 0,
        pc: 0,
        sp: 0,
        fp: 0,
        link: 0,
        registers: [0; REGISTERS],
        mask: 0,
    };
    // SAFETY: the caller's promise.
    unsafe { machine::decode(&mut trap, &*context.cast::<libc::ucontext_t>()) };
    trap
}

#[cfg(target_arch = "x86_64")]
mod machine {
    use super::{Access, Trap};

    const RBP: usize = 10;
    const RSP: usize = 15;
    const RIP: usize = 16;
    const ERROR: usize = 19;
    const TRAP: usize = 20;
    const PAGE_FAULT: u32 = 14;

    pub fn decode(trap: &mut Trap, context: &libc::ucontext_t) {
        let registers = &context.uc_mcontext.gregs;
        for (to, from) in trap.registers.iter_mut().zip(registers) {
            *to = *from as usize;
        }
        trap.pc = registers[RIP] as usize;
        trap.sp = registers[RSP] as usize;
        trap.fp = registers[RBP] as usize;
        trap.mask = super::from_set(&context.uc_sigmask);
        if !trap.is_fault() {
            return;
        }
        trap.trap = registers[TRAP] as u32;
        trap.error = registers[ERROR] as u32;
        if trap.trap == PAGE_FAULT {
            trap.access = Some(if trap.error & 0x10 != 0 {
                Access::Exec
            } else if trap.error & 2 != 0 {
                Access::Write
            } else {
                Access::Read
            });
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod machine {
    use super::{Access, Trap};

    pub fn decode(trap: &mut Trap, context: &libc::ucontext_t) {
        let machine = &context.uc_mcontext;
        for (to, from) in trap.registers.iter_mut().zip(&machine.regs) {
            *to = *from as usize;
        }
        trap.pc = machine.pc as usize;
        trap.sp = machine.sp as usize;
        trap.fp = machine.regs[29] as usize;
        trap.link = machine.regs[30] as usize;
        trap.mask = super::from_set(&context.uc_sigmask);
        if !trap.is_fault() {
            return;
        }
        let Some(syndrome) = syndrome(machine) else {
            return;
        };
        trap.trap = (syndrome >> 26) as u32 & 0x3f;
        trap.error = syndrome as u32;
        trap.access = match trap.trap {
            // An instruction could not be fetched.
            0x20 | 0x21 => Some(Access::Exec),
            // Data: bit 6 says written; with bit 8 it is the upkeep of a cache, which reads.
            0x24 | 0x25 if syndrome & 0x140 == 0x40 => Some(Access::Write),
            0x24 | 0x25 => Some(Access::Read),
            _ => None,
        };
    }

    /// The processor's syndrome register, if the kernel put it into the frame: behind the
    /// registers lies a list of records, each with its kind and length.
    fn syndrome(machine: &libc::mcontext_t) -> Option<u64> {
        const ESR: u32 = 0x4553_5201;
        const RECORDS: usize = 4096;
        let end = core::ptr::from_ref(machine).wrapping_add(1).cast::<u8>();
        let first = end.wrapping_sub(RECORDS);
        let mut at = 0;
        while at + 16 <= RECORDS {
            // SAFETY: inside of the frame's reserved bytes, which end the structure.
            unsafe {
                let record = first.add(at);
                let kind = record.cast::<u32>().read();
                let len = record.add(4).cast::<u32>().read() as usize;
                if kind == ESR {
                    return Some(record.add(8).cast::<u64>().read());
                }
                if kind == 0 || len < 16 || !len.is_multiple_of(16) {
                    return None;
                }
                at += len;
            }
        }
        None
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod machine {
    use super::Trap;

    /// The registers are not read here; the address is known.
    pub fn decode(trap: &mut Trap, context: &libc::ucontext_t) {
        trap.mask = super::from_set(&context.uc_sigmask);
    }
}
