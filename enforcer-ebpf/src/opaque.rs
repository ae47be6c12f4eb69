//! Values of which the verifier does not know any more by which way a program came to them.
//!
//! It follows each way through the rest of the program, unless it was at the same place before and knew as much as now. Ways that
//! end in different numbers never meet again, and those that follow one another multiply.

use core::arch::asm;

use aya_ebpf::helpers::generated::bpf_get_current_task;
use enforcer_common::{decide::Destination, net::Address};

/// The same number. The verifier does not see that what is done twice is undone.
#[inline(always)]
pub fn number(mut number: u64) -> u64 {
    // Any number that it does not know: no helper takes less.
    // SAFETY: no precondition.
    let unknown = unsafe { bpf_get_current_task() };
    // SAFETY: changes a register and nothing else.
    unsafe {
        asm!("{n} ^= {u}", "{n} ^= {u}", n = inout(reg) number, u = in(reg) unknown, options(pure, nomem, nostack));
    }
    number
}

/// The same truth value.
#[inline(always)]
pub fn truth(truth: bool) -> bool {
    number(u64::from(truth)) != 0
}

/// The same address: the families' bytes differ in what is known of them.
#[inline(always)]
pub fn address(address: Address) -> Address {
    let (low, high) = address.halves();
    Address::of_halves([number(low), number(high)])
}

/// The same destination, wherever it lay.
#[inline(always)]
pub fn destination(at: &Destination) -> Destination {
    let ends = number(u64::from(at.port) << 16 | u64::from(at.protocol));
    Destination { address: address(at.address), port: (ends >> 16) as u16, protocol: ends as u16 }
}
