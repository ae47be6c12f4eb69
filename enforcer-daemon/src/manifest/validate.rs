//! [`Manifest`] → [`ValidManifest`]: values that agree with each other, and that this build enforces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

use enforcer_common::{rules::BUDGET_LIMIT, unit::PATTERN_LIMIT};

use super::digest::Digest;
use super::error::{ErrorKind, KeyPath, ManifestError, ManifestErrors, Position, quoted};
use super::matching::CgroupPath;
use super::model::{DEFAULT_LIBRARIES, LibraryEntry, Listed, Manifest, Skill, SkillName};
use super::path::ManifestPath;
use super::support::{self, Feature};

/// A manifest that this build can enforce as it stands.
///
/// It proves that every key it uses is enforced, but for what its warnings say, and that no two skills claim one
/// process by the same `match`. It does not prove that the host has the paths, cgroups and names it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidManifest {
    manifest: Manifest,
    warnings: Vec<Warning>,
    /// The SHA-256 of its text.
    pub(super) text: Option<Digest>,
}

impl ValidManifest {
    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The SHA-256 of its text, if it was read from a file.
    #[must_use]
    pub fn text(&self) -> Option<Digest> {
        self.text
    }

    /// What its author should know, in the order of the file.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

impl std::ops::Deref for ValidManifest {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.manifest
    }
}

/// Something that is allowed, and that its author may not have meant.
///
/// Displayed as `FILE:LINE:COLUMN: PATH: warning: MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Warning {
    /// The manifest's name, as it was given.
    pub file: String,
    /// The place that it is about.
    pub position: Option<Position>,
    /// The way to the key or the skill that it is about.
    pub path: KeyPath,
    /// One line.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = self.position {
            write!(f, ":{position}")?;
        }
        write!(f, ": {}: warning: {}", self.path, self.message)
    }
}

impl Manifest {
    /// Checks that the values agree with each other and that this build enforces every key.
    ///
    /// # Errors
    ///
    /// Every contradiction and every use of a key that is not enforced.
    pub fn validate(self) -> Result<ValidManifest, ManifestErrors> {
        let mut errors: Vec<_> =
            support::check(&self).into_iter().map(|unsupported| unsupported.into_error(&self)).collect();
        conflicts(&self, &mut errors);
        limits(&self, &mut errors);
        if let Some(errors) = ManifestErrors::collect(errors) {
            return Err(errors);
        }
        let warnings = warnings(&self, Feature::is_built);
        Ok(ValidManifest { manifest: self, warnings, text: None })
    }
}

/// Two skills that claim the same processes.
fn conflicts(manifest: &Manifest, errors: &mut Vec<ManifestError>) {
    fn same<'m, T: Hash + Eq + 'm>(
        manifest: &'m Manifest,
        key: &str,
        value: impl Fn(&'m Skill) -> Option<&'m T>,
        errors: &mut Vec<ManifestError>,
    ) {
        let mut claims: Vec<_> = manifest
            .skills
            .iter()
            .filter_map(|(name, skill)| {
                let path = KeyPath::skill(name.as_str()).key("match").key(key);
                Some((manifest.position(&path), path, name, value(skill)?))
            })
            .collect();
        // The skills are sorted by name; the one that comes later in the file is at fault.
        claims.sort_by_key(|(position, ..)| *position);
        let mut first = HashMap::new();
        for (position, path, name, value) in claims {
            let owner = *first.entry(value).or_insert(name);
            if owner != name {
                errors.push(ManifestError {
                    kind: ErrorKind::Conflict,
                    file: manifest.file().to_owned(),
                    position,
                    path,
                    found: format!("the same {key} as skill {}", quoted(owner.as_str())),
                    expected: "processes of its own".to_owned(),
                    hint: Some("one process belongs to one skill: give each its own, or merge the two".to_owned()),
                    message: None,
                });
            }
        }
    }
    same(manifest, "cgroup", |skill| skill.matching.cgroup.as_ref(), errors);
    same(manifest, "unit", |skill| skill.matching.unit.as_ref(), errors);
    same(manifest, "container", |skill| skill.matching.container.as_ref(), errors);
    same(manifest, "entrypoint", |skill| skill.matching.entrypoint.as_ref(), errors);
}

/// What this build has no room for, whatever the host.
fn limits(manifest: &Manifest, errors: &mut Vec<ManifestError>) {
    let mut refuse = |path: KeyPath, found: String, expected: String| {
        errors.push(ManifestError {
            kind: ErrorKind::Value,
            file: manifest.file().to_owned(),
            position: manifest.position(&path),
            path,
            found,
            expected,
            hint: None,
            message: None,
        });
    };
    let mut units = 0;
    for (name, skill) in &manifest.skills {
        let path = KeyPath::skill(name.as_str());
        if let Some(budget) = skill.delete_budget.filter(|budget| budget.limit() > BUDGET_LIMIT) {
            let expected = format!("at most {BUDGET_LIMIT} deletes per window");
            refuse(path.key("delete_budget"), quoted(&budget.to_string()), expected);
        }
        if skill.matching.unit.is_some() {
            units += 1;
            if units == PATTERN_LIMIT + 1 {
                let expected = format!("at most {PATTERN_LIMIT} skills with one");
                refuse(path.key("match").key("unit"), "one more pattern of units".to_owned(), expected);
            }
        }
    }
}

/// What the author should know, for a build that enforces what `is_built` says.
pub(crate) fn warnings(manifest: &Manifest, is_built: impl Fn(Feature) -> bool) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let cgroups: BTreeMap<&CgroupPath, &SkillName> =
        manifest.skills.iter().filter_map(|(name, skill)| Some((skill.matching.cgroup.as_ref()?, name))).collect();
    for (name, skill) in &manifest.skills {
        let path = KeyPath::skill(name.as_str());
        let mut warn = |path: KeyPath, message: String| {
            let position = manifest.position(&path);
            warnings.push(Warning { file: manifest.file().to_owned(), position, path, message });
        };
        absent(skill, &path, &mut warn);
        libraries(skill, &path, &mut warn);
        two_factor(manifest, skill, &path, &is_built, &mut warn);
        nested(&cgroups, name, skill, &path, &mut warn);
        repeated(skill, &path, &mut warn);
    }
    warnings.sort_by_key(|warning| warning.position);
    warnings
}

fn absent(skill: &Skill, path: &KeyPath, warn: &mut impl FnMut(KeyPath, String)) {
    for (absent, key, meaning) in [
        (skill.allow_binaries.is_none(), "allow_binaries", "no exec is allowed"),
        (skill.allow_delete.is_none(), "allow_delete", "no delete is allowed"),
        (skill.network_scope.is_none(), "network_scope", "no connect is allowed"),
        (skill.allow_write.is_none(), "allow_write", "writing is not governed"),
    ] {
        if absent {
            warn(path.clone(), format!("{key} is absent: {meaning}"));
        }
    }
}

/// Code that the agent can write and then run.
fn libraries(skill: &Skill, path: &KeyPath, warn: &mut impl FnMut(KeyPath, String)) {
    let defaults: Vec<ManifestPath> = DEFAULT_LIBRARIES.iter().filter_map(|path| path.parse().ok()).collect();
    let libraries: Vec<&ManifestPath> = match &skill.allow_libraries {
        None => defaults.iter().collect(),
        Some(Listed::Everything) => return,
        Some(Listed::Only(entries)) => entries
            .iter()
            .filter_map(|entry| match entry {
                LibraryEntry::Path(path) => Some(path),
                LibraryEntry::Digest(_) => None,
            })
            .collect(),
    };
    let key = path.key("allow_write");
    match &skill.allow_write {
        None => {}
        Some(Listed::Everything) => {
            warn(key, "everything may be written, so what the agent writes in a directory of allow_libraries can run as native code".to_owned());
        }
        Some(Listed::Only(writable)) => {
            for (n, write) in writable.iter().enumerate() {
                if let Some(library) = libraries.iter().find(|library| library.covers(write) || write.covers(library)) {
                    let message = format!(
                        "{} overlaps {} of allow_libraries: what the agent writes there can run as native code",
                        quoted(write.as_str()),
                        quoted(library.as_str())
                    );
                    warn(key.index(n), message);
                }
            }
        }
    }
}

fn two_factor(
    manifest: &Manifest,
    skill: &Skill,
    path: &KeyPath,
    is_built: impl Fn(Feature) -> bool,
    warn: &mut impl FnMut(KeyPath, String),
) {
    if !skill.require_2fa.is_empty() && !is_built(Feature::Approvals) {
        let actions: Vec<_> = skill.require_2fa.iter().map(super::Action::word).collect();
        let message = format!("nobody can approve in this build, so it denies: {}", actions.join(", "));
        warn(path.key("require_2fa"), message);
    }
    let approval = path.key("approval");
    if skill.require_2fa.is_empty() && manifest.position(&approval).is_some() {
        warn(approval, "without require_2fa, nothing asks for approval".to_owned());
    }
    if skill.delete_budget.is_some() && skill.allow_delete.is_none() {
        warn(path.key("delete_budget"), "without allow_delete, no delete is allowed anyway".to_owned());
    }
}

fn nested(
    cgroups: &BTreeMap<&CgroupPath, &SkillName>,
    name: &SkillName,
    skill: &Skill,
    path: &KeyPath,
    warn: &mut impl FnMut(KeyPath, String),
) {
    let Some(cgroup) = &skill.matching.cgroup else {
        return;
    };
    if let Some((outer, owner)) = cgroup.ancestors().find_map(|outer| cgroups.get_key_value(&outer))
        && *owner != name
    {
        let message = format!(
            "inside {} of skill {}: the narrower one, this, wins",
            quoted(outer.as_str()),
            quoted(owner.as_str())
        );
        warn(path.key("match").key("cgroup"), message);
    }
}

/// Entries that are written twice.
fn repeated(skill: &Skill, path: &KeyPath, warn: &mut impl FnMut(KeyPath, String)) {
    fn list<T: Hash + Eq>(key: &KeyPath, entries: &[T], warn: &mut impl FnMut(KeyPath, String)) {
        let mut seen = HashSet::with_capacity(entries.len());
        let mut repeated = entries.iter().enumerate().filter(|(_, entry)| !seen.insert(*entry));
        if let Some((n, _)) = repeated.next() {
            let message = match repeated.count() {
                0 => "the entry is written twice".to_owned(),
                more => format!("the entry is written twice, and so are {more} more"),
            };
            warn(key.index(n), message);
        }
    }
    list(&path.key("allow_binaries"), skill.allow_binaries.as_ref().map_or(&[], Listed::entries), warn);
    list(&path.key("network_scope"), skill.network_scope.as_ref().map_or(&[], Listed::entries), warn);
    list(&path.key("allow_write"), skill.allow_write.as_ref().map_or(&[], Listed::entries), warn);
    list(&path.key("allow_delete"), skill.allow_delete.as_ref().map_or(&[], Listed::entries), warn);
    list(&path.key("protect"), &skill.protect, warn);
}
