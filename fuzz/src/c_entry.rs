//! The C entry points with whatever arguments, against a shadow of all blocks. The C library's
//! own malloc serves everybody else in the process.
//!
//! The allocator's state outlives one input: a script shows the inputs before it, too.

mod shadow;

use crate::bytes::Bytes;
use crate::targets::Target;
use shadow::Shadow;
use std::fmt;
use std::str::FromStr;
use std::sync::Mutex;

/// The target.
pub const TARGET: Target = Target {
    name: "c_entry",
    run,
    print,
    replay: |text| {
        carry_out(&parse(text)?);
        Ok(())
    },
};

/// A name, how many numbers follow it, and how often it is chosen.
type Form = (&'static str, usize, u64);

/// A call, or something beside the calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    form: Form,
    numbers: [u64; 3],
}

/// Blocks are named by their place among the live ones, modulo their number.
const FORMS: [Form; 19] = [
    ("malloc", 1, 20),
    ("calloc", 2, 8),
    // A block and a size. "null" stands for no block.
    ("realloc", 2, 12),
    ("realloc_null", 1, 1),
    ("reallocarray", 3, 3),
    ("memalign", 2, 5),
    ("aligned_alloc", 2, 4),
    ("posix_memalign", 2, 4),
    ("valloc", 1, 1),
    ("pvalloc", 1, 1),
    ("free", 1, 26),
    ("free_null", 0, 1),
    ("malloc_usable_size", 1, 2),
    ("mallopt", 2, 3),
    ("malloc_trim", 1, 2),
    ("mallinfo2", 0, 2),
    // What follows happens on another thread.
    ("thread", 0, 2),
    // Every block is freed, the tunables are what they were.
    ("settle", 0, 1),
    // The account of pages is compared with the kernel's.
    ("audit", 0, 1),
];

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form.0)?;
        let numbers = self.numbers.iter().take(self.form.1);
        numbers.into_iter().try_for_each(|n| write!(f, " {n:#x}"))
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Op, String> {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap_or("");
        let form = FORMS.into_iter().find(|form| form.0 == name);
        let form = form.ok_or_else(|| format!("no such call: {line}"))?;
        let mut numbers = [0; 3];
        for number in numbers.iter_mut().take(form.1) {
            let word = words.next().ok_or_else(|| format!("too short: {line}"))?;
            let digits = word.strip_prefix("0x");
            *number = digits
                .map_or_else(|| word.parse(), |digits| u64::from_str_radix(digits, 16))
                .map_err(|e| format!("{line}: {e}"))?;
        }
        Ok(Op { form, numbers })
    }
}

/// Sizes as programs ask for them, larger ones, and absurd ones.
fn size(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(100) {
        0..40 => bytes.below(256),
        40..60 => bytes.below(1100),
        60..75 => bytes.below(20_000),
        75..85 => bytes.below(300 << 10),
        85..90 => bytes.below(3 << 20),
        90 => 0,
        91 => (1 << 63) - bytes.below(10_000),
        92 => u64::MAX - bytes.below(10_000),
        93 => 1 << bytes.below(64),
        94 => (1 << bytes.below(64)) - 1,
        // Around the mapping threshold and the ends of size classes.
        95..98 => (128 << 10) - 64 + bytes.below(128),
        _ => bytes.number(),
    }
}

fn alignment(bytes: &mut Bytes<'_>) -> u64 {
    match bytes.below(10) {
        0..7 => 1 << bytes.below(17),
        7 => bytes.below(256),
        8 => 1 << bytes.below(64),
        _ => bytes.number(),
    }
}

fn op(bytes: &mut Bytes<'_>) -> Op {
    let sum = FORMS.iter().map(|form| form.2).sum();
    let mut roll = bytes.below(sum);
    let mut form = FORMS[0];
    for next in FORMS {
        if roll < next.2 {
            form = next;
            break;
        }
        roll -= next.2;
    }
    let place = |bytes: &mut Bytes<'_>| bytes.below(256);
    let count = |bytes: &mut Bytes<'_>| match bytes.below(8) {
        0 => bytes.number(),
        1 => 0,
        _ => 1 + bytes.below(20),
    };
    let numbers = match form.0 {
        "malloc" | "valloc" | "pvalloc" | "realloc_null" | "malloc_trim" => [size(bytes), 0, 0],
        "calloc" => [count(bytes), size(bytes), 0],
        "realloc" => [place(bytes), size(bytes), 0],
        "reallocarray" => [place(bytes), count(bytes), size(bytes)],
        "memalign" | "aligned_alloc" | "posix_memalign" => [alignment(bytes), size(bytes), 0],
        "free" | "malloc_usable_size" => [place(bytes), 0, 0],
        "mallopt" => {
            // The constants that there are lie between -8 and 4.
            let parameter = i64::from(bytes.byte() % 15) - 9;
            let value = match bytes.below(4) {
                0 => bytes.number() as i32,
                1 => -1,
                _ => bytes.below(200_000) as i32,
            };
            [parameter as u64, i64::from(value) as u64, 0]
        }
        _ => [0; 3],
    };
    Op { form, numbers }
}

fn from_bytes(data: &[u8]) -> Vec<Op> {
    let mut bytes = Bytes(data);
    let mut ops = Vec::new();
    while !bytes.is_empty() && ops.len() < 2000 {
        ops.push(op(&mut bytes));
    }
    ops
}

fn parse(text: &str) -> Result<Vec<Op>, String> {
    let lines = text
        .lines()
        .map(|line| line.split('#').next().unwrap_or("").trim());
    lines
        .filter(|line| !line.is_empty())
        .map(str::parse)
        .collect()
}

/// How many inputs a script shows. What happened long ago may matter: magazines, mappings and
/// arenas are kept.
const HISTORY: usize = 20_000;
static RECENT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn run(data: &[u8]) {
    carry_out(&from_bytes(data));
    if let Ok(mut recent) = RECENT.lock() {
        recent.push(data.to_vec());
        let more = recent.len().saturating_sub(HISTORY);
        recent.drain(..more);
    }
}

fn print(data: &[u8]) -> String {
    let mut text = String::new();
    let mut add = |data: &[u8], end: &str| {
        for op in from_bytes(data) {
            text += &format!("{op}\n");
        }
        text += end;
    };
    if let Ok(recent) = RECENT.try_lock() {
        recent.iter().for_each(|data| add(data, "settle\n"));
    }
    add(data, "");
    text
}

fn carry_out(ops: &[Op]) {
    fencepost::abi::start();
    let mut shadow = Shadow::default();
    let mut parts = ops.split(|op| op.form.0 == "thread").enumerate();
    if let Some((_, first)) = parts.next() {
        first.iter().for_each(|op| shadow.apply(op));
    }
    for (_, part) in parts {
        // Threads are not for the asking where memory is short.
        let shadow = &mut shadow;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || part.iter().for_each(|op| shadow.apply(op)));
            // The scope alone does not wait until the thread's cache is given back.
            thread.join().expect("a thread that does not panic");
        });
    }
    shadow.settle();
}
