//! What is in the shared library and in the Rust library: names, imports, relocations.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use object::elf;
use object::read::archive::ArchiveFile;
use object::read::elf::{Dyn, ElfFile64};
use object::{Endianness, File, Object, ObjectSymbol, RelocationFlags, RelocationTarget, Symbol};

mod support;

/// Every C name that the library exports.
const C_NAMES: &[&str] = &[
    "__sysv_signal",
    "aligned_alloc",
    "bsd_signal",
    "calloc",
    "cfree",
    "fencepost_audit",
    "fencepost_leak_check",
    "fencepost_sweep",
    "free",
    "free_aligned_sized",
    "free_sized",
    "mallinfo",
    "mallinfo2",
    "malloc",
    "malloc_info",
    "malloc_stats",
    "malloc_trim",
    "malloc_usable_size",
    "mallopt",
    "memalign",
    "mtrace",
    "muntrace",
    "posix_memalign",
    "pvalloc",
    "realloc",
    "reallocarray",
    "sigaction",
    "signal",
    "sigset",
    "sysv_signal",
    "valloc",
];

/// The C++ operators that others jump to.
const PLAIN_OPERATORS: &[&str] = &[
    "_ZdaPv",
    "_ZdaPvSt11align_val_t",
    "_ZdlPv",
    "_ZdlPvSt11align_val_t",
    "_Znam",
    "_ZnamSt11align_val_t",
    "_Znwm",
    "_ZnwmSt11align_val_t",
];

/// The other C++ operators.
const FORWARDED_OPERATORS: &[&str] = &[
    "_ZdaPvRKSt9nothrow_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvm",
    "_ZdaPvmSt11align_val_t",
    "_ZdlPvRKSt9nothrow_t",
    "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdlPvm",
    "_ZdlPvmSt11align_val_t",
    "_ZnamRKSt9nothrow_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_ZnwmRKSt9nothrow_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
];

fn preload_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| fs::read(support::preload_library()).expect("the library can be read"))
}

fn preload() -> ElfFile64<'static> {
    ElfFile64::parse(preload_bytes()).expect("the library is an ELF file of 64 bits")
}

fn name<'data>(symbol: &impl ObjectSymbol<'data>) -> &'data str {
    symbol.name().expect("symbol names are UTF-8")
}

/// The names that `symbols` give to the rest of the process.
fn exported<'data, S: ObjectSymbol<'data>>(
    symbols: impl Iterator<Item = S>,
) -> BTreeSet<&'data str> {
    symbols
        .filter(|s| s.is_definition() && s.is_global())
        .map(|s| name(&s))
        .collect()
}

#[test]
fn the_library_exports_exactly_the_c_and_cxx_names() {
    let file = preload();
    let expected: BTreeSet<&str> = [C_NAMES, PLAIN_OPERATORS, FORWARDED_OPERATORS]
        .concat()
        .into_iter()
        .collect();
    assert_eq!(exported(file.dynamic_symbols()), expected);
}

/// Internal code that called an exported name would call whoever won the name, or itself.
#[test]
fn nothing_inside_calls_an_exported_name() {
    let file = preload();
    let symbol = |index| {
        let table = file
            .dynamic_symbol_table()
            .expect("there are dynamic symbols");
        use object::ObjectSymbolTable;
        table
            .symbol_by_index(index)
            .expect("relocations name existing symbols")
    };
    let used: BTreeSet<&str> = file
        .dynamic_relocations()
        .expect("there are relocations")
        .filter_map(|(_, relocation)| match relocation.target() {
            RelocationTarget::Symbol(index) => Some(symbol(index)),
            _ => None,
        })
        .filter(ObjectSymbol::is_definition)
        .map(|s| name(&s))
        .collect();
    // The forwards of C++ mean whoever won.
    assert_eq!(used, PLAIN_OPERATORS.iter().copied().collect());
}

/// Whatever the library calls may be called from inside malloc, with the program's locks held
/// or before its first constructor. So each import is listed here, and a new one is a decision:
/// it must neither allocate nor take a lock that is held while others allocate.
#[test]
fn imports_neither_allocate_nor_lock() {
    let file = preload();
    let allowed = [
        // System calls and their error.
        "__errno_location",
        "brk",
        "sbrk",
        "mmap",
        "mmap64",
        "munmap",
        "mremap",
        "mprotect",
        "madvise",
        "syscall",
        "write",
        "prctl",
        "sched_getaffinity",
        "getpid",
        "fcntl",
        "fcntl64",
        "fstat",
        "dup2",
        "close",
        "getrusage",
        // What the kernel and the dynamic linker have told.
        "environ",
        "__environ",
        "getauxval",
        "sysconf",
        // Weak: a word, whether the process has one thread.
        "__libc_single_threaded",
        // Memory.
        "bcmp",
        "memcmp",
        "memcpy",
        "memmove",
        "memset",
        "strlen",
        // Only for leaks that may be suppressed: with nothing held, and no thread held still.
        "dladdr",
        // Handlers of signals: system calls, or the bookkeeping around one. Not by the names that
        // we have ourselves.
        "__sigaction",
        "ssignal",
        // Once per process or thread, with nothing held, and prepared for being re-entered: a
        // key beyond the 32nd, and a tenth handler, are stored in memory from calloc.
        "pthread_key_create",
        "pthread_setspecific",
        "pthread_atfork",
        "__register_atfork",
        // As these, for a process that has no key left for us; it ends if that memory is refused.
        "__cxa_thread_atexit_impl",
        // The end.
        "abort",
        // Only malloc_info, with nothing held.
        "fwrite",
        // Only operator new that has failed, with nothing held.
        "dlopen",
        "dlsym",
        "dlclose",
        // Weak, and only where operator new has failed.
        "_ZSt15get_new_handlerv",
        "_ZSt17__throw_bad_allocv",
        "__cxa_begin_catch",
        "__cxa_end_catch",
        "__gxx_personality_v0",
        // Weak, of the C compiler's start files.
        "_ITM_deregisterTMCloneTable",
        "_ITM_registerTMCloneTable",
        "__cxa_finalize",
        "__gmon_start__",
        "__dso_handle",
    ];
    let imported: BTreeSet<&str> = file
        .dynamic_symbols()
        .filter(|s| s.is_undefined() && !name(s).is_empty())
        .map(|s| name(&s))
        .collect();
    assert!(imported.contains("__errno_location"), "{imported:?}");
    let unknown: Vec<_> = imported.iter().filter(|i| !allowed.contains(i)).collect();
    assert!(
        unknown.is_empty(),
        "imports nobody has vouched for: {unknown:?}"
    );
}

/// General-dynamic thread-local storage allocates on first use and locks during dlopen.
#[test]
fn thread_local_data_is_reached_without_a_call() {
    let file = preload();
    assert!(!file.dynamic_symbols().any(|s| name(&s) == "__tls_get_addr"));
    for (_, relocation) in file.dynamic_relocations().expect("there are relocations") {
        let RelocationFlags::Elf { r_type } = relocation.flags() else {
            panic!("an ELF file has relocations of ELF's");
        };
        let dynamic: &[u32] = if file.architecture() == object::Architecture::X86_64 {
            &[
                elf::R_X86_64_DTPMOD64,
                elf::R_X86_64_DTPOFF64,
                elf::R_X86_64_TLSDESC,
            ]
        } else {
            &[
                elf::R_AARCH64_TLS_DTPMOD,
                elf::R_AARCH64_TLS_DTPREL,
                elf::R_AARCH64_TLSDESC,
            ]
        };
        assert!(!dynamic.contains(&r_type), "relocation type {r_type}");
    }
}

/// The release build has a full symbol table, so code that is not named there is not there.
#[test]
fn there_is_no_panic_and_no_formatting() {
    let file = preload();
    let names: Vec<&str> = file.symbols().map(|s| name(&s)).collect();
    assert!(
        names.iter().any(|n| n.contains("fencepost")),
        "the symbol table was not stripped"
    );
    // Both manglings write a path as lengths and words.
    let found: Vec<_> = names
        .iter()
        .filter(|n| {
            [
                "4core9panicking",
                "4core3fmt",
                "4core6option",
                "4core6result",
                "rust_begin_unwind",
            ]
            .iter()
            .any(|part| n.contains(part))
        })
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_dynamic_section_says_how_to_load_it() {
    let file = preload();
    let endian = Endianness::default();
    let (entries, strings) = {
        let sections = file.elf_section_table();
        let (dynamic, link) = sections
            .dynamic(endian, preload_bytes())
            .expect("the section can be read")
            .expect("there is a dynamic section");
        let strings = sections
            .strings(endian, preload_bytes(), link)
            .expect("the section has strings");
        (dynamic, strings)
    };
    let value = |tag: u32| {
        entries
            .iter()
            .find(|e| e.tag32(endian) == Some(tag))
            .map(|e| e.d_val(endian))
    };
    let text = |offset: u64| {
        let bytes = strings.get(offset as u32).expect("the string exists");
        std::str::from_utf8(bytes).expect("names are UTF-8")
    };
    let flags = value(elf::DT_FLAGS_1).expect("there are flags") as u32;
    for flag in [elf::DF_1_NODELETE, elf::DF_1_NOW] {
        assert!(flags & flag != 0, "flag {flag:#x} of {flags:#x}");
    }
    assert_eq!(value(elf::DT_SONAME).map(text), Some("libfencepost.so"));
    assert_eq!(value(elf::DT_TEXTREL), None);
    // Neither the C++ runtime nor the unwinder come along.
    let needed: Vec<&str> = entries
        .iter()
        .filter(|e| e.tag32(endian) == Some(elf::DT_NEEDED))
        .map(|e| text(e.d_val(endian)))
        .collect();
    assert!(
        needed.iter().any(|library| library.starts_with("libc.")),
        "{needed:?}"
    );
    for library in needed {
        let name = library.split(".so").next().expect("a first part");
        assert!(
            ["libc", "ld-linux-x86-64", "ld-linux-aarch64"].contains(&name),
            "needs {library}"
        );
    }
}

/// A program that merely depends on the Rust library keeps its own malloc.
#[test]
fn the_rust_library_exports_no_c_name() {
    // Without link-time optimisation, which would leave nothing but bitcode to look at.
    let target = support::target_dir();
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "fencepost", "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("LD_PRELOAD")
        .status()
        .expect("cargo can be started");
    assert!(status.success());
    let path: PathBuf = target.join("debug/libfencepost.rlib");
    let bytes = fs::read(&path).expect("the Rust library can be read");
    let archive = ArchiveFile::parse(&*bytes).expect("an archive");
    let mut functions = 0;
    for member in archive.members() {
        let member = member.expect("a member");
        if !member.name().ends_with(b".o") {
            continue;
        }
        let data = member.data(&*bytes).expect("the member's bytes");
        // A copy, because an archive aligns its members to two bytes only.
        let data = data.to_vec();
        let object = File::parse(&*data).expect("an object file");
        for symbol in object
            .symbols()
            .filter(|s: &Symbol| s.is_definition() && s.is_global())
        {
            let name = name(&symbol);
            functions += 1;
            assert!(
                !C_NAMES.contains(&name) && !name.starts_with("_Zn") && !name.starts_with("_Zd"),
                "{name} is defined in {}",
                String::from_utf8_lossy(member.name())
            );
        }
    }
    assert!(functions > 100, "only {functions} symbols were seen");
}
