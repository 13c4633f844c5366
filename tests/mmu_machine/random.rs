//! Random operations of several processes on little memory, against a map of bytes.
//!
//! The map knows nothing of pages: what a process wrote is what it reads, whatever was thrown
//! out, shared, copied or moved in between. The checker runs along.

use crate::support::*;
use fencepost::mmu::addr::{Access, VirtAddr};
use fencepost::mmu::area::{Errno, linux};
use fencepost::mmu::geometry::{Flat, Geometry, Pae, X86L2, X86L4, X86L5};
use fencepost::mmu::machine::{Machine, Options, SpaceId};
use fencepost::mmu::replace::Kind;
use std::collections::BTreeMap;

/// Pages of the window in which everything happens.
const PAGES: u64 = 48;

/// What a page should be, as far as a program can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    value: u64,
    rights: u32,
    guard: bool,
    wiped: bool,
}

type Expected = BTreeMap<u64, Page>;

struct World<G: Geometry> {
    m: Machine<'static, G>,
    processes: Vec<(SpaceId, Expected)>,
    now: usize,
    base: u64,
    out_of_memory: u64,
    done: u64,
    forks: u64,
}

impl<G: Geometry> World<G> {
    fn new(base: u64, frames: usize, slots: usize, options: Options) -> World<G> {
        let (m, id) = one::<G>(Size::full(frames, slots), options);
        World {
            m,
            processes: vec![(id, Expected::new())],
            now: 0,
            base,
            out_of_memory: 0,
            done: 0,
            forks: 0,
        }
    }

    fn expected(&mut self) -> &mut Expected {
        &mut self.processes[self.now].1
    }

    /// `Ok` or `ENOMEM`, which says that memory ran out; then the page states are as they were.
    fn worked(&mut self, result: Result<(), Errno>) -> bool {
        match result {
            Ok(()) => self.done += 1,
            Err(Errno::ENOMEM) => self.out_of_memory += 1,
            Err(other) => panic!("{other:?}"),
        }
        result.is_ok()
    }

    fn step(&mut self, random: &mut Random) {
        let first = random.below(PAGES);
        let pages = 1 + random.below(6.min(PAGES - first));
        let (at, len) = (self.base + first * PAGE, pages * PAGE);
        let range = first..first + pages;
        let all_mapped = range.clone().all(|p| self.expected().contains_key(&p));
        match random.below(100) {
            0..=9 => {
                let prot = [RW, RW, R, 0][random.below(4) as usize];
                let got = self.m.mmap(at, len, prot, PRIVATE | FIXED, None, 0);
                if self.worked(got.map(|_| ())) {
                    for page in range {
                        let fresh = Page {
                            value: 0,
                            rights: prot,
                            guard: false,
                            wiped: false,
                        };
                        self.expected().insert(page, fresh);
                    }
                }
            }
            10..=15 => {
                let done = self.m.munmap(at, len);
                if self.worked(done) {
                    self.expected().retain(|page, _| !range.contains(page));
                }
            }
            16..=25 if all_mapped => {
                let prot = [RW, R, 0, W, R | X][random.below(5) as usize];
                let done = self.m.mprotect(at, len, prot);
                if self.worked(done) {
                    for page in range {
                        self.page(page).rights = prot;
                    }
                }
            }
            26..=31 if all_mapped => {
                let done = self.m.madvise(at, len, linux::MADV_DONTNEED);
                if self.worked(done) {
                    range.for_each(|page| self.page(page).value = 0);
                }
            }
            32..=37 if all_mapped => {
                let install = random.below(2) == 0;
                let advice = if install {
                    linux::MADV_GUARD_INSTALL
                } else {
                    linux::MADV_GUARD_REMOVE
                };
                let done = self.m.madvise(at, len, advice);
                if !self.worked(done) && install {
                    // Some became guards, all lost their contents: look which.
                    let id = self.processes[self.now].0;
                    for page in range {
                        let guard = self.m.is_guard(id, self.base + page * PAGE);
                        self.page(page).guard = guard;
                        self.page(page).value = 0;
                    }
                    return;
                }
                for page in range {
                    let page = self.page(page);
                    page.guard = install;
                    page.value = if install { 0 } else { page.value };
                }
            }
            38..=40 if all_mapped => {
                let done = self.m.madvise(at, len, linux::MADV_WIPEONFORK);
                if self.worked(done) {
                    range.for_each(|page| self.page(page).wiped = true);
                }
            }
            41..=45 if all_mapped => self.relocate(random, first, pages),
            46..=47 => self.fork_or_exit(),
            48..=55 => {
                self.now = random.below(self.processes.len() as u64) as usize;
                let id = self.processes[self.now].0;
                self.m.switch_to(id).expect("it lives");
            }
            56..=60 => {
                let id = self.processes[self.now].0;
                self.m.page_out(id, at);
            }
            61..=80 => self.write(first, random.next()),
            _ => self.read(first),
        }
    }

    fn page(&mut self, page: u64) -> &mut Page {
        self.expected().get_mut(&page).expect("it is mapped")
    }

    /// Moves pages of one kind of area; the kernel refuses others, which are left out here.
    fn relocate(&mut self, random: &mut Random, first: u64, pages: u64) {
        let to = random.below(PAGES - pages);
        if to < first + pages && first < to + pages {
            return;
        }
        let (old, new) = (self.base + first * PAGE, self.base + to * PAGE);
        let flags = linux::MREMAP_MAYMOVE | linux::MREMAP_FIXED;
        let len = pages * PAGE;
        let got = self.m.mremap(old, len, len, flags, new);
        if got == Err(Errno::EFAULT) {
            return;
        }
        if self.worked(got.map(|_| ())) {
            for page in 0..pages {
                let moved = self.expected().remove(&(first + page));
                self.expected()
                    .insert(to + page, moved.expect("it was mapped"));
            }
        }
    }

    fn fork_or_exit(&mut self) {
        if self.processes.len() == 4 {
            let (id, _) = self.processes.swap_remove(self.now);
            self.m.exit(id);
            self.now = 0;
            let id = self.processes[0].0;
            self.m.switch_to(id).expect("it lives");
            return;
        }
        let (id, mut expected) = self.processes[self.now].clone();
        let child = self.m.fork(id);
        if let Ok(child) = child {
            self.forks += 1;
            for page in expected.values_mut().filter(|page| page.wiped) {
                page.value = 0;
                page.guard = false;
            }
            self.processes.push((child, expected));
        }
        self.worked(child.map(|_| ()));
    }

    fn write(&mut self, page: u64, value: u64) {
        let expected = self.expected().get(&page).copied();
        let legal = expected.is_some_and(|p| p.rights & W != 0 && !p.guard);
        let at = self.base + page * PAGE + 1000;
        match store(&mut self.m, at, value) {
            Ok(()) => {
                assert!(legal, "{page}: {expected:?}");
                self.page(page).value = value;
                self.done += 1;
            }
            Err(fault) if fault.signature().is_none() => self.out_of_memory += 1,
            Err(fault) => assert!(!legal, "{page}: {expected:?} {fault:?}"),
        }
    }

    fn read(&mut self, page: u64) {
        let expected = self.expected().get(&page).copied();
        let at = self.base + page * PAGE + 1000;
        match load(&mut self.m, at) {
            Ok(value) => {
                let expected = expected.expect("it is mapped");
                assert!(expected.rights != 0 && !expected.guard);
                assert_eq!(value, expected.value, "page {page}");
                self.done += 1;
            }
            Err(fault) if fault.signature().is_none() => self.out_of_memory += 1,
            Err(fault) => {
                let legal = expected.is_some_and(|p| p.rights != 0 && !p.guard);
                assert!(!legal, "{page}: {expected:?} {fault:?}");
            }
        }
    }
}

/// Whether memory ever ran out, and how many forks there were.
fn run<G: Geometry>(seed: u64, base: u64, frames: usize, slots: usize, kind: Kind) -> (u64, u64) {
    let options = Options {
        replacement: kind,
        tagged: seed.is_multiple_of(2),
        ..Options::DEFAULT
    };
    let mut world = World::<G>::new(base, frames, slots, options);
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    // A flat table has a million places to look at.
    let (steps, every) = if G::LEVELS == 1 {
        (800, 400)
    } else {
        (4000, 16)
    };
    for step in 0..steps {
        world.step(&mut random);
        if step % every == 0 {
            assert_eq!(world.m.check(), Ok(()), "seed {seed}, step {step}");
        }
    }
    assert!(
        world.done > steps * 3 / 8,
        "seed {seed}: {} did something",
        world.done
    );
    while let Some((id, _)) = world.processes.pop() {
        world.m.exit(id);
    }
    assert_eq!(world.m.check(), Ok(()));
    // The page of zeros may be left.
    assert!(world.m.report().frames_used <= 1);
    assert_eq!(world.m.swap().used(), 0);
    (world.out_of_memory, world.forks)
}

const KINDS: [Kind; 4] = [Kind::Fifo, Kind::Lru, Kind::Clock, Kind::Random(3)];

#[test]
fn programs_read_what_they_wrote_with_plenty_of_memory() {
    for seed in 0..6 {
        let kind = KINDS[seed as usize % 4];
        let (short, forks) = run::<X86L4>(seed, 0x1000_0000_0000, 400, 64, kind);
        assert_eq!(short, 0);
        assert!(forks > 10);
    }
}

#[test]
fn programs_read_what_they_wrote_with_little_memory() {
    for seed in 0..12 {
        let kind = KINDS[seed as usize % 4];
        // The tables of four processes alone are 16 frames; 200 slots hold all pages.
        let (short, forks) = run::<X86L4>(seed, 0x1000_001f_0000, 40, 200, kind);
        assert_eq!(short, 0, "swap has room for everything");
        assert!(forks > 10);
    }
}

#[test]
fn programs_read_what_they_wrote_when_memory_runs_out() {
    let mut short = 0;
    for seed in 0..12 {
        let kind = KINDS[seed as usize % 4];
        short += run::<X86L4>(seed, 0x1000_001f_0000, 24, 12, kind).0;
    }
    assert!(short > 100, "memory ran out {short} times only");
}

#[test]
fn programs_read_what_they_wrote_in_every_geometry() {
    run::<X86L5>(1, 0x1000_001f_0000, 40, 200, Kind::Clock);
    run::<X86L2>(2, 0x103f_0000, 30, 200, Kind::Lru);
    run::<Pae>(3, 0x103f_0000, 30, 200, Kind::Fifo);
    run::<Flat>(4, 0x103f_0000, 4 * 1024 + 20, 200, Kind::Clock);
}

#[test]
fn an_access_of_any_length_touches_each_of_its_pages() {
    let (mut m, id) = one::<X86L4>(Size::full(64, 0), Options::DEFAULT);
    map(&mut m, 0x10_0000, 10, RW);
    let at = VirtAddr::new(0x10_0fff);
    let done = m.access(
        at,
        2 + 3 * PAGE,
        Access::Write,
        fencepost::mmu::addr::Mode::User,
    );
    assert_eq!(done, Ok(()));
    assert_eq!(m.sizes(id).resident(), 5);
    // None at all, and more than there is.
    let mut access = |at, len| {
        let user = fencepost::mmu::addr::Mode::User;
        m.access(VirtAddr::new(at), len, Access::Write, user)
    };
    assert_eq!(access(0x5000_0000, 0), Ok(()));
    let fault = access(0x10_0001, u64::MAX).expect_err("it ends");
    assert_eq!(fault.addr, VirtAddr::new(0x10_0000 + 10 * PAGE));
}
