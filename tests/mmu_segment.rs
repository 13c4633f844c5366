//! Rows 20 to 28 of the inventory (`docs/inventory.md`): segments, segments over pages, and
//! memory that holds whole segments.

use fencepost::mmu::addr::{Access, FrameNumber, Mode, PhysAddr, Rights, VirtAddr};
use fencepost::mmu::area::{Errno, Limits, linux as linux_calls};
use fencepost::mmu::areas::Node;
use fencepost::mmu::cpu::Mmu;
use fencepost::mmu::entry::Entry;
use fencepost::mmu::fault::{Cause, Fault};
use fencepost::mmu::geometry::{Geometry, Pae, X86L2, X86L4};
use fencepost::mmu::lookaside::Lookaside;
use fencepost::mmu::machine::{Options, PageMap, SpaceRecord, Storage};
use fencepost::mmu::physical::{FrameRecord, Physical as Memory};
use fencepost::mmu::segment::memory::{Hole, Place, Resident, SegMemory, Traffic};
use fencepost::mmu::segment::paging::{Paged, cause as tables_cause};
use fencepost::mmu::segment::{
    Kind, Linear, PageTables, Paging, Physical, Seg, Segment, Selector, Stage, linux,
};
use fencepost::mmu::space::Layout;
use fencepost::mmu::tables::Tables;
use fencepost::mmu::tlb::{Shape, Tlb, TlbLine};

const MIB: u64 = 1 << 20;

fn user(index: u16) -> Selector {
    Selector::user(index).unwrap()
}

/// The cause of a fault, with its address and instruction.
fn cause<T: std::fmt::Debug>(found: Result<T, Fault>) -> (Cause, u64, u64) {
    let fault = found.unwrap_err();
    (fault.cause, fault.addr.raw(), fault.instruction)
}

/// Page tables in memory of their own, and an MMU without caches.
struct Machine<'m, G: Geometry> {
    memory: Memory<'m>,
    tables: Tables<G>,
    mmu: Mmu<'m, G>,
}

impl<'m, G: Geometry> Machine<'m, G> {
    fn new(words: &'m mut [u64], frames: &'m mut [FrameRecord]) -> Machine<'m, G> {
        let mut memory = Memory::new(words, frames, true);
        let tables = Tables::new(&mut memory).unwrap();
        let caches = (
            Tlb::new(&mut [], Shape::NONE, Shape::NONE),
            Lookaside::new(&mut []),
        );
        let mut mmu = Mmu::new(caches.0, caches.1);
        mmu.load_cr3(tables.root());
        Machine {
            memory,
            tables,
            mmu,
        }
    }

    fn map(&mut self, page: u64, frame: u32, rights: Rights) {
        let flags = Entry::<G>::user_flags(rights);
        let frame = FrameNumber::new(frame);
        let page = VirtAddr::new(page);
        self.tables
            .map(&mut self.memory, page, frame, flags)
            .unwrap();
    }

    /// Stores an entry that is not a page's.
    fn put(&mut self, page: u64, entry: Entry<G>) {
        let slot = self
            .tables
            .make(&mut self.memory, VirtAddr::new(page), 0)
            .unwrap();
        let bytes = entry.bits().to_le_bytes();
        self.memory.write(slot, &bytes[..G::ENTRY_BYTES]);
    }

    /// Turns a flag of the level 1 entry over.
    fn change_above(&mut self, page: u64, flag: u64) {
        let mut above = None;
        self.tables.walk(&self.memory, VirtAddr::new(page), |step| {
            if step.level == 1 {
                above = Some((step.slot, step.entry.bits() ^ flag));
            }
        });
        let (slot, bits) = above.unwrap();
        self.memory
            .write(slot, &bits.to_le_bytes()[..G::ENTRY_BYTES]);
    }

    fn paged(&mut self) -> Paged<'_, 'm, G> {
        Paged {
            mmu: &mut self.mmu,
            memory: &mut self.memory,
        }
    }
}

#[test]
fn row_020_logical_to_linear_to_physical() {
    let (mut words, mut frames) = (vec![0; 8 * 512], vec![FrameRecord::EMPTY; 8]);
    let mut machine = Machine::<X86L2>::new(&mut words, &mut frames);
    machine.map(0xb700_1000, 2, Rights::READ_WRITE);
    // A segment that begins in the middle of nowhere: both stages change the address.
    let mut table = [Segment::ABSENT, Segment::data(0xb700_0800, 0x1000)];
    let mut unit = Seg::new(&mut table, Linear(machine.paged()));
    let found = unit
        .translate(user(1), 0x808, Access::Read, Mode::User)
        .unwrap();
    assert_eq!(found.linear, Some(VirtAddr::new(0xb700_1008)));
    assert_eq!(found.physical, PhysAddr::new(0x2008));
    // Segment table, two page tables, the byte.
    assert_eq!(found.references, 4);
    // The segment allows it, but no page is there: the page fault names the linear address.
    let fault = unit.translate(user(1), 0x7ff, Access::Write, Mode::User);
    assert_eq!(cause(fault), (Cause::NotMapped, 0xb700_0fff, 1));
    // Bases and offsets wrap around at 4 GiB, as on the 80386.
    unit.table()[1] = Segment::data(0xffff_f000, 1 << 32);
    let offset = 0xb700_2008;
    let found = unit
        .translate(user(1), offset, Access::Read, Mode::User)
        .unwrap();
    assert_eq!(found.linear, Some(VirtAddr::new(0xb700_1008)));

    // With flat descriptors the first stage is the identity.
    let mut table = linux::TABLE;
    let mut unit = Seg::new(&mut table, Linear(machine.paged()));
    let found = unit
        .translate(linux::USER_DATA, 0xb700_1fff, Access::Write, Mode::User)
        .unwrap();
    assert_eq!(found.linear, Some(VirtAddr::new(0xb700_1fff)));
    assert_eq!(found.physical, PhysAddr::new(0x2fff));
}

#[test]
fn page_faults_under_segments_have_their_causes() {
    let (mut words, mut frames) = (vec![0; 16 * 512], vec![FrameRecord::EMPTY; 16]);
    let mut machine = Machine::<X86L4>::new(&mut words, &mut frames);
    machine.map(0x5000_0000, 7, Rights::READ);
    machine.map(0x5000_1000, 8, Rights::READ.or(Rights::EXEC));
    machine.put(0x5000_2000, Entry::GUARD);
    machine.put(0x5000_3000, Entry::hidden(FrameNumber::new(9)));
    machine.put(0x5000_4000, Entry::present(FrameNumber::new(10), 0));
    // Two tables further up forbid what the page would allow.
    for (at, flag) in [
        (0x6000_0000, Entry::<X86L4>::NO_EXECUTE),
        (0x7000_0000, Entry::<X86L4>::USER),
    ] {
        machine.map(at, 11, Rights::READ.or(Rights::EXEC));
        machine.change_above(at, flag);
    }
    let mut table = [Segment::data(0, u64::MAX), Segment::code(0, u64::MAX)];
    let mut unit = Seg::new(&mut table, Linear(machine.paged()));
    let mut go = |at, access| {
        let selector = user(u16::from(access == Access::Exec));
        match unit.translate(selector, at, access, Mode::User) {
            Ok(found) => Ok(found.physical.raw()),
            Err(fault) => Err((fault.cause, fault.signature().unwrap().error)),
        }
    };
    use Access::{Exec, Read, Write};
    assert_eq!(go(0x5000_0123, Read), Ok(0x7123));
    assert_eq!(go(0x5000_0123, Write), Err((Cause::ProtWrite, 7)));
    assert_eq!(go(0x5000_0123, Exec), Err((Cause::ExecNx, 0x15)));
    assert_eq!(go(0x5000_1123, Exec), Ok(0x8123));
    assert_eq!(go(0x5000_2000, Read), Err((Cause::Guard, 4)));
    assert_eq!(go(0x5000_2000, Write), Err((Cause::Guard, 6)));
    assert_eq!(go(0x5000_3000, Read), Err((Cause::ProtRead, 4)));
    assert_eq!(go(0x5000_3000, Write), Err((Cause::ProtWrite, 6)));
    assert_eq!(go(0x5000_4000, Read), Err((Cause::UserSupervisor, 5)));
    assert_eq!(go(0x5000_5000, Read), Err((Cause::NotMapped, 4)));
    assert_eq!(go(0x6000_0000, Read), Ok(0xb000));
    assert_eq!(go(0x6000_0000, Exec), Err((Cause::ExecNx, 0x15)));
    assert_eq!(go(0x7000_0000, Exec), Err((Cause::UserSupervisor, 0x15)));
    assert_eq!(go(0x10, Write), Err((Cause::NullDeref, 6)));
    assert_eq!(
        go(0xffff_8000_0000_0000, Read),
        Err((Cause::UserSupervisor, 5))
    );
    assert_eq!(go(0x8000_0000_0000, Read), Err((Cause::NonCanonical, 0)));
}

/// What page tables alone tell is what the whole machine, which knows the areas, answers.
#[test]
fn tables_tell_the_causes_that_the_machine_tells() {
    use linux_calls::{MADV_GUARD_INSTALL, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE};
    let mut memory = vec![0; 64 * 512];
    let mut frames = vec![FrameRecord::EMPTY; 64];
    let mut nodes = vec![Node::EMPTY; 64];
    let mut spaces = [SpaceRecord::EMPTY];
    let mut maps = [PageMap::EMPTY];
    let mut tlb = vec![TlbLine::EMPTY; Shape::L1.lines() + Shape::L2.lines()];
    let storage = Storage::<X86L4> {
        memory: &mut memory,
        frames: &mut frames,
        swap: &mut [],
        disk: &mut [],
        nodes: &mut nodes,
        objects: &mut [],
        spaces: &mut spaces,
        maps: &mut maps,
        tlb: &mut tlb,
        lookaside: &mut [],
    };
    let mut machine = fencepost::mmu::machine::Machine::new(storage, Options::DEFAULT);
    let id = machine
        .spawn(Layout::linux_default(0), Limits::NONE)
        .unwrap();
    machine.switch_to(id).unwrap();
    // From 0x5000_0000 on: written, read-only, code, no access but data, guard, nothing. The
    // guard's area allows everything: what an area forbids comes before the guard.
    let page = |number: u64| 0x5000_0000 + number * 4096;
    for (number, rights) in [(0, 3), (1, 3), (2, 3), (3, 3), (4, 7)] {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        machine
            .mmap(page(number), 4096, rights, flags, None, 0)
            .unwrap();
        machine
            .access(VirtAddr::new(page(number)), 1, Access::Write, Mode::User)
            .unwrap();
    }
    for (number, rights) in [(1, 1), (2, 5), (3, 0)] {
        machine.mprotect(page(number), 4096, rights).unwrap();
    }
    machine.madvise(page(4), 4096, MADV_GUARD_INSTALL).unwrap();
    let mut refused = 0;
    for at in [
        page(0),
        page(1) + 5,
        page(2),
        page(3),
        page(4),
        page(5),
        8,
        0xffff_8000_0000_0000,
        0x8000_0000_0000,
    ] {
        let va = VirtAddr::new(at);
        for access in [Access::Read, Access::Write, Access::Exec] {
            let Err(fault) = machine.access(va, 1, access, Mode::User) else {
                continue;
            };
            refused += 1;
            let tables = *machine.tables(id).unwrap();
            let told = tables_cause(&tables, machine.memory_mut(), va, access, Mode::User);
            assert_eq!(told, fault.cause, "{access:?} {va}");
        }
    }
    assert_eq!(refused, 1 + 2 + 1 + 6 * 3);
}

/// Pages that translate to themselves, for all of 4 GiB.
struct Identity;

impl Paging for Identity {
    type Geometry = X86L2;

    fn translate(
        &mut self,
        linear: VirtAddr,
        _: Access,
        _: Mode,
    ) -> Result<(PhysAddr, u32), Fault> {
        Ok((PhysAddr::new(linear.raw()), 0))
    }
}

#[test]
fn row_021_flat_segments_only_protect() {
    let mut table = linux::TABLE;
    let mut unit = Seg::new(&mut table, Linear(Identity));
    // Every 32-bit offset is its own linear address: all borders and a walk through the rest.
    let bits = (0..32).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1u64 << bit) + 1]);
    let strided = (0..1u64 << 32).step_by(0x1_0001);
    for offset in bits.chain(strided).chain([0xffff_ffff]) {
        for (selector, access, mode) in [
            (linux::USER_DATA, Access::Write, Mode::User),
            (linux::USER_CODE, Access::Exec, Mode::User),
            (linux::KERNEL_DATA, Access::Write, Mode::Supervisor),
            (linux::KERNEL_CODE, Access::Exec, Mode::Supervisor),
        ] {
            let found = unit.translate(selector, offset, access, mode).unwrap();
            assert_eq!(found.linear.map(VirtAddr::raw), Some(offset));
        }
    }
    let beyond = unit.translate(linux::USER_DATA, 1 << 32, Access::Read, Mode::User);
    assert_eq!(cause(beyond).0, Cause::SegmentLimit);

    let level = |selector: Selector| linux::TABLE[usize::from(selector.index())].level;
    for (selector, bits, privilege) in [
        (linux::KERNEL_CODE, 0x60, 0),
        (linux::KERNEL_DATA, 0x68, 0),
        (linux::USER_CODE, 0x73, 3),
        (linux::USER_DATA, 0x7b, 3),
    ] {
        assert_eq!((selector.bits(), level(selector)), (bits, privilege));
        assert_eq!(selector.level(), privilege);
    }
    // What is left of protection: a program cannot use the kernel's segments, the kernel can use
    // a program's data, and does not run a program's instructions.
    let mut refused = |selector, access, mode| {
        let found = unit.translate(selector, 0x1000, access, mode);
        found.err().map(|fault| fault.cause)
    };
    let privilege = Some(Cause::SegmentPrivilege);
    use Access::{Exec, Read, Write};
    assert_eq!(refused(linux::KERNEL_DATA, Read, Mode::User), privilege);
    assert_eq!(refused(linux::KERNEL_CODE, Exec, Mode::User), privilege);
    assert_eq!(refused(linux::USER_DATA, Write, Mode::Supervisor), None);
    assert_eq!(refused(linux::USER_CODE, Exec, Mode::Supervisor), privilege);
    assert_eq!(
        refused(linux::USER_CODE, Write, Mode::User),
        Some(Cause::SegmentType)
    );
    assert_eq!(
        refused(linux::USER_DATA, Exec, Mode::User),
        Some(Cause::SegmentType)
    );
}

#[test]
fn row_022_offset_within_the_limit_and_privilege() {
    let mut table = [
        Segment::code(0x1_0000, 0x200),
        Segment::data(0x2_0000, 0x1000),
        Segment::data(0x3_0000, 0x1000).at_level(0),
        Segment {
            present: false,
            ..Segment::data(0x4_0000, 0x1000)
        },
        Segment {
            kind: Kind::Code { readable: false },
            ..Segment::code(0x5_0000, 0x1000)
        },
        Segment {
            kind: Kind::Data { writable: false },
            ..Segment::data(0x6_0000, 0x1000)
        },
        Segment::data(0x7_0000, 0),
    ];
    let mut unit = Seg::new(&mut table, Physical);
    let mut go = |selector, offset, access, mode| {
        unit.translate(selector, offset, access, mode)
            .map(|found| found.physical.raw())
            .map_err(|fault| (fault.cause, fault.addr.raw()))
    };
    use Access::{Exec, Read, Write};
    use Mode::{Supervisor, User};
    let limit = |addr| Err((Cause::SegmentLimit, addr));
    assert_eq!(go(user(1), 0, Write, User), Ok(0x2_0000));
    assert_eq!(go(user(1), 0xfff, Write, User), Ok(0x2_0fff), "limit - 1");
    assert_eq!(go(user(1), 0x1000, Write, User), limit(0x1000), "the limit");
    assert_eq!(go(user(1), u64::MAX, Read, User), limit(u64::MAX));
    assert_eq!(go(user(6), 0, Read, User), limit(0), "an empty segment");
    assert_eq!(go(user(0), 0x1ff, Exec, User), Ok(0x1_01ff));
    assert_eq!(go(user(0), 0x200, Exec, User), limit(0x200));

    let privilege = Err((Cause::SegmentPrivilege, 4));
    assert_eq!(go(user(2), 4, Read, User), privilege);
    let kernels = Selector::from_bits(2 << 3);
    assert_eq!(
        go(kernels, 4, Read, User),
        privilege,
        "the asker's level counts"
    );
    assert_eq!(go(kernels, 4, Write, Supervisor), Ok(0x3_0004));
    // A kernel that was handed a program's selector is held to the program's level.
    assert_eq!(go(user(2), 4, Write, Supervisor), privilege);
    assert_eq!(go(user(1), 4, Write, Supervisor), Ok(0x2_0004));

    let absent = Err((Cause::SegmentNotPresent, 4));
    assert_eq!(go(user(3), 4, Read, User), absent);
    assert_eq!(go(user(7), 4, Read, User), absent, "beyond the table");
    assert_eq!(Selector::user(8192), None);
    let kind = Err((Cause::SegmentType, 4));
    assert_eq!(go(user(4), 4, Read, User), kind);
    assert_eq!(go(user(4), 4, Exec, User), Ok(0x5_0004));
    assert_eq!(go(user(0), 4, Read, User), Ok(0x1_0004));
    assert_eq!(go(user(0), 4, Write, User), kind);
    assert_eq!(go(user(5), 4, Write, User), kind);
    assert_eq!(go(user(5), 4, Read, User), Ok(0x6_0004));
    assert_eq!(go(user(1), 4, Exec, User), kind);
    // Linux has no signal of its own for any of these: its segments never fault.
    let fault = unit.translate(user(7), 4, Read, User).unwrap_err();
    assert_eq!(fault.signature(), None);
}

#[test]
fn row_023_base_and_offset_are_added() {
    // Code, data, heap, stack.
    let program = |stack| {
        [
            Segment::code(0x1000, 0x1000),
            Segment::data(0x3000, 0x1000),
            Segment::data(0x5000, 0x1000),
            Segment::data(stack, 0x1000),
        ]
    };
    let at = |stack, offset| {
        let mut table = program(stack);
        let mut unit = Seg::new(&mut table, Physical);
        unit.translate(user(3), offset, Access::Read, Mode::User)
            .unwrap()
    };
    let found = at(0x7000, 0x500);
    assert_eq!(found.physical, PhysAddr::new(0x7500));
    assert_eq!(found.references, 2, "the segment table and the byte");
    assert_eq!(at(7000, 500).physical, PhysAddr::new(7500));
}

const GAME: u32 = 0;
const BROWSER: u32 = 1;
const MUSIC: u32 = 2;
const OTHER: u32 = 3;

/// 1 GiB with a game, a browser and a music player, and the browser gone again.
fn after_the_browser(storage: &mut [Resident; 4]) -> SegMemory<'_> {
    let mut memory = SegMemory::new(1024 * MIB, storage);
    assert_eq!(memory.place(GAME, 512 * MIB), Ok(0));
    assert_eq!(memory.place(BROWSER, 128 * MIB), Ok(512 * MIB));
    assert_eq!(memory.place(MUSIC, 256 * MIB), Ok(640 * MIB));
    memory.release(BROWSER).unwrap();
    memory
}

fn hole(start: u64, len: u64) -> Hole {
    Hole {
        start: start * MIB,
        len: len * MIB,
    }
}

#[test]
fn row_024_segments_fragment_memory() {
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = after_the_browser(&mut storage);
    let holes: Vec<Hole> = memory.holes().collect();
    assert_eq!(holes, [hole(512, 128), hole(896, 128)]);
    assert_eq!(memory.free(), 256 * MIB);
    assert_eq!(memory.largest(), 128 * MIB);
    assert_eq!(memory.external_fragmentation(), 0.5);
    assert_eq!(memory.place(OTHER, 200 * MIB), Err(Errno::ENOMEM));
    // What fits goes into the first hole, not into the best one.
    assert_eq!(memory.place(OTHER, 128 * MIB), Ok(512 * MIB));
    assert_eq!(memory.traffic(), Traffic::default());
}

#[test]
fn row_025_compaction_by_swapping_out_and_in() {
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = after_the_browser(&mut storage);
    let mut moves = Vec::new();
    let traffic = memory.compact(|id, from, to| moves.push((id, from, to)));
    assert_eq!(moves, [(MUSIC, 640 * MIB, 512 * MIB)]);
    assert_eq!(memory.segments()[1].place, Place::Memory(512 * MIB));
    let holes: Vec<Hole> = memory.holes().collect();
    assert_eq!(holes, [hole(768, 256)]);
    assert_eq!(memory.external_fragmentation(), 0.0);
    assert_eq!(memory.place(OTHER, 200 * MIB), Ok(768 * MIB));
    assert_eq!(traffic.total(), 2 * 256 * MIB);
    assert_eq!(memory.traffic(), traffic);
    // The same by hand, as the notes tell it.
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = after_the_browser(&mut storage);
    memory.swap_out(MUSIC).unwrap();
    assert_eq!(memory.swap_in(MUSIC), Ok(512 * MIB));
    assert_eq!(memory.traffic(), traffic);
    // Dense memory has nothing to compact.
    assert_eq!(
        memory.compact(|_, _, _| panic!("moved")),
        Traffic::default()
    );
}

#[test]
fn row_025_the_segment_table_follows_a_move() {
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = after_the_browser(&mut storage);
    let mut table = [Segment::ABSENT; 3];
    for resident in memory.segments() {
        if let Place::Memory(start) = resident.place {
            table[resident.id as usize] = Segment::data(start, resident.len);
        }
    }
    let mut unit = Seg::new(&mut table, Physical);
    let music = |unit: &mut Seg<'_, Physical>| {
        unit.translate(user(2), 5, Access::Read, Mode::User)
            .unwrap()
            .physical
            .raw()
    };
    assert_eq!(music(&mut unit), 640 * MIB + 5);
    memory.compact(|id, _, to| unit.table()[id as usize].base = to);
    assert_eq!(music(&mut unit), 512 * MIB + 5);
}

#[test]
fn row_026_external_fragmentation_is_what_the_largest_hole_leaves() {
    let mut storage = [Resident::EMPTY; 8];
    let mut memory = SegMemory::new(100, &mut storage);
    assert_eq!(memory.external_fragmentation(), 0.0, "one hole");
    for id in 0..5 {
        memory.place(id, 20).unwrap();
    }
    assert_eq!(memory.external_fragmentation(), 0.0, "no hole");
    for (gone, largest, free) in [(1, 20, 20), (3, 20, 40), (4, 40, 60)] {
        memory.release(gone).unwrap();
        assert_eq!((memory.largest(), memory.free()), (largest, free));
        let want = 1.0 - largest as f64 / free as f64;
        assert_eq!(memory.external_fragmentation(), want);
    }
}

#[test]
fn row_027_whole_segments_are_slow_to_swap() {
    // 300 MiB are wanted where 256 are free. A segment goes whole, of pages only the missing.
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = after_the_browser(&mut storage);
    assert_eq!(memory.paging_would_write(300 * MIB), 44 * MIB);
    assert_eq!(memory.place(OTHER, 300 * MIB), Err(Errno::ENOMEM));
    memory.swap_out(MUSIC).unwrap();
    assert_eq!(memory.place(OTHER, 300 * MIB), Ok(512 * MIB));
    let whole = Traffic {
        out: 256 * MIB,
        back: 0,
    };
    assert_eq!(memory.traffic(), whole);
    assert_eq!(memory.swap_in(MUSIC), Err(Errno::ENOMEM));
    // Enough is free, but in two pieces: segments move 512 MiB, pages nothing at all.
    let mut storage = [Resident::EMPTY; 4];
    let mut memory = after_the_browser(&mut storage);
    assert_eq!(memory.paging_would_write(200 * MIB), 0);
    assert_eq!(memory.compact(|_, _, _| ()).total(), 512 * MIB);
    // One byte more than is free is one page.
    assert_eq!(memory.paging_would_write(256 * MIB), 0);
    assert_eq!(memory.paging_would_write(256 * MIB + 1), 4096);
}

#[test]
fn row_028_segmented_paging_accesses_memory_three_times() {
    // Page tables of four segments from 0x10000 on, the fourth at 0x10100.
    let mut entries = [Entry::<X86L2>::EMPTY; 128];
    let flags = Entry::<X86L2>::user_flags(Rights::READ_WRITE);
    entries[0x100 / 4 + 2] = Entry::present(FrameNumber::new(0x42), flags);
    entries[0x100 / 4 + 1] = Entry::present(
        FrameNumber::new(0x41),
        Entry::<X86L2>::user_flags(Rights::READ),
    );
    entries[0x100 / 4] = Entry::present(FrameNumber::new(0x40), 0);
    let mut table = [
        Segment::code(0x1_0000, 0x1000),
        Segment::data(0x1_0040, 0x1000),
        Segment::data(0x1_0080, 0x1000),
        Segment::data(0x1_0100, 0x4000),
    ];
    let tables = PageTables::new(PhysAddr::new(0x1_0000), &mut entries);
    let mut unit = Seg::new(&mut table, tables);
    let address = |page: u64, offset: u64| page << 12 | offset;
    let found = unit
        .translate(user(3), address(2, 0x10), Access::Write, Mode::User)
        .unwrap();
    assert_eq!(found.physical, PhysAddr::new(0x4_2010));
    assert_eq!(found.references, 3, "segment table, page table, the byte");
    assert_eq!(found.linear, None, "there is no linear address");
    let entry = *unit.stage().entry(0x1_0100, 2).unwrap();
    assert!(entry.has(Entry::<X86L2>::ACCESSED | Entry::<X86L2>::DIRTY));

    let mut refused = |offset, access, mode| cause(unit.translate(user(3), offset, access, mode));
    use Access::{Read, Write};
    use Mode::User;
    // The limit comes before the page table, the page table before the frame.
    assert_eq!(
        refused(0x4000, Read, User),
        (Cause::SegmentLimit, 0x4000, 1)
    );
    assert_eq!(refused(0x3123, Read, User), (Cause::NotMapped, 0x3123, 2));
    assert_eq!(refused(0x1001, Write, User), (Cause::ProtWrite, 0x1001, 3));
    assert_eq!(refused(0x7, Read, User), (Cause::UserSupervisor, 0x7, 4));
    // A base that leads out of the tables.
    unit.table()[3].base = 0xfff0;
    let outside = unit.translate(user(3), 0, Read, User);
    assert_eq!(cause(outside), (Cause::NotMapped, 0, 5));
    unit.table()[3].base = 0x1_0102;
    assert_eq!(
        cause(unit.translate(user(3), 0, Read, User)).0,
        Cause::NotMapped
    );
    unit.table()[3].base = u64::MAX;
    assert_eq!(
        cause(unit.translate(user(3), 0, Read, User)).0,
        Cause::NotMapped
    );
}

#[test]
fn a_stage_with_no_execute_and_guards() {
    let mut entries = [Entry::<Pae>::EMPTY; 4];
    entries[0] = Entry::present(FrameNumber::new(7), Entry::<Pae>::user_flags(Rights::READ));
    entries[1] = Entry::GUARD;
    entries[2] = Entry::hidden(FrameNumber::new(9));
    let mut tables = PageTables::new(PhysAddr::new(0), &mut entries);
    let mut go = |offset, access| {
        tables
            .locate(0, offset, access, Mode::User)
            .map(|found| found.physical.raw())
            .map_err(|fault| fault.cause)
    };
    assert_eq!(go(0xabc, Access::Read), Ok(0x7abc));
    assert_eq!(go(0xabc, Access::Exec), Err(Cause::ExecNx));
    assert_eq!(go(0x1000, Access::Read), Err(Cause::Guard));
    assert_eq!(go(0x2000, Access::Read), Err(Cause::ProtRead));
    assert_eq!(go(0x3000, Access::Read), Err(Cause::NotMapped));
    assert_eq!(go(0x4000, Access::Read), Err(Cause::NotMapped));
}

#[test]
fn segments_come_and_go_and_every_byte_is_accounted_for() {
    let mut storage = [Resident::EMPTY; 24];
    let mut memory = SegMemory::new(1000, &mut storage);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut results = [[0; 2]; 5];
    for _ in 0..20_000 {
        let id = u32::try_from(random(40)).unwrap();
        let what = random(50);
        let done = match what {
            0..20 => memory.place(id, random(120)).is_ok(),
            20..30 => memory.release(id).is_ok(),
            30..40 => memory.swap_out(id).is_ok(),
            40..49 => memory.swap_in(id).is_ok(),
            _ => {
                memory.compact(|_, from, to| assert!(to < from));
                assert!(memory.holes().count() <= 1);
                true
            }
        };
        results[usize::try_from(what / 10).unwrap()][usize::from(done)] += 1;
        // In order, apart, within memory; holes fill exactly what is left.
        let mut pieces: Vec<(u64, u64)> = memory
            .segments()
            .iter()
            .filter_map(|s| match s.place {
                Place::Memory(start) => Some((start, s.len)),
                Place::Disk => None,
            })
            .collect();
        assert!(pieces.is_sorted());
        pieces.extend(memory.holes().map(|hole| (hole.start, hole.len)));
        pieces.sort_unstable();
        let end = pieces.iter().fold(0, |end, (start, len)| {
            assert_eq!(*start, end);
            end + len
        });
        assert_eq!(end, memory.bytes());
        let mut ids: Vec<u32> = memory.segments().iter().map(|s| s.id).collect();
        ids.sort_unstable();
        assert!(ids.is_sorted_by(|a, b| a < b));
    }
    assert!(
        results.iter().flatten().filter(|n| **n < 100).count() <= 1,
        "{results:?}"
    );
    assert_eq!(memory.place(99, 0), Err(Errno::EINVAL));
    assert_eq!(memory.release(99), Err(Errno::EINVAL));
    let id = memory.segments().first().unwrap().id;
    assert_eq!(memory.place(id, 1), Err(Errno::EEXIST));
}
