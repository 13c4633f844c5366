//! What the head of a program or library says of where its parts lie.

use crate::size::align_down;

/// A program or library in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Image {
    /// What to subtract from an address in memory to get the one that the file counts by.
    pub bias: usize,
    /// The first address.
    pub low: usize,
    /// The first address behind it.
    pub high: usize,
    /// The first address of writable data, and the first behind it; 0 and 0 without any.
    pub data: (usize, usize),
}

/// Reads from the beginning of the file on: all of a buffer from an offset, or nothing.
pub(super) type Read<'r> = &'r mut dyn FnMut(usize, &mut [u8]) -> bool;

const WIDE: bool = usize::BITS == 64;
const HEAD: usize = if WIDE { 64 } else { 52 };
const PROGRAM_HEADER: usize = if WIDE { 56 } else { 32 };
/// The most program headers that anybody has.
const MOST: usize = 64;

const EXECUTABLE: u16 = 2;
const SHARED: u16 = 3;
const LOAD: u32 = 1;
const WRITABLE: u32 = 2;

fn bytes<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..)
        .and_then(|rest| rest.first_chunk())
        .copied()
        .unwrap_or([0; N])
}

fn half(from: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes(from, at))
}

fn word(from: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes(from, at))
}

fn address(from: &[u8], at: usize) -> usize {
    usize::from_ne_bytes(bytes(from, at))
}

/// Reads the head of the file whose beginning is mapped at `base`. `None` if it is no program or
/// library for this machine's words.
pub(super) fn image(base: usize, page: usize, read: Read<'_>) -> Option<Image> {
    let mut head = [0; HEAD];
    if !read(0, &mut head) {
        return None;
    }
    let class = if WIDE { 2 } else { 1 };
    let kind = half(&head, 16);
    if !head.starts_with(&[0x7f, b'E', b'L', b'F', class]) || !matches!(kind, EXECUTABLE | SHARED) {
        return None;
    }
    let table = address(&head, if WIDE { 32 } else { 28 });
    let size = usize::from(half(&head, if WIDE { 54 } else { 42 }));
    let count = usize::from(half(&head, if WIDE { 56 } else { 44 }));
    if size < PROGRAM_HEADER {
        return None;
    }
    let mut image: Option<Image> = None;
    for number in 0..count.min(MOST) {
        let mut header = [0; PROGRAM_HEADER];
        if !read(table.wrapping_add(number * size), &mut header) {
            return None;
        }
        if word(&header, 0) != LOAD {
            continue;
        }
        let (offset, start, length) = if WIDE { (8, 16, 40) } else { (4, 8, 20) };
        let flags = word(&header, if WIDE { 4 } else { 24 });
        let offset = address(&header, offset);
        let start = address(&header, start);
        let end = start.wrapping_add(address(&header, length));
        // They are in ascending order, so the first holds the beginning of the file.
        let image = image.get_or_insert_with(|| {
            let fixed = kind == EXECUTABLE;
            let bias = if fixed {
                0
            } else {
                base.wrapping_sub(start.wrapping_sub(offset))
            };
            let low = align_down(start.wrapping_add(bias), page);
            Image {
                bias,
                low,
                high: low,
                data: (0, 0),
            }
        });
        let (start, end) = (start.wrapping_add(image.bias), end.wrapping_add(image.bias));
        image.high = image.high.max(end);
        if flags & WRITABLE != 0 {
            let first = if image.data.1 == 0 {
                start
            } else {
                image.data.0
            };
            image.data = (first.min(start), image.data.1.max(end));
        }
    }
    image
}
