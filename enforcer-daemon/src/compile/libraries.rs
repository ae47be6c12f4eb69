//! `allow_libraries` and `allow_jit`: what may become code without being executed.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    rc::Rc,
};

use enforcer_common::{
    ids::{ObjectId, RuleId, SkillId},
    rules::{BinaryKey, BinaryRule, LibrarySlot, ObjectKey, SkillConf, binary_flag, skill_flag},
};

use super::{Compiler, world::NoObject};
use crate::manifest::{DEFAULT_LIBRARIES, Digest, KeyPath, LibraryEntry, Listed, ManifestPath, Skill, SkillName};

/// Where programs lie below a directory of libraries. They are executed, or not at all: a mapping would be a way round
/// `allow_binaries`.
const PROGRAMS: [&str; 6] = ["bin", "sbin", "games", "local/bin", "local/sbin", "local/games"];

/// Where the usual C libraries have their dynamic loaders.
const LOADERS: [&str; 8] = [
    "/lib64/ld-linux-x86-64.so.2",
    "/lib/ld-linux.so.2",
    "/libx32/ld-linux-x32.so.2",
    "/lib/ld-linux-aarch64.so.1",
    "/lib/ld-linux-armhf.so.3",
    "/lib/ld-musl-x86_64.so.1",
    "/lib/ld-musl-i386.so.1",
    "/lib/ld-musl-aarch64.so.1",
];

/// The objects of a path, each with how far it lies below, or why there are none.
type Objects = Result<Vec<(ObjectId, u32)>, Rc<NoObject>>;

/// What the compiler remembers of libraries from one skill to the next.
#[derive(Default)]
pub(super) struct Memory {
    /// The objects of the directories that many skills name: nobody waits for the same answers a thousand times.
    resolved: HashMap<(PathBuf, bool), Objects>,
    /// The dynamic loaders that listed binaries ask for.
    loaders: HashSet<PathBuf>,
    /// The contents of the dynamic loaders in containers.
    contained: HashSet<[u8; 32]>,
}

impl Compiler<'_> {
    /// What is said of code wherever it lies.
    pub(super) fn code(&mut self, name: &SkillName, skill: &Skill, conf: &mut SkillConf) {
        if skill.allow_jit {
            conf.allow_jit = self.rule(name, "allow_jit".into());
        }
        let places = match &skill.allow_libraries {
            Some(Listed::Everything) => {
                conf.flags |= skill_flag::LIBRARY_ANY;
                conf.library_any = self.rule(name, "allow_libraries: *".into());
                false
            }
            Some(Listed::Only(entries)) => entries.iter().any(|entry| matches!(entry, LibraryEntry::Path(_))),
            None => {
                conf.flags |= skill_flag::LIBRARIES_DEFAULT;
                true
            }
        };
        // What may be written by `["*"]` is not read-only anywhere.
        if places && skill.allow_write != Some(Listed::Everything) {
            conf.flags |= skill_flag::LIBRARIES_SEALED;
        }
    }

    /// The libraries that are listed by their content.
    pub(super) fn library_contents(&mut self, name: &SkillName, id: SkillId, skill: &Skill) {
        for entry in skill.allow_libraries.iter().flat_map(Listed::entries) {
            if let LibraryEntry::Digest(digest) = entry {
                let rule = self.rule(name, format!("allow_libraries: {digest}"));
                self.binary_rule(id, digest, rule).flags |= binary_flag::LIBRARY;
            }
        }
    }

    /// The libraries that are listed by the place where they lie: on the host, or in the container that is looked into.
    pub(super) fn library_places(&mut self, name: &SkillName, id: SkillId, at: &KeyPath, skill: &Skill) {
        self.library_contents(name, id, skill);
        if self.inside {
            let places = LOADERS.iter().filter_map(|place| Some(*self.world.digest(Path::new(place)).ok()?.as_bytes()));
            self.libraries.contained.extend(places);
        }
        let key = at.key("allow_libraries");
        let mut paths: Vec<(KeyPath, ManifestPath)> = vec![];
        match &skill.allow_libraries {
            Some(Listed::Everything) => return,
            Some(Listed::Only(entries)) => {
                for (index, entry) in entries.iter().enumerate() {
                    if let LibraryEntry::Path(path) = entry {
                        paths.push((key.index(index), path.clone()));
                    }
                }
            }
            None => paths.extend(DEFAULT_LIBRARIES.iter().filter_map(|path| Some((at.clone(), path.parse().ok()?)))),
        }
        let written = skill.allow_libraries.is_some() && !self.inside;
        let named: Vec<PathBuf> = paths.iter().map(|(_, path)| self.world.expand(path).into()).collect();
        let mut nearest = HashMap::new();
        for ((at, path), place) in paths.iter().zip(&named) {
            match self.objects_of(place, true) {
                Ok(objects) if objects.is_empty() && written => {
                    self.warn(at, format!("{path} does not exist: the rule takes effect when it appears"));
                }
                Ok(objects) => {
                    let rule = self.rule(name, format!("allow_libraries: {path}"));
                    for (object, below) in objects {
                        let key = ObjectKey::new(id, object);
                        let depth = nearest.entry(key).or_insert(u32::MAX);
                        if below < *depth {
                            *depth = below;
                            self.ruleset.objects.entry(key).or_default().library = LibrarySlot::allowed(rule);
                        }
                    }
                }
                // One container must not keep the policy from the others: there, the rule allows nothing.
                Err(e) if self.inside => self.warn(at, e.to_string()),
                Err(e) if matches!(*e, NoObject::Silent { .. }) => {
                    self.warn(at, format!("{e}: the path allows nothing until the policy is compiled again"));
                    // Watching it would wait for it, too.
                    continue;
                }
                Err(e) if matches!(*e, NoObject::Ambiguous(_)) => {
                    self.warn(at, format!("{e}; until then it allows nothing"));
                }
                Err(e) => self.error(at, e.to_string()),
            }
            if !self.inside {
                self.ruleset.watched.insert(place.clone());
            }
        }
        // After all that is named, so that naming one of these directories allows it.
        for place in &named {
            for programs in PROGRAMS.map(|below| place.join(below)).iter().filter(|dir| !named.contains(dir)) {
                let found = self.objects_of(programs, false);
                let unknown = found.is_err();
                let objects = match found {
                    Ok(objects) => objects,
                    // What is not known to be a program would be a library.
                    Err(e) if self.inside => {
                        self.warn(&key, format!("{e}: {} has no libraries", place.display()));
                        self.objects_of(place, true).unwrap_or_default()
                    }
                    Err(e) => {
                        self.error(&key, e.to_string());
                        continue;
                    }
                };
                for (object, _) in objects {
                    let slot = &mut self.ruleset.objects.entry(ObjectKey::new(id, object)).or_default().library;
                    if unknown || !slot.is_some() {
                        *slot = LibrarySlot::DENIED;
                    }
                }
                if !self.inside {
                    self.ruleset.watched.insert(programs.clone());
                }
            }
        }
    }

    /// The objects of a path, asked for once.
    fn objects_of(&mut self, path: &Path, widens: bool) -> Objects {
        if self.inside {
            return self.world.objects(path, widens).map_err(Rc::new);
        }
        let key = (path.to_owned(), widens);
        if let Some(known) = self.libraries.resolved.get(&key) {
            return known.clone();
        }
        let found = self.world.objects(path, widens).map_err(Rc::new);
        self.libraries.resolved.insert(key, found.clone());
        found
    }

    /// What is said of a content; the rule that was there first stands in events.
    fn binary_rule(&mut self, skill: SkillId, digest: &Digest, rule: RuleId) -> &mut BinaryRule {
        let key = BinaryKey { skill, digest: enforcer_common::ids::Digest(*digest.as_bytes()) };
        self.ruleset.binaries.entry(key).or_insert(BinaryRule { rule, flags: 0, parents: 0 })
    }

    /// Allows to run a content, to some parents or, with `None`, to all. Of several entries each allows what it says.
    pub(super) fn program_rule(&mut self, skill: SkillId, digest: &Digest, rule: RuleId, parents: Option<u64>) {
        let binary = self.binary_rule(skill, digest, rule);
        let free = binary.flags & (binary_flag::PROGRAM | binary_flag::PARENTS) == binary_flag::PROGRAM;
        binary.flags |= binary_flag::PROGRAM;
        match parents {
            Some(set) if !free => {
                binary.flags |= binary_flag::PARENTS;
                binary.parents |= set;
            }
            Some(_) => {}
            None => {
                binary.flags &= !binary_flag::PARENTS;
                binary.parents = 0;
            }
        }
    }

    /// Remembers which loader a listed binary asks for.
    pub(super) fn remember_loader(&mut self, binary: &Path) {
        if !self.inside {
            self.libraries.loaders.extend(self.world.loader(binary));
        }
    }

    /// Marks the dynamic loaders among the binaries: those at their usual places, and those that listed binaries ask for.
    pub(super) fn mark_loaders(&mut self) {
        if self.ruleset.binaries.is_empty() {
            return;
        }
        let places = LOADERS.iter().map(PathBuf::from).chain(self.libraries.loaders.drain()).collect::<HashSet<_>>();
        let mut digests = std::mem::take(&mut self.libraries.contained);
        digests.extend(places.iter().filter_map(|place| Some(*self.world.digest(place).ok()?.as_bytes())));
        for (key, rule) in &mut self.ruleset.binaries {
            if digests.contains(&key.digest.0) {
                rule.flags |= binary_flag::LOADER;
            }
        }
    }
}
