//! The policy maps on the host, and the way of a policy into them.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasher, Hash},
};

use enforcer_common::{
    decide::Rules,
    ids::{Digest, Generation, ObjectId, RuleId, SkillId},
    net::{AbstractKey, Address},
    rules::{
        BinaryKey, BinaryRule, EntrypointRule, LibrarySlot, ObjectKey, ObjectRule, Own, SkillConf, Versioned, action,
        binary_flag, skill_flag,
    },
};

use crate::{
    objects::Disk,
    policy::{List, Numbers, Policy, digest, skill_id},
};

/// What the maps shall hold for a policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    skills: HashMap<SkillId, SkillConf>,
    objects: HashMap<ObjectKey, ObjectRule>,
    binaries: HashMap<BinaryKey, BinaryRule>,
    entrypoints: HashMap<Digest, EntrypointRule>,
}

/// The directories above a path, but for the root.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at]).filter(|above| !above.is_empty())
}

/// The bit of a program in lineages.
fn bit(digest: &Digest) -> u64 {
    1 << digest.0[31]
}

/// Resolves a policy on the filesystem as it is.
pub(crate) fn compile(policy: &Policy, disk: &Disk, numbers: &mut Numbers) -> Compiled {
    let mut out = Compiled::default();
    for (index, skill) in policy.iter().enumerate() {
        let Some(skill) = skill else { continue };
        let id = skill_id(index);
        let mut conf = SkillConf::default();
        let mut flag = |on: bool, bit: u32| conf.flags |= if on { bit } else { 0 };
        flag(skill.audit, skill_flag::AUDIT);
        flag(skill.strict, skill_flag::REPORT_ALLOWED);
        flag(!skill.protect.is_empty(), skill_flag::PROTECTS);
        flag(skill.allow_delete == List::Star, skill_flag::DELETE_ANY);
        flag(matches!(skill.allow_write, List::Star | List::Absent), skill_flag::WRITE_ANY);
        flag(skill.allow_binaries == List::Star, skill_flag::EXEC_ANY);
        flag(skill.network_any, skill_flag::CONNECT_ANY);
        flag(skill.allow_libraries == List::Star, skill_flag::LIBRARY_ANY);
        flag(skill.seals(), skill_flag::LIBRARIES_SEALED);
        let mut number = |on: bool, text: &str| if on { numbers.give(index, text) } else { RuleId::NONE };
        conf.delete_any = number(skill.allow_delete == List::Star, "allow_delete: *");
        conf.write_any = number(skill.allow_write == List::Star, "allow_write: *");
        conf.exec_any = number(skill.allow_binaries == List::Star, "allow_binaries: *");
        conf.connect_any = number(skill.network_any, "network_scope: *");
        conf.library_any = number(skill.allow_libraries == List::Star, "allow_libraries: *");
        conf.require_2fa_rule = number(!skill.require_2fa.is_empty(), "require_2fa");
        conf.budget_rule = number(skill.delete_budget.is_some(), "delete_budget");
        conf.budget = skill.delete_budget.unwrap_or(0);
        conf.require_2fa = skill.require_2fa.iter().fold(0, |bits, word| {
            bits | match *word {
                "exec" => action::EXEC,
                "delete" => action::DELETE,
                "connect" => action::CONNECT,
                _ => action::WRITE,
            }
        });
        out.skills.insert(id, conf);
        let mut paths = |key: &str, paths: &[String], slot: fn(&mut ObjectRule) -> &mut RuleId| {
            for path in paths {
                let Some(object) = disk.object(path) else { continue };
                let slot = slot(out.objects.entry(ObjectKey::new(id, object)).or_default());
                let rule = numbers.give(index, &format!("{key}: {path}"));
                if *slot == RuleId::NONE {
                    *slot = rule;
                }
            }
        };
        paths("allow_delete", skill.allow_delete.entries(), |rule| &mut rule.allow_delete);
        paths("allow_write", skill.allow_write.entries(), |rule| &mut rule.allow_write);
        paths("protect", &skill.protect, |rule| &mut rule.protect);
        for path in skill.protect.iter().filter(|path| disk.object(path).is_some()) {
            for above in above(path) {
                let Some(object) = disk.object(above) else { continue };
                let way = &mut out.objects.entry(ObjectKey::new(id, object)).or_default().way;
                if *way == RuleId::NONE {
                    *way = numbers.give(index, &format!("protect: {path}"));
                }
            }
        }
        for path in skill.allow_libraries.entries() {
            let Some(object) = disk.object(path) else { continue };
            let slot = &mut out.objects.entry(ObjectKey::new(id, object)).or_default().library;
            let rule = numbers.give(index, &format!("allow_libraries: {path}"));
            if !slot.is_some() {
                *slot = LibrarySlot::allowed(rule);
            }
        }
        for object in skill.programs.iter().filter_map(|path| disk.object(path)) {
            let slot = &mut out.objects.entry(ObjectKey::new(id, object)).or_default().library;
            if !slot.is_some() {
                *slot = LibrarySlot::DENIED;
            }
        }
        for name in skill.allow_binaries.entries() {
            let rule = numbers.give(index, &format!("allow_binaries: {name}"));
            let mut binary = BinaryRule { rule, flags: binary_flag::PROGRAM, parents: 0 };
            for (_, parent) in skill.parents.iter().filter(|(child, _)| child == name) {
                binary.flags |= binary_flag::PARENTS;
                binary.parents |= bit(&digest(*parent));
            }
            out.binaries.insert(BinaryKey { skill: id, digest: digest(*name) }, binary);
        }
        if let Some(name) = skill.entrypoint {
            out.entrypoints.insert(digest(name), EntrypointRule { skill: id });
        }
    }
    out
}

impl Compiled {
    /// Makes `path` Enforcer's own for every skill, and what leads to it not to be moved.
    pub(crate) fn own(&mut self, path: &str, disk: &Disk) {
        let skills: Vec<SkillId> = self.skills.keys().copied().collect();
        for skill in skills {
            let mut mark = |path: &str, own| {
                if let Some(object) = disk.object(path) {
                    self.objects.entry(ObjectKey::new(skill, object)).or_default().own = own;
                }
            };
            above(path).for_each(|way| mark(way, Own::way(RuleId(u32::MAX >> 1))));
            mark(path, Own::all(RuleId(u32::MAX >> 1)));
        }
        self.skills.values_mut().for_each(|conf| conf.flags |= skill_flag::GUARDS);
    }
}

/// One map of versioned rules, with what a reload is about to do to it.
#[derive(Debug)]
struct Table<K, V> {
    elements: HashMap<K, Versioned<V>>,
    in_force: HashMap<K, V>,
    /// Key, what is in force, what comes.
    changes: Vec<(K, Option<V>, Option<V>)>,
    staged: usize,
}

impl<K: Copy + Eq + Hash, V: Copy + Default + PartialEq> Table<K, V> {
    fn new() -> Self {
        Self { elements: HashMap::new(), in_force: HashMap::new(), changes: vec![], staged: 0 }
    }

    /// Finds out what is to be changed. Rules that stay the same are not touched.
    fn begin<S: BuildHasher>(&mut self, next: &HashMap<K, V, S>) {
        let gone = self.in_force.iter().filter(|(key, _)| !next.contains_key(key));
        self.changes = gone.map(|(key, old)| (*key, Some(*old), None)).collect();
        let come = next.iter().map(|(key, new)| (*key, self.in_force.get(key).copied(), Some(*new)));
        self.changes.extend(come.filter(|(_, old, new)| old != new));
        self.staged = 0;
    }

    /// Writes at most `limit` of the changes; returns how many.
    fn stage(&mut self, from: Generation, to: Generation, limit: usize) -> usize {
        let batch: Vec<_> = self.changes.iter().skip(self.staged).take(limit).copied().collect();
        for (key, old, new) in &batch {
            self.elements.insert(*key, Versioned::change(from, *old, to, *new));
        }
        self.staged += batch.len();
        batch.len()
    }

    /// Takes back what was staged: no element may hold a version that a later generation would bring to life.
    fn abort(&mut self, from: Generation) {
        for (key, old, _) in self.changes.drain(..).take(self.staged) {
            match old {
                Some(_) => self.elements.insert(key, Versioned::change(Generation(0), None, from, old)),
                None => self.elements.remove(&key),
            };
        }
    }

    /// After the flip.
    fn commit<S: BuildHasher>(&mut self, next: &HashMap<K, V, S>) {
        self.in_force = next.iter().map(|(key, value)| (*key, *value)).collect();
    }

    /// Removes what only the generation before needed.
    fn collect(&mut self) {
        for (key, _, _) in self.changes.drain(..).filter(|(_, _, new)| new.is_none()) {
            self.elements.remove(&key);
        }
    }
}

/// The policy maps.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) generation: Generation,
    skills: Table<SkillId, SkillConf>,
    objects: Table<ObjectKey, ObjectRule>,
    binaries: Table<BinaryKey, BinaryRule>,
    entrypoints: Table<Digest, EntrypointRule>,
    next: Compiled,
    spent: RefCell<HashMap<SkillId, u32>>,
}

impl Store {
    /// Maps without a policy.
    pub(crate) fn empty() -> Self {
        Self {
            generation: Generation(0),
            skills: Table::new(),
            objects: Table::new(),
            binaries: Table::new(),
            entrypoints: Table::new(),
            next: Compiled::default(),
            spent: RefCell::default(),
        }
    }

    /// Maps with this policy in force.
    pub(crate) fn with(compiled: Compiled) -> Self {
        let mut store = Self::empty();
        store.begin(compiled);
        store.stage(usize::MAX);
        store.flip();
        store.collect();
        store
    }

    /// Begins a reload.
    pub(crate) fn begin(&mut self, next: Compiled) {
        self.skills.begin(&next.skills);
        self.objects.begin(&next.objects);
        self.binaries.begin(&next.binaries);
        self.entrypoints.begin(&next.entrypoints);
        self.next = next;
    }

    fn coming(&self) -> Generation {
        Generation(self.generation.0 + 1)
    }

    /// Writes some of what the reload changes.
    pub(crate) fn stage(&mut self, limit: usize) {
        let (from, to) = (self.generation, self.coming());
        let mut left = limit;
        left -= self.skills.stage(from, to, left);
        left -= self.objects.stage(from, to, left);
        left -= self.binaries.stage(from, to, left);
        self.entrypoints.stage(from, to, left);
    }

    /// Gives the reload up.
    pub(crate) fn abort(&mut self) {
        self.skills.abort(self.generation);
        self.objects.abort(self.generation);
        self.binaries.abort(self.generation);
        self.entrypoints.abort(self.generation);
    }

    /// Puts what was staged in force.
    pub(crate) fn flip(&mut self) {
        self.generation = self.coming();
        self.skills.commit(&self.next.skills);
        self.objects.commit(&self.next.objects);
        self.binaries.commit(&self.next.binaries);
        self.entrypoints.commit(&self.next.entrypoints);
    }

    /// Ends a reload: nobody is left in the generation before.
    pub(crate) fn collect(&mut self) {
        self.skills.collect();
        self.objects.collect();
        self.binaries.collect();
        self.entrypoints.collect();
    }

    /// The policy in force.
    pub(crate) fn now(&self) -> View<'_> {
        View { store: self, generation: self.generation }
    }

    /// What a program sees that looked at the generation a while ago.
    pub(crate) fn at(&self, generation: Generation) -> View<'_> {
        View { store: self, generation }
    }
}

/// The maps as one generation sees them.
pub(crate) struct View<'a> {
    store: &'a Store,
    generation: Generation,
}

impl Rules for View<'_> {
    fn skill(&self, skill: SkillId) -> Option<SkillConf> {
        self.store.skills.elements.get(&skill)?.at(self.generation).copied()
    }

    fn binary(&self, skill: SkillId, digest: &Digest) -> Option<BinaryRule> {
        self.store.binaries.elements.get(&BinaryKey { skill, digest: *digest })?.at(self.generation).copied()
    }

    fn object(&self, skill: SkillId, object: &ObjectId) -> Option<ObjectRule> {
        self.store.objects.elements.get(&ObjectKey::new(skill, *object))?.at(self.generation).copied()
    }

    fn destination(&self, _: SkillId, _: &Address, _: u16, _: u16) -> Option<RuleId> {
        None
    }

    fn listener(&self, _: SkillId, _: &Address, _: u16, _: u16) -> Option<RuleId> {
        None
    }

    fn abstract_name(&self, _: &AbstractKey) -> Option<RuleId> {
        None
    }

    fn entrypoint(&self, digest: &Digest) -> Option<SkillId> {
        self.store.entrypoints.elements.get(digest)?.at(self.generation).map(|rule| rule.skill)
    }

    fn parent(&self, digest: &Digest) -> u64 {
        bit(digest)
    }

    fn spend(&self, skill: SkillId, conf: &SkillConf) -> bool {
        let mut spent = self.store.spent.borrow_mut();
        let spent = spent.entry(skill).or_default();
        let left = *spent < conf.budget;
        *spent += u32::from(left);
        left
    }
}
