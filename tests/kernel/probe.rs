//! Accesses that survive their faults: one instruction each, under a handler that records what
//! the processor and the kernel report and lets the program go on behind it.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use fencepost::mmu::addr::Access;
use fencepost::mmu::fault::Signature;
use std::sync::Once;

/// What the handler leaves for the access that faulted.
#[repr(C)]
#[derive(Default)]
struct Record {
    trap: u64,
    error: u64,
    signal: u64,
    code: u64,
    addr: u64,
    loaded: u64,
}

// Address in rdi, length (1 or 8) in rsi, the record in rdx, what to store in rcx. Gives 0, or 1
// after a fault. The handler knows an access by its place, and takes the record from rdx.
core::arch::global_asm!(
    ".text",
    ".p2align 4",
    ".globl fencepost_probe_load",
    "fencepost_probe_load:",
    "cmp esi, 8",
    "je 2f",
    "movzx eax, byte ptr [rdi]",
    "jmp 3f",
    "2:",
    "mov rax, qword ptr [rdi]",
    "3:",
    "mov qword ptr [rdx + 40], rax",
    "xor eax, eax",
    "ret",
    ".globl fencepost_probe_store",
    "fencepost_probe_store:",
    "cmp esi, 8",
    "je 2f",
    "mov byte ptr [rdi], cl",
    "xor eax, eax",
    "ret",
    "2:",
    "mov qword ptr [rdi], rcx",
    "xor eax, eax",
    "ret",
    ".globl fencepost_probe_exec",
    "fencepost_probe_exec:",
    "sub rsp, 8",
    "xor eax, eax",
    "call rdi",
    "add rsp, 8",
    "ret",
    ".globl fencepost_probe_failed",
    "fencepost_probe_failed:",
    "mov eax, 1",
    "ret",
);

unsafe extern "C" {
    fn fencepost_probe_load(addr: u64, len: u64, record: *mut Record, value: u64) -> i32;
    fn fencepost_probe_store(addr: u64, len: u64, record: *mut Record, value: u64) -> i32;
    fn fencepost_probe_exec(addr: u64, len: u64, record: *mut Record, value: u64) -> i32;
    fn fencepost_probe_failed();
}

extern "C" fn handler(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let failed = fencepost_probe_failed as *const () as u64;
    let first = fencepost_probe_load as *const () as u64;
    let exec = fencepost_probe_exec as *const () as u64;
    // SAFETY: the kernel hands both over for the handler's time. Registers hold what the probes
    // put there if the instruction is a probe's, or if it is the target of the probes' call,
    // which is seen from rip = rdi with the return address on the stack within the probe.
    unsafe {
        let context = context.cast::<libc::ucontext_t>();
        let registers = &mut (*context).uc_mcontext.gregs;
        let rip = registers[libc::REG_RIP as usize] as u64;
        let rdi = registers[libc::REG_RDI as usize] as u64;
        let inside = (first..failed).contains(&rip);
        let called = !inside && rip == rdi && {
            let back = *(registers[libc::REG_RSP as usize] as *const u64);
            (exec..failed).contains(&back)
        };
        if !inside && !called {
            // Somebody else's fault: the same instruction ends the process.
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let record = registers[libc::REG_RDX as usize] as *mut Record;
        (*record).trap = registers[libc::REG_TRAPNO as usize] as u64;
        (*record).error = registers[libc::REG_ERR as usize] as u64;
        (*record).signal = signal as u64;
        (*record).code = (*info).si_code as u64;
        (*record).addr = (*info).si_addr() as u64;
        if called {
            // As if the call had returned 1.
            let back = *(registers[libc::REG_RSP as usize] as *const u64);
            registers[libc::REG_RSP as usize] += 8;
            registers[libc::REG_RIP as usize] = back as i64;
            registers[libc::REG_RAX as usize] = 1;
        } else if (exec..failed).contains(&rip) {
            // The call itself was refused: its frame is still there.
            registers[libc::REG_RSP as usize] += 8;
            registers[libc::REG_RIP as usize] = failed as i64;
        } else {
            registers[libc::REG_RIP as usize] = failed as i64;
        }
    }
}

/// From now on probes survive, in every thread.
pub fn arm() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: the handler only touches what the kernel hands it, and its own record.
            unsafe {
                let mut action: libc::sigaction = core::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                libc::sigemptyset(&raw mut action.sa_mask);
                assert_eq!(
                    libc::sigaction(signal, &raw const action, core::ptr::null_mut()),
                    0
                );
            }
        }
    });
}

/// One access of 1 or 8 bytes by one instruction; what a load gives.
///
/// # Safety
/// A store must hit nothing that Rust knows; a fetch must fault, or find `ret` there.
pub unsafe fn access(addr: u64, len: u64, access: Access, value: u64) -> Result<u64, Signature> {
    assert!(len == 1 || len == 8, "probes have 1 or 8 bytes");
    arm();
    let mut record = Record::default();
    let probe = match access {
        Access::Read => fencepost_probe_load,
        Access::Write => fencepost_probe_store,
        Access::Exec => fencepost_probe_exec,
    };
    // SAFETY: the caller promises that what is reached is ours to reach; a fault is survived.
    let failed = unsafe { probe(addr, len, &raw mut record, value) };
    if failed == 0 {
        return Ok(record.loaded);
    }
    Err(Signature {
        trap: record.trap as u8,
        error: record.error as u32,
        signal: record.signal as i32,
        code: record.code as i32,
        addr: record.addr,
    })
}
