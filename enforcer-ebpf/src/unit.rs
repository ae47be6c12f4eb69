//! Which unit of systemd's a new cgroup is, and whose.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use enforcer_common::{
    ids::SkillId,
    task::CgroupName,
    unit::{Comparison, MAX_STEPS, PATTERN_LIMIT, Search},
};

use crate::maps::{CGROUP_PATH, UNIT_PATTERNS};

const GO_ON: i64 = 0;
const STOP: i64 = 1;

/// The skill of the unit whose cgroup is at the path in `CGROUP_PATH`.
#[inline(always)]
pub fn skill() -> Option<SkillId> {
    // Without patterns there is nothing to look for.
    UNIT_PATTERNS.get(0).filter(|rule| rule.skill.0 != 0)?;
    let mut search = Search::default();
    // SAFETY: the body has the helper's signature and is given the search, which outlives the loop.
    unsafe { bpf_loop(size_of::<CgroupName>() as u32, search_one as *mut c_void, (&raw mut search).cast(), 0) };
    if !search.found() {
        return None;
    }
    let mut choice = Choice { name: search.name, skill: 0, comparison: Comparison::from(0), rule: 0 };
    // SAFETY: as above.
    unsafe { bpf_loop(PATTERN_LIMIT, try_one as *mut c_void, (&raw mut choice).cast(), 0) };
    if choice.skill == 0 { None } else { Some(SkillId(choice.skill)) }
}

/// One step of the search for the unit's name.
unsafe extern "C" fn search_one(_index: u64, search: *mut Search) -> i64 {
    let Some(path) = CGROUP_PATH.get(0) else { return STOP };
    // SAFETY: `skill` hands over a pointer to its search.
    if unsafe { (*search).step(&path.0) } { GO_ON } else { STOP }
}

/// Where the choice among the patterns is.
struct Choice {
    name: u32,
    skill: u32,
    comparison: Comparison,
    rule: u32,
}

/// Compares one pattern.
unsafe extern "C" fn try_one(index: u64, choice: *mut Choice) -> i64 {
    let index = index as u32;
    let Some(rule) = UNIT_PATTERNS.get(index) else { return STOP };
    if rule.skill.0 == 0 {
        return STOP;
    }
    // SAFETY: `skill` hands over a pointer to its choice.
    let choice = unsafe { &mut *choice };
    choice.rule = index;
    choice.comparison = Comparison::from(choice.name);
    // SAFETY: as in `skill`.
    unsafe { bpf_loop(MAX_STEPS, compare_one as *mut c_void, core::ptr::from_mut(choice).cast(), 0) };
    if choice.comparison.fits == 0 {
        return GO_ON;
    }
    choice.skill = rule.skill.0;
    STOP
}

/// One step of a comparison.
unsafe extern "C" fn compare_one(_index: u64, choice: *mut Choice) -> i64 {
    // SAFETY: `try_one` hands over a pointer to its choice.
    let choice = unsafe { &mut *choice };
    let (Some(rule), Some(path)) = (UNIT_PATTERNS.get(choice.rule), CGROUP_PATH.get(0)) else { return STOP };
    if choice.comparison.step(&rule.pattern, &path.0) { GO_ON } else { STOP }
}
