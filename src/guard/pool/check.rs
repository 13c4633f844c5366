//! The pool's invariants.
//!
//! | | what must hold while nobody works in the pool |
//! |---|---|
//! | G1 | an object in use lies where its size, alignment and side put it in its slot's body |
//! | G2 | its pages, and no others of its slot, can be accessed; by the account of pages |
//! | G3 | the quarantine of a class holds exactly its freed slots, each once |
//! | G4 | the counters are the sums of the records |
//! | G5 | the bytes beside objects in use are as they were planted |

use super::{CLASSES, Pool, SlotIndex};
use crate::guard::geometry;
use crate::guard::record::{Record, SlotState};
use crate::os::{Os, PageState};
use crate::sync::overlay::Ordering;

/// Which invariant does not hold, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolDamage {
    /// G1.
    Placement(SlotIndex),
    /// G2, and the page.
    Pages(SlotIndex, usize),
    /// G3, and the class.
    Quarantine(usize),
    /// G4.
    Counters,
    /// G5.
    Canary(SlotIndex),
}

impl<O: Os + Copy + 'static> Pool<O> {
    /// Checks every invariant; nobody may work in the pool meanwhile. For tests.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(&self) -> Result<(), PoolDamage> {
        let mut first = Ok(());
        let (mut live, mut live_bytes, mut resting, mut resting_bytes) = (0, 0, 0, 0);
        let mut freed = [0u32; CLASSES];
        self.each(|slot, record| {
            match record.state {
                SlotState::Live => {
                    live += 1;
                    let place = self.placement(&record);
                    live_bytes += (place.close - place.open) as u64;
                }
                SlotState::Freed => {
                    resting += 1;
                    resting_bytes += record.size as u64;
                    if let Some(count) = freed.get_mut(slot.class) {
                        *count += 1;
                    }
                }
                _ => {}
            }
            if first.is_ok() {
                first = self.check_slot(slot, &record);
            }
        });
        first?;
        for (class, &count) in freed.iter().enumerate() {
            self.check_quarantine(class, count)?;
        }
        let totals = self.totals();
        let sums = (live, live_bytes, resting, resting_bytes);
        let counted = (
            totals.live,
            totals.live_bytes,
            totals.resting,
            totals.resting_bytes,
        );
        if sums == counted {
            Ok(())
        } else {
            Err(PoolDamage::Counters)
        }
    }

    fn check_slot(&self, slot: SlotIndex, record: &Record) -> Result<(), PoolDamage> {
        let page = self.os.page_size();
        let from = self.body(slot);
        let to = from + (page << slot.class);
        let (mut open, mut close) = (from, from);
        if record.state == SlotState::Live {
            let Record {
                size, align, side, ..
            } = *record;
            let fits = geometry::pages(size, align, page).is_some_and(|n| n <= 1 << slot.class);
            if !fits {
                return Err(PoolDamage::Placement(slot));
            }
            let place = geometry::place(from, to, size, align, page, side);
            if place.payload != record.payload {
                return Err(PoolDamage::Placement(slot));
            }
            (open, close) = (place.open, place.close);
            // SAFETY: the pages of an object in use are open, and nobody frees it meanwhile.
            #[allow(unsafe_code)]
            let damage = unsafe { self.examine(record, &place) };
            if damage.is_some() {
                return Err(PoolDamage::Canary(slot));
            }
        }
        // The guard page before the body too, which is the one of the slot below.
        let mut at = from - page;
        while at < to + page {
            let (state, end) = self.os.run(at, to + page);
            let inside = open <= at && at < close;
            let end = if inside {
                end.min(close)
            } else if at < open {
                end.min(open)
            } else {
                end
            };
            let right = match state {
                PageState::Live => inside,
                PageState::Guard | PageState::Reserved => !inside,
                PageState::Unknown => true,
                _ => false,
            };
            if !right {
                return Err(PoolDamage::Pages(slot, at));
            }
            at = end;
        }
        Ok(())
    }

    fn check_quarantine(&self, number: usize, expected: u32) -> Result<(), PoolDamage> {
        let wrong = Err(PoolDamage::Quarantine(number));
        let Some(class) = self.classes.get(number) else {
            return wrong;
        };
        let (mut next, mut last, mut count) = (class.first.load(Ordering::Relaxed), 0, 0);
        while next != 0 {
            let slot = SlotIndex {
                class: number,
                index: next as usize - 1,
            };
            let Some(cell) = self.cell(slot) else {
                return wrong;
            };
            count += 1;
            if cell.read().state != SlotState::Freed || count > expected {
                return wrong;
            }
            (last, next) = (next, cell.next());
        }
        if count == expected && last == class.last.load(Ordering::Relaxed) {
            Ok(())
        } else {
            wrong
        }
    }

    /// For tests of fork: somebody works at the class of a slot, for ever.
    #[doc(hidden)]
    pub fn forge_lock(&self, slot: SlotIndex) {
        if let Some(class) = self.classes.get(slot.class) {
            class.lock.lock();
        }
    }

    /// For tests of the checker: where a slot's record lies.
    #[doc(hidden)]
    pub fn forge_record(&self, slot: SlotIndex) -> usize {
        let class = self.classes.get(slot.class);
        let records = class.map_or(0, |class| class.records.load(Ordering::Relaxed));
        records + slot.index * crate::guard::record::RECORD_BYTES
    }
}
