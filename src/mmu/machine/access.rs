//! A program's accesses, and those of the kernel on its behalf.

use crate::mmu::addr::{Access, FrameNumber, Mode, PAGE, PhysAddr, Rights, VirtAddr};
use crate::mmu::area::{Area, Errno};
use crate::mmu::cpu::Mmu;
use crate::mmu::fault::{Cause, Fault};
use crate::mmu::geometry::Geometry;
use crate::mmu::replace::Policy;
use crate::mmu::tables::{Step, Tables};

use super::effects::Keeper;
use super::resolve::Unavailable;
use super::{FaultTrace, Machine};

/// Below this address a missing page is a null pointer's.
const NULL_REACH: u64 = 64 << 10;

/// What an access asks of an area.
fn allowed<G: Geometry>(rights: Rights, access: Access) -> Result<(), Cause> {
    // Where entries cannot forbid execution, a fetch is a load.
    let access = if access == Access::Exec && !G::HAS_NX {
        Access::Read
    } else {
        access
    };
    if rights.allows(access) {
        return Ok(());
    }
    Err(match access {
        Access::Write => Cause::ProtWrite,
        Access::Exec if rights != Rights::NONE => Cause::ExecNx,
        Access::Read | Access::Exec => Cause::ProtRead,
    })
}

impl<G: Geometry> Machine<'_, G> {
    /// One access of a program: `len` bytes from `va` on, page by page from the lowest, each
    /// page faulted in and begun again as often as it takes. Sets accessed and dirty bits. An
    /// access of no bytes does nothing.
    ///
    /// # Errors
    /// The first byte that cannot be accessed, and why. Pages before it were accessed.
    #[inline]
    pub fn access(
        &mut self,
        va: VirtAddr,
        len: u64,
        access: Access,
        mode: Mode,
    ) -> Result<(), Fault> {
        self.instruction += 1;
        if len.wrapping_sub(1) < PAGE - va.offset() {
            return self.access_page(va, access, mode).map(|_| ());
        }
        self.access_pages(va, len, access, mode)
    }

    #[cold]
    fn access_pages(
        &mut self,
        va: VirtAddr,
        len: u64,
        access: Access,
        mode: Mode,
    ) -> Result<(), Fault> {
        let mut done = 0;
        while done < len {
            let at = VirtAddr::new(va.raw().wrapping_add(done));
            self.access_page(at, access, mode)?;
            done = done.saturating_add(PAGE - at.offset());
        }
        Ok(())
    }

    /// The part of an access in one page: the physical address of its first byte.
    #[inline]
    fn access_page(&mut self, va: VirtAddr, access: Access, mode: Mode) -> Result<PhysAddr, Fault> {
        if let Some(at) = self.pages.mmu.same_page(va, access, mode) {
            return Ok(at);
        }
        self.access_new_page(va, access, mode)
    }

    #[inline(never)]
    fn access_new_page(
        &mut self,
        va: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<PhysAddr, Fault> {
        if self.pages.mmu.root().is_some()
            && let Some(cause) = out_of_reach::<G>(va, mode)
        {
            return Err(self.fault(cause, va, access, mode, false));
        }
        loop {
            let pages = &mut self.pages;
            match pages.mmu.reach(&mut pages.memory, va, access, mode) {
                Ok(at) => {
                    if pages.policy.wants_touches() && pages.mmu.root().is_some() {
                        let frame = Mmu::<G>::frame_of(at);
                        pages.policy.touch(pages.memory.records(), frame);
                    }
                    return Ok(at);
                }
                Err(refused) => {
                    if let Err(cause) = self.resolve(va, access, mode, refused.present) {
                        return Err(self.fault(cause, va, access, mode, refused.present));
                    }
                    self.restarts += 1;
                }
            }
        }
    }

    fn fault(
        &self,
        cause: Cause,
        addr: VirtAddr,
        access: Access,
        mode: Mode,
        present: bool,
    ) -> Fault {
        Fault {
            cause,
            addr,
            access,
            mode,
            present,
            instruction: self.instruction.saturating_sub(1),
        }
    }

    /// The kernel's page fault handler.
    #[cold]
    fn resolve(
        &mut self,
        va: VirtAddr,
        access: Access,
        mode: Mode,
        present: bool,
    ) -> Result<(), Cause> {
        let judged = match self.judge(va, access, mode) {
            Err(Cause::NotMapped | Cause::NullDeref) if self.grow(va)? => {
                self.judge(va, access, mode)
            }
            judged => judged,
        };
        let area = match judged {
            // Linux takes a fetch for a load until the page is there; the fetch is repeated, and
            // then refused for good.
            Err(Cause::ExecNx) if !present => self.judge(va, Access::Read, mode)?,
            judged => judged?,
        };
        let Some(space) = self.current else {
            return Err(Cause::NotMapped);
        };
        let write = access == Access::Write;
        let space = usize::from(space.raw());
        let done = self.pages.fault_in(space, &area, va.raw(), write);
        done.map_err(|why| match why {
            Unavailable::Guard => Cause::Guard,
            Unavailable::BeyondEnd => Cause::BusEof,
            Unavailable::Memory => Cause::OutOfMemory,
        })
    }

    /// The area that makes an access legal, as far as areas can tell.
    fn judge(&self, va: VirtAddr, access: Access, mode: Mode) -> Result<Area, Cause> {
        if let Some(cause) = out_of_reach::<G>(va, mode) {
            return Err(cause);
        }
        let found = self
            .current
            .and_then(|id| self.space(id))
            .and_then(|space| space.find(&self.pool, va.raw()));
        let Some(area) = found else {
            return Err(if va.raw() < NULL_REACH {
                Cause::NullDeref
            } else {
                Cause::NotMapped
            });
        };
        allowed::<G>(area.rights, access)?;
        Ok(area)
    }

    /// Lets a stack grow down to `va`, if one lies above: `false` if none does.
    fn grow(&mut self, va: VirtAddr) -> Result<bool, Cause> {
        let Some(id) = self.current else {
            return Ok(false);
        };
        let place = usize::from(id.raw());
        let Some(space) = self.spaces.get_mut(place).and_then(|s| s.0.as_mut()) else {
            return Ok(false);
        };
        let above = space.at_or_after(&self.pool, va.raw());
        if !above.is_some_and(|area| area.traits.has(crate::mmu::area::Traits::GROWS_DOWN)) {
            return Ok(false);
        }
        let mut keeper = Keeper {
            pages: &mut self.pages,
            space: place,
        };
        space.grow_stack(&mut self.pool, &mut keeper, va.raw())?;
        Ok(true)
    }

    /// Why an access would be a fault for the program; `None` if the kernel would resolve it.
    /// Changes nothing. (Memory may run out all the same.)
    #[must_use]
    pub fn why(&self, va: VirtAddr, access: Access, mode: Mode) -> Option<Cause> {
        use crate::mmu::area::Backing;
        let judged = self.judge(va, access, mode);
        let area = match judged {
            // The page is brought in first, if it can be.
            Err(Cause::ExecNx) => self.judge(va, Access::Read, mode).ok()?,
            Ok(area) => area,
            Err(cause) => return Some(cause),
        };
        let space = usize::from(self.current?.raw());
        let leaf = self.pages.leaf(space, va.raw());
        if leaf.is_some_and(|leaf| leaf.entry == crate::mmu::entry::Entry::GUARD) {
            return Some(Cause::Guard);
        }
        match area.backing_at(va.raw() & !(PAGE - 1)) {
            Backing::Object { object, offset, .. } if leaf.is_none() => {
                let object = self.pages.objects.get(object);
                let covered = object.is_some_and(|object| object.covers(offset));
                if covered {
                    judged.err()
                } else {
                    Some(Cause::BusEof)
                }
            }
            _ => judged.err(),
        }
    }

    /// Reads bytes as a program does.
    ///
    /// # Errors
    /// As [`Machine::access`]; bytes before the fault were read.
    pub fn read(&mut self, va: VirtAddr, bytes: &mut [u8], mode: Mode) -> Result<(), Fault> {
        self.instruction += 1;
        let mut done = 0;
        while done < bytes.len() {
            let at = VirtAddr::new(va.raw().wrapping_add(done as u64));
            let here = bytes.len().min(done + (PAGE - at.offset()) as usize);
            let place = self.access_page(at, Access::Read, mode)?;
            self.pages.memory.read(place, &mut bytes[done..here]);
            done = here;
        }
        Ok(())
    }

    /// Writes bytes as a program does.
    ///
    /// # Errors
    /// As [`Machine::access`]; bytes before the fault were written.
    pub fn write(&mut self, va: VirtAddr, bytes: &[u8], mode: Mode) -> Result<(), Fault> {
        self.instruction += 1;
        let mut done = 0;
        while done < bytes.len() {
            let at = VirtAddr::new(va.raw().wrapping_add(done as u64));
            let here = bytes.len().min(done + (PAGE - at.offset()) as usize);
            let place = self.access_page(at, Access::Write, mode)?;
            self.pages.memory.write(place, &bytes[done..here]);
            done = here;
        }
        Ok(())
    }

    /// Copies out of a space's memory as the kernel does for another process
    /// (`process_vm_readv`): by the rights of the areas, where a page that may only be written
    /// cannot be read; stacks do not grow; no TLB is asked.
    ///
    /// # Errors
    /// `EFAULT` if not even the first byte can be had; if a later one cannot, the number of
    /// bytes before its page is the answer.
    pub fn copy_in(
        &mut self,
        space: super::SpaceId,
        va: u64,
        out: &mut [u8],
    ) -> Result<usize, Errno> {
        let len = out.len();
        self.copy(space, va, len, false, |machine, at, from, to| {
            machine.pages.memory.read(at, &mut out[from..to]);
        })
    }

    /// Copies into a space's memory, as [`Machine::copy_in`].
    ///
    /// # Errors
    /// As [`Machine::copy_in`].
    pub fn copy_out(
        &mut self,
        space: super::SpaceId,
        va: u64,
        bytes: &[u8],
    ) -> Result<usize, Errno> {
        self.copy(space, va, bytes.len(), true, |machine, at, from, to| {
            machine.pages.memory.write(at, &bytes[from..to]);
        })
    }

    fn copy(
        &mut self,
        space: super::SpaceId,
        va: u64,
        len: usize,
        write: bool,
        mut piece: impl FnMut(&mut Self, PhysAddr, usize, usize),
    ) -> Result<usize, Errno> {
        let mut done = 0;
        let mut held = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let here = len.min(done + (PAGE - at % PAGE) as usize);
            if held <= done {
                held = self.hold(space, va, done, len, write);
            }
            if held < here {
                break;
            }
            let Some(place) = self.pin(space, at, write) else {
                break;
            };
            piece(self, place, done, here);
            done = here;
        }
        if done == 0 && len > 0 {
            return Err(Errno::EFAULT);
        }
        Ok(done)
    }

    /// The kernel takes hold of up to 16 pages (`PVM_MAX_PP_ARRAY_COUNT`) before it copies
    /// anything: private copies that are made thereby do not see what the same call writes into
    /// the object. How far it came, in bytes of the call.
    fn hold(
        &mut self,
        space: super::SpaceId,
        va: u64,
        from: usize,
        len: usize,
        write: bool,
    ) -> usize {
        let mut held = from;
        for _ in 0..16 {
            let at = va.wrapping_add(held as u64);
            if held == len || self.pin(space, at, write).is_none() {
                break;
            }
            held = len.min(held + (PAGE - at % PAGE) as usize);
        }
        held
    }

    /// What the kernel calls getting a user page.
    fn pin(&mut self, space: super::SpaceId, va: u64, write: bool) -> Option<PhysAddr> {
        let area = self.space(space)?.find(&self.pool, va)?;
        let wanted = if write { Rights::WRITE } else { Rights::READ };
        if !area.rights.holds(wanted) {
            return None;
        }
        let place = usize::from(space.raw());
        self.pages.fault_in(place, &area, va, write).ok()?;
        let leaf = self.pages.leaf(place, va)?;
        use crate::mmu::entry::Entry;
        let marks = Entry::<G>::ACCESSED | if write { Entry::<G>::DIRTY } else { 0 };
        Tables::set(&mut self.pages.memory, leaf.slot, leaf.entry.with(marks));
        let offset = va & (G::span(leaf.level) - 1);
        let at = PhysAddr::new(leaf.entry.address().raw() + offset);
        if self.pages.policy.wants_touches() {
            let frame = Mmu::<G>::frame_of(at);
            let records = self.pages.memory.records();
            self.pages.policy.touch(records, frame);
        }
        Some(at)
    }

    /// Where `va` lies for a load, without an access: nothing is counted, marked or moved.
    #[inline]
    #[must_use]
    pub fn translate(&mut self, va: VirtAddr, mode: Mode) -> Option<PhysAddr> {
        self.pages.mmu.translate(&self.pages.memory, va, mode)
    }

    /// Walks the current tables and tells each step; `None` with paging off.
    pub fn walk(&self, va: VirtAddr, visit: impl FnMut(&Step<G>)) -> Option<Step<G>> {
        let root = self.pages.mmu.root()?;
        Some(Tables::at(root).walk(&self.pages.memory, va, visit))
    }

    /// The frame of a page of a space, if it has one.
    #[must_use]
    pub fn frame(&self, space: super::SpaceId, va: u64) -> Option<FrameNumber> {
        use crate::mmu::entry::Meaning;
        let leaf = self.pages.leaf(usize::from(space.raw()), va)?;
        match leaf.entry.meaning() {
            Meaning::Present(first) => {
                let pages = (va & (G::span(leaf.level) - 1)) / PAGE;
                Some(FrameNumber::new(first.raw() + pages as u32))
            }
            Meaning::Hidden(frame) => Some(frame),
            _ => None,
        }
    }

    /// What the kernel did about the last page fault that it resolved.
    #[must_use]
    pub const fn last_fault(&self) -> &FaultTrace<G> {
        &self.pages.trace
    }

    /// Drops the translation of one page.
    pub fn invlpg(&mut self, va: VirtAddr) {
        self.pages.mmu.invlpg(va);
    }

    /// Drops all translations.
    pub fn flush(&mut self) {
        self.pages.mmu.flush();
    }
}

/// What the processor refuses before it looks at a table, or user mode for its address alone.
#[inline]
fn out_of_reach<G: Geometry>(va: VirtAddr, mode: Mode) -> Option<Cause> {
    if !G::is_canonical(va) {
        return Some(Cause::NonCanonical);
    }
    (mode == Mode::User && va.raw() >= G::USER_END).then_some(Cause::UserSupervisor)
}
