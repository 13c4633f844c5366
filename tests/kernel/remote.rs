//! The kernel, in a process that does nothing but the calls that it is told to do: its break
//! and its limits are ours to move.

use super::real::{listed, memory_file, page_view, transfer};
use super::{EDGE, ELSEWHERE, FILES, PageView, System, TASK_END, canonical};
use crate::support::compile_c;
use fencepost::mmu::addr::{Access, PAGE};
use fencepost::mmu::area::{Area, Errno};
use fencepost::mmu::fault::Signature;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Where the remote finds its files.
const FIRST_FILE: i32 = 5;

/// A process under command.
pub struct Remote {
    child: Option<Child>,
    pid: u32,
    requests: File,
    answers: File,
    /// For the child that it may have.
    spare: Option<(File, File)>,
    base: u64,
    pages: u64,
    maps: File,
    pagemap: File,
    memory: File,
    raw: Vec<Area>,
    words: Vec<u8>,
}

/// Both ends of a pipe, numbered high enough not to be in the way.
#[allow(unsafe_code)]
fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: the descriptors are new, and each is owned once.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0, "pipe");
        let high = |fd: i32| {
            let moved = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 20);
            assert!(moved >= 20, "a descriptor can be moved");
            libc::close(fd);
            OwnedFd::from_raw_fd(moved)
        };
        (high(ends[0]), high(ends[1]))
    }
}

impl Remote {
    /// Starts one and looks at `pages` pages from `base` on, or from its break on.
    #[allow(unsafe_code)]
    pub fn new(base: Option<u64>, pages: u64) -> Remote {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel/remote.c");
        let program = compile_c(
            &source,
            &[
                "-static",
                "-nostdlib",
                "-ffreestanding",
                "-no-pie",
                "-fno-stack-protector",
                "-fcf-protection=none",
                "-Wl,-z,noexecstack",
            ],
        );
        let (to_read, to_write) = pipe();
        let (back_read, back_write) = pipe();
        let files: Vec<File> = (0..FILES.len()).map(memory_file).collect();
        let given: Vec<i32> = [to_read.as_raw_fd(), back_write.as_raw_fd()]
            .into_iter()
            .chain(files.iter().map(AsRawFd::as_raw_fd))
            .collect();
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        // SAFETY: only system calls between fork and exec. The sources are numbered from 20 on
        // after the first loop, the targets from 3 on.
        unsafe {
            command.pre_exec(move || {
                let mut high = [0; 8];
                for (i, &fd) in given.iter().enumerate() {
                    high[i] = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 20);
                }
                for (fd, target) in high.iter().take(given.len()).zip(3..) {
                    libc::dup2(*fd, target);
                }
                Ok(())
            });
        }
        let mut child = command.spawn().expect("the remote can be started");
        let requests = OwnedFd::from(child.stdin.take().expect("piped"));
        let answers = OwnedFd::from(child.stdout.take().expect("piped"));
        let spare = (File::from(to_write), File::from(back_read));
        let pid = child.id();
        let mut remote = Remote::of(pid, requests.into(), answers.into(), 0, pages);
        remote.child = Some(child);
        remote.spare = Some(spare);
        remote.base = base.unwrap_or_else(|| remote.brk(0));
        remote.be_ordinary();
        remote
    }

    fn of(pid: u32, requests: File, answers: File, base: u64, pages: u64) -> Remote {
        let open = |name: &str| {
            File::open(format!("/proc/{pid}/{name}")).expect("a child's files can be read")
        };
        Remote {
            child: None,
            pid,
            requests,
            answers,
            spare: None,
            base,
            pages,
            maps: open("maps"),
            pagemap: open("pagemap"),
            memory: open("mem"),
            raw: Vec::new(),
            words: vec![0; pages as usize * 8],
        }
    }

    /// One system call there.
    pub fn call(&mut self, number: libc::c_long, words: [u64; 6]) -> Result<u64, Errno> {
        let result = self.ask(number as u64, words);
        if (-4095..0).contains(&result) {
            return Err(Errno(-result as i32));
        }
        Ok(result as u64)
    }

    fn ask(&mut self, number: u64, words: [u64; 6]) -> i64 {
        let mut request = [0; 56];
        for (i, word) in [number].iter().chain(&words).enumerate() {
            request[i * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        self.requests.write_all(&request).expect("the remote lives");
        let mut answer = [0; 8];
        self.answers
            .read_exact(&mut answer)
            .expect("the remote answers");
        i64::from_le_bytes(answer)
    }

    /// Its child, of which it may have one.
    pub fn fork(&mut self) -> Remote {
        let (requests, answers) = self.spare.take().expect("a first child");
        let pid = self.ask(-2i64 as u64, [0; 6]);
        assert!(pid > 0, "the remote can fork");
        Remote::of(pid as u32, requests, answers, self.base, self.pages)
    }

    /// Hands bytes to a call: writes them into a page that is mapped meanwhile.
    pub fn with_bytes(
        &mut self,
        bytes: &[u8],
        call: impl FnOnce(&mut Remote, u64) -> Result<u64, Errno>,
    ) -> Result<u64, Errno> {
        let words = [0, PAGE, 3, 0x22, u64::MAX, 0];
        let at = self.call(libc::SYS_mmap, words)?;
        let done = self.write(at, bytes);
        assert_eq!(done, Ok(bytes.len() as u64), "the remote can be written to");
        let result = call(self, at);
        self.call(libc::SYS_munmap, [at, PAGE, 0, 0, 0, 0])?;
        result
    }

    /// A limit of `RLIMIT_*`.
    #[allow(unsafe_code)]
    pub fn limit(&mut self, which: libc::__rlimit_resource_t, bytes: u64) {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let pid = self.pid as libc::pid_t;
        // SAFETY: a local is filled in, then read.
        let result = unsafe {
            libc::prlimit(pid, which, core::ptr::null(), &raw mut limit);
            limit.rlim_cur = bytes;
            libc::prlimit(pid, which, &raw const limit, core::ptr::null_mut())
        };
        assert_eq!(result, 0, "a child's limit can be set");
    }

    /// Its `/proc/PID/maps`.
    pub fn listing(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).expect("a child's maps")
    }

    /// A line of its `/proc/PID/status`, in pages.
    pub fn status(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid);
        let text = std::fs::read_to_string(path).expect("a child's status can be read");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let words = line.expect("a line of status").trim_start_matches(':');
        let kilobytes: u64 = words.trim().trim_end_matches(" kB").parse().expect("kB");
        kilobytes * 1024 / PAGE
    }

    /// As `real::be_ordinary`, there: nobody, without capabilities.
    fn be_ordinary(&mut self) {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&0x2008_0522u32.to_le_bytes());
        // All sets stay empty; without a capability to lose the call does nothing.
        let drop =
            |remote: &mut Remote, at| remote.call(libc::SYS_capset, [at, at + 8, 0, 0, 0, 0]);
        let result = self.with_bytes(&bytes, drop);
        assert_eq!(result, Ok(0), "capabilities can be given up");
        let huge = [libc::PR_SET_THP_DISABLE as u64, 1, 0, 0, 0, 0];
        assert_eq!(self.call(libc::SYS_prctl, huge), Ok(0), "no huge pages");
    }

    fn settle(&mut self, result: Result<u64, Errno>, len: u64) -> Result<u64, Errno> {
        let at = result?;
        // The tests of limits use more than what is looked at.
        if (self.base..self.base + (1 << 40)).contains(&at) {
            return Ok(at);
        }
        assert!(
            at.is_multiple_of(PAGE) && at >= 0x1_0000 && at <= TASK_END - len,
            "the kernel placed something at {at:#x}"
        );
        self.call(libc::SYS_munmap, [at, len, 0, 0, 0, 0])?;
        Ok(ELSEWHERE)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // A grandchild ends with its pipe.
        if let Some(child) = &mut self.child {
            child.kill().expect("the remote can be ended");
            child.wait().expect("the remote can be waited for");
        }
    }
}

impl System for Remote {
    fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<usize>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let fd = file.map_or(u64::MAX, |file| file as u64 + FIRST_FILE as u64);
        let words = [hint, len, prot.into(), flags.into(), fd, offset];
        let result = self.call(libc::SYS_mmap, words);
        self.settle(result, len)
    }

    fn munmap(&mut self, addr: u64, len: u64) -> Result<u64, Errno> {
        self.call(libc::SYS_munmap, [addr, len, 0, 0, 0, 0])
    }

    fn mprotect(&mut self, addr: u64, len: u64, prot: u32) -> Result<u64, Errno> {
        self.call(libc::SYS_mprotect, [addr, len, prot.into(), 0, 0, 0])
    }

    fn madvise(&mut self, addr: u64, len: u64, advice: u32) -> Result<u64, Errno> {
        self.call(libc::SYS_madvise, [addr, len, advice.into(), 0, 0, 0])
    }

    fn mremap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let words = [old, old_len, new_len, flags.into(), new, 0];
        let result = self.call(libc::SYS_mremap, words);
        self.settle(result, new_len)
    }

    fn brk(&mut self, to: u64) -> u64 {
        self.ask(libc::SYS_brk as u64, [to, 0, 0, 0, 0, 0]) as u64
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<u64, Errno> {
        transfer(self.pid, addr, bytes.as_mut_ptr(), bytes.len(), false)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let from = bytes.as_ptr().cast_mut();
        transfer(self.pid, addr, from, bytes.len(), true)
    }

    fn touch(&mut self, _: u64, _: u64, _: Access, _: [u8; 8]) -> Result<u64, Signature> {
        unreachable!("a remote survives no fault")
    }

    fn look(&mut self) {
        let end = self.base + self.pages * PAGE;
        listed(&self.maps, self.base, end, &mut self.raw);
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

    fn peek(&mut self, addr: u64) -> super::Contents {
        let mut bytes = [0; 2 * EDGE as usize];
        let (head, tail) = bytes.split_at_mut(EDGE as usize);
        self.memory
            .read_exact_at(head, addr)
            .expect("a page that is present");
        self.memory
            .read_exact_at(tail, addr + PAGE - EDGE)
            .expect("a page that is present");
        bytes
    }
}
