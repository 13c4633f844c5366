//! The real pool on the real kernel: what it says of its slots leads to the right verdict, and
//! the kernel refuses exactly what is explained.

use crate::lab::{PAGE_BYTES, blaming, gap};
use crate::machine::Random;
use fencepost::guard::scene::{Fault, Ground, Scene};
use fencepost::guard::verdict::{Given, Verdict, of_call, of_fault};
use fencepost::guard::{Pool, Record, Side, SlotState, StackId};
use fencepost::mmu::addr::{Access, Rights};
use fencepost::os::{Flaky, Kernel, Ledger, Os, peek};
use fencepost::report::Call;

type Account = Ledger<Flaky<Kernel>>;

/// A pool whose guards are made by advice or, if the kernel is said to have none, by mprotect.
fn pool(advice: bool) -> (&'static Account, Pool<&'static Account>) {
    let account: &'static Account = Box::leak(Box::new(Ledger::new(Flaky::new(Kernel::new()))));
    let pool = Pool::new(account);
    if !advice {
        // Room for the pool, a page to try it on, and the try.
        account.inner().refuse(2, 3);
    }
    assert!(pool.start(7, Some(1 << 34)));
    assert_eq!(account.inner().refused(), u64::from(!advice));
    (account, pool)
}

fn scene(account: &Account, pool: &Pool<&'static Account>, addr: usize) -> Scene<'static> {
    Scene {
        page: account.state(addr),
        slots: pool.slots(addr),
        ground: Ground::Mapped {
            rights: Rights::READ_WRITE,
            name: b"",
        },
        rights: Rights::READ_WRITE,
        now: pool.now(),
        ..Scene::NOWHERE
    }
}

fn fault(addr: usize, advice: bool) -> Fault {
    Fault {
        addr: Some(addr),
        access: Some(Access::Read),
        signal: 11,
        code: if advice { 1 } else { 2 },
        trap: 14,
        error: 4,
        pc: 0x40_1000,
        sp: 0x7fff_0000_0000,
        fp: 0,
        registers: [0; 18],
    }
}

fn is_there(addr: usize) -> bool {
    peek(addr, &mut [0])
}

/// The first refused byte behind an object or before it.
fn edge(record: &Record, behind: bool) -> usize {
    let mut addr = if behind {
        record.payload + record.size
    } else {
        record.payload - 1
    };
    while is_there(addr) {
        addr = if behind {
            (addr | (PAGE_BYTES - 1)) + 1
        } else {
            (addr & !(PAGE_BYTES - 1)) - 1
        };
    }
    addr
}

fn try_pool(advice: bool) {
    let (account, pool) = pool(advice);
    let mut random = Random(0x9e37_79b9);
    let mut records: Vec<Record> = Vec::new();
    for turn in 0..600u64 {
        let sizes = [0, 1, 15, 100, 4096, 4097, 5000, 20_000];
        let size = match random.below(3) {
            0 => sizes[random.below(8) as usize],
            _ => random.below(9000) as usize,
        };
        let align = 1 << random.below(8);
        let side = if random.below(2) == 0 {
            Side::Right
        } else {
            Side::Left
        };
        let event = |turn| pool.event(turn, StackId(turn));
        let payload = pool.allocate(size, align, side, event(turn as u32));
        assert_ne!(payload, 0);
        let record = pool.live(payload).expect("it is in use");
        assert_eq!(
            (record.size, record.align, record.side),
            (size, align, side)
        );
        records.push(record);
        if turn % 3 == 0 {
            let which = random.below(records.len() as u64) as usize;
            let old = &mut records[which];
            if old.state == SlotState::Live {
                let freed = event(10_000 + turn as u32);
                // SAFETY: nobody uses it.
                let done = unsafe { pool.release(old.payload, Given::default(), freed) };
                assert_eq!(done, Ok(()));
                old.state = SlotState::Freed;
                old.freed = freed;
            }
        }
    }
    let now = pool.now();
    let said = |addr: usize| of_fault(&fault(addr, advice), &scene(account, &pool, addr));
    let (mut edges, mut inside) = (0, 0);
    for record in &records {
        // At the beginning, in the middle and at the end: nothing wrong, or freed.
        for offset in [0, record.size / 2, record.size.wrapping_sub(1)] {
            let addr = record.payload.wrapping_add(offset);
            if record.size == 0 || offset >= record.size {
                continue;
            }
            assert_eq!(is_there(addr), record.state == SlotState::Live);
            if record.state == SlotState::Freed {
                inside += 1;
                let Verdict::UseAfterFree { block, age, .. } = said(addr) else {
                    panic!("{:?}", said(addr));
                };
                assert_eq!(block, *record);
                assert_eq!(age, now - record.freed.when);
            }
        }
        let verdict = of_call(
            Call::Free,
            record.payload,
            Given::default(),
            &scene(account, &pool, record.payload),
        );
        match record.state {
            SlotState::Live => assert_eq!(verdict, None),
            _ => assert!(matches!(verdict, Some(Verdict::DoubleFree { .. }))),
        }
        // Off the guarded end of an object in use: nobody else is nearer.
        if record.state == SlotState::Live {
            let behind = record.side == Side::Right || record.size == 0;
            let addr = edge(record, behind);
            assert!(gap(record, addr) <= record.align.max(1));
            let mut expected = blaming(*record, addr, Access::Read);
            if let Verdict::UseAfterFree { age, .. } = &mut expected {
                *age = now - record.freed.when;
            }
            assert_eq!(said(addr), expected);
            edges += 1;
        }
    }
    assert!(edges > 100 && inside > 100, "{edges} {inside}");
}

#[test]
fn the_pool_on_kernel_guards_is_explained() {
    let page = Kernel::new().map(0, PAGE_BYTES, fencepost::os::Prot::ReadWrite);
    let page = page.expect("there is memory");
    // SAFETY: a page of our own.
    let has = unsafe { Kernel::new().guard(page, PAGE_BYTES) }.is_ok();
    if !has {
        println!("skipped: the kernel has no MADV_GUARD_INSTALL");
        return;
    }
    try_pool(true);
}

#[test]
fn the_pool_on_mprotect_is_explained() {
    try_pool(false);
}

/// Far behind everything that was ever allocated it is still known what is the nearest.
#[test]
fn a_long_jump_is_blamed_on_the_last_object_before_it() {
    for size in [100, 5000, 40_000] {
        let (account, pool) = pool(false);
        let event = pool.event(1, StackId(1));
        let payload = pool.allocate(size, 16, Side::Right, event);
        let block = pool.live(payload).expect("it is in use");
        for by in [8192, 20_000, 77_777, 1_000_000] {
            let addr = block.end() + by;
            assert!(!is_there(addr));
            let said = of_fault(&fault(addr, false), &scene(account, &pool, addr));
            assert_eq!(said, blaming(block, addr, Access::Read));
        }
    }
}
