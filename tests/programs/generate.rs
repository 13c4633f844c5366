//! Inputs that are too long to be kept as files; the same on every run.

use std::fmt::Write;

/// A small linear congruential generator.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }

    fn word(&mut self) -> String {
        let letters = 2 + self.next(9);
        (0..letters)
            .map(|_| char::from(b'a' + self.next(26) as u8))
            .collect()
    }
}

/// Lines of an id, a word, a number and some text.
pub fn lines(count: u64) -> String {
    let mut n = Numbers(1);
    let mut text = String::new();
    for id in 0..count {
        let (word, number) = (n.next(300), n.next(1_000_000));
        let rest: Vec<String> = (0..n.next(6)).map(|_| n.word()).collect();
        writeln!(text, "{id} w{word} {number} {};", rest.join(" ")).expect("a string grows");
    }
    text
}

/// A JSON array of objects.
pub fn json(count: u64) -> String {
    let mut n = Numbers(2);
    let objects: Vec<String> = (0..count)
        .map(|id| {
            let tags: Vec<String> = (0..n.next(8))
                .map(|_| format!("\"{}\"", n.word()))
                .collect();
            format!(
                "{{\"id\":{id},\"kind\":\"k{}\",\"name\":\"{}\",\"value\":{},\"tags\":[{}]}}",
                n.next(12),
                n.word(),
                n.next(100_000),
                tags.join(",")
            )
        })
        .collect();
    format!("[{}]", objects.join(",\n"))
}

/// An XML document with namespaces, attributes, entities and CDATA.
pub fn xml(count: u64) -> String {
    let mut n = Numbers(3);
    let mut text = String::from(
        "<?xml version=\"1.0\"?>\n<!DOCTYPE all [<!ENTITY me \"myself &amp; I\">]>\n\
         <all xmlns=\"urn:a\" xmlns:b=\"urn:b\">",
    );
    for id in 0..count {
        let (kind, word, other) = (n.next(9), n.word(), n.word());
        write!(
            text,
            "<item id=\"i{id}\" b:kind=\"{kind}\"><name>{word}</name><!-- {other} -->\
             <b:note>&me; &lt;{other}&gt; <![CDATA[<{word}>]]></b:note></item>"
        )
        .expect("a string grows");
    }
    text + "</all>\n"
}

/// A C translation unit, already preprocessed.
pub fn c_source(functions: u64) -> String {
    let mut n = Numbers(4);
    let mut text =
        String::from("extern int printf(const char *, ...);\nextern double sqrt(double);\n");
    for f in 0..functions {
        let fields: String = (0..1 + n.next(8)).map(|i| format!("long m{i}; ")).collect();
        let (a, b, c) = (n.next(90) + 3, n.next(1000), n.next(60) + 2);
        writeln!(
            text,
            "struct s{f} {{ {fields}char name[{a}]; struct s{f} *next; }};"
        )
        .expect("a string grows");
        writeln!(
            text,
            "static const char *const t{f}[] = {{\"{}\", \"{}\"}};",
            n.word(),
            n.word()
        )
        .expect("a string grows");
        let callee = if f == 0 {
            "0".to_string()
        } else {
            format!("f{}(x - 1, y)", n.next(f))
        };
        writeln!(
            text,
            "long f{f}(long x, double y) {{ struct s{f} v; long i, sum = {b}; v.next = &v;\n\
             for (i = 0; i < x; i++) {{ switch ((int)(i % {c})) {{ case 0: sum += {callee}; break;\n\
             case 1: sum ^= (long)sqrt(y * {b}.5); break; case 7: printf(\"%s %ld\", t{f}[i & 1], sum); break;\n\
             default: v.name[i % {a}] = (char)sum; v.m0 = sum + v.next->name[0]; sum += v.m0 >> {}; }} }}\n\
             return sum; }}",
            n.next(31)
        )
        .expect("a string grows");
    }
    text
}

/// A history for `git fast-import`: `commits` commits over some files.
pub fn history(commits: u64) -> String {
    let mut n = Numbers(5);
    let mut stream = String::new();
    for c in 1..=commits {
        let message = format!("Change {c}: {} {}\n", n.word(), n.word());
        let when = 1_700_000_000 + c * 60;
        write!(
            stream,
            "commit refs/heads/main\nmark :{c}\ncommitter A U Thor <a@example.org> {when} +0000\ndata {}\n{message}",
            message.len()
        )
        .expect("a string grows");
        if c > 1 {
            writeln!(stream, "from :{}", c - 1).expect("a string grows");
        }
        for _ in 0..8 {
            let file = n.next(120);
            let content: String = (0..40 + file)
                .map(|line| {
                    let fixed = (file * 131 + line) % 977;
                    if n.next(20) == 0 {
                        format!("{fixed} {}\n", n.word())
                    } else {
                        format!("line {fixed} of {file}\n")
                    }
                })
                .collect();
            writeln!(
                stream,
                "M 100644 inline dir{}/file{file}\ndata {}\n{content}",
                file % 7,
                content.len()
            )
            .expect("a string grows");
        }
    }
    stream
}

/// Redis commands, inline syntax, over all value types.
pub fn redis_commands(count: u64) -> String {
    let mut n = Numbers(6);
    let mut text = String::new();
    for i in 0..count {
        let (key, value, size) = (n.next(700), n.word(), n.next(300) as usize);
        let long = value.repeat(1 + size);
        let command = match n.next(17) {
            0 => format!("SET s{key} {long}"),
            1 => format!("APPEND s{key} {long}"),
            2 => format!("GET s{key}"),
            3 => format!("LPUSH l{key} {value} {long} {i}"),
            4 => format!("RPOP l{key}"),
            5 => format!("HSET h{key} {value} {i} {i} {long}"),
            6 => format!("HMGET h{key} {value} {i} none"),
            7 => format!("ZADD z{key} {i} {value} {size} {i}"),
            8 => format!("ZRANGE z{key} 0 -1 WITHSCORES"),
            9 => format!("SADD i{key} {i} {size} {key}"),
            10 => format!("SMISMEMBER i{key} {size} {key} 1"),
            11 => format!("DEL s{key} l{} h{}", n.next(700), n.next(700)),
            12 => format!("XADD x{key} {}-1 field {value} other {long}", i + 1),
            13 => format!("XLEN x{key}"),
            14 => format!("SETRANGE s{key} {} {value}", size * 100),
            15 => format!("LRANGE l{key} 0 -1"),
            _ => format!("INCRBY c{key} {i}"),
        };
        text.push_str(&command);
        text.push('\n');
    }
    text
}
