//! Random operations: mostly sensible, sometimes not, now and then nonsense.

use super::naive::{From, Naive};
use super::{EDGE, FILES, Op, TASK_END};
use fencepost::mmu::addr::{Access, PAGE, Rights};
use fencepost::mmu::area::Traits;
use fencepost::mmu::area::linux::*;

/// splitmix64.
#[derive(Debug, Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }

    pub fn percent(&mut self, n: u64) -> bool {
        self.below(100) < n
    }

    /// One of several, by weight.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> T {
        let sum = choices.iter().map(|&(weight, _)| weight).sum();
        let mut roll = self.below(sum);
        for &(weight, choice) in choices {
            if roll < weight {
                return choice;
            }
            roll -= weight;
        }
        unreachable!()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Mmap,
    Munmap,
    Mprotect,
    Madvise,
    Mremap,
    Read,
    Write,
    Touch,
    Nonsense,
}

const RW: u32 = PROT_READ | PROT_WRITE;
const RX: u32 = PROT_READ | PROT_EXEC;
const RWX: u32 = RW | PROT_EXEC;
const PROTS: &[(u64, u32)] = &[
    (48, RW),
    (18, PROT_READ),
    (10, 0),
    (8, RX),
    (6, PROT_WRITE),
    (6, RWX),
    (4, PROT_EXEC),
];

/// Makes operations for the state that a naive model is in.
pub struct Generator {
    pub rng: Rng,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator { rng: Rng(seed) }
    }

    /// The next one.
    pub fn op(&mut self, naive: &Naive) -> Op {
        let kind = self.rng.weighted(&[
            (15, Kind::Mmap),
            (9, Kind::Munmap),
            (14, Kind::Mprotect),
            (19, Kind::Madvise),
            (11, Kind::Mremap),
            (8, Kind::Read),
            (12, Kind::Write),
            (9, Kind::Touch),
            (3, Kind::Nonsense),
        ]);
        match kind {
            Kind::Mmap => self.mmap(naive),
            Kind::Munmap => {
                let (addr, len) = self.range(naive, 70);
                Op::Munmap { addr, len }
            }
            Kind::Mprotect => self.mprotect(naive),
            Kind::Madvise => self.madvise(naive),
            Kind::Mremap => self.mremap(naive),
            Kind::Read | Kind::Write => self.transfer(naive, matches!(kind, Kind::Write)),
            Kind::Touch => self.touch(naive),
            Kind::Nonsense => self.nonsense(naive),
        }
    }

    fn pages(&self, naive: &Naive) -> u64 {
        naive.pages.len() as u64
    }

    /// Few pages rather than many.
    fn length(&mut self, most: u64) -> u64 {
        let cap = self.rng.weighted(&[(40, 3), (40, 8), (15, 20), (5, 96)]);
        1 + self.rng.below(cap.min(most.max(1)))
    }

    /// A mapped page near a random place.
    fn mapped(&mut self, naive: &Naive) -> Option<usize> {
        let n = naive.pages.len();
        let from = self.rng.below(n as u64) as usize;
        (0..n)
            .map(|i| (from + i) % n)
            .find(|&i| naive.pages[i].is_some())
    }

    /// A range of the window, mostly of one area with the given percentage.
    fn range(&mut self, naive: &Naive, inside: u64) -> (u64, u64) {
        if self.rng.percent(inside)
            && let Some(index) = self.mapped(naive)
        {
            let area = naive.area_of(index);
            if self.rng.percent(30) {
                return (naive.addr(area.start), area.len() as u64 * PAGE);
            }
            let rest = (area.end - index) as u64;
            return (naive.addr(index), self.length(rest) * PAGE);
        }
        let n = self.pages(naive);
        let start = self.rng.below(n);
        let len = self.length(n - start);
        (naive.base + start * PAGE, len * PAGE)
    }

    /// A range of the window of this length, unmapped if `hole` and there is one nearby.
    fn target(&mut self, naive: &Naive, len: u64, hole: bool) -> u64 {
        let n = self.pages(naive);
        let mut start = self.rng.below(n - len.min(n) + 1);
        if hole {
            for _ in 0..12 {
                let range = start as usize..(start + len) as usize;
                if naive.pages[range].iter().all(Option::is_none) {
                    break;
                }
                start = self.rng.below(n - len.min(n) + 1);
            }
        }
        naive.base + start * PAGE
    }

    fn mmap(&mut self, naive: &Naive) -> Op {
        let n = self.pages(naive);
        let pages = self.length(n);
        let quirks = naive.quirks;
        let mut flags = self.rng.weighted(&[
            (45, MAP_FIXED),
            (if quirks.no_replace { 30 } else { 0 }, MAP_FIXED_NOREPLACE),
            (25, 0),
        ]);
        let hole = flags != MAP_FIXED && self.rng.percent(80);
        let mut hint = self.target(naive, pages, hole);
        if flags == 0 && self.rng.percent(20) {
            hint = if self.rng.percent(50) { 0 } else { hint + 1 };
        }
        let file = self
            .rng
            .weighted(&[(70, None), (15, Some(0)), (15, Some(1))]);
        let shared = self.rng.percent(if file.is_some() { 40 } else { 20 });
        flags |= if shared { MAP_SHARED } else { MAP_PRIVATE };
        let mut offset = 0;
        if let Some(file) = file {
            offset = self.rng.below(FILES[file] + 1) * PAGE;
        } else {
            flags |= MAP_ANONYMOUS;
            if !shared && self.rng.percent(7) {
                flags |= MAP_GROWSDOWN;
            }
        }
        for (percent, flag) in [(5, MAP_NORESERVE), (8, MAP_POPULATE)] {
            if self.rng.percent(percent) {
                flags |= flag;
            }
        }
        if quirks.lock && self.rng.percent(3) {
            flags |= MAP_LOCKED;
        }
        Op::Mmap {
            hint,
            len: pages * PAGE - self.rng.weighted(&[(9, 0), (1, 4000)]),
            prot: self.rng.weighted(PROTS),
            flags,
            file,
            offset,
        }
    }

    fn mprotect(&mut self, naive: &Naive) -> Op {
        let (addr, len) = self.range(naive, 85);
        let grows = self.rng.weighted(&[(96, 0), (4, PROT_GROWSDOWN)]);
        Op::Mprotect {
            addr,
            len,
            prot: self.rng.weighted(PROTS) | grows,
        }
    }

    fn madvise(&mut self, naive: &Naive) -> Op {
        let quirks = naive.quirks;
        let (mut addr, mut len) = self.range(naive, 85);
        let if_ = |has: bool, weight: u64| if has { weight } else { 0 };
        let mut advice = self.rng.weighted(&[
            (22, MADV_DONTNEED),
            (12, MADV_FREE),
            (if_(quirks.guard, 12), MADV_GUARD_INSTALL),
            (if_(quirks.guard, 9), MADV_GUARD_REMOVE),
            (if_(quirks.populate, 9), MADV_POPULATE_READ),
            (if_(quirks.populate, 9), MADV_POPULATE_WRITE),
            (4, MADV_REMOVE),
            (2, MADV_DONTFORK),
            (2, MADV_DOFORK),
            (2, MADV_WIPEONFORK),
            (2, MADV_KEEPONFORK),
            (1, MADV_DONTDUMP),
            (1, MADV_DODUMP),
            (if_(quirks.huge, 2), MADV_HUGEPAGE),
            (if_(quirks.huge, 2), MADV_NOHUGEPAGE),
            (if_(quirks.reclaim, 2), MADV_COLD),
            (if_(quirks.reclaim, 2), MADV_PAGEOUT),
            (1, MADV_WILLNEED),
            (1, MADV_NORMAL),
            (if_(quirks.guard, 2), MADV_DONTNEED_LOCKED),
        ]);
        if matches!(advice, MADV_FREE | MADV_REMOVE) && self.rng.percent(70) {
            // Mostly where it can be.
            let anonymous = advice == MADV_FREE;
            let n = naive.pages.len();
            let from = self.rng.below(n as u64) as usize;
            let found = (0..n).map(|i| (from + i) % n).find(|&i| {
                naive.pages[i].is_some_and(|page| (page.from == From::Zero) == anonymous)
            });
            if let Some(index) = found {
                addr = naive.addr(index);
                len = self.length((naive.area_of(index).end - index) as u64) * PAGE;
            }
        }
        if advice == MADV_PAGEOUT {
            // What may be dropped would be, and what is shared would be unmapped.
            let range = naive.range(addr, addr + len);
            let plain = |page: &super::naive::Page| !page.lazy && page.from == From::Zero;
            if !naive.pages[range].iter().flatten().all(plain) {
                advice = MADV_COLD;
            }
        }
        Op::Madvise { addr, len, advice }
    }

    /// A range without regard to areas.
    fn mremap_anywhere(&mut self, naive: &Naive) -> Op {
        let n = self.pages(naive);
        let (old, old_len) = self.range(naive, 0);
        let room = n - (old - naive.base) / PAGE;
        let same = self.rng.percent(40);
        let new_len = if same {
            old_len
        } else {
            self.length(room) * PAGE
        };
        let locked = naive.pages[naive.range(old, old + old_len)]
            .iter()
            .flatten()
            .any(|page| page.traits.has(Traits::LOCKED));
        let flags = self.rng.weighted(&[
            (3, 0),
            (2, MREMAP_MAYMOVE),
            (3, MREMAP_MAYMOVE | MREMAP_FIXED),
            (
                if locked { 0 } else { 2 },
                MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
            ),
            (
                if locked { 0 } else { 2 },
                MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
            ),
        ]);
        Op::Mremap {
            old,
            old_len,
            new_len,
            flags,
            new: self.target(naive, new_len / PAGE, false),
        }
    }

    fn mremap(&mut self, naive: &Naive) -> Op {
        if self.rng.percent(14) {
            return self.mremap_anywhere(naive);
        }
        let n = self.pages(naive);
        let Some(index) = self.mapped(naive) else {
            return self.mmap(naive);
        };
        let area = naive.area_of(index);
        let start = if self.rng.percent(60) {
            area.start
        } else {
            index
        };
        let most = (area.end - start) as u64;
        let old_pages = if self.rng.percent(60) {
            most
        } else {
            1 + self.rng.below(most)
        };
        let room = n - start as u64;
        let fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
        let keep = MREMAP_DONTUNMAP | MREMAP_MAYMOVE;
        let mut old_pages = old_pages;
        let grown = (old_pages + self.length(8)).min(room.max(old_pages));
        let shrunk = 1 + self.rng.below(old_pages);
        let any = 1 + self.rng.below(old_pages * 2);
        let (flags, new_pages) = self.rng.weighted(&[
            (22, (0, shrunk)),
            (12, (0, grown)),
            (10, (MREMAP_MAYMOVE, grown)),
            (5, (MREMAP_MAYMOVE, old_pages)),
            (20, (fixed, old_pages)),
            (12, (fixed, any)),
            (8, (keep | MREMAP_FIXED, old_pages)),
            (3, (keep, old_pages)),
            (4, (fixed, 0)),
            (6, (fixed, u64::MAX)),
        ]);
        // The kernel goes on counting what stays behind as locked, until the limit is reached.
        let locked = naive.pages[index].is_some_and(|page| page.traits.has(Traits::LOCKED));
        let flags = if locked {
            flags & !MREMAP_DONTUNMAP
        } else {
            flags
        };
        let mut new_pages = new_pages.min(n);
        if new_pages == 0 {
            // A duplicate, if the memory is shared.
            new_pages = old_pages;
            old_pages = 0;
        } else if new_pages == n {
            // Several areas at once.
            old_pages = self.length(room).min(room);
            new_pages = old_pages;
        }
        let mut new = self.target(naive, new_pages.max(1), self.rng.0 & 3 != 0);
        let old = naive.addr(start);
        for _ in 0..6 {
            if new >= old + old_pages * PAGE || new + new_pages * PAGE <= old {
                break;
            }
            new = self.target(naive, new_pages.max(1), false);
        }
        Op::Mremap {
            old,
            old_len: old_pages * PAGE,
            new_len: new_pages * PAGE,
            flags,
            new,
        }
    }

    /// An address whose bytes are compared, for an access of `len` bytes.
    fn byte(&mut self, naive: &Naive, len: u64) -> u64 {
        let index = match self.mapped(naive) {
            Some(index) if self.rng.percent(88) => index as u64,
            _ => self.rng.below(self.pages(naive)),
        };
        let offset = match self.rng.below(5) {
            0 | 1 => self.rng.below(EDGE - len + 1),
            2 | 3 => PAGE - EDGE + self.rng.below(EDGE - len + 1),
            _ => PAGE - 1 - self.rng.below(len),
        };
        naive.base + index * PAGE + offset
    }

    fn transfer(&mut self, naive: &Naive, write: bool) -> Op {
        let len = 1 + self.rng.below(16);
        let addr = self.byte(naive, len);
        if write {
            let seed = self.rng.next() as u8;
            Op::Write { addr, len, seed }
        } else {
            Op::Read { addr, len }
        }
    }

    fn touch(&mut self, naive: &Naive) -> Op {
        let mut len = self.rng.weighted(&[(1, 1), (1, 8)]);
        let mut addr = self.byte(naive, len);
        let mut access =
            self.rng
                .weighted(&[(44, Access::Read), (44, Access::Write), (12, Access::Exec)]);
        if self.rng.percent(2) {
            addr = self.rng.weighted(&[
                (1, 8),
                (1, 0xffff),
                (1, 0xffff_ffff_8100_0000),
                (1, 0x8000_0000_0000),
                (1, 0x1234_0000_0000_0000),
            ]);
            // Whether a jump to such an address or its target faults is the processor's choice.
            if access == Access::Exec && addr >> 47 == 1 || addr >> 60 == 1 {
                access = Access::Read;
            }
        }
        if access == Access::Exec {
            len = 1;
            if naive.would_execute(addr) {
                access = Access::Write;
            }
        }
        if access == Access::Read && !naive.quirks.exec_reads {
            access = Access::Write;
        }
        let seed = self.rng.next() as u8;
        Op::Touch {
            addr,
            len,
            access,
            seed,
        }
    }

    /// What is refused whatever the state, and what is allowed though it looks wrong.
    fn nonsense(&mut self, naive: &Naive) -> Op {
        let (addr, len) = self.range(naive, 60);
        let free = self.target(naive, 1, true);
        let anon = MAP_PRIVATE | MAP_ANONYMOUS;
        let mmap = |hint, len, prot, flags, offset| Op::Mmap {
            hint,
            len,
            prot,
            flags,
            file: None,
            offset,
        };
        let mremap = |old, old_len, new_len, flags, new| Op::Mremap {
            old,
            old_len,
            new_len,
            flags,
            new,
        };
        let protect = |addr, len, prot| Op::Mprotect { addr, len, prot };
        let advise = |addr, len, advice| Op::Madvise { addr, len, advice };
        let fixed = anon | MAP_FIXED;
        let place = MREMAP_FIXED | MREMAP_MAYMOVE;
        let all = [
            mmap(free, 0, RW, fixed, 0),
            mmap(0, u64::MAX, RW, anon, 0),
            mmap(0, 1 << 47, RW, anon, 0),
            mmap(free, PAGE, RW, MAP_ANONYMOUS | MAP_FIXED, 0),
            mmap(free, PAGE, RW, fixed | MAP_SHARED, 0),
            mmap(free, PAGE, RW, fixed, 1),
            mmap(free, PAGE, RW, fixed, PAGE),
            mmap(free, PAGE, RW, MAP_PRIVATE | MAP_FIXED, 0),
            mmap(free, PAGE, RW | 0x70, fixed, 0),
            mmap(free + 1, PAGE, RW, fixed, 0),
            mmap(TASK_END, PAGE, RW, fixed, 0),
            mmap(0, PAGE, RW, fixed, 0),
            mmap(
                free,
                PAGE,
                RW,
                MAP_SHARED | MAP_ANONYMOUS | MAP_GROWSDOWN,
                0,
            ),
            Op::Mmap {
                hint: free,
                len: PAGE,
                prot: RW,
                flags: MAP_PRIVATE | MAP_FIXED | MAP_GROWSDOWN,
                file: Some(0),
                offset: 0,
            },
            Op::Mmap {
                hint: free,
                len: PAGE,
                prot: RW,
                flags: 3 | MAP_FIXED | 0x8_0000,
                file: Some(0),
                offset: 0,
            },
            Op::Mmap {
                hint: free,
                len: PAGE,
                prot: RW,
                flags: 3 | MAP_FIXED,
                file: Some(1),
                offset: PAGE,
            },
            mmap(TASK_END + PAGE, PAGE, RW, anon, 0),
            Op::Munmap {
                addr: addr + 1,
                len,
            },
            Op::Munmap { addr, len: 0 },
            Op::Munmap { addr, len: 1 },
            Op::Munmap { addr, len: 1 << 47 },
            Op::Munmap {
                addr: TASK_END + PAGE,
                len: PAGE,
            },
            protect(addr + 8, len, RW),
            protect(addr, 0, RW),
            protect(addr, 1, RW),
            protect(addr, len, 0x10),
            protect(addr, len, RW | 8),
            protect(addr, len, RW | PROT_GROWSUP),
            protect(addr, len, RW | PROT_GROWSDOWN | PROT_GROWSUP),
            protect(addr, u64::MAX - addr - PAGE + 1, RW),
            protect(addr, u64::MAX, RW),
            advise(addr + 1, len, MADV_DONTNEED),
            advise(addr, 0, MADV_DONTNEED),
            advise(addr, 1, MADV_DONTNEED),
            advise(addr, len, 99),
            advise(addr, u64::MAX, MADV_DONTNEED),
            advise(addr, u64::MAX - PAGE + 1, MADV_DONTNEED),
            mremap(addr + 1, len, len, MREMAP_MAYMOVE, 0),
            mremap(addr, len, 0, MREMAP_MAYMOVE, 0),
            mremap(addr, 0, PAGE, MREMAP_MAYMOVE, 0),
            mremap(addr, len, len, MREMAP_FIXED, free),
            mremap(addr, len, len, place, free + 1),
            mremap(addr, len, len, place, addr),
            mremap(addr, len, len, place, TASK_END),
            mremap(addr, len, len, 8, free),
            mremap(addr, len, TASK_END + PAGE, MREMAP_MAYMOVE, 0),
            mremap(addr, len, len, MREMAP_DONTUNMAP, free),
            mremap(addr, PAGE, PAGE / 2, MREMAP_MAYMOVE, 0),
            mremap(
                addr,
                2 * PAGE,
                PAGE,
                MREMAP_MAYMOVE | MREMAP_DONTUNMAP,
                free,
            ),
        ];
        let op = all[self.rng.below(all.len() as u64) as usize];
        let exchange = matches!(op, Op::Mmap { flags, .. } if flags & 0x8_0000 != 0);
        if exchange && !naive.quirks.no_replace {
            return self.mmap(naive);
        }
        op
    }
}

impl Naive {
    /// Whether a fetch at `addr` could find an instruction, after a stack grew if need be.
    pub fn would_execute(&self, addr: u64) -> bool {
        let Some(index) = self.index(addr) else {
            return false;
        };
        let exec = |i: usize| self.pages[i].is_some_and(|page| page.rights.holds(Rights::EXEC));
        let next = (index..self.pages.len()).find(|&i| self.pages[i].is_some());
        next.is_some_and(|i| {
            let stack = self.pages[i].is_some_and(|p| p.traits.has(Traits::GROWS_DOWN));
            (i == index || stack) && exec(i)
        })
    }
}

impl Generator {
    /// The next operation for a process that survives no faults. What one process does to the
    /// pages of a shared object is not seen in another's model.
    pub fn without_faults(&mut self, naive: &Naive) -> Op {
        loop {
            let op = self.op(naive);
            let private = !matches!(
                op,
                Op::Touch { .. }
                    | Op::Madvise {
                        advice: MADV_REMOVE,
                        ..
                    }
            );
            if private {
                return op;
            }
        }
    }

    /// The next operation around the program break: it moves, by bytes and by pages, and others
    /// map, unmap and protect in its way.
    pub fn around_the_break(&mut self, naive: &Naive) -> Op {
        let rng = &mut self.rng;
        let near = (naive.brk - naive.base) / PAGE;
        let reach = (near + 12).min(160);
        let page = |rng: &mut Rng| naive.base + rng.below(reach) * PAGE;
        let len = |rng: &mut Rng| (1 + rng.below(6)) * PAGE;
        match rng.below(100) {
            0..40 => {
                let bytes = match rng.below(5) {
                    0 => rng.below(200),
                    1 => rng.below(8) * PAGE,
                    2 => rng.below(8 * PAGE),
                    3 => rng.below(60) * PAGE,
                    _ => PAGE - naive.brk % PAGE,
                };
                let to = if rng.percent(58) {
                    naive.brk + bytes
                } else {
                    naive.brk.saturating_sub(bytes)
                };
                let last = naive.base + 150 * PAGE;
                Op::Brk {
                    to: rng.weighted(&[(30, to.min(last)), (1, 0), (1, naive.start_brk)]),
                }
            }
            40..44 => Op::Munmap {
                addr: page(rng),
                len: len(rng),
            },
            44..54 => {
                let stack = if rng.percent(25) { MAP_GROWSDOWN } else { 0 };
                let far = rng.percent(40);
                Op::Mmap {
                    // A stack's distance matters up to 256 pages away.
                    hint: if far {
                        naive.base + (reach + rng.below(300)) * PAGE
                    } else {
                        page(rng)
                    },
                    len: len(rng),
                    prot: rng.weighted(PROTS),
                    flags: MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | stack,
                    file: None,
                    offset: 0,
                }
            }
            // The way is cleared.
            54..69 => Op::Munmap {
                addr: naive.brk.next_multiple_of(PAGE),
                len: 350 * PAGE,
            },
            69..75 => Op::Mprotect {
                addr: page(rng),
                len: len(rng),
                prot: rng.weighted(PROTS),
            },
            75..78 => Op::Madvise {
                addr: page(rng),
                len: len(rng),
                advice: MADV_DONTNEED,
            },
            roll => {
                let n = 1 + rng.below(16);
                let offset = match rng.below(3) {
                    0 => rng.below(EDGE - n + 1),
                    1 => PAGE - EDGE + rng.below(EDGE - n + 1),
                    _ => PAGE - 1 - rng.below(n),
                };
                let addr = page(rng) + offset;
                if roll < 84 {
                    Op::Read { addr, len: n }
                } else {
                    Op::Write {
                        addr,
                        len: n,
                        seed: rng.next() as u8,
                    }
                }
            }
        }
    }
}
