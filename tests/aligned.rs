//! Aligned blocks, with the preload library: what a thread sets aside by alignment is found again,
//! serves plain requests too, and costs no more memory than padding every request did.

mod support;

use std::path::Path;
use support::{Run, compile_c};

/// 4096 blocks of 16 bytes to 2 KiB at multiples of 16 to 8192 bytes are replaced at random.
#[test]
fn blocks_of_all_alignments_take_turns() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/aligned/mix.c");
    let outcome = Run::new(compile_c(&source, &[])).preload().output();
    let outcome = outcome.expect_success("mix.c");
    assert_eq!(outcome.err(), "");
    let figures = outcome.out();
    let (live, most) = figures.trim().split_once(' ').expect("two numbers");
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (live, most) = (number(live), number(most));
    assert!(live > 1 << 20, "{figures}");
    // Small chunks that stay at every multiple of the coarser alignments make it 15 times.
    assert!(most < live * 6, "{figures}");
}
