//! What several mappings share: files, and memory without a name.
//!
//! An object has a length of its own, beyond which an access is a SIGBUS even where it is
//! mapped. Its pages in memory (the page cache) are found by a tree of page tables of its own,
//! of 9/9/9/9 bits whatever the machine's geometry is: an entry names the frame, or the swap slot
//! of a page without a file. A file's bytes lie on the disk, behind the swap slots.

use super::addr::{ObjectId, PAGE};
use super::geometry::X86L4;
use super::tables::Tables;

/// The tree of an object's pages: the address is the offset in bytes.
pub type PageTree = Tables<X86L4>;

/// The longest object, in bytes.
pub const MAX_OBJECT: u64 = 1 << 47;

/// What is known of an object. Plain data, to be handed in as storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRecord {
    /// Areas, and open descriptors; 0 is no object.
    pub(super) holds: u32,
    /// In bytes.
    pub(super) len: u64,
    /// The first disk block of a file.
    pub(super) block: Option<u32>,
    pub(super) tree: Option<PageTree>,
}

impl ObjectRecord {
    /// A record of nothing, to make storage of.
    pub const EMPTY: ObjectRecord = ObjectRecord {
        holds: 0,
        len: 0,
        block: None,
        tree: None,
    };

    /// Its length in bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Areas and open descriptors.
    #[must_use]
    pub const fn holds(&self) -> u32 {
        self.holds
    }

    /// Whether it is a file: its pages go back to the disk, not to swap.
    #[must_use]
    pub const fn is_file(&self) -> bool {
        self.block.is_some()
    }

    /// Whether the page at this offset has a byte of it.
    #[must_use]
    pub const fn covers(&self, offset: u64) -> bool {
        offset < self.len.next_multiple_of(PAGE)
    }
}

/// All objects.
#[derive(Debug)]
pub struct Objects<'m> {
    records: &'m mut [ObjectRecord],
}

impl<'m> Objects<'m> {
    /// None exists.
    #[must_use]
    pub fn new(records: &'m mut [ObjectRecord]) -> Objects<'m> {
        records.fill(ObjectRecord::EMPTY);
        Objects { records }
    }

    /// A new object, held once.
    pub(super) fn add(&mut self, len: u64, block: Option<u32>) -> Option<ObjectId> {
        if len > MAX_OBJECT {
            return None;
        }
        let free = self.records.iter().position(|record| record.holds == 0)?;
        self.records[free] = ObjectRecord {
            holds: 1,
            len,
            block,
            tree: None,
        };
        Some(ObjectId::new(free as u32))
    }

    /// The object, if there is one of this number.
    #[must_use]
    pub fn get(&self, object: ObjectId) -> Option<&ObjectRecord> {
        self.records
            .get(object.raw() as usize)
            .filter(|record| record.holds > 0)
    }

    pub(super) fn get_mut(&mut self, object: ObjectId) -> Option<&mut ObjectRecord> {
        self.records
            .get_mut(object.raw() as usize)
            .filter(|record| record.holds > 0)
    }

    /// All that exist.
    pub fn all(&self) -> impl Iterator<Item = (ObjectId, &ObjectRecord)> {
        (0..)
            .map(ObjectId::new)
            .zip(self.records.iter())
            .filter(|(_, record)| record.holds > 0)
    }
}
