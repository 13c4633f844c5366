//! How little a small program pays for the preload library: what it does without is not paged in,
//! and without a single block there is no allocator at all.

mod support;

use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, elf};
use std::path::Path;
use support::{Run, compile_c, preload_library};

/// A mapping, as `/proc/self/smaps` tells of it.
#[derive(Debug)]
struct Mapping {
    /// Offset in the file, in bytes.
    offset: u64,
    executable: bool,
    /// Whether the file is the library.
    ours: bool,
    /// Resident memory, in KiB.
    resident: u64,
    /// Whether a child finds it empty.
    wiped_on_fork: bool,
}

fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut all: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match (words.as_slice(), all.last_mut()) {
            (["Rss:", kib, "kB"], Some(last)) => last.resident = kib.parse().expect("a number"),
            (["VmFlags:", flags @ ..], Some(last)) => last.wiped_on_fork = flags.contains(&"wf"),
            ([range, rights, offset, _, _, path @ ..], _) if range.contains('-') => {
                all.push(Mapping {
                    offset: u64::from_str_radix(offset, 16).expect("an offset"),
                    executable: rights.contains('x'),
                    ours: path.iter().any(|word| word.ends_with("libfencepost.so")),
                    resident: 0,
                    wiped_on_fork: false,
                });
            }
            _ => {}
        }
    }
    all
}

fn small(args: &[&str]) -> Vec<Mapping> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/footprint/small.c");
    let run = Run::new(compile_c(&source, &[])).args(args).preload();
    mappings(&run.output().expect_success("small.c").out())
}

/// Where in the file the segment begins whose first section this is; `None` if the linker made no
/// such segment (GNU ld makes none).
fn segment_of(section: &str) -> Option<u64> {
    let bytes = std::fs::read(preload_library()).expect("the library was built");
    let file: ElfFile64<'_, Endianness> = ElfFile64::parse(&*bytes).expect("an ELF file");
    let address = file.section_by_name(section)?.address();
    file.elf_program_headers()
        .iter()
        .filter(|segment| segment.p_type(file.endian()) == elf::PT_LOAD)
        .find(|segment| segment.p_vaddr(file.endian()) == address)
        .map(|segment| segment.p_offset(file.endian()))
}

/// The pages of a segment's mapping begin at a page boundary.
fn page_of(offset: u64) -> u64 {
    offset & !0xfff
}

#[test]
fn what_few_programs_run_is_not_paged_in() {
    let Some(offset) = segment_of(".text.seldom") else {
        return;
    };
    let mappings = small(&["heap"]);
    let (seldom, rest): (Vec<&Mapping>, Vec<&Mapping>) = mappings
        .iter()
        .filter(|mapping| mapping.ours && mapping.executable)
        .partition(|mapping| mapping.offset == page_of(offset));
    let [seldom] = seldom.as_slice() else {
        panic!("one mapping is for what few programs run: {mappings:?}");
    };
    assert_eq!(seldom.resident, 0, "a small program ran seldom-used code");
    assert!(rest.iter().any(|mapping| mapping.resident > 0), "{rest:?}");
}

#[test]
fn a_hundred_blocks_need_little_of_the_library() {
    if segment_of(".text.later").is_none() {
        return;
    }
    let resident = small(&["few"])
        .iter()
        .filter(|mapping| mapping.ours)
        .map(|mapping| mapping.resident)
        .sum::<u64>();
    // It is 64 KiB, but another compiler may make another function of what one of ours does: the
    // kernel then brings in 64 KiB around it.
    assert!((1..=128).contains(&resident), "{resident} KiB");
}

#[test]
fn a_program_without_blocks_starts_no_allocator() {
    // The page that a child finds empty is made when the allocator starts.
    let watched = |args: &[&str]| small(args).iter().filter(|m| m.wiped_on_fork).count();
    assert_eq!(watched(&["heap"]), 1);
    assert_eq!(watched(&[]), 0);
}
