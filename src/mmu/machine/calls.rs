//! The memory calls of the program that runs.
//!
//! They are Linux's: [`Space`] decides, the page side follows. All act on the current space.

use crate::mmu::addr::{ObjectId, PAGE};
use crate::mmu::area::{Errno, linux};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;
use crate::mmu::geometry::Geometry;
use crate::mmu::space::Space;

use super::Machine;
use super::effects::Keeper;

impl<'m, G: Geometry> Machine<'m, G> {
    fn call<T>(
        &mut self,
        call: impl FnOnce(&mut Space, &mut AreaPool<'m>, &mut Keeper<'_, 'm, G>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let id = self.current.ok_or(Errno::EFAULT)?;
        let place = usize::from(id.raw());
        let record = self.spaces.get_mut(place).ok_or(Errno::EFAULT)?;
        let space = record.0.as_mut().ok_or(Errno::EFAULT)?;
        let mut keeper = Keeper {
            pages: &mut self.pages,
            space: place,
        };
        let done = call(space, &mut self.pool, &mut keeper);
        if core::mem::take(&mut self.pages.short) {
            // Frames for page tables ran out half-way: guards, or a split huge page.
            return Err(Errno::ENOMEM);
        }
        done
    }

    /// `mmap`. `object` is what the descriptor stands for.
    ///
    /// # Errors
    /// As Linux: see [`Space::mmap`].
    pub fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        object: Option<ObjectId>,
        offset: u64,
    ) -> Result<u64, Errno> {
        self.call(|space, pool, fx| space.mmap(pool, fx, hint, len, prot, flags, object, offset))
    }

    /// `mmap` of private memory, anywhere.
    ///
    /// # Errors
    /// As [`Machine::mmap`].
    pub fn map_anonymous(&mut self, len: u64, prot: u32) -> Result<u64, Errno> {
        self.mmap(
            0,
            len,
            prot,
            linux::MAP_PRIVATE | linux::MAP_ANONYMOUS,
            None,
            0,
        )
    }

    /// `munmap`.
    ///
    /// # Errors
    /// As Linux: see [`Space::munmap`].
    pub fn munmap(&mut self, addr: u64, len: u64) -> Result<(), Errno> {
        self.call(|space, pool, fx| space.munmap(pool, fx, addr, len))
    }

    /// `mprotect`.
    ///
    /// # Errors
    /// As Linux: see [`Space::mprotect`].
    pub fn mprotect(&mut self, addr: u64, len: u64, prot: u32) -> Result<(), Errno> {
        self.call(|space, pool, fx| space.mprotect(pool, fx, addr, len, prot))
    }

    /// `madvise`.
    ///
    /// # Errors
    /// As Linux: see [`Space::madvise`]; `ENOMEM` if frames for page tables run out.
    pub fn madvise(&mut self, addr: u64, len: u64, advice: u32) -> Result<(), Errno> {
        self.call(|space, pool, fx| space.madvise(pool, fx, addr, len, advice))
    }

    /// `mlock`.
    ///
    /// # Errors
    /// As Linux: see [`Space::mlock`].
    pub fn mlock(&mut self, addr: u64, len: u64) -> Result<(), Errno> {
        self.call(|space, pool, fx| space.mlock(pool, fx, addr, len))
    }

    /// `munlock`. Pages that are in memory stay there until they are unmapped.
    ///
    /// # Errors
    /// As Linux: see [`Space::munlock`].
    pub fn munlock(&mut self, addr: u64, len: u64) -> Result<(), Errno> {
        self.call(|space, pool, fx| space.munlock(pool, fx, addr, len))
    }

    /// `mremap`.
    ///
    /// # Errors
    /// As Linux: see [`Space::mremap`]; `ENOMEM`, with nothing changed, if the page tables of a
    /// move could run out of frames.
    pub fn mremap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        if flags & linux::MREMAP_MAYMOVE != 0 {
            self.reserve_move(old, old_len.min(new_len))?;
        }
        self.call(|space, pool, fx| space.mremap(pool, fx, old, old_len, new_len, flags, new))
    }

    /// Sees to it that the page tables of a move can be had: moving pages cannot fail half-way.
    fn reserve_move(&mut self, old: u64, len: u64) -> Result<(), Errno> {
        let Some(id) = self.current else {
            return Ok(());
        };
        let span = G::span(1.min(G::LEVELS - 1));
        let end = old.saturating_add(len).min(G::USER_END);
        let (mut at, mut leaves) = (old, 0);
        while let Some(leaf) = self.pages.next(usize::from(id.raw()), at, end) {
            leaves += 1;
            at = (leaf.start | (span - 1)) + 1;
        }
        if leaves == 0 {
            return Ok(());
        }
        // The target may cut the pieces otherwise: one table more, and two of each level above.
        let tables = leaves + 1 + 2 * G::LEVELS.saturating_sub(2);
        while self.pages.room(tables, 0).map_err(|_| Errno::ENOMEM)? {}
        Ok(())
    }

    /// `brk`: where the break is afterwards.
    pub fn brk(&mut self, to: u64) -> u64 {
        self.call(|space, pool, fx| Ok(space.brk(pool, fx, to)))
            .unwrap_or(0)
    }

    /// An object of zeros without a name, held once: what `memfd_create` and `ftruncate` make.
    ///
    /// # Errors
    /// `ENOMEM` without room for one more.
    pub fn create(&mut self, len: u64) -> Result<ObjectId, Errno> {
        self.pages.objects.add(len, None).ok_or(Errno::ENOMEM)
    }

    /// Opens a file whose bytes lie on the disk from `block` on: see [`Machine::disk`]. Whoever
    /// opens the same blocks twice has two files that know nothing of each other.
    ///
    /// # Errors
    /// `ENOMEM` without room for one more, `EINVAL` if the blocks are those of swap slots.
    pub fn open(&mut self, block: u32, len: u64) -> Result<ObjectId, Errno> {
        if (block as usize) < self.pages.swap.slots() {
            return Err(Errno::EINVAL);
        }
        let object = self.pages.objects.add(len, Some(block));
        object.ok_or(Errno::ENOMEM)
    }

    /// Lets go of an object that was made or opened; mappings still hold it.
    pub fn close(&mut self, object: ObjectId) {
        let mut keeper = Keeper {
            pages: &mut self.pages,
            space: 0,
        };
        keeper.release(object);
    }

    /// Writes a file's dirty pages to the disk.
    pub fn sync(&mut self, object: ObjectId) {
        self.pages.sync_cached(object);
    }

    /// Throws one page out, as memory pressure would; `false` if none may go.
    pub fn reclaim(&mut self) -> bool {
        self.pages.evict_one()
    }

    /// Throws the page at `va` of a space out; `false` if it has no frame or may not go.
    pub fn page_out(&mut self, space: super::SpaceId, va: u64) -> bool {
        let frame = self.frame(space, va & !(PAGE - 1));
        frame.is_some_and(|frame| {
            use crate::mmu::physical::mark;
            let record = self.pages.memory.record(frame);
            record.has(mark::LISTED) && self.pages.evict(frame)
        })
    }
}
