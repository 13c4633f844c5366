//! The machine of the MMU model: page tables, TLB, frames, swap, faults, fork. Rows of the
//! inventory that concern it are tested here by name.

#[path = "mmu_machine/support.rs"]
mod support;

#[path = "mmu_machine/breaking.rs"]
mod breaking;
#[path = "mmu_machine/faults.rs"]
mod faults;
#[path = "mmu_machine/huge.rs"]
mod huge;
#[path = "mmu_machine/memory.rs"]
mod memory;
#[path = "mmu_machine/paging.rs"]
mod paging;
#[path = "mmu_machine/processes.rs"]
mod processes;
#[path = "mmu_machine/random.rs"]
mod random;
#[path = "mmu_machine/tlb.rs"]
mod tlb;
#[path = "mmu_machine/translation.rs"]
mod translation;
