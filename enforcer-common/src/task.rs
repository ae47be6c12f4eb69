//! Labels of tasks and cgroups.

use crate::{
    decide::Findings,
    ids::{ObjectId, SkillId},
};

/// How a task came into its skill.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was found in a governed cgroup.
    Cgroup = 1,
    /// Its parent was in the skill when it was made.
    Parent = 2,
    /// The daemon put it there (`enforcer run`, `enforcer attach`, the daemon itself).
    Enrolled = 3,
    /// It executed the skill's entrypoint.
    Entrypoint = 4,
}

/// The value of the `TASKS` map; its key is the address of the `task_struct`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The skill.
    pub skill: SkillId,
    /// An [`Origin`].
    pub origin: u32,
    /// The skill that the exec under way leads to, 0 when it leads to none.
    pub pending: SkillId,
    /// Bits of [`stage`].
    pub stage: u32,
    /// Room for the decision that the task waits for; only the task itself uses it.
    pub findings: Findings,
    /// The file that the exec under way, or the last one, made the program.
    pub program: ObjectId,
}

/// Bits of [`Label::stage`]: where a task is on its way through an exec or a mapping. Only the task itself uses them.
pub mod stage {
    /// The exec has happened, and the kernel maps the program.
    pub const EXECUTING: u32 = 1;
    /// The exec under way leads to a dynamic loader.
    pub const TO_LOADER: u32 = 1 << 1;
    /// A dynamic loader runs, and has not mapped the program that it is asked to run.
    pub const LOADER: u32 = 1 << 2;
    /// The first of the two programs on `mmap_file` has run: it leaves the verdict to the second, or has given its own.
    pub const LOOKED: u32 = 1 << 3;
    /// The first has left the verdict to the second, which is to measure the file.
    pub const TO_MEASURE: u32 = 1 << 4;
    /// The second program ran before the first.
    pub const EARLY: u32 = 1 << 5;
}

impl Label {
    /// A label of a task that is in no exec.
    #[must_use]
    #[inline(always)]
    pub const fn new(skill: SkillId, origin: Origin) -> Self {
        Self {
            skill,
            origin: origin as u32,
            pending: SkillId(0),
            stage: 0,
            findings: Findings::EMPTY,
            program: ObjectId { ino: 0, dev: 0, generation: 0 },
        }
    }
}

/// The value of the `CGROUPS` map; its key is the cgroup's kernfs id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLabel {
    /// The skill of processes in this cgroup.
    pub skill: SkillId,
    /// 1 when the manifest names this very cgroup, 0 when it belongs to the skill as a descendant.
    pub named: u32,
}

/// How many slots `CGROUP_FILTER` has; a power of two.
pub const CGROUP_FILTER_SLOTS: u32 = 1 << 16;

/// The slot of a cgroup in `CGROUP_FILTER`. Kernfs gives ids out in sequence, so the low bits spread best.
#[must_use]
#[inline(always)]
pub const fn cgroup_filter_slot(cgroup: u64) -> u32 {
    (cgroup as u32) & (CGROUP_FILTER_SLOTS - 1)
}

/// What the enrolment iterator shall do, the only element of `ENROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolment {
    /// The process whose threads are to be labelled, in the initial pid namespace.
    pub tgid: u32,
    /// The label.
    pub skill: SkillId,
    /// 1 to look only: nothing is labelled, and `refused` counts the threads that are in any skill.
    pub query: u32,
    /// Out: threads that have the label now and had none.
    pub labelled: u32,
    /// Out: threads that were in another skill, and stayed there.
    pub refused: u32,
    /// Out: threads for which the map had no room.
    pub failed: u32,
    /// Out: threads of the process that were seen.
    pub seen: u32,
    /// Out: open files that the skill may not have as they are open.
    pub violations: u32,
}

const _: () = assert!(size_of::<Label>() == 64);
const _: () = assert!(size_of::<CgroupLabel>() == 8);
const _: () = assert!(size_of::<Enrolment>() == 32);
