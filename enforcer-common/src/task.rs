//! Labels of tasks and cgroups.

use crate::{
    content::Opened,
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

/// The value of the `TASKS` map; its key is the address of the `task_struct`. It begins like [`Inherited`] in every layout.
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
    /// Not used; keeps the label free of padding.
    pub reserved: u32,
    /// The file that the task opened last for execution; only the task itself uses it.
    pub opened: Opened,
    /// The file that the exec under way, or the last one, made the program.
    pub program: ObjectId,
    /// Which of the programs that `parents` rules name this process runs, has run, or descends from: bits of
    /// `PARENTS`, one for each such content. Unknown, thus 0, for a task that was governed while it ran, until its next exec.
    pub lineage: u64,
    /// The bit that the exec under way adds.
    pub heir: u64,
    /// What a later layout may add.
    #[cfg(feature = "next-layout")]
    pub later: [u64; 2],
}

/// The beginning of a [`Label`] in every layout: what programs of another build take over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// The skill.
    pub skill: SkillId,
    /// An [`Origin`].
    pub origin: u32,
    /// The skill that the exec under way leads to, 0 when it leads to none.
    pub pending: SkillId,
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
    /// The exec under way has passed its first file, which is the one that counts for `parents`: of a script the script.
    pub const NAMED: u32 = 1 << 6;
    /// It came into its skill by its cgroup, and nobody was told: its next exec tells the daemon, which looks at what it has
    /// open.
    pub const UNTOLD: u32 = 1 << 7;
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
            reserved: 0,
            opened: Opened::NOTHING,
            program: ObjectId { ino: 0, dev: 0, generation: 0 },
            lineage: 0,
            heir: 0,
            #[cfg(feature = "next-layout")]
            later: [0; 2],
        }
    }
}

/// The value of the `CGROUPS` map; its key is the cgroup's kernfs id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CgroupLabel {
    /// The skill of processes in this cgroup.
    pub skill: SkillId,
    /// Bits of [`cgroup_flag`].
    pub flags: u32,
    /// The id of the cgroup that was named, by the manifest or by hand: this one, or one above it.
    pub named: u64,
}

impl CgroupLabel {
    /// The label of the cgroup `named`, and of those below it.
    #[must_use]
    #[inline(always)]
    pub const fn new(skill: SkillId, named: u64) -> Self {
        Self { skill, flags: 0, named }
    }

    /// Whether a task enters the skill by its next exec, and not by whatever it does first.
    #[must_use]
    #[inline(always)]
    pub const fn waits_for_exec(&self) -> bool {
        self.flags & cgroup_flag::ON_EXEC != 0
    }
}

/// Bits of [`CgroupLabel::flags`].
pub mod cgroup_flag {
    /// What a container engine or a service manager does in the cgroup, before it executes the program that is to be governed,
    /// is not governed.
    pub const ON_EXEC: u32 = 1;
}

/// The longest path of a cgroup that is governed as soon as it appears, with the NUL behind it.
pub const CGROUP_PATH_CAPACITY: usize = 256;

/// The key of `CGROUP_NAMES`: a cgroup's path from the root of its hierarchy, zeroes behind it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CgroupName(pub [u8; CGROUP_PATH_CAPACITY]);

impl CgroupName {
    /// No cgroup's path. Under this key `CGROUP_NAMES` says that the daemon wants to know of every cgroup that is made.
    pub const ANY: Self = Self([0; CGROUP_PATH_CAPACITY]);

    /// The key of a path; `None` when it is too long.
    #[must_use]
    pub fn new(path: &[u8]) -> Option<Self> {
        let mut bytes = [0; CGROUP_PATH_CAPACITY];
        let (room, _nul) = bytes.split_at_mut(CGROUP_PATH_CAPACITY - 1);
        room.get_mut(..path.len())?.copy_from_slice(path);
        Some(Self(bytes))
    }
}

/// How many cgroups are asked for a label, from a task's own towards the root, when one of them found no room in `CGROUPS`.
pub const CGROUP_ASCENT: u32 = 1024;

/// How many slots `CGROUP_FILTER` has; a power of two.
pub const CGROUP_FILTER_SLOTS: u32 = 1 << 16;

/// The slot of a cgroup in `CGROUP_FILTER`. Kernfs gives ids out in sequence, so the low bits spread best.
#[must_use]
#[inline(always)]
pub const fn cgroup_filter_slot(cgroup: u64) -> u32 {
    (cgroup as u32) & (CGROUP_FILTER_SLOTS - 1)
}

/// How many slots `TASK_FILTER` has; a power of two.
pub const TASK_FILTER_SLOTS: u32 = 1 << 16;

/// The slot of a task in `TASK_FILTER`, by the address of its `task_struct`. The addresses are those of one slab cache, in
/// strides of some kilobytes: all their bits take part.
#[must_use]
#[inline(always)]
pub const fn task_filter_slot(task: u64) -> u32 {
    (task.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as u32
}

/// What the enrolment iterator shall do, the only element of `ENROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enrolment {
    /// The process whose threads are to be labelled, in the initial pid namespace.
    pub tgid: u32,
    /// The label.
    pub skill: SkillId,
    /// What is asked: [`Self::LABEL`], [`Self::LOOK`] or [`Self::BY_CGROUP`].
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

impl Enrolment {
    /// Label the threads of the process.
    pub const LABEL: u32 = 0;
    /// Nothing is labelled, and `refused` counts the threads of the process that are in any skill.
    pub const LOOK: u32 = 1;
    /// Label whatever task has no label and is in a governed cgroup; `tgid` and `skill` say nothing.
    pub const BY_CGROUP: u32 = 2;
}

const _: () = assert!(size_of::<Label>() == if cfg!(feature = "next-layout") { 152 } else { 136 });
const _: () = assert!(size_of::<Inherited>() == 12);
const _: () = assert!(core::mem::offset_of!(Label, skill) == core::mem::offset_of!(Inherited, skill));
const _: () = assert!(core::mem::offset_of!(Label, origin) == core::mem::offset_of!(Inherited, origin));
const _: () = assert!(core::mem::offset_of!(Label, pending) == core::mem::offset_of!(Inherited, pending));
const _: () = assert!(size_of::<CgroupLabel>() == 16);
const _: () = assert!(size_of::<Enrolment>() == 32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_has_a_slot() {
        for task in [0, 1, u64::MAX, 0xffff_8881_0000_2400] {
            assert!(task_filter_slot(task) < TASK_FILTER_SLOTS);
        }
    }

    #[test]
    fn tasks_spread_over_the_slots() {
        let mut taken: [u32; 1000] =
            core::array::from_fn(|n| task_filter_slot(0xffff_8881_0000_0000 + n as u64 * 0x2580));
        taken.sort_unstable();
        let different = taken.chunk_by(PartialEq::eq).count();
        assert!(different > 950, "{different}");
    }

    #[test]
    fn a_cgroups_path_ends_with_a_nul() {
        let longest = [b'a'; CGROUP_PATH_CAPACITY - 1];
        assert_eq!(CgroupName::new(&longest).map(|name| name.0[CGROUP_PATH_CAPACITY - 1]), Some(0));
        assert_eq!(CgroupName::new(&[b'a'; CGROUP_PATH_CAPACITY]), None);
        assert_eq!(CgroupName::new(b"/a").map(|name| (name.0[1], name.0[2])), Some((b'a', 0)));
    }
}
