//! The naive model's system calls.

use super::naive::{From, Missing, Naive, Page, ZERO};
use super::naive_move::advance;
use super::{Contents, EACCES, ELSEWHERE, FILES, GAP, PageView, System, TASK_END};
use core::ops::Range;
use fencepost::mmu::addr::{Access, PAGE, Rights};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Area, Errno, Traits};
use fencepost::mmu::fault::Signature;
use std::rc::Rc;

/// Rounded up to pages; `None` beyond the last.
fn round_up(len: u64) -> Option<u64> {
    Some(len.checked_add(PAGE - 1)? & !(PAGE - 1))
}

impl Naive {
    /// Whether nothing is there, and a stack above is far enough.
    pub(super) fn is_free(&self, start: u64, end: u64) -> bool {
        let range = self.range(start, end);
        if self.pages[range.clone()].iter().any(Option::is_some) {
            return false;
        }
        let next = (range.end..self.pages.len()).find(|&i| self.pages[i].is_some());
        next.is_none_or(|i| {
            let page = self.pages[i].as_ref().expect("found");
            !page.traits.has(Traits::GROWS_DOWN) || self.addr(i) - end >= GAP * PAGE
        })
    }

    pub(super) fn clear(&mut self, range: Range<usize>) {
        self.pages[range].fill(None);
    }

    /// The parts of areas in the range, and whether all of it is mapped.
    pub(super) fn parts(&self, range: Range<usize>) -> (Vec<Range<usize>>, bool) {
        let mut parts = Vec::new();
        let mut whole = true;
        let mut index = range.start;
        while index < range.end {
            if self.pages[index].is_none() {
                whole = false;
                index += 1;
                continue;
            }
            let end = self.area_of(index).end.min(range.end);
            parts.push(index..end);
            index = end;
        }
        (parts, whole)
    }

    fn each(&mut self, range: Range<usize>, mut f: impl FnMut(&mut Page)) {
        for page in self.pages[range].iter_mut().flatten() {
            f(page);
        }
    }

    pub(super) fn retrait(&mut self, range: Range<usize>, add: Traits, remove: Traits) {
        self.each(range, |page| {
            page.traits = page.traits.without(remove).with(add);
        });
    }

    /// One area's part of `madvise`.
    fn advise(&mut self, part: Range<usize>, advice: u32) -> Result<(), Errno> {
        let first = self.pages[part.start].expect("a page of an area");
        let locked = first.traits.has(Traits::LOCKED);
        let none = Traits::default();
        match advice {
            MADV_DONTNEED | MADV_DONTNEED_LOCKED => {
                if locked && advice == MADV_DONTNEED {
                    return Err(Errno::EINVAL);
                }
                self.each(part, |page| {
                    if !page.guard {
                        page.drop_contents();
                    }
                });
            }
            MADV_FREE => {
                if locked || first.from != From::Zero {
                    return Err(Errno::EINVAL);
                }
                self.each(part, |page| page.lazy |= page.own);
            }
            MADV_REMOVE => {
                let From::Object { id, page, shared } = first.from else {
                    return Err(Errno::EINVAL);
                };
                if locked {
                    return Err(Errno::EINVAL);
                }
                if !shared {
                    return Err(EACCES);
                }
                self.punch(id, page, part.len() as u64);
            }
            MADV_COLD | MADV_PAGEOUT => {
                if locked {
                    return Err(Errno::EINVAL);
                }
            }
            MADV_GUARD_INSTALL => {
                let object = first.from != From::Zero;
                if locked || object && !self.quirks.guard_shared {
                    return Err(Errno::EINVAL);
                }
                self.each(part, |page| {
                    page.drop_contents();
                    page.guard = true;
                });
            }
            MADV_GUARD_REMOVE => {
                if first.from != From::Zero && !self.quirks.guard_shared {
                    return Err(Errno::EINVAL);
                }
                self.each(part, |page| page.guard = false);
            }
            MADV_DONTFORK => self.retrait(part, Traits::DONT_FORK, none),
            MADV_DOFORK => self.retrait(part, none, Traits::DONT_FORK),
            MADV_DONTDUMP => self.retrait(part, Traits::DONT_DUMP, none),
            MADV_DODUMP => self.retrait(part, none, Traits::DONT_DUMP),
            MADV_HUGEPAGE => self.retrait(part, Traits::HUGE, Traits::NO_HUGE),
            MADV_NOHUGEPAGE => self.retrait(part, Traits::NO_HUGE, Traits::HUGE),
            MADV_WIPEONFORK => {
                if first.from != From::Zero {
                    return Err(Errno::EINVAL);
                }
                self.retrait(part, Traits::WIPE_ON_FORK, none);
            }
            MADV_KEEPONFORK => self.retrait(part, none, Traits::WIPE_ON_FORK),
            MADV_NORMAL | MADV_WILLNEED => {}
            _ => unreachable!("advice was checked"),
        }
        Ok(())
    }

    /// Pages of an object are zero again, and no longer mapped but where they were copied.
    fn punch(&mut self, id: u32, from: u64, len: u64) {
        let object = &mut self.objects.borrow_mut()[id as usize];
        for page in from..(from + len).min(object.len() as u64) {
            object[page as usize] = ZERO;
        }
        for page in self.pages.iter_mut().flatten() {
            if let From::Object { id: i, page: p, .. } = page.from
                && i == id
                && (from..from + len).contains(&p)
                && !page.own
            {
                page.present = false;
            }
        }
    }

    fn populate(&mut self, range: Range<usize>, write: bool) -> Result<u64, Errno> {
        for index in range {
            self.get_page(index, write)
                .map_err(|missing| match missing {
                    Missing::Area => Errno::ENOMEM,
                    Missing::Rights => Errno::EINVAL,
                    Missing::Guard | Missing::End => Errno::EFAULT,
                })?;
        }
        Ok(0)
    }

    fn object(&mut self, pages: u64) -> u32 {
        // Objects that nothing maps are reused, unless a child may map them.
        let used = |id: usize| {
            self.pages
                .iter()
                .flatten()
                .any(|page| matches!(page.from, From::Object { id: i, .. } if i as usize == id))
        };
        let alone = Rc::strong_count(&self.objects) == 1;
        let mut objects = self.objects.borrow_mut();
        let fresh = vec![ZERO; pages as usize];
        if alone && let Some(id) = (FILES.len()..objects.len()).find(|&id| !used(id)) {
            objects[id] = fresh;
            return id as u32;
        }
        objects.push(fresh);
        objects.len() as u32 - 1
    }
}

/// The advice that the model knows.
fn known(advice: u32, quirks: &super::quirks::Quirks) -> bool {
    match advice {
        MADV_NORMAL | MADV_WILLNEED | MADV_DONTNEED | MADV_FREE | MADV_REMOVE | MADV_DONTFORK
        | MADV_DOFORK | MADV_DONTDUMP | MADV_DODUMP | MADV_WIPEONFORK | MADV_KEEPONFORK
        | MADV_DONTNEED_LOCKED => true,
        MADV_HUGEPAGE | MADV_NOHUGEPAGE => quirks.huge,
        MADV_COLD | MADV_PAGEOUT => quirks.reclaim,
        MADV_POPULATE_READ | MADV_POPULATE_WRITE => quirks.populate,
        MADV_GUARD_INSTALL | MADV_GUARD_REMOVE => quirks.guard,
        _ => false,
    }
}

impl System for Naive {
    fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<usize>,
        offset: u64,
    ) -> Result<u64, Errno> {
        if !offset.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let anonymous = flags & MAP_ANONYMOUS != 0;
        if !anonymous && file.is_none() {
            return Err(Errno::EBADF);
        }
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = round_up(len)
            .filter(|&len| len <= TASK_END)
            .ok_or(Errno::ENOMEM)?;
        let fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) != 0;
        if fixed {
            if hint > TASK_END - len {
                return Err(Errno::ENOMEM);
            }
            if !hint.is_multiple_of(PAGE) {
                return Err(Errno::EINVAL);
            }
            if hint == 0 {
                return Err(Errno::EPERM);
            }
        }
        let hint = hint & !(PAGE - 1);
        let here = fixed || hint != 0 && hint <= TASK_END - len && self.is_free(hint, hint + len);
        let range = if here {
            self.range(hint, hint + len)
        } else {
            0..0
        };
        if flags & MAP_FIXED_NOREPLACE != 0 && self.pages[range.clone()].iter().any(Option::is_some)
        {
            return Err(Errno::EEXIST);
        }
        let kind = flags & 3;
        let stack = flags & MAP_GROWSDOWN != 0;
        let from = match (anonymous, kind) {
            (_, 0) => return Err(Errno::EINVAL),
            (true, MAP_PRIVATE) => From::Zero,
            (true, MAP_SHARED) if !stack => From::Object {
                id: self.object(len / PAGE),
                page: 0,
                shared: true,
            },
            (true, _) => return Err(Errno::EINVAL),
            // There are no synchronous mappings of memory.
            (false, 3) if flags & 0x8_0000 != 0 => return Err(Errno::EOPNOTSUPP),
            (false, kind) => {
                if stack {
                    return Err(Errno::EINVAL);
                }
                From::Object {
                    id: file.expect("checked") as u32,
                    page: offset / PAGE,
                    shared: kind != MAP_PRIVATE,
                }
            }
        };
        if !here {
            return Ok(ELSEWHERE);
        }
        let mut traits = Traits::default();
        for (flag, has) in [
            (MAP_GROWSDOWN, Traits::GROWS_DOWN),
            (MAP_LOCKED, Traits::LOCKED),
            (MAP_NORESERVE, Traits::NO_RESERVE),
        ] {
            if flags & flag != 0 && (flag != MAP_NORESERVE || self.quirks.overcommit) {
                traits = traits.with(has);
            }
        }
        let rights = Rights::from_bits(prot);
        let shared = matches!(from, From::Object { shared: true, .. });
        if rights.holds(Rights::WRITE) && !shared && !traits.has(Traits::NO_RESERVE) {
            traits = traits.with(Traits::ACCOUNTED);
        }
        for (i, index) in range.clone().enumerate() {
            let page = Page::new(rights, traits, advance(from, i as u64));
            self.pages[index] = Some(page);
        }
        if flags & (MAP_POPULATE | MAP_LOCKED) != 0 {
            self.populate_quietly(range);
        }
        Ok(hint)
    }

    fn munmap(&mut self, addr: u64, len: u64) -> Result<u64, Errno> {
        if !addr.is_multiple_of(PAGE) || addr > TASK_END || len > TASK_END - addr || len == 0 {
            return Err(Errno::EINVAL);
        }
        let len = round_up(len).expect("it is within user space");
        self.clear(self.range(addr, addr + len));
        Ok(0)
    }

    fn mprotect(&mut self, addr: u64, len: u64, prot: u32) -> Result<u64, Errno> {
        let grows = prot & (PROT_GROWSDOWN | PROT_GROWSUP);
        let prot = prot & !grows;
        if grows == PROT_GROWSDOWN | PROT_GROWSUP || !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        if len == 0 {
            return Ok(0);
        }
        let end = round_up(len).and_then(|len| addr.checked_add(len));
        let end = end.filter(|&end| end > addr).ok_or(Errno::ENOMEM)?;
        // The fourth bit is for semaphores, and does nothing.
        if prot & !0xf != 0 {
            return Err(Errno::EINVAL);
        }
        let mut range = self.range(addr, end);
        let first = range.clone().find(|&i| self.pages[i].is_some());
        let first = first.ok_or(Errno::ENOMEM)?;
        if grows == PROT_GROWSDOWN {
            let page = self.pages[first].expect("found");
            if !page.traits.has(Traits::GROWS_DOWN) {
                return Err(Errno::EINVAL);
            }
            range.start = self.area_of(first).start;
        } else if addr < self.addr(first) {
            return Err(Errno::ENOMEM);
        } else if grows == PROT_GROWSUP {
            return Err(Errno::EINVAL);
        }
        let rights = Rights::from_bits(prot);
        let (parts, _) = self.parts(range.clone());
        let mut at = range.start;
        for part in parts {
            if part.start != at {
                return Err(Errno::ENOMEM);
            }
            at = part.end;
            let old = self.pages[part.start].expect("a page of an area");
            self.each(part.clone(), |page| {
                page.rights = rights;
                let counts = !page.shared() && !page.traits.has(Traits::NO_RESERVE);
                if rights.holds(Rights::WRITE) && counts {
                    page.traits = page.traits.with(Traits::ACCOUNTED);
                } else if !rights.holds(Rights::WRITE) && page.from == From::Zero {
                    // As long as the area was never written to; else the kernel goes on counting.
                    page.traits = page.traits.without(Traits::ACCOUNTED);
                }
            });
            let was_idle = !old.rights.holds(Rights::WRITE) && !old.shared();
            if was_idle && old.traits.has(Traits::LOCKED) && rights.holds(Rights::WRITE) {
                self.populate_quietly(part);
            }
        }
        if at < range.end || end > self.addr(self.pages.len() - 1) + PAGE {
            return Err(Errno::ENOMEM);
        }
        Ok(0)
    }

    fn madvise(&mut self, addr: u64, len: u64, advice: u32) -> Result<u64, Errno> {
        if !known(advice, &self.quirks) || !addr.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let end = round_up(len).and_then(|len| addr.checked_add(len));
        let end = end.ok_or(Errno::EINVAL)?;
        if end == addr {
            return Ok(0);
        }
        let range = self.range(addr, end);
        if matches!(advice, MADV_POPULATE_READ | MADV_POPULATE_WRITE) {
            return self.populate(range, advice == MADV_POPULATE_WRITE);
        }
        let (parts, whole) = self.parts(range);
        for part in parts {
            self.advise(part, advice)?;
        }
        if whole { Ok(0) } else { Err(Errno::ENOMEM) }
    }

    fn mremap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let all = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
        if flags & !all != 0 || !old.is_multiple_of(PAGE) {
            return Err(Errno::EINVAL);
        }
        let old_len = round_up(old_len).unwrap_or(0);
        let new_len = round_up(new_len).unwrap_or(0);
        if new_len == 0 || new_len > TASK_END {
            return Err(Errno::EINVAL);
        }
        if flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) == 0 {
            return self.resize(old, old_len, new_len, flags & MREMAP_MAYMOVE != 0);
        }
        if new > TASK_END - new_len
            || !new.is_multiple_of(PAGE)
            || flags & MREMAP_MAYMOVE == 0
            || flags & MREMAP_DONTUNMAP != 0 && old_len != new_len
            || old + old_len > new && new + new_len > old
        {
            return Err(Errno::EINVAL);
        }
        if flags & MREMAP_FIXED != 0 && old_len == new_len {
            return self.move_all(old, old_len, flags, new);
        }
        self.move_to(old, old_len, new_len, flags, new)
    }

    fn brk(&mut self, to: u64) -> u64 {
        if to < self.start_brk {
            return self.brk;
        }
        let (Some(new), Some(old)) = (round_up(to), round_up(self.brk)) else {
            return self.brk;
        };
        let pages = |sum: &Naive, range: Range<usize>| sum.pages[range].iter().any(Option::is_some);
        if new == old {
            self.brk = to;
        } else if to <= self.brk {
            let range = self.range(new, old);
            if pages(self, range.clone()) {
                self.clear(range);
                self.brk = to;
            }
        } else {
            let next = self.range(old, u64::MAX).find(|&i| self.pages[i].is_some());
            let room = next.is_none_or(|i| {
                let page = self.pages[i].expect("found");
                let stack = page.traits.has(Traits::GROWS_DOWN);
                let gap = if stack { GAP * PAGE } else { 0 };
                new + PAGE <= self.addr(i).saturating_sub(gap)
            });
            if room {
                for index in self.range(old, new) {
                    let fresh = Page::new(Rights::READ_WRITE, Traits::ACCOUNTED, From::Zero);
                    self.pages[index] = Some(fresh);
                }
                self.brk = to;
            }
        }
        self.brk
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<u64, Errno> {
        self.read_bytes(addr, bytes)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<u64, Errno> {
        self.write_bytes(addr, bytes)
    }

    fn touch(
        &mut self,
        addr: u64,
        len: u64,
        access: Access,
        bytes: [u8; 8],
    ) -> Result<u64, Signature> {
        let result = self.instruction(addr, len, access, bytes);
        result.map_err(|fault| fault.signature().expect("a fault that the kernel has"))
    }

    fn areas(&mut self) -> Vec<Area> {
        self.canonical()
    }

    fn page(&mut self, addr: u64) -> PageView {
        self.view(addr)
    }

    fn peek(&mut self, addr: u64) -> Contents {
        let page = self.at(addr).expect("a page of an area");
        self.contents(page).expect("a page that is present")
    }
}
