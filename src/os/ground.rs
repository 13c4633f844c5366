//! What lies at an address, by the kernel's listing of the process.

use super::lines::Lines;
use super::modules::Modules;
use crate::mmu::addr::Rights;
use crate::mmu::listing::{Line, Name};

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

/// What was found out of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Survey<'m> {
    /// What lies there.
    pub ground: Ground<'m>,
    /// What may be done there.
    pub rights: Rights,
    /// Whether it lies where a stack would grow to next.
    pub below_stack: bool,
}

/// How far below the main thread's stack an access is taken for one of the stack, in bytes: the
/// gap that Linux keeps there (256 pages).
const GAP: usize = 256 << 12;
/// The same for another stack: what a large frame may jump over.
const FRAME: usize = 64 << 10;
/// How far the stack pointer itself may have left its stack, in bytes: an array of that size.
const ARRAY: usize = 16 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Stack,
    Heap,
    Anonymous,
    Named,
}

#[derive(Clone, Copy)]
struct Area {
    start: usize,
    end: usize,
    rights: Rights,
    kind: Kind,
}

impl Area {
    const fn holds(&self, addr: usize) -> bool {
        addr >= self.start && addr < self.end
    }
}

/// Looks for an address in a listing that passes by once.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations)] // Private state only.
pub struct Surveyor {
    addr: usize,
    sp: usize,
    /// Where the last area below the address ends.
    below: Option<usize>,
    /// The area that holds it.
    here: Option<Area>,
    /// Where the first area above begins.
    above: Option<usize>,
    /// Where the last area below that may be accessed ends.
    floor: usize,
    /// The first area at or above the address that may be accessed.
    ceiling: Option<Area>,
    /// Bytes of the name of the area that holds it.
    name: usize,
}

impl Surveyor {
    /// For an address and the stack pointer of the thread that used it.
    #[must_use]
    pub const fn new(addr: usize, sp: usize) -> Surveyor {
        Surveyor {
            addr,
            sp,
            below: None,
            here: None,
            above: None,
            floor: 0,
            ceiling: None,
            name: 0,
        }
    }

    /// Looks at the next line. The name of what holds the address is put into `name`, as far as
    /// there is room.
    pub fn look(&mut self, line: &Line<'_>, name: &mut [u8]) {
        let (kind, bytes) = match line.kind() {
            Name::Stack => (Kind::Stack, line.name),
            Name::Heap => (Kind::Heap, line.name),
            Name::Anonymous | Name::Labelled(_) => (Kind::Anonymous, line.name),
            Name::File { path, .. } => (Kind::Named, path),
            Name::Kernel(_) | Name::Other(_) => (Kind::Named, line.name),
        };
        let area = Area {
            start: line.start as usize,
            end: line.end as usize,
            rights: line.rights,
            kind,
        };
        let accessible = area.rights != Rights::NONE;
        if area.end <= self.addr {
            self.below = Some(area.end);
            if accessible {
                self.floor = area.end;
            }
            return;
        }
        if area.holds(self.addr) {
            self.here = Some(area);
            self.name = bytes.len().min(name.len());
            for (to, from) in name.iter_mut().zip(bytes) {
                *to = *from;
            }
        } else if self.above.is_none() {
            self.above = Some(area.start);
        }
        if accessible && self.ceiling.is_none() {
            self.ceiling = Some(area);
        }
    }

    /// What was found. `name` is what [`look`](Surveyor::look) filled.
    #[must_use]
    pub fn finish<'m>(&self, modules: &'m Modules, name: &'m [u8]) -> Survey<'m> {
        let addr = self.addr;
        let below_stack = self.is_below_stack();
        let Some(area) = self.here else {
            let ground = Ground::Unmapped {
                below: self.below.map(|end| addr.saturating_sub(end) + 1),
                above: self.above.map(|start| start.saturating_sub(addr)),
            };
            return Survey {
                ground,
                rights: Rights::NONE,
                below_stack,
            };
        };
        let holds_sp = area.kind == Kind::Anonymous
            && area.holds(self.sp)
            && area.rights.holds(Rights::READ_WRITE);
        let ground = match (modules.data_at(addr), area.kind) {
            (_, Kind::Stack) => Ground::Stack { main: true },
            (Some(module), _) if area.rights.holds(Rights::WRITE) => Ground::Static { module },
            (_, Kind::Heap) => Ground::Heap,
            _ if holds_sp => Ground::Stack { main: false },
            _ => Ground::Mapped {
                rights: area.rights,
                name: name.get(..self.name).unwrap_or(&[]),
            },
        };
        Survey {
            ground,
            rights: area.rights,
            below_stack,
        }
    }

    /// Whether the address lies in a gap without access, below what is a stack, and not far.
    fn is_below_stack(&self) -> bool {
        let Some(stack) = self.ceiling.filter(|area| area.start > self.addr) else {
            return false;
        };
        let could_be = matches!(stack.kind, Kind::Stack | Kind::Anonymous)
            && stack.rights.holds(Rights::READ_WRITE);
        if !could_be {
            return false;
        }
        let depth = stack.start - self.addr;
        if stack.kind == Kind::Stack && depth <= GAP {
            return true;
        }
        let near = self.addr.saturating_add(FRAME) >= self.sp;
        if stack.holds(self.sp) {
            return depth <= FRAME && near;
        }
        // A large frame took the stack pointer out of the stack, into the gap.
        let left = self.sp >= self.floor && self.sp < stack.start;
        left && near && stack.start - self.sp <= ARRAY
    }
}

/// Asks the kernel what lies at an address. `sp` is the stack pointer of the thread that used it;
/// `buffer` is where the listing passes by, `name` where a name is put. Without a listing nothing
/// is mapped.
pub fn survey<'m>(
    addr: usize,
    sp: usize,
    modules: &'m Modules,
    buffer: &mut [u8],
    name: &'m mut [u8],
) -> Survey<'m> {
    let mut surveyor = Surveyor::new(addr, sp);
    if let Ok(mut lines) = Lines::open(c"/proc/self/maps", buffer) {
        while lines
            .next(|text| {
                if let Ok(line) = Line::parse(text) {
                    surveyor.look(&line, name);
                }
            })
            .is_some()
        {}
    }
    surveyor.finish(modules, name)
}
