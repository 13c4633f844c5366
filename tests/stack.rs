//! Call stacks by frame pointers: right on honest chains, and no fault on any other.
#![allow(unsafe_code)] // Stacks made by hand, guard pages, a signal handler.

use fencepost::os::stack::{Bounds, bounds_of_thread, is_readable, walk};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

const WORD: usize = size_of::<usize>();
const CODE: usize = 0x40_0000;

/// A stack in an array: words to be set, and its bounds.
struct Made(Vec<usize>);

impl Made {
    fn new(words: usize) -> Made {
        Made(vec![0; words])
    }

    fn at(&self, word: usize) -> usize {
        self.0.as_ptr().expose_provenance() + word * WORD
    }

    /// A frame at `word`, whose caller's is at the address `next`.
    fn frame(&mut self, word: usize, next: usize, back: usize) {
        self.0[word] = next;
        self.0[word + 1] = back;
    }

    fn walk(&self, fp: usize, most: usize) -> Vec<usize> {
        let end = self.at(self.0.len());
        // SAFETY: the array's own memory.
        let bounds = unsafe { Bounds::new(self.at(0), end) };
        let mut frames = vec![0; most];
        let count = walk(CODE, fp, bounds, &mut frames);
        frames.truncate(count);
        frames
    }
}

/// A few words of this function's own frame are where its stack pointer is, near enough.
#[inline(never)]
fn stack_pointer() -> usize {
    let here = 0u64;
    (&raw const here).expose_provenance()
}

#[test]
fn an_honest_chain_is_followed_to_its_end() {
    let mut stack = Made::new(64);
    let at = |word: usize| stack.at(word);
    let (a, b, c) = (at(2), at(10), at(62));
    stack.frame(2, b, CODE + 1);
    stack.frame(10, c, CODE + 2);
    stack.frame(62, 0, CODE + 3);
    assert_eq!(stack.walk(a, 16), [CODE, CODE + 1, CODE + 2, CODE + 3]);
    assert_eq!(stack.walk(a, 2), [CODE, CODE + 1]);
    assert_eq!(stack.walk(a, 1), [CODE]);
    assert_eq!(stack.walk(a, 0), []);
    let mut frames = [0; 4];
    // SAFETY: the array's own memory.
    let bounds = unsafe { Bounds::new(stack.at(0), stack.at(64)) };
    assert_eq!(walk(0, a, bounds, &mut frames), 3, "no pc: callers only");
    assert_eq!(walk(CODE, a, Bounds::EMPTY, &mut frames), 1);
}

#[test]
fn a_chain_ends_at_the_first_step_that_cannot_be_right() {
    let mut stack = Made::new(20_000);
    let (a, b) = (stack.at(2), stack.at(10));
    let whole = [CODE, CODE + 1, CODE + 2];
    let second = [
        (b, &whole[..]),
        (a, &whole[..2]),           // a circle
        (stack.at(0), &whole[..2]), // down
        (b + 1, &whole[..2]),       // not aligned
        (b + 4, &whole[..2]),
        (stack.at(20_000), &whole[..2]),     // beyond the end
        (stack.at(20_000 - 1), &whole[..2]), // half of it beyond the end
        (usize::MAX & !7, &whole[..2]),
        (stack.at(2 + 8193), &whole[..2]), // a leap of more than 64 KiB
    ];
    for (next, expected) in second {
        stack.frame(10, 0, CODE + 2);
        stack.frame(2 + 8193, 0, CODE + 2);
        stack.frame(2, next, CODE + 1);
        assert_eq!(stack.walk(a, 16), expected, "{next:#x}");
    }
    // As far as a frame may reach.
    stack.frame(2 + 8192, 0, CODE + 2);
    stack.frame(2, stack.at(2 + 8192), CODE + 1);
    assert_eq!(stack.walk(a, 16), whole);
    // A return address that is none.
    for back in [0, 1, 4095] {
        stack.frame(2, b, CODE + 1);
        stack.frame(10, 0, back);
        assert_eq!(stack.walk(a, 16), &whole[..2]);
        stack.frame(2, b, back);
        assert_eq!(stack.walk(a, 16), [CODE]);
    }
}

#[test]
fn any_garbage_is_survived() {
    // Guard pages on both sides of one page of stack.
    // SAFETY: fresh memory of its own.
    let base = unsafe {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let map = libc::mmap(
            std::ptr::null_mut(),
            3 * 65536,
            libc::PROT_NONE,
            anonymous,
            -1,
            0,
        );
        assert_ne!(map, libc::MAP_FAILED);
        let middle = map.byte_add(65536);
        assert_eq!(
            libc::mprotect(middle, 65536, libc::PROT_READ | libc::PROT_WRITE),
            0
        );
        middle.expose_provenance()
    };
    let page: *mut usize = std::ptr::with_exposed_provenance_mut(base);
    // SAFETY: the page that was made readable.
    let bounds = unsafe { Bounds::new(base, base + 65536) };
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mut longest = 0;
    for _ in 0..2_000 {
        for word in 0..65536 / WORD {
            let value = match next() % 4 {
                0 => base.wrapping_add(next() % (3 * 65536)).wrapping_sub(65536) & !7,
                1 => base + ((word * WORD + next() % 512) & !7),
                2 => next(),
                _ => base + 65536 - next() % 32,
            };
            if word < 512 || next() % 64 == 0 {
                // SAFETY: inside the page.
                unsafe { page.add(word).write(value) };
            }
        }
        let mut frames = [0; 32];
        for fp in [base, base + 65536 - WORD, base + next() % 65536, next()] {
            longest = longest.max(walk(CODE, fp, bounds, &mut frames));
        }
    }
    assert!(longest > 3, "the garbage was too bad to walk in");
}

/// The bounds that the C library gives the calling thread's stack.
fn bounds_by_libc() -> (usize, usize) {
    // SAFETY: asks for the calling thread's attributes and gives them back.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        assert_eq!(
            libc::pthread_getattr_np(libc::pthread_self(), &mut attributes),
            0
        );
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&attributes, &mut low, &mut size);
        libc::pthread_attr_destroy(&mut attributes);
        (low.addr(), low.addr() + size)
    }
}

#[track_caller]
fn knows_this_stack() {
    let (low, high) = bounds_by_libc();
    let sp = stack_pointer();
    let known = bounds_of_thread(sp);
    assert_eq!(known.low(), sp);
    assert!(low <= sp && known.high() <= high, "{known:x?} {high:#x}");
    // Nearly all of it: the thread's own data and the program's arguments lie above.
    assert!(high - known.high() < 256 << 10, "{known:x?} {high:#x}");
    assert!(is_readable(known.high() - 8));
    assert_eq!(bounds_of_thread(sp), known, "asked again");
}

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_env = "gnu"
))]
#[test]
fn a_threads_stack_is_known_however_deep_it_becomes() {
    #[inline(never)]
    fn deep(levels: usize) -> usize {
        let filler = std::hint::black_box([levels; 1000]);
        // Not at every depth: many pages at a time are met too.
        if levels.is_multiple_of(7) {
            knows_this_stack();
        }
        let below = if levels == 0 { 0 } else { deep(levels - 1) };
        below + std::hint::black_box(filler)[levels]
    }
    std::thread::Builder::new()
        .stack_size(16 << 20)
        .spawn(|| deep(100))
        .expect("a thread can be started")
        .join()
        .expect("the thread found its stack");
}

#[test]
fn the_main_threads_stack_is_known() {
    if std::env::var_os("FENCEPOST_TEST_MAIN").is_some() {
        knows_this_stack();
        return;
    }
    // With one thread the harness runs tests in the main thread.
    let this = std::env::current_exe().expect("the test has a path");
    let status = Command::new(this)
        .args([
            "--exact",
            "the_main_threads_stack_is_known",
            "--test-threads=1",
        ])
        .env("FENCEPOST_TEST_MAIN", "1")
        .output()
        .expect("the test can be started again");
    assert!(
        status.status.success(),
        "{}",
        String::from_utf8_lossy(&status.stdout)
    );
}

static ON_ALTERNATE: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];

extern "C" fn on_alternate_stack(_: libc::c_int) {
    let sp = stack_pointer();
    let known = bounds_of_thread(sp);
    ON_ALTERNATE[0].store(sp, SeqCst);
    ON_ALTERNATE[1].store(known.low(), SeqCst);
    ON_ALTERNATE[2].store(known.high(), SeqCst);
}

#[test]
fn of_an_unknown_stack_one_page_is_believed() {
    let mut stack = vec![0u8; 256 << 10];
    // SAFETY: a handler that only computes, on a stack that outlives it.
    unsafe {
        let alternate = libc::stack_t {
            ss_sp: stack.as_mut_ptr().cast(),
            ss_flags: 0,
            ss_size: stack.len(),
        };
        assert_eq!(libc::sigaltstack(&alternate, std::ptr::null_mut()), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alternate_stack as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()),
            0
        );
        libc::raise(libc::SIGUSR1);
        let none = libc::stack_t {
            ss_sp: std::ptr::null_mut(),
            ss_flags: libc::SS_DISABLE,
            ss_size: 0,
        };
        libc::sigaltstack(&none, std::ptr::null_mut());
    }
    let [sp, low, high] = [0, 1, 2].map(|i| ON_ALTERNATE[i].load(SeqCst));
    let range = stack.as_ptr().addr()..stack.as_ptr().addr() + stack.len();
    assert!(range.contains(&sp), "the handler ran elsewhere");
    assert_eq!(low, sp);
    assert!(high > sp && high - sp <= 65536 && high.is_multiple_of(4096));
}

#[test]
fn readable_memory_is_told_from_the_rest() {
    let here = 0u64;
    assert!(is_readable((&raw const here).addr()));
    assert!(is_readable(
        readable_memory_is_told_from_the_rest as *const () as usize
    ));
    for nowhere in [0, 7, 8, 4096, usize::MAX - 8, usize::MAX, 0xdead_beef << 32] {
        assert!(!is_readable(nowhere), "{nowhere:#x}");
    }
    // SAFETY: fresh memory of its own.
    let guard = unsafe {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(
            std::ptr::null_mut(),
            65536,
            libc::PROT_NONE,
            anonymous,
            -1,
            0,
        )
        .addr()
    };
    assert!(!is_readable(guard));
    let sp = stack_pointer();
    let probed = Bounds::probed(sp, sp);
    assert!(probed.low() == sp && probed.high() > sp);
    assert_eq!(Bounds::probed(sp, sp - 8), Bounds::EMPTY);
    assert_eq!(Bounds::probed(sp, sp + (65 << 10)), Bounds::EMPTY);
    assert_eq!(Bounds::probed(guard, guard + 64), Bounds::EMPTY);
}
