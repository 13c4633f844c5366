//! Odd corners of the guard mode: what programs that do nothing wrong may rely on there.

mod support;

use std::path::Path;

use support::{Outcome, Run, compile_c, guarded_objects};

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

/// One in N is guarded, whoever serves the others: caches, none, or no cache for this size.
#[test]
fn samples_without_caches() {
    let env = |more| [("FENCEPOST_GUARD", "10"), ("FENCEPOST_STATS", "1"), more];
    for more in [
        ("FENCEPOST_CACHE", "1"),
        ("FENCEPOST_CACHE", "0"),
        ("MALLOC_PERTURB_", "85"),
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_max=500"),
        ("FENCEPOST_CACHE_BYTES", "0"),
    ] {
        for size in ["1000", "60000", "70000"] {
            let guarded = guarded_objects(&play(&["many", "5000", size, "0"], &env(more)).err());
            // 500 on average.
            assert!((250..750).contains(&guarded), "{more:?} {size}: {guarded}");
        }
    }
}

/// What samples may take is all that they take, of whatever size they are.
#[test]
fn samples_keep_within_their_bytes() {
    for size in ["1000", "60000", "200000"] {
        let env = [
            ("FENCEPOST_GUARD", "2"),
            ("FENCEPOST_GUARD_BYTES", "1048576"),
            ("FENCEPOST_STATS", "1"),
        ];
        let err = play(&["many", "3000", size, "1"], &env).err();
        let row = err.lines().find(|line| line.contains(" objects, "));
        let bytes = row.and_then(|row| row.split(", ").nth(2)).expect("a row");
        let bytes: usize = bytes.trim_end_matches(" bytes").parse().expect("bytes");
        // The last one may begin within.
        assert!((800_000..1_400_000).contains(&bytes), "{size}: {err}");
    }
}

/// A thread that waits for any signal does not get the one that stops threads at exit.
#[test]
fn sigwait_gets_no_signal_of_ours() {
    // Kernels without this file cannot tell what a thread waits for.
    if Path::new("/proc/self/syscall").exists() {
        let err = play(&["sigwaits"], &[("FENCEPOST_GUARD", "1")]).err();
        assert!(!err.contains("is lost"), "{err}");
    }
}

/// A fault in memory that the program has protected itself is its handler's business.
#[test]
fn faults_in_protected_objects_are_the_programs() {
    assert_eq!(play(&["protects"], &[("FENCEPOST_GUARD", "1")]).err(), "");
}

/// The peak is never below what is in use.
#[test]
fn the_peak_counts_guarded_bytes() {
    let env = [
        ("FENCEPOST_GUARD", "1"),
        ("FENCEPOST_GUARD_LEAKS", "0"),
        ("FENCEPOST_STATS", "1"),
    ];
    let err = play(&["many", "1000", "5000", "1"], &env).err();
    let row = err.lines().find(|line| line.contains(" at peak"));
    let mut numbers = row.expect("a row").split_whitespace().skip(1).step_by(2);
    let mut number = || numbers.next().and_then(|n| n.parse::<u64>().ok());
    let (live, peak) = (number().expect("live"), number().expect("peak"));
    assert!(live >= 1000 * 8192 && peak >= live, "{err}");
}

/// Who allocated a sample is the program, whichever function was called.
#[test]
#[cfg(target_arch = "x86_64")]
fn samples_know_their_callers() {
    for guard in ["1", "2"] {
        let env = [
            ("FENCEPOST_GUARD", guard),
            ("FENCEPOST_GUARD_BYTES", "1073741824"),
            ("FENCEPOST_GUARD_LEAKS", "1"),
        ];
        let err = play(&["loses"], &env).err();
        let callers: Vec<&str> = err.lines().filter(|l| l.contains("    #0 ")).collect();
        assert!(callers.len() >= 6, "FENCEPOST_GUARD={guard}: {err}");
        for caller in callers {
            assert!(
                caller.contains("/corners-"),
                "FENCEPOST_GUARD={guard}: {err}"
            );
        }
    }
}

/// The audit knows guards, and misses one that somebody took away.
#[test]
fn the_audit_looks_at_guards() {
    let env = [("FENCEPOST_GUARD", "1"), ("FENCEPOST_GUARD_LEAKS", "0")];
    assert_eq!(play(&["audited"], &env).out(), "0\n");
    let played = play(&["audited", "behind"], &env);
    if played.out().contains("no guards") || !tells_guards() {
        println!("skipped: this kernel does not tell guards");
        return;
    }
    assert_eq!(played.out(), "1\n", "{}", played.err());
    assert!(played.err().contains("is no guard"), "{}", played.err());
}

/// Whether the kernel shows guards in pagemap (Linux 6.15).
fn tells_guards() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("procfs");
    let mut numbers = release
        .split(['.', '-'])
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 15)
}
