//! The search for a hole, guided by the largest hole below each child.

use super::Areas;
use super::node::{AreaPool, NONE, Shape};

/// What a search wants: `len` bytes without an area in `low..high`.
#[derive(Clone, Copy)]
struct Want {
    low: u64,
    high: u64,
    len: u64,
}

impl Want {
    /// The part of the hole `from..to` that is in range, if it is long enough.
    fn fits(self, from: u64, to: u64) -> Option<(u64, u64)> {
        let (from, to) = (from.max(self.low), to.min(self.high));
        (to >= from && to - from >= self.len).then_some((from, to))
    }
}

impl Areas {
    /// The highest address in `low..high` from which `len` bytes, which end in the range, touch
    /// no area.
    #[must_use]
    pub fn highest_hole(&self, pool: &AreaPool, low: u64, high: u64, len: u64) -> Option<u64> {
        let want = Want { low, high, len };
        let (first, last) = self.ends(pool, high);
        want.fits(last, high)
            .or_else(|| highest_below(pool, self.root, want))
            .or_else(|| want.fits(low, first))
            .map(|(_, to)| to - len)
    }

    /// The lowest address in `low..high` from which `len` bytes, which end in the range, touch
    /// no area.
    #[must_use]
    pub fn lowest_hole(&self, pool: &AreaPool, low: u64, high: u64, len: u64) -> Option<u64> {
        let want = Want { low, high, len };
        let (first, last) = self.ends(pool, high);
        want.fits(low, first)
            .or_else(|| lowest_below(pool, self.root, want))
            .or_else(|| want.fits(last, high))
            .map(|(from, _)| from)
    }

    /// Where the first area starts and the last one ends; without areas the holes on both sides
    /// are the same one, up to `high`.
    fn ends(&self, pool: &AreaPool, high: u64) -> (u64, u64) {
        if self.root == NONE {
            return (high, 0);
        }
        let all = pool.shape(self.root).summary();
        (all.start, all.end)
    }
}

/// The highest hole that fits between areas of one subtree. Only the subtrees at both ends of
/// the range can promise a hole and not keep it, because it is cut off there.
fn highest_below(pool: &AreaPool, node: u32, want: Want) -> Option<(u64, u64)> {
    if node == NONE {
        return None;
    }
    match pool.shape(node) {
        Shape::Leaf(leaf) => {
            let mut pairs = leaf.areas().windows(2).rev();
            pairs.find_map(|w| want.fits(w[0].end, w[1].start))
        }
        Shape::Inner(inner) => {
            let last = inner.children().len() - 1;
            (0..=last).rev().find_map(|slot| {
                let known = inner.known(slot);
                let above = if slot < last {
                    want.fits(known.end, inner.known(slot + 1).start)
                } else {
                    None
                };
                let inside =
                    known.gap >= want.len && known.start < want.high && known.end > want.low;
                above.or_else(|| {
                    inside
                        .then(|| highest_below(pool, inner.child(slot), want))
                        .flatten()
                })
            })
        }
    }
}

/// As [`highest_below`], from the other side.
fn lowest_below(pool: &AreaPool, node: u32, want: Want) -> Option<(u64, u64)> {
    if node == NONE {
        return None;
    }
    match pool.shape(node) {
        Shape::Leaf(leaf) => {
            let mut pairs = leaf.areas().windows(2);
            pairs.find_map(|w| want.fits(w[0].end, w[1].start))
        }
        Shape::Inner(inner) => {
            let last = inner.children().len() - 1;
            (0..=last).find_map(|slot| {
                let known = inner.known(slot);
                let inside =
                    known.gap >= want.len && known.start < want.high && known.end > want.low;
                let found = inside
                    .then(|| lowest_below(pool, inner.child(slot), want))
                    .flatten();
                found.or_else(|| {
                    if slot < last {
                        want.fits(known.end, inner.known(slot + 1).start)
                    } else {
                        None
                    }
                })
            })
        }
    }
}
