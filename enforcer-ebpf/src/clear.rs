//! Clearing memory word by word.
//!
//! Of neighbouring zeros LLVM makes a `memset`, which in BPF is a function with a loop over bytes: eight instructions each, which
//! the processor executes and the verifier walks. Volatile writes stay what they are.

/// Writes zeros.
///
/// # Safety
/// `to` must be aligned and writable for a `T`, and a `T` be valid when it is all zeros.
#[inline(always)]
pub unsafe fn clear<T>(to: *mut T) {
    if const { align_of::<T>().is_multiple_of(align_of::<u64>()) && size_of::<T>().is_multiple_of(size_of::<u64>()) } {
        // SAFETY: as the caller promised; a `T` consists of such words.
        unsafe { words(to.cast::<u64>(), size_of::<T>() / size_of::<u64>(), 0) }
    } else {
        const { assert!(align_of::<T>().is_multiple_of(align_of::<u32>()), "not made of words") };
        // SAFETY: as above.
        unsafe { words(to.cast::<u32>(), size_of::<T>() / size_of::<u32>(), 0) }
    }
}

/// # Safety
/// `to` must be aligned and writable for so many words.
#[inline(always)]
unsafe fn words<W: Copy>(to: *mut W, count: usize, zero: W) {
    let mut i = 0;
    while i < count {
        // SAFETY: as the caller promised.
        unsafe { to.add(i).write_volatile(zero) };
        i += 1;
    }
}
