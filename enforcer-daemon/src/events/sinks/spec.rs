//! How a sink is asked for: `stdout`, `file:PATH[,max_size=N][,max_age=T][,keep=N]`, `syslog[:PATH]`, `journald[:PATH]`.

use std::{
    fmt,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::kernel::contents::MOST_SINKS;

/// Where the local syslog daemon listens.
const SYSLOG: &str = "/dev/log";
/// Where the journal listens for its native protocol.
const JOURNAL: &str = "/run/systemd/journal/socket";

/// A sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Standard output.
    Stdout,
    /// A file that is rotated.
    File(FileSpec),
    /// RFC 5424 by datagrams to a unix socket.
    Syslog(PathBuf),
    /// The journal's native protocol.
    Journald(PathBuf),
}

/// A file, and when it is rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// The file.
    pub path: PathBuf,
    /// Before it would be larger than this, in bytes, the file is renamed to `PATH.1` and a new one begun.
    pub max_size: u64,
    /// The same when it is older than this.
    pub max_age: Option<Duration>,
    /// How many renamed files are kept.
    pub keep: u32,
}

impl FileSpec {
    const MAX_SIZE: u64 = 64 << 20;
    const KEEP: u32 = 8;
    /// All are open for a moment when the file is rotated, and a process may have 1,024 files open.
    const MOST_KEPT: u32 = 400;

    /// The name of the `n`th file before this one.
    #[must_use]
    pub fn rotated(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    /// The name of the file after this one, for the moment before it takes this one's.
    #[must_use]
    pub fn next(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".next");
        name.into()
    }

    /// All names that it has, one day.
    pub fn names(&self) -> impl Iterator<Item = PathBuf> {
        [self.path.clone(), self.next()].into_iter().chain((1..=self.keep).map(|n| self.rotated(n)))
    }
}

/// What is wrong with a sink.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// No such sink.
    #[error("`{0}` is no sink: stdout, file:PATH, syslog or journald")]
    Unknown(String),
    /// A path is missing or not absolute.
    #[error("`{0}` names no absolute path")]
    Path(String),
    /// An option of `file` is not understood.
    #[error("`{0}` is no option of a file: max_size=64M, max_age=1d, keep=8")]
    Option(String),
    /// Two sinks would write to one place.
    #[error("two sinks go to {0}")]
    Twice(String),
    /// The daemon counts what each has, for the daemon after it; there is room for so many counts.
    #[error("there are {0} sinks; {MOST_SINKS} are possible")]
    TooMany(usize),
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let absolute = |path: &str| match Path::new(path) {
            path if path.is_absolute() => Ok(path.to_owned()),
            _ => Err(SpecError::Path(text.to_owned())),
        };
        match (kind, rest) {
            ("stdout", None) => Ok(Self::Stdout),
            ("syslog", path) => absolute(path.unwrap_or(SYSLOG)).map(Self::Syslog),
            ("journald", path) => absolute(path.unwrap_or(JOURNAL)).map(Self::Journald),
            ("file", Some(rest)) => {
                let mut parts = rest.split(',');
                let path = absolute(parts.next().unwrap_or_default())?;
                let mut spec = FileSpec { path, max_size: FileSpec::MAX_SIZE, max_age: None, keep: FileSpec::KEEP };
                for part in parts {
                    option(&mut spec, part).ok_or_else(|| SpecError::Option(part.to_owned()))?;
                }
                Ok(Self::File(spec))
            }
            _ => Err(SpecError::Unknown(text.to_owned())),
        }
    }
}

/// Takes one `KEY=VALUE`.
fn option(spec: &mut FileSpec, part: &str) -> Option<()> {
    match part.split_once('=')? {
        ("max_size", value) => {
            spec.max_size = scaled(value, &[('K', 1 << 10), ('M', 1 << 20), ('G', 1 << 30)]).filter(|n| *n > 0)?;
        }
        ("max_age", value) => {
            let seconds = scaled(value, &[('s', 1), ('m', 60), ('h', 3600), ('d', 86400)]).filter(|n| *n > 0)?;
            spec.max_age = Some(Duration::from_secs(seconds));
        }
        ("keep", value) => spec.keep = value.parse().ok().filter(|n| *n <= FileSpec::MOST_KEPT)?,
        _ => return None,
    }
    Some(())
}

/// A number with a unit behind it.
fn scaled(text: &str, units: &[(char, u64)]) -> Option<u64> {
    let unit = units.iter().find(|(letter, _)| text.ends_with(*letter));
    let (digits, factor) = unit.map_or((text, 1), |(letter, factor)| (text.trim_end_matches(*letter), *factor));
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("stdout"),
            Self::File(spec) => write!(f, "file:{}", spec.path.display()),
            Self::Syslog(path) => write!(f, "syslog:{}", path.display()),
            Self::Journald(path) => write!(f, "journald:{}", path.display()),
        }
    }
}

/// Refuses more than can be counted for, and two sinks to one place: their lines and their rotation would mix. A file that rotates over another's name is one, too.
///
/// # Errors
/// How many there are, or the place that two go to.
pub fn check(specs: &[Spec]) -> Result<(), SpecError> {
    if specs.len() > MOST_SINKS as usize {
        return Err(SpecError::TooMany(specs.len()));
    }
    let mut places: Vec<Place> = vec![];
    for spec in specs {
        let taken: Vec<Place> = match spec {
            Spec::Stdout => vec![Place::of(Path::new("/dev/stdout"))],
            Spec::File(file) => file.names().map(|name| Place::of(&name)).collect(),
            Spec::Syslog(path) | Spec::Journald(path) => vec![Place::of(path)],
        };
        if let Some(twice) = taken.iter().find(|place| places.iter().any(|other| place.is(other))) {
            return Err(SpecError::Twice(twice.path.display().to_string()));
        }
        places.extend(taken);
    }
    Ok(())
}

/// Where a name leads, and what lies there.
struct Place {
    path: PathBuf,
    /// Its device and inode: a file may have two names.
    object: Option<(u64, u64)>,
}

impl Place {
    fn of(path: &Path) -> Self {
        let object = path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
        Self { path: real(path), object }
    }

    fn is(&self, other: &Self) -> bool {
        self.path == other.path || self.object.is_some() && self.object == other.object
    }
}

/// Where a name leads, as far as it exists: two names may be one file.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| {
        let parent = path.parent().and_then(|parent| parent.canonicalize().ok());
        match (parent, path.file_name()) {
            (Some(parent), Some(name)) => parent.join(name),
            _ => path.to_owned(),
        }
    })
}
