//! A compiled policy: what the maps shall hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
};

use enforcer_common::{
    ids::{Digest, ObjectId, RuleId, SkillId},
    net::{AbstractKey, AbstractRule, NetKey, PortSet},
    rules::{BinaryKey, BinaryRule, EntrypointRule, ObjectKey, ObjectRule, SkillConf, skill_flag},
    task::{CgroupLabel, CgroupName, cgroup_flag},
    unit::UnitRule,
};

use super::names::Scope;

/// A network prefix of a skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetPrefix {
    /// Skill and address; the bits behind the prefix are 0.
    pub key: NetKey,
    /// How many bits of the address count, 0 to 128; IPv4 prefixes count from 96.
    pub len: u32,
}

/// Where a rule stands in the manifest, for events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleText {
    /// The skill.
    pub skill: String,
    /// The key and the entry, such as `allow_delete: /srv/agent/tmp`.
    pub text: String,
}

/// A compiled policy.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// The settings of each skill.
    pub skills: HashMap<SkillId, SkillConf>,
    /// The skills' names and their `reason` texts.
    pub names: BTreeMap<SkillId, SkillText>,
    /// Allowed binaries.
    pub binaries: HashMap<BinaryKey, BinaryRule>,
    /// Path rules.
    pub objects: HashMap<ObjectKey, ObjectRule>,
    /// Skills by the digest of their entrypoint.
    pub entrypoints: HashMap<Digest, EntrypointRule>,
    /// The bits of all programs that a `parents` rule has named since the daemon started. None is given to another.
    pub parents: HashMap<Digest, u64>,
    /// The paths that path rules name: what lies there may come, go and be replaced.
    pub watched: BTreeSet<PathBuf>,
    /// The paths whose binaries each skill may run, under the names that events may show.
    pub pinned: HashMap<SkillId, HashSet<PathBuf>>,
    /// Network rules.
    pub destinations: HashMap<NetPrefix, PortSet>,
    /// Rules of `listen`.
    pub listeners: HashMap<NetPrefix, PortSet>,
    /// Abstract names of unix sockets that may be reached.
    pub abstract_names: HashMap<AbstractKey, AbstractRule>,
    /// The skills that list names, with what their destinations are made of.
    pub scopes: BTreeMap<SkillId, Scope>,
    /// Governed cgroups by id, descendants included.
    pub cgroups: HashMap<u64, CgroupLabel>,
    /// The skills of the cgroups that the manifest names, by path, whether or not they exist.
    pub cgroup_names: HashMap<CgroupName, SkillId>,
    /// The patterns of units, in the order of the skills' names.
    pub units: Vec<UnitRule>,
    /// Whether the daemon has to know of cgroups that are made.
    pub curious: bool,
    /// Programs that service managers execute before the one that is meant.
    pub launchers: Vec<ObjectId>,
    /// How far each governed cgroup lies below the one that the manifest names; the nearer one governs.
    pub cgroup_depths: HashMap<u64, u32>,
    /// The rules behind the ids.
    pub rules: HashMap<RuleId, RuleText>,
}

/// What events say of a skill.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkillText {
    /// The name.
    pub name: String,
    /// The manifest's `reason`, handed to the agent's owner with each denial.
    pub reason: Option<String>,
    /// `enforce` or `audit`.
    pub mode: &'static str,
}

impl Ruleset {
    /// Puts cgroups into a skill; `found` has their ids and how far each lies below the one that is named. The narrower cgroup
    /// wins: it is the one whose name is nearer.
    pub fn add_cgroups(&mut self, skill: SkillId, found: &[(u64, u32)]) {
        self.add(skill, found, 0);
    }

    /// The same for a container or a unit, whose manager acts in its cgroup before the program that is meant does.
    pub fn add_workload(&mut self, skill: SkillId, found: &[(u64, u32)]) {
        self.add(skill, found, cgroup_flag::ON_EXEC);
    }

    fn add(&mut self, skill: SkillId, found: &[(u64, u32)], flags: u32) {
        let Some((named, _)) = found.iter().find(|(_, depth)| *depth == 0) else { return };
        for (id, depth) in found {
            let nearest = self.cgroup_depths.entry(*id).or_insert(u32::MAX);
            if depth < nearest {
                *nearest = *depth;
                self.cgroups.insert(*id, CgroupLabel { flags, ..CgroupLabel::new(skill, *named) });
            }
        }
    }

    /// Whether the maps would hold the same.
    #[must_use]
    pub fn same_rules(&self, other: &Self) -> bool {
        self.skills == other.skills
            && self.binaries == other.binaries
            && self.objects == other.objects
            && self.destinations == other.destinations
            && self.listeners == other.listeners
            && self.abstract_names == other.abstract_names
            && self.entrypoints == other.entrypoints
            && self.parents == other.parents
            && self.cgroups == other.cgroups
            && self.cgroup_names == other.cgroup_names
            && self.units == other.units
            && self.curious == other.curious
            && self.launchers == other.launchers
    }

    /// Whether connections or listening sockets that this policy allows may be none that `next` allows.
    #[must_use]
    pub fn network_differs(&self, next: &Self) -> bool {
        const NETWORK: u32 = skill_flag::CONNECT_ANY | skill_flag::LISTEN_ANY | skill_flag::AUDIT;
        let flags = |of: &Self| -> BTreeMap<SkillId, u32> {
            of.skills.iter().map(|(skill, conf)| (*skill, conf.flags & NETWORK)).collect()
        };
        let lost = |(key, rule): (&ObjectKey, &ObjectRule)| {
            rule.connect != RuleId::NONE && next.objects.get(key).is_none_or(|now| now.connect == RuleId::NONE)
        };
        self.destinations != next.destinations
            || self.listeners != next.listeners
            || self.abstract_names != next.abstract_names
            || flags(self) != flags(next)
            || self.objects.iter().any(lost)
    }

    /// How many rules of all kinds there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.binaries.len() + self.objects.len() + self.destinations.len() + self.abstract_names.len()
    }

    /// Whether nothing is allowed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
