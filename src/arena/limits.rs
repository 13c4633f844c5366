//! How much the depot may hold.

use super::Shared;
use crate::config::Key;
use crate::heap::Swing;
use crate::os::Os;
use crate::sync::overlay::Ordering;

/// The depot may always hold this many bytes.
const LEAST_DEPOT: usize = 4 << 20;
/// and this many when most of what was in use lately has been freed,
const DEPOT_AFTER_PEAK: usize = 64 << 10;
/// unless that was no more than this
pub(super) const SMALL_PROGRAM: usize = 32 << 20;
/// (then this many if most threads are idle),
const DEPOT_OF_CROWD: usize = 1 << 20;
/// or unless what was in use is known to come back and was no more than this:
const SWINGING: usize = 256 << 20;
/// then this many.
const DEPOT_OF_SWINGING: usize = 32 << 20;
/// In a large heap it may hold this part of what was in use lately, more than the tunable says
/// unless that was set: the blocks of a program that frees at random come back to it.
const PART_OF_LARGE: usize = 8;

impl<O: Os + Copy + 'static> Shared<O> {
    /// How many bytes the depot may hold: a share of what the program has had in use lately.
    /// What it holds does not raise the peak, for it is given up before an arena grows. But
    /// chunks in it pin their pages, so after a peak it is kept small.
    pub fn depot_limit(&self) -> usize {
        if self.settings.get(Key::Depot) == 0 {
            return 0;
        }
        let high = self.high.load(Ordering::Relaxed);
        let live = self.outside().saturating_sub(self.depot.bytes_about());
        let is_crowded = self.is_crowded();
        let limit = if high > SMALL_PROGRAM && Swing::has_fallen(live, high) {
            if high <= SWINGING && self.swing.is_known() && !is_crowded {
                DEPOT_OF_SWINGING
            } else {
                DEPOT_AFTER_PEAK
            }
        } else if is_crowded && Swing::has_fallen(live, high) {
            DEPOT_OF_CROWD
        } else {
            high.max(LEAST_DEPOT)
        };
        let most = self.settings.get(Key::DepotBytes);
        let most = if self.settings.is_set(Key::DepotBytes) {
            most
        } else {
            most.max(high / PART_OF_LARGE)
        };
        limit.min(most)
    }
}
