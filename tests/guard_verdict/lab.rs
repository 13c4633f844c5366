//! Objects in slots, laid out naively, in memory of the MMU model.

use crate::machine::{PAGE, PRIVATE, RW, Size, one};
use fencepost::guard::scene::{Fault, Ground, Scene, Slots};
use fencepost::guard::verdict::{Place, Verdict};
use fencepost::guard::{Event, Record, Side, SlotState, StackId};
use fencepost::mmu::addr::{Access, Mode, Rights, VirtAddr};
use fencepost::mmu::area::linux;
use fencepost::mmu::fault::Fault as ModelFault;
use fencepost::mmu::geometry::X86L4;
use fencepost::mmu::machine::{Machine, Options};
use fencepost::os::PageState;

pub const PAGE_BYTES: usize = PAGE as usize;
pub const ACCESSES: [Access; 3] = [Access::Read, Access::Write, Access::Exec];
/// The number of the pool's last operation.
pub const NOW: u64 = 100;

/// How guards are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `MADV_GUARD_INSTALL` over accessible memory: guards look unmapped.
    Advice,
    /// mprotect: guards look forbidden.
    Protect,
}

pub const BACKENDS: [Backend; 2] = [Backend::Advice, Backend::Protect];

/// What one slot is to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    pub size: usize,
    pub align: usize,
    pub side: Side,
    pub state: SlotState,
}

/// Slots side by side, the first one behind a guard page.
#[derive(Debug)]
pub struct World {
    pub base: usize,
    /// Bytes of a body.
    pub body: usize,
    /// What each slot holds; `None` was never used.
    pub slots: Vec<Option<Record>>,
    pub backend: Backend,
}

/// The model, with one process.
pub struct Lab {
    machine: Machine<'static, X86L4>,
}

pub fn event(when: u64) -> Event {
    Event {
        when,
        thread: 4000 + when as u32,
        stack: StackId(when as u32),
    }
}

/// Pages that a body needs for a wish.
pub fn pages_of(wish: &Wish) -> usize {
    let slide = wish.align.saturating_sub(PAGE_BYTES);
    (wish.size.max(1) + slide).div_ceil(PAGE_BYTES)
}

/// Lays an object out, by trying.
fn lay(from: usize, to: usize, wish: &Wish, number: u64) -> Record {
    let fits = |at: &usize| at.is_multiple_of(wish.align) && at + wish.size <= to;
    let payload = match wish.side {
        _ if wish.size == 0 => (from..to).find(|at| at.is_multiple_of(wish.align.max(PAGE_BYTES))),
        Side::Right => (from..to).rev().find(fits),
        Side::Left => (from..to).find(|at| fits(at) && at.is_multiple_of(PAGE_BYTES)),
    };
    Record {
        payload: payload.expect("the body is large enough"),
        size: wish.size,
        align: wish.align,
        state: wish.state,
        side: wish.side,
        allocated: event(10 + number),
        freed: if wish.state == SlotState::Freed {
            event(20 + number)
        } else {
            Event::default()
        },
    }
}

impl World {
    pub fn new(base: usize, backend: Backend, wishes: &[Option<Wish>]) -> World {
        let most = wishes.iter().flatten().map(pages_of).max().unwrap_or(1);
        let body = most.next_power_of_two() * PAGE_BYTES;
        let mut world = World {
            base,
            body,
            slots: Vec::new(),
            backend,
        };
        for (number, wish) in wishes.iter().enumerate() {
            let from = world.body_of(number);
            let record = wish.map(|wish| lay(from, from + body, &wish, number as u64));
            world.slots.push(record);
        }
        world
    }

    pub fn body_of(&self, number: usize) -> usize {
        self.base + PAGE_BYTES + number * (self.body + PAGE_BYTES)
    }

    pub fn end(&self) -> usize {
        self.body_of(self.slots.len())
    }

    /// Whether a page holds a byte of an object in use.
    pub fn is_open(&self, addr: usize) -> bool {
        let page = addr / PAGE_BYTES;
        self.slots.iter().flatten().any(|record| {
            record.is_live()
                && record.size != 0
                && page >= record.payload / PAGE_BYTES
                && page <= (record.payload + record.size - 1) / PAGE_BYTES
        })
    }

    /// What a handler would collect.
    pub fn scene(&self, addr: usize) -> Scene<'static> {
        let open = self.is_open(addr);
        let rights = if open || self.backend == Backend::Advice {
            Rights::READ_WRITE
        } else {
            Rights::NONE
        };
        let number = |holds: &dyn Fn(usize) -> bool| {
            let numbers = 0..self.slots.len();
            numbers
                .into_iter()
                .filter(|n| holds(*n))
                .collect::<Vec<_>>()
        };
        let record = |n: &usize| self.slots[*n];
        let inside = number(&|n| (self.body_of(n)..self.body_of(n) + self.body).contains(&addr));
        let below = number(&|n| self.body_of(n) + self.body <= addr && self.slots[n].is_some());
        let above = number(&|n| self.body_of(n) > addr && self.slots[n].is_some());
        Scene {
            page: match (open, self.backend) {
                (true, _) => PageState::Live,
                (false, Backend::Advice) => PageState::Guard,
                (false, Backend::Protect) => PageState::Reserved,
            },
            slots: Slots {
                inside: inside.first().and_then(record),
                below: below.last().and_then(record),
                above: above.first().and_then(record),
            },
            ground: Ground::Mapped { rights, name: b"" },
            rights,
            below_stack: false,
            now: NOW,
        }
    }
}

impl Lab {
    pub fn new() -> Lab {
        let (machine, _) = one::<X86L4>(Size::full(256, 0), Options::DEFAULT);
        Lab { machine }
    }

    pub fn machine(&mut self) -> &mut Machine<'static, X86L4> {
        &mut self.machine
    }

    /// Makes the pages of a world what they should be.
    pub fn build(&mut self, world: &World) {
        let (base, len) = (world.base as u64, (world.end() - world.base) as u64);
        let m = &mut self.machine;
        let advice = world.backend == Backend::Advice;
        let rights = if advice { RW } else { linux::PROT_NONE };
        m.mmap(base, len, rights, PRIVATE | linux::MAP_FIXED, None, 0)
            .expect("there is room");
        if advice {
            m.madvise(base, len, linux::MADV_GUARD_INSTALL)
                .expect("it is mapped");
        }
        for page in (world.base..world.end()).step_by(PAGE_BYTES) {
            if world.is_open(page) {
                let done = if advice {
                    m.madvise(page as u64, PAGE, linux::MADV_GUARD_REMOVE)
                } else {
                    m.mprotect(page as u64, PAGE, RW)
                };
                done.expect("it is mapped");
            }
        }
    }

    pub fn clear(&mut self, world: &World) {
        let len = (world.end() - world.base) as u64;
        self.machine
            .munmap(world.base as u64, len)
            .expect("it is mapped");
    }

    /// Makes an access of one byte; the fault if there is one.
    #[allow(clippy::result_large_err)] // A fault is what is asked for.
    pub fn access(&mut self, addr: usize, access: Access) -> Result<(), Fault> {
        let at = VirtAddr::new(addr as u64);
        self.machine
            .access(at, 1, access, Mode::User)
            .map_err(|fault| of_model(&fault))
    }
}

/// What a signal handler sees of a fault of the model.
pub fn of_model(fault: &ModelFault) -> Fault {
    let seen = fault.signature().expect("Linux has a signal for it");
    let bits = seen.error;
    Fault {
        addr: (seen.code != 128).then_some(seen.addr as usize),
        access: (seen.trap == 14).then_some(match (bits & 0x10 != 0, bits & 2 != 0) {
            (true, _) => Access::Exec,
            (_, true) => Access::Write,
            _ => Access::Read,
        }),
        signal: seen.signal,
        code: seen.code,
        trap: seen.trap.into(),
        error: seen.error,
        pc: 0x40_1000,
        sp: 0x7fff_0000_0000,
        fp: 0x7fff_0000_0040,
        registers: [0x1000; 18],
    }
}

/// How far an address is from an object's nearest byte; 0 is inside. An empty object has the one
/// byte before its address.
pub fn gap(record: &Record, addr: usize) -> usize {
    if addr < record.payload {
        record.payload - addr
    } else {
        (addr + 1).saturating_sub(record.payload + record.size)
    }
}

/// What has to be said of an access to a closed page if it is blamed on `record`.
pub fn blaming(record: Record, addr: usize, access: Access) -> Verdict<'static> {
    let access = Some(access);
    let end = record.payload + record.size;
    let place = if addr < record.payload {
        Place::Before(record.payload - addr)
    } else if addr < end {
        Place::Within(addr - record.payload)
    } else {
        Place::Past(addr - end)
    };
    if record.state == SlotState::Freed {
        return Verdict::UseAfterFree {
            addr,
            access,
            block: record,
            place,
            age: NOW - record.freed.when,
        };
    }
    match place {
        Place::Past(by) => Verdict::Overflow {
            addr,
            access,
            block: record,
            by,
        },
        Place::Before(by) => Verdict::Underflow {
            addr,
            access,
            block: record,
            by,
        },
        Place::Within(_) => panic!("an access inside of an object in use cannot fault: {record:?}"),
    }
}
