//! Which arenas there are, and how many threads use each: counts and published pointers, no lock.
//!
//! Generic over what is listed, so that `tests/loom.rs` models this file itself.
#![allow(unsafe_code)] // Published pointers.

use crate::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};

/// How a member of a [`Roster`] is used.
#[derive(Debug)]
pub struct Usage {
    attached: AtomicU32,
    abandoned: AtomicBool,
}

impl Usage {
    /// Nobody uses it.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Usage {
        Usage {
            attached: AtomicU32::new(0),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Nobody uses it.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Usage {
        Usage {
            attached: AtomicU32::new(0),
            abandoned: AtomicBool::new(false),
        }
    }

    /// Threads that are attached to it now.
    pub fn attached(&self) -> u32 {
        self.attached.load(Ordering::Relaxed)
    }

    /// Whether its lock was held by a thread that does not exist in this process.
    #[inline]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

impl Default for Usage {
    fn default() -> Usage {
        Usage::new()
    }
}

/// Something that a [`Roster`] lists.
pub trait Member: 'static {
    /// Its own record.
    fn usage(&self) -> &Usage;
}

/// A list that only grows. Member 0 is always there.
#[derive(Debug)]
pub struct Roster<T: 'static, const MOST: usize> {
    first: T,
    /// Members 1 and up; null: being made, or it could not be made.
    others: [AtomicPtr<T>; MOST],
    /// One more than the highest number given out.
    count: AtomicUsize,
    threads: AtomicUsize,
}

impl<T: Member, const MOST: usize> Roster<T, MOST> {
    /// A roster with one member and room for `MOST`.
    #[cfg(not(loom))]
    pub const fn new(first: T) -> Self {
        Roster {
            first,
            others: [const { AtomicPtr::new(core::ptr::null_mut()) }; MOST],
            count: AtomicUsize::new(1),
            threads: AtomicUsize::new(0),
        }
    }

    /// A roster with one member and room for `MOST`.
    #[cfg(loom)]
    pub fn new(first: T) -> Self {
        Roster {
            first,
            others: core::array::from_fn(|_| AtomicPtr::new(core::ptr::null_mut())),
            count: AtomicUsize::new(1),
            threads: AtomicUsize::new(0),
        }
    }

    /// Member 0.
    #[inline]
    pub const fn first(&self) -> &T {
        &self.first
    }

    /// A member by its number.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&T> {
        if number == 0 {
            return Some(&self.first);
        }
        let member = self.others.get(number)?.load(Ordering::Acquire);
        // SAFETY: only `add` publishes, and what it publishes lives forever.
        unsafe { member.as_ref() }
    }

    /// One more than the highest number of a member.
    pub fn numbers(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// All members with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        (0..self.numbers()).filter_map(|number| Some((number, self.get(number)?)))
    }

    /// Threads that are attached now.
    pub fn threads(&self) -> usize {
        self.threads.load(Ordering::Relaxed)
    }

    /// Gives a thread a member: the first thread member 0, then a new one each (by `make`, as
    /// in [`add`](Roster::add)) until there are `limit`, then the least used.
    pub fn attach(
        &self,
        limit: impl FnOnce() -> usize,
        make: impl FnOnce(usize) -> Option<&'static T>,
    ) -> usize {
        self.threads.fetch_add(1, Ordering::Relaxed);
        self.choose(limit, make)
    }

    /// As [`attach`](Roster::attach) for a thread that is attached to a member that was
    /// abandoned.
    pub fn choose(
        &self,
        limit: impl FnOnce() -> usize,
        make: impl FnOnce(usize) -> Option<&'static T>,
    ) -> usize {
        let (number, used) = self.least_used();
        let number = if used == 0 {
            number
        } else {
            self.add(limit(), make).unwrap_or(number)
        };
        if let Some(member) = self.get(number) {
            member.usage().attached.fetch_add(1, Ordering::Relaxed);
        }
        number
    }

    /// Ends a thread's use of a member.
    pub fn detach(&self, number: usize) {
        // In a new process the counts began anew, with threads attached that are not counted.
        if let Some(member) = self.get(number) {
            let less = |n: u32| n.checked_sub(1);
            let _ =
                member
                    .usage()
                    .attached
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
        let less = |n: usize| n.checked_sub(1);
        let _ = self
            .threads
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Adds a member unless there are `limit`. `make` is told its number; `None` if it could
    /// not be made.
    #[cold]
    pub fn add(
        &self,
        limit: usize,
        make: impl FnOnce(usize) -> Option<&'static T>,
    ) -> Option<usize> {
        let limit = limit.min(MOST);
        let next = |count: usize| (count < limit).then_some(count + 1);
        // The number comes first: threads that get here at once do not exceed the limit.
        let number = self
            .count
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .ok()?;
        let Some(member) = make(number) else {
            // The number is given back if it is still the last; else it stays empty.
            let _ = self.count.compare_exchange(
                number + 1,
                number,
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
            return None;
        };
        self.others
            .get(number)?
            .store(core::ptr::from_ref(member).cast_mut(), Ordering::Release);
        Some(number)
    }

    /// The member that the fewest threads use, and how many do; `u32::MAX` if all were
    /// abandoned.
    pub fn least_used(&self) -> (usize, u32) {
        let mut best = (0, u32::MAX);
        for (number, member) in self.iter() {
            let usage = member.usage();
            if !usage.is_abandoned() && usage.attached() < best.1 {
                best = (number, usage.attached());
            }
        }
        best
    }

    /// In a child process: only the calling thread is left, and members for which `locked`
    /// says so are nobody's any more.
    pub fn after_fork(&self, locked: impl Fn(&T) -> bool) {
        for (_, member) in self.iter() {
            let usage = member.usage();
            usage.attached.store(0, Ordering::Relaxed);
            if locked(member) {
                usage.abandoned.store(true, Ordering::Relaxed);
            }
        }
        self.threads.store(1, Ordering::Relaxed);
    }
}
