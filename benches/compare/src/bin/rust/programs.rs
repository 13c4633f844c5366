//! The Rust programs: `NAME PERCENT` runs one of them and prints its result.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;

use serde::{Deserialize, Serialize};

/// A fixed hash: the standard one is seeded anew in each process, and the
/// layout of a table, hence the work, would differ from run to run.
type Map<K, V> = HashMap<K, V, BuildHasherDefault<std::hash::DefaultHasher>>;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn word(&mut self) -> String {
        let length = 3 + self.below(14);
        (0..length)
            .map(|_| char::from(b'a' + self.below(26) as u8))
            .collect()
    }
}

/// Hash maps and ordered maps with string keys and vector values.
fn maps(percent: u64) -> String {
    let mut random = Random(1);
    let mut lengths = 0;
    for _ in 0..percent.div_ceil(3) {
        let mut by_word: Map<String, Vec<u64>> = Map::default();
        let mut ordered: BTreeMap<String, String> = BTreeMap::new();
        for line in 0..40_000 {
            let word = random.word();
            by_word
                .entry(word.chars().take(4).collect())
                .or_default()
                .push(line);
            if line % 3 == 0 {
                ordered.insert(word, format!("line {line}"));
            }
        }
        by_word.retain(|_, lines| lines.len() > 1);
        lengths += by_word.values().map(Vec::len).sum::<usize>();
        lengths += ordered
            .range("m".to_owned()..)
            .map(|(_, value)| value.len())
            .sum::<usize>();
    }
    lengths.to_string()
}

#[derive(Serialize, Deserialize, Clone)]
struct Person {
    name: String,
    tags: Vec<String>,
    address: Option<Address>,
    scores: BTreeMap<String, u64>,
}

#[derive(Serialize, Deserialize, Clone)]
struct Address {
    street: String,
    city: String,
    number: u64,
}

/// JSON text from and to typed values and untyped ones.
fn json(percent: u64) -> String {
    let mut random = Random(2);
    let people: Vec<Person> = (0..2_000)
        .map(|number| Person {
            name: random.word(),
            tags: (0..random.below(6)).map(|_| random.word()).collect(),
            address: (number % 3 != 0).then(|| Address {
                street: random.word(),
                city: random.word(),
                number,
            }),
            scores: (0..random.below(8))
                .map(|score| (random.word(), score))
                .collect(),
        })
        .collect();
    let mut total = 0;
    for _ in 0..percent.div_ceil(2) {
        let text = serde_json::to_string_pretty(&people).expect("the people serialise");
        let typed: Vec<Person> = serde_json::from_str(&text).expect("the text parses");
        let untyped: serde_json::Value = serde_json::from_str(&text).expect("the text parses");
        total += typed.iter().map(|person| person.tags.len()).sum::<usize>();
        total += untyped.to_string().len();
    }
    total.to_string()
}

/// Vectors of vectors and of strings: growth, sorting, concatenation, clones.
fn vectors(percent: u64) -> String {
    let mut random = Random(3);
    let mut total = 0;
    for _ in 0..percent.div_ceil(2) {
        let mut rows: Vec<Vec<u64>> = Vec::new();
        for _ in 0..5_000 {
            let length = random.below(200);
            rows.push((0..length).map(|_| random.below(1 << 20)).collect());
        }
        rows.sort();
        let joined = rows.concat();
        let texts: Vec<String> = joined.iter().step_by(7).map(u64::to_string).collect();
        let copy = texts.clone();
        let mut column = Vec::new();
        for value in joined {
            column.push(value);
        }
        total += copy.join(",").len() + column.len();
    }
    total.to_string()
}

/// Messages with owned strings through channels between two threads.
fn channels(percent: u64) -> String {
    let (requests, requests_in) = channel::<(u64, Vec<String>)>();
    let (replies, replies_in) = channel::<String>();
    let server = thread::spawn(move || {
        for (number, words) in requests_in {
            let reply = format!("{number}: {}", words.join(" "));
            if replies.send(reply).is_err() {
                break;
            }
        }
    });
    let mut random = Random(4);
    let mut total = 0;
    for batch in 0..percent * 4 {
        for message in 0..1000 {
            let words = (0..4).map(|_| random.word()).collect();
            requests
                .send((batch * 1000 + message, words))
                .expect("the server runs");
        }
        for _ in 0..1000 {
            total += replies_in.recv().expect("the server replies").len();
        }
    }
    drop(requests);
    server.join().expect("the server ends");
    total.to_string()
}

/// Runs the program that the command line names.
pub fn run() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = match arguments.first().map(String::as_str) {
        Some("maps") => maps,
        Some("json") => json,
        Some("vectors") => vectors,
        Some("channels") => channels,
        _ => {
            eprintln!("usage: compare-rust maps|json|vectors|channels PERCENT");
            return ExitCode::from(2);
        }
    };
    let percent = arguments
        .get(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(100);
    println!("{}", program(percent));
    ExitCode::SUCCESS
}
