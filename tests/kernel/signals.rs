//! What a fault looks like: every kind that a program can have on this machine, raised for real,
//! against [`Fault::signature`].

use super::fast::{Fast, Size};
use super::quirks::Quirks;
use super::real::Kernel;
use super::{FILES, System, WINDOW};
use fencepost::mmu::addr::{Access, Mode, PAGE, Rights, VirtAddr};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::fault::{Cause, Fault, Signature};
use fencepost::mmu::listing::{self, Name};

const RW: u32 = PROT_READ | PROT_WRITE;
const PRIVATE: u32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
const SHARED: u32 = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;

/// A system of `pages` pages, and where they begin: the tests of the kernel share a process.
struct Place<S> {
    system: S,
    base: u64,
}

fn kernel(test: u64, pages: u64) -> Place<Kernel> {
    let base = WINDOW + (test << 32);
    Place {
        system: Kernel::new(base, pages),
        base,
    }
}

fn model() -> Place<Fast> {
    let size = Size {
        frames: 4096,
        ..Size::WINDOW
    };
    Place {
        system: Fast::new(WINDOW, WINDOW + (1 << 42), size),
        base: WINDOW,
    }
}

/// What the table of faults says about a user's access.
fn told(cause: Cause, addr: u64, access: Access, present: bool) -> Signature {
    let fault = Fault {
        cause,
        addr: VirtAddr::new(addr),
        access,
        mode: Mode::User,
        present,
        instruction: 0,
    };
    fault.signature().expect("a fault that the machine has")
}

impl<S: System> Place<S> {
    /// What an access that faults looks like.
    #[track_caller]
    fn raised(&mut self, addr: u64, len: u64, access: Access) -> Signature {
        let result = self.system.touch(addr, len, access, [0; 8]);
        result.expect_err("an access that faults")
    }

    #[track_caller]
    fn same(&mut self, cause: Cause, addr: u64, access: Access, present: bool) {
        let found = self.raised(addr, 1, access);
        assert_eq!(
            found,
            told(cause, addr, access, present),
            "{cause:?} {access:?}"
        );
    }

    /// An access that is allowed.
    #[track_caller]
    fn touch(&mut self, addr: u64, access: Access) {
        let result = self.system.touch(addr, 1, access, [0x5a; 8]);
        assert!(result.is_ok(), "{addr:#x}: {result:?}");
    }

    /// One page.
    fn map(&mut self, page: u64, prot: u32, flags: u32) -> u64 {
        let addr = self.base + page * PAGE;
        let mapped = self.system.mmap(addr, PAGE, prot, flags, None, 0);
        assert_eq!(mapped, Ok(addr));
        addr
    }

    /// A stack of 4 pages with its top at this page.
    fn stack(&mut self, top: u64) -> u64 {
        let addr = self.base + (top - 4) * PAGE;
        let flags = PRIVATE | MAP_GROWSDOWN;
        let mapped = self.system.mmap(addr, 4 * PAGE, RW, flags, None, 0);
        assert_eq!(mapped, Ok(addr));
        addr + 4 * PAGE
    }
}

/// Every row of the table of faults that a program can have, but for the addresses of others.
fn faults<S: System>(mut p: Place<S>) {
    use Access::{Exec, Read, Write};
    for access in [Read, Write, Exec] {
        p.same(Cause::NotMapped, p.base + 20 * PAGE + 5, access, false);
        p.same(Cause::NullDeref, 8, access, false);
    }
    let read_only = p.map(0, PROT_READ, PRIVATE);
    p.same(Cause::ProtWrite, read_only + 1, Write, false);
    p.touch(read_only, Read);
    p.same(Cause::ProtWrite, read_only + 2, Write, true);

    let nothing = p.map(2, 0, PRIVATE);
    p.same(Cause::ProtRead, nothing + 3, Read, false);
    p.same(Cause::ProtWrite, nothing + 3, Write, false);
    p.same(Cause::ExecNx, nothing + 3, Exec, false);
    let data = p.map(4, RW, PRIVATE);
    // The page is brought in before the fetch is refused.
    p.same(Cause::ExecNx, data + 4, Exec, true);
    p.touch(data, Write);
    p.same(Cause::ExecNx, data + 4, Exec, true);
    assert_eq!(p.system.mprotect(data, PAGE, 0), Ok(0));
    // With data behind it, yet the machine says that nothing is present.
    p.same(Cause::ProtRead, data + 5, Read, false);
    p.same(Cause::ProtWrite, data + 5, Write, false);

    let shared = p.map(6, RW, SHARED);
    let grown = p.system.mremap(shared, PAGE, 2 * PAGE, 0, 0);
    assert_eq!(grown, Ok(shared), "room to grow");
    p.touch(shared, Write);
    for access in [Read, Write, Exec] {
        p.same(Cause::BusEof, shared + PAGE + 7, access, false);
    }

    if Quirks::of_this_kernel().guard {
        let guarded = p.map(10, RW, PRIVATE);
        p.touch(guarded, Write);
        let advised = p.system.madvise(guarded, PAGE, MADV_GUARD_INSTALL);
        assert_eq!(advised, Ok(0));
        for access in [Read, Write, Exec] {
            p.same(Cause::Guard, guarded + 9, access, false);
        }
    }

    // The same beyond the end of a file.
    let addr = p.base + 32 * PAGE;
    let end = addr + FILES[0] * PAGE;
    for flags in [MAP_PRIVATE | MAP_FIXED, MAP_SHARED | MAP_FIXED] {
        let len = (FILES[0] + 2) * PAGE;
        let mapped = p.system.mmap(addr, len, RW, flags, Some(0), 0);
        assert_eq!(mapped, Ok(addr));
        p.touch(end - 1, Read);
        p.same(Cause::BusEof, end, Read, false);
        p.same(Cause::BusEof, end + 11, Write, false);
    }
}

#[test]
fn row_032_signals_of_faults_are_the_kernels() {
    faults(kernel(8, 64));
    faults(model());
}

/// The address that is reported is the first byte that could not be accessed.
fn first_byte<S: System>(mut p: Place<S>) {
    use Access::{Read, Write};
    let end = p.map(0, RW, PRIVATE) + PAGE;
    for access in [Read, Write] {
        let found = p.raised(end - 3, 8, access);
        let expected = told(Cause::NotMapped, end, access, false);
        assert_eq!(found, expected, "five bytes beyond the page");
    }
    let second = p.map(4, RW, PRIVATE);
    let found = p.raised(second - 3, 8, Write);
    let expected = told(Cause::NotMapped, second - 3, Write, false);
    assert_eq!(found, expected, "three bytes before the page");
    let mut bytes = [1; 3];
    assert_eq!(p.system.read(end - 3, &mut bytes), Ok(3));
    assert_eq!(bytes, [0; 3], "a store that faulted has stored nothing");
}

#[test]
fn row_120_a_fault_names_the_first_byte_without_permission() {
    first_byte(kernel(10, 16));
    first_byte(model());
}

fn kernel_addresses<S: System>(mut p: Place<S>) {
    const TEXT: u64 = 0xffff_ffff_8100_0000;
    for addr in [TEXT, 0xffff_8000_0000_0000, 0xffff_ffff_ff60_0000] {
        let found = p.raised(addr, 1, Access::Read);
        assert_eq!((found.trap, found.error), (14, 5), "{addr:#x}");
        p.same(Cause::UserSupervisor, addr, Access::Read, false);
    }
    p.same(Cause::UserSupervisor, TEXT, Access::Write, false);
    p.same(Cause::UserSupervisor, TEXT, Access::Exec, false);
}

#[test]
fn row_030_a_users_read_of_the_kernel_has_error_code_5() {
    kernel_addresses(kernel(11, 16));
    kernel_addresses(model());
}

/// How a library and the kernel's own pages stand in the listing of a process, this one.
#[test]
fn row_070_library_mappings_and_the_kernels_pages() {
    let text = std::fs::read("/proc/self/maps").expect("a listing");
    let areas: Vec<_> = listing::maps(&text)
        .map(|line| line.expect("a line that the kernel wrote"))
        .collect();
    let library: Vec<Rights> = areas
        .iter()
        .filter(|area| match area.kind() {
            Name::File { path, .. } => path.ends_with(b"/libc.so.6"),
            _ => false,
        })
        .map(|area| {
            assert!(!area.shared, "a library is private");
            area.rights
        })
        .collect();
    let (read, write, exec) = (Rights::READ, Rights::WRITE, Rights::EXEC);
    for rights in [read.or(exec), read, read.or(write)] {
        assert!(library.contains(&rights), "{rights}: {library:?}");
    }
    let of_kernel = |name: &'static [u8]| areas.iter().find(|a| a.kind() == Name::Kernel(name));
    let vdso = of_kernel(b"vdso").expect("code of the kernel's");
    assert_eq!(vdso.rights, read.or(exec));
    let vvar = of_kernel(b"vvar").expect("data of the kernel's");
    assert_eq!(vvar.rights, read);
    // A page 10 MiB below the end of all addresses, in the kernel's half, where a program's read is refused.
    // It is listed unless the kernel was started without it, readable only where it is emulated
    // in the old way.
    const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
    let vsyscall = of_kernel(b"vsyscall");
    assert!(vsyscall.is_none_or(|area| (area.start, area.len()) == (VSYSCALL, PAGE)));
    if vsyscall.is_some_and(|area| area.rights.holds(read)) {
        println!("skipped: this kernel lets programs read vsyscall");
        return;
    }
    let found = kernel(20, 16).raised(VSYSCALL, 1, Access::Read);
    assert_eq!((found.signal, found.error), (Signature::SEGV, 5));
}

fn between_the_halves<S: System>(mut p: Place<S>) {
    let text = std::fs::read_to_string("/proc/cpuinfo").expect("the processor");
    let wide = text.split_whitespace().any(|flag| flag == "la57");
    for addr in [
        0x8000_0000_0000,
        0x1234_0000_0000_0000,
        0xffff_7fff_ffff_ffff,
    ] {
        if wide && addr >> 56 != 0x12 {
            println!("skipped: {addr:#x} may be canonical with five levels");
            continue;
        }
        let found = p.raised(addr, 1, Access::Read);
        assert_eq!((found.trap, found.code, found.addr), (13, 128, 0));
        p.same(Cause::NonCanonical, addr, Access::Read, false);
        p.same(Cause::NonCanonical, addr, Access::Write, false);
    }
}

#[test]
fn row_043_addresses_between_the_halves_are_a_general_protection_fault() {
    between_the_halves(kernel(12, 16));
    between_the_halves(model());
}

/// `RLIMIT_STACK` in pages.
fn stack_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a local is filled in.
    unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) };
    limit.rlim_cur / PAGE
}

fn grows<S: System>(mut p: Place<S>, most: u64) {
    let top = p.stack(most + 500);
    p.touch(top - 6 * PAGE, Access::Write);
    // Any distance at once: the kernel does not look at the stack pointer.
    p.touch(top - most * PAGE, Access::Read);
    let below = top - most * PAGE - 1;
    p.same(Cause::StackLimit, below, Access::Write, false);
    p.same(Cause::StackLimit, below, Access::Read, false);
}

#[test]
fn row_049_a_stack_grows_to_its_limit_and_no_further() {
    // The model's limit is the usual one.
    grows(model(), 2048);
    let most = stack_limit();
    if most > 1 << 20 {
        println!("skipped: the stack is unlimited");
        return;
    }
    grows(kernel(13, most + 600), most);
}

fn keeps_its_distance<S: System>(mut p: Place<S>) {
    let low = p.stack(600) - 4 * PAGE;
    // 300 pages are free below, of which 256 stay free.
    let below = p.map(600 - 4 - 301, PROT_READ, PRIVATE);
    p.same(Cause::StackLimit, low - 45 * PAGE, Access::Write, false);
    p.touch(low - 44 * PAGE, Access::Write);
    p.same(Cause::StackLimit, low - 45 * PAGE, Access::Write, false);
    // A neighbour that nobody may access needs no distance.
    assert_eq!(p.system.mprotect(below, PAGE, 0), Ok(0));
    p.touch(low - 300 * PAGE, Access::Write);
    p.same(Cause::ProtWrite, below, Access::Write, false);
}

#[test]
fn row_049_a_stack_keeps_its_distance() {
    keeps_its_distance(kernel(14, 700));
    keeps_its_distance(model());
}
