//! Numbers, sizes and kinds of access as the command line writes them.

use fencepost::mmu::addr::{Access, Mode};

/// Reads a number: decimal, or hexadecimal behind `0x`, with `_` between digits where it helps.
pub fn number(text: &str) -> Result<u64, String> {
    let digits = text.replace('_', "");
    let parsed = match digits.strip_prefix("0x").or(digits.strip_prefix("0X")) {
        // from_str_radix would take a sign.
        Some(digits) if !digits.starts_with('+') => u64::from_str_radix(digits, 16),
        _ if digits.starts_with('+') => return Err("it is not a number".into()),
        _ => digits.parse(),
    };
    parsed.map_err(|_| "it is no number of 64 bits, such as 0x7f1ecc031234".into())
}

/// What an access does and who does it.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Doing {
    /// Store instead of loading
    #[arg(long, conflicts_with = "exec")]
    write: bool,

    /// Fetch an instruction instead of loading
    #[arg(long)]
    exec: bool,

    /// Access in the kernel's mode instead of the user's
    #[arg(long)]
    kernel: bool,
}

impl Doing {
    /// What it does.
    pub fn access(self) -> Access {
        match (self.write, self.exec) {
            (true, _) => Access::Write,
            (_, true) => Access::Exec,
            _ => Access::Read,
        }
    }

    /// Who does it.
    pub fn mode(self) -> Mode {
        if self.kernel {
            Mode::Supervisor
        } else {
            Mode::User
        }
    }
}

/// The access as a noun.
pub fn access_name(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Write => "write",
        Access::Exec => "instruction fetch",
    }
}

/// The mode as a word.
pub fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::User => "user",
        Mode::Supervisor => "kernel",
    }
}

/// Bytes with the largest unit that leaves a whole number.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

/// A number with its noun.
pub fn counted(number: u64, noun: &str) -> String {
    let plural = match noun {
        "entry" => "entries".to_owned(),
        _ if noun.ends_with("ss") => format!("{noun}es"),
        _ => format!("{noun}s"),
    };
    format!("{number} {}", if number == 1 { noun } else { &plural })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_bases() {
        for (text, value) in [
            ("0", 0),
            ("4096", 4096),
            ("0x7f1e_cc03_1234", 0x7f1e_cc03_1234),
            ("0XfF", 255),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(number(text), Ok(value));
        }
        for text in [
            "",
            "0x",
            "x",
            "-1",
            "+1",
            "0x+1",
            "0x1g",
            "18446744073709551616",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_and_counts_read_well() {
        assert_eq!(size(4096), "4 KiB");
        assert_eq!(size(2 << 20), "2 MiB");
        assert_eq!(size(1 << 30), "1 GiB");
        assert_eq!((size(1), size(0)), ("1 bytes".into(), "0 bytes".into()));
        assert_eq!(counted(1, "access"), "1 access");
        assert_eq!(counted(2, "access"), "2 accesses");
        assert_eq!(counted(2, "entry"), "2 entries");
        assert_eq!(counted(0, "fault"), "0 faults");
    }
}
