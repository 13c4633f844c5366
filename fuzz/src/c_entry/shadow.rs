//! What must be true of every block, and of every answer.
#![allow(unsafe_code)] // Raw memory, as C programs use it.

use super::Op;
use crate::targets::planted;
use fencepost::Fencepost;
use fencepost::abi;
use fencepost::config::TUNABLES;
use std::collections::BTreeMap;
use std::ffi::c_void;

/// Up to here a request is always served.
const MODEST: u64 = 64 << 20;
/// From here on it never is: there are no such addresses.
const ABSURD: u64 = 1 << 47;
/// As much may be live.
const MOST_LIVE: u64 = 256 << 20;
/// An errno that nobody sets.
const UNTOUCHED: i32 = 4242;

#[derive(Debug, Clone, Copy)]
struct Block {
    start: usize,
    usable: usize,
    pattern: u8,
    aligned: bool,
}

/// All blocks.
#[derive(Debug, Default)]
pub struct Shadow {
    live: Vec<Block>,
    /// Start and end.
    spans: BTreeMap<usize, usize>,
    bytes: u64,
    patterns: u8,
}

/// The bytes of a block that are written and compared: all of a small one, the ends of a large
/// one and some in between.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let edge = if len <= 16_384 { len } else { 4096 };
    let step = (len / 64).max(1);
    let middle = (edge..len - edge).step_by(step);
    (0..edge).chain(middle).chain((len - edge).max(edge)..len)
}

fn expected(pattern: u8, at: usize) -> u8 {
    pattern.wrapping_add((at as u8).wrapping_mul(31))
}

fn errno() -> i32 {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() }
}

fn pointer(start: usize) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(start)
}

/// Does a call with errno untouched.
fn call<T>(call: impl FnOnce() -> T) -> T {
    // SAFETY: the calling thread's own.
    unsafe { *libc::__errno_location() = UNTOUCHED };
    call()
}

impl Shadow {
    /// One operation.
    pub fn apply(&mut self, op: &Op) {
        let [a, b, c] = op.numbers;
        let (x, y) = (a as usize, b as usize);
        match op.form.0 {
            "malloc" => self.serve(a, 16, 0, false, || abi::malloc(x)),
            "realloc_null" => {
                // SAFETY: no block.
                self.serve(a, 16, 0, false, || unsafe {
                    abi::realloc(std::ptr::null_mut(), x)
                });
            }
            "calloc" => {
                let wanted = a.saturating_mul(b);
                self.serve(wanted, 16, 0, true, || abi::calloc(x, y));
            }
            "memalign" => {
                let align = a.checked_next_power_of_two();
                let error = if align.is_none() { libc::EINVAL } else { 0 };
                let align = align.unwrap_or(1).max(16);
                self.serve(b, align, error, false, || {
                    // SAFETY: any numbers will do.
                    unsafe { abi::memalign(x, y) }
                });
            }
            "aligned_alloc" => {
                let error = if a.is_power_of_two() { 0 } else { libc::EINVAL };
                self.serve(b, a.max(16), error, false, || {
                    // SAFETY: any numbers will do.
                    unsafe { abi::aligned_alloc(x, y) }
                });
            }
            "posix_memalign" => self.posix_memalign(a, b),
            "valloc" => self.serve(a, 4096, 0, false, || {
                // SAFETY: any numbers will do.
                unsafe { abi::valloc(x) }
            }),
            "pvalloc" => {
                let wanted = a.checked_next_multiple_of(4096).unwrap_or(u64::MAX);
                self.serve(wanted, 4096, 0, false, || {
                    // SAFETY: any numbers will do.
                    unsafe { abi::pvalloc(x) }
                });
            }
            "realloc" => self.realloc(x, b, |p| {
                // SAFETY: a live block, forgotten if it moves.
                unsafe { abi::realloc(p, y) }
            }),
            "reallocarray" => {
                let wanted = b.saturating_mul(c);
                self.realloc(x, wanted, |p| {
                    // SAFETY: as above.
                    unsafe { abi::reallocarray(p, y, c as usize) }
                });
            }
            "free" => self.free(x),
            "free_null" => {
                // SAFETY: no block.
                call(|| unsafe { abi::free(std::ptr::null_mut()) });
                assert_eq!(errno(), UNTOUCHED, "errno of free(NULL)");
            }
            "malloc_usable_size" => {
                if let Some(block) = self.nth(x) {
                    // SAFETY: a live block.
                    let usable = unsafe { abi::malloc_usable_size(pointer(block.start).cast()) };
                    assert_eq!(usable, block.usable, "the usable size changed");
                }
            }
            "mallopt" => {
                let (parameter, value) = (a as i32, b as i32);
                let done = call(|| abi::mallopt(parameter, value));
                let known = (-8..=4).contains(&parameter) && parameter != 0;
                assert!(
                    done == 0 || done == 1 && known,
                    "mallopt({parameter}): {done}"
                );
                assert_eq!(errno(), UNTOUCHED, "errno of mallopt");
            }
            "malloc_trim" => {
                let done = call(|| abi::malloc_trim(x));
                assert!(done == 0 || done == 1, "malloc_trim: {done}");
            }
            "mallinfo2" => self.mallinfo(),
            "settle" => self.settle(),
            "audit" => {
                let audit = Fencepost::audit(|finding| eprintln!("{finding:?}"));
                let findings = audit.map(|audit| audit.findings);
                assert_eq!(findings, Ok(0), "the account of pages");
            }
            other => unreachable!("{other} is no call"),
        }
    }

    fn nth(&self, place: usize) -> Option<Block> {
        let len = self.live.len();
        (len != 0).then(|| self.live[place % len])
    }

    /// Whether a request is one that may be tried: neither too much to have, nor between what is
    /// served for sure and what is refused for sure (filling it takes too long).
    fn sensible(&self, wanted: u64) -> bool {
        wanted >= ABSURD || wanted <= MODEST && self.bytes + wanted <= MOST_LIVE
    }

    /// A call that allocates: `error` is the errno that it must fail with.
    fn serve(
        &mut self,
        wanted: u64,
        align: u64,
        error: i32,
        zero: bool,
        make: impl FnOnce() -> *mut c_void,
    ) {
        if !self.sensible(wanted) || align > 1 << 20 && align < ABSURD {
            return;
        }
        let block = call(make);
        if error != 0 || wanted >= ABSURD || align >= ABSURD {
            assert!(block.is_null(), "{wanted} bytes at a multiple of {align}");
            let error = if error != 0 { error } else { libc::ENOMEM };
            assert_eq!(errno(), error, "errno of a refusal");
            return;
        }
        assert!(!block.is_null(), "no memory for {wanted} bytes");
        assert_eq!(errno(), UNTOUCHED, "errno of a success");
        self.adopt(block.cast(), wanted, align, zero);
    }

    fn posix_memalign(&mut self, align: u64, wanted: u64) {
        if !self.sensible(wanted) || align > 1 << 20 && align < ABSURD {
            return;
        }
        let before = pointer(0x5555).cast::<c_void>();
        let mut block = before;
        // SAFETY: the result is ours.
        let error = call(|| unsafe {
            abi::posix_memalign(&raw mut block, align as usize, wanted as usize)
        });
        assert_eq!(errno(), UNTOUCHED, "errno of posix_memalign");
        let expected = if !align.is_power_of_two() || align < 8 {
            libc::EINVAL
        } else if wanted >= ABSURD || align >= ABSURD {
            libc::ENOMEM
        } else {
            0
        };
        assert_eq!(error, expected, "posix_memalign({align}, {wanted})");
        if error == 0 {
            self.adopt(block.cast(), wanted, align.max(16), false);
        } else {
            assert_eq!(block, before, "the result of a refusal");
        }
    }

    fn adopt(&mut self, block: *mut u8, wanted: u64, align: u64, zero: bool) {
        let start = block.expose_provenance();
        assert_eq!(
            start as u64 % align,
            0,
            "{start:#x} at a multiple of {align}"
        );
        // SAFETY: a block that was handed out just now.
        let usable = unsafe { abi::malloc_usable_size(block.cast()) };
        assert!(usable as u64 >= wanted, "{usable} bytes of {wanted}");
        if zero {
            for at in places(wanted as usize) {
                // SAFETY: inside of the block.
                let byte = unsafe { block.add(at).read() };
                assert_eq!(byte, 0, "byte {at} of calloc's {wanted}");
            }
        }
        self.patterns = self.patterns.wrapping_add(1);
        self.enter(Block {
            start,
            usable,
            pattern: self.patterns,
            aligned: align > 16,
        });
    }

    /// A block begins to be watched: it overlaps no other, and is written to.
    fn enter(&mut self, block: Block) {
        let end = block.start + block.usable;
        if let Some((from, to)) = self.spans.range(..end).next_back() {
            assert!(
                *to <= block.start,
                "{:#x} to {end:#x} overlaps {from:#x} to {to:#x}",
                block.start
            );
        }
        self.spans.insert(block.start, end);
        self.bytes += block.usable as u64;
        for at in places(block.usable) {
            // SAFETY: inside of the block.
            unsafe {
                pointer(block.start)
                    .add(at)
                    .write(expected(block.pattern, at))
            };
        }
        self.live.push(block);
    }

    fn leave(&mut self, place: usize) -> Option<Block> {
        if self.live.is_empty() {
            return None;
        }
        let block = self.live.swap_remove(place % self.live.len());
        self.spans.remove(&block.start);
        self.bytes -= block.usable as u64;
        Some(block)
    }

    /// The first `len` bytes of a block's contents are at `start`.
    fn verify(block: Block, start: usize, len: usize) {
        for at in places(block.usable).filter(|at| *at < len) {
            // SAFETY: inside of a live block.
            let byte = unsafe { pointer(start).add(at).read() };
            assert_eq!(
                byte,
                expected(block.pattern, at),
                "byte {at} of the {} at {:#x}, now at {start:#x}",
                block.usable,
                block.start
            );
        }
    }

    fn free(&mut self, place: usize) {
        if let Some(block) = self.leave(place) {
            Shadow::verify(block, block.start, block.usable);
            // SAFETY: a live block that is not used any more.
            call(|| unsafe { abi::free(pointer(block.start).cast()) });
            assert_eq!(errno(), UNTOUCHED, "errno of free");
        }
    }

    fn realloc(
        &mut self,
        place: usize,
        wanted: u64,
        make: impl FnOnce(*mut c_void) -> *mut c_void,
    ) {
        if !self.sensible(wanted) {
            return;
        }
        let Some(old) = self.leave(place) else {
            return;
        };
        Shadow::verify(old, old.start, old.usable);
        let new = call(|| make(pointer(old.start).cast()));
        if wanted >= ABSURD {
            assert!(new.is_null(), "{wanted} bytes");
            assert_eq!(errno(), libc::ENOMEM, "errno of a refusal");
            Shadow::verify(old, old.start, old.usable);
            self.enter(old);
            return;
        }
        assert_eq!(errno(), UNTOUCHED, "errno of realloc");
        if wanted == 0 {
            assert!(new.is_null(), "realloc to nothing is free");
            return;
        }
        assert!(!new.is_null(), "no memory for {wanted} bytes");
        // The bug: what grows loses a byte if it was aligned.
        if planted() && old.aligned && wanted as usize > old.usable + 1000 {
            // SAFETY: inside of the block.
            unsafe { *new.cast::<u8>().add(old.usable / 2) ^= 1 };
        }
        Shadow::verify(
            old,
            new.expose_provenance(),
            old.usable.min(wanted as usize),
        );
        self.adopt(new.cast(), wanted, 16, false);
    }

    fn mallinfo(&self) {
        let info = call(abi::mallinfo2);
        assert_eq!(errno(), UNTOUCHED, "errno of mallinfo2");
        assert_eq!(info.uordblks + info.fordblks, info.arena, "{info:?}");
        assert!(info.fsmblks <= info.fordblks, "{info:?}");
        let used = (info.uordblks + info.hblkhd) as u64;
        assert!(
            used >= self.bytes,
            "{} bytes are live: {info:?}",
            self.bytes
        );
    }

    /// Frees every block, undoes mallopt.
    pub fn settle(&mut self) {
        while !self.live.is_empty() {
            self.free(0);
        }
        let settings = fencepost::front::settings();
        for tunable in TUNABLES.iter().filter(|t| t.mallopt.is_some()) {
            assert!(settings.set(tunable.key, tunable.default));
        }
    }
}
