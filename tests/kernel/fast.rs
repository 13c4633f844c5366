//! The model of the library as a system: a whole machine with areas, page tables and frames.

use super::bounds::{Bound, Bounded};
use super::{ELSEWHERE, FILES, PageView, System, canonical, pristine};
use core::cell::RefCell;
use core::mem::ManuallyDrop;
use fencepost::mmu::addr::{Access, Mode, ObjectId, PAGE, PhysAddr, Rights, VirtAddr};
use fencepost::mmu::area::linux::*;
use fencepost::mmu::area::{Area, Errno, Limits, Overcommit, Traits};
use fencepost::mmu::areas::Node;
use fencepost::mmu::fault::Signature;
use fencepost::mmu::geometry::X86L4;
use fencepost::mmu::lookaside::LookasideLine;
use fencepost::mmu::machine::{Machine, Options, PageMap, SpaceId, SpaceRecord, Storage};
use fencepost::mmu::objects::ObjectRecord;
use fencepost::mmu::physical::{FRAME_WORDS, FrameRecord};
use fencepost::mmu::replace::Kind;
use fencepost::mmu::space::Layout;
use fencepost::mmu::swap::SwapRecord;
use fencepost::mmu::tlb::TlbLine;
use std::rc::Rc;

/// Storage that a machine borrows as long as it lives.
struct Store {
    gone: Vec<Box<dyn FnOnce()>>,
}

impl Store {
    /// Words of zero, which the system has ready.
    fn words(&mut self, len: usize) -> &'static mut [u64] {
        self.keep(vec![0; len].into_boxed_slice())
    }

    fn slice<T: 'static>(&mut self, len: usize, empty: impl Fn() -> T) -> &'static mut [T] {
        self.keep((0..len).map(|_| empty()).collect())
    }

    /// A slice that is given back with the store.
    #[allow(unsafe_code)]
    fn keep<T: 'static>(&mut self, slice: Box<[T]>) -> &'static mut [T] {
        let raw: *mut [T] = Box::into_raw(slice);
        // SAFETY: it comes from a box, and the machine is gone by then.
        self.gone
            .push(Box::new(move || drop(unsafe { Box::from_raw(raw) })));
        // SAFETY: nobody else has it until the machine is gone.
        unsafe { &mut *raw }
    }
}

/// How large a machine is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub frames: usize,
    pub nodes: usize,
    pub contents: bool,
    /// Swap slots.
    pub swap: usize,
    pub replacement: Kind,
    /// Whether the TLB knows spaces by their numbers.
    pub tagged: bool,
}

impl Size {
    /// For a window and its objects.
    pub const WINDOW: Size = Size {
        frames: 3000,
        nodes: 512,
        contents: true,
        swap: 0,
        replacement: Kind::Clock,
        tagged: false,
    };
}

/// A machine and what it is made of.
struct Computer {
    machine: ManuallyDrop<Machine<'static, X86L4>>,
    store: Store,
}

/// One address space of a machine, which it may share with its children.
pub struct Fast {
    computer: Rc<RefCell<Computer>>,
    space: SpaceId,
    base: u64,
    files: Vec<ObjectId>,
}

impl Fast {
    /// A machine whose break begins at `heap`; what is mapped from `base` on is the window's.
    pub fn new(base: u64, heap: u64, size: Size) -> Fast {
        let mut store = Store { gone: Vec::new() };
        let words = if size.contents { size.frames } else { 4096 };
        let storage = Storage {
            memory: store.words(words * FRAME_WORDS),
            frames: store.slice(size.frames, || FrameRecord::EMPTY),
            swap: store.slice(size.swap, || SwapRecord::EMPTY),
            disk: store.words(size.swap * FRAME_WORDS),
            nodes: store.slice(size.nodes, || Node::EMPTY),
            objects: store.slice(512, || ObjectRecord::EMPTY),
            spaces: store.slice(4, || SpaceRecord::EMPTY),
            maps: store.slice(4, || PageMap::EMPTY),
            tlb: store.slice(4096, || TlbLine::EMPTY),
            lookaside: store.slice(256, || LookasideLine::EMPTY),
        };
        let options = Options {
            contents: size.contents,
            replacement: size.replacement,
            tagged: size.tagged,
            ..Options::DEFAULT
        };
        let mut machine = Machine::new(storage, options);
        let layout = Layout {
            start_brk: heap,
            ..Layout::linux_default(0)
        };
        let space = machine.spawn(layout, Limits::NONE).expect("room for one");
        machine.switch_to(space).expect("it exists");
        let files = (0..FILES.len())
            .map(|file| {
                let object = machine.create(FILES[file] * PAGE).expect("room for files");
                if size.contents {
                    fill(&mut machine, space, file, object);
                }
                object
            })
            .collect();
        let computer = Computer {
            machine: ManuallyDrop::new(machine),
            store,
        };
        Fast {
            computer: Rc::new(RefCell::new(computer)),
            space,
            base,
            files,
        }
    }

    /// The machine with this space current.
    pub fn on<T>(&self, f: impl FnOnce(&mut Machine<'static, X86L4>, SpaceId) -> T) -> T {
        let machine = &mut self.computer.borrow_mut().machine;
        if machine.current() != Some(self.space) {
            machine.switch_to(self.space).expect("it exists");
        }
        f(machine, self.space)
    }

    /// A child on the same machine.
    pub fn fork(&self) -> Fast {
        self.try_fork().expect("room for a child")
    }

    /// A child on the same machine, if there is room.
    pub fn try_fork(&self) -> Result<Fast, Errno> {
        let space = self.on(|machine, space| machine.fork(space))?;
        Ok(Fast {
            computer: Rc::clone(&self.computer),
            space,
            base: self.base,
            files: self.files.clone(),
        })
    }

    /// The file of this number.
    pub fn file(&self, file: usize) -> Option<ObjectId> {
        self.files.get(file).copied()
    }

    fn settle(&mut self, result: Result<u64, Errno>, len: u64) -> Result<u64, Errno> {
        let at = result?;
        if (self.base..self.base + (1 << 40)).contains(&at) {
            return Ok(at);
        }
        assert!(at.is_multiple_of(PAGE), "placed at {at:#x}");
        let gone = self.on(|machine, _| machine.munmap(at, len));
        gone.expect("what was placed can be removed");
        Ok(ELSEWHERE)
    }

    fn own_areas(&self) -> Vec<Area> {
        self.on(|machine, id| {
            let space = machine.space(id).expect("it exists");
            space.areas(machine.pool()).collect()
        })
    }
}

/// Writes what a file holds at first.
fn fill(machine: &mut Machine<'static, X86L4>, space: SpaceId, file: usize, object: ObjectId) {
    let len = FILES[file] * PAGE;
    let at = machine
        .mmap(0, len, 3, MAP_SHARED, Some(object), 0)
        .expect("a file can be mapped");
    for page in 0..FILES[file] {
        let bytes = pristine(file, page);
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        let start = at + page * PAGE;
        for (addr, part) in [(start, head), (start + PAGE - tail.len() as u64, tail)] {
            assert_eq!(machine.copy_out(space, addr, part), Ok(part.len()));
        }
    }
    machine.munmap(at, len).expect("it can be unmapped");
}

impl Drop for Computer {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: it is not used any more; its storage goes after it.
        unsafe { ManuallyDrop::drop(&mut self.machine) };
        for free in self.store.gone.drain(..) {
            free();
        }
    }
}

impl System for Fast {
    fn mmap(
        &mut self,
        hint: u64,
        len: u64,
        prot: u32,
        flags: u32,
        file: Option<usize>,
        offset: u64,
    ) -> Result<u64, Errno> {
        let object = file.map(|file| self.files[file]);
        let result = self.on(|m, _| m.mmap(hint, len, prot, flags, object, offset));
        self.settle(result, len)
    }

    fn munmap(&mut self, addr: u64, len: u64) -> Result<u64, Errno> {
        self.on(|m, _| m.munmap(addr, len)).map(|()| 0)
    }

    fn mprotect(&mut self, addr: u64, len: u64, prot: u32) -> Result<u64, Errno> {
        self.on(|m, _| m.mprotect(addr, len, prot)).map(|()| 0)
    }

    fn madvise(&mut self, addr: u64, len: u64, advice: u32) -> Result<u64, Errno> {
        self.on(|m, _| m.madvise(addr, len, advice)).map(|()| 0)
    }

    fn mremap(
        &mut self,
        old: u64,
        old_len: u64,
        new_len: u64,
        flags: u32,
        new: u64,
    ) -> Result<u64, Errno> {
        let result = self.on(|m, _| m.mremap(old, old_len, new_len, flags, new));
        self.settle(result, new_len)
    }

    fn brk(&mut self, to: u64) -> u64 {
        self.on(|m, _| m.brk(to))
    }

    fn read(&mut self, addr: u64, bytes: &mut [u8]) -> Result<u64, Errno> {
        let done = self.on(|m, space| m.copy_in(space, addr, bytes));
        done.map(|n| n as u64)
    }

    fn write(&mut self, addr: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let done = self.on(|m, space| m.copy_out(space, addr, bytes));
        done.map(|n| n as u64)
    }

    fn touch(
        &mut self,
        addr: u64,
        len: u64,
        access: Access,
        bytes: [u8; 8],
    ) -> Result<u64, Signature> {
        let va = VirtAddr::new(addr);
        let mut loaded = [0; 8];
        let part = len as usize;
        // A store is one instruction: it stores all or nothing.
        let done = self.on(|machine, _| {
            machine.access(va, len, access, Mode::User)?;
            match access {
                Access::Read => machine.read(va, &mut loaded[..part], Mode::User),
                Access::Write => machine.write(va, &bytes[..part], Mode::User),
                Access::Exec => Ok(()),
            }
        });
        match done {
            Ok(()) => Ok(u64::from_le_bytes(loaded)),
            Err(fault) => Err(fault.signature().expect("a fault that the kernel has")),
        }
    }

    fn areas(&mut self) -> Vec<Area> {
        canonical(self.own_areas())
    }

    fn cuts(&mut self) -> Option<Vec<Area>> {
        Some(self.own_areas())
    }

    fn check(&mut self) -> Result<(), String> {
        let found = self.on(|machine, _| machine.check());
        found.map_err(|damage| format!("damage {damage:?}"))
    }

    fn page(&mut self, addr: u64) -> PageView {
        self.on(|machine, space| PageView {
            present: machine.is_resident(space, addr),
            guard: machine.is_guard(space, addr),
        })
    }

    fn peek(&mut self, addr: u64) -> super::Contents {
        let mut bytes = [0; 2 * super::EDGE as usize];
        let (head, tail) = bytes.split_at_mut(super::EDGE as usize);
        self.on(|machine, space| {
            let frame = machine.frame(space, addr).expect("it is present");
            let start = frame.start().raw();
            let memory = machine.memory();
            memory.read(PhysAddr::new(start), head);
            memory.read(PhysAddr::new(start + PAGE - super::EDGE), tail);
        });
        bytes
    }

    fn faults_around(&self) -> bool {
        false
    }
}

impl Fast {
    fn limits<T>(&self, f: impl FnOnce(&mut Limits) -> T) -> T {
        self.on(|machine, id| f(&mut machine.space_mut(id).expect("it exists").limits))
    }
}

impl Bounded for Fast {
    fn bound(&mut self, bound: Bound, pages: u64) {
        let mut used = [0; 3];
        for area in self.own_areas() {
            let pages = area.len() / PAGE;
            used[0] += pages;
            let data = area.rights.holds(Rights::WRITE) && !area.is_shared();
            used[1] += pages * u64::from(data && !area.traits.has(Traits::GROWS_DOWN));
            used[2] += pages * u64::from(area.traits.has(Traits::LOCKED));
        }
        self.limits(|limits| match bound {
            Bound::AddressSpace => limits.address_space = (used[0] + pages) * PAGE,
            Bound::Data => limits.data = (used[1] + pages) * PAGE,
            Bound::Locked => limits.locked = (used[2] + pages) * PAGE,
        });
    }

    fn areas_of_all(&mut self) -> (usize, usize) {
        (self.own_areas().len(), self.limits(|limits| limits.areas))
    }

    fn memory(&mut self) -> Option<u64> {
        const MEMORY: u64 = 1 << 34;
        self.limits(|limits| {
            limits.overcommit = Overcommit::Guess;
            limits.memory = MEMORY;
        });
        Some(MEMORY)
    }
}
