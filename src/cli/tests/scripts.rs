//! Scripts are followed to the program that runs in the end.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bench, UNPRELOADABLE, absent, refused, text};

fn run(bench: &Bench, program: &Path) -> Command {
    let mut command = bench.fencepost();
    command.args(["run", "--"]).arg(program).arg("argument");
    command
}

#[track_caller]
fn accepted(command: &mut Command, stdout: &str) {
    let output = command.output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), stdout);
}

/// A program that the library cannot be loaded into, to end chains with.
fn static_program(bench: &Bench) -> Option<PathBuf> {
    let path = bench.path("static");
    let made = bench.compile("int main(void) { return 0; }", &path, &["-static"]);
    if made.is_none() {
        absent("cc -static does not link");
    }
    made.map(|()| path)
}

#[test]
fn scripts_of_every_shape_run() {
    let bench = Bench::new();
    for line in [
        "#!/bin/sh",
        "#! /bin/sh ",
        "#!/bin/sh -e",
        "#!/usr/bin/env sh",
        "#!/usr/bin/env -S sh -e",
        "#!/usr/bin/env -S A=1 sh",
    ] {
        let script = bench.file("script", format!("{line}\necho \"<$1>\"\n"));
        accepted(&mut run(&bench, &script), "<argument>\n");
        assert!(
            !bench.log().is_empty(),
            "{line}: the library was not loaded"
        );
    }
}

#[test]
fn a_chain_of_scripts_is_followed_as_far_as_the_kernel_does() {
    let bench = Bench::new();
    let Some(program) = static_program(&bench) else {
        return;
    };
    let chain = |target: &Path, length: usize| -> PathBuf {
        let mut last = target.to_path_buf();
        for i in 1..=length {
            last = bench.file(&format!("link{i}"), format!("#!{}\n", last.display()));
        }
        last
    };
    let interpreter = program.to_str().unwrap();
    for length in 1..=5 {
        let parts = [&format!("link{length}: "), interpreter, "statically linked"];
        refused(
            &mut run(&bench, &chain(&program, length)),
            UNPRELOADABLE,
            &parts,
        );
    }
    refused(
        &mut run(&bench, &chain(&program, 6)),
        126,
        &["link6", "more than 5"],
    );
    // The kernel agrees on both.
    let direct = |path: PathBuf| Command::new(path).status();
    assert!(direct(chain(&program, 5)).is_ok_and(|status| status.success()));
    assert!(direct(chain(&program, 6)).is_err());
    // A script that is its own interpreter ends too.
    let own = bench.path("own");
    let own = bench.file("own", format!("#!{}\n", own.display()));
    refused(&mut run(&bench, &own), 126, &["own", "more than 5"]);
    let own = bench.path("envown");
    let own = bench.file("envown", format!("#!/usr/bin/env {}\n", own.display()));
    refused(&mut run(&bench, &own), 126, &["envown", "more than 20"]);
}

#[test]
fn what_env_runs_is_looked_at() {
    let bench = Bench::new();
    let Some(program) = static_program(&bench) else {
        return;
    };
    let directory = bench.dir.path().to_str().unwrap().to_string();
    let program = program.to_str().unwrap();
    let lines = [
        format!("#!/usr/bin/env {program}"),
        format!("#!/usr/bin/env -S {program} -x"),
        format!("#!/usr/bin/env -S A=1 \"{program}\""),
        format!("#!/usr/bin/env -S PATH={directory} static"),
        format!("#!/usr/bin/env -S -C {directory} ./static"),
        format!("#!/usr/bin/env -S env {program}"),
        "#!/usr/bin/env -S ${HERE}/static".into(),
        "#!/usr/bin/env static".into(),
    ];
    for line in lines {
        let script = bench.file("script", format!("{line}\n"));
        let mut command = run(&bench, &script);
        let path = format!("{directory}:{}", std::env::var("PATH").unwrap());
        command.env("HERE", &directory).env("PATH", path);
        let parts = ["script: ", "its interpreter ", "statically linked"];
        refused(&mut command, UNPRELOADABLE, &parts);
    }
}

#[test]
fn env_that_drops_the_library_is_told() {
    let bench = Bench::new();
    for (line, says) in [
        ("#!/usr/bin/env -S -i sh", "`env -i`"),
        ("#!/usr/bin/env -S - sh", "`env -`"),
        ("#!/usr/bin/env -S -u LD_PRELOAD sh", "`env -u LD_PRELOAD`"),
        ("#!/usr/bin/env -S LD_PRELOAD=x sh", "`env LD_PRELOAD=`"),
    ] {
        let script = bench.file("script", format!("{line}\necho hello\n"));
        let parts = ["script: ", says, "drops LD_PRELOAD"];
        refused(&mut run(&bench, &script), UNPRELOADABLE, &parts);
    }
    // On a command line of the user's own, env is what was asked for.
    let mut command = bench.fencepost();
    command.args(["run", "--", "env", "-i", "/bin/echo", "hello"]);
    accepted(&mut command, "hello\n");
    assert_eq!(bench.log(), ["dummy"]);
}

#[test]
fn what_env_cannot_find_env_reports() {
    let bench = Bench::new();
    let script = bench.file("script", "#!/usr/bin/env no-such-tool\n");
    let mut command = run(&bench, &script);
    let output = command.env("PATH", "/usr/bin:/bin").output().unwrap();
    assert_eq!(output.status.code(), Some(127));
    assert!(text(&output.stderr).starts_with("/usr/bin/env: "));
}

#[test]
fn an_interpreter_that_cannot_run_is_told() {
    let bench = Bench::new();
    let script = bench.file("script", "#!/no/such/interpreter -x\n");
    let parts = ["script: ", "/no/such/interpreter does not exist"];
    refused(&mut run(&bench, &script), 127, &parts);
    let script = bench.file("script", "#!/bin/sh\r\necho hello\r\n");
    refused(
        &mut run(&bench, &script),
        127,
        &["/bin/sh\\r does not exist"],
    );
    fs::write(bench.path("plain"), "x").unwrap();
    let script = bench.file(
        "script",
        format!("#!{}/plain\n", bench.dir.path().display()),
    );
    refused(
        &mut run(&bench, &script),
        126,
        &["script: ", "plain", "permission denied"],
    );
    let script = bench.file("script", "#!/\n");
    refused(&mut run(&bench, &script), 126, &["directory"]);
    let script = bench.file("script", "#!\necho hello\n");
    refused(
        &mut run(&bench, &script),
        UNPRELOADABLE,
        &["neither an ELF program"],
    );
}
