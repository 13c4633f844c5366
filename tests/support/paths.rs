//! Paths and use trees, read from tokens.

use super::source;
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use std::collections::BTreeMap;

/// A path as it is written, and the name that `as` gives it.
pub struct Written {
    pub segments: Vec<String>,
    pub alias: Option<String>,
    pub line: usize,
}

/// Reads what follows the path segments `stem` at `tokens[at]`: `::a`, `::{…}`,
/// `::*`, `as b`. Returns the index behind it.
pub fn read_path(
    tokens: &[TokenTree],
    mut at: usize,
    mut stem: Vec<String>,
    line: usize,
    out: &mut Vec<Written>,
) -> usize {
    while source::sign(tokens, at, ':') && source::sign(tokens, at + 1, ':') {
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(ident)) => {
                stem.push(ident.to_string());
                at += 3;
            }
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                read_tree(group, &stem, out);
                return at + 3;
            }
            Some(TokenTree::Punct(p)) if p.as_char() == '*' => {
                stem.push("*".into());
                at += 3;
                break;
            }
            _ => break,
        }
    }
    let alias = (source::word(tokens, at).as_deref() == Some("as"))
        .then(|| source::word(tokens, at + 1))
        .flatten();
    out.push(Written {
        segments: stem,
        alias,
        line,
    });
    at
}

/// Reads the branches of a use tree `{a, b::c, self as d}` below `stem`.
fn read_tree(group: &Group, stem: &[String], out: &mut Vec<Written>) {
    let tokens: Vec<TokenTree> = group.stream().into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        let mut branch = stem.to_vec();
        match &tokens[at] {
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                if ident != "self" {
                    branch.push(ident.to_string());
                }
                at = read_path(&tokens, at + 1, branch, line, out);
            }
            TokenTree::Group(inner) => {
                read_tree(inner, stem, out);
                at += 1;
            }
            TokenTree::Punct(p) if p.as_char() == '*' => {
                branch.push("*".into());
                out.push(Written {
                    segments: branch,
                    alias: None,
                    line: p.span().start().line,
                });
                at += 1;
            }
            _ => at += 1,
        }
        while at < tokens.len() && !source::sign(&tokens, at, ',') {
            at += 1;
        }
        at += 1;
    }
}

/// The module path of the file `file` below `src/`.
pub fn module_of(file: &str) -> Vec<String> {
    let mut path: Vec<String> = file
        .trim_end_matches(".rs")
        .split('/')
        .map(str::to_owned)
        .collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] {
        path.pop();
    }
    path
}

/// Names in the crate root that stand for something in a module: re-exports of
/// `lib.rs`, and macros exported from anywhere.
pub fn root_names(files: &[(String, TokenStream)]) -> BTreeMap<String, Vec<String>> {
    let mut names = BTreeMap::new();
    for (file, stream) in files {
        let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
        for at in 0..tokens.len() {
            match source::word(&tokens, at).as_deref() {
                Some("macro_rules") => {
                    if let Some(name) = source::word(&tokens, at + 2) {
                        names.insert(name, module_of(file));
                    }
                }
                Some("use") if file == "lib.rs" => {
                    let mut written = Vec::new();
                    if let Some(first) = source::word(&tokens, at + 1) {
                        read_path(&tokens, at + 2, vec![first], 0, &mut written);
                    }
                    for path in written {
                        let segments: Vec<String> = path
                            .segments
                            .into_iter()
                            .filter(|s| s != "crate" && s != "self")
                            .collect();
                        let name = path.alias.or_else(|| segments.last().cloned());
                        if let Some(name) = name {
                            names.insert(name, segments);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    names
}
