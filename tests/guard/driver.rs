//! Commits one heap error of Rust, or its honest twin, as the arguments say.
//!
//! ```text
//! driver access SIZE ALIGN live|freed|moved OFFSET LENGTH MEANS PLACE
//! driver layout SIZE ALIGN dealloc|realloc|alloc_zeroed OFFSET GIVEN_SIZE GIVEN_ALIGN PLACE
//! driver single NAME
//! ```
//!
//! The first line of standard output is the address and the size of the object. It is an
//! ordinary Rust program whose global allocator is fencepost; with `--cfg system` it has none of
//! its own, so that other tools can judge it.
#![allow(unsafe_code, missing_docs)] // It commits the errors that Rust's safe half rules out.
#![allow(unexpected_cfgs, clippy::undocumented_unsafe_blocks)]

use std::alloc::{Layout, alloc, alloc_zeroed, dealloc, realloc};
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::hint::black_box;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::process::exit;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

#[cfg(not(system))]
#[global_allocator]
static A: fencepost::Fencepost = fencepost::Fencepost::new();

/// Allocations and frees between a free and its misuse.
const FILLERS: usize = 8;

unsafe extern "C" {
    fn write(fd: c_int, bytes: *const u8, count: usize) -> isize;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(status: c_int) -> !;
    fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    fn raise(number: c_int) -> c_int;
}

const SIGUSR1: c_int = 10;

fn out(text: std::fmt::Arguments<'_>) {
    let mut line = [0u8; 120];
    let left = {
        let mut rest = &mut line[..];
        rest.write_fmt(text).expect("a short line");
        rest.len()
    };
    let count = line.len() - left;
    let done = unsafe { write(1, line.as_ptr(), count) };
    assert_eq!(done, count as isize);
}

fn tell<T>(p: *const T, size: usize) {
    out(format_args!("{:#x} {size}\n", p.addr()));
}

fn say(what: &str, number: usize) {
    out(format_args!("{what} {number}\n"));
}

fn fillers() {
    for _ in 0..FILLERS / 2 {
        drop(black_box(Box::new([0u8; 32])));
    }
}

/// What is done to which bytes.
#[derive(Clone)]
struct Act {
    object: *mut u8,
    layout: Layout,
    gone: bool,
    offset: isize,
    length: usize,
    means: String,
    /// What a writer writes: prepared before, so that nothing is allocated between.
    source: Vec<u8>,
}

unsafe impl Send for Act {}

impl Act {
    fn perform(&mut self) {
        let at = self.object.wrapping_offset(self.offset);
        let length = self.length;
        let source = self.source.as_mut_ptr();
        unsafe {
            match self.means.as_str() {
                "read-index" => {
                    let mut sum = 0usize;
                    for i in 0..length {
                        sum += usize::from(at.wrapping_add(i).read_volatile());
                    }
                    say("sum", sum);
                }
                "read-word" => say("word", at.cast::<u64>().read_volatile() as usize),
                "read-copy" => {
                    std::ptr::copy_nonoverlapping(black_box(at), source, black_box(length));
                    say("first", usize::from(*source));
                }
                "read-slice" => {
                    let slice = std::slice::from_raw_parts(black_box(at), black_box(length));
                    say("found", usize::from(black_box(slice).contains(&1)));
                }
                "write-index" => {
                    for i in 0..length {
                        at.wrapping_add(i).write_volatile(*source.add(i));
                    }
                }
                "write-word" => at.cast::<u64>().write_volatile(0x3c3c_3c3c_3c3c_3c3c),
                "write-copy" => std::ptr::copy_nonoverlapping(source, black_box(at), length),
                "write-bytes" => std::ptr::write_bytes(black_box(at), *source, length),
                other => panic!("no such means: {other}"),
            }
            if !self.gone {
                dealloc(self.object, self.layout);
            }
        }
    }
}

static ACT: AtomicPtr<Act> = AtomicPtr::new(std::ptr::null_mut());
/// The act ends the object's life, which in a forked child is a copy's.
static COPIED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: c_int) {
    unsafe { (*ACT.load(Ordering::Relaxed)).perform() };
}

fn at(place: &str, mut act: Act) {
    match place {
        "main" => act.perform(),
        "thread" => std::thread::Builder::new()
            .name("guilty".into())
            .spawn(move || {
                // The whole of it, not its fields.
                let mut act = act;
                act.perform();
            })
            .expect("a thread")
            .join()
            .expect("it ends"),
        "signal" => unsafe {
            ACT.store(&raw mut act, Ordering::Relaxed);
            signal(SIGUSR1, on_signal);
            raise(SIGUSR1);
        },
        "fork" => in_child(|| act.perform()),
        other => panic!("no such place: {other}"),
    }
}

fn in_child(act: impl FnOnce()) {
    unsafe {
        let child = fork();
        if child == 0 {
            act();
            _exit(0);
        }
        let mut status = 0;
        assert_eq!(waitpid(child, &mut status, 0), child);
        if status & 0x7f != 0 {
            _exit(128 + (status & 0x7f));
        }
        if status >> 8 != 0 {
            _exit(status >> 8);
        }
    }
    COPIED.store(true, Ordering::Relaxed);
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("a number")
}

#[inline(never)]
fn make(layout: Layout) -> *mut u8 {
    let p = black_box(unsafe { alloc(layout) });
    assert!(!p.is_null() && p.addr().is_multiple_of(layout.align()));
    unsafe { p.write_bytes(0x5a, layout.size()) };
    p
}

fn access(args: &[String]) {
    let layout = Layout::from_size_align(number(&args[0]), number(&args[1])).expect("a layout");
    let before = std::env::var_os("DRIVER_EARLIER").is_some();
    let mut made = [std::ptr::null_mut(); 2];
    for slot in &mut made[usize::from(!before)..] {
        *slot = make(layout);
    }
    let [earlier, object] = made;
    let act = Act {
        object,
        layout,
        gone: args[2] != "live",
        offset: number(&args[3]),
        length: number(&args[4]),
        means: args[5].clone(),
        // None is above 127, as a canary's bytes are.
        source: vec![0x3c; number(&args[4])],
    };
    tell(object, layout.size());
    let mut moved = std::ptr::null_mut();
    match args[2].as_str() {
        "freed" => {
            unsafe { dealloc(object, layout) };
            fillers();
        }
        "moved" => {
            moved = black_box(unsafe { realloc(object, layout, layout.size() * 8 + 5000) });
            assert_ne!(moved, object);
            fillers();
        }
        _ => {}
    }
    at(&args[6], act);
    unsafe {
        if COPIED.load(Ordering::Relaxed) && args[2] == "live" {
            dealloc(object, layout);
        }
        if !moved.is_null() {
            let grown = Layout::from_size_align(layout.size() * 8 + 5000, layout.align());
            dealloc(moved, grown.expect("a layout"));
        }
        if !earlier.is_null() {
            dealloc(earlier, layout);
        }
    }
}

/// Gives the layout that the arguments say to the pointer that they say.
fn layout(args: &[String]) {
    let layout = Layout::from_size_align(number(&args[0]), number(&args[1])).expect("a layout");
    let given = Layout::from_size_align(number(&args[4]), number(&args[5])).expect("a layout");
    let object = match args[2].as_str() {
        "alloc_zeroed" => black_box(unsafe { alloc_zeroed(layout) }),
        _ => make(layout),
    };
    tell(object, layout.size());
    let pointer = object.wrapping_offset(number(&args[3]));
    if pointer != object {
        tell(pointer, layout.size());
    }
    let pointer = pointer.addr();
    let call = args[2].clone();
    let act = move || unsafe {
        let pointer = std::ptr::with_exposed_provenance_mut(pointer);
        if call == "realloc" {
            // Unseen, both would be left out by the compiler.
            let new = black_box(realloc(pointer, given, given.size() + 1));
            let grown = Layout::from_size_align(given.size() + 1, given.align());
            dealloc(new, grown.expect("a layout"));
        } else {
            dealloc(pointer, given);
        }
    };
    object.expose_provenance();
    match args[6].as_str() {
        "main" => act(),
        "thread" => std::thread::spawn(act).join().expect("it ends"),
        other => panic!("no such place: {other}"),
    }
}

struct Node {
    next: RefCell<Option<Rc<Node>>>,
    _text: [u8; 40],
}

#[inline(never)]
fn tie(untie: bool) {
    let node = || {
        Rc::new(Node {
            next: RefCell::new(None),
            _text: [1; 40],
        })
    };
    let (a, b) = (node(), node());
    *a.next.borrow_mut() = Some(b.clone());
    *b.next.borrow_mut() = Some(a.clone());
    if untie {
        a.next.borrow_mut().take();
    }
}

#[inline(never)]
fn lose(give_back: bool) {
    let object = black_box(Box::new([1u8; 48]));
    match give_back {
        true => drop(object),
        false => std::mem::forget(object),
    }
}

/// Where nothing of it stays on the main thread's stack.
fn in_thread(act: impl FnOnce() + Send + 'static) {
    std::thread::spawn(act).join().expect("it ends");
}

static KEPT: AtomicPtr<[u8; 48]> = AtomicPtr::new(std::ptr::null_mut());

fn single(name: &str) {
    let good = name.starts_with("good-");
    let name = name.trim_start_matches("good-");
    match name {
        // A box that two owners drop.
        "two-owners" => {
            let first = Box::into_raw(Box::new([7u8; 100]));
            tell(first, 100);
            unsafe {
                drop(Box::from_raw(first));
                if !good {
                    drop(Box::from_raw(black_box(first)));
                }
            }
        }
        // A length that is more than the capacity.
        "length" => {
            let mut bytes = ManuallyDrop::new(vec![1u8; 100]);
            tell(bytes.as_ptr(), 100);
            let length = black_box(if good { 100 } else { 101 });
            unsafe { bytes.set_len(length) };
            say("last", usize::from(black_box(&bytes)[length - 1]));
            unsafe { bytes.set_len(100) };
            drop(ManuallyDrop::into_inner(bytes));
        }
        // A vector put together again with another capacity.
        "capacity" => {
            let mut bytes = ManuallyDrop::new(vec![1u8; 100]);
            tell(bytes.as_ptr(), 100);
            let capacity = black_box(if good { 100 } else { 90 });
            drop(unsafe { Vec::from_raw_parts(bytes.as_mut_ptr(), 90, capacity) });
        }
        // A C string whose zero is missing.
        "unended" => {
            let mut text = Box::new([b'x'; 64]);
            if good {
                text[63] = 0;
            }
            tell(text.as_ptr(), 64);
            let text = unsafe { CStr::from_ptr(black_box(text.as_ptr()).cast::<c_char>()) };
            say("length", text.count_bytes());
        }
        // A reference that outlives what it refers to.
        "dangling" => {
            let mut list = vec![5u32; 25];
            let first: *const u32 = &raw const list[0];
            tell(first, 100);
            if !good {
                list.reserve_exact(4000);
            }
            say("first", unsafe { black_box(first).read_volatile() }
                as usize);
            drop(list);
        }
        "lost" => in_thread(move || lose(good)),
        "reachable" => {
            let object = Box::into_raw(Box::new([1u8; 48]));
            KEPT.store(object, Ordering::Relaxed);
            if good {
                drop(unsafe { Box::from_raw(KEPT.swap(std::ptr::null_mut(), Ordering::Relaxed)) });
            }
        }
        "cycle" => in_thread(move || tie(good)),
        // Another owner's memory in a box.
        "on-stack" => {
            let mut local = [0u64; 16];
            let boxed = Box::new([0u64; 16]);
            tell(&raw const local, 128);
            if !good {
                drop(unsafe { Box::from_raw(black_box(&raw mut local)) });
            }
            say("boxed", boxed.len());
        }
        "busy" => {
            let threads: Vec<_> = (0..4)
                .map(|seed| {
                    std::thread::spawn(move || {
                        let mut words = std::collections::BTreeMap::new();
                        for i in 0..700usize {
                            let text = format!("word {} of {seed}", i * 31 % 97);
                            words.entry(text).or_insert_with(Vec::new).push(i);
                        }
                        words.values().map(Vec::len).sum::<usize>()
                    })
                })
                .collect();
            for thread in threads {
                say("words", thread.join().expect("it ends"));
            }
        }
        other => panic!("no such error: {other}"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("access") if args.len() == 8 => access(&args[1..]),
        Some("layout") if args.len() == 8 => layout(&args[1..]),
        Some("single") if args.len() == 2 => single(&args[1]),
        _ => {
            eprintln!("driver: wrong arguments");
            exit(90);
        }
    }
    say("done", 0);
}
