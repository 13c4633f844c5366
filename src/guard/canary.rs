//! The bytes beside an object in its pages: a pattern that nobody may change.
#![allow(unsafe_code)] // Raw memory.

use super::geometry::Placement;
use super::record::Record;
use crate::os::Region;

/// Which bytes beside an object were overwritten, counted from the object's first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The first of them.
    pub first: isize,
    /// The last of them; those between may be as they were.
    pub last: isize,
}

impl Damage {
    /// Whether they lie behind the object, not before it.
    #[must_use]
    pub const fn is_overflow(&self) -> bool {
        self.first >= 0
    }
}

/// A word of eight equal bytes, none of which is 0, for a string's end must be noticed.
const fn pattern(secret: u64, record: &Record) -> u64 {
    let mixed = (secret ^ record.payload as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = (mixed >> 56) | 0x80;
    byte * 0x0101_0101_0101_0101
}

/// Fills what lies beside an object in its open pages.
///
/// # Safety
/// The pages from `place.open` to `place.close` are writable and nobody else's.
pub unsafe fn plant<R: Region>(region: R, record: &Record, place: &Placement, secret: u64) {
    let byte = pattern(secret, record) as u8;
    for (from, to) in [(place.open, record.payload), (record.end(), place.close)] {
        if from < to {
            // SAFETY: both ranges lie in the open pages.
            unsafe { region.at(from).write_bytes(byte, to - from) };
        }
    }
}

/// Looks for bytes that are not as they were planted: behind the object first.
///
/// # Safety
/// The pages from `place.open` to `place.close` are readable and stay so.
pub unsafe fn examine<R: Region>(
    region: R,
    record: &Record,
    place: &Placement,
    secret: u64,
) -> Option<Damage> {
    let byte = pattern(secret, record) as u8;
    let look = |from: usize, to: usize| {
        if from >= to {
            return None;
        }
        // SAFETY: the range lies in the open pages.
        let bytes = unsafe { core::slice::from_raw_parts(region.at(from), to - from) };
        if is_all(bytes, byte) {
            return None;
        }
        let first = bytes.iter().position(|&b| b != byte)?;
        let last = bytes.iter().rposition(|&b| b != byte)?;
        let origin = (from as isize).wrapping_sub(record.payload as isize);
        Some(Damage {
            first: origin + first as isize,
            last: origin + last as isize,
        })
    };
    look(record.end(), place.close).or_else(|| look(place.open, record.payload))
}

/// Whether all bytes are `byte`: many at once, as nearly always they are.
fn is_all(bytes: &[u8], byte: u8) -> bool {
    let mut chunks = bytes.chunks_exact(64);
    let differs = |part: &[u8]| part.iter().fold(0, |sum, &b| sum | (b ^ byte));
    let whole = chunks.by_ref().fold(0, |sum, part| sum | differs(part));
    whole | differs(chunks.remainder()) == 0
}
