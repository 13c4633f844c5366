//! What the account of pages costs: a lookup, and what it adds to a call of the system, which here
//! is one that does nothing.
#![allow(missing_docs)] // What the macros of criterion make.
#![allow(unsafe_code)] // `Os` is an unsafe trait; nobody touches the memory it tells of.

use std::cell::Cell;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use fencepost::os::{Exposed, Kernel, Ledger, Os, OsError, PageState, Prot};

const PAGE: usize = 4096;
const BASE: usize = 0x7000_0000_0000;

/// A kernel whose calls cost nothing; the account's own nodes are real.
struct Idle {
    kernel: Kernel,
    real: Cell<bool>,
}

// SAFETY: what is handed out as memory while `real` is off is never touched here.
unsafe impl Os for Idle {
    type Region = Exposed;

    fn region(&self) -> Exposed {
        Exposed
    }
    fn page_size(&self) -> usize {
        PAGE
    }
    fn program_break(&self) -> usize {
        BASE
    }
    unsafe fn set_break(&self, _: usize) -> Result<(), OsError> {
        Err(OsError::NO_MEMORY)
    }
    #[inline]
    fn map(&self, hint: usize, len: usize, prot: Prot) -> Result<usize, OsError> {
        if self.real.get() {
            self.kernel.map(hint, len, prot)
        } else {
            Ok(BASE)
        }
    }
    unsafe fn unmap(&self, _: usize, _: usize) -> Result<(), OsError> {
        Ok(())
    }
    unsafe fn remap(&self, addr: usize, _: usize, _: usize) -> Result<usize, OsError> {
        Ok(addr)
    }
    unsafe fn protect(&self, _: usize, _: usize, _: Prot) -> Result<(), OsError> {
        Ok(())
    }
    unsafe fn discard(&self, _: usize, _: usize) -> Result<(), OsError> {
        Ok(())
    }
}

fn ledger() -> Ledger<Idle> {
    let ledger = Ledger::new(Idle {
        kernel: Kernel::new(),
        real: Cell::new(true),
    });
    // Every leaf of the first 1 GiB has its node, as in a heap that was used for a while.
    for at in (BASE..BASE + (1 << 30)).step_by(16 << 20) {
        ledger.note(at, at + PAGE, PageState::Live);
    }
    ledger.inner().real.set(false);
    ledger
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("page state");
    let ledger = ledger();
    ledger.note(BASE, BASE + (1 << 30), PageState::Live);
    let mut seed = 1usize;
    group.bench_function("one page of 1 GiB, at random", |b| {
        b.iter(|| {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            ledger.state(BASE + (seed >> 34))
        });
    });
    let mut at = BASE;
    group.bench_function("one page, near the last", |b| {
        b.iter(|| {
            at = BASE + (at + PAGE) % (1 << 20);
            ledger.state(black_box(at))
        });
    });
    group.finish();
}

fn calls(c: &mut Criterion) {
    let mut group = c.benchmark_group("account of a call");
    let ledger = ledger();
    for pages in [1, 8, 32, 512, 1 << 18] {
        let len = pages * PAGE;
        group.bench_function(format!("map, {pages} pages"), |b| {
            b.iter(|| ledger.map(0, black_box(len), Prot::ReadWrite));
        });
        group.bench_function(format!("unmap, {pages} pages"), |b| {
            // SAFETY: nothing is unmapped.
            b.iter(|| unsafe { ledger.unmap(BASE, black_box(len)) });
        });
        group.bench_function(format!("note, {pages} pages"), |b| {
            b.iter(|| ledger.note(BASE, BASE + black_box(len), PageState::Cached));
        });
        ledger.note(BASE, BASE + len, PageState::Cached);
        group.bench_function(format!("discard, {pages} pages"), |b| {
            // SAFETY: nothing is discarded.
            b.iter(|| unsafe { ledger.discard(BASE, black_box(len)) });
        });
    }
    group.finish();
}

/// The calls themselves, to compare with.
fn kernel(c: &mut Criterion) {
    let mut group = c.benchmark_group("the call itself");
    let kernel = Kernel::new();
    for pages in [1, 32, 512] {
        let len = pages * PAGE;
        group.bench_function(format!("map, touch and unmap, {pages} pages"), |b| {
            b.iter(|| {
                let at = kernel.map(0, len, Prot::ReadWrite).expect("room");
                for page in 0..pages {
                    // SAFETY: mapped just now.
                    unsafe {
                        std::ptr::with_exposed_provenance_mut::<u8>(at + page * PAGE).write(1);
                    }
                }
                // SAFETY: mapped just now, and not used any more.
                unsafe { kernel.unmap(at, len) }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, calls, kernel);
criterion_main!(benches);
