//! Where the registers of a thread are found.
#![allow(unsafe_code)] // The kernel's signal frames, registers.

/// What a stopped thread holds outside of its stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Its stack pointer.
    pub sp: usize,
    /// Where its registers lie: from, to.
    pub general: (usize, usize),
    /// Where those lie that are for vectors.
    pub vector: (usize, usize),
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
mod cpu {
    use super::Registers;

    const RSP: usize = 15;
    /// Bytes of the legacy area, in which x87 and SSE registers lie.
    const LEGACY: usize = 512;

    /// # Safety
    /// The address is that of a context which the kernel gave a handler that has not returned.
    pub unsafe fn registers(context: usize) -> Registers {
        let context: *const libc::ucontext_t = core::ptr::with_exposed_provenance(context);
        // SAFETY: the caller's promise.
        let machine = unsafe { &(*context).uc_mcontext };
        let from = machine.gregs.as_ptr().expose_provenance();
        // Not every C library's binding names the word behind these registers.
        let words: *const usize = core::ptr::from_ref(machine).cast();
        let behind = words.wrapping_add(machine.gregs.len());
        // SAFETY: the kernel's layout of the context: the address of the vector registers.
        let vector = unsafe { behind.read() };
        Registers {
            sp: machine.gregs[RSP] as usize,
            general: (from, from + size_of_val(&machine.gregs)),
            vector: if vector == 0 {
                (0, 0)
            } else {
                (vector, vector + LEGACY)
            },
        }
    }

    /// Where the C library's description of a thread lies: bytes before and behind the thread
    /// pointer.
    pub const DESCRIPTOR: (usize, usize) = (0, 1 << 20);

    /// What thread-local data is reached by; 0 if that is not known to lie on the stack.
    pub fn thread_pointer() -> usize {
        let pointer: usize;
        // SAFETY: reads the thread pointer.
        unsafe {
            core::arch::asm!("mov {}, qword ptr fs:[0]", out(reg) pointer, options(readonly, nostack, preserves_flags));
        }
        pointer
    }

    /// How many registers a function must keep for its caller.
    pub const KEPT: usize = 6;

    #[inline(always)]
    pub fn own() -> ([usize; KEPT], usize) {
        let mut kept = [0; KEPT];
        let sp: usize;
        // SAFETY: stores six registers into the array and copies the stack pointer.
        unsafe {
            core::arch::asm!(
                "mov [{to}], rbx",
                "mov [{to} + 8], rbp",
                "mov [{to} + 16], r12",
                "mov [{to} + 24], r13",
                "mov [{to} + 32], r14",
                "mov [{to} + 40], r15",
                "mov {sp}, rsp",
                to = in(reg) kept.as_mut_ptr(),
                sp = lateout(reg) sp,
                options(nostack, preserves_flags),
            );
        }
        (kept, sp)
    }
}

#[cfg(all(target_arch = "aarch64", not(miri)))]
mod cpu {
    use super::Registers;

    /// # Safety
    /// The address is that of a context which the kernel gave a handler that has not returned.
    pub unsafe fn registers(context: usize) -> Registers {
        let context: *const libc::ucontext_t = core::ptr::with_exposed_provenance(context);
        // SAFETY: the caller's promise.
        let machine = unsafe { &(*context).uc_mcontext };
        let from = machine.regs.as_ptr().expose_provenance();
        let end = core::ptr::from_ref(machine).wrapping_add(1).addr();
        Registers {
            sp: machine.sp as usize,
            general: (from, from + size_of_val(&machine.regs)),
            // The records behind the registers, in which those for vectors lie.
            vector: (from + size_of_val(&machine.regs), end),
        }
    }

    /// Where the C library's description of a thread lies: bytes before and behind the thread
    /// pointer.
    pub const DESCRIPTOR: (usize, usize) = (4096, 16);

    /// What thread-local data is reached by; 0 if that is not known to lie on the stack.
    pub fn thread_pointer() -> usize {
        let pointer: usize;
        // SAFETY: reads the thread pointer.
        unsafe {
            core::arch::asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack, preserves_flags));
        }
        pointer
    }

    /// How many registers a function must keep for its caller.
    pub const KEPT: usize = 20;

    #[inline(always)]
    pub fn own() -> ([usize; KEPT], usize) {
        let mut kept = [0; KEPT];
        let sp: usize;
        // SAFETY: stores registers into the array and copies the stack pointer.
        unsafe {
            core::arch::asm!(
                "stp x19, x20, [{to}]",
                "stp x21, x22, [{to}, #16]",
                "stp x23, x24, [{to}, #32]",
                "stp x25, x26, [{to}, #48]",
                "stp x27, x28, [{to}, #64]",
                "str x29, [{to}, #80]",
                "stp d8, d9, [{to}, #88]",
                "stp d10, d11, [{to}, #104]",
                "stp d12, d13, [{to}, #120]",
                "stp d14, d15, [{to}, #136]",
                "mov {sp}, sp",
                to = in(reg) kept.as_mut_ptr(),
                sp = lateout(reg) sp,
                options(nostack, preserves_flags),
            );
        }
        (kept, sp)
    }
}

#[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod cpu {
    use super::Registers;

    /// Where registers lie is not known here: the memory after the context, in which they are.
    ///
    /// # Safety
    /// None.
    pub unsafe fn registers(context: usize) -> Registers {
        Registers {
            sp: context,
            general: (context, context + 4096),
            vector: (0, 0),
        }
    }

    /// Where the C library's description of a thread lies: bytes before and behind the thread
    /// pointer.
    pub const DESCRIPTOR: (usize, usize) = (0, 0);

    /// What thread-local data is reached by; 0 if that is not known to lie on the stack.
    pub fn thread_pointer() -> usize {
        0
    }

    /// How many registers a function must keep for its caller.
    pub const KEPT: usize = 1;

    #[inline(always)]
    pub fn own() -> ([usize; KEPT], usize) {
        let kept = [0; KEPT];
        (kept, kept.as_ptr().expose_provenance())
    }
}

pub use cpu::{DESCRIPTOR, thread_pointer};
pub(super) use cpu::{KEPT, own, registers};
