//! What grows: the heap by `brk`, stacks by being touched.

use super::place::HINT_MIN;
use super::{STACK_GAP, Space, pages_up};
use crate::mmu::addr::{PAGE, Rights};
use crate::mmu::area::{Area, Backing, Traits};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;
use crate::mmu::fault::Cause;

impl Space {
    /// `brk`: moves the break to the byte `to` and says where it is then, which is where it was
    /// if the move was refused. There is no errno.
    ///
    /// The heap's area ends at the next page's border. Growth is refused if less than a page
    /// would stay free below the next area (and 256 more below a stack), shrinking if nothing
    /// is mapped in what would go; it takes out whatever lies there, and leaves the bytes of
    /// the last page as they are.
    pub fn brk<E: Effects>(&mut self, pool: &mut AreaPool, fx: &mut E, to: u64) -> u64 {
        if self.move_break(pool, fx, to).is_some() {
            self.brk = to;
        }
        self.brk
    }

    fn move_break<E: Effects>(&mut self, pool: &mut AreaPool, fx: &mut E, to: u64) -> Option<()> {
        let start = self.layout.start_brk;
        if to < start || to - start > self.limits.data {
            return None;
        }
        let (old, new) = (pages_up(self.brk), pages_up(to));
        if old == new {
            return Some(());
        }
        if to <= self.brk {
            let first = self.areas.at_or_after(pool, new)?;
            if first.start >= old {
                return None;
            }
            return self.munmap(pool, fx, new, old - new).ok();
        }
        let len = new.wrapping_sub(old);
        if len > self.layout.user_end || old > self.layout.user_end - len {
            return None;
        }
        if let Some(next) = self.areas.at_or_after(pool, old) {
            let stack = next.traits.has(Traits::GROWS_DOWN);
            let gap = if stack { STACK_GAP } else { 0 };
            if new + PAGE > next.start.saturating_sub(gap) {
                return None;
            }
        }
        let area = Area {
            start: old,
            end: new,
            rights: Rights::READ_WRITE,
            backing: Backing::Anonymous,
            traits: Traits::ACCOUNTED,
        };
        let allowed = self.may_grow(&area, len)
            && self.areas.len() <= self.limits.areas
            && self.may_commit(len).is_ok();
        if !allowed || self.room(pool, 1, &[old]).is_err() {
            return None;
        }
        self.put(pool, fx, area);
        Some(())
    }

    /// Grows the stack above `addr`, which nothing covers, down to `addr`'s page: any distance,
    /// up to `RLIMIT_STACK`, and 256 pages away from what is below unless that is a stack
    /// too or cannot be accessed.
    ///
    /// # Errors
    /// [`Cause::NotMapped`] if what follows is no stack, [`Cause::StackLimit`] if it must not
    /// grow so far.
    pub fn grow_stack<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        addr: u64,
    ) -> Result<(), Cause> {
        let stack = self.areas.at_or_after(pool, addr);
        let stack = stack.filter(|next| next.traits.has(Traits::GROWS_DOWN) && addr < next.start);
        let stack = stack.ok_or(Cause::NotMapped)?;
        let page = addr & !(PAGE - 1);
        if page < self.layout.mmap_min.max(HINT_MIN) {
            return Err(Cause::StackLimit);
        }
        if let Some(below) = self.areas.before(pool, stack.start) {
            let keeps_away = !below.traits.has(Traits::GROWS_DOWN) && below.rights != Rights::NONE;
            if keeps_away && page - below.end < STACK_GAP {
                return Err(Cause::StackLimit);
            }
        }
        let more = Area {
            start: page,
            end: stack.start,
            ..stack
        };
        let allowed = self.may_grow(&stack, more.len())
            && stack.end - page <= self.limits.stack
            && self.may_lock(&stack, more.len())
            && self.may_commit(more.len()).is_ok();
        if !allowed {
            return Err(Cause::StackLimit);
        }
        self.put(pool, fx, more);
        Ok(())
    }
}
