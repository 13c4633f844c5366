//! The main arena under the preload, where the break is not ours alone: others move it, a
//! mapping stands in its way, the kernel refuses. Once per way of caching.

mod support;

use std::path::Path;
use support::{Run, compile_c};

fn survives(case: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/grow.c");
    let program = compile_c(&source, &[]);
    for env in [
        &[][..],
        &[("FENCEPOST_CACHE", "0")],
        &[("FENCEPOST_DEPOT", "0")],
    ] {
        let end = Run::new(&program)
            .arg(case)
            .envs(env)
            .preload()
            .output()
            .expect_success(&format!("grow {case} {env:?}"));
        assert_eq!(end.out(), "ok\n");
    }
}

#[test]
fn others_move_the_break() {
    survives("sbrk");
}

#[test]
fn a_mapping_stands_in_the_way_from_the_start() {
    survives("wall");
}

#[test]
fn a_mapping_comes_in_the_way() {
    survives("late wall");
}

#[test]
fn the_data_limit_is_reached_and_memory_freed_serves_again() {
    survives("data limit");
}
