//! What `env` in a `#!` line would run, and whether LD_PRELOAD survives it.
//!
//! `#!/usr/bin/env python3` starts python3, and that is the program that has
//! to be preloadable. Options are read as GNU env reads them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// The outcome of an `env` command line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Launch {
    /// The command it runs; `None` when it runs none, or when the line cannot
    /// be understood (`env` itself complains then).
    pub command: Option<OsString>,
    /// The arguments behind the command.
    pub arguments: Vec<OsString>,
    /// The `PATH` that the command is searched by, if the line changes it:
    /// `Some(None)` removes it.
    pub path: Option<Option<OsString>>,
    /// The directory that the line changes to.
    pub directory: Option<OsString>,
    /// What in the line drops or replaces LD_PRELOAD.
    pub drops_preload: Option<String>,
}

/// Reads the arguments of `env` (without its own name). `variable` looks up
/// the environment for `${NAME}` in a split string.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Launch {
    let mut launch = Launch::default();
    let mut rest: Vec<OsString> = arguments.into_iter().collect();
    rest.reverse(); // the next argument is the last
    // A split string may hold another -S; each one shortens the line, but a
    // line that is all options is not worth following for long.
    for _ in 0..1000 {
        match rest.last().map(|argument| argument.as_bytes()) {
            None => return launch,
            Some(b"--") => {
                rest.pop();
                break;
            }
            Some(b"-") => {
                rest.pop();
                launch.drops_preload = Some("env -".into());
                // GNU env takes it for the first operand: options end here.
                break;
            }
            Some([b'-', ..]) => {
                if option(&mut rest, &mut launch, &variable).is_none() {
                    return launch;
                }
            }
            Some(_) => break,
        }
    }
    while let Some(argument) = rest.pop() {
        let Some(at) = argument.as_bytes().iter().position(|&byte| byte == b'=') else {
            launch.command = Some(argument);
            break;
        };
        match &argument.as_bytes()[..at] {
            b"PATH" => launch.path = Some(Some(os(&argument.as_bytes()[at + 1..]))),
            b"LD_PRELOAD" => launch.drops_preload = Some("env LD_PRELOAD=".into()),
            _ => {}
        }
    }
    rest.reverse();
    launch.arguments = rest;
    launch
}

/// Takes one argument of options off `rest`; `None` when it is not understood.
fn option(
    rest: &mut Vec<OsString>,
    launch: &mut Launch,
    variable: &impl Fn(&OsStr) -> Option<OsString>,
) -> Option<()> {
    let argument = rest.pop()?.into_vec();
    if let Some(long) = argument.strip_prefix(b"--") {
        let (name, value) = match long.iter().position(|&byte| byte == b'=') {
            Some(at) => (&long[..at], Some(os(&long[at + 1..]))),
            None => (long, None),
        };
        let value = |rest: &mut Vec<OsString>| value.clone().or_else(|| rest.pop());
        match name {
            b"ignore-environment" => launch.drops_preload = Some("env -i".into()),
            b"unset" => unset(launch, &value(rest)?),
            b"chdir" => launch.directory = Some(value(rest)?),
            b"argv0" => drop(value(rest)?),
            b"split-string" => {
                let text = value(rest)?;
                splice(rest, &text, variable)?;
            }
            b"debug" | b"null" | b"list-signal-handling" => {}
            b"block-signal" | b"default-signal" | b"ignore-signal" => {}
            _ => return None,
        }
        return Some(());
    }
    let mut letters = &argument[1..];
    while let Some((letter, behind)) = letters.split_first() {
        letters = behind;
        // The value of a letter is what follows it, or the next argument.
        let mut value = |rest: &mut Vec<OsString>| {
            let behind = std::mem::take(&mut letters);
            if behind.is_empty() {
                rest.pop()
            } else {
                Some(os(behind))
            }
        };
        match letter {
            b'i' => launch.drops_preload = Some("env -i".into()),
            b'u' => unset(launch, &value(rest)?),
            b'C' => launch.directory = Some(value(rest)?),
            b'a' => drop(value(rest)?),
            b'S' => {
                let text = value(rest)?;
                splice(rest, &text, variable)?;
            }
            b'v' | b'0' => {}
            _ => return None,
        }
    }
    Some(())
}

fn unset(launch: &mut Launch, name: &OsStr) {
    match name.as_bytes() {
        b"PATH" => launch.path = Some(None),
        b"LD_PRELOAD" => launch.drops_preload = Some("env -u LD_PRELOAD".into()),
        _ => {}
    }
}

fn splice(
    rest: &mut Vec<OsString>,
    text: &OsStr,
    variable: &impl Fn(&OsStr) -> Option<OsString>,
) -> Option<()> {
    rest.extend(split(text.as_bytes(), variable)?.into_iter().rev());
    Some(())
}

/// Splits the string of `env -S` into arguments: blanks separate, quotes
/// join, `\` escapes, `${NAME}` is replaced, `#` starts a comment.
fn split(text: &[u8], variable: &impl Fn(&OsStr) -> Option<OsString>) -> Option<Vec<OsString>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        let add: &[u8] = match byte {
            b'\'' | b'"' if quote == Some(byte) => {
                quote = None;
                b""
            }
            b'\'' | b'"' if quote.is_none() => {
                quote = Some(byte);
                b""
            }
            b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r' if quote.is_none() => {
                words.extend(word.take());
                continue;
            }
            b'#' if word.is_none() && quote.is_none() => break,
            b'\\' => match (bytes.next()?, quote) {
                (b'\\', _) => b"\\",
                (b'\'', _) => b"'",
                (other, Some(b'\'')) => &[b'\\', other],
                (b'_', None) => {
                    words.extend(word.take());
                    continue;
                }
                (b'_', _) => b" ",
                (b'c', None) => break,
                (b'f', _) => b"\x0c",
                (b'n', _) => b"\n",
                (b'r', _) => b"\r",
                (b't', _) => b"\t",
                (b'v', _) => b"\x0b",
                (b'#', _) => b"#",
                (b'$', _) => b"$",
                (b'"', _) => b"\"",
                _ => return None,
            },
            b'$' if quote != Some(b'\'') => {
                if bytes.next()? != b'{' {
                    return None;
                }
                let name: Vec<u8> = bytes.by_ref().take_while(|&byte| byte != b'}').collect();
                let value = variable(OsStr::from_bytes(&name)).unwrap_or_default();
                word.get_or_insert_default()
                    .extend_from_slice(value.as_bytes());
                continue;
            }
            other => &[other],
        };
        word.get_or_insert_default().extend_from_slice(add);
    }
    if quote.is_some() {
        return None;
    }
    words.extend(word);
    Some(words.into_iter().map(OsString::from_vec).collect())
}

fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_os_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &[&str]) -> Launch {
        parse(arguments.iter().map(OsString::from), |name| {
            (name == "HOME").then(|| "/home/user".into())
        })
    }

    fn command(arguments: &[&str]) -> Option<String> {
        run(arguments)
            .command
            .map(|name| name.into_string().unwrap())
    }

    #[test]
    fn the_command_is_found_behind_options_and_assignments() {
        let python = Some("python3".to_string());
        for arguments in [
            &["python3", "-i"][..],
            &["-S", "python3 -u"],
            &["-Spython3 -u"],
            &["-vSpython3 -u"],
            &["-S python3"],
            &["--split-string=python3 -u"],
            &["-S", "A=1 -S python3"],
            &["-S", "-u HOME --chdir /tmp -- A=1 python3"],
            &["--block-signal=INT", "-v", "python3"],
        ] {
            let launch = run(arguments);
            if arguments != ["-S", "A=1 -S python3"] {
                assert_eq!(command(arguments), python, "{arguments:?}");
            }
            assert_eq!(launch.drops_preload, None, "{arguments:?}");
        }
        // Options end at the first assignment.
        assert_eq!(command(&["-S", "A=1 -S python3"]).unwrap(), "-S");
        assert_eq!(run(&["a", "b", "c"]).arguments, ["b", "c"]);
        assert_eq!(run(&["-S", "a b", "c"]).arguments, ["b", "c"]);
    }

    #[test]
    fn what_drops_the_library_is_noticed() {
        for (arguments, reason) in [
            (&["-i", "sh"][..], "env -i"),
            (&["-", "sh"], "env -"),
            (&["-iS sh"], "env -i"),
            (&["--ignore-environment", "sh"], "env -i"),
            (&["-u", "LD_PRELOAD", "sh"], "env -u LD_PRELOAD"),
            (&["-uLD_PRELOAD", "sh"], "env -u LD_PRELOAD"),
            (&["--unset=LD_PRELOAD", "sh"], "env -u LD_PRELOAD"),
            (&["-S", "LD_PRELOAD= sh"], "env LD_PRELOAD="),
        ] {
            let launch = run(arguments);
            assert_eq!(launch.drops_preload.as_deref(), Some(reason));
            assert_eq!(launch.command, Some("sh".into()), "{arguments:?}");
        }
    }

    #[test]
    fn the_search_path_and_directory_are_followed() {
        assert_eq!(run(&["PATH=/x", "sh"]).path, Some(Some("/x".into())));
        assert_eq!(run(&["-u", "PATH", "sh"]).path, Some(None));
        assert_eq!(run(&["sh"]).path, None);
        assert_eq!(run(&["-C", "/d", "sh"]).directory, Some("/d".into()));
    }

    #[test]
    fn a_line_that_env_refuses_runs_nothing() {
        for arguments in [
            &["--bogus", "sh"][..],
            &["-z", "sh"],
            &["-u"],
            &["-S", "sh 'open"],
            &["-S", "sh $HOME"],
            &["-S", "sh \\q"],
            &[],
        ] {
            assert_eq!(command(arguments), None, "{arguments:?}");
        }
    }

    #[test]
    fn split_strings_follow_gnu_env() {
        let words = |text: &str| -> Vec<String> {
            let home = |name: &OsStr| (name == "HOME").then(|| OsString::from("/h u"));
            let words = split(text.as_bytes(), &home).unwrap();
            words
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect()
        };
        assert_eq!(words("  a  b\tc "), ["a", "b", "c"]);
        assert_eq!(words(r#"a' b 'c "d e" '' "#), ["a b c", "d e", ""]);
        assert_eq!(words(r#"a\_b "a\_b" 'a\_b'"#), ["a", "b", "a b", r"a\_b"]);
        assert_eq!(words(r"a\#b #c d"), ["a#b"]);
        assert_eq!(words(r"a \c b"), ["a"]);
        assert_eq!(words("${HOME}/x ${NO}"), ["/h u/x", ""]);
        assert_eq!(words(r"'${HOME}' \$"), ["${HOME}", "$"]);
    }
}
