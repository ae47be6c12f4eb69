//! The maps, but for those of [`crate::label`]. Their names are those of `enforcer_common::names::map`; the daemon sets the sizes that a policy needs.

use core::{ffi::c_void, ptr::null};

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    btf_maps::{Array, HashMap, InodeStorage, LpmTrie, PerCpuArray, RingBuf},
    macros::btf_map,
};
use enforcer_common::{
    content::{Content, Measurement},
    event::Event,
    host::HostFacts,
    ids::{Digest, ObjectId, SkillId},
    net::{AbstractKey, AbstractRule, NetKey, PortSet, SocketLabel},
    rules::{
        BinaryKey, BinaryRule, Budget, EntrypointRule, OBJECT_FILTER_WORDS, ObjectKey, ObjectRule, PARENT_LIMIT,
        PolicyState, SkillConf, Versioned,
    },
    task::{CGROUP_FILTER_SLOTS, CgroupLabel, CgroupName, Enrolment, Inherited},
    unit::{PATTERN_LIMIT, Progress, UnitRule},
};

/// A socket storage that an accepted socket inherits; aya-ebpf's own has no such flag, and serves cgroup programs alone.
#[repr(C)]
pub struct SocketLabels {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const SocketLabel,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are placeholders for the loader and are never read.
unsafe impl Sync for SocketLabels {}

impl SocketLabels {
    const fn new() -> Self {
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }

    /// The map, for a helper.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut c_void {
        (&raw const *self).cast_mut().cast()
    }
}

/// Elements are allocated when they are made: the limits below are bounds, not what is used.
pub const LAZY: usize = BPF_F_NO_PREALLOC as usize;

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

/// Named cgroups, containers and units that found no room in [`CGROUPS`].
#[btf_map]
pub static CGROUP_SPARE: HashMap<u64, CgroupLabel, 65_536, LAZY> = HashMap::new();

#[btf_map]
pub static CGROUP_NAMES: HashMap<CgroupName, SkillId, 4096, LAZY> = HashMap::new();

/// An element whose skill is 0 is the end.
#[btf_map]
pub static UNIT_PATTERNS: Array<UnitRule, { PATTERN_LIMIT as usize }> = Array::new();

/// Cgroups are made one at a time, under `cgroup_mutex`.
#[btf_map]
pub static UNIT_PROGRESS: Array<Progress, 1> = Array::new();

/// Too large for the stack; cgroups are made one at a time, under `cgroup_mutex`.
#[btf_map]
pub static CGROUP_PATH: Array<CgroupName, 1> = Array::new();

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

#[btf_map]
pub static PARENTS: HashMap<Digest, u64, { PARENT_LIMIT as usize }, LAZY> = HashMap::new();

/// The daemon makes the element of a skill that has a budget.
#[btf_map]
pub static BUDGETS: HashMap<SkillId, Budget, 4096, LAZY> = HashMap::new();

/// Ports by address prefix.
pub type PortTrie = LpmTrie<NetKey, Versioned<PortSet>, 1_048_576>;

#[btf_map]
pub static DESTINATIONS: PortTrie = LpmTrie::new();

#[btf_map]
pub static LISTENERS: PortTrie = LpmTrie::new();

#[btf_map]
pub static ABSTRACT: HashMap<AbstractKey, Versioned<AbstractRule>, 65_536, LAZY> = HashMap::new();

/// The label lives with the socket and goes with it; a socket that is accepted gets its listener's.
#[btf_map]
pub static SOCKETS: SocketLabels = SocketLabels::new();

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

/// How many steps a walk over [`STEPS`] takes.
#[cfg(feature = "elder")]
pub const STEPS_AT_ONCE: u32 = 4096;

#[cfg(feature = "elder")]
#[btf_map]
pub static STEPS: Array<u8, { STEPS_AT_ONCE as usize }> = Array::new();

#[btf_map]
pub static MEASUREMENT: HashMap<u64, Measurement, 4096, LAZY> = HashMap::new();

/// A set that replaces another one goes on with its map: what was mapped before must not be forgotten.
#[btf_map]
pub static CONTENTS: InodeStorage<Content> = InodeStorage::new();

/// Goes with `CONTENTS`.
#[btf_map]
pub static LAST_VERSION: Array<u64, 1> = Array::new();

/// Slot 0 counts digests that were measured, slot 1 those that were known.
#[btf_map]
pub static MEASUREMENTS: PerCpuArray<u64, 2> = PerCpuArray::new();
