//! The layer law: a file may use its own layer and layers with a lower number,
//! never a higher one. Beside it stand the other rules about where things may
//! be written: `unsafe`, loom, mutable statics, exported names.
//!
//! The law is data ([`LAW`]), `check` applies it to a source tree. Sources are
//! read as tokens, so neither comments and strings nor macro bodies can mislead
//! it. Each rule is shown to fail on a small tree made up for it.

#[path = "support/law.rs"]
mod law;
#[path = "support/paths.rs"]
mod paths;
#[path = "support/source.rs"]
mod source;

use law::{Law, Rule, Violation, check};
use std::fs;
use std::path::Path;

/// The law for `src/`. Names are files without `.rs`, or directories.
const LAW: Law = Law {
    layers: &[
        ("size", 0),
        ("config", 0),
        ("report", 0),
        ("sync", 0),
        ("mmu", 1),
        ("os", 2),
        ("chunk", 3),
        ("bins", 4),
        ("heap", 5),
        ("arena", 6),
        ("cache", 7),
        ("guard", 7),
        ("front", 8),
        ("fork", 8),
        ("stats", 8),
        ("trace", 8),
        ("global", 9),
        ("abi", 9),
    ],
    strangers: &[("cache", "guard")],
    members: &["preload", "cli"],
    without_unsafe: &["mmu"],
    loom: &["sync"],
    // loom's types have no const constructors, so that what is built from
    // statics does not exist under it.
    loom_cfg: &[
        "arena/depot.rs",
        "arena/maps.rs",
        "arena/mod.rs",
        "arena/roster.rs",
        "cache/caches.rs",
        "cache/mod.rs",
        "cache/roll.rs",
        "lib.rs",
    ],
    unsafe_files: &[
        // What C sees of us.
        "abi.rs",
        "abi/cxx.rs",
        "abi/info.rs",
        "abi/signals.rs",
        // Heaps and mappings shared between threads.
        "arena/depot.rs",
        "arena/maps.rs",
        "arena/mod.rs",
        "arena/roster.rs",
        "arena/table.rs",
        // Magazines of chunks, and the thread's word.
        "cache/aligned.rs",
        "cache/caches.rs",
        "cache/exchange.rs",
        "cache/mod.rs",
        "cache/roll.rs",
        "cache/slot.rs",
        // Chunk memory.
        "chunk/list.rs",
        "chunk/mod.rs",
        "chunk/stack.rs",
        // fork and signals, exec, the C entry point.
        "cli/child.rs",
        "cli/exec.rs",
        "cli/main.rs",
        // The environment block.
        "config.rs",
        // A text that is written once.
        "config/text.rs",
        // Unsafe calls passed on.
        "front/account.rs",
        // Pointers from users.
        "front/aligned.rs",
        "front/counters.rs",
        "front/diagnosis.rs",
        "front/guarding.rs",
        "front/leaks.rs",
        "front/mod.rs",
        "front/modules.rs",
        "front/process.rs",
        "front/resize.rs",
        "global.rs",
        // Called by the kernel; calls the program's handlers.
        "guard/handler.rs",
        // The storage that reports are written in.
        "guard/desk.rs",
        // Guarded objects and their records.
        "guard/canary.rs",
        "guard/pool.rs",
        "guard/pool/check.rs",
        "guard/pool/slots.rs",
        "guard/record.rs",
        "guard/stacks.rs",
        // Memory that comes from and goes back to the system.
        "heap/account.rs",
        "heap/check.rs",
        "heap/grow.rs",
        "heap/mod.rs",
        // System calls.
        "os/alternate.rs",
        "os/audit.rs",
        "os/call.rs",
        "os/caller.rs",
        "os/flaky.rs",
        "os/kernel.rs",
        "os/ledger.rs",
        "os/lines.rs",
        "os/memory.rs",
        "os/mod.rs",
        "os/nodes.rs",
        "os/pages.rs",
        "os/process.rs",
        "os/sink.rs",
        "os/stop.rs",
        "os/stop/machine.rs",
        "os/stop/threads.rs",
        // The kernel's signal frames.
        "os/signals.rs",
        // The simulation's block of memory.
        "os/sim.rs",
        // Frames of stacks, and what a thread knows of its own.
        "os/stack.rs",
        // The exported names.
        "preload/lib.rs",
        "preload/lifecycle.rs",
        "preload/operators.rs",
        "preload/signals.rs",
        // write(2) and abort.
        "report.rs",
        // The C library's word about threads.
        "sync/alone.rs",
        // `RawMutex` is an unsafe trait.
        "sync/futex.rs",
    ],
    statics: &[
        // The exit hook of threads, and their word on targets without
        // initial-exec TLS.
        ("cache/slot.rs", "EXIT_KEY"),
        ("cache/slot.rs", "KEY"),
        // The process's state.
        ("front/process.rs", "KERNEL"),
        ("front/process.rs", "ROOM"),
        ("front/process.rs", "SETTINGS"),
        ("front/process.rs", "EXTENTS"),
        ("front/process.rs", "KEYS"),
        ("front/process.rs", "SHARED"),
        ("front/process.rs", "CACHES"),
        ("front/process.rs", "ENDED"),
        ("front/process.rs", "STARTED"),
        ("front/process.rs", "READ"),
        ("front/process.rs", "DIRECT_MALLOCS"),
        ("front/process.rs", "DIRECT_FREES"),
        // The handler of faults: what the program wants of its signals, who reports, where.
        ("guard/handler.rs", "WISHES"),
        ("guard/handler.rs", "WITNESS"),
        ("guard/handler.rs", "INTERPOSED"),
        ("guard/handler.rs", "PROCESS"),
        ("guard/handler.rs", "GENERATION"),
        ("guard/handler.rs", "REPORTER"),
        ("guard/handler.rs", "REPORT_STACK"),
        ("guard/handler.rs", "ALTERNATES"),
        ("guard/handler.rs", "LAST"),
        ("front/faults.rs", "WITNESS"),
        // Where reports are written.
        ("front/faults.rs", "DESK"),
        // The pool of guarded objects.
        ("front/guarding.rs", "GUARD"),
        ("front/guarding.rs", "STARTED"),
        ("front/guarding.rs", "SWAPPED"),
        // The stacks of threads that have ended.
        ("front/leaks.rs", "ENDED"),
        ("front/leaks.rs", "ENDED_COUNT"),
        // Where a trace looks instructions up.
        ("front/modules.rs", "TABLE"),
        // The file that allocations are traced to.
        ("front/trace.rs", "TRACE"),
        // Who reports at the end of a Rust program.
        ("global.rs", "IN_USE"),
        // What the C library and the kernel tell once.
        ("os/process.rs", "PAGE_SIZE"),
        ("os/process.rs", "environ"),
        // Where the main thread's stack lies; every thread's own words.
        ("os/stack.rs", "MAIN_LOW"),
        ("os/stack.rs", "MAIN_HIGH"),
        ("os/stack.rs", "WORDS"),
        // Where threads that are held still meet who stops them.
        ("os/stop.rs", "PLACE"),
        // Standard error, kept for the statistics at exit.
        ("preload/lifecycle.rs", "STDERR"),
    ],
    plain_types: &["TextTunable", "Lookup", "Unit", "Tunable"],
    max_lines: 600,
};

#[test]
fn the_tree_keeps_the_law() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let found = check(&src, &LAW);
    let lines: Vec<String> = found.iter().map(Violation::to_string).collect();
    assert!(found.is_empty(), "\n{}", lines.join("\n"));
}

/// A tree of sources that exists for one test.
struct Tree(tempfile::TempDir);

/// The law of the made-up trees.
const SMALL: Law = Law {
    layers: &[
        ("size", 0),
        ("sync", 0),
        ("mmu", 1),
        ("heap", 5),
        ("cache", 7),
        ("guard", 7),
        ("front", 8),
    ],
    strangers: &[("cache", "guard")],
    members: &["preload", "cli"],
    without_unsafe: &["mmu"],
    loom: &["sync"],
    loom_cfg: &[],
    unsafe_files: &[],
    statics: &[],
    plain_types: &["Table"],
    max_lines: 40,
};

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory can be made");
        for (file, text) in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().expect("the file lies in the directory"))
                .expect("a directory can be made");
            fs::write(path, text).expect("a file can be written");
        }
        Self(dir)
    }

    fn rules(&self, law: &Law) -> Vec<(String, usize, Rule)> {
        check(self.0.path(), law)
            .into_iter()
            .map(|v| (v.file, v.line, v.rule))
            .collect()
    }
}

/// Expects the one file `file` with `text` to break exactly `rules`, by line.
#[track_caller]
fn breaks(file: &str, text: &str, rules: &[(usize, Rule)]) {
    let found = Tree::new(&[(file, text)]).rules(&SMALL);
    let want: Vec<_> = rules
        .iter()
        .map(|&(line, rule)| (file.to_owned(), line, rule))
        .collect();
    assert_eq!(found, want, "{text}");
}

#[test]
fn a_lawful_tree_passes() {
    let tree = Tree::new(&[
        (
            "lib.rs",
            "mod size; mod heap; mod front;\npub use front::Front;\nuse crate::heap as _;\n",
        ),
        (
            "size.rs",
            "//! See `crate::front`, which is unsafe.\n/* crate::front */\n\
             pub const S: &str = \"crate::front unsafe loom no_mangle\";\n\
             pub static TABLE: [u8; 4] = [0; 4];\n\
             pub fn f<'a>(x: &'a u8) -> &'static str { let _ = x; S }\n\
             mod tests { use super::*; }\n",
        ),
        ("sync/mod.rs", "#[cfg(loom)]\npub use loom::sync::Arc;\n"),
        ("mmu/mod.rs", "#![forbid(unsafe_code)]\nmod table;\n"),
        (
            "heap/mod.rs",
            "mod top;\nuse crate::{size::S, sync};\nuse super::size;\n",
        ),
        (
            "heap/top.rs",
            "use super::Heap;\nuse super::super::size::S;\nuse self::inner::X;\n",
        ),
        (
            "cache.rs",
            "use crate::heap::{self, Heap as H};\npub(crate) fn f() {}\n",
        ),
        (
            "guard/mod.rs",
            "use crate::heap::*;\nimpl G { fn f(self) { self.g(self as u8) } }\n",
        ),
        (
            "front.rs",
            "use crate::{cache, guard};\n#[cfg(test)]\nmod tests { static T: Mutex<u8> = m(); }\n",
        ),
        (
            "preload/lib.rs",
            "#[unsafe(no_mangle)]\npub fn malloc() { fencepost::abi::malloc() }\n",
        ),
        ("cli/main.rs", "mod run;\nuse crate::run::Run;\n"),
    ]);
    let law = Law {
        unsafe_files: &["preload/lib.rs"],
        ..SMALL
    };
    assert_eq!(tree.rules(&law), []);
}

#[test]
fn a_use_of_a_higher_layer_is_found_however_it_is_written() {
    let up = |line| (line, Rule::Upward);
    breaks("size.rs", "use crate::heap::Heap;\n", &[up(1)]);
    breaks("size.rs", "\nfn f() { crate::heap::g(); }\n", &[up(2)]);
    breaks(
        "size.rs",
        "use crate::{\n    sync,\n    heap,\n};\n",
        &[up(3)],
    );
    breaks(
        "size.rs",
        "use crate::{sync::{a, b}, heap::{c, d as e}};\n",
        &[up(1), up(1)],
    );
    breaks("size.rs", "use super::heap;\n", &[up(1)]);
    breaks("size.rs", "use crate::heap as h;\n", &[up(1)]);
    breaks(
        "size.rs",
        "mod tests { use super::super::heap::H; }\n",
        &[up(1)],
    );
    breaks(
        "size.rs",
        "fn f() { assert!(crate::heap::ok()); }\n",
        &[up(1)],
    );
    breaks(
        "size.rs",
        "macro_rules! m { () => { $crate::heap::f() } }\n",
        &[up(1)],
    );
    breaks("size.rs", "pub(in crate::heap) fn f() {}\n", &[up(1)]);
    breaks("size.rs", "fn f(x: crate::heap::Heap<u8>) {}\n", &[up(1)]);
    breaks("size.rs", "use ::fencepost::heap::Heap;\n", &[up(1)]);
    breaks(
        "size.rs",
        "#[derive(crate::heap::D)]\nstruct S;\n",
        &[up(1)],
    );
    breaks("heap/top.rs", "use super::super::front::f;\n", &[up(1)]);
    breaks("heap/mod.rs", "use super::front::f;\n", &[up(1)]);
    breaks("heap/mod.rs", "use self::super::front::f;\n", &[up(1)]);
}

#[test]
fn a_name_in_the_crate_root_belongs_to_the_layer_behind_it() {
    let tree = Tree::new(&[
        (
            "lib.rs",
            "mod front; mod size;\npub use front::{Front, Other as Alias};\npub use crate::size::S;\n",
        ),
        (
            "front.rs",
            "macro_rules! shout { () => {} }\npub(crate) use shout;\n",
        ),
        (
            "heap.rs",
            "use crate::Front;\nuse crate::Alias;\nuse crate::S;\nfn f() { crate::shout!() }\n",
        ),
    ]);
    assert_eq!(
        tree.rules(&SMALL),
        [1, 2, 4].map(|line| ("heap.rs".to_owned(), line, Rule::Upward))
    );
}

#[test]
fn strangers_are_kept_apart() {
    breaks(
        "cache.rs",
        "use crate::guard::Pool;\n",
        &[(1, Rule::Strangers)],
    );
    breaks(
        "guard/mod.rs",
        "use super::cache::Cache;\n",
        &[(1, Rule::Strangers)],
    );
}

#[test]
fn what_the_law_does_not_know_is_found() {
    breaks("shortcut.rs", "", &[(1, Rule::Unplaced)]);
    breaks(
        "heap.rs",
        "use crate::shortcut::f;\n",
        &[(1, Rule::Unplaced)],
    );
}

#[test]
fn ways_around_the_law_are_found() {
    let detour = (1, Rule::Detour);
    breaks("size.rs", "use crate::*;\n", &[detour]);
    breaks("size.rs", "use super::*;\n", &[detour]);
    breaks("size.rs", "use crate as root;\n", &[detour]);
    breaks("size.rs", "use crate::{self as root};\n", &[detour]);
    breaks("size.rs", "extern crate self as root;\n", &[detour]);
    breaks(
        "size.rs",
        "#[path = \"heap/mod.rs\"]\nmod other;\n",
        &[detour],
    );
    breaks("lib.rs", "#[macro_use]\nmod size;\n", &[detour]);
}

#[test]
fn only_sync_knows_loom() {
    let loom = |line| (line, Rule::Loom);
    breaks("heap.rs", "use loom::sync::Arc;\n", &[loom(1)]);
    breaks(
        "heap.rs",
        "#[cfg(loom)]\nfn f() { loom::model(|| {}) }\n",
        &[loom(1), loom(2)],
    );
    let law = Law {
        loom_cfg: &["heap.rs"],
        ..SMALL
    };
    let asks = Tree::new(&[(
        "heap.rs",
        "#[cfg(not(loom))]\nfn f() { if cfg!(loom) {} }\n",
    )]);
    assert_eq!(asks.rules(&law), []);
    let names = Tree::new(&[("heap.rs", "#[cfg(loom)]\nuse loom::thread;\n")]);
    assert_eq!(names.rules(&law), [("heap.rs".into(), 2, Rule::Loom)]);
}

#[test]
fn unsafe_stands_in_listed_files_only() {
    let found = (1, Rule::Unsafe);
    breaks("heap.rs", "fn f() { unsafe { g() } }\n", &[found]);
    breaks("heap.rs", "unsafe impl Send for H {}\n", &[found]);
    breaks("heap.rs", "fn f() { m!(unsafe { g() }) }\n", &[found]);
    breaks("heap.rs", "#![allow(unsafe_code)]\n", &[found]);
    breaks(
        "heap.rs",
        "#[unsafe(link_section = \"x\")]\nfn f() {}\n",
        &[found],
    );
    breaks(
        "heap.rs",
        "// unsafe\n/* unsafe */\nconst S: &str = \"unsafe\";\nconst C: &str = r#\"unsafe { \"#;\n",
        &[],
    );
    let listed = Law {
        unsafe_files: &["heap.rs", "size.rs"],
        ..SMALL
    };
    let tree = Tree::new(&[
        ("heap.rs", "unsafe fn f() {}\n"),
        ("size.rs", "// unsafe\n"),
    ]);
    assert_eq!(tree.rules(&listed), [("size.rs".into(), 1, Rule::Stale)]);
}

#[test]
fn the_model_forbids_unsafe_code() {
    breaks("mmu/mod.rs", "mod table;\n", &[(1, Rule::NotForbidden)]);
    breaks(
        "mmu/mod.rs",
        "// #![forbid(unsafe_code)]\n",
        &[(1, Rule::NotForbidden)],
    );
    breaks(
        "mmu/mod.rs",
        "#[forbid(unsafe_code)]\nmod table;\n",
        &[(1, Rule::NotForbidden)],
    );
    breaks(
        "mmu/mod.rs",
        "#![deny(unsafe_code)]\n",
        &[(1, Rule::NotForbidden)],
    );
    breaks("mmu.rs", "", &[(1, Rule::NotForbidden)]);
}

#[test]
fn long_files_are_found() {
    breaks("heap.rs", &"//\n".repeat(40), &[]);
    breaks("heap.rs", &"//\n".repeat(41), &[(41, Rule::Long)]);
}

#[test]
fn the_library_exports_no_symbol() {
    let export = (1, Rule::Export);
    breaks("heap.rs", "#[no_mangle]\nfn malloc() {}\n", &[export]);
    breaks(
        "heap.rs",
        "#[cfg_attr(x, no_mangle)]\nfn malloc() {}\n",
        &[export],
    );
    breaks(
        "heap.rs",
        "#[export_name = \"malloc\"]\nfn f() {}\n",
        &[export],
    );
    breaks(
        "heap.rs",
        "core::arch::global_asm!(\".globl malloc\");\n",
        &[export],
    );
    breaks("heap.rs", "// #[no_mangle]\nfn no_mangle() {}\n", &[]);
    breaks("cli/main.rs", "#[no_mangle]\nfn main() {}\n", &[]);
    breaks("preload/lib.rs", "#[no_mangle]\nfn malloc() {}\n", &[]);
}

#[test]
fn mutable_state_is_listed() {
    let found = (1, Rule::Static);
    breaks("heap.rs", "static mut N: u8 = 0;\n", &[found]);
    breaks(
        "heap.rs",
        "static N: AtomicU8 = AtomicU8::new(0);\n",
        &[found],
    );
    breaks(
        "heap.rs",
        "pub(crate) static N: [Cell<u8>; 2] = c();\n",
        &[found],
    );
    breaks(
        "heap.rs",
        "fn f() { static ONCE: Once = Once::new(); }\n",
        &[found],
    );
    breaks(
        "heap.rs",
        "thread_local! { static T: Cell<u8> = const { c() }; }\n",
        &[found],
    );
    breaks(
        "heap.rs",
        "#[cfg(not(test))]\nmod m { static N: Cell<u8> = c(); }\n",
        &[(2, Rule::Static)],
    );
    breaks("heap.rs", "static N: &'static [Option<u8>] = &[];\n", &[]);
    breaks("heap.rs", "static T: [Table; LEN] = t();\n", &[]);
    breaks("heap.rs", "static T: [Other; LEN] = t();\n", &[found]);
    let listed = Law {
        statics: &[("heap.rs", "STATE"), ("heap.rs", "GONE")],
        ..SMALL
    };
    let tree = Tree::new(&[("heap.rs", "static STATE: State = State::new();\n")]);
    assert_eq!(tree.rules(&listed), [("heap.rs".into(), 1, Rule::Stale)]);
}
