//! The operators' instructions on x86-64.

/// Continues in the function that has the exported name, whoever defines it.
macro_rules! jump {
    ($target:literal) => {
        concat!("jmp qword ptr [rip + ", $target, "@GOTPCREL]")
    };
}
/// Moves the third argument to the second.
macro_rules! drop_second_argument {
    () => {
        "mov rsi, rdx"
    };
}
/// The hit path, then [`fencepost::abi::cxx::new_or_throw`].
macro_rules! new {
    () => {
        "push rdi
        .cfi_def_cfa_offset 16
        call {new}
        pop rdi
        .cfi_def_cfa_offset 8
        test rax, rax
        je 2f
        ret
        2:
        xor esi, esi
        jmp {new_or_throw}"
    };
}
macro_rules! jump_local {
    () => {
        "jmp {target}"
    };
}
macro_rules! no_alignment {
    () => {
        "xor esi, esi"
    };
}
/// Calls the plain operator, `$plain`, under a guard that turns exceptions into null;
/// if it is ours, `$ours`, the way that throws nothing by itself.
macro_rules! guarded {
    ($plain:literal, $ours:literal) => {
        concat!(
            "mov rdx, qword ptr [rip + ",
            $plain,
            "@GOTPCREL]\n",
            "lea rax, [rip + ",
            $ours,
            "]\n",
            "cmp rdx, rax\n",
            "jne 2f\n",
            "lea rdx, [rip + {new_or_null}]\n",
            "2:\n",
            "jmp {null_if_thrown}",
        )
    };
}
/// As `guarded` for an array form: if that is ours it continues in `$single`.
macro_rules! guarded_array {
    ($plain:literal, $ours:literal, $single:literal) => {
        concat!(
            "mov rdx, qword ptr [rip + ",
            $plain,
            "@GOTPCREL]\n",
            "lea rax, [rip + ",
            $ours,
            "]\n",
            "cmp rdx, rax\n",
            "je ",
            $single,
            "\n",
            "jmp {null_if_thrown}",
        )
    };
}
/// Continues at `$to` if `$plain` is ours, `$ours`.
macro_rules! jump_if_ours {
    ($plain:literal, $ours:literal, $to:literal) => {
        concat!(
            "mov rax, qword ptr [rip + ",
            $plain,
            "@GOTPCREL]\n",
            "lea rcx, [rip + ",
            $ours,
            "]\n",
            "cmp rax, rcx\n",
            "je ",
            $to,
        )
    };
}
pub(crate) use {
    drop_second_argument, guarded, guarded_array, jump, jump_if_ours, jump_local, new, no_alignment,
};
