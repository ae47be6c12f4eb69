//! The facts that the compiler asks of the host.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use enforcer_common::ids::ObjectId;
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{
    ask::Silent,
    elf,
    engine::members::Members,
    hash,
    kernel::{
        load::CGROUP_ROOT,
        resolve::{ResolveError, Resolver},
    },
    manifest::{Digest, Manifest, ManifestPath},
    measure::{self, Meter},
    mounts::{self, Mount},
    pins,
};

/// Why the kernel's identity of a path is not known. Each names the path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoObject {
    /// Its filesystem does not answer.
    #[error("{}: {silent}", path.display())]
    Silent {
        /// The path.
        path: PathBuf,
        /// How long it was waited for.
        #[source]
        silent: Silent,
    },
    /// Another file of its filesystem may have the same identity.
    #[error(
        "{} is a file of an overlay whose layers lie on several filesystems, where another may have its number: name its directory, or \
         mount with xino=on",
        .0.display()
    )]
    Ambiguous(PathBuf),
    /// It cannot be looked at.
    #[error("{0}")]
    Refused(String),
}

impl NoObject {
    pub(super) fn of(path: &Path, why: impl std::fmt::Display) -> Self {
        Self::Refused(format!("{}: {why}", path.display()))
    }
}

/// What is on the host. The tests have one of their own.
pub trait World {
    /// A manifest path with `~` replaced by the home directory.
    fn expand(&self, path: &ManifestPath) -> String;
    /// The SHA-256 of a file.
    ///
    /// # Errors
    /// Why it has none, in a sentence that names the path.
    fn digest(&mut self, path: &Path) -> Result<Digest, String>;
    /// The dynamic loader that a program asks for, which was measured; none when it asks for none, or cannot be read.
    fn loader(&mut self, _path: &Path) -> Option<PathBuf> {
        None
    }
    /// Whether the file at `path`, which was measured, is a script.
    fn is_script(&mut self, _path: &Path) -> bool {
        false
    }
    /// The paths under which events may show the file at `path`, which was measured.
    fn names(&mut self, path: &Path) -> Vec<PathBuf> {
        vec![path.to_owned()]
    }
    /// The kernel's identities of what `path` leads to and of the roots of what is mounted below it; none when it does not
    /// exist; each with how many components below `path` it lies. `widens` says that the rule allows something, so that an agent would gain by bending the path.
    ///
    /// # Errors
    /// Why it cannot be known.
    fn objects(&mut self, path: &Path, widens: bool) -> Result<Vec<(ObjectId, u32)>, NoObject>;
    /// The kernel's identity of what `path` leads to alone, whatever is mounted below; none when it does not exist.
    ///
    /// # Errors
    /// Why it cannot be known.
    fn object(&mut self, path: &Path) -> Result<Option<ObjectId>, NoObject>;
    /// The kernel's identities of the directories and symbolic links that `path` leads through, the root and what lies there left
    /// out.
    ///
    /// # Errors
    /// Why they cannot be known.
    fn way(&mut self, _path: &Path) -> Result<Vec<ObjectId>, NoObject> {
        Ok(vec![])
    }
    /// What is Enforcer's own, as absolute paths; what does not exist is none.
    fn own(&self) -> Vec<PathBuf> {
        vec![]
    }
    /// What is Enforcer's own, whatever it is called by now, with the name that events give it.
    fn held(&self) -> Vec<(PathBuf, ObjectId)> {
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
    pub(crate) members: &'a mut Members,
    /// The container that paths mean.
    pub(super) inside: Option<u64>,
    home: PathBuf,
    own: Vec<PathBuf>,
    held: Vec<(PathBuf, ObjectId)>,
    loaded: &'a mut Loaded,
    /// The mounts there are now.
    mounts: Vec<Mount>,
}

/// What was found when the policy was last loaded, which is what its author vouched for. Until it is loaded again, binaries
/// stay pinned to it, and a path leads only where nobody could have bent it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Loaded {
    /// The digests of the binaries that paths named.
    pins: HashMap<PathBuf, Result<Digest, String>>,
    /// The dynamic loaders that these binaries ask for.
    loaders: HashMap<PathBuf, Option<PathBuf>>,
    /// The mounts there were.
    mounts: Vec<Mount>,
    /// Where each path led, symlinks followed as far as it existed.
    places: HashMap<PathBuf, PathBuf>,
    /// Whether the policy is in force and its paths are being resolved again.
    #[serde(skip)]
    again: bool,
}

impl Loaded {
    /// From now on, what was found counts.
    pub fn settle(&mut self) {
        self.again = true;
    }

    /// What the next daemon needs of it. Paths that are not text cannot be written down: a mount that is not known allows
    /// nothing, and a place is looked for again.
    #[must_use]
    pub fn written(&self) -> Self {
        let mount = |mount: &&Mount| mount.root.to_str().is_some() && mount.mount_point.to_str().is_some();
        let text = |(path, place): &(&PathBuf, &PathBuf)| path.to_str().is_some() && place.to_str().is_some();
        let named = |(path, loader): &(&PathBuf, &Option<PathBuf>)| {
            path.to_str().is_some() && loader.as_ref().is_none_or(|loader| loader.to_str().is_some())
        };
        Self {
            pins: self.pins.clone(),
            loaders: self.loaders.iter().filter(named).map(|(path, loader)| (path.clone(), loader.clone())).collect(),
            mounts: self.mounts.iter().filter(mount).cloned().collect(),
            places: self.places.iter().filter(text).map(|(path, place)| (path.clone(), place.clone())).collect(),
            again: false,
        }
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
        Ok(Self { resolver, members, inside: None, home, own, held: vec![], loaded, mounts })
    }

    /// Adds what is Enforcer's own whatever it is called by now.
    pub fn hold(&mut self, held: Vec<(PathBuf, ObjectId)>) {
        self.held = held;
    }

    /// Measures the binaries of a manifest, those that are not measured yet, all at once.
    pub fn measure_binaries(&mut self, manifest: &Manifest) {
        let paths = pins::binary_paths(manifest).map(|(_, _, path, _)| path.below(&self.home));
        let paths: Vec<PathBuf> = paths.filter(|path| !self.loaded.pins.contains_key(path)).collect();
        self.measure(&paths);
    }

    /// The host's files that were measured for the policy.
    #[must_use]
    pub fn measured(&self) -> Vec<PathBuf> {
        self.loaded.pins.iter().filter(|(_, digest)| digest.is_ok()).map(|(path, _)| path.clone()).collect()
    }

    fn measure(&mut self, paths: &[PathBuf]) {
        let mut meter = Meter::default();
        for (path, outcome) in measure::files(paths, |progress| meter.show(progress)) {
            self.loaded.pins.insert(path, outcome.map_err(|e| e.to_string()));
        }
    }

    /// Asks the filesystem at `path`. When it does not answer, its mount point is asked, so that one answer that does not come
    /// is waited for, and not one for each path on that mount.
    pub(super) fn ask<T: Send + 'static>(
        &mut self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoObject> {
        self.resolver.asker().ask(path, work).map_err(|silent| {
            let points = self.mounts.iter().map(|mount| &mount.mount_point).filter(|point| path.starts_with(point));
            if let Some(point) = points.max_by_key(|point| point.components().count())
                && point != Path::new("/")
                && point != path
            {
                let at = point.clone();
                // Whether it answers is all that is to be learnt.
                let _ = self.resolver.asker().ask(point, move || fs::metadata(at).is_ok());
            }
            NoObject::Silent { path: path.to_owned(), silent }
        })
    }

    /// Where a path leads, symlinks followed as far as it exists, when the policy was loaded.
    fn place(&mut self, path: &Path) -> Result<PathBuf, NoObject> {
        if let Some(place) = self.loaded.places.get(path) {
            return Ok(place.clone());
        }
        let asked = path.to_owned();
        let place = self.ask(path, move || canonical_as_far(&asked))?;
        self.loaded.places.insert(path.to_owned(), place.clone());
        Ok(place)
    }

    /// The identity of what `question` leads to, which is what `path` means. A rule that allows means this object and no other.
    pub(super) fn resolve(&mut self, path: &Path, question: &Path, widens: bool) -> Result<Option<ObjectId>, NoObject> {
        let question = self.resolver.question(question);
        match self.ask(path, question)? {
            Ok(found) if widens && found.may_be_anothers => Err(NoObject::Ambiguous(path.to_owned())),
            Ok(found) => Ok(Some(found.object)),
            Err(ResolveError::NotFound) => Ok(None),
            Err(e) => Err(NoObject::of(path, e)),
        }
    }

    /// What lies at a path of the policy in force, if the agent cannot have put something else there: no symlink leads to it
    /// that was not there when the policy was loaded, no new mount hides what was there, and it is no second name of a
    /// file. What an agent may rename to that place it may delete and write already.
    fn unbent(&mut self, path: &Path) -> Result<Option<ObjectId>, NoObject> {
        let place = self.place(path)?;
        let (fd, stat) = match self.ask(path, move || look(&place))? {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            Err(e) => return Err(NoObject::of(path, e)),
        };
        let directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let known_mount = self.loaded.mounts.iter().any(|m| m.id == stat.stx_mnt_id);
        if !known_mount || !(directory || stat.stx_nlink == 1) {
            tracing::warn!("{} was replaced by something that only a reload accepts", path.display());
            return Ok(None);
        }
        // By the descriptor, so that it is the very object that was looked at.
        self.resolve(path, &PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd())), true)
    }

    /// The roots of what is mounted below `place` on the host.
    fn mounted_below(&mut self, place: &Path, widens: bool) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        let mounts = if widens { &self.loaded.mounts } else { &self.mounts };
        let mut found = vec![];
        for (mount, below) in roots_below(mounts, place, widens) {
            let root = match self.resolve(&mount.mount_point, &mount.mount_point, widens) {
                Ok(root) => root,
                Err(e @ NoObject::Silent { .. }) if !widens => return Err(e),
                Err(e) => {
                    tracing::warn!("{e}: a rule for {} does not reach what is mounted there", place.display());
                    None
                }
            };
            // Something may be mounted over it by now.
            if let Some(root) = root.filter(|root| root.dev == mount.dev) {
                found.push((root, below));
            }
        }
        Ok(found)
    }
}

/// What is mounted below `place`, with how many components below it. A walk ends at its filesystem's root, so that the root
/// carries the rule. A rule that allows reaches only filesystems that are mounted nowhere else: what a bind mount shows is not
/// the rule's alone; and only those that were mounted when the policy was loaded. A rule that protects reaches all that
/// are mounted now.
pub(super) fn roots_below(mounts: &[Mount], place: &Path, widens: bool) -> Vec<(Mount, u32)> {
    let below = |mount: &Mount| mount.mount_point != place && mount.mount_point.starts_with(place);
    let is_own = |m: &Mount| m.root == Path::new("/") && mounts.iter().filter(|other| other.dev == m.dev).all(below);
    let depth = |m: &Mount| m.mount_point.components().count() - place.components().count();
    let wanted = mounts.iter().filter(|m| below(m) && (!widens || is_own(m)));
    wanted.map(|m| (m.clone(), u32::try_from(depth(m)).unwrap_or(u32::MAX))).collect()
}

/// Opens what lies there, if no symbolic link leads to it.
fn look(place: &Path) -> Result<(OwnedFd, Statx), Errno> {
    let fd = openat2(CWD, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let wanted = StatxFlags::MNT_ID | StatxFlags::NLINK | StatxFlags::TYPE;
    let stat = statx(&fd, "", AtFlags::EMPTY_PATH, wanted)?;
    Ok((fd, stat))
}

impl World for Host<'_> {
    fn expand(&self, path: &ManifestPath) -> String {
        let home = if self.inside.is_some() { Path::new("/root") } else { &self.home };
        path.below(home).to_string_lossy().into_owned()
    }

    fn own(&self) -> Vec<PathBuf> {
        // As it is written and as it is: either may be bent.
        let mut all: Vec<PathBuf> = self.own.iter().flat_map(|p| [p.clone(), canonical_as_far(p)]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    fn held(&self) -> Vec<(PathBuf, ObjectId)> {
        self.held.clone()
    }

    fn digest(&mut self, path: &Path) -> Result<Digest, String> {
        if let Some(container) = self.inside {
            return self.digest_inside(container, path);
        }
        if !self.loaded.pins.contains_key(path) {
            self.measure(&[path.to_owned()]);
        }
        self.loaded.pins.get(path).cloned().unwrap_or_else(|| Err(format!("{}: was not measured", path.display())))
    }

    fn names(&mut self, path: &Path) -> Vec<PathBuf> {
        let mut names = vec![path.to_owned()];
        if self.inside.is_some() {
            return names;
        }
        // Where nothing could be measured, looking at the path may take for ever.
        if self.loaded.pins.get(path).is_some_and(Result::is_ok) {
            names.extend(self.place(path).ok());
        }
        names
    }

    fn loader(&mut self, path: &Path) -> Option<PathBuf> {
        // Where nothing could be measured, looking at the path may take for ever.
        self.loaded.pins.get(path)?.as_ref().ok()?;
        let read = || elf::interpreter(&hash::open_regular(path).ok()?.0);
        self.loaded.loaders.entry(path.to_owned()).or_insert_with(read).clone()
    }

    fn is_script(&mut self, path: &Path) -> bool {
        let mut begin = [0; 2];
        // As above.
        self.loaded.pins.get(path).is_some_and(Result::is_ok)
            && hash::open_regular(path).is_ok_and(|(mut file, _)| file.read_exact(&mut begin).is_ok())
            && begin == *b"#!"
    }

    fn objects(&mut self, path: &Path, widens: bool) -> Result<Vec<(ObjectId, u32)>, NoObject> {
        if let Some(container) = self.inside {
            return self.objects_inside(container, path, widens);
        }
        let place = self.place(path)?;
        let top = if self.loaded.again && widens { self.unbent(path)? } else { self.resolve(path, path, widens)? };
        let Some(top) = top else { return Ok(vec![]) };
        let mut objects = vec![(top, 0)];
        objects.extend(self.mounted_below(&place, widens)?);
        Ok(objects)
    }

    fn object(&mut self, path: &Path) -> Result<Option<ObjectId>, NoObject> {
        self.resolve(path, path, false)
    }

    fn way(&mut self, path: &Path) -> Result<Vec<ObjectId>, NoObject> {
        // What a path in a container means is looked up once.
        if self.inside.is_some() {
            return Ok(vec![]);
        }
        let question = self.resolver.way(path);
        self.ask(path, question)?.map_err(|e| NoObject::of(path, e))
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
