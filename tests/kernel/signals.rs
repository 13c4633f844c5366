//! What a fault looks like: every kind that a program can have on this machine, raised for real,
//! against [`Fault::signature`].

use super::real::{Kernel, call};
use super::{FILES, System, WINDOW, probe};
use fencepost::mmu::addr::{Access, Mode, PAGE, VirtAddr};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::fault::{Cause, Fault, Signature};

const RW: u32 = PROT_READ | PROT_WRITE;
const PRIVATE: u32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
const SHARED: u32 = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;

fn place(test: u64) -> u64 {
    WINDOW + (test << 32)
}

/// What the machine reports for one access.
fn raised(addr: u64, len: u64, access: Access) -> Signature {
    // SAFETY: each address below faults, or the test fails.
    let result = unsafe { probe::access(addr, len, access, 0) };
    result.expect_err("an access that faults")
}

/// What the model says about a user's access.
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

#[track_caller]
fn same(cause: Cause, addr: u64, access: Access, present: bool) {
    let model = told(cause, addr, access, present);
    assert_eq!(raised(addr, 1, access), model, "{cause:?} {access:?}");
}

fn map(base: u64, page: u64, prot: u32, flags: u32) -> u64 {
    let addr = base + page * PAGE;
    super::real::map(addr, PAGE, prot, flags);
    addr
}

fn touch(addr: u64, access: Access) {
    // SAFETY: the page is the test's own, and may be used so.
    let result = unsafe { probe::access(addr, 1, access, 0x5a) };
    assert!(result.is_ok(), "{addr:#x}");
}

/// A mapping of the tests that ends with them.
struct Window(u64, u64);

impl Drop for Window {
    fn drop(&mut self) {
        super::real::unmap(self.0, self.1 * PAGE);
    }
}

#[test]
fn row_032_signals_of_faults_are_the_kernels() {
    use Access::{Exec, Read, Write};
    let window = Window(place(8), 64);
    let base = window.0;
    for access in [Read, Write, Exec] {
        same(Cause::NotMapped, base + 20 * PAGE + 5, access, false);
        same(Cause::NullDeref, 8, access, false);
    }
    let read_only = map(base, 0, PROT_READ, PRIVATE);
    same(Cause::ProtWrite, read_only + 1, Write, false);
    touch(read_only, Read);
    same(Cause::ProtWrite, read_only + 2, Write, true);

    let nothing = map(base, 2, 0, PRIVATE);
    same(Cause::ProtRead, nothing + 3, Read, false);
    same(Cause::ProtWrite, nothing + 3, Write, false);
    let data = map(base, 4, RW, PRIVATE);
    touch(data, Write);
    same(Cause::ExecNx, data + 4, Exec, true);
    let protect = |addr: u64, prot: u32| {
        call(libc::SYS_mprotect, [addr, PAGE, prot.into(), 0, 0, 0]).expect("mprotect");
    };
    protect(data, 0);
    // With data behind it, yet the machine says that nothing is present.
    same(Cause::ProtRead, data + 5, Read, false);
    same(Cause::ProtWrite, data + 5, Write, false);

    let shared = map(base, 6, RW, SHARED);
    let grow = [shared, PAGE, 2 * PAGE, 0, 0, 0];
    assert_eq!(call(libc::SYS_mremap, grow), Ok(shared), "room to grow");
    touch(shared, Write);
    same(Cause::BusEof, shared + PAGE + 7, Read, false);
    same(Cause::BusEof, shared + PAGE + 7, Write, false);

    if super::quirks::Quirks::of_this_kernel().guard {
        let guarded = map(base, 10, RW, PRIVATE);
        touch(guarded, Write);
        let advice = [guarded, PAGE, MADV_GUARD_INSTALL.into(), 0, 0, 0];
        assert_eq!(call(libc::SYS_madvise, advice), Ok(0));
        same(Cause::Guard, guarded + 9, Read, false);
        same(Cause::Guard, guarded + 9, Write, false);
    }

    // The same beyond the end of a file.
    let mut kernel = Kernel::new(place(9), 32);
    let addr = place(9);
    let end = addr + FILES[0] * PAGE;
    for flags in [MAP_PRIVATE | MAP_FIXED, MAP_SHARED | MAP_FIXED] {
        let len = (FILES[0] + 2) * PAGE;
        assert_eq!(kernel.mmap(addr, len, RW, flags, Some(0), 0), Ok(addr));
        touch(end - 1, Read);
        same(Cause::BusEof, end, Read, false);
        same(Cause::BusEof, end + 11, Write, false);
    }
}

/// The address that is reported is the first byte that could not be accessed.
#[test]
fn row_120_a_fault_names_the_first_byte_without_permission() {
    use Access::{Read, Write};
    let window = Window(place(10), 16);
    let first = map(window.0, 0, RW, PRIVATE);
    let end = first + PAGE;
    for access in [Read, Write] {
        assert_eq!(
            raised(end - 3, 8, access),
            told(Cause::NotMapped, end, access, false),
            "five bytes beyond the page"
        );
    }
    let second = map(window.0, 4, RW, PRIVATE);
    assert_eq!(
        raised(second - 3, 8, Write),
        told(Cause::NotMapped, second - 3, Write, false),
        "three bytes before the page"
    );
    // A store that faulted has stored nothing.
    let mut bytes = [1; 3];
    let ours = bytes.as_mut_ptr();
    let done = super::real::transfer(std::process::id(), end - 3, ours, 3, false);
    assert_eq!((done, bytes), (Ok(3), [0; 3]));
}

#[test]
fn row_030_a_users_read_of_the_kernel_has_error_code_5() {
    for addr in [
        0xffff_ffff_8100_0000,
        0xffff_8000_0000_0000,
        0xffff_ffff_ff60_0000,
    ] {
        let found = raised(addr, 1, Access::Read);
        assert_eq!((found.trap, found.error), (14, 5), "{addr:#x}");
        same(Cause::UserSupervisor, addr, Access::Read, false);
    }
    same(
        Cause::UserSupervisor,
        0xffff_ffff_8100_0000,
        Access::Write,
        false,
    );
    same(
        Cause::UserSupervisor,
        0xffff_ffff_8100_0000,
        Access::Exec,
        false,
    );
}

#[test]
fn row_043_addresses_between_the_halves_are_a_general_protection_fault() {
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
        let found = raised(addr, 1, Access::Read);
        assert_eq!((found.trap, found.code, found.addr), (13, 128, 0));
        same(Cause::NonCanonical, addr, Access::Read, false);
        same(Cause::NonCanonical, addr, Access::Write, false);
    }
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

/// A stack of 4 pages with its top at `top`.
fn stack(top: u64) -> u64 {
    super::real::map(top - 4 * PAGE, 4 * PAGE, RW, PRIVATE | MAP_GROWSDOWN);
    top
}

#[test]
fn row_049_a_stack_grows_to_its_limit_and_no_further() {
    let most = stack_limit();
    if most > 1 << 20 {
        println!("skipped: the stack is unlimited");
        return;
    }
    let window = Window(place(11), most + 600);
    let top = stack(window.0 + (most + 500) * PAGE);
    touch(top - 6 * PAGE, Access::Write);
    // Any distance at once: the kernel does not look at the stack pointer.
    touch(top - most * PAGE, Access::Read);
    let below = top - most * PAGE - 1;
    same(Cause::StackLimit, below, Access::Write, false);
    same(Cause::StackLimit, below, Access::Read, false);
}

#[test]
fn a_stack_keeps_its_distance() {
    let window = Window(place(12), 700);
    let top = stack(window.0 + 600 * PAGE);
    let low = top - 4 * PAGE;
    // 300 pages are free below: 43 of them can be had, with 256 left over and one more.
    let below = low - 301 * PAGE;
    super::real::map(below, PAGE, PROT_READ, PRIVATE);
    same(Cause::StackLimit, low - 45 * PAGE, Access::Write, false);
    touch(low - 44 * PAGE, Access::Write);
    same(Cause::StackLimit, low - 45 * PAGE, Access::Write, false);
    // A neighbour that nobody may access needs no distance.
    super::real::map(below, PAGE, 0, PRIVATE);
    touch(low - 300 * PAGE, Access::Write);
    same(Cause::ProtWrite, below, Access::Write, false);
}
