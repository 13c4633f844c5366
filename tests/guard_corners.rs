//! Odd corners of the guard mode: what programs that do nothing wrong may rely on there.

mod support;

use std::path::Path;

use support::{Outcome, Run, compile_c};

/// Plays one of the corners of `tests/guard/corners.c`, which must end well.
#[track_caller]
fn play(what: &[&str], env: &[(&str, &str)]) -> Outcome {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guard/corners.c");
    let mut run = Run::new(compile_c(&source, &[])).preload().envs(env);
    for arg in what {
        run = run.arg(arg);
    }
    run.output().expect_success(&format!("{what:?} {env:?}"))
}

/// Memory that must be zero is, whatever M_PERTURB fills other memory with.
#[test]
fn calloc_is_zero_though_perturbed() {
    for guard in ["0", "1", "2"] {
        let env = [("FENCEPOST_GUARD", guard), ("MALLOC_PERTURB_", "85")];
        assert_eq!(
            play(&["perturb"], &env).err(),
            "",
            "FENCEPOST_GUARD={guard}"
        );
    }
}

/// A sample that an aligned allocation gets is aligned as asked for, and freed as such.
#[test]
fn samples_are_aligned() {
    for guard in ["1", "2", "10"] {
        let env = [("FENCEPOST_GUARD", guard)];
        assert_eq!(
            play(&["aligned"], &env).err(),
            "",
            "FENCEPOST_GUARD={guard}"
        );
    }
}
