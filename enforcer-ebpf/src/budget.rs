//! The delete budget: N deletes within any window, exactly, whichever thread and CPU they come from.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_ktime_get_boot_ns, bpf_spin_lock, bpf_spin_unlock};
use enforcer_common::rules::{BUDGET_LIMIT, Budget, SkillConf};

/// Counts one delete if the budget has one left.
///
/// The last [`BUDGET_LIMIT`] times are kept. Another delete is within the budget of N if the Nth last one is out of the
/// window.
#[inline(always)]
pub fn spend(budget: *mut Budget, conf: &SkillConf) -> bool {
    // Before the lock: no helper may be called under it.
    // SAFETY: no precondition.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let (limit, window) = (conf.budget, conf.budget_window_ns());
    if limit == 0 || limit > BUDGET_LIMIT {
        return false;
    }
    // SAFETY: `budget` is an element of the map, whose lock is its first field; indices are masked to the array.
    unsafe {
        bpf_spin_lock((&raw mut (*budget).lock).cast());
        let count = (*budget).count;
        let times = (&raw mut (*budget).times).cast::<u64>();
        let oldest = ptr::read_volatile(times.add((count.wrapping_sub(limit) & (BUDGET_LIMIT - 1)) as usize));
        // A slot that was never written reads 0, which is out of any window but that of the first day: `count` tells.
        let left = count < limit || now.saturating_sub(oldest) >= window;
        if left {
            ptr::write_volatile(times.add((count & (BUDGET_LIMIT - 1)) as usize), now);
            (*budget).count = count.wrapping_add(1);
        }
        bpf_spin_unlock((&raw mut (*budget).lock).cast());
        left
    }
}
