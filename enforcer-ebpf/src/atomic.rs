//! Atomic operations on words in maps and on the stack: `core` has none for this target.
//!
//! Each returns the old value, and those of BPF that do are full barriers (`Documentation/bpf/standardization/instruction-set.rst`,
//! kernel memory model: like `atomic_fetch_add`).

use core::arch::asm;

/// Adds to a word; returns what it was.
///
/// # Safety
/// `word` must point to an aligned word, on the stack or of a map that is there for as long as the program runs.
#[inline(always)]
pub unsafe fn fetch_add(word: *mut u64, by: u64) -> u64 {
    let mut value = by;
    // SAFETY: as the caller promised.
    unsafe { asm!("{v} = atomic_fetch_add((u64 *)({w} + 0), {v})", v = inout(reg) value, w = in(reg) word) };
    value
}

/// Sets bits of a word; returns what it was.
///
/// # Safety
/// As [`fetch_add`].
#[inline(always)]
pub unsafe fn fetch_or(word: *mut u64, bits: u64) -> u64 {
    let mut value = bits;
    // SAFETY: as the caller promised.
    unsafe { asm!("{v} = atomic_fetch_or((u64 *)({w} + 0), {v})", v = inout(reg) value, w = in(reg) word) };
    value
}

/// Reads a word.
///
/// # Safety
/// As [`fetch_add`].
#[inline(always)]
pub unsafe fn read(word: *mut u64) -> u64 {
    // SAFETY: as the caller promised.
    unsafe { fetch_add(word, 0) }
}

/// Replaces a word; returns what it was.
///
/// # Safety
/// As [`fetch_add`].
#[inline(always)]
pub unsafe fn swap(word: *mut u64, with: u64) -> u64 {
    let mut value = with;
    // SAFETY: as the caller promised.
    unsafe { asm!("{v} = xchg_64({w} + 0, {v})", v = inout(reg) value, w = in(reg) word) };
    value
}

/// Writes a word. Of one on the stack the verifier forgets what it knew, a number or a pointer (`kernel/bpf/verifier.c:
/// check_atomic`).
///
/// # Safety
/// As [`fetch_add`].
#[inline(always)]
pub unsafe fn store(word: *mut u64, value: u64) {
    // SAFETY: as the caller promised.
    unsafe { swap(word, value) };
}

/// Replaces a word if it is `from`; returns what it was.
///
/// # Safety
/// As [`fetch_add`].
#[inline(always)]
pub unsafe fn compare_swap(word: *mut u64, from: u64, with: u64) -> u64 {
    let mut value = from;
    // SAFETY: as the caller promised; the instruction compares with r0 and leaves the old value there.
    unsafe {
        asm!("r0 = cmpxchg_64({w} + 0, r0, {n})", inout("r0") value, w = in(reg) word, n = in(reg) with);
    }
    value
}
