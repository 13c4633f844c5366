//! The comparison itself, on a few workloads, with glibc against glibc.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn compare(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_fencepost-compare"))
        .arg("--no-build")
        .args(arguments)
        .env_remove("LD_PRELOAD")
        .output()
        .expect("the comparison can be started")
}

fn results(directory: &Path) -> Value {
    let text = std::fs::read(directory.join("results.json")).expect("there are results");
    serde_json::from_slice(&text).expect("the results are JSON")
}

#[test]
fn glibc_against_itself_gives_ratios_tables_and_a_plot() {
    let out = tempfile::tempdir().expect("a directory");
    let output = compare(&[
        "--quick",
        "--runs",
        "2",
        "--only",
        "^(start-true|exchange|shbench-1)$",
        "--allocators",
        "glibc",
        "--out",
        &out.path().to_string_lossy(),
    ]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let results = results(out.path());
    let rows = results["rows"].as_array().expect("there are rows");
    let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["start-true", "shbench-1", "exchange"]);
    for row in rows {
        let entries = row["entries"].as_array().expect("there are entries");
        assert_eq!(entries.len(), 2, "glibc and glibc again");
        for entry in entries {
            assert_eq!(entry["failure"], Value::Null);
            let samples = entry["samples"].as_array().expect("there are samples");
            assert_eq!(samples.len(), 2);
            for sample in samples {
                let user = sample["user"].as_f64().expect("a number");
                let system = sample["system"].as_f64().expect("a number");
                assert!(user + system > 0.0);
                assert!(sample["rss_kib"].as_u64().is_some_and(|rss| rss > 500));
                assert!(sample["minor"].as_u64().is_some_and(|faults| faults > 10));
            }
        }
        // Both print the same, so every sample carries the same hash.
        let hashes: Vec<&Value> = entries
            .iter()
            .flat_map(|entry| entry["samples"].as_array().into_iter().flatten())
            .map(|sample| &sample["output"])
            .collect();
        assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    }
    let table = std::fs::read_to_string(out.path().join("compare.md")).expect("there is a table");
    assert!(table.contains("| CPU time, all | 3 |"), "{table}");
    let plot = std::fs::read_to_string(out.path().join("compare.svg")).expect("there is a plot");
    assert!(plot.starts_with("<svg"));
    let lines = std::fs::read_to_string(out.path().join("results.csv")).expect("there is a file");
    assert_eq!(lines.lines().count(), 1 + 3 * 2 * 2);
}

#[test]
fn a_library_without_malloc_is_left_out_with_a_reason() {
    let libm = [
        "/lib/x86_64-linux-gnu",
        "/lib/aarch64-linux-gnu",
        "/lib64",
        "/lib",
    ]
    .map(|directory| Path::new(directory).join("libm.so.6"))
    .into_iter()
    .find(|path| path.exists())
    .expect("the C library brings libm");
    let output = compare(&[
        "--list",
        "--lib",
        &libm.to_string_lossy(),
        "--allocators",
        "fencepost",
    ]);
    assert!(output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains("left out: fencepost: the library does not define malloc"),
        "{errors}"
    );
}

#[test]
fn what_is_unknown_is_refused() {
    let workload = compare(&[
        "--list",
        "--only",
        "no such workload",
        "--allocators",
        "glibc",
    ]);
    assert_eq!(workload.status.code(), Some(2));
    let allocator = compare(&["--list", "--allocators", "nomalloc"]);
    assert_eq!(allocator.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&allocator.stderr).contains("no allocator is called nomalloc"));
}

#[test]
fn the_measuring_program_tells_how_a_program_ended_and_what_it_peaked_at() {
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("out");
    let measure = |timeout: &str, program: &[&str]| -> Value {
        let output = Command::new(env!("CARGO_BIN_EXE_compare-measure"))
            .arg("--stdout")
            .arg(&out)
            .args(["--timeout", timeout, "--"])
            .args(program)
            .output()
            .expect("it can be started");
        serde_json::from_slice(&output.stdout).expect("it prints JSON")
    };
    let good = measure("60", &["/bin/echo", "hello"]);
    assert_eq!(good["failure"], "");
    assert_eq!(std::fs::read(&out).expect("the output is kept"), b"hello\n");
    assert_eq!(
        measure("60", &["/bin/sh", "-c", "exit 3"])["failure"],
        "exit 3"
    );
    assert_eq!(
        measure("60", &["/bin/sh", "-c", "kill -9 $$"])["failure"],
        "signal 9"
    );
    assert_eq!(
        measure("1", &["/bin/sh", "-c", "sleep 60; echo no"])["failure"],
        "timeout"
    );
    // 64 MiB in the program show, and what this test itself holds does not.
    let held = vec![1u8; 96 << 20];
    let small = measure("60", &["/bin/true"])["rss_kib"].as_u64();
    assert!(small.is_some_and(|kib| kib < 16 << 10), "{small:?}");
    assert_eq!(held[held.len() - 1], 1);
    let script = "x=$(printf '%67108864s' x); echo ${#x}";
    let large = measure("60", &["/bin/bash", "-c", script])["rss_kib"].as_u64();
    assert!(large.is_some_and(|kib| kib > 64 << 10), "{large:?}");
}

/// The order in which threads run, and what they find of each other's blocks,
/// must not show: a difference in the output is taken for a broken allocator.
#[test]
fn every_load_prints_the_same_each_time() {
    let load = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_compare-load"))
            .args(arguments)
            .env_remove("LD_PRELOAD")
            .output()
            .expect("it can be started");
        assert!(output.status.success(), "{arguments:?}: {}", output.status);
        String::from_utf8(output.stdout).expect("it prints text")
    };
    let list = load(&["--list"]);
    let mut classic = 0;
    for line in list.lines() {
        let [name, threads, group] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert!(["classic", "synthetic"].contains(&group), "{line}");
        classic += u32::from(group == "classic");
        let first = load(&[name, "1"]);
        assert!(first.starts_with(&format!("{name} ")), "{first}");
        if threads != "1" {
            assert_eq!(first, load(&[name, "1"]));
        }
    }
    assert!(classic >= 16, "{classic} classic loads");
}
