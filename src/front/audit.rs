//! The account of pages, proven against the kernel in the running process.
//!
//! Every arena is held meanwhile, so that heaps stand still; mappings may come and go.

use super::process::{KERNEL, SHARED, enter};
use crate::os::{Audit, Finding, OsError, PageState};
use crate::report::Line;

/// The most arenas there are.
const MOST: usize = crate::os::OWNERS;

/// Compares the account of pages with `/proc/self/maps`, pagemap, smaps and mincore. `found` is
/// told each contradiction.
///
/// # Errors
/// If the files in `/proc` cannot be read.
pub fn audit(found: impl FnMut(Finding)) -> Result<Audit, OsError> {
    enter();
    let heaps: [_; MOST] = core::array::from_fn(|number| SHARED.lock(number));
    let pages = |written: &mut dyn FnMut(usize)| {
        for heap in heaps.iter().flatten() {
            heap.each_head(&mut *written);
        }
    };
    let expected = || {
        // What other threads were in the middle of when a process was forked stays so in the child.
        if SHARED.generation() != 0 {
            return None;
        }
        // An arena may have been made since.
        let of_heaps = heaps.iter().enumerate().map(|(number, held)| match held {
            Some(heap) => heap.page_bytes(),
            None => SHARED.lock(number).map_or(0, |heap| heap.page_bytes()),
        });
        let maps = &SHARED.maps;
        let of_maps = maps.totals().bytes as usize + maps.kept_bytes() + maps.stranded_bytes();
        let guarded = super::guard_totals().live_bytes as usize;
        Some(of_heaps.sum::<usize>() + of_maps + guarded)
    };
    crate::os::audit(&KERNEL, pages, expected, found)
}

/// Audits and prints what was found to standard error: a line for each of the first
/// contradictions, and one that sums up. Returns how many there were, -1 if the kernel's files
/// could not be read.
pub fn print_audit() -> i32 {
    const LINES: u32 = 20;
    let mut line = Line::new();
    let mut printed = 0;
    let result = audit(|finding| {
        printed += 1;
        if printed <= LINES {
            line.text("fencepost: audit: ").text(finding.state.name());
            line.text(" page ").hex(finding.addr).text(" ");
            line.text(finding.what.text()).write_to(2);
        }
    });
    let Ok(audit) = result else {
        line.text("fencepost: audit: /proc cannot be read")
            .write_to(2);
        return -1;
    };
    line.text("fencepost: audit:");
    for (state, pages) in PageState::ALL.into_iter().zip(audit.pages) {
        if pages != 0 {
            line.text(" ")
                .decimal(pages as u64)
                .text(" ")
                .text(state.name());
        }
    }
    line.text("; ")
        .decimal(audit.resident as u64)
        .text(" resident; ");
    line.decimal(audit.findings as u64).text(" contradictions");
    if audit.huge_pages {
        line.text(" (huge pages: residency not compared)");
    }
    line.write_to(2);
    i32::try_from(audit.findings).unwrap_or(i32::MAX)
}
