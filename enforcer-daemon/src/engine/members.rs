//! The containers and units that are governed: which there are, whose skill each is in, and where its files are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
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

use super::{
    first::FirstDigests,
    resolving::{Arrangement, Unasked},
};
use crate::{
    ask::Asker,
    manifest::{Digest, Manifest},
    mounts::{self, Mount},
    workload::{self, Kind, Selector, Workload, container::Facts},
};

/// How many cgroups that have a container's name are remembered for being told of once.
const MAX_REFUSED: usize = 1024;

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
    /// Whether root made its cgroup, or vouched for it. The name of a cgroup that somebody else made is his choice, and so is what
    /// its processes show as their root: it is no container of an engine on this host, and none of its paths is looked up.
    vouched: bool,
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
    /// What the binaries of containers were when they were first measured.
    pub first: FirstDigests,
    /// How containers ask for names, by the id of their cgroup.
    pub(super) arranged: HashMap<u64, Arrangement>,
    /// Why some ask the host's resolvers.
    pub(super) unasked: Unasked,
    /// Cgroups with a container's name that are not its, which were told of.
    refused: HashSet<u64>,
    /// Looks at what processes show, which may be of a filesystem that never answers.
    asker: Asker,
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
            self.arranged.clear();
            return Ok(());
        }
        for workload in workload::scan()? {
            self.meet(workload);
        }
        // Those that are still expected have gone.
        self.expected.clear();
        self.all.retain(|id, member| Workload::at_id(&member.workload.path) == Some(*id));
        self.found.retain(|id, _| self.all.contains_key(id));
        self.arranged.retain(|id, _| self.all.contains_key(id));
        self.unasked.known.retain(|id, _| self.all.contains_key(id));
        let wanted = std::mem::take(&mut self.wanted);
        for member in self.all.values_mut() {
            member.choose(&wanted);
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Takes note of one; what is known of it already stays. Returns its skill; none for a cgroup that only has a container's name.
    pub fn meet(&mut self, workload: Workload) -> Option<String> {
        let vouched = workload.is_roots();
        self.admit(workload, vouched)
    }

    fn admit(&mut self, workload: Workload, vouched: bool) -> Option<String> {
        if !self.all.contains_key(&workload.id) && !self.is_the_first(&workload, vouched) {
            return None;
        }
        let member = self.all.entry(workload.id).or_insert_with(|| {
            let facts = match &workload.kind {
                Kind::Container(id) if vouched => Some(Facts::of(id, Path::new("/"))),
                Kind::Container(id) => Some(Facts { id: id.clone(), ..Facts::default() }),
                Kind::Unit(_) => None,
            };
            let by_hand = self.expected.remove(&workload.id);
            Member { workload, skill: None, facts, by_hand, vouched, root: None, runs: false }
        });
        member.vouched |= vouched;
        // An engine may have told nothing yet.
        if let (Kind::Container(id), Some(facts), true) = (&member.workload.kind, &mut member.facts, member.vouched)
            && facts.rootfs.is_none()
        {
            *facts = Facts::of(id, Path::new("/"));
        }
        member.choose(&self.wanted);
        member.skill.clone()
    }

    /// Whether no other living cgroup is that container. One that root vouches for takes the place of others.
    fn is_the_first(&mut self, new: &Workload, vouched: bool) -> bool {
        let is_other =
            |m: &&Member| m.workload.kind == new.kind && Workload::at_id(&m.workload.path) == Some(m.workload.id);
        if !matches!(new.kind, Kind::Container(_)) {
            return true;
        }
        let others: Vec<(u64, bool)> =
            self.all.values().filter(is_other).map(|member| (member.workload.id, member.vouched)).collect();
        if !vouched && !others.is_empty() {
            if self.refused.len() > MAX_REFUSED {
                self.refused.clear();
            }
            if self.refused.insert(new.id) {
                tracing::warn!(
                    "{} has the name of a container that is elsewhere: it is not governed as that",
                    new.path
                );
            }
            return false;
        }
        for (id, _) in others.into_iter().filter(|(_, vouched)| !vouched) {
            self.forget(id);
        }
        true
    }

    /// Takes note of a container of which a runtime's hook tells, as root alone can; returns its skill.
    pub fn introduce(&mut self, workload: Workload, bundle: &Path, skill: Option<String>) -> Option<String> {
        let id = workload.id;
        self.admit(workload, true);
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
        self.arranged.remove(&id);
        self.unasked.known.remove(&id);
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
        // What was measured stays: from now on its processes may write what a second look would take for theirs.
        if let Some(found) = self.found.get_mut(&id) {
            found.objects.clear();
            found.pins.retain(|_, digest| digest.is_ok());
        }
        true
    }

    /// Those of whose beginning nobody has told: the governed containers whose own program is not known to run.
    #[must_use]
    pub fn waiting(&self) -> BTreeSet<u64> {
        let waits = |member: &Member| member.skill.is_some() && member.is_container() && !member.runs;
        self.all.iter().filter(|(_, member)| waits(member)).map(|(id, _)| *id).collect()
    }

    /// The digest of a container's binary when it was first measured.
    #[must_use]
    pub fn first_digest(&self, id: u64, path: &Path) -> Option<Digest> {
        match &self.all.get(&id)?.workload.kind {
            Kind::Container(name) => self.first.get(name, path),
            Kind::Unit(_) => None,
        }
    }

    /// Keeps the digest of a container's binary.
    pub fn measured(&mut self, id: u64, path: &Path, digest: Digest) {
        if let Some(Kind::Container(name)) = self.all.get(&id).map(|member| &member.workload.kind) {
            self.first.keep(name, path, digest);
        }
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

    /// All of them, by the id of their cgroup.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Member)> {
        self.all.iter().map(|(id, member)| (*id, member))
    }

    /// Whether a process in a member's cgroup runs the member's own program, and not the engine's or systemd's, which will
    /// execute it.
    #[must_use]
    pub fn runs_its_own(&mut self, id: u64, pid: u32) -> bool {
        let exe = PathBuf::from(format!("/proc/{pid}/exe"));
        let identity = move || fs::metadata(&exe).map(|m| (m.dev(), m.ino()));
        // One whose filesystem does not answer is none of an engine's.
        let Ok(program) = self.asker.ask(&PathBuf::from(format!("process {pid}")), identity) else { return true };
        let Ok(program) = program else { return false };
        if self.get(id).is_some_and(|member| member.is_container() && member.vouched) {
            // The engine's program lies on the host.
            let root = self.root(id).ok().and_then(|root| rustix::fs::fstat(&root.dir).ok());
            return root.is_some_and(|root| root.st_dev == program.0);
        }
        let is_manager = |path: &Path| fs::metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == program);
        !(is_manager(Path::new("/proc/1/exe"))
            || super::workloads::LAUNCHERS.iter().any(|path| is_manager(Path::new(path))))
    }

    /// A container's files.
    ///
    /// # Errors
    /// When they cannot be reached: it has ended, or its engine does not say where they are.
    pub fn root(&mut self, id: u64) -> io::Result<Arc<Root>> {
        let member = self.all.get_mut(&id).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        if let Some(root) = &member.root {
            return Ok(Arc::clone(root));
        }
        if !member.vouched {
            return Err(io::Error::other(format!(
                "its cgroup {} was made by a user that is not root",
                member.workload.path
            )));
        }
        let files = member.files();
        let asked = PathBuf::from(format!("the root of container {id}"));
        let root =
            self.asker.ask(&asked, move || files.open()).map_err(|e| io::Error::new(io::ErrorKind::TimedOut, e))?;
        Ok(Arc::clone(member.root.insert(Arc::new(root?))))
    }
}

/// What is known of where a container's files are.
struct Files {
    workload: Workload,
    rootfs: Option<PathBuf>,
    volumes: Vec<(PathBuf, PathBuf)>,
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

    /// What is known of a container.
    #[must_use]
    pub fn facts(&self) -> Option<&Facts> {
        self.facts.as_ref()
    }

    fn files(&self) -> Files {
        let facts = self.facts.clone().unwrap_or_default();
        Files { workload: self.workload.clone(), rootfs: facts.rootfs, volumes: facts.volumes }
    }
}

impl Files {
    /// Opens the root directory: as its processes see it, or, before they do, as the runtime prepares it.
    fn open(self) -> io::Result<Root> {
        let Self { workload, rootfs, volumes } = self;
        let same = |a: &Path, b: &Path| matches!((fs::metadata(a), fs::metadata(b)), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()));
        let processes = workload.processes();
        for pid in &processes {
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            // What the engine says is the root, or, when it says nothing, anything but the host's.
            let is_its = match &rootfs {
                Some(rootfs) if rootfs.exists() => same(&root, rootfs),
                _ => !same(&root, Path::new("/")),
            };
            if is_its {
                return Root::open(&root, Path::new("/"), &format!("/proc/{pid}/mountinfo"));
            }
        }
        let rootfs = rootfs.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let with_volumes = |root: Root| Root { volumes, ..root };
        // Within the mount namespace of the runtime's child, which has the container's volumes. Whoever made a user namespace may
        // have made anything appear there.
        let privileged =
            |pid: &&u32| same(&PathBuf::from(format!("/proc/{pid}/ns/user")), Path::new("/proc/self/ns/user"));
        for pid in processes.iter().filter(privileged) {
            let dir = PathBuf::from(format!("/proc/{pid}/root")).join(rootfs.strip_prefix("/").unwrap_or(&rootfs));
            if let Ok(root) = Root::open(&dir, &rootfs, &format!("/proc/{pid}/mountinfo")) {
                return Ok(with_volumes(root));
            }
        }
        Root::open(&rootfs, &rootfs, "/proc/self/mountinfo").map(with_volumes)
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
