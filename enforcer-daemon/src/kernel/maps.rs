//! Writes a compiled policy into the maps, so that at every instant one whole policy is in force.
//!
//! 1. What would not fit is an error before anything is written.
//! 2. Rules that change get their new version beside the one in force. Rules that stay the same are not touched.
//! 3. One store of the generation puts the new policy in force.
//! 4. When no program can still be in the old generation, what only that one needed is collected: before the next change, or
//!    when there is nothing else to do.

use std::{
    collections::{HashMap as StdHashMap, HashSet},
    hash::Hash,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, LpmTrie, MapData, lpm_trie::Key};
use enforcer_common::{
    LAYOUT_VERSION,
    ids::{Digest, Generation, RuleId, SkillId},
    names::map,
    net::{AbstractKey, AbstractRule, NetKey, PortSet, SKILL_BITS},
    rules::{
        BUDGET_LIMIT, BinaryKey, BinaryRule, Budget, EntrypointRule, OBJECT_FILTER_WORDS, ObjectKey, ObjectRule,
        PolicyState, SkillConf, Versioned, bpf_spin_lock, object_filter_slot,
    },
    unit::PATTERN_LIMIT,
};

use super::{Kernel, LoadError, cgroups::CgroupMaps, passing};
use crate::compile::ruleset::{NetPrefix, Ruleset};

/// How many binaries, and how many path rules, and how many network prefixes a policy may have: the sizes of the maps.
pub const MAP_LIMIT: usize = 1 << 20;

/// How many cgroups may be governed at once, and how many of them may be named.
const CGROUP_LIMIT: usize = 1 << 16;
const NAMED_LIMIT: usize = 4096;

/// Why a policy was not applied. The one in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// It does not fit.
    #[error("the policy has {count} {what}, and this build holds {limit} at the most")]
    TooMany {
        /// Rules of which kind.
        what: &'static str,
        /// How many.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The kernel refused an element.
    #[error("the kernel refused an element of map `{map}`: {cause}")]
    Map {
        /// The map.
        map: &'static str,
        /// Its words.
        cause: String,
    },
}

/// Why the policy in force could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A map could not be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map could not be read or mended.
    #[error(transparent)]
    Map(#[from] ApplyError),
}

/// A map of versioned rules.
trait RuleMap<K, V> {
    const NAME: &'static str;
    fn put(&mut self, key: &K, value: Versioned<V>) -> Result<(), aya::maps::MapError>;
    fn drop_rule(&mut self, key: &K) -> Result<(), aya::maps::MapError>;
    fn entries(&self) -> Result<Vec<(K, Versioned<V>)>, aya::maps::MapError>;
}

impl RuleMap<SkillId, SkillConf> for HashMap<MapData, SkillId, Versioned<SkillConf>> {
    const NAME: &'static str = map::SKILLS;
    fn put(&mut self, key: &SkillId, value: Versioned<SkillConf>) -> Result<(), aya::maps::MapError> {
        self.insert(key, value, 0)
    }
    fn drop_rule(&mut self, key: &SkillId) -> Result<(), aya::maps::MapError> {
        self.remove(key)
    }
    fn entries(&self) -> Result<Vec<(SkillId, Versioned<SkillConf>)>, aya::maps::MapError> {
        self.iter().collect()
    }
}

impl RuleMap<BinaryKey, BinaryRule> for HashMap<MapData, BinaryKey, Versioned<BinaryRule>> {
    const NAME: &'static str = map::BINARIES;
    fn put(&mut self, key: &BinaryKey, value: Versioned<BinaryRule>) -> Result<(), aya::maps::MapError> {
        self.insert(key, value, 0)
    }
    fn drop_rule(&mut self, key: &BinaryKey) -> Result<(), aya::maps::MapError> {
        self.remove(key)
    }
    fn entries(&self) -> Result<Vec<(BinaryKey, Versioned<BinaryRule>)>, aya::maps::MapError> {
        self.iter().collect()
    }
}

impl RuleMap<ObjectKey, ObjectRule> for HashMap<MapData, ObjectKey, Versioned<ObjectRule>> {
    const NAME: &'static str = map::OBJECTS;
    fn put(&mut self, key: &ObjectKey, value: Versioned<ObjectRule>) -> Result<(), aya::maps::MapError> {
        self.insert(key, value, 0)
    }
    fn drop_rule(&mut self, key: &ObjectKey) -> Result<(), aya::maps::MapError> {
        self.remove(key)
    }
    fn entries(&self) -> Result<Vec<(ObjectKey, Versioned<ObjectRule>)>, aya::maps::MapError> {
        self.iter().collect()
    }
}

impl RuleMap<Digest, EntrypointRule> for HashMap<MapData, Digest, Versioned<EntrypointRule>> {
    const NAME: &'static str = map::ENTRYPOINTS;
    fn put(&mut self, key: &Digest, value: Versioned<EntrypointRule>) -> Result<(), aya::maps::MapError> {
        self.insert(key, value, 0)
    }
    fn drop_rule(&mut self, key: &Digest) -> Result<(), aya::maps::MapError> {
        self.remove(key)
    }
    fn entries(&self) -> Result<Vec<(Digest, Versioned<EntrypointRule>)>, aya::maps::MapError> {
        self.iter().collect()
    }
}

/// The trie of `listen`, beside that of the destinations.
struct Listeners(LpmTrie<MapData, NetKey, Versioned<PortSet>>);

impl RuleMap<NetPrefix, PortSet> for Listeners {
    const NAME: &'static str = map::LISTENERS;
    fn put(&mut self, key: &NetPrefix, value: Versioned<PortSet>) -> Result<(), aya::maps::MapError> {
        self.0.put(key, value)
    }
    fn drop_rule(&mut self, key: &NetPrefix) -> Result<(), aya::maps::MapError> {
        self.0.drop_rule(key)
    }
    fn entries(&self) -> Result<Vec<(NetPrefix, Versioned<PortSet>)>, aya::maps::MapError> {
        self.0.entries()
    }
}

impl RuleMap<AbstractKey, AbstractRule> for HashMap<MapData, AbstractKey, Versioned<AbstractRule>> {
    const NAME: &'static str = map::ABSTRACT;
    fn put(&mut self, key: &AbstractKey, value: Versioned<AbstractRule>) -> Result<(), aya::maps::MapError> {
        self.insert(key, value, 0)
    }
    fn drop_rule(&mut self, key: &AbstractKey) -> Result<(), aya::maps::MapError> {
        self.remove(key)
    }
    fn entries(&self) -> Result<Vec<(AbstractKey, Versioned<AbstractRule>)>, aya::maps::MapError> {
        self.iter().collect()
    }
}

impl RuleMap<NetPrefix, PortSet> for LpmTrie<MapData, NetKey, Versioned<PortSet>> {
    const NAME: &'static str = map::DESTINATIONS;
    fn put(&mut self, key: &NetPrefix, value: Versioned<PortSet>) -> Result<(), aya::maps::MapError> {
        self.insert(&Key::new(SKILL_BITS + key.len, key.key), value, 0)
    }
    fn drop_rule(&mut self, key: &NetPrefix) -> Result<(), aya::maps::MapError> {
        self.remove(&Key::new(SKILL_BITS + key.len, key.key))
    }
    fn entries(&self) -> Result<Vec<(NetPrefix, Versioned<PortSet>)>, aya::maps::MapError> {
        let prefix = |key: Key<NetKey>| NetPrefix { key: key.data(), len: key.prefix_len() - SKILL_BITS };
        self.iter().map(|entry| entry.map(|(key, value)| (prefix(key), value))).collect()
    }
}

/// The rules of one kind that a reload changes: key, what is in force, what comes.
type Changes<K, V> = Vec<(K, Option<V>, Option<V>)>;

fn changes<K: Copy + Eq + Hash, V: Copy + PartialEq>(old: &StdHashMap<K, V>, new: &StdHashMap<K, V>) -> Changes<K, V> {
    let gone = old.iter().filter(|(k, _)| !new.contains_key(k)).map(|(k, v)| (*k, Some(*v), None));
    let come = new.iter().filter(|(k, v)| old.get(k) != Some(v)).map(|(k, v)| (*k, old.get(k).copied(), Some(*v)));
    gone.chain(come).collect()
}

/// Writes both versions of each change.
fn stage<K, V: Copy + Default, M: RuleMap<K, V>>(
    map: &mut M,
    changes: &Changes<K, V>,
    current: Generation,
    next: Generation,
) -> Result<(), ApplyError> {
    for (key, old, new) in changes {
        map.put(key, Versioned::change(current, *old, next, *new))
            .map_err(|e| ApplyError::Map { map: M::NAME, cause: full_or(&e) })?;
    }
    Ok(())
}

/// The rules that the generation after a change does not have any more.
fn gone<K: Copy, V>(changes: &Changes<K, V>) -> Vec<K> {
    changes.iter().filter(|(_, _, new)| new.is_none()).map(|(key, _, _)| *key).collect()
}

/// Collects rules that no generation needs.
fn collect<K, V, M: RuleMap<K, V>>(map: &mut M, gone: &[K]) {
    for key in gone {
        // An element that is not there is as good as collected.
        let _ = map.drop_rule(key);
    }
}

/// Takes back what an aborted reload staged: the next one will have the same generation, and does not write what it does not
/// change.
fn take_back<K, V: Copy + Default, M: RuleMap<K, V>>(map: &mut M, changes: &Changes<K, V>, current: Generation) {
    for (key, old, _) in changes {
        let outcome = match old {
            Some(_) => map.put(key, Versioned::change(Generation(0), None, current, *old)),
            None => map.drop_rule(key),
        };
        if let (Err(e), Some(_)) = (outcome, old) {
            tracing::error!("map `{}`: a rule of an aborted reload could not be taken back: {}", M::NAME, full_or(&e));
        }
    }
}

/// The rules of a map that are in force. What a reload left that did not come to its end is taken back, so that it cannot come
/// to life with the next one.
fn recover<K, V, M>(map: &mut M, current: Generation) -> Result<StdHashMap<K, V>, ApplyError>
where
    K: Copy + Eq + Hash,
    V: Copy + Default + PartialEq,
    M: RuleMap<K, V>,
{
    let entries = map.entries().map_err(|e| ApplyError::Map { map: M::NAME, cause: full_or(&e) })?;
    let mut rules = StdHashMap::with_capacity(entries.len());
    let mut unfinished: Changes<K, V> = vec![];
    for (key, value) in entries {
        let rule = value.at(current).copied();
        if rule.is_none() || value.versions.iter().any(|version| version.from > current) {
            unfinished.push((key, rule, None));
        }
        if let Some(rule) = rule {
            rules.insert(key, rule);
        }
    }
    if !unfinished.is_empty() {
        // A program may still be in the generation before.
        passing::wait(Instant::now());
        take_back(map, &unfinished, current);
    }
    Ok(rules)
}

/// The policy maps, and what is in them.
pub struct PolicyMaps {
    policy: Array<MapData, PolicyState>,
    skills: HashMap<MapData, SkillId, Versioned<SkillConf>>,
    binaries: HashMap<MapData, BinaryKey, Versioned<BinaryRule>>,
    objects: HashMap<MapData, ObjectKey, Versioned<ObjectRule>>,
    object_filter: Array<MapData, u64>,
    /// What is in [`Self::object_filter`].
    filter_words: Vec<u64>,
    destinations: LpmTrie<MapData, NetKey, Versioned<PortSet>>,
    listeners: Listeners,
    abstract_names: HashMap<MapData, AbstractKey, Versioned<AbstractRule>>,
    entrypoints: HashMap<MapData, Digest, Versioned<EntrypointRule>>,
    parents: HashMap<MapData, Digest, u64>,
    budgets: HashMap<MapData, SkillId, Budget>,
    cgroups: CgroupMaps,
    generation: Generation,
    in_force: Ruleset,
    written: usize,
    passing: Option<Passing>,
}

/// What only the generation before needs, in which a program may still be.
struct Passing {
    /// When the generation after it was put in force.
    since: Instant,
    skills: Vec<SkillId>,
    binaries: Vec<BinaryKey>,
    objects: Vec<ObjectKey>,
    destinations: Vec<NetPrefix>,
    listeners: Vec<NetPrefix>,
    abstract_names: Vec<AbstractKey>,
    entrypoints: Vec<Digest>,
}

impl PolicyMaps {
    /// Opens the maps and reads the policy that is in force in them: none in those of a new set. The next policy will be newer
    /// than `generation`, too.
    ///
    /// # Errors
    /// When one of them is missing or of another type.
    pub fn open(kernel: &Kernel, generation: Generation) -> Result<Self, OpenError> {
        let mut maps = Self {
            policy: kernel.map(map::POLICY)?,
            skills: kernel.map(map::SKILLS)?,
            binaries: kernel.map(map::BINARIES)?,
            objects: kernel.map(map::OBJECTS)?,
            object_filter: kernel.map(map::OBJECT_FILTER)?,
            filter_words: vec![],
            destinations: kernel.map(map::DESTINATIONS)?,
            listeners: Listeners(kernel.map(map::LISTENERS)?),
            abstract_names: kernel.map(map::ABSTRACT)?,
            entrypoints: kernel.map(map::ENTRYPOINTS)?,
            parents: kernel.map(map::PARENTS)?,
            budgets: kernel.map(map::BUDGETS)?,
            cgroups: CgroupMaps::new(kernel)?,
            generation,
            in_force: Ruleset::default(),
            written: 0,
            passing: None,
        };
        let failed = |map| move |e: aya::maps::MapError| ApplyError::Map { map, cause: full_or(&e) };
        maps.filter_words = maps.object_filter.iter().collect::<Result<_, _>>().map_err(failed(map::OBJECT_FILTER))?;
        let current = maps.policy.get(&0, 0).map_err(failed(map::POLICY))?.generation;
        maps.generation = current.max(generation);
        maps.in_force = Ruleset {
            skills: recover(&mut maps.skills, current)?,
            binaries: recover(&mut maps.binaries, current)?,
            objects: recover(&mut maps.objects, current)?,
            destinations: recover(&mut maps.destinations, current)?,
            listeners: recover(&mut maps.listeners, current)?,
            abstract_names: recover(&mut maps.abstract_names, current)?,
            entrypoints: recover(&mut maps.entrypoints, current)?,
            parents: maps.parents.iter().collect::<Result<_, _>>().map_err(failed(map::PARENTS))?,
            cgroups: maps.cgroups.labels(),
            cgroup_names: maps.cgroups.names(),
            units: maps.cgroups.units(),
            curious: maps.cgroups.is_curious(),
            launchers: maps.cgroups.launchers(),
            ..Ruleset::default()
        };
        Ok(maps)
    }

    /// The generation in force.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// How many rules the last change of the policy wrote.
    #[must_use]
    pub fn written(&self) -> usize {
        self.written
    }

    /// The policy in force.
    #[must_use]
    pub fn in_force(&self) -> &Ruleset {
        &self.in_force
    }

    /// The cgroups that are governed now.
    #[must_use]
    pub fn governed_cgroups(&self) -> HashSet<u64> {
        self.cgroups.governed()
    }

    /// The maps of cgroups.
    pub fn cgroups(&mut self) -> &mut CgroupMaps {
        &mut self.cgroups
    }

    /// Puts `next` in force. `seen` has the cgroups that were governed before `next` was compiled. Returns the cgroups that are governed now and were not, and the generation. What holds the same
    /// rules as the policy in force is in force already: the generation stays.
    ///
    /// # Errors
    /// When it does not fit or the kernel refuses an element; then the policy in force is as it was.
    pub fn apply(
        &mut self,
        next: Ruleset,
        seen: &HashSet<u64>,
    ) -> Result<(Vec<(u64, SkillId)>, Generation), ApplyError> {
        if self.generation != Generation(0) && next.same_rules(&self.in_force) {
            self.in_force = next;
            return Ok((vec![], self.generation));
        }
        self.check(&next)?;
        self.collect();
        let old = &self.in_force;
        let skills = changes(&old.skills, &next.skills);
        let binaries = changes(&old.binaries, &next.binaries);
        let objects = changes(&old.objects, &next.objects);
        let destinations = changes(&old.destinations, &next.destinations);
        let listeners = changes(&old.listeners, &next.listeners);
        let abstract_names = changes(&old.abstract_names, &next.abstract_names);
        let entrypoints = changes(&old.entrypoints, &next.entrypoints);
        let (from, to) = (self.generation, Generation(self.generation.0 + 1));

        let cgroups = self.cgroups.stage(&next)?;
        let staged = stage(&mut self.skills, &skills, from, to)
            .and_then(|()| stage(&mut self.binaries, &binaries, from, to))
            .and_then(|()| stage(&mut self.objects, &objects, from, to))
            .and_then(|()| stage(&mut self.destinations, &destinations, from, to))
            .and_then(|()| stage(&mut self.listeners, &listeners, from, to))
            .and_then(|()| stage(&mut self.abstract_names, &abstract_names, from, to))
            .and_then(|()| stage(&mut self.entrypoints, &entrypoints, from, to))
            .and_then(|()| self.name_parents(&next))
            .and_then(|()| self.make_budgets(&next))
            .and_then(|()| self.set_object_filter(&next))
            .and_then(|()| self.flip(to));
        if let Err(error) = staged {
            // Nothing of `to` is visible yet, and nothing of it may come to life with the next reload.
            take_back(&mut self.skills, &skills, from);
            take_back(&mut self.binaries, &binaries, from);
            take_back(&mut self.objects, &objects, from);
            take_back(&mut self.destinations, &destinations, from);
            take_back(&mut self.listeners, &listeners, from);
            take_back(&mut self.abstract_names, &abstract_names, from);
            take_back(&mut self.entrypoints, &entrypoints, from);
            self.cgroups.take_back(&cgroups);
            return Err(error);
        }
        self.in_force = next;
        self.generation = to;
        self.written = skills.len()
            + binaries.len()
            + objects.len()
            + destinations.len()
            + entrypoints.len()
            + listeners.len()
            + abstract_names.len();
        // A cgroup comes after its skill is in force and goes after it is not: a label without a skill denies all.
        let new_cgroups = self.cgroups.settle(&self.in_force, &cgroups, seen);
        self.passing = Some(Passing {
            since: Instant::now(),
            skills: gone(&skills),
            binaries: gone(&binaries),
            objects: gone(&objects),
            destinations: gone(&destinations),
            listeners: gone(&listeners),
            abstract_names: gone(&abstract_names),
            entrypoints: gone(&entrypoints),
        });
        Ok((new_cgroups, to))
    }

    /// Whether a policy fits.
    ///
    /// # Errors
    /// What there is too much of.
    pub fn check(&self, next: &Ruleset) -> Result<(), ApplyError> {
        check_size("binaries", next.binaries.len())?;
        check_size("path rules", next.objects.len())?;
        check_size("network prefixes", next.destinations.len())?;
        check_size("prefixes of `listen`", next.listeners.len())?;
        check("cgroups", next.cgroups.len(), CGROUP_LIMIT)?;
        check("named cgroups", next.cgroup_names.len(), NAMED_LIMIT)?;
        check("patterns of units", next.units.len(), PATTERN_LIMIT as usize)
    }

    /// How long it is until [`Self::collect`] has something to do that needs no waiting; `None` when there is nothing.
    #[must_use]
    pub fn collects_in(&self) -> Option<Duration> {
        self.passing.as_ref().map(|passing| passing::GRACE.saturating_sub(passing.since.elapsed()))
    }

    /// Collects what only the generation before the one in force needed, once no program can be in that any more. The versions of
    /// the next change take the place of that generation's, so this comes before them.
    pub fn collect(&mut self) {
        let Some(passing) = self.passing.take() else { return };
        passing::wait(passing.since);
        collect(&mut self.skills, &passing.skills);
        collect(&mut self.binaries, &passing.binaries);
        collect(&mut self.objects, &passing.objects);
        collect(&mut self.destinations, &passing.destinations);
        collect(&mut self.listeners, &passing.listeners);
        collect(&mut self.abstract_names, &passing.abstract_names);
        collect(&mut self.entrypoints, &passing.entrypoints);
    }

    /// The one store that puts a generation in force.
    fn flip(&mut self, to: Generation) -> Result<(), ApplyError> {
        self.policy
            .set(0, PolicyState { generation: to, layout: LAYOUT_VERSION }, 0)
            .map_err(|e| ApplyError::Map { map: map::POLICY, cause: full_or(&e) })
    }

    /// Adds the programs that `parents` rules name. None is ever taken away: labels have their bits.
    fn name_parents(&mut self, next: &Ruleset) -> Result<(), ApplyError> {
        for (digest, bit) in next.parents.iter().filter(|(digest, _)| !self.in_force.parents.contains_key(*digest)) {
            let failed = |e: aya::maps::MapError| ApplyError::Map { map: map::PARENTS, cause: full_or(&e) };
            self.parents.insert(digest, bit, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes room for the counts of skills that have a budget and had none. What was counted stays over a reload.
    fn make_budgets(&mut self, next: &Ruleset) -> Result<(), ApplyError> {
        /// `BPF_NOEXIST`: an element that is there keeps its counts.
        const NOEXIST: u64 = 1;
        #[expect(clippy::large_stack_arrays, reason = "32 KiB on the engine's own stack, moved to the heap at once")]
        let empty = Box::new(Budget { lock: bpf_spin_lock { val: 0 }, count: 0, times: [0; BUDGET_LIMIT as usize] });
        for (skill, _) in next.skills.iter().filter(|(_, conf)| conf.budget_rule != RuleId::NONE) {
            match self.budgets.insert(skill, *empty, NOEXIST) {
                Err(aya::maps::MapError::SyscallError(e)) if e.io_error.kind() == std::io::ErrorKind::AlreadyExists => {
                }
                Err(e) => return Err(ApplyError::Map { map: map::BUDGETS, cause: full_or(&e) }),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Sets the filter's bits for the old and the new objects; bits that neither needs are cleared with the next policy.
    fn set_object_filter(&mut self, next: &Ruleset) -> Result<(), ApplyError> {
        let mut words = vec![0u64; OBJECT_FILTER_WORDS as usize];
        for key in self.in_force.objects.keys().chain(next.objects.keys()) {
            let (word, bit) = object_filter_slot(key.object.ino);
            words[word as usize] |= bit;
        }
        for (index, (old, word)) in (0..).zip(self.filter_words.iter_mut().zip(words)) {
            let failed = |e: aya::maps::MapError| ApplyError::Map { map: map::OBJECT_FILTER, cause: full_or(&e) };
            if *old != word {
                self.object_filter.set(index, word, 0).map_err(failed)?;
                *old = word;
            }
        }
        Ok(())
    }
}

fn check_size(what: &'static str, count: usize) -> Result<(), ApplyError> {
    check(what, count, MAP_LIMIT)
}

fn check(what: &'static str, count: usize, limit: usize) -> Result<(), ApplyError> {
    if count > limit { Err(ApplyError::TooMany { what, count, limit }) } else { Ok(()) }
}

/// A map error, with E2BIG in words.
pub(super) fn full_or(error: &aya::maps::MapError) -> String {
    match error {
        aya::maps::MapError::SyscallError(e)
            if e.io_error.raw_os_error() == Some(rustix::io::Errno::TOOBIG.raw_os_error()) =>
        {
            "the map is full".into()
        }
        aya::maps::MapError::SyscallError(e) => e.io_error.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of rules without a kernel.
    #[derive(Default)]
    struct Model(StdHashMap<u32, Versioned<u32>>);

    impl RuleMap<u32, u32> for Model {
        const NAME: &'static str = "MODEL";
        fn put(&mut self, key: &u32, value: Versioned<u32>) -> Result<(), aya::maps::MapError> {
            self.0.insert(*key, value);
            Ok(())
        }
        fn drop_rule(&mut self, key: &u32) -> Result<(), aya::maps::MapError> {
            self.0.remove(key);
            Ok(())
        }
        fn entries(&self) -> Result<Vec<(u32, Versioned<u32>)>, aya::maps::MapError> {
            Ok(self.0.iter().map(|(key, value)| (*key, *value)).collect())
        }
    }

    /// The daemon was killed before the flip to generation 3, and once before it collected what generation 2 had no more.
    #[test]
    fn what_a_killed_daemon_left_unfinished_is_taken_back() {
        let now = Generation(2);
        let mut map = Model::default();
        let mut put = |key, from, old, to, new| {
            map.0.insert(key, Versioned::change(Generation(from), old, Generation(to), new));
        };
        put(1, 0, None, 1, Some(10));
        put(2, 1, Some(20), 2, Some(21));
        put(3, 1, Some(30), 2, None);
        put(4, 2, Some(40), 3, Some(41));
        put(5, 2, Some(50), 3, None);
        put(6, 2, None, 3, Some(60));
        let rules = recover(&mut map, now).expect("the model takes everything");
        assert_eq!(rules, StdHashMap::from([(1, 10), (2, 21), (4, 40), (5, 50)]));
        for (key, value) in &map.0 {
            assert_eq!(value.at(now), rules.get(key), "{key} now");
            // What was staged cannot come to life with a later generation of that number.
            assert_eq!(value.at(Generation(3)), rules.get(key), "{key} then");
        }
        assert_eq!(map.0.len(), rules.len());
    }
}
