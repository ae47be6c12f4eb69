//! The Claw Policy Manifest: YAML → [`Manifest`] → [`ValidManifest`].
//!
//! Parsing and validation are pure: they look at the text alone, never at the host, and end in bounded time and memory
//! whatever the text is. Errors carry the place, what was found, what was expected and a hint.

mod bounds;
mod decode;
mod digest;
pub mod edit;
mod error;
mod limits;
mod matching;
mod model;
mod network;
mod path;
mod reader;
mod schema;
mod source;
mod spans;
pub mod support;
mod validate;
mod yaml;

pub use self::decode::parse;
pub use self::digest::Digest;
pub use self::error::{ErrorKind, InvalidValue, KeyPath, ManifestError, ManifestErrors, Position};
pub use self::limits::{Approval, DeleteBudget, Grant, MAX_DURATION, parse_duration};
pub use self::matching::{CgroupPath, ContainerSelector, Match, UnitPattern};
pub use self::model::{
    Action, AuditLevel, Binary, BinaryEntry, DEFAULT_LIBRARIES, LibraryEntry, Listed, Manifest, Mode, ParentRef, Skill,
    SkillName, TwoFactor,
};
pub use self::network::{Destination, HostName, ListenAddress, Protocol};
pub use self::path::ManifestPath;
pub use self::schema::json_schema;
pub use self::source::{MAX_BYTES, Source};
pub use self::validate::{ValidManifest, Warning};

pub(crate) use self::error::quoted;

use sha2::{Digest as _, Sha256};

/// Reads, parses and validates the manifest at `path`.
///
/// # Errors
///
/// Everything that is wrong with it.
pub fn load(path: &std::path::Path) -> Result<ValidManifest, ManifestErrors> {
    let source = Source::read(path)?;
    let mut manifest = parse(&source)?.validate()?;
    manifest.text = Some(Digest::new(Sha256::digest(source.text()).into()));
    Ok(manifest)
}

#[cfg(test)]
mod tests;
