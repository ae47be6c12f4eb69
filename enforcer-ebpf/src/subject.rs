//! Who acts: the label of the current task.

use aya_ebpf::helpers::bpf_get_current_cgroup_id;
use enforcer_common::{
    decide::Findings,
    ids::SkillId,
    task::{CGROUP_ASCENT, CgroupLabel, Label, Origin, cgroup_filter_slot},
};

use crate::{
    atomic,
    kernel::{Cgroup, File, Task},
    label,
    maps::{CGROUP_FILTER, CGROUP_OVERFLOW, CGROUP_SPARE, CGROUPS, LAUNCHERS},
    opaque,
    repeat::{Steps, Then, repeat},
};

/// The skill that governs the acting task, if any does.
#[inline(always)]
pub fn current() -> Option<SkillId> {
    label().filter(|skill| skill.governs())
}

/// The label of the acting task, be it a skill or the daemon's own.
///
/// A task without a label gets one there and then: that of its process's first thread, which alone is labelled when a process is
/// moved into a governed cgroup; else that of its cgroup, into which it may have been born by `CLONE_INTO_CGROUP`. From then on
/// the label stays, wherever the task is moved.
#[inline(always)]
pub fn label() -> Option<SkillId> {
    let skill = SkillId(label_or_none() as u32);
    if skill == NONE { None } else { Some(skill) }
}

/// The number of [`label`], or [`NONE`]. A function of its own in the object: the many ways through it end in one number, where the
/// verifier would follow each through the rest of the program.
#[inline(never)]
fn label_or_none() -> u64 {
    let task = Task::current();
    // A label that is being made has no skill yet.
    let own = opaque::number(of(task).map_or(0, |skill| u64::from(skill.0)));
    if own != 0 {
        return own;
    }
    let skill = label_by_leader(task).or_else(|| label_by_cgroup(task)).unwrap_or(NONE);
    u64::from(skill.0)
}

/// Labels the acting task as the first thread of its process is labelled.
#[inline(always)]
fn label_by_leader(task: Task) -> Option<SkillId> {
    let leader = task.leader();
    if leader.key() == task.key() {
        return None;
    }
    let skill = SkillId(opaque::number(of(leader).map_or(0, |skill| u64::from(skill.0))) as u32);
    if skill == NONE || !skill.governs() {
        return None;
    }
    let _ = label::give_untold(task, skill, Origin::Cgroup);
    Some(skill)
}

/// Labels the acting task by its cgroup, where that governs.
#[inline(always)]
fn label_by_cgroup(task: Task) -> Option<SkillId> {
    // What an engine does before it executes the program that is to be governed.
    let skill = cgroup_label().filter(|cgroup| !cgroup.waits_for_exec()).map_or(NONE, |cgroup| cgroup.skill);
    let skill = SkillId(opaque::number(u64::from(skill.0)) as u32);
    if skill == NONE {
        return None;
    }
    // When the map is full this act is governed all the same, and the next one asks the cgroup again.
    let _ = label::give_untold(task, skill, Origin::Cgroup);
    Some(skill)
}

/// The skill in a task's label, if it has one already.
#[inline(always)]
pub fn of(task: Task) -> Option<SkillId> {
    // SAFETY: an update replaces the element.
    label::of(task).map(|label| unsafe { (*label).skill })
}

/// The label of the cgroup that the acting task is in.
#[inline(always)]
fn cgroup_label() -> Option<CgroupLabel> {
    // SAFETY: no precondition.
    let id = unsafe { bpf_get_current_cgroup_id() };
    label_of(id, || Task::current().cgroup())
}

/// The label of a cgroup.
#[inline(always)]
fn label_of(id: u64, cgroup: impl FnOnce() -> Option<Cgroup>) -> Option<CgroupLabel> {
    if CGROUP_FILTER.get(cgroup_filter_slot(id)).is_none_or(|slot| *slot == 0) {
        return None;
    }
    // SAFETY: an update replaces the element.
    match unsafe { CGROUPS.get(id) } {
        Some(label) => Some(*label),
        None => nearest_governed(cgroup()?, id),
    }
}

/// The skill of whoever is in a cgroup, if it governs from whatever they do first on.
#[inline(always)]
pub fn of_cgroup(cgroup: Cgroup, id: u64) -> Option<SkillId> {
    let skill = label_of(id, || Some(cgroup)).filter(|label| !label.waits_for_exec()).map_or(NONE, |label| label.skill);
    let skill = SkillId(opaque::number(u64::from(skill.0)) as u32);
    if skill == NONE { None } else { Some(skill) }
}

/// The skill that a task without a label enters by executing `file`, where its cgroup governs from the exec on.
#[inline(always)]
pub fn entered_by_exec(file: File) -> Option<SkillId> {
    if label::of(Task::current()).is_some() {
        return None;
    }
    let label = cgroup_label().filter(CgroupLabel::waits_for_exec)?;
    // SAFETY: an update replaces the element. Such a program executes the one that is meant.
    if unsafe { LAUNCHERS.get(file.dentry().inode().id()) }.is_some() {
        return None;
    }
    Some(label.skill)
}

/// The acting task's room for a decision. `None` when it has no label, which a governed task lacks only when the map is full.
#[inline(always)]
pub fn findings<'a>() -> Option<&'a mut Findings> {
    labelled().map(|label| &mut label.findings)
}

/// The acting task's label, for the parts that only the task itself uses; take it once per program.
#[inline(always)]
pub fn own_label<'a>() -> Option<&'a mut Label> {
    label::of(Task::current()).map(own)
}

/// The same of a task that is known to be in a skill: it is found sooner, and missing only for want of room.
#[inline(always)]
pub fn labelled<'a>() -> Option<&'a mut Label> {
    label::known(Task::current()).map(own)
}

/// The acting task's own parts of its label.
#[inline(always)]
fn own<'a>(label: *mut Label) -> &'a mut Label {
    // SAFETY: the element is the current task's: no other task uses these parts of it, its programs do not interrupt each
    // other in the midst of a decision, and a governed task's label is never replaced.
    unsafe { &mut *label }
}

/// The label of a cgroup that may have found no room in `CGROUPS`: that of the nearest cgroup above it, or its own, if the
/// manifest names it. `None` without the walk when no cgroup with such an id was left out.
#[inline(always)]
pub fn nearest_governed(cgroup: Cgroup, id: u64) -> Option<CgroupLabel> {
    if CGROUP_OVERFLOW.get(cgroup_filter_slot(id)).is_none_or(|slot| *slot == 0) {
        return None;
    }
    // SAFETY: an update replaces the element.
    if let Some(label) = unsafe { CGROUP_SPARE.get(id) } {
        return Some(*label);
    }
    // Too deep to be asked is governed by a skill that allows nothing.
    let mut walk = Walk { cgroup, label: 0, named: 0 };
    walk.finds(&CgroupLabel::new(SkillId::NOBODY, 0));
    repeat(&mut walk);
    walk.found()
}

/// No skill has this number.
const NONE: SkillId = SkillId(0);

/// Where [`nearest_governed`] is.
struct Walk {
    cgroup: Cgroup,
    /// The label's skill and, in the upper half, its flags. Like what follows it is written by [`atomic::store`], so that the verifier
    /// does not follow each way in which a walk can end.
    label: u64,
    named: u64,
}

impl Walk {
    #[inline(always)]
    fn finds(&mut self, label: &CgroupLabel) {
        // SAFETY: the words are on the program's stack.
        unsafe {
            atomic::store(&raw mut self.label, u64::from(label.skill.0) | u64::from(label.flags) << 32);
            atomic::store(&raw mut self.named, label.named);
        }
    }

    #[inline(always)]
    fn found(&self) -> Option<CgroupLabel> {
        // SAFETY: as above.
        let (label, named) =
            unsafe { ((&raw const self.label).read_volatile(), (&raw const self.named).read_volatile()) };
        let skill = SkillId(label as u32);
        if skill == NONE { None } else { Some(CgroupLabel { skill, flags: (label >> 32) as u32, named }) }
    }
}

impl Steps for Walk {
    const LIMIT: u32 = CGROUP_ASCENT;

    #[inline(always)]
    fn step(&mut self) -> Then {
        let Some((above, id)) = self.cgroup.parent().and_then(|above| Some((above, above.id()?))) else {
            self.finds(&CgroupLabel::new(NONE, 0));
            return Then::Stop;
        };
        // SAFETY: an update replaces the element.
        if let Some(label) = unsafe { CGROUPS.get(id).or_else(|| CGROUP_SPARE.get(id)) } {
            self.finds(label);
            return Then::Stop;
        }
        self.cgroup = above;
        Then::GoOn
    }
}
