//! A long random run against an array with one entry per page.

use crate::tree::Random;
use crate::world::{ANON, BASE, SHARED, World};
use fencepost::mmu::addr::PAGE;
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Backing, Errno, Traits};
use std::collections::BTreeMap;

const PAGES: usize = 96;
const OPERATIONS: u32 = 200_000;
/// The traits that the run changes.
const TRAITS: u16 = Traits::DONT_FORK.0 | Traits::LOCKED.0;

/// What is known of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Page {
    rights: u32,
    /// Object and page of it.
    shared: Option<(u32, u64)>,
    traits: u16,
}

impl Page {
    /// Whether the next page may be in the same area.
    fn goes_on(&self, next: &Page) -> bool {
        let follows = self.shared.map(|(object, page)| (object, page + 1));
        (self.rights, self.traits) == (next.rights, next.traits) && follows == next.shared
    }
}

/// The memory calls on an array: slow, and simple enough to be right.
struct Array {
    pages: [Option<Page>; PAGES],
    objects: u32,
}

impl Array {
    fn map(&mut self, at: usize, n: usize, rights: u32, shared: bool) {
        for (i, page) in self.pages[at..at + n].iter_mut().enumerate() {
            *page = Some(Page {
                rights,
                shared: shared.then_some((self.objects, i as u64)),
                traits: 0,
            });
        }
        self.objects += u32::from(shared);
    }

    /// Changes pages up to the first hole.
    fn change(&mut self, at: usize, n: usize, change: impl Fn(&mut Page)) -> Result<(), Errno> {
        for page in &mut self.pages[at..at + n] {
            change(page.as_mut().ok_or(Errno::ENOMEM)?);
        }
        Ok(())
    }

    /// Changes all pages and complains about holes afterwards.
    fn change_all(&mut self, at: usize, n: usize, change: impl Fn(&mut Page)) -> Result<(), Errno> {
        let holes = self.pages[at..at + n].iter().any(Option::is_none);
        self.pages[at..at + n].iter_mut().flatten().for_each(change);
        if holes { Err(Errno::ENOMEM) } else { Ok(()) }
    }

    /// The end of the area in which a page is.
    fn area_end(&self, at: usize) -> usize {
        let same = |i: &usize| match (&self.pages[*i - 1], &self.pages[*i]) {
            (Some(a), Some(b)) => a.goes_on(b),
            _ => false,
        };
        let end = (at + 1..PAGES).take_while(same).last();
        end.map_or(at + 1, |last| last + 1)
    }

    fn resize(&mut self, at: usize, old: usize, new: usize) -> Result<i64, Errno> {
        let first = self.pages[at].ok_or(Errno::EFAULT)?;
        if new <= old {
            self.pages[at + new..at + old].fill(None);
            return Ok(at as i64);
        }
        let end = self.area_end(at);
        if old == 0 && first.shared.is_none() {
            return Err(Errno::EINVAL);
        }
        if at + old > end {
            return Err(Errno::EFAULT);
        }
        let room = self.pages[end..].iter().take_while(|p| p.is_none()).count();
        if at + old < end || end + (new - old) > end + room {
            return Err(Errno::ENOMEM);
        }
        for i in end..end + (new - old) {
            let shared = self.pages[i - 1].and_then(|page| page.shared);
            self.pages[i] = Some(Page {
                shared: shared.map(|(object, page)| (object, page + 1)),
                ..first
            });
        }
        Ok(at as i64)
    }

    fn relocate(&mut self, at: usize, n: usize, to: usize) -> Result<i64, Errno> {
        if at < to + n && to < at + n {
            return Err(Errno::EINVAL);
        }
        self.pages[at].ok_or(Errno::EFAULT)?;
        for i in 0..n {
            if let Some(page) = self.pages[at + i].take() {
                self.pages[to + i] = Some(page);
            }
        }
        Ok(to as i64)
    }
}

/// Compares every page, the areas' borders, and the sums.
fn compare(world: &World, array: &Array) {
    let mut pages = [None; PAGES];
    let mut count = 0;
    for area in world.space.areas(&world.pool) {
        count += 1;
        for at in (area.start..area.end).step_by(PAGE as usize) {
            let shared = match area.backing_at(at) {
                Backing::Object { object, offset, .. } => Some((object.raw(), offset / PAGE)),
                Backing::Anonymous => None,
            };
            pages[((at - BASE) / PAGE) as usize] = Some(Page {
                rights: area.rights.bits(),
                shared,
                traits: area.traits.0 & TRAITS,
            });
        }
    }
    assert_eq!(pages, array.pages);
    let mut at = 0;
    let mut areas = 0;
    while at < PAGES {
        at = if array.pages[at].is_some() {
            areas += 1;
            array.area_end(at)
        } else {
            at + 1
        };
    }
    assert_eq!(count, areas, "areas are as long as they can be");
    let sum = |which: fn(&Page) -> bool| {
        array.pages.iter().flatten().filter(|p| which(p)).count() as u64 * PAGE
    };
    let totals = world.space.totals();
    let data = sum(|p| p.rights & PROT_WRITE != 0 && p.shared.is_none());
    assert_eq!(totals.size, sum(|_| true));
    assert_eq!((totals.data, totals.committed), (data, data));
    assert_eq!(totals.locked, sum(|p| p.traits & Traits::LOCKED.0 != 0));
}

#[test]
fn random_calls_agree_with_an_array_of_pages() {
    let mut world = World::new();
    let mut array = Array {
        pages: [None; PAGES],
        objects: 0,
    };
    let mut random = Random(12345);
    let mut results: BTreeMap<(&str, Result<(), Errno>), u32> = BTreeMap::new();
    for _ in 0..OPERATIONS {
        let at = random.below(PAGES as u64) as usize;
        let kind = random.below(100);
        // Mappings are long and what is done with them is short, so that most calls succeed.
        let most = if kind < 22 { 24 } else { 5 };
        let n = (1 + random.below(most) as usize).min(PAGES - at);
        let (page, count) = (at as u64, n as u64);
        let rights = [3, 3, 1, 0, 5, 7, 2][random.below(7) as usize];
        let (name, result) = match kind {
            0..22 => {
                let shared = random.below(3) == 0;
                let replace = random.below(2) == 0;
                let kind = if shared { SHARED } else { ANON };
                let how = if replace {
                    MAP_FIXED
                } else {
                    MAP_FIXED_NOREPLACE
                };
                let addr = BASE + page * PAGE;
                let got = world.mmap(addr, count * PAGE, rights, kind | how, None, 0);
                let taken = array.pages[at..at + n].iter().any(Option::is_some);
                let expected = if taken && !replace {
                    Err(Errno::EEXIST)
                } else {
                    array.map(at, n, rights, shared);
                    Ok(addr)
                };
                assert_eq!(got, expected);
                ("mmap", got.map(drop))
            }
            22..34 => {
                array.pages[at..at + n].fill(None);
                let got = world.munmap(page, count);
                assert_eq!(got, Ok(()));
                ("munmap", got)
            }
            34..56 => {
                let expected = array.change(at, n, |page| page.rights = rights);
                let got = world.mprotect(page, count, rights);
                assert_eq!(got, expected);
                ("mprotect", got)
            }
            56..70 => {
                let set = random.below(2) == 0;
                let bit = Traits::DONT_FORK.0;
                let expected = array.change_all(at, n, |page| {
                    page.traits = page.traits & !bit | if set { bit } else { 0 };
                });
                let advice = if set { MADV_DONTFORK } else { MADV_DOFORK };
                let got = world.madvise(page, count, advice);
                assert_eq!(got, expected);
                ("madvise", got)
            }
            70..76 => {
                let bit = Traits::LOCKED.0;
                let expected = array.change(at, n, |page| page.traits &= !bit);
                let got = world.munlock(page, count);
                assert_eq!(got, expected);
                ("munlock", got)
            }
            76..80 => {
                let bit = Traits::LOCKED.0;
                let expected = array.change(at, n, |page| page.traits |= bit);
                let dark = array.pages[at..at + n]
                    .iter()
                    .flatten()
                    .any(|p| p.rights == 0);
                let got = world.mlock(page, count);
                // Populating may fail afterwards.
                assert!(got == expected || got == Err(Errno::ENOMEM) && (dark || beyond(&world)));
                ("mlock", got)
            }
            80..90 => {
                let old = if random.below(20) == 0 { 0 } else { n };
                let new = (1 + random.below(16) as usize).min(PAGES - at);
                let expected = array.resize(at, old, new);
                let got = world.mremap(page, old as u64, new as u64, 0, 0);
                assert_eq!(got, expected, "{at} {old} {new}");
                ("mremap", got.map(drop))
            }
            _ => {
                let to = random.below((PAGES - n + 1) as u64) as usize;
                let expected = array.relocate(at, n, to);
                let flags = MREMAP_MAYMOVE | MREMAP_FIXED;
                let got = world.mremap(page, count, count, flags, to as u64);
                assert_eq!(got, expected);
                ("mremap fixed", got.map(drop))
            }
        };
        *results.entry((name, result)).or_default() += 1;
        world.told();
        compare(&world, &array);
        forget_objects(&mut world, &array);
    }
    let good: u32 = results
        .iter()
        .filter(|((_, r), _)| r.is_ok())
        .map(|(_, n)| n)
        .sum();
    assert!(good > OPERATIONS / 2, "{good} succeeded: {results:?}");
    for (name, errno) in [
        ("mmap", Errno::EEXIST),
        ("mprotect", Errno::ENOMEM),
        ("madvise", Errno::ENOMEM),
        ("mlock", Errno::ENOMEM),
        ("munlock", Errno::ENOMEM),
        ("mremap", Errno::EFAULT),
        ("mremap", Errno::ENOMEM),
        ("mremap", Errno::EINVAL),
        ("mremap fixed", Errno::EFAULT),
        ("mremap fixed", Errno::EINVAL),
    ] {
        let seen = results.get(&(name, Err(errno))).copied().unwrap_or(0);
        assert!(seen > 20, "{name} {errno:?}: {seen}");
    }
}

/// Whether any object is mapped beyond its end.
fn beyond(world: &World) -> bool {
    world
        .space
        .areas(&world.pool)
        .any(|area| match area.backing {
            Backing::Object { object, offset, .. } => {
                offset + area.len() > world.fx.objects[&object.raw()].1
            }
            Backing::Anonymous => false,
        })
}

/// What nobody maps is held by nobody, and is gone.
fn forget_objects(world: &mut World, array: &Array) {
    let mapped = |id: u32| {
        let mut shared = array.pages.iter().flatten().filter_map(|page| page.shared);
        shared.any(|(object, _)| object == id)
    };
    world.fx.objects.retain(|id, (holders, _)| {
        assert_eq!(*holders > 0, mapped(*id), "object {id}");
        *holders > 0
    });
}
