//! Which unit of systemd's a new cgroup is, and whose.

use core::{ffi::c_void, ptr};

use aya_ebpf::helpers::generated::bpf_loop;
use enforcer_common::{
    ids::SkillId,
    unit::{CHOICE_STEPS, Choice, NO_SKILL, Progress, SEARCH_STEPS, Search},
};

use crate::maps::{CGROUP_PATH, UNIT_PATTERNS, UNIT_PROGRESS};

const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// The skill of the unit whose cgroup is at the path in `CGROUP_PATH`.
#[inline(always)]
pub fn skill() -> Option<SkillId> {
    // Without patterns there is nothing to look for.
    UNIT_PATTERNS.get(0).filter(|rule| rule.skill != NO_SKILL)?;
    let progress = progress()?;
    progress.search = Search::default();
    // SAFETY: the body has the helper's signature and is given nothing.
    unsafe { bpf_loop(SEARCH_STEPS, search_one as *mut c_void, ptr::null_mut(), 0) };
    if !progress.search.found() {
        return None;
    }
    progress.choice = Choice::from(progress.search.name);
    // SAFETY: as above.
    unsafe { bpf_loop(CHOICE_STEPS, choose_one as *mut c_void, ptr::null_mut(), 0) };
    Some(progress.choice.skill).filter(|skill| *skill != NO_SKILL)
}

#[inline(always)]
fn progress() -> Option<&'static mut Progress> {
    let progress = UNIT_PROGRESS.get_ptr_mut(0)?;
    // SAFETY: cgroups are made one at a time, and the steps of one by one after another.
    Some(unsafe { &mut *progress })
}

/// One step of the search for the unit's name.
unsafe extern "C" fn search_one(_index: u64, _context: *mut c_void) -> i64 {
    let (Some(progress), Some(path)) = (progress(), CGROUP_PATH.get(0)) else { return STOP };
    if progress.search.step(&path.0) { GO_ON } else { STOP }
}

/// One step of the choice among the patterns.
unsafe extern "C" fn choose_one(_index: u64, _context: *mut c_void) -> i64 {
    let (Some(progress), Some(path)) = (progress(), CGROUP_PATH.get(0)) else { return STOP };
    let Some(rule) = UNIT_PATTERNS.get(progress.choice.rule) else { return STOP };
    if progress.choice.step(rule, &path.0) { GO_ON } else { STOP }
}
