//! What can come out of a diagnosis.

pub use super::diagnosis::{FAR, FRAME, NULL_END, of_call, of_canary, of_fault};
use super::record::Record;
use super::scene::{Ground, REGISTER_COUNT};
use crate::mmu::addr::Access;
use crate::report::Call;

/// Where an address lies relative to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// So many bytes after its first byte, inside.
    Within(usize),
    /// So many bytes after the first byte behind it.
    Past(usize),
    /// So many bytes before its first byte, at least 1.
    Before(usize),
}

/// What the caller of a free or realloc said of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Given {
    /// Its size in bytes.
    pub size: Option<usize>,
    /// Its alignment in bytes.
    pub align: Option<usize>,
}

/// When a damaged canary was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// When the object was freed.
    Free,
    /// When it was reallocated.
    Realloc,
    /// At the end of the process.
    Exit,
    /// When somebody asked for a look at all of them.
    Sweep,
}

/// Why a pointer cannot be given to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why<'m> {
    /// It points into an object or near one, in use or not.
    Near(Record, Place),
    /// It is none of ours.
    Foreign(Ground<'m>),
}

/// Why a wild access was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is mapped there.
    Unmapped,
    /// Something is mapped there that may not be accessed.
    NoAccess,
}

/// An error, explained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'m> {
    /// An access behind the end of an object in use.
    Overflow {
        /// The first byte accessed.
        addr: usize,
        /// What was done.
        access: Option<Access>,
        /// The object.
        block: Record,
        /// Bytes between the object's end and the access: 0 is the first byte behind it.
        by: usize,
    },
    /// An access before the beginning of an object in use.
    Underflow {
        /// The first byte accessed.
        addr: usize,
        /// What was done.
        access: Option<Access>,
        /// The object.
        block: Record,
        /// Bytes from the access to the object's first byte.
        by: usize,
    },
    /// An access to a freed object.
    UseAfterFree {
        /// The first byte accessed.
        addr: usize,
        /// What was done.
        access: Option<Access>,
        /// What the object was.
        block: Record,
        /// Where in it.
        place: Place,
        /// How many operations of the pool ago it was freed.
        age: u64,
    },
    /// A second free.
    DoubleFree {
        /// What the object was.
        block: Record,
        /// How many operations of the pool ago it was freed.
        age: u64,
    },
    /// A realloc or usable_size of a freed object.
    FreedBefore {
        /// The call.
        call: Call,
        /// What the object was.
        block: Record,
        /// How many operations of the pool ago it was freed.
        age: u64,
    },
    /// A free, realloc or usable_size of what is no object.
    InvalidPointer {
        /// The call.
        call: Call,
        /// What it was given.
        addr: usize,
        /// What is there instead.
        why: Why<'m>,
    },
    /// A free with another size than the object's.
    WrongSize {
        /// The object.
        block: Record,
        /// The size that was said, in bytes.
        given: usize,
    },
    /// A free with another alignment than the object's.
    WrongAlign {
        /// The object.
        block: Record,
        /// The alignment that was said, in bytes.
        given: usize,
    },
    /// Bytes around an object were overwritten.
    Canary {
        /// The object.
        block: Record,
        /// The first byte that was, relative to the object's first.
        first: isize,
        /// The last one.
        last: isize,
        /// When it was found.
        found: Occasion,
    },
    /// An access through a null pointer or a little behind.
    Null {
        /// The first byte accessed.
        addr: usize,
        /// What was done.
        access: Option<Access>,
    },
    /// An access to where nothing is.
    Wild {
        /// The first byte accessed.
        addr: usize,
        /// What was done.
        access: Option<Access>,
        /// Why it was refused.
        refusal: Refusal,
    },
    /// An access through an address that the processor does not have.
    NonCanonical {
        /// What was done.
        access: Option<Access>,
        /// Bit n is set if register n holds such an address: one of these was it.
        suspects: u32,
        /// The registers, named by [`REGISTERS`](super::scene::REGISTERS).
        registers: [usize; REGISTER_COUNT],
    },
    /// A write to read-only memory.
    ReadOnly {
        /// The first byte accessed.
        addr: usize,
        /// What lies there.
        ground: Ground<'m>,
    },
    /// A jump into memory that may not be executed.
    Execute {
        /// The address.
        addr: usize,
        /// Whether that is heap memory.
        heap: bool,
    },
    /// A stack that is used up.
    StackOverflow {
        /// The first byte accessed.
        addr: usize,
        /// The object that was the stack, if it is one.
        block: Option<Record>,
    },
    /// Anything else.
    NotOurs {
        /// The address that the kernel reports; `None` if it has none.
        addr: Option<usize>,
        /// The instruction that cannot be done; `None` if the signal was sent by a process.
        pc: Option<usize>,
        /// The signal's number.
        signal: i32,
        /// Its `si_code`.
        code: i32,
    },
}

impl Place {
    /// Where `addr` lies relative to `block`.
    #[must_use]
    pub const fn of(addr: usize, block: &Record) -> Place {
        if addr < block.payload {
            return Place::Before(block.payload - addr);
        }
        let offset = addr - block.payload;
        if offset < block.size {
            Place::Within(offset)
        } else {
            Place::Past(offset - block.size)
        }
    }
}

impl Verdict<'_> {
    /// The class of error, in the words of the reports.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Verdict::Overflow { .. } => "heap overflow",
            Verdict::Underflow { .. } => "heap underflow",
            Verdict::Canary { first, .. } if *first < 0 => "heap underflow",
            Verdict::Canary { .. } => "heap overflow",
            Verdict::UseAfterFree { .. } => "use after free",
            Verdict::DoubleFree { .. } => "double free",
            Verdict::FreedBefore { call, .. } | Verdict::InvalidPointer { call, .. } => {
                match call {
                    Call::Free => "invalid free",
                    Call::Realloc => "invalid realloc",
                    Call::UsableSize => "invalid usable_size",
                }
            }
            Verdict::WrongSize { .. } => "wrong size",
            Verdict::WrongAlign { .. } => "wrong alignment",
            Verdict::Null { .. } => "null pointer",
            Verdict::Wild { .. } | Verdict::NonCanonical { .. } => "wild pointer",
            Verdict::ReadOnly { .. } => "write to read-only memory",
            Verdict::Execute { heap: true, .. } => "execution of heap memory",
            Verdict::Execute { heap: false, .. } => "execution of data",
            Verdict::StackOverflow { .. } => "stack overflow",
            Verdict::NotOurs { .. } => "fault",
        }
    }

    /// The address that it is about: of the first byte accessed or overwritten, or the pointer that
    /// was given. `None` if it is not known.
    #[must_use]
    pub fn address(&self) -> Option<usize> {
        match *self {
            Verdict::Overflow { addr, .. }
            | Verdict::Underflow { addr, .. }
            | Verdict::UseAfterFree { addr, .. }
            | Verdict::InvalidPointer { addr, .. }
            | Verdict::Null { addr, .. }
            | Verdict::Wild { addr, .. }
            | Verdict::ReadOnly { addr, .. }
            | Verdict::Execute { addr, .. }
            | Verdict::StackOverflow { addr, .. } => Some(addr),
            Verdict::DoubleFree { block, .. }
            | Verdict::FreedBefore { block, .. }
            | Verdict::WrongSize { block, .. }
            | Verdict::WrongAlign { block, .. } => Some(block.payload),
            Verdict::Canary { block, first, .. } => Some(block.payload.wrapping_add_signed(first)),
            Verdict::NonCanonical {
                suspects,
                registers,
                ..
            } => {
                // Of several nobody knows which.
                let mut pairs = registers.iter().zip(0u32..);
                let found = pairs.find(|(_, bit)| suspects == 1 << bit);
                found.map(|(value, _)| *value)
            }
            Verdict::NotOurs { addr, .. } => addr,
        }
    }

    /// What was done, if it is known.
    #[must_use]
    pub const fn access(&self) -> Option<Access> {
        match *self {
            Verdict::Overflow { access, .. }
            | Verdict::Underflow { access, .. }
            | Verdict::UseAfterFree { access, .. }
            | Verdict::Null { access, .. }
            | Verdict::Wild { access, .. }
            | Verdict::NonCanonical { access, .. } => access,
            Verdict::Canary { .. } | Verdict::ReadOnly { .. } => Some(Access::Write),
            Verdict::Execute { .. } => Some(Access::Exec),
            _ => None,
        }
    }

    /// The object that it is blamed on.
    #[must_use]
    pub const fn block(&self) -> Option<&Record> {
        match self {
            Verdict::Overflow { block, .. }
            | Verdict::Underflow { block, .. }
            | Verdict::UseAfterFree { block, .. }
            | Verdict::DoubleFree { block, .. }
            | Verdict::FreedBefore { block, .. }
            | Verdict::WrongSize { block, .. }
            | Verdict::WrongAlign { block, .. }
            | Verdict::Canary { block, .. }
            | Verdict::InvalidPointer {
                why: Why::Near(block, _),
                ..
            }
            | Verdict::StackOverflow {
                block: Some(block), ..
            } => Some(block),
            _ => None,
        }
    }

    /// Where the address lies relative to that object.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        let block = self.block()?;
        Some(Place::of(self.address()?, block))
    }
}
