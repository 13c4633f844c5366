//! The text of `/proc/PID/maps` and `/proc/PID/smaps`, read and written without allocating.
//!
//! ```text
//! 00400000-004f4000 r-xp 00000000 fd:00 4849671                            /bin/bash
//! start    end      |    |        |     inode                              name
//!                   |    offset   device
//!                   rights, private or shared
//! ```
//!
//! Numbers are read exactly as strictly as the kernel writes them (proc_pid_maps(5),
//! `fs/proc/task_mmu.c`), so that what was read is written again byte for byte. Only the number
//! of blanks before the name is free: it differs between kernels of 32 and 64 bits. Names are
//! bytes: a path need not be UTF-8, may hold blanks, and may be anything but a line break, which
//! the kernel writes as `\012`.

use core::fmt;

use super::addr::{PAGE, Rights};

/// The column at which a 64-bit kernel begins the name.
const NAME_COLUMN: usize = 73;

/// One area as the kernel lists it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Line<'a> {
    /// The first address.
    pub start: u64,
    /// The first address behind it.
    pub end: u64,
    /// What the process may do.
    pub rights: Rights,
    /// Whether stores are seen by others.
    pub shared: bool,
    /// The byte of the file at `start`; 0 without a file.
    pub offset: u64,
    /// The device with the file, its major and minor number.
    pub device: (u32, u32),
    /// The file on the device; 0 without one.
    pub inode: u64,
    /// What stands behind all that, empty for anonymous memory.
    pub name: &'a [u8],
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name<'a> {
    /// Anonymous memory.
    Anonymous,
    /// Anonymous memory with a label (`PR_SET_VMA_ANON_NAME`), shared or not.
    Labelled(&'a [u8]),
    /// The heap that brk moves.
    Heap,
    /// The main thread's stack.
    Stack,
    /// Another thing of the kernel in brackets: `vdso`, `vvar`, `vsyscall`, `uprobes`, …
    Kernel(&'a [u8]),
    /// A file. Its path ends before the mark of a deleted one, which a file could bear by name.
    File {
        /// The path.
        path: &'a [u8],
        /// Whether nothing is there under the name any more.
        deleted: bool,
    },
    /// Something that is mapped like a file but has no path, such as `anon_inode:[perf_event]`.
    Other(&'a [u8]),
}

/// A part of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Field {
    /// The first address.
    Start,
    /// The address behind the last.
    End,
    /// Rights, and private or shared.
    Rights,
    /// The offset into the file.
    Offset,
    /// The device.
    Device,
    /// The inode.
    Inode,
    /// The name.
    Name,
    /// A line of `smaps` that is not `Key: value`.
    Key,
    /// The value of a key.
    Value,
}

/// A line that the kernel would not write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Malformed {
    /// The part that is wrong or missing.
    pub field: Field,
    /// The byte of the line at which it was expected.
    pub column: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.field {
            Field::Start => "no start address",
            Field::End => "no end address behind the start",
            Field::Rights => "no rights",
            Field::Offset => "no offset",
            Field::Device => "no device",
            Field::Inode => "no inode",
            Field::Name => "no name",
            Field::Key => "no key",
            Field::Value => "no value",
        };
        write!(f, "{what} as Linux writes it at column {}", self.column)
    }
}

impl core::error::Error for Malformed {}

/// The unread rest of a line.
struct Cursor<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn rest(&self) -> &'a [u8] {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn malformed(&self, field: Field) -> Malformed {
        Malformed {
            field,
            column: self.at,
        }
    }

    /// One byte.
    fn byte(&mut self, wanted: u8, field: Field) -> Result<(), Malformed> {
        if self.rest().first() == Some(&wanted) {
            self.at += 1;
            Ok(())
        } else {
            Err(self.malformed(field))
        }
    }

    /// A number in base 10 or 16 with at least `width` digits, zeros in front only up to there.
    fn number(&mut self, base: u32, width: usize, field: Field) -> Result<u64, Malformed> {
        let rest = self.rest();
        let digit = |byte: &u8| match (base, byte) {
            (_, b'0'..=b'9') => Some(u64::from(byte - b'0')),
            (16, b'a'..=b'f') => Some(u64::from(byte - b'a' + 10)),
            _ => None,
        };
        let len = rest.iter().take_while(|byte| digit(byte).is_some()).count();
        let wrong = self.malformed(field);
        if len < width || len == 0 || (len > width.max(1) && rest.first() == Some(&b'0')) {
            return Err(wrong);
        }
        let mut number = 0u64;
        for byte in rest.iter().take(len) {
            number = number
                .checked_mul(u64::from(base))
                .and_then(|n| n.checked_add(digit(byte)?))
                .ok_or(wrong)?;
        }
        self.at += len;
        Ok(number)
    }

    /// One of two bytes; whether it is the first.
    fn either(&mut self, yes: u8, no: u8) -> Result<bool, Malformed> {
        let found = self.rest().first().copied();
        if found == Some(yes) || found == Some(no) {
            self.at += 1;
            Ok(found == Some(yes))
        } else {
            Err(self.malformed(Field::Rights))
        }
    }
}

impl<'a> Line<'a> {
    /// Reads one line, without its line break.
    ///
    /// # Errors
    /// The first part that is not as the kernel writes it.
    pub fn parse(line: &'a [u8]) -> Result<Line<'a>, Malformed> {
        let mut cursor = Cursor { line, at: 0 };
        let start = cursor.number(16, 8, Field::Start)?;
        if !start.is_multiple_of(PAGE) {
            return Err(Malformed {
                field: Field::Start,
                column: 0,
            });
        }
        cursor.byte(b'-', Field::End)?;
        let wrong = cursor.malformed(Field::End);
        let end = cursor.number(16, 8, Field::End)?;
        if end <= start || !end.is_multiple_of(PAGE) {
            return Err(wrong);
        }
        cursor.byte(b' ', Field::Rights)?;
        let mut rights = Rights::NONE;
        for (letter, right) in [
            (b'r', Rights::READ),
            (b'w', Rights::WRITE),
            (b'x', Rights::EXEC),
        ] {
            if cursor.either(letter, b'-')? {
                rights = rights.or(right);
            }
        }
        let shared = cursor.either(b's', b'p')?;
        cursor.byte(b' ', Field::Offset)?;
        let offset = cursor.number(16, 8, Field::Offset)?;
        cursor.byte(b' ', Field::Device)?;
        let device = |cursor: &mut Cursor<'_>| {
            let wrong = cursor.malformed(Field::Device);
            let number = cursor.number(16, 2, Field::Device)?;
            u32::try_from(number).map_err(|_| wrong)
        };
        let major = device(&mut cursor)?;
        cursor.byte(b':', Field::Device)?;
        let minor = device(&mut cursor)?;
        cursor.byte(b' ', Field::Inode)?;
        let inode = cursor.number(10, 1, Field::Inode)?;
        // Anonymous memory has one blank here, which copies of a listing tend to lose.
        if !cursor.rest().is_empty() {
            cursor.byte(b' ', Field::Name)?;
        }
        let blanks = cursor.rest().iter().take_while(|b| **b == b' ').count();
        cursor.at += blanks;
        let name = cursor.rest();
        let sound = if name.is_empty() {
            blanks == 0
        } else {
            blanks > 0 && !name.contains(&b'\n')
        };
        if !sound {
            return Err(cursor.malformed(Field::Name));
        }
        Ok(Line {
            start,
            end,
            rights,
            shared,
            offset,
            device: (major, minor),
            inode,
            name,
        })
    }

    /// Bytes of the area.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // An area is never empty.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// What the name stands for.
    #[must_use]
    pub fn kind(&self) -> Name<'a> {
        let name = self.name;
        let label = |prefix: &[u8]| name.strip_prefix(prefix)?.strip_suffix(b"]");
        match name {
            b"" => Name::Anonymous,
            b"[heap]" => Name::Heap,
            b"[stack]" => Name::Stack,
            [b'/', ..] => match name.strip_suffix(b" (deleted)") {
                Some(path) => Name::File {
                    path,
                    deleted: true,
                },
                None => Name::File {
                    path: name,
                    deleted: false,
                },
            },
            _ => match label(b"[anon:").or(label(b"[anon_shmem:")) {
                Some(label) => Name::Labelled(label),
                None => label(b"[").map_or(Name::Other(name), Name::Kernel),
            },
        }
    }

    /// Everything before the name, as a 64-bit kernel writes it, with the blanks in between.
    #[must_use]
    pub fn head(&self) -> Head<'_> {
        Head(self)
    }

    /// Writes the line, without a line break, as a 64-bit kernel does: first the head, then the
    /// name. Nothing of the name is changed.
    pub fn print(&self, mut sink: impl FnMut(&[u8])) {
        /// Text for a sink of bytes.
        struct Text<F>(F);
        impl<F: FnMut(&[u8])> fmt::Write for Text<F> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                (self.0)(text.as_bytes());
                Ok(())
            }
        }
        // The sink has no errors, and numbers have none of their own.
        let _ = fmt::Write::write_fmt(&mut Text(&mut sink), format_args!("{}", self.head()));
        if !self.name.is_empty() {
            sink(self.name);
        }
    }
}

/// A line as far as it is text, see [`Line::head`].
#[derive(Debug, Clone, Copy)]
pub struct Head<'a>(&'a Line<'a>);

impl fmt::Display for Head<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Counts what passes.
        struct Count<'f, 'g>(&'f mut fmt::Formatter<'g>, usize);
        impl fmt::Write for Count<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.1 += text.len();
                self.0.write_str(text)
            }
        }
        let line = self.0;
        let mut counted = Count(f, 0);
        fmt::Write::write_fmt(
            &mut counted,
            format_args!(
                "{:08x}-{:08x} {}{} {:08x} {:02x}:{:02x} {} ",
                line.start,
                line.end,
                line.rights,
                if line.shared { 's' } else { 'p' },
                line.offset,
                line.device.0,
                line.device.1,
                line.inode
            ),
        )?;
        let written = counted.1;
        if line.name.is_empty() {
            return Ok(());
        }
        // One blank stands before the name even where there is no room left.
        for _ in written..NAME_COLUMN.max(written + 1) {
            f.write_str(" ")?;
        }
        Ok(())
    }
}

/// The line as text; bytes of the name that are not UTF-8 become U+FFFD.
impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head().fmt(f)?;
        for chunk in self.name.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({self})")
    }
}

/// The lines of a text, without line breaks; a last one without a line break counts.
fn split(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines = (!text.is_empty()).then(|| text.split(|byte| *byte == b'\n'));
    lines.into_iter().flatten()
}

/// All lines of a `/proc/PID/maps`.
pub fn maps(text: &[u8]) -> impl Iterator<Item = Result<Line<'_>, Malformed>> {
    split(text).map(Line::parse)
}

/// What `smaps` counts in one area, all in KiB. What a kernel does not count is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Sizes {
    /// The area.
    pub size: u64,
    /// In memory.
    pub rss: u64,
    /// In memory, each page divided by the number of its users.
    pub pss: u64,
    /// In memory, used by others too, as on disk.
    pub shared_clean: u64,
    /// In memory, used by others too, changed.
    pub shared_dirty: u64,
    /// In memory, as on disk.
    pub private_clean: u64,
    /// In memory, changed.
    pub private_dirty: u64,
    /// In memory, not of a file.
    pub anonymous: u64,
    /// In memory until it is needed elsewhere (`MADV_FREE`).
    pub lazy_free: u64,
    /// In huge pages.
    pub anon_huge: u64,
    /// On the swap device.
    pub swap: u64,
    /// Locked in memory.
    pub locked: u64,
}

impl Sizes {
    /// Changed and in memory: what would have to be written somewhere before it can be dropped.
    #[must_use]
    pub const fn dirty(&self) -> u64 {
        self.shared_dirty.saturating_add(self.private_dirty)
    }

    fn place(&mut self, key: &[u8]) -> Option<&mut u64> {
        Some(match key {
            b"Size" => &mut self.size,
            b"Rss" => &mut self.rss,
            b"Pss" => &mut self.pss,
            b"Shared_Clean" => &mut self.shared_clean,
            b"Shared_Dirty" => &mut self.shared_dirty,
            b"Private_Clean" => &mut self.private_clean,
            b"Private_Dirty" => &mut self.private_dirty,
            b"Anonymous" => &mut self.anonymous,
            b"LazyFree" => &mut self.lazy_free,
            b"AnonHugePages" => &mut self.anon_huge,
            b"Swap" => &mut self.swap,
            b"Locked" => &mut self.locked,
            _ => return None,
        })
    }

    /// Reads one line `Key:   12 kB`. Keys that are not counted here, with whatever value, are
    /// passed over: kernels add some now and then.
    ///
    /// # Errors
    /// If the line begins with no key, or the value of one that counts is no number of KiB.
    pub fn read(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let wrong = |field, column| Malformed { field, column };
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or(wrong(Field::Key, 0))?;
        let (key, value) = line.split_at(colon);
        if !key.first().is_some_and(u8::is_ascii_uppercase) {
            return Err(wrong(Field::Key, 0));
        }
        let Some(place) = self.place(key) else {
            return Ok(());
        };
        let blanks = value.iter().skip(1).take_while(|b| **b == b' ').count();
        let mut cursor = Cursor {
            line,
            at: colon + 1 + blanks,
        };
        let number = cursor.number(10, 1, Field::Value)?;
        if cursor.rest() != b" kB" {
            return Err(cursor.malformed(Field::Value));
        }
        *place = number;
        Ok(())
    }
}

/// All areas of a `/proc/PID/smaps` with their sizes. After an error the area that it is in is
/// left out.
pub fn smaps(text: &[u8]) -> impl Iterator<Item = Result<(Line<'_>, Sizes), Malformed>> {
    let mut lines = split(text).peekable();
    core::iter::from_fn(move || {
        let mut area = Line::parse(lines.next()?).map(|line| (line, Sizes::default()));
        // A line of an area begins with a digit of an address, in lower case.
        while let Some(line) = lines.next_if(|line| !is_address(line)) {
            if let Ok((_, sizes)) = &mut area
                && let Err(wrong) = sizes.read(line)
            {
                area = Err(wrong);
            }
        }
        Some(area)
    })
}

fn is_address(line: &[u8]) -> bool {
    matches!(line.first(), Some(b'0'..=b'9' | b'a'..=b'f'))
}
