//! Which unit of systemd's a new cgroup is, and whose.

use enforcer_common::{
    ids::SkillId,
    unit::{CHOICE_STEPS, Choice, NO_SKILL, Progress, SEARCH_STEPS, Search},
};

use crate::{
    maps::{CGROUP_PATH, UNIT_PATTERNS, UNIT_PROGRESS},
    repeat::{Steps, Then, repeat},
};

/// The skill of the unit whose cgroup is at the path in `CGROUP_PATH`.
#[inline(always)]
pub fn skill() -> Option<SkillId> {
    // Without patterns there is nothing to look for.
    UNIT_PATTERNS.get(0).filter(|rule| rule.skill != NO_SKILL)?;
    let progress = progress()?;
    progress.search = Search::default();
    repeat(&mut Searching(0));
    if !progress.search.found() {
        return None;
    }
    progress.choice = Choice::from(progress.search.name);
    repeat(&mut Choosing(0));
    Some(progress.choice.skill).filter(|skill| *skill != NO_SKILL)
}

#[inline(always)]
fn progress() -> Option<&'static mut Progress> {
    let progress = UNIT_PROGRESS.get_ptr_mut(0)?;
    // SAFETY: cgroups are made one at a time, and the steps of one by one after another.
    Some(unsafe { &mut *progress })
}

/// The search for the unit's name. Where it is lies in the map; the helpers want a place on the stack all the same.
struct Searching(#[expect(dead_code, reason = "see above")] u64);

impl Steps for Searching {
    const LIMIT: u32 = SEARCH_STEPS;

    #[inline(always)]
    fn step(&mut self) -> Then {
        let (Some(progress), Some(path)) = (progress(), CGROUP_PATH.get(0)) else { return Then::Stop };
        if progress.search.step(&path.0) { Then::GoOn } else { Then::Stop }
    }
}

/// The choice among the patterns; likewise.
struct Choosing(#[expect(dead_code, reason = "see above")] u64);

impl Steps for Choosing {
    const LIMIT: u32 = CHOICE_STEPS;

    #[inline(always)]
    fn step(&mut self) -> Then {
        let (Some(progress), Some(path)) = (progress(), CGROUP_PATH.get(0)) else { return Then::Stop };
        let Some(rule) = UNIT_PATTERNS.get(progress.choice.rule) else { return Then::Stop };
        if progress.choice.step(rule, &path.0) { Then::GoOn } else { Then::Stop }
    }
}
