//! Insertion: into the leaf where the area belongs; a full node is split in the middle.

use super::node::{AreaPool, FANOUT, Inner, LEAF, Leaf, NONE, Shape};
use super::{Areas, Path, PoolEmpty};
use crate::mmu::area::Area;

impl Areas {
    /// Adds an area, which must not overlap another.
    ///
    /// # Errors
    /// If a node has to be split and the pool has none left; nothing is changed then.
    pub fn insert(&mut self, pool: &mut AreaPool, area: Area) -> Result<(), PoolEmpty> {
        if self.root == NONE {
            return self.plant(pool, area);
        }
        let path = self.path_for(pool, area.start);
        let full = path.steps[..path.depth].iter().rev();
        let full = full.take_while(|step| pool.shape(step.0).is_full()).count();
        let needed = full + usize::from(full == path.depth);
        if pool.spare() < needed {
            return Err(PoolEmpty);
        }
        self.count += 1;
        self.nodes += needed;
        let (leaf, slot) = path.steps[path.depth - 1];
        let mut split = insert_into_leaf(pool, leaf, slot, area);
        for level in (0..path.depth - 1).rev() {
            self.refresh_at(pool, &path, level);
            let (parent, slot) = path.steps[level];
            split = split.and_then(|right| insert_into_inner(pool, parent, slot + 1, right));
        }
        if let Some(right) = split {
            let mut root = Inner::EMPTY;
            for (slot, child) in [self.root, right].into_iter().enumerate() {
                root.insert(slot, child, pool.shape(child).summary());
            }
            self.root = pool.take(Shape::Inner(root));
            self.height += 1;
        }
        Ok(())
    }

    fn plant(&mut self, pool: &mut AreaPool, area: Area) -> Result<(), PoolEmpty> {
        if pool.spare() == 0 {
            return Err(PoolEmpty);
        }
        let mut leaf = Leaf::EMPTY;
        leaf.insert(0, area);
        self.root = pool.take(Shape::Leaf(leaf));
        (self.height, self.count, self.nodes) = (1, 1, 1);
        Ok(())
    }

    /// The way to the slot where an area that starts at `start` belongs.
    fn path_for(&self, pool: &AreaPool, start: u64) -> Path {
        let mut path = Path::EMPTY;
        let mut node = self.root;
        loop {
            match pool.shape(node) {
                Shape::Inner(inner) => {
                    let slot = inner.slot_for(start);
                    path.push(node, slot);
                    node = inner.child(slot);
                }
                Shape::Leaf(leaf) => {
                    let slot = leaf.areas().iter().filter(|a| a.start < start).count();
                    path.push(node, slot);
                    return path;
                }
            }
        }
    }
}

/// Inserts and says which new node holds the upper half, if it took one.
fn insert_into_leaf(pool: &mut AreaPool, node: u32, slot: usize, area: Area) -> Option<u32> {
    let leaf = pool.leaf_mut(node);
    if leaf.areas().len() < LEAF {
        leaf.insert(slot, area);
        return None;
    }
    let mut right = leaf.split(LEAF / 2);
    if slot <= LEAF / 2 {
        leaf.insert(slot, area);
    } else {
        right.insert(slot - LEAF / 2, area);
    }
    Some(pool.take(Shape::Leaf(right)))
}

/// As [`insert_into_leaf`], of a child.
fn insert_into_inner(pool: &mut AreaPool, node: u32, slot: usize, child: u32) -> Option<u32> {
    let known = pool.shape(child).summary();
    let inner = pool.inner_mut(node);
    if inner.children().len() < FANOUT {
        inner.insert(slot, child, known);
        return None;
    }
    let mut right = inner.split(FANOUT / 2);
    if slot <= FANOUT / 2 {
        inner.insert(slot, child, known);
    } else {
        right.insert(slot - FANOUT / 2, child, known);
    }
    Some(pool.take(Shape::Inner(right)))
}
