//! The checker: walks every segment, bin and stack and compares them with each other.
//!
//! [`Heap::check`] changes nothing and returns the first damage that it finds, by invariant
//! (I1 to I12 in [`super`]). The same walk tells where a stray pointer lies.

use super::{Heap, Totals};
use crate::bins::{BINS, FIRST_LARGE, UNSORTED, bin_index};
use crate::chunk::{Chunk, DIRT_MIN, Link, Stack, State, Through};
use crate::os::{Os, PageState, Region};
use crate::size::{ALIGN, FAST_BINS, HEADER, MAX_CHUNK, MIN_CHUNK, Native, align_down, align_up};

/// Where a free chunk waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the fast bin of this index.
    Fast(usize),
    /// In the unsorted bin.
    Unsorted,
    /// In the small or large bin of this number.
    Bin(usize),
    /// It is top.
    Top,
    /// In no list of this heap.
    Nowhere,
}

/// A broken invariant and the payload address of the chunk where it showed (0 if none).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub invariant: Invariant,
    /// Where.
    pub address: usize,
}

/// The invariants of a heap, as [`super`] numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// I1: chunks cover each segment.
    Coverage = 1,
    /// I2: tags are genuine.
    Tag = 2,
    /// I3: `PREV_INUSE` and `prev_size` agree with the chunk before.
    Boundary = 3,
    /// I4: free neighbours are merged.
    Merged = 4,
    /// I5: each binned chunk is in its bin, once, linked both ways.
    Binned = 5,
    /// I6: large bins are sorted.
    Sorted = 6,
    /// I7: the map names the bins that are filled.
    Map = 7,
    /// I8: fast bins hold fast chunks of their size.
    Fast = 8,
    /// I9: top is what the heap says.
    Top = 9,
    /// I10: the states of pages agree.
    Pages = 10,
    /// I11: the counters agree.
    Counters = 11,
    /// I12: the segments are in the map of extents.
    Extents = 12,
}

impl Invariant {
    /// Every invariant.
    pub const ALL: [Invariant; 12] = [
        Invariant::Coverage,
        Invariant::Tag,
        Invariant::Boundary,
        Invariant::Merged,
        Invariant::Binned,
        Invariant::Sorted,
        Invariant::Map,
        Invariant::Fast,
        Invariant::Top,
        Invariant::Pages,
        Invariant::Counters,
        Invariant::Extents,
    ];
}

const fn damage(invariant: Invariant, address: usize) -> Damage {
    Damage { invariant, address }
}

/// What a walk over the segments adds up.
#[derive(Default)]
struct Sums {
    used: usize,
    fast: Totals,
    binned: Totals,
    dirty: usize,
}

/// What lies at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A chunk of this size begins with this payload address, in this state if its head is
    /// genuine.
    Chunk(usize, Option<State>),
    /// The address is this many bytes into the payload of a chunk of this size.
    Inside(usize, usize),
    /// On the way to it lies a chunk, with this payload address, whose head is not genuine.
    Damage(usize),
    /// It is in no chunk that can be found.
    Nothing,
}

impl<O: Os + 'static> Heap<O> {
    /// Checks every invariant. Takes time in proportion to the heap.
    ///
    /// # Errors
    /// The first damage found.
    pub fn check(&self) -> Result<(), Damage> {
        let mut sums = Sums::default();
        for segment in self.segments() {
            self.check_segment(segment.start, segment.end, &mut sums)?;
        }
        self.check_top()?;
        let fast = self.check_fast(sums.fast.chunks)?;
        let binned = self.check_bins()?;
        let counters = &self.counters;
        let segments = self.segments().iter().map(|s| s.end - s.start);
        if fast != sums.fast || fast.bytes as usize != self.fast_bytes {
            return Err(damage(Invariant::Fast, 0));
        }
        if binned != sums.binned {
            return Err(damage(Invariant::Binned, 0));
        }
        if sums.used != counters.used_bytes
            || binned.bytes as usize != counters.binned_bytes
            || sums.dirty != counters.dirty_bytes
            || segments.sum::<usize>() != counters.system_bytes
            || counters.break_bytes + counters.segment_bytes != counters.system_bytes
        {
            return Err(damage(Invariant::Counters, 0));
        }
        Ok(())
    }

    /// The state that a chunk's head is genuine for. The states whose tags cover a link come
    /// last, and only where there is room for one: behind a fencepost memory may end.
    fn state_of(&self, chunk: Chunk<'static, O::Region>, end: usize) -> Option<State> {
        let has_link = end - chunk.addr() >= MIN_CHUNK;
        let [plain, sealed] = [false, true].map(|seals| {
            let states = State::ALL.into_iter();
            states.filter(move |state| state.seals_link() == seals)
        });
        plain
            .chain(sealed.filter(|_| has_link))
            .find(|state| chunk.is(*state))
    }

    fn check_segment(&self, start: usize, end: usize, sums: &mut Sums) -> Result<(), Damage> {
        let mut addr = start;
        // The chunk before: in a bin?
        let mut before: Option<usize> = None;
        loop {
            if !self.keys.extents.holds(addr + HEADER) && addr + HEADER < end {
                return Err(damage(Invariant::Extents, addr + HEADER));
            }
            if self.keys.extents.owner(addr) != self.owner {
                return Err(damage(Invariant::Extents, addr + HEADER));
            }
            let chunk = self.chunk(addr);
            let payload = chunk.payload();
            let Some(state) = self.state_of(chunk, end) else {
                let what = if addr == self.top {
                    Invariant::Top
                } else {
                    Invariant::Tag
                };
                return Err(damage(what, payload));
            };
            if chunk.low().in_arena() != (self.owner != 0) {
                return Err(damage(Invariant::Tag, payload));
            }
            match before {
                Some(size) if chunk.low().prev_in_use() || chunk.prev_size() != size => {
                    return Err(damage(Invariant::Boundary, payload));
                }
                None if !chunk.low().prev_in_use() => {
                    return Err(damage(Invariant::Boundary, payload));
                }
                _ => {}
            }
            let size = chunk.size();
            let is_free = matches!(state, State::Binned | State::Unsorted);
            if let Some(length) = before
                && (is_free && length + size <= MAX_CHUNK
                    || state == State::Top && length + self.top_size <= MAX_CHUNK)
            {
                return Err(damage(Invariant::Merged, payload));
            }
            match state {
                State::Top => {
                    return if addr == self.top {
                        Ok(()) // `check_top` looks closer.
                    } else {
                        Err(damage(Invariant::Coverage, payload))
                    };
                }
                State::Fence => {
                    return if end - addr < HEADER + MIN_CHUNK {
                        Ok(())
                    } else {
                        Err(damage(Invariant::Coverage, payload))
                    };
                }
                State::Retired => return Err(damage(Invariant::Coverage, payload)),
                State::Used | State::Cached => sums.used += size,
                State::Fast => sums.fast.add(size),
                State::Binned | State::Unsorted => {
                    sums.binned.add(size);
                    if size >= DIRT_MIN {
                        sums.dirty += chunk.dirt().1;
                    }
                }
            }
            if size < MIN_CHUNK || !size.is_multiple_of(ALIGN) || addr + size >= end {
                return Err(damage(Invariant::Coverage, payload));
            }
            self.check_chunk_pages(addr, size, is_free)?;
            before = is_free.then_some(size);
            addr += size;
        }
    }

    fn check_top(&self) -> Result<(), Damage> {
        if self.top == 0 {
            return Ok(());
        }
        let end = self.segments().last().map_or(0, |s| s.end);
        let top = self.chunk(self.top);
        if self.top + self.top_size != end || self.top_size < MIN_CHUNK || !top.is(State::Top) {
            return Err(damage(Invariant::Top, top.payload()));
        }
        let (first, last) = self.interior(self.top, end);
        let used = |state| matches!(state, PageState::Live | PageState::Unknown);
        let head = align_down(self.top, self.os.page_size());
        self.check_pages(head, first.min(end), used)?;
        self.check_pages(first, last, PageState::is_free)?;
        let (zero, zero_end) = self.os.zero_run(first, last);
        self.check_zero(zero, zero_end)
    }

    /// The pages of `from..to` are in states that `allowed` accepts.
    fn check_pages(
        &self,
        from: usize,
        to: usize,
        allowed: impl Fn(PageState) -> bool,
    ) -> Result<(), Damage> {
        let mut at = from;
        while at < to {
            let (state, end) = self.os.run(at, to);
            if !allowed(state) {
                return Err(damage(Invariant::Pages, at));
            }
            at = end;
        }
        Ok(())
    }

    /// A look at a few words of each page; the whole would fault it all in.
    fn check_zero(&self, from: usize, to: usize) -> Result<(), Damage> {
        for addr in (from..to.min(from + (64 << 10))).step_by(256) {
            let word: *const u64 = self.keys.region.at(addr).cast();
            // SAFETY: the address lies in a free chunk or top, which the heap owns (I1, I9).
            #[allow(unsafe_code)]
            if unsafe { word.read_unaligned() } != 0 {
                return Err(damage(Invariant::Pages, addr));
            }
        }
        Ok(())
    }

    /// The pages of a chunk in use, or of a free one, from the end of what was checked before.
    fn check_chunk_pages(&self, addr: usize, size: usize, is_free: bool) -> Result<(), Damage> {
        let page = self.os.page_size();
        let (first, last) = if is_free {
            self.interior(addr, addr + size)
        } else {
            (addr, addr)
        };
        if first < last {
            self.check_pages(first, last, PageState::is_free)?;
            let (zero, zero_end) = self.os.zero_run(first, last);
            self.check_zero(zero, zero_end)?;
        }
        let used = |state| matches!(state, PageState::Live | PageState::Unknown);
        let (head, tail) = if first < last {
            (first, last)
        } else {
            (addr + size, addr + size)
        };
        self.check_pages(align_down(addr, page), align_up(head, page), used)?;
        self.check_pages(tail, align_up(addr + size, page), used)
    }

    /// `expected`: how many fast chunks the walk met; a ring of them would never end.
    fn check_fast(&self, expected: u64) -> Result<Totals, Damage> {
        let mut totals = Totals::default();
        for (index, fast) in self.fast.iter().enumerate() {
            let mut rest: Stack = *fast;
            while let Some(chunk) = rest.peek(self.keys) {
                let size = chunk.size();
                let home = Native::fast_index(size) == index;
                if !chunk.is(State::Fast) || !home || totals.chunks == expected {
                    return Err(damage(Invariant::Fast, chunk.payload()));
                }
                totals.add(size);
                rest = rest.rest(self.keys);
            }
        }
        debug_assert!(self.fast.len() == FAST_BINS);
        Ok(totals)
    }

    fn check_bins(&self) -> Result<Totals, Damage> {
        let mut totals = Totals::default();
        for index in UNSORTED..BINS {
            let list = self.bins.list(index);
            if index != UNSORTED && self.bins.is_mapped(index) == list.is_empty() {
                return Err(damage(Invariant::Map, 0));
            }
            let mut before: Option<Chunk<'static, O::Region>> = None;
            for chunk in list.iter(Through::Bin, self.keys) {
                let payload = chunk.payload();
                let size = chunk.size();
                let (state, home) = if index == UNSORTED {
                    (State::Unsorted, true)
                } else {
                    (State::Binned, bin_index(size) == index)
                };
                let linked_back = chunk.link(Link::Bk) == before.map_or(0, Chunk::addr);
                if !chunk.is(state) || !home || !linked_back {
                    return Err(damage(Invariant::Binned, payload));
                }
                if index >= FIRST_LARGE && before.is_some_and(|b| b.size() < size) {
                    return Err(damage(Invariant::Sorted, payload));
                }
                totals.add(size);
                before = Some(chunk);
            }
            if list.last(self.keys) != before || before.is_some_and(|b| b.link(Link::Fd) != 0) {
                return Err(damage(Invariant::Binned, 0));
            }
            if index >= FIRST_LARGE {
                self.check_sizes(index)?;
            }
        }
        Ok(totals)
    }

    /// The size list holds the first chunk of each size, in order.
    fn check_sizes(&self, index: usize) -> Result<(), Damage> {
        let mut sizes = self.bins.size_list(index).iter(Through::Sizes, self.keys);
        let mut leader: Option<Chunk<'static, O::Region>> = None;
        for chunk in self.bins.list(index).iter(Through::Bin, self.keys) {
            if leader.is_some_and(|l| l.size() == chunk.size()) {
                continue;
            }
            let linked_back = chunk.link(Link::BkSize) == leader.map_or(0, Chunk::addr);
            if sizes.next() != Some(chunk) || !linked_back {
                return Err(damage(Invariant::Sorted, chunk.payload()));
            }
            leader = Some(chunk);
        }
        match leader {
            Some(last) if last.link(Link::FdSize) != 0 => {
                Err(damage(Invariant::Sorted, last.payload()))
            }
            _ if self.bins.size_list(index).last(self.keys) != leader => {
                Err(damage(Invariant::Sorted, 0))
            }
            _ => Ok(()),
        }
    }

    /// Where `payload` points, found by walking the segment that contains it. Believes only
    /// genuine heads.
    #[must_use]
    pub fn locate(&self, payload: usize) -> Found {
        let Some(segment) = self
            .segments()
            .iter()
            .find(|s| s.start <= payload && payload < s.end)
        else {
            return Found::Nothing;
        };
        let mut addr = segment.start;
        while addr + HEADER <= payload {
            let chunk = self.chunk(addr);
            let state = self.state_of(chunk, segment.end);
            if chunk.payload() == payload {
                return Found::Chunk(chunk.size(), state);
            }
            let size = match state {
                Some(State::Top) => return Found::Inside(payload - addr - HEADER, self.top_size),
                Some(State::Fence) => return Found::Nothing,
                Some(State::Retired) | None => return Found::Damage(chunk.payload()),
                Some(_) => chunk.size(),
            };
            if payload < addr + size + HEADER {
                return Found::Inside(payload - addr - HEADER, size);
            }
            addr += size;
        }
        Found::Nothing
    }
}
