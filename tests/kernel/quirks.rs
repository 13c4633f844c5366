//! What this kernel has and what it lacks, found out by asking it.
//!
//! | feature | since | what the models do without |
//! |---|---|---|
//! | `MAP_FIXED_NOREPLACE` | 4.17 | not used |
//! | `MADV_POPULATE_*` | 5.14 | not used |
//! | `MADV_GUARD_*` | 6.13 | not used |
//! | guards in shared memory and files | 6.15 | `EINVAL` |
//! | guards in pagemap | 6.15 | guards are not compared |
//! | `mremap` of several areas | 6.17 | `EFAULT` |

use super::real::{call, map, unmap};
use super::{PAGES, WINDOW};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::Errno;
use fencepost::mmu::area::linux::*;
use std::sync::OnceLock;

/// What differs between kernels and machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quirks {
    /// Occupied places can be asked for without replacing.
    pub no_replace: bool,
    /// Pages can be faulted in by advice.
    pub populate: bool,
    /// Guards exist.
    pub guard: bool,
    /// Shared memory and files can have guards.
    pub guard_shared: bool,
    /// `/proc/self/pagemap` shows guards.
    pub guard_visible: bool,
    /// Several areas can be moved by one call.
    pub move_many: bool,
    /// `MADV_COLD` and `MADV_PAGEOUT` exist.
    pub reclaim: bool,
    /// Huge pages can be asked for.
    pub huge: bool,
    /// Locked memory can be had: the limit allows the window.
    pub lock: bool,
    /// The kernel promises more than it has.
    pub overcommit: bool,
    /// A page that may only be executed can be read by instructions.
    pub exec_reads: bool,
}

impl Quirks {
    /// Of a kernel that has it all.
    pub const ALL: Quirks = Quirks {
        no_replace: true,
        populate: true,
        guard: true,
        guard_shared: true,
        guard_visible: true,
        move_many: true,
        reclaim: true,
        huge: true,
        lock: true,
        overcommit: true,
        exec_reads: true,
    };

    /// Of the kernel that runs, found out once. Says what is missing.
    pub fn of_this_kernel() -> Quirks {
        static FOUND: OnceLock<Quirks> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let found = probe();
            for (has, what, since) in [
                (found.no_replace, "MAP_FIXED_NOREPLACE", "4.17"),
                (found.populate, "MADV_POPULATE_READ", "5.14"),
                (found.guard, "MADV_GUARD_INSTALL", "6.13"),
                (found.guard_shared, "guards in shared memory", "6.15"),
                (found.guard_visible, "guards in pagemap", "6.15"),
                (found.move_many, "mremap of several areas", "6.17"),
                (found.reclaim, "MADV_COLD", "5.4"),
                (found.huge, "MADV_HUGEPAGE", "a kernel with huge pages"),
                (found.lock, "locked memory", "a limit of 1 MiB"),
                (found.overcommit, "overcommit", "a mode other than 2"),
                (found.exec_reads, "reads of executable pages", "no pkeys"),
            ] {
                if !has {
                    println!("skipped: {what} (this kernel lacks it; wants {since})");
                }
            }
            found
        })
    }
}

/// The probes' own place, away from every test's window.
const PLACE: u64 = WINDOW - (1 << 36);

fn probe() -> Quirks {
    let anon = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    let shared = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
    let rw = PROT_READ | PROT_WRITE;
    let advise = |addr: u64, advice: u32| {
        call(libc::SYS_madvise, [addr, PAGE, u64::from(advice), 0, 0, 0]).is_ok()
    };
    map(PLACE, 4 * PAGE, rw, anon);
    map(PLACE + 8 * PAGE, PAGE, rw, shared);
    let again = call(
        libc::SYS_mmap,
        [
            PLACE,
            PAGE,
            0,
            u64::from(MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE),
            u64::MAX,
            0,
        ],
    );
    let populate = advise(PLACE, MADV_POPULATE_READ);
    let reclaim = advise(PLACE, MADV_COLD);
    let huge = advise(PLACE, MADV_NOHUGEPAGE) && advise(PLACE, MADV_HUGEPAGE);
    let guard = advise(PLACE, MADV_GUARD_INSTALL);
    let guard_shared = advise(PLACE + 8 * PAGE, MADV_GUARD_INSTALL);
    let guard_visible = guard && super::real::pagemap_entry(PLACE) >> 58 & 1 == 1;
    map(PLACE + PAGE, PAGE, PROT_READ, anon);
    let many = call(
        libc::SYS_mremap,
        [
            PLACE,
            2 * PAGE,
            2 * PAGE,
            u64::from(MREMAP_MAYMOVE | MREMAP_FIXED),
            PLACE + 16 * PAGE,
            0,
        ],
    );
    unmap(PLACE, 32 * PAGE);
    let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Quirks {
        no_replace: again == Err(Errno::EEXIST),
        populate,
        guard,
        guard_shared,
        guard_visible,
        move_many: many.is_ok(),
        reclaim,
        huge,
        lock: lock_limit() >= 2 * PAGES * PAGE,
        overcommit: mode.trim() != "2",
        exec_reads: !cpu.split_whitespace().any(|flag| flag == "ospke"),
    }
}

#[allow(unsafe_code)]
fn lock_limit() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: a local is filled in.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur
}
