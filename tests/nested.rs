//! More than one copy of the allocator in one process: a program that has it as its global
//! allocator under the preload library, and a plugin that brings its own copy.
//!
//! This test binary has no copy of it: it is itself the host that loads the plugin, once as it
//! is and once (as a child of itself) under the preload.
#![allow(unsafe_code)] // Functions of a library that is loaded at run time.

mod support;

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::Run;

/// Builds an example of this package as a user would, and says where it is.
fn example(name: &str, file: &str, linker: &[&str]) -> PathBuf {
    let target = support::target_dir();
    let status = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--offline", "--example", name])
        .arg("--target-dir")
        .arg(&target)
        .arg("--")
        .args(linker)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("LD_PRELOAD")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "building the example {name} failed");
    target.join("debug/examples").join(file)
}

#[test]
fn a_program_with_its_own_copy_runs_under_the_preload() {
    let program = example("program", "program", &[]);
    let plain = Run::new(&program)
        .output()
        .expect_success("without preload");
    let preloaded = Run::new(&program)
        .env("FENCEPOST_STATS", "1")
        .preload()
        .output()
        .expect_success("under the preload");
    let text = plain.out();
    assert!(text.contains("own true\nbreak 0\nsound true\n"), "{text}");
    assert_eq!(text, preloaded.out());
    // The preload library served the C side meanwhile: it reports at exit, the copy does not.
    assert!(plain.err().is_empty(), "{}", plain.err());
    assert!(!preloaded.err().is_empty());
}

/// Set in the child that is this test binary under the preload.
const CHILD: &str = "FENCEPOST_TEST_PLUGIN";

#[test]
fn a_plugin_with_its_own_copy() {
    let plugin = match std::env::var_os(CHILD) {
        Some(path) => return host(Path::new(&path)),
        None => example(
            "plugin",
            "libplugin.so",
            &["-C", "link-arg=-Wl,-z,nodelete"],
        ),
    };
    host(&plugin);
    let name = "a_plugin_with_its_own_copy";
    let child = Run::new(std::env::current_exe().expect("procfs"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, &plugin)
        .preload()
        .output()
        .expect_success("the host under the preload");
    assert!(child.out().contains("1 passed"), "{}", child.tail());
    assert!(child.out().contains("plugin served"), "{}", child.tail());
}

struct Plugin(*mut libc::c_void);

// SAFETY: a handle of the dynamic linker serves all threads.
unsafe impl Sync for Plugin {}

impl Plugin {
    fn load(path: &Path) -> Plugin {
        let name = CString::new(path.to_str().expect("UTF-8")).expect("no zero byte");
        // SAFETY: a library of ours whose initialisers do nothing.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{}", last_error());
        Plugin(handle)
    }

    /// # Safety
    /// `F` is the type of the function of this name in `examples/plugin.rs`.
    unsafe fn function<F: Copy>(&self, name: &CStr) -> F {
        // SAFETY: the handle is open.
        let address = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        assert!(!address.is_null(), "{}", last_error());
        // SAFETY: the caller's promise; function pointers are as large as addresses.
        unsafe { std::mem::transmute_copy(&address) }
    }
}

fn last_error() -> String {
    // SAFETY: null, or a C string that lives until the next call of the dynamic linker.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            String::from("no error")
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

type List = *mut libc::c_void;

/// Uses the plugin from several threads, with lists that are made in one and end in another,
/// and with blocks of the host's own malloc in between.
fn host(path: &Path) {
    let plugin = Plugin::load(path);
    // SAFETY: the types are those in `examples/plugin.rs`.
    let (work, new, end, mallocs, threads) = unsafe {
        (
            plugin.function::<extern "C" fn(u64) -> u64>(c"plugin_work"),
            plugin.function::<extern "C" fn(usize) -> List>(c"plugin_new"),
            plugin.function::<unsafe extern "C" fn(List) -> u64>(c"plugin_end"),
            plugin.function::<extern "C" fn() -> u64>(c"plugin_mallocs"),
            plugin.function::<extern "C" fn() -> u64>(c"plugin_threads"),
        )
    };
    let expected = work(1);
    let before = (mallocs(), threads());
    for _ in 0..5 {
        let lists: Vec<usize> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|n| {
                    scope.spawn(move || {
                        let ours: Vec<String> = (0..500).map(|i| "x".repeat(i)).collect();
                        // The same words in another order.
                        assert_eq!(work(1 + 97 * n), expected);
                        assert!(ours.iter().enumerate().all(|(i, text)| text.len() == i));
                        new(1000 * (n as usize + 1)).expose_provenance()
                    })
                })
                .collect();
            let made = workers.into_iter().map(|w| w.join().expect("no panic"));
            made.collect()
        });
        for (n, list) in lists.into_iter().enumerate() {
            let len = 1000 * (n as u64 + 1);
            // SAFETY: made by the plugin above, not used again.
            let sum = unsafe { end(std::ptr::with_exposed_provenance_mut(list)) };
            assert_eq!(sum, len * (len - 1) / 2);
        }
    }
    let served = mallocs() - before.0;
    assert!(served > 5 * 4 * 2000, "{served}");
    assert_eq!(threads(), before.1, "threads that ended are still attached");
    println!("plugin served {served}");
    // SAFETY: linked so that it stays: threads that used it may end later.
    unsafe { libc::dlclose(plugin.0) };
    assert_eq!(work(1), expected);
}
