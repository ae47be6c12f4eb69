//! Writes a compiled policy into the maps, so that at every instant one whole policy is in force.
//!
//! 1. What would not fit is an error before anything is written.
//! 2. Rules that change get their new version beside the one in force. Rules that stay the same are not touched.
//! 3. One store of the generation puts the new policy in force.
//! 4. When no program can still be in the old generation, what only that one needed is collected: before the next change, or
//!    when there is nothing else to do.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, LpmTrie, MapData};
use enforcer_common::{
    LAYOUT_VERSION,
    ids::{Digest, Generation, RuleId, SkillId},
    names::map,
    net::{AbstractKey, AbstractRule, NetKey, PortSet},
    rules::{
        BUDGET_LIMIT, BinaryKey, BinaryRule, Budget, EntrypointRule, OBJECT_FILTER_WORDS, ObjectKey, ObjectRule,
        PolicyState, SkillConf, Versioned, bpf_spin_lock, object_filter_slot,
    },
    unit::PATTERN_LIMIT,
};

use super::{
    Kernel, LoadError,
    cgroups::CgroupMaps,
    passing,
    versions::{Changes, Listeners, changes, collect, gone, recover, stage, take_back},
};
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

/// What a reload changes.
struct Difference {
    skills: Changes<SkillId, SkillConf>,
    binaries: Changes<BinaryKey, BinaryRule>,
    objects: Changes<ObjectKey, ObjectRule>,
    destinations: Changes<NetPrefix, PortSet>,
    listeners: Changes<NetPrefix, PortSet>,
    abstract_names: Changes<AbstractKey, AbstractRule>,
    entrypoints: Changes<Digest, EntrypointRule>,
}

impl Difference {
    fn between(old: &Ruleset, new: &Ruleset) -> Self {
        Self {
            skills: changes(&old.skills, &new.skills),
            binaries: changes(&old.binaries, &new.binaries),
            objects: changes(&old.objects, &new.objects),
            destinations: changes(&old.destinations, &new.destinations),
            listeners: changes(&old.listeners, &new.listeners),
            abstract_names: changes(&old.abstract_names, &new.abstract_names),
            entrypoints: changes(&old.entrypoints, &new.entrypoints),
        }
    }

    /// How many rules go, come or change.
    fn rules(&self) -> usize {
        let Self { skills, binaries, objects, destinations, listeners, abstract_names, entrypoints } = self;
        skills.len()
            + binaries.len()
            + objects.len()
            + destinations.len()
            + listeners.len()
            + abstract_names.len()
            + entrypoints.len()
    }
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
        maps.filter_words = if kernel.is_committed() {
            maps.object_filter.iter().collect::<Result<_, _>>().map_err(failed(map::OBJECT_FILTER))?
        } else {
            vec![0; OBJECT_FILTER_WORDS as usize]
        };
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
        let difference = Difference::between(&self.in_force, &next);
        if self.generation != Generation(0) && difference.rules() == 0 && next.same_beside_rules(&self.in_force) {
            self.in_force = next;
            return Ok((vec![], self.generation));
        }
        self.check(&next)?;
        self.collect();
        let Difference { skills, binaries, objects, destinations, listeners, abstract_names, entrypoints } =
            &difference;
        let (from, to) = (self.generation, Generation(self.generation.0 + 1));

        let cgroups = self.cgroups.stage(&next)?;
        let staged = stage(&mut self.skills, skills, from, to)
            .and_then(|()| stage(&mut self.binaries, binaries, from, to))
            .and_then(|()| stage(&mut self.objects, objects, from, to))
            .and_then(|()| stage(&mut self.destinations, destinations, from, to))
            .and_then(|()| stage(&mut self.listeners, listeners, from, to))
            .and_then(|()| stage(&mut self.abstract_names, abstract_names, from, to))
            .and_then(|()| stage(&mut self.entrypoints, entrypoints, from, to))
            .and_then(|()| self.name_parents(&next))
            .and_then(|()| self.make_budgets(&next))
            .and_then(|()| self.set_object_filter(&next))
            .and_then(|()| self.flip(to));
        if let Err(error) = staged {
            // Nothing of `to` is visible yet, and nothing of it may come to life with the next reload.
            take_back(&mut self.skills, skills, from);
            take_back(&mut self.binaries, binaries, from);
            take_back(&mut self.objects, objects, from);
            take_back(&mut self.destinations, destinations, from);
            take_back(&mut self.listeners, listeners, from);
            take_back(&mut self.abstract_names, abstract_names, from);
            take_back(&mut self.entrypoints, entrypoints, from);
            self.cgroups.take_back(&cgroups);
            return Err(error);
        }
        self.in_force = next;
        self.generation = to;
        self.written = difference.rules();
        // A cgroup comes after its skill is in force and goes after it is not: a label without a skill denies all.
        let new_cgroups = self.cgroups.settle(&self.in_force, &cgroups, seen);
        self.passing = Some(Passing {
            since: Instant::now(),
            skills: gone(skills),
            binaries: gone(binaries),
            objects: gone(objects),
            destinations: gone(destinations),
            listeners: gone(listeners),
            abstract_names: gone(abstract_names),
            entrypoints: gone(entrypoints),
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
