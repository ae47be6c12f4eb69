//! Labels of tasks: inherited at fork, given by the daemon, forgotten when the task is gone; and of new cgroups.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel_str,
    macros::{btf_tracepoint, lsm},
    programs::{BtfTracePointContext, LsmContext},
};
use enforcer_common::{
    decide::{self, Decision},
    event::{Kind, Reason, Verdict},
    ids::{RuleId, SkillId},
    task::{CGROUP_PATH_CAPACITY, CgroupLabel, CgroupName, Enrolment, Origin, cgroup_filter_slot, cgroup_flag, stage},
};

use crate::{
    file::opened_elsewhere,
    kernel::{Cgroup, File, Task},
    label,
    maps::{CGROUP_FILTER, CGROUP_NAMES, CGROUP_OVERFLOW, CGROUP_PATH, CGROUP_SPARE, CGROUPS, ENROL, TASKS_BEFORE},
    policy::InForce,
    report::{self, Object},
    subject, unit, verdict,
};

/// `security_task_alloc(task, clone_flags)`: the child gets its parent's label before it can run. `io_uring`'s workers and
/// polling threads are children, too.
#[lsm(hook = "task_alloc")]
pub fn task_alloc(ctx: LsmContext) -> i32 {
    let Some(skill) = subject::label() else { return verdict::pass() };
    let child = Task::new(ctx.arg(0));
    let lineage = subject::labelled().map_or(0, |parent| parent.lineage);
    if label::give(child, skill, Origin::Parent, lineage) {
        return verdict::pass();
    }
    // A child without a label would be free: there is no room for it, so there is no child. The daemon's may do without.
    if skill.governs() {
        report::decision(Kind::Fork, skill, InForce::now().generation, &decide::no_room(), &Object::None);
    }
    verdict::of(skill.governs())
}

/// `sched_process_fork(parent, child)`: the child is in the list of tasks and does not run yet. Whoever labels tasks that there are already
/// ([`enrol`], [`inherit`]) may have come to the parent after the child was made and before it was in the list, however many
/// passes are made: the child has no label then, and gets it here. A parent that is labelled later than this has its child looked at
/// by the next pass.
///
/// A child that is born into another cgroup (`CLONE_INTO_CGROUP`) was moved as much as one that is moved later.
#[btf_tracepoint(function = "sched_process_fork")]
pub fn sched_process_fork(ctx: BtfTracePointContext) -> i32 {
    let (parent, child) = (Task::new(ctx.arg(0)), Task::new(ctx.arg(1)));
    let Some(skill) = subject::of(parent).filter(|skill| skill.governs()) else { return 0 };
    if label::of(child).is_none() {
        let lineage = subject::labelled().map_or(0, |parent| parent.lineage);
        let _ = label::give(child, skill, Origin::Parent, lineage);
    }
    let cgroup = |task: Task| task.cgroup().and_then(Cgroup::id).unwrap_or(0);
    let (from, to) = (cgroup(parent), cgroup(child));
    if from != to {
        tell_of_move(Kind::Move, skill, Reason::LabelStays, child, to);
    }
    0
}

/// Tells that a task came into a cgroup.
#[inline(always)]
fn tell_of_move(kind: Kind, skill: SkillId, reason: Reason, task: Task, to: u64) {
    let decision = Decision { verdict: Verdict::Allow, reason: reason.into(), rule: RuleId::NONE, report: true };
    report::moved(kind, skill, InForce::now().generation, &decision, task, to);
}

/// `security_task_free(task)`: the address may become another task's.
#[lsm(hook = "task_free")]
pub fn task_free(ctx: LsmContext) -> i32 {
    label::take(Task::new(ctx.arg(0)));
    verdict::pass()
}

/// A cgroup that the manifest names, or below a governed one, is governed before anything can enter it: the tracepoint
/// (`cgroup_mkdir(cgrp, path)`) runs under `cgroup_mutex`.
#[btf_tracepoint(function = "cgroup_mkdir")]
pub fn cgroup_mkdir(ctx: BtfTracePointContext) -> i32 {
    label_cgroup(Cgroup::new(ctx.arg(0)), ctx.arg(1));
    0
}

/// Gives a new cgroup the label that its path has in the manifest, else its parent's.
#[inline(always)]
fn label_cgroup(cgroup: Cgroup, path: *const u8) -> Option<()> {
    if !cgroup.is_unified() {
        return None;
    }
    let id = cgroup.id()?;
    let parent = cgroup.parent()?.id()?;
    // Whether it is named is asked of the label from here on: of the option LLVM makes arithmetic on a pointer.
    let label = if let Some(label) = named(id, path) {
        label
    // SAFETY: an update replaces the element.
    } else if let Some(label) = unsafe { CGROUPS.get(parent) } {
        *label
    } else if let Some(label) = cgroup.parent().and_then(|above| subject::nearest_governed(above, parent)) {
        label
    } else {
        tell_of_cgroup(Kind::CgroupMade, id, path);
        return None;
    };
    if CGROUPS.insert(id, label, 0).is_err() {
        // No room, but governed all the same: the slot sends what is in it to the cgroups above.
        if label.named == id {
            let _ = CGROUP_SPARE.insert(id, label, 0);
        }
        set(CGROUP_OVERFLOW.get_ptr_mut(cgroup_filter_slot(id)));
    }
    set(CGROUP_FILTER.get_ptr_mut(cgroup_filter_slot(id)));
    if label.named == id && label.waits_for_exec() {
        tell_of_cgroup(Kind::CgroupMade, id, path);
    }
    Some(())
}

/// The label of a new cgroup that the manifest names, or whose unit it does.
#[allow(clippy::needless_borrows_for_generic_args, reason = "a key by value would lie on the stack")]
#[inline(always)]
fn named(id: u64, path: *const u8) -> Option<CgroupLabel> {
    let name = CGROUP_PATH.get_ptr_mut(0)?;
    // SAFETY: cgroups are made one at a time; the helper writes at most the room of `name`, with a NUL at the end.
    let read = unsafe {
        *name = CgroupName::ANY;
        bpf_probe_read_kernel_str(name.cast(), CGROUP_PATH_CAPACITY as u32, path.cast())
    };
    if read <= 0 {
        return None;
    }
    // SAFETY: an update replaces the element; the path is not written before the next cgroup is made.
    if let Some(skill) = unsafe { CGROUP_NAMES.get(&*name) } {
        return Some(CgroupLabel::new(*skill, id));
    }
    let skill = unit::skill()?;
    Some(CgroupLabel { flags: cgroup_flag::ON_EXEC, ..CgroupLabel::new(skill, id) })
}

/// Tells the daemon of a cgroup, if it wants to know.
#[allow(clippy::needless_borrows_for_generic_args, reason = "a key by value would lie on the stack")]
#[inline(always)]
fn tell_of_cgroup(kind: Kind, id: u64, path: *const u8) {
    // SAFETY: an update replaces the element.
    if unsafe { CGROUP_NAMES.get(&CgroupName::ANY) }.is_some() {
        report::cgroup(kind, id, path);
    }
}

/// Sets a slot of a filter.
#[inline(always)]
fn set(slot: Option<*mut u32>) {
    if let Some(slot) = slot {
        // SAFETY: the slot is a word that every writer sets to 1.
        unsafe { *slot = 1 };
    }
}

/// `release` runs under `cgroup_mutex`, too, when nothing can be in the cgroup any more.
#[btf_tracepoint(function = "cgroup_rmdir")]
pub fn cgroup_rmdir(ctx: BtfTracePointContext) -> i32 {
    let cgroup = Cgroup::new(ctx.arg(0));
    if cgroup.is_unified()
        && let Some(id) = cgroup.id()
    {
        // SAFETY: an update replaces the element.
        if unsafe { CGROUPS.get(id) }.is_some_and(|label| label.named == id) {
            tell_of_cgroup(Kind::CgroupGone, id, ctx.arg(1));
        }
        let _ = CGROUPS.remove(id);
        let _ = CGROUP_SPARE.remove(id);
    }
    0
}

/// `cgroup_attach_task(dst_cgrp, path, task, threadgroup)`: a process that is moved into a governed cgroup enters its skill; one
/// that is governed keeps its label, which is reported. Other threads get the label at their next act.
#[btf_tracepoint(function = "cgroup_attach_task")]
pub fn cgroup_attach_task(ctx: BtfTracePointContext) -> i32 {
    let task = Task::new(ctx.arg(2));
    let cgroup = Cgroup::new(ctx.arg(0));
    if !cgroup.is_unified() {
        return 0;
    }
    let to = cgroup.id().unwrap_or(0);
    let (skill, kind, reason) = match subject::of(task) {
        Some(skill) if !skill.governs() => return 0,
        Some(skill) => (skill, Kind::Move, Reason::LabelStays),
        None => {
            let Some(skill) = subject::of_cgroup(cgroup, to) else { return 0 };
            let _ = label::give_first(task, skill, 0);
            (skill, Kind::Enter, Reason::Entered)
        }
    };
    tell_of_move(kind, skill, reason, task, to);
    0
}

/// Looks at the open files of the process that `ENROL` names: what it may not be handed it may not bring along. Each such
/// file makes an event and is counted.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn inspect_files(ctx: *const IterTaskFile) -> i32 {
    // SAFETY: the kernel calls the program with such a context; task and file are null at the end of the iteration.
    let (task, file) = unsafe { (Task::new((*ctx).task), File::new((*ctx).file)) };
    if task.is_null() || file.is_null() {
        return 0;
    }
    let Some(request) = ENROL.get_ptr_mut(0) else { return 0 };
    // SAFETY: the daemon runs one iteration at a time and reads the counts after it has ended.
    let (skill, concerned) = unsafe {
        // The standard streams are the operator's choice.
        ((*request).skill, task.tgid() == (*request).tgid && (*ctx).fd > 2)
    };
    if !concerned {
        return 0;
    }
    let rules = InForce::now();
    // The daemon's own thread runs this, so the room to decide in is its.
    let Some((decision, kind, object)) = opened_elsewhere(&rules, skill, file) else { return 0 };
    if report::found(kind, skill, rules.generation, &decision, task, &object, true) {
        // SAFETY: as above.
        unsafe { (*request).violations += 1 };
    }
    0
}

/// The context of `iter/task_file`: `struct bpf_iter__task_file`.
#[repr(C)]
pub struct IterTaskFile {
    pub meta: *const IterMeta,
    pub task: *const c_void,
    pub fd: u32,
    pub file: *const c_void,
}

/// What the contexts of iterators begin with: `struct bpf_iter_meta`.
#[repr(C)]
pub struct IterMeta {
    pub seq: *mut c_void,
}

/// The context of `iter/task`: `struct bpf_iter__task`.
#[repr(C)]
pub struct IterTask {
    meta: *const c_void,
    task: *const c_void,
}

/// Labels the threads of the process that `ENROL` names, or what is in governed cgroups. The daemon runs it until a pass finds no thread without the label,
/// because a thread that was being made during the first pass may have been missed; from then on `task_alloc` passes
/// the label on.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn enrol(ctx: *const IterTask) -> i32 {
    // SAFETY: the kernel calls the program with such a context; the task is null at the end of the iteration.
    let task = Task::new(unsafe { (*ctx).task });
    if task.is_null() {
        return 0;
    }
    let Some(request) = ENROL.get_ptr_mut(0) else { return 0 };
    // SAFETY: the daemon runs one iteration at a time and reads the counts after it has ended.
    unsafe {
        if (*request).query == Enrolment::BY_CGROUP {
            by_cgroup(task, request);
            return 0;
        }
        if task.tgid() != (*request).tgid {
            return 0;
        }
        (*request).seen += 1;
        let skill = (*request).skill;
        match subject::of(task) {
            Some(own) if own == skill && (*request).query == Enrolment::LABEL => {}
            Some(own) if own.governs() => (*request).refused += 1,
            _ if (*request).query != Enrolment::LABEL => {}
            _ if label::give(task, skill, Origin::Enrolled, 0) => {
                (*request).labelled += 1;
            }
            _ => (*request).failed += 1,
        }
    }
    0
}

/// Labels a task without a label by its cgroup.
///
/// # Safety
/// `request` must be the element of `ENROL`, while the daemon waits for the iteration.
#[inline(always)]
unsafe fn by_cgroup(task: Task, request: *mut Enrolment) -> Option<()> {
    if label::of(task).is_some() {
        return None;
    }
    let cgroup = task.cgroup()?;
    let skill = subject::of_cgroup(cgroup, cgroup.id()?)?;
    let labelled = label::give_first(task, skill, stage::UNTOLD);
    // SAFETY: as the caller promised.
    unsafe {
        if labelled {
            (*request).labelled += 1;
        } else {
            (*request).failed += 1;
        }
    }
    Some(())
}

/// Gives each task the label that it has in the programs before these. While a task is iterated over it cannot go away, so a
/// label found at its address is its own. A label that is there already is right if an exec led to it; otherwise it came
/// from the cgroup, because the programs did not know better yet.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
pub extern "C" fn inherit(ctx: *const IterTask) -> i32 {
    // SAFETY: the kernel calls the program with such a context; the task is null at the end of the iteration.
    let task = Task::new(unsafe { (*ctx).task });
    if task.is_null() {
        return 0;
    }
    let Some(request) = ENROL.get_ptr_mut(0) else { return 0 };
    // SAFETY: an update replaces the element; its beginning is the same in every layout.
    let Some(before) = (unsafe { TASKS_BEFORE.get(task.key()) }) else { return 0 };
    let inherited = *before;
    // SAFETY: the daemon runs one iteration at a time and reads the counts after it has ended. Of a label that is in use only
    // whole words are written, and the task reads each of them once.
    unsafe {
        (*request).seen += 1;
        if let Some(label) = label::of(task) {
            if (*label).skill != inherited.skill && (*label).origin != Origin::Entrypoint as u32 {
                (*label).skill = inherited.skill;
                (*label).origin = inherited.origin;
                (*label).pending = inherited.pending;
                (*request).labelled += 1;
            }
        } else if label::give(task, inherited.skill, Origin::Parent, 0) {
            if let Some(label) = label::of(task) {
                (*label).origin = inherited.origin;
                (*label).pending = inherited.pending;
            }
            (*request).labelled += 1;
        } else {
            (*request).failed += 1;
        }
    }
    0
}
