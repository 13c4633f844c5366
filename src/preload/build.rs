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
    ] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,{argument}");
    }
    // A crate without std names no C library: the libc crate leaves that to std as soon as any
    // crate of the build wants its default features. It must be named, also for the order: the
    // C library is initialised before us.
    println!("cargo:rustc-link-lib=c");
}
