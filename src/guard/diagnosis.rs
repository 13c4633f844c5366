//! From what was found to what went wrong: pure functions.
//!
//! What we know of pages and objects decides first. The error code tells only reads, writes and
//! fetches apart, and `si_code` only whether something that is mapped and may be accessed was a
//! guard all the same: a guard looks unmapped where the kernel makes it without a mapping of its
//! own, and forbidden where mprotect does ([`crate::mmu::fault`]).
//!
//! An address outside of every object is explained by the *likeliest* of the objects around it:
//!
//! 1. The nearer one, counted from the first byte behind its end or back to its first byte.
//! 2. A distance that is a power of two counts half: programs jump by pages and by powers of two
//!    more often than by what happens to lie between two objects.
//! 3. A freed object must be eight times nearer than one in use, for an access to freed memory
//!    *and* out of bounds is two errors at once. (It happens: a write at the end of a vector that
//!    has grown elsewhere.) Inside of a freed object it is that object.
//! 4. When all that is equal: overflow, the commoner error.
//!
//! 5. A stack that lies in an object has overflowed if it runs out of it at its lower end.
//!
//! Farther than [`FAR`] or than the object is long, nothing is blamed on an object.

use super::canary::Damage;
use super::record::{Record, SlotState};
use super::scene::{Fault, Ground, REGISTERS, Scene, Slots};
use super::verdict::{Given, Occasion, Place, Refusal, Verdict, Why};
use crate::mmu::addr::{Access, Rights, VirtAddr};
use crate::mmu::fault::Signature;
use crate::mmu::geometry::{Geometry, X86L4};
use crate::os::PageState;
use crate::report::Call;

/// The first address that no null pointer is blamed for.
pub const NULL_END: usize = 64 << 10;
/// Up to this distance an address may be blamed on any object, in bytes.
pub const FAR: usize = 1 << 20;
/// How far from the stack pointer a program may access its stack, in bytes: a large frame.
pub const FRAME: usize = 64 << 10;

/// How far outside of the object, in bytes from its nearest byte; 0 is inside.
const fn distance(place: Place) -> usize {
    match place {
        Place::Within(_) => 0,
        Place::Past(by) => by.saturating_add(1),
        Place::Before(by) => by,
    }
}

/// How unlikely it is that an address there was computed from the object, see the module.
const fn cost(place: Place, freed: bool) -> usize {
    let round = match place {
        Place::Within(_) => return 0,
        Place::Past(by) => by.is_power_of_two() || by.saturating_add(1).is_power_of_two(),
        Place::Before(by) => by.is_power_of_two(),
    };
    // Twice the distance, so that half of it is exact.
    let cost = distance(place).saturating_mul(if round { 1 } else { 2 });
    cost.saturating_mul(if freed { 8 } else { 1 })
}

/// Whether accesses to the object are accesses to freed memory. What is being freed or made just
/// now was freed for whoever is caught there.
const fn is_freed(block: &Record) -> bool {
    matches!(block.state, SlotState::Freed | SlotState::Busy)
}

/// The object that an address is blamed on, and where it lies relative to it.
fn nearest(addr: usize, slots: &Slots) -> Option<(Record, Place)> {
    let mut best: Option<(usize, Record, Place)> = None;
    // Of equals the first wins: the one below, of which the address is an overflow.
    for block in [slots.below, slots.inside, slots.above]
        .into_iter()
        .flatten()
    {
        let place = Place::of(addr, &block);
        if block.state == SlotState::Unused || distance(place) > block.size.max(FAR) {
            continue;
        }
        let cost = cost(place, is_freed(&block));
        if best.is_none_or(|(least, ..)| cost < least) {
            best = Some((cost, block, place));
        }
    }
    best.map(|(_, block, place)| (block, place))
}

const fn age(block: &Record, now: u64) -> u64 {
    // Of what is just being freed no time is known yet.
    if block.freed.when == 0 {
        0
    } else {
        now.saturating_sub(block.freed.when)
    }
}

/// Explains a fault.
#[must_use]
pub fn of_fault<'m>(fault: &Fault, scene: &Scene<'m>) -> Verdict<'m> {
    let fetch = (fault.addr == Some(fault.pc)).then_some(Access::Exec);
    let access = fault.access.or(fetch);
    // Codes from 0 down say that a process sent the signal; then there is no address.
    let raised = fault.code > 0;
    let other = Verdict::NotOurs {
        addr: fault
            .addr
            .filter(|_| raised && fault.code != Signature::KERNEL),
        pc: Some(fault.pc).filter(|_| raised),
        signal: fault.signal,
        code: fault.code,
    };
    // The processor's stack faults are SIGBUS.
    let protection = fault.code == Signature::KERNEL
        && (fault.signal == Signature::SEGV
            || (fault.signal == Signature::BUS && fault.trap == STACK_FAULT));
    if protection {
        return match suspects(fault) {
            0 => other,
            suspects => Verdict::NonCanonical {
                access,
                suspects,
                registers: fault.registers,
            },
        };
    }
    let is_access = fault.code == Signature::MAPERR || fault.code == Signature::ACCERR;
    let Some(addr) = fault.addr else {
        return other;
    };
    if fault.signal != Signature::SEGV || !is_access {
        return other;
    }
    if addr < NULL_END {
        return Verdict::Null { addr, access };
    }
    if let Some(verdict) = of_slots(addr, access, fault.sp, scene) {
        return verdict;
    }
    if scene.below_stack && !matches!(scene.page, PageState::Guard | PageState::Reserved) {
        return Verdict::StackOverflow { addr, block: None };
    }
    of_rights(addr, access, fault, scene).unwrap_or(other)
}

/// The exception of an access by way of the stack that is not canonical.
const STACK_FAULT: u32 = 12;

/// The registers whose values no address can have.
fn suspects(fault: &Fault) -> u32 {
    if cfg!(not(target_arch = "x86_64")) {
        return 0;
    }
    let mut suspects = 0;
    let mut bit = 1;
    for (name, value) in REGISTERS.iter().zip(fault.registers) {
        let of_stack = matches!(*name, "rsp" | "rbp");
        let canonical = X86L4::is_canonical(VirtAddr::new(value as u64));
        if !canonical && *name != "eflags" && (of_stack || fault.trap != STACK_FAULT) {
            suspects |= bit;
        }
        bit <<= 1;
    }
    suspects
}

/// Explains a fault by the objects around it; `None` if it is no matter of guards.
fn of_slots(
    addr: usize,
    access: Option<Access>,
    sp: usize,
    scene: &Scene<'_>,
) -> Option<Verdict<'static>> {
    // A stack in an object has run out if the stack pointer lies in it, or where it hit the guard.
    for block in [scene.slots.inside, scene.slots.above]
        .into_iter()
        .flatten()
    {
        let depth = block.end().wrapping_sub(sp);
        let in_use = block.is_live() && depth <= block.size.saturating_add(FRAME);
        if in_use && addr < block.payload && addr.saturating_add(FRAME) >= sp {
            return Some(Verdict::StackOverflow {
                addr,
                block: Some(block),
            });
        }
    }
    let (block, place) = nearest(addr, &scene.slots)?;
    // A page that is open is no matter of guards, whatever else is wrong with the access.
    let open = match scene.page {
        PageState::Guard | PageState::Reserved => false,
        // What became of it is not known.
        PageState::None | PageState::Unknown => {
            block.is_live() && matches!(place, Place::Within(_))
        }
        _ => true,
    };
    if open {
        return None;
    }
    // A closed page of an object in use: it is being freed at this moment.
    let closing = matches!(place, Place::Within(_));
    if is_freed(&block) || closing {
        return Some(Verdict::UseAfterFree {
            addr,
            access,
            block,
            place,
            age: age(&block, scene.now),
        });
    }
    match place {
        Place::Before(by) => Some(Verdict::Underflow {
            addr,
            access,
            block,
            by,
        }),
        Place::Past(by) => Some(Verdict::Overflow {
            addr,
            access,
            block,
            by,
        }),
        Place::Within(_) => None,
    }
}

/// Explains a fault by what may be done at the address.
fn of_rights<'m>(
    addr: usize,
    access: Option<Access>,
    fault: &Fault,
    scene: &Scene<'m>,
) -> Option<Verdict<'m>> {
    let wild = |refusal| {
        Some(Verdict::Wild {
            addr,
            access,
            refusal,
        })
    };
    let rights = scene.rights;
    let ours = scene.page.is_accessible() && scene.page != PageState::Unknown;
    if matches!(scene.ground, Ground::Unmapped { .. }) {
        // Without a listing, or when it has changed since: the write bit and the bit for a page
        // that is present are true.
        let present = fault.error & 1 != 0 && fault.code == Signature::ACCERR;
        return match access {
            Some(Access::Exec) if ours => Some(Verdict::Execute { addr, heap: true }),
            Some(Access::Exec) if present => Some(Verdict::Execute { addr, heap: false }),
            Some(Access::Write) if present => Some(Verdict::ReadOnly {
                addr,
                ground: scene.ground,
            }),
            _ if fault.code == Signature::ACCERR => wild(Refusal::NoAccess),
            _ => wild(Refusal::Unmapped),
        };
    }
    let readable = rights.holds(Rights::READ);
    match access {
        Some(Access::Exec) if readable && !rights.holds(Rights::EXEC) => {
            let heap = ours || matches!(scene.ground, Ground::Heap);
            return Some(Verdict::Execute { addr, heap });
        }
        Some(Access::Write) if readable && !rights.holds(Rights::WRITE) => {
            return Some(Verdict::ReadOnly {
                addr,
                ground: scene.ground,
            });
        }
        _ => {}
    }
    let allowed = match access {
        Some(access) => rights.allows(access),
        None => rights != Rights::NONE,
    };
    if !allowed {
        return wild(Refusal::NoAccess);
    }
    // It may be accessed and looks unmapped: a guard of somebody else's, such as the one that the C
    // library puts below a thread's stack.
    if fault.code == Signature::MAPERR {
        let stack = matches!(scene.ground, Ground::Stack { .. });
        let above = addr.saturating_sub(fault.sp);
        let below = fault.sp.saturating_sub(addr);
        if stack && above <= FAR && below <= FRAME {
            return Some(Verdict::StackOverflow { addr, block: None });
        }
        return wild(Refusal::NoAccess);
    }
    None
}

/// Explains what is wrong with a pointer that was given to a call; `None` if nothing is. `given` is
/// what the caller said of the object.
#[must_use]
pub fn of_call<'m>(
    call: Call,
    addr: usize,
    given: Given,
    scene: &Scene<'m>,
) -> Option<Verdict<'m>> {
    let Slots {
        inside,
        below,
        above,
    } = scene.slots;
    let all = [inside, below, above];
    let exact = all
        .into_iter()
        .flatten()
        .find(|block| block.payload == addr && block.state != SlotState::Unused);
    let Some(block) = exact else {
        let why = match nearest(addr, &scene.slots) {
            Some((block, place)) => Why::Near(block, place),
            None => Why::Foreign(scene.ground),
        };
        return Some(Verdict::InvalidPointer { call, addr, why });
    };
    let age = age(&block, scene.now);
    match (is_freed(&block), call) {
        (true, Call::Free) => Some(Verdict::DoubleFree { block, age }),
        (true, _) => Some(Verdict::FreedBefore { call, block, age }),
        (false, _) => match given {
            Given {
                size: Some(given), ..
            } if given != block.size => Some(Verdict::WrongSize { block, given }),
            Given {
                align: Some(given), ..
            } if given != block.align => Some(Verdict::WrongAlign { block, given }),
            _ => None,
        },
    }
}

/// Explains damage to the bytes around an object.
#[must_use]
pub const fn of_canary(block: Record, damage: Damage, found: Occasion) -> Verdict<'static> {
    Verdict::Canary {
        block,
        first: damage.first,
        last: damage.last,
        found,
    }
}
