//! Where the parts of an address space lie, from low to high: a reserved page, text, data, bss,
//! the heap that grows up, mappings, the stack that grows down, arguments, environment.

use core::fmt;

use super::{Space, pages_up};
use crate::mmu::addr::{ObjectId, PAGE};
use crate::mmu::area::Errno;
use crate::mmu::area::linux::{
    MAP_ANONYMOUS, MAP_FIXED, MAP_GROWSDOWN, MAP_PRIVATE, PROT_EXEC, PROT_READ, PROT_WRITE,
};
use crate::mmu::areas::AreaPool;
use crate::mmu::effects::Effects;

/// Where the parts of an address space begin. All whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The first address of the heap. The program's image ends at it or before it.
    pub start_brk: u64,
    /// Mappings are placed below it.
    pub mmap_base: u64,
    /// The first address that may be mapped: `vm.mmap_min_addr`.
    pub mmap_min: u64,
    /// The end of the stack, environment and arguments included.
    pub stack_top: u64,
    /// The first address that a program cannot map: Linux's `TASK_SIZE`.
    pub user_end: u64,
}

impl Layout {
    /// The layout of a position independent program on x86-64, its parts at random offsets that
    /// the seed decides; with seed 0 at the fixed places that Linux uses without randomisation.
    ///
    /// Image and mappings have 28 random bits, the stack 22, the heap's distance from the image
    /// 13, all of them pages (Linux `arch_mmap_rnd`, `randomize_stack_top`,
    /// `arch_randomize_brk`).
    #[must_use]
    pub const fn linux_default(seed: u64) -> Layout {
        /// Where images are put: two thirds of the user's part.
        const IMAGE: u64 = 0x5555_5555_4000;
        /// Room for the image.
        const ROOM: u64 = 1 << 20;
        const USER_END: u64 = 0x7fff_ffff_f000;
        // Between the highest mapping and the top: 128 MiB, or as far as a stack of 8 MiB may
        // begin below the top, and its gap.
        let distance = if seed == 0 {
            128 << 20
        } else {
            (16 << 30) + (8 << 20) + super::STACK_GAP
        };
        Layout {
            start_brk: IMAGE + ROOM + random_pages(seed, 1, 28) + random_pages(seed, 2, 13),
            mmap_base: USER_END - distance - random_pages(seed, 3, 28),
            mmap_min: PAGE,
            stack_top: USER_END - random_pages(seed, 4, 22),
            user_end: USER_END,
        }
    }
}

/// The `n`-th random number below 2^`bits` of a seed, in pages; always 0 for seed 0. The mixer
/// is that of SplitMix64 (Steele, Lea and Flood, 2014).
const fn random_pages(seed: u64, n: u64, bits: u32) -> u64 {
    if seed == 0 {
        return 0;
    }
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> (64 - bits)) * PAGE
}

/// The sizes of what a program is when it starts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Image {
    /// The file: text from its beginning, data behind. Without one both are zero.
    pub object: Option<ObjectId>,
    /// Code and constants.
    pub text: u64,
    /// Variables with values.
    pub data: u64,
    /// Variables that are zero.
    pub bss: u64,
    /// The stack's first size, arguments and environment aside.
    pub stack: u64,
    /// Argument strings.
    pub arguments: u64,
    /// Environment strings.
    pub environment: u64,
}

/// One part of an address space, empty or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// Its first address.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
}

/// The parts of an address space from low to high. Printed one on a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts(pub [Part; 9]);

impl Space {
    /// Maps a program's image, whose bss ends at the beginning of the heap, and its stack.
    ///
    /// # Errors
    /// Those of [`Space::mmap`]; what was mapped before the error stays.
    pub fn load<E: Effects>(
        &mut self,
        pool: &mut AreaPool,
        fx: &mut E,
        image: &Image,
    ) -> Result<(), Errno> {
        let [text, data, bss, top] = self.places(image);
        let file = if image.object.is_some() {
            0
        } else {
            MAP_ANONYMOUS
        };
        let zero = MAP_ANONYMOUS;
        let stack = self.layout.stack_top;
        let rest = (top - pages_up(image.stack)) & !(PAGE - 1);
        let rows = [
            (text, data, PROT_READ | PROT_EXEC, file),
            (data, bss, PROT_READ | PROT_WRITE, file),
            (bss, self.layout.start_brk, PROT_READ | PROT_WRITE, zero),
            (rest, stack, PROT_READ | PROT_WRITE, zero | MAP_GROWSDOWN),
        ];
        for (start, end, prot, flags) in rows {
            if start == end {
                continue;
            }
            let object = image.object.filter(|_| flags & MAP_ANONYMOUS == 0);
            let offset = if object.is_some() { start - text } else { 0 };
            let flags = flags | MAP_PRIVATE | MAP_FIXED;
            self.mmap(pool, fx, start, end - start, prot, flags, object, offset)?;
        }
        Ok(())
    }

    /// The parts of the space as they are now, if `image` was loaded.
    #[must_use]
    pub fn parts(&self, pool: &AreaPool, image: &Image) -> Parts {
        let [text, data, bss, arguments] = self.places(image);
        let Layout {
            start_brk,
            mmap_base,
            mmap_min,
            stack_top,
            ..
        } = self.layout;
        let heap = pages_up(self.brk);
        let stack = self.areas.before(pool, stack_top);
        let stack = stack.map_or(stack_top, |area| area.start);
        let lowest = self.areas.at_or_after(pool, heap);
        let lowest = lowest.map_or(mmap_base, |area| area.start.min(mmap_base));
        let environment = stack_top - image.environment;
        let part = |name, start, end| Part { name, start, end };
        Parts([
            part("reserved", 0, mmap_min),
            part("text", text, data),
            part("data", data, bss),
            part("bss", bss, start_brk),
            part("heap, grows up", start_brk, heap),
            part("mappings, grow down", lowest, mmap_base),
            part("stack, grows down", stack, arguments),
            part("arguments", arguments, environment),
            part("environment", environment, stack_top),
        ])
    }

    /// Where text, data, bss and arguments begin.
    fn places(&self, image: &Image) -> [u64; 4] {
        let bss = self.layout.start_brk - pages_up(image.bss);
        let data = bss - pages_up(image.data);
        let text = data - pages_up(image.text);
        let arguments = self.layout.stack_top - image.environment - image.arguments;
        [text, data, bss, arguments]
    }
}

impl fmt::Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Part { name, start, end } in self.0 {
            writeln!(f, "{start:012x}-{end:012x} {:>10} {name}", end - start)?;
        }
        Ok(())
    }
}
