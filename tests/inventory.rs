//! `docs/inventory.md` and the tests agree: every row stands there once, every
//! test that it names exists, and every test named after a row is in its row.

#[path = "support/source.rs"]
mod source;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The number of the last row.
const ROWS: u32 = 124;
/// What the diagnostics of a row may be planned for.
const PLANS: [&str; 2] = ["guard mode", "heap explained"];

/// A function of the tree.
#[derive(Clone, Debug, PartialEq)]
struct Function {
    name: String,
    test: bool,
    ignored: bool,
}

/// One row of the page.
#[derive(Debug, Default)]
struct Row {
    number: u32,
    marks: BTreeSet<String>,
    tests: Vec<String>,
    planned: Vec<String>,
    none: Vec<String>,
}

/// All functions in `stream`, those in modules and macro bodies included.
fn functions(stream: TokenStream, found: &mut Vec<Function>) {
    let tokens: Vec<TokenTree> = stream.into_iter().collect();
    let (mut test, mut ignored) = (false, false);
    for (at, token) in tokens.iter().enumerate() {
        match token {
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Bracket
                    && at > 0
                    && source::sign(&tokens, at - 1, '#')
                {
                    let words = source::words(group.stream());
                    test |= words.len() == 1 && words[0] == "test";
                    ignored |= words.first().is_some_and(|w| w == "ignore");
                    continue;
                }
                if group.delimiter() == Delimiter::Brace {
                    (test, ignored) = (false, false);
                }
                functions(group.stream(), found);
            }
            TokenTree::Ident(ident) if ident == "fn" => {
                if let Some(name) = source::word(&tokens, at + 1) {
                    found.push(Function {
                        name,
                        test,
                        ignored,
                    });
                }
                (test, ignored) = (false, false);
            }
            TokenTree::Punct(p) if p.as_char() == ';' => (test, ignored) = (false, false),
            _ => {}
        }
    }
}

/// The row number in a function name of the form `row_NNN_…`.
fn row_of(name: &str) -> Option<u32> {
    let (digits, _) = name.strip_prefix("row_")?.split_once('_')?;
    (digits.len() == 3).then(|| digits.parse().ok())?
}

/// Reads one table line that starts with a number; `Err` says what is wrong.
fn row(line: &str) -> Option<Result<Row, String>> {
    let cells: Vec<&str> = line
        .strip_prefix('|')?
        .strip_suffix('|')?
        .split('|')
        .map(str::trim)
        .collect();
    let number: u32 = cells.first()?.parse().ok()?;
    let [_, item, notes, marks, vectors, tests] = cells[..] else {
        return Some(Err(format!(
            "row {number} has {} cells, not 6",
            cells.len()
        )));
    };
    if item.is_empty() || vectors.is_empty() {
        return Some(Err(format!("row {number} has an empty cell")));
    }
    for note in notes.split_whitespace() {
        if !["S0", "S1", "S2", "S3", "S4"].contains(&note) {
            return Some(Err(format!("row {number} cites unknown notes {note:?}")));
        }
    }
    let mut row = Row {
        number,
        marks: marks.split_whitespace().map(str::to_owned).collect(),
        ..Row::default()
    };
    if row.marks.is_empty()
        || row
            .marks
            .iter()
            .any(|m| !["A", "M", "D", "X"].contains(&&**m))
    {
        return Some(Err(format!("row {number} has the mark {marks:?}")));
    }
    for part in tests.split(';').map(str::trim) {
        if let Some(name) = part.strip_prefix('`').and_then(|p| p.strip_suffix('`')) {
            row.tests.push(name.to_owned());
        } else if let Some(plan) = part.strip_prefix("planned: ") {
            row.planned.push(plan.to_owned());
        } else if let Some(reason) = part.strip_prefix("none: ") {
            row.none.push(reason.to_owned());
        } else {
            return Some(Err(format!(
                "row {number}: {part:?} is no test, no plan and no reason"
            )));
        }
    }
    Some(Ok(row))
}

/// Every way in which the page `text` and the `functions` of the tree disagree.
fn check(text: &str, functions: &[Function]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
    for line in text.lines() {
        match row(line.trim()) {
            None => {}
            Some(Err(problem)) => wrong.push(problem),
            Some(Ok(row)) => {
                let number = row.number;
                if !(1..=ROWS).contains(&number) {
                    wrong.push(format!("row {number} is out of range"));
                }
                if rows.insert(number, row).is_some() {
                    wrong.push(format!("row {number} stands there twice"));
                }
            }
        }
    }
    for number in 1..=ROWS {
        if !rows.contains_key(&number) {
            wrong.push(format!("row {number} is missing"));
        }
    }
    for row in rows.values() {
        let number = row.number;
        let background = row.marks.iter().all(|m| m == "X");
        if background == row.none.is_empty() {
            wrong.push(format!(
                "row {number}: a reason for no test belongs to rows marked X alone, and to all of them"
            ));
        }
        if !background && row.tests.is_empty() && row.planned.is_empty() {
            wrong.push(format!("row {number} has neither a test nor a plan"));
        }
        let built = row.marks.contains("A") || row.marks.contains("M");
        if built && row.tests.is_empty() {
            wrong.push(format!(
                "row {number} is of the allocator or the model, and needs a test"
            ));
        }
        if !row.marks.contains("D") && !row.planned.is_empty() {
            wrong.push(format!("row {number} plans diagnostics, but has no mark D"));
        }
        for plan in &row.planned {
            if !PLANS.contains(&&**plan) {
                wrong.push(format!("row {number} has the unknown plan {plan:?}"));
            }
        }
        for name in &row.tests {
            if row_of(name).is_some_and(|of| of != number) {
                wrong.push(format!("row {number} names {name}, which is another row's"));
            }
            let known: Vec<_> = functions.iter().filter(|f| f.name == *name).collect();
            if known.is_empty() {
                wrong.push(format!("row {number} names {name}, which does not exist"));
            } else if !known.iter().any(|f| f.test && !f.ignored) {
                wrong.push(format!("row {number} names {name}, which is never run"));
            }
        }
    }
    for function in functions {
        if let Some(number) = row_of(&function.name) {
            let named = rows
                .get(&number)
                .is_some_and(|row| row.tests.contains(&function.name));
            if !named {
                wrong.push(format!("{} is not named in row {number}", function.name));
            }
        }
    }
    wrong
}

fn functions_of_the_tree() -> Vec<Function> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for dir in ["src", "tests"] {
        for path in source::rust_files(&root.join(dir)) {
            functions(source::tokens(&path), &mut found);
        }
    }
    found
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/inventory.md");
    std::fs::read_to_string(path).expect("docs/inventory.md can be read")
}

#[test]
fn page_and_tests_agree() {
    let wrong = check(&page(), &functions_of_the_tree());
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A page and the functions that fit it, for breaking.
fn sound() -> (String, Vec<Function>) {
    let mut text =
        String::from("| # | item | notes | mark | vectors | test |\n|---|---|---|---|---|---|\n");
    let mut functions = Vec::new();
    for number in 1..=ROWS {
        if (80..=105).contains(&number) {
            text += &format!("| {number} | item | S3 | A | 1 -> 2 | `row_{number:03}_works` |\n");
            functions.push(Function {
                name: format!("row_{number:03}_works"),
                test: true,
                ignored: false,
            });
        } else {
            text += &format!("| {number} | item | S0 S1 | D | – | planned: guard mode |\n");
        }
    }
    (text, functions)
}

/// Breaks the sound page by one replacement and expects exactly these complaints.
#[track_caller]
fn broken(from: &str, to: &str, complaints: &[&str]) {
    let (text, functions) = sound();
    assert!(text.contains(from), "the sound page has no {from:?}");
    assert_eq!(check(&text.replacen(from, to, 1), &functions), complaints);
}

#[test]
fn a_sound_page_passes() {
    let (text, functions) = sound();
    assert_eq!(check(&text, &functions), [""; 0]);
}

#[test]
fn the_checker_names_broken_rows() {
    let row_7 = "| 7 | item | S0 S1 | D | – | planned: guard mode |\n";
    let misplaced_reason =
        "row 7: a reason for no test belongs to rows marked X alone, and to all of them";
    broken(row_7, "", &["row 7 is missing"]);
    broken(row_7, &row_7.repeat(2), &["row 7 stands there twice"]);
    broken(
        row_7,
        &format!("{row_7}{}", row_7.replace("| 7 |", "| 125 |")),
        &["row 125 is out of range"],
    );
    broken(
        row_7,
        &row_7.replace("guard mode", "some day"),
        &["row 7 has the unknown plan \"some day\""],
    );
    let no_mark = "row 7 plans diagnostics, but has no mark D";
    broken(
        row_7,
        &row_7.replace("| D |", "| X |"),
        &[misplaced_reason, no_mark],
    );
    let no_test = "row 7 is of the allocator or the model, and needs a test";
    broken(row_7, &row_7.replace("| D |", "| M |"), &[no_test, no_mark]);
    broken(row_7, &row_7.replace("| D |", "| A D |"), &[no_test]);
    broken(
        row_7,
        &row_7.replace("planned: guard mode", "none: no wish"),
        &[misplaced_reason, "row 7 has neither a test nor a plan"],
    );
}

#[test]
fn the_checker_names_unreadable_rows() {
    // A row that cannot be read is missing as well.
    for (from, to, complaint) in [
        (
            "| 7 | item |",
            "| 7 | item | more |",
            "row 7 has 7 cells, not 6",
        ),
        ("| 7 | item |", "| 7 |  |", "row 7 has an empty cell"),
        (
            "| 7 | item | S0 S1 |",
            "| 7 | item | S7 |",
            "row 7 cites unknown notes \"S7\"",
        ),
        (
            "| 7 | item | S0 S1 | D |",
            "| 7 | item | S0 | Q |",
            "row 7 has the mark \"Q\"",
        ),
        (
            "| 7 | item | S0 S1 | D | – | planned: guard mode |",
            "| 7 | item | S0 | M | – | later |",
            "row 7: \"later\" is no test, no plan and no reason",
        ),
    ] {
        let (text, functions) = sound();
        assert!(text.contains(from), "the sound page has no {from:?}");
        assert_eq!(
            check(&text.replacen(from, to, 1), &functions),
            [complaint, "row 7 is missing"]
        );
    }
}

#[test]
fn the_checker_names_tests_that_do_not_fit() {
    let (text, sound) = sound();
    let change = |change: &dyn Fn(&mut Vec<Function>)| {
        let mut functions = sound.clone();
        change(&mut functions);
        check(&text, &functions)
    };
    assert_eq!(
        change(&|f| f.retain(|f| f.name != "row_080_works")),
        ["row 80 names row_080_works, which does not exist"]
    );
    assert_eq!(
        change(&|f| f[0].test = false),
        ["row 80 names row_080_works, which is never run"]
    );
    assert_eq!(
        change(&|f| f[0].ignored = true),
        ["row 80 names row_080_works, which is never run"]
    );
    let extra = Function {
        name: "row_007_extra".into(),
        test: true,
        ignored: false,
    };
    assert_eq!(
        change(&|f| f.push(extra.clone())),
        ["row_007_extra is not named in row 7"]
    );
    broken(
        "`row_080_works`",
        "planned: guard mode",
        &[
            "row 80 is of the allocator or the model, and needs a test",
            "row 80 plans diagnostics, but has no mark D",
            "row_080_works is not named in row 80",
        ],
    );
    broken(
        "`row_080_works`",
        "`row_081_works`",
        &[
            "row 80 names row_081_works, which is another row's",
            "row_080_works is not named in row 80",
        ],
    );
}

#[test]
fn functions_are_found_with_their_attributes() {
    let text = r#"
        // fn commented() {}
        /// fn documented() {}
        const S: &str = "fn quoted() {}";
        #[test]
        fn plain() { fn inner() {} }
        #[test]
        #[ignore = "slow"]
        fn asleep() {}
        #[cfg(test)]
        mod tests { #[test] fn nested() {} fn helper() {} }
        some_macro! { #[test] fn in_macro() {} }
        type F = fn(u8) -> u8;
    "#;
    let mut found = Vec::new();
    functions(text.parse().expect("the text is Rust"), &mut found);
    let found: Vec<_> = found
        .iter()
        .map(|f| (f.name.as_str(), f.test, f.ignored))
        .collect();
    assert_eq!(
        found,
        [
            ("plain", true, false),
            ("inner", false, false),
            ("asleep", true, true),
            ("nested", true, false),
            ("helper", false, false),
            ("in_macro", true, false),
        ]
    );
}
