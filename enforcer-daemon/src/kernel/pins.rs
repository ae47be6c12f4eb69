//! What is in force lies in bpffs, where it outlives the daemon: `/sys/fs/bpf/enforcer/set-N/{maps,progs,links}/NAME`.
//!
//! A *set* is one load of the programs with all that they need. It has a `mark`, pinned when everything else is in place:
//! a set without it was never in force. There are two sets only while one replaces the other.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use aya::programs::links::PinnedLink;
use rustix::mount::{MountFlags, mount};

/// Where bpffs is mounted; the kernel makes the directory (`kernel/bpf/inode.c: bpf_init`).
pub const BPFFS: &str = "/sys/fs/bpf";
/// The host's instance: one set of programs governs a host.
pub const INSTANCE: &str = "/sys/fs/bpf/enforcer";
/// The magic number of bpffs (`include/uapi/linux/magic.h: BPF_FS_MAGIC`).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// What the name of a set begins with.
const SET: &str = "set-";

/// The directories of a set.
const DIRECTORIES: [&str; 3] = [LINKS, "progs", "maps"];
const LINKS: &str = "links";
/// The pins beside the directories. Names have no dots, which bpffs keeps for itself (`kernel/bpf/inode.c: bpf_lookup`).
pub(super) const MARK: &str = "mark";
/// The one that is to take its place.
pub(super) const NEXT_MARK: &str = "mark-next";
pub(super) const CONTENTS: &str = "contents";
pub(super) const STATE: &str = "state";
pub(super) const NEXT_STATE: &str = "state-next";
pub(super) const NAMES: &str = "names";
pub(super) const NEXT_NAMES: &str = "names-next";
/// What lies beside the directories of a set; the mark is removed first.
const BESIDE: [&str; 7] = [MARK, NEXT_MARK, CONTENTS, STATE, NEXT_STATE, NAMES, NEXT_NAMES];

/// Why the pins could not be used. What is in force stays in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// bpffs cannot be had.
    #[error("cannot mount bpffs at {BPFFS}: {0}; mount it: mount -t bpf bpf {BPFFS}")]
    Mount(#[source] io::Error),
    /// A directory or pin could not be made, read or removed.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The pin.
        path: PathBuf,
        /// The system's words.
        cause: String,
    },
    /// Something lies there that is not Enforcer's.
    #[error("{} is not of this program: look at it; `enforcer unload --force` removes it with all of {INSTANCE}", .0.display())]
    Foreign(PathBuf),
    /// What is in force is not as it was left.
    #[error(
        "{} is damaged: {what}. What is attached of it stays in force; `enforcer unload` ends it, and then a daemon can start anew",
        set.display()
    )]
    Damaged {
        /// The set.
        set: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl PinError {
    pub(super) fn io(path: &Path, cause: &dyn std::fmt::Display) -> Self {
        Self::Io { path: path.to_owned(), cause: cause.to_string() }
    }
}

/// A set of pins, complete or not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Set {
    serial: u32,
    dir: PathBuf,
}

impl Set {
    fn new(serial: u32) -> Self {
        Self { serial, dir: Path::new(INSTANCE).join(format!("{SET}{serial}")) }
    }

    /// Makes the directories of a set that comes after `others`.
    ///
    /// # Errors
    /// When bpffs does not take them.
    pub fn make(others: &Sets) -> Result<Self, PinError> {
        let set = Self::new(others.all().map(|s| s.serial).max().unwrap_or(0) + 1);
        for dir in DIRECTORIES {
            let dir = set.dir.join(dir);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|e| PinError::io(&dir, &e))?;
        }
        Ok(set)
    }

    /// Its number: a later set has a higher one.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.dir.join("maps").join(name)
    }

    /// The pin of a program.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.dir.join("progs").join(name)
    }

    /// The pin of a program's link.
    #[must_use]
    pub fn link(&self, name: &str) -> PathBuf {
        self.dir.join(LINKS).join(name)
    }

    /// One of the pins beside the directories.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn is_complete(&self) -> bool {
        self.beside(MARK).exists()
    }

    /// Takes it out of force: the mark first, so that a removal that is interrupted leaves a set that was never complete. The
    /// programs are detached when this returns.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(&self) -> Result<(), PinError> {
        for name in BESIDE {
            let path = self.beside(name);
            gone(&path, fs::remove_file(&path))?;
        }
        self.detach()?;
        for name in DIRECTORIES {
            let dir = self.dir.join(name);
            for path in entries(&dir)? {
                gone(&path, fs::remove_file(&path))?;
            }
            gone(&dir, fs::remove_dir(&dir))?;
        }
        gone(&self.dir, fs::remove_dir(&self.dir))
    }

    /// Detaches its programs; what they counted and reported is there still.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn detach(&self) -> Result<(), PinError> {
        for path in entries(&self.dir.join(LINKS))? {
            // A link that goes with its last descriptor is detached then and there; one that goes with its pin, some time later
            // (`kernel/bpf/syscall.c: bpf_link_put`).
            let link = PinnedLink::from_pin(&path).ok();
            gone(&path, fs::remove_file(&path))?;
            drop(link);
        }
        Ok(())
    }
}

/// The sets there are.
#[derive(Clone, Debug, Default)]
pub struct Sets {
    /// What is in force: the newest complete set.
    pub in_force: Option<Set>,
    /// Sets that a daemon did not finish, or had replaced and not yet removed.
    pub leftovers: Vec<Set>,
}

impl Sets {
    /// Looks at the instance's directory. Without bpffs there is nothing.
    ///
    /// # Errors
    /// When something lies there that is not a set.
    pub fn find() -> Result<Self, PinError> {
        let mut sets = vec![];
        for path in entries(Path::new(INSTANCE))? {
            let serial = path.file_name().and_then(|n| n.to_str()?.strip_prefix(SET)?.parse().ok());
            let set = serial.map(Set::new).filter(|set| set.dir == path).ok_or(PinError::Foreign(path))?;
            for path in entries(&set.dir)? {
                let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
                if !DIRECTORIES.contains(&name) && !BESIDE.contains(&name) {
                    return Err(PinError::Foreign(path));
                }
            }
            sets.push(set);
        }
        sets.sort();
        let in_force = sets.iter().rposition(Set::is_complete).map(|index| sets.remove(index));
        Ok(Self { in_force, leftovers: sets })
    }

    fn all(&self) -> impl Iterator<Item = &Set> {
        self.in_force.iter().chain(&self.leftovers)
    }

    /// Removes what is not in force, but for sets that were: their programs are detached, and they are returned.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn clean(&mut self) -> Result<Vec<Set>, PinError> {
        let mut replaced = vec![];
        for set in self.leftovers.drain(..) {
            if set.is_complete() {
                set.detach()?;
                replaced.push(set);
            } else {
                set.remove()?;
            }
        }
        Ok(replaced)
    }

    /// Removes every set, and the instance's directory with them: nothing is enforced any more.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(mut self) -> Result<(), PinError> {
        self.in_force.take().into_iter().chain(self.leftovers.drain(..)).try_for_each(|set| set.remove())?;
        gone(Path::new(INSTANCE), fs::remove_dir(INSTANCE))
    }
}

/// What is gone already is as good as removed.
fn gone(path: &Path, outcome: io::Result<()>) -> Result<(), PinError> {
    match outcome {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(PinError::io(path, &e)),
        _ => Ok(()),
    }
}

/// The paths in a directory; none when it is not there.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, PinError> {
    let failed = |e: io::Error| PinError::io(dir, &e);
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => Err(PinError::Foreign(dir.to_owned())),
        Err(e) => Err(failed(e)),
    }
}

/// Mounts bpffs if it is not, and makes the instance's directory.
///
/// # Errors
/// When it cannot be had.
pub fn prepare() -> Result<(), PinError> {
    if !rustix::fs::statfs(BPFFS).is_ok_and(|fs| fs.f_type == BPF_FS_MAGIC) {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("bpf", BPFFS, "bpf", flags, Some(c"mode=700")).map_err(|e| PinError::Mount(e.into()))?;
    }
    let instance = Path::new(INSTANCE);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(instance).map_err(|e| PinError::io(instance, &e))
}

/// Removes whatever lies in the instance's directory.
///
/// # Errors
/// When something of it cannot be removed.
pub fn remove_all() -> Result<(), PinError> {
    // The sets in good order, as far as there is one: so that their programs are detached when this returns.
    for path in entries(Path::new(INSTANCE))? {
        if let Some(serial) = path.file_name().and_then(|n| n.to_str()?.strip_prefix(SET)?.parse().ok()) {
            let _ = Set::new(serial).remove();
        }
    }
    gone(Path::new(INSTANCE), fs::remove_dir_all(INSTANCE))
}
