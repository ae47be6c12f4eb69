//! The facts that the compiler asks of the host.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use enforcer_common::ids::ObjectId;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx},
    io::Errno,
};

use crate::{
    engine::members::Members,
    hash,
    kernel::{
        load::CGROUP_ROOT,
        resolve::{ResolveError, Resolver},
    },
    manifest::{Digest, ManifestPath},
    mounts::{self, Mount},
};

/// What is on the host. The tests have one of their own.
pub trait World {
    /// A manifest path with `~` replaced by the home directory.
    fn expand(&self, path: &ManifestPath) -> String;
    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// Why it has none, in a sentence that names the path.
    fn digest(&mut self, path: &Path) -> Result<Digest, String>;
    /// The kernel's identities of what `path` leads to and of the roots of what is mounted below it; none when it does not
    /// exist; each with how many components below `path` it lies. `widens` says that the rule allows something, so that an agent would gain by bending the path.
    ///
    /// # Errors
    /// Why it cannot be known, in a sentence that names the path.
    fn objects(&mut self, path: &Path, widens: bool) -> Result<Vec<(ObjectId, u32)>, String>;
    /// What is Enforcer's own, as absolute paths; what does not exist is none.
    fn own(&self) -> Vec<PathBuf> {
        vec![]
    }
    /// The containers and units of a skill.
    fn workloads(&mut self, _skill: &str) -> Vec<Governed> {
        vec![]
    }
    /// From now on paths mean the files of this container; `None`: those of the host.
    ///
    /// # Errors
    /// Why its files cannot be reached; then paths mean what they did.
    fn look_into(&mut self, _container: Option<u64>) -> Result<(), String> {
        Ok(())
    }
    /// The ids of a cgroup and of its descendants, with how far below they lie; none when it does not exist.
    ///
    /// # Errors
    /// Why it cannot be governed.
    fn cgroups(&mut self, path: &str) -> Result<Vec<(u64, u32)>, String>;
}

/// The cgroups of a container or unit that a skill governs.
#[derive(Clone, Debug)]
pub struct Governed {
    /// Where it is, for messages.
    pub path: String,
    /// Its cgroup and those below, with how far below they lie.
    pub cgroups: Vec<(u64, u32)>,
    /// The number for [`World::look_into`], if it has files of its own.
    pub container: Option<u64>,
}

/// The host that the daemon runs on.
pub struct Host<'a> {
    resolver: &'a mut Resolver,
    members: &'a mut Members,
    /// The container that paths mean.
    inside: Option<u64>,
    home: PathBuf,
    own: Vec<PathBuf>,
    loaded: &'a mut Loaded,
    /// The mounts there are now.
    mounts: Vec<Mount>,
}

/// What was found when the policy was last loaded, which is what its author vouched for. Until it is loaded again, binaries
/// stay pinned to it, and a path leads only where nobody could have bent it.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The digests of the binaries that paths named.
    pins: HashMap<PathBuf, Result<Digest, String>>,
    /// The mounts there were.
    mounts: Vec<Mount>,
    /// Where each path led, symlinks followed as far as it existed.
    places: HashMap<PathBuf, PathBuf>,
    /// Whether the policy is in force and its paths are being resolved again.
    again: bool,
}

impl Loaded {
    /// From now on, what was found counts.
    pub fn settle(&mut self) {
        self.again = true;
    }

    /// Where a path leads, symlinks followed as far as it exists.
    fn place(&mut self, path: &Path) -> PathBuf {
        self.places.entry(path.to_owned()).or_insert_with(|| canonical_as_far(path)).clone()
    }
}

/// The canonical form of the longest part that exists, and the rest as it is written.
fn canonical_as_far(path: &Path) -> PathBuf {
    for step in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (step.canonicalize(), path.strip_prefix(step)) {
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    path.to_owned()
}

impl<'a> Host<'a> {
    /// A host whose objects are resolved by the attached programs; `home` is what `~` means, `own` is what no skill may change.
    ///
    /// # Errors
    /// When the mount table cannot be read.
    pub fn new(
        resolver: &'a mut Resolver,
        members: &'a mut Members,
        home: PathBuf,
        own: Vec<PathBuf>,
        loaded: &'a mut Loaded,
    ) -> io::Result<Self> {
        let mounts = mounts::read(Path::new("/proc/self/mountinfo"))?;
        if !loaded.again {
            loaded.mounts.clone_from(&mounts);
        }
        Ok(Self { resolver, members, inside: None, home, own, loaded, mounts })
    }

    /// Opens a path within a container.
    fn open_inside(&mut self, container: u64, path: &Path) -> Result<Option<OwnedFd>, String> {
        let found = self.members.root(container).and_then(|root| root.find(path));
        found.map_err(|e| format!("{} in the container: {e}", path.display()))
    }

    /// The kernel's identity of an open file.
    fn identity(&mut self, fd: &OwnedFd) -> Result<Option<ObjectId>, String> {
        match self.resolver.resolve(&PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))) {
            Ok(object) => Ok(Some(object)),
            Err(ResolveError::NotFound) => Ok(None),
            Err(e) => Err(e.to_string()),
        }
    }

    /// [`World::objects`] within a container: what was there when the policy was loaded or the container came.
    fn objects_inside(&mut self, container: u64, path: &Path, widens: bool) -> Result<Vec<(ObjectId, u32)>, String> {
        let known = |members: &Members| members.found.get(&container)?.objects.get(path).cloned();
        if let Some(found) = known(self.members) {
            return Ok(found);
        }
        let Some(fd) = self.open_inside(container, path)? else { return Ok(vec![]) };
        let mut found: Vec<(ObjectId, u32)> = self.identity(&fd)?.into_iter().map(|top| (top, 0)).collect();
        let mounts = self.members.root(container).map(|root| root.mounts.clone()).map_err(|e| e.to_string())?;
        for (mount, below) in roots_below(&mounts, &mounts, path, widens) {
            if let Some(fd) = self.open_inside(container, &mount.mount_point)?
                && let Some(root) = self.identity(&fd)?
                && root.dev == mount.dev
            {
                found.push((root, below));
            }
        }
        self.members.found.entry(container).or_default().objects.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// [`World::digest`] within a container.
    fn digest_inside(&mut self, container: u64, path: &Path) -> Result<Digest, String> {
        if let Some(known) = self.members.found.get(&container).and_then(|found| found.pins.get(path)) {
            return known.clone();
        }
        let measured = match self.open_inside(container, path) {
            Ok(Some(fd)) => {
                let file = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
                hash::sha256_file(&file).map_err(|e| format!("{} in the container: {e}", path.display()))
            }
            Ok(None) => Err(format!("there is no {} in the container", path.display())),
            Err(e) => Err(e),
        };
        self.members.found.entry(container).or_default().pins.insert(path.to_owned(), measured.clone());
        measured
    }

    /// What lies at a path of the policy in force, if the agent cannot have put something else there: no symlink leads to it
    /// that was not there when the policy was loaded, no new mount hides what was there, and it is no second name of a
    /// file. What an agent may rename to that place it may delete and write already.
    fn unbent(&mut self, path: &Path) -> Result<Option<ObjectId>, String> {
        let place = self.loaded.place(path);
        let failed = |e: Errno| format!("{}: {e}", path.display());
        let fd = match openat2(CWD, &place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let stat = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID | StatxFlags::NLINK | StatxFlags::TYPE)
            .map_err(failed)?;
        let directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let known_mount = self.loaded.mounts.iter().any(|m| m.id == stat.stx_mnt_id);
        if !known_mount || !(directory || stat.stx_nlink == 1) {
            tracing::warn!("{} was replaced by something that only a reload accepts", path.display());
            return Ok(None);
        }
        // By the descriptor, so that it is the very object that was looked at.
        self.identity(&fd).map_err(|e| format!("{}: {e}", path.display()))
    }

    /// The roots of what is mounted below `place` on the host.
    fn mounted_below(&mut self, place: &Path, widens: bool) -> Vec<(ObjectId, u32)> {
        let mut found = vec![];
        for (mount, below) in roots_below(&self.loaded.mounts, &self.mounts, place, widens) {
            // Something may be mounted over it by now.
            if let Ok(root) = self.resolver.resolve(&mount.mount_point)
                && root.dev == mount.dev
            {
                found.push((root, below));
            }
        }
        found
    }
}

/// What is mounted below `place`, with how many components below it. A walk ends at its filesystem's root, so that the root
/// carries the rule. A rule that allows reaches only filesystems that are mounted nowhere else: what a bind mount shows is not
/// the rule's alone; and only those that were mounted when the policy was loaded. A rule that protects reaches all that
/// are mounted now.
fn roots_below(loaded: &[Mount], now: &[Mount], place: &Path, widens: bool) -> Vec<(Mount, u32)> {
    let mounts = if widens { loaded } else { now };
    let below = |mount: &Mount| mount.mount_point != place && mount.mount_point.starts_with(place);
    let is_own = |m: &Mount| m.root == Path::new("/") && mounts.iter().filter(|other| other.dev == m.dev).all(below);
    let depth = |m: &Mount| m.mount_point.components().count() - place.components().count();
    let wanted = mounts.iter().filter(|m| below(m) && (!widens || is_own(m)));
    wanted.map(|m| (m.clone(), u32::try_from(depth(m)).unwrap_or(u32::MAX))).collect()
}

impl World for Host<'_> {
    fn expand(&self, path: &ManifestPath) -> String {
        match path.below_home() {
            Some(rest) if self.inside.is_some() => format!("/root/{}", rest.trim_start_matches('/')),
            Some(rest) => self.home.join(rest.trim_start_matches('/')).to_string_lossy().into_owned(),
            None => path.as_str().to_owned(),
        }
    }

    fn own(&self) -> Vec<PathBuf> {
        // As it is written and as it is: either may be bent.
        let mut all: Vec<PathBuf> = self.own.iter().flat_map(|p| [p.clone(), canonical_as_far(p)]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        if let Some(container) = self.inside {
            return self.digest_inside(container, path);
        }
        let measure = || hash::sha256_file(path).map_err(|e| e.to_string());
        self.loaded.pins.entry(path.to_owned()).or_insert_with(measure).clone()
    }

    fn objects(&mut self, path: &Path, widens: bool) -> Result<Vec<(ObjectId, u32)>, String> {
        if let Some(container) = self.inside {
            return self.objects_inside(container, path, widens);
        }
        let place = self.loaded.place(path);
        let top = if self.loaded.again && widens {
            self.unbent(path)?
        } else {
            match self.resolver.resolve(path) {
                Ok(top) => Some(top),
                Err(ResolveError::NotFound) => None,
                Err(e) => return Err(format!("{}: {e}", path.display())),
            }
        };
        let Some(top) = top else { return Ok(vec![]) };
        let mut objects = vec![(top, 0)];
        objects.extend(self.mounted_below(&place, widens));
        Ok(objects)
    }

    fn workloads(&mut self, skill: &str) -> Vec<Governed> {
        let members: Vec<(String, u64, bool)> =
            self.members.of(skill).iter().map(|m| (m.workload.path.clone(), m.workload.id, m.is_container())).collect();
        let governed = |(path, id, is_container): (String, u64, bool)| {
            let cgroups = cgroups(&path).unwrap_or_default();
            Governed { path, cgroups, container: is_container.then_some(id) }
        };
        members.into_iter().map(governed).collect()
    }

    fn look_into(&mut self, container: Option<u64>) -> Result<(), String> {
        if let Some(id) = container {
            self.members.root(id).map_err(|e| format!("its files cannot be reached: {e}"))?;
        }
        self.inside = container;
        Ok(())
    }

    fn cgroups(&mut self, path: &str) -> Result<Vec<(u64, u32)>, String> {
        cgroups(path)
    }
}

/// [`World::cgroups`] of the host.
///
/// # Errors
/// Why it cannot be governed.
pub fn cgroups(path: &str) -> Result<Vec<(u64, u32)>, String> {
    if path.trim_matches('/').is_empty() {
        return Err("the root cgroup holds every process of the host; name one below it".into());
    }
    let top = Path::new(CGROUP_ROOT).join(path.trim_start_matches('/'));
    let mut found = vec![];
    let mut pending = vec![(top, 0)];
    while let Some((dir, depth)) = pending.pop() {
        // A cgroup's id is the inode number of its directory. Cgroups come and go while this looks.
        match fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => found.push((meta.ino(), depth)),
            Ok(_) => return Err(format!("{} is not a cgroup", dir.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(format!("{}: {e}", dir.display())),
        }
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        let below = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        pending.extend(below.map(|e| (e.path(), depth + 1)));
    }
    Ok(found)
}
