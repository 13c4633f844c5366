//! The process's own memory, read without touching it.
//!
//! `process_vm_readv(2)` of ourselves answers with fewer bytes where a load would fault: guards,
//! holes and strange mappings are skipped. `/proc/self/pagemap` tells which pages were ever
//! written to, so that a reservation of terabytes costs nothing.
#![allow(unsafe_code)] // System calls, a buffer in raw pages.

use super::call::system_call;
use super::lines::{BUFFER, File, Lines};
use super::signals::process_id;
use super::{Os, OsError, PageState, Prot, Region};
use crate::mmu::addr::Rights;
use crate::mmu::listing;

const WORD: usize = size_of::<usize>();
/// Bytes read at a time.
const PIECE: usize = 64 << 10;
/// Entries of the page map read at a time.
const WINDOW: usize = 512;

/// Bits of an entry of the page map.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_FILE: u64 = 1 << 61;
const GUARD: u64 = 1 << 58;

/// A part of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The first address.
    pub start: usize,
    /// The first address after.
    pub end: usize,
    /// What the process may do there.
    pub rights: Rights,
    /// Whether others see what is written.
    pub shared: bool,
    /// Whether a file lies behind it.
    pub file: bool,
    /// Whether it is the main thread's stack.
    pub stack: bool,
    /// Whether it is memory that processes share, of which no file remains.
    pub shared_memory: bool,
}

impl Area {
    /// Nothing.
    pub const NONE: Area = Area {
        start: 0,
        end: 0,
        rights: Rights::NONE,
        shared: false,
        file: false,
        stack: false,
        shared_memory: false,
    };
}

/// Passes all areas on, in order; `false` from `look` ends it.
///
/// # Errors
/// If the listing cannot be read.
pub fn each_area(mut look: impl FnMut(Area) -> Result<(), OsError>) -> Result<(), OsError> {
    let mut buffer = [0; BUFFER];
    let mut lines = Lines::open(c"/proc/self/maps", &mut buffer)?;
    loop {
        let area = lines.next(|line| {
            let line = listing::Line::parse(line).ok()?;
            let kinds: [&[u8]; 4] = [b"/dev/zero", b"/memfd:", b"/dev/shm/", b"/SYSV"];
            Some(Area {
                start: line.start as usize,
                end: line.end as usize,
                rights: line.rights,
                shared: line.shared,
                file: line.inode != 0,
                stack: line.name == b"[stack]",
                shared_memory: kinds.iter().any(|kind| line.name.starts_with(kind)),
            })
        });
        match area {
            None => return Ok(()),
            Some(None) => {}
            Some(Some(area)) => look(area)?,
        }
    }
}

/// Reads memory of the calling process.
pub struct Reader<O: Os + Copy> {
    os: O,
    id: usize,
    /// Where [`PIECE`] bytes of our own lie.
    piece: usize,
    pagemap: Option<File>,
    window: [u64; WINDOW],
    /// The page that the window begins with, and how many it tells of.
    first: usize,
    count: usize,
    shift: u32,
}

impl<O: Os + Copy> Reader<O> {
    /// A reader that works.
    ///
    /// # Errors
    /// If the kernel does not let us read our own memory that way, or there is no memory.
    pub fn new(os: O) -> Result<Reader<O>, OsError> {
        let piece = os.map(0, PIECE, Prot::ReadWrite)?;
        os.note(piece, piece + PIECE, PageState::Meta);
        let reader = Reader {
            os,
            id: process_id() as usize,
            piece,
            pagemap: File::open(c"/proc/self/pagemap").ok(),
            window: [0; WINDOW],
            first: 0,
            count: 0,
            shift: os.page_size().trailing_zeros(),
        };
        let probe = [0x5eed_usize, !0];
        let at = probe.as_ptr().expose_provenance();
        let len = reader.read(at, size_of_val(&probe))?;
        if reader.piece().get(..2) != Some(&probe) || len != size_of_val(&probe) {
            return Err(OsError(libc::EIO));
        }
        Ok(reader)
    }

    /// The words that were read last, and older ones after them.
    fn piece(&self) -> &[usize] {
        let first = self.os.region().at(self.piece).cast::<usize>();
        // SAFETY: pages of our own, which only the kernel writes to, while it is asked to.
        unsafe { core::slice::from_raw_parts(first, PIECE / WORD) }
    }

    /// Reads up to [`PIECE`] bytes; how many there were.
    fn read(&self, from: usize, len: usize) -> Result<usize, OsError> {
        let vector = |base: usize| libc::iovec {
            iov_base: core::ptr::without_provenance_mut(base),
            iov_len: len.min(PIECE),
        };
        let (to, from) = (vector(self.piece), vector(from));
        let args = [
            self.id,
            (&raw const to).expose_provenance(),
            1,
            (&raw const from).expose_provenance(),
            1,
            0,
        ];
        // SAFETY: the kernel writes to our own pages no more than they hold.
        unsafe { system_call(libc::SYS_process_vm_readv, args) }
    }

    /// What the page map says of the page at an address; `None` where there is no page map.
    fn entry(&mut self, addr: usize) -> Option<u64> {
        let file = self.pagemap.as_ref()?;
        let number = addr >> self.shift;
        if number < self.first || number - self.first >= self.count {
            self.first = number;
            self.count = file.words(&mut self.window, number);
            if self.count == 0 {
                self.pagemap = None;
                return None;
            }
        }
        self.window.get(number - self.first).copied()
    }

    /// Whether the page at an address is a guard without a mapping of its own.
    pub fn is_guard(&mut self, addr: usize) -> bool {
        self.entry(addr).is_some_and(|entry| entry & GUARD != 0)
    }

    /// Passes on each aligned word of `from..to` that can be read. Pages that were never written
    /// to are left out, and if `private`, pages that are as the file has them.
    pub fn words(&mut self, from: usize, to: usize, private: bool, found: &mut impl FnMut(usize)) {
        let page = self.os.page_size();
        let mut at = from.next_multiple_of(WORD);
        let to = to & !(WORD - 1);
        while at < to {
            // A run of pages that are worth it.
            let mut end = at;
            while end < to && end - at < PIECE {
                let worth = self.entry(end).is_none_or(|entry| {
                    entry & (PRESENT | SWAPPED) != 0
                        && entry & GUARD == 0
                        && !(private && entry & OF_FILE != 0)
                });
                if !worth {
                    break;
                }
                end = ((end | (page - 1)).saturating_add(1)).min(to);
            }
            if end == at {
                at = (at | (page - 1)).saturating_add(1);
                continue;
            }
            let end = end.min(at + PIECE);
            let len = self.read(at, end - at).unwrap_or(0);
            for &word in self.piece().iter().take(len / WORD) {
                found(word);
            }
            at = if len == end - at {
                end
            } else {
                // A page that cannot be read.
                ((at + len) | (page - 1)).saturating_add(1)
            };
        }
    }
}

impl<O: Os + Copy> Drop for Reader<O> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has it any more.
        let _ = unsafe { self.os.unmap(self.piece, PIECE) };
    }
}
