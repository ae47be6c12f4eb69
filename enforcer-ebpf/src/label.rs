//! The labels of tasks, with the filter that keeps tasks without one cheap.
//!
//! The map is this module's own, so that nothing gives a label, or takes one, past the filter: a slot of it counts the labels
//! of all tasks that fall on it, and where it counts none there is none to be looked for. It may count too many, which costs a
//! lookup, and never too few: it is raised before the label is there, and lowered after it is gone.

use aya_ebpf::{
    bindings::{BPF_EXIST, BPF_NOEXIST},
    btf_maps::{Array, HashMap},
    macros::btf_map,
};
use enforcer_common::{
    ids::SkillId,
    task::{Label, Origin, TASK_FILTER_SLOTS, stage, task_filter_slot},
};

use crate::{atomic, kernel::Task, maps::LAZY};

/// Labels by the address of the `task_struct`: a task storage is not available to the cgroup programs before 7.x, and an
/// address is as unique as the task; `task_free` removes it.
#[btf_map]
static TASKS: HashMap<u64, Label, 262_144, LAZY> = HashMap::new();

#[btf_map]
static TASK_FILTER: Array<u64, { TASK_FILTER_SLOTS as usize }> = Array::new();

/// The label of a task. What lies in it beside the skill and its origin is the task's own: its programs do not interrupt each
/// other in the midst of a decision, and a governed task's label is not replaced.
#[inline(always)]
pub fn of(task: Task) -> Option<*mut Label> {
    let key = task.key();
    if TASK_FILTER.get(task_filter_slot(key)).is_none_or(|labels| *labels == 0) {
        return None;
    }
    TASKS.get_ptr_mut(key)
}

/// The label of a task that is known to have one, or to be without for want of room: the filter is not asked again.
#[inline(always)]
pub fn known(task: Task) -> Option<*mut Label> {
    TASKS.get_ptr_mut(task.key())
}

/// What a label is made from: one on the stack would take more of it than some programs have left.
static BLANK: Label = Label::new(SkillId(0), Origin::Parent);

/// Gives a task a label, also in place of another one. False when there is no room. For a moment its skill is none, which no
/// policy has and nobody is in.
#[inline(always)]
pub fn give(task: Task, skill: SkillId, origin: Origin, lineage: u64) -> bool {
    give_at(task, skill, origin, lineage, 0)
}

/// The same to a task that nobody knows to have come into its skill.
#[inline(always)]
pub fn give_untold(task: Task, skill: SkillId, origin: Origin) -> bool {
    give_at(task, skill, origin, 0, stage::UNTOLD)
}

/// Gives another task a label by its cgroup, unless it has given itself one by now, which stays. False when there is no room.
#[inline(always)]
pub fn give_first(task: Task, skill: SkillId, stage: u32) -> bool {
    let key = task.key();
    if make(key) { write(key, skill, Origin::Cgroup, 0, stage) } else { TASKS.get_ptr_mut(key).is_some() }
}

#[inline(always)]
fn give_at(task: Task, skill: SkillId, origin: Origin, lineage: u64, stage: u32) -> bool {
    let key = task.key();
    insert(key) && write(key, skill, origin, lineage, stage)
}

/// Fills the element of a task.
#[inline(always)]
fn write(key: u64, skill: SkillId, origin: Origin, lineage: u64, stage: u32) -> bool {
    let Some(label) = TASKS.get_ptr_mut(key) else { return false };
    // SAFETY: the element was just made, and goes with the task.
    unsafe {
        (*label).origin = origin as u32;
        (*label).lineage = lineage;
        (*label).stage = stage;
        (*label).skill = skill;
    }
    true
}

/// Makes the element of a task, or empties the one that is there.
#[inline(always)]
fn insert(key: u64) -> bool {
    let blank: &Label = &BLANK;
    // One that it had is counted already.
    make(key) || TASKS.insert(key, blank, u64::from(BPF_EXIST)).is_ok()
}

/// Makes the element of a task; false when it is there, or there is no room.
#[inline(always)]
fn make(key: u64) -> bool {
    let Some(labels) = TASK_FILTER.get_ptr_mut(task_filter_slot(key)) else { return false };
    // SAFETY: the element is there for as long as the map.
    unsafe { atomic::fetch_add(labels, 1) };
    let blank: &Label = &BLANK;
    if TASKS.insert(key, blank, u64::from(BPF_NOEXIST)).is_ok() {
        return true;
    }
    // SAFETY: as above.
    unsafe { atomic::fetch_add(labels, LESS) };
    false
}

/// Takes the label of a task, if it has one.
#[inline(always)]
pub fn take(task: Task) {
    let key = task.key();
    let Some(labels) = TASK_FILTER.get_ptr_mut(task_filter_slot(key)) else { return };
    // SAFETY: the element is there for as long as the map; a counter is read whole.
    if unsafe { labels.read_volatile() } != 0 && TASKS.remove(key).is_ok() {
        // SAFETY: as above.
        unsafe { atomic::fetch_add(labels, LESS) };
    }
}

/// Minus one.
const LESS: u64 = u64::MAX;
