//! Reports of guard mode: lines of JSON, and frames in logs.

use crate::report::frames;
use crate::report::parse::{START, entry, line};

pub fn report(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let read = line(&text);
    let starts = text.matches(START).count();
    assert!(!read.is_empty() && read.len() <= starts + 1, "{read:?}");
    for read in read {
        match read {
            // What was read, printed, is read again as it was.
            Ok(read) => assert_eq!(entry(&read.value.to_string()), Ok(read)),
            Err(error) => assert!(!error.is_empty()),
        }
    }
    // What precedes a report on its line does not hide it.
    let good = "{\"fencepost\":1,\"kind\":\"leak\",\"bytes\":48}";
    let behind = line(&format!("{text}{good}"));
    if !text.contains(START) {
        assert_eq!(behind.last(), Some(&entry(good)), "{text:?}");
    }
}

pub fn frame(text: &[u8]) {
    let Some(found) = frames::parse(text) else {
        return;
    };
    let frame = &found.frame;
    let module = frame.module.as_deref().unwrap_or_default();
    let offset = frame.offset.expect("a frame in a log has one");
    let printed = format!(
        "{}#{} {} {module}+{offset}",
        found.indent, found.index, frame.pc
    );
    assert_eq!(frames::parse(printed.as_bytes()), Some(found));
}
