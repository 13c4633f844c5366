//! The programs that `explain` is tried on.

/// Their names and texts.
pub const SOURCES: [(&str, &str); 5] = [
    (
        "tell.c",
        r#"// Prints who called: the return address, where its module begins, and the module's name.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

__attribute__((noinline)) void tell(void) {
    void *pc = __builtin_return_address(0);
    Dl_info info;
    if (dladdr(pc, &info)) {
        printf("%p %p %s\n", pc, info.dli_fbase, info.dli_fname);
    }
}
"#,
    ),
    (
        "calls.c",
        r#"// A call inside a function that is inlined into another one.
void tell(void);

static inline __attribute__((always_inline)) int inner(volatile int *count) {
    tell(); // line: inner
    return *count + 1;
}

__attribute__((noinline)) int outer(volatile int *count) {
    int sum = inner(count); // line: outer
    return sum * 2;
}
"#,
    ),
    (
        "main.c",
        r#"#include <stdio.h>

int outer(volatile int *count);

int main(int count, char **arguments) {
    (void)arguments;
    int sum = outer(&count); // line: main
    return sum == 0 || fflush(stdout) != 0;
}
"#,
    ),
    (
        "names.c",
        r#"// Names as C++ and Rust compilers make them.
void tell(void);

#define CALLS(name, symbol) \
    void name(volatile int *count) __asm__(symbol); \
    __attribute__((noinline)) void name(volatile int *count) { tell(); ++*count; }

CALLS(cplusplus, "_ZN5space5thingIiE4fillEj")
CALLS(legacy, "_ZN5crate6module4fill17h0123456789abcdefE")
CALLS(v0, "_RNvNtCs1234_5crate6module4fill")

int main(int count, char **arguments) {
    (void)arguments;
    cplusplus(&count);
    legacy(&count);
    v0(&count);
    return 0;
}
"#,
    ),
    (
        "calls.rs",
        r#"//! A call inside a function that is inlined into another one.

use std::hint::black_box;

unsafe extern "C" {
    fn tell();
}

mod module {
    #[inline(always)]
    pub fn inner(count: u32) -> u32 {
        unsafe { super::tell() }; // line: inner
        super::black_box(count) + 1
    }
}

struct Outer;

impl Outer {
    #[inline(never)]
    fn outer(&self, count: u32) -> u32 {
        let sum = module::inner(count); // line: outer
        black_box(sum) * 2
    }
}

fn main() {
    assert_ne!(black_box(Outer.outer(black_box(1))), 0);
}
"#,
    ),
];
