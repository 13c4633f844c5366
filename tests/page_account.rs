//! The account of pages against the kernel: by hand in this process, and inside python3 and
//! redis-server with eight threads. Each kind of contradiction is
//! brought about on purpose and must be found.
#![allow(unsafe_code)] // Memory is mapped, and changed behind the account's back.

mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fencepost::os::{Audit, Contradiction, Finding, Kernel, Ledger, Os, PageState, Prot, audit};

const PAGE: usize = 4096;

fn ledger() -> &'static Ledger<Kernel> {
    Box::leak(Box::new(Ledger::new(Kernel::new())))
}

fn findings(ledger: &Ledger<Kernel>, written: &[usize], expected: usize) -> (Audit, Vec<Finding>) {
    let mut found = Vec::with_capacity(4096);
    let visit = |visit: &mut dyn FnMut(usize)| written.iter().for_each(|at| visit(*at));
    let audit =
        audit(ledger, visit, || Some(expected), |f| found.push(f)).expect("/proc can be read");
    assert_eq!(audit.findings, found.len());
    (audit, found)
}

fn kinds(found: &[Finding]) -> Vec<Contradiction> {
    let mut kinds: Vec<Contradiction> = found.iter().map(|f| f.what).collect();
    kinds.dedup();
    kinds
}

fn write(addr: usize, pages: usize) {
    for page in 0..pages {
        // SAFETY: the test's own mapping.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(addr + page * PAGE).write(1) };
    }
}

fn raw(number: i64, args: [usize; 3]) {
    // SAFETY: on the test's own mappings.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2]) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// A mapping of 40 pages with pages of every state that a heap has, all true.
fn sample(ledger: &Ledger<Kernel>) -> usize {
    let base = ledger.map(0, 40 * PAGE, Prot::ReadWrite).expect("room");
    raw(
        libc::SYS_madvise,
        [base, 40 * PAGE, libc::MADV_NOHUGEPAGE as usize],
    );
    write(base, 20);
    ledger.note(base, base + 10 * PAGE, PageState::Live);
    ledger.note(base + 10 * PAGE, base + 20 * PAGE, PageState::Cached);
    // SAFETY: the test's own pages.
    unsafe {
        ledger
            .discard(base + 15 * PAGE, 3 * PAGE)
            .expect("it can be discarded");
        let _ = ledger.populate(base + 20 * PAGE, 2 * PAGE);
    }
    base
}

#[test]
fn what_is_true_is_not_accused() {
    let ledger = ledger();
    let base = sample(ledger);
    let reserved = ledger.map(0, 1 << 30, Prot::None).expect("address space");
    // SAFETY: the test's own reservation.
    unsafe { ledger.protect(reserved, 16 * PAGE, Prot::ReadWrite) }.expect("committed");
    let (audit, found) = findings(ledger, &[base, base + 9 * PAGE], 56 * PAGE);
    assert_eq!(found, []);
    let pages = |state| audit.pages[state as usize];
    assert_eq!(pages(PageState::Live), 10);
    assert_eq!(pages(PageState::Cached), 7);
    assert_eq!(pages(PageState::Released), 3);
    assert_eq!(pages(PageState::Fresh) + pages(PageState::Populated), 36);
    assert_eq!(pages(PageState::Reserved), (1 << 30) / PAGE - 16);
    assert!(audit.resident >= 17, "{audit:?}");
}

/// Where the record had no memory, everything around is unknown, also what is not mapped.
#[test]
fn what_nobody_knows_is_not_accused() {
    let ledger = ledger();
    let base = sample(ledger);
    let kernel = ledger.inner();
    let gone = kernel.map(0, 4 * PAGE, Prot::None).expect("address space");
    ledger.note(gone, gone + 2 * PAGE, PageState::Unknown);
    // SAFETY: the test's own reservation.
    unsafe { kernel.unmap(gone + PAGE, 3 * PAGE) }.expect("unmapped");
    let (audit, found) = findings(ledger, &[base], 0);
    assert_eq!(audit.pages[PageState::Unknown as usize], 2);
    assert_eq!(found, [], "nor can the sum be told");
}

/// Does something to the sample behind the account's back, and says what must be found.
type Lie = (
    &'static str,
    fn(&Ledger<Kernel>, usize),
    &'static [Contradiction],
);

const LIES: &[Lie] = &[
    (
        "unmapped behind our back",
        |_, base| raw(libc::SYS_munmap, [base + 5 * PAGE, PAGE, 0]),
        &[Contradiction::Unmapped],
    ),
    (
        "protected behind our back",
        |_, base| raw(libc::SYS_mprotect, [base + 25 * PAGE, PAGE, 0]),
        &[Contradiction::Rights],
    ),
    (
        "a dirty page said to be released",
        |ledger, base| ledger.note(base + PAGE, base + 2 * PAGE, PageState::Released),
        &[Contradiction::Resident, Contradiction::InCore],
    ),
    (
        "a fresh page that somebody wrote to",
        |_, base| write(base + 30 * PAGE, 1),
        &[Contradiction::Resident, Contradiction::InCore],
    ),
    (
        "pages in use that were discarded behind our back",
        |_, base| {
            raw(
                libc::SYS_madvise,
                [base, PAGE, libc::MADV_DONTNEED as usize],
            )
        },
        &[Contradiction::Absent],
    ),
    (
        "a page that nobody owns any more",
        |ledger, base| ledger.note(base + 3 * PAGE, base + 4 * PAGE, PageState::None),
        &[Contradiction::Sum],
    ),
    (
        "most pages said to be fresh",
        |ledger, base| ledger.note(base, base + 20 * PAGE, PageState::Fresh),
        &[Contradiction::Resident, Contradiction::InCore],
    ),
];

#[test]
fn each_contradiction_is_found() {
    for (name, lie, expected) in LIES {
        let ledger = ledger();
        // Alone in its area, so that the area's size counts too.
        let base = sample(ledger);
        lie(ledger, base);
        let (_, found) = findings(ledger, &[base], 40 * PAGE);
        let kinds = kinds(&found);
        for what in *expected {
            assert!(kinds.contains(what), "{name}: {found:?}");
        }
        // SAFETY: the test's own pages.
        let _ = unsafe { ledger.inner().unmap(base, 40 * PAGE) };
    }
}

/// Resident sizes are compared for areas that are ours from end to end: one of other rights than
/// its neighbours' is.
#[test]
fn more_resident_than_may_be_is_found() {
    let ledger = ledger();
    let wide = ledger.map(0, 60 * PAGE, Prot::None).expect("address space");
    // SAFETY: the test's own reservation.
    unsafe { ledger.protect(wide + 10 * PAGE, 40 * PAGE, Prot::ReadWrite) }.expect("committed");
    write(wide + 10 * PAGE, 40);
    let (_, found) = findings(ledger, &[], 40 * PAGE);
    assert!(kinds(&found).contains(&Contradiction::Rss), "{found:?}");
    ledger.note(wide + 10 * PAGE, wide + 50 * PAGE, PageState::Live);
    assert_eq!(findings(ledger, &[], 40 * PAGE).1, []);
}

/// How many requests the server gets: a million by `FENCEPOST_AUDIT_OPERATIONS=1000000`, fewer
/// where time is short.
fn operations() -> u32 {
    std::env::var("FENCEPOST_AUDIT_OPERATIONS").map_or(160_000, |n| n.parse().expect("a number"))
}

/// Eight threads, a million allocations; then the audit, and the same after memory that was given back is written to, and
/// after a page in use got other rights, behind the allocator's back.
#[test]
fn python3_with_eight_threads() {
    let Some(python) = support::program("python3") else {
        return;
    };
    let script = r#"
import ctypes, random, threading
libc = ctypes.CDLL(None, use_errno=True)
audit = libc.fencepost_audit
def work(seed):
    chance = random.Random(seed)
    kept = [None] * 400
    for turn in range(OPERATIONS // 8):
        size = chance.randrange(600, 6000) if turn % 50 else chance.randrange(400_000)
        kept[chance.randrange(400)] = bytearray(size)
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
for thread in threads: thread.start()
print(audit())
for thread in threads: thread.join()
print(audit())
libc.malloc.restype = ctypes.c_void_p
freed, *rest, kept = sorted(libc.malloc(100_000) for _ in range(8))
libc.free(ctypes.c_void_p(freed))
libc.malloc_trim(0)
ctypes.memset(freed + 50_000, 1, 1)
print(audit())
page = ctypes.c_void_p(kept & ~4095)
assert libc.mprotect(page, 4096, 7) == 0
print(audit())
"#;
    let script = script.replace("OPERATIONS", "1_000_000");
    let outcome = support::Run::new(python)
        .preload()
        .args(["-c", &script])
        .timeout(Duration::from_secs(200))
        .output()
        .expect_success("python3");
    let counts: Vec<i32> = outcome
        .out()
        .lines()
        .map(|line| line.parse().expect("a number"))
        .collect();
    assert_eq!(counts.len(), 4, "{}", outcome.err());
    assert_eq!(counts[..2], [0, 0], "{}", outcome.err());
    assert!(
        counts[2] > 0 && counts[3] > counts[2],
        "{counts:?} {}",
        outcome.err()
    );
    let resident = |line: &str| line.contains("released page") && line.ends_with("is resident");
    assert!(outcome.err().lines().any(resident), "{}", outcome.err());
    assert!(
        outcome.err().contains("has other rights"),
        "{}",
        outcome.err()
    );
}

/// Children of a process whose other threads were in the middle of something.
#[test]
fn children_of_busy_processes_are_not_accused() {
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fork/audits.c");
    let outcome = support::Run::new(support::compile_c(&source, &["-pthread", "-ldl"]))
        .preload()
        .timeout(Duration::from_secs(120))
        .output()
        .expect_success("audits.c");
    assert_eq!(outcome.out().trim(), "0", "{}", outcome.err());
}

/// A server with eight threads of its own, then the audit at exit.
#[test]
fn redis_server_with_eight_threads() {
    let programs = ["redis-server", "redis-cli", "redis-benchmark"].map(support::program);
    let [Some(server), Some(client), Some(benchmark)] = programs else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let socket = dir.path().join("redis.sock");
    let mut server = Command::new(server)
        .args([
            "--port",
            "0",
            "--save",
            "",
            "--appendonly",
            "no",
            "--loglevel",
            "warning",
        ])
        .args([
            "--io-threads",
            "8",
            "--io-threads-do-reads",
            "yes",
            "--unixsocket",
        ])
        .arg(&socket)
        .current_dir(dir.path())
        .env("LD_PRELOAD", support::preload_library())
        .env("FENCEPOST_AUDIT", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("redis-server can be started");
    let deadline = Instant::now() + Duration::from_secs(30);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "redis-server does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let load = Command::new(benchmark)
        .arg("-s")
        .arg(&socket)
        .args([
            "-q",
            "-n",
            &(operations() / 4).to_string(),
            "-r",
            "100000",
            "-d",
            "300",
            "-P",
            "16",
            "-c",
            "32",
        ])
        .args(["--threads", "2", "-t", "set,lpush,hset,zadd"])
        .stdout(Stdio::null())
        .status()
        .expect("redis-benchmark can be started");
    assert!(load.success());
    let stop = Command::new(client)
        .arg("-s")
        .arg(&socket)
        .args(["shutdown", "nosave"])
        .status();
    assert!(stop.expect("redis-cli can be started").success());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut server.stderr.take().expect("a pipe"), &mut said)
        .expect("text");
    assert!(server.wait().expect("it ends").success());
    let line = said
        .lines()
        .find(|line| line.starts_with("fencepost: audit:"))
        .unwrap_or_else(|| panic!("no audit: {said}"));
    assert!(line.ends_with("; 0 contradictions"), "{said}");
    assert!(line.contains(" live "), "{said}");
}
