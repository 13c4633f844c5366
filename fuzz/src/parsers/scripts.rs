//! The tests' own scripts: any text is read or refused, what is printed is read as it was.

use crate::kernel::{crowd, drive};
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

/// Operations of the memory models, made and printed. (Whoever writes such a script by hand gets
/// a panic that says what is wrong with it.)
pub fn operations(data: &[u8]) {
    let text = (crate::mmu::TARGET.print)(data);
    let script: Result<crowd::Script, _> = text.parse();
    assert_eq!(script.map(|script| script.to_string()), Ok(text));
    let ops: Vec<_> = drive::parse("munmap 0x1000 4096 # a comment\n\nbrk 7");
    assert_eq!(ops.len(), 2);
}
