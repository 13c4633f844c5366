//! The handler of SIGSEGV and SIGBUS.
//!
//! # Whose fault is it
//!
//! | where | the program has a handler | then |
//! |---|---|---|
//! | in the pool, where no object in use is | does not matter | report, default action |
//! | anywhere else | yes | it is called, and nothing is said |
//! | anywhere else | no, or it was reset meanwhile | report, default action |
//!
//! After a report the default action is in place and the handler returns, so that the very
//! instruction faults again: debugger and core dump see it and its registers, and the process
//! ends by the signal that it would have ended by without us.
//!
//! # Beside the program's own handlers
//!
//! Programs handle these signals too: runtimes tell the overflow of a stack, collectors protect
//! pages and let the program go on. Such handlers must work unchanged, whether installed before
//! us or after, and a program must not find a handler where it has installed none: Rust's standard
//! library would then not install its own, and its report of an overflowed stack be lost.
//!
//! * *Under the preload* the library has the names `sigaction`, `signal` and their like. For these
//!   two signals they write down what the program wants, tell it what it wanted before (at first
//!   what the kernel had, which is the default after exec), and leave our handler in the kernel.
//!   Every other signal goes to the C library. What reaches the kernel by other ways is found by
//!   [`recheck`].
//! * *In a Rust program with fencepost as its allocator* no name is taken. The handler is installed
//!   at the first guarded allocation, which comes after the standard library's start, and what was
//!   there comes next. What is installed later is found by [`recheck`], which the pool calls now
//!   and then, and put on top of that; see the module `wishes`. Until then a handler of the
//!   program's comes before ours: then only what it passes on is reported.
//!
//! The program's handler is called as the kernel would: with its mask, `SA_NODEFER`,
//! `SA_RESETHAND`, with the same siginfo and context, on the alternate stack only if it asked for
//! that: our own action has `SA_ONSTACK` exactly if no handler of the program's is there that
//! lacks it.
//!
//! A child of vfork shares our memory, but not the kernel's actions: what it says goes to the
//! kernel alone.
//!
//! # Limits
//!
//! A thread that has blocked these signals is ended by the kernel without any handler being called.
//! A stack that overflows in a thread without alternate stack, too. A program that ignores these
//! signals and then executes another hands our handler's end on, the default, where it would
//! have handed on that they are ignored.
#![allow(unsafe_code)] // Handlers of signals are called by the kernel, and call others.

use super::wishes::{Pile, Wishes};
use crate::os::signals::{self, Action, Trap, bit};
use crate::os::{Alternates, Os, alternate_stack, alternate_top, stack};
use crate::sync::overlay::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};

/// Who knows the heap and can tell what happened. Called in a handler, with all signals blocked,
/// by one thread at a time.
pub trait Witness: Sync {
    /// Whether an address is one of the pool's that nobody may access.
    fn holds(&self, addr: usize) -> bool;
    /// Says what happened.
    fn explain(&self, trap: &Trap);
}

const HANDLED: [c_int; 2] = [libc::SIGSEGV, libc::SIGBUS];

/// Bits of the mask that hold the mark: signals 62 to 64, which faults have no need of.
const MARK_SHIFT: u32 = 61;

/// The thread that has reported, in place of a number.
const DONE: u32 = u32::MAX;

static WISHES: [Wishes; HANDLED.len()] = [const { Wishes::new() }; HANDLED.len()];
static WITNESS: AtomicPtr<&'static dyn Witness> = AtomicPtr::new(core::ptr::null_mut());
/// Whether the program's calls of sigaction come to us, as far as is known.
static INTERPOSED: AtomicBool = AtomicBool::new(false);
/// The process whose kernel has our action.
static PROCESS: AtomicU32 = AtomicU32::new(0);
/// The number of forks that locks and stacks are in order for.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Who reports, see [`signals::identity`]; 0 is nobody, or nobody of this process.
static REPORTER: AtomicU64 = AtomicU64::new(0);
/// Where reports are made: the thread's own stack may be as small as it likes.
static REPORT_STACK: AtomicUsize = AtomicUsize::new(0);
static ALTERNATES: Alternates = Alternates::new();
static LAST: Last = Last {
    thread: AtomicU32::new(0),
    trap: UnsafeCell::new(None),
};

/// The last fault that the program's handler was called for: it may send itself the signal again.
struct Last {
    /// Whose it was; 0: nobody's; `DONE`: it is being written or read.
    thread: AtomicU32,
    trap: UnsafeCell<Option<Trap>>,
}

// SAFETY: the trap is only accessed by the thread that has set `thread` to `DONE`.
unsafe impl Sync for Last {}

impl Last {
    fn keep(&self, trap: &Trap) {
        let before = self.thread.load(Ordering::Relaxed);
        if before == DONE || !self.claim(before) {
            return;
        }
        // SAFETY: claimed.
        unsafe { *self.trap.get() = Some(*trap) };
        self.thread.store(signals::thread_id(), Ordering::Release);
    }

    /// The fault of this thread at the same instruction, once.
    fn take(&self, trap: &Trap) -> Option<Trap> {
        let thread = signals::thread_id();
        if self.thread.load(Ordering::Relaxed) != thread || !self.claim(thread) {
            return None;
        }
        // SAFETY: claimed.
        let last = unsafe { (*self.trap.get()).take() };
        self.thread.store(0, Ordering::Release);
        last.filter(|last| last.pc == trap.pc && last.signal == trap.signal)
    }

    fn claim(&self, before: u32) -> bool {
        self.thread
            .compare_exchange(before, DONE, Ordering::Acquire, Ordering::Relaxed)
            .is_ok()
    }
}

fn wishes(signal: c_int) -> Option<&'static Wishes> {
    HANDLED
        .iter()
        .zip(&WISHES)
        .find(|(handled, _)| **handled == signal)
        .map(|(_, wishes)| wishes)
}

/// Whether the handler is installed.
#[must_use]
#[inline]
pub fn is_installed() -> bool {
    !WITNESS.load(Ordering::Acquire).is_null()
}

/// Installs the handler, once.
pub fn install<O: Os>(os: &O, witness: &'static &'static dyn Witness) {
    let witness = core::ptr::from_ref(witness).cast_mut();
    let null = core::ptr::null_mut();
    PROCESS.store(signals::process_id(), Ordering::Relaxed);
    let first = WITNESS.compare_exchange(null, witness, Ordering::AcqRel, Ordering::Relaxed);
    if first.is_err() {
        return;
    }
    if let Ok(stack) = alternate_stack(os) {
        REPORT_STACK.store(alternate_top(stack), Ordering::Release);
    }
    for (signal, wishes) in HANDLED.iter().zip(&WISHES) {
        changing(wishes, |pile| {
            // SAFETY: our handler, which is ready by now.
            if let Ok(before) = unsafe { signals::exchange(*signal, Some(ours(pile))) } {
                pile.set(before);
            }
            take_place(*signal, pile);
        });
    }
}

/// Puts everything in order if this is a new process, whose number of forks is `generation`.
#[inline]
pub fn enter<O: Os>(os: &O, generation: u32) {
    if GENERATION.load(Ordering::Relaxed) != generation {
        forked(os, generation);
    }
}

#[cold]
fn forked<O: Os>(os: &O, generation: u32) {
    if GENERATION.swap(generation, Ordering::Relaxed) == generation || !is_installed() {
        return;
    }
    WISHES.iter().for_each(Wishes::forked);
    LAST.thread.store(0, Ordering::Relaxed);
    ALTERNATES.forked(os);
    PROCESS.store(signals::process_id(), Ordering::Relaxed);
}

/// Gives the calling thread an alternate stack if it has none.
pub fn thread_begins<O: Os>(os: &O) {
    // Without one an overflow of the stack ends the process unexplained, as it would without us.
    let _ = ALTERNATES.take(os);
}

/// Takes the alternate stack back.
pub fn thread_ends<O: Os>(os: &O) {
    ALTERNATES.give_back(os);
}

/// The program's own `sigaction`: takes down what it wants, and says what it wanted before. `None`
/// if the signal is none of ours; then it is between the program and the C library.
#[must_use]
pub fn wish(signal: c_int, new: Option<Action>) -> Option<Action> {
    let wishes = wishes(signal).filter(|_| is_installed())?;
    INTERPOSED.store(true, Ordering::Relaxed);
    let new = new.map(as_returned);
    if signals::process_id() != PROCESS.load(Ordering::Relaxed) {
        // A child of vfork. SAFETY: the program's own wish.
        let before = unsafe { signals::exchange(signal, new) }.ok()?;
        return Some(if is_ours(before) {
            wishes.read().at(0)
        } else {
            before
        });
    }
    Some(changing(wishes, |pile| {
        let before = pile.at(0);
        if let Some(new) = new {
            pile.set(new);
            take_place(signal, pile);
        }
        before
    }))
}

/// What a program sees when it asks: the C library adds a flag of its own, the kernel drops flags
/// that it does not know and signals that cannot be blocked.
fn as_returned(mut action: Action) -> Action {
    const SA_RESTORER: c_int = 0x0400_0000;
    const SA_EXPOSE_TAGBITS: c_int = 0x800;
    let libraries = if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
        SA_RESTORER
    } else {
        0
    };
    action.flags &= libc::SA_NOCLDSTOP
        | libc::SA_NOCLDWAIT
        | libc::SA_SIGINFO
        | libc::SA_ONSTACK
        | libc::SA_RESTART
        | libc::SA_NODEFER
        | libc::SA_RESETHAND
        | SA_EXPOSE_TAGBITS;
    action.flags |= libraries;
    action.mask &= !(bit(libc::SIGKILL) | bit(libc::SIGSTOP));
    action
}

/// Looks whether the kernel's actions are still ours. If not, the program's come next, and ours
/// is installed again. Two system calls.
pub fn recheck() {
    let reporter = REPORTER.load(Ordering::Relaxed);
    let ends = || !signals::is_of_another_process(reporter, signals::identity());
    if !is_installed() || reporter != 0 && ends() {
        return;
    }
    for signal in HANDLED {
        look(signal);
    }
}

fn look(signal: c_int) {
    let Some(wishes) = wishes(signal) else {
        return;
    };
    // SAFETY: only asks.
    let Ok(there) = (unsafe { signals::exchange(signal, None) }) else {
        return;
    };
    if is_ours(there) && mark_of(there) == wishes.read().mark() {
        return;
    }
    changing(wishes, |pile| {
        follow(pile, there);
        take_place(signal, pile);
    });
}

/// Draws the consequences of what was found in the kernel.
fn follow(pile: &mut Pile, there: Action) {
    if is_ours(there) {
        pile.cut(mark_of(there));
    } else {
        pile.adopt(there);
    }
}

/// Installs our action as the pile demands. What somebody has installed in this very moment is
/// not lost.
fn take_place(signal: c_int, pile: &mut Pile) {
    for _ in 0..2 {
        // SAFETY: our handler, which is ready by now.
        let before = unsafe { signals::exchange(signal, Some(ours(pile))) };
        match before {
            Ok(before) if !is_ours(before) && before.handler != pile.at(0).handler => {
                pile.adopt(before);
            }
            _ => return,
        }
    }
}

/// Our action over a pile.
fn ours(pile: &Pile) -> Action {
    let next = pile.at(0);
    let mut flags = libc::SA_SIGINFO;
    if !next.is_function() || next.flags & libc::SA_ONSTACK != 0 {
        flags |= libc::SA_ONSTACK;
    }
    if next.is_function() {
        flags |= next.flags & libc::SA_RESTART;
    }
    let mark = (pile.mark() as u64) << MARK_SHIFT;
    Action {
        handler: entry as *const () as usize,
        flags,
        mask: HANDLED
            .iter()
            .fold(mark, |mask, signal| mask | bit(*signal)),
    }
}

fn is_ours(action: Action) -> bool {
    action.handler == entry as *const () as usize
}

const fn mark_of(action: Action) -> usize {
    (action.mask >> MARK_SHIFT) as usize
}

fn changing<R>(wishes: &Wishes, change: impl FnOnce(&mut Pile) -> R) -> R {
    let mask = signals::set_mask(u64::MAX);
    let result = wishes.change(change);
    signals::set_mask(mask);
    result
}

/// What the kernel calls, with one more argument: where the context lies if it was the kernel.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn entry(_: c_int, _: *const libc::siginfo_t, _: *mut c_void) {
    // The kernel's frame: the return address, then the context.
    core::arch::naked_asm!("lea rcx, [rsp + 8]", "jmp {handle}", handle = sym handle)
}

/// What the kernel calls, with one more argument: where the context lies if it was the kernel.
#[cfg(target_arch = "aarch64")]
#[unsafe(naked)]
unsafe extern "C" fn entry(_: c_int, _: *const libc::siginfo_t, _: *mut c_void) {
    // The kernel's frame: 128 bytes of siginfo, then the context.
    core::arch::naked_asm!("add x3, sp, #128", "b {handle}", handle = sym handle)
}

/// What the kernel calls. Others are not told from it.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe extern "C" fn entry(signal: c_int, info: *const libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the same contract.
    unsafe { handle(signal, info, context, context) }
}

/// Handles a signal. Errno is the program's handlers' business only.
///
/// # Safety
/// As a handler with `SA_SIGINFO`.
unsafe extern "C" fn handle(
    signal: c_int,
    info: *const libc::siginfo_t,
    context: *mut c_void,
    kernels: *mut c_void,
) {
    // SAFETY: the caller's promise.
    let trap = unsafe { signals::decode(signal, info, context) };
    let Some(witness) = witness() else {
        return;
    };
    if trap.is_fault() && trap.addr.is_some_and(|addr| witness.holds(addr)) {
        report(witness, &trap);
        return;
    }
    let level = if context == kernels {
        if !INTERPOSED.load(Ordering::Relaxed) {
            look(signal);
        }
        0
    } else {
        level_of(context)
    };
    let next = next(signal, level);
    if next.is_function() {
        if trap.is_fault() {
            LAST.keep(&trap);
        }
        // SAFETY: the program's own handler, for a signal of its own.
        unsafe { pass_on(next, level, &trap, info, context) };
        if level == 0 && !INTERPOSED.load(Ordering::Relaxed) {
            look(signal);
        }
    } else if trap.is_fault() {
        report(witness, &trap);
    } else if next.handler == libc::SIG_DFL {
        // Somebody sent it. If the program's handler did, after a fault, that is what it is about.
        if let Some(fault) = LAST.take(&trap) {
            report(witness, &fault);
        }
        default_actions();
        // SAFETY: what we were given.
        unsafe { signals::send_again(signal, info) };
    }
}

fn witness() -> Option<&'static dyn Witness> {
    let witness = WITNESS.load(Ordering::Acquire);
    // SAFETY: null, or set from a reference that lives for ever.
    unsafe { witness.as_ref() }.copied()
}

/// How many handlers have passed this signal on to us.
fn level_of(context: *mut c_void) -> usize {
    stack::chain().map_or(0, |chain| {
        if chain.context.load(Ordering::Relaxed) == context.addr() {
            chain.level.load(Ordering::Relaxed).saturating_add(1)
        } else {
            0
        }
    })
}

/// What the program wants at this level; `SA_RESETHAND` is obeyed.
fn next(signal: c_int, level: usize) -> Action {
    let Some(wishes) = wishes(signal) else {
        return Action::DEFAULT;
    };
    let next = wishes.read().at(level);
    if level != 0 || !next.is_function() || next.flags & libc::SA_RESETHAND == 0 {
        return next;
    }
    changing(wishes, |pile| {
        let next = pile.at(0);
        if next.is_function() && next.flags & libc::SA_RESETHAND != 0 {
            pile.set(Action {
                handler: libc::SIG_DFL,
                ..next
            });
            take_place(signal, pile);
        }
        next
    })
}

/// Calls the program's handler as the kernel would have.
///
/// # Safety
/// `next` is a handler, the rest what the kernel gave to ours.
unsafe fn pass_on(
    next: Action,
    level: usize,
    trap: &Trap,
    info: *const libc::siginfo_t,
    context: *mut c_void,
) {
    if level == 0 {
        let own = if next.flags & libc::SA_NODEFER == 0 {
            bit(trap.signal)
        } else {
            0
        };
        signals::set_mask(trap.mask | next.mask | own);
    }
    let chain = stack::chain();
    let before = chain.map(|chain| {
        (
            chain.context.swap(context.addr(), Ordering::Relaxed),
            chain.level.swap(level, Ordering::Relaxed),
        )
    });
    // The kernel gives all three arguments to any handler, too.
    type Handler = unsafe extern "C" fn(c_int, *const libc::siginfo_t, *mut c_void);
    // SAFETY: the program has named this function as its handler.
    unsafe {
        let handler: Handler =
            core::mem::transmute(core::ptr::with_exposed_provenance::<()>(next.handler));
        handler(trap.signal, info, context);
    }
    if let (Some(chain), Some((context, level))) = (chain, before) {
        chain.context.store(context, Ordering::Relaxed);
        chain.level.store(level, Ordering::Relaxed);
    }
}

/// Reports, and sees to it that the process ends when the handler has returned.
fn report(witness: &'static dyn Witness, trap: &Trap) {
    let own = signals::identity();
    let done = own | u64::from(DONE);
    loop {
        let reporter = REPORTER.load(Ordering::Acquire);
        if reporter == own {
            // A fault while we report one. The kernel ends a process that has the signal blocked,
            // but a handler of the program's may have opened it.
            default_actions();
            return;
        }
        if reporter == done {
            break;
        }
        if reporter != 0 && !signals::is_of_another_process(reporter, own) {
            signals::nap(1);
            continue;
        }
        let mine = REPORTER.compare_exchange(reporter, own, Ordering::AcqRel, Ordering::Relaxed);
        if mine.is_err() {
            continue;
        }
        // Another handler on the alternate stack would overwrite what the kernel put there: it
        // does not see that we are still using it.
        signals::set_mask(u64::MAX);
        let job = Job { witness, trap };
        on_stack(REPORT_STACK.load(Ordering::Acquire), &job);
        default_actions();
        REPORTER.store(done, Ordering::Release);
        return;
    }
    // The one who has reported ends the process, so that a core dump begins with it. It may be
    // that its fault does not come again.
    for _ in 0..1000 {
        signals::nap(5);
    }
}

fn default_actions() {
    for signal in HANDLED {
        // SAFETY: the default calls no function.
        let _ = unsafe { signals::exchange(signal, Some(Action::DEFAULT)) };
    }
}

struct Job<'a> {
    witness: &'static dyn Witness,
    trap: &'a Trap,
}

extern "C" fn work(job: &Job<'_>) {
    job.witness.explain(job.trap);
}

/// Does the job on the stack that ends at `top`, or where we are if that is 0.
fn on_stack(top: usize, job: &Job<'_>) {
    if top == 0 {
        work(job);
        return;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the stack is ours and nobody else's; the old pointer is kept in a register that the
    // function preserves.
    unsafe {
        core::arch::asm!(
            "mov r12, rsp",
            "mov rsp, {top}",
            "call {work}",
            "mov rsp, r12",
            top = in(reg) top,
            work = sym work,
            in("rdi") job,
            out("r12") _,
            clobber_abi("C"),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!(
            "mov x20, sp",
            "mov sp, {top}",
            "bl {work}",
            "mov sp, x20",
            top = in(reg) top,
            work = sym work,
            in("x0") job,
            out("x20") _,
            clobber_abi("C"),
        );
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    work(job);
}
