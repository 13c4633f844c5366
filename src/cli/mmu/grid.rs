//! A run of references over frames, step by step.

use fencepost::mmu::addr::FrameNumber;
use fencepost::mmu::physical::FrameRecord;
use fencepost::mmu::replace::offline::{Distances, faults, optimal};
use fencepost::mmu::replace::{Kind, Policy, Replacement};

/// The policies by the names of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// The page that came first goes first
    Fifo,
    /// The page goes that was not used for longest
    Lru,
    /// FIFO, but a page that was used since gets a second chance
    Clock,
    /// The page goes that will not be used for longest: the best there can be
    Opt,
    /// Any page goes, by the seed
    Random,
}

impl Choice {
    /// All, in the order of tables.
    pub const ALL: [Choice; 5] = [
        Choice::Fifo,
        Choice::Lru,
        Choice::Clock,
        Choice::Opt,
        Choice::Random,
    ];

    /// The name in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Choice::Fifo => "FIFO",
            Choice::Lru => "LRU",
            Choice::Clock => "CLOCK",
            Choice::Opt => "OPT",
            Choice::Random => "RANDOM",
        }
    }

    fn kind(self, seed: u64) -> Option<Kind> {
        match self {
            Choice::Fifo => Some(Kind::Fifo),
            Choice::Lru => Some(Kind::Lru),
            Choice::Clock => Some(Kind::Clock),
            Choice::Random => Some(Kind::Random(seed)),
            Choice::Opt => None,
        }
    }
}

/// What one reference did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The page that was referred to.
    pub page: u32,
    /// Whether it had to be fetched.
    pub fault: bool,
    /// The pages in the frames afterwards.
    pub frames: Vec<Option<u32>>,
}

/// Runs `references` over so many frames, which are empty at first.
pub fn run(choice: Choice, references: &[u32], frames: usize, seed: u64) -> Vec<Step> {
    let mut records = vec![FrameRecord::EMPTY; frames];
    let mut policy = choice.kind(seed).map(Replacement::new);
    let mut held: Vec<Option<u32>> = vec![None; frames];
    let mut steps = Vec::with_capacity(references.len());
    for (now, page) in references.iter().copied().enumerate() {
        let at = held.iter().position(|other| *other == Some(page));
        if let (Some(at), Some(policy)) = (at, &mut policy) {
            policy.touch(&mut records, number(at));
        }
        if at.is_none() {
            let free = held.iter().position(Option::is_none);
            let place = free.unwrap_or_else(|| match &mut policy {
                Some(policy) => {
                    let victim = policy.victim(&mut records, &|_| true);
                    let victim = victim.expect("a full memory has a page that may go");
                    policy.remove(&mut records, victim);
                    victim.raw() as usize
                }
                None => last_needed(&held, references.get(now + 1..).unwrap_or_default()),
            });
            held[place] = Some(page);
            if let Some(policy) = &mut policy {
                policy.insert(&mut records, number(place));
            }
        }
        steps.push(Step {
            page,
            fault: at.is_none(),
            frames: held.clone(),
        });
    }
    steps
}

fn number(frame: usize) -> FrameNumber {
    FrameNumber::new(u32::try_from(frame).unwrap_or(u32::MAX))
}

/// The frame whose page is used again last, or not at all.
fn last_needed(held: &[Option<u32>], future: &[u32]) -> usize {
    let next = |page: Option<u32>| {
        let next = future.iter().position(|other| Some(*other) == page);
        next.unwrap_or(usize::MAX)
    };
    (0..held.len())
        .rev()
        .max_by_key(|at| next(held[*at]))
        .unwrap_or(0)
}

/// Faults for several sizes of memory, without the steps.
pub struct Counter<'a> {
    references: &'a [u32],
    pages: usize,
    seed: u64,
    /// What LRU needs for every size at once: references at each stack distance.
    distances: Option<(Vec<u64>, u64)>,
}

impl<'a> Counter<'a> {
    /// A counter for a string.
    pub fn new(references: &'a [u32], seed: u64) -> Counter<'a> {
        let pages = references.iter().max().map_or(0, |page| *page as usize + 1);
        Counter {
            references,
            pages,
            seed,
            distances: None,
        }
    }

    /// Faults of a policy with so many frames, at least one.
    pub fn faults(&mut self, choice: Choice, frames: usize) -> u64 {
        match choice.kind(self.seed) {
            Some(Kind::Lru) => self.lru(frames),
            Some(kind) => {
                let mut records = vec![FrameRecord::EMPTY; frames];
                let mut resident = vec![0; self.pages];
                let references = self.references.iter().copied();
                faults(kind, references, &mut records, &mut resident)
            }
            None => {
                let mut next = vec![0; self.references.len()];
                let mut seen = vec![0; self.pages];
                let mut resident = vec![0; frames];
                optimal(self.references, &mut next, &mut seen, &mut resident)
            }
        }
    }

    fn lru(&mut self, frames: usize) -> u64 {
        let (counts, first) = self.distances.get_or_insert_with(|| {
            let mut counts = vec![0; self.pages + 1];
            let mut last = vec![0; self.pages];
            let mut tree = vec![0; self.references.len() + 1];
            let measured = Distances::measure(self.references, &mut counts, &mut last, &mut tree);
            // With a frame for each page only first uses are faults.
            let first = measured.faults(self.pages);
            (counts, first)
        });
        *first + counts.iter().skip(frames + 1).sum::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::super::strings::{Pattern, parse};
    use super::*;

    fn total(choice: Choice, text: &str, frames: usize) -> u64 {
        let references = parse(text).unwrap();
        let steps = run(choice, &references, frames, 1);
        let faults = steps.iter().filter(|step| step.fault).count() as u64;
        let counted = Counter::new(&references, 1).faults(choice, frames);
        assert_eq!(faults, counted, "{choice:?} {frames}");
        faults
    }

    #[test]
    fn the_known_strings_have_their_known_faults() {
        let belady = "1,2,3,4,1,2,5,1,2,3,4,5";
        let other = "7,0,1,2,0,3,0,4,2,3,0,3,2,1,2,0,1,7,0,1";
        for (choice, string, three, four) in [
            (Choice::Fifo, belady, 9, 10),
            (Choice::Lru, belady, 10, 8),
            (Choice::Clock, belady, 9, 10),
            (Choice::Opt, belady, 7, 6),
            (Choice::Fifo, other, 15, 10),
            (Choice::Lru, other, 12, 8),
            (Choice::Clock, other, 14, 9),
            (Choice::Opt, other, 9, 8),
        ] {
            assert_eq!(total(choice, string, 3), three, "{choice:?} {string}");
            assert_eq!(total(choice, string, 4), four, "{choice:?} {string}");
        }
    }

    #[test]
    fn steps_and_counts_agree_on_every_pattern_and_size() {
        for pattern in [Pattern::Loop, Pattern::Random, Pattern::Zipf, Pattern::Scan] {
            let references = pattern.references(12, 300, 7);
            let mut counter = Counter::new(&references, 99);
            for choice in Choice::ALL {
                for frames in 1..=13 {
                    let steps = run(choice, &references, frames, 99);
                    let faults = steps.iter().filter(|step| step.fault).count() as u64;
                    assert_eq!(
                        faults,
                        counter.faults(choice, frames),
                        "{choice:?} {frames}"
                    );
                    for step in steps {
                        assert!(step.frames.contains(&Some(step.page)));
                        let mut held: Vec<u32> = step.frames.into_iter().flatten().collect();
                        held.sort_unstable();
                        assert!(held.is_sorted_by(|a, b| a < b), "a page in two frames");
                    }
                }
            }
        }
    }

    #[test]
    fn of_pages_that_nobody_needs_the_one_in_the_lowest_frame_goes() {
        let steps = run(Choice::Opt, &[1, 2, 3, 4, 2], 3, 0);
        assert_eq!(steps[3].frames, [Some(4), Some(2), Some(3)]);
        assert!(!steps[4].fault);
    }

    #[test]
    fn twenty_thousand_random_references_over_128_frames() {
        let references = Pattern::Random.references(256, 20_000, 12345);
        let mut counter = Counter::new(&references, 0);
        assert_eq!(counter.faults(Choice::Lru, 128), 9_949);
        assert_eq!(counter.faults(Choice::Clock, 128), 9_996);
        assert_eq!(counter.faults(Choice::Fifo, 128), 9_965);
    }
}
