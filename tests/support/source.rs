//! Rust sources as token trees, for the tests that read the tree itself.
//! Tokens rather than text: comments and strings are out of the way, and
//! macro bodies are in view.
#![allow(dead_code)]

use proc_macro2::{TokenStream, TokenTree};
use std::fs;
use std::path::{Path, PathBuf};

/// All `.rs` files below `dir`, sorted. A directory that is not there has none.
pub fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries {
            let path = entry.expect("a directory entry can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The tokens of the file at `path`.
///
/// # Panics
/// If the file cannot be read or is not made of Rust tokens.
pub fn tokens(path: &Path) -> TokenStream {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse()
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The word at `tokens[at]`, if an identifier or keyword stands there.
pub fn word(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// Whether the punctuation `sign` stands at `tokens[at]`.
pub fn sign(tokens: &[TokenTree], at: usize, sign: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == sign)
}

/// Every word in `stream`, groups included, in order.
pub fn words(stream: TokenStream) -> Vec<String> {
    let mut all = Vec::new();
    for token in stream {
        match token {
            TokenTree::Ident(ident) => all.push(ident.to_string()),
            TokenTree::Group(group) => all.extend(words(group.stream())),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
    all
}

/// Whether the file says `#![forbid(unsafe_code)]`.
pub fn forbids_unsafe(stream: &TokenStream) -> bool {
    let tokens: Vec<TokenTree> = stream.clone().into_iter().collect();
    tokens.windows(3).any(|window| {
        let [hash, bang, TokenTree::Group(group)] = window else {
            return false;
        };
        let pair = [hash.clone(), bang.clone()];
        sign(&pair, 0, '#')
            && sign(&pair, 1, '!')
            && words(group.stream()) == ["forbid", "unsafe_code"]
    })
}
