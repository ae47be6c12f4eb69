//! Which processes a skill governs: cgroups, systemd units, containers, entrypoints.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;

use super::digest::Digest;
use super::error::{InvalidValue, quoted};
use super::path::ManifestPath;

/// Which processes a skill governs by themselves (`match`). A process that fits any of them is governed.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Match {
    /// This cgroup and its descendants.
    pub cgroup: Option<CgroupPath>,
    /// The processes of these systemd units.
    pub unit: Option<UnitPattern>,
    /// The processes of this container.
    pub container: Option<ContainerSelector>,
    /// Exec of this binary by a governed process moves it into this skill.
    pub entrypoint: Option<Digest>,
}

/// A cgroup v2 path below the cgroup mount: normalised, absolute, without `..`, and not the root, which holds every
/// process of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CgroupPath(String);

impl CgroupPath {
    /// The path as `/proc/PID/cgroup` shows it in the host's cgroup namespace.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cgroups above it, nearest first, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = Self> {
        self.0.rmatch_indices('/').filter(|(at, _)| *at > 0).map(|(at, _)| Self(self.0[..at].to_owned()))
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for CgroupPath {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const MOUNT: &str = "/sys/fs/cgroup";
        let expected = "a cgroup v2 path below the cgroup mount, such as /agents.slice/a.scope";
        if !text.starts_with('/') {
            return Err(InvalidValue::new(text, expected).because("it does not start with `/`"));
        }
        if let Some(rest) = text.strip_prefix(MOUNT).filter(|rest| rest.is_empty() || rest.starts_with('/')) {
            let hint = if rest.is_empty() {
                "name a cgroup".to_owned()
            } else {
                format!("leave out the mount: {}", quoted(rest))
            };
            return Err(InvalidValue::new(text, expected).hint(hint));
        }
        let path: ManifestPath = text.parse()?;
        if path.as_str() == "/" {
            return Err(InvalidValue::new(text, expected).because("the root holds every process of the host"));
        }
        Ok(Self(path.as_str().to_owned()))
    }
}

/// A systemd unit's name, `*` and `?` being wildcards.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnitPattern(String);

impl UnitPattern {
    /// The pattern.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UnitPattern {
    type Err = InvalidValue;

    /// The characters and the length are those of systemd.unit(5).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = InvalidValue::new(text, "a systemd unit, such as openclaw@*.service");
        if let Some(class) = text.chars().find(|c| "[]!".contains(*c)) {
            return Err(error.because(format!("it has {class:?}")).hint("the wildcards are `*` and `?`"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?".contains(c);
        if let Some(other) = text.chars().find(|c| !plain(*c)) {
            return Err(error.because(format!("it has {other:?}")));
        }
        if text.is_empty() || text.len() > 255 {
            return Err(error.because(format!("{} bytes", text.len())));
        }
        if text.bytes().all(|b| matches!(b, b'*' | b'?')) {
            return Err(error.because("it means every unit of the host").hint("name the units that the skill governs"));
        }
        if ![".service", ".scope", ".slice", "*"].iter().any(|end| text.ends_with(end)) {
            return Err(error.hint("end it with .service, .scope, .slice or *"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Which container: `NAME`, a prefix of its id, `image=IMAGE` or `label=KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ContainerSelector {
    /// Its name, or a prefix of its id.
    NameOrId(String),
    /// The image it runs.
    Image(String),
    /// A label that it bears.
    Label {
        /// The label's key.
        key: String,
        /// The label's value.
        value: String,
    },
}

impl FromStr for ContainerSelector {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || InvalidValue::new(text, "a container's name, id prefix, image=… or label=KEY=VALUE");
        if text.len() > 512 {
            return Err(error().because(format!("{} bytes", text.len())));
        }
        if let Some(other) = text.chars().find(|c| c.is_control() || c.is_whitespace()) {
            return Err(error().because(format!("it has {other:?}")));
        }
        if let Some(wildcard) = text.chars().find(|c| matches!(c, '*' | '?')) {
            return Err(error()
                .because(format!("it has {wildcard:?}, and there are no wildcards"))
                .hint("image=IMAGE, or a label that several containers bear, means several"));
        }
        match text.split_once('=') {
            Some(("image", image)) if !image.is_empty() => Ok(Self::Image(image.to_owned())),
            Some(("label", label)) => match label.split_once('=') {
                Some((key, value)) if !key.is_empty() => {
                    Ok(Self::Label { key: key.to_owned(), value: value.to_owned() })
                }
                _ => Err(error().hint("write label=KEY=VALUE")),
            },
            None if text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c)) =>
            {
                Ok(Self::NameOrId(text.to_owned()))
            }
            _ => Err(error()),
        }
    }
}
