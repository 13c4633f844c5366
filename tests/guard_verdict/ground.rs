//! What lies at an address, and which module an instruction is of: in made-up listings and in
//! this process.

use fencepost::mmu::addr::Rights;
use fencepost::mmu::listing;
use fencepost::os::{BUFFER, Ground, Modules, Survey, Surveyor, peek, survey};
use std::collections::BTreeMap;

const PAGE: usize = 4096;

fn modules() -> Box<Modules> {
    Box::new(Modules::new())
}

/// The head of a program or library: its type and its loadable parts, each with flags, offset,
/// address and length.
fn elf(kind: u16, parts: &[(u32, u64, u64, u64)]) -> Vec<u8> {
    let mut head = vec![0u8; 64];
    head[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
    head[16..18].copy_from_slice(&kind.to_le_bytes());
    head[32..40].copy_from_slice(&64u64.to_le_bytes());
    head[54..56].copy_from_slice(&56u16.to_le_bytes());
    head[56..58].copy_from_slice(&(parts.len() as u16 + 1).to_le_bytes());
    // One that is no part of memory.
    head.extend(4u32.to_le_bytes());
    head.resize(64 + 56, 0xff);
    for (flags, offset, addr, len) in parts {
        head.extend(1u32.to_le_bytes());
        head.extend(flags.to_le_bytes());
        for word in [*offset, *addr, *addr, *len, *len, 0x1000] {
            head.extend(word.to_le_bytes());
        }
    }
    head
}

const SHARED: u16 = 3;
const FIXED: u16 = 2;
const RX: u32 = 5;
const RW: u32 = 6;
const R: u32 = 4;

/// A listing with the memory of the files' beginnings.
struct Listing {
    text: String,
    memory: BTreeMap<usize, Vec<u8>>,
}

impl Listing {
    fn modules(&self) -> Box<Modules> {
        let mut modules = modules();
        let mut read = |addr: usize, into: &mut [u8]| {
            let Some((from, bytes)) = self.memory.range(..=addr).next_back() else {
                return false;
            };
            let bytes = bytes.get(addr - from..).and_then(|b| b.get(..into.len()));
            bytes.map(|bytes| into.copy_from_slice(bytes)).is_some()
        };
        for line in listing::maps(self.text.as_bytes()) {
            modules.look(&line.expect("it is a listing"), PAGE, &mut read);
        }
        modules
    }

    fn locate(&self, pc: usize) -> Option<(String, usize)> {
        let modules = self.modules();
        let found = modules.locate(pc)?;
        Some((String::from_utf8_lossy(found.module).into(), found.offset))
    }

    /// What the survey says; a name comes back apart.
    fn survey(&self, addr: usize, sp: usize) -> (String, Rights, bool) {
        let modules = self.modules();
        let mut name = [0; 64];
        let mut surveyor = Surveyor::new(addr, sp);
        for line in listing::maps(self.text.as_bytes()) {
            surveyor.look(&line.expect("it is a listing"), &mut name);
        }
        let found = surveyor.finish(&modules, &name);
        (words(&found.ground), found.rights, found.below_stack)
    }
}

fn words(ground: &Ground<'_>) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match ground {
        Ground::Unmapped { below, above } => format!("unmapped {below:?} {above:?}"),
        Ground::Stack { main } => format!("stack {main}"),
        Ground::Static { module } => format!("static {}", text(module)),
        Ground::Heap => "heap".into(),
        Ground::Mapped { rights, name } => format!("mapped {rights} {}", text(name)),
    }
}

/// Layouts of several linkers.
fn example() -> Listing {
    let text = "\
00400000-00401000 r--p 00000000 fd:00 10                                 /bin/fixed
00401000-00402000 r-xp 00001000 fd:00 10                                 /bin/fixed
00402000-00403000 rw-p 00002000 fd:00 10                                 /bin/fixed
00403000-00405000 rw-p 00000000 00:00 0
01000000-01021000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000001000 r--p 00000000 fd:00 11                         /lib/small.so
7f0000001000-7f0000002000 r-xp 00000000 fd:00 11                         /lib/small.so
7f0000003000-7f0000004000 rw-p 00001000 fd:00 11                         /lib/small.so
7f0000010000-7f0000011000 r-xp 00000000 fd:00 12                         /lib/linked high.so (deleted)
7f0000020000-7f0000030000 r--p 00000000 fd:00 13                         /data/file
7f0000040000-7f0000041000 r-xp 00005000 fd:00 14                         /data/apk!/part.so
7f0000050000-7f0000051000 rw-p 00000000 fd:00 15                         /data/written
7f0000060000-7f0000061000 r--p 00000000 fd:00 11                         /lib/small.so
7f0000061000-7f0000062000 r-xp 00000000 fd:00 11                         /lib/small.so
7f0000063000-7f0000064000 rw-p 00001000 fd:00 11                         /lib/small.so
7f0000070000-7f0000072000 rwxp 00000000 00:00 0
7f0000080000-7f0000081000 r-xp 00000000 fd:00 16                         /lib/no\\012head.so
7fff00000000-7fff00021000 rw-p 00000000 00:00 0                          [stack]
7fff00030000-7fff00032000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
    let small = elf(
        SHARED,
        &[
            (R, 0, 0, 0x800),
            (RX, 0x800, 0x1800, 0x400),
            (RW, 0x1c00, 0x3c00, 0x900),
        ],
    );
    let memory = [
        (
            0x40_0000,
            elf(
                FIXED,
                &[
                    (R, 0, 0x40_0000, 0x800),
                    (RX, 0x1000, 0x40_1000, 0x800),
                    (RW, 0x2000, 0x40_2000, 0x2800),
                ],
            ),
        ),
        (0x7f00_0000_0000, small.clone()),
        (
            0x7f00_0001_0000,
            elf(SHARED, &[(RX, 0, 0x3000_0000, 0x1000)]),
        ),
        (0x7f00_0002_0000, b"no program".to_vec()),
        (0x7f00_0006_0000, small),
        (0x7fff_0003_0000, elf(SHARED, &[(RX, 0, 0, 0x1234)])),
    ];
    Listing {
        text: text.into(),
        memory: memory.into(),
    }
}

#[test]
fn offsets_are_what_the_file_counts_by() {
    let listing = example();
    for (pc, name, offset) in [
        // Not moved: addresses are the file's own.
        (0x40_1234, "/bin/fixed", 0x40_1234),
        // A part whose address is not its offset, in the file's first page too.
        (0x7f00_0000_1900, "/lib/small.so", 0x1900),
        // The same a second time.
        (0x7f00_0006_1900, "/lib/small.so", 0x1900),
        // Linked to an address other than 0, and deleted.
        (0x7f00_0001_0010, "/lib/linked high.so", 0x3000_0010),
        // No beginning, or none that can be read: as if offsets were addresses.
        (0x7f00_0004_0010, "/data/apk!/part.so", 0x5010),
        (0x7f00_0008_0010, r"/lib/no\012head.so", 0x10),
        (0x7fff_0003_0100, "[vdso]", 0x100),
    ] {
        assert_eq!(listing.locate(pc), Some((name.into(), offset)), "{pc:#x}");
    }
    // Neither code that was made at run time nor files that are none.
    for pc in [
        0,
        0x40_5000,
        0x7f00_0002_0010,
        0x7f00_0005_0010,
        0x7f00_0007_0010,
        0xffff_ffff_ff60_0000,
    ] {
        assert_eq!(listing.locate(pc), None, "{pc:#x}");
    }
}

#[test]
fn the_ground_is_what_the_listing_and_the_heads_say() {
    let listing = example();
    let sp = 0x7fff_0001_0000;
    for (addr, what) in [
        (0x40_0010, "mapped r-- /bin/fixed"),
        (0x40_2010, "static /bin/fixed"),
        // What is not in the file: memory without a name.
        (0x40_3010, "static /bin/fixed"),
        (0x40_47ff, "static /bin/fixed"),
        (0x40_4800, "mapped rw- "),
        (0x100_0010, "heap"),
        (0x7f00_0000_3c00, "static /lib/small.so"),
        (0x7f00_0006_3c00, "static /lib/small.so"),
        (0x7f00_0001_0010, "mapped r-x /lib/linked high.so"),
        (0x7f00_0002_0010, "mapped r-- /data/file"),
        (0x7f00_0005_0010, "mapped rw- /data/written"),
        (0x7f00_0007_0010, "mapped rwx "),
        (sp, "stack true"),
        (0x7fff_0000_0000, "stack true"),
        (0x7fff_0003_0010, "mapped r-x [vdso]"),
        (0xffff_ffff_ff60_0000, "mapped --x [vsyscall]"),
        (0x3f_ffff, "unmapped None Some(1)"),
        (0x40_5000, "unmapped Some(1) Some(12562432)"),
        (0x7f00_0000_2fff, "unmapped Some(4096) Some(1)"),
        (usize::MAX, "unmapped Some(10481664) None"),
    ] {
        let (ground, rights, _) = listing.survey(addr, sp);
        assert_eq!(ground, what, "{addr:#x}");
        let said = what
            .strip_prefix("mapped ")
            .map(|rest| rest[..3].to_owned());
        assert!(said.is_none_or(|said| said == rights.to_string()));
    }
    // Where the stack pointer is, there is a stack.
    let anonymous = 0x7f00_0007_0010;
    assert_eq!(listing.survey(anonymous, anonymous + 64).0, "stack false");
    // But neither the heap nor a file's data is one.
    assert_eq!(listing.survey(0x100_0010, 0x100_0020).0, "heap");
    let written = 0x7f00_0005_0010;
    let (ground, ..) = listing.survey(written, written + 8);
    assert_eq!(ground, "mapped rw- /data/written");
}

#[test]
fn more_modules_than_there_is_room_for_are_said_to_be() {
    let mut listing = Listing {
        text: String::new(),
        memory: BTreeMap::new(),
    };
    for number in 0..600usize {
        let at = 0x7f00_0000_0000 + number * 0x1_0000;
        listing.text += &format!(
            "{at:x}-{:x} r-xp 00000000 fd:00 {}      /lib/{number}\n",
            at + PAGE,
            number + 1
        );
    }
    let modules = listing.modules();
    assert!(modules.is_partial());
    assert_eq!(modules.locate(0x7f00_0000_0010).unwrap().module, b"/lib/0");
    assert_eq!(modules.locate(0x7f00_0000_0010 + 599 * 0x1_0000), None);
    assert!(!example().modules().is_partial());
}

/// Row 64: the class "stack guard" is a gap of 256 pages below the main stack, less below others.
#[test]
fn row_064_below_a_stack_and_near_is_a_stack_overflow() {
    let text = "\
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000001000-7f0000002000 ---p 00000000 00:00 0
7f0000002000-7f0000802000 rw-p 00000000 00:00 0
7f0001000000-7f0001001000 r--p 00000000 fd:00 15                         /data/file
7fff00000000-7fff00021000 rw-p 00000000 00:00 0                          [stack]
";
    let listing = Listing {
        text: text.into(),
        memory: BTreeMap::new(),
    };
    let below = |addr, sp| listing.survey(addr, sp).2;
    let main = 0x7fff_0000_0000;
    for (depth, is) in [(1, true), (256 * PAGE, true), (256 * PAGE + 1, false)] {
        assert_eq!(below(main - depth, main + 8), is);
        // Wherever the stack pointer is: another thread may use it.
        assert_eq!(below(main - depth, 0x7f00_0000_2100), is);
    }
    assert!(!below(main, main + 8), "it is the stack");
    let thread = 0x7f00_0000_2000;
    for (addr, sp, is) in [
        (thread - 1, thread + 8, true),
        (thread - PAGE, thread + 8, true),
        // The next below is somebody's.
        (thread - PAGE - 1, thread + 8, false),
        // The stack pointer has left its stack.
        (thread - 8, thread - 16, true),
        (thread - PAGE, thread - PAGE, true),
        // The thread is elsewhere, deep in its stack or on another one.
        (thread - 8, thread + (128 << 10), false),
        (thread - 8, main + 8, false),
        // A file is no stack.
        (0x7f00_0100_0000 - 8, 0x7f00_0100_0000 + 8, false),
        (0x7f00_0100_0000 - 8, 0x7f00_0100_0000 - 8, false),
    ] {
        assert_eq!(below(addr, sp), is, "{addr:#x} {sp:#x}");
    }
    // A large array took it far below, and no farther than that.
    for (depth, is) in [(8 << 20, true), (32 << 20, false)] {
        let sp = main - depth;
        assert_eq!(below(sp - 8, sp), is, "{depth:#x}");
    }
}

static CONSTANT: u64 = 5;
static mut INITIALISED: u64 = 5;
static mut ZERO: [u64; 100] = [0; 100];

fn here(addr: usize) -> (String, Rights, bool) {
    let mut modules = modules();
    let mut buffer = [0; BUFFER];
    modules.read(PAGE, &mut buffer);
    let local = 0u8;
    let sp = (&raw const local).addr();
    let mut name = [0; 4096];
    let Survey {
        ground,
        rights,
        below_stack,
    } = survey(addr, sp, &modules, &mut buffer, &mut name);
    (words(&ground), rights, below_stack)
}

#[test]
fn this_process_is_known() {
    let program = std::env::current_exe().expect("it has a path");
    let program = program.to_str().expect("it is text");
    let is = |addr: usize, what: &str| {
        let (ground, ..) = here(addr);
        assert_eq!(ground, what);
    };
    is(
        (&raw const INITIALISED).addr(),
        &format!("static {program}"),
    );
    is((&raw const ZERO).addr(), &format!("static {program}"));
    is(
        (&raw const CONSTANT).addr(),
        &format!("mapped r-- {program}"),
    );
    let code = this_process_is_known as fn() as usize;
    is(code, &format!("mapped r-x {program}"));
    // A test's thread has a stack of its own, unless tests run one after the other.
    let local = 0u8;
    let (ground, ..) = here((&raw const local).addr());
    assert!(ground.starts_with("stack "), "{ground}");
    let (ground, rights, below_stack) = here(8);
    assert!(ground.starts_with("unmapped None Some("), "{ground}");
    assert_eq!((rights, below_stack), (Rights::NONE, false));
    // Anonymous memory, whatever lies beside it.
    let len = 4 * PAGE;
    // SAFETY: new memory of our own.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(at, libc::MAP_FAILED);
    is(at.addr() + PAGE, "mapped r-- ");
    // SAFETY: our own memory, which nobody uses.
    unsafe { libc::munmap(at, len) };
}

/// The C library's own list of programs and libraries says the same.
#[test]
fn modules_are_those_that_the_dynamic_linker_loaded() {
    extern "C" fn each(
        info: *mut libc::dl_phdr_info,
        _: usize,
        all: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the linker hands out valid records; `all` is the vector below.
        unsafe {
            let all = &mut *all.cast::<Vec<(usize, usize)>>();
            let count = usize::from((*info).dlpi_phnum);
            for header in std::slice::from_raw_parts((*info).dlpi_phdr, count) {
                if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0 {
                    let last = header.p_vaddr + header.p_memsz - 1;
                    all.push(((*info).dlpi_addr as usize, header.p_vaddr as usize));
                    all.push(((*info).dlpi_addr as usize, last as usize));
                }
            }
        }
        0
    }
    let mut all: Vec<(usize, usize)> = Vec::new();
    // SAFETY: the callback fits the vector.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut all).cast()) };
    assert!(all.len() >= 6, "the program, the C library, the linker");
    let mut modules = modules();
    modules.read(PAGE, &mut [0; BUFFER]);
    for (bias, offset) in all {
        let found = modules.locate(bias + offset).expect("it is a module");
        assert_eq!(found.offset, offset, "{found:?}");
    }
    assert!(!modules.is_partial());
}

#[test]
fn memory_that_is_not_there_is_not_read() {
    let mut into = [0; 8];
    assert!(peek((&raw const CONSTANT).addr(), &mut into));
    assert_eq!(u64::from_ne_bytes(into), 5);
    assert!(!peek(8, &mut into));
    assert!(!peek(0x8000_0000_0000, &mut into));
    // Half of it is there.
    // SAFETY: new memory of our own, the second page of which is given back.
    let at = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(
            std::ptr::null_mut(),
            2 * PAGE,
            libc::PROT_READ,
            flags,
            -1,
            0,
        );
        libc::mprotect(at.byte_add(PAGE), PAGE, libc::PROT_NONE);
        at.addr()
    };
    assert!(peek(at + PAGE - 8, &mut into));
    assert!(!peek(at + PAGE - 4, &mut into));
}
