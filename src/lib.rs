//! fencepost: a ptmalloc-style memory allocator in pure Rust.
//!
//! A Rust program sets [`Fencepost`] as its `#[global_allocator]`; any other Linux program gets
//! it through `LD_PRELOAD` (the member `fencepost-preload`, `libfencepost.so`). It is the
//! ptmalloc of glibc up to 2.42, with fast bins, rebuilt so that it is fast, hardened, gives
//! memory back, and cannot deadlock in fork.
//!
//! # Vocabulary
//!
//! Memory is cut into **chunks** with boundary tags ([`chunk`] has the picture). Free chunks wait
//! in **bins**: fast, unsorted, small, large ([`bins`]). What no bin holds comes from **top**, the
//! chunk at the end of a heap's newest **segment** ([`heap`]). A **fencepost** is the little chunk
//! that closes a segment which does not end in top. A heap behind a lock is an **arena**; arena 0,
//! the *main* arena, grows by the program break or in a reserved region of its own, the others in
//! aligned regions ([`arena`]). In front of the arenas every thread has a **cache** of two
//! **magazines** per size class, and all threads exchange full magazines in the **depot**
//! ([`cache`]). Requests from 128 KiB on own a **mapping**.
//!
//! # A malloc goes down
//!
//! 1. [`front::cached_with`] finds the class of the request and pops the thread's magazine: no lock, no
//!    atomic instruction, no call. The chunk's tag is verified and rewritten.
//! 2. On a miss the cache takes its spare magazine, then one from the depot: from the thread's
//!    own aisle, or one that another aisle can spare.
//! 3. Otherwise [`front`] decides. A chunk of at least the mapping threshold gets a mapping
//!    ([`arena::Maps`]): a kept one, moved to size, or a new one. glibc asks the bins first; this
//!    is deliberate, for a mapping grows by `mremap` and goes back whole. For any other the cache
//!    asks its arena to [`fill`](heap::Heap::fill) a batch; chunks of 64 to 256 KiB, which no
//!    cache takes, come from the depot one by one, larger ones in few sizes. The ladder: fast bin,
//!    small bin, (a large request consolidates the fast bins,) unsorted bin, best fit, top. A
//!    batch is carved contiguously and is a part of what the class has served so far, so that a
//!    small program stays small.
//! 4. Before top grows, the depot is emptied into the arenas, first of what nobody needed lately,
//!    then of the rest, and as much as is asked for is given up by the mapping cache.
//! 5. If the break is refused, a mapped segment serves; if that is refused, NULL with ENOMEM.
//!
//! # A free comes back
//!
//! 1. [`os::Extents`] says whether the pointer is aligned and lies in heap memory: one load and a
//!    compare, before any head is read. (Guard mode's pool lies outside, so it costs nothing.)
//! 2. The chunk's tag, keyed over address, size and state, must say *used*. Anything else
//!    ends in one line that names the misuse ([`report`]).
//! 3. The chunk is pushed on the thread's magazine. A full one becomes the spare, the old spare
//!    goes to the depot; what the depot has no room for, or held for some ticks without need (or
//!    while half of what is in use passed through it), goes home to the arenas that own it, where
//!    it merges with its neighbours.
//! 4. Every so many freed bytes a *tick* passes ([`heap`], module `purge`): idle memory at top and
//!    whole free pages inside the heap go back to the system.
//!
//! # Every page is accounted for
//!
//! Under the allocator lies a pure model of virtual memory ([`mmu`]): addresses, page tables, TLB,
//! frames, swap, areas, faults. It serves three ways, and a trace's replay is to come:
//!
//! - [`os::Ledger`] is what the process runs on: the kernel's calls, each mirrored in a tree with a
//!   state for every page ([`mmu::states`]). The heap notes what becomes of whole pages (handed
//!   out, free, discarded) and goes by what is written there: calloc leaves alone what reads as
//!   zero, trimming discards what is dirty, and a page in the wrong state at the end of top, in a
//!   free block or in a mapping ends the process, for then a size was forged.
//! - [`os::Sim`] answers the same calls from a whole simulated computer: the tests, Miri and the
//!   fuzzers run the allocator on it, with limits, failures and neighbours. In checked builds no
//!   pointer is made without asking it.
//! - [`os::audit`] compares the account with `/proc/self/maps`, pagemap, smaps and mincore, page
//!   for page, in a running process ([`Fencepost::audit`], `FENCEPOST_AUDIT=1`).
//!
//! That the model is Linux is shown by running it beside Linux: random memory calls on both, and
//! on a second, naive model that shares nothing with the first but types (`tests/kernel_model.rs`).
//!
//! # Every error explained
//!
//! In guard mode ([`guard`]) an object lies on pages of its own, its end (or beginning) against a
//! page that nobody may access. All allocations are guarded, or one in N at random, which costs
//! the hit path one jump that is not taken: the word that counts pops starts so that it overflows
//! when a sample is due.
//!
//! - [`guard::Pool`] has one region of addresses per power of two of pages. What is not open is
//!   guard, by `MADV_GUARD_INSTALL` (no mapping per guard), else without access. A freed object's
//!   pages become guards at once; their addresses rest until enough others do. The bytes beside an
//!   object are a canary. What cannot be guarded is served as always, and counted.
//! - Every allocation and free leaves an [`Event`](guard::Event): operation number, thread, and
//!   call stack, walked by frame pointers from the user's own frame, which the exported functions
//!   hand on ([`os::Caller`]).
//! - A fault or a refused call is judged by a pure function over page states, records and the
//!   kernel's listing ([`guard::of_fault`], [`guard::of_call`]): that function is tested against
//!   the model, which makes the same accesses. [`guard::handler`] says how the handler of SIGSEGV
//!   and SIGBUS lives beside the program's own, and why the same instruction then faults again.
//! - At exit the canaries are looked at once more, and blocks that nothing leads to are reported
//!   ([`front::leaks`]). `mtrace()` writes the C library's format.
//! - Reports go to standard error with raw addresses, and as JSON to a file; names and lines are
//!   put in by the `fencepost` command, in another process.
//!
//! What the kernel does on the program's behalf (`read` into a guard) raises no signal: it returns
//! EFAULT or a short count, and only the canary tells of what it wrote before. Reads inside the
//! alignment's slack are seen by nobody unless the other side is chosen.
//!
//! # Promises
//!
//! - **Hardened.** Sizes and flags are vouched for by 32-bit tags, links of free chunks are masked
//!   with a secret and verified when followed; top's size and the lengths of mappings are kept
//!   out of the user's reach. Every check is always on.
//! - **Fork.** No lock is held while a fork runs and nothing is done in a prepare handler. The
//!   child abandons what it finds locked ([`arena`]).
//! - **Failure.** Every system call may fail at any time; out of memory is a null pointer, and the
//!   heap is as it was.
//! - Nothing on an allocation path allocates, formats, panics, or touches errno.
//!
//! # The layer law
//!
//! A file may use its own layer and layers with a lower number, never a higher one;
//! `tests/layers.rs` enforces it, with the list of files that may hold `unsafe`.
//!
//! | # | layer | knows |
//! |---|---|---|
//! | 0 | [`size`], [`config`], [`report`], [`sync`] | numbers, tunables, last words, atomics and the futex lock |
//! | 1 | [`mmu`] | a pure model of pages; `forbid(unsafe_code)` |
//! | 2 | [`os`] | the seam to the kernel, real or simulated; the account of pages; which addresses are heap |
//! | 3 | [`chunk`] | one chunk in memory |
//! | 4 | [`bins`] | where free chunks wait |
//! | 5 | [`heap`] | ptmalloc's algorithm over one set of segments |
//! | 6 | [`arena`] | heaps behind locks, the depot, mapped chunks |
//! | 7 | [`cache`], [`guard`] | the per-thread cache; the debug pool and its diagnosis |
//! | 8 | [`front`], [`stats`] | who serves a request; counters |
//! | 9 | [`global`], [`abi`] | `GlobalAlloc`; C semantics as Rust functions |
//! | 10 | `src/preload`, `src/cli` | exported C names; the command line |
//!
//! Exports live only in `src/preload`: a `#[no_mangle] malloc` here would replace malloc in every
//! program that merely depends on this crate.
//!
//! # Targets
//!
//! x86-64 with glibc is the first target. On aarch64 the same hot path is used; on 32-bit targets
//! a head keeps its eight bytes, so everything above holds there too, at the price of 16-byte
//! alignment. The page size is read at run time.
#![no_std]
#![warn(missing_docs)]
// The models build the protocols without those who use them.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(target_os = "linux"))]
compile_error!("fencepost supports Linux only: it is built on brk, mmap, madvise and futex");

// In layer order.
pub mod size;

pub mod config;
pub mod report;
pub mod sync;

pub mod mmu;

pub mod os;

pub mod chunk;

pub mod bins;

pub mod heap;

pub mod arena;

pub mod cache;

#[cfg(not(loom))]
pub mod guard;

#[cfg(not(loom))]
pub mod front;
#[cfg(not(loom))]
pub mod stats;

#[cfg(not(loom))]
pub mod abi;
#[cfg(not(loom))]
pub mod global;

#[cfg(not(loom))]
pub use global::Fencepost;
