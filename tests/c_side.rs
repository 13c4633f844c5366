//! The C and C++ side of the preload library, seen by small programs in `tests/c`.
//!
//! Each program checks one subject by itself (see `tests/c/check.h`) and ends with `ok`; what
//! is asserted here is what only an observer can see. Programs that concern the allocator as a
//! whole run once per variant: with the caches or the depot off and with extreme tunables the
//! same rules hold.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

mod support;
use support::{Outcome, Run, compile_c, preload_library};

/// Settings under which every rule holds.
const VARIANTS: &[&[(&str, &str)]] = &[
    &[],
    &[("FENCEPOST_CACHE", "0")],
    &[("FENCEPOST_DEPOT", "0")],
    &[
        ("FENCEPOST_CACHE_BYTES", "0"),
        ("FENCEPOST_DEPOT_BYTES", "0"),
    ],
    &[
        ("FENCEPOST_MAPPING_CACHE_BYTES", "0"),
        ("FENCEPOST_PURGE", "0"),
    ],
    &[
        ("MALLOC_ARENA_MAX", "1"),
        ("MALLOC_TOP_PAD_", "0"),
        ("MALLOC_TRIM_THRESHOLD_", "0"),
    ],
    &[
        ("MALLOC_MMAP_MAX_", "0"),
        ("GLIBC_TUNABLES", "glibc.malloc.mxfast=0"),
    ],
    &[("MALLOC_MMAP_THRESHOLD_", "4096")],
];

/// A source in `tests/c`.
fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/c")
        .join(name)
}

fn shared(name: &str) -> PathBuf {
    compile_c(&source(name), &["-shared", "-fPIC"])
}

/// Runs a program of `tests/c` under the preload.
fn run(name: &str, args: &[&Path], env: &[(&str, &str)]) -> Outcome {
    Run::new(compile_c(&source(name), &[]))
        .args(args)
        .envs(env)
        .preload()
        .output()
        .expect_success(&format!("{name} {env:?}"))
}

#[track_caller]
fn assert_ok(outcome: &Outcome) {
    assert_eq!(outcome.out(), "ok\n", "{}", outcome.tail());
    assert_eq!(outcome.err(), "", "{}", outcome.tail());
}

/// Runs a program under every variant; it must say `ok` and nothing else.
fn ok_in_all_variants(name: &str, args: &[&Path]) {
    for env in VARIANTS {
        assert_ok(&run(name, args, env));
    }
}

#[test]
fn the_rules_of_c() {
    ok_in_all_variants("rules.c", &[]);
}

#[test]
fn the_operators_of_cxx() {
    ok_in_all_variants("new.cpp", &[]);
}

#[test]
fn operators_that_a_program_replaces_serve_the_others_too() {
    assert_ok(&run("replaced.cpp", &[], &[]));
}

#[test]
fn a_cxx_runtime_that_comes_with_a_plugin_gets_its_bad_alloc() {
    assert_ok(&run("cxxhost.c", &[&shared("cxxplugin.cpp")], &[]));
}

#[test]
fn operator_new_without_a_cxx_runtime_ends_in_a_line() {
    let outcome = Run::new(compile_c(&source("nocxx.c"), &[]))
        .preload()
        .output();
    assert_eq!(outcome.signal(), Some(libc::SIGABRT), "{}", outcome.tail());
    assert_eq!(
        outcome.err(),
        "fencepost: operator new: out of memory, and no C++ runtime to throw std::bad_alloc\n"
    );
}

#[test]
fn calls_before_every_constructor() {
    ok_in_all_variants("preinit.c", &[]);
}

#[test]
fn calls_from_the_first_constructor_and_the_last_destructor() {
    for env in VARIANTS {
        let outcome = run("ctor.cpp", &[], env);
        assert_eq!(outcome.out(), "ok\n");
        assert_eq!(outcome.err(), "destroyed\n");
    }
}

#[test]
fn calls_from_libraries_that_come_and_go() {
    ok_in_all_variants("dlopen.c", &[&shared("plugin.c")]);
}

#[test]
fn a_process_without_thread_keys() {
    ok_in_all_variants("keys.c", &[]);
    ok_in_all_variants("keys.c", &[Path::new("before-main")]);
}

#[test]
fn thread_key_destructors_allocate_and_free() {
    ok_in_all_variants("late.c", &[]);
}

#[test]
fn thread_local_destructors_allocate_and_free() {
    ok_in_all_variants("late.cpp", &[]);
}

#[test]
fn exit_handlers_allocate_and_free() {
    for env in VARIANTS {
        let outcome = run("atexit.c", &[], env);
        assert_eq!(outcome.out(), "ok\n");
        assert_eq!(outcome.err(), "destroyed\n");
    }
}

#[test]
fn an_address_space_limit() {
    ok_in_all_variants("limit.c", &[]);
}

#[test]
fn a_sandbox_that_allows_only_memory_calls() {
    for env in VARIANTS {
        let outcome = run("seccomp.c", &[], env);
        assert_eq!(outcome.out(), "ok\n");
        assert_eq!(outcome.err(), "still here\n");
    }
}

#[test]
fn perturbed_memory() {
    assert_ok(&run("perturb.c", &[], &[("MALLOC_PERTURB_", "0xa5")]));
    assert_ok(&run("perturb.c", &[Path::new("by-mallopt")], &[]));
}

#[test]
fn a_bad_tunable_is_one_line_and_no_more() {
    let outcome = run(
        "preinit.c",
        &[],
        &[("MALLOC_ARENA_MAX", "many"), ("MALLOC_TOP_PAD_", "64K")],
    );
    assert_eq!(outcome.out(), "ok\n");
    assert_eq!(
        outcome.err(),
        "fencepost: ignored MALLOC_ARENA_MAX=many: not a number in its range\n"
    );
}

/// A set-user-ID program of root's, run by nobody, is linked with the library (LD_PRELOAD is
/// for other programs) and has an environment full of tunables: it must not read them.
#[test]
fn a_privileged_program_ignores_its_environment() {
    // SAFETY: geteuid(2) takes nothing and cannot fail.
    #[allow(unsafe_code)]
    if unsafe { libc::geteuid() } != 0 {
        println!("skipped: only root can make a program of root's");
        return;
    }
    // Nobody has to be able to go there, which is not said of cargo's directory.
    let dir = tempfile::Builder::new()
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in("/tmp")
        .expect("a directory below /tmp");
    let library = dir.path().join("libfencepost.so");
    fs::copy(preload_library(), &library).expect("the library can be copied");
    let rpath = format!("-Wl,-rpath,{}", dir.path().display());
    let library_argument = library.to_str().expect("a UTF-8 path");
    let plain = compile_c(
        &source("secure.c"),
        &["-Wl,--no-as-needed", library_argument, &rpath],
    );
    let program = dir.path().join("secure");
    fs::copy(plain, &program).expect("the program can be copied");
    chown(&program, Some(0), Some(0)).expect("root may");

    let tunables = [
        ("MALLOC_PERTURB_", "0xa5"),
        ("MALLOC_ARENA_MAX", "many"),
        ("FENCEPOST_STATS", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.perturb=0xa5"),
    ];
    let as_nobody = |mode: u32| {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("root may");
        let mut command: Command = Run::new(&program).envs(&tunables).command();
        let output = command
            .uid(65534)
            .gid(65534)
            .output()
            .expect("it can be run");
        assert!(output.status.success(), "{output:?}");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (text(output.stdout), text(output.stderr))
    };

    let (out, err) = as_nobody(0o755);
    assert_eq!(out, "secure 0 perturbed 1\n");
    assert!(
        err.starts_with("fencepost: ignored MALLOC_ARENA_MAX=many"),
        "{err}"
    );
    let (out, err) = as_nobody(0o4755);
    if out.starts_with("secure 0") {
        println!("skipped: set-user-ID programs have no effect on this file system");
        return;
    }
    assert_eq!((out.as_str(), err.as_str()), ("secure 1 perturbed 0\n", ""));
}

#[test]
fn statistics_are_printed_at_exit_when_asked_for() {
    let quiet = run("ctor.cpp", &[], &[("FENCEPOST_STATS", "0")]);
    let talking = run("ctor.cpp", &[], &[("FENCEPOST_STATS", "1")]);
    assert_eq!(quiet.err(), "destroyed\n");
    assert_eq!(talking.out(), quiet.out());
    let (before, statistics) = talking.err().split_once("destroyed\n").map_or_else(
        || panic!("{}", talking.tail()),
        |(before, after)| (before.to_string(), after.to_string()),
    );
    assert_eq!(before, "", "the statistics come last");
    assert!(statistics.contains("fencepost"), "{statistics}");
}

/// Said by the statistics: without this, the variants above would prove little.
#[test]
fn tunables_reach_an_allocator_that_is_used_before_main() {
    let cached = |env: &[(&str, &str)]| -> u64 {
        let env = [env, &[("FENCEPOST_STATS", "1")]].concat();
        let outcome = run("ctor.cpp", &[], &env);
        let row = regex::Regex::new(r"(?m)^ *cached +(\d+) bytes$").expect("a regular expression");
        let found = row
            .captures(&outcome.err())
            .map(|found| found[1].to_string());
        found
            .unwrap_or_else(|| panic!("{}", outcome.tail()))
            .parse()
            .expect("a number")
    };
    // The environment of the test reaches the child: with the caches off there, only that shows.
    let off = std::env::var_os("FENCEPOST_CACHE").is_some_and(|value| value == "0");
    assert_eq!(cached(&[]) == 0, off);
    assert_eq!(cached(&[("FENCEPOST_CACHE", "0")]), 0);
    assert_eq!(
        cached(&[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")]),
        0
    );
    let small = cached(&[("GLIBC_TUNABLES", "glibc.malloc.tcache_max=24")]);
    assert!(off || small < cached(&[]), "{small} bytes");
}

/// sort and its kin close standard error before the process is over.
#[test]
fn statistics_survive_a_program_that_closes_standard_error() {
    let Some(sort) = support::program("sort") else {
        return;
    };
    let outcome = Run::new(sort)
        .stdin("b\na\n")
        .env("FENCEPOST_STATS", "1")
        .preload()
        .output()
        .expect_success("sort");
    assert_eq!(outcome.out(), "a\nb\n");
    assert!(outcome.err().contains("fencepost"), "{}", outcome.tail());
}

#[test]
fn the_state_of_the_heap_in_cs_terms() {
    for env in VARIANTS {
        // The mapping that this program asks for is one only where mappings are allowed.
        if env.iter().any(|(name, _)| name.starts_with("MALLOC_MMAP_")) {
            continue;
        }
        let outcome = run("info.c", &[], env);
        assert_malloc_info_has_glibcs_shape(&outcome.out());
        assert_malloc_stats_has_glibcs_shape(&outcome.err());
    }
}

fn assert_malloc_stats_has_glibcs_shape(text: &str) {
    let arena = r"Arena \d+:\nsystem bytes     = [ \d]{10}\nin use bytes     = [ \d]{10}\n";
    let total = r"Total \(incl\. mmap\):\nsystem bytes     = [ \d]{10}\nin use bytes     = [ \d]{10}\nmax mmap regions = [ \d]{10}\nmax mmap bytes   = [ \d]{10}\n";
    let shape = regex::Regex::new(&format!("^({arena})+{total}$")).expect("a regular expression");
    assert!(shape.is_match(text), "{text}");
}

/// The elements and attributes are glibc's, in its order, and the numbers add up.
fn assert_malloc_info_has_glibcs_shape(text: &str) {
    let size = r#"  <size from="\d+" to="\d+" total="\d+" count="\d+"/>\n"#;
    let unsorted = r#"  <unsorted from="\d+" to="\d+" total="\d+" count="\d+"/>\n"#;
    let totals = r#"<total type="fast" count="\d+" size="\d+"/>\n<total type="rest" count="\d+" size="\d+"/>\n"#;
    let system = r#"<system type="current" size="\d+"/>\n<system type="max" size="\d+"/>\n<aspace type="total" size="\d+"/>\n<aspace type="mprotect" size="\d+"/>\n"#;
    let subheaps = r#"<aspace type="subheaps" size="\d+"/>\n"#;
    let heap = format!(
        "<heap nr=\"\\d+\">\\n<sizes>\\n({size})*({unsorted})?</sizes>\\n{totals}{system}({subheaps})?</heap>\\n"
    );
    let mapped = r#"<total type="mmap" count="\d+" size="\d+"/>\n"#;
    let document =
        format!("^<malloc version=\"1\">\\n({heap})+{totals}{mapped}{system}</malloc>\\n$");
    let shape = regex::Regex::new(&document).expect("a regular expression");
    assert!(shape.is_match(text), "{text}");

    let numbers = |pattern: &str, text: &str| -> Vec<u64> {
        regex::Regex::new(pattern)
            .expect("a regular expression")
            .captures_iter(text)
            .map(|found| found[1].parse().expect("a number"))
            .collect()
    };
    let sum_is_last = |pattern: &str| {
        let mut all = numbers(pattern, text);
        let last = all.pop();
        assert_eq!(last, Some(all.iter().sum()), "{pattern} in {text}");
        assert!(last > Some(0), "{pattern} in {text}");
    };
    sum_is_last(r#"type="rest" count="(\d+)""#);
    sum_is_last(r#"type="rest" count="\d+" size="(\d+)""#);
    sum_is_last(r#"<system type="current" size="(\d+)""#);
    assert_eq!(numbers(r#"type="mmap" count="(\d+)""#, text), [1]);
    assert!(numbers(r#"type="mmap" count="1" size="(\d+)""#, text)[0] >= 3 << 20);
    for heap in text.split("<heap ").skip(1) {
        let heap = heap.split("</heap>").next().expect("a first part");
        let listed: u64 = numbers(r#"<(?:size|unsorted) .*count="(\d+)""#, heap)
            .iter()
            .sum();
        let fast = numbers(r#"type="fast" count="(\d+)""#, heap)[0];
        let rest = numbers(r#"type="rest" count="(\d+)""#, heap)[0];
        // All that is free is listed by its size, but for top.
        assert_eq!(listed + 1, fast + rest, "{heap}");
    }
}
