//! The engine: one thread that owns the kernel side and carries out what the rest of the daemon asks.
//!
//! It is a thread of its own because its work blocks (hashing, map writes, walks over all tasks) and because the kernel
//! answers questions about files to the thread that asked. Requests come through a bounded channel, one at a time, so
//! that no two policies are ever applied at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, RwLock, mpsc},
    thread,
};

use aya::maps::{MapData, PerCpuArray, RingBuf};
use enforcer_common::{
    ids::{Generation, SkillId},
    names::map,
};
use tokio::sync::{oneshot, watch};

use crate::{
    compile::{
        self, CompileErrors, Ids, Remark,
        ruleset::Ruleset,
        world::{Host, Loaded, World as _},
    },
    kernel::{
        Kernel, LoadError,
        enrol::{EnrolError, Enroller},
        load::CGROUP_ROOT,
        maps::{ApplyError, PolicyMaps},
        resolve::Resolver,
    },
    manifest::{ManifestErrors, ValidManifest},
};

/// How many requests may wait.
const QUEUE: usize = 64;

/// Why a policy is not in force. The one before it still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The manifest is not valid.
    #[error(transparent)]
    Manifest(#[from] ManifestErrors),
    /// It cannot be compiled on this host.
    #[error(transparent)]
    Compile(#[from] CompileErrors),
    /// The mount table cannot be read.
    #[error("/proc/self/mountinfo: {0}")]
    Mounts(#[source] std::io::Error),
    /// The kernel did not take it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// Why the engine did not start. Nothing is attached after it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel refused.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The daemon's own threads could not be labelled.
    #[error("cannot label the daemon's own threads: {0}")]
    Label(#[from] EnrolError),
    /// The first policy was not taken.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// No thread.
    #[error("cannot start the engine's thread: {0}")]
    Thread(#[source] std::io::Error),
}

/// Why a process did not enter a skill.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnterError {
    /// The policy has no such skill.
    #[error("the policy in force has no skill `{name}`; it has {known}")]
    NoSkill {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The process could not be labelled.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
    /// The cgroup cannot be governed.
    #[error("{0}")]
    Cgroup(String),
    /// The policy maps did not take it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The engine has ended.
    #[error("the engine has ended")]
    Ended,
}

/// What is in force.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Status {
    /// The policy's file.
    pub policy: PathBuf,
    /// The generation in force.
    pub generation: u32,
    /// The skills.
    pub skills: Vec<SkillStatus>,
    /// Governed cgroups, descendants included, when the policy was compiled.
    pub cgroups: usize,
    /// Events that found the ring full.
    pub dropped: u64,
    /// What the compiler warned of.
    pub warnings: Vec<String>,
}

/// A skill in force.
#[derive(Clone, Debug, serde::Serialize)]
pub struct SkillStatus {
    /// Its name.
    pub name: String,
    /// `enforce` or `audit`.
    pub mode: &'static str,
    /// Binaries that may run.
    pub binaries: usize,
    /// Objects that path rules name.
    pub objects: usize,
    /// Network prefixes.
    pub destinations: usize,
}

/// What events need to know of policies: the rules behind the numbers. Kept over reloads, for events of before.
#[derive(Debug, Default)]
pub struct Directory {
    /// The policy in force and the texts of those before it.
    pub ruleset: Ruleset,
}

impl Directory {
    fn remember(&mut self, next: &Ruleset) {
        self.ruleset.names.extend(next.names.clone());
        self.ruleset.rules.extend(next.rules.clone());
    }
}

enum Request {
    Apply(Box<ValidManifest>, PathBuf, oneshot::Sender<Result<(Generation, Vec<Remark>), PolicyError>>),
    Refresh(oneshot::Sender<Result<bool, PolicyError>>),
    Enter(u32, String, oneshot::Sender<Result<u32, EnterError>>),
    AttachCgroup(String, String, oneshot::Sender<Result<usize, EnterError>>),
    Inspect(u32, SkillId, oneshot::Sender<u32>),
    IsGoverned(u32, oneshot::Sender<Result<bool, EnrolError>>),
    Status(oneshot::Sender<Status>),
    Dropped(oneshot::Sender<u64>),
}

/// A handle on the engine; the engine ends, and the programs are detached, when the last one is dropped.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::SyncSender<Request>,
    directory: Arc<RwLock<Directory>>,
    watched: watch::Receiver<BTreeSet<PathBuf>>,
}

/// What a started engine hands out once.
pub struct Started {
    /// The handle.
    pub engine: Engine,
    /// The events.
    pub ring: RingBuf<MapData>,
    /// The programs' debug messages, when they were asked for.
    pub debug: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
    /// What the compiler warned of.
    pub warnings: Vec<Remark>,
}

impl Engine {
    /// Loads and attaches the programs and puts the first policy in force. Blocks until it is.
    ///
    /// # Errors
    /// When any of it fails; then nothing is attached.
    pub fn start(manifest: ValidManifest, file: &Path, home: PathBuf) -> Result<Started, StartError> {
        let (requests, inbox) = mpsc::sync_channel(QUEUE);
        let (ready, outcome) = mpsc::sync_channel(1);
        let directory = Arc::new(RwLock::new(Directory::default()));
        let (watched, receiver) = watch::channel(BTreeSet::new());
        let (file, shared) = (file.to_owned(), Arc::clone(&directory));
        thread::Builder::new()
            .name("engine".into())
            .spawn(move || match Owner::start(manifest, file, home, shared, watched) {
                Ok((owner, ring, debug)) => {
                    let warnings = owner.warnings.clone();
                    let _ = ready.send(Ok((ring, debug, warnings)));
                    owner.serve(&inbox);
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                }
            })
            .map_err(StartError::Thread)?;
        let (ring, debug, warnings) = outcome.recv().map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
        Ok(Started { engine: Self { requests, directory, watched: receiver }, ring, debug, warnings })
    }

    /// The rules behind the numbers in events.
    #[must_use]
    pub fn directory(&self) -> Arc<RwLock<Directory>> {
        Arc::clone(&self.directory)
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.clone();
        let request = request(reply);
        // The queue may be full: wait for room on a thread that may block.
        tokio::task::spawn_blocking(move || requests.send(request)).await.ok()?.ok()?;
        answer.await.ok()
    }

    /// Puts another policy in force.
    ///
    /// # Errors
    /// When it is not taken: the policy in force stays in force.
    pub async fn apply(
        &self,
        manifest: ValidManifest,
        file: PathBuf,
    ) -> Option<Result<(Generation, Vec<Remark>), PolicyError>> {
        self.ask(|reply| Request::Apply(Box::new(manifest), file, reply)).await
    }

    /// Looks again at what lies at the paths of the policy in force; returns whether that changed anything.
    ///
    /// # Errors
    /// When the change is not taken: the policy in force stays as it is.
    pub async fn refresh(&self) -> Option<Result<bool, PolicyError>> {
        self.ask(Request::Refresh).await
    }

    /// Puts a cgroup and its descendants into a skill; returns how many cgroups that are.
    ///
    /// # Errors
    /// When the policy has no such skill, or there is no such cgroup.
    pub async fn attach_cgroup(&self, cgroup: String, skill: String) -> Result<usize, EnterError> {
        self.ask(move |reply| Request::AttachCgroup(cgroup, skill, reply)).await.unwrap_or(Err(EnterError::Ended))
    }

    /// Reports the open files of a process that its skill may not have; returns how many there are.
    pub async fn inspect(&self, pid: u32, skill: SkillId) -> u32 {
        self.ask(move |reply| Request::Inspect(pid, skill, reply)).await.unwrap_or(0)
    }

    /// The paths that the policy in force names, as they change.
    #[must_use]
    pub fn watched(&self) -> watch::Receiver<BTreeSet<PathBuf>> {
        self.watched.clone()
    }

    /// Puts a process into a skill; returns how many of its threads got the label.
    ///
    /// # Errors
    /// When the policy has no such skill, or the process is not there or in another skill.
    pub async fn enter(&self, pid: u32, skill: String) -> Result<u32, EnterError> {
        self.ask(move |reply| Request::Enter(pid, skill, reply)).await.unwrap_or(Err(EnterError::Ended))
    }

    /// Whether a process is in any skill. What cannot be found out counts as governed.
    pub async fn is_governed(&self, pid: u32) -> bool {
        !matches!(self.ask(move |reply| Request::IsGoverned(pid, reply)).await, Some(Ok(false)))
    }

    /// What is in force.
    pub async fn status(&self) -> Option<Status> {
        self.ask(Request::Status).await
    }

    /// How many events found the ring full since the programs were loaded.
    pub async fn dropped(&self) -> Option<u64> {
        self.ask(Request::Dropped).await
    }
}

/// The engine's thread.
struct Owner {
    kernel: Kernel,
    maps: PolicyMaps,
    resolver: Resolver,
    enroller: Enroller,
    drops: PerCpuArray<MapData, u64>,
    ids: Ids,
    loaded: Loaded,
    home: PathBuf,
    file: PathBuf,
    manifest: Arc<ValidManifest>,
    /// Cgroups that were attached by hand, with their skills; they stay over reloads.
    attached: BTreeMap<String, String>,
    warnings: Vec<Remark>,
    directory: Arc<RwLock<Directory>>,
    watched: watch::Sender<BTreeSet<PathBuf>>,
}

type Handover = (Owner, RingBuf<MapData>, Option<aya_log::EbpfLogger<&'static dyn log::Log>>);

impl Owner {
    fn start(
        manifest: ValidManifest,
        file: PathBuf,
        home: PathBuf,
        directory: Arc<RwLock<Directory>>,
        watched: watch::Sender<BTreeSet<PathBuf>>,
    ) -> Result<Handover, StartError> {
        let mut kernel = Kernel::load()?;
        let debug = kernel.debug_messages();
        let ring = kernel.map(map::EVENTS)?;
        let drops = kernel.map(map::DROPS)?;
        let maps = PolicyMaps::new(&mut kernel)?;
        let resolver = Resolver::new(&mut kernel)?;
        let mut enroller = Enroller::new(&mut kernel)?;
        // Nobody is governed yet: no task has a label and no cgroup is in the map.
        kernel.attach()?;
        enroller.enrol(&mut kernel, std::process::id(), SkillId::RESOLVER)?;
        let manifest = Arc::new(manifest);
        let mut owner = Self {
            kernel,
            maps,
            resolver,
            enroller,
            drops,
            ids: Ids::default(),
            loaded: Loaded::default(),
            home,
            file,
            manifest: Arc::clone(&manifest),
            attached: BTreeMap::new(),
            warnings: vec![],
            directory,
            watched,
        };
        owner.apply(manifest)?;
        Ok((owner, ring, debug))
    }

    fn serve(mut self, inbox: &mpsc::Receiver<Request>) {
        // Whoever asked may have gone away; then nobody wants the answer.
        while let Ok(request) = inbox.recv() {
            match request {
                Request::Apply(manifest, file, reply) => {
                    let outcome = self.apply(Arc::new(*manifest));
                    if outcome.is_ok() {
                        self.file = file;
                    }
                    let _ = reply.send(outcome.map(|generation| (generation, self.warnings.clone())));
                }
                Request::Refresh(reply) => {
                    let _ = reply.send(self.refresh());
                }
                Request::Enter(pid, skill, reply) => {
                    let _ = reply.send(self.enter(pid, &skill));
                }
                Request::AttachCgroup(cgroup, skill, reply) => {
                    let _ = reply.send(self.attach_cgroup(cgroup, skill));
                }
                Request::Inspect(pid, skill, reply) => {
                    let _ = reply.send(self.enroller.inspect_files(&mut self.kernel, pid, skill).unwrap_or(0));
                }
                Request::IsGoverned(pid, reply) => {
                    let _ = reply.send(self.enroller.is_governed(&mut self.kernel, pid));
                }
                Request::Status(reply) => {
                    let _ = reply.send(self.status());
                }
                Request::Dropped(reply) => {
                    let _ = reply.send(self.dropped());
                }
            }
        }
    }

    /// Loads a policy: binaries are measured anew.
    fn apply(&mut self, manifest: Arc<ValidManifest>) -> Result<Generation, PolicyError> {
        let before = std::mem::take(&mut self.loaded);
        let outcome = self.put_in_force(&manifest);
        if outcome.is_ok() {
            self.manifest = manifest;
            self.loaded.settle();
        } else {
            self.loaded = before;
        }
        outcome
    }

    /// Looks again at what lies at the policy's paths; binaries stay pinned to what they were.
    fn refresh(&mut self) -> Result<bool, PolicyError> {
        let before = self.maps.generation();
        let manifest = Arc::clone(&self.manifest);
        Ok(self.put_in_force(&manifest)? != before)
    }

    fn put_in_force(&mut self, manifest: &ValidManifest) -> Result<Generation, PolicyError> {
        let mut host =
            Host::new(&mut self.resolver, self.home.clone(), &mut self.loaded).map_err(PolicyError::Mounts)?;
        let mut compiled = compile::compile(manifest.manifest(), &mut host, &mut self.ids)?;
        for (cgroup, skill) in &self.attached {
            // A skill that is gone denies all, which is what its processes get; a cgroup that is gone has none.
            let found = host.cgroups(cgroup).unwrap_or_default();
            if let Some(skill) = self.ids.known_skill(skill) {
                compiled.ruleset.add_cgroups(skill, &found);
            }
        }
        // Before the flip: the first event of the new policy must find its rule.
        if let Ok(mut directory) = self.directory.write() {
            directory.remember(&compiled.ruleset);
        }
        let watched = compiled.ruleset.watched.clone();
        let (new_cgroups, generation) = self.maps.apply(compiled.ruleset)?;
        self.warnings = compiled.warnings;
        // Always told, even if nothing changed: the watcher waits for it.
        self.watched.send_replace(watched);
        self.inspect_cgroups(&new_cgroups);
        Ok(generation)
    }

    /// Reports what processes of newly governed cgroups brought along.
    fn inspect_cgroups(&mut self, cgroups: &[(u64, SkillId)]) {
        if cgroups.is_empty() {
            return;
        }
        for (pid, skill) in processes_in(cgroups) {
            if let Err(e) = self.enroller.inspect_files(&mut self.kernel, pid, skill) {
                tracing::warn!("open files of process {pid}: {e}");
            }
        }
    }

    /// The number of a skill of the policy in force.
    fn skill(&self, name: &str) -> Result<SkillId, EnterError> {
        let in_force = self.maps.in_force();
        self.ids.known_skill(name).filter(|id| in_force.skills.contains_key(id)).ok_or_else(|| {
            let known: Vec<&str> = in_force.names.values().map(|s| s.name.as_str()).collect();
            EnterError::NoSkill { name: name.to_owned(), known: known.join(", ") }
        })
    }

    /// Labels a process, unless it has files open that its skill may not have. It is looked at before, so that one that is
    /// refused stays as it was, and again afterwards, because it may have opened some in between.
    fn enter(&mut self, pid: u32, name: &str) -> Result<u32, EnterError> {
        let skill = self.skill(name)?;
        self.refuse_open_files(pid, skill)?;
        let labelled = self.enroller.enrol(&mut self.kernel, pid, skill)?;
        self.refuse_open_files(pid, skill)?;
        Ok(labelled)
    }

    fn refuse_open_files(&mut self, pid: u32, skill: SkillId) -> Result<(), EnterError> {
        match self.enroller.inspect_files(&mut self.kernel, pid, skill)? {
            0 => Ok(()),
            count => Err(EnrolError::OpenFiles { pid, count }.into()),
        }
    }

    fn attach_cgroup(&mut self, cgroup: String, name: String) -> Result<usize, EnterError> {
        let skill = self.skill(&name)?;
        let mut host = Host::new(&mut self.resolver, self.home.clone(), &mut self.loaded)
            .map_err(|e| EnterError::Cgroup(format!("/proc/self/mountinfo: {e}")))?;
        let found = host.cgroups(&cgroup).map_err(EnterError::Cgroup)?;
        if found.is_empty() {
            return Err(EnterError::Cgroup(format!("there is no cgroup {cgroup} below {CGROUP_ROOT}")));
        }
        let mut next = self.maps.in_force().clone();
        next.add_cgroups(skill, &found);
        let (new_cgroups, _) = self.maps.apply(next)?;
        self.attached.insert(cgroup, name);
        self.inspect_cgroups(&new_cgroups);
        Ok(found.len())
    }

    fn dropped(&self) -> u64 {
        self.drops.get(&0, 0).map_or(0, |per_cpu| per_cpu.iter().sum())
    }

    fn status(&self) -> Status {
        let ruleset = self.maps.in_force();
        let skills = ruleset.names.iter().map(|(id, text)| SkillStatus {
            name: text.name.clone(),
            mode: text.mode,
            binaries: ruleset.binaries.keys().filter(|k| k.skill == *id).count(),
            objects: ruleset.objects.keys().filter(|k| k.skill == *id).count(),
            destinations: ruleset.destinations.keys().filter(|k| k.key.skill == *id).count(),
        });
        Status {
            policy: self.file.clone(),
            generation: self.maps.generation().0,
            skills: skills.collect(),
            cgroups: ruleset.cgroups.len(),
            dropped: self.dropped(),
            warnings: self.warnings.iter().map(ToString::to_string).collect(),
        }
    }
}

/// The processes of some cgroups, with their skills. Those that end meanwhile are left out.
fn processes_in(cgroups: &[(u64, SkillId)]) -> Vec<(u32, SkillId)> {
    let mut found = vec![];
    let mut pending = vec![PathBuf::from(CGROUP_ROOT)];
    while let Some(dir) = pending.pop() {
        let Ok(meta) = std::fs::metadata(&dir) else { continue };
        if let Some((_, skill)) = cgroups.iter().find(|(id, _)| *id == meta.ino()) {
            let processes = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            found.extend(processes.lines().filter_map(|pid| Some((pid.parse().ok()?, *skill))));
        }
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        pending.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    found
}
