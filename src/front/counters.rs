//! All counters of the process, added up.
#![allow(unsafe_code)] // getrusage.

use super::process::{
    CACHES, DIRECT_FREES, DIRECT_MALLOCS, KERNEL, SETTINGS, SHARED, enter, is_started,
};
use crate::config::Key;
use crate::os::stop::{Own, own_registers};
use crate::stats::{ArenaSnapshot, Snapshot};
use crate::sync::overlay::Ordering;

/// All counters, now.
#[must_use]
pub fn snapshot() -> Snapshot {
    enter();
    let mut all = Snapshot::default();
    for number in 0..SHARED.arena_numbers() {
        if let Some(heap) = SHARED.lock(number) {
            all.add(&heap.totals());
        }
    }
    let (hits, pushes, in_caches) = CACHES.counts();
    let (returned, mapped_served, mapped_freed) = SHARED.maps.counts();
    all.mallocs = hits + mapped_served + DIRECT_MALLOCS.load(Ordering::Relaxed);
    all.frees = pushes + mapped_freed + DIRECT_FREES.load(Ordering::Relaxed);
    all.cached_bytes = in_caches + SHARED.depot.bytes() as u64;
    all.live_bytes = all.live_bytes.saturating_sub(all.cached_bytes);
    all.guard = super::guard_totals();
    all.mallocs += all.guard.guarded;
    all.frees += all.guard.guarded - all.guard.live.min(all.guard.guarded);
    let swapped = super::guarding::SWAPPED.load(Ordering::Relaxed);
    all.mallocs = all.mallocs.saturating_sub(swapped);
    all.frees = all.frees.saturating_sub(swapped);
    all.live_bytes += all.guard.live_bytes;
    all.peak_bytes += all.guard.peak_bytes;
    all.system_bytes += all.guard.live_bytes;
    all.system_peak += all.guard.peak_bytes;
    all.mapped = SHARED.maps.totals();
    all.mapped_peak = SHARED.maps.peaks();
    all.mapped_served = mapped_served;
    all.live_bytes += all.mapped.bytes;
    all.peak_bytes += all.mapped_peak.bytes;
    all.system_bytes += all.mapped.bytes;
    all.system_peak += all.mapped_peak.bytes;
    all.mapping_cache_bytes = SHARED.maps.kept_bytes() as u64;
    all.returned_bytes += returned;
    all.arenas = SHARED.arenas() as u64;
    all.threads = SHARED.threads() as u64;
    all.os_calls = KERNEL.inner().calls();
    all.parked = SHARED.parked();
    all
}

/// The counters of arena `index`; `None` if there is none of this number.
#[must_use]
pub fn arena_snapshot(index: usize) -> Option<ArenaSnapshot> {
    enter();
    SHARED
        .lock(index)
        .map(|heap| ArenaSnapshot::new(index, &heap.totals()))
}

/// Prints to standard error what `FENCEPOST_GUARD`, `FENCEPOST_STATS` and `FENCEPOST_AUDIT` ask for:
/// at exit. Aborts if bytes beside a guarded object were overwritten.
#[inline(never)]
pub fn exit_report() {
    if is_started() {
        report(&own_registers());
    }
}

#[inline(never)]
fn report(here: &Own) {
    let damaged = report_guarded(here);
    if SETTINGS.get(Key::Audit) != 0 {
        super::print_audit();
    }
    if SETTINGS.get(Key::Stats) != 0 {
        print_statistics();
    }
    if damaged {
        crate::report::end();
    }
}

/// As [`exit_report`], of what guard mode has to say alone.
#[inline(never)]
pub fn exit_guarded() {
    if report_guarded(&own_registers()) {
        crate::report::end();
    }
}

/// Reports what is wrong with guarded objects at exit; whether bytes beside one were overwritten.
/// What the caller has on its stack from `here` on is the program's: below lie addresses of
/// objects that were only looked at.
#[inline(never)]
fn report_guarded(here: &Own) -> bool {
    let damaged = super::guarding::last_sweep();
    super::leaks::exit_leaks(here);
    damaged != 0
}

fn print_statistics() {
    // SAFETY: an all-zero rusage is valid, and getrusage fills it in.
    let peak_rss = unsafe {
        let mut usage: libc::rusage = core::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage.ru_maxrss as u64
    };
    snapshot().write_to(2, peak_rss);
}
