//! A compiled policy: what the maps shall hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::BuildHasher,
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use enforcer_common::{
    ids::{Digest, ObjectId, RuleId, SkillId},
    net::{AbstractKey, AbstractRule, NetKey, PortSet},
    rules::{BinaryKey, BinaryRule, EntrypointRule, ObjectKey, ObjectRule, SkillConf, action, skill_flag},
    task::{CgroupLabel, CgroupName, cgroup_flag},
    unit::UnitRule,
};

use foldhash::fast::RandomState;

use super::names::Scope;

/// A network prefix of a skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetPrefix {
    /// Skill and address; the bits behind the prefix are 0.
    pub key: NetKey,
    /// How many bits of the address count, 0 to 128; IPv4 prefixes count from 96.
    pub len: u32,
}

/// Rules of which there may be very many. Two such tables that were made alike have their elements in the same order, so that comparing
/// them reads memory from the beginning to the end.
pub type Rules<K, V> = HashMap<K, V, Hashing>;

/// One way of hashing for all tables of a process, and another one for each process: addresses come from name servers, and nobody there
/// shall know which of them collide.
#[derive(Clone, Debug)]
pub struct Hashing(RandomState);

impl Default for Hashing {
    fn default() -> Self {
        static SEED: OnceLock<RandomState> = OnceLock::new();
        Self(SEED.get_or_init(RandomState::default).clone())
    }
}

impl BuildHasher for Hashing {
    type Hasher = <RandomState as BuildHasher>::Hasher;

    fn build_hasher(&self) -> Self::Hasher {
        self.0.build_hasher()
    }
}

/// Where a rule stands in the manifest, for events.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleText {
    /// The skill.
    pub skill: Arc<str>,
    /// The key and the entry, such as `allow_delete: /srv/agent/tmp`.
    pub text: Arc<str>,
}

/// A compiled policy.
#[derive(Clone, Debug, Default)]
pub struct Ruleset {
    /// The settings of each skill.
    pub skills: HashMap<SkillId, SkillConf>,
    /// The skills' names and their `reason` texts.
    pub names: BTreeMap<SkillId, SkillText>,
    /// Allowed binaries.
    pub binaries: Rules<BinaryKey, BinaryRule>,
    /// Path rules.
    pub objects: Rules<ObjectKey, ObjectRule>,
    /// Skills by the digest of their entrypoint.
    pub entrypoints: HashMap<Digest, EntrypointRule>,
    /// The bits of all programs that a `parents` rule has named since the daemon started. None is given to another.
    pub parents: HashMap<Digest, u64>,
    /// The paths that path rules name: what lies there may come, go and be replaced.
    pub watched: BTreeSet<PathBuf>,
    /// The paths whose binaries each skill may run, under the names that events may show.
    pub pinned: HashMap<SkillId, HashSet<PathBuf>>,
    /// Network rules.
    pub destinations: Rules<NetPrefix, PortSet>,
    /// Rules of `listen`.
    pub listeners: Rules<NetPrefix, PortSet>,
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
    pub name: Arc<str>,
    /// The manifest's `reason`, handed to the agent's owner with each denial.
    pub reason: Option<Arc<str>>,
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
            && self.same_beside_rules(other)
    }

    /// Whether what is no rule would be the same in the maps.
    #[must_use]
    pub fn same_beside_rules(&self, other: &Self) -> bool {
        self.parents == other.parents
            && self.cgroups == other.cgroups
            && self.cgroup_names == other.cgroup_names
            && self.units == other.units
            && self.curious == other.curious
            && self.launchers == other.launchers
    }

    /// Whether connections or listening sockets that this policy allows may be none that `next` allows.
    #[must_use]
    pub fn network_differs(&self, next: &Self) -> bool {
        const NETWORK: u32 =
            skill_flag::CONNECT_ANY | skill_flag::LISTEN_ANY | skill_flag::AUDIT | skill_flag::PROTECTS;
        let settings = |of: &Self| -> BTreeMap<SkillId, (u32, u32)> {
            let of_one = |conf: &SkillConf| (conf.flags & NETWORK, conf.require_2fa & action::CONNECT);
            of.skills.iter().map(|(skill, conf)| (*skill, of_one(conf))).collect()
        };
        let has = |of: &Self, key: &ObjectKey, rule: fn(&ObjectRule) -> RuleId| {
            of.objects.get(key).is_some_and(|object| rule(object) != RuleId::NONE)
        };
        let lost = |key| has(self, key, |object| object.connect) && !has(next, key, |object| object.connect);
        let shut = |key| has(next, key, |object| object.protect) && !has(self, key, |object| object.protect);
        self.destinations != next.destinations
            || self.listeners != next.listeners
            || self.abstract_names != next.abstract_names
            || settings(self) != settings(next)
            || self.objects.keys().any(lost)
            || next.objects.keys().any(shut)
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

#[cfg(test)]
mod tests {
    use enforcer_common::{
        ids::ObjectId,
        net::{Address, PortRule},
    };

    use super::*;

    /// What makes a policy another one.
    type Change<'a> = &'a dyn Fn(&mut Ruleset);

    const SKILL: SkillId = SkillId(1);

    /// A directory of which rules say something.
    fn object(rule: ObjectRule) -> (ObjectKey, ObjectRule) {
        (ObjectKey::new(SKILL, ObjectId { ino: 7, dev: 8, generation: 9 }), rule)
    }

    fn prefix(last: u8) -> NetPrefix {
        NetPrefix { key: NetKey { skill: SKILL, address: Address::from_v4([192, 0, 2, last]) }, len: 128 }
    }

    /// A skill with one rule of each kind.
    fn before() -> Ruleset {
        let ports = PortSet { count: 1, ..PortSet::default() };
        let name = AbstractKey::new(SKILL, b"name").expect("a name");
        let rule = ObjectRule { connect: RuleId(1), allow_write: RuleId(2), ..ObjectRule::default() };
        Ruleset {
            skills: HashMap::from([(SKILL, SkillConf::default())]),
            destinations: [(prefix(1), ports)].into_iter().collect(),
            listeners: [(prefix(1), ports)].into_iter().collect(),
            abstract_names: HashMap::from([(name, AbstractRule { rule: RuleId(3) })]),
            objects: [object(rule)].into_iter().collect(),
            ..Ruleset::default()
        }
    }

    fn conf(set: &mut Ruleset) -> &mut SkillConf {
        set.skills.get_mut(&SKILL).expect("the skill")
    }

    fn rule(set: &mut Ruleset) -> &mut ObjectRule {
        set.objects.values_mut().next().expect("the object")
    }

    fn differs(change: impl Fn(&mut Ruleset)) -> bool {
        let mut next = before();
        change(&mut next);
        before().network_differs(&next)
    }

    #[test]
    fn all_tables_hash_alike() {
        assert_eq!(Hashing::default().hash_one(7), Hashing::default().hash_one(7));
    }

    #[test]
    fn what_may_end_a_connection_is_a_difference_of_the_network() {
        let other = PortRule { port: 1, ..PortRule::default() };
        let changes: [(&str, Change<'_>); 17] = [
            ("no destination", &|next| next.destinations.clear()),
            ("another destination", &|next| {
                next.destinations = [(prefix(2), PortSet::default())].into_iter().collect();
            }),
            ("other ports", &|next| next.destinations.values_mut().for_each(|set| set.ports[0] = other)),
            ("no listener", &|next| next.listeners.clear()),
            ("another listener", &|next| next.listeners = [(prefix(2), PortSet::default())].into_iter().collect()),
            ("listening at other ports", &|next| next.listeners.values_mut().for_each(|set| set.ports[0] = other)),
            ("no abstract name", &|next| next.abstract_names.clear()),
            ("no skill", &|next| next.skills.clear()),
            ("a star", &|next| conf(next).flags |= skill_flag::CONNECT_ANY),
            ("a star of listen", &|next| conf(next).flags |= skill_flag::LISTEN_ANY),
            ("another mode", &|next| conf(next).flags |= skill_flag::AUDIT),
            ("something protected", &|next| conf(next).flags |= skill_flag::PROTECTS),
            ("approvals of connects", &|next| conf(next).require_2fa |= action::CONNECT),
            ("no object", &|next| next.objects.clear()),
            ("no rule for the socket", &|next| rule(next).connect = RuleId::NONE),
            ("a socket that is protected", &|next| rule(next).protect = RuleId(4)),
            ("another object that is protected", &|next| {
                let (key, rule) = object(ObjectRule { protect: RuleId(4), ..ObjectRule::default() });
                let key = ObjectKey::new(key.skill, ObjectId { ino: 1, ..key.object });
                next.objects.insert(key, rule);
            }),
        ];
        for (what, change) in changes {
            assert!(differs(change), "{what}");
        }
    }

    #[test]
    fn nothing_else_is_one() {
        let changes: [(&str, Change<'_>); 7] = [
            ("nothing", &|_| {}),
            ("what is reported", &|next| conf(next).flags |= skill_flag::REPORT_ALLOWED),
            ("approvals of deletes", &|next| conf(next).require_2fa |= action::DELETE),
            ("another rule for the socket", &|next| rule(next).connect = RuleId(5)),
            ("a rule for writing", &|next| rule(next).allow_write = RuleId::NONE),
            ("more sockets", &|next| {
                let (key, rule) = object(ObjectRule { connect: RuleId(4), ..ObjectRule::default() });
                let key = ObjectKey::new(key.skill, ObjectId { ino: 1, ..key.object });
                next.objects.insert(key, rule);
            }),
            ("the paths to watch", &|next| next.watched = BTreeSet::from(["/etc".into()])),
        ];
        for (what, change) in changes {
            assert!(!differs(change), "{what}");
        }
        // Nor is what is not protected any more.
        let mut before = before();
        rule(&mut before).protect = RuleId(4);
        let mut next = before.clone();
        rule(&mut next).protect = RuleId::NONE;
        assert!(!before.network_differs(&next));
    }
}
