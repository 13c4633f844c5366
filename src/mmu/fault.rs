//! Everything that can go wrong with an access, and the signal that Linux makes of it.
//!
//! Whether the page was present and `si_code` alone cannot tell a page without permission from
//! a guard or from nothing at all (measured on Linux 6.18, x86-64): whoever explains a fault
//! needs to know what was there.

use super::addr::{Access, Mode, VirtAddr};

/// Why an access cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// No area covers the address.
    NotMapped,
    /// As [`Cause::NotMapped`], in the first 64 KiB: a null pointer plus a field's offset.
    NullDeref,
    /// The area may not be read (or executed, where reading is what is missing).
    ProtRead,
    /// The area may not be written.
    ProtWrite,
    /// The area may not be executed.
    ExecNx,
    /// The page is a guard.
    Guard,
    /// User mode used an address of the kernel.
    UserSupervisor,
    /// The address has no translation in this geometry.
    NonCanonical,
    /// The mapping goes on beyond the end of its file or object.
    BusEof,
    /// The stack has reached its limit, or something too near.
    StackLimit,
    /// Neither a frame nor a swap slot is left.
    OutOfMemory,
    /// The offset is beyond the segment's limit.
    SegmentLimit,
    /// The segment belongs to a more privileged level.
    SegmentPrivilege,
    /// The segment does not allow this kind of access.
    SegmentType,
    /// There is no such segment in memory.
    SegmentNotPresent,
}

/// An access that cannot be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Why.
    pub cause: Cause,
    /// The first byte that could not be accessed.
    pub addr: VirtAddr,
    /// What was attempted.
    pub access: Access,
    /// By whom.
    pub mode: Mode,
    /// Whether the page was present, only not for this.
    pub present: bool,
    /// Which access of the machine's it was, counted from 0: an exception belongs to one
    /// instruction, an interrupt to none.
    pub instruction: u64,
}

/// What the processor and Linux report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature {
    /// The processor's exception: 14 page fault, 13 general protection.
    pub trap: u8,
    /// Its error code: bit 0 present, 1 write, 2 user, 4 instruction fetch.
    pub error: u32,
    /// The signal: 11 SIGSEGV, 7 SIGBUS.
    pub signal: i32,
    /// Its `si_code`.
    pub code: i32,
    /// Its `si_addr`.
    pub addr: u64,
}

impl Signature {
    /// `SEGV_MAPERR`.
    pub const MAPERR: i32 = 1;
    /// `SEGV_ACCERR`.
    pub const ACCERR: i32 = 2;
    /// `BUS_ADRERR`.
    pub const ADRERR: i32 = 2;
    /// `SI_KERNEL`.
    pub const KERNEL: i32 = 128;
    /// SIGSEGV.
    pub const SEGV: i32 = 11;
    /// SIGBUS.
    pub const BUS: i32 = 7;
}

impl Fault {
    /// The signature of the fault on Linux and x86-64. `None` for what is the model's alone:
    /// segments, which Linux does not use, and the end of memory, at which Linux kills.
    #[must_use]
    pub const fn signature(&self) -> Option<Signature> {
        let (signal, code) = match self.cause {
            Cause::NotMapped
            | Cause::NullDeref
            | Cause::Guard
            | Cause::UserSupervisor
            | Cause::StackLimit => (Signature::SEGV, Signature::MAPERR),
            Cause::ProtRead | Cause::ProtWrite | Cause::ExecNx => {
                (Signature::SEGV, Signature::ACCERR)
            }
            Cause::BusEof => (Signature::BUS, Signature::ADRERR),
            Cause::NonCanonical => {
                return Some(Signature {
                    trap: 13,
                    error: 0,
                    signal: Signature::SEGV,
                    code: Signature::KERNEL,
                    addr: 0,
                });
            }
            Cause::OutOfMemory
            | Cause::SegmentLimit
            | Cause::SegmentPrivilege
            | Cause::SegmentType
            | Cause::SegmentNotPresent => return None,
        };
        // A user's access to a kernel address is reported as to a present page.
        let present = self.present || matches!(self.cause, Cause::UserSupervisor);
        let what = match self.access {
            Access::Read => 0,
            Access::Write => 2,
            Access::Exec => 0x10,
        };
        let who = match self.mode {
            Mode::User => 4,
            Mode::Supervisor => 0,
        };
        Some(Signature {
            trap: 14,
            error: present as u32 | what | who,
            signal,
            code,
            addr: self.addr.raw(),
        })
    }
}
