//! Uses up a stack, or follows a null pointer, in the main thread or in another.

#[inline(never)]
fn deeper(level: usize) -> usize {
    let frame = std::hint::black_box([level; 64]);
    match level {
        usize::MAX => 0,
        _ => deeper(level + 1) + frame[level % 64],
    }
}

fn crime(name: &str) -> usize {
    match name {
        "overflow" => deeper(0),
        // Not by a plain dereference, which the compiler checks in debug builds.
        _ => unsafe { std::ptr::null::<usize>().wrapping_add(2).read_volatile() },
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let name = arguments[1].clone();
    if arguments[2] == "main" {
        println!("{}", crime(&name));
    } else {
        let thread = std::thread::Builder::new().name("worker".into());
        let _ = thread.spawn(move || crime(&name)).unwrap().join();
    }
}
