//! The checker behind `tests/layers.rs`: reads a source tree as tokens and says
//! where it breaks a [`Law`].

use super::paths::{Written, module_of, read_path, root_names};
use super::source;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

/// The rules for one source tree.
#[derive(Clone, Copy)]
pub struct Law {
    /// File or directory, and its layer.
    pub layers: &'static [(&'static str, u8)],
    /// Pairs in one layer that must not know each other.
    pub strangers: &'static [(&'static str, &'static str)],
    /// Directories that are packages of their own, above all layers. They are linked by nobody,
    /// so what they export reaches no other program.
    pub members: &'static [&'static str],
    /// Modules that must forbid unsafe code.
    pub without_unsafe: &'static [&'static str],
    /// Modules that may name loom.
    pub loom: &'static [&'static str],
    /// Files that may ask `cfg(loom)`, and no more.
    pub loom_cfg: &'static [&'static str],
    /// Exactly the files that contain `unsafe`.
    pub unsafe_files: &'static [&'static str],
    /// Exactly the statics that are mutable state: file and name.
    pub statics: &'static [(&'static str, &'static str)],
    /// Types of ours without mutable state, of which constant tables are made.
    pub plain_types: &'static [&'static str],
    /// The longest that a file may be.
    pub max_lines: usize,
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A file uses a higher layer.
    Upward,
    /// Two modules that must not know each other do.
    Strangers,
    /// A file or path that the law does not know.
    Unplaced,
    /// A way around the law: a glob or an alias of the crate root, `#[path]`,
    /// `#[macro_use]`.
    Detour,
    /// loom named outside of its place.
    Loom,
    /// `unsafe` in a file that is not listed.
    Unsafe,
    /// A module that does not forbid unsafe code.
    NotForbidden,
    /// A file that is too long.
    Long,
    /// An exported symbol in the library.
    Export,
    /// A static with mutable state that is not listed.
    Static,
    /// A list of the law names what is not there.
    Stale,
}

/// One place where the law is broken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub file: String,
    pub line: usize,
    pub rule: Rule,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            rule,
            what,
        } = self;
        write!(f, "{file}:{line}: {rule:?}: {what}")
    }
}

/// Words of types that hold no mutable state: a static made of these alone is
/// a constant with an address.
const PLAIN: [&str; 20] = [
    "bool", "char", "str", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64",
    "i128", "isize", "Option", "extern", "fn", "f32", "f64",
];

/// What one file is seen to do.
struct Reader<'a> {
    law: &'a Law,
    /// Names in the crate root that stand for something in a module.
    root_names: &'a BTreeMap<String, Vec<String>>,
    /// Path below `src/`, with `/`.
    file: String,
    /// The module path that the file itself stands for; empty for `lib.rs`.
    module: Vec<String>,
    member: Option<String>,
    has_unsafe: bool,
    statics: Vec<String>,
    found: Vec<Violation>,
}

/// Where in a file the reader is.
#[derive(Clone)]
struct Place {
    module: Vec<String>,
    in_test: bool,
    in_cfg: bool,
    in_attribute: bool,
}

impl Law {
    /// The entry of the law that `path` falls under: the longest that fits.
    fn place(&self, path: &[String]) -> Option<(&'static str, u8)> {
        self.layers
            .iter()
            .filter(|(name, _)| {
                let name: Vec<&str> = name.split('/').collect();
                name.len() <= path.len() && name.iter().zip(path).all(|(a, b)| a == b)
            })
            .max_by_key(|(name, _)| name.len())
            .copied()
    }
}

impl Reader<'_> {
    fn report(&mut self, line: usize, rule: Rule, what: impl Into<String>) {
        self.found.push(Violation {
            file: self.file.clone(),
            line,
            rule,
            what: what.into(),
        });
    }

    fn in_any(&self, names: &[&str]) -> bool {
        names
            .iter()
            .any(|name| self.module.first().is_some_and(|m| m == name) || self.file == *name)
    }

    /// Applies the law to one path that starts at `crate`, `self` or `super`.
    fn path(&mut self, written: &Written, place: &Place) {
        if self.member.is_some() {
            // A package of its own sees the library through its public face.
            return;
        }
        let shown = written.segments.join("::");
        let mut path = match written.segments[0].as_str() {
            "crate" | "fencepost" => Vec::new(),
            _ => place.module.clone(),
        };
        for segment in &written.segments {
            match segment.as_str() {
                "crate" | "fencepost" | "self" => {}
                "super" => {
                    path.pop();
                }
                _ => path.push(segment.clone()),
            }
        }
        let Some(first) = path.first() else {
            self.report(
                written.line,
                Rule::Detour,
                format!("{shown} gives the crate root another name"),
            );
            return;
        };
        if first == "*" {
            self.report(
                written.line,
                Rule::Detour,
                format!("{shown} takes all of the crate root"),
            );
            return;
        }
        if let Some(behind) = self.root_names.get(first)
            && self.law.place(&path).is_none()
        {
            path = behind.clone();
        }
        let Some((target, target_layer)) = self.law.place(&path) else {
            self.report(
                written.line,
                Rule::Unplaced,
                format!("the law does not know {shown}"),
            );
            return;
        };
        // The root of the crate declares the modules and re-exports their
        // public face: it belongs to no layer.
        let Some((own, own_layer)) = self.law.place(&self.module) else {
            return;
        };
        if target_layer > own_layer {
            self.report(
                written.line,
                Rule::Upward,
                format!("layer {own_layer} uses {shown}, which is in layer {target_layer}"),
            );
        }
        if self
            .law
            .strangers
            .iter()
            .any(|&pair| pair == (own, target) || pair == (target, own))
        {
            self.report(
                written.line,
                Rule::Strangers,
                format!("{own} must not know {target}"),
            );
        }
    }

    /// The attribute in `group`.
    fn attribute(&mut self, group: &Group, place: &Place) {
        let line = group.span().start().line;
        let words = source::words(group.stream());
        let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
        if words.first().is_some_and(|w| w == "path") && source::sign(&tokens, 1, '=') {
            self.report(line, Rule::Detour, "#[path] hides where a module lies");
        }
        if words.iter().any(|w| w == "macro_use") {
            self.report(
                line,
                Rule::Detour,
                "#[macro_use] makes macros known without a path",
            );
        }
        for name in ["no_mangle", "export_name", "linkage"] {
            if words.iter().any(|w| w == name) && self.member.is_none() {
                self.report(
                    line,
                    Rule::Export,
                    format!("{name}: the library exports no symbols"),
                );
            }
        }
        if words.iter().any(|w| w == "unsafe_code")
            && words.iter().any(|w| w == "allow" || w == "expect")
        {
            self.unlisted_unsafe(line, "allows unsafe code and is not listed for it");
        }
        let place = Place {
            in_attribute: true,
            in_cfg: words.first().is_some_and(|w| w == "cfg" || w == "cfg_attr"),
            ..place.clone()
        };
        self.tokens(group.stream(), &place);
    }

    /// Whether a word in a type stands for no mutable state. Names in capitals
    /// are constants, which give the lengths of arrays.
    fn is_plain(&self, word: &str) -> bool {
        word == "static"
            || PLAIN.contains(&word)
            || self.law.plain_types.contains(&word)
            || word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    }

    /// Reports unsafe code where it must not be, once per file.
    fn unlisted_unsafe(&mut self, line: usize, what: &str) {
        let told = self.found.iter().any(|v| v.rule == Rule::Unsafe);
        if !told && !self.law.unsafe_files.contains(&self.file.as_str()) {
            self.report(line, Rule::Unsafe, what);
        }
    }

    /// A `static` whose name stands at `tokens[at]` or behind a `mut` there.
    fn static_item(&mut self, tokens: &[TokenTree], at: usize) {
        let mutable = source::word(tokens, at).as_deref() == Some("mut");
        let at = at + usize::from(mutable);
        let Some(name) = source::word(tokens, at) else {
            return;
        };
        if !source::sign(tokens, at + 1, ':') {
            return;
        }
        let line = tokens[at].span().start().line;
        let kind: TokenStream = tokens[at + 2..]
            .iter()
            .take_while(|t| !matches!(t, TokenTree::Punct(p) if matches!(p.as_char(), '=' | ';')))
            .cloned()
            .collect();
        let plain = !mutable && source::words(kind).iter().all(|w| self.is_plain(w));
        if plain {
            return;
        }
        self.statics.push(name.clone());
        let listed = self
            .law
            .statics
            .contains(&(self.file.as_str(), name.as_str()));
        if !listed {
            self.report(
                line,
                Rule::Static,
                format!("static {name} is mutable state and is not listed"),
            );
        }
    }

    /// Reads `stream`, groups and all.
    fn tokens(&mut self, stream: TokenStream, place: &Place) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        // Whether `#[cfg(test)]` stands before the item that comes next.
        let mut test_next = false;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(p) if p.as_char() == '\'' => at += 1, // a lifetime
                TokenTree::Punct(p) if p.as_char() == '#' => {
                    let bang = usize::from(source::sign(&tokens, at + 1, '!'));
                    if let Some(TokenTree::Group(group)) = tokens.get(at + 1 + bang)
                        && group.delimiter() == Delimiter::Bracket
                    {
                        test_next |= source::words(group.stream()) == ["cfg", "test"];
                        self.attribute(group, place);
                        at += 1 + bang;
                    }
                }
                TokenTree::Punct(p) if p.as_char() == ';' => test_next = false,
                TokenTree::Group(group) => {
                    let mut inner = place.clone();
                    if at >= 2
                        && source::sign(&tokens, at - 1, '!')
                        && source::word(&tokens, at - 2).as_deref() == Some("cfg")
                    {
                        inner.in_cfg = true;
                    }
                    if group.delimiter() == Delimiter::Brace {
                        let named = at
                            .checked_sub(2)
                            .filter(|&m| source::word(&tokens, m).as_deref() == Some("mod"))
                            .and_then(|_| source::word(&tokens, at - 1));
                        if let Some(name) = named {
                            inner.module.push(name);
                            inner.in_test |= test_next;
                        }
                        test_next = false;
                    }
                    self.tokens(group.stream(), &inner);
                }
                TokenTree::Ident(ident) => {
                    let next = self.ident(&tokens, at, &ident.to_string(), place);
                    at = next;
                    continue;
                }
                _ => {}
            }
            at += 1;
        }
    }

    /// The word at `tokens[at]`; returns the index to go on from.
    fn ident(&mut self, tokens: &[TokenTree], at: usize, word: &str, place: &Place) -> usize {
        let line = tokens[at].span().start().line;
        let next = source::word(tokens, at + 1);
        match word {
            "crate" | "super" | "self" | "fencepost" => {
                let path = source::sign(tokens, at + 1, ':') && source::sign(tokens, at + 2, ':');
                let alias = next.as_deref() == Some("as");
                if at > 0 && source::word(tokens, at - 1).as_deref() == Some("extern") {
                    // `extern crate …`; the crate that follows is what counts.
                    if word == "crate" && matches!(next.as_deref(), Some("self" | "fencepost")) {
                        self.report(
                            line,
                            Rule::Detour,
                            "extern crate gives the crate root another name",
                        );
                    }
                    return at + 2;
                }
                let value = word == "self" && alias; // `self as T` is an expression
                if !path && (!alias || value) {
                    return at + 1;
                }
                let mut written = Vec::new();
                let behind = read_path(tokens, at + 1, vec![word.into()], line, &mut written);
                for path in &written {
                    self.path(path, place);
                    if path.segments.iter().any(|s| s == "loom") {
                        self.loom(line, place);
                    }
                }
                return behind.max(at + 1);
            }
            "unsafe" => {
                self.unlisted_unsafe(line, "unsafe in a file that is not listed");
                self.has_unsafe = true;
            }
            "loom" => self.loom(line, place),
            "global_asm" if self.member.is_none() => self.report(
                line,
                Rule::Export,
                "global_asm: assembly beside the functions can define symbols",
            ),
            "static" if !place.in_test && !place.in_attribute => {
                self.static_item(tokens, at + 1);
            }
            _ => {}
        }
        at + 1
    }

    fn loom(&mut self, line: usize, place: &Place) {
        let allowed = self.in_any(self.law.loom)
            || place.in_cfg && self.law.loom_cfg.contains(&self.file.as_str());
        if !allowed {
            self.report(line, Rule::Loom, "only sync knows loom");
        }
    }
}

/// Applies `law` to the tree of sources below `src`.
pub fn check(src: &Path, law: &Law) -> Vec<Violation> {
    let mut files = Vec::new();
    let mut found = Vec::new();
    for path in source::rust_files(src) {
        let file = path
            .strip_prefix(src)
            .expect("the file lies below src")
            .to_str()
            .expect("file names are UTF-8")
            .to_owned();
        let text = fs::read_to_string(&path).expect("a source file can be read");
        let lines = text.lines().count();
        if lines > law.max_lines {
            found.push(Violation {
                file: file.clone(),
                line: lines,
                rule: Rule::Long,
                what: format!("{lines} lines, and {} are allowed", law.max_lines),
            });
        }
        files.push((file, source::tokens(&path)));
    }
    let root_names = root_names(&files);
    let mut with_unsafe = BTreeSet::new();
    let mut statics = BTreeSet::new();
    for (file, stream) in &files {
        let module = module_of(file);
        let member = law
            .members
            .iter()
            .find(|member| module.first().is_some_and(|m| m == *member))
            .map(|member| (*member).to_owned());
        let mut reader = Reader {
            law,
            root_names: &root_names,
            file: file.clone(),
            module: module.clone(),
            member,
            has_unsafe: false,
            statics: Vec::new(),
            found: Vec::new(),
        };
        if !module.is_empty() && reader.member.is_none() && law.place(&module).is_none() {
            reader.report(1, Rule::Unplaced, "the law has no layer for this file");
        }
        if law.without_unsafe.contains(&module.join("/").as_str())
            && !source::forbids_unsafe(stream)
        {
            reader.report(1, Rule::NotForbidden, "must say #![forbid(unsafe_code)]");
        }
        reader.tokens(
            stream.clone(),
            &Place {
                module,
                in_test: false,
                in_cfg: false,
                in_attribute: false,
            },
        );
        if reader.has_unsafe {
            with_unsafe.insert(file.clone());
        }
        statics.extend(reader.statics.into_iter().map(|name| (file.clone(), name)));
        found.extend(reader.found);
    }
    let stale = |file: &str, what: String| Violation {
        file: file.to_owned(),
        line: 1,
        rule: Rule::Stale,
        what,
    };
    for file in law.unsafe_files {
        if !with_unsafe.contains(*file) {
            found.push(stale(file, "is listed for unsafe and has none".into()));
        }
    }
    for (file, name) in law.statics {
        if !statics.contains(&((*file).to_owned(), (*name).to_owned())) {
            found.push(stale(
                file,
                format!("static {name} is listed and not there"),
            ));
        }
    }
    for file in law.loom_cfg {
        if !files
            .iter()
            .any(|(f, s)| f == file && source::words(s.clone()).iter().any(|w| w == "loom"))
        {
            found.push(stale(file, "is listed for cfg(loom) and has none".into()));
        }
    }
    found.sort();
    found
}
