//! Which parts of the schema this build enforces, in one table.
//!
//! A part that is not enforced is never ignored: a manifest that uses it is refused, with the place.

use super::error::{ErrorKind, KeyPath, ManifestError};
use super::model::{Action, Binary, BinaryEntry, Listed, Manifest, Skill};
use super::network::Destination;

/// A part of the schema that a build may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Feature {
    /// `match.unit`.
    MatchUnit,
    /// `match.container`.
    MatchContainer,
    /// `match.entrypoint`.
    MatchEntrypoint,
    /// `parents` of an entry of `allow_binaries`.
    Parents,
    /// `allow_libraries`.
    AllowLibraries,
    /// `allow_jit: true`.
    AllowJit,
    /// `allow_write`.
    AllowWrite,
    /// `protect`.
    Protect,
    /// `delete_budget`.
    DeleteBudget,
    /// Names in `network_scope`.
    Names,
    /// `*.example.com` in `network_scope`.
    WildcardNames,
    /// `unix:…` in `network_scope`.
    UnixSockets,
    /// `listen`.
    Listen,
    /// `via`.
    Via,
    /// Someone to ask; without it, `require_2fa` is accepted and denies what it covers.
    Approvals,
    /// `write` in `require_2fa`.
    ApproveWrite,
}

impl Feature {
    /// Whether this build enforces it. This is the table: to build a part is to move its line.
    #[must_use]
    pub const fn is_built(self) -> bool {
        match self {
            // Enforced, beside every key that has no feature of its own.
            Self::MatchUnit
            | Self::MatchContainer
            | Self::MatchEntrypoint
            | Self::Parents
            | Self::AllowLibraries
            | Self::AllowJit
            | Self::AllowWrite
            | Self::Protect
            | Self::DeleteBudget
            | Self::Names
            | Self::UnixSockets
            | Self::Listen => true,
            // Not yet.
            Self::WildcardNames | Self::Via | Self::Approvals | Self::ApproveWrite => false,
        }
    }

    /// The part, as messages mention it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MatchUnit => "`match.unit`",
            Self::MatchContainer => "`match.container`",
            Self::MatchEntrypoint => "`match.entrypoint`",
            Self::Parents => "`parents`",
            Self::AllowLibraries => "`allow_libraries`",
            Self::AllowJit => "`allow_jit: true`",
            Self::AllowWrite => "`allow_write`",
            Self::Protect => "`protect`",
            Self::DeleteBudget => "`delete_budget`",
            Self::Names => "a name in `network_scope`",
            Self::WildcardNames => "a wildcard name in `network_scope`",
            Self::UnixSockets => "a unix socket in `network_scope`",
            Self::Listen => "`listen`",
            Self::Via => "`via`",
            Self::Approvals => "`approval`",
            Self::ApproveWrite => "`write` in `require_2fa`",
        }
    }
}

impl Feature {
    /// What to do about it.
    const fn hint(self) -> &'static str {
        match self {
            Self::WildcardNames => {
                "it needs the daemon's resolver in the path, not built yet; list the names one by one"
            }
            _ => "a rule that is not enforced is refused rather than ignored; remove it",
        }
    }
}

/// A use of a part of the schema that this build does not enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The part.
    pub feature: Feature,
    /// The key or the list entry that uses it.
    pub path: KeyPath,
}

impl Unsupported {
    pub(crate) fn into_error(self, manifest: &Manifest) -> ManifestError {
        let name = self.feature.name();
        ManifestError {
            kind: ErrorKind::Unsupported,
            file: manifest.file().to_owned(),
            position: manifest.position(&self.path),
            path: self.path,
            found: name.to_owned(),
            expected: "what this build enforces".to_owned(),
            hint: Some(self.feature.hint().to_owned()),
            message: Some(format!("{name} is not supported by this build")),
        }
    }
}

/// Every use of a part that this build does not enforce, skill by skill.
#[must_use]
pub fn check(manifest: &Manifest) -> Vec<Unsupported> {
    check_with(manifest, Feature::is_built)
}

/// [`check`] for a build that enforces what `is_built` says.
pub(crate) fn check_with(manifest: &Manifest, is_built: impl Fn(Feature) -> bool) -> Vec<Unsupported> {
    let mut found = Vec::new();
    for (name, skill) in &manifest.skills {
        let path = KeyPath::skill(name.as_str());
        uses(manifest, skill, &path, &mut |feature, path| {
            if !is_built(feature) {
                found.push(Unsupported { feature, path });
            }
        });
    }
    found
}

/// Reports which parts of the schema `skill` uses, and where.
fn uses(manifest: &Manifest, skill: &Skill, path: &KeyPath, report: &mut impl FnMut(Feature, KeyPath)) {
    let matching = path.key("match");
    let keys = [
        (skill.matching.unit.is_some(), Feature::MatchUnit, matching.key("unit")),
        (skill.matching.container.is_some(), Feature::MatchContainer, matching.key("container")),
        (skill.matching.entrypoint.is_some(), Feature::MatchEntrypoint, matching.key("entrypoint")),
        (skill.allow_libraries.is_some(), Feature::AllowLibraries, path.key("allow_libraries")),
        (skill.allow_jit, Feature::AllowJit, path.key("allow_jit")),
        (skill.allow_write.is_some(), Feature::AllowWrite, path.key("allow_write")),
        (!skill.protect.is_empty(), Feature::Protect, path.key("protect")),
        (skill.delete_budget.is_some(), Feature::DeleteBudget, path.key("delete_budget")),
        (skill.listen.is_some(), Feature::Listen, path.key("listen")),
        (skill.via.is_some(), Feature::Via, path.key("via")),
        (manifest.position(&path.key("approval")).is_some(), Feature::Approvals, path.key("approval")),
    ];
    for (used, feature, path) in keys {
        if used {
            report(feature, path);
        }
    }
    for (n, BinaryEntry { binary: Binary::Content(_) | Binary::Path { .. }, parents }) in
        skill.allow_binaries.iter().flat_map(Listed::entries).enumerate()
    {
        if !parents.is_empty() {
            report(Feature::Parents, path.key("allow_binaries").index(n).key("parents"));
        }
    }
    for (n, destination) in skill.network_scope.iter().flat_map(Listed::entries).enumerate() {
        let feature = match destination {
            Destination::Net { .. } => continue,
            Destination::Name { wildcard: false, .. } => Feature::Names,
            Destination::Name { wildcard: true, .. } => Feature::WildcardNames,
            Destination::UnixPath(_) | Destination::UnixAbstract(_) => Feature::UnixSockets,
        };
        report(feature, path.key("network_scope").index(n));
    }
    // `true` covers writes as far as they are governed; who writes `write` counts on it.
    let two_factor = path.key("require_2fa");
    let position = |n| manifest.position(&two_factor.index(n));
    if skill.require_2fa.contains(Action::Write) && position(0).is_some() {
        report(Feature::ApproveWrite, two_factor);
    }
}
