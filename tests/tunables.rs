//! The tunables: how they are read, what wins over what, and the table in the README.
#![allow(unsafe_code)] // The environment is handed over as C has it.

use std::ffi::{CString, c_char};
use std::fmt::Write;
use std::path::Path;
use std::ptr;

use fencepost::config::{
    self, GLIBC_PREFIX, Key, LONGEST, Settings, TEXTS, TUNABLES, Text, Tunable, Unit,
};

/// What a process with this environment gets, and what it is warned about.
fn read(environment: &[&str], secure: bool) -> (Settings, Vec<String>) {
    let strings: Vec<CString> = environment
        .iter()
        .map(|entry| CString::new(*entry).expect("no NUL inside"))
        .collect();
    let mut array: Vec<*const c_char> = strings.iter().map(|s| s.as_ptr()).collect();
    array.push(ptr::null());
    let settings = Settings::new();
    let mut warnings = Vec::new();
    let mut warn = |name: &[u8], value: &[u8]| {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        warnings.push(format!("{}={}", text(name), text(value)));
    };
    // SAFETY: the array ends with a null pointer, and it and its strings outlive the call.
    unsafe { settings.read_environment(array.as_ptr(), secure, &mut warn) };
    (settings, warnings)
}

/// As [`read`] of one variable in a process that warns of nothing.
#[track_caller]
fn read_quietly(environment: &[&str]) -> Settings {
    let (settings, warnings) = read(environment, false);
    assert!(warnings.is_empty(), "{warnings:?}");
    settings
}

#[track_caller]
fn assert_untouched(settings: &Settings) {
    for tunable in &TUNABLES {
        assert_eq!(
            settings.get(tunable.key),
            tunable.default,
            "{:?}",
            tunable.key
        );
        assert!(!settings.is_set(tunable.key), "{:?}", tunable.key);
    }
    for tunable in &TEXTS {
        assert_eq!(settings.text(tunable.key), b"", "{:?}", tunable.key);
    }
}

#[test]
fn numbers_are_decimal_or_hexadecimal_with_a_suffix() {
    for (text, number) in [
        ("0", 0),
        ("131072", 131_072),
        ("0x20000", 131_072),
        ("0XfF", 255),
        ("128K", 131_072),
        ("128k", 131_072),
        ("2M", 2 << 20),
        ("0x2m", 2 << 20),
        ("1G", 1 << 30),
        (" 7\n", 7),
        ("007", 7),
        ("-1", usize::MAX),
        ("-2K", usize::MAX - 2047),
    ] {
        assert_eq!(config::parse(text.as_bytes()), Some(number), "{text:?}");
    }
    let too_large = format!("{}0", usize::MAX);
    let shifted_out = format!("{}G", usize::MAX / 2);
    for text in [
        "",
        " ",
        "-",
        "K",
        "0x",
        "0xg",
        "12x",
        "1.5",
        "1 2",
        "+3",
        "--3",
        "1KB",
        "K1",
        "0x-1",
        &too_large,
        &shifted_out,
    ] {
        assert_eq!(config::parse(text.as_bytes()), None, "{text:?}");
    }
}

#[test]
fn without_a_word_from_the_user_everything_is_default() {
    assert_untouched(&Settings::new());
    assert_untouched(&read_quietly(&[
        "PATH=/bin",
        "MALLOC_",
        "=",
        "",
        "GLIBC_TUNABLES=",
    ]));
    let (settings, mut warned) = (Settings::new(), false);
    // SAFETY: null is allowed.
    unsafe { settings.read_environment(ptr::null(), false, &mut |_, _| warned = true) };
    assert!(!warned);
    assert_untouched(&settings);
}

#[test]
fn the_defaults_are_those_of_ptmalloc() {
    let settings = Settings::new();
    assert_eq!(settings.get(Key::Mxfast), 128);
    assert_eq!(settings.get(Key::TrimThreshold), 128 << 10);
    assert_eq!(settings.get(Key::TopPad), 128 << 10);
    assert_eq!(settings.get(Key::MmapThreshold), 128 << 10);
    assert_eq!(settings.get(Key::MmapMax), 65_536);
    assert_eq!(settings.get(Key::ArenaMax), 0);
    assert_eq!(settings.get(Key::Perturb), 0);
    assert!(settings.sliding_threshold());
    assert!(settings.caches());
}

#[test]
fn every_environment_variable_is_read() {
    for tunable in &TUNABLES {
        let Some(variable) = tunable.variable else {
            continue;
        };
        for value in [tunable.min, tunable.max] {
            let settings = read_quietly(&[&format!("{variable}={value}")]);
            assert_eq!(settings.get(tunable.key), value, "{variable}");
            let set: Vec<Key> = keys().filter(|key| settings.is_set(*key)).collect();
            assert_eq!(set, [tunable.key], "{variable}");
        }
    }
}

#[test]
fn texts_are_copied_and_the_first_counts() {
    for tunable in &TEXTS {
        let variable = tunable.variable;
        let settings = read_quietly(&[
            &format!("X{variable}=no"),
            &format!("{variable}=/tmp/a=b:c*"),
            &format!("{variable}=second"),
        ]);
        for other in &TEXTS {
            let expected: &[u8] = if other.key == tunable.key {
                b"/tmp/a=b:c*"
            } else {
                b""
            };
            assert_eq!(settings.text(other.key), expected, "{variable}");
        }
        assert!(settings.set_text(tunable.key, b"third"));
        assert_eq!(settings.text(tunable.key), b"/tmp/a=b:c*", "{variable}");
    }
    // An empty one is none, and the first still counts.
    let settings = read_quietly(&["MALLOC_TRACE=", "MALLOC_TRACE=x"]);
    assert_eq!(settings.text(Text::Trace), b"");
}

#[test]
fn a_text_may_be_as_long_as_a_path() {
    let longest = "p".repeat(LONGEST);
    let settings = read_quietly(&[&format!("MALLOC_TRACE={longest}")]);
    assert_eq!(settings.text(Text::Trace), longest.as_bytes());
    let entry = format!("MALLOC_TRACE={longest}p");
    let (settings, warnings) = read(&[&entry], false);
    assert_eq!(warnings, [entry]);
    assert_untouched(&settings);
}

#[test]
fn every_glibc_tunable_is_read() {
    for tunable in &TUNABLES {
        let Some(name) = tunable.glibc else { continue };
        let entry = format!(
            "GLIBC_TUNABLES=glibc.cpu.x=7:{GLIBC_PREFIX}{name}={}",
            tunable.max
        );
        let settings = read_quietly(&[&entry]);
        assert_eq!(settings.get(tunable.key), tunable.max, "{name}");
        assert!(settings.is_set(tunable.key), "{name}");
    }
}

#[test]
fn glibc_tunables_win_over_the_variables_in_either_order() {
    let tunables = "GLIBC_TUNABLES=glibc.malloc.arena_max=3:glibc.malloc.perturb=0x11";
    for environment in [
        ["MALLOC_ARENA_MAX=5", tunables],
        [tunables, "MALLOC_ARENA_MAX=5"],
    ] {
        let settings = read_quietly(&environment);
        assert_eq!(settings.get(Key::ArenaMax), 3);
        assert_eq!(settings.get(Key::Perturb), 0x11);
    }
}

#[test]
fn of_equal_variables_the_first_counts_and_of_equal_entries_the_last() {
    let settings = read_quietly(&["MALLOC_ARENA_MAX=5", "MALLOC_ARENA_MAX=6"]);
    assert_eq!(settings.get(Key::ArenaMax), 5);
    let twice = "GLIBC_TUNABLES=glibc.malloc.arena_max=1:glibc.malloc.arena_max=2";
    let settings = read_quietly(&[twice, "GLIBC_TUNABLES=glibc.malloc.arena_max=9"]);
    assert_eq!(settings.get(Key::ArenaMax), 2);
}

#[test]
fn a_bad_value_is_warned_of_once_and_changes_nothing() {
    for bad in [
        "MALLOC_ARENA_MAX=many",
        "MALLOC_ARENA_MAX=-1",
        "MALLOC_ARENA_MAX=",
        "MALLOC_PERTURB_=256",
        "MALLOC_MMAP_THRESHOLD_=8G",
        "FENCEPOST_CACHE=2",
        "FENCEPOST_CACHE_BYTES=64Q",
    ] {
        let (settings, warnings) = read(&[bad], false);
        assert_eq!(warnings, [bad]);
        assert_untouched(&settings);
    }
    let (settings, warnings) = read(
        &["GLIBC_TUNABLES=glibc.malloc.mxfast=161:glibc.malloc.top_pad:glibc.malloc.perturb=1"],
        false,
    );
    assert_eq!(
        warnings,
        ["glibc.malloc.mxfast=161", "glibc.malloc.top_pad="]
    );
    assert_eq!(settings.get(Key::Perturb), 1);
    assert!(!settings.is_set(Key::Mxfast));
}

#[test]
fn similar_names_are_not_ours() {
    let settings = read_quietly(&[
        "MALLOC_ARENA_MAX_=3",
        "MALLOC_TOP_PAD=3",
        "XMALLOC_ARENA_MAX=3",
        "FENCEPOST_=3",
        "GLIBC_TUNABLES=glibc.malloc.arena=3:arena_max=3:glibc.mallocarena_max=3",
        "GLIBC_TUNABLE=glibc.malloc.arena_max=3",
    ]);
    assert_untouched(&settings);
}

#[test]
fn a_privileged_process_ignores_its_environment() {
    let (settings, warnings) = read(
        &[
            "MALLOC_ARENA_MAX=1",
            "MALLOC_PERTURB_=x",
            "GLIBC_TUNABLES=glibc.malloc.perturb=1",
            "MALLOC_TRACE=/tmp/trace",
        ],
        true,
    );
    assert_untouched(&settings);
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn values_out_of_range_are_refused() {
    for tunable in &TUNABLES {
        let settings = Settings::new();
        for (value, allowed) in [
            (Some(tunable.min), true),
            (Some(tunable.max), true),
            (tunable.min.checked_sub(1), false),
            (tunable.max.checked_add(1), false),
        ] {
            let Some(value) = value else { continue };
            let before = settings.get(tunable.key);
            assert_eq!(
                settings.set(tunable.key, value),
                allowed,
                "{:?} {value}",
                tunable.key
            );
            let now = if allowed { value } else { before };
            assert_eq!(settings.get(tunable.key), now, "{:?} {value}", tunable.key);
        }
    }
}

#[test]
fn the_threshold_slides_until_one_of_its_four_tunables_is_set() {
    for tunable in &TUNABLES {
        let settings = Settings::new();
        // Even the default counts, if it was said.
        assert!(settings.set(tunable.key, tunable.default));
        let fixes = matches!(
            tunable.key,
            Key::MmapThreshold | Key::TrimThreshold | Key::TopPad | Key::MmapMax
        );
        assert_eq!(settings.sliding_threshold(), !fixes, "{:?}", tunable.key);
    }
}

#[test]
fn either_dialect_switches_the_caches_off() {
    assert!(!read_quietly(&["FENCEPOST_CACHE=0"]).caches());
    assert!(!read_quietly(&["GLIBC_TUNABLES=glibc.malloc.tcache_count=0"]).caches());
    assert!(read_quietly(&["GLIBC_TUNABLES=glibc.malloc.tcache_count=100"]).caches());
}

#[test]
fn a_trim_threshold_of_minus_one_is_never_reached() {
    let settings = read_quietly(&["MALLOC_TRIM_THRESHOLD_=-1"]);
    assert_eq!(settings.get(Key::TrimThreshold), usize::MAX);
}

#[test]
fn names_are_unique() {
    let mut names: Vec<String> = TUNABLES
        .iter()
        .flat_map(|t| {
            let constant = t.mallopt.map(|(name, _)| name.to_string());
            let number = t.mallopt.map(|(_, number)| number.to_string());
            let variable = t.variable.map(str::to_string);
            let glibc = t.glibc.map(|name| format!("{GLIBC_PREFIX}{name}"));
            [constant, number, variable, glibc].into_iter().flatten()
        })
        .chain(TEXTS.iter().map(|text| text.variable.to_string()))
        .collect();
    let all = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
#[cfg(target_env = "gnu")]
fn mallopt_constants_are_the_c_librarys() {
    let theirs = [
        ("M_MXFAST", libc::M_MXFAST),
        ("M_TRIM_THRESHOLD", libc::M_TRIM_THRESHOLD),
        ("M_TOP_PAD", libc::M_TOP_PAD),
        ("M_MMAP_THRESHOLD", libc::M_MMAP_THRESHOLD),
        ("M_MMAP_MAX", libc::M_MMAP_MAX),
        ("M_ARENA_MAX", libc::M_ARENA_MAX),
        ("M_ARENA_TEST", libc::M_ARENA_TEST),
        ("M_PERTURB", libc::M_PERTURB),
        ("M_CHECK_ACTION", libc::M_CHECK_ACTION),
    ];
    let ours: Vec<_> = TUNABLES.iter().filter_map(|t| t.mallopt).collect();
    assert_eq!(ours, theirs);
}

fn keys() -> impl Iterator<Item = Key> {
    TUNABLES.iter().map(|tunable| tunable.key)
}

const BEGIN: &str = "<!-- tunables:begin -->\n";
const END: &str = "<!-- tunables:end -->";

/// The README's table is the one that the code gives. `FENCEPOST_BLESS=1` writes it there.
#[test]
#[cfg(target_pointer_width = "64")] // Three of the limits are smaller on 32-bit machines.
fn the_readme_shows_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).expect("there is a README.md");
    let (before, rest) = readme
        .split_once(BEGIN)
        .expect("README.md has the begin marker");
    let (shown, after) = rest.split_once(END).expect("README.md has the end marker");
    let table = markdown();
    if std::env::var_os("FENCEPOST_BLESS").is_some_and(|v| v == "1") {
        let blessed = [before, BEGIN, &table, END, after].concat();
        std::fs::write(&path, blessed).expect("README.md can be written");
    } else {
        assert!(
            shown == table,
            "the table in README.md is not the code's; FENCEPOST_BLESS=1 cargo test --test \
             tunables writes this one:\n{table}"
        );
    }
}

/// The table of all tunables.
fn markdown() -> String {
    let mut table = String::from(
        "| environment | `GLIBC_TUNABLES` | `mallopt` | default | range | meaning |\n\
         |---|---|---|---|---|---|\n",
    );
    for tunable in &TUNABLES {
        let code = |name: Option<String>| name.map_or_else(String::new, |n| format!("`{n}`"));
        let glibc = tunable.glibc.map(|name| format!("{GLIBC_PREFIX}{name}"));
        writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} |",
            code(tunable.variable.map(str::to_string)),
            code(glibc),
            code(tunable.mallopt.map(|(name, _)| name.to_string())),
            amount(tunable, tunable.default),
            range(tunable),
            tunable.sentence,
        )
        .expect("a String takes everything");
    }
    for text in &TEXTS {
        writeln!(
            table,
            "| `{}` |  |  |  | {} | {} |",
            text.variable, text.holds, text.sentence,
        )
        .expect("a String takes everything");
    }
    table
}

fn range(tunable: &Tunable) -> String {
    if let Unit::Choice(words) = tunable.unit {
        return words.join(", ");
    }
    let min = amount(tunable, tunable.min);
    match tunable.max {
        usize::MAX => "any".into(),
        max if max == isize::MAX as usize => format!("from {min}"),
        max => format!("{min} to {}", amount(tunable, max)),
    }
}

fn amount(tunable: &Tunable, number: usize) -> String {
    match (tunable.unit, number) {
        (Unit::Choice(words), n) => words[n].to_string(),
        (Unit::Bytes, n) if n >= 1 << 20 && n % (1 << 20) == 0 => format!("{} MiB", n >> 20),
        (Unit::Bytes, n) if n >= 1 << 10 && n % (1 << 10) == 0 => format!("{} KiB", n >> 10),
        (Unit::Bytes, n) if n > 0 => format!("{n} B"),
        (_, n) => n.to_string(),
    }
}
