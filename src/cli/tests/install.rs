//! `fencepost install`, and the documents that it installs.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bench, FENCEPOST, OWN, refused, text};

/// Every file below `directory`, relative to it.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.insert(path.strip_prefix(directory).unwrap().to_path_buf());
            }
        }
    }
    found
}

fn install(bench: &Bench, prefix: &Path) -> Command {
    let mut command = bench.fencepost();
    command.arg("install").arg("--prefix").arg(prefix);
    command
}

const INSTALLED: [&str; 17] = [
    "bin/fencepost",
    "lib/libfencepost.so",
    "share/man/man1/fencepost.1",
    "share/man/man1/fencepost-run.1",
    "share/man/man1/fencepost-explain.1",
    "share/man/man1/fencepost-maps.1",
    "share/man/man1/fencepost-pmap.1",
    "share/man/man1/fencepost-mmu.1",
    "share/man/man1/fencepost-mmu-translate.1",
    "share/man/man1/fencepost-mmu-segments.1",
    "share/man/man1/fencepost-mmu-paging.1",
    "share/man/man1/fencepost-install.1",
    "share/man/man1/fencepost-completions.1",
    "share/man/man1/fencepost-man.1",
    "share/bash-completion/completions/fencepost",
    "share/zsh/site-functions/_fencepost",
    "share/fish/vendor_completions.d/fencepost.fish",
];

#[test]
fn the_installed_tool_runs_by_itself() {
    let bench = Bench::new();
    let prefix = bench.path("new/prefix");
    let output = install(&bench, &prefix).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let expected: BTreeSet<PathBuf> = INSTALLED.map(PathBuf::from).into();
    assert_eq!(files(&prefix), expected, "these and no temporary files");
    let said: BTreeSet<String> = text(&output.stdout).lines().map(str::to_string).collect();
    let line = |name| format!("installed {}", prefix.join(name).display());
    assert_eq!(said, INSTALLED.map(line).into());
    for (name, mode) in [
        ("bin/fencepost", 0o755),
        ("share/man/man1/fencepost.1", 0o644),
    ] {
        let permissions = prefix.join(name).metadata().unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode);
    }

    let mut command = bench.plain(&prefix.join("bin/fencepost"));
    let output = command
        .args(["run", "--", "echo", "hello"])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "hello\n", "{}", text(&output.stderr));
    assert_eq!(bench.log(), ["dummy"]);
}

#[test]
fn an_older_version_is_replaced_and_not_written_into() {
    let bench = Bench::new();
    let prefix = bench.path("prefix");
    assert!(install(&bench, &prefix).status().unwrap().success());
    let library = prefix.join("lib/libfencepost.so");
    let mut old = fs::File::open(&library).unwrap();
    let content = fs::read(&library).unwrap();

    bench.library("newer", &bench.library);
    assert!(install(&bench, &prefix).status().unwrap().success());
    // Who has the old one mapped keeps it; the name leads to the new one.
    assert_ne!(
        old.metadata().unwrap().ino(),
        library.metadata().unwrap().ino()
    );
    let mut still = Vec::new();
    old.read_to_end(&mut still).unwrap();
    assert_eq!(still, content);
    assert_eq!(
        fs::read(&library).unwrap(),
        fs::read(&bench.library).unwrap()
    );

    // An installed tool installs itself, even over itself.
    let tool = prefix.join("bin/fencepost");
    for target in [bench.path("second"), prefix.clone()] {
        let mut command = bench.plain(&tool);
        command.arg("install").arg("--prefix").arg(&target);
        assert!(command.status().unwrap().success());
        let mut command = bench.plain(&target.join("bin/fencepost"));
        assert!(
            command
                .args(["run", "--", "true"])
                .status()
                .unwrap()
                .success()
        );
        assert_eq!(bench.log(), ["newer"]);
    }
}

#[test]
fn a_relative_prefix_starts_at_the_current_directory() {
    let bench = Bench::new();
    let mut command = install(&bench, Path::new("here"));
    let output = command.current_dir(bench.dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(bench.path("here/bin/fencepost").is_file());
}

#[test]
fn a_failure_changes_nothing() {
    let bench = Bench::new();
    let prefix = bench.path("prefix");
    assert!(install(&bench, &prefix).status().unwrap().success());
    let before = files(&prefix);
    let library = prefix.join("lib/libfencepost.so");
    let content = fs::read(&library).unwrap();
    bench.library("newer", &bench.library);

    // The last file cannot be written: the first ones stay as they were.
    let last = prefix.join(INSTALLED[INSTALLED.len() - 1]);
    fs::remove_file(&last).unwrap();
    fs::create_dir(&last).unwrap();
    refused(
        &mut install(&bench, &prefix),
        OWN,
        &["fencepost.fish", "directory"],
    );
    fs::remove_dir(&last).unwrap();
    assert_eq!(fs::read(&library).unwrap(), content);
    let mut now = files(&prefix);
    now.insert(INSTALLED[INSTALLED.len() - 1].into());
    assert_eq!(now, before, "no temporary file is left");

    // A file where a directory is needed.
    let file = bench.file("file", "precious");
    refused(&mut install(&bench, &file), OWN, &["file"]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn bad_prefixes_and_missing_libraries_are_told_first() {
    let bench = Bench::new();
    let blank = bench.path("with blank");
    refused(
        &mut install(&bench, &blank),
        OWN,
        &["with blank", "LD_PRELOAD cannot name"],
    );
    assert!(!blank.exists());
    let output = install(&bench, Path::new("")).output().unwrap();
    assert_eq!(output.status.code(), Some(OWN));
    let prefix = bench.path("prefix");
    let mut command = install(&bench, &prefix);
    command.args(["--lib", "/no/such.so"]);
    refused(&mut command, OWN, &["/no/such.so: no such file"]);
    assert!(!prefix.exists());
}

const GUARD_OPTIONS: [&str; 7] = [
    "guard",
    "align",
    "leaks",
    "quarantine",
    "report",
    "suppress",
    "suppressions",
];

fn print(args: &[&str]) -> String {
    let output = Command::new(FENCEPOST).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

#[test]
fn help_and_version_tell_what_there_is() {
    let version = print(&["--version"]);
    assert_eq!(
        version,
        format!("fencepost {}\n", env!("CARGO_PKG_VERSION"))
    );
    let help = print(&["--help"]);
    for name in [
        "run",
        "explain",
        "maps",
        "pmap",
        "mmu",
        "install",
        "completions",
        "man",
    ] {
        assert!(help.contains(&format!("\n  {name} ")), "{help}");
        print(&[name, "--help"]);
    }
    for topic in ["translate", "segments", "paging"] {
        print(&["mmu", topic, "--help"]);
    }
    let help = print(&["run", "--help"]);
    for name in ["--stats", "--lib", "--force", "FENCEPOST_LIB", "../lib"] {
        assert!(help.contains(name), "{help}");
    }
    for name in GUARD_OPTIONS {
        assert!(help.contains(&format!("--{name}")), "{help}");
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = print(&["completions", shell]);
        for name in ["install", "stats", "prefix", "explain"] {
            assert!(script.contains(name), "{shell}: {name}");
        }
        for name in GUARD_OPTIONS {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    // bash takes its script as it is, and completes by it.
    let bash = "source /dev/stdin <<<\"$SCRIPT\"; COMP_WORDS=(fencepost ru); \
        COMP_CWORD=1; _fencepost fencepost ru fencepost; echo \"${COMPREPLY[@]}\"";
    match Command::new("bash")
        .args(["-c", bash])
        .env("SCRIPT", print(&["completions", "bash"]))
        .output()
    {
        Ok(output) => assert_eq!(text(&output.stdout), "run\n", "{}", text(&output.stderr)),
        Err(_) => support::absent("bash"),
    }
}

#[test]
fn man_pages_say_what_the_command_does() {
    let page = print(&["man"]);
    assert!(page.contains(".TH fencepost 1"), "{page}");
    for part in [
        "EXIT STATUS",
        "122",
        "125",
        "126",
        "127",
        "LD_PRELOAD",
        "EXAMPLES",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(page.contains("fencepost\\-run(1)"), "{page}");
    let page = print(&["man", "run"]);
    for part in [".TH fencepost-run 1", "stats", "setuid"] {
        assert!(page.contains(part), "{part} not in {page}");
    }
    for part in GUARD_OPTIONS {
        assert!(page.contains(part), "{part} not in {page}");
    }
    let page = print(&["man", "explain"]);
    for part in [".TH fencepost-explain 1", "json", "build id"] {
        assert!(page.contains(part), "{part} not in {page}");
    }
    let page = print(&["man", "mmu-paging"]);
    for part in [".TH fencepost-mmu-paging 1", "Belady", "opt"] {
        assert!(page.contains(part), "{part} not in {page}");
    }
    let mut command = Command::new(FENCEPOST);
    refused(command.args(["man", "walk"]), OWN, &["no subcommand walk"]);
}

#[test]
fn a_closed_standard_output_is_an_error_and_no_panic() {
    let mut command = Command::new(FENCEPOST);
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    refused(command.arg("man").stdout(full), OWN, &["standard output"]);
}
