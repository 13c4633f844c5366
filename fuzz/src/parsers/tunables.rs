//! The tunables: an environment block with variables and `GLIBC_TUNABLES`.

use fencepost::config::{GLIBC_PREFIX, Key, LONGEST, Settings, TEXTS, TUNABLES, parse};
use std::ffi::CString;

/// The same rules once more: sign, base, digits, factor, all in numbers that do not overflow.
fn simple(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let (negative, text) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let factor = match text.chars().last()?.to_ascii_lowercase() {
        'k' => 1u128 << 10,
        'm' => 1 << 20,
        'g' => 1 << 30,
        _ => 1,
    };
    let digits = if factor == 1 {
        text
    } else {
        &text[..text.len() - 1]
    };
    let hex = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"));
    let (digits, base) = hex.map_or((digits, 10), |digits| (digits, 16));
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    let number = if digits.is_empty() {
        0
    } else {
        u128::from_str_radix(digits, base).ok()?
    };
    let number = usize::try_from(number.checked_mul(factor)?).ok()?;
    Some(if negative {
        number.wrapping_neg()
    } else {
        number
    })
}

pub fn number(text: &[u8]) {
    assert_eq!(parse(text), simple(text), "{:?}", text.escape_ascii());
}

/// What the rules in words say of a block, with lists and loops.
fn expected(block: &[CString]) -> (Vec<usize>, Vec<bool>, Vec<Vec<u8>>, usize) {
    let mut values: Vec<usize> = TUNABLES.iter().map(|tunable| tunable.default).collect();
    let mut given = vec![false; TUNABLES.len()];
    let mut texts = vec![Vec::new(); TEXTS.len()];
    let mut warned = 0;
    let mut take = |place: usize, value: &[u8]| {
        let range = TUNABLES[place].min..=TUNABLES[place].max;
        match simple(value).filter(|number| range.contains(number)) {
            Some(number) => (values[place], given[place]) = (number, true),
            None => warned += 1,
        }
    };
    let parts: Vec<(Vec<u8>, Vec<u8>)> = block
        .iter()
        .map(|entry| {
            let mut parts = entry.to_bytes().splitn(2, |byte| *byte == b'=');
            let name = parts.next().unwrap_or_default().to_vec();
            (name, parts.next().unwrap_or_default().to_vec())
        })
        .collect();
    let first = |name: &str| parts.iter().find(|(n, _)| n == name.as_bytes());
    for (place, tunable) in TUNABLES.iter().enumerate() {
        if let Some((_, value)) = tunable.variable.and_then(first) {
            take(place, value);
        }
    }
    if let Some((_, list)) = first("GLIBC_TUNABLES") {
        for item in list.split(|byte| *byte == b':') {
            let mut parts = item.splitn(2, |byte| *byte == b'=');
            let name = parts.next().unwrap_or_default();
            let value = parts.next().unwrap_or_default();
            for (place, tunable) in TUNABLES.iter().enumerate() {
                let full = tunable.glibc.map(|name| format!("{GLIBC_PREFIX}{name}"));
                if full.is_some_and(|full| full.as_bytes() == name) {
                    take(place, value);
                }
            }
        }
    }
    for tunable in &TEXTS {
        if let Some((_, value)) = first(tunable.variable) {
            if value.len() > LONGEST {
                warned += 1;
            } else {
                texts[tunable.key as usize] = value.clone();
            }
        }
    }
    (values, given, texts, warned)
}

pub fn environment(data: &[u8]) {
    let block: Vec<CString> = data
        .split(|byte| *byte == 0)
        .map(|entry| CString::new(entry).expect("no zero inside"))
        .collect();
    let mut pointers: Vec<_> = block.iter().map(|entry| entry.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let settings = Settings::new();
    let mut warned = 0;
    // SAFETY: an array of C strings that ends with a null pointer, all alive.
    #[allow(unsafe_code)]
    unsafe {
        settings.read_environment(pointers.as_ptr(), false, &mut |_, _| warned += 1);
    }
    let (values, given, texts, warnings) = expected(&block);
    for tunable in &TEXTS {
        let key = tunable.key;
        assert_eq!(settings.text(key), texts[key as usize], "{key:?}");
    }
    for (place, tunable) in TUNABLES.iter().enumerate() {
        let key: Key = tunable.key;
        assert_eq!(settings.get(key), values[place], "{key:?}");
        assert_eq!(settings.is_set(key), given[place], "{key:?}");
    }
    assert_eq!(warned, warnings, "warnings");
    let secure = Settings::new();
    // SAFETY: as above.
    #[allow(unsafe_code)]
    unsafe {
        secure.read_environment(pointers.as_ptr(), true, &mut |_, _| panic!("not read"));
    }
}
