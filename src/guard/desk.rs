//! Where reports are written: one at a time, in storage that is there from the start.
//!
//! Used in signal handlers and by calls that end the process. Nothing here allocates, and the only
//! lock is the desk's own, which a thread that faults while it sits there does not wait for.
#![allow(unsafe_code)] // Storage that is handed from thread to thread.

use super::pool::Pool;
use super::record::StackId;
use super::scene::{Fault, Incident, Location, Names, Scene, Slots, ThreadName};
use super::stacks::FRAMES;
use super::verdict::Verdict;
use super::{json, text};
use crate::os::signals::{Trap, identity, is_of_another_process, nap, process_id, thread_id};
use crate::os::{BUFFER, Os, PageState, append, link_target, survey, thread_name};
use crate::report::Line;
use crate::sync::overlay::{AtomicU64, Ordering};
use core::cell::UnsafeCell;

/// The longest path that is read.
const PATH: usize = 4096;
/// Bytes of a line of text.
const LINE: usize = PATH + 256;
/// Bytes of a report as JSON.
const REPORT: usize = 32 << 10;

/// How reports are to be made.
#[derive(Debug, Clone, Copy)]
pub struct Style<'s> {
    /// Whether text goes to standard error.
    pub text: bool,
    /// The file that JSON is appended to, `%p` in it is the process; empty for none.
    pub file: &'s [u8],
    /// One allocation in so many is guarded.
    pub sampled: u64,
}

/// What is known before anything is looked up.
#[derive(Debug, Clone, Copy)]
pub struct Case<'c> {
    /// The address that it is about, if there is one.
    pub addr: Option<usize>,
    /// The stack pointer of the thread.
    pub sp: usize,
    /// The thread's call stack.
    pub stack: &'c [usize],
    /// The signal and its `si_code` if it was a fault.
    pub signal: Option<(i32, i32)>,
    /// The state of the address's page by our account.
    pub page: PageState,
}

struct Papers {
    modules: crate::os::Modules,
    listing: [u8; BUFFER],
    name: [u8; PATH],
    program: [u8; PATH],
    line: [u8; LINE],
    report: [u8; REPORT],
}

/// The desk.
pub struct Desk {
    /// The thread that sits there, see [`identity`]; 0: nobody, or nobody of this process.
    taken: AtomicU64,
    papers: UnsafeCell<Papers>,
}

// SAFETY: the papers are only accessed by the thread whose number `taken` holds.
unsafe impl Sync for Desk {}

impl core::fmt::Debug for Desk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// An empty desk, all zero.
    #[must_use]
    #[allow(clippy::large_stack_frames, clippy::new_without_default)] // Only for statics.
    pub const fn new() -> Desk {
        Desk {
            taken: AtomicU64::new(0),
            papers: UnsafeCell::new(Papers {
                modules: crate::os::Modules::new(),
                listing: [0; BUFFER],
                name: [0; PATH],
                program: [0; PATH],
                line: [0; LINE],
                report: [0; REPORT],
            }),
        }
    }

    /// Explains a fault.
    pub fn fault<O: Os + Copy>(
        &self,
        pool: &Pool<O>,
        style: Style<'_>,
        page: PageState,
        trap: &Trap,
    ) {
        let fault = Fault {
            addr: trap.addr,
            access: trap.access,
            signal: trap.signal,
            code: trap.code,
            trap: trap.trap,
            error: trap.error,
            pc: trap.pc,
            sp: trap.sp,
            fp: trap.fp,
            registers: trap.registers,
        };
        self.sit(|papers| {
            papers
                .modules
                .read(pool.os().page_size(), &mut papers.listing);
            let mut frames = [0; FRAMES];
            let count = super::unwind::of_trap(trap, &papers.modules, &mut frames);
            let case = Case {
                addr: fault.addr,
                sp: fault.sp,
                stack: frames.get(..count).unwrap_or(&[]),
                signal: Some((fault.signal, fault.code)),
                page,
            };
            papers.write(pool, style, &case, |scene| {
                Some(super::diagnosis::of_fault(&fault, scene))
            });
        });
    }

    /// Explains anything else: `judge` is shown what was found, and says what it means. Returns
    /// whether it said something.
    pub fn explain<O: Os + Copy>(
        &self,
        pool: &Pool<O>,
        style: Style<'_>,
        case: &Case<'_>,
        judge: impl for<'m> FnOnce(&Scene<'m>) -> Option<Verdict<'m>>,
    ) -> bool {
        let mut said = false;
        self.sit(|papers| {
            papers
                .modules
                .read(pool.os().page_size(), &mut papers.listing);
            said = papers.write(pool, style, case, judge);
        });
        said
    }

    /// Does something at the desk once it is free; not at all if this thread sits there already.
    fn sit(&self, work: impl FnOnce(&mut Papers)) {
        let own = identity();
        loop {
            let other = self.taken.load(Ordering::Relaxed);
            if other == own {
                return;
            }
            if other != 0 && !is_of_another_process(other, own) {
                nap(1);
                continue;
            }
            let mine =
                self.taken
                    .compare_exchange(other, own, Ordering::Acquire, Ordering::Relaxed);
            if mine.is_ok() {
                break;
            }
        }
        // SAFETY: this thread's number is in `taken`, and it is not inside of `work` already.
        work(unsafe { &mut *self.papers.get() });
        self.taken.store(0, Ordering::Release);
    }
}

impl Papers {
    fn write<O: Os + Copy>(
        &mut self,
        pool: &Pool<O>,
        style: Style<'_>,
        case: &Case<'_>,
        judge: impl for<'m> FnOnce(&Scene<'m>) -> Option<Verdict<'m>>,
    ) -> bool {
        let Papers {
            modules,
            listing,
            name,
            program,
            line,
            report,
        } = self;
        let length = link_target(c"/proc/self/exe", program);
        let mut scene = Scene::NOWHERE;
        scene.now = pool.now();
        if let Some(addr) = case.addr {
            let found = survey(addr, case.sp, modules, listing, name);
            scene = Scene {
                page: case.page,
                slots: if pool.holds(addr) {
                    pool.slots(addr)
                } else {
                    Slots::default()
                },
                ground: found.ground,
                rights: found.rights,
                below_stack: found.below_stack,
                now: scene.now,
            };
        }
        let Some(verdict) = judge(&scene) else {
            return false;
        };
        let incident = Incident {
            thread: thread_id(),
            stack: case.stack,
            signal: case.signal,
            process: process_id(),
            program: program.get(..length).unwrap_or(&[]),
            now: scene.now,
            sampled: style.sampled,
        };
        let names = Index { pool, modules };
        let mut filed = false;
        if !style.file.is_empty() {
            let bytes = json::report(&verdict, &incident, &names, report);
            let mut path = Line::over(&mut line[..]);
            expand(style.file, incident.process, &mut path);
            filed = append(path.as_bytes(), bytes);
        }
        // A program that has dropped its rights, or changed its root, may not reach the file.
        if style.text || !filed {
            text::Writer::new(&names, line, &mut |line| crate::report::write(2, line))
                .report(&verdict, &incident);
        }
        true
    }
}

/// The file's name for a process, with a zero byte at its end.
fn expand(name: &[u8], process: u32, path: &mut Line<&mut [u8]>) {
    let mut rest = name.iter();
    while let Some(byte) = rest.next() {
        if *byte == b'%' && rest.as_slice().first() == Some(&b'p') {
            rest.next();
            path.decimal(process.into());
        } else {
            path.raw(&[*byte]);
        }
    }
    path.raw(&[0]);
}

struct Index<'i, O: Os + Copy + 'static> {
    pool: &'i Pool<O>,
    modules: &'i crate::os::Modules,
}

impl<O: Os + Copy> Names for Index<'_, O> {
    fn stack(&self, id: StackId, frames: &mut [usize; FRAMES]) -> usize {
        self.pool.stack(id, frames)
    }

    fn locate(&self, pc: usize) -> Option<Location<'_>> {
        self.modules.locate(pc)
    }

    fn thread(&self, id: u32) -> ThreadName {
        thread_name(id)
    }
}
