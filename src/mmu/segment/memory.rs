//! Memory that holds whole segments: first fit, fragmentation, swapping, compaction.
//!
//! A segment must lie in one piece. After some have come and gone the free memory is in holes,
//! none of which may be large enough although all together are: external fragmentation. The
//! cure is to swap segments out and in again next to each other, and what it costs is counted in
//! bytes to and from the disk. Paging needs neither: any free frame will do.
//!
//! Sources: Knuth, The Art of Computer Programming, volume 1, section 2.5 (first fit); the notes'
//! example of a game, a browser and a music player.

use crate::mmu::addr::PAGE;
use crate::mmu::area::Errno;

/// Where a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// In memory from this byte on.
    Memory(u64),
    /// On the disk.
    Disk,
}

/// A segment of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resident {
    /// Whose it is: any number that its owner chose.
    pub id: u32,
    /// Bytes.
    pub len: u64,
    /// Where it is.
    pub place: Place,
}

impl Resident {
    /// An unused place of the storage.
    pub const EMPTY: Resident = Resident {
        id: 0,
        len: 0,
        place: Place::Disk,
    };

    fn start(&self) -> Option<u64> {
        match self.place {
            Place::Memory(start) => Some(start),
            Place::Disk => None,
        }
    }
}

/// Free memory between segments, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hole {
    /// The first free byte.
    pub start: u64,
    /// How many there are.
    pub len: u64,
}

/// Bytes written to the disk and read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Traffic {
    /// Written.
    pub out: u64,
    /// Read.
    pub back: u64,
}

impl Traffic {
    /// Both together.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.out + self.back
    }
}

/// Physical memory of a number of bytes, and the segments of all programs.
#[derive(Debug)]
pub struct SegMemory<'m> {
    bytes: u64,
    /// Those in memory in order of address, behind them those on the disk.
    segments: &'m mut [Resident],
    count: usize,
    traffic: Traffic,
}

impl<'m> SegMemory<'m> {
    /// Empty memory. It has room for as many segments as the storage has places.
    pub fn new(bytes: u64, storage: &'m mut [Resident]) -> SegMemory<'m> {
        SegMemory {
            bytes,
            segments: storage,
            count: 0,
            traffic: Traffic::default(),
        }
    }

    /// How large the memory is, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All segments: those in memory in order of address, then those on the disk.
    #[must_use]
    pub fn segments(&self) -> &[Resident] {
        &self.segments[..self.count]
    }

    /// What was swapped so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The free memory in order of address.
    pub fn holes(&self) -> impl Iterator<Item = Hole> {
        let ends = self
            .segments()
            .iter()
            .filter_map(|s| Some((s.start()?, s.len)))
            .chain([(self.bytes, 0)]);
        let mut end = 0;
        ends.filter_map(move |(start, len)| {
            let hole = Hole {
                start: end,
                len: start - end,
            };
            end = start + len;
            (hole.len > 0).then_some(hole)
        })
    }

    /// Free bytes.
    #[must_use]
    pub fn free(&self) -> u64 {
        self.holes().map(|hole| hole.len).sum()
    }

    /// Bytes of the largest hole.
    #[must_use]
    pub fn largest(&self) -> u64 {
        self.holes().map(|hole| hole.len).max().unwrap_or(0)
    }

    /// The part of the free memory that the largest request could not have:
    /// 1 - largest / free, 0 when nothing is free.
    #[must_use]
    pub fn external_fragmentation(&self) -> f64 {
        match self.free() {
            0 => 0.0,
            free => 1.0 - self.largest() as f64 / free as f64,
        }
    }

    /// Puts a new segment into the first hole that it fits, and says where.
    ///
    /// # Errors
    /// `EINVAL` for no bytes, `EEXIST` if there is one with this id, `ENOMEM` if no hole is large
    /// enough or the storage is full.
    pub fn place(&mut self, id: u32, len: u64) -> Result<u64, Errno> {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        if self.find(id).is_some() {
            return Err(Errno::EEXIST);
        }
        if self.count == self.segments.len() {
            return Err(Errno::ENOMEM);
        }
        let start = self.first_fit(len).ok_or(Errno::ENOMEM)?;
        self.insert(Resident {
            id,
            len,
            place: Place::Memory(start),
        });
        Ok(start)
    }

    /// Ends a segment, wherever it is.
    ///
    /// # Errors
    /// `EINVAL` if there is none.
    pub fn release(&mut self, id: u32) -> Result<(), Errno> {
        let at = self.find(id).ok_or(Errno::EINVAL)?;
        self.remove(at);
        Ok(())
    }

    /// Writes a segment to the disk, whole.
    ///
    /// # Errors
    /// `EINVAL` if there is none in memory.
    pub fn swap_out(&mut self, id: u32) -> Result<(), Errno> {
        let at = self.find(id).ok_or(Errno::EINVAL)?;
        if self.segments[at].place == Place::Disk {
            return Err(Errno::EINVAL);
        }
        let segment = self.remove(at);
        self.traffic.out += segment.len;
        self.insert(Resident {
            place: Place::Disk,
            ..segment
        });
        Ok(())
    }

    /// Reads a segment from the disk into the first hole that it fits, and says where.
    ///
    /// # Errors
    /// `EINVAL` if there is none on the disk, `ENOMEM` if no hole is large enough.
    pub fn swap_in(&mut self, id: u32) -> Result<u64, Errno> {
        let at = self.find(id).ok_or(Errno::EINVAL)?;
        let segment = self.segments[at];
        if segment.place != Place::Disk {
            return Err(Errno::EINVAL);
        }
        let start = self.first_fit(segment.len).ok_or(Errno::ENOMEM)?;
        self.remove(at);
        self.traffic.back += segment.len;
        self.insert(Resident {
            place: Place::Memory(start),
            ..segment
        });
        Ok(start)
    }

    /// Swaps every segment that has a hole somewhere below it out and in again, the lowest first,
    /// until all free memory is one hole at the end. `moved` is told the id, the old and the new
    /// start of each, so that the segment table can follow.
    ///
    /// Returns the bytes that went to the disk and back for this.
    pub fn compact(&mut self, mut moved: impl FnMut(u32, u64, u64)) -> Traffic {
        let before = self.traffic;
        let mut end = 0;
        for at in 0..self.count {
            let Some(start) = self.segments[at].start() else {
                break;
            };
            let Resident { id, len, .. } = self.segments[at];
            if start > end {
                // Everything below is dense, so that the first hole begins at `end`, and with
                // the room of the segment itself it is large enough.
                self.segments[at].place = Place::Memory(end);
                self.traffic.out += len;
                self.traffic.back += len;
                moved(id, start, end);
            }
            end += len;
        }
        Traffic {
            out: self.traffic.out - before.out,
            back: self.traffic.back - before.back,
        }
    }

    /// What paging would write to the disk to make room for `len` bytes: the pages that are
    /// missing, and nothing while there are free ones, wherever they lie.
    #[must_use]
    pub fn paging_would_write(&self, len: u64) -> u64 {
        len.div_ceil(PAGE)
            .saturating_sub(self.holes().map(|hole| hole.len / PAGE).sum())
            * PAGE
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.segments().iter().position(|s| s.id == id)
    }

    fn first_fit(&self, len: u64) -> Option<u64> {
        let hole = self.holes().find(|hole| hole.len >= len)?;
        Some(hole.start)
    }

    /// Takes the segment at an index out of the list.
    fn remove(&mut self, at: usize) -> Resident {
        let segment = self.segments[at];
        self.segments.copy_within(at + 1..self.count, at);
        self.count -= 1;
        segment
    }

    /// Adds to the list where the order says; there is room for one more.
    fn insert(&mut self, segment: Resident) {
        let at = match segment.start() {
            Some(start) => self
                .segments()
                .iter()
                .position(|s| s.start().is_none_or(|other| other > start))
                .unwrap_or(self.count),
            None => self.count,
        };
        self.segments.copy_within(at..self.count, at + 1);
        self.segments[at] = segment;
        self.count += 1;
    }
}
