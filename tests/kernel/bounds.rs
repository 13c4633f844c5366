//! What the limits of a process refuse, and what they do not: one process for each limit.

use super::fast::{Fast, Size};
use super::remote::Remote;
use super::{System, WINDOW};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::Errno;
use fencepost::mmu::area::linux::*;

/// What a process can be limited in.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AddressSpace,
    Data,
    Locked,
}

/// A system whose limits can be set.
pub trait Bounded: System {
    /// `pages` more than what is used now.
    fn bound(&mut self, bound: Bound, pages: u64);
    /// How many areas there are now, and how many there may be.
    fn areas_of_all(&mut self) -> (usize, usize);
    /// RAM and swap in bytes, if requests are measured against it one by one.
    fn memory(&mut self) -> Option<u64>;
}

impl Bounded for Remote {
    fn bound(&mut self, bound: Bound, pages: u64) {
        let (which, name) = match bound {
            Bound::AddressSpace => (libc::RLIMIT_AS, "VmSize"),
            Bound::Data => (libc::RLIMIT_DATA, "VmData"),
            Bound::Locked => (libc::RLIMIT_MEMLOCK, "VmLck"),
        };
        let used = self.status(name);
        self.limit(which, (used + pages) * PAGE);
    }

    fn areas_of_all(&mut self) -> (usize, usize) {
        let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").expect("a limit");
        // The last line is the kernel's own page.
        let listing = self.listing();
        let areas = listing.lines().filter(|line| !line.contains("[vsyscall]"));
        (areas.count(), most.trim().parse().expect("a number"))
    }

    fn memory(&mut self) -> Option<u64> {
        let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").ok()?;
        if mode.trim() != "0" {
            return None;
        }
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let of = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()
        };
        Some((of("MemTotal:")? + of("SwapTotal:")?) * 1024)
    }
}

const RW: u32 = PROT_READ | PROT_WRITE;
const PRIVATE: u32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
const SHARED: u32 = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
const NO_ROOM: Result<u64, Errno> = Err(Errno::ENOMEM);

fn at(page: u64) -> u64 {
    WINDOW + page * PAGE
}

fn map<S: System>(
    system: &mut S,
    page: u64,
    len: u64,
    prot: u32,
    flags: u32,
) -> Result<u64, Errno> {
    system.mmap(at(page), len * PAGE, prot, flags, None, 0)
}

pub fn address_space<S: Bounded>(mut s: S) {
    let heap = s.brk(0);
    assert_eq!(map(&mut s, 0, 4, RW, PRIVATE), Ok(at(0)));
    s.bound(Bound::AddressSpace, 10);
    assert_eq!(map(&mut s, 10, 11, RW, PRIVATE), NO_ROOM);
    assert_eq!(
        map(&mut s, 10, 11, 0, PRIVATE),
        NO_ROOM,
        "even without any right"
    );
    assert_eq!(map(&mut s, 10, 11, RW, SHARED), NO_ROOM, "even shared");
    assert_eq!(map(&mut s, 10, 6, 0, PRIVATE), Ok(at(10)));
    assert_eq!(s.brk(heap + 5 * PAGE), heap, "five more are too many");
    assert_eq!(s.brk(heap + 4 * PAGE), heap + 4 * PAGE, "four are not");
    assert_eq!(s.mremap(at(0), 4 * PAGE, 5 * PAGE, 0, 0), NO_ROOM);
    assert_eq!(
        s.mremap(at(0), 4 * PAGE, 5 * PAGE, MREMAP_MAYMOVE, 0),
        NO_ROOM
    );
    let keep = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    assert_eq!(s.mremap(at(0), PAGE, PAGE, keep, at(30)), NO_ROOM);
    assert_eq!(
        map(&mut s, 0, 4, 1, PRIVATE),
        Ok(at(0)),
        "what is replaced makes room"
    );
    assert_eq!(
        s.mprotect(at(10), 6 * PAGE, RW),
        Ok(0),
        "rights cost nothing"
    );
    assert_eq!(s.munmap(at(10), PAGE), Ok(0));
    assert_eq!(map(&mut s, 30, 1, RW, PRIVATE), Ok(at(30)), "room again");
    assert_eq!(map(&mut s, 31, 1, RW, PRIVATE), NO_ROOM);
}

pub fn data<S: Bounded>(mut s: S) {
    let heap = s.brk(0);
    s.bound(Bound::Data, 16);
    assert_eq!(map(&mut s, 0, 17, RW, PRIVATE), NO_ROOM);
    assert_eq!(map(&mut s, 0, 17, PROT_WRITE, PRIVATE), NO_ROOM);
    assert_eq!(
        map(&mut s, 0, 17, 0, PRIVATE),
        Ok(at(0)),
        "nothing to write to"
    );
    assert_eq!(s.mprotect(at(0), 17 * PAGE, RW), NO_ROOM);
    assert_eq!(s.mprotect(at(0), 17 * PAGE, PROT_READ), Ok(0));
    assert_eq!(
        map(&mut s, 20, 40, RW, SHARED),
        Ok(at(20)),
        "shared memory is not data"
    );
    assert_eq!(s.mprotect(at(0), 10 * PAGE, RW), Ok(0));
    assert_eq!(
        s.mremap(at(0), 10 * PAGE, 17 * PAGE, MREMAP_MAYMOVE, 0),
        NO_ROOM
    );
    assert_eq!(s.brk(heap + 7 * PAGE), heap, "seven more are too many");
    assert_eq!(s.brk(heap + 6 * PAGE), heap + 6 * PAGE, "six are not");
    assert_eq!(s.mprotect(at(0), PAGE, PROT_READ), Ok(0));
    assert_eq!(map(&mut s, 70, 1, RW, PRIVATE), Ok(at(70)), "room again");
    assert_eq!(map(&mut s, 71, 1, RW, PRIVATE), NO_ROOM);
}

pub fn locked<S: Bounded>(mut s: S) {
    s.bound(Bound::Locked, 8);
    let again = Err(Errno(11));
    assert_eq!(map(&mut s, 0, 9, RW, PRIVATE | MAP_LOCKED), again);
    assert_eq!(map(&mut s, 0, 8, RW, PRIVATE | MAP_LOCKED), Ok(at(0)));
    assert_eq!(s.mremap(at(0), 8 * PAGE, 9 * PAGE, 0, 0), again);
    assert_eq!(map(&mut s, 20, 9, RW, PRIVATE), Ok(at(20)), "not locked");
    assert_eq!(s.munmap(at(0), PAGE), Ok(0));
    assert_eq!(map(&mut s, 30, 1, RW, PRIVATE | MAP_LOCKED), Ok(at(30)));
    assert_eq!(map(&mut s, 32, 1, RW, PRIVATE | MAP_LOCKED), again);
    s.look();
    assert!(s.page(at(30)).present, "locked memory is there at once");
}

/// Areas up to the limit by splits; then what still works and what does not.
pub fn areas<S: Bounded>(mut s: S) {
    let (_, most) = s.areas_of_all();
    if most > 200_000 {
        println!("skipped: {most} areas are too many to make");
        return;
    }
    let len = most as u64 + 10;
    assert_eq!(map(&mut s, 0, len, 0, PRIVATE), Ok(at(0)));
    let mut page = 1;
    // Two more areas each: a page in the middle of the rest.
    while s.mprotect(at(page), PAGE, RW) == Ok(0) {
        page += 2;
    }
    let (now, _) = s.areas_of_all();
    assert!(now == most || now == most - 1, "{now} areas of {most}");
    if now == most - 1 {
        // One split of one is left: the last area's end.
        assert_eq!(s.mprotect(at(len - 1), PAGE, RW), Ok(0));
    }
    assert_eq!(s.areas_of_all().0, most);
    assert_eq!(s.mprotect(at(page), PAGE, RW), NO_ROOM, "no split");
    assert_eq!(
        map(&mut s, len + 10, 1, RW, PRIVATE),
        Ok(at(len + 10)),
        "one more than allowed"
    );
    assert_eq!(s.areas_of_all().0, most + 1);
    assert_eq!(map(&mut s, len + 20, 1, RW, PRIVATE), NO_ROOM);
    assert_eq!(
        map(&mut s, len + 11, 1, RW, PRIVATE),
        NO_ROOM,
        "though it would merge"
    );
    assert_eq!(
        map(&mut s, 1, 1, RW, PRIVATE),
        NO_ROOM,
        "though it replaces"
    );
    assert_eq!(s.munmap(at(page + 1), PAGE), NO_ROOM, "a hole in an area");
    assert_eq!(s.mprotect(at(page + 1), PAGE, RW), NO_ROOM);
    let fixed = MREMAP_MAYMOVE | MREMAP_FIXED;
    assert_eq!(s.mremap(at(1), PAGE, PAGE, fixed, at(len + 30)), NO_ROOM);
    let heap = s.brk(0);
    assert_eq!(s.brk(heap + PAGE), heap, "the break");
    assert_eq!(
        s.madvise(at(1), PAGE, MADV_DONTNEED),
        Ok(0),
        "no area changes"
    );
    if super::quirks::Quirks::of_this_kernel().guard {
        assert_eq!(
            s.madvise(at(1), PAGE, MADV_GUARD_INSTALL),
            Ok(0),
            "no area changes"
        );
    }
    assert_eq!(s.mprotect(at(3), PAGE, PROT_READ), Ok(0), "a whole area");
    assert_eq!(s.munmap(at(5), PAGE), Ok(0), "a whole area");
    assert_eq!(s.areas_of_all().0, most);
}

/// One request beyond RAM and swap is refused, in the usual mode.
pub fn overcommit<S: Bounded>(mut s: S) {
    let Some(memory) = s.memory() else {
        println!("skipped: the system promises by another rule");
        return;
    };
    let len = 2 * (memory / PAGE);
    assert_eq!(map(&mut s, 0, len, RW, PRIVATE), NO_ROOM);
    assert_eq!(map(&mut s, 0, len, RW, PRIVATE | MAP_NORESERVE), Ok(at(0)));
    assert_eq!(map(&mut s, 0, len, 0, PRIVATE), Ok(at(0)));
    assert_eq!(s.mprotect(at(0), len * PAGE, RW), NO_ROOM);
    assert_eq!(s.mprotect(at(0), len * PAGE, PROT_READ), Ok(0));
    assert_eq!(s.mprotect(at(7), PAGE, RW), Ok(0));
    assert_eq!(map(&mut s, len + 9, 1, RW, PRIVATE), Ok(at(len + 9)));
    let grown = s.mremap(at(len + 9), PAGE, len * PAGE, MREMAP_MAYMOVE, 0);
    assert_eq!(grown, NO_ROOM);
}

/// Huge pages of a pool that has none.
fn no_pool<S: System>(mut s: S) {
    assert_eq!(map(&mut s, 512, 512, RW, PRIVATE | MAP_HUGETLB), NO_ROOM);
    assert_eq!(
        map(&mut s, 512, 512, RW, PRIVATE),
        Ok(at(512)),
        "pages of the usual size"
    );
}

#[test]
fn a_pool_without_huge_pages_gives_none() {
    no_pool(fast(512));
    let pool = |name: &str| {
        let path = format!("/proc/sys/vm/{name}");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    if pool("nr_hugepages") + pool("nr_overcommit_hugepages") > 0 {
        println!("skipped: this kernel has a pool of huge pages");
        return;
    }
    no_pool(remote());
}

/// Nothing may be locked at all.
fn nothing_locked<S: Bounded>(mut s: S) {
    s.bound(Bound::Locked, 0);
    let locked = map(&mut s, 0, 1, RW, PRIVATE | MAP_LOCKED);
    assert_eq!(locked, Err(Errno::EPERM));
    assert_eq!(map(&mut s, 0, 1, RW, PRIVATE), Ok(at(0)));
}

#[test]
fn without_a_limit_for_locked_memory_none_can_be_had() {
    nothing_locked(remote());
    nothing_locked(fast(512));
}

fn remote() -> Remote {
    Remote::new(Some(WINDOW), 96)
}

#[test]
fn the_kernel_limits_address_space() {
    address_space(remote());
}

#[test]
fn the_kernel_limits_data() {
    data(remote());
}

#[test]
fn the_kernel_limits_locked_memory() {
    locked(remote());
}

#[test]
fn the_kernel_limits_areas() {
    areas(remote());
}

#[test]
fn the_kernel_limits_promises() {
    overcommit(remote());
}

fn fast(nodes: usize) -> Fast {
    let size = Size {
        nodes,
        ..Size::WINDOW
    };
    Fast::new(WINDOW, WINDOW + (1 << 42), size)
}

#[test]
fn the_model_limits_address_space() {
    address_space(fast(512));
}

#[test]
fn the_model_limits_data() {
    data(fast(512));
}

#[test]
fn the_model_limits_locked_memory() {
    locked(fast(512));
}

#[test]
fn the_model_limits_areas() {
    areas(fast(1 << 15));
}

#[test]
fn the_model_limits_promises() {
    overcommit(fast(512));
}
