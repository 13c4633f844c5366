//! The areas of address spaces: B+trees whose nodes come from one pool.
//!
//! Leaves hold areas in order of their addresses; an inner node holds, for each child, the first
//! and the last address below it and the largest hole between the areas below it. With that the
//! highest hole that is long enough is found without a walk over all areas, as the kernel's maple
//! tree and its augmented red-black tree before it did (Comer, "The Ubiquitous B-Tree", 1979, for
//! the tree; Linux `mm/mmap.c`, `vm_unmapped_area`, for the use of the gaps).
//!
//! | operation | cost |
//! |---|---|
//! | [`Areas::find`], [`Areas::at_or_after`], [`Areas::before`] | O(log n), reads only |
//! | [`Areas::insert`], [`Areas::remove`], [`Areas::replace`] | O(log n) |
//! | [`Areas::highest_hole`], [`Areas::lowest_hole`] | O(log n) |
//!
//! All nodes but the root are at least half full. Several trees may share one pool, which is how
//! a forked space gets its areas.

mod check;
mod hole;
mod insert;
mod node;
mod remove;

pub use check::Broken;
pub use node::{AreaPool, Node};

use super::area::Area;
use node::{LEAF, NONE, Shape};

/// The deepest tree: 6 to the power of 15 areas would be needed for one more level.
const MAX_DEPTH: usize = 16;

/// The pool has no node left. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolEmpty;

/// The areas of one address space: sorted, disjoint, none empty, all page aligned.
///
/// Plain data; the areas themselves are in the pool, which every method is given and which must
/// always be the same. A dropped tree leaks its nodes: [`Areas::clear`] gives them back.
#[derive(Debug, Clone, Copy)]
pub struct Areas {
    root: u32,
    /// Levels, the leaves' included; 0 without areas.
    height: u32,
    /// Areas.
    count: usize,
    /// Nodes.
    nodes: usize,
}

/// The way from the root to a slot of a leaf: node and slot of each level.
struct Path {
    steps: [(u32, usize); MAX_DEPTH],
    depth: usize,
}

impl Path {
    const EMPTY: Path = Path {
        steps: [(NONE, 0); MAX_DEPTH],
        depth: 0,
    };

    fn push(&mut self, node: u32, slot: usize) {
        self.steps[self.depth] = (node, slot);
        self.depth += 1;
    }
}

impl Areas {
    /// No areas.
    #[must_use]
    pub const fn new() -> Areas {
        Areas {
            root: NONE,
            height: 0,
            count: 0,
            nodes: 0,
        }
    }

    /// How many areas there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many nodes of the pool it occupies.
    #[must_use]
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether so many calls of [`Areas::insert`] surely succeed, if what they insert starts in or
    /// right behind an area (or a hole) that contains one of the addresses in `near`, and nothing
    /// but removals and replacements comes between them.
    #[must_use]
    pub fn has_room(&self, pool: &AreaPool, inserts: usize, near: &[u64]) -> bool {
        // One insertion splits at most every level and adds a root; the next one after a split
        // root finds room in the new root. Without a split none needs a node, and two nodes that
        // become one after a removal give a node back.
        let most = inserts * (self.height as usize + 1);
        let fits = |&addr: &u64| self.free_slots(pool, addr) >= inserts;
        inserts == 0 || pool.spare() >= most || near.iter().all(fits)
    }

    /// Free slots of the leaf where an area that starts at `start` belongs.
    fn free_slots(&self, pool: &AreaPool, start: u64) -> usize {
        let mut node = self.root;
        if node == NONE {
            return 0;
        }
        loop {
            match pool.shape(node) {
                Shape::Inner(inner) => node = inner.child(inner.slot_for(start)),
                Shape::Leaf(leaf) => return LEAF - leaf.areas().len(),
            }
        }
    }

    /// The area that contains `addr`.
    #[must_use]
    pub fn find(&self, pool: &AreaPool, addr: u64) -> Option<Area> {
        self.at_or_after(pool, addr)
            .filter(|area| area.start <= addr)
    }

    /// The first area that ends behind `addr`: the one that contains it, else the next one.
    #[must_use]
    pub fn at_or_after(&self, pool: &AreaPool, addr: u64) -> Option<Area> {
        let mut node = self.root;
        if node == NONE {
            return None;
        }
        loop {
            match pool.shape(node) {
                Shape::Inner(inner) => node = inner.child_ending_after(addr)?,
                Shape::Leaf(leaf) => return leaf.ending_after(addr).copied(),
            }
        }
    }

    /// The last area that starts below `addr`: the one that contains `addr - 1`, else the one
    /// before.
    #[must_use]
    pub fn before(&self, pool: &AreaPool, addr: u64) -> Option<Area> {
        let mut node = self.root;
        if node == NONE {
            return None;
        }
        loop {
            match pool.shape(node) {
                Shape::Inner(inner) => {
                    let below = inner.slots_starting_below(addr);
                    node = inner.child(below.checked_sub(1)?);
                }
                Shape::Leaf(leaf) => {
                    return leaf.areas().iter().rfind(|a| a.start < addr).copied();
                }
            }
        }
    }

    /// All areas in order.
    pub fn iter<'a>(&'a self, pool: &'a AreaPool) -> impl Iterator<Item = Area> + 'a {
        let mut at = Some(0);
        core::iter::from_fn(move || {
            let area = self.at_or_after(pool, at?)?;
            at = Some(area.end);
            Some(area)
        })
    }

    /// Puts `area` in place of the one that starts at `start`.
    ///
    /// # Panics
    /// If no area starts there.
    pub fn replace(&mut self, pool: &mut AreaPool, start: u64, area: Area) {
        let path = self.path_to(pool, start);
        let (leaf, slot) = path.steps[path.depth - 1];
        pool.leaf_mut(leaf).areas_mut()[slot] = area;
        self.refresh(pool, &path);
    }

    /// Gives all nodes back.
    pub fn clear(&mut self, pool: &mut AreaPool) {
        if self.root != NONE {
            free_below(pool, self.root);
        }
        *self = Areas::new();
    }

    /// A tree with the same areas, in nodes of its own.
    ///
    /// # Errors
    /// If the pool has fewer nodes left than this tree occupies.
    pub fn duplicate(&self, pool: &mut AreaPool) -> Result<Areas, PoolEmpty> {
        if pool.spare() < self.nodes {
            return Err(PoolEmpty);
        }
        let mut copy = *self;
        if self.root != NONE {
            copy.root = copy_below(pool, self.root);
        }
        Ok(copy)
    }

    /// The way to the area that starts at `start`.
    fn path_to(&self, pool: &AreaPool, start: u64) -> Path {
        let mut path = Path::EMPTY;
        let mut node = self.root;
        assert!(node != NONE, "no area starts at {start:#x}");
        loop {
            match pool.shape(node) {
                Shape::Inner(inner) => {
                    let slot = inner.slot_for(start);
                    path.push(node, slot);
                    node = inner.child(slot);
                }
                Shape::Leaf(leaf) => {
                    let slot = leaf.areas().iter().position(|a| a.start == start);
                    let slot = slot.unwrap_or_else(|| panic!("no area starts at {start:#x}"));
                    path.push(node, slot);
                    return path;
                }
            }
        }
    }

    /// Says anew what the inner nodes of a path know of what is below them.
    fn refresh(&self, pool: &mut AreaPool, path: &Path) {
        for level in (0..path.depth - 1).rev() {
            self.refresh_at(pool, path, level);
        }
    }

    /// As [`Areas::refresh`], in the node of one level.
    fn refresh_at(&self, pool: &mut AreaPool, path: &Path, level: usize) {
        let (parent, slot) = path.steps[level];
        let (child, _) = path.steps[level + 1];
        let summary = pool.shape(child).summary();
        pool.inner_mut(parent).set(slot, child, summary);
    }
}

impl Default for Areas {
    fn default() -> Areas {
        Areas::new()
    }
}

fn free_below(pool: &mut AreaPool, node: u32) {
    if let Shape::Inner(inner) = *pool.shape(node) {
        for &child in inner.children() {
            free_below(pool, child);
        }
    }
    pool.free(node);
}

/// Copies a subtree; the caller made sure that there are nodes enough.
fn copy_below(pool: &mut AreaPool, node: u32) -> u32 {
    let mut shape = *pool.shape(node);
    if let Shape::Inner(inner) = &mut shape {
        for slot in 0..inner.children().len() {
            let child = copy_below(pool, inner.child(slot));
            inner.set_child(slot, child);
        }
    }
    pool.take(shape)
}
