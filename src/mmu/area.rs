//! One virtual memory area, and the constants of Linux's memory calls.

use super::addr::{ObjectId, Rights};

/// Linux's errno of a refused call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Not allowed.
    pub const EPERM: Errno = Errno(1);
    /// No such descriptor.
    pub const EBADF: Errno = Errno(9);
    /// Try again (locked memory beyond its limit).
    pub const EAGAIN: Errno = Errno(11);
    /// Out of memory, of address space, of areas; or a hole.
    pub const ENOMEM: Errno = Errno(12);
    /// The object does not allow it.
    pub const EACCES: Errno = Errno(13);
    /// An address that cannot be used.
    pub const EFAULT: Errno = Errno(14);
    /// Something is there already.
    pub const EEXIST: Errno = Errno(17);
    /// An argument that makes no sense.
    pub const EINVAL: Errno = Errno(22);
    /// Not supported.
    pub const EOPNOTSUPP: Errno = Errno(95);
}

/// The numbers that Linux's memory calls take, on x86-64.
pub mod linux {
    /// No access.
    pub const PROT_NONE: u32 = 0;
    /// Loads.
    pub const PROT_READ: u32 = 1;
    /// Stores.
    pub const PROT_WRITE: u32 = 2;
    /// Instruction fetches.
    pub const PROT_EXEC: u32 = 4;
    /// For atomic operations; means nothing on x86.
    pub const PROT_SEM: u32 = 8;
    /// Down to the beginning of a growing area.
    pub const PROT_GROWSDOWN: u32 = 0x0100_0000;
    /// Up to the end of a growing area.
    pub const PROT_GROWSUP: u32 = 0x0200_0000;

    /// Stores are seen by others.
    pub const MAP_SHARED: u32 = 1;
    /// Stores are ours alone.
    pub const MAP_PRIVATE: u32 = 2;
    /// Exactly there, replacing what is.
    pub const MAP_FIXED: u32 = 0x10;
    /// Not a file.
    pub const MAP_ANONYMOUS: u32 = 0x20;
    /// A stack.
    pub const MAP_GROWSDOWN: u32 = 0x100;
    /// Locked in memory.
    pub const MAP_LOCKED: u32 = 0x2000;
    /// Not counted as committed.
    pub const MAP_NORESERVE: u32 = 0x4000;
    /// Faulted in at once.
    pub const MAP_POPULATE: u32 = 0x8000;
    /// Not faulted in, [`MAP_POPULATE`] or not.
    pub const MAP_NONBLOCK: u32 = 0x1_0000;
    /// A thread's stack: no huge pages.
    pub const MAP_STACK: u32 = 0x2_0000;
    /// Of the pool of huge pages.
    pub const MAP_HUGETLB: u32 = 0x4_0000;
    /// Exactly there, if nothing is.
    pub const MAP_FIXED_NOREPLACE: u32 = 0x10_0000;

    /// The range may be moved.
    pub const MREMAP_MAYMOVE: u32 = 1;
    /// To exactly there, replacing what is.
    pub const MREMAP_FIXED: u32 = 2;
    /// An empty area stays behind.
    pub const MREMAP_DONTUNMAP: u32 = 4;

    /// No special treatment.
    pub const MADV_NORMAL: u32 = 0;
    /// Read at random.
    pub const MADV_RANDOM: u32 = 1;
    /// Read in order.
    pub const MADV_SEQUENTIAL: u32 = 2;
    /// Needed soon.
    pub const MADV_WILLNEED: u32 = 3;
    /// Contents are not needed.
    pub const MADV_DONTNEED: u32 = 4;
    /// Contents are not needed, unless written to again.
    pub const MADV_FREE: u32 = 8;
    /// Punch a hole into the object.
    pub const MADV_REMOVE: u32 = 9;
    /// Not for children.
    pub const MADV_DONTFORK: u32 = 10;
    /// For children again.
    pub const MADV_DOFORK: u32 = 11;
    /// Merge equal pages.
    pub const MADV_MERGEABLE: u32 = 12;
    /// Do not merge equal pages.
    pub const MADV_UNMERGEABLE: u32 = 13;
    /// Huge pages, please.
    pub const MADV_HUGEPAGE: u32 = 14;
    /// No huge pages, please.
    pub const MADV_NOHUGEPAGE: u32 = 15;
    /// Not in core dumps.
    pub const MADV_DONTDUMP: u32 = 16;
    /// In core dumps again.
    pub const MADV_DODUMP: u32 = 17;
    /// Zero for children.
    pub const MADV_WIPEONFORK: u32 = 18;
    /// For children as it is again.
    pub const MADV_KEEPONFORK: u32 = 19;
    /// Not needed for a while.
    pub const MADV_COLD: u32 = 20;
    /// Page it out.
    pub const MADV_PAGEOUT: u32 = 21;
    /// Fault it in for reading.
    pub const MADV_POPULATE_READ: u32 = 22;
    /// Fault it in for writing.
    pub const MADV_POPULATE_WRITE: u32 = 23;
    /// As DONTNEED, of locked memory too.
    pub const MADV_DONTNEED_LOCKED: u32 = 24;
    /// Any access is a fault.
    pub const MADV_GUARD_INSTALL: u32 = 102;
    /// Accesses are allowed again.
    pub const MADV_GUARD_REMOVE: u32 = 103;
}

/// What an area's pages are filled from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Zero, private.
    Anonymous,
    /// An object, from an offset in bytes.
    Object {
        /// Which one.
        object: ObjectId,
        /// The byte of it at the area's start.
        offset: u64,
        /// Whether stores reach the object (else they are copied first).
        shared: bool,
    },
}

/// Properties of an area beside its rights. A set of constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Traits(pub u16);

impl Traits {
    /// A stack: grows down when touched below.
    pub const GROWS_DOWN: Traits = Traits(1 << 0);
    /// Not for children.
    pub const DONT_FORK: Traits = Traits(1 << 1);
    /// Zero for children.
    pub const WIPE_ON_FORK: Traits = Traits(1 << 2);
    /// Huge pages, please.
    pub const HUGE: Traits = Traits(1 << 3);
    /// No huge pages, please.
    pub const NO_HUGE: Traits = Traits(1 << 4);
    /// Locked in memory.
    pub const LOCKED: Traits = Traits(1 << 5);
    /// Not counted as committed.
    pub const NO_RESERVE: Traits = Traits(1 << 6);
    /// Not in core dumps.
    pub const DONT_DUMP: Traits = Traits(1 << 7);
    /// The heap that brk moves. A space says so of areas that it is asked for; it is no reason
    /// to keep areas apart, as it is none for the kernel.
    pub const HEAP: Traits = Traits(1 << 8);
    /// Counted as committed: private and writable; of an object also if it was so once.
    pub const ACCOUNTED: Traits = Traits(1 << 9);
    /// Read in order.
    pub const SEQUENTIAL: Traits = Traits(1 << 10);
    /// Read at random.
    pub const RANDOM: Traits = Traits(1 << 11);
    /// Equal pages may be merged.
    pub const MERGEABLE: Traits = Traits(1 << 12);

    /// Whether all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Traits) -> bool {
        self.0 & other.0 == other.0
    }

    /// With these too.
    #[must_use]
    pub const fn with(self, other: Traits) -> Traits {
        Traits(self.0 | other.0)
    }

    /// Without these.
    #[must_use]
    pub const fn without(self, other: Traits) -> Traits {
        Traits(self.0 & !other.0)
    }
}

/// A range of pages that are treated alike: Linux's `vm_area_struct`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// The first address, a multiple of the page size.
    pub start: u64,
    /// The first address behind it, a multiple of the page size.
    pub end: u64,
    /// What the program may do.
    pub rights: Rights,
    /// Where contents come from.
    pub backing: Backing,
    /// Everything else.
    pub traits: Traits,
}

impl Area {
    /// Its length in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // An area is never empty.
    pub const fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether stores are seen by others.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        matches!(self.backing, Backing::Object { shared: true, .. })
    }

    /// What backs the byte at `addr` (in the area), if the area began there.
    #[must_use]
    pub const fn backing_at(&self, addr: u64) -> Backing {
        match self.backing {
            Backing::Anonymous => Backing::Anonymous,
            Backing::Object {
                object,
                offset,
                shared,
            } => Backing::Object {
                object,
                offset: offset.wrapping_add(addr.wrapping_sub(self.start)),
                shared,
            },
        }
    }

    /// Whether the kernel would let this area and the next one be one, faults aside: they meet,
    /// and everything agrees.
    #[must_use]
    pub fn joins(&self, next: &Area) -> bool {
        self.end == next.start
            && self.rights == next.rights
            && self.traits == next.traits
            && self.backing_at(next.start) == next.backing
    }
}

/// What a process may use. Everything in bytes, but for the number of areas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// `RLIMIT_AS`: all areas together.
    pub address_space: u64,
    /// `RLIMIT_DATA`: private writable areas together.
    pub data: u64,
    /// `RLIMIT_STACK`: a growing stack.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`: locked areas.
    pub locked: u64,
    /// `vm.max_map_count`.
    pub areas: usize,
    /// `vm.overcommit_memory`.
    pub overcommit: Overcommit,
    /// RAM and swap: what overcommit is measured against.
    pub memory: u64,
}

impl Limits {
    /// No limits but Linux's usual stack and number of areas.
    pub const NONE: Limits = Limits {
        address_space: u64::MAX,
        data: u64::MAX,
        stack: 8 << 20,
        locked: u64::MAX,
        areas: 65_530,
        overcommit: Overcommit::Always,
        memory: u64::MAX,
    };
}

/// How much may be promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overcommit {
    /// Mode 0: no single request beyond all RAM and swap.
    Guess,
    /// Mode 1: everything.
    Always,
    /// Mode 2: not more than half of RAM, and swap, in all.
    Never,
}
