//! The matrix: what the driver programs are asked to do wrong, generated over allocation
//! function, size, alignment, state, offset, means of access and place, and for each error its
//! honest twin. It knows nothing of any tool; `rule.rs` says what the guard mode must answer.
#![allow(dead_code)] // Not every user asks for everything.

use std::collections::HashSet;

/// Which driver program commits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    /// `driver.c`.
    C,
    /// `driver.cc`.
    Cxx,
    /// `driver.rs`.
    Rust,
}

/// What the driver is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Deed {
    /// Bytes are read or written.
    Access(Access),
    /// A pointer is given to free, realloc or the like.
    Call(Call),
    /// An error by its name.
    Single(&'static str),
}

/// An object: what it is asked from, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Object {
    /// The allocation function; empty in Rust, which has one.
    pub function: &'static str,
    /// Bytes asked for.
    pub size: usize,
    /// The alignment that the object has by its function and the request.
    pub align: usize,
}

/// Bytes `offset .. offset + length` of an object are read or written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    pub object: Object,
    pub state: &'static str,
    pub offset: isize,
    pub length: usize,
    pub means: &'static str,
    pub place: &'static str,
}

impl Access {
    /// Whether the bytes are written.
    pub fn writes(&self) -> bool {
        self.means.starts_with("write")
    }

    /// Whether the first byte outside is touched first: bytes one by one, upwards.
    pub fn one_by_one(&self) -> bool {
        self.means.ends_with("index")
    }

    /// Whether it is all inside a live object.
    pub fn is_honest(&self) -> bool {
        let end = self.offset + self.length as isize;
        self.state == "live" && self.offset >= 0 && end <= self.object.size as isize
    }
}

/// A pointer is given to a function that ends or changes an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Call {
    pub object: Object,
    /// `live`, `freed`, `moved`, or where else it lies.
    pub target: &'static str,
    pub offset: isize,
    /// The function, with the size or alignment and size that it is told.
    pub call: String,
    pub place: &'static str,
}

/// One run of a driver, and the honest run that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Case {
    pub language: Language,
    pub deed: Deed,
    pub twin: Deed,
}

impl Case {
    /// The class of the error, for tables.
    pub fn class(&self) -> &'static str {
        match &self.deed {
            Deed::Access(a) if a.state != "live" => "use after free",
            Deed::Access(a) if a.offset < 0 => "underflow",
            Deed::Access(a) if a.means.starts_with("unended") => "string without end",
            Deed::Access(_) => "overflow",
            Deed::Call(c) if c.call.contains(':') && c.target == "live" && c.offset == 0 => {
                "wrong size"
            }
            Deed::Call(c) if matches!(c.target, "freed" | "moved") && c.offset == 0 => {
                "double free"
            }
            Deed::Call(_) => "invalid free",
            Deed::Single(name) => match *name {
                "lost" | "cycle" => "leak",
                "wrapped" | "truncated" | "negative" | "huge" | "multiplied" => "wrong arithmetic",
                "sized" | "sized-array" | "aligned" | "aligned-sized" | "capacity" => "wrong size",
                "twice" | "two-owners" => "double free",
                "inside" | "on-stack" => "invalid free",
                "array-end" | "length" => "overflow",
                "unended" => "string without end",
                "member" | "iterator" | "text" | "dangling" => "use after free",
                _ => "wild access",
            },
        }
    }
}

impl Deed {
    /// The arguments of the driver of `language`.
    pub fn arguments(&self, language: Language) -> Vec<String> {
        let words = |words: &[&dyn ToString]| words.iter().map(|w| w.to_string()).collect();
        match (self, language) {
            (Deed::Single(name), Language::Cxx) => words(&[name]),
            (Deed::Single(name), _) => words(&[&"single", name]),
            (Deed::Access(a), Language::Rust) => words(&[
                &"access",
                &a.object.size,
                &a.object.align,
                &a.state,
                &a.offset,
                &a.length,
                &a.means,
                &a.place,
            ]),
            (Deed::Access(a), _) => words(&[
                &"access",
                &a.object.function,
                &a.object.size,
                &a.object.align,
                &a.state,
                &a.offset,
                &a.length,
                &a.means,
                &a.place,
            ]),
            (Deed::Call(c), Language::Rust) => {
                let given: Vec<&str> = c.call.split(':').collect();
                words(&[
                    &"layout",
                    &c.object.size,
                    &c.object.align,
                    &given[0],
                    &c.offset,
                    &given[2],
                    &given[1],
                    &c.place,
                ])
            }
            (Deed::Call(c), _) => words(&[
                &"call",
                &c.object.function,
                &c.object.size,
                &c.object.align,
                &c.target,
                &c.offset,
                &c.call,
                &c.place,
            ]),
        }
    }
}

/// What malloc's objects are aligned to.
pub const NATURAL: usize = 16;

const fn object(function: &'static str, size: usize, align: usize) -> Object {
    Object {
        function,
        size,
        align,
    }
}

/// A small generator of numbers, the same on every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Combinations of one value of each dimension such that every pair of values of two dimensions
/// that `valid` allows at all occurs in one of them; with `all`, every allowed combination of
/// every `all`-th number.
pub fn combinations(
    dimensions: &[usize],
    all: Option<u64>,
    valid: impl Fn(&[usize]) -> bool,
) -> Vec<Vec<usize>> {
    let total: usize = dimensions.iter().product();
    let mut candidates: Vec<Vec<usize>> = (0..total)
        .map(|number| {
            let mut rest = number;
            dimensions
                .iter()
                .map(|&count| {
                    let value = rest % count;
                    rest /= count;
                    value
                })
                .collect()
        })
        .filter(|c: &Vec<usize>| valid(c))
        .collect();
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for at in (1..candidates.len()).rev() {
        candidates.swap(at, (numbers.next() % (at as u64 + 1)) as usize);
    }
    if let Some(step) = all {
        return candidates.into_iter().step_by(step as usize).collect();
    }
    let pairs = |c: &[usize]| {
        let mut pairs = Vec::new();
        for a in 0..c.len() {
            for b in a + 1..c.len() {
                pairs.push((a, c[a], b, c[b]));
            }
        }
        pairs
    };
    // First those that bring many new pairs, at last those that bring one.
    let most = dimensions.len() * (dimensions.len() - 1) / 2;
    let mut seen = HashSet::new();
    let mut chosen = Vec::new();
    for least in [most, most * 3 / 4, most / 2, most / 3, 2, 1] {
        candidates.retain(|candidate| {
            let pairs = pairs(candidate);
            let new = pairs.iter().filter(|pair| !seen.contains(*pair)).count();
            let take = new >= least.max(1);
            if take {
                seen.extend(pairs);
                chosen.push(candidate.clone());
            }
            !take && new > 0
        });
    }
    chosen
}

/// How far out of bounds.
pub const AMOUNTS: [usize; 4] = [1, 2, 8, 4096];

/// The functions of C, with the alignments that they are asked for in turn.
const FUNCTIONS: [(&str, &[usize]); 10] = [
    ("malloc", &[NATURAL]),
    ("calloc", &[NATURAL]),
    ("grown", &[NATURAL]),
    ("shrunk", &[NATURAL]),
    ("reallocarray", &[NATURAL]),
    ("memalign", &[32, 256, 8192]),
    ("posix_memalign", &[8, 64, 4096]),
    ("aligned_alloc", &[16, 128, 512]),
    ("valloc", &[4096]),
    ("strdup", &[NATURAL]),
];

/// Sizes with and without slack, of a page, of several and beyond the mapping threshold.
const SIZES: [usize; 9] = [1, 16, 48, 100, 1000, 2048, 4096, 10_000, 1 << 20];

/// An object of C; nothing if the function makes none of this size.
fn c_object(function: usize, size: usize) -> Option<Object> {
    let (name, aligns) = FUNCTIONS[function];
    let align = aligns[size % aligns.len()];
    let size = SIZES[size];
    match name {
        "strdup" if size > 5000 => None,
        // A size must be a multiple of the alignment.
        "aligned_alloc" if !size.is_multiple_of(align) => None,
        _ => Some(object(name, size, align)),
    }
}

const C_MEANS: [&str; 20] = [
    "read-index",
    "write-index",
    "read-word",
    "write-word",
    "read-memcpy",
    "write-memcpy",
    "read-memmove",
    "write-memmove",
    "read-memcmp",
    "read-memchr",
    "read-strnlen",
    "read-strncmp",
    "read-printf",
    "write-memset",
    "write-strcpy",
    "write-stpcpy",
    "write-strncpy",
    "write-sprintf",
    "write-snprintf",
    "write-strcat",
];

const RUST_SIZES: [usize; 8] = [1, 13, 64, 100, 999, 4096, 9000, 1 << 20];
const RUST_ALIGNS: [usize; 6] = [1, 2, 8, 16, 64, 4096];
const RUST_MEANS: [&str; 8] = [
    "read-index",
    "write-index",
    "read-word",
    "write-word",
    "read-copy",
    "write-copy",
    "read-slice",
    "write-bytes",
];

/// Out of bounds above, below, or at all in what is no longer there.
const WAYS: [&str; 4] = ["above", "below", "freed", "moved"];
const PLACES: [&str; 4] = ["main", "thread", "signal", "fork"];

/// The access of `amount` bytes one way out of an object, if it makes sense.
fn out_of(
    object: Object,
    way: &'static str,
    amount: usize,
    means: &'static str,
    place: &'static str,
) -> Option<Access> {
    let size = object.size as isize;
    let word = means.ends_with("word");
    // A word is 8 bytes.
    let amount = if word { amount.max(8) } else { amount };
    if word && amount > 8 {
        return None;
    }
    let text = means.contains("str") || means.ends_with("printf");
    let (state, offset, length) = match way {
        // Texts and copies begin inside, as they do in programs, and run out.
        "above" if means.ends_with("index") || word => ("live", size, amount),
        "above" => {
            let inside = object.size.min(24);
            ("live", size - inside as isize, inside + amount)
        }
        // Only one by one, or what follows would say where it began.
        "below" if text && amount < 2 => return None,
        "below" => ("live", -(amount as isize), amount),
        // Inside what was the object, at its middle.
        _ => {
            let length = amount.min(object.size / 2);
            if length == 0 || (word && length < 8) {
                return None;
            }
            (
                if way == "freed" { "freed" } else { "moved" },
                size / 2,
                length,
            )
        }
    };
    Some(Access {
        object,
        state,
        offset,
        length,
        means,
        place,
    })
}

/// The honest access that goes with it: as many bytes, as far as the object has them, at the end
/// that was overrun.
fn honest(bad: &Access) -> Access {
    let size = bad.object.size;
    let means = match bad.means {
        // Its honest twin is told where to stop.
        m if m.starts_with("unended") => "read-strnlen",
        "read-word" if size < 8 => "read-index",
        "write-word" if size < 8 => "write-index",
        m => m,
    };
    let length = bad.length.clamp(1, size.max(1)).min(size);
    let offset = match bad.state {
        "live" if bad.offset < 0 => 0,
        "live" => (size - length) as isize,
        _ => bad.offset.min((size - length) as isize),
    };
    Access {
        state: "live",
        offset,
        length,
        means,
        ..bad.clone()
    }
}

fn access(language: Language, bad: Access) -> Case {
    let twin = Deed::Access(honest(&bad));
    Case {
        language,
        deed: Deed::Access(bad),
        twin,
    }
}

/// Accesses of C programs. `all`: not the pairs only but every `all`-th combination.
pub fn c_accesses(all: Option<u64>) -> Vec<Case> {
    let build = |c: &[usize]| {
        out_of(
            c_object(c[0], c[1])?,
            WAYS[c[2]],
            AMOUNTS[c[3]],
            C_MEANS[c[4]],
            PLACES[c[5]],
        )
    };
    let dimensions = [
        FUNCTIONS.len(),
        SIZES.len(),
        WAYS.len(),
        AMOUNTS.len(),
        C_MEANS.len(),
        PLACES.len(),
    ];
    let mut cases: Vec<Case> = combinations(&dimensions, all, |c| build(c).is_some())
        .iter()
        .filter_map(|c| build(c))
        .map(|bad| access(Language::C, bad))
        .collect();
    // No byte at all, and strings without an end.
    for (offset, means) in [(0, "read-index"), (0, "write-index"), (-1, "write-index")] {
        cases.push(access(
            Language::C,
            Access {
                object: object("malloc", 0, NATURAL),
                state: "live",
                offset,
                length: 1,
                means,
                place: "main",
            },
        ));
    }
    for means in [
        "unended-strlen",
        "unended-strchr",
        "unended-strdup",
        "unended-printf",
    ] {
        for object in [
            object("malloc", 16, NATURAL),
            object("calloc", 4096, NATURAL),
            object("posix_memalign", 10_240, 512),
        ] {
            let bad = Access {
                object,
                state: "live",
                offset: 0,
                length: object.size,
                means,
                place: "main",
            };
            cases.push(access(Language::C, bad));
        }
    }
    cases
}

/// Accesses of Rust programs.
pub fn rust_accesses(all: Option<u64>) -> Vec<Case> {
    let build = |c: &[usize]| {
        let (size, align) = (RUST_SIZES[c[0]], RUST_ALIGNS[c[1]]);
        out_of(
            object("", size, align),
            WAYS[c[2]],
            AMOUNTS[c[3]],
            RUST_MEANS[c[4]],
            PLACES[c[5]],
        )
    };
    let dimensions = [
        RUST_SIZES.len(),
        RUST_ALIGNS.len(),
        WAYS.len(),
        AMOUNTS.len(),
        RUST_MEANS.len(),
        PLACES.len(),
    ];
    combinations(&dimensions, all, |c| build(c).is_some())
        .iter()
        .filter_map(|c| build(c))
        .map(|bad| access(Language::Rust, bad))
        .collect()
}

/// Pointers that are given to functions, in C.
pub fn c_calls(all: Option<u64>) -> Vec<Case> {
    const TARGETS: [(&str, isize); 18] = [
        ("freed", 0),
        ("moved", 0),
        ("live", 1),
        ("live", 8),
        ("live", 16),
        ("live", 31),
        ("freed", 1),
        ("freed", 16),
        ("moved", 16),
        ("stack", 0),
        ("stack", 64),
        ("static", 0),
        ("static", 64),
        ("mmap", 0),
        ("mmap", 4096),
        ("mmap", 16),
        ("code", 0),
        ("unmapped", 0),
    ];
    const CALLS: [&str; 5] = ["free", "realloc", "shrink", "reallocarray", "usable_size"];
    const OBJECTS: [Object; 6] = [
        object("malloc", 100, NATURAL),
        object("calloc", 4096, NATURAL),
        object("grown", 333, NATURAL),
        object("posix_memalign", 192, 64),
        object("aligned_alloc", 8192, 4096),
        object("malloc", 1 << 20, NATURAL),
    ];
    let build = |c: &[usize]| {
        let object = OBJECTS[c[0]];
        let (target, offset) = TARGETS[c[1]];
        Call {
            object,
            target,
            offset,
            call: CALLS[c[2]].to_string(),
            place: PLACES[c[3]],
        }
    };
    let dimensions = [OBJECTS.len(), TARGETS.len(), CALLS.len(), PLACES.len()];
    let mut bad: Vec<Call> = combinations(&dimensions, all, |_| true)
        .iter()
        .map(|c| build(c))
        .collect();
    // Sizes and alignments that the object does not have.
    for (object, call) in [
        (OBJECTS[0], "free_sized:99"),
        (OBJECTS[0], "free_sized:101"),
        (OBJECTS[0], "free_sized:0"),
        (OBJECTS[1], "free_sized:4095"),
        (OBJECTS[2], "free_sized:332"),
        (OBJECTS[5], "free_sized:1048575"),
        (OBJECTS[3], "free_aligned_sized:64:191"),
        (OBJECTS[3], "free_aligned_sized:32:192"),
        (OBJECTS[3], "free_aligned_sized:128:192"),
        (OBJECTS[4], "free_aligned_sized:4096:4096"),
    ] {
        for place in ["main", "thread"] {
            bad.push(Call {
                object,
                target: "live",
                offset: 0,
                call: call.to_string(),
                place,
            });
        }
    }
    bad.into_iter()
        .map(|bad| {
            let own = |call: &str| match call.split(':').count() {
                1 => call.to_string(),
                2 => format!("free_sized:{}", bad.object.size),
                _ => format!(
                    "free_aligned_sized:{}:{}",
                    bad.object.align, bad.object.size
                ),
            };
            let twin = Call {
                target: "live",
                offset: 0,
                call: own(&bad.call),
                ..bad.clone()
            };
            Case {
                language: Language::C,
                deed: Deed::Call(bad),
                twin: Deed::Call(twin),
            }
        })
        .collect()
}

/// Layouts that do not fit, in Rust.
pub fn rust_calls() -> Vec<Case> {
    let mut cases = Vec::new();
    for (size, align) in [(100, 1), (100, 16), (192, 64), (4096, 8), (1 << 20, 4096)] {
        for (offset, given_size, given_align) in [
            (0, size - 1, align),
            (0, size + 1, align),
            (0, size / 2, align),
            (0, size, align.max(NATURAL) * 2),
            (0, size, 2048),
            (24, size, align),
        ] {
            // realloc looks at the address only.
            let realloc = (offset != 0).then_some(("realloc", "thread"));
            for (call, place) in [("dealloc", "main"), ("dealloc", "thread")]
                .into_iter()
                .chain(realloc)
            {
                let layout = object("", size, align);
                let deed = |offset, given_size: usize, given_align: usize| {
                    Deed::Call(Call {
                        object: layout,
                        target: "live",
                        offset,
                        call: format!("{call}:{given_align}:{given_size}"),
                        place,
                    })
                };
                cases.push(Case {
                    language: Language::Rust,
                    deed: deed(offset, given_size, given_align),
                    twin: deed(0, size, align),
                });
            }
        }
    }
    cases
}

/// Errors that have a name, and are no leaks.
pub fn singles() -> Vec<Case> {
    const C: [(&str, &str); 12] = [
        ("wrapped", "good-wrapped"),
        ("negative", "good-negative"),
        ("truncated", "good-truncated"),
        ("huge", "good-huge"),
        ("multiplied", "good-multiplied"),
        ("null", "good-null"),
        ("wild", "good-wild"),
        ("noncanonical", "good-noncanonical"),
        ("readonly", "good-readonly"),
        ("execute", "good-execute"),
        ("deep", "good-deep"),
        ("bus", "good-bus"),
    ];
    const CXX: [(&str, &str); 10] = [
        ("sized", "good-sized"),
        ("sized-array", "good-sized-array"),
        ("aligned", "good-aligned"),
        ("aligned-sized", "good-aligned-sized"),
        ("twice", "good-twice"),
        ("inside", "good-inside"),
        ("array-end", "good-array-end"),
        ("member", "good-member"),
        ("iterator", "good-iterator"),
        ("text", "good-text"),
    ];
    const RUST: [(&str, &str); 6] = [
        ("two-owners", "good-two-owners"),
        ("length", "good-length"),
        ("capacity", "good-capacity"),
        ("unended", "good-unended"),
        ("dangling", "good-dangling"),
        ("on-stack", "good-on-stack"),
    ];
    named(Language::C, &C)
        .chain(named(Language::Cxx, &CXX))
        .chain(named(Language::Rust, &RUST))
        .collect()
}

/// Leaks: lost, and in cycles. What is still reachable is no error.
pub fn leaks() -> Vec<Case> {
    const BOTH: [(&str, &str); 2] = [("lost", "good-lost"), ("cycle", "good-cycle")];
    named(Language::C, &BOTH)
        .chain(named(Language::Rust, &BOTH))
        .collect()
}

fn named(
    language: Language,
    names: &'static [(&'static str, &'static str)],
) -> impl Iterator<Item = Case> {
    names.iter().map(move |&(bad, good)| Case {
        language,
        deed: Deed::Single(bad),
        twin: Deed::Single(good),
    })
}
