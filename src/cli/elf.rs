//! What an ELF file says about itself: for which processor it is, which
//! loader and C library it wants, whether it brings its own malloc.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};

use object::Endianness;
use object::elf as abi;
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader, Sym};
use object::read::{ReadCache, ReadRef, StringTable};

use crate::script::HEAD;

/// Instruction set, word size and byte order. A library can be loaded only
/// into a program that has all three in common with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    code: u16,
    bits: u8,
    little: bool,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            abi::EM_386 => f.write_str("x86")?,
            abi::EM_X86_64 => f.write_str("x86-64")?,
            abi::EM_ARM => f.write_str("Arm")?,
            abi::EM_AARCH64 => f.write_str("AArch64")?,
            abi::EM_RISCV => f.write_str("RISC-V")?,
            abi::EM_PPC => f.write_str("PowerPC")?,
            abi::EM_PPC64 => f.write_str("PowerPC64")?,
            abi::EM_S390 => f.write_str("S/390")?,
            abi::EM_MIPS => f.write_str("MIPS")?,
            abi::EM_LOONGARCH => f.write_str("LoongArch")?,
            other => write!(f, "ELF machine {other}")?,
        }
        write!(f, ", {}-bit", self.bits)?;
        f.write_str(if self.little { "" } else { ", big-endian" })
    }
}

/// The C libraries that programs and the preload library are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// The GNU C library.
    Glibc,
    /// musl.
    Musl,
    /// Android's.
    Bionic,
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Libc::Glibc => "glibc",
            Libc::Musl => "musl",
            Libc::Bionic => "bionic",
        })
    }
}

impl Libc {
    /// Tells by the file name of a loader or a C library. Every musl library
    /// may be called `libc.so`, so that name alone says nothing.
    fn of(name: &str) -> Option<Self> {
        let name = name.rsplit('/').next().unwrap_or(name);
        let is = |starts: &[&str]| starts.iter().any(|start| name.starts_with(start));
        if is(&["ld-musl-", "libc.musl-"]) {
            Some(Libc::Musl)
        } else if is(&["ld-linux", "ld64.so.", "ld.so.1", "libc.so.6"]) {
            Some(Libc::Glibc)
        } else if matches!(name, "linker" | "linker64") {
            Some(Libc::Bionic)
        } else {
            None
        }
    }
}

/// Which kind of ELF file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A program at a fixed address.
    Program,
    /// A shared object: a library, or a position-independent program.
    Shared,
    /// An object file or a core dump.
    Other,
}

/// What matters of one ELF file. Strings that are not UTF-8 are kept lossily:
/// they are compared and shown, the interpreter's bytes are kept apart.
#[derive(Debug)]
pub struct Elf {
    /// Which kind of file it is.
    pub kind: Kind,
    /// The loader that it asks for (`PT_INTERP`).
    pub interpreter: Option<Vec<u8>>,
    /// Its own name, if it is a library (`DT_SONAME`).
    pub soname: Option<String>,
    /// The libraries that it is linked to (`DT_NEEDED`).
    pub needed: Vec<String>,
    /// A symbol that it defines and that only an allocator has.
    pub allocator: Option<String>,
}

/// The first [`HEAD`] bytes of a file, or all of a shorter one.
pub fn head(mut file: &File) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(HEAD);
    file.rewind()?;
    file.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Whether the file starts as ELF files do.
pub fn is_elf(head: &[u8]) -> bool {
    head.starts_with(&abi::ELFMAG)
}

/// The processor that an ELF file is for, from its first 20 bytes alone, so
/// that even a file we cannot read any further is told apart. `None` if it is
/// no ELF file or its header makes no sense.
pub fn machine(head: &[u8]) -> Option<Machine> {
    if !is_elf(head) || head.len() < 20 {
        return None;
    }
    let bits = match head[4] {
        abi::ELFCLASS32 => 32,
        abi::ELFCLASS64 => 64,
        _ => return None,
    };
    let code = [head[18], head[19]];
    let (little, code) = match head[5] {
        abi::ELFDATA2LSB => (true, u16::from_le_bytes(code)),
        abi::ELFDATA2MSB => (false, u16::from_be_bytes(code)),
        _ => return None,
    };
    Some(Machine { code, bits, little })
}

impl Elf {
    /// Reads the file; its symbols only if `symbols`, for there may be many.
    ///
    /// # Errors
    /// When the file is damaged, with what is wrong about it.
    pub fn read(file: File, symbols: bool) -> Result<Elf, String> {
        let class = head(&file).ok().and_then(|head| machine(&head));
        // Only the parts that are asked for are read, not the whole file.
        let cache = ReadCache::new(file);
        match class.map(|machine| machine.bits) {
            Some(64) => parse::<abi::FileHeader64<Endianness>>(&cache, symbols),
            Some(_) => parse::<abi::FileHeader32<Endianness>>(&cache, symbols),
            None => return Err("its ELF header makes no sense".into()),
        }
        .map_err(|error| error.to_string())
    }

    /// The C library that the file is linked to, as far as one can tell.
    pub fn libc(&self) -> Option<Libc> {
        let interpreter = self.interpreter.as_deref().map(String::from_utf8_lossy);
        interpreter
            .as_deref()
            .and_then(Libc::of)
            .or_else(|| self.soname.as_deref().and_then(Libc::of))
            .or_else(|| self.needed.iter().find_map(|name| Libc::of(name)))
    }

    /// Whether the file is itself a loader, which loads what LD_PRELOAD names
    /// though no loader loads it.
    pub fn is_loader(&self) -> bool {
        let soname = self.soname.as_deref().unwrap_or_default();
        self.interpreter.is_none()
            && ["ld-", "ld64.so", "ld.so", "libc.musl-"]
                .iter()
                .any(|start| soname.starts_with(start))
    }
}

fn parse<Header: FileHeader<Endian = Endianness>>(
    data: &ReadCache<File>,
    symbols: bool,
) -> object::read::Result<Elf> {
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let mut elf = Elf {
        kind: match header.e_type(endian) {
            abi::ET_EXEC => Kind::Program,
            abi::ET_DYN => Kind::Shared,
            _ => Kind::Other,
        },
        interpreter: None,
        soname: None,
        needed: Vec::new(),
        allocator: None,
    };
    let segments = header.program_headers(endian, data)?;
    for segment in segments {
        if let Some(name) = segment.interpreter(endian, data)? {
            elf.interpreter = Some(name.to_vec());
        }
        if let Some(entries) = segment.dynamic(endian, data)? {
            names::<Header>(endian, data, segments, entries, &mut elf);
        }
    }
    if symbols {
        // A file without section headers runs all the same, so that trouble
        // here only means that no allocator is recognised.
        elf.allocator = allocator(header, endian, data).unwrap_or(None);
    }
    Ok(elf)
}

/// Reads the names in the dynamic section.
fn names<Header: FileHeader<Endian = Endianness>>(
    endian: Endianness,
    data: &ReadCache<File>,
    segments: &[Header::ProgramHeader],
    entries: &[Header::Dyn],
    elf: &mut Elf,
) {
    let value = |tag: u32| {
        let entry = |entry: &&Header::Dyn| entry.tag32(endian) == Some(tag);
        let found = entries.iter().find(entry);
        found.map(|entry| entry.d_val(endian).into())
    };
    let (Some(address), Some(size)) = (value(abi::DT_STRTAB), value(abi::DT_STRSZ)) else {
        return;
    };
    // DT_STRTAB is an address; the segment that holds it says where in the file.
    let Some(start) = segments.iter().find_map(|segment| {
        let offset = address.checked_sub(segment.p_vaddr(endian).into())?;
        (segment.p_type(endian) == abi::PT_LOAD && offset < segment.p_filesz(endian).into())
            .then(|| offset.checked_add(segment.p_offset(endian).into()))?
    }) else {
        return;
    };
    let Ok(strings) = data.read_bytes_at(start, size) else {
        return;
    };
    let strings = StringTable::new(strings, 0, strings.len() as u64);
    for entry in entries {
        let Ok(name) = entry.string(endian, strings) else {
            continue;
        };
        let name = String::from_utf8_lossy(name).into_owned();
        match entry.tag32(endian) {
            Some(abi::DT_NEEDED) => elf.needed.push(name),
            Some(abi::DT_SONAME) => elf.soname = Some(name),
            _ => {}
        }
    }
}

/// The first symbol that an allocator linked into the file defines.
fn allocator<'data, Header: FileHeader<Endian = Endianness>>(
    header: &'data Header,
    endian: Endianness,
    data: &'data ReadCache<File>,
) -> object::read::Result<Option<String>> {
    let sections = header.section_headers(endian, data)?;
    // The dynamic symbols are few: they come first.
    for kind in [abi::SHT_DYNSYM, abi::SHT_SYMTAB] {
        for section in sections {
            if section.sh_type(endian) != kind {
                continue;
            }
            let symbols: &[Header::Sym] = section.data_as_array(endian, data)?;
            let strings = sections.get(section.sh_link(endian) as usize);
            let strings = match strings.map(|section| section.data(endian, data)) {
                Some(Ok(strings)) => strings,
                _ => continue,
            };
            let found = symbols.iter().find_map(|symbol| {
                let function = matches!(symbol.st_type(), abi::STT_FUNC | abi::STT_GNU_IFUNC);
                if !function || symbol.st_shndx(endian) == abi::SHN_UNDEF {
                    return None;
                }
                let name = strings.get(symbol.st_name(endian) as usize..)?;
                let name = name.split(|&byte| byte == 0).next()?;
                of_allocator(name).then(|| String::from_utf8_lossy(name).into_owned())
            });
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// Whether a function of this name belongs to an allocator.
fn of_allocator(name: &[u8]) -> bool {
    // The plain name, or the entry points of allocators that are built with a
    // prefix (jemalloc in Rust and in redis, mimalloc, gperftools, rpmalloc,
    // snmalloc, scudo).
    const PREFIXES: [&[u8]; 8] = [
        b"je_malloc",
        b"je_arena_",
        b"_rjem_",
        b"mi_malloc",
        b"tc_malloc",
        b"rpmalloc",
        b"sn_rust_alloc",
        b"scudo_malloc",
    ];
    name == b"malloc" || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_read_from_twenty_bytes() {
        let mut head = [0; 20];
        head[..4].copy_from_slice(b"\x7fELF");
        head[4] = 1;
        head[5] = 1;
        head[18] = 3;
        assert_eq!(machine(&head).unwrap().to_string(), "x86, 32-bit");
        head[4] = 2;
        head[5] = 2;
        head[18..].copy_from_slice(&[0, 22]);
        assert_eq!(
            machine(&head).unwrap().to_string(),
            "S/390, 64-bit, big-endian"
        );
        head[18..].copy_from_slice(&[0x12, 0x34]);
        assert!(machine(&head).unwrap().to_string().contains("4660"));
        assert_eq!(machine(&head[..19]), None);
        head[4] = 3;
        assert_eq!(machine(&head), None);
        assert_eq!(machine(b"#!/bin/sh\nexit 0 # long enough"), None);
    }

    #[test]
    fn x32_differs_from_x86_64() {
        let mut head = [0; 20];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18] = 62;
        let long = machine(&head).unwrap();
        head[4] = 1;
        assert_ne!(machine(&head).unwrap(), long);
    }

    #[test]
    fn loaders_tell_the_c_library() {
        for (name, libc) in [
            ("/lib64/ld-linux-x86-64.so.2", Some(Libc::Glibc)),
            ("/lib/ld-linux-aarch64.so.1", Some(Libc::Glibc)),
            ("/lib64/ld64.so.2", Some(Libc::Glibc)),
            ("/nix/store/x-glibc/lib/ld-linux.so.2", Some(Libc::Glibc)),
            ("/lib/ld-musl-x86_64.so.1", Some(Libc::Musl)),
            ("/system/bin/linker64", Some(Libc::Bionic)),
            ("/opt/loader", None),
            ("libc.so", None),
        ] {
            assert_eq!(Libc::of(name), libc, "{name}");
        }
    }

    #[test]
    fn allocators_are_known_by_their_entry_points() {
        for name in ["malloc", "je_mallocx", "_rjem_malloc", "mi_malloc_aligned"] {
            assert!(of_allocator(name.as_bytes()), "{name}");
        }
        for name in ["xmalloc", "mallocx", "my_malloc", "je_", "__libc_malloc"] {
            assert!(!of_allocator(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn this_very_program_is_understood() {
        let path = std::env::current_exe().unwrap();
        let elf = Elf::read(File::open(&path).unwrap(), true).unwrap();
        assert_eq!(elf.allocator, None);
        assert_ne!(elf.kind, Kind::Other);
        if cfg!(target_env = "gnu") {
            assert_eq!(elf.libc(), Some(Libc::Glibc));
            assert!(elf.needed.iter().any(|name| name == "libc.so.6"));
        }
    }
}
