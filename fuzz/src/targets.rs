//! The targets by name, and what they have in common: scripts, planted bugs, last words.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, that of its directories too.
    pub name: &'static str,
    /// Carries out what the bytes stand for.
    pub run: fn(&[u8]),
    /// What the bytes stand for, as text.
    pub print: fn(&[u8]) -> String,
    /// Carries out a text.
    pub replay: fn(&str) -> Result<(), String>,
}

/// All of them.
pub const TARGETS: [Target; 4] = [
    crate::allocator::TARGET,
    crate::mmu::TARGET,
    crate::c_entry::TARGET,
    crate::parsers::TARGET,
];

/// The target of this name.
#[must_use]
pub fn find(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}

/// Whether the bug of this target is to be planted: shows that it would be found.
#[must_use]
pub fn planted() -> bool {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var_os("FENCEPOST_FUZZ_PLANTED").is_some())
}

/// What [`last_words`] prints: the target and the input that are running.
static TARGET: AtomicUsize = AtomicUsize::new(usize::MAX);
static INPUT: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// One run of the fuzzer. If the process dies of it, the script is printed before.
///
/// # Panics
/// If the target finds something.
pub fn fuzz(name: &str, data: &[u8]) {
    static INDEX: OnceLock<usize> = OnceLock::new();
    let index = *INDEX.get_or_init(|| {
        chain::install();
        // Large zeroed blocks come fresh from the system each time and need no memset.
        // SAFETY: mallopt(3) has no requirements.
        #[allow(unsafe_code)]
        let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
        assert_eq!(set, 1, "the C library's malloc");
        let known = TARGETS.iter().position(|target| target.name == name);
        known.expect("a target of the list")
    });
    INPUT.store(data.as_ptr().cast_mut(), Ordering::Relaxed);
    LENGTH.store(data.len(), Ordering::Relaxed);
    TARGET.store(index, Ordering::Relaxed);
    (TARGETS[index].run)(data);
    TARGET.store(usize::MAX, Ordering::Relaxed);
}

/// Prints the script of the input that is running, if there is one, once.
fn last_words() {
    let index = TARGET.swap(usize::MAX, Ordering::Relaxed);
    let Some(target) = TARGETS.get(index) else {
        return;
    };
    let (start, len) = (
        INPUT.load(Ordering::Relaxed),
        LENGTH.load(Ordering::Relaxed),
    );
    // SAFETY: the fuzzer's buffer is alive as long as the target runs, which it does.
    #[allow(unsafe_code)]
    let data = unsafe { std::slice::from_raw_parts(start, len) };
    let text = (target.print)(data);
    eprintln!("---- script of {} ----\n{text}---- end ----", target.name);
}

/// Signal handlers in front of the fuzzer's own.
#[allow(unsafe_code)]
mod chain {
    use std::mem::MaybeUninit;
    use std::sync::OnceLock;

    const SIGNALS: [i32; 4] = [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL];
    type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);
    static THEIRS: OnceLock<[usize; SIGNALS.len()]> = OnceLock::new();

    extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let place = SIGNALS.iter().position(|s| *s == signal);
        let theirs = place.and_then(|place| THEIRS.get()?.get(place).copied());
        // Allocates: the process dies, and its own malloc is not what is tested.
        super::last_words();
        match theirs {
            None | Some(libc::SIG_DFL | libc::SIG_IGN) => {
                // SAFETY: the default action, then the same signal again.
                unsafe {
                    libc::signal(signal, libc::SIG_DFL);
                    libc::raise(signal);
                }
            }
            Some(theirs) => {
                // SAFETY: what was installed before, by the fuzzer, with SA_SIGINFO.
                let theirs: Handler = unsafe { std::mem::transmute(theirs) };
                theirs(signal, info, context);
            }
        }
    }

    /// Puts the handlers in front. The fuzzer installed its own before the first run.
    pub fn install() {
        let theirs = SIGNALS.map(|signal| {
            let mut old = MaybeUninit::<libc::sigaction>::zeroed();
            // SAFETY: an action with a handler of the right type; an all-zero one is valid.
            unsafe {
                let mut ours: libc::sigaction = std::mem::zeroed();
                ours.sa_sigaction = handler as *const () as usize;
                ours.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
                libc::sigaction(signal, &raw const ours, old.as_mut_ptr());
                old.assume_init().sa_sigaction
            }
        });
        let _ = THEIRS.set(theirs);
    }
}
