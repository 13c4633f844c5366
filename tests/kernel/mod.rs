//! The parts of the proof against the kernel: what a system is, and three of them.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | [`System`], the operations and their answers |
//! | `naive*.rs` | the model that is too simple to be wrong: a row of pages |
//! | `real.rs` | the kernel, in this process |
//! | `remote.rs`, `remote.c` | the kernel, in a process that does nothing by itself |
//! | `fast.rs` | the model of the library |
//! | `probe.rs` | accesses that survive their faults |
//! | `quirks.rs` | what this kernel has and what it lacks |
//! | `drive.rs`, `generate.rs` | random operations, the comparison, scripts |
//! | `crowd.rs` | several spaces of one machine, short of memory; scripts of them |
//! | `forks.rs` | tests: parent and child |
//! | `bounds.rs` | tests: limits |
//! | `signals.rs` | tests: what a fault looks like |
//! | `tables.rs` | tests: what page tables cost |

use fencepost::mmu::addr::{Access, ObjectId, PAGE};
use fencepost::mmu::area::{Area, Backing, Errno, Traits};
use fencepost::mmu::fault::Signature;

mod bounds;
pub mod crowd;
pub mod drive;
pub mod fast;
mod forks;
pub mod generate;
pub mod naive;
mod naive_calls;
mod naive_move;
pub mod probe;
pub mod quirks;
pub mod real;
pub mod remote;
mod signals;
mod tables;

/// Where a system's tests happen. Nothing else may lie within 256 pages of it.
pub const WINDOW: u64 = 0x1000_0000_0000;
/// Its length in pages.
pub const PAGES: u64 = 96;
/// The end of user space with four levels.
pub const TASK_END: u64 = 0x7fff_ffff_f000;
/// The answer of a call that let the system choose a place outside of the window. The mapping
/// there is removed at once.
pub const ELSEWHERE: u64 = u64::MAX;
/// `MREMAP_FIXED` and the like come from the contract; this one is only ever an error.
pub const EACCES: Errno = Errno(13);
/// The kernel's distance between a stack and what is below, in pages.
pub const GAP: u64 = 256;
/// Pages of the files that mappings can have.
pub const FILES: [u64; 2] = [5, 12];

/// Bytes of a page that the operations use: the first and the last `EDGE`.
pub const EDGE: u64 = 32;
/// The bytes of a page that are compared.
pub type Contents = [u8; 2 * EDGE as usize];

/// Where in [`Contents`] the byte at `addr` is.
pub fn place(addr: u64) -> usize {
    let offset = addr % PAGE;
    if offset < EDGE {
        return offset as usize;
    }
    assert!(
        offset >= PAGE - EDGE,
        "{addr:#x} is in the middle of a page"
    );
    (offset - (PAGE - 2 * EDGE)) as usize
}

/// What a file holds before anything is written.
pub fn pristine(file: usize, page: u64) -> Contents {
    let mut bytes = [0; 2 * EDGE as usize];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = (i as u8).wrapping_mul(3) ^ (0x41 + 31 * file as u8 + page as u8);
    }
    bytes
}

/// The byte number `i` that an operation with this seed writes.
pub fn written(seed: u8, i: u64) -> u8 {
    seed.wrapping_add((i as u8).wrapping_mul(7))
}

/// One operation. Numbers are Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Mmap {
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        /// Which of [`FILES`]; `None` is descriptor -1.
        file: Option<usize>,
        offset: u64,
    },
    Munmap {
        addr: u64,
        len: u64,
    },
    Mprotect {
        addr: u64,
        len: u64,
        prot: u32,
    },
    Madvise {
        addr: u64,
        len: u64,
        advice: u32,
    },
    Mremap {
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    },
    Brk {
        to: u64,
    },
    /// By the kernel on the program's behalf, up to 16 bytes.
    Read {
        addr: u64,
        len: u64,
    },
    /// By the kernel on the program's behalf, up to 16 bytes.
    Write {
        addr: u64,
        len: u64,
        seed: u8,
    },
    /// By one instruction, 1 or 8 bytes.
    Touch {
        addr: u64,
        len: u64,
        access: Access,
        seed: u8,
    },
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The call's result.
    Done(u64),
    /// The call's error.
    Refused(Errno),
    /// What was read.
    Bytes(u64, [u8; 16]),
    /// The instruction could not be done.
    Fault(Signature),
}

impl Answer {
    /// Whether it went well.
    pub fn success(self) -> bool {
        matches!(self, Answer::Done(_) | Answer::Bytes(..))
    }

    fn of(result: Result<u64, Errno>) -> Answer {
        result.map_or_else(Answer::Refused, Answer::Done)
    }

    fn read(result: Result<u64, Errno>, bytes: [u8; 16]) -> Answer {
        result.map_or_else(Answer::Refused, |n| Answer::Bytes(n, bytes))
    }
}

/// A page as its page table shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageView {
    /// Something is mapped: a frame, or a swap slot.
    pub present: bool,
    /// It is a guard.
    pub guard: bool,
}

/// Whatever answers Linux's memory calls.
pub trait System {
    /// `file` is an index into [`FILES`].
    fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<usize>,
        offset: u64,
    ) -> Result<u64, Errno>;
    fn munmap(&mut self, addr: u64, len: u64) -> Result<u64, Errno>;
    fn mprotect(&mut self, addr: u64, len: u64, prot: u32) -> Result<u64, Errno>;
    fn madvise(&mut self, addr: u64, len: u64, advice: u32) -> Result<u64, Errno>;
    fn mremap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno>;
    fn brk(&mut self, to: u64) -> u64;
    /// As `process_vm_readv`: how many bytes could be read.
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<u64, Errno>;
    /// As `process_vm_writev`: how many bytes could be written.
    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<u64, Errno>;
    /// One instruction; what a load gives.
    fn touch(
        &mut self,
        addr: u64,
        len: u64,
        access: Access,
        bytes: [u8; 8],
    ) -> Result<u64, Signature>;
    /// The areas of the window, as [`canonical`] makes them.
    fn areas(&mut self) -> Vec<Area>;
    /// The page at `addr`.
    fn page(&mut self, addr: u64) -> PageView;

    /// Called before [`System::areas`], [`System::page`] and [`System::peek`], after an operation.
    fn look(&mut self) {}
    /// The areas as the system cuts them, if it does not cut as the naive model does.
    fn unmerged(&mut self) -> Option<Vec<Area>> {
        None
    }
    /// The areas with their traits, if they are to be compared.
    fn cuts(&mut self) -> Option<Vec<Area>> {
        None
    }
    /// Whether the system finds itself in order.
    fn check(&mut self) -> Result<(), String> {
        Ok(())
    }
    /// The contents of a page that is present and may be read by instructions.
    fn peek(&mut self, addr: u64) -> Contents;
    /// Whether neighbours in shared memory and files may be present without an access.
    fn faults_around(&self) -> bool {
        true
    }

    /// Does it.
    fn apply(&mut self, op: &Op) -> Answer {
        match *op {
            Op::Mmap {
                hint,
                len,
                prot,
                flags,
                file,
                offset,
            } => Answer::of(self.mmap(hint, len, prot, flags, file, offset)),
            Op::Munmap { addr, len } => Answer::of(self.munmap(addr, len)),
            Op::Mprotect { addr, len, prot } => Answer::of(self.mprotect(addr, len, prot)),
            Op::Madvise { addr, len, advice } => Answer::of(self.madvise(addr, len, advice)),
            Op::Mremap {
                old,
                old_len,
                new_len,
                flags,
                new,
            } => Answer::of(self.mremap(old, old_len, new_len, flags, new)),
            Op::Brk { to } => Answer::Done(self.brk(to)),
            Op::Read { addr, len } => {
                let mut bytes = [0; 16];
                let result = self.read(addr, &mut bytes[..len as usize]);
                Answer::read(result, bytes)
            }
            Op::Write { addr, len, seed } => {
                let mut bytes = [0; 16];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = written(seed, i as u64);
                }
                Answer::of(self.write(addr, &bytes[..len as usize]))
            }
            Op::Touch {
                addr,
                len,
                access,
                seed,
            } => {
                let mut bytes = [0; 8];
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = written(seed, i as u64);
                }
                match self.touch(addr, len, access, bytes) {
                    Ok(loaded) => Answer::Done(loaded),
                    Err(signature) => Answer::Fault(signature),
                }
            }
        }
    }
}

/// The areas as they can be compared: what is visible in `/proc/PID/maps` alone, neighbours
/// merged (the kernel leaves equal neighbours apart after faults and moves), objects numbered
/// by their first appearance.
pub fn canonical(areas: impl IntoIterator<Item = Area>) -> Vec<Area> {
    with_traits(areas, Traits::default())
}

/// As [`canonical`], but these traits count.
pub fn with_traits(areas: impl IntoIterator<Item = Area>, traits: Traits) -> Vec<Area> {
    let mut seen: Vec<ObjectId> = Vec::new();
    let mut all: Vec<Area> = Vec::new();
    for mut area in areas {
        area.traits = Traits(area.traits.0 & traits.0);
        if let Backing::Object { object, .. } = &mut area.backing {
            let number = seen.iter().position(|s| s == object).unwrap_or_else(|| {
                seen.push(*object);
                seen.len() - 1
            });
            *object = ObjectId::new(number as u32);
        }
        match all.last_mut() {
            Some(last) if last.joins(&area) => last.end = area.end,
            _ => all.push(area),
        }
    }
    all
}
