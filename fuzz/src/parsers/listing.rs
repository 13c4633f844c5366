//! `/proc/PID/maps` and `/proc/PID/smaps`.

use crate::bytes::Bytes;
use crate::targets::planted;
use fencepost::mmu::addr::{PAGE, Rights};
use fencepost::mmu::listing::{self, Line, Sizes};

fn printed(line: &Line<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    line.print(|part| text.extend_from_slice(part));
    // The bug: a device number loses a digit beyond three of them.
    if planted() && line.device.0 >> 12 != 0 {
        let at = text.iter().position(|byte| *byte == b':').unwrap_or(0);
        text.remove(at - 1);
    }
    text
}

/// What was read is printed as it was, but for blanks at the name.
fn round_trip(text: &[u8], line: &Line<'_>) {
    let again = printed(line);
    assert_eq!(Line::parse(&again).as_ref(), Ok(line), "{line:?}");
    let name = text.len() - line.name.len();
    assert_eq!(&text[name..], line.name, "the name ends the line");
    let trimmed = |text: &[u8]| text.trim_ascii_end().to_vec();
    let head = again.len() - line.name.len();
    assert_eq!(trimmed(&text[..name]), trimmed(&again[..head]), "{line:?}");
    let shown = line.to_string();
    if std::str::from_utf8(line.name).is_ok() {
        assert_eq!(shown.as_bytes(), line_printed_plainly(line), "{line:?}");
    }
    assert_eq!(line.len(), line.end - line.start);
    let _ = (line.kind(), format!("{line:?}"));
}

fn line_printed_plainly(line: &Line<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    line.print(|part| text.extend_from_slice(part));
    text
}

fn lines(text: &[u8]) -> Vec<&[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == b'\n').collect()
}

pub fn maps(text: &[u8]) {
    let all = lines(text);
    let read: Vec<_> = listing::maps(text).collect();
    assert_eq!(read.len(), all.len(), "as many answers as lines");
    for (line, read) in all.iter().zip(read) {
        match read {
            Ok(read) => round_trip(line, &read),
            Err(wrong) => {
                assert!(wrong.column <= line.len(), "{wrong}");
                assert!(!wrong.to_string().is_empty());
            }
        }
    }
}

pub fn smaps(text: &[u8]) {
    let lines = lines(text).len();
    let mut areas = 0;
    for area in listing::smaps(text) {
        areas += 1;
        if let Ok((line, sizes)) = area {
            assert_eq!(Line::parse(&printed(&line)), Ok(line));
            assert!(sizes.dirty() >= sizes.private_dirty);
        }
    }
    assert!(areas <= lines, "{areas} areas of {lines} lines");
    if lines > 0 {
        assert!(areas > 0, "every line is seen");
    }
}

/// Areas are made, printed as the kernel prints them, and read.
pub fn made(data: &[u8]) {
    let mut bytes = Bytes(data);
    let mut text = Vec::new();
    let mut expected = Vec::new();
    while !bytes.is_empty() && expected.len() < 20 {
        let start = (bytes.number() & !(PAGE - 1)).min(u64::MAX - 2 * PAGE + 1);
        let room = (u64::MAX - start) / PAGE;
        let pages = 1 + bytes.number() % room;
        let bits = bytes.byte();
        let mut rights = Rights::NONE;
        for (bit, right) in [(1, Rights::READ), (2, Rights::WRITE), (4, Rights::EXEC)] {
            if bits & bit != 0 {
                rights = rights.or(right);
            }
        }
        let name_len = usize::from(bytes.byte() % 40);
        let name = bytes.take(name_len);
        let line = Line {
            start,
            end: start + pages * PAGE,
            rights,
            shared: bits & 8 != 0,
            offset: bytes.number(),
            device: (bytes.number() as u32, bytes.number() as u32),
            inode: bytes.number(),
            name: if name.contains(&b'\n') || name.first() == Some(&b' ') {
                b"/a b"
            } else {
                name
            },
        };
        let sizes = Sizes {
            size: bytes.number(),
            rss: bytes.number(),
            private_dirty: bytes.number(),
            locked: bytes.number(),
            ..Sizes::default()
        };
        expected.push((line, sizes));
    }
    for (line, sizes) in &expected {
        let one = printed(line);
        assert_eq!(Line::parse(&one).as_ref(), Ok(line));
        text.extend_from_slice(&one);
        for (key, value) in [
            ("Size", sizes.size),
            ("Rss", sizes.rss),
            ("Private_Dirty", sizes.private_dirty),
            ("THPeligible", 1),
            ("Locked", sizes.locked),
        ] {
            let unit = if key == "THPeligible" { "" } else { " kB" };
            text.extend_from_slice(format!("\n{key}: {value:>14}{unit}").as_bytes());
        }
        text.extend_from_slice(b"\nVmFlags: rd wr mr mw me ac sd \n");
    }
    let read: Result<Vec<_>, _> = listing::smaps(&text).collect();
    assert_eq!(read, Ok(expected));
}
