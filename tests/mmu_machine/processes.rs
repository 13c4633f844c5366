//! Rows 44, 45, 52 to 54, 57, 58, 69 and 113: several address spaces on one memory.

use crate::support::*;
use fencepost::mmu::addr::{Access, FrameNumber, Mode, PhysAddr, VirtAddr};
use fencepost::mmu::area::linux;
use fencepost::mmu::fault::Cause;
use fencepost::mmu::geometry::{X86L2, X86L4};
use fencepost::mmu::machine::{LINEAR_BYTES, LINEAR_START, Machine, Options, Resolution};
use fencepost::mmu::physical::Use;

type M = Machine<'static, X86L4>;

fn small() -> (M, fencepost::mmu::machine::SpaceId) {
    one(Size::full(256, 64), Options::DEFAULT)
}

fn run(m: &mut M, id: fencepost::mmu::machine::SpaceId) {
    m.switch_to(id).expect("it exists");
}

#[test]
fn row_044_the_32_bit_kernel_maps_896_mib_linearly() {
    // 1 GiB of memory, of which words are there for page tables only.
    let (mut m, _) = one::<X86L2>(Size::bare(262_144 - 64, 64, 0), Options::DEFAULT);
    m.map_linear(VirtAddr::new(LINEAR_START), LINEAR_BYTES)
        .expect("room");
    let to = |m: &mut Machine<'_, X86L2>, at| m.translate(VirtAddr::new(at), Mode::Supervisor);
    assert_eq!(to(&mut m, 0xc010_0000), Some(PhysAddr::new(0x0010_0000)));
    assert_eq!(to(&mut m, 0xf7ff_ffff), Some(PhysAddr::new(0x37ff_ffff)));
    assert_eq!(to(&mut m, 0xf800_0000), None);
    assert_eq!(LINEAR_START + LINEAR_BYTES, 0xf800_0000);
    let high = (1u64 << 32) - 0xf800_0000;
    assert_eq!((LINEAR_BYTES + high) >> 20, 1024);
    assert_eq!(high >> 20, 128);
    // 4 MiB pages: the root alone.
    assert_eq!(m.kernel_tables().map(|t| t.nodes()), Some(0));
    // High memory is mapped when it is needed.
    let frame = FrameNumber::new(250_000);
    let window = VirtAddr::new(0xff80_0000);
    m.map_kernel(window, frame, fencepost::mmu::addr::Rights::READ_WRITE)
        .expect("room");
    assert_eq!(
        to(&mut m, window.raw() + 5),
        Some(PhysAddr::new(frame.start().raw() + 5))
    );
    assert_eq!(m.unmap_kernel(window), Some(frame));
    assert_eq!(to(&mut m, window.raw()), None);
    assert_eq!(m.translate(VirtAddr::new(0xc010_0000), Mode::User), None);
    sound(&mut m);
}

#[test]
fn row_045_all_processes_share_the_kernels_part() {
    let (mut m, a) = small();
    let kernel = VirtAddr::new(0xffff_8880_0000_0000);
    let before = m.map_kernel_page(kernel).expect("room");
    map(&mut m, 0x7000, 1, RW);
    store(&mut m, 0x7000, 1).expect("mapped");
    let b = spawn(&mut m);
    map(&mut m, 0x7000, 1, RW);
    store(&mut m, 0x7000, 2).expect("mapped");
    // Mapped while both live, in another entry of the root.
    let late = VirtAddr::new(0xffff_ffff_8000_0000);
    let after = m.map_kernel_page(late).expect("room");
    for id in [a, b] {
        run(&mut m, id);
        let frame = |m: &mut M, at| m.translate(at, Mode::Supervisor).and_then(PhysAddr::frame);
        assert_eq!(frame(&mut m, kernel), Some(before));
        assert_eq!(frame(&mut m, late), Some(after));
    }
    assert_ne!(m.frame(a, 0x7000), m.frame(b, 0x7000));
    assert_ne!(m.tables(a).map(|t| t.root()), m.tables(b).map(|t| t.root()));
    sound(&mut m);
    m.exit(a);
    assert_eq!(
        m.translate(kernel, Mode::Supervisor)
            .and_then(PhysAddr::frame),
        Some(before)
    );
    sound(&mut m);
}

#[test]
fn row_052_one_address_is_another_frame_in_each_process() {
    let (mut m, a) = small();
    // Everything but frames 3 and 4 is taken, once the tables are there.
    map(&mut m, 0x1000, 1, RW);
    touch(&mut m, 0x1000, Access::Write).expect("mapped");
    let b = spawn(&mut m);
    map(&mut m, 0x1000, 1, RW);
    touch(&mut m, 0x1000, Access::Write).expect("mapped");
    let give = |m: &mut M, id, frame: u32| {
        run(m, id);
        m.madvise(0x1000, PAGE, linux::MADV_DONTNEED)
            .expect("mapped");
        let wanted = FrameNumber::new(frame);
        let mut taken = Vec::new();
        while let Some(frame) = m.memory_mut().take(Use::Kernel) {
            taken.push(frame);
        }
        assert!(taken.contains(&wanted), "{frame} is free");
        m.memory_mut().give(wanted);
        touch(m, 0x1000, Access::Write).expect("one is free");
        taken.retain(|frame| *frame != wanted);
        taken.into_iter().for_each(|f| m.memory_mut().give(f));
    };
    let free: Vec<u32> = {
        let mut all = Vec::new();
        while let Some(frame) = m.memory_mut().take(Use::Kernel) {
            all.push(frame);
        }
        all.iter().for_each(|f| m.memory_mut().give(*f));
        all.iter().map(|f| f.raw()).collect()
    };
    let (first, second) = (free[3], free[4]);
    give(&mut m, a, first);
    give(&mut m, b, second);
    // Page 1 of both, on two frames that are neighbours as in the notes.
    assert_eq!(m.frame(a, 0x1000), Some(FrameNumber::new(first)));
    assert_eq!(m.frame(b, 0x1000), Some(FrameNumber::new(second)));
    store(&mut m, 0x1000, 66).expect("mapped");
    run(&mut m, a);
    assert_eq!(load(&mut m, 0x1000), Ok(0));
    sound(&mut m);
}

#[test]
fn row_053_a_wild_write_cannot_touch_another_process() {
    let (mut m, a) = small();
    map(&mut m, 0x10_0000, 16, RW);
    let b = spawn(&mut m);
    map(&mut m, 0x10_0000, 16, RW);
    for page in 0..16 {
        store(&mut m, 0x10_0000 + page * PAGE, page * 3).expect("mapped");
    }
    let image = |m: &M| -> Vec<Vec<u64>> {
        (0..16)
            .map(|p| m.frame(b, 0x10_0000 + p * PAGE).expect("present"))
            .map(|frame| m.memory().words(frame).to_vec())
            .collect()
    };
    let before = image(&m);
    run(&mut m, a);
    let mut random = Random(53);
    let mut hits = 0;
    for _ in 0..20_000 {
        let wild = match random.below(3) {
            0 => random.next(),
            1 => random.below(1 << 47),
            _ => 0x10_0000 + random.below(20 * PAGE),
        };
        hits += usize::from(store(&mut m, wild, u64::MAX).is_ok());
    }
    assert!(hits > 1000, "{hits} writes reached something");
    assert_eq!(image(&m), before);
    sound(&mut m);
}

#[test]
fn row_054_scattered_frames_make_contiguous_addresses() {
    let (mut m, id) = small();
    map(&mut m, 0x10_0000, 64, RW);
    map(&mut m, 0x7000, 1, RW);
    touch(&mut m, 0x10_0000 + 63 * PAGE, Access::Write).expect("mapped");
    m.madvise(0x10_0000, 64 * PAGE, linux::MADV_DONTNEED)
        .expect("mapped");
    // Every second frame is free.
    let mut taken = Vec::new();
    while let Some(frame) = m.memory_mut().take(Use::Kernel) {
        taken.push(frame);
    }
    for frame in taken.iter().filter(|f| f.raw() % 2 == 0) {
        m.memory_mut().give(*frame);
    }
    assert_eq!(m.memory().longest_free_run(), 1);
    for page in 0..64 {
        store(&mut m, 0x10_0000 + page * PAGE + 4088, page).expect("a frame");
    }
    let frames: Vec<u32> = (0..64)
        .map(|p| m.frame(id, 0x10_0000 + p * PAGE).expect("present").raw())
        .collect();
    assert!(frames.windows(2).all(|two| two[0].abs_diff(two[1]) > 1));
    for page in 0..64 {
        assert_eq!(load(&mut m, 0x10_0000 + page * PAGE + 4088), Ok(page));
    }
}

#[test]
fn row_057_fork_copies_the_address_space() {
    let (mut m, parent) = small();
    let kernel = VirtAddr::new(0xffff_8880_0000_0000);
    m.map_kernel_page(kernel).expect("room");
    let at = 0x10_0000;
    map(&mut m, at, 16, RW);
    for page in 0..8 {
        store(&mut m, at + page * PAGE, page + 1).expect("mapped");
    }
    m.madvise(at + PAGE, PAGE, linux::MADV_WIPEONFORK)
        .expect("mapped");
    m.madvise(at + 2 * PAGE, PAGE, linux::MADV_DONTFORK)
        .expect("mapped");
    m.madvise(at + 3 * PAGE, PAGE, linux::MADV_GUARD_INSTALL)
        .expect("mapped");
    assert!(m.page_out(parent, at + 4 * PAGE));
    let shared = m.mmap(0, PAGE, RW, SHARED, None, 0).expect("room");
    store(&mut m, shared, 70).expect("mapped");
    let child = m.fork(parent).expect("room");
    sound(&mut m);
    assert_ne!(
        m.tables(child).map(|t| t.root()),
        m.tables(parent).map(|t| t.root())
    );
    let areas = |m: &M, id| -> Vec<_> { m.space(id).expect("it lives").areas(m.pool()).collect() };
    let kept: Vec<_> = areas(&m, parent)
        .into_iter()
        .filter(|a| !a.traits.has(fencepost::mmu::area::Traits::DONT_FORK))
        .collect();
    assert_eq!(areas(&m, child), kept);
    run(&mut m, child);
    assert_eq!(m.frame(child, at), m.frame(parent, at));
    assert_eq!(load(&mut m, at), Ok(1));
    assert_eq!(load(&mut m, at + PAGE), Ok(0), "wiped");
    let cause = |r: Result<u64, fencepost::mmu::fault::Fault>| r.map_err(|f| f.cause);
    assert_eq!(cause(load(&mut m, at + 2 * PAGE)), Err(Cause::NotMapped));
    assert_eq!(cause(load(&mut m, at + 3 * PAGE)), Err(Cause::Guard));
    assert_eq!(load(&mut m, at + 4 * PAGE), Ok(5), "from the swap device");
    // Shared memory is not copied but found again.
    assert_eq!(m.frame(child, shared), None);
    store(&mut m, shared + 8, 71).expect("mapped");
    assert_eq!(m.frame(child, shared), m.frame(parent, shared));
    assert!(m.translate(kernel, Mode::Supervisor).is_some());
    run(&mut m, parent);
    assert_eq!(load(&mut m, at + PAGE), Ok(2));
    assert_eq!(load(&mut m, at + 4 * PAGE), Ok(5));
    assert_eq!(load(&mut m, shared + 8), Ok(71));
    sound(&mut m);
    m.exit(child);
    sound(&mut m);
    m.exit(parent);
    sound(&mut m);
    // The kernel's root, its tables and its page are all that is left.
    assert_eq!(
        m.report().frames_used,
        5 + usize::from(m.report().faults.minor > 0)
    );
}

#[test]
fn row_058_copy_on_write() {
    let (mut m, parent) = small();
    let at = 0x10_0000;
    map(&mut m, at, 4, RW);
    for page in 0..4 {
        store(&mut m, at + page * PAGE, page + 1).expect("mapped");
    }
    assert_eq!(m.proportional_bytes(parent), 16 << 10);
    let child = m.fork(parent).expect("room");
    type E = fencepost::mmu::entry::Entry<X86L4>;
    for id in [parent, child] {
        run(&mut m, id);
        for page in 0..4 {
            let entry = m.walk(VirtAddr::new(at + page * PAGE), |_| {});
            let entry = entry.expect("paging is on").entry;
            assert!(entry.is_present() && !entry.has(E::WRITABLE));
        }
        assert_eq!(m.proportional_bytes(id), 8 << 10);
    }
    let old = m.frame(parent, at);
    run(&mut m, child);
    store(&mut m, at, 100).expect("mapped");
    assert_eq!(m.last_fault().resolution, Resolution::Copied);
    assert_eq!(m.frame(parent, at), old);
    assert_ne!(m.frame(child, at), old);
    // 4 + 3 x 2 of 16 kB, as measured.
    assert_eq!(m.proportional_bytes(child), 10 << 10);
    assert_eq!(m.proportional_bytes(parent), 10 << 10);
    run(&mut m, parent);
    assert_eq!(load(&mut m, at), Ok(1));
    // Nobody else has page 0: it is written to as it is.
    let copied = m.report().faults.copied;
    store(&mut m, at, 2).expect("mapped");
    assert_eq!(m.last_fault().resolution, Resolution::Reused);
    assert_eq!(
        (m.frame(parent, at), m.report().faults.copied),
        (old, copied)
    );
    sound(&mut m);
    m.exit(child);
    assert_eq!(m.proportional_bytes(parent), 16 << 10);
    sound(&mut m);
}

#[test]
fn a_fork_without_memory_leaves_nothing() {
    for spare in 0..12 {
        let (mut m, parent) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
        for far in 0..3 {
            map(&mut m, 0x1000_0000_0000 + (far << 39), 2, RW);
            store(&mut m, 0x1000_0000_0000 + (far << 39), far).expect("mapped");
        }
        while m.memory().free() > spare {
            m.memory_mut().take(Use::Kernel).expect("one is free");
        }
        let child = m.fork(parent);
        sound(&mut m);
        match child {
            // A root and three times three tables.
            Ok(child) => {
                assert!(spare >= 10);
                m.exit(child);
            }
            Err(_) => assert!(spare < 10 && m.memory().free() == spare),
        }
        for far in 0..3 {
            store(&mut m, 0x1000_0000_0000 + (far << 39), far + 9).expect("still its own");
        }
        sound(&mut m);
    }
}

#[test]
fn row_069_a_library_is_in_memory_once() {
    let (mut m, a) = small();
    for block in 0..13 {
        m.disk(64 + block)[0] = u64::from(block) + 1;
    }
    let library = m.open(64, 13 * PAGE).expect("room");
    let private = linux::MAP_PRIVATE;
    let load_at = |m: &mut M, at: u64| {
        let fixed = private | FIXED;
        m.mmap(at, 11 * PAGE, R | X, fixed, Some(library), 0)
            .expect("room");
        m.mmap(at + 11 * PAGE, PAGE, R, fixed, Some(library), 11 * PAGE)
            .expect("room");
        m.mmap(at + 12 * PAGE, PAGE, RW, fixed, Some(library), 12 * PAGE)
            .expect("room");
        for page in 0..12 {
            touch(m, at + page * PAGE, Access::Read).expect("mapped");
        }
        store(m, at + 12 * PAGE + 8, at).expect("mapped");
        assert_eq!(load(m, at + 12 * PAGE), Ok(13));
    };
    let (here, there) = (0x1000_0000, 0x2000_0000);
    load_at(&mut m, here);
    let b = spawn(&mut m);
    load_at(&mut m, there);
    let frames = |m: &M, id, at: u64| -> Vec<_> {
        (0..13)
            .map(|p| m.frame(id, at + p * PAGE).expect("present"))
            .collect()
    };
    let (ours, theirs) = (frames(&m, a, here), frames(&m, b, there));
    assert_eq!(
        ours[..12],
        theirs[..12],
        "the addresses differ, the frames do not"
    );
    let mut all = [ours, theirs].concat();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 14, "not 26");
    assert_eq!(m.sizes(a).anonymous, 1);
    assert_eq!(m.sizes(a).file, 12);
    sound(&mut m);
}

#[test]
fn row_113_a_mapped_file_is_loaded_when_touched_and_written_to() {
    let (mut m, id) = small();
    m.disk(64)[0] = 11;
    m.disk(65)[0] = 12;
    let file = m.open(64, 2 * PAGE).expect("room");
    let map_file = |m: &mut M, flags| {
        let at = m.mmap(0, 2 * PAGE, RW, flags, Some(file), 0);
        at.expect("room")
    };
    let first = map_file(&mut m, linux::MAP_SHARED);
    let second = map_file(&mut m, linux::MAP_SHARED);
    let private = map_file(&mut m, linux::MAP_PRIVATE);
    assert_eq!(m.report().faults.file_ins, 0);
    assert_eq!(load(&mut m, first), Ok(11));
    assert_eq!(m.report().faults.file_ins, 1);
    // One store is seen through the other mapping, the private one until it stores itself.
    store(&mut m, first, 21).expect("mapped");
    assert_eq!(
        (load(&mut m, second), load(&mut m, private)),
        (Ok(21), Ok(21))
    );
    store(&mut m, private, 31).expect("mapped");
    store(&mut m, second, 22).expect("mapped");
    assert_eq!(
        (load(&mut m, first), load(&mut m, private)),
        (Ok(22), Ok(31))
    );
    assert_eq!(m.report().faults.file_ins, 1);
    // The file has it once it was written back.
    assert_eq!(m.disk(64)[0], 11);
    m.sync(file);
    assert_eq!((m.disk(64)[0], m.disk(65)[0]), (22, 12));
    // Also when the page is thrown out, or the last mapping goes.
    store(&mut m, first + 8, 5).expect("mapped");
    let frame = m.frame(id, first).expect("present");
    assert!(m.page_out(id, first));
    assert_eq!((m.disk(64)[1], m.frame(id, second)), (5, None));
    assert_eq!(m.memory().record(frame).usage, Use::Free);
    assert_eq!(load(&mut m, second + 8), Ok(5));
    store(&mut m, second + PAGE, 77).expect("mapped");
    m.close(file);
    m.munmap(first, 2 * PAGE).expect("mapped");
    m.munmap(second, 2 * PAGE).expect("mapped");
    assert_eq!(m.disk(65)[0], 12);
    m.munmap(private, 2 * PAGE).expect("mapped");
    assert_eq!(m.disk(65)[0], 77);
    assert_eq!(m.objects().all().count(), 0);
    sound(&mut m);
}

#[test]
fn what_lies_behind_the_end_of_a_file_reads_as_zero() {
    let (mut m, _) = small();
    m.disk(64).fill(u64::MAX);
    let file = m.open(64, 100).expect("room");
    let at = m
        .mmap(0, PAGE, R, linux::MAP_PRIVATE, Some(file), 0)
        .expect("room");
    let mut bytes = [1; 200];
    m.read(VirtAddr::new(at), &mut bytes, Mode::User)
        .expect("mapped");
    assert!(bytes[..100].iter().all(|b| *b == 0xff));
    assert!(bytes[100..].iter().all(|b| *b == 0));
}

#[test]
fn shared_memory_ends_at_its_length() {
    let (mut m, id) = small();
    let at = m.mmap(0, 2 * PAGE, RW, SHARED, None, 0).expect("room");
    store(&mut m, at, 1).expect("mapped");
    // Grown mappings do not make the object longer.
    let moved = m
        .mremap(at, 2 * PAGE, 4 * PAGE, linux::MREMAP_MAYMOVE, 0)
        .expect("room");
    assert_eq!(load(&mut m, moved), Ok(1));
    let fault = touch(&mut m, moved + 2 * PAGE, Access::Write).expect_err("behind the end");
    assert_eq!(fault.cause, Cause::BusEof);
    // Thrown out, shared memory goes to swap, and both mappings find it again.
    let child = m.fork(id).expect("room");
    assert!(m.page_out(id, moved));
    assert_eq!(m.swap().used(), 1);
    run(&mut m, child);
    assert_eq!(load(&mut m, moved), Ok(1));
    store(&mut m, moved, 9).expect("mapped");
    run(&mut m, id);
    assert_eq!(load(&mut m, moved), Ok(9));
    assert_eq!(m.swap().used(), 0);
    // A hole in the object is one for everybody.
    m.madvise(moved, PAGE, linux::MADV_REMOVE).expect("mapped");
    assert_eq!(load(&mut m, moved), Ok(0));
    run(&mut m, child);
    assert_eq!(load(&mut m, moved), Ok(0));
    sound(&mut m);
}
