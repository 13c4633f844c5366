//! The account of pages against the kernel's own word: `/proc/self/maps`, `pagemap`, `smaps` and
//! mincore(2), page for page.
//!
//! | | what must hold |
//! |---|---|
//! | I1 | what is ours lies in areas with the same rights |
//! | I2 | no page that is fresh, released, reserved or a guard is resident |
//! | I3 | pages that we wrote to are resident or swapped |
//! | I4 | a page is a guard by our account if it is by pagemap's, or has no access |
//! | I5 | the pages of heaps and mappings add up to those of the account (not in a child of fork) |
//! | I6 | resident memory of areas that are all ours lies between what we wrote and what may be |
//!
//! (I7, page tables, is for others. Kernels before 6.15 do not tell guards.) Nothing here allocates: files are read with
//! system calls into the stack. Threads may go on meanwhile; what contradicts is looked at again
//! until it agrees or has not changed for a while. Where the kernel makes huge pages unasked, I2
//! cannot be told and is left out; memory that the program itself locked, protected, advised or
//! unmapped behind our back is what an audit is to find.
#![allow(unsafe_code)] // System calls.

use super::call::system_call;
use super::lines::{BUFFER, File, Lines};
use super::{Ledger, Os, OsError, PageState, Prot, yield_now};
use crate::mmu::addr::Rights;
use crate::mmu::listing;

/// How the account and the kernel contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contradiction {
    /// I1: nothing is mapped there.
    Unmapped,
    /// I1: the area has other rights.
    Rights,
    /// I2: the page is resident (or swapped), by pagemap.
    Resident,
    /// I2: the page is resident, by mincore.
    InCore,
    /// I3: the page is neither resident nor swapped.
    Absent,
    /// I4: the page is no guard.
    NoGuard,
    /// I4: the page is a guard.
    Guard,
    /// I5: the sums differ.
    Sum,
    /// I6: more is resident than may be, or less than must.
    Rss,
}

impl Contradiction {
    /// A few words for people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Contradiction::Unmapped => "is not mapped",
            Contradiction::Rights => "has other rights",
            Contradiction::Resident => "is resident",
            Contradiction::InCore => "is in core",
            Contradiction::Absent => "was written to and is not resident",
            Contradiction::NoGuard => "is no guard",
            Contradiction::Guard => "is a guard",
            Contradiction::Sum => "does not add up",
            Contradiction::Rss => "is resident by another amount",
        }
    }
}

/// A contradiction, where it was found, and what the account says of the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// An address.
    pub addr: usize,
    /// The state of its page.
    pub state: PageState,
    /// What is wrong.
    pub what: Contradiction,
}

/// What an audit looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audit {
    /// Pages of each state, in the order of [`PageState::ALL`].
    pub pages: [usize; PageState::ALL.len()],
    /// Pages of ours that are resident; of large reservations only the ends were looked at.
    pub resident: usize,
    /// Contradictions found.
    pub findings: usize,
    /// Whether I2 was left out because the kernel makes huge pages unasked.
    pub huge_pages: bool,
}

/// Pages looked at with one system call.
const WINDOW: usize = 256;
/// Of a reservation longer than this many pages only as much is looked at, at each end.
const RESERVED_LOOK: usize = 4 * WINDOW;
/// How often a contradiction is looked at again.
const PATIENCE: u32 = 200;

#[derive(Clone, Copy)]
struct Area {
    start: usize,
    end: usize,
    rights: Rights,
}

impl Area {
    fn of(line: &listing::Line<'_>) -> Area {
        Area {
            start: line.start as usize,
            end: line.end as usize,
            rights: line.rights,
        }
    }
}

/// The next area with some of it behind `addr`.
fn next_area(lines: &mut Lines<'_>, addr: usize) -> Option<Area> {
    loop {
        let found = lines.next(|line| {
            let line = listing::Line::parse(line).ok()?;
            Some(Area::of(&line))
        })?;
        if let Some(area) = found.filter(|area| area.end > addr) {
            return Some(area);
        }
    }
}

/// The kernel's view of single pages.
struct Pagemap {
    file: File,
    window: [u64; WINDOW],
    first: usize,
    count: usize,
    page: usize,
    /// Whether guards can be told.
    tells_guards: bool,
}

/// The bit of a guard in pagemap.
const GUARD_BIT: u64 = 1 << 58;

impl Pagemap {
    fn open(page: usize) -> Result<Pagemap, OsError> {
        Ok(Pagemap {
            file: File::open(c"/proc/self/pagemap")?,
            window: [0; WINDOW],
            first: 0,
            count: 0,
            page,
            tells_guards: false,
        })
    }

    /// Finds out whether guards can be told, with a page of its own.
    fn learn_guards<O: Os>(&mut self, os: &O) {
        let Ok(addr) = os.map(0, self.page, Prot::ReadWrite) else {
            return;
        };
        // SAFETY: a page of our own.
        unsafe {
            if os.guard(addr, self.page).is_ok() {
                self.count = 0;
                self.tells_guards = self.entry(addr) & GUARD_BIT != 0;
            }
            let _ = os.unmap(addr, self.page);
        }
        self.count = 0;
    }

    /// The number of the page at an address. (The page size is a power of two.)
    fn number(&self, addr: usize) -> usize {
        addr >> self.page.trailing_zeros()
    }

    /// Whether the page at `addr` is resident or swapped, as of the last look at its window. A
    /// guard looks swapped.
    fn has(&mut self, addr: usize) -> bool {
        let entry = self.entry(addr);
        entry >> 62 != 0 && entry & GUARD_BIT == 0
    }

    /// As [`is_guard`](Pagemap::is_guard), now.
    fn is_guard_now(&mut self, addr: usize) -> bool {
        self.count = 0;
        self.is_guard(addr)
    }

    fn is_guard(&mut self, addr: usize) -> bool {
        self.entry(addr) & GUARD_BIT != 0
    }

    fn entry(&mut self, addr: usize) -> u64 {
        let number = self.number(addr);
        if number < self.first || number >= self.first + self.count {
            self.first = number;
            self.count = self.file.words(&mut self.window, number);
        }
        self.window.get(number - self.first).copied().unwrap_or(0)
    }

    /// As [`has`](Pagemap::has), now.
    fn has_now(&mut self, addr: usize) -> bool {
        self.count = 0;
        self.has(addr)
    }
}

/// What mincore says of up to [`WINDOW`] pages; `None` if it refuses.
fn in_core(addr: usize, pages: usize, page: usize) -> Option<[u8; WINDOW]> {
    let mut core = [0; WINDOW];
    let pages = pages.min(WINDOW);
    let to = core.as_mut_ptr().expose_provenance();
    // SAFETY: the vector has a byte for each page.
    unsafe { system_call(libc::SYS_mincore, [addr, pages * page, to, 0, 0, 0]) }.ok()?;
    Some(core)
}

/// Whether pages in this state may have these rights. Guards need none to be guards.
fn may_have(state: PageState, rights: Rights) -> bool {
    rights == Rights::READ_WRITE && (state.is_accessible() || state == PageState::Guard)
        || rights == Rights::NONE && !state.is_accessible()
}

/// The pages in this state must not be resident.
const fn must_be_absent(state: PageState) -> bool {
    matches!(
        state,
        PageState::Fresh | PageState::Released | PageState::Reserved | PageState::Guard
    )
}

fn makes_huge_pages() -> bool {
    Lines::open(c"/sys/kernel/mm/transparent_hugepage/enabled", &mut [0; 64])
        .ok()
        .and_then(|mut lines| lines.next(|line| line.starts_with(b"[always]")))
        .unwrap_or(false)
}

/// An audit under way.
struct Auditor<'l, O, F> {
    ledger: &'l Ledger<O>,
    found: F,
    audit: Audit,
    pagemap: Pagemap,
    page: usize,
}

/// Compares the whole account with the kernel. `written` visits addresses in pages that we wrote
/// to, in ascending order; `expected` says how many bytes of accessible memory (not our own
/// records) there must be, `None` if nobody knows. `found` is told each contradiction.
///
/// # Errors
/// If the files in `/proc` cannot be read.
pub fn audit<O: Os>(
    ledger: &Ledger<O>,
    written: impl FnOnce(&mut dyn FnMut(usize)),
    expected: impl Fn() -> Option<usize>,
    found: impl FnMut(Finding),
) -> Result<Audit, OsError> {
    let page = ledger.page_size();
    let mut auditor = Auditor {
        ledger,
        found,
        audit: Audit {
            huge_pages: makes_huge_pages(),
            ..Audit::default()
        },
        pagemap: Pagemap::open(page)?,
        page,
    };
    // Not by way of the account: where a page of ours was unmapped behind our back, this one may lie.
    auditor.pagemap.learn_guards(ledger.inner());
    auditor.areas_and_residency()?;
    let mut last = usize::MAX;
    let mut lower = 0;
    written(&mut |addr| {
        let number = auditor.pagemap.number(addr);
        if number != last {
            last = number;
            lower += page;
            auditor.must_be_there(addr);
        }
    });
    auditor.sums(&expected);
    auditor.resident_sizes(lower)?;
    Ok(auditor.audit)
}

impl<O: Os, F: FnMut(Finding)> Auditor<'_, O, F> {
    fn report(&mut self, addr: usize, what: Contradiction) {
        self.audit.findings += 1;
        let state = self.ledger.state(addr);
        (self.found)(Finding { addr, state, what });
    }

    /// Whether the page stays in `state` although `wrong` holds of it again and again.
    fn persists(
        &mut self,
        addr: usize,
        state: PageState,
        wrong: impl Fn(&mut Self) -> bool,
    ) -> bool {
        for _ in 0..PATIENCE {
            yield_now();
            if self.ledger.state(addr) != state || !wrong(self) {
                return false;
            }
        }
        true
    }

    /// I1 and I2.
    fn areas_and_residency(&mut self) -> Result<(), OsError> {
        let mut buffer = [0; BUFFER];
        let mut lines = Lines::open(c"/proc/self/maps", &mut buffer)?;
        let mut area = next_area(&mut lines, 0);
        let ledger = self.ledger;
        ledger.each(|from, to, state| {
            if let Some(count) = self.audit.pages.get_mut(state as usize) {
                *count += self.pagemap.number(to - from);
            }
            // Where the record had no memory, pages of nobody's are unknown too.
            let mut at = if state == PageState::Unknown {
                to
            } else {
                from
            };
            while at < to {
                while area.is_some_and(|area| area.end <= at) {
                    area = next_area(&mut lines, at);
                }
                let (what, next) = judge(area, at, state);
                if let Some(what) = what
                    && self.persists(at, state, |_| {
                        let mut buffer = [0; BUFFER];
                        let seen = Lines::open(c"/proc/self/maps", &mut buffer).ok();
                        let seen = seen.and_then(|mut lines| next_area(&mut lines, at));
                        judge(seen, at, state).0 == Some(what)
                    })
                {
                    self.report(at, what);
                }
                if what.is_none() && state != PageState::Unknown {
                    let accessible = area.is_some_and(|area| area.rights != Rights::NONE);
                    self.guards(at, next.min(to), state, accessible);
                }
                at = next.max(at + self.page).min(to);
            }
            self.residency(from, to, state);
        });
        Ok(())
    }

    /// I4, of pages in one area.
    fn guards(&mut self, from: usize, to: usize, state: PageState, accessible: bool) {
        if !self.pagemap.tells_guards || !accessible {
            return;
        }
        let expected = state == PageState::Guard;
        for turn in 0..self.pagemap.number(to - from) {
            let addr = from + turn * self.page;
            let wrong = |this: &mut Self| this.pagemap.is_guard_now(addr) != expected;
            if self.pagemap.is_guard(addr) != expected && self.persists(addr, state, wrong) {
                self.report(
                    addr,
                    if expected {
                        Contradiction::NoGuard
                    } else {
                        Contradiction::Guard
                    },
                );
            }
        }
    }

    fn residency(&mut self, from: usize, to: usize, state: PageState) {
        let look = RESERVED_LOOK * self.page;
        if state == PageState::Reserved && to - from > 2 * look {
            self.residency_of(from, from + look, state);
            self.residency_of(to - look, to, state);
        } else {
            self.residency_of(from, to, state);
        }
    }

    fn residency_of(&mut self, from: usize, to: usize, state: PageState) {
        let absent = must_be_absent(state) && !self.audit.huge_pages;
        let mut core = None;
        let pages = self.pagemap.number(to - from);
        for turn in 0..pages {
            let addr = from + turn * self.page;
            let has = self.pagemap.has(addr);
            self.audit.resident += usize::from(has);
            if !absent {
                continue;
            }
            if has && self.persists(addr, state, |this| this.pagemap.has_now(addr)) {
                self.report(addr, Contradiction::Resident);
            }
            if turn % WINDOW == 0 {
                core = in_core(addr, pages - turn, self.page);
            }
            let page = self.page;
            let in_core_now =
                |_: &mut Self| in_core(addr, 1, page).is_some_and(|core| core[0] & 1 != 0);
            let seen = core.and_then(|core| core.get(turn % WINDOW).copied());
            if seen.is_some_and(|byte| byte & 1 != 0) && self.persists(addr, state, in_core_now) {
                self.report(addr, Contradiction::InCore);
            }
        }
    }

    /// I3.
    fn must_be_there(&mut self, addr: usize) {
        if !self.pagemap.has(addr) {
            let state = self.ledger.state(addr);
            if self.persists(addr, state, |this| !this.pagemap.has_now(addr)) {
                self.report(addr, Contradiction::Absent);
            }
        }
    }

    /// I5.
    fn sums(&mut self, expected: &impl Fn() -> Option<usize>) {
        for _ in 0..PATIENCE {
            let mut bytes = 0;
            let mut exact = true;
            self.ledger.each(|from, to, state| {
                exact &= state != PageState::Unknown;
                if state.is_accessible() && state != PageState::Meta {
                    bytes += to - from;
                }
            });
            if !exact || expected().is_none_or(|expected| expected == bytes) {
                return;
            }
            yield_now();
        }
        self.report(0, Contradiction::Sum);
    }

    /// I6, for areas that are ours from end to end, and in all.
    fn resident_sizes(&mut self, lower: usize) -> Result<(), OsError> {
        let mut buffer = [0; BUFFER];
        let mut lines = Lines::open(c"/proc/self/smaps", &mut buffer)?;
        let mut current: Option<(Area, listing::Sizes)> = None;
        let mut sum = 0;
        loop {
            let read = lines.next(|line| match listing::Line::parse(line) {
                Ok(line) => Some(Area::of(&line)),
                Err(_) => {
                    if let Some((_, sizes)) = &mut current {
                        let _ = sizes.read(line);
                    }
                    None
                }
            });
            let ended = match read {
                Some(None) => continue,
                Some(Some(next)) => current.replace((next, listing::Sizes::default())),
                None => current.take(),
            };
            if let Some((area, sizes)) = ended {
                sum += self.resident_size(area, &sizes);
            }
            if read.is_none() {
                break;
            }
        }
        if sum < lower {
            self.report(0, Contradiction::Rss);
        }
        Ok(())
    }

    /// Judges one area. Returns how much of what we may have written to is in it: what was swapped
    /// out counts too.
    fn resident_size(&mut self, area: Area, sizes: &listing::Sizes) -> usize {
        let known = |state| state != PageState::None;
        let known = self.ledger.count(area.start, area.end, known);
        if known == 0 {
            return 0;
        }
        let rss = (sizes.rss as usize) << 10;
        let present = |state| !must_be_absent(state);
        let most = self.ledger.count(area.start, area.end, present);
        if known == area.end - area.start && rss > most && !self.audit.huge_pages {
            self.report(area.start, Contradiction::Rss);
        }
        rss + ((sizes.swap as usize) << 10)
    }
}

/// What contradicts at `addr`, given the first area that ends behind it, and up to where the
/// answer holds.
fn judge(area: Option<Area>, addr: usize, state: PageState) -> (Option<Contradiction>, usize) {
    match area {
        Some(area) if area.start <= addr => {
            let wrong = !may_have(state, area.rights);
            (wrong.then_some(Contradiction::Rights), area.end)
        }
        Some(area) => (Some(Contradiction::Unmapped), area.start),
        None => (Some(Contradiction::Unmapped), usize::MAX),
    }
}
