//! The model that is too simple to be wrong: one record per page, everything by loops over
//! pages. It shares only types with the model of the library.

use super::quirks::Quirks;
use super::{Contents, EDGE, FILES, GAP, PageView, TASK_END, canonical, place, pristine};
use core::cell::RefCell;
use fencepost::mmu::addr::{Access, Mode, ObjectId, PAGE, Rights, VirtAddr};
use fencepost::mmu::area::{Area, Backing, Errno, Traits};
use fencepost::mmu::fault::{Cause, Fault};
use std::rc::Rc;

/// Contents of a page that nobody wrote.
pub const ZERO: Contents = [0; 2 * EDGE as usize];

/// Where a page's contents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    Zero,
    Object { id: u32, page: u64, shared: bool },
}

/// One page of an area.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    pub rights: Rights,
    pub traits: Traits,
    pub from: From,
    /// The page table has something for it.
    pub present: bool,
    pub guard: bool,
    /// It has a frame of its own: it was written to, and is not shared.
    pub own: bool,
    /// The kernel may drop it.
    pub lazy: bool,
    /// Of a page of its own.
    pub bytes: Contents,
}

impl Page {
    pub fn new(rights: Rights, traits: Traits, from: From) -> Page {
        Page {
            rights,
            traits,
            from,
            present: false,
            guard: false,
            own: false,
            lazy: false,
            bytes: ZERO,
        }
    }

    pub fn shared(&self) -> bool {
        matches!(self.from, From::Object { shared: true, .. })
    }

    /// Its contents are gone, the page too.
    pub fn drop_contents(&mut self) {
        self.present = false;
        self.own = false;
        self.lazy = false;
        self.bytes = ZERO;
    }

    /// Whether the kernel would keep it in one area with the page before.
    pub fn follows(&self, before: &Page) -> bool {
        let contiguous = match (before.from, self.from) {
            (From::Zero, From::Zero) => true,
            (
                From::Object {
                    id: a,
                    page: p,
                    shared: s,
                },
                From::Object {
                    id: b,
                    page: q,
                    shared: t,
                },
            ) => a == b && q == p + 1 && s == t,
            _ => false,
        };
        contiguous && self.rights == before.rights && self.traits == before.traits
    }
}

/// A page that cannot be had.
pub enum Missing {
    Area,
    Rights,
    Guard,
    End,
}

/// An address space of a few pages.
#[derive(Debug, Clone)]
pub struct Naive {
    pub base: u64,
    pub pages: Vec<Option<Page>>,
    /// The pages of shared memory and of files, shared with children.
    pub objects: Rc<RefCell<Vec<Vec<Contents>>>>,
    pub start_brk: u64,
    pub brk: u64,
    pub quirks: Quirks,
}

impl Naive {
    /// Nothing is mapped in the `pages` pages from `base` on.
    pub fn new(base: u64, pages: u64, quirks: Quirks) -> Naive {
        let objects = FILES
            .iter()
            .enumerate()
            .map(|(file, &len)| (0..len).map(|page| pristine(file, page)).collect())
            .collect();
        Naive {
            base,
            pages: vec![None; pages as usize],
            objects: Rc::new(RefCell::new(objects)),
            start_brk: 0,
            brk: 0,
            quirks,
        }
    }

    /// The index of the page at `addr`, if it is in the window.
    pub fn index(&self, addr: u64) -> Option<usize> {
        let index = addr.checked_sub(self.base)? / PAGE;
        (index < self.pages.len() as u64).then_some(index as usize)
    }

    /// The address of a page.
    pub fn addr(&self, index: usize) -> u64 {
        self.base + index as u64 * PAGE
    }

    /// The page that `addr` lies in.
    pub fn at(&self, addr: u64) -> Option<&Page> {
        self.pages[self.index(addr)?].as_ref()
    }

    /// The indices of a range, which may reach beyond the window.
    pub fn range(&self, start: u64, end: u64) -> core::ops::Range<usize> {
        let clip = |addr: u64| {
            let pages = addr.saturating_sub(self.base) / PAGE;
            pages.min(self.pages.len() as u64) as usize
        };
        clip(start)..clip(end)
    }

    /// The area that the page lies in, as the kernel would cut it: `start..end` indices.
    pub fn area_of(&self, index: usize) -> core::ops::Range<usize> {
        let page = self.pages[index].as_ref().expect("a page of an area");
        let mut start = index;
        let mut first = page;
        while start > 0 {
            match &self.pages[start - 1] {
                Some(before) if first.follows(before) => first = before,
                _ => break,
            }
            start -= 1;
        }
        let mut end = index + 1;
        let mut last = page;
        while let Some(Some(next)) = self.pages.get(end) {
            if !next.follows(last) {
                break;
            }
            last = next;
            end += 1;
        }
        start..end
    }

    /// The areas with their traits and objects.
    pub fn raw_areas(&self) -> Vec<Area> {
        let mut all = Vec::new();
        let mut index = 0;
        while index < self.pages.len() {
            let Some(page) = &self.pages[index] else {
                index += 1;
                continue;
            };
            let area = self.area_of(index);
            all.push(Area {
                start: self.addr(area.start),
                end: self.addr(area.end),
                rights: page.rights,
                backing: match page.from {
                    From::Zero => Backing::Anonymous,
                    From::Object { id, page, shared } => Backing::Object {
                        object: ObjectId::new(id),
                        offset: page * PAGE,
                        shared,
                    },
                },
                traits: page.traits,
            });
            index = area.end;
        }
        all
    }

    /// The areas as they can be compared.
    pub fn canonical(&self) -> Vec<Area> {
        canonical(self.raw_areas())
    }

    /// What can be compared of the page at `addr`.
    pub fn view(&self, addr: u64) -> PageView {
        self.at(addr).map_or(PageView::default(), |page| PageView {
            present: page.present,
            guard: page.guard,
        })
    }

    /// What a read of a mapped page gives; `None` beyond the end of an object.
    pub fn contents(&self, page: &Page) -> Option<Contents> {
        if page.own {
            return Some(page.bytes);
        }
        match page.from {
            From::Zero => Some(ZERO),
            From::Object { id, page, .. } => {
                let objects = self.objects.borrow();
                objects[id as usize].get(page as usize).copied()
            }
        }
    }

    /// What a page fault does for an access that the area allows.
    pub fn fault_in(&mut self, index: usize, write: bool) -> Result<(), Missing> {
        let page = self.pages[index].ok_or(Missing::Area)?;
        if page.guard {
            return Err(Missing::Guard);
        }
        let contents = self.contents(&page).ok_or(Missing::End)?;
        let copy = write && !page.shared() && !page.own;
        let page = self.pages[index].as_mut().expect("it was there");
        page.present = true;
        if copy {
            page.own = true;
            page.bytes = contents;
        }
        if write {
            page.lazy = false;
        }
        Ok(())
    }

    /// As [`Naive::fault_in`], on behalf of the program: the kernel wants the very permission.
    pub fn get_page(&mut self, index: usize, write: bool) -> Result<(), Missing> {
        let page = self.pages[index].ok_or(Missing::Area)?;
        let wanted = if write { Rights::WRITE } else { Rights::READ };
        if !page.rights.holds(wanted) {
            return Err(Missing::Rights);
        }
        self.fault_in(index, write)
    }

    /// Faults in what `MAP_POPULATE` and locked areas have at once. Errors stop it silently.
    pub fn populate_quietly(&mut self, range: core::ops::Range<usize>) {
        for index in range {
            let Some(page) = self.pages[index] else {
                return;
            };
            if page.rights == Rights::NONE {
                return;
            }
            let write = page.rights.holds(Rights::WRITE) && !page.shared();
            if self.fault_in(index, write).is_err() {
                return;
            }
        }
    }

    fn with_bytes(&mut self, index: usize, f: impl FnOnce(&mut Contents)) {
        let page = self.pages[index].as_mut().expect("it was faulted in");
        match page.from {
            From::Object {
                id,
                page,
                shared: true,
            } => f(&mut self.objects.borrow_mut()[id as usize][page as usize]),
            _ => f(&mut page.bytes),
        }
    }

    /// By the kernel on the program's behalf. It takes hold of all pages, until the first problem,
    /// before it copies anything: a private copy that is made thereby does not see what the same
    /// call writes into the object.
    fn transfer(
        &mut self,
        addr: u64,
        len: u64,
        write: bool,
        mut each: impl FnMut(&mut u8, usize),
    ) -> Result<u64, Errno> {
        let mut held = 0;
        while held < len {
            let at = addr + held;
            let Some(index) = self.index(at) else { break };
            if self.get_page(index, write).is_err() {
                break;
            }
            held = (held + PAGE - at % PAGE).min(len);
        }
        if held == 0 && len > 0 {
            return Err(Errno::EFAULT);
        }
        for i in 0..held {
            let index = self.index(addr + i).expect("it is held");
            let at = place(addr + i);
            if write {
                self.with_bytes(index, |bytes| each(&mut bytes[at], i as usize));
            } else {
                let page = self.pages[index].expect("it is held");
                let mut bytes = self.contents(&page).expect("it is held");
                each(&mut bytes[at], i as usize);
            }
        }
        Ok(held)
    }

    pub fn read_bytes(&mut self, addr: u64, into: &mut [u8]) -> Result<u64, Errno> {
        self.transfer(addr, into.len() as u64, false, |byte, i| into[i] = *byte)
    }

    pub fn write_bytes(&mut self, addr: u64, from: &[u8]) -> Result<u64, Errno> {
        self.transfer(addr, from.len() as u64, true, |byte, i| *byte = from[i])
    }

    /// A stack grows down to the page of `addr`, if that is one; the kernel looks neither at the
    /// stack pointer nor at the rights.
    fn grow(&mut self, addr: u64) -> Result<(), Cause> {
        let Some(index) = self.index(addr) else {
            return Err(Cause::NotMapped);
        };
        if self.pages[index].is_some() {
            return Ok(());
        }
        let Some(next) = (index..self.pages.len()).find(|&i| self.pages[i].is_some()) else {
            return Err(Cause::NotMapped);
        };
        let above = self.pages[next].expect("found");
        if !above.traits.has(Traits::GROWS_DOWN) {
            return Err(Cause::NotMapped);
        }
        if let Some(below) = (0..index).rev().find(|&i| self.pages[i].is_some()) {
            let page = self.pages[below].expect("found");
            let near = (index - below - 1) < GAP as usize;
            if near && page.rights != Rights::NONE && !page.traits.has(Traits::GROWS_DOWN) {
                return Err(Cause::StackLimit);
            }
        }
        for i in index..next {
            self.pages[i] = Some(Page::new(above.rights, above.traits, From::Zero));
        }
        Ok(())
    }

    /// One page's part of an instruction's access.
    fn access(&mut self, addr: u64, access: Access) -> Result<(), (Cause, bool)> {
        if addr >> 47 != 0 && addr >> 47 != (1 << 17) - 1 {
            return Err((Cause::NonCanonical, false));
        }
        if addr > TASK_END {
            return Err((Cause::UserSupervisor, false));
        }
        if let Err(cause) = self.grow(addr) {
            let null = addr < 0x1_0000;
            return Err((if null { Cause::NullDeref } else { cause }, false));
        }
        let index = self.index(addr).expect("it is mapped");
        let page = self.pages[index].expect("it is mapped");
        let readable = page.rights != Rights::NONE;
        if access == Access::Exec && readable && !page.rights.allows(access) {
            // The kernel takes a fetch for a read until the page is there; the fetch is then
            // repeated, and refused for good.
            return match self.fault_in(index, false) {
                Ok(()) => Err((Cause::ExecNx, true)),
                Err(Missing::End) => Err((Cause::BusEof, false)),
                Err(_) => Err((Cause::Guard, false)),
            };
        }
        if !page.rights.allows(access) {
            let cause = match access {
                Access::Read => Cause::ProtRead,
                Access::Write => Cause::ProtWrite,
                Access::Exec => Cause::ExecNx,
            };
            // The entry of a page that nobody may access says that it is not present.
            return Err((cause, page.present && readable));
        }
        match self.fault_in(index, access == Access::Write) {
            Ok(()) => Ok(()),
            Err(Missing::Guard) => Err((Cause::Guard, false)),
            Err(Missing::End) => Err((Cause::BusEof, false)),
            Err(Missing::Area | Missing::Rights) => unreachable!(),
        }
    }

    /// One instruction. A store with a fault stores nothing.
    pub fn instruction(
        &mut self,
        addr: u64,
        len: u64,
        access: Access,
        bytes: [u8; 8],
    ) -> Result<u64, Fault> {
        let mut at = addr;
        while at < addr + len {
            self.access(at, access).map_err(|(cause, present)| Fault {
                cause,
                addr: VirtAddr::new(at),
                access,
                mode: Mode::User,
                present,
                instruction: 0,
            })?;
            at = (at / PAGE + 1) * PAGE;
        }
        let mut loaded = [0; 8];
        for i in 0..len {
            let index = self.index(addr + i).expect("it is mapped");
            let at = place(addr + i);
            match access {
                Access::Write => self.with_bytes(index, |page| page[at] = bytes[i as usize]),
                Access::Read => {
                    let page = self.pages[index].expect("it is mapped");
                    loaded[i as usize] = self.contents(&page).expect("faulted in")[at];
                }
                Access::Exec => {}
            }
        }
        Ok(u64::from_le_bytes(loaded))
    }

    /// The kernel dropped a page that it was allowed to drop.
    pub fn was_dropped(&mut self, addr: u64) {
        let index = self.index(addr).expect("a page of the window");
        let page = self.pages[index].as_mut().expect("a page of an area");
        assert!(page.lazy, "only such pages may be dropped");
        page.drop_contents();
    }
}
