//! The kernel's part of every address space.
//!
//! One set of tables serves all: each root has the same entries for it. Its pages are for the
//! supervisor only and global, so that a switch of spaces leaves them in the TLB.

use crate::mmu::addr::{FrameNumber, PAGE_SHIFT, Rights, VirtAddr};
use crate::mmu::entry::Entry;
use crate::mmu::geometry::Geometry;
use crate::mmu::physical::Use;
use crate::mmu::tables::{MapError, Tables};

use super::Machine;

/// Where Linux on 32 bits maps physical memory, which begins at 0.
pub const LINEAR_START: u64 = 0xc000_0000;
/// How much of it: the rest ("high memory") is mapped when it is needed.
pub const LINEAR_BYTES: u64 = 896 << 20;

impl<G: Geometry> Machine<'_, G> {
    /// Maps a frame for the kernel, in every space.
    ///
    /// # Errors
    /// If `va` is not the kernel's, something is mapped there, or frames for tables run out.
    pub fn map_kernel(
        &mut self,
        va: VirtAddr,
        frame: FrameNumber,
        rights: Rights,
    ) -> Result<(), MapError> {
        self.map_kernel_at(va, 0, frame, rights)
    }

    /// A frame of the kernel's own, mapped in every space.
    ///
    /// # Errors
    /// As [`Machine::map_kernel`]; also without a frame.
    pub fn map_kernel_page(&mut self, va: VirtAddr) -> Result<FrameNumber, MapError> {
        let frame = self.pages.memory.take(Use::Kernel);
        let frame = frame.ok_or(MapError::NoFrame)?;
        self.pages.memory.zero(frame);
        let done = self.map_kernel(va, frame, Rights::READ_WRITE);
        if done.is_err() {
            self.pages.memory.give(frame);
        }
        done.map(|()| frame)
    }

    /// Maps physical memory from 0 on at `start`, at most `bytes` of it, with the largest pages
    /// that fit: Linux's direct mapping.
    ///
    /// # Errors
    /// As [`Machine::map_kernel`]; what was mapped before stays.
    pub fn map_linear(&mut self, start: VirtAddr, bytes: u64) -> Result<(), MapError> {
        let memory = (self.pages.memory.frames() as u64) << PAGE_SHIFT;
        let end = bytes.min(memory);
        let mut at = 0;
        while at < end {
            let fits = |level: usize| {
                let span = G::span(level);
                G::is_huge_level(level)
                    && at.is_multiple_of(span)
                    && (start.raw() + at).is_multiple_of(span)
                    && at + span <= end
            };
            let level = (0..G::LEVELS).rev().find(|level| fits(*level)).unwrap_or(0);
            let va = VirtAddr::new(start.raw() + at);
            let frame = FrameNumber::new((at >> PAGE_SHIFT) as u32);
            self.map_kernel_at(va, level, frame, Rights::READ_WRITE)?;
            at += G::span(level);
        }
        Ok(())
    }

    fn map_kernel_at(
        &mut self,
        va: VirtAddr,
        level: usize,
        frame: FrameNumber,
        rights: Rights,
    ) -> Result<(), MapError> {
        if va.raw() < G::USER_END || !G::is_canonical(va) {
            return Err(MapError::BadSize);
        }
        let memory = &mut self.pages.memory;
        let mut tables = match self.pages.kernel {
            Some(tables) => tables,
            None => Tables::new(memory).ok_or(MapError::NoFrame)?,
        };
        let flags = Entry::<G>::user_flags(rights) & !Entry::<G>::USER | Entry::<G>::GLOBAL;
        let done = tables.map_huge(memory, va, level, frame, flags);
        self.pages.kernel = Some(tables);
        // The root may have an entry more, which every space gets.
        for map in self.pages.maps.iter() {
            if let Some(space) = &map.tables {
                space.adopt_kernel(&mut self.pages.memory, &tables);
            }
        }
        done
    }

    /// Takes a mapping of the kernel's out of every space; the frame is the caller's again.
    pub fn unmap_kernel(&mut self, va: VirtAddr) -> Option<FrameNumber> {
        if va.raw() < G::USER_END {
            return None;
        }
        let mut tables = self.pages.kernel?;
        let leaf = tables.unmap(&mut self.pages.memory, va)?;
        self.pages.kernel = Some(tables);
        for map in self.pages.maps.iter() {
            if let Some(space) = &map.tables {
                space.adopt_kernel(&mut self.pages.memory, &tables);
            }
        }
        self.pages.mmu.invlpg(va);
        leaf.entry.address().frame()
    }

    /// The kernel's own tables, if it has mapped anything.
    #[must_use]
    pub const fn kernel_tables(&self) -> Option<&Tables<G>> {
        self.pages.kernel.as_ref()
    }
}
