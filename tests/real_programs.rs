//! Real programs under the preload: standard output, standard error, exit
//! status and files are the same as without it.
//!
//! `FENCEPOST_CACHE=0`, `FENCEPOST_DEPOT=0` and the like in the environment of
//! the test reach every preloaded child; `FENCEPOST_TEST_VARIANTS=all` plays
//! each program under each of them in turn.

mod programs;
mod support;

use programs::redis::Server;
use programs::{ALL, PLAIN, Stage, generate, identical, identical_unasked};
use support::{Run, program};

#[test]
fn python_is_the_same() {
    identical(&["python3"], ALL, |stage, paths| {
        stage.script("work.py");
        let run = Run::new(&paths[0])
            .args(["work.py"])
            .env("PYTHONHASHSEED", "0");
        // Once with every object from malloc, once with python's own pools.
        stage.run(run.clone().env("PYTHONMALLOC", "malloc"), 3);
        stage.keep("python.out");
        stage.run(run, 3);
    });
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
    identical(&["perl"], ALL, |stage, paths| {
        stage.script("work.pl");
        let run = Run::new(&paths[0])
            .arg("work.pl")
            .env("PERL_HASH_SEED", "0");
        stage.run(run, 4);
        stage.keep("perl.out");
    });
}

#[test]
fn sqlite3_is_the_same() {
    identical(&["sqlite3"], ALL, |stage, paths| {
        stage.script("work.sql");
        let run = Run::new(&paths[0]).args(["work.db", ".read work.sql"]);
        stage.run(run, 1);
        stage.keep("work.db");
    });
}

#[test]
fn lua_is_the_same() {
    identical(&["lua5.4"], ALL, |stage, paths| {
        stage.script("work.lua");
        stage.run(Run::new(&paths[0]).arg("work.lua"), 6);
        stage.keep("lua.out");
    });
}

#[test]
fn gawk_is_the_same() {
    identical(&["gawk"], PLAIN, |stage, paths| {
        stage
            .script("work.awk")
            .input("lines", generate::lines(15_000));
        let run = Run::new(&paths[0]).args(["-f", "work.awk", "lines"]);
        stage.run(run, 7);
        stage.keep("gawk.out");
    });
}

#[test]
fn bash_is_the_same() {
    identical(&["bash"], PLAIN, |stage, paths| {
        stage.script("work.bash");
        stage.run(Run::new(&paths[0]).arg("work.bash"), 8);
        stage.keep("bash.out");
    });
}

#[test]
fn jq_is_the_same() {
    identical(&["jq"], ALL, |stage, paths| {
        stage
            .script("work.jq")
            .input("in.json", generate::json(2_000));
        stage.run(
            Run::new(&paths[0]).args(["-S", "-f", "work.jq", "in.json"]),
            0,
        );
        stage.run(
            Run::new(&paths[0]).args([".[] | .id, .missing.deep[1]", "in.json"]),
            0,
        );
        stage.run(Run::new(&paths[0]).args([".[0] | error", "in.json"]), 5);
    });
}

#[test]
fn xmllint_is_the_same() {
    identical(&["xmllint"], PLAIN, |stage, paths| {
        stage.input("in.xml", generate::xml(6_000));
        stage.input(
            "broken.xml",
            generate::xml(50).replace("</name>", "</nome>"),
        );
        let xmllint = || Run::new(&paths[0]);
        stage.run(
            xmllint().args(["--noent", "--format", "in.xml", "--output", "out.xml"]),
            0,
        );
        stage.keep("out.xml");
        stage.run(xmllint().args(["--c14n", "in.xml"]), 0);
        let path = "//*[local-name()='item'][@*[local-name()='kind']='3']/@id";
        stage.run(xmllint().args(["--xpath", path, "in.xml"]), 0);
        stage.run(xmllint().arg("broken.xml"), 1);
    });
}

#[test]
fn sort_is_the_same() {
    identical_unasked(&["sort"], ALL, |stage, paths| {
        // Enough lines for sort's threads, enough files for thousands of small
        // blocks, and a buffer so small that it merges temporary files.
        stage.input("lines", generate::lines(140_000));
        let sort = || Run::new(&paths[0]).args(["-T", "."]);
        let run = sort().args(["--parallel=2", "-k2,2", "-k3,3nr", "-o", "by-word", "lines"]);
        stage.run(run, 0);
        stage.keep("by-word");
        let run = sort().args([
            "--parallel=2",
            "-S",
            "2M",
            "--batch-size=4",
            "-R",
            "--random-source=by-word",
        ]);
        stage.run(run.args(["-o", "shuffled", "lines"]), 0);
        stage.keep("shuffled");
        let files: Vec<String> = (0..120).map(|i| format!("part{i}")).collect();
        for (i, name) in files.iter().enumerate() {
            stage.input(
                name,
                (0..200)
                    .map(|j| format!("{:06}\n", j * 977 + i))
                    .collect::<String>(),
            );
        }
        stage.run(sort().args(["-m", "--batch-size=200"]).args(&files), 0);
        stage.run(sort().args(["-c", "lines"]), 1);
    });
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
    identical(&["git"], PLAIN, |stage, paths| {
        let git = |args: &str| {
            Run::new(&paths[0])
                .args(["-c", "gc.auto=0", "-c", "pack.threads=1"])
                .args(args.split(' '))
                .envs(&[
                    ("GIT_CONFIG_NOSYSTEM", "1"),
                    ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ])
        };
        stage.run(git("init -q -b main ."), 0);
        stage.run(
            git("fast-import --quiet --force").stdin(generate::history(150)),
            0,
        );
        stage.run(git("reset -q --hard"), 0);
        stage.run(git("repack -q -a -d -f --window=30 --depth=50"), 0);
        stage.run(git("log -p --stat --no-color"), 0);
        stage.run(git("diff --word-diff HEAD~40 HEAD"), 0);
        stage.run(git("blame -w -C HEAD -- dir1/file1"), 0);
        stage.run(git("rev-list --objects --all"), 0);
        stage.run(git("grep --threads=2 -n -E 7[0-9]+ HEAD~3 HEAD"), 0);
        stage.run(git("archive --format=tar -o tree.tar HEAD"), 0);
        stage.run(git("-c pack.threads=2 repack -q -a -d -f"), 0);
        stage.run(git("fsck --full --strict --no-progress"), 0);
        stage.run(git("status --porcelain --ignored"), 0);
        stage.run(git("checkout no-such-branch"), 1);
        stage.keep("tree.tar");
        stage.keep("dir2/file2");
    });
}

#[test]
fn cc1_is_the_same() {
    identical(&["gcc"], ALL, |stage, paths| {
        stage.input("work.i", generate::c_source(120));
        stage.input(
            "broken.i",
            "int f(int x) { retrun x + y; }\nstruct s { int : 99; };\n",
        );
        let run = Run::new(&paths[0]).args(["-fpreprocessed", "-w", "-S", "-O2"]);
        stage.run(run.clone().args(["work.i", "-o", "work.s"]), 0);
        stage.keep("work.s");
        stage.run(run.args(["broken.i", "-o", "broken.s"]), 1);
    });
}

#[test]
fn cc1plus_is_the_same() {
    identical(&["g++"], PLAIN, |stage, paths| {
        stage.script("work.cc");
        let gxx = || Run::new(&paths[0]).args(["-std=c++17", "-w"]);
        stage.run(gxx().args(["-E", "work.cc", "-o", "work.ii"]), 0);
        stage.keep("work.ii");
        stage.run(
            gxx().args(["-fpreprocessed", "-S", "-O1", "work.ii", "-o", "work.s"]),
            0,
        );
        stage.keep("work.s");
    });
}

fn redis_play(stage: &mut Stage, paths: &[std::path::PathBuf]) {
    let [server, client, benchmark] = paths else {
        panic!("three programs")
    };
    let server = Server::start(stage, server, client);
    let socket = server.socket().to_path_buf();
    let in_dir = |program| stage.dress(Run::new(program)).arg("-s").arg(&socket);

    // Every reply to a fixed list of commands over all types.
    let commands = generate::redis_commands(8_000);
    let replies = in_dir(client)
        .stdin(commands)
        .output()
        .expect_success("redis-cli");
    // The benchmark's own numbers are times; what it leaves in the server is not.
    let load = "set,get,incr,lpush,rpush,lpop,sadd,hset,zadd,mset";
    in_dir(benchmark)
        .args([
            "-q", "-n", "8000", "-c", "20", "-P", "8", "-d", "300", "-t", load,
        ])
        .output()
        .expect_success("redis-benchmark");
    let digest = server.ask(&["DEBUG", "DIGEST"]);
    assert_eq!(digest.trim().len(), 40, "a digest: {digest}");
    let size = server.ask(&["DBSIZE"]);
    // A child of a threaded server saves; then all is loaded anew, and dropped.
    let saved = server.ask(&["BGSAVE"]);
    server.wait_for("persistence", "rdb_bgsave_in_progress:0");
    server.wait_for("persistence", "rdb_last_bgsave_status:ok");
    let reload = server.ask(&["DEBUG", "RELOAD"]);
    let again = server.ask(&["DEBUG", "DIGEST"]);
    assert_eq!(
        digest, again,
        "the data set changed by saving and loading it"
    );
    let flushed = server.ask(&["FLUSHALL"]);
    let empty = server.ask(&["DEBUG", "DIGEST"]);
    let stderr = server.stop();
    stage.note("replies", replies.stdout);
    stage.note(
        "short replies",
        [digest, size, reload, saved, flushed, empty].concat(),
    );
    stage.note_stderr(replies.stderr);
    stage.note_stderr(stderr);
}

#[test]
fn redis_is_the_same() {
    identical(
        &["redis-server", "redis-cli", "redis-benchmark"],
        ALL,
        redis_play,
    );
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
