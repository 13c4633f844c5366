//! Requests for aligned blocks, from what the cache holds.
//!
//! A class's chunks lie at all multiples of 16; which of them are aligned further is not known
//! until somebody asks. Then chunks that do not serve are *set aside*, sorted by how far they are
//! aligned, and the next request finds its own at once. So each chunk is looked at once between
//! two lives, and free knows nothing of all this.
#![allow(unsafe_code)] // What is set aside is recorded in pages of its own.

use super::budget::budget;
use super::{Cache, ONE_POP, SLOTS};
use crate::arena::Shared;
use crate::chunk::{Chunk, Keys, Stack, State};
use crate::heap::Batch;
use crate::os::{Os, PageState, Prot, Region};
use crate::report::{Misuse, abort};
use crate::size::{ALIGN, Native, SMALL_CLASSES, SMALL_REQUEST, align_up, class_of, class_size};

/// Chunks are told apart up to this alignment.
const MOST: usize = 4 << 10;
/// 16, 32, ... [`MOST`] bytes and more.
const LEVELS: usize = (MOST / ALIGN).trailing_zeros() as usize + 1;
/// Up to this alignment chunks are as large as a multiple of it.
const NATURAL: usize = 64;
/// From this alignment on, places for it are too rare to be lost to chunks of less than half of it.
const COARSE: usize = 2 << 10;
/// How many chunks are looked at for one request.
const LOOKS: usize = 24;
/// What is set aside is at most this part of the thread's budget,
const SHARE: usize = 4;
/// and of one class at most about so many bytes.
const CLASS_BYTES: usize = 16 << 10;

/// How far an address is aligned.
#[inline]
const fn level(addr: usize) -> usize {
    ((addr | MOST) / ALIGN).trailing_zeros() as usize
}

/// Who serves a request of `size` bytes, at most [`CACHED_REQUEST`](crate::size::CACHED_REQUEST),
/// at multiples of `align`: a class, or the arena with a chunk of so many bytes.
#[inline]
pub fn aligned_class(size: usize, align: usize) -> Result<usize, usize> {
    let chunk = Native::chunk_size_unchecked(size);
    let is_small = chunk <= align / 2;
    if align <= NATURAL && size <= SMALL_REQUEST - NATURAL || align < COARSE && is_small {
        // Where that loses little, a class whose chunks can lie side by side.
        return Ok(class_of(align_up(chunk, align)));
    }
    if !is_small {
        return Ok(class_of(chunk));
    }
    // In a class, plain requests would take such places one by one, until a small chunk lies at
    // every multiple of `align`. A chunk of no class goes home, where neighbours merge.
    let chunk = chunk.max(class_size(SMALL_CLASSES - 1) + ALIGN);
    let is_of_class = class_size(class_of(chunk)) == chunk;
    Err(chunk + if is_of_class { ALIGN } else { 0 })
}

/// What was set aside of one class.
#[derive(Debug)]
#[repr(C)]
struct Sorted {
    stacks: [Stack; LEVELS],
    /// Bit n: there is something of level n.
    filled: u32,
    count: u32,
}

/// What a thread has set aside, per class.
#[derive(Debug)]
pub(super) struct Aside {
    classes: [Sorted; SLOTS],
}

impl Cache {
    /// Pops a chunk of a class at a multiple of `align` (a power of two above 16) and marks it
    /// used; 0 if none is at hand. Also whether a sample is [due](Cache::arm).
    ///
    /// # Safety
    /// `cache` is the calling thread's cache or a direct one, `class` is below
    /// [`CLASSES`](crate::size::CLASSES).
    #[inline]
    #[must_use]
    pub unsafe fn pop_aligned<O: Os + Copy + 'static>(
        cache: *mut Cache,
        shared: &Shared<O>,
        class: usize,
        align: usize,
    ) -> (usize, bool) {
        // SAFETY: the caller's promise. A direct cache is only read.
        unsafe {
            let top = (&raw const (*cache).slots)
                .cast::<super::Slot>()
                .add(class)
                .read()
                .main
                .top();
            if top != 0 && top & (align - 1) == 0 {
                return Cache::pop(cache, shared.keys(), class);
            }
            if (*cache).direct || align > MOST {
                return (0, false);
            }
            (*cache).look_for(shared, class, level(align))
        }
    }

    /// Looks among what was set aside, then through the main stack and the spare, setting aside
    /// what does not serve.
    fn look_for<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
        wanted: usize,
    ) -> (usize, bool) {
        let keys = shared.keys();
        if let Some(chunk) = self.take_aside(keys, class, wanted) {
            return self.hand_out(class, chunk);
        }
        for _ in 0..LOOKS {
            if self.slots[class % SLOTS].count() == 0 {
                let mut magazine = self.take_spare(class);
                if magazine.count == 0 {
                    let Some(taken) = shared.depot.take(keys, self.aisle, class) else {
                        break;
                    };
                    self.net[class % SLOTS] += taken.count as i64;
                    magazine = taken;
                }
                self.slots[class % SLOTS].load(magazine);
            }
            let slot = &mut self.slots[class % SLOTS];
            let Some(chunk) = slot.main.pop(keys, State::Cached) else {
                break;
            };
            slot.counts -= 1;
            self.net[class % SLOTS] -= 1;
            if level(chunk.payload()) >= wanted {
                return self.hand_out(class, chunk);
            }
            if !self.set_aside(shared, class, chunk) {
                // What a request for another alignment has left over makes room in the arena for
                // what this one is about to take.
                let mut stack = Stack::EMPTY;
                stack.push(chunk, chunk.low(), State::Cached);
                shared.release(stack);
                break;
            }
        }
        (0, false)
    }

    /// After [`pop_aligned`](Cache::pop_aligned) found nothing: gets chunks from the arena and pops
    /// one. 0 if there is no memory.
    #[cold]
    pub fn refill_aligned<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
        align: usize,
    ) -> usize {
        let size = class_size(class);
        self.reach(shared, class);
        if shared.is_abandoned(self.arena) {
            self.arena = shared.choose();
        }
        let slot = &self.slots[class % SLOTS];
        let room = slot.capacity.saturating_sub(slot.count());
        let mut batch = Batch::wanting(usize::from(room).max(1));
        if !shared.fill_aligned(self.arena, align, size, &mut batch) {
            return 0;
        }
        let Some(first) = batch.pop(shared.keys()) else {
            return 0;
        };
        self.net[class % SLOTS] += batch.count() as i64;
        let slot = &mut self.slots[class % SLOTS];
        while let Some(chunk) = batch.pop(shared.keys()) {
            slot.main.push(chunk, chunk.low(), State::Cached);
            slot.counts += 1;
        }
        let (payload, due) = self.hand_out(class, first);
        if due {
            self.arm(class, 1);
        }
        payload
    }

    /// Hands out a chunk of a class that is not accounted for.
    fn hand_out<R: Region>(&mut self, class: usize, chunk: Chunk<'static, R>) -> (usize, bool) {
        let low = chunk.low();
        if low.size() != class_size(class) {
            abort(Misuse::CorruptHead {
                address: chunk.payload(),
            });
        }
        chunk.mark(low, State::Used);
        self.net[class % SLOTS] += 1;
        let slot = &mut self.slots[class % SLOTS];
        let (counts, due) = slot.counts.overflowing_add(ONE_POP);
        slot.counts = counts;
        (chunk.payload(), due)
    }

    fn sorted(&mut self, class: usize) -> Option<&mut Sorted> {
        // SAFETY: null, or a record in pages of this thread that are never unmapped.
        let aside = unsafe { self.aside.as_mut() };
        aside.map(|aside| &mut aside.classes[class % SLOTS])
    }

    /// Takes a chunk of a class that is aligned to a level at least: the nearest there is.
    fn take_aside<R: Region>(
        &mut self,
        keys: &'static Keys<R>,
        class: usize,
        wanted: usize,
    ) -> Option<Chunk<'static, R>> {
        let sorted = self.sorted(class)?;
        let fit = sorted.filled >> wanted << wanted;
        if fit == 0 {
            return None;
        }
        let place = fit.trailing_zeros();
        let stack = sorted.stacks.get_mut(place as usize)?;
        let chunk = stack.pop(keys, State::Cached)?;
        if stack.is_empty() {
            sorted.filled &= !(1 << place);
        }
        sorted.count -= 1;
        let size = class_size(class);
        self.aside_bytes -= size;
        self.committed -= size;
        Some(chunk)
    }

    /// After a miss of any alignment: a chunk that was set aside; 0 if there is none.
    pub(super) fn reclaim<R: Region>(&mut self, keys: &'static Keys<R>, class: usize) -> usize {
        let Some(chunk) = self.take_aside(keys, class, 0) else {
            return 0;
        };
        let (payload, due) = self.hand_out(class, chunk);
        if due {
            self.arm(class, 1);
        }
        payload
    }

    /// Sets a chunk aside; `false` if there is no room.
    fn set_aside<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
        chunk: Chunk<'static, O::Region>,
    ) -> bool {
        let size = class_size(class);
        let budget = budget(shared);
        if self.aside_bytes + size > budget / SHARE || self.committed + size > budget {
            return false;
        }
        if self.aside.is_null() && !self.map_aside(shared.os()) {
            return false;
        }
        let Some(sorted) = self.sorted(class) else {
            return false;
        };
        if sorted.count as usize * size >= CLASS_BYTES {
            return false;
        }
        let place = level(chunk.payload());
        let Some(stack) = sorted.stacks.get_mut(place) else {
            return false;
        };
        stack.push(chunk, chunk.low(), State::Cached);
        sorted.filled |= 1 << place;
        sorted.count += 1;
        self.aside_bytes += size;
        self.committed += size;
        true
    }

    #[cold]
    fn map_aside<O: Os>(&mut self, os: &O) -> bool {
        let bytes = align_up(size_of::<Aside>(), os.page_size());
        let Ok(pages) = os.map(0, bytes, Prot::ReadWrite) else {
            return false;
        };
        os.note(pages, pages + bytes, PageState::Meta);
        // All zero is a valid empty record.
        self.aside = os.region().at(pages).cast();
        true
    }

    /// Sends home what was set aside of a class.
    pub(super) fn release_aside<O: Os + Copy + 'static>(
        &mut self,
        shared: &Shared<O>,
        class: usize,
    ) {
        let mut stack = Stack::EMPTY;
        while let Some(chunk) = self.take_aside(shared.keys(), class, 0) {
            stack.push(chunk, chunk.low(), State::Cached);
        }
        if !stack.is_empty() {
            shared.release(stack);
        }
    }

    /// Forgets what was set aside: by a thread that does not exist in this process.
    pub(super) fn forget_aside(&mut self) {
        // SAFETY: null, or a record in pages that are never unmapped; its owner is gone.
        if let Some(aside) = unsafe { self.aside.as_mut() } {
            for sorted in &mut aside.classes {
                *sorted = Sorted {
                    stacks: [Stack::EMPTY; LEVELS],
                    filled: 0,
                    count: 0,
                };
            }
        }
        self.aside_bytes = 0;
    }
}

const _: () = assert!(level(0) == LEVELS - 1 && level(ALIGN) == 0);
