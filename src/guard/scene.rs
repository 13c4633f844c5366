//! What is known where an error was caught: plain data, collected before anything is judged.

use super::record::{Record, StackId};
use super::stacks::FRAMES;
use crate::mmu::addr::{Access, Rights};
use crate::os::PageState;
pub use crate::os::{Ground, Location};

/// Registers that a [`Fault`] keeps.
pub const REGISTER_COUNT: usize = 18;

/// The names of the registers of a [`Fault`], in the order of the kernel's signal frame. An empty
/// name is a place that is not used.
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: [&str; REGISTER_COUNT] = [
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rdi", "rsi", "rbp", "rbx", "rdx", "rax",
    "rcx", "rsp", "rip", "eflags",
];
/// The names of the registers of a [`Fault`], in the order of the kernel's signal frame. An empty
/// name is a place that is not used.
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: [&str; REGISTER_COUNT] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17",
];
/// The names of the registers of a [`Fault`], in the order of the kernel's signal frame. An empty
/// name is a place that is not used.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub const REGISTERS: [&str; REGISTER_COUNT] = [""; REGISTER_COUNT];

/// A fault as the kernel reports it to a signal handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The first byte that could not be accessed; `None` where the kernel does not know it.
    pub addr: Option<usize>,
    /// What was attempted, as far as the processor tells.
    pub access: Option<Access>,
    /// The signal's number.
    pub signal: i32,
    /// Its `si_code`.
    pub code: i32,
    /// The processor's exception; 0 if unknown.
    pub trap: u32,
    /// Its error code.
    pub error: u32,
    /// The instruction.
    pub pc: usize,
    /// The stack pointer.
    pub sp: usize,
    /// The frame pointer.
    pub fp: usize,
    /// The registers, named by [`REGISTERS`].
    pub registers: [usize; REGISTER_COUNT],
}

/// The slots of the pool around an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slots {
    /// The slot whose own pages hold the address.
    pub inside: Option<Record>,
    /// The nearest slot below that was ever used.
    pub below: Option<Record>,
    /// The nearest slot above that was ever used.
    pub above: Option<Record>,
}

/// What is known of the place that an address points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scene<'m> {
    /// The state of its page by our account.
    pub page: PageState,
    /// The slots around it; none outside of the pool.
    pub slots: Slots,
    /// Where it lies by the kernel's listing.
    pub ground: Ground<'m>,
    /// What may be done there by the kernel's listing.
    pub rights: Rights,
    /// Whether it lies where a stack would grow to next.
    pub below_stack: bool,
    /// The number of the pool's last operation.
    pub now: u64,
}

impl Scene<'_> {
    /// Nothing is known.
    pub const NOWHERE: Scene<'static> = Scene {
        page: PageState::None,
        slots: Slots {
            inside: None,
            below: None,
            above: None,
        },
        ground: Ground::Unmapped {
            below: None,
            above: None,
        },
        rights: Rights::NONE,
        below_stack: false,
        now: 0,
    };
}

/// The kernel's name of a thread, up to the first zero byte; all zero if it is not known.
pub type ThreadName = [u8; 16];

/// Who was caught, doing what, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident<'i> {
    /// The thread that was caught, by the kernel's number.
    pub thread: u32,
    /// Its call stack, innermost first. Of a fault the first is the instruction itself.
    pub stack: &'i [usize],
    /// The signal and its `si_code` if it was a fault.
    pub signal: Option<(i32, i32)>,
    /// The process.
    pub process: u32,
    /// The path of the program; empty if it is not known.
    pub program: &'i [u8],
    /// The number of the pool's last operation.
    pub now: u64,
    /// One allocation in so many is guarded.
    pub sampled: u64,
}

/// Where the rest of a report is looked up.
pub trait Names {
    /// Puts a call stack into `frames`, innermost first. How many there were.
    fn stack(&self, id: StackId, frames: &mut [usize; FRAMES]) -> usize;
    /// The module of an instruction.
    fn locate(&self, pc: usize) -> Option<Location<'_>>;
    /// The name of a thread, which may be gone.
    fn thread(&self, id: u32) -> ThreadName;
}
