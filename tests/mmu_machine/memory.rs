//! Rows 19, 37, 47, 56 and 112: what programs see of their memory. Row 112 asks Linux too.
#![cfg_attr(target_arch = "x86_64", allow(unsafe_code))] // System calls.

use crate::support::*;
use fencepost::mmu::addr::{Access, FrameNumber, PAGE_SHIFT, VirtAddr};
use fencepost::mmu::area::linux;
use fencepost::mmu::geometry::{Flat, Geometry, Pae, X86L2, X86L4, X86L5};
use fencepost::mmu::machine::{Machine, Options, SpaceId};

type M = Machine<'static, X86L4>;

fn small() -> (M, SpaceId) {
    one(Size::full(64, 8), Options::DEFAULT)
}

#[test]
fn row_019_a_page_has_4096_bytes() {
    fn smallest<G: Geometry>() -> (u64, u64) {
        (G::span(0), 1 << G::shift(0))
    }
    assert_eq!(1 << PAGE_SHIFT, 4096);
    let all = [
        smallest::<X86L2>(),
        smallest::<Pae>(),
        smallest::<X86L4>(),
        smallest::<X86L5>(),
        smallest::<Flat>(),
    ];
    assert_eq!(all, [(4096, 4096); 5]);
    // The 4097th byte of a mapping lies in a page of its own, which comes by itself.
    let (mut m, id) = small();
    map(&mut m, 0x7000, 4, RW);
    m.write(
        VirtAddr::new(0x7000),
        &[1; 4096],
        fencepost::mmu::addr::Mode::User,
    )
    .expect("mapped");
    assert_eq!(m.sizes(id).resident(), 1);
    touch(&mut m, 0x7000 + 4096, Access::Write).expect("mapped");
    assert_eq!(m.sizes(id).resident(), 2);
}

#[test]
fn row_037_no_frame_until_a_page_is_touched() {
    let (mut m, id) = one::<X86L4>(Size::full(300, 0), Options::DEFAULT);
    let used = m.report().frames_used;
    let at = m.map_anonymous(1 << 20, RW).expect("room");
    let resident = |m: &M| -> Vec<u64> {
        let pages = 0..256;
        pages
            .filter(|page| m.is_resident(id, at + page * PAGE))
            .collect()
    };
    assert_eq!((resident(&m), m.sizes(id).resident()), (vec![], 0));
    assert_eq!(m.report().frames_used, used, "not even for tables");
    for (count, page) in [128, 0, 255].into_iter().enumerate() {
        touch(&mut m, at + page * PAGE, Access::Write).expect("mapped");
        assert!(resident(&m).contains(&page));
        assert_eq!(resident(&m).len(), count + 1, "one page came");
        assert_eq!(m.sizes(id).resident(), count as u64 + 1);
    }
    // Pages that are only read are there, but take no frames: all share the page of zeros.
    touch(&mut m, at + 7 * PAGE, Access::Read).expect("mapped");
    let frames = m.report().frames_used;
    for page in 8..100 {
        touch(&mut m, at + page * PAGE, Access::Read).expect("mapped");
        assert!(m.is_resident(id, at + page * PAGE));
    }
    assert_eq!(
        (m.sizes(id).resident(), m.report().frames_used),
        (3, frames)
    );
    sound(&mut m);
}

#[test]
fn row_047_fresh_memory_reads_as_zero() {
    let (mut m, id) = small();
    let start = m.space(id).expect("it lives").layout().start_brk;
    let (mut dirty, mut again): (Vec<FrameNumber>, u32) = (Vec::new(), 0);
    // Anonymous memory, the heap, and the part of a page that comes with the first store to it.
    for round in 0..10 {
        let at = m.map_anonymous(4 * PAGE, RW).expect("room");
        assert_eq!(m.brk(start + 4 * PAGE), start + 4 * PAGE);
        for page in (0..4).flat_map(|page| [at + page * PAGE, start + page * PAGE]) {
            let first = page + 8 * round;
            store(&mut m, first, !0).expect("mapped");
            let mut bytes = [1; PAGE as usize];
            m.read(
                VirtAddr::new(page),
                &mut bytes,
                fencepost::mmu::addr::Mode::User,
            )
            .expect("mapped");
            let stored = bytes.iter().filter(|byte| **byte != 0).count();
            assert_eq!(stored, 8, "what was stored and nothing else");
            assert_eq!(load(&mut m, first), Ok(!0));
            let frame = m.frame(id, page).expect("present");
            again += u32::from(dirty.contains(&frame));
            dirty.push(frame);
        }
        // Discarded memory is fresh too.
        m.madvise(at, PAGE, linux::MADV_DONTNEED).expect("mapped");
        assert_eq!(load(&mut m, at + 8 * round), Ok(0));
        m.munmap(at, 4 * PAGE).expect("mapped");
        assert_eq!(m.brk(start), start);
    }
    assert!(
        again > 60,
        "{again} of 80 frames had been written to before"
    );
    sound(&mut m);
}

#[test]
fn row_056_virtual_size_is_not_resident_size() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 8), Options::DEFAULT);
    let pages = |m: &M| (m.virtual_bytes(id) / PAGE, m.resident_bytes(id) / PAGE);
    assert_eq!(pages(&m), (0, 0));
    // 1 GiB on a machine of 64 frames: only its one area is described.
    let at = m.map_anonymous(1 << 30, RW).expect("room");
    assert_eq!(pages(&m), (262_144, 0));
    let space = m.space(id).expect("it lives");
    assert_eq!((space.len(), m.table_bytes(id)), (1, 0));
    assert_eq!(space.totals().size, m.virtual_bytes(id));
    for page in [0, 1, 100_000] {
        touch(&mut m, at + page * PAGE, Access::Write).expect("mapped");
    }
    assert_eq!(pages(&m), (262_144, 3));
    // What can be addressed but is in no area is not described, nor can it be used.
    assert!(touch(&mut m, at - PAGE, Access::Read).is_err());
    assert!(touch(&mut m, at + (1 << 30), Access::Read).is_err());
    assert_eq!(pages(&m), (262_144, 3));
    // Rights change neither; discarding and swapping the second alone; unmapping both.
    m.mprotect(at, 2 * PAGE, R).expect("mapped");
    assert_eq!(pages(&m), (262_144, 3));
    assert!(m.page_out(id, at + PAGE));
    assert_eq!((pages(&m), m.sizes(id).swapped), ((262_144, 2), 1));
    m.madvise(at, PAGE, linux::MADV_DONTNEED).expect("mapped");
    assert_eq!(pages(&m), (262_144, 1));
    m.munmap(at + 100_000 * PAGE, 2 * PAGE).expect("mapped");
    assert_eq!(pages(&m), (262_142, 0));
    m.munmap(at, 1 << 30).expect("mapped");
    assert_eq!((pages(&m), m.sizes(id).peak), ((0, 0), 3));
    sound(&mut m);
}

/// Who carries out the calls of row 112.
#[cfg(all(target_arch = "x86_64", not(miri)))]
trait System {
    /// `mmap` of memory, or of the file.
    fn mmap(&mut self, call: Call) -> Result<u64, i32>;
    fn munmap(&mut self, at: u64, len: u64);
    /// The rights and the `s` or `p` of `/proc/PID/maps`; nothing if it is not mapped.
    fn rights(&mut self, at: u64) -> String;
    /// Reads a byte as the kernel does it for another process.
    fn read(&mut self, at: u64) -> Option<u8>;
    /// Writes one.
    fn write(&mut self, at: u64, byte: u8) -> bool;
}

/// The arguments of `mmap`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[derive(Debug, Clone, Copy)]
struct Call {
    addr: u64,
    len: u64,
    prot: u32,
    flags: u32,
    file: bool,
    offset: u64,
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod side_by_side {
    use super::*;
    use fencepost::mmu::addr::ObjectId;
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

    /// Bytes of the file, and where its second page is different.
    const FILE: u64 = 3 * PAGE;

    struct Model {
        machine: M,
        id: SpaceId,
        file: ObjectId,
    }

    impl Model {
        fn new() -> Model {
            let (mut machine, id) = one(Size::full(200, 0), Options::DEFAULT);
            // Its pages begin with 1, 2 and 3.
            for page in 0..3 {
                machine.disk(page)[0] = u64::from(page) + 1;
            }
            let file = machine.open(0, FILE).expect("room");
            Model { machine, id, file }
        }
    }

    impl System for Model {
        fn mmap(&mut self, call: Call) -> Result<u64, i32> {
            let Call {
                addr,
                len,
                prot,
                flags,
                file,
                offset,
            } = call;
            let object = file.then_some(self.file);
            let done = self.machine.mmap(addr, len, prot, flags, object, offset);
            done.map_err(|errno| errno.0)
        }

        fn munmap(&mut self, at: u64, len: u64) {
            self.machine.munmap(at, len).expect("it can be unmapped");
        }

        fn rights(&mut self, at: u64) -> String {
            let space = self.machine.space(self.id).expect("it lives");
            let area = space.find(self.machine.pool(), at);
            area.map_or(String::new(), |area| {
                let kind = if area.is_shared() { 's' } else { 'p' };
                format!("{}{kind}", area.rights)
            })
        }

        fn read(&mut self, at: u64) -> Option<u8> {
            let mut byte = [0];
            let done = self.machine.copy_in(self.id, at, &mut byte);
            done.ok().map(|_| byte[0])
        }

        fn write(&mut self, at: u64, byte: u8) -> bool {
            self.machine.copy_out(self.id, at, &[byte]).is_ok()
        }
    }

    struct Linux(OwnedFd);

    impl Linux {
        fn new() -> Linux {
            // SAFETY: a new descriptor, which nobody else has.
            let file = unsafe {
                let file = libc::memfd_create(c"row 112".as_ptr(), libc::MFD_CLOEXEC);
                assert!(file >= 0, "{}", std::io::Error::last_os_error());
                OwnedFd::from_raw_fd(file)
            };
            for page in 0..FILE / PAGE {
                let mut bytes = [0; PAGE as usize];
                bytes[0] = page as u8 + 1;
                let at = (page * PAGE) as libc::off_t;
                // SAFETY: the bytes are there.
                let done = unsafe {
                    libc::pwrite(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), at)
                };
                assert_eq!(done, bytes.len() as isize);
            }
            Linux(file)
        }

        fn copy(at: u64, byte: &mut u8, write: bool) -> bool {
            let part = |base: *mut u8| libc::iovec {
                iov_base: base.cast(),
                iov_len: 1,
            };
            let ours = part(byte);
            let theirs = part(std::ptr::with_exposed_provenance_mut(at as usize));
            // SAFETY: only memory of the test's own mappings is asked for, if there is any.
            let done = unsafe {
                let me = libc::getpid();
                if write {
                    libc::process_vm_writev(me, &ours, 1, &theirs, 1, 0)
                } else {
                    libc::process_vm_readv(me, &ours, 1, &theirs, 1, 0)
                }
            };
            done == 1
        }
    }

    impl System for Linux {
        fn mmap(&mut self, call: Call) -> Result<u64, i32> {
            let file = if call.file { self.0.as_raw_fd() } else { -1 };
            // SAFETY: fixed addresses lie in the test's window only.
            let done = unsafe {
                libc::syscall(
                    libc::SYS_mmap,
                    call.addr,
                    call.len,
                    u64::from(call.prot),
                    u64::from(call.flags),
                    i64::from(file),
                    call.offset,
                )
            };
            if done == -1 {
                let errno = std::io::Error::last_os_error().raw_os_error();
                return Err(errno.expect("the kernel said why"));
            }
            Ok(done as u64)
        }

        fn munmap(&mut self, at: u64, len: u64) {
            // SAFETY: a mapping of the test's own.
            let done = unsafe { libc::syscall(libc::SYS_munmap, at, len) };
            assert_eq!(done, 0, "{at:#x} can be unmapped");
        }

        fn rights(&mut self, at: u64) -> String {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is there");
            let number = |text| u64::from_str_radix(text, 16).expect("an address");
            let found = maps.lines().find_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (from, to) = range.split_once('-')?;
                (number(from)..number(to)).contains(&at).then(|| &rest[..4])
            });
            found.unwrap_or("").to_owned()
        }

        fn read(&mut self, at: u64) -> Option<u8> {
            let mut byte = 0;
            Linux::copy(at, &mut byte, false).then_some(byte)
        }

        fn write(&mut self, at: u64, mut byte: u8) -> bool {
            Linux::copy(at, &mut byte, true)
        }
    }

    const WINDOW: u64 = 0x1120_0000_0000;
    const PAGES: u64 = 16;
    const TYPES: [u32; 2] = [PRIVATE, SHARED];

    /// Calls that map something: with NULL, with a wish, with a demand.
    fn calls() -> Vec<Call> {
        let plain = Call {
            addr: 0,
            len: PAGE,
            prot: RW,
            flags: PRIVATE,
            file: false,
            offset: 0,
        };
        let at = |page: u64| WINDOW + page * PAGE;
        let mut calls = Vec::new();
        // Every protection, private and shared, of memory and of the file's second page. Unknown
        // bits of the protection are ignored.
        for flags in TYPES {
            for prot in (0..8).chain([RW | 0x70]) {
                calls.push(Call {
                    prot,
                    flags,
                    ..plain
                });
            }
            for prot in 0..4 {
                calls.push(Call {
                    prot,
                    flags: flags & !linux::MAP_ANONYMOUS,
                    file: true,
                    offset: PAGE,
                    ..plain
                });
            }
        }
        // Lengths: rounded up; none; too much.
        for len in [1, 4097, 0, u64::MAX, u64::MAX - 5000, 1 << 47] {
            calls.push(Call { len, ..plain });
        }
        // No type; both types; a mapping that is neither of memory nor of a file; of both.
        for (flags, file) in [
            (linux::MAP_ANONYMOUS, false),
            (PRIVATE | SHARED, false),
            (linux::MAP_PRIVATE, false),
            (linux::MAP_SHARED, false),
            (0, true),
            (PRIVATE, true),
            (SHARED | linux::MAP_GROWSDOWN, false),
        ] {
            calls.push(Call {
                flags,
                file,
                ..plain
            });
        }
        // Offsets: whole pages; of no meaning without a file.
        for offset in [1, 4095, 4096] {
            calls.push(Call { offset, ..plain });
            let flags = linux::MAP_PRIVATE;
            calls.push(Call {
                offset,
                flags,
                file: true,
                ..plain
            });
        }
        // An address is a wish: rounded down, and ignored where something is.
        for addr in [at(2), at(2) + 1, at(3) - 1, at(1), at(5), u64::MAX] {
            calls.push(Call { addr, ..plain });
        }
        calls.push(Call {
            addr: at(2),
            len: 2 * PAGE,
            ..plain
        });
        // Or a demand: exactly there, over whatever is there, or not at all.
        for flags in [FIXED, linux::MAP_FIXED_NOREPLACE] {
            for (addr, len) in [
                (at(2), PAGE),
                (at(1), PAGE),
                (at(1), 2 * PAGE),
                (at(1), 4 * PAGE),
                (at(2) + 1, PAGE),
                (at(2), 0),
                (1 << 56, PAGE),
            ] {
                let flags = PRIVATE | flags;
                calls.push(Call {
                    addr,
                    len,
                    flags,
                    ..plain
                });
            }
        }
        calls
    }

    /// Carries them all out in a window whose third page is free, and writes down what happened.
    fn play(system: &mut impl System) -> Vec<String> {
        let mut log = Vec::new();
        for call in calls() {
            let window = Call {
                addr: WINDOW,
                len: PAGES * PAGE,
                prot: R,
                flags: PRIVATE | linux::MAP_FIXED_NOREPLACE,
                file: false,
                offset: 0,
            };
            assert_eq!(system.mmap(window), Ok(WINDOW));
            system.munmap(WINDOW + 2 * PAGE, PAGE);
            let told = match system.mmap(call) {
                Err(errno) => format!("error {errno}"),
                Ok(at) => {
                    assert!(at != 0 && at.is_multiple_of(PAGE), "{call:?}: {at:#x}");
                    let inside = (WINDOW..WINDOW + PAGES * PAGE).contains(&at);
                    let place = if inside {
                        format!("page {}", (at - WINDOW) / PAGE)
                    } else {
                        "elsewhere".to_owned()
                    };
                    let last = at + call.len - 1;
                    let told = format!(
                        "{place} {} {}, read {:?}, write {}, read {:?}",
                        system.rights(at),
                        system.rights(last),
                        system.read(at),
                        system.write(last, 9),
                        system.read(last),
                    );
                    // What lies there afterwards is not asked: another test's thread may have got
                    // the place by then.
                    if !inside {
                        system.munmap(at, call.len);
                    }
                    told
                }
            };
            // What a fixed mapping replaced is gone, the rest is as it was.
            let rights: Vec<String> = (0..6)
                .map(|page| system.rights(WINDOW + page * PAGE))
                .collect();
            log.push(format!("{call:x?}: {told}; {}", rights.join(" ")));
            system.munmap(WINDOW, PAGES * PAGE);
        }
        // What is stored through one shared mapping of the file is seen by another, and by a
        // private one that stored nothing itself; a private store by nobody.
        let [first, second, private] = [linux::MAP_SHARED, linux::MAP_SHARED, linux::MAP_PRIVATE]
            .map(|flags| {
                let file = Call {
                    addr: 0,
                    len: FILE,
                    prot: RW,
                    flags,
                    file: true,
                    offset: 0,
                };
                system.mmap(file).expect("room")
            });
        for (at, byte) in [(first, 7), (private, 8), (second, 6)] {
            assert!(system.write(at, byte));
            let seen = [first, second, private].map(|at| system.read(at));
            log.push(format!("{seen:?}"));
        }
        for at in [first, second, private] {
            system.munmap(at, FILE);
        }
        log
    }

    #[test]
    fn row_112_mmap_on_the_model_and_on_linux() {
        let (model, linux) = (play(&mut Model::new()), play(&mut Linux::new()));
        for (model, linux) in model.iter().zip(&linux) {
            assert_eq!(model, linux);
        }
        assert_eq!(model.len(), linux.len());
        let count = |part: &str| linux.iter().filter(|line| line.contains(part)).count();
        let results = ["elsewhere", "page 2 ", "page 1 ", "error 9;", "error 12;"].map(count);
        assert!(results.iter().all(|n| *n >= 2), "{results:?}");
        assert!(count("error 17;") == 3 && count("error 22;") > 5);
    }
}
