//! The rules of one kind, in their map of the kernel: what a reload changes is written beside what is in force, taken back when the
//! reload is aborted, and collected when it is not needed any more.

use std::{
    collections::HashMap as StdHashMap,
    hash::{BuildHasher, Hash},
    time::Instant,
};

use aya::{
    Pod,
    maps::{HashMap, LpmTrie, MapData, lpm_trie::Key},
};
use enforcer_common::{
    ids::{Digest, Generation, SkillId},
    names::map,
    net::{AbstractKey, AbstractRule, NetKey, PortSet, SKILL_BITS},
    rules::{BinaryKey, BinaryRule, EntrypointRule, ObjectKey, ObjectRule, SkillConf, Versioned},
};

use super::{
    maps::{ApplyError, full_or},
    passing,
};
use crate::compile::ruleset::NetPrefix;

/// A map of versioned rules.
pub(super) trait RuleMap<K, V> {
    const NAME: &'static str;
    fn put(&mut self, key: &K, value: Versioned<V>) -> Result<(), aya::maps::MapError>;
    fn drop_rule(&mut self, key: &K) -> Result<(), aya::maps::MapError>;
    fn entries(&self) -> Result<Vec<(K, Versioned<V>)>, aya::maps::MapError>;
}

/// What can be the key of a hash map with rules of one kind.
trait Keyed<V> {
    /// The map.
    const MAP: &'static str;
}

impl Keyed<SkillConf> for SkillId {
    const MAP: &'static str = map::SKILLS;
}

impl Keyed<BinaryRule> for BinaryKey {
    const MAP: &'static str = map::BINARIES;
}

impl Keyed<ObjectRule> for ObjectKey {
    const MAP: &'static str = map::OBJECTS;
}

impl Keyed<EntrypointRule> for Digest {
    const MAP: &'static str = map::ENTRYPOINTS;
}

impl Keyed<AbstractRule> for AbstractKey {
    const MAP: &'static str = map::ABSTRACT;
}

impl<K: Pod + Keyed<V>, V> RuleMap<K, V> for HashMap<MapData, K, Versioned<V>>
where
    Versioned<V>: Pod,
{
    const NAME: &'static str = K::MAP;
    fn put(&mut self, key: &K, value: Versioned<V>) -> Result<(), aya::maps::MapError> {
        self.insert(key, value, 0)
    }
    fn drop_rule(&mut self, key: &K) -> Result<(), aya::maps::MapError> {
        self.remove(key)
    }
    fn entries(&self) -> Result<Vec<(K, Versioned<V>)>, aya::maps::MapError> {
        self.iter().collect()
    }
}

/// The trie of `listen`, beside that of the destinations.
pub(super) struct Listeners(pub(super) LpmTrie<MapData, NetKey, Versioned<PortSet>>);

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
pub(super) type Changes<K, V> = Vec<(K, Option<V>, Option<V>)>;

/// What is different between two policies. Both tables hash alike, so that the second is read in the order of the first.
pub(super) fn changes<K: Copy + Eq + Hash, V: Copy + PartialEq, S: BuildHasher>(
    old: &StdHashMap<K, V, S>,
    new: &StdHashMap<K, V, S>,
) -> Changes<K, V> {
    let mut changes = vec![];
    let mut kept = 0;
    for (key, value) in new {
        let before = old.get(key);
        kept += usize::from(before.is_some());
        if before != Some(value) {
            changes.push((*key, before.copied(), Some(*value)));
        }
    }
    if kept < old.len() {
        changes
            .extend(old.iter().filter(|(key, _)| !new.contains_key(*key)).map(|(key, rule)| (*key, Some(*rule), None)));
    }
    changes
}

/// Writes both versions of each change.
pub(super) fn stage<K, V: Copy + Default, M: RuleMap<K, V>>(
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
pub(super) fn gone<K: Copy, V>(changes: &Changes<K, V>) -> Vec<K> {
    changes.iter().filter(|(_, _, new)| new.is_none()).map(|(key, _, _)| *key).collect()
}

/// Collects rules that no generation needs.
pub(super) fn collect<K, V, M: RuleMap<K, V>>(map: &mut M, gone: &[K]) {
    for key in gone {
        // An element that is not there is as good as collected.
        let _ = map.drop_rule(key);
    }
}

/// Takes back what an aborted reload staged: the next one will have the same generation, and does not write what it does not
/// change.
pub(super) fn take_back<K, V: Copy + Default, M: RuleMap<K, V>>(
    map: &mut M,
    changes: &Changes<K, V>,
    current: Generation,
) {
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
pub(super) fn recover<K, V, M, S>(map: &mut M, current: Generation) -> Result<StdHashMap<K, V, S>, ApplyError>
where
    S: BuildHasher + Default,
    K: Copy + Eq + Hash,
    V: Copy + Default + PartialEq,
    M: RuleMap<K, V>,
{
    let entries = map.entries().map_err(|e| ApplyError::Map { map: M::NAME, cause: full_or(&e) })?;
    let mut rules = StdHashMap::with_capacity_and_hasher(entries.len(), S::default());
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
        let rules: StdHashMap<_, _> = recover(&mut map, now).expect("the model takes everything");
        assert_eq!(rules, StdHashMap::from([(1, 10), (2, 21), (4, 40), (5, 50)]));
        for (key, value) in &map.0 {
            assert_eq!(value.at(now), rules.get(key), "{key} now");
            // What was staged cannot come to life with a later generation of that number.
            assert_eq!(value.at(Generation(3)), rules.get(key), "{key} then");
        }
        assert_eq!(map.0.len(), rules.len());
    }

    #[test]
    fn what_stays_is_no_change() {
        let old = StdHashMap::from([(1, 10), (2, 20), (3, 30)]);
        let mut found = changes(&old, &StdHashMap::from([(1, 10), (2, 21), (4, 40)]));
        found.sort_unstable();
        assert_eq!(found, [(2, Some(20), Some(21)), (3, Some(30), None), (4, None, Some(40))]);
        assert_eq!(changes(&old, &StdHashMap::new()).len(), 3);
        assert_eq!(changes(&StdHashMap::new(), &old).len(), 3);
        assert!(changes(&old, &old).is_empty());
    }
}
