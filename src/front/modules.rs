//! Programs and libraries by an address in their code, and threads by their number.
#![allow(unsafe_code)] // A table in raw pages.

use super::guarding::GUARD;
use super::process::{KERNEL, SHARED};
use crate::guard::scene::{Names, ThreadName};
use crate::guard::{FRAMES, StackId};
use crate::os::{BUFFER, File, Location, Modules, Os, PageState, Prot, Region};
use crate::report::Line;
use crate::size::align_up;
use crate::sync::Lock;
use crate::sync::overlay::{AtomicU32, AtomicUsize, Ordering};

/// A table of modules, in pages of its own.
#[derive(Debug)]
pub(super) struct Snapshot {
    at: usize,
}

#[repr(C)]
struct Pages {
    modules: Modules,
    buffer: [u8; BUFFER],
}

impl Snapshot {
    fn bytes() -> usize {
        align_up(size_of::<Pages>(), KERNEL.page_size())
    }

    fn map() -> Option<Snapshot> {
        let at = KERNEL.map(0, Self::bytes(), Prot::ReadWrite).ok()?;
        KERNEL.note(at, at + Self::bytes(), PageState::Meta);
        Some(Snapshot { at })
    }

    fn pages(&self) -> *mut Pages {
        KERNEL.region().at(self.at).cast()
    }

    /// The modules as they are now. `None` if there is no memory.
    pub(super) fn take() -> Option<Snapshot> {
        let mut snapshot = Self::map()?;
        snapshot.refresh();
        Some(snapshot)
    }

    fn refresh(&mut self) {
        // SAFETY: pages of our own, zeros at first, which are a valid table; the borrow is the
        // only one.
        let pages = unsafe { &mut *self.pages() };
        pages.modules.read(KERNEL.page_size(), &mut pages.buffer);
    }

    pub(super) fn modules(&self) -> &Modules {
        // SAFETY: as in `refresh`, and nobody changes the table while it is borrowed.
        unsafe { &(*self.pages()).modules }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // SAFETY: our own pages, which nobody knows any more.
        let _ = unsafe { KERNEL.unmap(self.at, Self::bytes()) };
    }
}

impl Names for Snapshot {
    fn stack(&self, id: StackId, frames: &mut [usize; FRAMES]) -> usize {
        GUARD.stack(id, frames)
    }

    fn locate(&self, pc: usize) -> Option<Location<'_>> {
        self.modules().locate(pc)
    }

    fn thread(&self, id: u32) -> ThreadName {
        let mut name = [0; 16];
        let mut path = Line::new();
        path.text("/proc/self/task/").decimal(id.into());
        path.text("/comm").raw(&[0]);
        if let Ok(path) = core::ffi::CStr::from_bytes_until_nul(path.as_bytes())
            && let Ok(file) = File::open(path)
        {
            file.read(&mut name);
        }
        for byte in &mut name {
            if *byte == b'\n' {
                *byte = 0;
            }
        }
        name
    }
}

/// The table that traces look into: a snapshot, taken anew when an address is not in it.
struct Table {
    lock: Lock,
    /// Where it lies; 0 before it was made.
    at: AtomicUsize,
    /// The number of forks: in a child whoever held the lock is gone.
    generation: AtomicU32,
    /// The last address that was not found, in the units below: code that no file explains is
    /// not looked for again and again.
    missed: AtomicUsize,
}

const MISSED_BITS: u32 = 20;

static TABLE: Table = Table {
    lock: Lock::new(),
    at: AtomicUsize::new(0),
    generation: AtomicU32::new(0),
    missed: AtomicUsize::new(usize::MAX),
};

/// Passes the module of an instruction on, with its address as the file counts. `None` if it is
/// not known.
pub(super) fn locate<T>(pc: usize, found: impl FnOnce(&[u8], usize) -> T) -> Option<T> {
    let now = SHARED.generation();
    if TABLE.generation.swap(now, Ordering::Relaxed) != now && TABLE.lock.is_locked() {
        TABLE.at.store(0, Ordering::Relaxed);
        TABLE.lock.unlock();
    }
    TABLE.lock.lock();
    let result = locate_locked(pc, found);
    TABLE.lock.unlock();
    result
}

fn locate_locked<T>(pc: usize, found: impl FnOnce(&[u8], usize) -> T) -> Option<T> {
    let at = TABLE.at.load(Ordering::Relaxed);
    let snapshot = if at == 0 {
        Snapshot::map()?
    } else {
        Snapshot { at }
    };
    TABLE.at.store(snapshot.at, Ordering::Relaxed);
    // It stays, however this ends.
    let mut snapshot = core::mem::ManuallyDrop::new(snapshot);
    if snapshot.modules().locate(pc).is_none()
        && TABLE.missed.load(Ordering::Relaxed) != pc >> MISSED_BITS
    {
        snapshot.refresh();
    }
    match snapshot.modules().locate(pc) {
        Some(location) => Some(found(location.module, location.offset)),
        None => {
            TABLE.missed.store(pc >> MISSED_BITS, Ordering::Relaxed);
            None
        }
    }
}
