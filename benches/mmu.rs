//! The MMU model: translation alone, and full accesses (TLB, walk, frames, policy) over local,
//! sequential and random streams.
#![allow(missing_docs)] // What the macros of criterion make.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fencepost::mmu::addr::{Access, Mode, VirtAddr};
use fencepost::mmu::area::{Limits, linux};
use fencepost::mmu::areas::Node;
use fencepost::mmu::geometry::X86L4;
use fencepost::mmu::lookaside::LookasideLine;
use fencepost::mmu::machine::{Machine, Options, PageMap, SpaceRecord, Storage};
use fencepost::mmu::objects::ObjectRecord;
use fencepost::mmu::physical::{FRAME_WORDS, FrameRecord};
use fencepost::mmu::replace::Kind;
use fencepost::mmu::space::Layout;
use fencepost::mmu::swap::SwapRecord;
use fencepost::mmu::tlb::TlbLine;

const AT: u64 = 0x1000_0000_0000;
const PAGES: u64 = 262_144;
const ROUND: usize = 4096;

/// A machine whose frames have no bytes, with 1 GiB mapped and touched.
fn machine(kind: Kind) -> Machine<'static, X86L4> {
    let options = Options {
        contents: false,
        replacement: kind,
        ..Options::DEFAULT
    };
    let tables = 600;
    let mut m = Machine::new(
        Storage {
            memory: vec![0; tables * FRAME_WORDS].leak(),
            frames: vec![FrameRecord::EMPTY; tables + PAGES as usize].leak(),
            swap: vec![SwapRecord::EMPTY; 16].leak(),
            disk: &mut [],
            nodes: (0..64).map(|_| Node::EMPTY).collect::<Vec<_>>().leak(),
            objects: vec![ObjectRecord::EMPTY; 1].leak(),
            spaces: vec![SpaceRecord::EMPTY].leak(),
            maps: vec![PageMap::EMPTY; 1].leak(),
            tlb: vec![TlbLine::EMPTY; options.first.lines() + options.second.lines()].leak(),
            lookaside: vec![LookasideLine::EMPTY; 4096].leak(),
        },
        options,
    );
    let id = m
        .spawn(Layout::linux_default(0), Limits::NONE)
        .expect("room");
    m.switch_to(id).expect("it exists");
    let flags = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS | linux::MAP_FIXED;
    let prot = linux::PROT_READ | linux::PROT_WRITE;
    m.mmap(AT, PAGES * 4096, prot, flags, None, 0)
        .expect("room");
    for page in 0..PAGES {
        let at = VirtAddr::new(AT + page * 4096);
        m.access(at, 8, Access::Write, Mode::User).expect("a frame");
    }
    m
}

fn random() -> impl FnMut(u64) -> u64 {
    let mut x = 12345u64;
    move |end| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 11) % end
    }
}

/// Addresses beforehand, so that the generator is not measured.
fn stream(name: &str) -> Vec<VirtAddr> {
    let mut below = random();
    let mut at = 0;
    (0..ROUND * 64)
        .map(|i| {
            at = match name {
                // Each page of 1 GiB as likely as any other.
                "random_1gib" => below(PAGES * 512) * 8,
                // Runs of a few accesses on one page, in a working set of 32 pages.
                "local" if i % 8 == 0 => below(32) * 4096 + below(512) * 8,
                "local" => at / 4096 * 4096 + below(512) * 8,
                // As local without the runs: the filter is of no use, the first level is.
                "hot_pages" => below(32) * 4096 + below(512) * 8,
                _ => (at + 8) % (PAGES * 4096),
            };
            VirtAddr::new(AT + at)
        })
        .collect()
}

fn accesses(c: &mut Criterion) {
    let mut group = c.benchmark_group("mmu_access");
    group.throughput(Throughput::Elements(ROUND as u64));
    for (policy, kind) in [("clock", Kind::Clock), ("lru", Kind::Lru)] {
        let mut m = machine(kind);
        for name in ["sequential", "local", "hot_pages", "random_1gib"] {
            let stream = stream(name);
            let mut rounds = stream.chunks(ROUND).cycle();
            group.bench_function(format!("{name}/{policy}"), |b| {
                b.iter(|| {
                    for at in rounds.next().into_iter().flatten() {
                        let done = m.access(*at, 8, Access::Read, Mode::User);
                        assert!(done.is_ok());
                    }
                });
            });
        }
    }
}

fn translations(c: &mut Criterion) {
    let mut group = c.benchmark_group("mmu_translate");
    group.throughput(Throughput::Elements(ROUND as u64));
    let mut m = machine(Kind::Clock);
    for (name, pages) in [("hits", 256), ("misses", PAGES)] {
        let mut below = random();
        let stream: Vec<VirtAddr> = (0..ROUND)
            .map(|_| VirtAddr::new(AT + below(pages) * 4096 + below(4096)))
            .collect();
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut sum = 0u64;
                for at in &stream {
                    let to = m.translate(*at, Mode::User);
                    sum = sum.wrapping_add(to.map_or(0, |to| to.raw()));
                }
                sum
            });
        });
    }
}

fn faults(c: &mut Criterion) {
    let mut group = c.benchmark_group("mmu_fault");
    group.throughput(Throughput::Elements(512));
    let mut m = machine(Kind::Clock);
    group.bench_function("first_touch", |b| {
        b.iter(|| {
            m.madvise(AT, 512 * 4096, linux::MADV_DONTNEED)
                .expect("mapped");
            for page in 0..512 {
                let at = VirtAddr::new(AT + page * 4096);
                m.access(at, 8, Access::Write, Mode::User).expect("a frame");
            }
        });
    });
}

criterion_group!(benches, translations, accesses, faults);
criterion_main!(benches);
