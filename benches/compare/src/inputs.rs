//! The inputs of the real programs: made once, the same on every machine.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::allocators::find_program;

/// Changes when an input does, so that old ones are made anew.
const EDITION: &str = "2";

/// Where the inputs lie.
pub struct Inputs {
    /// The directory that holds them all.
    pub directory: PathBuf,
}

impl Inputs {
    /// The path of an input.
    pub fn path(&self, name: &str) -> String {
        self.directory.join(name).to_string_lossy().into_owned()
    }
}

/// A linear congruential generator: all that made-up text needs.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// A word; low numbers come up more often, as words do.
    fn word(&mut self) -> String {
        let bound = 1 + self.below(6_000);
        let mut number = self.below(bound) + 30;
        let mut word = String::new();
        while number > 0 {
            let syllable = [
                "ba", "ten", "lo", "ri", "kus", "me", "dan", "fi", "or", "sta",
            ];
            word.push_str(syllable[(number % 10) as usize]);
            number /= 10;
        }
        word
    }

    fn sentence(&mut self, words: u64) -> String {
        let words: Vec<String> = (0..words).map(|_| self.word()).collect();
        words.join(" ")
    }
}

/// Makes the inputs in `directory` unless they are there. They are made beside
/// it and then moved, so that comparisons at the same time do not see half.
pub fn prepare(directory: &Path) -> Result<Inputs> {
    let current =
        || fs::read_to_string(directory.join("edition")).is_ok_and(|text| text == EDITION);
    let inputs = Inputs {
        directory: directory.to_path_buf(),
    };
    if current() {
        return Ok(inputs);
    }
    let parent = directory
        .parent()
        .context("the inputs lie in a directory")?;
    fs::create_dir_all(parent)?;
    let made = tempfile::Builder::new()
        .prefix("inputs")
        .tempdir_in(parent)?;
    make(made.path())?;
    if !current() {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        // Another comparison may have been faster: then its inputs serve.
        if let Err(error) = fs::rename(made.path(), directory) {
            ensure!(current(), "{}: {error}", directory.display());
        }
    }
    Ok(inputs)
}

fn make(directory: &Path) -> Result<()> {
    fs::write(directory.join("text"), text(30_000))?;
    fs::write(directory.join("lines"), lines(800_000))?;
    fs::write(directory.join("records.json"), records(14_000))?;
    fs::write(directory.join("document.xml"), document(90_000))?;
    fs::write(directory.join("code.c"), c_source(40))?;
    fs::write(directory.join("code.cc"), cxx_source(2))?;
    fs::write(directory.join("commands"), redis_commands(60_000))?;
    if let Some(git) = find_program("git") {
        repository(&git, &directory.join("repository"))?;
    }
    fs::write(directory.join("edition"), EDITION)?;
    Ok(())
}

fn text(lines: u64) -> String {
    let mut random = Random(1);
    let mut text = String::new();
    for _ in 0..lines {
        let words = 4 + random.below(12);
        let _ = writeln!(text, "{}", random.sentence(words));
    }
    text
}

fn lines(count: u64) -> String {
    let mut random = Random(2);
    let mut text = String::new();
    for _ in 0..count {
        let _ = writeln!(
            text,
            "{} {} {}",
            random.word(),
            random.below(100_000),
            random.word()
        );
    }
    text
}

fn records(count: u64) -> String {
    let mut random = Random(3);
    let records: Vec<serde_json::Value> = (0..count)
        .map(|id| {
            let tags: Vec<String> = (0..random.below(6)).map(|_| random.word()).collect();
            let values: Vec<u64> = (0..1 + random.below(8))
                .map(|_| random.below(1000))
                .collect();
            serde_json::json!({ "id": id, "name": random.word(), "tags": tags, "values": values })
        })
        .collect();
    serde_json::Value::from(records).to_string()
}

fn document(count: u64) -> String {
    let mut random = Random(4);
    let mut text = "<?xml version=\"1.0\"?>\n<library>\n".to_owned();
    for id in 0..count {
        let _ = write!(
            text,
            "<book id=\"b{id}\" shelf=\"{}\"><title>{}</title><year>{}</year>",
            random.word(),
            random.sentence(4),
            1900 + random.below(120)
        );
        for _ in 0..random.below(4) {
            let _ = write!(text, "<author><name>{}</name></author>", random.sentence(2));
        }
        text.push_str("<!-- kept --></book>\n");
    }
    text.push_str("</library>\n");
    text
}

fn c_source(functions: u64) -> String {
    let mut random = Random(5);
    let mut text = String::new();
    for header in [
        "ctype.h",
        "errno.h",
        "math.h",
        "signal.h",
        "stdarg.h",
        "stdint.h",
        "stdio.h",
        "stdlib.h",
        "string.h",
        "sys/socket.h",
        "sys/stat.h",
        "time.h",
        "unistd.h",
    ] {
        let _ = writeln!(text, "#include <{header}>");
    }
    for id in 0..functions {
        let (a, b, c) = (random.below(90) + 1, random.below(900), random.below(9) + 1);
        let _ = write!(
            text,
            r#"
struct s{id} {{ int key; char name[{a}]; double weight; struct s{id} *next; }};
static int compare{id}(const void *x, const void *y) {{
    const struct s{id} *p = x, *q = y;
    return p->key == q->key ? strcmp(p->name, q->name) : p->key < q->key ? -1 : 1;
}}
int work{id}(struct s{id} *list, size_t n, const char *text) {{
    size_t i, hits = 0;
    unsigned hash = {b}u;
    if (!n) return {b};
    qsort(list, n, sizeof *list, compare{id});
    for (i = 0; text[i]; i++) {{
        hash = hash * 31u + (unsigned char)tolower((unsigned char)text[i]);
        switch (hash % {c}u) {{
        case 0: hits += i; break;
        case 1: hits ^= hash; break;
        case 3: if (isdigit((unsigned char)text[i])) return (int)hits;
        default: list[i % n].weight += sqrt((double)hash) * {b}.5;
        }}
    }}
    for (struct s{id} *p = list; p; p = p->next) {{
        if (p->weight > {a}.0 && snprintf(p->name, sizeof p->name, "%u-%zu", hash, hits) < 0)
            fprintf(stderr, "%s: %s\n", p->name, strerror(errno));
        hash ^= (unsigned)p->key << ({c} % 8);
    }}
    return (int)(hash + hits);
}}
"#
        );
    }
    text
}

fn cxx_source(classes: u64) -> String {
    let mut text = String::new();
    for header in [
        "algorithm",
        "functional",
        "map",
        "memory",
        "sstream",
        "string",
        "unordered_map",
        "vector",
    ] {
        let _ = writeln!(text, "#include <{header}>");
    }
    for id in 0..classes {
        let _ = write!(
            text,
            r#"
template <typename T, int N> struct Holder{id} {{
    std::map<T, std::vector<std::string>> table;
    std::unordered_map<std::string, std::shared_ptr<Holder{id}>> others;
    std::function<int(const T &)> rule;
    int add(const T &key, const std::string &value) {{
        table[key].push_back(value + std::to_string(N));
        std::sort(table[key].begin(), table[key].end());
        auto found = others.find(value);
        return found == others.end() ? rule(key) : found->second->add(key, value);
    }}
}};
int use{id}(const std::string &text) {{
    Holder{id}<int, {id}> numbers;
    Holder{id}<std::string, {id}> names;
    numbers.rule = [&](const int &key) {{ return key + (int)text.size(); }};
    names.rule = [&](const std::string &key) {{ return (int)key.find(text); }};
    std::istringstream in(text);
    std::string word;
    int total = 0;
    while (in >> word) total += numbers.add((int)word.size(), word) + names.add(word, text);
    return total;
}}
"#
        );
    }
    text
}

fn redis_commands(count: u64) -> Vec<u8> {
    let mut random = Random(6);
    let mut bytes = Vec::new();
    for number in 0..count {
        let words = 1 + random.below(20);
        let value = random.sentence(words);
        let (a, b) = (number % 1000, random.below(1000));
        let command = match number % 6 {
            0 => vec!["SET".into(), format!("s:{number}"), value],
            1 => vec!["HSET".into(), format!("h:{a}"), format!("f{b}"), value],
            2 => vec!["RPUSH".into(), format!("l:{a}"), value],
            3 => vec!["ZADD".into(), format!("z:{}", a % 50), b.to_string(), value],
            4 => vec!["APPEND".into(), format!("a:{b}"), value],
            _ => vec!["DEL".into(), format!("s:{}", random.below(number + 1))],
        };
        let _ = write!(bytes, "*{}\r\n", command.len());
        for part in command {
            let _ = write!(bytes, "${}\r\n{part}\r\n", part.len());
        }
    }
    bytes
}

/// A repository of some hundred commits, written by way of `git fast-import`.
fn repository(git: &Path, directory: &Path) -> Result<()> {
    let mut random = Random(7);
    let mut files: Vec<Vec<String>> = (0..40)
        .map(|_| (0..150).map(|_| random.sentence(7)).collect())
        .collect();
    let mut stream = Vec::new();
    for commit in 0..500u64 {
        let message = random.sentence(12);
        let _ = write!(
            stream,
            "commit refs/heads/main\ncommitter A Writer <writer@example.org> {} +0000\ndata {}\n{message}\n",
            1_600_000_000 + commit * 3600,
            message.len()
        );
        let changes = if commit == 0 { 40 } else { 4 };
        for change in 0..changes {
            let number = if commit == 0 {
                change
            } else {
                random.below(40) as usize
            };
            let file = &mut files[number];
            for _ in 0..6 {
                let line = random.below(file.len() as u64) as usize;
                match random.below(4) {
                    0 => file.insert(line, random.sentence(7)),
                    1 if file.len() > 50 => drop(file.remove(line)),
                    _ => file[line] = random.sentence(7),
                }
            }
            let text = file.join("\n") + "\n";
            let _ = write!(
                stream,
                "M 100644 inline part{}/file{number}.txt\ndata {}\n{text}\n",
                number % 7,
                text.len()
            );
        }
    }
    let git = |arguments: &[&str]| {
        let mut command = Command::new(git);
        command
            .args(arguments)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .stdout(Stdio::null());
        command
    };
    let path = directory.to_string_lossy();
    let made = git(&["init", "--quiet", "--bare", "--initial-branch=main", &path]).status()?;
    ensure!(made.success(), "git init: {made}");
    let mut import = git(&["--git-dir", &path, "fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()?;
    import
        .stdin
        .take()
        .context("git fast-import reads from a pipe")?
        .write_all(&stream)?;
    let imported = import.wait()?;
    ensure!(imported.success(), "git fast-import: {imported}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_the_same_each_time_and_made_once() {
        let first = tempfile::tempdir().expect("a directory");
        let second = tempfile::tempdir().expect("a directory");
        let one = prepare(&first.path().join("in")).expect("the inputs are made");
        let two = prepare(&second.path().join("in")).expect("the inputs are made");
        for name in [
            "text",
            "records.json",
            "document.xml",
            "code.c",
            "code.cc",
            "commands",
        ] {
            let made = fs::read(one.path(name)).expect("the input is there");
            assert!(made.len() > 1000, "{name}");
            assert!(
                made == fs::read(two.path(name)).expect("the input is there"),
                "{name}"
            );
        }
        fs::write(one.path("text"), "changed").expect("it can be written");
        prepare(&one.directory).expect("the inputs are there");
        assert_eq!(
            fs::read(one.path("text")).expect("the input is there"),
            b"changed"
        );
    }

    #[test]
    fn the_json_input_is_json() {
        let value: serde_json::Value = serde_json::from_str(&records(50)).expect("it parses");
        assert_eq!(value.as_array().map(Vec::len), Some(50));
    }
}
