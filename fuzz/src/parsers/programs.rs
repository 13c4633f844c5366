//! What the command reads of programs: `#!` lines, `env` lines, ELF files.

use crate::elf::{Elf, is_elf, machine};
use crate::env;
use crate::script::{HEAD, interpreter as read};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

pub fn interpreter(text: &[u8]) {
    let Some(found) = read(text) else {
        return;
    };
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let path = found.path.as_os_str().as_bytes();
    assert!(text.starts_with(b"#!"));
    assert!(!path.is_empty() && !path.iter().any(|b| blank(b) || matches!(b, b'\n' | 0)));
    let mut line = b"#!".to_vec();
    line.extend_from_slice(path);
    if let Some(argument) = &found.argument {
        let argument = argument.as_bytes();
        assert!(!argument.is_empty());
        assert!(!argument.first().is_some_and(blank) && !argument.last().is_some_and(blank));
        line.push(b' ');
        line.extend_from_slice(argument);
    }
    // What was read, written plainly, is read the same, if it fits.
    line.push(b'\n');
    if line.len() <= HEAD {
        assert_eq!(read(&line), Some(found));
    }
}

/// Arguments are separated by zeros.
pub fn env(text: &[u8]) {
    let arguments: Vec<OsString> = text
        .split(|byte| *byte == 0)
        .map(|argument| OsString::from_vec(argument.to_vec()))
        .collect();
    let variable = |name: &OsStr| (name.len() & 1 == 0).then(|| OsString::from("a  b"));
    let launch = env::parse(arguments.clone(), variable);
    if let Some(command) = &launch.command {
        assert!(!command.as_bytes().contains(&b'='), "an assignment");
    } else {
        assert!(launch.arguments.is_empty(), "arguments of nothing");
    }
    // What follows the command is as it was, unless a split string put it there.
    let splits = arguments
        .iter()
        .any(|argument| argument.as_bytes().starts_with(b"-"));
    if !splits {
        assert!(arguments.ends_with(&launch.arguments));
        let first = arguments
            .iter()
            .find(|argument| !argument.as_bytes().contains(&b'='));
        assert_eq!(launch.command.as_ref(), first);
    }
}

pub fn elf(bytes: &[u8]) {
    let head = &bytes[..bytes.len().min(HEAD)];
    let Some(found) = machine(head) else {
        return;
    };
    assert!(is_elf(head));
    assert!(!found.to_string().is_empty());
    for symbols in [false, true] {
        let file = in_memory(bytes);
        if let Ok(elf) = Elf::read(file, symbols) {
            assert!(symbols || elf.allocator.is_none());
            let _ = (elf.libc(), elf.is_loader());
        }
    }
}

fn in_memory(bytes: &[u8]) -> File {
    // SAFETY: a new descriptor that nobody else has.
    #[allow(unsafe_code)]
    let mut file = unsafe {
        let number = libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC);
        assert!(number >= 0, "no memory for a file");
        File::from_raw_fd(number)
    };
    file.write_all(bytes).expect("memory");
    file
}
