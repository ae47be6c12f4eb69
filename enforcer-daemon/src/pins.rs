//! What a manifest says of the files that it names, beside what lies there now.

use std::path::{Path, PathBuf};

use crate::manifest::{
    Binary, Digest, KeyPath, LibraryEntry, Listed, Manifest, ManifestPath, ParentRef, Skill, SkillName,
};
use crate::measure::{self, Progress};

/// A path of `allow_binaries`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Its skill.
    pub skill: SkillName,
    /// Its index in the list, from 0.
    pub entry: usize,
    /// The path, as it is written.
    pub path: ManifestPath,
    /// The digests that it is pinned to; none: to whatever lies there when the policy is loaded.
    pub named: Vec<Digest>,
    /// The digest of what lies there, or why there is none.
    pub found: Result<Digest, String>,
}

impl Pinned {
    /// Where it stands in the manifest.
    #[must_use]
    pub fn key(&self) -> KeyPath {
        KeyPath::skill(self.skill.as_str()).key("allow_binaries").index(self.entry)
    }

    /// Whether it is pinned, and to something else than what lies there.
    #[must_use]
    pub fn differs(&self) -> bool {
        self.found.as_ref().is_ok_and(|found| !self.named.is_empty() && !self.named.contains(found))
    }
}

/// The paths of `allow_binaries` on the host, with their indices and digests; those of a skill with containers are the containers'.
pub fn binary_paths(manifest: &Manifest) -> impl Iterator<Item = (&SkillName, usize, &ManifestPath, &[Digest])> {
    let of_the_host = manifest.skills.iter().filter(|(_, skill)| skill.matching.container.is_none());
    of_the_host.flat_map(|(name, skill)| {
        let entries = skill.allow_binaries.iter().flat_map(Listed::entries).enumerate();
        entries.filter_map(move |(n, entry)| match &entry.binary {
            Binary::Path { path, sha256 } => Some((name, n, path, sha256.as_slice())),
            Binary::Content(_) => None,
        })
    })
}

/// Measures what lies at the paths of `allow_binaries`; `home` is what `~` means.
#[must_use]
pub fn look(manifest: &Manifest, home: &Path, tell: impl FnMut(Progress)) -> Vec<Pinned> {
    let paths: Vec<PathBuf> = binary_paths(manifest).map(|(_, _, path, _)| path.below(home)).collect();
    let measured = measure::files(&paths, tell);
    binary_paths(manifest)
        .zip(paths)
        .map(|((skill, entry, path, named), place)| Pinned {
            skill: skill.clone(),
            entry,
            path: path.clone(),
            named: named.to_vec(),
            found: match measured.get(&place) {
                Some(Ok(digest)) => Ok(*digest),
                Some(Err(error)) => Err(error.to_string()),
                None => Err(format!("{path}: was not measured")),
            },
        })
        .collect()
}

/// Where this host differs from what the manifest says of files: a pinned binary that is another, a file that is missing or
/// cannot be measured, a parent or a library's place that does not exist.
#[must_use]
pub fn differences(manifest: &Manifest, home: &Path, tell: impl FnMut(Progress)) -> Vec<(KeyPath, String)> {
    let mut found: Vec<(KeyPath, String)> = look(manifest, home, tell)
        .into_iter()
        .filter_map(|pinned| match &pinned.found {
            Err(why) => Some((pinned.key(), why.clone())),
            Ok(now) if pinned.differs() => {
                Some((pinned.key(), format!("{} is {now} now, which `sha256` does not name", pinned.path)))
            }
            Ok(_) => None,
        })
        .collect();
    let named = named_places(manifest);
    let missing = measure::missing(&named.iter().map(|(_, path)| path.below(home)).collect::<Vec<_>>());
    found.extend(named.into_iter().filter_map(|(key, path)| Some((key, missing.get(&path.below(home))?.to_string()))));
    found
}

/// The skills of containers that name binaries by path: these are the containers' files, which are not looked for on this host.
#[must_use]
pub fn of_containers(manifest: &Manifest) -> Vec<KeyPath> {
    let by_path = |skill: &Skill| {
        let mut entries = skill.allow_binaries.iter().flat_map(Listed::entries);
        skill.matching.container.is_some() && entries.any(|entry| matches!(entry.binary, Binary::Path { .. }))
    };
    let skills = manifest.skills.iter().filter(|(_, skill)| by_path(skill));
    skills.map(|(name, _)| KeyPath::skill(name.as_str()).key("allow_binaries")).collect()
}

/// The paths that have no digest of their own in the manifest: of parents, and of libraries.
fn named_places(manifest: &Manifest) -> Vec<(KeyPath, &ManifestPath)> {
    let mut found = vec![];
    for (name, skill) in &manifest.skills {
        let at = KeyPath::skill(name.as_str());
        for (n, entry) in skill.allow_binaries.iter().flat_map(Listed::entries).enumerate() {
            let parents = at.key("allow_binaries").index(n).key("parents");
            found.extend(entry.parents.iter().enumerate().filter_map(|(n, parent)| match parent {
                ParentRef::Path(path) => Some((parents.index(n), path)),
                ParentRef::Digest(_) => None,
            }));
        }
        let libraries = skill.allow_libraries.iter().flat_map(Listed::entries).enumerate();
        found.extend(libraries.filter_map(|(n, library)| match library {
            LibraryEntry::Path(path) => Some((at.key("allow_libraries").index(n), path)),
            LibraryEntry::Digest(_) => None,
        }));
    }
    found
}
