//! Which program or library an instruction belongs to, by the kernel's listing of the process.

use super::elf::{Image, image};
use super::lines::{Lines, peek};
use crate::mmu::addr::Rights;
use crate::mmu::listing::{Line, Name};

/// Where an instruction lies in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location<'m> {
    /// The path of the program or library.
    pub module: &'m [u8],
    /// The address as the file counts: what `addr2line -e MODULE` wants.
    pub offset: usize,
}

/// Programs and libraries that are told apart.
const MODULES: usize = 512;
/// Bytes of their paths.
const NAMES: usize = 48 << 10;

#[derive(Debug, Clone, Copy)]
struct Module {
    /// The first address, and the first behind it.
    range: (usize, usize),
    /// The same of writable data.
    data: (usize, usize),
    bias: usize,
    /// Where the path begins, and its bytes.
    name: (usize, usize),
}

const NONE: Module = Module {
    range: (0, 0),
    data: (0, 0),
    bias: 0,
    name: (0, 0),
};

/// A file whose areas pass by.
#[derive(Debug, Clone, Copy)]
struct Passing {
    /// Whether there is one.
    begun: bool,
    file: (u32, u32, u64),
    /// Where the beginning of the file is mapped; 0 if it is not known.
    base: usize,
    /// Where its last area ended.
    end: usize,
    name: (usize, usize),
    /// It is the last module.
    known: bool,
    /// Where the module ends by its own word.
    high: usize,
    /// It has said nothing, the areas say it.
    by_areas: bool,
}

impl Passing {
    const NONE: Passing = Passing {
        begun: false,
        file: (0, 0, 0),
        base: 0,
        end: 0,
        name: (0, 0),
        known: false,
        high: 0,
        by_areas: false,
    };
}

/// All programs and libraries of a process, at one time. All zero is an empty one.
#[derive(Debug)]
pub struct Modules {
    table: [Module; MODULES],
    count: usize,
    names: [u8; NAMES],
    used: usize,
    passing: Passing,
    partial: bool,
}

impl Modules {
    /// None.
    #[must_use]
    #[allow(clippy::large_stack_frames, clippy::new_without_default)] // Only for statics.
    pub const fn new() -> Modules {
        Modules {
            table: [NONE; MODULES],
            count: 0,
            names: [0; NAMES],
            used: 0,
            passing: Passing::NONE,
            partial: false,
        }
    }

    /// Forgets all.
    pub const fn clear(&mut self) {
        self.count = 0;
        self.used = 0;
        self.passing = Passing::NONE;
        self.partial = false;
    }

    /// Asks the kernel, by way of `buffer` (for instance of [`BUFFER`](super::BUFFER) bytes).
    /// Without a listing there are none. Safe in a signal handler.
    pub fn read(&mut self, page: usize, buffer: &mut [u8]) {
        self.clear();
        let Ok(mut lines) = Lines::open(c"/proc/self/maps", buffer) else {
            self.partial = true;
            return;
        };
        while lines
            .next(|text| {
                if let Ok(line) = Line::parse(text) {
                    self.look(&line, page, &mut peek);
                }
            })
            .is_some()
        {}
    }

    /// Looks at the next line of a listing. `read` copies memory of the process.
    pub fn look(
        &mut self,
        line: &Line<'_>,
        page: usize,
        read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
    ) {
        let path = match line.kind() {
            Name::File { path, .. } => path,
            Name::Kernel(b"vdso") => line.name,
            _ => return,
        };
        let (start, end) = (line.start as usize, line.end as usize);
        let file = (line.device.0, line.device.1, line.inode);
        // Anonymous memory has no inode, the vdso neither: names are compared too.
        let same = Some(self.passing).filter(|passing| {
            passing.begun && passing.file == file && self.name(passing.name) == path
        });
        let mut passing = match same {
            Some(passing) if passing.known && start < passing.high => passing,
            Some(passing) if !passing.known && passing.end == start => passing,
            Some(passing) if !passing.known && line.offset != 0 => passing,
            _ => Passing {
                begun: true,
                file,
                base: if line.offset == 0 { start } else { 0 },
                end,
                name: self.keep(path, same),
                known: false,
                high: 0,
                by_areas: false,
            },
        };
        passing.end = end;
        if !passing.known && line.rights.holds(Rights::EXEC) {
            self.add(&mut passing, line, page, read);
        }
        if passing.known
            && let Some(module) = self.table.get_mut(self.count.wrapping_sub(1))
        {
            module.range.1 = module.range.1.max(end);
            if passing.by_areas && line.rights.holds(Rights::WRITE) && !line.shared {
                let first = if module.data.1 == 0 {
                    start
                } else {
                    module.data.0
                };
                module.data = (first, end);
            }
        }
        self.passing = passing;
    }

    /// Puts a path behind the others, over that of a file which was none of ours.
    fn keep(&mut self, path: &[u8], same: Option<Passing>) -> (usize, usize) {
        if let Some(same) = same {
            return same.name;
        }
        let at = self.used;
        let room = self
            .names
            .get_mut(at..)
            .and_then(|rest| rest.get_mut(..path.len()));
        let Some(room) = room else {
            self.partial = true;
            return (at, 0);
        };
        for (to, from) in room.iter_mut().zip(path) {
            *to = *from;
        }
        (at, path.len())
    }

    fn add(
        &mut self,
        passing: &mut Passing,
        line: &Line<'_>,
        page: usize,
        read: &mut dyn FnMut(usize, &mut [u8]) -> bool,
    ) {
        let (start, end) = (line.start as usize, line.end as usize);
        let base = passing.base;
        let mut from_base =
            |offset: usize, into: &mut [u8]| base != 0 && read(base.wrapping_add(offset), into);
        let said = image(base, page, &mut from_base);
        // What says that it lies elsewhere is no head of this.
        let said = said.filter(|image| image.low <= start && end <= round_up(image.high, page));
        passing.by_areas = said.is_none();
        let image = said.unwrap_or(Image {
            // As if addresses and offsets were the same.
            bias: start.wrapping_sub(line.offset as usize),
            low: if base == 0 { start } else { base },
            high: usize::MAX,
            data: (0, 0),
        });
        let Some(module) = self
            .table
            .get_mut(self.count)
            .filter(|_| passing.name.1 != 0)
        else {
            self.partial = true;
            return;
        };
        *module = Module {
            range: (image.low, end),
            data: image.data,
            bias: image.bias,
            name: passing.name,
        };
        self.count += 1;
        self.used = self.used.max(passing.name.0 + passing.name.1);
        passing.known = true;
        passing.high = image.high;
    }

    fn name(&self, (at, len): (usize, usize)) -> &[u8] {
        let rest = self.names.get(at..).unwrap_or(&[]);
        rest.get(..len).unwrap_or(&[])
    }

    fn all(&self) -> &[Module] {
        self.table.get(..self.count).unwrap_or(&[])
    }

    /// The module that an instruction belongs to.
    #[must_use]
    pub fn locate(&self, pc: usize) -> Option<Location<'_>> {
        let holds = |module: &&Module| pc >= module.range.0 && pc < module.range.1;
        let module = self.all().iter().find(holds)?;
        Some(Location {
            module: self.name(module.name),
            offset: pc.wrapping_sub(module.bias),
        })
    }

    /// The module whose writable data, initialised or not, holds an address.
    #[must_use]
    pub fn data_at(&self, addr: usize) -> Option<&[u8]> {
        let holds = |module: &&Module| addr >= module.data.0 && addr < module.data.1;
        let module = self.all().iter().find(holds)?;
        Some(self.name(module.name))
    }

    /// Whether there were more than there is room for, or no listing.
    #[must_use]
    pub const fn is_partial(&self) -> bool {
        self.partial
    }
}

const fn round_up(addr: usize, page: usize) -> usize {
    addr.saturating_add(page.wrapping_sub(1)) & !page.wrapping_sub(1)
}
