//! `mtrace()`: every allocation and free in a file, as the C library's `mtrace` script reads it.
//!
//! ```text
//! = Start
//! @ /path/prog:[0x118c] + 0x7f5e2a0 0x1e       a block, and the size asked for
//! @ /path/prog:[0x119f] - 0x7f5e2a0            freed
//! @ /path/prog:[0x11b2] < 0x7f5e2a0            realloc: the old block,
//! @ /path/prog:[0x11b2] > 0x7f5e300 0x40       and the new one
//! @ /path/prog:[0x11c5] ! 0x7f5e300 0x7fff…    realloc that failed: the block stays
//! @ /path/prog:[0x11d8] + (nil) 0x7fff…        another call that failed
//! = End
//! ```
//!
//! In brackets stands the last byte of the instruction that called, counted as the file does, so
//! that `addr2line` names its line. (The C library writes the return address, which may belong to
//! the next line.) A block is written down after it is had and before it is given back: no other
//! thread's record of the same address comes in between.
//!
//! The hit path knows nothing of this. Where there may be a trace ([`may_be`]) threads have no
//! caches, so that every call gets here. A child of fork is not traced: its addresses are those of
//! its parent.

use super::process::{SETTINGS, SHARED, enter};
use crate::config::{Key, Text};
use crate::os::{Caller, Sink};
use crate::report::Line;
use crate::sync::overlay::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

/// No file.
const NONE: i32 = -1;
/// How often who ends the trace lets others finish a record.
const PATIENCE: u32 = 1000;

/// The file that is written to.
static TRACE: Trace = Trace {
    fd: AtomicI32::new(NONE),
    writers: AtomicU32::new(0),
    generation: AtomicU32::new(0),
    began: AtomicBool::new(false),
    identity: [AtomicU64::new(0), AtomicU64::new(0)],
};

struct Trace {
    fd: AtomicI32,
    /// Threads that are writing a record.
    writers: AtomicU32,
    /// The number of forks at which the trace began.
    generation: AtomicU32,
    /// Whether the trace that is to begin with the process has.
    began: AtomicBool,
    identity: [AtomicU64; 2],
}

/// Whether this process may trace. Such a process has no thread caches.
pub(super) fn may_be() -> bool {
    !SETTINGS.text(Text::Trace).is_empty()
}

/// Begins the trace that is to begin with the process: when its first thread can allocate.
pub(super) fn begin_with_process() {
    if SETTINGS.get(Key::Mtrace) != 0 && !TRACE.began.swap(true, Ordering::Relaxed) {
        start();
    }
}

/// Begins to trace, if `MALLOC_TRACE` was set when the process began and its file can be written.
pub fn start() {
    if !may_be() || is_on() {
        return;
    }
    enter();
    let path = SETTINGS.text(Text::Trace);
    match Sink::open(path, false) {
        Ok(sink) => {
            let mut line = Line::new();
            line.text("= Start\n");
            sink.write(line.as_bytes());
            for (to, from) in TRACE.identity.iter().zip(sink.identity) {
                to.store(from, Ordering::Relaxed);
            }
            TRACE
                .generation
                .store(SHARED.generation(), Ordering::Relaxed);
            TRACE.fd.store(sink.fd, Ordering::Release);
        }
        Err(error) => {
            let mut line = Line::new();
            line.text("fencepost: MALLOC_TRACE: cannot write ");
            line.raw(path.get(..100).unwrap_or(path));
            line.text(" (errno ").decimal(error.0.unsigned_abs().into());
            line.text(")").write_to(2);
        }
    }
}

/// Ends the trace.
pub fn stop() {
    if !is_on() {
        return;
    }
    let fd = TRACE.fd.swap(NONE, Ordering::AcqRel);
    if fd == NONE {
        return;
    }
    let sink = TRACE.sink(fd);
    // Who is writing a record must not find another file under the number.
    for _ in 0..PATIENCE {
        if TRACE.writers.load(Ordering::Acquire) == 0 {
            sink.write(b"= End\n");
            sink.close();
            return;
        }
        crate::os::yield_now();
    }
    // A signal handler ends what it interrupted: the file stays open.
    sink.write(b"= End\n");
}

impl Trace {
    fn sink(&self, fd: i32) -> Sink {
        let [device, inode] = &self.identity;
        Sink {
            fd,
            identity: [
                device.load(Ordering::Relaxed),
                inode.load(Ordering::Relaxed),
            ],
        }
    }

    /// Writes a record. A trace whose file was closed by the program ends.
    #[cold]
    fn write(&self, record: &Record) {
        self.writers.fetch_add(1, Ordering::AcqRel);
        let fd = self.fd.load(Ordering::Acquire);
        if fd != NONE && !self.sink(fd).write(record.as_bytes()) {
            let _ = self
                .fd
                .compare_exchange(fd, NONE, Ordering::Relaxed, Ordering::Relaxed);
        }
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether calls are traced now.
#[inline]
pub(super) fn is_on() -> bool {
    TRACE.fd.load(Ordering::Relaxed) != NONE && is_here()
}

/// Whether this is the process that began the trace.
#[cold]
fn is_here() -> bool {
    enter();
    SHARED.generation() == TRACE.generation.load(Ordering::Relaxed)
}

/// A block was allocated; address 0 if it could not be.
#[inline]
pub(super) fn allocated(caller: Caller, addr: usize, size: usize) {
    if is_on() {
        let mut record = Record::new();
        record.from(caller);
        record.sign("+").address(addr).size(size);
        TRACE.write(&record);
    }
}

/// A block is about to be freed.
#[inline]
pub(super) fn freed(caller: Caller, addr: usize) {
    if is_on() {
        let mut record = Record::new();
        record.from(caller);
        record.sign("-").address(addr).end();
        TRACE.write(&record);
    }
}

/// A block has got another size, and perhaps another place: then the old one is about to be freed.
/// `to` is 0 if it could not be: the block is as it was.
#[cold]
pub(super) fn resized(caller: Caller, addr: usize, to: usize, size: usize) {
    let mut record = Record::new();
    record.from(caller);
    if to == 0 {
        record.sign("!").address(addr).size(size);
    } else {
        record.sign("<").address(addr).end();
        record.from(caller);
        record.sign(">").address(to).size(size);
    }
    TRACE.write(&record);
}

/// The longest path that a record names.
const PATH: usize = 1024;
/// Two lines, each with a path and three numbers.
const RECORD: usize = 2 * (PATH + 80);

/// One or two lines, built on the stack and written with one system call.
struct Record {
    bytes: [u8; RECORD],
    len: usize,
}

impl Record {
    const fn new() -> Record {
        Record {
            bytes: [0; RECORD],
            len: 0,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn raw(&mut self, bytes: &[u8]) -> &mut Record {
        let room = self.bytes.iter_mut().skip(self.len);
        for (to, &from) in room.zip(bytes) {
            *to = from;
            self.len += 1;
        }
        self
    }

    fn hex(&mut self, number: usize) -> &mut Record {
        let mut line = Line::new();
        line.hex(number);
        self.raw(line.as_bytes())
    }

    /// Where the call came from, if that is known.
    fn from(&mut self, caller: Caller) {
        let Some(pc) = caller.pc.checked_sub(1) else {
            return;
        };
        self.raw(b"@ ");
        let offset = super::modules::locate(pc, |module, offset| {
            if module.len() <= PATH {
                self.raw(module).raw(b":");
                return offset;
            }
            pc
        });
        self.raw(b"[").hex(offset.unwrap_or(pc)).raw(b"] ");
    }

    fn sign(&mut self, sign: &str) -> &mut Record {
        self.raw(sign.as_bytes()).raw(b" ")
    }

    fn address(&mut self, addr: usize) -> &mut Record {
        if addr == 0 {
            self.raw(b"(nil)")
        } else {
            self.hex(addr)
        }
    }

    fn size(&mut self, size: usize) {
        // As C's `%#lx` has it.
        if size == 0 {
            self.raw(b" 0").end();
        } else {
            self.raw(b" ").hex(size).end();
        }
    }

    fn end(&mut self) {
        self.raw(b"\n");
    }
}
