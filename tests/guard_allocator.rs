//! Guard mode in a Rust program that has fencepost as its allocator: no C name is taken, so the
//! standard library's handler of overflowed stacks, and the program's own, talk to the kernel.
//!
//! Not under the harness: each crime is a process of its own, in its main thread.
#![allow(unsafe_code)] // Crimes, and handlers of signals.

use std::hint::black_box;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

#[global_allocator]
static ALLOCATOR: fencepost::Fencepost = fencepost::Fencepost::new();

#[inline(never)]
fn deeper(level: usize) -> usize {
    let frame = black_box([level; 64]);
    match level {
        usize::MAX => 0,
        _ => deeper(level + 1) + frame[level % 64],
    }
}

fn follow_null() -> usize {
    let null = std::ptr::null::<usize>().wrapping_add(2);
    // SAFETY: none: this is the crime.
    unsafe { null.read_volatile() }
}

/// Reads the first byte behind an object.
fn overflow() -> u8 {
    let object = black_box(vec![1u8; 4096]);
    // SAFETY: none: this is the crime.
    unsafe { object.as_ptr().add(4096).read_volatile() }
}

fn use_after_free() -> u8 {
    let object = black_box(Box::new([7u8; 100]));
    let at = black_box(object.as_ptr());
    drop(object);
    // SAFETY: none: this is the crime.
    unsafe { at.add(5).read_volatile() }
}

static BEFORE: AtomicUsize = AtomicUsize::new(0);
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

extern "C" fn passes_on(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    let text = b"passed on\n";
    // SAFETY: writes a text; then calls what the kernel said was there before.
    unsafe {
        libc::write(2, text.as_ptr().cast(), text.len());
        let before: Handler = std::mem::transmute(BEFORE.load(SeqCst));
        before(signal, info, context);
    }
}

static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Lets the program write to its page.
extern "C" fn opens(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the program's own page.
    unsafe {
        let page = PAGE.load(SeqCst);
        if (*info).si_addr().addr() != page {
            libc::_exit(3);
        }
        let page = std::ptr::with_exposed_provenance_mut(page);
        libc::mprotect(page, 4096, libc::PROT_READ | libc::PROT_WRITE);
    }
}

fn install(handler: Handler) {
    // SAFETY: a handler of our own.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut before: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &action, &mut before), 0);
        BEFORE.store(before.sa_sigaction, SeqCst);
    }
}

/// So many operations that the pool looks after its handler.
fn wait_for_a_look() {
    for i in 0..600 {
        drop(black_box(Box::new(i)));
    }
}

fn barrier() {
    // SAFETY: fresh memory of our own.
    let page = unsafe {
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ,
            anonymous,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    PAGE.store(page.expose_provenance(), SeqCst);
    for _ in 0..100 {
        // SAFETY: the handler opens the page.
        unsafe {
            page.cast::<u8>().write_volatile(1);
            libc::mprotect(page, 4096, libc::PROT_READ);
        }
        drop(black_box(Box::new(1)));
    }
}

fn commit(crime: &str) {
    match crime {
        "stack" => {
            deeper(0);
        }
        "stack_of_thread" => {
            std::thread::spawn(|| deeper(0)).join().unwrap();
        }
        "null" => {
            follow_null();
        }
        "null_in_thread" => {
            std::thread::spawn(follow_null).join().unwrap();
        }
        "overflow" => {
            overflow();
        }
        "overflow_in_thread" => {
            std::thread::spawn(overflow).join().unwrap();
        }
        "use_after_free" => {
            use_after_free();
        }
        "passes_on" => {
            install(passes_on);
            follow_null();
        }
        "passes_on_late" => {
            install(passes_on);
            wait_for_a_look();
            follow_null();
        }
        "overflow_beside_handler" => {
            install(passes_on);
            wait_for_a_look();
            overflow();
        }
        "barrier" => {
            install(opens);
            barrier();
            wait_for_a_look();
            barrier();
        }
        other => panic!("{other}: no such crime"),
    }
}

struct End {
    signal: Option<i32>,
    /// What the first line of the report begins with, if there is one.
    sentence: Option<&'static str>,
    /// What else is to be found on standard error.
    other: &'static str,
}

fn main() {
    if let Some(crime) = std::env::args()
        .nth(1)
        .filter(|name| name.starts_with("crime="))
    {
        commit(crime.trim_start_matches("crime="));
        return;
    }
    let end = |signal, sentence, other| End {
        signal,
        sentence,
        other,
    };
    let (fault, abort) = (Some(libc::SIGSEGV), Some(libc::SIGABRT));
    let null = Some("fencepost: null pointer: read at 0x10");
    let over = Some("fencepost: heap overflow: read 0 bytes past the end of 0x");
    let cases = [
        ("stack", end(abort, None, "has overflowed its stack")),
        (
            "stack_of_thread",
            end(abort, None, "has overflowed its stack"),
        ),
        ("null", end(fault, null, "")),
        ("null_in_thread", end(fault, null, "")),
        ("overflow", end(fault, over, "(4096 bytes)")),
        ("overflow_in_thread", end(fault, over, "(4096 bytes)")),
        (
            "use_after_free",
            end(
                fault,
                Some("fencepost: use after free: read at byte 5 of 0x"),
                "(100 bytes), freed 0 operations ago",
            ),
        ),
        ("passes_on", end(fault, null, "passed on")),
        ("passes_on_late", end(fault, null, "passed on")),
        ("overflow_beside_handler", end(fault, over, "")),
        ("barrier", end(None, None, "")),
    ];
    let this = std::env::current_exe().expect("the test has a path");
    for (crime, expected) in &cases {
        let outcome = Command::new(&this)
            .arg(format!("crime={crime}"))
            .env("FENCEPOST_GUARD", "1")
            .env_remove("LD_PRELOAD")
            .output()
            .expect("the test can be started again");
        let said = String::from_utf8_lossy(&outcome.stderr);
        let sentences: Vec<&str> = said
            .lines()
            .filter(|line| line.starts_with("fencepost: "))
            .collect();
        let right = match expected.sentence {
            Some(sentence) => sentences.len() == 1 && sentences[0].starts_with(sentence),
            None => sentences.is_empty(),
        };
        assert!(
            outcome.status.signal() == expected.signal && right && said.contains(expected.other),
            "{crime}: {}\n{said}",
            outcome.status
        );
        if expected.signal.is_none() {
            assert!(outcome.status.success(), "{crime}: {}", outcome.status);
        }
        println!("test {crime} ... ok");
    }
}
