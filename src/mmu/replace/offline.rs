//! Replacement over a whole string of references, which is known beforehand.
//!
//! References are page numbers below the length of the tables that are handed in.

use super::{Kind, Policy, Replacement};
use crate::mmu::addr::FrameNumber;
use crate::mmu::physical::{FrameRecord, NONE};

/// Faults of a policy over `frames.len()` frames that are empty at first.
///
/// `resident` has an element for each page; what it and `frames` hold does not matter.
///
/// # Panics
/// If there is no frame, or a reference has no element in `resident`.
pub fn faults(
    kind: Kind,
    references: impl IntoIterator<Item = u32>,
    frames: &mut [FrameRecord],
    resident: &mut [u32],
) -> u64 {
    assert!(!frames.is_empty(), "a machine without frames");
    let mut policy = Replacement::new(kind);
    frames.fill(FrameRecord::EMPTY);
    resident.fill(NONE);
    let mut used = 0;
    let mut faults = 0;
    for page in references {
        let at = resident[page as usize];
        if at != NONE {
            policy.touch(frames, FrameNumber::new(at));
            continue;
        }
        faults += 1;
        let frame = if used < frames.len() {
            used += 1;
            FrameNumber::new(used as u32 - 1)
        } else {
            let Some(victim) = policy.victim(frames, &|_| true) else {
                continue;
            };
            policy.remove(frames, victim);
            resident[frames[victim.raw() as usize].page as usize] = NONE;
            victim
        };
        frames[frame.raw() as usize].page = u64::from(page);
        resident[page as usize] = frame.raw();
        policy.insert(frames, frame);
    }
    faults
}

/// Faults of the best possible policy (Belady 1966): the page goes that is used again last.
///
/// `next` has an element for each reference, `seen` for each page, `resident` for each frame;
/// what they hold does not matter. Takes time proportional to references times frames.
///
/// # Panics
/// If there is no frame, or the tables are too short.
pub fn optimal(
    references: &[u32],
    next: &mut [u32],
    seen: &mut [u32],
    resident: &mut [u32],
) -> u64 {
    assert!(!resident.is_empty(), "a machine without frames");
    seen.fill(NONE);
    for (at, page) in references.iter().enumerate().rev() {
        next[at] = core::mem::replace(&mut seen[*page as usize], at as u32);
    }
    // From here on, `seen` says when a resident page is used again; frames hold pages.
    resident.fill(NONE);
    let mut faults = 0;
    for (at, page) in references.iter().enumerate() {
        seen[*page as usize] = next[at];
        if resident.contains(page) {
            continue;
        }
        faults += 1;
        let when = |held: u32| match held {
            NONE => (1, 0),
            held => match seen[held as usize] {
                NONE => (0, NONE),
                next => (0, next),
            },
        };
        if let Some(place) = (0..resident.len()).max_by_key(|i| when(resident[*i])) {
            resident[place] = *page;
        }
    }
    faults
}

/// Stack distances of a string (Mattson and others 1970): how many different pages were used
/// since the last use of a page, itself counted. LRU with `n` frames faults at the first use of
/// each page and at all distances above `n`, so one pass gives every size of memory.
#[derive(Debug)]
pub struct Distances<'s> {
    counts: &'s mut [u64],
    first_uses: u64,
}

impl<'s> Distances<'s> {
    /// Measures `references`. `counts` has an element for each page and one more, `last` for
    /// each page, `tree` for each reference and one more; what they hold does not matter.
    ///
    /// # Panics
    /// If the tables are too short.
    pub fn measure(
        references: &[u32],
        counts: &'s mut [u64],
        last: &mut [u32],
        tree: &mut [u32],
    ) -> Distances<'s> {
        counts.fill(0);
        last.fill(NONE);
        tree.fill(0);
        let mut first_uses = 0;
        // A Fenwick tree over time: 1 where some page was used last.
        for (now, page) in references.iter().enumerate() {
            let before = core::mem::replace(&mut last[*page as usize], now as u32);
            if before == NONE {
                first_uses += 1;
            } else {
                let distance = sum(tree, now) - sum(tree, before as usize);
                counts[distance as usize] += 1;
                add(tree, before as usize, u32::MAX);
            }
            add(tree, now, 1);
        }
        Distances { counts, first_uses }
    }

    /// Faults of LRU with so many frames.
    #[must_use]
    pub fn faults(&self, frames: usize) -> u64 {
        let far = self.counts.iter().skip(frames + 1);
        self.first_uses + far.sum::<u64>()
    }

    /// References at each distance.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        self.counts
    }
}

/// Adds (modulo 2^32) at a time.
fn add(tree: &mut [u32], time: usize, what: u32) {
    let mut at = time + 1;
    while at < tree.len() {
        tree[at] = tree[at].wrapping_add(what);
        at += at & at.wrapping_neg();
    }
}

/// The sum of all times before `time`.
fn sum(tree: &[u32], time: usize) -> u32 {
    let mut at = time;
    let mut total = 0u32;
    while at > 0 {
        total = total.wrapping_add(tree[at]);
        at &= at - 1;
    }
    total
}
