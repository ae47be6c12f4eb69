//! Paths as a manifest writes them: absolute or below `~/`, plain, without globs and without `..`.

use std::fmt;
use std::str::FromStr;

use super::error::InvalidValue;

/// The kernel's `PATH_MAX`, with its NUL.
const PATH_MAX: usize = 4096;
/// The kernel's `NAME_MAX`.
const NAME_MAX: usize = 255;

/// A path of the manifest: absolute, or `~/…`, which is expanded when the policy is compiled.
///
/// Normalised: no empty component, no `.`, no `..`, no slash at the end (but for `/` itself). It says nothing about
/// whether something lies there.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManifestPath(String);

impl ManifestPath {
    /// The path in its normal form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What follows `~/`, if the path starts in a home directory; empty for the home directory itself.
    #[must_use]
    pub fn below_home(&self) -> Option<&str> {
        self.0.strip_prefix('~').map(|rest| rest.trim_start_matches('/'))
    }

    /// The path on this host, with `home` in the place of `~`.
    #[must_use]
    pub fn below(&self, home: &std::path::Path) -> std::path::PathBuf {
        self.below_home().map_or_else(|| self.0.clone().into(), |rest| home.join(rest))
    }

    /// Whether `other` is this path or lies below it, by their text.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let own = self.0.trim_end_matches('/');
        other.0.strip_prefix(own).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for ManifestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ManifestPath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |expected: &str| InvalidValue::new(text, expected);
        let (start, rest) = if let Some(rest) = text.strip_prefix('/') {
            ("", rest)
        } else if let Some(rest) = text.strip_prefix("~/") {
            ("~", rest)
        } else {
            return Err(not_absolute(text));
        };
        if text.len() >= PATH_MAX {
            return Err(invalid("a path shorter than 4096 bytes").because(format!("{} bytes", text.len())));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(invalid("a path without control characters").because(format!("it has {control:?}")));
        }
        let mut path = start.to_owned();
        for component in rest.split('/').filter(|component| !matches!(*component, "" | ".")) {
            if component == ".." {
                return Err(invalid("a path without `..`").hint("write the path that is meant"));
            }
            if component.len() > NAME_MAX {
                return Err(invalid("components of at most 255 bytes").because(format!("one has {}", component.len())));
            }
            check_plain(text, component)?;
            path.push('/');
            path.push_str(component);
        }
        if path.len() == start.len() {
            path.push('/');
        }
        Ok(Self(path))
    }
}

/// Globs and variables would be taken literally, and a rule that never matches protects nothing: refuse them.
fn check_plain(text: &str, component: &str) -> Result<(), InvalidValue> {
    let pair = |open, close| component.split_once(open).is_some_and(|(_, rest): (&str, &str)| rest.contains(close));
    if component.contains(['*', '?']) || pair('[', ']') || (pair('{', '}') && component.contains(',')) {
        return Err(InvalidValue::new(text, "a plain path")
            .because("globs are not supported")
            .hint("a directory covers everything below it"));
    }
    if component.starts_with('$') {
        return Err(InvalidValue::new(text, "a plain path")
            .because("variables are not expanded")
            .hint("`~/` is the home directory of the agent's user; write anything else in full"));
    }
    Ok(())
}

fn not_absolute(text: &str) -> InvalidValue {
    let error = InvalidValue::new(text, "an absolute path, or one that starts with `~/`");
    if text == "~" {
        error.hint("write \"~/\"")
    } else if text.starts_with('~') {
        error.because("homes of other users are not supported").hint("write the path in full")
    } else if text.starts_with('$') {
        error.because("variables are not expanded").hint("write the path in full")
    } else if text.is_empty() {
        error.because("it is empty")
    } else {
        error
    }
}
