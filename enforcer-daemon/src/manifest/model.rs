//! The manifest as typed values: the whole schema, version 1, whether or not this build enforces it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use super::digest::Digest;
use super::error::{InvalidValue, KeyPath, Position};
use super::limits::{Approval, DeleteBudget};
use super::matching::Match;
use super::network::{Destination, ListenAddress};
use super::path::ManifestPath;
use super::schema;
use super::spans::Spans;

/// A manifest that was read: every value has its type and its form.
///
/// It does not prove that its values agree with each other, nor that this build enforces them: that is
/// [`ValidManifest`](super::ValidManifest), which is what the compiler takes. Only [`parse`](super::parse) makes one.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(deny_unknown_fields, description = "What an agent's skills may do.")]
pub struct Manifest {
    /// The schema's version; 1.
    #[schemars(default, schema_with = "schema::version", extend("default" = 1))]
    pub version: u32,
    /// Whether a denial blocks; a skill may say otherwise.
    #[schemars(default, extend("default" = "enforce"))]
    pub mode: Mode,
    /// Which decisions become events.
    #[schemars(default, extend("default" = "standard"))]
    pub audit_level: AuditLevel,
    /// The skills by name; never empty.
    #[schemars(extend("minProperties" = 1))]
    pub skills: BTreeMap<SkillName, Skill>,
    #[schemars(skip)]
    pub(crate) file: String,
    #[schemars(skip)]
    pub(crate) spans: Spans,
}

impl Manifest {
    /// The manifest's name as it was given: a path, or `-` for standard input.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where the key or the list entry stands that `path` leads to; `None` if the manifest does not have it.
    #[must_use]
    pub fn position(&self, path: &KeyPath) -> Option<Position> {
        self.spans.get(path)
    }
}

/// Compares what manifests mean, not the names of their files or the places of their keys.
impl PartialEq for Manifest {
    fn eq(&self, other: &Self) -> bool {
        let key = |m: &Self| (m.version, m.mode, m.audit_level);
        key(self) == key(other) && self.skills == other.skills
    }
}

impl Eq for Manifest {}

/// Whether a denial blocks (`mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Mode {
    /// A denied action fails.
    #[default]
    Enforce,
    /// Decides and reports the same, and blocks nothing.
    Audit,
}

impl Mode {
    /// Every mode, with the word for it.
    pub const WORDS: &'static [(&'static str, Self)] = &[("enforce", Self::Enforce), ("audit", Self::Audit)];
}

/// Which decisions become events (`audit_level`); each level includes the one before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum AuditLevel {
    /// Denials.
    Basic,
    /// And grants, holds, and what happens to the daemon and the policy.
    #[default]
    Standard,
    /// And every allowed decision.
    Strict,
}

impl AuditLevel {
    /// Every level, with the word for it.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("basic", Self::Basic), ("standard", Self::Standard), ("strict", Self::Strict)];
}

/// The name of a skill: 1 to 64 of `A-Z a-z 0-9 _ . -`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SkillName(String);

impl SkillName {
    /// The longest name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SkillName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for SkillName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for SkillName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let error = InvalidValue::new(text, "a skill name: 1 to 64 of A-Z a-z 0-9 _ . -");
        if let Some(other) = text.chars().find(|c| !plain(*c)) {
            return Err(error.because(format!("it has {other:?}")));
        }
        match text.len() {
            0 => Err(error),
            1..=Self::MAX_BYTES => Ok(Self(text.to_owned())),
            bytes => Err(error.because(format!("{bytes} bytes"))),
        }
    }
}

/// What the processes of one skill may do. A list that is absent allows nothing, but where it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Skill {
    /// This skill's mode, if it differs from the manifest's.
    pub mode: Option<Mode>,
    /// Which processes it governs (`match`); none: only those that are put into it.
    #[schemars(default, rename = "match")]
    pub matching: Match,
    /// What may be executed.
    pub allow_binaries: Option<Listed<BinaryEntry>>,
    /// Where executable mappings may come from; absent: [`DEFAULT_LIBRARIES`].
    pub allow_libraries: Option<Listed<LibraryEntry>>,
    /// Whether anonymous memory that was writable may become executable.
    #[schemars(default)]
    pub allow_jit: bool,
    /// Below what may be written; absent: not governed.
    pub allow_write: Option<Listed<ManifestPath>>,
    /// Below what may be deleted.
    pub allow_delete: Option<Listed<ManifestPath>>,
    /// What may neither be read nor written nor deleted.
    #[schemars(default)]
    pub protect: Vec<ManifestPath>,
    /// How many deletes within which time.
    pub delete_budget: Option<DeleteBudget>,
    /// Where connects and datagrams may go.
    pub network_scope: Option<Listed<Destination>>,
    /// Which local addresses may be bound and listened on.
    pub listen: Option<Listed<ListenAddress>>,
    /// The gateway that outbound TCP is redirected to.
    #[schemars(default, schema_with = "schema::gateway")]
    pub via: Option<std::net::SocketAddr>,
    /// Which actions need a human's approval, beyond being allowed.
    #[schemars(default)]
    pub require_2fa: TwoFactor,
    /// How approval is asked for and how long it lasts.
    #[schemars(default)]
    pub approval: Approval,
    /// Handed to the agent with each denial; one line of at most [`Skill::MAX_REASON_BYTES`].
    #[schemars(length(min = 1, max = 512))]
    pub reason: Option<String>,
}

impl Skill {
    /// The longest reason, in bytes.
    pub const MAX_REASON_BYTES: usize = 512;
}

/// Where executable mappings may come from if `allow_libraries` is absent.
pub const DEFAULT_LIBRARIES: &[&str] = &["/usr", "/lib", "/lib64", "/opt"];

/// A list of the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed<T> {
    /// `["*"]`: everything of that kind.
    Everything,
    /// These and nothing else; empty: nothing.
    Only(Vec<T>),
}

impl<T> Listed<T> {
    /// The entries; none if everything is allowed.
    #[must_use]
    pub fn entries(&self) -> &[T] {
        match self {
            Self::Everything => &[],
            Self::Only(entries) => entries,
        }
    }
}

/// One entry of `allow_binaries`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BinaryEntry {
    /// What may be executed.
    pub binary: Binary,
    /// Only when exec'd by a process that runs one of these; empty: by any.
    pub parents: Vec<ParentRef>,
}

/// What an entry of `allow_binaries` allows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Binary {
    /// One of these contents, at any path; never empty.
    Content(Vec<Digest>),
    /// This path with the content that it has when the policy is compiled, which must be one of `sha256`, if there is any.
    Path {
        /// Where it lies.
        path: ManifestPath,
        /// What it must be; empty: whatever lies there.
        sha256: Vec<Digest>,
    },
}

/// One entry of `parents`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ParentRef {
    /// A process that runs this content.
    Digest(Digest),
    /// A process that runs what lies at this path when the policy is compiled.
    Path(ManifestPath),
}

/// One entry of `allow_libraries`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LibraryEntry {
    /// This content, at any path.
    Digest(Digest),
    /// This file, or what lies below this directory.
    Path(ManifestPath),
}

/// Where a text is a digest or a path, which of the two it is.
fn digest_or_path<T>(
    text: &str,
    digest: impl FnOnce(Digest) -> T,
    path: impl FnOnce(ManifestPath) -> T,
) -> Result<T, InvalidValue> {
    let bare = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if bare || Digest::is_meant_by(text) {
        text.parse().map(digest)
    } else {
        text.parse().map(path).map_err(|error: InvalidValue| {
            if text.starts_with(['/', '~']) {
                error
            } else {
                error.expecting("`sha256:` and 64 hex digits, or an absolute path")
            }
        })
    }
}

impl FromStr for BinaryEntry {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let binary =
            digest_or_path(text, |digest| Binary::Content(vec![digest]), |path| Binary::Path { path, sha256: vec![] })?;
        Ok(Self { binary, parents: vec![] })
    }
}

impl FromStr for ParentRef {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        digest_or_path(text, Self::Digest, Self::Path)
    }
}

impl FromStr for LibraryEntry {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        digest_or_path(text, Self::Digest, Self::Path)
    }
}

/// An action that approval can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Action {
    /// Execution of a program.
    Exec,
    /// Unlink, rmdir, rename away or over, truncation to nothing.
    Delete,
    /// An outbound connection or datagram.
    Connect,
    /// Creation, writing, truncation, rename into.
    Write,
}

impl Action {
    /// Every action, with the word for it.
    pub const WORDS: &'static [(&'static str, Self)] =
        &[("exec", Self::Exec), ("delete", Self::Delete), ("connect", Self::Connect), ("write", Self::Write)];

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Delete => "delete",
            Self::Connect => "connect",
            Self::Write => "write",
        }
    }
}

/// A set of actions that need approval (`require_2fa`); it never allows what the lists do not.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TwoFactor(u8);

impl TwoFactor {
    /// No action (`false`).
    pub const NONE: Self = Self(0);
    /// Every action (`true`).
    pub const ALL: Self = Self(0b1111);

    /// Whether the action needs approval.
    #[must_use]
    pub fn contains(self, action: Action) -> bool {
        self.0 & 1 << action as u8 != 0
    }

    /// Whether no action needs approval.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// The actions that need approval.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::WORDS.iter().map(|(_, action)| *action).filter(move |action| self.contains(*action))
    }
}

impl FromIterator<Action> for TwoFactor {
    fn from_iter<I: IntoIterator<Item = Action>>(actions: I) -> Self {
        Self(actions.into_iter().fold(0, |set, action| set | 1 << action as u8))
    }
}

impl fmt::Debug for TwoFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
