//! Real programs under the preload: standard output, standard error, exit
//! status and files are the same as without it.
//!
//! `FENCEPOST_CACHE=0`, `FENCEPOST_DEPOT=0` and the like in the environment of
//! the test reach every preloaded child; `FENCEPOST_TEST_VARIANTS=all` plays
//! each program under each of them in turn.

mod programs;
mod support;

use programs::{ALL, PLAIN, Stage, generate, identical, identical_unasked, plays, whole};
use support::{Run, program};

#[test]
fn python_is_the_same() {
    identical(&["python3"], ALL, whole(plays::python));
}

#[test]
fn python_has_the_library_in_its_maps() {
    let Some(python) = program("python3") else {
        return;
    };
    let code = "print(sum('/libfencepost.so' in line for line in open('/proc/self/maps')))";
    let count = |run: Run| {
        let out = run
            .args(["-c", code])
            .output()
            .expect_success("python3")
            .out();
        out.trim().parse::<u32>().expect("a number")
    };
    assert_eq!(count(Run::new(&python)), 0);
    assert!(count(Run::new(&python).preload()) >= 3);
}

#[test]
fn perl_is_the_same() {
    identical(&["perl"], ALL, whole(plays::perl));
}

#[test]
fn sqlite3_is_the_same() {
    identical(&["sqlite3"], ALL, whole(plays::sqlite3));
}

#[test]
fn lua_is_the_same() {
    identical(&["lua5.4"], ALL, whole(plays::lua));
}

#[test]
fn gawk_is_the_same() {
    identical(&["gawk"], PLAIN, whole(plays::gawk));
}

#[test]
fn bash_is_the_same() {
    identical(&["bash"], PLAIN, whole(plays::bash));
}

#[test]
fn jq_is_the_same() {
    identical(&["jq"], ALL, whole(plays::jq));
}

#[test]
fn xmllint_is_the_same() {
    identical(&["xmllint"], PLAIN, whole(plays::xmllint));
}

#[test]
fn sort_is_the_same() {
    identical_unasked(&["sort"], ALL, whole(plays::sort));
}

#[test]
fn sort_takes_malloc_from_the_library() {
    // sort leaves by _exit, so it prints no statistics; the loader tells.
    let Some(sort) = program("sort") else { return };
    let run = Run::new(&sort).envs(&[("LD_DEBUG", "bindings"), ("LD_BIND_NOW", "1")]);
    let err = run
        .preload()
        .stdin("b\na\n")
        .output()
        .expect_success("sort")
        .err();
    for name in ["malloc", "free", "realloc"] {
        let bound = |l: &str| {
            l.contains("file /usr/bin/sort [0] to ")
                && l.contains("libfencepost.so")
                && l.contains(&format!("symbol `{name}'"))
        };
        assert!(err.lines().any(bound), "{name}:\n{err}");
    }
}

#[test]
fn git_is_the_same() {
    identical(&["git"], PLAIN, whole(plays::git));
}

#[test]
fn cc1_is_the_same() {
    identical(&["gcc"], ALL, whole(plays::cc1));
}

#[test]
fn cc1plus_is_the_same() {
    identical(&["g++"], PLAIN, whole(plays::cc1plus));
}

#[test]
fn redis_is_the_same() {
    let needs = ["redis-server", "redis-cli", "redis-benchmark"];
    identical(&needs, ALL, whole(plays::redis));
}

/// What `--stats` says was served by each rung of the malloc ladder.
fn rungs(stderr: &str) -> Vec<(String, u64)> {
    stderr
        .lines()
        .filter_map(|line| line.trim().strip_prefix("served by "))
        .filter_map(|row| row.rsplit_once(' '))
        .map(|(rung, served)| {
            let served = served.parse().expect("a count");
            (rung.trim().to_string(), served)
        })
        .collect()
}

#[test]
fn every_rung_serves_requests_of_three_programs() {
    for (name, args) in [
        ("python3", &["work.py"][..]),
        ("lua5.4", &["work.lua"]),
        ("jq", &["-S", "-f", "work.jq", "in.json"]),
    ] {
        let Some(path) = program(name) else {
            continue;
        };
        let stage = Stage::new(Some(vec![("FENCEPOST_STATS", "1")]));
        for script in ["work.py", "work.lua", "work.jq"] {
            stage.script(script);
        }
        stage.input("in.json", generate::json(10_000));
        let run = Run::new(&path).args(args).env("PYTHONMALLOC", "malloc");
        let outcome = stage.dress(run).output();
        let served = rungs(&outcome.err());
        assert_eq!(served.len(), 8, "{name}: {}", outcome.tail());
        for (rung, count) in served {
            assert!(count > 0, "{name}: nothing was served by {rung}");
        }
    }
}
