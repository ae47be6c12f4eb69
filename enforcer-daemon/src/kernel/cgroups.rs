//! Which cgroups are governed: what the policy names is in the maps before the policy is in force, or the policy is refused.
//!
//! The kernel programs write these maps, too: they add what appears and take out what is removed.

use std::collections::{HashMap as StdHashMap, HashSet};

use aya::maps::{Array, HashMap, MapData, MapError};
use enforcer_common::{
    ids::{ObjectId, SkillId},
    names::map,
    task::{CgroupLabel, CgroupName, cgroup_filter_slot},
    unit::{PATTERN_LIMIT, UnitRule},
};

use super::{
    Kernel, LoadError,
    maps::{ApplyError, full_or},
};
use crate::compile::ruleset::Ruleset;

/// The maps of cgroups.
pub struct CgroupMaps {
    cgroups: HashMap<MapData, u64, CgroupLabel>,
    spare: HashMap<MapData, u64, CgroupLabel>,
    names: HashMap<MapData, CgroupName, SkillId>,
    filter: Array<MapData, u32>,
    overflow: Array<MapData, u32>,
    launchers: HashMap<MapData, ObjectId, u32>,
    units: Array<MapData, UnitRule>,
}

/// What was added for a policy that is not in force yet.
#[derive(Debug, Default)]
pub struct Staged {
    cgroups: HashSet<u64>,
    names: Vec<CgroupName>,
}

impl CgroupMaps {
    /// Opens the maps.
    ///
    /// # Errors
    /// When one of them is missing or of another type.
    pub fn new(kernel: &Kernel) -> Result<Self, LoadError> {
        Ok(Self {
            cgroups: kernel.map(map::CGROUPS)?,
            spare: kernel.map(map::CGROUP_SPARE)?,
            names: kernel.map(map::CGROUP_NAMES)?,
            filter: kernel.map(map::CGROUP_FILTER)?,
            overflow: kernel.map(map::CGROUP_OVERFLOW)?,
            launchers: kernel.map(map::LAUNCHERS)?,
            units: kernel.map(map::UNIT_PATTERNS)?,
        })
    }

    /// The cgroups that are governed now.
    #[must_use]
    pub fn governed(&self) -> HashSet<u64> {
        self.cgroups.keys().chain(self.spare.keys()).flatten().collect()
    }

    /// The cgroups that are governed now, with their labels.
    #[must_use]
    pub fn labels(&self) -> StdHashMap<u64, CgroupLabel> {
        self.spare.iter().chain(self.cgroups.iter()).flatten().collect()
    }

    /// The paths of cgroups that are governed as soon as they appear.
    #[must_use]
    pub fn names(&self) -> StdHashMap<CgroupName, SkillId> {
        self.names.iter().flatten().filter(|(name, _)| *name != CgroupName::ANY).collect()
    }

    /// Whether the programs tell of every cgroup.
    #[must_use]
    pub fn is_curious(&self) -> bool {
        self.names.get(&CgroupName::ANY, 0).is_ok()
    }

    /// The programs that execute those that are meant.
    #[must_use]
    pub fn launchers(&self) -> Vec<ObjectId> {
        self.launchers.keys().flatten().collect()
    }

    /// The patterns of units.
    #[must_use]
    pub fn units(&self) -> Vec<UnitRule> {
        self.units.iter().flatten().take_while(|rule| *rule != UnitRule::NONE).collect()
    }

    /// Makes room for what `next` names and the maps do not have. Nobody is governed by it yet, because the filter does not
    /// know it, but for what appears at a new path from now on.
    ///
    /// # Errors
    /// When the kernel has no room; then nothing has changed.
    pub fn stage(&mut self, next: &Ruleset) -> Result<Staged, ApplyError> {
        let mut staged = Staged::default();
        match self.add(next, &mut staged) {
            Ok(()) => Ok(staged),
            Err(error) => {
                self.take_back(&staged);
                Err(error)
            }
        }
    }

    fn add(&mut self, next: &Ruleset, staged: &mut Staged) -> Result<(), ApplyError> {
        let curious = next.curious.then_some((&CgroupName::ANY, &SkillId::NOBODY));
        for (name, skill) in next.cgroup_names.iter().chain(curious) {
            if self.names.get(name, 0).is_err() {
                self.names.insert(name, skill, 0).map_err(|e| failed(map::CGROUP_NAMES, &e))?;
                staged.names.push(*name);
            }
        }
        for launcher in &next.launchers {
            self.launchers.insert(launcher, 1, 0).map_err(|e| failed(map::LAUNCHERS, &e))?;
        }
        for (id, label) in &next.cgroups {
            if self.cgroups.get(id, 0).is_err() {
                self.cgroups.insert(id, label, 0).map_err(|e| failed(map::CGROUPS, &e))?;
                staged.cgroups.insert(*id);
            }
        }
        Ok(())
    }

    /// Puts one cgroup and those below it into a skill that is in force, until the next policy says where it belongs. What finds
    /// no room is asked by the cgroups above it, as the kernel programs do it; the named one itself has room in the spare map.
    ///
    /// # Errors
    /// When the kernel has no room for the named one either.
    pub fn enter(&mut self, found: &[(u64, u32)], label: CgroupLabel) -> Result<(), ApplyError> {
        for (id, _) in found {
            let slot = cgroup_filter_slot(*id);
            if let Err(e) = self.cgroups.insert(id, label, 0) {
                if label.named == *id {
                    self.spare.insert(id, label, 0).map_err(|_| failed(map::CGROUPS, &e))?;
                }
                self.overflow.set(slot, 1, 0).map_err(|e| failed(map::CGROUP_OVERFLOW, &e))?;
            }
            self.filter.set(slot, 1, 0).map_err(|e| failed(map::CGROUP_FILTER, &e))?;
        }
        Ok(())
    }

    /// Takes out a cgroup that was removed, and what was below it.
    pub fn leave(&mut self, named: u64) {
        let below = self.cgroups.iter().chain(self.spare.iter()).flatten();
        let below: Vec<u64> = below.filter(|(_, label)| label.named == named).map(|(id, _)| id).collect();
        for id in below {
            let _ = self.cgroups.remove(&id);
            let _ = self.spare.remove(&id);
        }
    }

    /// The cgroup that was named of those that `id` lies in.
    #[must_use]
    pub fn named(&self, id: u64) -> Option<u64> {
        self.cgroups.get(&id, 0).or_else(|_| self.spare.get(&id, 0)).ok().map(|label| label.named)
    }

    /// Takes out what was added for a policy that does not come into force, and what the kernel put below it.
    pub fn take_back(&mut self, staged: &Staged) {
        for name in &staged.names {
            let _ = self.names.remove(name);
        }
        let below = |label: &CgroupLabel| staged.cgroups.contains(&label.named);
        let added: Vec<u64> =
            self.cgroups.iter().flatten().filter(|(_, label)| below(label)).map(|(id, _)| id).collect();
        for id in staged.cgroups.iter().chain(&added) {
            let _ = self.cgroups.remove(id);
        }
    }

    /// Makes the maps hold the policy that is in force now, and returns the cgroups that came into their skill by it. `seen` is
    /// what was governed before the policy was compiled: what it does not name of that, it does not govern. What appeared
    /// meanwhile the kernel programs have labelled by what it lies in.
    pub fn settle(&mut self, in_force: &Ruleset, staged: &Staged, seen: &HashSet<u64>) -> Vec<(u64, SkillId)> {
        let mut new = vec![];
        for (id, label) in &in_force.cgroups {
            // One that is not there any more has been removed meanwhile.
            let Ok(before) = self.cgroups.get(id, 0) else { continue };
            if before != *label {
                self.replace(*id, label);
            }
            if let Err(e) = self.filter.set(cgroup_filter_slot(*id), 1, 0) {
                tracing::error!(cgroup = id, "a cgroup of the policy could not be governed: {}", full_or(&e));
            }
            if staged.cgroups.contains(id) || before.skill != label.skill {
                new.push((*id, label.skill));
            }
        }
        let entries: Vec<(u64, CgroupLabel)> = self.cgroups.iter().chain(self.spare.iter()).flatten().collect();
        for (id, label) in entries.iter().filter(|(id, _)| !in_force.cgroups.contains_key(id)) {
            match in_force.cgroups.get(&label.named) {
                _ if seen.contains(id) => {
                    let _ = self.cgroups.remove(id);
                    let _ = self.spare.remove(id);
                }
                Some(named) if named.skill != label.skill => self.replace(*id, named),
                _ => {}
            }
        }
        for (name, skill) in &in_force.cgroup_names {
            if self.names.get(name, 0).ok() != Some(*skill)
                && let Err(e) = self.names.insert(name, skill, 0)
            {
                tracing::error!("a cgroup's path could not be given to another skill: {}", full_or(&e));
            }
        }
        // The one behind the last ends the list. It is written first, and the first one last, so that what is read is a list.
        let units: Vec<(u32, &UnitRule)> =
            (0..PATTERN_LIMIT).zip(in_force.units.iter().chain([&UnitRule::NONE])).collect();
        for (index, rule) in units.into_iter().rev() {
            if let Err(e) = self.units.set(index, rule, 0) {
                tracing::error!("a unit's pattern could not be written: {}", full_or(&e));
            }
        }
        let launchers = self.launchers.keys().flatten();
        let stale: Vec<ObjectId> = launchers.filter(|launcher| !in_force.launchers.contains(launcher)).collect();
        for launcher in stale {
            let _ = self.launchers.remove(&launcher);
        }
        let outdated = |name: &CgroupName| {
            !(in_force.cgroup_names.contains_key(name) || in_force.curious && *name == CgroupName::ANY)
        };
        let stale: Vec<CgroupName> = self.names.keys().flatten().filter(outdated).collect();
        for name in stale {
            let _ = self.names.remove(&name);
        }
        new
    }

    /// Gives a governed cgroup another label; until then it has the old one.
    fn replace(&mut self, id: u64, label: &CgroupLabel) {
        if let Err(e) = self.cgroups.insert(id, label, 0) {
            tracing::error!(cgroup = id, "a cgroup keeps the label of the policy before: {}", full_or(&e));
        }
    }
}

fn failed(map: &'static str, error: &MapError) -> ApplyError {
    ApplyError::Map { map, cause: full_or(error) }
}
