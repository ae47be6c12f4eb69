//! Who acts: the label of the current task.

use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use enforcer_common::{
    decide::Findings,
    ids::SkillId,
    task::{Label, Origin, cgroup_filter_slot},
};

use crate::{
    kernel::Task,
    maps::{CGROUP_FILTER, CGROUPS, TASKS},
};

/// The skill that governs the acting task, if any does.
#[inline(always)]
pub fn current() -> Option<SkillId> {
    label().filter(|skill| skill.governs())
}

/// The label of the acting task, be it a skill or the daemon's own.
///
/// A task without a label is looked up by its cgroup and gets its label there and then: that covers processes that were in
/// the cgroup before the daemon, moved into it, or were born into it by `CLONE_INTO_CGROUP`. From then on the label
/// stays, wherever the task is moved.
#[inline(always)]
pub fn label() -> Option<SkillId> {
    let task = Task::current().key();
    // SAFETY: the entry is written whole when it is made, and an update replaces the element.
    if let Some(label) = unsafe { TASKS.get(task) } {
        return Some(label.skill);
    }
    // SAFETY: no precondition.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    if CGROUP_FILTER.get(cgroup_filter_slot(cgroup)).is_none_or(|slot| *slot == 0) {
        return None;
    }
    // SAFETY: as above.
    let skill = unsafe { CGROUPS.get(cgroup) }?.skill;
    // When the map is full this act is governed all the same, and the next one asks the cgroup again.
    let _ = TASKS.insert(task, Label::new(skill, Origin::Cgroup), 0);
    Some(skill)
}

/// The acting task's room for a decision. `None` when it has no label, which a governed task lacks only when the map is full.
#[inline(always)]
pub fn findings<'a>() -> Option<&'a mut Findings> {
    own_label().map(|label| &mut label.findings)
}

/// The acting task's label, for the parts that only the task itself uses; take it once per program.
#[inline(always)]
pub fn own_label<'a>() -> Option<&'a mut Label> {
    let label = TASKS.get_ptr_mut(Task::current().key())?;
    // SAFETY: the element is the current task's: no other task uses these parts of it, its programs do not interrupt each
    // other in the midst of a decision, and a governed task's label is never replaced.
    Some(unsafe { &mut *label })
}
