//! Frames in a log: lines such as `    #0 0x55d000001234 /path/prog+0x1234`.

use super::Frame;
use super::parse::Hex;

/// A frame and how it stands in its line.
#[derive(Debug, PartialEq, Eq)]
pub struct Found<'a> {
    pub indent: &'a str,
    pub index: usize,
    pub frame: Frame,
}

/// Reads a line without its end; `None` if it is no frame with a module.
pub fn parse(line: &[u8]) -> Option<Found<'_>> {
    let line = str::from_utf8(line).ok()?;
    let frame = line.trim_start_matches([' ', '\t']);
    let (indent, _) = line.split_at(line.len() - frame.len());
    let (index, rest) = frame.strip_prefix('#')?.split_once(' ')?;
    // parse would take a sign too.
    let index = index
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| index.parse().ok())??;
    let (pc, rest) = rest.split_once(' ')?;
    // The name of the module may hold anything, even a plus sign.
    let (module, offset) = rest.trim_end().rsplit_once('+')?;
    let frame = Frame {
        pc: Hex::parse(pc)?,
        module: (!module.is_empty()).then(|| module.to_string()),
        offset: Some(Hex::parse(offset)?),
    };
    Some(Found {
        indent,
        index,
        frame,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_from_everything_else() {
        let found = parse(b"    #12 0x7f12 /opt/a b+c/lib++.so+0x1f  ").unwrap();
        assert_eq!((found.indent, found.index), ("    ", 12));
        assert_eq!(found.frame.pc, Hex(0x7f12));
        assert_eq!(found.frame.module.as_deref(), Some("/opt/a b+c/lib++.so"));
        assert_eq!(found.frame.offset, Some(Hex(0x1f)));
        for line in [
            "",
            "#0",
            "# 0x1 /a+0x1",
            "#+1 0x1 /a+0x1",
            "#0 0x1 /a",
            "#0 0x1",
            "#0 1 /a+0x1",
            "#0 0x1 /a+1",
            "#0 main at a.c:1:2  (0x1 /a+0x1)",
            "see #0 0x1 /a+0x1",
            "#99999999999999999999999 0x1 /a+0x1",
        ] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        assert_eq!(parse(b"#0 0x1 /\xff+0x1"), None);
    }
}
