//! How the naive model moves pages: `mremap`, and `fork`.

use super::ELSEWHERE;
use super::naive::{From, Naive, Page};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::{MREMAP_DONTUNMAP, MREMAP_FIXED};
use fencepost::mmu::area::{Errno, Traits};

impl Naive {
    /// Moves pages of one area; the rest of the new place continues it. `to` is `None` for a
    /// place outside of the window.
    fn transplant(
        &mut self,
        from: usize,
        old_len: usize,
        to: Option<usize>,
        new_len: usize,
        keep: bool,
    ) {
        let whole = self.area_of(from);
        let first = self.pages[from].expect("a page of an area");
        let mut moved: Vec<Page> = Vec::new();
        for i in 0..new_len {
            let fresh = Page::new(first.rights, first.traits, advance(first.from, i as u64));
            moved.push(if i < old_len {
                self.pages[from + i].expect("a page of the area")
            } else {
                fresh
            });
        }
        for (i, page) in moved.iter().take(old_len).enumerate() {
            let empty = Page::new(page.rights, page.traits, page.from);
            self.pages[from + i] = keep.then_some(empty);
        }
        if keep {
            // What stays is not locked any more, nor is the rest of its area.
            self.retrait(whole, Traits::default(), Traits::LOCKED);
        }
        let Some(to) = to else { return };
        for (i, page) in moved.into_iter().enumerate() {
            self.pages[to + i] = Some(page);
        }
        if first.traits.has(Traits::LOCKED) {
            self.populate_quietly(to + old_len..to + new_len.max(old_len));
        }
    }

    /// `mremap` to a place that the caller names, for one area.
    pub(super) fn move_to(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let from = self.check_area(old)?;
        let first = self.pages[from].expect("checked");
        if old_len == 0 && !first.shared() {
            return Err(Errno::EINVAL);
        }
        // What a shrinking move leaves behind may lie in other areas.
        let moving = old_len.min(new_len);
        if self.area_of(from).end < self.range(old, old + moving).end {
            return Err(Errno::EFAULT);
        }
        let fixed = flags & MREMAP_FIXED != 0;
        if fixed {
            self.clear(self.range(new, new + new_len));
            // A duplicate's target may be its source.
            self.check_area(old)?;
        }
        if new_len < old_len {
            self.clear(self.range(old + new_len, old + old_len));
        }
        let stays = (old_len.min(new_len) / PAGE) as usize;
        let keep = flags & MREMAP_DONTUNMAP != 0;
        let here = fixed || new != 0 && self.is_free(new, new + new_len);
        let to = here.then(|| self.index(new).expect("a target in the window"));
        self.transplant(from, stays, to, (new_len / PAGE) as usize, keep);
        Ok(if here { new } else { ELSEWHERE })
    }

    fn check_area(&self, old: u64) -> Result<usize, Errno> {
        let from = self.index(old).ok_or(Errno::EFAULT)?;
        self.pages[from].ok_or(Errno::EFAULT)?;
        Ok(from)
    }

    /// Same size, named place: area by area, holes kept.
    pub(super) fn move_all(
        &mut self,
        old: u64,
        len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        self.check_area(old)?;
        let (parts, _) = self.parts(self.range(old, old + len));
        if parts.len() > 1 && !self.quirks.move_many {
            return Err(Errno::EFAULT);
        }
        for part in parts {
            let start = self.addr(part.start);
            let len = part.len() as u64 * PAGE;
            self.move_to(start, len, len, flags, new + (start - old))?;
        }
        Ok(new)
    }

    /// `mremap` where it is, or wherever the system likes.
    pub(super) fn resize(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        move_it: bool,
    ) -> Result<u64, Errno> {
        let from = self.check_area(old)?;
        if new_len == old_len {
            return Ok(old);
        }
        if new_len < old_len {
            self.clear(self.range(old + new_len, old + old_len));
            return Ok(old);
        }
        let first = self.pages[from].expect("checked");
        if old_len == 0 && !first.shared() {
            return Err(Errno::EINVAL);
        }
        let area_end = self.addr(self.area_of(from).end - 1) + PAGE;
        if old + old_len > area_end {
            return Err(Errno::EFAULT);
        }
        let beyond = self.range(area_end, old + new_len);
        if old + old_len == area_end && self.pages[beyond].iter().all(Option::is_none) {
            let old_pages = (old_len / PAGE) as usize;
            let new_pages = (new_len / PAGE) as usize;
            for i in old_pages..new_pages {
                let page = Page::new(first.rights, first.traits, advance(first.from, i as u64));
                self.pages[from + i] = Some(page);
            }
            if first.traits.has(Traits::LOCKED) {
                self.populate_quietly(from + old_pages..from + new_pages);
            }
            return Ok(old);
        }
        if !move_it {
            return Err(Errno::ENOMEM);
        }
        self.transplant(
            from,
            (old_len / PAGE) as usize,
            None,
            (new_len / PAGE) as usize,
            false,
        );
        Ok(ELSEWHERE)
    }

    /// The child's address space. Shared memory stays shared.
    pub fn fork(&self) -> Naive {
        let mut child = self.clone();
        for slot in &mut child.pages {
            let Some(page) = slot else { continue };
            page.traits = page.traits.without(Traits::LOCKED);
            if page.traits.has(Traits::DONT_FORK) {
                *slot = None;
            } else if page.traits.has(Traits::WIPE_ON_FORK) {
                *page = Page::new(page.rights, page.traits, page.from);
            }
        }
        child
    }
}

/// What backs a page `pages` further on.
pub fn advance(from: From, pages: u64) -> From {
    match from {
        From::Zero => From::Zero,
        From::Object { id, page, shared } => From::Object {
            id,
            page: page + pages,
            shared,
        },
    }
}
