//! Where slots lie in the pool, and the life of one: fresh, open, closed, resting.
#![allow(unsafe_code)] // Pages and records.

use super::{CLASS_BITS, Class, LARGE, LEAST_STEP, MOST_STEP, Pool, SlotIndex};
use crate::guard::canary::{self, Damage};
use crate::guard::geometry::Placement;
use crate::guard::record::{Cell, RECORD_BYTES, Record, SlotState};
use crate::os::{Os, PageState, Prot};
use crate::size::{align_down, align_up};
use crate::sync::overlay::{AtomicU64, Ordering};

impl<O: Os + Copy + 'static> Pool<O> {
    /// Bits of an offset in a class's region.
    pub(super) fn region_bits(&self) -> u32 {
        self.len.load(Ordering::Relaxed).trailing_zeros() - CLASS_BITS
    }

    /// The class of an address, and the offset in its region.
    pub(super) fn split(&self, addr: usize) -> Option<(usize, usize)> {
        if !self.holds(addr) {
            return None;
        }
        let offset = addr - self.base.load(Ordering::Relaxed);
        let bits = self.region_bits();
        Some((offset >> bits, offset & ((1 << bits) - 1)))
    }

    /// Bytes from a slot to the next.
    pub(super) fn stride(&self, class: usize) -> usize {
        let page = self.os.page_size();
        (page << class) + page
    }

    /// How many slots there is room for.
    pub(super) fn room(&self, class: usize) -> usize {
        let region = 1usize << self.region_bits();
        let rest = region.saturating_sub(self.os.page_size());
        rest.checked_div(self.stride(class)).unwrap_or(0)
    }

    pub(super) fn body(&self, slot: SlotIndex) -> usize {
        let region = self.base.load(Ordering::Relaxed) + (slot.class << self.region_bits());
        region + self.os.page_size() + slot.index * self.stride(slot.class)
    }

    /// The slot in whose body an address lies, or whose guard follows: an object may end there.
    pub(super) fn locate(&self, addr: usize) -> Option<(SlotIndex, Cell<O::Region>)> {
        let (class, offset) = self.split(addr)?;
        let offset = offset.checked_sub(self.os.page_size())?;
        let index = offset.checked_div(self.stride(class))?;
        let slot = SlotIndex { class, index };
        Some((slot, self.cell(slot)?))
    }

    /// The record of a slot that was ever used.
    pub(super) fn cell(&self, slot: SlotIndex) -> Option<Cell<O::Region>> {
        let class = self.classes.get(slot.class)?;
        if slot.index >= class.used.load(Ordering::Acquire) as usize {
            return None;
        }
        let at = class.records.load(Ordering::Relaxed) + slot.index * RECORD_BYTES;
        // SAFETY: records of used slots are committed and never unmapped.
        Some(unsafe { Cell::new(self.os.region(), at) })
    }

    pub(super) fn placement(&self, record: &Record) -> Placement {
        let page = self.os.page_size();
        let (open, close) = if record.size == 0 {
            (record.payload, record.payload)
        } else {
            (
                align_down(record.payload, page),
                align_up(record.end(), page),
            )
        };
        Placement {
            payload: record.payload,
            open,
            close,
        }
    }
}

impl<O: Os + Copy + 'static> Pool<O> {
    /// Makes the object in use at `addr` the caller's alone.
    pub(super) fn claim(&self, cell: Cell<O::Region>, addr: usize) -> Option<Record> {
        loop {
            let record = cell.read();
            if record.payload != addr {
                return None;
            }
            match cell.change(SlotState::Live, SlotState::Busy) {
                Ok(()) => return Some(record),
                Err(SlotState::Swept) => crate::os::yield_now(),
                Err(_) => return None,
            }
        }
    }

    /// # Safety
    /// The object's pages are open and stay so.
    pub(super) unsafe fn examine(&self, record: &Record, place: &Placement) -> Option<Damage> {
        let secret = self.secret.load(Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { canary::examine(self.os.region(), record, place, secret) }
    }

    /// Opens the pages of an object. `false` if that cannot be: they are as before.
    pub(super) fn open(&self, cell: Cell<O::Region>, place: &Placement) -> bool {
        let len = place.close - place.open;
        if len == 0 {
            return true;
        }
        // SAFETY: closed pages of a slot that the caller made `Busy`.
        let opened = unsafe {
            if cell.is_protected() {
                self.may_map() && self.os.protect(place.open, len, Prot::ReadWrite).is_ok()
            } else {
                self.os.unguard(place.open, len).is_ok()
            }
        };
        if opened && cell.is_protected() {
            self.mapped.fetch_add(1, Ordering::Relaxed);
            self.os.note(place.open, place.close, PageState::Live);
        }
        opened
    }

    /// Whether all slots of a class are closed by taking access away.
    pub(super) fn closes_by_access(&self, class: usize) -> bool {
        class >= LARGE || !self.has_guards.load(Ordering::Relaxed)
    }

    /// Whether one more live object may have mappings of its own. Says so once if not.
    pub(super) fn may_map(&self) -> bool {
        let most = self.most_mapped.load(Ordering::Relaxed);
        if self.mapped.load(Ordering::Relaxed) < most {
            return true;
        }
        if !self.said.swap(true, Ordering::Relaxed) {
            let mut line = crate::report::Line::new();
            line.text("fencepost: guard mode: ").decimal(most as u64);
            line.text(" objects have mappings of their own; more of their kind are not guarded, as vm.max_map_count would be exceeded");
            line.write_to(2);
        }
        false
    }

    /// Closes the pages of an object.
    ///
    /// # Safety
    /// Nobody uses them any more.
    pub(super) unsafe fn close(&self, cell: Cell<O::Region>, place: &Placement) {
        let len = place.close - place.open;
        if len == 0 {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe {
            if cell.is_protected() {
                self.mapped.fetch_sub(1, Ordering::Relaxed);
            } else if self.os.guard(place.open, len).is_ok() {
                return;
            } else {
                // Locked memory cannot be guarded, but access can be taken away.
                cell.set_protected(true);
            }
            let _ = self.os.protect(place.open, len, Prot::None);
            let _ = self.os.discard(place.open, len);
        }
    }

    /// A slot of a class for a new object, `Busy`: one that has rested, if enough others do, or
    /// one that was never used.
    pub(super) fn take(&self, number: usize) -> Option<(SlotIndex, Cell<O::Region>)> {
        let class = self.classes.get(number)?;
        if self.len.load(Ordering::Acquire) == 0 {
            return None;
        }
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rested = get(&self.resting) >= get(&self.most_resting)
            || get(&self.resting_bytes) >= get(&self.most_resting_bytes);
        class.lock.lock();
        let slot = if rested {
            self.rested(number, class)
                .or_else(|| self.fresh(number, class))
        } else {
            self.fresh(number, class)
                .or_else(|| self.rested(number, class))
        };
        class.lock.unlock();
        slot
    }

    /// Takes the oldest slot out of the quarantine, under the lock.
    pub(super) fn rested(
        &self,
        number: usize,
        class: &Class,
    ) -> Option<(SlotIndex, Cell<O::Region>)> {
        let index = class.first.load(Ordering::Relaxed).checked_sub(1)? as usize;
        let slot = SlotIndex {
            class: number,
            index,
        };
        let cell = self.cell(slot)?;
        let next = cell.next();
        class.first.store(next, Ordering::Relaxed);
        if next == 0 {
            class.last.store(0, Ordering::Relaxed);
        }
        cell.change(SlotState::Freed, SlotState::Busy).ok()?;
        self.resting.fetch_sub(1, Ordering::Relaxed);
        self.resting_bytes
            .fetch_sub(cell.read().size as u64, Ordering::Relaxed);
        Some((slot, cell))
    }

    /// Takes a slot that was never used, under the lock.
    pub(super) fn fresh(
        &self,
        number: usize,
        class: &Class,
    ) -> Option<(SlotIndex, Cell<O::Region>)> {
        let index = class.used.load(Ordering::Relaxed) as usize;
        if index >= self.room(number) {
            return None;
        }
        let slot = SlotIndex {
            class: number,
            index,
        };
        self.record_room(number, class, index)?;
        let protected = self.closes_by_access(number) || !self.make_ready(class, slot);
        let at = class.records.load(Ordering::Relaxed) + index * RECORD_BYTES;
        // SAFETY: committed just now, or before, and never unmapped.
        let cell = unsafe { Cell::new(self.os.region(), at) };
        // It is `Busy` already in a child of fork whose parent was right here.
        let _ = cell.change(SlotState::Unused, SlotState::Busy);
        cell.set_protected(protected);
        class.used.store(index as u32 + 1, Ordering::Release);
        Some((slot, cell))
    }

    pub(super) fn region_of(&self, class: usize) -> usize {
        self.base.load(Ordering::Relaxed) + (class << self.region_bits())
    }

    /// Turns address space without access into guards, up to the end of a slot. `false` if the
    /// kernel refuses: the slot is then left without access.
    pub(super) fn make_ready(&self, class: &Class, slot: SlotIndex) -> bool {
        let region = self.region_of(slot.class);
        let from = class.ready.load(Ordering::Relaxed);
        let need = self.body(slot) + self.stride(slot.class) - region;
        if need <= from {
            return true;
        }
        // Not `clamp`, which may panic.
        #[allow(clippy::manual_clamp)]
        let step = from.max(LEAST_STEP).min(MOST_STEP);
        // Whole slots: none is half guarded by advice and half without access.
        let stride = self.stride(slot.class);
        let more = step.checked_div(stride).unwrap_or(0);
        let left = self.room(slot.class).saturating_sub(slot.index + 1);
        let generous = need + more.min(left) * stride;
        for to in [generous, need] {
            // SAFETY: addresses of the pool that nobody uses yet.
            let done = unsafe {
                self.os
                    .protect(region + from, to - from, Prot::ReadWrite)
                    .and_then(|()| self.os.guard(region + from, to - from))
            };
            if done.is_ok() {
                class.ready.store(to, Ordering::Relaxed);
                return true;
            }
            // SAFETY: as above.
            let _ = unsafe { self.os.protect(region + from, to - from, Prot::None) };
        }
        // The slot will be in use when the next one is made ready.
        class.ready.store(need, Ordering::Relaxed);
        false
    }

    /// Makes room for the record of one more slot.
    pub(super) fn record_room(&self, number: usize, class: &Class, index: usize) -> Option<()> {
        let page = self.os.page_size();
        if class.records.load(Ordering::Relaxed) == 0 {
            let bytes = align_up(self.room(number).checked_mul(RECORD_BYTES)?, page);
            let at = self.os.map(0, bytes, Prot::None).ok()?;
            class.records.store(at, Ordering::Relaxed);
        }
        let need = (index + 1) * RECORD_BYTES;
        let from = class.recorded.load(Ordering::Relaxed);
        if need > from {
            let whole = align_up(self.room(number) * RECORD_BYTES, page);
            let step = align_up(from.max(page).min(MOST_STEP), page);
            let to = (from + step).min(whole);
            let at = class.records.load(Ordering::Relaxed);
            // SAFETY: records that nobody uses yet.
            unsafe { self.os.protect(at + from, to - from, Prot::ReadWrite) }.ok()?;
            self.os.note(at + from, at + to, PageState::Meta);
            class.recorded.store(to, Ordering::Relaxed);
        }
        Some(())
    }

    /// Puts a `Busy` slot, whose pages are closed, into the quarantine.
    pub(super) fn put(&self, slot: SlotIndex, cell: Cell<O::Region>) {
        let Some(class) = self.classes.get(slot.class) else {
            return;
        };
        let number = slot.index as u32 + 1;
        let size = cell.read().size as u64;
        self.resting.fetch_add(1, Ordering::Relaxed);
        self.resting_bytes.fetch_add(size, Ordering::Relaxed);
        class.lock.lock();
        cell.set_next(0);
        let _ = cell.change(SlotState::Busy, SlotState::Freed);
        let last = class.last.load(Ordering::Relaxed).checked_sub(1);
        let before = last.and_then(|index| {
            self.cell(SlotIndex {
                class: slot.class,
                index: index as usize,
            })
        });
        match before {
            Some(before) => before.set_next(number),
            None => class.first.store(number, Ordering::Relaxed),
        }
        class.last.store(number, Ordering::Relaxed);
        class.lock.unlock();
    }
}
