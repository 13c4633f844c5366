//! A call inside a function that is inlined into another one.

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
