//! What the verifier is not to know.
//!
//! It follows a program once for each combination of values that it knows of what is live. Where a decision was made there are
//! many: what comes after would be looked at once for each, which is most of the time that a load takes.

use core::arch::asm;

/// The same number, of which the verifier knows nothing any more: what an atomic operation leaves on the stack is unknown to it
/// (`kernel/bpf/verifier.c: check_atomic`, which writes without a register).
#[inline(always)]
pub fn opaque(value: u64) -> u64 {
    let mut slot = value;
    // SAFETY: adds nothing to a local.
    unsafe {
        asm!("lock *(u64 *)({slot} + 0) += {nothing}", slot = in(reg) &raw mut slot, nothing = in(reg) 0u64, options(nostack));
    }
    slot
}
