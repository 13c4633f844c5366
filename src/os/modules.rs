//! Where an address lies, by the kernel's listing of the process.

use crate::mmu::addr::Rights;

/// What lies at an address. Names are as in `/proc/self/maps`, without the mark of deleted files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground<'m> {
    /// Nothing.
    Unmapped {
        /// Bytes from the last byte of the area below to the address; `None` without one.
        below: Option<usize>,
        /// Bytes from the address to the first byte of the area above; `None` without one.
        above: Option<usize>,
    },
    /// A stack.
    Stack {
        /// Of the main thread; otherwise the one that the stack pointer lies in.
        main: bool,
    },
    /// Writable data that came with a program or library.
    Static {
        /// Its path.
        module: &'m [u8],
    },
    /// The memory below the program break.
    Heap,
    /// Any other memory.
    Mapped {
        /// What may be done there.
        rights: Rights,
        /// The file's path, or what the kernel calls it; empty for anonymous memory.
        name: &'m [u8],
    },
}
