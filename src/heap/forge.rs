//! For tests of the checker: damage that no write to heap memory can do.

use super::{Heap, Segment};
use crate::bins::Bins;
use crate::os::Os;

/// The words of a heap that the checker compares with its memory.
#[doc(hidden)]
#[derive(Debug)]
#[allow(missing_docs)] // Named as in `Heap` and its counters.
pub struct Forge<'h> {
    pub bins: &'h mut Bins,
    pub top_size: &'h mut usize,
    pub fast_bytes: &'h mut usize,
    pub used_bytes: &'h mut usize,
    pub binned_bytes: &'h mut usize,
    pub system_bytes: &'h mut usize,
    pub break_bytes: &'h mut usize,
    pub segments: &'h mut [Segment],
}

impl<O: Os + 'static> Heap<O> {
    /// For tests of the checker: the heap's own words, to overwrite them.
    #[doc(hidden)]
    pub fn forge(&mut self) -> Forge<'_> {
        Forge {
            bins: &mut self.bins,
            top_size: &mut self.top_size,
            fast_bytes: &mut self.fast_bytes,
            used_bytes: &mut self.counters.used_bytes,
            binned_bytes: &mut self.counters.binned_bytes,
            system_bytes: &mut self.counters.system_bytes,
            break_bytes: &mut self.counters.break_bytes,
            segments: self.segments.as_mut_slice(&self.os),
        }
    }
}
