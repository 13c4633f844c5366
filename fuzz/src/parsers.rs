//! Every text that we read: never a panic, what was printed is read again as it was, and numbers
//! are what a second, simple reader makes of them.

mod listing;
mod programs;
mod reports;
mod scripts;
mod tunables;

use crate::targets::Target;

/// The target.
pub const TARGET: Target = Target {
    name: "parsers",
    run,
    print,
    replay: |text| {
        run(&unprint(text)?);
        Ok(())
    },
};

/// Reads a text and looks at what comes of it.
type Check = fn(&[u8]);

/// Which text the first byte asks for.
const KINDS: [(&str, Check); 12] = [
    ("maps", listing::maps),
    ("smaps", listing::smaps),
    ("areas", listing::made),
    ("environment", tunables::environment),
    ("number", tunables::number),
    ("interpreter", programs::interpreter),
    ("env", programs::env),
    ("elf", programs::elf),
    ("script", scripts::scripts),
    ("operations", scripts::operations),
    ("report", reports::report),
    ("frame", reports::frame),
];

fn run(data: &[u8]) {
    if let Some((first, rest)) = data.split_first() {
        KINDS[usize::from(*first) % KINDS.len()].1(rest);
    }
}

/// One line: the kind, and the text as it would stand in a Rust source.
fn print(data: &[u8]) -> String {
    let Some((first, rest)) = data.split_first() else {
        return String::new();
    };
    let kind = KINDS[usize::from(*first) % KINDS.len()].0;
    format!("{kind} \"{}\"\n", rest.escape_ascii())
}

/// The bytes that [`print`] printed.
fn unprint(line: &str) -> Result<Vec<u8>, String> {
    let (kind, text) = line.trim().split_once(' ').ok_or("no kind")?;
    let kind = KINDS.iter().position(|(name, _)| *name == kind);
    let mut bytes = vec![kind.ok_or("no such kind")? as u8];
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'));
    let mut rest = text.ok_or("no quotes")?.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().ok_or("nothing is escaped")? {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next(), rest.next()].map(|digit| digit.unwrap_or(0));
                    let digits = String::from_utf8_lossy(&digits).into_owned();
                    u8::from_str_radix(&digits, 16).map_err(|e| e.to_string())?
                }
                other => other,
            },
            byte => byte,
        });
    }
    Ok(bytes)
}
