//! Where the preload library is looked for, and what is no preload library.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Bench, FENCEPOST, OWN, refused};

/// A `fencepost` in `prefix/bin`, where no library lies yet.
fn installed(bench: &Bench) -> PathBuf {
    let bin = bench.path("prefix/bin");
    fs::create_dir_all(&bin).unwrap();
    let executable = bin.join("fencepost");
    support::copy(Path::new(FENCEPOST), &executable);
    executable
}

#[test]
fn the_lookup_goes_option_variable_beside_lib() {
    let bench = Bench::new();
    let executable = installed(&bench);
    let [option, variable] = ["option.so", "variable.so"].map(|name| bench.path(name));
    bench.library("option", &option);
    bench.library("variable", &variable);
    let loaded = |option: Option<&Path>, variable: Option<&Path>| {
        let mut command = bench.plain(&executable);
        command.arg("run");
        if let Some(path) = option {
            command.arg("--lib").arg(path);
        }
        if let Some(path) = variable {
            command.env("FENCEPOST_LIB", path);
        }
        let output = command.args(["--", "true"]).output().unwrap();
        assert!(output.status.success(), "{}", support::text(&output.stderr));
        bench.log()
    };

    let mut command = bench.plain(&executable);
    command.args(["run", "--", "echo"]);
    let tried = [
        "prefix/bin/libfencepost.so",
        "prefix/lib/libfencepost.so",
        "FENCEPOST_LIB",
    ];
    refused(&mut command, OWN, &tried);

    bench.library("lib", &bench.path("prefix/lib/libfencepost.so"));
    assert_eq!(loaded(None, None), ["lib"]);
    // Through a link elsewhere it is still the true place that counts.
    let link = bench.path("link");
    std::os::unix::fs::symlink(&executable, &link).unwrap();
    let mut command = bench.plain(&link);
    assert!(command.args(["run", "true"]).status().unwrap().success());
    assert_eq!(bench.log(), ["lib"]);

    bench.library("beside", &bench.path("prefix/bin/libfencepost.so"));
    assert_eq!(loaded(None, None), ["beside"]);
    assert_eq!(loaded(None, Some(&variable)), ["variable"]);
    assert_eq!(loaded(Some(&option), Some(&variable)), ["option"]);
    assert_eq!(loaded(Some(&option), None), ["option"]);
    // An empty variable is none.
    assert_eq!(loaded(None, Some(Path::new(""))), ["beside"]);
}

#[test]
fn a_named_library_that_is_missing_is_not_replaced() {
    let bench = Bench::new();
    let executable = installed(&bench);
    bench.library("beside", &bench.path("prefix/bin/libfencepost.so"));
    let mut command = bench.plain(&executable);
    command.args(["run", "--lib", "/no/such.so", "--", "echo"]);
    refused(&mut command, OWN, &["/no/such.so: no such file", "--lib"]);
    let mut command = bench.plain(&executable);
    command
        .args(["run", "--", "echo"])
        .env("FENCEPOST_LIB", "/no/such.so");
    refused(
        &mut command,
        OWN,
        &["/no/such.so: no such file", "FENCEPOST_LIB"],
    );
    let mut command = bench.plain(&executable);
    command
        .args(["run", "--", "echo"])
        .env("FENCEPOST_LIB", bench.dir.path());
    refused(&mut command, OWN, &["it is not a file"]);
}

#[test]
fn a_relative_name_becomes_absolute() {
    let bench = Bench::new();
    let mut command = bench.plain(Path::new(FENCEPOST));
    command
        .args(["run", "--lib", "dummy/libfencepost.so", "--"])
        // The second shell starts elsewhere and loads the library all the same.
        .args(["sh", "-c", "cd / && sh -c 'echo $LD_PRELOAD'; exit 0"])
        .current_dir(bench.dir.path());
    let output = command.output().unwrap();
    let directory = fs::canonicalize(bench.dir.path()).unwrap();
    let library = directory.join("dummy/libfencepost.so");
    assert_eq!(
        support::text(&output.stdout).trim_end(),
        library.to_str().unwrap()
    );
    assert_eq!(bench.log(), ["dummy", "dummy"]);
}

#[test]
fn what_is_no_library_is_refused() {
    let bench = Bench::new();
    let with = |path: &Path| {
        let mut command = bench.plain(Path::new(FENCEPOST));
        command
            .args(["run", "--lib"])
            .arg(path)
            .args(["--", "echo"]);
        command
    };
    let text = bench.file("text.so", "not a library, but long enough for one");
    refused(&mut with(&text), OWN, &["text.so", "no ELF header"]);
    let empty = bench.file("empty.so", "");
    refused(&mut with(&empty), OWN, &["empty.so", "no ELF header"]);
    let whole = fs::read(&bench.library).unwrap();
    let torn = bench.file("torn.so", &whole[..40]);
    refused(&mut with(&torn), OWN, &["torn.so", "no shared library"]);
    let object = bench.path("object.so");
    bench.compile("int x;", &object, &["-c"]).unwrap();
    refused(&mut with(&object), OWN, &["object.so", "another kind"]);
    for name in ["with blank.so", "with:colon.so", "with$dollar.so"] {
        let path = bench.path(name);
        fs::copy(&bench.library, &path).unwrap();
        refused(&mut with(&path), OWN, &[name, "LD_PRELOAD cannot name"]);
    }
}
