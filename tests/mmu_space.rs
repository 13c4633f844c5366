//! Address spaces: what Linux's memory calls do to the areas, sentence by sentence, with a
//! recorder in place of pages; the tree of areas against a sorted map; and a long random run
//! against an array with one entry per page.

#[path = "mmu_space/advise.rs"]
mod advise;
#[path = "mmu_space/fork.rs"]
mod fork;
#[path = "mmu_space/heap.rs"]
mod heap;
#[path = "mmu_space/limits.rs"]
mod limits;
#[path = "mmu_space/mmap.rs"]
mod mmap;
#[path = "mmu_space/protect.rs"]
mod protect;
#[path = "mmu_space/random.rs"]
mod random;
#[path = "mmu_space/remap.rs"]
mod remap;
#[path = "mmu_space/rows.rs"]
mod rows;
#[path = "mmu_space/tree.rs"]
mod tree;
#[path = "mmu_space/world.rs"]
mod world;
