//! Removal: a node that falls below half takes an entry from a neighbour, or becomes one with it.

use super::node::{AreaPool, NONE, Shape};
use super::{Areas, Path};
use crate::mmu::area::Area;

impl Areas {
    /// Takes out the area that starts at `start`. Needs no node.
    ///
    /// # Panics
    /// If no area starts there.
    pub fn remove(&mut self, pool: &mut AreaPool, start: u64) -> Area {
        let path = self.path_to(pool, start);
        let (leaf, slot) = path.steps[path.depth - 1];
        let area = pool.leaf_mut(leaf).remove(slot);
        self.count -= 1;
        self.rebalance(pool, &path);
        self.lower_root(pool);
        area
    }

    /// Goes up the path, fills nodes that are less than half full, and says anew what their
    /// parents know.
    fn rebalance(&mut self, pool: &mut AreaPool, path: &Path) {
        for level in (1..path.depth).rev() {
            let (node, _) = path.steps[level];
            let (parent, slot) = path.steps[level - 1];
            let shape = pool.shape(node);
            if shape.len() >= shape.least() {
                let summary = shape.summary();
                pool.inner_mut(parent).set(slot, node, summary);
                continue;
            }
            // An inner node has at least two children, so there is a neighbour.
            let left = slot.saturating_sub(1);
            self.level_out(pool, parent, left);
        }
    }

    /// Makes the children in slots `left` and `left + 1` one, or as full as each other.
    fn level_out(&mut self, pool: &mut AreaPool, parent: u32, left: usize) {
        let inner = pool.inner_mut(parent);
        let (low, high) = (inner.child(left), inner.child(left + 1));
        let mut pair = (*pool.shape(low), *pool.shape(high));
        let total = pair.0.len() + pair.1.len();
        let one = total < 2 * pair.0.least();
        let keep = if one { total } else { total / 2 };
        match &mut pair {
            (Shape::Leaf(a), Shape::Leaf(b)) => {
                if a.areas().len() <= keep {
                    let rest = b.split(keep - a.areas().len());
                    a.append(b.areas());
                    *b = rest;
                } else {
                    let mut moved = a.split(keep);
                    moved.append(b.areas());
                    *b = moved;
                }
            }
            (Shape::Inner(a), Shape::Inner(b)) => {
                if a.children().len() <= keep {
                    let rest = b.split(keep - a.children().len());
                    a.append(b, 0);
                    *b = rest;
                } else {
                    let mut moved = a.split(keep);
                    moved.append(b, 0);
                    *b = moved;
                }
            }
            _ => panic!("leaves at two depths"),
        }
        *pool.shape_mut(low) = pair.0;
        pool.inner_mut(parent).set(left, low, pair.0.summary());
        if one {
            pool.inner_mut(parent).remove(left + 1);
            pool.free(high);
            self.nodes -= 1;
        } else {
            *pool.shape_mut(high) = pair.1;
            pool.inner_mut(parent).set(left + 1, high, pair.1.summary());
        }
    }

    /// Drops a root that has one child, or nothing.
    fn lower_root(&mut self, pool: &mut AreaPool) {
        let below = match pool.shape(self.root) {
            Shape::Leaf(leaf) if leaf.areas().is_empty() => NONE,
            Shape::Inner(inner) if inner.children().len() == 1 => inner.child(0),
            _ => return,
        };
        pool.free(self.root);
        self.nodes -= 1;
        self.height -= 1;
        self.root = below;
    }
}
