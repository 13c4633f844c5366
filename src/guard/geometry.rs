//! Where an object lies between its guards: pure numbers.
//!
//! A slot is a body of 2^k pages and the guard page after it; the guard page of the slot below
//! (or the first page of the class's region) is the one before it. Only the pages that the
//! object itself needs are opened, the rest of the body stays guard.

use super::record::Side;
use crate::size::{align_down, align_up};

/// Where in a body an object lies, as addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placement {
    /// The object.
    pub payload: usize,
    /// The first byte of the pages that are opened.
    pub open: usize,
    /// The end of the pages that are opened; equal to `open` for an object of no bytes.
    pub close: usize,
}

/// How many pages a body must have for an object.
///
/// An alignment beyond a page needs room to slide in. `None` if the sum is beyond what a word
/// can say.
#[must_use]
pub fn pages(size: usize, align: usize, page: usize) -> Option<usize> {
    let slide = align.saturating_sub(page);
    let bytes = size.max(1).checked_add(slide)?.checked_add(page - 1)?;
    Some(bytes >> page.trailing_zeros())
}

/// Places an object of `size` bytes at a multiple of `align` in the body `from..to`, which has
/// [`pages`] pages at least: on the right so that its end lies as near to the next guard as its
/// alignment allows, on the left at the beginning of a page.
#[must_use]
pub const fn place(
    from: usize,
    to: usize,
    size: usize,
    align: usize,
    page: usize,
    side: Side,
) -> Placement {
    let whole = if align > page { align } else { page };
    if size == 0 {
        let payload = align_up(from, whole);
        return Placement {
            payload,
            open: payload,
            close: payload,
        };
    }
    let payload = match side {
        Side::Right => align_down(to - size, align),
        Side::Left => align_up(from, whole),
    };
    Placement {
        payload,
        open: align_down(payload, page),
        close: align_up(payload + size, page),
    }
}
