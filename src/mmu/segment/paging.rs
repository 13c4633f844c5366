//! The MMU under segments: from a linear address to a physical one.

use super::Paging;
use crate::mmu::addr::{Access, Mode, PhysAddr, VirtAddr};
use crate::mmu::cpu::Mmu;
use crate::mmu::entry::{Entry, Meaning};
use crate::mmu::fault::{Cause, Fault};
use crate::mmu::geometry::Geometry;
use crate::mmu::physical::Physical;
use crate::mmu::tables::Tables;

/// The first addresses, at which an access is a null pointer and an offset.
const NULL_AREA: u64 = 64 << 10;

/// An MMU and the memory that its tables lie in, without a kernel: what the tables do not allow
/// is a fault.
#[derive(Debug)]
pub struct Paged<'a, 'm, G> {
    /// The processor's part.
    pub mmu: &'a mut Mmu<'m, G>,
    /// The memory with the tables.
    pub memory: &'a mut Physical<'m>,
}

impl<G: Geometry> Paging for Paged<'_, '_, G> {
    type Geometry = G;

    /// The number of accesses is what the MMU needed: none but for the tables, fewer with a TLB.
    fn translate(
        &mut self,
        linear: VirtAddr,
        access: Access,
        mode: Mode,
    ) -> Result<(PhysAddr, u32), Fault> {
        let refuse = |cause, present| Fault {
            cause,
            addr: linear,
            access,
            mode,
            present,
            instruction: 0,
        };
        if !G::is_canonical(linear) {
            return Err(refuse(Cause::NonCanonical, false));
        }
        let before = self.mmu.counts.references;
        match self.mmu.reach(self.memory, linear, access, mode) {
            Ok(physical) => {
                // One access is the byte's own.
                let tables = self.mmu.counts.references - before - 1;
                Ok((physical, u32::try_from(tables).unwrap_or(u32::MAX)))
            }
            Err(refused) => {
                let cause = match self.mmu.root() {
                    Some(root) => cause(&Tables::<G>::at(root), self.memory, linear, access, mode),
                    None => Cause::NotMapped,
                };
                Err(refuse(cause, refused.present))
            }
        }
    }
}

/// Why page tables do not allow an access that the MMU refused, as far as they alone can tell:
/// where no area is known, nothing in the tables is nothing mapped.
#[must_use]
pub fn cause<G: Geometry>(
    tables: &Tables<G>,
    memory: &Physical<'_>,
    va: VirtAddr,
    access: Access,
    mode: Mode,
) -> Cause {
    if !G::is_canonical(va) {
        return Cause::NonCanonical;
    }
    if mode == Mode::User && va.raw() >= G::USER_END {
        return Cause::UserSupervisor;
    }
    let mut user = true;
    let mut executable = true;
    let last = tables.walk(memory, va, |step| {
        user &= step.entry.has(Entry::<G>::USER);
        executable &= !G::HAS_NX || !step.entry.has(Entry::<G>::NO_EXECUTE);
    });
    let meaning = if last.is_leaf() {
        last.entry.meaning()
    } else {
        Meaning::Empty
    };
    match (meaning, access) {
        (Meaning::Guard, _) => Cause::Guard,
        (Meaning::Present(_), _) if mode == Mode::User && !user => Cause::UserSupervisor,
        (Meaning::Present(_), Access::Exec) if !executable => Cause::ExecNx,
        (Meaning::Present(_) | Meaning::Hidden(_), Access::Write) => Cause::ProtWrite,
        (Meaning::Present(_) | Meaning::Hidden(_), _) => Cause::ProtRead,
        (Meaning::Empty | Meaning::Swapped(_), _) if va.raw() < NULL_AREA => Cause::NullDeref,
        (Meaning::Empty | Meaning::Swapped(_), _) => Cause::NotMapped,
    }
}
