//! The operators' instructions on AArch64; what they do is said in `x86_64.rs`.

macro_rules! jump {
    ($target:literal) => {
        concat!(
            "adrp x16, :got:",
            $target,
            "\n",
            "ldr x16, [x16, :got_lo12:",
            $target,
            "]\n",
            "br x16",
        )
    };
}
macro_rules! drop_second_argument {
    () => {
        "mov x1, x2"
    };
}
macro_rules! new {
    () => {
        "stp x29, x30, [sp, #-32]!
        .cfi_def_cfa_offset 32
        .cfi_offset x29, -32
        .cfi_offset x30, -24
        str x0, [sp, #16]
        bl {new}
        cbz x0, 2f
        ldp x29, x30, [sp], #32
        .cfi_remember_state
        .cfi_def_cfa_offset 0
        .cfi_restore x29
        .cfi_restore x30
        ret
        2:
        .cfi_restore_state
        ldr x0, [sp, #16]
        mov x1, #0
        ldp x29, x30, [sp], #32
        .cfi_def_cfa_offset 0
        .cfi_restore x29
        .cfi_restore x30
        b {new_or_throw}"
    };
}
macro_rules! jump_local {
    () => {
        "b {target}"
    };
}
macro_rules! no_alignment {
    () => {
        "mov x1, #0"
    };
}
macro_rules! guarded {
    ($plain:literal, $ours:literal) => {
        concat!(
            "adrp x2, :got:",
            $plain,
            "\n",
            "ldr x2, [x2, :got_lo12:",
            $plain,
            "]\n",
            "adrp x8, ",
            $ours,
            "\n",
            "add x8, x8, :lo12:",
            $ours,
            "\n",
            "cmp x2, x8\n",
            "b.ne 2f\n",
            "adrp x2, {new_or_null}\n",
            "add x2, x2, :lo12:{new_or_null}\n",
            "2:\n",
            "b {null_if_thrown}",
        )
    };
}
macro_rules! guarded_array {
    ($plain:literal, $ours:literal, $single:literal) => {
        concat!(
            "adrp x2, :got:",
            $plain,
            "\n",
            "ldr x2, [x2, :got_lo12:",
            $plain,
            "]\n",
            "adrp x8, ",
            $ours,
            "\n",
            "add x8, x8, :lo12:",
            $ours,
            "\n",
            "cmp x2, x8\n",
            "b.ne 2f\n",
            "b ",
            $single,
            "\n",
            "2:\n",
            "b {null_if_thrown}",
        )
    };
}
macro_rules! jump_if_ours {
    ($plain:literal, $ours:literal, $to:literal) => {
        concat!(
            "adrp x16, :got:",
            $plain,
            "\n",
            "ldr x16, [x16, :got_lo12:",
            $plain,
            "]\n",
            "adrp x8, ",
            $ours,
            "\n",
            "add x8, x8, :lo12:",
            $ours,
            "\n",
            "cmp x16, x8\n",
            "b.ne 3f\n",
            "b ",
            $to,
            "\n",
            "3:\n",
        )
    };
}
pub(crate) use {
    drop_second_argument, guarded, guarded_array, jump, jump_if_ours, jump_local, new, no_alignment,
};
