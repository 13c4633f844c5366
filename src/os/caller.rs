//! Who called: the return address and frame pointer of the code that asked for memory.
//!
//! The functions of the hit path end in a jump to the cold ones, so that at the entry of a cold
//! function the return address is the user's and the frame pointer too. There a few
//! instructions hand both on as two more arguments. Where that cannot be written (other
//! architectures, Miri) a caller is unknown. A compiler that calls where it might jump, or
//! a user's code without frame pointers, only makes stacks shorter.

/// Where a call came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// The return address; 0 if unknown.
    pub pc: usize,
    /// The caller's frame pointer, which is whatever the caller keeps in that register.
    pub fp: usize,
}

/// Defines functions that continue in `$to` with two more arguments, the return address and the
/// frame pointer of their caller.
macro_rules! with_caller {
    ($($(#[doc = $doc:literal])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? => $to:path;)*) => {$(
        $(#[doc = $doc])*
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        #[unsafe(naked)]
        #[cold]
        $visibility unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                $crate::os::with_caller!(@x86_64 $($argument)*),
                "jmp {to}",
                to = sym $to,
            )
        }

        $(#[doc = $doc])*
        #[cfg(all(target_arch = "aarch64", not(miri)))]
        #[unsafe(naked)]
        #[cold]
        $visibility unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                $crate::os::with_caller!(@aarch64 $($argument)*),
                "b {to}",
                to = sym $to,
            )
        }

        $(#[doc = $doc])*
        #[cfg(any(miri, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
        #[cold]
        $visibility unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: the same contract.
            unsafe { $to($($argument,)* 0, 0) }
        }
    )*};
    (@x86_64 $a:ident) => { "mov rsi, qword ptr [rsp]\nmov rdx, rbp" };
    (@x86_64 $a:ident $b:ident) => { "mov rdx, qword ptr [rsp]\nmov rcx, rbp" };
    (@x86_64 $a:ident $b:ident $c:ident) => { "mov rcx, qword ptr [rsp]\nmov r8, rbp" };
    (@aarch64 $a:ident) => { "mov x1, x30\nmov x2, x29" };
    (@aarch64 $a:ident $b:ident) => { "mov x2, x30\nmov x3, x29" };
    (@aarch64 $a:ident $b:ident $c:ident) => { "mov x3, x30\nmov x4, x29" };
}

pub(crate) use with_caller;
