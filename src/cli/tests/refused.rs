//! Programs that cannot be preloaded are not started, and the reason is told.

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Bench, FENCEPOST, UNPRELOADABLE, absent, one_line, refused, skipped, text};

const HELLO: &str = "#include <stdio.h>\nint main(void) { puts(\"hello\"); return 3; }";

fn run(bench: &Bench, program: &Path) -> Command {
    let mut command = bench.fencepost();
    command.args(["run", "--"]).arg(program);
    command
}

/// `--force` starts the program all the same, with one line of warning.
#[track_caller]
fn forced(bench: &Bench, program: &Path, part: &str) {
    let mut command = bench.fencepost();
    let output = command
        .args(["run", "--force", "--"])
        .arg(program)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "hello\n");
    assert_eq!(output.status.code(), Some(3));
    one_line(&output);
    let message = text(&output.stderr);
    assert!(
        message.contains("warning: ") && message.contains(part),
        "{message}"
    );
}

/// The program runs, with the library in it, and nothing is said.
#[track_caller]
fn accepted(bench: &Bench, program: &Path, loads: usize) {
    bench.log();
    let output = run(bench, program).output().unwrap();
    assert_eq!(text(&output.stderr), "");
    assert_eq!(text(&output.stdout), "hello\n");
    assert_eq!(bench.log().len(), loads);
}

fn hello(bench: &Bench, name: &str, flags: &[&str]) -> Option<PathBuf> {
    let path = bench.path(name);
    bench.compile(HELLO, &path, flags).map(|()| path)
}

#[test]
fn a_static_program_is_refused() {
    let bench = Bench::new();
    for (name, flag) in [("static", "-static"), ("static-pie", "-static-pie")] {
        let Some(program) = hello(&bench, name, &[flag]) else {
            absent(&format!("cc {flag} does not link"));
            continue;
        };
        let parts = [program.to_str().unwrap(), "statically linked", "--force"];
        refused(&mut run(&bench, &program), UNPRELOADABLE, &parts);
        forced(&bench, &program, "statically linked");
    }
    let dynamic = hello(&bench, "dynamic", &[]).unwrap();
    accepted(&bench, &dynamic, 1);
    let fixed = hello(&bench, "fixed", &["-no-pie"]).unwrap();
    accepted(&bench, &fixed, 1);
}

#[test]
fn another_architecture_or_word_size_is_refused() {
    let bench = Bench::new();
    let program = hello(&bench, "dynamic", &[]).unwrap();
    let elf = fs::read(&program).unwrap();
    let changed = |name: &str, at: usize, byte: u8| {
        let mut copy = elf.clone();
        copy[at] = byte;
        bench.file(name, copy)
    };
    let other_class = if elf[4] == 2 { 1 } else { 2 };
    let class = changed("class", 4, other_class);
    let parts = [class.to_str().unwrap(), "another architecture", "-bit"];
    refused(&mut run(&bench, &class), UNPRELOADABLE, &parts);
    let order = changed("order", 5, if elf[5] == 1 { 2 } else { 1 });
    refused(
        &mut run(&bench, &order),
        UNPRELOADABLE,
        &["another architecture"],
    );
    let machine = changed("machine", 18, 243);
    refused(&mut run(&bench, &machine), UNPRELOADABLE, &["RISC-V"]);

    // A 32-bit header and nothing behind it is enough to tell.
    let mut header = vec![0; 52];
    header[..7].copy_from_slice(b"\x7fELF\x01\x01\x01");
    header[16] = 2;
    header[18] = 3;
    let small = bench.file("small", header);
    refused(&mut run(&bench, &small), UNPRELOADABLE, &["x86, 32-bit"]);
}

#[test]
fn damaged_and_foreign_files_are_refused() {
    let bench = Bench::new();
    let program = hello(&bench, "dynamic", &[]).unwrap();
    let elf = fs::read(&program).unwrap();
    // Every kind of truncation ends in a message, none in a crash.
    for length in [4, 19, 20, 50, 63, 64, 100, 200, 600] {
        let torn = bench.file("torn", &elf[..length]);
        refused(&mut run(&bench, &torn), UNPRELOADABLE, &["torn", "it "]);
    }
    let mut odd = elf.clone();
    odd[4] = 9;
    let odd = bench.file("odd", odd);
    refused(&mut run(&bench, &odd), UNPRELOADABLE, &["makes no sense"]);
    let mut core = elf.clone();
    core[16] = 4;
    let core = bench.file("core", core);
    refused(&mut run(&bench, &core), UNPRELOADABLE, &["no program"]);
    for (name, content) in [
        ("empty", ""),
        ("data", "\0\x01"),
        ("words", "echo hello; exit 3\n"),
    ] {
        let file = bench.file(name, content);
        refused(
            &mut run(&bench, &file),
            UNPRELOADABLE,
            &[name, "neither an ELF program"],
        );
    }
    // What a shell would have run it still runs when forced.
    forced(&bench, &bench.path("words"), "neither an ELF program");
}

#[test]
fn another_c_library_or_a_missing_loader_is_told() {
    let bench = Bench::new();
    let loader = |name: &str| format!("-Wl,--dynamic-linker={name}");
    let musl = hello(&bench, "musl", &[&loader("/lib/ld-musl-x86_64.so.1")]).unwrap();
    if cfg!(target_env = "gnu") {
        refused(
            &mut run(&bench, &musl),
            UNPRELOADABLE,
            &["musl:", "runs on musl", "for glibc"],
        );
    }
    let lost = hello(&bench, "lost", &[&loader("/no/such/loader")]).unwrap();
    refused(
        &mut run(&bench, &lost),
        127,
        &["lost", "/no/such/loader, which does not exist"],
    );
}

#[test]
fn the_loader_itself_runs_programs_with_the_library() {
    let bench = Bench::new();
    let program = hello(&bench, "dynamic", &[]).unwrap();
    let Some(loader) = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
        .into_iter()
        .find(|path| Path::new(path).exists())
    else {
        return absent("no glibc loader at its usual place");
    };
    let output = run(&bench, Path::new(loader))
        .arg(&program)
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "hello\n", "{}", text(&output.stderr));
    assert_eq!(bench.log(), ["dummy"]);
}

/// A setuid program of another owner than the caller: made as root, or one
/// that every system has.
fn foreign_setuid(bench: &Bench) -> Option<PathBuf> {
    if support::root() {
        let program = hello(bench, "setuid", &[]).unwrap();
        chown(&program, Some(65534), None).unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
        return Some(program);
    }
    let known = [
        "/usr/bin/su",
        "/bin/su",
        "/usr/bin/mount",
        "/usr/bin/passwd",
    ];
    known.map(PathBuf::from).into_iter().find(|path| {
        let metadata = path.metadata();
        metadata.is_ok_and(|file| file.mode() & 0o4000 != 0 && file.uid() == 0)
    })
}

#[test]
fn a_setuid_program_is_refused() {
    let bench = Bench::new();
    let Some(program) = foreign_setuid(&bench) else {
        return skipped("no setuid program at hand");
    };
    let parts = [program.to_str().unwrap(), "is setuid", "ignores LD_PRELOAD"];
    refused(&mut run(&bench, &program), UNPRELOADABLE, &parts);
    // Without the file's help as well: a script whose interpreter it is.
    let script = bench.file("script", format!("#!{}\n", program.display()));
    let parts = ["script: ", "its interpreter ", "is setuid"];
    refused(&mut run(&bench, &script), UNPRELOADABLE, &parts);
    if support::root() {
        // The loader bears the refusal out: nothing is loaded.
        forced(&bench, &program, "is setuid");
        assert_eq!(bench.log(), [""; 0]);
    }
}

#[test]
fn a_setuid_bit_that_changes_nothing_is_no_reason() {
    let bench = Bench::new();
    let program = hello(&bench, "own", &[]).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
    accepted(&bench, &program, 1);
    // On a script the kernel ignores it.
    let script = bench.file("script", "#!/bin/sh\necho hello\n");
    if support::root() {
        chown(&script, Some(65534), None).unwrap();
    }
    fs::set_permissions(&script, Permissions::from_mode(0o4755)).unwrap();
    accepted(&bench, &script, 1);
}

#[test]
fn setgid_and_file_capabilities_are_refused_to_users() {
    let bench = Bench::new();
    if !support::root() {
        return skipped("only root can make setgid files and file capabilities");
    }
    // The user must be able to reach the command.
    let fencepost = bench.path("fencepost");
    support::copy(Path::new(FENCEPOST), &fencepost);
    let as_user = |program: &Path| {
        let mut command = bench.plain(&fencepost);
        command.args(["run", "--"]).arg(program);
        command.env("FENCEPOST_LIB", &bench.library);
        command.env_remove("DUMMY_LOG").uid(65534).gid(65534);
        command
    };
    let program = hello(&bench, "setgid", &[]).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o2755)).unwrap();
    refused(&mut as_user(&program), UNPRELOADABLE, &["is setgid"]);

    let program = hello(&bench, "capable", &[]).unwrap();
    assert_eq!(text(&as_user(&program).output().unwrap().stdout), "hello\n");
    // Version 2, effective: CAP_NET_BIND_SERVICE.
    let mut capabilities = [0_u8; 20];
    capabilities[..4].copy_from_slice(&0x0200_0001_u32.to_le_bytes());
    capabilities[4..8].copy_from_slice(&(1_u32 << 10).to_le_bytes());
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(&program, "security.capability", &capabilities, flags) {
        Ok(()) => {
            refused(
                &mut as_user(&program),
                UNPRELOADABLE,
                &["has file capabilities"],
            );
            // Root gains nothing by them.
            accepted(&bench, &program, 1);
        }
        Err(error) => skipped(&format!("file capabilities cannot be set here: {error}")),
    }
}

#[test]
fn a_program_that_cannot_be_read_is_run_unchecked() {
    let bench = Bench::new();
    if !support::root() {
        return skipped("only root can lock a user out and still run the program");
    }
    let fencepost = bench.path("fencepost");
    support::copy(Path::new(FENCEPOST), &fencepost);
    let program = hello(&bench, "secret", &[]).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o711)).unwrap();
    let mut command = bench.plain(&fencepost);
    command
        .env("FENCEPOST_LIB", &bench.library)
        .env_remove("DUMMY_LOG");
    command
        .args(["run", "--"])
        .arg(&program)
        .uid(65534)
        .gid(65534);
    let output = command.output().unwrap();
    assert_eq!(text(&output.stdout), "hello\n");
    one_line(&output);
    assert!(text(&output.stderr).contains("cannot be read"));
}

#[test]
fn a_bundled_allocator_is_worth_a_warning() {
    let bench = Bench::new();
    let plain = "#include <stddef.h>\n#include <stdio.h>\n\
        void *NAME(size_t n) { static char pool[1 << 20]; static size_t used; \
        void *p = pool + used; used += (n + 15) & ~(size_t)15; return p; }\n\
        int main(void) { puts(\"hello\"); return NAME(8) ? 3 : 4; }";
    for (name, flags) in [
        ("malloc", &["-rdynamic"][..]),
        ("malloc", &[]),
        ("je_malloc", &[]),
        ("_rjem_malloc", &[]),
        ("mi_malloc", &["-no-pie"]),
        ("tc_malloc", &[]),
    ] {
        let program = bench.path("bundled");
        bench
            .compile(&plain.replace("NAME", name), &program, flags)
            .unwrap();
        let output = run(&bench, &program).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(text(&output.stdout), "hello\n");
        one_line(&output);
        let message = text(&output.stderr);
        let symbol = format!("({name})");
        let program = program.to_str().unwrap();
        for part in ["warning: ", program, "brings its own allocator", &symbol] {
            assert!(message.contains(part), "{message}");
        }
    }
    // Calling malloc, or taking its address, is not defining it.
    let program = bench.path("caller");
    let source = "#include <stdio.h>\n#include <stdlib.h>\n\
        void *(*volatile take)(size_t) = malloc;\n\
        int main(void) { return take(8) && malloc(8) && puts(\"hello\") ? 3 : 4; }";
    bench.compile(source, &program, &["-no-pie"]).unwrap();
    accepted(&bench, &program, 1);
}
