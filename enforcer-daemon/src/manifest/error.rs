//! What is wrong with a manifest, where, and what to write instead.
//!
//! A [`ManifestError`] is one finding; [`ManifestErrors`] is what an operation returns: everything that was found, in
//! the order of the file, never empty.

use std::fmt::{self, Write as _};

/// How many bytes of a manifest's value a message repeats.
const QUOTED_BYTES: usize = 80;

/// A place in a manifest: line and column, both counted from one, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl Position {
    /// The first character of the file.
    pub const START: Self = Self { line: 1, column: 1 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The way from the manifest's root to a value: `skills.file_manager.network_scope[3]`.
///
/// The root is the empty path. It is only ever built from keys of the schema and from the manifest's own keys, quoted
/// where they are not plain words.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyPath(String);

impl KeyPath {
    /// The manifest itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(String::new())
    }

    /// The path of a skill: `skills.NAME`.
    #[must_use]
    pub fn skill(name: &str) -> Self {
        Self::root().key("skills").key(name)
    }

    /// The value under `key` of the mapping at this path.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        let mut path = String::with_capacity(self.0.len() + key.len() + 1);
        path.push_str(&self.0);
        if !path.is_empty() {
            path.push('.');
        }
        if !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
            path.push_str(key);
        } else {
            path.push_str(&quoted(key));
        }
        Self(path)
    }

    /// The entry `index`, from 0, of the list at this path.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    /// The list and the index, if the last step goes into a list.
    pub(crate) fn split_index(&self) -> Option<(&str, usize)> {
        let (list, index) = self.0.strip_suffix(']')?.rsplit_once('[')?;
        Some((list, index.parse().ok()?))
    }

    /// The path as it is displayed.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the manifest itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of fault a [`ManifestError`] is, for a caller that acts on the difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file cannot be read, or is not a regular file.
    Io,
    /// The file, or what its aliases stand for, is larger than a manifest may be.
    TooLarge,
    /// The text is empty, not UTF-8, or not one YAML document.
    Syntax,
    /// A value has the wrong type.
    Type,
    /// A key that no manifest has.
    UnknownKey,
    /// A key that is written twice.
    DuplicateKey,
    /// A value of the right type that means nothing.
    Value,
    /// Values that contradict each other.
    Conflict,
    /// A key of the schema that this build does not enforce.
    Unsupported,
}

/// One thing that is wrong with a manifest.
///
/// Displayed as `FILE:LINE:COLUMN: PATH: MESSAGE`, and the hint, if there is one, on a line of its own. Values of the
/// manifest are quoted, escaped and cut, so that a message is safe on a terminal and in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ManifestError {
    /// What kind of fault this is.
    pub kind: ErrorKind,
    /// The manifest's name, as it was given.
    pub file: String,
    /// Where the fault is; absent if it is not at one place, as when the file cannot be read.
    pub position: Option<Position>,
    /// The way to the value; the root for what concerns the whole file.
    pub path: KeyPath,
    /// What stands there.
    pub found: String,
    /// What should stand there.
    pub expected: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The message, where it is not "found …, expected …".
    pub(crate) message: Option<String>,
}

impl ManifestError {
    /// The fault in one line, without its place and its hint.
    #[must_use]
    pub fn message(&self) -> String {
        self.message.clone().unwrap_or_else(|| format!("found {}, expected {}", self.found, self.expected))
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(position) = self.position {
            write!(f, ":{position}")?;
        }
        if !self.path.is_root() {
            write!(f, ": {}", self.path)?;
        }
        write!(f, ": {}", self.message())?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}

/// Everything that was found wrong with a manifest, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestErrors {
    errors: Vec<ManifestError>,
    more: usize,
}

impl ManifestErrors {
    /// How many errors are kept; the rest is counted.
    pub const MAX: usize = 100;

    /// Sorts by place, keeps the first [`Self::MAX`]. `None` if there is none.
    pub(crate) fn collect(mut errors: Vec<ManifestError>) -> Option<Self> {
        errors.sort_by_key(|error| error.position);
        let more = errors.len().saturating_sub(Self::MAX);
        errors.truncate(Self::MAX);
        (!errors.is_empty()).then_some(Self { errors, more })
    }

    /// The errors that were kept.
    pub fn iter(&self) -> std::slice::Iter<'_, ManifestError> {
        self.errors.iter()
    }

    /// How many errors there are beyond those kept.
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }
}

impl<'a> IntoIterator for &'a ManifestErrors {
    type Item = &'a ManifestError;
    type IntoIter = std::slice::Iter<'a, ManifestError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<ManifestError> for ManifestErrors {
    fn from(error: ManifestError) -> Self {
        Self { errors: vec![error], more: 0 }
    }
}

impl fmt::Display for ManifestErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.errors.iter().enumerate() {
            if n > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{error}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestErrors {}

/// A value in text form that is not what it should be; the error of every `FromStr` of the manifest's types.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("found {found}, expected {expected}{}", .hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
pub struct InvalidValue {
    /// The value, quoted, and what is wrong with it.
    pub found: String,
    /// What it should be.
    pub expected: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl InvalidValue {
    /// `value` is not `expected`.
    pub(crate) fn new(value: &str, expected: impl Into<String>) -> Self {
        Self { found: quoted(value), expected: expected.into(), hint: None }
    }

    /// Says what is wrong with the value, in parentheses after it.
    #[must_use]
    pub(crate) fn because(mut self, why: impl fmt::Display) -> Self {
        // Writing to a String does not fail.
        let _ = write!(self.found, " ({why})");
        self
    }

    /// Says what it should be, more closely.
    #[must_use]
    pub(crate) fn expecting(mut self, expected: impl Into<String>) -> Self {
        self.expected = expected.into();
        self
    }

    /// Says what to write instead.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// `value` in double quotes, control and other unprintable characters escaped, cut after 80 bytes.
pub(crate) fn quoted(value: &str) -> String {
    if value.len() <= QUOTED_BYTES {
        return format!("{value:?}");
    }
    let cut = value.floor_char_boundary(QUOTED_BYTES);
    let mut text = format!("{:?}", &value[..cut]);
    text.pop();
    text.push_str("…\"");
    text
}
