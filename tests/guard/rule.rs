//! What the guard mode must answer to a case, worked out from its rule alone:
//!
//! An object lies on pages of its own between two guards. With `right` it ends as near to the
//! guard behind it as its alignment lets it, with `left` it begins where the guard before it
//! ends. An access to a guard is caught at once. What lies between object and guards is slack,
//! filled with a canary: writes to it are found when the object is freed, reads are not found.
//! A freed object is all guard.

use super::cases::{Access, Call, Case, Deed, Language, NATURAL};

/// The page size that the rule reckons with, in bytes.
pub const PAGE: usize = 4096;

/// Where an object lies in its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Right,
    Left,
}

/// What must be seen of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing: this side cannot see it.
    Silence,
    /// SIGSEGV after a line that names the object and a place in `least..=most`, counted from
    /// the object's first byte.
    Fault {
        kind: &'static str,
        access: &'static str,
        least: isize,
        most: isize,
    },
    /// SIGABRT after a line that names the first and the last byte that changed.
    Canary { first: isize, last: isize },
    /// The signal after a line that matches; `{o}`, `{t}` and `{n}` stand for the addresses of
    /// object and target and for the object's size, `{program}` for the driver's path.
    Line { signal: i32, pattern: String },
    /// That, or nothing: what the slack holds decides how far a search goes.
    Perhaps(Box<Answer>),
}

/// The slack before and behind an object, in bytes.
pub fn slack(size: usize, align: usize, side: Side) -> (usize, usize) {
    if size == 0 {
        return (0, 0);
    }
    match side {
        Side::Right => {
            let room = size.next_multiple_of(align.min(PAGE));
            (room.next_multiple_of(PAGE) - room, room - size)
        }
        Side::Left => (0, size.next_multiple_of(PAGE) - size),
    }
}

/// What the guard mode must say to `case` when its object lies on `side`.
pub fn answer(case: &Case, side: Side) -> Answer {
    match &case.deed {
        Deed::Access(access) => of_access(access, align(case, access.object.align), side),
        Deed::Call(call) => of_call(call),
        Deed::Single(name) => of_single(name, side),
    }
}

/// C's functions give no less alignment than malloc; Rust's layouts say what they want.
fn align(case: &Case, asked: usize) -> usize {
    match case.language {
        Language::Rust => asked,
        _ => asked.max(NATURAL),
    }
}

/// Reads that go on only while they find what they look for.
fn searches(means: &str) -> bool {
    matches!(
        means,
        "read-memcmp"
            | "read-memchr"
            | "read-strnlen"
            | "read-strncmp"
            | "read-printf"
            | "read-slice"
    ) || means.starts_with("unended")
}

fn of_access(a: &Access, align: usize, side: Side) -> Answer {
    let size = a.object.size as isize;
    let access = if a.writes() { "write" } else { "read" };
    let unended = a.means.starts_with("unended");
    // A string without end is read until something stops it.
    let end = match unended {
        true => isize::MAX,
        false => a.offset + a.length as isize,
    };
    let exact = a.one_by_one() || a.means.ends_with("word");
    if a.state != "live" {
        return Answer::Fault {
            kind: "use after free",
            access,
            // Vectors are read from where they are aligned.
            least: if exact { a.offset } else { a.offset - 64 },
            most: if exact { a.offset } else { end - 1 },
        };
    }
    let (before, behind) = slack(a.object.size, align, side);
    let (low, high) = (-(before as isize), size + behind as isize);
    if a.offset < low || end > high {
        let below = a.offset < low;
        let least = match below {
            // As above.
            true if searches(a.means) => a.offset - 64,
            true => a.offset,
            false => a.offset.max(high),
        };
        let fault = Answer::Fault {
            kind: if below {
                "heap underflow"
            } else {
                "heap overflow"
            },
            access,
            least,
            most: match (exact, below) {
                (true, _) => least,
                (false, true) => low - 1,
                (false, false) => end - 1,
            },
        };
        // Between its beginning and the guard a search may find an end.
        let through_slack = !below && (behind > 0 || a.offset < 0);
        return match searches(a.means) && through_slack {
            true => Answer::Perhaps(Box::new(fault)),
            false => fault,
        };
    }
    if !a.writes() {
        return Answer::Silence;
    }
    if a.offset < 0 {
        Answer::Canary {
            first: a.offset,
            last: end.min(0) - 1,
        }
    } else {
        Answer::Canary {
            first: a.offset.max(size),
            last: end - 1,
        }
    }
}

fn abort(pattern: impl Into<String>) -> Answer {
    Answer::Line {
        signal: 6,
        pattern: pattern.into(),
    }
}

fn of_call(c: &Call) -> Answer {
    let parts: Vec<&str> = c.call.split(':').collect();
    let name = match parts[0] {
        "realloc" | "shrink" | "reallocarray" => "realloc",
        "usable_size" => "usable_size",
        _ => "free",
    };
    let freed = matches!(c.target, "freed" | "moved");
    if c.offset != 0 && (freed || c.target == "live") {
        let block = if freed { "a freed block" } else { "a chunk" };
        return abort(format!(
            r"invalid {name}: {{t}} is inside {block} \({} bytes? into a block of {{n}} bytes\)",
            c.offset
        ));
    }
    if freed && name == "free" {
        return abort(r"double free: {t} \({n} bytes\), freed [0-9]+ operations? ago");
    }
    if freed {
        return abort(format!(
            r"invalid {name}: {{t}} was freed before \({{n}} bytes\)"
        ));
    }
    if c.target != "live" {
        let ground = match c.target {
            "stack" => "it lies on a stack.*",
            "static" => "it is static data of {program}",
            "code" => "it lies in {program}",
            "unmapped" => "nothing is mapped there",
            _ => r"it lies in \[?anonymous memory\]?",
        };
        return abort(format!(
            "invalid {name}: {{t}} was not allocated here: {ground}"
        ));
    }
    let given: Vec<usize> = parts[1..]
        .iter()
        .map(|part| part.parse().expect("a number"))
        .collect();
    let size = given[given.len() - 1];
    if size != c.object.size {
        return abort(format!(
            r"wrong size: {{o}} \({{n}} bytes\) freed as {size} bytes?"
        ));
    }
    abort(format!(
        r"wrong alignment: {{o}} \(aligned to {}\) freed as aligned to {}",
        c.object.align, given[0]
    ))
}

fn fault(kind: &'static str, access: &'static str, least: isize, most: isize) -> Answer {
    Answer::Fault {
        kind,
        access,
        least,
        most,
    }
}

fn segv(pattern: &str) -> Answer {
    Answer::Line {
        signal: 11,
        pattern: pattern.to_string(),
    }
}

fn of_single(name: &str, side: Side) -> Answer {
    let right = side == Side::Right;
    match name {
        // Every sixteenth byte of 64 and on; 65,552 bytes in 16.
        "wrapped" if right => fault("heap overflow", "write", 64, 64),
        "wrapped" => fault("heap overflow", "write", 4096, 4096),
        "truncated" if right => fault("heap overflow", "write", 16, 65551),
        "truncated" => fault("heap overflow", "write", 4096, 65551),
        "negative" if right => Answer::Canary {
            first: -56,
            last: -56,
        },
        "negative" => fault("heap underflow", "write", -56, -56),
        "huge" | "multiplied" => segv("null pointer: write at 0x0"),
        "null" => segv("null pointer: write at 0x8"),
        "wild" => segv("wild pointer: write at {o}: nothing is mapped there"),
        "noncanonical" => segv(
            // The processor says neither which access it was nor where.
            r"wild pointer: access through a non-canonical address \(.*[a-z0-9]+ = 0xdead000000000100.*\)",
        ),
        "readonly" => segv("write to read-only memory at {o}.*"),
        "execute" => segv("execution of heap memory at {o}"),
        "deep" => segv("stack overflow at 0x[0-9a-f]+"),
        "bus" => Answer::Line {
            signal: 7,
            pattern: r"fault at 0x[0-9a-f]+ that is not of the heap \(signal 7, code 2\)".into(),
        },
        "sized" | "capacity" => abort(r"wrong size: {o} \({n} bytes\) freed as 90 bytes"),
        "sized-array" => abort(r"wrong size: {o} \({n} bytes\) freed as 104 bytes"),
        "aligned-sized" => abort(r"wrong size: {o} \({n} bytes\) freed as 128 bytes"),
        "aligned" => abort(r"wrong alignment: {o} \(aligned to 64\) freed as aligned to 32"),
        "twice" | "two-owners" => {
            abort(r"double free: {o} \({n} bytes\), freed [0-9]+ operations? ago")
        }
        "inside" => abort(
            r"invalid free: 0x[0-9a-f]+ is inside a chunk \(8 bytes into a block of {n} bytes\)",
        ),
        "on-stack" => abort("invalid free: {o} was not allocated here: it lies on a stack.*"),
        "array-end" if right => fault("heap overflow", "write", 64, 64),
        "array-end" => Answer::Canary {
            first: 64,
            last: 64,
        },
        "length" if right => fault("heap overflow", "read", 100, 100),
        "length" => Answer::Silence,
        "unended" if right => fault("heap overflow", "read", 64, 128),
        "unended" => Answer::Perhaps(Box::new(fault("heap overflow", "read", 4096, 4160))),
        "member" => fault("use after free", "write", 7, 7),
        "iterator" => fault("use after free", "read", 10, 10),
        "text" => fault("use after free", "read", 99, 99),
        "dangling" => fault("use after free", "read", 0, 0),
        other => panic!("no rule for {other}"),
    }
}
