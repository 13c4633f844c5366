//! The tests' own scripts: any text is read or refused, what is printed is read as it was.

use crate::model::Script;

pub fn scripts(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(script) = text.parse::<Script>()
    {
        assert_eq!(script.to_string().parse().as_ref(), Ok(&script));
    }
    let script = Script::from_bytes(data);
    assert_eq!(script.to_string().parse().as_ref(), Ok(&script));
}
