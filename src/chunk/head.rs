//! The head of a chunk: two 32-bit halves, each with one writer.
//!
//! The low half (size and flags) is written under the lock of the heap, the high half (tag) by
//! whoever owns the chunk. A tag is a keyed hash of the payload address, size and `MAPPED` of the
//! low half, and the state; it need not store the state, for whoever finds another tag than the
//! one expected can try the other states and name the misuse. `PREV_INUSE` is not covered, for it
//! changes while the chunk is somebody else's; `ARENA` neither: who owns a chunk is asked of the
//! map of extents, which no heap memory borders on.

use crate::size::{ALIGN, MAX_CHUNK};
use crate::sync::overlay::{AtomicU64, Ordering::Relaxed};
use core::fmt;

/// The low half of a head: the chunk's size divided by 16, and three flags.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Low(u32);

impl Low {
    const PREV_INUSE: u32 = 1;
    const MAPPED: u32 = 2;
    const ARENA: u32 = 4;
    const FLAGS: u32 = 7;
    /// What a tag does not cover.
    const OPEN: u32 = Low::PREV_INUSE | Low::ARENA;

    /// A chunk of `size` bytes (a multiple of 16, at most [`MAX_CHUNK`]), no flag set.
    #[inline(always)]
    #[must_use]
    pub const fn of(size: usize) -> Low {
        debug_assert!(size.is_multiple_of(ALIGN) && size <= MAX_CHUNK);
        Low((size / 2) as u32)
    }

    /// A low half as it was read.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Low {
        Low(bits)
    }

    /// The bits as they are stored.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The size in bytes.
    #[inline(always)]
    #[must_use]
    pub const fn size(self) -> usize {
        (self.0 & !Low::FLAGS) as usize * 2
    }

    /// The size in units of 16 bytes.
    #[inline(always)]
    #[must_use]
    pub const fn units(self) -> usize {
        (self.0 >> 3) as usize
    }

    /// Whether the chunk before is in use, as far as the heap knows.
    #[inline(always)]
    #[must_use]
    pub const fn prev_in_use(self) -> bool {
        self.0 & Low::PREV_INUSE != 0
    }

    /// Whether the chunk owns a mapping.
    #[inline(always)]
    #[must_use]
    pub const fn is_mapped(self) -> bool {
        self.0 & Low::MAPPED != 0
    }

    /// Whether the chunk belongs to an arena other than the main one.
    #[inline(always)]
    #[must_use]
    pub const fn in_arena(self) -> bool {
        self.0 & Low::ARENA != 0
    }

    /// With `PREV_INUSE` set or cleared.
    #[inline(always)]
    #[must_use]
    pub const fn with_prev_in_use(self, yes: bool) -> Low {
        Low(self.0 & !Low::PREV_INUSE | yes as u32)
    }

    /// With `MAPPED` set.
    #[inline(always)]
    #[must_use]
    pub const fn with_mapped(self) -> Low {
        Low(self.0 | Low::MAPPED)
    }

    /// With `ARENA` set if `yes`.
    #[inline(always)]
    #[must_use]
    pub const fn with_arena(self, yes: bool) -> Low {
        Low(self.0 | if yes { Low::ARENA } else { 0 })
    }

    /// The same flags on another size.
    #[inline(always)]
    #[must_use]
    pub const fn resized(self, size: usize) -> Low {
        Low(Low::of(size).0 | self.0 & Low::FLAGS)
    }
}

impl fmt::Debug for Low {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.size())?;
        for (set, name) in [
            (self.prev_in_use(), " PREV_INUSE"),
            (self.is_mapped(), " MAPPED"),
            (self.in_arena(), " ARENA"),
        ] {
            if set {
                f.write_str(name)?;
            }
        }
        Ok(())
    }
}

/// What a chunk is at the moment.
///
/// Pairs of states share one multiplication: see [`Secret::user_tags`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In the user's hands.
    Used = 0,
    /// In a thread's cache or in the depot.
    Cached = 1,
    /// Free, in a small or large bin.
    Binned = 2,
    /// Free, in the unsorted bin.
    Unsorted = 3,
    /// Free, in a fast bin.
    Fast = 4,
    /// The top chunk of a heap.
    Top = 5,
    /// A fencepost.
    Fence = 6,
    /// No chunk any more: swallowed by a neighbour.
    Retired = 7,
}

impl State {
    /// Every state.
    pub const ALL: [State; 8] = [
        State::Used,
        State::Cached,
        State::Binned,
        State::Unsorted,
        State::Fast,
        State::Top,
        State::Fence,
        State::Retired,
    ];

    /// Whether the tag in this state covers the link of a stack as well.
    #[inline(always)]
    #[must_use]
    pub const fn seals_link(self) -> bool {
        matches!(self, State::Cached | State::Fast)
    }
}

/// The per-process secret: random, never derived from an address. Set once, before the first
/// chunk is made; its words are atomics only so that it can live in a static.
pub struct Secret {
    address: AtomicU64,
    size: AtomicU64,
    link: AtomicU64,
    seal: AtomicU64,
}

impl Secret {
    /// A secret from four random words.
    #[must_use]
    pub const fn new(random: [u64; 4]) -> Secret {
        Secret {
            address: AtomicU64::new(random[0]),
            size: AtomicU64::new(random[1]),
            link: AtomicU64::new(random[2]),
            seal: AtomicU64::new(random[3] | 1),
        }
    }

    /// Replaces the secret: before there is a chunk.
    pub fn set(&self, random: [u64; 4]) {
        self.address.store(random[0], Relaxed);
        self.size.store(random[1], Relaxed);
        self.link.store(random[2], Relaxed);
        self.seal.store(random[3] | 1, Relaxed);
    }

    /// The tags of a chunk with this payload address and low half in a pair of states: in the
    /// even one and in the odd one after it.
    ///
    /// A folded 64x64 multiplication of the keyed address and the keyed size; its two 32-bit
    /// lanes serve two states, so that a free, which checks `Used` and writes `Cached`, pays
    /// for one.
    #[inline(always)]
    fn pair(&self, payload: usize, keyed: u64) -> (u32, u32) {
        let key = (payload as u64 ^ self.address.load(Relaxed)) as u128;
        let product = key * u128::from(keyed);
        let folded = product as u64 ^ (product >> 64) as u64;
        (folded as u32, (folded >> 32) as u32)
    }

    /// What of a low half is hashed, keyed: the same for all chunks of a size.
    #[inline(always)]
    #[must_use]
    pub fn keyed(&self, low: Low) -> u64 {
        u64::from(low.0 & !Low::OPEN) ^ self.size.load(Relaxed)
    }

    /// The tag of a chunk with this payload address and low half in this state.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self, payload: usize, low: Low, state: State) -> u32 {
        let (even, odd) = self.pair(payload, self.keyed(low) ^ pair_of(state));
        if state as u64 & 1 == 0 { even } else { odd }
    }

    /// The tags for [`State::Used`] and [`State::Cached`], the latter without its seal, of a chunk
    /// whose low half [`keyed`](Secret::keyed) gave this.
    #[inline(always)]
    #[must_use]
    pub fn user_tags(&self, payload: usize, keyed: u64) -> (u32, u32) {
        self.pair(payload, keyed)
    }

    /// The tags for [`State::Binned`] and [`State::Unsorted`].
    #[inline(always)]
    #[must_use]
    pub fn free_tags(&self, payload: usize, low: Low) -> (u32, u32) {
        self.pair(payload, self.keyed(low) ^ pair_of(State::Binned))
    }

    /// A link as it is stored at address `at`, or back again.
    #[inline(always)]
    #[must_use]
    pub fn mask(&self, at: usize, link: u64) -> u64 {
        link ^ self.link.load(Relaxed) ^ at as u64
    }

    /// 32 bits that vouch for a link.
    #[inline(always)]
    #[must_use]
    pub fn seal(&self, link: usize) -> u32 {
        ((link as u64).wrapping_mul(self.seal.load(Relaxed)) >> 32) as u32
    }
}

/// What tells the pair of states apart that a state belongs to.
const fn pair_of(state: State) -> u64 {
    (state as u64 >> 1) << 40
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
