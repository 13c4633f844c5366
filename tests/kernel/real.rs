//! The kernel that runs the tests, asked by raw system calls in this process.

use super::{ELSEWHERE, FILES, PageView, System, TASK_END, canonical, pristine, probe};
use fencepost::mmu::addr::{Access, ObjectId, PAGE, Rights};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Area, Backing, Errno, Traits};
use fencepost::mmu::fault::Signature;
use std::fs::File;
use std::io::Error;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

/// A system call with six words.
#[allow(unsafe_code)]
pub fn call(number: libc::c_long, words: [u64; 6]) -> Result<u64, Errno> {
    let [a, b, c, d, e, f] = words;
    // SAFETY: the callers change memory only in the tests' windows, which Rust knows nothing of.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        let errno = Error::last_os_error().raw_os_error();
        return Err(Errno(errno.expect("the call failed")));
    }
    Ok(result as u64)
}

/// Maps at exactly `addr`; panics if that fails.
pub fn map(addr: u64, len: u64, prot: u32, flags: u32) {
    let words = [addr, len, prot.into(), flags.into(), u64::MAX, 0];
    assert_eq!(call(libc::SYS_mmap, words), Ok(addr), "mmap");
}

/// Unmaps; panics if that fails.
pub fn unmap(addr: u64, len: u64) {
    let result = call(libc::SYS_munmap, [addr, len, 0, 0, 0, 0]);
    assert_eq!(result, Ok(0), "munmap");
}

/// The word of `/proc/self/pagemap` for the page of `addr`.
pub fn pagemap_entry(addr: u64) -> u64 {
    let file = File::open("/proc/self/pagemap").expect("pagemap can be read");
    let mut word = [0; 8];
    file.read_exact_at(&mut word, addr / PAGE * 8)
        .expect("pagemap has every page");
    u64::from_le_bytes(word)
}

/// What a word of pagemap says.
pub fn page_view(word: u64) -> PageView {
    let guard = word >> 58 & 1 == 1;
    // A guard looks like a swapped page.
    PageView {
        present: word >> 63 == 1 || word >> 62 & 1 == 1 && !guard,
        guard,
    }
}

/// Reads the lines of a maps file that lie in `start..end`.
pub fn listed(maps: &File, start: u64, end: u64, areas: &mut Vec<Area>) {
    areas.clear();
    let mut inodes: Vec<(u64, u64)> = Vec::new();
    let mut text = Vec::with_capacity(8192);
    let mut offset = 0;
    let mut chunk = [0; 4096];
    loop {
        let n = maps.read_at(&mut chunk, offset).expect("maps can be read");
        offset += n as u64;
        text.extend_from_slice(&chunk[..n]);
        let mut from = 0;
        while let Some(len) = text[from..].iter().position(|&b| b == b'\n') {
            let line = &text[from..from + len];
            from += len + 1;
            let area = line_of(line, &mut inodes);
            if area.start >= end {
                return;
            }
            if area.end > start {
                areas.push(area);
            }
        }
        text.drain(..from);
        if n == 0 {
            return;
        }
    }
}

fn hex(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |sum, &byte| {
        sum << 4 | u64::from((byte as char).to_digit(16).expect("a hexadecimal digit"))
    })
}

/// `start-end rwxp offset dev inode name`.
fn line_of(line: &[u8], inodes: &mut Vec<(u64, u64)>) -> Area {
    let mut words = line.split(|&b| b == b' ').filter(|word| !word.is_empty());
    let mut next = || words.next().expect("a line of maps has five words");
    let range = next();
    let dash = range.iter().position(|&b| b == b'-').expect("a range");
    let perms = next();
    let offset = hex(next());
    let device = next();
    let colon = device.iter().position(|&b| b == b':').expect("a device");
    let device = hex(&device[..colon]) << 32 | hex(&device[colon + 1..]);
    let inode = next()
        .iter()
        .fold(0, |sum, b| sum * 10 + u64::from(b - b'0'));
    let mut bits = 0;
    for (letter, bit) in [(b'r', PROT_READ), (b'w', PROT_WRITE), (b'x', PROT_EXEC)] {
        if perms.contains(&letter) {
            bits |= bit;
        }
    }
    let backing = if inode == 0 {
        Backing::Anonymous
    } else {
        let key = (device, inode);
        let number = inodes.iter().position(|&k| k == key).unwrap_or_else(|| {
            inodes.push(key);
            inodes.len() - 1
        });
        Backing::Object {
            object: ObjectId::new(number as u32),
            offset,
            shared: perms[3] == b's',
        }
    };
    Area {
        start: hex(&range[..dash]),
        end: hex(&range[dash + 1..]),
        rights: Rights::from_bits(bits),
        backing,
        traits: Traits::default(),
    }
}

/// A file in memory with the contents that [`pristine`] says.
#[allow(unsafe_code)]
pub fn memory_file(number: usize) -> File {
    // SAFETY: the name is a C string, and the descriptor is new.
    let file = unsafe {
        let fd = libc::memfd_create(c"object".as_ptr(), libc::MFD_CLOEXEC);
        assert!(fd >= 0, "memfd_create: {}", Error::last_os_error());
        File::from_raw_fd(fd)
    };
    file.set_len(FILES[number] * PAGE).expect("it can be sized");
    for page in 0..FILES[number] {
        let bytes = pristine(number, page);
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let at = page * PAGE;
        file.write_all_at(head, at).expect("it can be written");
        file.write_all_at(tail, at + PAGE - tail.len() as u64)
            .expect("it can be written");
    }
    file
}

/// The effective set of this thread's capabilities loses those that would let calls through
/// that an ordinary process is refused.
#[allow(unsafe_code)]
pub fn be_ordinary() {
    const VERSION: u32 = 0x2008_0522;
    // The numbers of the capabilities to lock memory, for the lowest addresses, for
    // administration, and beyond limits.
    const LOST: u32 = 1 << 14 | 1 << 17 | 1 << 21 | 1 << 24;
    let mut header = [VERSION, 0];
    let mut data = [0u32; 6];
    // SAFETY: both are as large as the kernel's structures of this version.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), data.as_mut_ptr()) == 0 {
            data[0] &= !LOST;
            libc::syscall(libc::SYS_capset, header.as_mut_ptr(), data.as_ptr());
        }
        // No huge pages in this process.
        libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    }
}

/// The kernel, in a window of this process.
pub struct Kernel {
    base: u64,
    pages: u64,
    maps: File,
    pagemap: File,
    files: Vec<File>,
    raw: Vec<Area>,
    words: Vec<u8>,
}

impl Kernel {
    /// The window is emptied first.
    pub fn new(base: u64, pages: u64) -> Kernel {
        be_ordinary();
        probe::arm();
        unmap(base, pages * PAGE);
        Kernel {
            base,
            pages,
            maps: File::open("/proc/self/maps").expect("maps can be read"),
            pagemap: File::open("/proc/self/pagemap").expect("pagemap can be read"),
            files: (0..FILES.len()).map(memory_file).collect(),
            raw: Vec::new(),
            words: vec![0; pages as usize * 8],
        }
    }

    fn end(&self) -> u64 {
        self.base + self.pages * PAGE
    }

    /// An operation of the test must not reach the process around it.
    fn keep_inside(&self, addr: u64, len: u64) {
        let inside = addr >= self.base && len <= self.end().saturating_sub(addr);
        let wraps = addr
            .checked_add(len)
            .is_none_or(|end| end > u64::MAX - PAGE);
        let refused = !addr.is_multiple_of(PAGE) || addr >= TASK_END;
        assert!(
            inside || wraps || refused,
            "{addr:#x} + {len:#x} leaves the window"
        );
    }

    /// What the kernel placed outside of the window is removed again.
    fn settle(&mut self, result: Result<u64, Errno>, len: u64) -> Result<u64, Errno> {
        let at = result?;
        if (self.base..self.end()).contains(&at) {
            return Ok(at);
        }
        assert!(
            at.is_multiple_of(PAGE) && at >= 0x1_0000 && at <= TASK_END - len,
            "the kernel placed something at {at:#x}"
        );
        unmap(at, len);
        Ok(ELSEWHERE)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        unmap(self.base, self.pages * PAGE);
    }
}

impl System for Kernel {
    fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<usize>,
        offset: u64,
    ) -> Result<u64, Errno> {
        if flags & MAP_FIXED != 0 && hint != 0 && len < TASK_END {
            self.keep_inside(hint, len);
        }
        let fd = file.map_or(u64::MAX, |file| self.files[file].as_raw_fd() as u64);
        let words = [hint, len, prot.into(), flags.into(), fd, offset];
        let result = call(libc::SYS_mmap, words);
        self.settle(result, len)
    }

    fn munmap(&mut self, addr: u64, len: u64) -> Result<u64, Errno> {
        if len <= TASK_END {
            self.keep_inside(addr, len);
        }
        call(libc::SYS_munmap, [addr, len, 0, 0, 0, 0])
    }

    fn mprotect(&mut self, addr: u64, len: u64, prot: u32) -> Result<u64, Errno> {
        self.keep_inside(addr, len);
        call(libc::SYS_mprotect, [addr, len, prot.into(), 0, 0, 0])
    }

    fn madvise(&mut self, addr: u64, len: u64, advice: u32) -> Result<u64, Errno> {
        self.keep_inside(addr, len);
        call(libc::SYS_madvise, [addr, len, advice.into(), 0, 0, 0])
    }

    fn mremap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let refused = new_len > TASK_END
            || flags & MREMAP_DONTUNMAP != 0 && (old_len != new_len || flags & MREMAP_MAYMOVE == 0);
        if !refused {
            self.keep_inside(old, old_len);
        }
        let named = flags & (MREMAP_FIXED | MREMAP_DONTUNMAP) != 0;
        if named && !refused && flags & MREMAP_MAYMOVE != 0 && new <= TASK_END - new_len {
            self.keep_inside(new, new_len);
        }
        let words = [old, old_len, new_len, flags.into(), new, 0];
        let result = call(libc::SYS_mremap, words);
        self.settle(result, new_len)
    }

    fn brk(&mut self, _to: u64) -> u64 {
        unreachable!("this process has a heap at its break");
    }

    #[allow(unsafe_code)]
    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<u64, Errno> {
        transfer(
            std::process::id(),
            addr,
            bytes.as_mut_ptr(),
            bytes.len(),
            false,
        )
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let from = bytes.as_ptr().cast_mut();
        transfer(std::process::id(), addr, from, bytes.len(), true)
    }

    #[allow(unsafe_code)]
    fn touch(
        &mut self,
        addr: u64,
        len: u64,
        access: Access,
        bytes: [u8; 8],
    ) -> Result<u64, Signature> {
        // SAFETY: nothing of Rust's lies in the window, and beyond it nothing can be accessed.
        // What is fetched faults: see the generator.
        unsafe { probe::access(addr, len, access, u64::from_le_bytes(bytes)) }
    }

    fn look(&mut self) {
        listed(
            &self.maps,
            self.base,
            self.base + self.pages * PAGE,
            &mut self.raw,
        );
        self.pagemap
            .read_exact_at(&mut self.words, self.base / PAGE * 8)
            .expect("pagemap has every page");
    }

    fn areas(&mut self) -> Vec<Area> {
        canonical(self.raw.iter().copied())
    }

    fn unmerged(&mut self) -> Option<Vec<Area>> {
        Some(self.raw.clone())
    }

    fn page(&mut self, addr: u64) -> PageView {
        let at = ((addr - self.base) / PAGE) as usize * 8;
        let word = self.words[at..at + 8].try_into().expect("eight bytes");
        page_view(u64::from_le_bytes(word))
    }

    #[allow(unsafe_code)]
    fn peek(&mut self, addr: u64) -> super::Contents {
        let mut bytes = [0; 2 * super::EDGE as usize];
        let (head, tail) = bytes.split_at_mut(super::EDGE as usize);
        // SAFETY: the page is present and may be read by instructions, as the caller found out.
        unsafe {
            let tail_at = addr + PAGE - super::EDGE;
            core::ptr::copy_nonoverlapping(addr as *const u8, head.as_mut_ptr(), head.len());
            core::ptr::copy_nonoverlapping(tail_at as *const u8, tail.as_mut_ptr(), tail.len());
        }
        bytes
    }
}

/// `process_vm_readv` or `process_vm_writev`.
#[allow(unsafe_code)]
pub fn transfer(pid: u32, addr: u64, ours: *mut u8, len: usize, write: bool) -> Result<u64, Errno> {
    let local = libc::iovec {
        iov_base: ours.cast(),
        iov_len: len,
    };
    let remote = libc::iovec {
        iov_base: addr as *mut libc::c_void,
        iov_len: len,
    };
    let number = if write {
        libc::SYS_process_vm_writev
    } else {
        libc::SYS_process_vm_readv
    };
    call(
        number,
        [
            pid.into(),
            &raw const local as u64,
            1,
            &raw const remote as u64,
            1,
            0,
        ],
    )
}
