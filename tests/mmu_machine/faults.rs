//! Rows 29 to 36, 42, 43 and 120: permissions, modes, and what a fault is.

use crate::support::*;
use fencepost::mmu::addr::{Access, Mode, VirtAddr};
use fencepost::mmu::area::{Errno, linux};
use fencepost::mmu::cpu::permits;
use fencepost::mmu::entry::Entry;
use fencepost::mmu::fault::{Cause, Fault, Signature};
use fencepost::mmu::geometry::{Geometry, X86L2, X86L4};
use fencepost::mmu::machine::{Machine, Options, Resolution};
use fencepost::mmu::replace::Kind;

const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Exec];
const MODES: [Mode; 2] = [Mode::User, Mode::Supervisor];

type M = Machine<'static, X86L4>;

fn fault_at(m: &mut M, at: u64, len: u64, access: Access) -> Fault {
    m.access(VirtAddr::new(at), len, access, Mode::User)
        .expect_err("the access is illegal")
}

/// Cause, exception, error code, signal, its code and address.
type Seen = (Cause, u8, u32, i32, i32, u64);

fn signature(m: &mut M, at: u64, access: Access) -> Seen {
    let fault = fault_at(m, at, 1, access);
    let s = fault.signature().expect("Linux knows it");
    (fault.cause, s.trap, s.error, s.signal, s.code, s.addr)
}

#[test]
fn row_029_permissions_are_of_pages_by_mode_and_access() {
    type E = Entry<X86L4>;
    let mut rows = 0;
    for bits in 0..16u64 {
        let flag = |bit: u32, flag: u64| if bits >> bit & 1 != 0 { flag } else { 0 };
        let (present, writable, user, no_exec) = (
            flag(0, E::PRESENT),
            flag(1, E::WRITABLE),
            flag(2, E::USER),
            flag(3, E::NO_EXECUTE),
        );
        for access in ACCESSES {
            for mode in MODES {
                rows += 1;
                let allowed = present != 0
                    && (user != 0 || mode == Mode::Supervisor)
                    && (writable != 0 || access != Access::Write)
                    && (no_exec == 0 || access != Access::Exec);
                let flags = present | writable | user | no_exec;
                assert_eq!(permits::<X86L4>(flags, access, mode), allowed);
                // The same by a machine that walks, twice: the second time the TLB answers.
                let (mut m, id) = one::<X86L4>(Size::full(32, 0), Options::DEFAULT);
                map(&mut m, 0x7000, 1, RW);
                store(&mut m, 0x7000, 1).expect("mapped");
                let frame = m.frame(id, 0x7000).expect("present");
                let entry = E::from_bits(frame.start().raw() | flags);
                m.forge().entry_told(id, 0x7000, entry);
                let (mmu, ram) = m.forge_hardware();
                for _ in 0..2 {
                    let at = VirtAddr::new(0x7000);
                    assert_eq!(mmu.reach(ram, at, access, mode).is_ok(), allowed);
                }
            }
        }
    }
    assert_eq!(rows, 96);
}

#[test]
fn row_030_pages_for_nobody_for_the_kernel_for_both() {
    let (mut m, _) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    let kernel = 0xffff_8880_0000_0000;
    m.map_kernel_page(VirtAddr::new(kernel)).expect("room");
    let seen = signature(&mut m, kernel, Access::Read);
    assert_eq!(
        seen,
        (Cause::UserSupervisor, 14, 5, 11, Signature::MAPERR, kernel)
    );
    let supervisor =
        |m: &mut M, at| m.access(VirtAddr::new(at), 8, Access::Write, Mode::Supervisor);
    assert_eq!(supervisor(&mut m, kernel), Ok(()));
    // A program's page is for both, a hidden one for nobody.
    map(&mut m, 0x7000, 2, RW);
    store(&mut m, 0x7000, 1).expect("mapped");
    assert_eq!(supervisor(&mut m, 0x7000), Ok(()));
    m.mprotect(0x7000, PAGE, 0).expect("mapped");
    assert!(supervisor(&mut m, 0x7000).is_err());
    assert!(touch(&mut m, 0x7000, Access::Read).is_err());
    sound(&mut m);
}

#[test]
fn row_031_there_are_two_access_levels() {
    assert_eq!(MODES.map(Mode::level), [3, 0]);
}

/// Everything of the taxonomy that Linux has a signal for, as measured on Linux 6.18:
/// `tests` that compare with real signals are elsewhere.
fn every_fault(m: &mut M) -> Vec<(&'static str, Seen)> {
    use Access::{Exec, Read, Write};
    let at = 0x10_0000u64;
    map(m, at, 8, RW);
    let mut all = Vec::new();
    let unmapped = 0x5000_0000;
    all.push(("unmapped read", signature(m, unmapped, Read)));
    all.push(("unmapped write", signature(m, unmapped, Write)));
    all.push(("unmapped exec", signature(m, unmapped, Exec)));
    m.mprotect(at, PAGE, R).expect("mapped");
    all.push(("untouched write", signature(m, at, Write)));
    touch(m, at, Read).expect("readable");
    all.push(("present write", signature(m, at, Write)));
    store(m, at + PAGE, 1).expect("mapped");
    m.mprotect(at + PAGE, PAGE, 0).expect("mapped");
    all.push(("hidden read", signature(m, at + PAGE, Read)));
    m.madvise(at + 2 * PAGE, PAGE, linux::MADV_GUARD_INSTALL)
        .expect("mapped");
    all.push(("guard read", signature(m, at + 2 * PAGE + 5, Read)));
    all.push(("guard write", signature(m, at + 2 * PAGE, Write)));
    store(m, at + 3 * PAGE, 1).expect("mapped");
    all.push(("exec data", signature(m, at + 3 * PAGE, Exec)));
    all.push(("kernel read", signature(m, 0xffff_ffff_ff60_0000, Read)));
    all.push(("not canonical", signature(m, 0x8000_0000_0000, Read)));
    all.push(("null", signature(m, 8, Read)));
    let file = m.open(0, PAGE).expect("room");
    let mapped = m.mmap(0, 2 * PAGE, R, linux::MAP_PRIVATE, Some(file), 0);
    let behind = mapped.expect("room") + PAGE;
    let bus = signature(m, behind, Read);
    all.push((
        "end of file",
        (bus.0, bus.1, bus.2, bus.3, bus.4, bus.5 - behind),
    ));
    all
}

#[test]
fn row_120_each_fault_has_its_signature() {
    let (mut m, _) = one::<X86L4>(Size::full(128, 0), Options::DEFAULT);
    let at = 0x10_0000;
    let (maperr, accerr) = (Signature::MAPERR, Signature::ACCERR);
    let expected = [
        (
            "unmapped read",
            (Cause::NotMapped, 14, 4, 11, maperr, 0x5000_0000),
        ),
        (
            "unmapped write",
            (Cause::NotMapped, 14, 6, 11, maperr, 0x5000_0000),
        ),
        (
            "unmapped exec",
            (Cause::NotMapped, 14, 0x14, 11, maperr, 0x5000_0000),
        ),
        ("untouched write", (Cause::ProtWrite, 14, 6, 11, accerr, at)),
        ("present write", (Cause::ProtWrite, 14, 7, 11, accerr, at)),
        (
            "hidden read",
            (Cause::ProtRead, 14, 4, 11, accerr, at + PAGE),
        ),
        (
            "guard read",
            (Cause::Guard, 14, 4, 11, maperr, at + 2 * PAGE + 5),
        ),
        (
            "guard write",
            (Cause::Guard, 14, 6, 11, maperr, at + 2 * PAGE),
        ),
        (
            "exec data",
            (Cause::ExecNx, 14, 0x15, 11, accerr, at + 3 * PAGE),
        ),
        (
            "kernel read",
            (
                Cause::UserSupervisor,
                14,
                5,
                11,
                maperr,
                0xffff_ffff_ff60_0000,
            ),
        ),
        ("not canonical", (Cause::NonCanonical, 13, 0, 11, 128, 0)),
        ("null", (Cause::NullDeref, 14, 4, 11, maperr, 8)),
        (
            "end of file",
            (Cause::BusEof, 14, 4, 7, Signature::ADRERR, 0),
        ),
    ];
    assert_eq!(every_fault(&mut m), expected);
    sound(&mut m);
}

#[test]
fn row_032_a_segmentation_fault_in_three_steps() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 1, R);
    touch(&mut m, 0x7000, Access::Read).expect("readable");
    // The MMU refuses: the entry is there and not writable.
    let (mmu, ram) = m.forge_hardware();
    let refused = mmu.reach(ram, VirtAddr::new(0x7000), Access::Write, Mode::User);
    assert!(refused.expect_err("it is read-only").present);
    // The kernel looks at the area and finds no right; the program gets the signal.
    assert_eq!(
        m.why(VirtAddr::new(0x7000), Access::Write, Mode::User),
        Some(Cause::ProtWrite)
    );
    let fault = fault_at(&mut m, 0x7000, 1, Access::Write);
    let s = fault.signature().expect("Linux knows it");
    assert_eq!((s.signal, s.code, s.error), (Signature::SEGV, 2, 7));
    assert_eq!(
        m.report().restarts,
        1,
        "only the legal load was begun again"
    );
    assert!(m.frame(id, 0x7000).is_some());
}

#[test]
fn row_033_a_fault_belongs_to_its_instruction() {
    let (mut m, _) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 2, RW);
    for n in 0..5 {
        touch(&mut m, 0x7000 + n, Access::Write).expect("mapped");
    }
    assert_eq!(fault_at(&mut m, 0x9000, 1, Access::Read).instruction, 5);
    touch(&mut m, 0x8000, Access::Write).expect("mapped");
    // One that crosses into nothing is one instruction too.
    assert_eq!(fault_at(&mut m, 0x8ffc, 8, Access::Read).instruction, 7);
}

#[test]
fn row_034_the_same_access_is_begun_again() {
    let (mut m, _) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 4, RW);
    for n in 0..4 {
        store(&mut m, 0x7000 + n * PAGE, n).expect("mapped");
    }
    // Across a border: two faults, one access.
    map(&mut m, 0x1_0000, 2, RW);
    store(&mut m, 0x1_0ffc, 7).expect("mapped");
    let report = m.report();
    assert_eq!(report.restarts, 6);
    assert_eq!(report.faults.minor + report.faults.major, 6);
    let _ = fault_at(&mut m, 0x5_0000, 1, Access::Read);
    assert_eq!(
        m.report().restarts,
        6,
        "what is not resolved is not begun again"
    );
    assert_eq!(load(&mut m, 0x1_0ffc), Ok(7));
}

#[test]
fn the_first_byte_that_cannot_be_accessed_is_reported() {
    let (mut m, _) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 1, RW);
    let fault = fault_at(&mut m, 0x7ffd, 8, Access::Read);
    assert_eq!(fault.addr, VirtAddr::new(0x8000));
    let fault = fault_at(&mut m, 0x6ffd, 8, Access::Read);
    assert_eq!(fault.addr, VirtAddr::new(0x6ffd));
}

#[test]
fn row_035_a_legal_but_absent_page_is_loaded() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    m.disk(3)[1] = 0x1234;
    let file = m.open(2, 2 * PAGE).expect("room");
    let at = m
        .mmap(0, 2 * PAGE, R, linux::MAP_PRIVATE, Some(file), 0)
        .expect("room");
    assert_eq!(m.frame(id, at + PAGE), None);
    assert_eq!(
        m.why(VirtAddr::new(at + PAGE), Access::Read, Mode::User),
        None
    );
    assert_eq!(load(&mut m, at + PAGE + 8), Ok(0x1234));
    let trace = *m.last_fault();
    assert_eq!(trace.resolution, Resolution::FileIn);
    assert_eq!(trace.frame, m.frame(id, at + PAGE));
    assert_eq!(
        (m.report().faults.major, m.report().faults.file_ins),
        (1, 1)
    );
    sound(&mut m);
}

#[test]
fn row_036_the_kernels_path_through_a_page_fault() {
    let (mut m, id) = one::<X86L4>(Size::full(16, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 64, RW);
    // Dirt in the frames, so that zeroes are the kernel's work.
    let free = m.memory().free();
    store(&mut m, 0x7000, u64::MAX).expect("mapped");
    let trace = *m.last_fault();
    assert_eq!((trace.tables, trace.resolution), (3, Resolution::ZeroFill));
    assert_eq!(m.memory().free(), free - 4, "3 nodes and 1 frame");
    assert_eq!(
        trace.area.map(|a| (a.start, a.end)),
        Some((0x7000, 0x47000))
    );
    type E = Entry<X86L4>;
    assert!(trace.entry.has(E::WRITABLE | E::USER | E::NO_EXECUTE));
    assert_eq!(trace.frame, m.frame(id, 0x7000));
    m.madvise(0x7000, PAGE, linux::MADV_DONTNEED)
        .expect("mapped");
    // The same frame again, made zero.
    touch(&mut m, 0x7000, Access::Write).expect("mapped");
    assert_eq!(m.last_fault().frame, trace.frame);
    assert_eq!((m.last_fault().tables, load(&mut m, 0x7000)), (0, Ok(0)));
    // The entry is dirty once the store was done.
    let entry = m.walk(VirtAddr::new(0x7000), |_| {}).expect("paging").entry;
    assert!(entry.has(E::DIRTY | E::ACCESSED));
    // Until the frames run out: no swap, so no memory.
    let mut page = 1;
    let fault = loop {
        match touch(&mut m, 0x7000 + page * PAGE, Access::Write) {
            Ok(()) => page += 1,
            Err(fault) => break fault,
        }
    };
    assert_eq!((fault.cause, fault.signature()), (Cause::OutOfMemory, None));
    assert_eq!(m.memory().free(), 0);
    sound(&mut m);
}

#[test]
fn row_036_no_half_built_state_without_memory() {
    // Whatever number of frames is left, a first touch far away takes all it needs, or none.
    for left in 0..6 {
        let (mut m, _) = one::<X86L4>(Size::full(32, 0), Options::DEFAULT);
        map(&mut m, 0x7000, 1, RW);
        map(&mut m, 0x1000_0000_0000, 1, RW);
        while m.memory().free() > left {
            let taken = m.memory_mut().take(fencepost::mmu::physical::Use::Kernel);
            assert!(taken.is_some());
        }
        let done = touch(&mut m, 0x1000_0000_0000, Access::Write);
        if left >= 4 {
            assert_eq!((done, m.memory().free()), (Ok(()), left - 4));
        } else {
            assert_eq!(done.map_err(|f| f.cause), Err(Cause::OutOfMemory));
            assert_eq!(m.memory().free(), left);
        }
        sound(&mut m);
    }
}

#[test]
fn row_042_the_32_bit_split_is_at_3_gib() {
    let (mut m, _) = one::<X86L2>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0xbfff_f000, 1, RW);
    assert_eq!(touch(&mut m, 0xbfff_ffff, Access::Write), Ok(()));
    let across = m.access(VirtAddr::new(0xbfff_fffc), 8, Access::Read, Mode::User);
    let fault = across.expect_err("it leaves the user's part");
    assert_eq!(fault.addr, VirtAddr::new(0xc000_0000));
    let fault = touch(&mut m, 0xc000_0000, Access::Read).expect_err("the kernel's");
    assert_eq!(fault.cause, Cause::UserSupervisor);
    let beyond = m.mmap(0xc000_0000, PAGE, RW, PRIVATE | FIXED, None, 0);
    assert_eq!(beyond, Err(Errno::ENOMEM));
    m.map_kernel_page(VirtAddr::new(0xc000_0000)).expect("room");
    let kernel = m.access(
        VirtAddr::new(0xc000_0000),
        4,
        Access::Write,
        Mode::Supervisor,
    );
    assert_eq!(kernel, Ok(()));
    sound(&mut m);
}

#[test]
fn row_043_128_tib_for_each_and_nothing_between() {
    let (mut m, _) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    // Linux keeps the last page of the lower half empty.
    let last = 0x7fff_ffff_e000;
    map(&mut m, last, 1, RW);
    assert_eq!(touch(&mut m, last + 4095, Access::Write), Ok(()));
    assert_eq!(X86L4::USER_END - 1, 0x7fff_ffff_ffff);
    let cause = |m: &mut M, at| fault_at(m, at, 1, Access::Read).cause;
    assert_eq!(cause(&mut m, 0x7fff_ffff_ffff), Cause::NotMapped);
    for at in [
        0x8000_0000_0000,
        0x1234_5678_9abc_def0,
        0xffff_7fff_ffff_ffff,
    ] {
        let s = fault_at(&mut m, at, 1, Access::Read).signature();
        let s = s.expect("Linux knows it");
        assert_eq!((s.trap, s.error, s.code, s.addr), (13, 0, 128, 0));
    }
    assert_eq!(cause(&mut m, 0xffff_8000_0000_0000), Cause::UserSupervisor);
    assert_eq!((1u64 << 47, X86L4::USER_END), (128 << 40, 128 << 40));
}

#[test]
fn copies_for_the_kernel_obey_area_rights() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 16), Options::DEFAULT);
    map(&mut m, 0x7000, 4, RW);
    store(&mut m, 0x7000, 5).expect("mapped");
    m.mprotect(0x8000, PAGE, W).expect("mapped");
    // The processor reads what it may write; the kernel does not.
    assert_eq!(load(&mut m, 0x8000), Ok(0));
    let mut bytes = [0; 16];
    assert_eq!(m.copy_in(id, 0x8000, &mut bytes), Err(Errno::EFAULT));
    assert_eq!(m.copy_out(id, 0x8000, &bytes), Ok(16));
    // Part of it, up to the page that cannot be had.
    let mut long = [0; 8192];
    assert_eq!(m.copy_in(id, 0x7000, &mut long), Ok(4096));
    assert_eq!(long[0], 5);
    m.madvise(0x9000, PAGE, linux::MADV_GUARD_INSTALL)
        .expect("mapped");
    assert_eq!(m.copy_out(id, 0x9000, &[1]), Err(Errno::EFAULT));
    assert_eq!(m.copy_in(id, 0x5000_0000, &mut bytes), Err(Errno::EFAULT));
    assert_eq!(m.copy_in(id, 0x5000_0000, &mut []), Ok(0));
    // A page that was thrown out comes back for it.
    assert!(m.page_out(id, 0x7000));
    assert_eq!(m.copy_in(id, 0x7000, &mut bytes), Ok(16));
    assert_eq!(bytes[0], 5);
    sound(&mut m);
}

#[test]
fn stacks_grow_when_touched() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    let top = 0x7fff_0000_0000u64;
    let flags = PRIVATE | FIXED | linux::MAP_GROWSDOWN;
    m.mmap(top - 4 * PAGE, 4 * PAGE, RW, flags, None, 0)
        .expect("room");
    assert_eq!(touch(&mut m, top - 10 * PAGE, Access::Write), Ok(()));
    assert_eq!(m.virtual_bytes(id), 10 * PAGE);
    assert_eq!(touch(&mut m, top - 2048 * PAGE, Access::Write), Ok(()));
    let fault = fault_at(&mut m, top - 2049 * PAGE, 1, Access::Write);
    assert_eq!(fault.cause, Cause::StackLimit);
    let s = fault.signature().expect("Linux knows it");
    assert_eq!((s.error, s.code), (6, Signature::MAPERR));
    sound(&mut m);
}

#[test]
fn without_a_no_execute_bit_a_fetch_is_a_load() {
    let (mut m, _) = one::<X86L2>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x7000, 2, RW);
    assert_eq!(touch(&mut m, 0x7000, Access::Exec), Ok(()));
    m.mprotect(0x8000, PAGE, 0).expect("mapped");
    let fault = touch(&mut m, 0x8000, Access::Exec).expect_err("no rights at all");
    assert_eq!(fault.cause, Cause::ProtRead);
}

#[test]
fn lazily_freed_pages_go_without_swap() {
    let options = Options {
        replacement: Kind::Fifo,
        ..Options::DEFAULT
    };
    let (mut m, id) = one::<X86L4>(Size::full(12, 0), options);
    map(&mut m, 0x7000, 16, RW);
    for page in 0..4 {
        store(&mut m, 0x7000 + page * PAGE, page + 1).expect("room");
    }
    m.madvise(0x7000, 4 * PAGE, linux::MADV_FREE)
        .expect("mapped");
    // Until there is pressure the contents are there; a store keeps them.
    assert_eq!((load(&mut m, 0x7000), load(&mut m, 0x8000)), (Ok(1), Ok(2)));
    store(&mut m, 0x9000, 30).expect("mapped");
    for page in 4..11 {
        let done = touch(&mut m, 0x7000 + page * PAGE, Access::Write);
        if done.is_err() {
            break;
        }
    }
    let resident: Vec<bool> = (0..4)
        .map(|p| m.is_resident(id, 0x7000 + p * PAGE))
        .collect();
    assert_eq!(resident, [false, false, true, false]);
    assert_eq!(m.report().swap_outs, 0);
    assert_eq!(load(&mut m, 0x9000), Ok(30));
    sound(&mut m);
}
