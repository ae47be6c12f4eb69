//! The maps. Their names are those of `enforcer_common::names::map`; the daemon sets the sizes that a policy needs.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, InodeStorage, LpmTrie, PerCpuArray, RingBuf},
    macros::btf_map,
};
use enforcer_common::{
    content::Content,
    event::Event,
    host::HostFacts,
    ids::{Digest, ObjectId, SkillId},
    net::{NetKey, PortSet},
    rules::{
        BinaryKey, BinaryRule, Budget, EntrypointRule, OBJECT_FILTER_WORDS, ObjectKey, ObjectRule, PolicyState,
        SkillConf, Versioned,
    },
    task::{CGROUP_FILTER_SLOTS, CgroupLabel, CgroupName, Enrolment, Inherited, Label},
};

/// Elements are allocated when they are made: the limits below are bounds, not what is used.
const LAZY: usize = BPF_F_NO_PREALLOC as usize;

/// Labels by the address of the `task_struct`: a task storage is not available to the cgroup programs before 7.x, and an
/// address is as unique as the task; `task_free` removes it.
#[btf_map]
pub static TASKS: HashMap<u64, Label, 262_144, LAZY> = HashMap::new();

/// Empty, unless the daemon puts the `TASKS` of another build in its place, whose values may be larger.
#[btf_map]
pub static TASKS_BEFORE: HashMap<u64, Inherited, 1, LAZY> = HashMap::new();

#[btf_map]
pub static CGROUPS: HashMap<u64, CgroupLabel, 65_536, LAZY> = HashMap::new();

/// Slots are only ever set: a stale one costs a lookup, a missing one would let a process out of its skill.
#[btf_map]
pub static CGROUP_FILTER: Array<u32, { CGROUP_FILTER_SLOTS as usize }> = Array::new();

/// Like [`CGROUP_FILTER`], of governed cgroups that found no room in [`CGROUPS`]: what is in them is asked by what lies above.
#[btf_map]
pub static CGROUP_OVERFLOW: Array<u32, { CGROUP_FILTER_SLOTS as usize }> = Array::new();

/// As large as [`CGROUP_NAMES`]: a path has one cgroup at a time, so there is always room for it.
#[btf_map]
pub static CGROUP_SPARE: HashMap<u64, CgroupLabel, 4096, LAZY> = HashMap::new();

#[btf_map]
pub static CGROUP_NAMES: HashMap<CgroupName, SkillId, 4096, LAZY> = HashMap::new();

#[btf_map]
pub static LAUNCHERS: HashMap<ObjectId, u32, 16, LAZY> = HashMap::new();

#[btf_map]
pub static POLICY: Array<PolicyState, 1> = Array::new();

/// A hash, because an update replaces its elements whole; those of an array are copied over in place, and a program could
/// see half of it.
#[btf_map]
pub static SKILLS: HashMap<SkillId, Versioned<SkillConf>, { SkillId::LIMIT as usize }, LAZY> = HashMap::new();

#[btf_map]
pub static BINARIES: HashMap<BinaryKey, Versioned<BinaryRule>, 1_048_576, LAZY> = HashMap::new();

#[btf_map]
pub static OBJECTS: HashMap<ObjectKey, Versioned<ObjectRule>, 1_048_576, LAZY> = HashMap::new();

#[btf_map]
pub static OBJECT_FILTER: Array<u64, { OBJECT_FILTER_WORDS as usize }> = Array::new();

#[btf_map]
pub static ENTRYPOINTS: HashMap<Digest, Versioned<EntrypointRule>, 4096, LAZY> = HashMap::new();

/// The daemon makes the element of a skill that has a budget.
#[btf_map]
pub static BUDGETS: HashMap<SkillId, Budget, 4096, LAZY> = HashMap::new();

#[btf_map]
pub static DESTINATIONS: LpmTrie<NetKey, Versioned<PortSet>, 1_048_576> = LpmTrie::new();

#[btf_map]
pub static EVENTS: RingBuf<Event, { 16 << 20 }> = RingBuf::new();

#[btf_map]
pub static DROPS: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map]
pub static ENROL: Array<Enrolment, 1> = Array::new();

#[btf_map]
pub static HOST: Array<HostFacts, 1> = Array::new();

#[btf_map]
pub static RESOLVED: HashMap<u64, ObjectId, 4096, LAZY> = HashMap::new();

#[btf_map]
pub static CONTENTS: InodeStorage<Content> = InodeStorage::new();

#[btf_map]
pub static LAST_VERSION: Array<u64, 1> = Array::new();

/// Slot 0 counts digests that were measured, slot 1 those that were known.
#[btf_map]
pub static MEASUREMENTS: PerCpuArray<u64, 2> = PerCpuArray::new();
