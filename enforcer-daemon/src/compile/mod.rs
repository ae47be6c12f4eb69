//! Manifest + facts of the host → [`Ruleset`]. Pure but for the [`World`] it asks.
//!
//! What the manifest names is resolved here, once: a path of a binary to the digest of its content, a path rule to the
//! kernel's identity of the object, a cgroup path to the ids of the cgroup and its descendants.

mod inside;
mod libraries;
pub mod names;
mod net;
mod own;
pub mod ruleset;
pub mod world;

use std::{
    collections::{HashMap, hash_map::Entry},
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
};

use enforcer_common::{
    ids::{RuleId, SkillId},
    rules::{BUDGET_LIMIT, EntrypointRule, ObjectKey, ObjectRule, PARENT_LIMIT, SkillConf, action, skill_flag},
    task::{CGROUP_PATH_CAPACITY, CgroupName},
    unit::UnitRule,
};

use serde::{Deserialize, Serialize};

use self::{
    own::OwnObject,
    ruleset::{RuleText, Ruleset, SkillText},
};
pub use self::{
    own::hold,
    world::{NoObject, World},
};
use crate::manifest::{
    Action, AuditLevel, Binary, BinaryEntry, DeleteBudget, Digest, KeyPath, Listed, Manifest, ManifestPath, Mode,
    ParentRef, Skill, SkillName, TwoFactor,
};

/// Something about a place of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// `FILE:LINE:COLUMN: KEY`.
    pub place: String,
    /// What is wrong or noteworthy.
    pub text: String,
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.text)
    }
}

/// Why a manifest could not be compiled: every reason that was found.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct CompileErrors(pub Vec<Remark>);

/// A ruleset with what its author should know.
#[derive(Debug)]
pub struct Compiled {
    /// What goes into the maps.
    pub ruleset: Ruleset,
    /// What was accepted and allows less than it seems to.
    pub warnings: Vec<Remark>,
}

/// The numbers of skills and rules. They are kept over reloads and over the daemon's end, so that labels stay valid and
/// unchanged rules are not written again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "IdList", into = "IdList")]
pub struct Ids {
    skills: HashMap<String, SkillId>,
    rules: HashMap<RuleText, RuleId>,
    /// The last number that was given to a rule; none is given twice.
    last_rule: u32,
    parents: HashMap<enforcer_common::ids::Digest, u64>,
}

/// [`Ids`] as they are written down.
#[derive(Serialize, Deserialize)]
struct IdList {
    skills: Vec<(u32, String)>,
    rules: Vec<(u32, Arc<str>, Arc<str>)>,
    last_rule: u32,
}

impl From<IdList> for Ids {
    fn from(list: IdList) -> Self {
        let rule = |(id, skill, text)| (RuleText { skill, text }, RuleId(id));
        Self {
            skills: list.skills.into_iter().map(|(id, name)| (name, SkillId(id))).collect(),
            rules: list.rules.into_iter().map(rule).collect(),
            last_rule: list.last_rule,
            // The kernel's map knows them best.
            parents: HashMap::new(),
        }
    }
}

impl From<Ids> for IdList {
    fn from(ids: Ids) -> Self {
        Self {
            skills: ids.skills.into_iter().map(|(name, id)| (id.0, name)).collect(),
            rules: ids.rules.into_iter().map(|(rule, id)| (id.0, rule.skill, rule.text)).collect(),
            last_rule: ids.last_rule,
        }
    }
}

impl Ids {
    /// The skills and rules behind the numbers: what events of before need.
    #[must_use]
    pub fn texts(&self) -> Ruleset {
        let name = |name: &String| SkillText { name: name.as_str().into(), ..SkillText::default() };
        Ruleset {
            names: self.skills.iter().map(|(text, id)| (*id, name(text))).collect(),
            rules: self.rules.iter().map(|(text, id)| (*id, text.clone())).collect(),
            ..Ruleset::default()
        }
    }

    /// Takes over the bits that were given to programs which `parents` rules name: labels have them.
    pub fn remember_parents(&mut self, known: &HashMap<enforcer_common::ids::Digest, u64>) {
        self.parents.extend(known);
    }

    /// The number of a skill, a new one for a new name. `None` when there are no more.
    pub fn skill(&mut self, name: &str) -> Option<SkillId> {
        if let Some(id) = self.skills.get(name) {
            return Some(*id);
        }
        // 0 is never given out: an all-zero label is nobody's.
        let next = u32::try_from(self.skills.len()).ok()?.checked_add(1).filter(|n| *n < SkillId::LIMIT)?;
        self.skills.insert(name.to_owned(), SkillId(next));
        Some(SkillId(next))
    }

    /// The number of a skill that was seen before.
    #[must_use]
    pub fn known_skill(&self, name: &str) -> Option<SkillId> {
        self.skills.get(name).copied()
    }

    /// The bit of a program that a `parents` rule names, a new one for a new content. `None` when there are no more.
    fn parent(&mut self, digest: enforcer_common::ids::Digest) -> Option<u64> {
        let next = u32::try_from(self.parents.len()).ok().filter(|n| *n < PARENT_LIMIT).map(|n| 1 << n);
        match self.parents.entry(digest) {
            Entry::Occupied(known) => Some(*known.get()),
            Entry::Vacant(new) => next.map(|bit| *new.insert(bit)),
        }
    }

    fn rule(&mut self, text: RuleText) -> RuleId {
        *self.rules.entry(text).or_insert_with(|| {
            self.last_rule = self.last_rule.saturating_add(1);
            RuleId(self.last_rule)
        })
    }

    /// How many rules have numbers.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.rules.len()
    }

    /// Forgets rules, whose numbers are not given again.
    pub fn forget_rules(&mut self, keep: impl Fn(RuleId) -> bool) {
        self.rules.retain(|_, id| keep(*id));
    }
}

/// Compiles a manifest.
///
/// # Errors
/// All that cannot be compiled, each with its place. Nothing was changed but `ids`, which grew.
pub fn compile(manifest: &Manifest, world: &mut dyn World, ids: &mut Ids) -> Result<Compiled, CompileErrors> {
    let own_paths = world.own();
    let own =
        own::objects(world).map_err(|e| CompileErrors(vec![Remark { place: "self".into(), text: e.to_string() }]))?;
    let mut compiler = Compiler {
        manifest,
        world,
        ids,
        ruleset: Ruleset::default(),
        libraries: libraries::Memory::default(),
        own: Rc::new(own),
        own_paths,
        warnings: vec![],
        errors: vec![],
        inside: false,
    };
    compiler.ruleset.watched.extend(compiler.own_paths.iter().cloned());
    for (name, skill) in &manifest.skills {
        compiler.skill(name, skill);
    }
    compiler.mark_loaders();
    compiler.ruleset.parents.clone_from(&compiler.ids.parents);
    let Compiler { ruleset, warnings, errors, .. } = compiler;
    if errors.is_empty() { Ok(Compiled { ruleset, warnings }) } else { Err(CompileErrors(errors)) }
}

struct Compiler<'a> {
    manifest: &'a Manifest,
    world: &'a mut dyn World,
    ids: &'a mut Ids,
    ruleset: Ruleset,
    libraries: libraries::Memory,
    own: Rc<Vec<OwnObject>>,
    own_paths: Vec<PathBuf>,
    warnings: Vec<Remark>,
    errors: Vec<Remark>,
    /// Whether paths mean those of a container.
    inside: bool,
}

impl Compiler<'_> {
    fn remark(&self, key: &KeyPath, text: String) -> Remark {
        Remark { place: self.place(key), text }
    }

    fn place(&self, key: &KeyPath) -> String {
        let place = self.manifest.position(key).map_or_else(String::new, |p| format!(":{}:{}", p.line, p.column));
        format!("{}{place}: {key}", self.manifest.file())
    }

    fn warn(&mut self, key: &KeyPath, text: String) {
        let remark = self.remark(key, text);
        self.warnings.push(remark);
    }

    fn error(&mut self, key: &KeyPath, text: String) {
        let remark = self.remark(key, text);
        self.errors.push(remark);
    }

    fn rule(&mut self, skill: &SkillName, text: String) -> RuleId {
        let text = RuleText { skill: skill.as_str().into(), text: text.into() };
        let id = self.ids.rule(text.clone());
        self.ruleset.rules.insert(id, text);
        id
    }

    fn skill(&mut self, name: &SkillName, skill: &Skill) {
        let at = KeyPath::skill(name.as_str());
        let Some(id) = self.ids.skill(name.as_str()) else {
            return self.error(&at, format!("more than {} skills since the daemon started", SkillId::LIMIT - 1));
        };
        let mode = skill.mode.unwrap_or(self.manifest.mode);
        let mut conf = SkillConf { require_2fa: two_factor(skill.require_2fa), ..SkillConf::default() };
        if mode == Mode::Audit {
            conf.flags |= skill_flag::AUDIT;
        }
        if self.manifest.audit_level == AuditLevel::Strict {
            conf.flags |= skill_flag::REPORT_ALLOWED;
        }
        if !skill.require_2fa.is_empty() {
            conf.require_2fa_rule = self.rule(name, "require_2fa".into());
        }
        match &skill.allow_binaries {
            Some(Listed::Everything) => {
                conf.flags |= skill_flag::EXEC_ANY;
                conf.exec_any = self.rule(name, "allow_binaries: *".into());
            }
            Some(Listed::Only(entries)) if entries.iter().any(|entry| !entry.parents.is_empty()) => {
                conf.flags |= skill_flag::PARENTS;
            }
            Some(Listed::Only(_)) | None => {}
        }
        match &skill.allow_delete {
            Some(Listed::Everything) => {
                conf.flags |= skill_flag::DELETE_ANY;
                conf.delete_any = self.rule(name, "allow_delete: *".into());
            }
            Some(Listed::Only(_)) | None => {}
        }
        match &skill.allow_write {
            Some(Listed::Everything) => {
                conf.flags |= skill_flag::WRITE_ANY;
                conf.write_any = self.rule(name, "allow_write: *".into());
            }
            Some(Listed::Only(_)) => {}
            // Not governed: the kernel's own permissions decide.
            None => conf.flags |= skill_flag::WRITE_ANY,
        }
        self.code(name, skill, &mut conf);
        if !skill.protect.is_empty() {
            conf.flags |= skill_flag::PROTECTS;
        }
        self.places(name, id, &at, skill, &conf);
        self.guard(name, id, &mut conf);
        if let Some(budget) = skill.delete_budget {
            self.budget(name, &mut conf, &at.key("delete_budget"), budget);
        }
        if let Some(entrypoint) = skill.matching.entrypoint {
            let digest = enforcer_common::ids::Digest(*entrypoint.as_bytes());
            self.ruleset.entrypoints.insert(digest, EntrypointRule { skill: id });
        }
        match &skill.network_scope {
            Some(Listed::Everything) => {
                conf.flags |= skill_flag::CONNECT_ANY;
                conf.connect_any = self.rule(name, "network_scope: *".into());
            }
            Some(Listed::Only(destinations)) => {
                let at = at.key("network_scope");
                self.destinations(name, id, &at, destinations);
                self.abstract_sockets(name, id, &at, destinations);
            }
            None => {}
        }
        match &skill.listen {
            Some(Listed::Everything) => {
                conf.flags |= skill_flag::LISTEN_ANY;
                conf.listen_any = self.rule(name, "listen: *".into());
            }
            Some(Listed::Only(addresses)) => self.listeners(name, id, &at.key("listen"), addresses),
            None => {}
        }
        if let Some(cgroup) = &skill.matching.cgroup {
            self.cgroup(id, &at.key("match").key("cgroup"), cgroup.as_str());
        }
        if let Some(unit) = &skill.matching.unit {
            match UnitRule::new(id, unit.as_str()).filter(|_| !unit.as_str().contains(['[', ']', '!'])) {
                Some(rule) => self.ruleset.units.push(rule),
                None => self.error(&at.key("match").key("unit"), "only `*` and `?` are wildcards".into()),
            }
        }
        self.ruleset.skills.insert(id, conf);
        let mode = if mode == Mode::Audit { "audit" } else { "enforce" };
        self.ruleset.names.insert(
            id,
            SkillText { name: name.as_str().into(), reason: skill.reason.as_deref().map(Into::into), mode },
        );
    }

    /// What the skill says of paths: on the host, and in each of its containers. Those of a skill that says which containers are its
    /// own mean nothing on the host.
    fn places(&mut self, name: &SkillName, id: SkillId, at: &KeyPath, skill: &Skill, conf: &SkillConf) {
        if skill.matching.container.is_none() {
            self.lists(name, id, at, skill, conf);
        } else {
            self.contents(name, id, at, skill);
        }
        for workload in self.world.workloads(name.as_str()) {
            self.ruleset.add_workload(id, &workload.cgroups);
            let Some(container) = workload.container else { continue };
            match self.world.look_into(Some(container)) {
                Ok(()) => {
                    self.inside = true;
                    self.lists(name, id, at, skill, conf);
                    self.inside = false;
                    // The host can always be reached.
                    let _ = self.world.look_into(None);
                }
                Err(e) => self.warn(&at.key("match"), format!("{}: {e}; paths allow nothing there", workload.path)),
            }
        }
    }

    /// The lists that name paths.
    fn lists(&mut self, name: &SkillName, id: SkillId, at: &KeyPath, skill: &Skill, conf: &SkillConf) {
        if let Some(Listed::Only(entries)) = &skill.allow_binaries {
            self.binaries(name, id, &at.key("allow_binaries"), entries);
        }
        let mut depths = HashMap::new();
        if let Some(Listed::Only(paths)) = &skill.allow_delete {
            self.paths(name, id, at, paths, Slot::Delete, &mut depths);
        }
        if let Some(Listed::Only(paths)) = &skill.allow_write {
            self.paths(name, id, at, paths, Slot::Write, &mut depths);
        }
        if !skill.protect.is_empty() {
            self.paths(name, id, at, &skill.protect, Slot::Protect, &mut depths);
            self.lift_protection(conf, &depths);
        }
        if let Some(Listed::Only(destinations)) = &skill.network_scope {
            self.unix_sockets(name, id, &at.key("network_scope"), destinations, &mut depths);
        }
        self.library_places(name, id, at, skill);
    }

    /// The binaries that are listed by their content, wherever they lie.
    fn contents(&mut self, name: &SkillName, id: SkillId, at: &KeyPath, skill: &Skill) {
        self.library_contents(name, id, skill);
        let entries = skill.allow_binaries.iter().flat_map(Listed::entries);
        let listed: Vec<BinaryEntry> =
            entries.filter(|entry| matches!(entry.binary, Binary::Content(_))).cloned().collect();
        self.binaries(name, id, &at.key("allow_binaries"), &listed);
    }

    fn binaries(&mut self, name: &SkillName, skill: SkillId, at: &KeyPath, entries: &[BinaryEntry]) {
        for (index, entry) in entries.iter().enumerate() {
            let (digests, text) = match &entry.binary {
                Binary::Content(digests) => (digests.clone(), None),
                Binary::Path { path, sha256 } => {
                    let digests = self.pin(&at.index(index), path, sha256);
                    let place = self.world.expand(path);
                    let names = self.world.names(Path::new(&place));
                    self.ruleset.pinned.entry(skill).or_default().extend(names);
                    self.remember_loader(Path::new(&place));
                    self.entrypoint_is_no_script(&at.index(index), path, Path::new(&place));
                    (digests, Some(format!("allow_binaries: {path}")))
                }
            };
            let parents = self.parents(&at.index(index).key("parents"), &entry.parents);
            for digest in digests {
                let rule = self.rule(name, text.clone().unwrap_or_else(|| format!("allow_binaries: {digest}")));
                self.program_rule(skill, &digest, rule, parents);
            }
        }
    }

    /// A script leads to no skill: what runs is its interpreter.
    fn entrypoint_is_no_script(&mut self, at: &KeyPath, path: &ManifestPath, place: &Path) {
        let Ok(found) = self.world.digest(place) else { return };
        let mut skills = self.manifest.skills.iter();
        let Some((target, _)) = skills.find(|(_, skill)| skill.matching.entrypoint == Some(found)) else { return };
        if !self.inside && self.world.is_script(place) {
            let text = format!(
                "{path} is a script and cannot be the entrypoint of {target}: name the digest of its interpreter, or of a binary"
            );
            self.error(at, text);
        }
    }

    /// The programs that may run an entry, as a set of bits; `None` when all may.
    fn parents(&mut self, at: &KeyPath, entries: &[ParentRef]) -> Option<u64> {
        let mut set = 0;
        for (index, entry) in entries.iter().enumerate() {
            let digests = match entry {
                ParentRef::Digest(digest) => vec![*digest],
                ParentRef::Path(path) => self.pin(&at.index(index), path, &[]),
            };
            for digest in digests {
                let digest = enforcer_common::ids::Digest(*digest.as_bytes());
                let Some(bit) = self.ids.parent(digest) else {
                    let text = format!("more than {PARENT_LIMIT} programs in `parents` since the daemon started");
                    self.error(&at.index(index), text);
                    continue;
                };
                set |= bit;
            }
        }
        (!entries.is_empty()).then_some(set)
    }

    /// The digests that a path entry allows: those it names, else that of what lies there now.
    fn pin(&mut self, at: &KeyPath, path: &ManifestPath, named: &[Digest]) -> Vec<Digest> {
        match self.world.digest(Path::new(&self.world.expand(path))) {
            Ok(found) if named.is_empty() => vec![found],
            Ok(found) if named.contains(&found) => named.to_vec(),
            Ok(found) => {
                self.warn(at, format!("{path} is {found} now, which `sha256` does not name: it will not run"));
                named.to_vec()
            }
            Err(e) => {
                self.warn(at, format!("{e}: the path allows nothing until the policy is compiled again"));
                named.to_vec()
            }
        }
    }

    /// Path rules of one key: each is resolved to the objects that it names.
    fn paths(
        &mut self,
        name: &SkillName,
        skill: SkillId,
        at: &KeyPath,
        paths: &[ManifestPath],
        slot: Slot,
        depths: &mut HashMap<(ObjectKey, Slot), u32>,
    ) {
        for (index, path) in paths.iter().enumerate() {
            self.path(name, skill, &at.key(slot.key()).index(index), path, slot, depths);
        }
    }

    /// One path rule.
    fn path(
        &mut self,
        name: &SkillName,
        skill: SkillId,
        at: &KeyPath,
        path: &ManifestPath,
        slot: Slot,
        depths: &mut HashMap<(ObjectKey, Slot), u32>,
    ) {
        let expanded = self.world.expand(path);
        let changes = matches!(slot, Slot::Delete | Slot::Write);
        if changes && !self.inside && self.own_paths.iter().any(|own| Path::new(&expanded).starts_with(own)) {
            return self.error(at, format!("{path} is Enforcer's own: no rule can allow a skill to change it"));
        }
        match self.world.objects(Path::new(&expanded), slot != Slot::Protect) {
            Ok(objects) if objects.is_empty() && self.inside => {}
            Ok(objects) if objects.is_empty() => {
                self.warn(at, format!("{path} does not exist: the rule takes effect when it appears"));
            }
            Ok(objects) => {
                let rule = self.rule(name, slot.text(path));
                if slot == Slot::Protect {
                    self.way(skill, at, Path::new(&expanded), rule);
                }
                for (object, below) in objects {
                    let key = ObjectKey::new(skill, object);
                    let nearest = depths.entry((key, slot)).or_insert(u32::MAX);
                    // Of two rules of a key that reach one object the nearer stands in events.
                    if below < *nearest {
                        *nearest = below;
                        *slot.of(self.ruleset.objects.entry(key).or_default()) = rule;
                    }
                }
            }
            // One container must not keep the policy from the others: there, the rule allows nothing.
            Err(e) if self.inside => self.warn(at, e.to_string()),
            Err(e @ NoObject::Silent { .. }) if slot != Slot::Protect => {
                // Watching it would wait for it, too.
                return self.warn(at, format!("{e}: the path allows nothing until the policy is compiled again"));
            }
            // What comes to lie there may have a number of its own.
            Err(e @ NoObject::Ambiguous(_)) => self.warn(at, format!("{e}; until then it allows nothing")),
            Err(e) => self.error(at, e.to_string()),
        }
        if !self.inside {
            self.ruleset.watched.insert(expanded.into());
        }
    }

    /// What a protected path leads through may not be moved: the path would lead elsewhere, and the rule with it.
    fn way(&mut self, skill: SkillId, at: &KeyPath, path: &Path, rule: RuleId) {
        match self.world.way(path) {
            Ok(objects) => {
                for object in objects {
                    let way = &mut self.ruleset.objects.entry(ObjectKey::new(skill, object)).or_default().way;
                    if *way == RuleId::NONE {
                        *way = rule;
                    }
                }
            }
            Err(e) => self.error(at, e.to_string()),
        }
    }

    /// Where a filesystem is mounted below several rules, its root carries them all, and there protection would win although an
    /// allowance is nearer. It is taken away where that changes nothing but what the nearer allowance says: an action of
    /// which there is none stays denied by itself.
    fn lift_protection(&mut self, conf: &SkillConf, depths: &HashMap<(ObjectKey, Slot), u32>) {
        for (key, rules) in &mut self.ruleset.objects {
            let Some(protected) = depths.get(&(*key, Slot::Protect)) else { continue };
            let nearer = |slot| depths.get(&(*key, slot)).is_some_and(|allowed| allowed < protected);
            let (write, delete) = (nearer(Slot::Write), nearer(Slot::Delete));
            let settled = (write || conf.flags & skill_flag::WRITE_ANY == 0)
                && (delete || conf.flags & skill_flag::DELETE_ANY == 0);
            if (write || delete) && settled {
                rules.protect = RuleId::NONE;
            }
        }
    }

    fn budget(&mut self, name: &SkillName, conf: &mut SkillConf, at: &KeyPath, budget: DeleteBudget) {
        if budget.limit() > BUDGET_LIMIT {
            return self.error(
                at,
                format!("{budget} is more than this build counts: at most {BUDGET_LIMIT} deletes per window"),
            );
        }
        let window = budget.window_ns();
        conf.budget = budget.limit();
        let [low, high] = [window & u64::from(u32::MAX), window >> 32];
        conf.budget_window = [low, high].map(|half| u32::try_from(half).unwrap_or(u32::MAX));
        conf.budget_rule = self.rule(name, format!("delete_budget: {budget}"));
    }

    /// A cgroup that the manifest names: what is there now, and its path for when it appears.
    fn cgroup(&mut self, skill: SkillId, at: &KeyPath, path: &str) {
        let Some(name) = CgroupName::new(path.as_bytes()) else {
            return self.error(at, format!("longer than {} bytes", CGROUP_PATH_CAPACITY - 1));
        };
        self.ruleset.cgroup_names.insert(name, skill);
        match self.world.cgroups(path) {
            Ok(cgroups) if cgroups.is_empty() => {
                self.warn(at, format!("there is no cgroup {path}: it is governed as soon as it appears"));
            }
            Ok(cgroups) => self.ruleset.add_cgroups(skill, &cgroups),
            Err(e) => self.error(at, e),
        }
    }
}

/// Which part of an [`ObjectRule`] a path rule fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    Delete,
    Write,
    Protect,
    Connect,
}

impl Slot {
    /// The manifest's key.
    const fn key(self) -> &'static str {
        match self {
            Self::Delete => "allow_delete",
            Self::Write => "allow_write",
            Self::Protect => "protect",
            Self::Connect => "network_scope",
        }
    }

    /// A rule as events name it.
    fn text(self, path: &ManifestPath) -> String {
        let kind = if self == Self::Connect { "unix:" } else { "" };
        format!("{}: {kind}{path}", self.key())
    }

    fn of(self, rules: &mut ObjectRule) -> &mut RuleId {
        match self {
            Self::Delete => &mut rules.allow_delete,
            Self::Write => &mut rules.allow_write,
            Self::Protect => &mut rules.protect,
            Self::Connect => &mut rules.connect,
        }
    }
}

/// The bits of the actions that need an approval.
fn two_factor(set: TwoFactor) -> u32 {
    set.iter().fold(0, |bits, a| {
        bits | match a {
            Action::Exec => action::EXEC,
            Action::Delete => action::DELETE,
            Action::Connect => action::CONNECT,
            Action::Write => action::WRITE,
        }
    })
}

#[cfg(test)]
mod name_tests;
#[cfg(test)]
mod net_model_tests;
#[cfg(test)]
mod tests;
