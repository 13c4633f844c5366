//! Layer 9: what C and C++ expect of an allocator, as ordinary Rust functions over [`front`].
//!
//! Here live errno, overflow, the zero sizes and the rules about alignments; symbol names do
//! not. The functions are for a library that *replaces* the process's malloc: the main arena
//! uses the program break, which nobody else's malloc may then be moving.
//!
//! Common to all of them: no request beyond `PTRDIFF_MAX` bytes succeeds; every block is aligned
//! to 16 bytes at least; errno changes only where that is said. Nothing calls an exported C
//! allocation function, formats through `core::fmt`, or panics.
#![allow(unsafe_code)] // errno, and the contracts about pointers that C callers have to keep.

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
))]
pub mod cxx;
mod info;
#[cfg(target_env = "gnu")]
pub mod signals;

use core::ffi::{c_int, c_void};
use core::ptr;

pub use info::{MallInfo, MallInfo2, mallinfo, mallinfo2, malloc_info, malloc_stats};

use crate::config::{self, Key};
use crate::front::{self, Source, UNKNOWN};
use crate::os::{Caller, with_caller};
use crate::size::ALIGN;

const PTRDIFF_MAX: usize = isize::MAX as usize;

/// Prepares the allocator of a process whose malloc this is. Idempotent; every function that
/// may be a process's first call does it by itself, once no cache could serve it.
#[inline]
pub fn start() {
    front::init(Source::ProgramBreak, 0);
}

/// The C library is ready and the program about to run.
pub fn program_starts() {
    front::program_starts(Source::ProgramBreak);
}

/// Begins to write every allocation and free to the file that `MALLOC_TRACE` named when the
/// process began, if it did. A file that is there is emptied.
pub fn mtrace() {
    start();
    front::start_trace();
}

/// Ends what [`mtrace`] began.
pub fn muntrace() {
    front::stop_trace();
}

/// Whether the statistics are to be printed when the process exits.
#[must_use]
pub fn reports_at_exit() -> bool {
    let settings = front::settings();
    [Key::Stats, Key::Audit, Key::Guard]
        .into_iter()
        .any(|key| settings.get(key) != 0)
}

/// Prints what was asked for to standard error. Freed memory stays as it is: others still allocate
/// and free after this.
pub fn report_at_exit() {
    front::exit_report();
}

/// Looks for guarded blocks that nothing leads to and reports them. Returns how many there are; -1
/// if that cannot be told. Other threads stand still meanwhile.
#[must_use]
pub fn fencepost_leak_check() -> c_int {
    start();
    front::print_leaks()
}

/// Looks at the bytes beside every guarded object in use, and reports those that were
/// overwritten. Returns how many objects these belong to.
#[must_use]
pub fn fencepost_sweep() -> c_int {
    start();
    c_int::try_from(front::sweep()).unwrap_or(c_int::MAX)
}

/// Compares the account of pages with the kernel's and prints the outcome to standard error.
/// Returns the number of contradictions, -1 if `/proc` cannot be read.
#[must_use]
pub fn fencepost_audit() -> c_int {
    start();
    front::print_audit()
}

/// Sets errno and fails.
#[cold]
fn fail(error: c_int) -> *mut c_void {
    set_errno(error);
    ptr::null_mut()
}

fn set_errno(error: c_int) {
    // SAFETY: the C library's answer is the calling thread's own errno, always valid.
    unsafe { *libc::__errno_location() = error }
}

/// The block, or NULL with ENOMEM.
#[inline(always)]
fn or_no_memory(block: *mut u8) -> *mut c_void {
    if block.is_null() {
        return fail(libc::ENOMEM);
    }
    block.cast()
}

/// Allocates `size` bytes. `malloc(0)` is a block of its own that can be freed.
///
/// # Errors
/// NULL with ENOMEM if there is no memory or `size` exceeds `PTRDIFF_MAX`.
#[inline]
#[must_use]
pub fn malloc(size: usize) -> *mut c_void {
    front::cached_with(
        size,
        <*mut u8>::cast,
        // SAFETY: the block was popped just now and is nobody's.
        |payload| unsafe { front::sampled(payload, size, ALIGN) }.cast(),
        || malloc_missed(size),
    )
}

/// [`malloc`] that the cache did not serve. Its caller is the program: it is jumped to.
#[cold]
#[inline(never)]
fn malloc_missed(size: usize) -> *mut c_void {
    front::reloaded_with(
        size,
        <*mut u8>::cast,
        // SAFETY: the block was popped just now and is nobody's.
        |payload| unsafe { front::sampled(payload, size, ALIGN) }.cast(),
        // SAFETY: nothing is demanded.
        || unsafe { malloc_slow(size) },
    )
}

with_caller! {
    /// [`malloc`] that no cache served.
    fn malloc_slow(size: usize) -> *mut c_void => malloc_from;
    /// [`calloc`] that no cache served.
    fn calloc_slow(bytes: usize) -> *mut c_void => calloc_from;
    /// [`realloc`] of what no cache serves.
    fn realloc_slow(block: *mut c_void, size: usize) -> *mut c_void => realloc_from;
    /// Allocates `size` bytes at a multiple of `align`, which is rounded up to a power of two.
    /// NULL with EINVAL if no power of two is large enough, with ENOMEM if there is no memory.
    ///
    /// # Safety
    /// Nothing is demanded.
    pub fn memalign(align: usize, size: usize) -> *mut c_void => memalign_from;
    /// Allocates `size` bytes at a multiple of `align`; `size` need not be one. NULL with EINVAL
    /// if `align` is no power of two, with ENOMEM if there is no memory.
    ///
    /// # Safety
    /// Nothing is demanded.
    pub fn aligned_alloc(align: usize, size: usize) -> *mut c_void => aligned_alloc_from;
    /// Allocates `size` bytes at a multiple of `align` and stores the block's address in
    /// `*result`, which can be written. Returns 0, or the error with `*result` as it was: EINVAL
    /// if `align` is no power of two or no multiple of the size of a pointer, ENOMEM if there is
    /// no memory. errno is kept.
    ///
    /// # Safety
    /// `result` can be written.
    pub fn posix_memalign(result: *mut *mut c_void, align: usize, size: usize) -> c_int => posix_memalign_from;
    /// Allocates `size` bytes at the beginning of a page. NULL with ENOMEM if there is no memory.
    ///
    /// # Safety
    /// Nothing is demanded.
    pub fn valloc(size: usize) -> *mut c_void => valloc_from;
    /// Allocates whole pages, as many as `size` bytes need. NULL with ENOMEM if there is no
    /// memory.
    ///
    /// # Safety
    /// Nothing is demanded.
    pub fn pvalloc(size: usize) -> *mut c_void => pvalloc_from;
    /// [`malloc_usable_size`] of what is no chunk of a heap.
    fn usable_size_slow(block: *mut c_void) -> usize => usable_size_from;
}

/// How many bytes of a block may be used, at least what was asked for; 0 for NULL. The
/// answer is the same for as long as the block, which is this allocator's and in use, is
/// neither freed nor reallocated.
///
/// # Safety
/// `block` is NULL or a block of this allocator that is in use.
#[inline]
pub unsafe fn malloc_usable_size(block: *mut c_void) -> usize {
    if let Some(size) = front::usable_size_in_heap(block.cast()) {
        return size;
    }
    // SAFETY: the same contract.
    unsafe { usable_size_slow(block) }
}

/// # Safety
/// None.
unsafe extern "C" fn malloc_from(size: usize, pc: usize, fp: usize) -> *mut c_void {
    start();
    or_no_memory(allocate(size, Caller { pc, fp }))
}

/// A block from the cache, which may have come to be since, or from below.
fn allocate(size: usize, caller: Caller) -> *mut u8 {
    let hit = front::cached_unless_due(size);
    if hit.is_null() {
        front::malloc(size, ALIGN, caller)
    } else {
        hit
    }
}

/// # Safety
/// None.
unsafe extern "C" fn calloc_from(bytes: usize, pc: usize, fp: usize) -> *mut c_void {
    start();
    or_no_memory(front::calloc(bytes, ALIGN, Caller { pc, fp }))
}

/// Frees a block; NULL does nothing. errno is kept.
///
/// # Safety
/// `block` is NULL or a block of this allocator that is in use, and is not used afterwards.
#[inline]
pub unsafe fn free(block: *mut c_void) {
    // SAFETY: the same contract.
    unsafe { front::free(block.cast(), UNKNOWN, UNKNOWN) }
}

/// Allocates an array of `count` elements of `size` bytes, all zero.
///
/// # Errors
/// NULL with ENOMEM if there is no memory or the product overflows.
#[inline]
#[must_use]
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        Some(bytes) => {
            let hit = front::cached_unless_due(bytes);
            if hit.is_null() {
                // SAFETY: nothing is demanded.
                return unsafe { calloc_slow(bytes) };
            }
            // SAFETY: the block has that many bytes and nobody else knows it.
            unsafe { hit.write_bytes(0, bytes) };
            hit.cast()
        }
        None => fail(libc::ENOMEM),
    }
}

/// Changes the size of a block, moving it if need be. NULL is allocated anew; size 0 frees the
/// block, keeps errno and returns NULL. NULL with ENOMEM if there is no memory: the block is then
/// as it was, otherwise it is not to be used any more.
///
/// # Safety
/// `block` is NULL or a block of this allocator that is in use.
#[inline]
#[must_use]
pub unsafe fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(size);
    }
    if size != 0 {
        // SAFETY: the same contract.
        let to = unsafe { front::realloc_cached(block.cast(), size) };
        if !to.is_null() {
            return to.cast();
        }
    }
    // SAFETY: the same contract.
    unsafe { realloc_slow(block, size) }
}

/// # Safety
/// As for [`free`], unless the call fails: then the block stays in use.
unsafe extern "C" fn realloc_from(
    block: *mut c_void,
    size: usize,
    pc: usize,
    fp: usize,
) -> *mut c_void {
    let caller = Caller { pc, fp };
    if size == 0 {
        // SAFETY: the same contract.
        unsafe { front::free_by(block.cast(), caller) };
        return ptr::null_mut();
    }
    // SAFETY: the block is not null, the rest is the caller's promise.
    or_no_memory(unsafe { front::realloc(block.cast(), size, ALIGN, caller) })
}

/// [`realloc`] to `count` elements of `size` bytes.
///
/// # Errors
/// As `realloc`, and also if the product overflows.
///
/// # Safety
/// As for [`realloc`].
#[inline]
#[must_use]
pub unsafe fn reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the same contract.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => fail(libc::ENOMEM),
    }
}

/// Allocates with an alignment that is a power of two; null if that cannot be.
fn aligned(align: usize, size: usize, caller: Caller) -> *mut u8 {
    start();
    if align <= ALIGN {
        return allocate(size, caller);
    }
    // A block that begins inside what is addressable but whose slack does not.
    if size.checked_add(align).is_none_or(|sum| sum > PTRDIFF_MAX) {
        return ptr::null_mut();
    }
    front::memalign(align, size, caller)
}

/// # Safety
/// None.
unsafe extern "C" fn memalign_from(align: usize, size: usize, pc: usize, fp: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => or_no_memory(aligned(align, size, Caller { pc, fp })),
        None => fail(libc::EINVAL),
    }
}

/// # Safety
/// None.
unsafe extern "C" fn aligned_alloc_from(
    align: usize,
    size: usize,
    pc: usize,
    fp: usize,
) -> *mut c_void {
    if !align.is_power_of_two() {
        return fail(libc::EINVAL);
    }
    or_no_memory(aligned(align, size, Caller { pc, fp }))
}

/// # Safety
/// `result` can be written.
unsafe extern "C" fn posix_memalign_from(
    result: *mut *mut c_void,
    align: usize,
    size: usize,
    pc: usize,
    fp: usize,
) -> c_int {
    if !align.is_power_of_two() || align < size_of::<*mut c_void>() {
        return libc::EINVAL;
    }
    let block = aligned(align, size, Caller { pc, fp });
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller promises it.
    unsafe { *result = block.cast() };
    0
}

/// Bytes of a page. It is the running kernel's: the same program meets several.
fn page_size() -> usize {
    // SAFETY: sysconf(3) of this name reads a constant of the C library's.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes).unwrap_or(4096)
}

/// # Safety
/// None.
unsafe extern "C" fn valloc_from(size: usize, pc: usize, fp: usize) -> *mut c_void {
    or_no_memory(aligned(page_size(), size, Caller { pc, fp }))
}

/// # Safety
/// None.
unsafe extern "C" fn pvalloc_from(size: usize, pc: usize, fp: usize) -> *mut c_void {
    let page = page_size();
    match size.checked_next_multiple_of(page) {
        Some(bytes) => or_no_memory(aligned(page, bytes, Caller { pc, fp })),
        None => fail(libc::ENOMEM),
    }
}

/// # Safety
/// `block` is NULL or a block of this allocator that is in use.
unsafe extern "C" fn usable_size_from(block: *mut c_void, pc: usize, fp: usize) -> usize {
    // SAFETY: the same contract.
    unsafe { front::usable_size(block.cast(), Caller { pc, fp }) }
}

/// [`free`] for a caller who knows the size asked for (C23). The chunk knows it better; of
/// guarded objects it is compared.
///
/// # Safety
/// As for [`free`].
#[inline]
pub unsafe fn free_sized(block: *mut c_void, size: usize) {
    // SAFETY: the same contract.
    unsafe { front::free(block.cast(), size, UNKNOWN) }
}

/// [`free`] for a caller who knows the alignment and size asked for (C23).
///
/// # Safety
/// As for [`free`].
#[inline]
pub unsafe fn free_aligned_sized(block: *mut c_void, align: usize, size: usize) {
    // SAFETY: the same contract.
    unsafe { front::free(block.cast(), size, align) }
}

/// Sets a tunable of [`TUNABLES`](config::TUNABLES) that has a `mallopt` constant. Returns 1, or 0
/// if there is no such tunable or the value is out of its range. The three constants of SVID that no
/// ptmalloc has ever obeyed (`M_NLBLKS`, `M_GRAIN`, `M_KEEP`) are accepted.
pub fn mallopt(parameter: c_int, value: c_int) -> c_int {
    start();
    if matches!(parameter, 2..=4) {
        return 1;
    }
    let Some(key) = config::of_mallopt(parameter) else {
        return 0;
    };
    let number = match key {
        // Only the low byte can be written to memory.
        Key::Perturb => value as usize & 0xff,
        // "At most -1 mappings" can only mean none.
        Key::MmapMax => value.max(0) as usize,
        // Sign extended: a threshold of -1 is one that is never reached.
        _ => value as isize as usize,
    };
    c_int::from(front::settings().set(key, number))
}

/// Gives back all free memory that can be given back, but for `pad` bytes at top. Returns 1 if
/// that was any, otherwise 0.
pub fn malloc_trim(pad: usize) -> c_int {
    start();
    c_int::from(front::trim(pad))
}
