//! What each program plays. `part` is 1 for the whole work and N for about an N-th of it.

use std::path::PathBuf;

use super::redis::Server;
use super::{Stage, generate};
use crate::support::Run;

pub fn python(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage.script("work.py");
    let run = Run::new(&paths[0])
        .args(["work.py"])
        .envs(&[("PYTHONHASHSEED", "0"), ("WORK_PART", &part.to_string())]);
    // Once with every object from malloc, once with python's own pools.
    stage.run(run.clone().env("PYTHONMALLOC", "malloc"), 3);
    stage.keep("python.out");
    stage.run(run, 3);
}

pub fn perl(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage.script("work.pl");
    let run = Run::new(&paths[0])
        .arg("work.pl")
        .envs(&[("PERL_HASH_SEED", "0"), ("WORK_PART", &part.to_string())]);
    stage.run(run, 4);
    stage.keep("perl.out");
}

pub fn sqlite3(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    let script = include_str!("work.sql").replace("i < 9000", &format!("i < {}", 9000 / part));
    stage.input("work.sql", script);
    let run = Run::new(&paths[0]).args(["work.db", ".read work.sql"]);
    stage.run(run, 1);
    stage.keep("work.db");
}

pub fn lua(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage.script("work.lua");
    let run = Run::new(&paths[0]).arg("work.lua");
    stage.run(run.env("WORK_PART", part.to_string()), 6);
    stage.keep("lua.out");
}

pub fn gawk(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage
        .script("work.awk")
        .input("lines", generate::lines(15_000 / part));
    let run = Run::new(&paths[0]).args(["-f", "work.awk", "lines"]);
    stage.run(run, 7);
    stage.keep("gawk.out");
}

pub fn bash(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage.script("work.bash");
    let run = Run::new(&paths[0]).arg("work.bash");
    stage.run(run.env("WORK_PART", part.to_string()), 8);
    stage.keep("bash.out");
}

pub fn jq(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage
        .script("work.jq")
        .input("in.json", generate::json(2_000 / part));
    stage.run(
        Run::new(&paths[0]).args(["-S", "-f", "work.jq", "in.json"]),
        0,
    );
    stage.run(
        Run::new(&paths[0]).args([".[] | .id, .missing.deep[1]", "in.json"]),
        0,
    );
    stage.run(Run::new(&paths[0]).args([".[0] | error", "in.json"]), 5);
}

pub fn xmllint(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage.input("in.xml", generate::xml(6_000 / part));
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
}

pub fn sort(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    // Enough lines for sort's threads, enough files for thousands of small
    // blocks, and a buffer so small that it merges temporary files.
    stage.input("lines", generate::lines(140_000 / part));
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
}

pub fn git(stage: &mut Stage, paths: &[PathBuf], part: u64) {
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
        git("fast-import --quiet --force").stdin(generate::history(150 / part.min(3))),
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
}

pub fn cc1(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    stage.input("work.i", generate::c_source(120 / part));
    stage.input(
        "broken.i",
        "int f(int x) { retrun x + y; }\nstruct s { int : 99; };\n",
    );
    let run = Run::new(&paths[0]).args(["-fpreprocessed", "-w", "-S", "-O2"]);
    stage.run(run.clone().args(["work.i", "-o", "work.s"]), 0);
    stage.keep("work.s");
    stage.run(run.args(["broken.i", "-o", "broken.s"]), 1);
}

pub fn cc1plus(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    match part {
        1 => stage.script("work.cc"),
        // The headers are most of the work.
        _ => stage.input("work.cc", "#include <map>\nstd::map<int, char> m;\n"),
    };
    let gxx = || Run::new(&paths[0]).args(["-std=c++17", "-w"]);
    stage.run(gxx().args(["-E", "work.cc", "-o", "work.ii"]), 0);
    stage.keep("work.ii");
    stage.run(
        gxx().args(["-fpreprocessed", "-S", "-O1", "work.ii", "-o", "work.s"]),
        0,
    );
    stage.keep("work.s");
}

pub fn redis(stage: &mut Stage, paths: &[PathBuf], part: u64) {
    let [server, client, benchmark] = paths else {
        panic!("three programs")
    };
    let server = Server::start(stage, server, client);
    let socket = server.socket().to_path_buf();
    let in_dir = |program| stage.dress(Run::new(program)).arg("-s").arg(&socket);

    // Every reply to a fixed list of commands over all types.
    let commands = generate::redis_commands(8_000 / part);
    let replies = in_dir(client)
        .stdin(commands)
        .output()
        .expect_success("redis-cli");
    let requests = (8_000 / part).to_string();
    // The benchmark's own numbers are times; what it leaves in the server is not.
    let load = "set,get,incr,lpush,rpush,lpop,sadd,hset,zadd,mset";
    in_dir(benchmark)
        .args([
            "-q", "-n", &requests, "-c", "20", "-P", "8", "-d", "300", "-t", load,
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
