//! Return values of LSM programs.
//!
//! Since 6.12 the verifier proves that an LSM program returns a value in [-4095, 0] (`kernel/bpf/verifier.c:
//! check_return_code`). LLVM likes to compile "if refused then -1 else 0" to the negation of a boolean, whose range the
//! verifier does not know, so the constants come from assembly that LLVM cannot look into.

use core::arch::asm;

/// `-EPERM`.
#[inline(always)]
pub fn refuse() -> i32 {
    let value: i64;
    // SAFETY: moves a constant into a register.
    unsafe { asm!("{value} = -1", value = out(reg) value, options(pure, nomem, nostack)) };
    value as i32
}

/// Success: the hook has no objection.
#[inline(always)]
pub fn pass() -> i32 {
    let value: i64;
    // SAFETY: moves a constant into a register.
    unsafe { asm!("{value} = 0", value = out(reg) value, options(pure, nomem, nostack)) };
    value as i32
}

/// The return value for a decision.
#[inline(always)]
pub fn of(refused: bool) -> i32 {
    if refused { refuse() } else { pass() }
}
