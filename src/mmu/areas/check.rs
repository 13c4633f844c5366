//! The invariants of the tree, verified from scratch.

use super::Areas;
use super::node::{AreaPool, NONE, Shape};
use crate::mmu::addr::PAGE;
use crate::mmu::area::Area;

/// What is wrong with a tree, or (the last three) with a space. The number is the address where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// An area of no bytes, or of less than none.
    Empty(u64),
    /// An area that does not begin or end at a page's border.
    Unaligned(u64),
    /// An area that starts before the previous one does, or where that one starts.
    Unsorted(u64),
    /// An area that starts before the previous one ends.
    Overlapping(u64),
    /// A node that is not the root and less than half full, or an empty root.
    Fill(u64),
    /// An inner node that is wrong about where a child starts or ends.
    Bounds(u64),
    /// An inner node that is wrong about the largest hole below a child.
    Gap(u64),
    /// A leaf that is not as deep as the others.
    Depth(u64),
    /// A child that is no node in use.
    Lost(u64),
    /// The number of areas is wrong.
    Count,
    /// The number of nodes is wrong.
    Nodes,
    /// An area that no program can have.
    Outside(u64),
    /// An area that joins the previous one.
    Unmerged(u64),
    /// The sums over all areas, or the break.
    Totals,
}

/// What a walk through a tree gathers.
struct Walk {
    last: Option<Area>,
    count: usize,
    nodes: usize,
}

impl Areas {
    /// Verifies every invariant: areas are sorted, disjoint, aligned and not empty; nodes are
    /// full enough and equally deep; what inner nodes know is right; counts are right.
    ///
    /// # Errors
    /// What is broken first, from the lowest address on.
    pub fn check(&self, pool: &AreaPool) -> Result<(), Broken> {
        let mut walk = Walk {
            last: None,
            count: 0,
            nodes: 0,
        };
        if self.root != NONE {
            self.check_below(pool, self.root, 1, 0, &mut walk)?;
        } else if self.height != 0 {
            return Err(Broken::Depth(0));
        }
        if walk.count != self.count {
            return Err(Broken::Count);
        }
        if walk.nodes != self.nodes {
            return Err(Broken::Nodes);
        }
        Ok(())
    }

    fn check_below(
        &self,
        pool: &AreaPool,
        node: u32,
        depth: u32,
        at: u64,
        walk: &mut Walk,
    ) -> Result<(), Broken> {
        if depth > self.height {
            return Err(Broken::Depth(at));
        }
        if !pool.is_used(node) {
            return Err(Broken::Lost(at));
        }
        let shape = pool.shape(node);
        let least = match shape {
            _ if depth > 1 => shape.least(),
            Shape::Leaf(_) => 1,
            Shape::Inner(_) => 2,
        };
        if shape.len() < least {
            return Err(Broken::Fill(at));
        }
        walk.nodes += 1;
        match shape {
            Shape::Leaf(leaf) => {
                if depth != self.height {
                    return Err(Broken::Depth(at));
                }
                leaf.areas().iter().try_for_each(|area| walk.visit(area))
            }
            Shape::Inner(inner) => {
                for (slot, &child) in inner.children().iter().enumerate() {
                    let known = inner.known(slot);
                    self.check_below(pool, child, depth + 1, known.start, walk)?;
                    let real = pool.shape(child).summary();
                    if (known.start, known.end) != (real.start, real.end) {
                        return Err(Broken::Bounds(known.start));
                    }
                    if known.gap != real.gap {
                        return Err(Broken::Gap(known.start));
                    }
                }
                Ok(())
            }
        }
    }
}

impl Walk {
    fn visit(&mut self, area: &Area) -> Result<(), Broken> {
        let at = area.start;
        if area.start >= area.end {
            return Err(Broken::Empty(at));
        }
        if !area.start.is_multiple_of(PAGE) || !area.end.is_multiple_of(PAGE) {
            return Err(Broken::Unaligned(at));
        }
        if let Some(last) = self.last {
            if area.start <= last.start {
                return Err(Broken::Unsorted(at));
            }
            if area.start < last.end {
                return Err(Broken::Overlapping(at));
            }
        }
        self.last = Some(*area);
        self.count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Node;
    use super::*;
    use crate::mmu::addr::Rights;
    use crate::mmu::area::{Backing, Traits};

    /// Pages 3n..3n+1 for n below 200, so that the tree has three levels.
    fn with(damage: impl FnOnce(&mut Areas, &mut AreaPool)) -> Result<(), Broken> {
        let mut nodes = [Node::EMPTY; AreaPool::nodes_for(200)];
        let mut pool = AreaPool::new(&mut nodes);
        let mut areas = Areas::new();
        for n in 0..200 {
            let area = Area {
                start: 3 * n * PAGE,
                end: (3 * n + 1) * PAGE,
                rights: Rights::READ,
                backing: Backing::Anonymous,
                traits: Traits(0),
            };
            areas.insert(&mut pool, area).expect("the pool is enough");
        }
        assert_eq!(areas.check(&pool), Ok(()));
        damage(&mut areas, &mut pool);
        areas.check(&pool)
    }

    fn first_leaf(areas: &Areas, pool: &AreaPool) -> u32 {
        let mut node = areas.root;
        while let Shape::Inner(inner) = pool.shape(node) {
            node = inner.child(0);
        }
        node
    }

    /// Damages the second area of the first leaf.
    fn area(change: impl FnOnce(&mut Area)) -> Result<(), Broken> {
        with(|areas, pool| {
            let leaf = first_leaf(areas, pool);
            change(&mut pool.leaf_mut(leaf).areas_mut()[1]);
        })
    }

    #[test]
    fn each_kind_of_damage_is_found() {
        let at = 3 * PAGE;
        assert_eq!(area(|a| a.end = a.start), Err(Broken::Empty(at)));
        assert_eq!(area(|a| a.end = a.start - PAGE), Err(Broken::Empty(at)));
        assert_eq!(area(|a| a.end += 1), Err(Broken::Unaligned(at)));
        assert_eq!(area(|a| a.start = 0), Err(Broken::Unsorted(0)));
        assert_eq!(area(|a| a.end = 7 * PAGE), Err(Broken::Overlapping(2 * at)));
        assert_eq!(
            area(|a| a.end += PAGE),
            Ok(()),
            "the gap after it is not the only one of 2"
        );
        assert_eq!(with(|areas, _| areas.count += 1), Err(Broken::Count));
        assert_eq!(with(|areas, _| areas.nodes -= 1), Err(Broken::Nodes));
        assert_eq!(with(|areas, _| areas.height += 1), Err(Broken::Depth(0)));
        assert_eq!(
            with(|areas, pool| {
                let leaf = first_leaf(areas, pool);
                while pool.shape(leaf).len() >= pool.shape(leaf).least() {
                    pool.leaf_mut(leaf).remove(1);
                }
            }),
            Err(Broken::Fill(0))
        );
    }

    /// Damages what the root knows of its second child.
    fn root(start: u64, end: u64, gap: u64) -> (Result<(), Broken>, u64) {
        let mut at = 0;
        let found = with(|areas, pool| {
            let inner = pool.inner_mut(areas.root);
            let mut known = inner.known(1);
            at = known.start + start;
            known.start += start;
            known.end += end;
            known.gap += gap;
            let child = inner.child(1);
            inner.set(1, child, known);
        });
        (found, at)
    }

    #[test]
    fn damage_to_inner_nodes_is_found() {
        let (found, at) = root(PAGE, 0, 0);
        assert_eq!(found, Err(Broken::Bounds(at)));
        let (found, at) = root(0, PAGE, 0);
        assert_eq!(found, Err(Broken::Bounds(at)));
        let (found, at) = root(0, 0, PAGE);
        assert_eq!(found, Err(Broken::Gap(at)));
        assert_eq!(
            with(|areas, pool| pool.free(first_leaf(areas, pool))),
            Err(Broken::Lost(0))
        );
        assert_eq!(with(|areas, _| areas.height -= 1), Err(Broken::Depth(0)));
    }
}
