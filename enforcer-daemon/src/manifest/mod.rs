//! The Claw Policy Manifest: YAML → [`Manifest`] → [`ValidManifest`].
//!
//! Parsing and validation are pure: they look at the text alone, never at the host, and end in bounded time and memory
//! whatever the text is. Errors carry the place, what was found, what was expected and a hint.

mod digest;
mod error;
mod limits;
mod model;
mod network;
mod path;
mod spans;

pub use self::digest::Digest;
pub use self::error::{ErrorKind, InvalidValue, KeyPath, ManifestError, ManifestErrors, Position};
pub use self::limits::{Approval, DeleteBudget, Grant, MAX_DURATION, parse_duration};
pub use self::model::{
    Action, AuditLevel, Binary, BinaryEntry, CgroupPath, ContainerSelector, DEFAULT_LIBRARIES, LibraryEntry, Listed,
    Manifest, Match, Mode, ParentRef, Skill, SkillName, TwoFactor, UnitPattern,
};
pub use self::network::{Destination, HostName, ListenAddress, Protocol};
pub use self::path::ManifestPath;

pub(crate) use self::error::quoted;
