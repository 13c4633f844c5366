//! What a heap stands on: a kernel, the keys, the map of extents, the settings.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use fencepost::chunk::{Keys, Secret};
use fencepost::config::Settings;
use fencepost::heap::{Growth, Heap};
use fencepost::os::{Extents, Flaky, Kernel, Ledger, Os, PageState, Prot};

use super::{Bound, Host};

/// A kernel that a test can look into and disturb; what cannot be done does nothing.
pub trait Machine: Os {
    /// Somebody else moves the break.
    fn sbrk(&self, len: usize);
    /// A mapping in the way of the break.
    fn set_wall(&self, stands: bool);
    /// So much more of one thing than now is allowed, or everything.
    fn limit(&self, bound: Option<(Bound, usize)>);
    /// Whether the range may be written, as far as the machine knows.
    fn is_writable(&self, addr: usize, len: usize) -> bool;
    /// Calls that were refused for want of room.
    fn refused(&self) -> u64;
    /// Looks at what belongs to others.
    fn check_foreign(&self);
    /// Looks at itself.
    fn check_itself(&self);
}

impl Machine for Host {
    fn sbrk(&self, len: usize) {
        Host::sbrk(self, len);
    }
    fn set_wall(&self, stands: bool) {
        Host::set_wall(self, stands);
    }
    fn limit(&self, bound: Option<(Bound, usize)>) {
        Host::limit(self, bound);
    }
    fn is_writable(&self, addr: usize, len: usize) -> bool {
        Host::is_writable(self, addr, len)
    }
    fn refused(&self) -> u64 {
        Host::refused(self)
    }
    fn check_foreign(&self) {
        Host::check_foreign(self);
    }
    fn check_itself(&self) {
        Host::check_computer(self);
    }
}

impl Machine for Kernel {
    fn sbrk(&self, _: usize) {}
    fn set_wall(&self, _: bool) {}
    fn limit(&self, _: Option<(Bound, usize)>) {}
    fn is_writable(&self, _: usize, _: usize) -> bool {
        true
    }
    fn refused(&self) -> u64 {
        0
    }
    fn check_foreign(&self) {}
    fn check_itself(&self) {}
}

/// What lives as long as the process in a program, and as long as one test here.
#[derive(Debug)]
pub struct Ground<O: Os + 'static> {
    os: *mut O,
    keys: *mut Keys<O::Region>,
    extents: *mut Extents,
    settings: *mut Settings,
}

impl<O: Os + 'static> Ground<O> {
    /// A ground over `os` with a secret made from `seed`.
    ///
    /// # Safety
    /// Whatever is made from the references that this hands out is gone before the ground is.
    pub unsafe fn new(os: O, seed: u64) -> Ground<O> {
        // The map is large and all zero: made in place, so that most of it stays untouched.
        let layout = Layout::new::<Extents>();
        // SAFETY: the layout is not empty.
        let extents: *mut Extents = unsafe { alloc_zeroed(layout) }.cast();
        if extents.is_null() {
            handle_alloc_error(layout);
        }
        let os = Box::into_raw(Box::new(os));
        let random = [1, 2, 3, 4].map(|n| (seed + n).wrapping_mul(0xd6e8_feb8_6659_fd93));
        let keys = Box::into_raw(Box::new(Keys {
            // SAFETY: just made.
            region: unsafe { &*os }.region(),
            secret: Secret::new(random),
            // SAFETY: allocated above; zero is an empty map.
            extents: unsafe { &*extents },
        }));
        Ground {
            os,
            keys,
            extents,
            settings: Box::into_raw(Box::new(Settings::new())),
        }
    }

    /// The kernel.
    pub fn os(&self) -> &'static O {
        // SAFETY: alive until `self` is dropped, and `new`'s caller keeps to that.
        unsafe { &*self.os }
    }

    /// The keys.
    pub fn keys(&self) -> &'static Keys<O::Region> {
        // SAFETY: as in `os`.
        unsafe { &*self.keys }
    }

    /// The tunables.
    pub fn settings(&self) -> &'static Settings {
        // SAFETY: as in `os`.
        unsafe { &*self.settings }
    }

    /// A heap on this ground.
    pub fn heap(&self, owner: usize, growth: Growth) -> Heap<&'static O> {
        Heap::new(self.os(), self.keys(), self.settings(), owner, growth)
    }
}

impl<O: Os + 'static> Ground<Ledger<Flaky<O>>> {
    /// Lets the account map its first nodes, where the calls of a heap are to be counted.
    pub fn open_account(&self) {
        let os = self.os();
        let mapped = os.map(0, os.page_size(), Prot::ReadWrite).expect("room");
        // SAFETY: mapped just now.
        unsafe { os.unmap(mapped, os.page_size()) }.expect("one whole mapping");
        let end = os.program_break();
        os.note(end, end + os.page_size(), PageState::Live);
        os.note(end, end + os.page_size(), PageState::None);
        os.inner().refuse(u64::MAX, u64::MAX);
    }
}

impl<O: Os + 'static> Drop for Ground<O> {
    fn drop(&mut self) {
        // SAFETY: made by `new` as boxes and by this layout; `new`'s caller promises that
        // nobody uses them any more.
        unsafe {
            drop(Box::from_raw(self.keys));
            drop(Box::from_raw(self.settings));
            drop(Box::from_raw(self.os));
            dealloc(self.extents.cast(), Layout::new::<Extents>());
        }
    }
}
