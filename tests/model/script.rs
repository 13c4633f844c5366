//! Operation lists: made from a seed or from any bytes, printed as text, read back.

use std::fmt;
use std::str::FromStr;

/// How the heap under test gets its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The program break.
    Break,
    /// A reserved region, then mapped segments: a main arena beside another malloc.
    Region,
    /// Reserved granules: an arena other than the main one.
    Granules,
    /// Mapped segments only.
    Segments,
}

impl Source {
    /// Every source.
    pub const ALL: [Source; 4] = [
        Source::Break,
        Source::Region,
        Source::Granules,
        Source::Segments,
    ];
}

/// What a process can be limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// All mapped memory, in bytes (`RLIMIT_AS`).
    Space,
    /// Private writable memory, in bytes (`RLIMIT_DATA`).
    Data,
    /// Memory that was promised, in bytes (overcommit mode 2).
    Memory,
    /// The number of areas (`vm.max_map_count`).
    Areas,
}

impl Bound {
    /// Every bound, with its name.
    pub const ALL: [(&'static str, Bound); 4] = [
        ("space", Bound::Space),
        ("data", Bound::Data),
        ("memory", Bound::Memory),
        ("areas", Bound::Areas),
    ];
}

/// One operation. Sizes are bytes; blocks are named by their place among the live ones, modulo
/// their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Allocates a block.
    Malloc(usize),
    /// Allocates up to so many blocks of one size in a batch.
    Fill(usize, usize),
    /// Allocates a block at a multiple of two to this power.
    Aligned(u32, usize),
    /// Frees a block.
    Free(usize),
    /// Frees so many blocks from a place on, by way of a stack of cached chunks.
    Flush(usize, usize),
    /// Changes a block's size, in place or by a move.
    Realloc(usize, usize),
    /// Empties the fast bins.
    Consolidate,
    /// Gives memory back, keeping so many bytes at top.
    Trim(usize),
    /// Somebody else moves the break up.
    Sbrk(usize),
    /// A mapping stands in the way of the break (1) or no more (0).
    Wall(usize),
    /// Of the calls to the system that follow, refuses some: the first that is refused, and how
    /// many.
    Refuse(usize, usize),
    /// From now on there may be so much more of one thing than there is, and as much as one
    /// wants of the others.
    Limit(Bound, usize),
    /// There may be as much as one wants of everything.
    Unlimited,
    /// Sets the largest fast request.
    Mxfast(usize),
    /// Sets how much more than needed the heap grows by.
    TopPad(usize),
    /// Sets the trimming threshold.
    TrimThreshold(usize),
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Op::Malloc(n) => write!(f, "malloc {n}"),
            Op::Fill(n, count) => write!(f, "fill {n} {count}"),
            Op::Aligned(shift, n) => write!(f, "aligned {shift} {n}"),
            Op::Free(i) => write!(f, "free {i}"),
            Op::Flush(i, count) => write!(f, "flush {i} {count}"),
            Op::Realloc(i, n) => write!(f, "realloc {i} {n}"),
            Op::Consolidate => write!(f, "consolidate"),
            Op::Trim(pad) => write!(f, "trim {pad}"),
            Op::Sbrk(n) => write!(f, "sbrk {n}"),
            Op::Wall(stands) => write!(f, "wall {stands}"),
            Op::Refuse(from, count) => write!(f, "refuse {from} {count}"),
            Op::Limit(bound, n) => {
                let name = Bound::ALL.iter().find(|(_, b)| *b == bound);
                write!(f, "limit {} {n}", name.map_or("?", |(name, _)| name))
            }
            Op::Unlimited => write!(f, "unlimited"),
            Op::Mxfast(n) => write!(f, "mxfast {n}"),
            Op::TopPad(n) => write!(f, "top_pad {n}"),
            Op::TrimThreshold(n) => write!(f, "trim_threshold {n}"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Op, String> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or("");
        if name == "limit" {
            let what = words.next().unwrap_or("");
            let found = Bound::ALL.iter().find(|(name, _)| *name == what);
            let number = words.next().and_then(|word| word.parse().ok());
            let (Some((_, bound)), Some(number), None) = (found, number, words.next()) else {
                return Err(format!("no limit: {line}"));
            };
            return Ok(Op::Limit(*bound, number));
        }
        let numbers: Vec<usize> = words
            // Scripts are for words of any length: what is too large here is the largest number.
            .map(|w| match w.parse::<u64>() {
                Ok(number) => Ok(usize::try_from(number).unwrap_or(usize::MAX)),
                Err(why) => Err(format!("{line}: {why}")),
            })
            .collect::<Result<_, _>>()?;
        Ok(match (name, &numbers[..]) {
            ("malloc", &[n]) => Op::Malloc(n),
            ("fill", &[n, count]) => Op::Fill(n, count),
            ("aligned", &[shift, n]) if shift < 32 => Op::Aligned(shift as u32, n),
            ("free", &[i]) => Op::Free(i),
            ("flush", &[i, count]) => Op::Flush(i, count),
            ("realloc", &[i, n]) => Op::Realloc(i, n),
            ("consolidate", &[]) => Op::Consolidate,
            ("trim", &[pad]) => Op::Trim(pad),
            ("sbrk", &[n]) => Op::Sbrk(n),
            ("wall", &[stands]) => Op::Wall(stands),
            ("refuse", &[from, count]) => Op::Refuse(from, count),
            ("unlimited", &[]) => Op::Unlimited,
            ("mxfast", &[n]) => Op::Mxfast(n),
            ("top_pad", &[n]) => Op::TopPad(n),
            ("trim_threshold", &[n]) => Op::TrimThreshold(n),
            _ => return Err(format!("no operation: {line}")),
        })
    }
}

/// A heap and what is done to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// Where the memory comes from.
    pub source: Source,
    /// Bytes of a page.
    pub page: usize,
    /// Whether break and mappings lie close together.
    pub near: bool,
    /// Whether there is little memory, which is also made faster.
    pub tight: bool,
    /// The operations.
    pub ops: Vec<Op>,
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Script {
            source,
            page,
            near,
            tight,
            ..
        } = self;
        let place = if *near { "near" } else { "apart" };
        let room = if *tight { " tight" } else { "" };
        writeln!(f, "heap {source:?} {page} {place}{room}")?;
        self.ops.iter().try_for_each(|op| writeln!(f, "{op}"))
    }
}

impl FromStr for Script {
    type Err = String;

    fn from_str(text: &str) -> Result<Script, String> {
        let code = |line: &'_ str| -> usize { line.find('#').unwrap_or(line.len()) };
        let lines = text.lines().map(|line| line[..code(line)].trim());
        let mut lines = lines.filter(|line| !line.is_empty());
        let head = lines.next().unwrap_or("");
        let words: Vec<&str> = head.split_whitespace().collect();
        let (tight, words) = match &words[..] {
            [words @ .., "tight"] => (true, words),
            words => (false, words),
        };
        let &["heap", source, page, place] = words else {
            return Err(format!("no heap: {head}"));
        };
        let source = Source::ALL
            .into_iter()
            .find(|s| format!("{s:?}") == source)
            .ok_or_else(|| format!("no source: {source}"))?;
        let page: usize = page.parse().map_err(|e| format!("{head}: {e}"))?;
        if !page.is_power_of_two() || !(4096..=65536).contains(&page) {
            return Err(format!("no page size: {page}"));
        }
        Ok(Script {
            source,
            page,
            near: place == "near",
            tight,
            ops: lines.map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

/// Where the random decisions of a script come from.
trait Choices {
    /// A number below `n`.
    fn below(&mut self, n: usize) -> usize;
    /// Whether there is more.
    fn more(&self) -> bool;
}

/// Random numbers from a seed (xorshift64*).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Numbers that depend on the seed alone.
    pub fn new(seed: u64) -> Rng {
        Rng((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }
}

impl Choices for Rng {
    fn below(&mut self, n: usize) -> usize {
        Rng::below(self, n)
    }
    fn more(&self) -> bool {
        true
    }
}

/// Decisions by a fuzzer.
struct Bytes<'a>(&'a [u8]);

impl Choices for Bytes<'_> {
    fn below(&mut self, n: usize) -> usize {
        let width = if n <= 256 { 1 } else { 3 };
        let (now, rest) = self.0.split_at(width.min(self.0.len()));
        self.0 = rest;
        now.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)) % n
    }
    fn more(&self) -> bool {
        !self.0.is_empty()
    }
}

impl Script {
    /// A script of `len` operations that depends on the seed alone.
    pub fn from_seed(seed: u64, source: Source, len: usize) -> Script {
        let mut rng = Rng::new(seed);
        let page = [4096, 4096, 4096, 16384, 65536][rng.below(5)];
        let page = if cfg!(miri) { 4096 } else { page };
        let near = rng.below(2) == 0;
        let ops = (0..len).map(|_| op(&mut rng)).collect();
        Script {
            source,
            page,
            near,
            tight: false,
            ops,
        }
    }

    /// A script that any bytes stand for.
    pub fn from_bytes(bytes: &[u8]) -> Script {
        let mut bytes = Bytes(bytes);
        let source = Source::ALL[bytes.below(4)];
        let near = bytes.below(2) == 0;
        let mut ops = Vec::new();
        while bytes.more() && ops.len() < 2000 {
            ops.push(op(&mut bytes));
        }
        Script {
            source,
            page: 4096,
            near,
            tight: true,
            ops,
        }
    }
}

/// Sizes as programs ask for them, with a few large ones.
fn size(choices: &mut impl Choices) -> usize {
    let (medium, large) = if cfg!(miri) {
        (4000, 20_000)
    } else {
        (40_000, 300 << 10)
    };
    let limit = match choices.below(100) {
        0..40 => 130,
        40..50 => 8,
        50..75 => 1100,
        75..90 => 5000,
        90..98 => medium,
        _ => large,
    };
    choices.below(limit)
}

fn op(choices: &mut impl Choices) -> Op {
    let place = 1000;
    match choices.below(103) {
        0..30 => Op::Malloc(size(choices)),
        30..36 => Op::Fill(size(choices).min(2000), 1 + choices.below(30)),
        36..42 => {
            let shift = 5 + choices.below(if cfg!(miri) { 6 } else { 9 });
            Op::Aligned(shift as u32, size(choices))
        }
        42..72 => Op::Free(choices.below(place)),
        72..78 => Op::Flush(choices.below(place), 1 + choices.below(40)),
        78..88 => Op::Realloc(choices.below(place), size(choices)),
        88 => Op::Consolidate,
        89 | 90 => Op::Trim([0, 5000, 10_000, usize::MAX - 5000][choices.below(4)]),
        91 => Op::Sbrk(1 + choices.below(9000)),
        92 | 93 => Op::Wall(choices.below(2)),
        94 | 95 => Op::Refuse(choices.below(3), 1 + choices.below(3)),
        96 => Op::Mxfast(choices.below(161)),
        97 | 98 => Op::TopPad([0, 30_000, 60_000, 90_000, isize::MAX as usize][choices.below(5)]),
        100 => Op::Limit(Bound::ALL[choices.below(3)].1, choices.below(5) * 40_000),
        101 => Op::Limit(Bound::Areas, choices.below(4)),
        102 => Op::Unlimited,
        _ => Op::TrimThreshold([0, 60_000, 120_000, 180_000, usize::MAX][choices.below(5)]),
    }
}
