//! The `#!` line of a script, read as the kernel reads it.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// How many bytes of a file the kernel looks at (`BINPRM_BUF_SIZE`).
pub const HEAD: usize = 256;

/// How many interpreters the kernel follows before it answers `ELOOP`.
pub const MAX_DEPTH: usize = 5;

/// What a `#!` line names.
#[derive(Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// The interpreter; relative paths start at the current directory.
    pub path: PathBuf,
    /// The rest of the line: one argument, however many blanks it holds.
    pub argument: Option<OsString>,
}

/// Reads the `#!` line at the start of a file. `head` is what the file has in
/// its first [`HEAD`] bytes. `None` when there is no such line, or none that
/// the kernel would accept.
pub fn interpreter(head: &[u8]) -> Option<Interpreter> {
    let head = &head[..head.len().min(HEAD)];
    let line = head.strip_prefix(b"#!")?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    // The kernel's buffer holds zeros behind a short file.
    let end = line.iter().position(|byte| matches!(byte, b'\n' | 0));
    let truncated = end.is_none() && head.len() == HEAD;
    // A carriage return is no blank: to the kernel it is part of the name.
    let trim = |text: &'_ [u8]| -> std::ops::Range<usize> {
        let end = text.iter().rposition(|byte| !blank(byte));
        let start = text.iter().position(|byte| !blank(byte));
        start.unwrap_or(0)..end.map_or(0, |end| end + 1)
    };
    let line = &line[..end.unwrap_or(line.len())];
    let cut = truncated && line.last().is_some_and(|last| !blank(last));
    let line = &line[trim(line)];
    let (path, argument) = match line.iter().position(blank) {
        Some(at) => (&line[..at], &line[at..][trim(&line[at..])]),
        // A path cut off by the end of the buffer may name something else.
        None if cut => return None,
        None => (line, &line[..0]),
    };
    if path.is_empty() {
        return None;
    }
    let os = |bytes: &[u8]| OsStr::from_bytes(bytes).to_os_string();
    Some(Interpreter {
        path: os(path).into(),
        argument: (!argument.is_empty()).then(|| os(argument)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Option<(String, Option<String>)> {
        let found = interpreter(text.as_bytes())?;
        let argument = found.argument.map(|text| text.into_string().unwrap());
        Some((found.path.to_str()?.to_string(), argument))
    }

    #[test]
    fn the_line_is_a_path_and_at_most_one_argument() {
        let sh = |argument: Option<&str>| Some(("/bin/sh".into(), argument.map(str::to_string)));
        assert_eq!(line("#!/bin/sh\necho"), sh(None));
        assert_eq!(line("#!/bin/sh"), sh(None));
        assert_eq!(line("#! \t/bin/sh \n"), sh(None));
        assert_eq!(line("#!/bin/sh -e\n"), sh(Some("-e")));
        assert_eq!(line("#!/bin/sh  -e  -u \t\n-x"), sh(Some("-e  -u")));
        assert_eq!(line("#!/bin/sh\0junk"), sh(None));
        assert_eq!(line("#!/bin/sh -e\r\n"), sh(Some("-e\r")));
        assert_eq!(line("#!/bin/sh\r\n"), Some(("/bin/sh\r".into(), None)));
    }

    #[test]
    fn what_is_no_interpreter_line_is_refused() {
        for text in [
            "",
            "#",
            "#!",
            "#!\n/bin/sh",
            "#! \t\n",
            " #!/bin/sh",
            "echo",
        ] {
            assert_eq!(line(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_path_longer_than_the_kernels_buffer_is_refused() {
        let long = format!("#!/{}\n", "x".repeat(HEAD));
        assert_eq!(line(&long), None);
        // A long argument is cut, the interpreter still runs.
        let long = format!("#!/bin/sh {}\n", "x".repeat(HEAD));
        let (path, argument) = line(&long).unwrap();
        assert_eq!(path, "/bin/sh");
        assert!(argument.unwrap().starts_with("xxx"));
        // A path that just fits is whole.
        let fits = format!("#!/{}\n", "x".repeat(HEAD - 4));
        assert_eq!(line(&fits).unwrap().0.len(), HEAD - 3);
    }
}
