//! The nodes of the tree and the pool that they come from.

use crate::mmu::addr::Rights;
use crate::mmu::area::{Area, Backing, Traits};

/// No node.
pub(super) const NONE: u32 = u32::MAX;
/// Areas of a leaf.
pub(super) const LEAF: usize = 12;
/// Children of an inner node.
pub(super) const FANOUT: usize = 16;
/// Fewest areas of a leaf that is not the root.
pub(super) const LEAF_MIN: usize = LEAF / 2;
/// Fewest children of an inner node that is not the root.
pub(super) const INNER_MIN: usize = FANOUT / 2;

/// What unused slots of leaves hold: it ends at the last address, so that no search ends there.
const NO_AREA: Area = Area {
    start: 0,
    end: u64::MAX,
    rights: Rights::NONE,
    backing: Backing::Anonymous,
    traits: Traits(0),
};

/// One node of some tree. Storage for a pool is a slice of [`Node::EMPTY`].
#[derive(Debug, Clone, Copy)]
pub struct Node(Slot);

#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant)] // There is nothing to put the large one behind.
enum Slot {
    Free { next: u32 },
    Used(Shape),
}

impl Node {
    /// A node of no tree.
    pub const EMPTY: Node = Node(Slot::Free { next: NONE });
}

/// What a node is.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant)] // They differ by a few words.
pub(super) enum Shape {
    Leaf(Leaf),
    Inner(Inner),
}

/// What a parent knows of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Summary {
    /// Where its first area starts.
    pub start: u64,
    /// Where its last area ends.
    pub end: u64,
    /// The largest hole between two of its areas, in bytes.
    pub gap: u64,
}

/// Areas, sorted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf {
    len: usize,
    areas: [Area; LEAF],
}

/// Children, sorted, with what is known of them. Slots beyond `len` start and end at the last
/// address, so that no search ends in them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inner {
    len: usize,
    starts: [u64; FANOUT],
    ends: [u64; FANOUT],
    gaps: [u64; FANOUT],
    children: [u32; FANOUT],
}

impl Shape {
    pub(super) fn len(&self) -> usize {
        match self {
            Shape::Leaf(leaf) => leaf.len,
            Shape::Inner(inner) => inner.len,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        match self {
            Shape::Leaf(leaf) => leaf.len == LEAF,
            Shape::Inner(inner) => inner.len == FANOUT,
        }
    }

    /// The fewest entries that it may have when it is not the root.
    pub(super) fn least(&self) -> usize {
        match self {
            Shape::Leaf(_) => LEAF_MIN,
            Shape::Inner(_) => INNER_MIN,
        }
    }

    pub(super) fn summary(&self) -> Summary {
        match self {
            Shape::Leaf(leaf) => leaf.summary(),
            Shape::Inner(inner) => inner.summary(),
        }
    }
}

impl Leaf {
    pub(super) const EMPTY: Leaf = Leaf {
        len: 0,
        areas: [NO_AREA; LEAF],
    };

    pub(super) fn areas(&self) -> &[Area] {
        &self.areas[..self.len]
    }

    pub(super) fn areas_mut(&mut self) -> &mut [Area] {
        &mut self.areas[..self.len]
    }

    /// Makes room at `slot`, which moves what is there and behind.
    pub(super) fn insert(&mut self, slot: usize, area: Area) {
        self.areas.copy_within(slot..self.len, slot + 1);
        self.areas[slot] = area;
        self.len += 1;
    }

    pub(super) fn remove(&mut self, slot: usize) -> Area {
        let area = self.areas[slot];
        self.areas.copy_within(slot + 1..self.len, slot);
        self.truncate(self.len - 1);
        area
    }

    /// Cuts off all from `slot` on.
    pub(super) fn split(&mut self, slot: usize) -> Leaf {
        let mut right = Leaf::EMPTY;
        right.append(&self.areas()[slot..]);
        self.truncate(slot);
        right
    }

    fn truncate(&mut self, len: usize) {
        self.areas[len..self.len].fill(NO_AREA);
        self.len = len;
    }

    /// The first area that ends behind `addr`.
    pub(super) fn ending_after(&self, addr: u64) -> Option<&Area> {
        // Counted without a branch, as in inner nodes.
        let slot: usize = self.areas.iter().map(|a| usize::from(a.end <= addr)).sum();
        self.areas().get(slot)
    }

    pub(super) fn append(&mut self, areas: &[Area]) {
        self.areas[self.len..self.len + areas.len()].copy_from_slice(areas);
        self.len += areas.len();
    }

    fn summary(&self) -> Summary {
        let areas = self.areas();
        let gap = areas.windows(2).map(|w| w[1].start.wrapping_sub(w[0].end));
        Summary {
            start: areas.first().map_or(0, |a| a.start),
            end: areas.last().map_or(0, |a| a.end),
            gap: gap.max().unwrap_or(0),
        }
    }
}

impl Inner {
    pub(super) const EMPTY: Inner = Inner {
        len: 0,
        starts: [u64::MAX; FANOUT],
        ends: [u64::MAX; FANOUT],
        gaps: [0; FANOUT],
        children: [NONE; FANOUT],
    };

    pub(super) fn children(&self) -> &[u32] {
        &self.children[..self.len]
    }

    pub(super) fn child(&self, slot: usize) -> u32 {
        self.children[slot]
    }

    pub(super) fn set_child(&mut self, slot: usize, child: u32) {
        self.children[slot] = child;
    }

    pub(super) fn known(&self, slot: usize) -> Summary {
        Summary {
            start: self.starts[slot],
            end: self.ends[slot],
            gap: self.gaps[slot],
        }
    }

    /// The child in which an area at or after `addr` is found first.
    pub(super) fn child_ending_after(&self, addr: u64) -> Option<u32> {
        // Counted without a branch: where it ends cannot be predicted.
        let slot: usize = self.ends.iter().map(|&end| usize::from(end <= addr)).sum();
        (slot < self.len).then(|| self.children[slot])
    }

    pub(super) fn slots_starting_below(&self, addr: u64) -> usize {
        self.starts.iter().map(|&s| usize::from(s < addr)).sum()
    }

    /// The slot below which an area that starts at `start` is or belongs.
    pub(super) fn slot_for(&self, start: u64) -> usize {
        let slots: usize = self.starts[..self.len]
            .iter()
            .map(|&s| usize::from(s <= start))
            .sum();
        slots.saturating_sub(1)
    }

    pub(super) fn set(&mut self, slot: usize, child: u32, known: Summary) {
        self.starts[slot] = known.start;
        self.ends[slot] = known.end;
        self.gaps[slot] = known.gap;
        self.children[slot] = child;
    }

    pub(super) fn insert(&mut self, slot: usize, child: u32, known: Summary) {
        let tail = slot..self.len;
        self.starts.copy_within(tail.clone(), slot + 1);
        self.ends.copy_within(tail.clone(), slot + 1);
        self.gaps.copy_within(tail.clone(), slot + 1);
        self.children.copy_within(tail, slot + 1);
        self.len += 1;
        self.set(slot, child, known);
    }

    pub(super) fn remove(&mut self, slot: usize) -> (u32, Summary) {
        let gone = (self.children[slot], self.known(slot));
        let tail = slot + 1..self.len;
        self.starts.copy_within(tail.clone(), slot);
        self.ends.copy_within(tail.clone(), slot);
        self.gaps.copy_within(tail.clone(), slot);
        self.children.copy_within(tail, slot);
        self.truncate(self.len - 1);
        gone
    }

    /// Cuts off all from `slot` on.
    pub(super) fn split(&mut self, slot: usize) -> Inner {
        let mut right = Inner::EMPTY;
        right.append(self, slot);
        self.truncate(slot);
        right
    }

    /// Adds the children of `other` from its `slot` on.
    pub(super) fn append(&mut self, other: &Inner, slot: usize) {
        for from in slot..other.len {
            self.set(self.len, other.children[from], other.known(from));
            self.len += 1;
        }
    }

    fn truncate(&mut self, len: usize) {
        self.starts[len..self.len].fill(u64::MAX);
        self.ends[len..self.len].fill(u64::MAX);
        self.gaps[len..self.len].fill(0);
        self.children[len..self.len].fill(NONE);
        self.len = len;
    }

    /// The hole between the child of a slot and the next one.
    pub(super) fn hole_after(&self, slot: usize) -> u64 {
        self.starts[slot + 1].wrapping_sub(self.ends[slot])
    }

    fn summary(&self) -> Summary {
        let last = self.len - 1;
        let inside = self.gaps[..self.len].iter().copied().max();
        let between = (0..last).map(|slot| self.hole_after(slot)).max();
        Summary {
            start: self.starts[0],
            end: self.ends[last],
            gap: inside.unwrap_or(0).max(between.unwrap_or(0)),
        }
    }
}

/// The nodes of all trees of a model.
#[derive(Debug)]
pub struct AreaPool<'m> {
    nodes: &'m mut [Node],
    /// The first free node that was in use before.
    free: u32,
    /// Nodes from here on were never used.
    fresh: usize,
    used: usize,
}

impl<'m> AreaPool<'m> {
    /// A pool of all of `nodes`. What they hold is forgotten.
    ///
    /// # Panics
    /// With 2^32 - 1 nodes or more.
    #[must_use]
    pub fn new(nodes: &'m mut [Node]) -> AreaPool<'m> {
        assert!(nodes.len() < NONE as usize, "node numbers have 32 bits");
        AreaPool {
            nodes,
            free: NONE,
            fresh: 0,
            used: 0,
        }
    }

    /// Nodes that enough for any tree of that many areas.
    #[must_use]
    pub const fn nodes_for(areas: usize) -> usize {
        // At least half full, level by level, and one node of each level for what is left over.
        let mut level = areas.div_ceil(LEAF_MIN);
        let mut all = level + 1;
        while level > 1 {
            level = level.div_ceil(INNER_MIN);
            all += level + 1;
        }
        all
    }

    /// Nodes that no tree uses.
    #[must_use]
    pub const fn spare(&self) -> usize {
        self.nodes.len() - self.used
    }

    /// Nodes that trees use.
    #[must_use]
    pub const fn used(&self) -> usize {
        self.used
    }

    pub(super) fn shape(&self, node: u32) -> &Shape {
        match &self.nodes[node as usize].0 {
            Slot::Used(shape) => shape,
            Slot::Free { .. } => panic!("node {node} is free"),
        }
    }

    pub(super) fn shape_mut(&mut self, node: u32) -> &mut Shape {
        match &mut self.nodes[node as usize].0 {
            Slot::Used(shape) => shape,
            Slot::Free { .. } => panic!("node {node} is free"),
        }
    }

    pub(super) fn leaf_mut(&mut self, node: u32) -> &mut Leaf {
        match self.shape_mut(node) {
            Shape::Leaf(leaf) => leaf,
            Shape::Inner(_) => panic!("node {node} is no leaf"),
        }
    }

    pub(super) fn inner_mut(&mut self, node: u32) -> &mut Inner {
        match self.shape_mut(node) {
            Shape::Inner(inner) => inner,
            Shape::Leaf(_) => panic!("node {node} is a leaf"),
        }
    }

    /// Takes a node, which the caller knows to be there.
    pub(super) fn take(&mut self, shape: Shape) -> u32 {
        let node = if self.free == NONE {
            self.fresh += 1;
            self.fresh as u32 - 1
        } else {
            let node = self.free;
            if let Slot::Free { next } = self.nodes[node as usize].0 {
                self.free = next;
            }
            node
        };
        self.nodes[node as usize] = Node(Slot::Used(shape));
        self.used += 1;
        node
    }

    pub(super) fn free(&mut self, node: u32) {
        self.nodes[node as usize] = Node(Slot::Free { next: self.free });
        self.free = node;
        self.used -= 1;
    }

    /// Whether a node number belongs to a node in use.
    pub(super) fn is_used(&self, node: u32) -> bool {
        self.nodes
            .get(node as usize)
            .is_some_and(|node| matches!(node.0, Slot::Used(_)))
    }
}
