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
    // A crate without std names no C library; ours must be initialised after it.
    println!("cargo:rustc-link-lib=c");
}
