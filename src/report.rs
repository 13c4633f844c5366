//! Layer 0: last words. One line, formatted on the stack, written with write(2), then abort.
//!
//! Nothing here allocates, locks or panics, so it may be called from any state of the heap.
#![allow(unsafe_code)] // write(2) and abort(3) are foreign functions.

/// Bytes that a [`Line`] holds unless it is made over other storage.
const CAPACITY: usize = 256;

/// A line of text in a fixed buffer; what does not fit is cut off.
#[derive(Debug)]
pub struct Line<B = [u8; CAPACITY]> {
    bytes: B,
    len: usize,
    cut: bool,
}

impl Line {
    /// An empty line.
    #[must_use]
    pub const fn new() -> Line {
        Line::over([0; CAPACITY])
    }
}

impl<B> Line<B> {
    /// An empty line that is built in `bytes`.
    pub const fn over(bytes: B) -> Line<B> {
        Line {
            bytes,
            len: 0,
            cut: false,
        }
    }

    /// Whether something did not fit.
    #[must_use]
    pub const fn is_cut(&self) -> bool {
        self.cut
    }

    /// Empties the line.
    pub const fn clear(&mut self) {
        self.len = 0;
        self.cut = false;
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Line<B> {
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.as_mut().get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        } else {
            self.cut = true;
        }
    }

    /// Appends text.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.raw(text.as_bytes())
    }

    /// Appends bytes as they are.
    #[inline(never)]
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        for &byte in bytes {
            self.push(byte);
        }
        self
    }

    /// Appends `0x` and the number in hexadecimal.
    #[inline(never)]
    pub fn hex(&mut self, number: usize) -> &mut Self {
        self.text("0x");
        let digits = ((usize::BITS - number.leading_zeros()).div_ceil(4)).max(1);
        for digit in (0..digits).rev() {
            let nibble = ((number >> (4 * digit)) & 15) as u8;
            self.push(if nibble < 10 {
                b'0' + nibble
            } else {
                b'a' + nibble - 10
            });
        }
        self
    }

    /// Appends the number in decimal.
    #[inline(never)]
    pub fn decimal(&mut self, number: u64) -> &mut Self {
        let mut digits = [0u8; 20];
        let mut rest = number;
        let mut count = 0;
        for digit in &mut digits {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
            count += 1;
            if rest == 0 {
                break;
            }
        }
        for &digit in digits.iter().take(count).rev() {
            self.push(digit);
        }
        self
    }

    /// Appends the number and what is counted: `1 byte`, `2 bytes`.
    pub fn count(&mut self, number: u64, what: &str) -> &mut Self {
        self.decimal(number).text(" ").text(what);
        self.text(if number == 1 { "" } else { "s" })
    }

    /// Appends `text` and blanks up to column `width`.
    pub fn column(&mut self, text: &str, width: usize) -> &mut Self {
        let end = self.len + width;
        self.text(text);
        while self.len < end && !self.cut {
            self.push(b' ');
        }
        self
    }

    /// What was appended so far.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.as_ref().get(..self.len).unwrap_or(&[])
    }

    /// Ends the line: the line break stands there even where the line was cut off.
    pub fn end(&mut self) -> &mut Self {
        self.push(b'\n');
        if let Some(last) = self.bytes.as_mut().last_mut().filter(|_| self.cut) {
            *last = b'\n';
        }
        self
    }

    /// Writes the line and a newline to a file descriptor and empties it. Errors are ignored:
    /// there is nobody to tell.
    pub fn write_to(&mut self, fd: i32) {
        write(fd, self.end().as_bytes());
        self.clear();
    }
}

impl Default for Line {
    fn default() -> Line {
        Line::new()
    }
}

/// Writes bytes to a file descriptor, at once. Errors are ignored: there is nobody to tell.
pub fn write(fd: i32, bytes: &[u8]) {
    // SAFETY: the pointer and length describe the bytes.
    unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
}

/// Which call was given a bad pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `free`, `cfree` or an operator delete.
    Free,
    /// `realloc`.
    Realloc,
    /// `malloc_usable_size`.
    UsableSize,
}

impl Call {
    /// The call's name in messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Call::Free => "free",
            Call::Realloc => "realloc",
            Call::UsableSize => "usable_size",
        }
    }
}

/// A misuse of the heap, or damage to it, that ends the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misuse {
    /// A block was freed that is free already.
    DoubleFree {
        /// The user's pointer.
        address: usize,
        /// Usable bytes of the block.
        size: usize,
    },
    /// realloc or usable_size of a block that is free already.
    UseAfterFree {
        /// The call that was given the pointer.
        call: Call,
        /// The user's pointer.
        address: usize,
        /// Usable bytes of the block.
        size: usize,
    },
    /// The pointer lies inside a chunk, not at its beginning.
    InsideChunk {
        /// The call that was given the pointer.
        call: Call,
        /// The user's pointer.
        address: usize,
        /// Distance from the beginning of the block that contains it, in bytes.
        offset: usize,
        /// Usable bytes of the block.
        size: usize,
    },
    /// No region of ours holds the pointer.
    Foreign {
        /// The call that was given the pointer.
        call: Call,
        /// The user's pointer.
        address: usize,
    },
    /// A chunk's head was overwritten.
    CorruptHead {
        /// The payload address of the chunk.
        address: usize,
    },
    /// The account of pages says something else of a block or of top than the heap does.
    WrongPage {
        /// The page's address.
        address: usize,
    },
    /// A free chunk's links, or the size that its neighbour keeps of it, were overwritten.
    CorruptLink {
        /// The payload address of the chunk.
        address: usize,
    },
}

impl Misuse {
    /// Puts the sentence that names the misuse into a line.
    pub fn describe<B: AsRef<[u8]> + AsMut<[u8]>>(self, line: &mut Line<B>) {
        line.text("fencepost: ");
        match self {
            Misuse::DoubleFree { address, size } => {
                line.text("double free: ").hex(address);
                line.text(" (").count(size as u64, "byte").text(")");
            }
            Misuse::UseAfterFree {
                call,
                address,
                size,
            } => {
                line.text("invalid ")
                    .text(call.name())
                    .text(": ")
                    .hex(address);
                line.text(" was freed before (")
                    .count(size as u64, "byte")
                    .text(")");
            }
            Misuse::InsideChunk {
                call,
                address,
                offset,
                size,
            } => {
                line.text("invalid ")
                    .text(call.name())
                    .text(": ")
                    .hex(address);
                line.text(" is inside a chunk (")
                    .count(offset as u64, "byte");
                line.text(" into a block of ")
                    .count(size as u64, "byte")
                    .text(")");
            }
            Misuse::Foreign { call, address } => {
                line.text("invalid ")
                    .text(call.name())
                    .text(": ")
                    .hex(address);
                line.text(" was not allocated here");
            }
            Misuse::CorruptHead { address } => {
                line.text("corrupted chunk head: ").hex(address);
            }
            Misuse::WrongPage { address } => {
                line.text("page in the wrong state: ").hex(address);
            }
            Misuse::CorruptLink { address } => {
                line.text("corrupted free list link: ").hex(address);
            }
        }
    }
}

/// Writes the one line that names the misuse to standard error and aborts the process.
#[cold]
#[inline(never)]
pub fn abort(misuse: Misuse) -> ! {
    let mut line = Line::new();
    misuse.describe(&mut line);
    line.write_to(2);
    end()
}

/// Aborts the process after a report.
pub fn end() -> ! {
    // SAFETY: abort(3) takes nothing and does not return.
    unsafe { libc::abort() }
}
