//! The containers and units that are governed: which there are, whose skill each is in, and where its files are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use enforcer_common::ids::ObjectId;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

use crate::{
    manifest::{Digest, Manifest},
    mounts::{self, Mount},
    workload::{self, Kind, Selector, Workload, container::Facts},
};

/// One of them.
pub struct Member {
    /// Its cgroup.
    pub workload: Workload,
    /// Its skill; `None` when nothing selects it.
    pub skill: Option<String>,
    /// What is known of a container.
    facts: Option<Facts>,
    /// The skill that it was put into by hand.
    by_hand: Option<String>,
    root: Option<Arc<Root>>,
    /// Whether its own program runs, so that its root directory is final.
    runs: bool,
}

/// A container's files.
pub struct Root {
    /// Its root directory. Held, so that nobody can put another in its place, and its filesystem's number is not given again.
    pub dir: OwnedFd,
    /// What was mounted in it, by path from that root.
    pub mounts: Vec<Mount>,
    /// What is yet to be mounted in it from the host: where, and what.
    pub volumes: Vec<(PathBuf, PathBuf)>,
}

/// What was found in a container when the policy was loaded, or the container came: until it is loaded again, a path leads
/// there and binaries are what they were.
#[derive(Debug, Default)]
pub struct Found {
    /// The digests of the binaries that paths named.
    pub pins: HashMap<PathBuf, Result<Digest, String>>,
    /// The objects that paths named.
    pub objects: HashMap<PathBuf, Vec<(ObjectId, u32)>>,
}

/// All of them, by the id of their cgroup.
#[derive(Default)]
pub struct Members {
    all: HashMap<u64, Member>,
    /// What was found in each container.
    pub found: HashMap<u64, Found>,
    wanted: Vec<(String, Selector)>,
    /// The skills that an earlier daemon put some into by hand.
    expected: BTreeMap<u64, String>,
}

impl Members {
    /// Takes the selectors of a manifest.
    pub fn want(&mut self, manifest: &Manifest) {
        self.wanted = manifest
            .skills
            .iter()
            .flat_map(|(name, skill)| {
                let container = skill.matching.container.clone().map(Selector::Container);
                let unit = skill.matching.unit.clone().map(Selector::Unit);
                [container, unit].into_iter().flatten().map(|selector| (name.to_string(), selector))
            })
            .collect();
    }

    /// Those that were put into a skill by hand, by the id of their cgroup, for the next daemon.
    #[must_use]
    pub fn by_hand(&self) -> BTreeMap<u64, String> {
        self.all.iter().filter_map(|(id, member)| Some((*id, member.by_hand.clone()?))).collect()
    }

    /// Takes over [what an earlier daemon had](Self::by_hand); a cgroup's id is given once.
    pub fn expect(&mut self, by_hand: BTreeMap<u64, String>) {
        self.expected = by_hand;
    }

    /// Whether the daemon has to know of cgroups that are made and removed.
    #[must_use]
    pub fn is_curious(&self) -> bool {
        !(self.wanted.is_empty() && self.expected.is_empty()) || self.all.values().any(|m| m.by_hand.is_some())
    }

    /// Looks which containers and units there are. What has gone is forgotten.
    ///
    /// # Errors
    /// When the cgroup hierarchy cannot be read.
    pub fn look(&mut self) -> io::Result<()> {
        if !self.is_curious() {
            self.all.clear();
            self.found.clear();
            return Ok(());
        }
        for workload in workload::scan()? {
            self.meet(workload);
        }
        // Those that are still expected have gone.
        self.expected.clear();
        self.all.retain(|id, member| Workload::at_id(&member.workload.path) == Some(*id));
        self.found.retain(|id, _| self.all.contains_key(id));
        let wanted = std::mem::take(&mut self.wanted);
        for member in self.all.values_mut() {
            member.choose(&wanted);
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Takes note of one; what is known of it already stays. Returns its skill.
    pub fn meet(&mut self, workload: Workload) -> Option<String> {
        let member = self.all.entry(workload.id).or_insert_with(|| {
            let facts = match &workload.kind {
                Kind::Container(id) => Some(Facts::of(id, Path::new("/"))),
                Kind::Unit(_) => None,
            };
            let by_hand = self.expected.remove(&workload.id);
            Member { workload, skill: None, facts, by_hand, root: None, runs: false }
        });
        // An engine may have told nothing yet.
        if let (Kind::Container(id), Some(facts)) = (&member.workload.kind, &mut member.facts)
            && facts.rootfs.is_none()
        {
            *facts = Facts::of(id, Path::new("/"));
        }
        member.choose(&self.wanted);
        member.skill.clone()
    }

    /// Takes note of a container of which a runtime's hook tells; returns its skill.
    pub fn introduce(&mut self, workload: Workload, bundle: &Path, skill: Option<String>) -> Option<String> {
        let id = workload.id;
        self.meet(workload);
        let member = self.all.get_mut(&id)?;
        if let Some(facts) = &mut member.facts {
            facts.read_bundle(bundle);
        }
        member.by_hand = skill.or(member.by_hand.take());
        // The first look may have been before the container's mounts were made.
        self.found.remove(&id);
        member.root = None;
        member.choose(&self.wanted);
        member.skill.clone()
    }

    /// Puts what a selector means into a skill; returns how many that are.
    ///
    /// # Errors
    /// When the cgroup hierarchy cannot be read.
    pub fn attach(&mut self, selector: &Selector, skill: &str) -> io::Result<Vec<u64>> {
        for workload in workload::scan()? {
            self.meet(workload);
        }
        let mut found = vec![];
        for (id, member) in &mut self.all {
            if selector.selects(&member.workload.kind, member.facts.as_ref()) {
                member.by_hand = Some(skill.to_owned());
                found.push(*id);
            }
        }
        Ok(found)
    }

    /// Takes back [`Self::attach`].
    pub fn detach(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(member) = self.all.get_mut(id) {
                member.by_hand = None;
            }
        }
    }

    /// Forgets one whose cgroup was removed; true when it was governed.
    pub fn forget(&mut self, id: u64) -> bool {
        self.found.remove(&id);
        self.all.remove(&id).is_some_and(|member| member.skill.is_some())
    }

    /// The first program of a container runs: from now on its root directory is what its processes see. True when that is news.
    pub fn begins(&mut self, id: u64) -> bool {
        let Some(member) = self.all.get_mut(&id).filter(|m| !m.runs && m.skill.is_some()) else { return false };
        if !matches!(member.workload.kind, Kind::Container(_)) {
            return false;
        }
        member.runs = true;
        member.root = None;
        self.found.remove(&id);
        true
    }

    /// The members of a skill.
    #[must_use]
    pub fn of(&self, skill: &str) -> Vec<&Member> {
        self.all.values().filter(|member| member.skill.as_deref() == Some(skill)).collect()
    }

    /// One by its cgroup.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Member> {
        self.all.get(&id)
    }

    /// The governed ones.
    #[must_use]
    pub fn governed(&self) -> BTreeSet<u64> {
        self.all.iter().filter(|(_, member)| member.skill.is_some()).map(|(id, _)| *id).collect()
    }

    /// Whether a process in a member's cgroup runs the member's own program, and not the engine's or systemd's, which will
    /// execute it.
    #[must_use]
    pub fn runs_its_own(&mut self, id: u64, pid: u32) -> bool {
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let Ok(program) = fs::metadata(&exe) else { return false };
        if self.get(id).is_some_and(Member::is_container) {
            // The engine's program lies on the host.
            let root = self.root(id).ok().and_then(|root| rustix::fs::fstat(&root.dir).ok());
            return root.is_some_and(|root| root.st_dev == program.dev());
        }
        let is_manager =
            |path: &Path| fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == (program.dev(), program.ino()));
        !(is_manager(Path::new("/proc/1/exe"))
            || super::workloads::LAUNCHERS.iter().any(|path| is_manager(Path::new(path))))
    }

    /// A container's files.
    ///
    /// # Errors
    /// When they cannot be reached: it has ended, or its engine does not say where they are.
    pub fn root(&mut self, id: u64) -> io::Result<Arc<Root>> {
        let member = self.all.get_mut(&id).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let root = match member.root.take() {
            Some(root) => root,
            None => Arc::new(member.open_root()?),
        };
        Ok(Arc::clone(member.root.insert(root)))
    }
}

impl Member {
    fn choose(&mut self, wanted: &[(String, Selector)]) {
        let by_match = || {
            let mut skills = wanted
                .iter()
                .filter(|(_, s)| s.selects(&self.workload.kind, self.facts.as_ref()))
                .map(|(name, _)| name);
            let first = skills.next()?;
            if let Some(other) = skills.find(|name| *name != first) {
                tracing::warn!("{} is meant by skills {first} and {other}: it is in {first}", self.workload.path);
            }
            Some(first.clone())
        };
        self.skill = self.by_hand.clone().or_else(by_match);
    }

    /// Whether it is a container, whose paths are its own.
    #[must_use]
    pub fn is_container(&self) -> bool {
        self.facts.is_some()
    }

    /// Opens the root directory: as its processes see it, or, before they do, as the runtime prepares it.
    fn open_root(&self) -> io::Result<Root> {
        let rootfs = self.facts.as_ref().and_then(|facts| facts.rootfs.as_deref());
        let same = |a: &Path, b: &Path| matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()));
        let processes = self.workload.processes();
        for pid in &processes {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            // What the engine says is the root, or, when it says nothing, anything but the host's.
            let is_its = match rootfs {
                Some(rootfs) if rootfs.exists() => same(&root, rootfs),
                _ => !same(&root, Path::new("/")),
            };
            if is_its {
                return Root::open(&root, Path::new("/"), &format!("/proc/{pid}/mountinfo"));
            }
        }
        let rootfs = rootfs.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let volumes = self.facts.as_ref().map(|facts| facts.volumes.clone()).unwrap_or_default();
        let with_volumes = |root: Root| Root { volumes, ..root };
        // Within the mount namespace of the runtime's child, which has the container's volumes.
        for pid in processes {
            let dir = PathBuf::from(format!("/proc/{pid}/root")).join(rootfs.strip_prefix("/").unwrap_or(rootfs));
            if let Ok(root) = Root::open(&dir, rootfs, &format!("/proc/{pid}/mountinfo")) {
                return Ok(with_volumes(root));
            }
        }
        Root::open(rootfs, rootfs, "/proc/self/mountinfo").map(with_volumes)
    }
}

impl Root {
    /// Opens a directory that lies at `place` in the mount table `mountinfo`.
    fn open(dir: &Path, place: &Path, mountinfo: &str) -> io::Result<Self> {
        let fd = openat(CWD, dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let inside = |mut mount: Mount| {
            let rest = mount.mount_point.strip_prefix(place).ok()?.to_owned();
            mount.mount_point = Path::new("/").join(rest);
            Some(mount)
        };
        let mounts = mounts::read(Path::new(mountinfo))?.into_iter().filter_map(inside).collect();
        Ok(Self { dir: fd, mounts, volumes: vec![] })
    }

    /// Opens a path within it, whose links and `..` lead nowhere else; `None` when it does not exist. What is yet to be mounted is
    /// looked up where it lies on the host.
    ///
    /// # Errors
    /// When the path or a volume cannot be opened.
    pub fn find(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        let depth = |at: &Path| at.components().count();
        let volumes = self.volumes.iter().filter_map(|(at, source)| Some((at, source, path.strip_prefix(at).ok()?)));
        let found = match volumes.max_by_key(|(at, ..)| depth(at)) {
            None => within(&self.dir, path),
            Some((_, source, rest)) => match openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
                Ok(volume) if rest.as_os_str().is_empty() => Ok(volume),
                Ok(volume) => within(&volume, rest),
                Err(e) => Err(e),
            },
        };
        match found {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

fn within(dir: &OwnedFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(dir, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}
