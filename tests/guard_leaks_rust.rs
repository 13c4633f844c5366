//! Leaks in a Rust program whose allocator guards everything: asked for, and told at exit.
//!
//! Without the harness: its threads allocate and free while others are counted. The program runs
//! itself again for what is told at exit.

use std::cell::RefCell;
use std::process::{Command, ExitCode, Output};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use fencepost::Fencepost;

#[global_allocator]
static ALLOCATOR: Fencepost = Fencepost::new().guarded(1);

/// What says that this is the program that loses something.
const CHILD: &str = "LEAKS_OF_A_RUST_PROGRAM";

#[inline(never)]
fn forget(size: usize) {
    std::mem::forget(std::hint::black_box(vec![1u8; size]));
}

/// Loses something in a thread, which takes its stack and registers along.
fn lose(how: impl FnOnce() + Send + 'static) {
    thread::spawn(how).join().expect("the thread ends");
}

/// Two blocks that own each other.
#[inline(never)]
fn ring() {
    struct Node {
        _payload: [u8; 700],
        other: RefCell<Option<Rc<Node>>>,
    }
    let node = || {
        Rc::new(Node {
            _payload: [0; 700],
            other: RefCell::new(None),
        })
    };
    let (a, b) = (node(), node());
    *a.other.borrow_mut() = Some(b.clone());
    *b.other.borrow_mut() = Some(a);
}

/// Blocks and bytes that are lost and reachable now.
fn count() -> (usize, usize, usize) {
    let leaks = Fencepost::leaks(false).expect("the kernel lets us look");
    assert!(leaks.complete, "{leaks:?}");
    assert_eq!(leaks.silent, 0, "{leaks:?}");
    (leaks.lost.blocks, leaks.lost.bytes, leaks.reachable.blocks)
}

fn asked() {
    let (blocks, bytes, _) = count();
    assert_eq!((blocks, bytes), (0, 0), "nothing is lost yet");

    // What is leaked on purpose into a static is not lost.
    static KEPT: Mutex<Option<&'static [u64]>> = Mutex::new(None);
    lose(|| *KEPT.lock().expect("not poisoned") = Some(Vec::leak(vec![7u64; 500])));
    // Another thread holds a block, waiting.
    let gate = Arc::new((Mutex::new((false, false)), Condvar::new()));
    let holder = {
        let gate = gate.clone();
        thread::spawn(move || {
            let held = std::hint::black_box(Box::new([3u8; 900]));
            let (lock, changed) = &*gate;
            let mut state = lock.lock().expect("not poisoned");
            state.0 = true;
            changed.notify_all();
            while !state.1 {
                state = changed.wait(state).expect("not poisoned");
            }
            held[5]
        })
    };
    let (lock, changed) = &*gate;
    let mut state = lock.lock().expect("not poisoned");
    while !state.0 {
        state = changed.wait(state).expect("not poisoned");
    }
    drop(state);
    let (blocks, bytes, reachable) = count();
    assert_eq!((blocks, bytes), (0, 0), "all is held");
    assert!(reachable >= 3, "{reachable}");

    lose(|| forget(1234));
    let (blocks, bytes, _) = count();
    assert_eq!((blocks, bytes), (1, 1234));
    lose(ring);
    let (blocks, bytes, _) = count();
    assert_eq!(blocks, 3);
    assert!(bytes > 1234 + 2 * 700, "{bytes}");

    lock.lock().expect("not poisoned").1 = true;
    changed.notify_all();
    assert_eq!(holder.join().expect("the thread ends"), 3);
    assert_eq!(count().0, 3, "the thread took its block along");
    *KEPT.lock().expect("not poisoned") = None;
    let (blocks, bytes, _) = count();
    assert_eq!(blocks, 4, "no static leads to it any more");
    assert!(bytes > 4000, "{bytes}");
}

fn again(environment: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().expect("the program has a path"))
        .env(CHILD, "1")
        .env_remove("FENCEPOST_GUARD")
        .envs(environment.iter().copied())
        .output()
        .expect("it can be started")
}

fn told_at_exit() {
    let output = again(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(6), "{said}");
    let first = "fencepost: leak: 30003 bytes in 3 blocks are lost\n  allocated by thread ";
    assert!(said.starts_with(first), "{said}");
    assert!(said.contains("\n    #0 0x"), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("fencepost: leaks: 30003 bytes in 3 blocks lost, "),
        "{said}"
    );
    for off in [
        ("FENCEPOST_GUARD_LEAKS", "0"),
        ("FENCEPOST_GUARD", "0"),
        ("FENCEPOST_GUARD_SUPPRESS", "*"),
    ] {
        let output = again(&[off]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(6), ""), "{off:?}");
    }
}

fn main() -> ExitCode {
    if std::env::var_os(CHILD).is_some() {
        for _ in std::hint::black_box(0)..3 {
            lose(|| forget(10_001));
        }
        return ExitCode::from(6);
    }
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        println!("skipped: threads cannot be stopped here");
        return ExitCode::SUCCESS;
    }
    asked();
    told_at_exit();
    println!("test leaks of a Rust program ... ok");
    ExitCode::SUCCESS
}
