//! The modelled TLB: what a report counts.
//!
//! Two levels of set-associative caches with exact LRU by stamps, shared by all page sizes. A
//! line is tagged with its address space unless the page is global, so that a switch of spaces
//! may keep it. It holds the translation itself: dropping a shootdown leaves a stale one behind
//! that goes on working, as on a machine. (Two levels of 64 lines in 4 ways and 1536 in 12 are
//! those of Intel's processors since Skylake.)
//!
//! The cache that only makes the model fast is another: [`super::lookaside`].

use super::addr::{Asid, FrameNumber, PAGE_SHIFT, PhysAddr, VirtAddr};
use super::entry::Entry;
use super::geometry::{Geometry, MAX_LEVELS};

/// How large a level is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Sets. A power of two indexes fastest; any other number works.
    pub sets: usize,
    /// Lines of a set.
    pub ways: usize,
}

impl Shape {
    /// The first level's usual shape.
    pub const L1: Shape = Shape { sets: 16, ways: 4 };
    /// The second level's usual shape.
    pub const L2: Shape = Shape {
        sets: 128,
        ways: 12,
    };
    /// No such level: every lookup is a miss.
    pub const NONE: Shape = Shape { sets: 0, ways: 0 };

    /// Lines in all.
    #[must_use]
    pub const fn lines(self) -> usize {
        self.sets * self.ways
    }
}

/// One line. Plain data, to be handed in as storage.
#[derive(Debug, Clone, Copy)]
pub struct TlbLine {
    tag: u64,
    /// The physical address of the page, and flags in the low bits.
    data: u64,
    stamp: u64,
}

impl TlbLine {
    /// A line that holds nothing.
    pub const EMPTY: TlbLine = TlbLine {
        tag: 0,
        data: 0,
        stamp: 0,
    };

    /// What it holds.
    pub(super) fn held<G: Geometry>(&self) -> Option<(Held, Cached)> {
        (self.tag & VALID != 0).then(|| {
            let level = (self.tag >> LEVEL_SHIFT & 3) as usize;
            let number = self.tag & NUMBER;
            let raw = number << G::shift(level);
            let unused = 64 - G::VA_BITS;
            let start = if G::SIGN_EXTEND {
                ((raw << unused).cast_signed() >> unused).cast_unsigned()
            } else {
                raw
            };
            let asid = Asid::new((self.tag >> ASID_SHIFT) as u16);
            (Held { start, level, asid }, Cached(self.data))
        })
    }
}

/// Which translation a line holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub start: u64,
    pub level: usize,
    pub asid: Asid,
}

const VALID: u64 = 1 << 63;
const LEVEL_SHIFT: u32 = 61;
const ASID_SHIFT: u32 = 45;
const NUMBER: u64 = (1 << ASID_SHIFT) - 1;

/// The number that global pages carry instead of a space's.
pub(super) const GLOBAL: Asid = Asid::new(u16::MAX);

/// A translation as a TLB keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cached(u64);

impl Cached {
    const WRITE: u64 = 1;
    const USER: u64 = 2;
    const EXEC: u64 = 4;
    const DIRTY: u64 = 8;
    const GLOBAL: u64 = 16;

    /// Of a leaf entry and the rights that all levels together leave.
    #[inline]
    pub(super) fn of<G: Geometry>(entry: Entry<G>, rights: u64) -> Cached {
        let mut data = entry.address().raw();
        for (from, to) in [
            (Entry::<G>::WRITABLE, Self::WRITE),
            (Entry::<G>::USER, Self::USER),
        ] {
            if rights & from != 0 {
                data |= to;
            }
        }
        if Entry::<G>::NO_EXECUTE == 0 || rights & Entry::<G>::NO_EXECUTE == 0 {
            data |= Self::EXEC;
        }
        if entry.has(Entry::<G>::DIRTY) {
            data |= Self::DIRTY;
        }
        if entry.has(Entry::<G>::GLOBAL) {
            data |= Self::GLOBAL;
        }
        Cached(data)
    }

    /// The page's first byte.
    #[must_use]
    pub const fn page(self) -> PhysAddr {
        PhysAddr::new(self.0 >> PAGE_SHIFT << PAGE_SHIFT)
    }

    /// Stores are allowed.
    #[must_use]
    pub const fn writable(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    /// User mode is allowed.
    #[must_use]
    pub const fn user(self) -> bool {
        self.0 & Self::USER != 0
    }

    /// Instruction fetches are allowed.
    #[must_use]
    pub const fn executable(self) -> bool {
        self.0 & Self::EXEC != 0
    }

    /// The entry's dirty bit is known to be set.
    #[must_use]
    pub const fn dirty(self) -> bool {
        self.0 & Self::DIRTY != 0
    }

    pub(super) const fn global(self) -> bool {
        self.0 & Self::GLOBAL != 0
    }

    /// The frame of the byte at `va`, the page being one of `level`.
    #[inline]
    pub(super) fn target(self, va: VirtAddr, span: u64) -> PhysAddr {
        PhysAddr::new(self.page().raw() | va.raw() & (span - 1))
    }

    /// The frame of its first byte.
    #[must_use]
    pub const fn frame(self) -> FrameNumber {
        FrameNumber::new((self.0 >> PAGE_SHIFT) as u32)
    }
}

/// What a lookup found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlbHit {
    /// The translation.
    pub cached: Cached,
    /// The level of its entry, above 0 for a huge page.
    pub level: usize,
    /// Whether the first level had it.
    pub first: bool,
}

/// Counters of a TLB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TlbCounts {
    /// Lookups that the first level answered, by level of the page (0 is an ordinary one).
    pub first: [u64; 3],
    /// Lookups that the second level answered.
    pub second: [u64; 3],
    /// Lookups that neither answered.
    pub misses: u64,
    /// Times that everything but global pages was dropped.
    pub flushes: u64,
    /// Single pages dropped because their entry changed.
    pub shootdowns: u64,
}

impl TlbCounts {
    /// All lookups.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.hits() + self.misses
    }

    /// Lookups that either level answered.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.first.iter().chain(&self.second).sum()
    }
}

#[derive(Debug)]
struct Bank<'m> {
    shape: Shape,
    lines: &'m mut [TlbLine],
}

impl Bank<'_> {
    #[inline]
    fn set(&mut self, number: u64) -> &mut [TlbLine] {
        let Shape { sets, ways } = self.shape;
        let set = if sets.is_power_of_two() {
            number as usize & (sets - 1)
        } else if sets == 0 {
            return &mut [];
        } else {
            (number % sets as u64) as usize
        };
        &mut self.lines[set * ways..(set + 1) * ways]
    }

    /// Looks through the whole set without a branch for each way: which way hits is a branch
    /// that no processor can predict.
    #[inline]
    fn find_of<const WAYS: usize>(set: &[TlbLine; WAYS], tag: u64) -> usize {
        let mut found = usize::MAX;
        for (way, line) in set.iter().enumerate() {
            if line.tag == tag {
                found = way;
            }
        }
        found
    }

    #[inline]
    fn find(&mut self, number: u64, tag: u64, clock: u64) -> Option<Cached> {
        let set = self.set(number);
        let way = if let Ok(set) = <&[TlbLine; 4]>::try_from(&*set) {
            Self::find_of(set, tag)
        } else if let Ok(set) = <&[TlbLine; 12]>::try_from(&*set) {
            Self::find_of(set, tag)
        } else {
            set.iter()
                .position(|line| line.tag == tag)
                .unwrap_or(usize::MAX)
        };
        let line = set.get_mut(way)?;
        line.stamp = clock;
        Some(Cached(line.data))
    }

    /// In the place of the same tag, of an empty line, or of the least recently used.
    #[inline]
    fn put(&mut self, number: u64, line: TlbLine) {
        let set = self.set(number);
        let mut place = 0;
        let mut oldest = u64::MAX;
        for (way, old) in set.iter().enumerate() {
            if old.tag == line.tag {
                place = way;
                break;
            }
            if old.stamp < oldest {
                oldest = old.stamp;
                place = way;
            }
        }
        if let Some(old) = set.get_mut(place) {
            *old = line;
        }
    }

    fn drop_tag(&mut self, number: u64, tag: u64) {
        for line in self.set(number) {
            if line.tag == tag {
                *line = TlbLine::EMPTY;
            }
        }
    }
}

/// A TLB of two levels.
#[derive(Debug)]
pub struct Tlb<'m> {
    first: Bank<'m>,
    second: Bank<'m>,
    /// A bit for each level of which there may be a page.
    sizes: u32,
    clock: u64,
    /// What it did.
    pub counts: TlbCounts,
}

impl<'m> Tlb<'m> {
    /// An empty TLB.
    ///
    /// # Panics
    /// If `lines` are fewer than both shapes need.
    #[must_use]
    pub fn new(lines: &'m mut [TlbLine], first: Shape, second: Shape) -> Tlb<'m> {
        assert!(
            lines.len() >= first.lines() + second.lines(),
            "a TLB of {} lines needs as many",
            first.lines() + second.lines()
        );
        lines.fill(TlbLine::EMPTY);
        let (one, rest) = lines.split_at_mut(first.lines());
        let (two, _) = rest.split_at_mut(second.lines());
        Tlb {
            first: Bank {
                shape: first,
                lines: one,
            },
            second: Bank {
                shape: second,
                lines: two,
            },
            sizes: 1,
            clock: 0,
            counts: TlbCounts::default(),
        }
    }

    #[inline]
    fn tag<G: Geometry>(va: VirtAddr, asid: Asid, level: usize) -> (u64, u64) {
        let unused = 64 - G::VA_BITS;
        let number = (va.raw() << unused >> unused) >> G::shift(level);
        let tag = VALID
            | (level as u64) << LEVEL_SHIFT
            | u64::from(asid.raw()) << ASID_SHIFT
            | number & NUMBER;
        (number, tag)
    }

    /// Looks `va` up and counts it.
    #[inline]
    pub fn lookup<G: Geometry>(&mut self, va: VirtAddr, asid: Asid) -> Option<TlbHit> {
        self.clock += 1;
        let hit = self.find::<G>(va, asid);
        match hit {
            Some(hit) if hit.first => self.counts.first[hit.level.min(2)] += 1,
            Some(hit) => self.counts.second[hit.level.min(2)] += 1,
            None => self.counts.misses += 1,
        }
        hit
    }

    #[inline]
    fn find<G: Geometry>(&mut self, va: VirtAddr, asid: Asid) -> Option<TlbHit> {
        // Kernel addresses are looked up as global ones: Linux maps them all so.
        let asid = Self::asid_for::<G>(va, asid);
        let (number, tag) = Self::tag::<G>(va, asid, 0);
        if let Some(cached) = self.first.find(number, tag, self.clock) {
            return Some(TlbHit {
                cached,
                level: 0,
                first: true,
            });
        }
        if self.sizes == 1 {
            let cached = self.second.find(number, tag, self.clock)?;
            return Some(self.promote(number, tag, cached, 0));
        }
        self.find_huge::<G>(va, asid)
    }

    #[inline(never)]
    fn find_huge<G: Geometry>(&mut self, va: VirtAddr, asid: Asid) -> Option<TlbHit> {
        for level in 1..G::LEVELS.min(MAX_LEVELS) {
            if self.sizes >> level & 1 != 0 {
                let (number, tag) = Self::tag::<G>(va, asid, level);
                if let Some(cached) = self.first.find(number, tag, self.clock) {
                    return Some(TlbHit {
                        cached,
                        level,
                        first: true,
                    });
                }
            }
        }
        for level in 0..G::LEVELS.min(MAX_LEVELS) {
            if self.sizes >> level & 1 != 0 {
                let (number, tag) = Self::tag::<G>(va, asid, level);
                if let Some(cached) = self.second.find(number, tag, self.clock) {
                    return Some(self.promote(number, tag, cached, level));
                }
            }
        }
        None
    }

    #[inline]
    fn promote(&mut self, number: u64, tag: u64, cached: Cached, level: usize) -> TlbHit {
        let line = TlbLine {
            tag,
            data: cached.0,
            stamp: self.clock,
        };
        self.first.put(number, line);
        TlbHit {
            cached,
            level,
            first: false,
        }
    }

    pub(super) fn asid_for<G: Geometry>(va: VirtAddr, asid: Asid) -> Asid {
        if va.raw() >= G::USER_END {
            GLOBAL
        } else {
            asid
        }
    }

    /// As a lookup of the page that was looked up last, which hits in the first level and
    /// changes no order.
    #[inline]
    pub(super) fn again(&mut self, level: usize) {
        self.counts.first[level.min(2)] += 1;
    }

    /// Keeps a translation, in both levels.
    #[inline]
    pub fn fill<G: Geometry>(&mut self, va: VirtAddr, asid: Asid, level: usize, cached: Cached) {
        let asid = Self::asid_for::<G>(va, asid);
        let (number, tag) = Self::tag::<G>(va, asid, level);
        self.sizes |= 1 << level;
        let line = TlbLine {
            tag,
            data: cached.0,
            stamp: self.clock,
        };
        self.first.put(number, line);
        self.second.put(number, line);
    }

    /// Drops the translation of one page, of every size.
    pub fn drop_page<G: Geometry>(&mut self, va: VirtAddr, asid: Asid) {
        let asid = Self::asid_for::<G>(va, asid);
        for level in 0..G::LEVELS {
            if self.sizes >> level & 1 != 0 {
                let (number, tag) = Self::tag::<G>(va, asid, level);
                self.first.drop_tag(number, tag);
                self.second.drop_tag(number, tag);
            }
        }
    }

    /// Drops everything but global pages, or all of it.
    pub fn flush(&mut self, global: bool) {
        self.counts.flushes += 1;
        for line in self.lines_mut() {
            if global || !Cached(line.data).global() {
                *line = TlbLine::EMPTY;
            }
        }
        if global {
            self.sizes = 1;
        }
    }

    /// Drops what belongs to one space.
    pub fn flush_space(&mut self, asid: Asid) {
        self.counts.flushes += 1;
        for line in self.lines_mut() {
            if (line.tag >> ASID_SHIFT) as u16 == asid.raw() {
                *line = TlbLine::EMPTY;
            }
        }
    }

    fn lines_mut(&mut self) -> impl Iterator<Item = &mut TlbLine> {
        self.first
            .lines
            .iter_mut()
            .chain(self.second.lines.iter_mut())
    }

    /// Whether there is a first level at all.
    #[inline]
    pub(super) fn has_first(&self) -> bool {
        self.first.shape.lines() > 0
    }

    /// Every line, for the checker.
    pub(super) fn lines(&self) -> impl Iterator<Item = &TlbLine> {
        self.first.lines.iter().chain(self.second.lines.iter())
    }
}
