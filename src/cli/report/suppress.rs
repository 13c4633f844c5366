//! Which leaks the user does not want to hear of.

use std::fs;
use std::path::{Path, PathBuf};

use super::Frame;
use crate::failure::Failure;
use crate::symbols::Symbol;

/// The options that name patterns.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct SuppressOptions {
    /// Leave out leaks that were allocated below what matches: a function, a source file, or a
    /// program or library, with * for any characters
    #[arg(long, value_name = "PATTERN")]
    suppress: Vec<String>,

    /// Take such patterns from a file, one per line; lines that begin with # are comments
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    suppressions: Vec<PathBuf>,
}

impl SuppressOptions {
    /// All patterns that the options name.
    ///
    /// # Errors
    /// When a file cannot be read or is no text.
    pub fn patterns(&self) -> Result<Patterns, Failure> {
        let mut patterns = Vec::new();
        for path in &self.suppressions {
            let fail = |error| Failure::own(format_args!("{}: {error}", path.display()));
            let text = fs::read_to_string(path).map_err(fail)?;
            let lines = text.lines().map(str::trim);
            let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            patterns.extend(lines.map(str::to_string));
        }
        let given = self.suppress.iter().map(|pattern| pattern.trim());
        patterns.extend(given.filter(|p| !p.is_empty()).map(str::to_string));
        Ok(Patterns(patterns))
    }

    /// Whether any was given.
    pub fn is_empty(&self) -> bool {
        self.suppress.is_empty() && self.suppressions.is_empty()
    }
}

/// Patterns with `*` in them.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// Whether nothing can match.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them is the frame's function (inlined ones included), its source file or
    /// its module. Files and modules match with their directories and without them; modules with
    /// the offset (`/path+0x12`), too.
    pub fn matches(&self, frame: &Frame, names: &[Symbol]) -> bool {
        let mut texts: Vec<String> = Vec::new();
        for symbol in names {
            texts.push(symbol.function.clone());
            texts.extend(symbol.file.as_deref().into_iter().flat_map(with_name));
        }
        for module in frame.module.as_deref().into_iter().flat_map(with_name) {
            if let Some(offset) = frame.offset {
                texts.push(format!("{module}+{offset}"));
            }
            texts.push(module);
        }
        let matches = |pattern: &String| texts.iter().any(|text| matches(pattern, text));
        self.0.iter().any(matches)
    }
}

/// A path and its last component.
fn with_name(path: &str) -> Vec<String> {
    let name = Path::new(path).file_name().and_then(|name| name.to_str());
    let name = name.filter(|name| *name != path).map(str::to_string);
    [path.to_string()].into_iter().chain(name).collect()
}

/// Whether all of `text` is what `pattern` says; `*` stands for any characters, or none.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        // No star at all.
        return rest.is_empty();
    };
    // What lies between two stars is best taken at its first place.
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "any"),
            ("main", "main"),
            ("*main", "main"),
            ("m*n", "main"),
            ("*a*i*", "main"),
            ("std::*::new", "std::vec::Vec<u8>::new"),
            ("a*a", "aa"),
            ("*aba*ab", "aababab"),
        ] {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "main"),
            ("main", "mains"),
            ("ain", "main"),
            ("a*a", "a"),
            ("*x*", "main"),
            ("m*x*n", "main"),
            ("*aba*ab", "aab"),
        ] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }

    #[test]
    fn functions_files_and_modules_are_looked_at() {
        let frame: Frame =
            serde_json::from_str(r#"{"pc":"0x1","module":"/opt/lib/libx.so.1","offset":"0x1f"}"#)
                .unwrap();
        let symbol = Symbol {
            function: "cache_fill".into(),
            offset: None,
            file: Some("/src/cache.c".into()),
            line: Some(3),
            column: None,
        };
        let matches = |pattern: &str| {
            Patterns(vec![pattern.into()]).matches(&frame, std::slice::from_ref(&symbol))
        };
        for pattern in [
            "cache_*",
            "cache.c",
            "/src/*",
            "libx.so*",
            "/opt/*/libx.so.1",
            "libx.so.1+0x1f",
        ] {
            assert!(matches(pattern), "{pattern}");
        }
        for pattern in ["cache", "src", "libx", "lib", "main"] {
            assert!(!matches(pattern), "{pattern}");
        }
        assert!(Patterns(vec!["/opt/lib/libx.so.1".into()]).matches(&frame, &[]));
    }
}
