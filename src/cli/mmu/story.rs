//! One translation on the model, told in plain data that text and picture are drawn from.

use fencepost::mmu::addr::{Access, FrameNumber, Mode, PhysAddr, Rights, VirtAddr};
use fencepost::mmu::cpu::Mmu;
use fencepost::mmu::entry::{Entry, Meaning};
use fencepost::mmu::fault::{Cause, Fault};
use fencepost::mmu::geometry::Geometry;
use fencepost::mmu::lookaside::Lookaside;
use fencepost::mmu::physical::{FRAME_WORDS, FrameRecord, Physical, Use};
use fencepost::mmu::segment::paging::cause;
use fencepost::mmu::tables::Tables;
use fencepost::mmu::tlb::{Shape, Tlb, TlbLine};

/// What lies at the address before it is accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Page {
    /// A page that may be read and written
    ReadWrite,
    /// The same, never touched yet: the kernel has promised it and mapped nothing
    Fresh,
    /// A page that may be read only
    ReadOnly,
    /// A page of instructions: it may be read and executed
    Code,
    /// A page of the kernel's
    Kernel,
    /// A page with data that nobody may access (PROT_NONE)
    NoAccess,
    /// A guard: any access is a fault (MADV_GUARD_INSTALL)
    Guard,
    /// Nothing
    None,
}

/// What is translated, and how.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    /// The address.
    pub va: u64,
    /// What lies there.
    pub page: Page,
    /// The level whose entry maps it, 0 for an ordinary page.
    pub level: usize,
    /// The frame, none of [`table_frames`]; a huge page begins at the next multiple of its size.
    pub frame: u32,
    /// What is attempted.
    pub access: Access,
    /// By whom.
    pub mode: Mode,
}

/// A part of the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The level whose index it is; the offset has none.
    pub level: Option<usize>,
    /// Its topmost bit, counted from 0.
    pub high: u32,
    /// Its lowest bit.
    pub low: u32,
    /// Its bits.
    pub value: u64,
}

impl Story {
    /// What a part of the address is.
    pub fn label(&self, part: &Part) -> String {
        match part.level {
            Some(level) => format!("{} index", self.name(level)),
            None => "offset".into(),
        }
    }

    /// Linux's name of a level.
    pub fn name(&self, level: usize) -> &'static str {
        self.names.get(level).copied().unwrap_or("?")
    }
}

impl Part {
    /// The index in decimal, the offset in hexadecimal.
    pub fn number(&self) -> String {
        match self.level {
            Some(_) => self.value.to_string(),
            None => format!("{:#x}", self.value),
        }
    }

    /// Its bits, as text.
    pub fn bits(&self) -> String {
        let width = (self.high - self.low + 1) as usize;
        format!("{:0width$b}", self.value)
    }
}

/// One entry on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The level of its table.
    pub level: usize,
    /// Its place in the table.
    pub index: usize,
    /// Where the table begins.
    pub table: u64,
    /// Where the entry lies.
    pub slot: u64,
    /// The entry after the access, in as many digits as it has.
    pub bits: String,
    /// Its flags, if it is present.
    pub flags: String,
    /// What it says.
    pub says: String,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a physical address, in a page that begins at `page`.
    Reached {
        /// The page.
        page: u64,
        /// The address.
        at: u64,
    },
    /// With a fault.
    Refused(Fault),
}

/// The whole translation.
#[derive(Debug, Clone)]
pub struct Story {
    /// What was asked.
    pub scene: Scene,
    /// The geometry's name.
    pub geometry: &'static str,
    /// The number of bits that a virtual address has.
    pub bits: u32,
    /// Whether the bits above repeat the topmost one.
    pub sign: bool,
    /// The address in parts, from the top.
    pub parts: Vec<Part>,
    /// Linux's names of the levels, the leaf's first.
    pub names: &'static [&'static str],
    /// What lies at the address.
    pub mapped: String,
    /// CR3.
    pub root: u64,
    /// The walk of the access that made the kernel map a fresh page.
    pub fresh: Option<Vec<Step>>,
    /// The entries on the way; none if there was no walk.
    pub steps: Vec<Step>,
    /// How it ended.
    pub end: End,
    /// Accesses to memory the first time, and the second.
    pub references: [u64; 2],
    /// Whether the TLB had the translation the second time.
    pub hit: bool,
}

/// The frames that the tables of one address lie in. Those below are for pages.
pub fn table_frames<G: Geometry>() -> std::ops::Range<u32> {
    const FIRST: u32 = 16;
    let root = Tables::<G>::root_frames() + G::LEVELS - 1;
    FIRST..FIRST + u32::try_from(root).unwrap_or(0)
}

/// Sets the scene in a fresh machine, makes the access twice, and tells what happened.
pub fn tell<G: Geometry>(scene: Scene) -> Story {
    let va = VirtAddr::new(scene.va);
    let table_frames = table_frames::<G>();
    let mut words = vec![0; table_frames.end as usize * FRAME_WORDS];
    let mut frames = vec![FrameRecord::EMPTY; table_frames.end as usize];
    let mut memory = Physical::new(&mut words, &mut frames, true);
    for frame in 0..table_frames.start {
        memory.take_at(FrameNumber::new(frame), Use::Kernel);
    }
    let mut tables = Tables::<G>::new(&mut memory).expect("there are frames for all tables");
    let promised = scene.page == Page::Fresh && G::is_canonical(va);
    let mapped = if promised {
        let start = scene.va & !(G::span(scene.level) - 1);
        format!("nothing yet, but the kernel has promised zeros from {start:#x} on")
    } else {
        map(&mut tables, &mut memory, &scene)
    };

    let mut lines = vec![TlbLine::EMPTY; Shape::L1.lines() + Shape::L2.lines()];
    let tlb = Tlb::new(&mut lines, Shape::L1, Shape::L2);
    let mut mmu = Mmu::<G>::new(tlb, Lookaside::new(&mut []));
    mmu.load_cr3(tables.root());
    let mut reach = |memory: &mut Physical<'_>| {
        let before = mmu.counts.references;
        let reached = if G::is_canonical(va) {
            mmu.reach(memory, va, scene.access, scene.mode)
        } else {
            Err(fencepost::mmu::cpu::Refused { present: false })
        };
        (reached, mmu.counts.references - before)
    };
    let walk = |tables: &Tables<G>, memory: &Physical<'_>| {
        let mut steps = Vec::new();
        if G::is_canonical(va) {
            tables.walk(memory, va, |step| steps.push(show(step)));
        }
        steps
    };
    let fresh = promised.then(|| {
        // The fault, and what the kernel does about it.
        let (refused, _) = reach(&mut memory);
        assert!(refused.is_err(), "nothing is mapped yet");
        let steps = walk(&tables, &memory);
        map(&mut tables, &mut memory, &scene);
        steps
    });
    let (first, references) = reach(&mut memory);
    let (again, references_again) = reach(&mut memory);
    assert_eq!(first, again, "the same access ends the same way");
    let hit = mmu.tlb.counts.hits() > 0;

    let steps = walk(&tables, &memory);
    let end = match first {
        Ok(at) => End::Reached {
            page: at.raw() & !(G::span(scene.level) - 1),
            at: at.raw(),
        },
        Err(refused) => {
            let mut cause = cause(&tables, &memory, va, scene.access, scene.mode);
            // The area's rights come first, and only this scene knows them.
            if cause == Cause::Guard && scene.access == Access::Exec && G::HAS_NX {
                cause = Cause::ExecNx;
            }
            End::Refused(Fault {
                cause,
                addr: va,
                access: scene.access,
                mode: scene.mode,
                present: refused.present,
                instruction: 0,
            })
        }
    };
    Story {
        scene,
        geometry: G::NAME,
        bits: G::VA_BITS,
        sign: G::SIGN_EXTEND,
        parts: parts::<G>(va, scene.level),
        names: names(G::LEVELS),
        mapped,
        root: tables.root().raw(),
        fresh,
        steps,
        end,
        references: [references, references_again],
        hit,
    }
}

/// Maps what the scene wants, and says so.
fn map<G: Geometry>(tables: &mut Tables<G>, memory: &mut Physical<'_>, scene: &Scene) -> String {
    let va = VirtAddr::new(scene.va);
    let span = G::span(scene.level);
    let pages = u32::try_from(span >> 12).unwrap_or(u32::MAX);
    let frame = FrameNumber::new(scene.frame.next_multiple_of(pages));
    let start = scene.va & !(span - 1);
    let size = super::address::size(span);
    if !G::is_canonical(va) {
        return "nothing, for there are no tables for such an address".into();
    }
    let user = |rights| (Entry::<G>::user_flags(rights), format!("{rights}"));
    let (flags, what) = match scene.page {
        Page::ReadWrite | Page::Fresh => user(Rights::READ_WRITE),
        Page::ReadOnly => user(Rights::READ),
        Page::Code => user(Rights::READ.or(Rights::EXEC)),
        Page::Kernel => {
            let flags = Entry::<G>::user_flags(Rights::READ_WRITE) & !Entry::<G>::USER;
            (flags, "the kernel's".to_owned())
        }
        Page::NoAccess => {
            put(tables, memory, va, Entry::hidden(frame));
            return format!("a page of {size} with data in frame {frame}, which nobody may access");
        }
        Page::Guard => {
            put(tables, memory, va, Entry::GUARD);
            return "a guard, which has no frame, in an area that is rw-".into();
        }
        Page::None => return "nothing".into(),
    };
    tables
        .map_huge(memory, VirtAddr::new(start), scene.level, frame, flags)
        .expect("an empty machine has room for one page");
    format!("a page of {size}, {what}, from {start:#x} on, in frame {frame}")
}

/// Stores an entry that names no page in use, as a kernel does.
fn put<G: Geometry>(
    tables: &mut Tables<G>,
    memory: &mut Physical<'_>,
    va: VirtAddr,
    entry: Entry<G>,
) {
    let slot = tables
        .make(memory, va, 0)
        .expect("an empty machine has room for the tables of one page");
    let bytes = entry.bits().to_le_bytes();
    memory.write(slot, bytes.get(..G::ENTRY_BYTES).unwrap_or(&bytes));
}

fn show<G: Geometry>(step: &fencepost::mmu::tables::Step<G>) -> Step {
    let entry = step.entry;
    let digits = G::ENTRY_BYTES * 2;
    let says = match entry.meaning() {
        Meaning::Present(frame) if step.is_leaf() => format!("frame {frame}"),
        Meaning::Present(_) => format!("table {}", entry.address()),
        Meaning::Hidden(frame) => format!("frame {frame}, hidden"),
        Meaning::Guard => "a guard".into(),
        Meaning::Swapped(slot) => format!("swap slot {slot}"),
        Meaning::Empty => "nothing".into(),
    };
    Step {
        level: step.level,
        index: step.index,
        table: step.table.raw(),
        slot: PhysAddr::raw(step.slot),
        bits: format!("{:0digits$x}", entry.bits()),
        flags: if entry.is_present() {
            entry.to_string()
        } else {
            "-".repeat(10)
        },
        says,
    }
}

/// The indices that are looked up, from the root down to `leaf`, and the rest as the offset.
fn parts<G: Geometry>(va: VirtAddr, leaf: usize) -> Vec<Part> {
    let level_part = |level| Part {
        level: Some(level),
        high: G::shift(level + 1) - 1,
        low: G::shift(level),
        value: G::index(va, level) as u64,
    };
    let mut parts: Vec<Part> = (leaf..G::LEVELS).rev().map(level_part).collect();
    parts.push(Part {
        level: None,
        high: G::shift(leaf) - 1,
        low: 0,
        value: va.raw() & (G::span(leaf) - 1),
    });
    parts
}

fn names(levels: usize) -> &'static [&'static str] {
    match levels {
        1 => &["PTE"],
        2 => &["PTE", "PGD"],
        3 => &["PTE", "PMD", "PGD"],
        4 => &["PTE", "PMD", "PUD", "PGD"],
        _ => &["PTE", "PMD", "PUD", "P4D", "PGD"],
    }
}

/// What is wrong, for people.
pub fn reason(cause: Cause) -> &'static str {
    match cause {
        Cause::NotMapped => "nothing is mapped there",
        Cause::NullDeref => "nothing is mapped there; so near to 0 it is a null pointer",
        Cause::ProtRead => "the page may not be accessed",
        Cause::ProtWrite => "the page may not be written",
        Cause::ExecNx => "the page may not be executed",
        Cause::Guard => "the page is a guard",
        Cause::UserSupervisor => "the address is the kernel's, and this is user mode",
        Cause::NonCanonical => "the address is not canonical",
        Cause::BusEof => "the file ends before the page",
        Cause::StackLimit => "the stack has reached its limit",
        Cause::OutOfMemory => "no frame is left",
        Cause::SegmentLimit => "the offset is not below the segment's limit",
        Cause::SegmentPrivilege => "the segment belongs to another privilege level",
        Cause::SegmentType => "the segment is not made for this kind of access",
        Cause::SegmentNotPresent => "there is no such segment",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fencepost::mmu::geometry::{Flat, Pae, X86L2, X86L4, X86L5};

    fn scene(va: u64, page: Page) -> Scene {
        Scene {
            va,
            page,
            level: 0,
            frame: 2,
            access: Access::Read,
            mode: Mode::User,
        }
    }

    fn values(story: &Story) -> Vec<u64> {
        story.parts.iter().map(|part| part.value).collect()
    }

    #[test]
    fn the_notes_address_in_every_geometry_of_32_bits() {
        let indices = [
            (
                tell::<X86L2>(scene(0xb700_1008, Page::ReadWrite)),
                vec![732, 1, 8],
                3,
            ),
            (
                tell::<Pae>(scene(0xb700_1008, Page::ReadWrite)),
                vec![2, 440, 1, 8],
                4,
            ),
            (
                tell::<Flat>(scene(0xb700_1008, Page::ReadWrite)),
                vec![0xb7001, 8],
                2,
            ),
        ];
        for (story, want, references) in indices {
            assert_eq!(values(&story), want, "{}", story.geometry);
            let end = End::Reached {
                page: 0x2000,
                at: 0x2008,
            };
            assert_eq!(story.end, end);
            assert_eq!(story.references, [references, 1]);
            assert!(story.hit);
            assert_eq!(story.steps.len(), want.len() - 1);
        }
    }

    #[test]
    fn four_and_five_levels() {
        let four = tell::<X86L4>(scene(0x7f1e_cc03_1000, Page::ReadOnly));
        assert_eq!(values(&four), [254, 123, 96, 49, 0]);
        assert_eq!(four.references, [5, 1]);
        let five = tell::<X86L5>(scene(0x7f1e_cc03_1000, Page::ReadOnly));
        assert_eq!(values(&five), [0, 254, 123, 96, 49, 0]);
        assert_eq!(five.references, [6, 1]);
        // Every bit of the address is in exactly one part.
        for story in [four, five] {
            let bits: String = story.parts.iter().map(Part::bits).collect();
            assert_eq!(bits.len(), story.bits as usize);
            assert_eq!(u64::from_str_radix(&bits, 2), Ok(story.scene.va));
        }
    }

    #[test]
    fn huge_pages_end_the_walk_early() {
        for (level, references, page, offset) in
            [(1, 4, 0x20_0000, 0x3_1234), (2, 3, 0x4000_0000, 0xc03_1234)]
        {
            let story = tell::<X86L4>(Scene {
                level,
                ..scene(0x7f1e_cc03_1234, Page::ReadWrite)
            });
            assert_eq!(story.references, [references, 1]);
            let at = page + offset;
            assert_eq!(story.end, End::Reached { page, at });
            assert_eq!(story.steps.last().unwrap().level, level);
        }
    }
}
