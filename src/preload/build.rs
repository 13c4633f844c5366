//! How the preload library is linked.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    for argument in [
        // Tools find the library by this name, whatever the file is called.
        "-soname,libfencepost.so",
        // A thread may end, and run our destructor, at any time: the code must stay.
        "-z,nodelete",
        // No lazy binding: a first call of malloc must not enter the dynamic linker.
        "-z,now",
        // Code shares no page with what lies beside it: such a page would be mapped twice.
        "-z,separate-code",
    ] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,{argument}");
    }
    if let Some(script) = layout() {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-T,{script}");
    }
    // A crate without std names no C library: the libc crate leaves that to std as soon as any
    // crate of the build wants its default features. It must be named, also for the order: the
    // C library is initialised before us.
    println!("cargo:rustc-link-lib=c");
}

/// The linker script that keeps seldom-used code out of the way; `None` where the linker may not
/// know how to add to its own layout. GNU ld and lld do.
fn layout() -> Option<String> {
    println!("cargo:rerun-if-changed=seldom.ld");
    let flags = std::env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let linker = std::env::var("RUSTC_LINKER").unwrap_or_default();
    let other = ["mold", "wild", "gold"];
    if other
        .iter()
        .any(|name| flags.contains(name) || linker.contains(name))
    {
        return None;
    }
    let directory = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    Some(format!("{directory}/seldom.ld"))
}
