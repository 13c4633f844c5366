//! Small C and C++ programs, compiled once per content.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// Compiles one C or C++ source (by its extension: `.c`, or `.cc`/`.cpp`) and
/// returns the path of the result below cargo's test directory.
///
/// `-O1 -g -fno-builtin -w -pthread` comes first, so that the compiler neither
/// deletes a malloc/free pair nor lectures about the crimes of the misuse
/// tests; `flags` follow and win. `-shared -fPIC` in `flags` makes a library.
/// The compiler is `$CC`/`$CXX`, else `cc`/`c++`. A second call with the same
/// source and flags in one test process compiles nothing.
///
/// # Panics
/// When the compiler cannot be started or fails; its messages go to stderr.
pub fn compile_c(source: &Path, flags: &[&str]) -> PathBuf {
    type Done = Mutex<HashMap<PathBuf, PathBuf>>;
    static DONE: OnceLock<Done> = OnceLock::new();
    static SERIAL: AtomicU32 = AtomicU32::new(0);

    let cplusplus = source.extension().is_none_or(|e| e != "c");
    let compiler = if cplusplus {
        std::env::var("CXX").unwrap_or_else(|_| "c++".into())
    } else {
        std::env::var("CC").unwrap_or_else(|_| "cc".into())
    };
    let mut hasher = DefaultHasher::new();
    std::fs::read(source)
        .unwrap_or_else(|e| panic!("{}: {e}", source.display()))
        .hash(&mut hasher);
    (source, flags, &compiler).hash(&mut hasher);
    let stem = source
        .file_stem()
        .expect("a source has a name")
        .to_string_lossy();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c");
    let binary = dir.join(format!("{stem}-{:016x}", hasher.finish()));

    // The lock is held while the compiler runs: tests that share a program wait
    // for one compilation rather than repeating it.
    let mut done = DONE
        .get_or_init(Default::default)
        .lock()
        .unwrap_or_else(|e| e.into_inner());
    if let Some(path) = done.get(&binary) {
        return path.clone();
    }
    std::fs::create_dir_all(&dir).expect("the test directory can be written");
    // Another test process may build the same program: each writes its own file
    // and the rename decides.
    let fresh = dir.join(format!(
        "{stem}-{}-{}.tmp",
        std::process::id(),
        SERIAL.fetch_add(1, Ordering::Relaxed)
    ));
    let status = Command::new(&compiler)
        .args(["-O1", "-g", "-fno-builtin", "-w", "-pthread"])
        .arg(source)
        .args(flags)
        .arg("-o")
        .arg(&fresh)
        .env_remove("LD_PRELOAD")
        .status()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(status.success(), "{compiler} {} failed", source.display());
    std::fs::rename(&fresh, &binary).expect("the compiled program can be renamed");
    done.insert(binary.clone(), binary.clone());
    binary
}
