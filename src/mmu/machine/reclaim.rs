//! Throwing pages out, and finding everything that names a frame.
//!
//! A frame remembers one page that maps it. After a fork the others are usually at the same
//! address of other spaces; only if something was moved since are all tables searched. (Linux
//! keeps lists for this; frames here are shared so seldom that looking is cheaper.)

use crate::mmu::addr::{FrameNumber, ObjectId, PAGE, VirtAddr};
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::geometry::{Geometry, X86L4};
use crate::mmu::objects::{MAX_OBJECT, PageTree};
use crate::mmu::physical::{FRAME_WORDS, Use, mark};
use crate::mmu::replace::Policy;
use crate::mmu::tables::{Leaf, Tables};

use super::pages::Pages;

impl<G: Geometry> Pages<'_, G> {
    /// Throws the policy's victim out; `false` if nothing may go.
    pub(super) fn evict_one(&mut self) -> bool {
        loop {
            let swap = self.swap.has_room();
            let victim = self.policy.victim(self.memory.records(), &|record| {
                !record.has(mark::PINNED) && (swap || record.marks & (mark::FILE | mark::LAZY) != 0)
            });
            let Some(victim) = victim else {
                return false;
            };
            if self.evict(victim) {
                return true;
            }
            // It was stored to again and is not lazy any more.
            let record = self.memory.record_mut(victim);
            if !record.has(mark::LAZY) {
                return false;
            }
            record.marks &= !mark::LAZY;
        }
    }

    /// Throws a page out; `false` if there is nowhere to put it.
    pub(super) fn evict(&mut self, frame: FrameNumber) -> bool {
        let record = *self.memory.record(frame);
        let done = match record.usage {
            Use::Anonymous if self.is_lazy(frame) => {
                // The frame must not be freed with its last name.
                self.memory.record_mut(frame).refs += 1;
                self.unmap_everywhere(frame, Entry::EMPTY);
                true
            }
            Use::Anonymous => {
                let Some(slot) = self.swap.take(record.refs) else {
                    return false;
                };
                self.swap.outs += 1;
                self.write_block(frame, slot.raw());
                self.memory.record_mut(frame).refs += 1;
                self.unmap_everywhere(frame, Entry::swapped(slot));
                true
            }
            Use::Cached => self.evict_cached(frame),
            _ => false,
        };
        if done {
            self.counts.evicted += 1;
            self.free(frame);
        }
        done
    }

    fn is_lazy(&self, frame: FrameNumber) -> bool {
        let record = self.memory.record(frame);
        if !record.has(mark::LAZY) || record.refs != 1 {
            return false;
        }
        self.find_mapping(frame).is_some_and(|(_, leaf)| {
            leaf.entry.has(Entry::<G>::LAZY_FREE) && !leaf.entry.has(Entry::<G>::DIRTY)
        })
    }

    fn evict_cached(&mut self, frame: FrameNumber) -> bool {
        let record = *self.memory.record(frame);
        let object = ObjectId::new(record.object);
        let offset = record.index * PAGE;
        let Some(leaf) = self
            .tree(object)
            .and_then(|tree| tree.leaf(&self.memory, VirtAddr::new(offset)))
        else {
            return false;
        };
        let by = if record.has(mark::FILE) {
            self.unmap_everywhere(frame, Entry::EMPTY);
            self.write_back(frame);
            Entry::EMPTY
        } else {
            let Some(slot) = self.swap.take(1) else {
                return false;
            };
            self.unmap_everywhere(frame, Entry::EMPTY);
            self.swap.outs += 1;
            self.write_block(frame, slot.raw());
            Entry::swapped(slot)
        };
        Tables::<X86L4>::set(&mut self.memory, leaf.slot, by);
        true
    }

    /// A dirty page of a file goes to the disk.
    pub(super) fn write_back(&mut self, frame: FrameNumber) {
        let record = *self.memory.record(frame);
        if !record.has(mark::DIRTY | mark::FILE) {
            return;
        }
        let object = self.objects.get(ObjectId::new(record.object));
        if let Some(block) = object.and_then(|object| object.block) {
            self.write_block(frame, block + record.index as u32);
            self.counts.file_outs += 1;
        }
        self.memory.record_mut(frame).marks &= !mark::DIRTY;
    }

    /// Every entry that names the frame is replaced; the frame stays, with no name but its
    /// object's, or the one that the caller added.
    pub(super) fn unmap_everywhere(&mut self, frame: FrameNumber, by: Entry<G>) {
        while self.memory.record(frame).refs > 1 {
            let Some((space, leaf)) = self.find_mapping(frame) else {
                return;
            };
            Tables::set(&mut self.memory, leaf.slot, by);
            self.shoot(space, leaf.start);
            self.unname(space, frame, leaf.entry);
            if let Meaning::Swapped(_) = by.meaning() {
                self.maps[space].sizes.swapped += 1;
            }
        }
    }

    /// Some entry that names the frame.
    pub(super) fn find_mapping(&self, frame: FrameNumber) -> Option<(usize, Leaf<G>)> {
        let names = |leaf: &Leaf<G>| match leaf.entry.meaning() {
            Meaning::Present(named) | Meaning::Hidden(named) => leaf.level == 0 && named == frame,
            _ => false,
        };
        let record = self.memory.record(frame);
        let hint = usize::from(record.space);
        let page = record.page * PAGE;
        let near = core::iter::once(hint).chain(0..self.maps.len());
        for space in near {
            if let Some(leaf) = self.leaf(space, page).filter(names) {
                return Some((space, leaf));
            }
        }
        for space in 0..self.maps.len() {
            let mut at = 0;
            while let Some(leaf) = self.next(space, at, G::USER_END) {
                if names(&leaf) {
                    return Some((space, leaf));
                }
                at = leaf.start + G::span(leaf.level);
            }
        }
        None
    }

    /// Everything of an object in `start..end` leaves memory; `keep` writes dirty pages of files
    /// back first.
    pub(super) fn drop_cached(&mut self, object: ObjectId, start: u64, end: u64, keep: bool) {
        let Some(tree) = self.tree(object) else {
            return;
        };
        let mut at = start;
        while let Some(leaf) = tree.next(&self.memory, at, end) {
            at = leaf.start + PAGE;
            match leaf.entry.meaning() {
                Meaning::Present(frame) => {
                    self.unmap_everywhere(frame, Entry::EMPTY);
                    if keep {
                        self.write_back(frame);
                    }
                    Tables::<X86L4>::set(&mut self.memory, leaf.slot, Entry::EMPTY);
                    self.free(frame);
                }
                Meaning::Swapped(slot) => {
                    Tables::<X86L4>::set(&mut self.memory, leaf.slot, Entry::EMPTY);
                    self.swap.release(slot);
                }
                _ => {}
            }
        }
    }

    /// Dirty pages of a file go to the disk and stay in memory (msync).
    pub(super) fn sync_cached(&mut self, object: ObjectId) {
        let Some(tree) = self.tree(object) else {
            return;
        };
        for space in 0..self.maps.len() {
            self.gather_dirt(space, object);
        }
        let mut at = 0;
        while let Some(leaf) = tree.next(&self.memory, at, MAX_OBJECT) {
            at = leaf.start + PAGE;
            if let Meaning::Present(frame) = leaf.entry.meaning() {
                self.write_back(frame);
            }
        }
    }

    /// Takes the dirty bits of a space's entries over into the records of the object's frames.
    fn gather_dirt(&mut self, space: usize, object: ObjectId) {
        let mut at = 0;
        while let Some(leaf) = self.next(space, at, G::USER_END) {
            at = leaf.start + G::span(leaf.level);
            let Meaning::Present(frame) = leaf.entry.meaning() else {
                continue;
            };
            let record = self.memory.record_mut(frame);
            let ours = record.usage == Use::Cached && record.object == object.raw();
            if ours && leaf.entry.has(Entry::<G>::DIRTY) {
                record.marks |= mark::DIRTY;
                let clean = leaf.entry.without(Entry::<G>::DIRTY);
                Tables::set(&mut self.memory, leaf.slot, clean);
                self.shoot(space, leaf.start);
            }
        }
    }

    /// Pages of a file are zero on the disk too.
    pub(super) fn zero_file(&mut self, object: ObjectId, start: u64, end: u64) {
        let Some(record) = self.objects.get(object) else {
            return;
        };
        let Some(first) = record.block else {
            return;
        };
        let words = |offset: u64| (first as usize + (offset / PAGE) as usize) * FRAME_WORDS;
        let end = end.min(record.len.next_multiple_of(PAGE));
        let range = words(start)..words(end.max(start));
        if let Some(bytes) = self.disk.get_mut(range) {
            bytes.fill(0);
        }
    }

    /// The last hold of an object is gone.
    pub(super) fn end_object(&mut self, object: ObjectId) {
        self.drop_cached(object, 0, MAX_OBJECT, true);
        if let Some(mut tree) = self.tree(object) {
            PageTree::prune(&mut tree, &mut self.memory, 0, MAX_OBJECT);
            tree.end(&mut self.memory);
        }
        if let Some(record) = self.objects.get_mut(object) {
            *record = crate::mmu::objects::ObjectRecord::EMPTY;
        }
    }
}
