//! The engine: one thread that owns the kernel side and carries out what the rest of the daemon asks.
//!
//! It is a thread of its own because its work blocks (hashing, map writes, walks over all tasks) and because the kernel
//! answers questions about files to the thread that asked. Requests come through a bounded channel, one at a time, so
//! that no two policies are ever applied at once.

mod first;
mod hold;
mod left;
mod measured;
pub mod members;
mod owner;
mod resolving;
mod ring;
mod state;
mod workloads;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, RwLock, mpsc},
    thread,
};

use enforcer_common::{
    ids::{Generation, RuleId, SkillId},
    net::FoundSocket,
};
use tokio::sync::{oneshot, watch};

use self::owner::{Handover, Owner, Told};
pub use self::{
    left::{Left, is_governed, left},
    measured::Wanted as Unmeasured,
    ring::{Ring, RingError},
};
use crate::{
    compile::{CompileErrors, Remark, ruleset::Ruleset},
    events::ledger::Ledger,
    kernel::{
        LoadError,
        enrol::EnrolError,
        load::Debug as DebugMessages,
        maps::{ApplyError, OpenError},
        migrate::MigrateError,
        pins::PinError,
        sockets::Outcome,
    },
    manifest::{HostName, ManifestErrors, ValidManifest},
    names::{Addresses, Wanted},
    workload::Selector,
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
    /// The cgroup hierarchy cannot be read.
    #[error("/sys/fs/cgroup: {0}")]
    Cgroups(#[source] std::io::Error),
    /// The kernel did not take it.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// What the next daemon should know could not be kept.
    #[error(transparent)]
    Keep(#[from] PinError),
}

/// Why the engine did not start. What was in force before still is, and nothing else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The kernel refused.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The pins.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The policy in force could not be read.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// What is in force could not be carried over.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The events of what is in force could not be had.
    #[error(transparent)]
    Ring(#[from] RingError),
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
    /// The SHA-256 of its text when it was put in force; empty when nobody knows it.
    pub manifest: String,
    /// The generation in force.
    pub generation: u32,
    /// The skills.
    pub skills: Vec<SkillStatus>,
    /// Rules that the last change of the policy wrote: those that it changed.
    pub written: usize,
    /// Containers and units that are governed.
    pub workloads: usize,
    /// Governed cgroups, descendants included.
    pub cgroups: usize,
    /// Events that found the ring full.
    pub dropped: u64,
    /// Who measures files: `kernel` or `daemon`.
    pub measured_by: &'static str,
    /// How the digests of executed files were had.
    pub digests: DigestCounts,
    /// What the compiler warned of.
    pub warnings: Vec<String>,
}

/// How often an exec had to read the whole file, and how often its digest was known, since the programs were loaded.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct DigestCounts {
    /// The file was read, by whoever measures.
    pub measured: u64,
    /// It had not changed since it was read.
    pub known: u64,
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
    /// Which name has an address now.
    pub names: HashMap<IpAddr, HostName>,
}

impl Directory {
    fn remember(&mut self, next: &Ruleset) {
        self.ruleset.names.extend(next.names.clone());
        self.ruleset.rules.extend(next.rules.clone());
        self.ruleset.pinned.clone_from(&next.pinned);
    }

    fn forget_rules(&mut self, keep: impl Fn(RuleId) -> bool) {
        self.ruleset.rules.retain(|id, _| keep(*id));
    }
}

/// What a policy is compiled for.
#[derive(Clone, Debug)]
pub struct Site {
    /// What `~` means.
    pub home: PathBuf,
    /// What is Enforcer's own beside the manifest: see [`crate::own`].
    pub own: Vec<PathBuf>,
}

/// Where what is in force came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing was in force before.
    New,
    /// An earlier daemon of this build had put it there.
    Adopted,
    /// It replaced what a daemon of another build, of this version, had put there.
    Replaced(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::New => Ok(()),
            Self::Adopted => f.write_str(", taken over from an earlier daemon"),
            Self::Replaced(version) => write!(f, ", in place of the programs of version {version}"),
        }
    }
}

/// What the kernel tells of cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupNews {
    /// One was made that is not governed.
    Made {
        /// Its path below the mount of cgroup v2.
        path: String,
    },
    /// One was removed that was named.
    Gone {
        /// Its id.
        id: u64,
    },
    /// Some news were lost: look for yourself.
    Lost,
    /// A process entered its skill by executing its program.
    Begun {
        /// The cgroup that it is in.
        cgroup: u64,
    },
}

/// A socket that was closed because its process may not have it.
#[derive(Clone, Debug)]
pub struct Closed {
    /// The socket.
    pub socket: FoundSocket,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: &'static str,
    /// The name that led to its peer.
    pub name: Option<HostName>,
}

/// How many closed sockets may wait for being told of.
const CLOSED_QUEUE: usize = 4096;

enum Request {
    AttachWorkloads(Selector, String, oneshot::Sender<Result<usize, EnterError>>),
    Container {
        id: String,
        pid: u32,
        bundle: PathBuf,
        skill: Option<String>,
        reply: oneshot::Sender<Result<Option<String>, EnterError>>,
    },
    Cgroups(Vec<CgroupNews>, oneshot::Sender<Result<(), PolicyError>>),
    Apply(Box<ValidManifest>, PathBuf, oneshot::Sender<Result<(Generation, Vec<Remark>), PolicyError>>),
    Refresh(oneshot::Sender<Result<bool, PolicyError>>),
    Names(Addresses, oneshot::Sender<Result<bool, PolicyError>>),
    Enter(u32, String, oneshot::Sender<Result<u32, EnterError>>),
    AttachCgroup(String, String, oneshot::Sender<Result<usize, EnterError>>),
    Inspect(u32, SkillId, oneshot::Sender<u32>),
    IsGoverned(u32, oneshot::Sender<Result<bool, EnrolError>>),
    Status(oneshot::Sender<Status>),
    Dropped(oneshot::Sender<u64>),
    WhoMeasures(oneshot::Sender<()>),
    Unload(oneshot::Sender<Result<(), PinError>>),
    Hold(PathBuf, Vec<(PathBuf, OwnedFd)>, mpsc::Sender<Result<(), String>>),
}

/// A handle on the engine, which ends when the last one is dropped. What is in force stays.
#[derive(Clone)]
pub struct Engine {
    requests: mpsc::SyncSender<Request>,
    unmeasured: mpsc::SyncSender<Unmeasured>,
    directory: Arc<RwLock<Directory>>,
    watched: watch::Receiver<BTreeSet<PathBuf>>,
    names: watch::Receiver<Wanted>,
}

/// What a started engine hands out once.
pub struct Started {
    /// The handle.
    pub engine: Engine,
    /// The events: of the programs that were replaced, then of those in force.
    pub rings: Vec<Ring>,
    /// The programs' debug messages, when they were asked for.
    pub debug: Option<DebugMessages>,
    /// Where what is in force came from.
    pub origin: Origin,
    /// How many events were taken and handed on.
    pub ledger: Ledger,
    /// The addresses of names that the daemon before knew, which are in force.
    pub known: Addresses,
    /// Sockets that are closed from now on.
    pub closed: tokio::sync::mpsc::Receiver<Closed>,
}

impl Engine {
    /// Takes over what is in force, or loads and attaches the programs, and puts the policy in force. Blocks until it is.
    ///
    /// # Errors
    /// When any of it fails; then what was in force before still is, and nothing else.
    pub fn start(manifest: ValidManifest, file: &Path, site: Site) -> Result<Started, StartError> {
        let (requests, inbox) = mpsc::sync_channel(QUEUE);
        let (ready, outcome) = mpsc::sync_channel(1);
        let directory = Arc::new(RwLock::new(Directory::default()));
        let (watched, receiver) = watch::channel(BTreeSet::new());
        let (wanted, names) = watch::channel(Wanted::default());
        let (closed, told) = tokio::sync::mpsc::channel(CLOSED_QUEUE);
        let (file, shared) = (file.to_owned(), Arc::clone(&directory));
        thread::Builder::new()
            .name("engine".into())
            .spawn(move || match Owner::start(manifest, file, site, shared, Told { watched, wanted, closed }) {
                Ok(Handover { owner, rings, debug, origin, ledger, known, unmeasured }) => {
                    let _ = ready.send(Ok((rings, debug, origin, ledger, known, unmeasured)));
                    owner.serve(&inbox);
                }
                Err(e) => {
                    let _ = ready.send(Err(e));
                }
            })
            .map_err(StartError::Thread)?;
        let (rings, debug, origin, ledger, known, unmeasured) =
            outcome.recv().map_err(|e| StartError::Thread(std::io::Error::other(e)))??;
        let engine = Self { requests, unmeasured, directory, watched: receiver, names };
        Ok(Started { engine, rings, debug, origin, ledger, known, closed: told })
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

    /// Puts running containers or units into a skill; returns how many.
    ///
    /// # Errors
    /// When there is none, or the policy has no such skill.
    pub async fn attach_workloads(&self, selector: Selector, skill: String) -> Result<usize, EnterError> {
        self.ask(move |reply| Request::AttachWorkloads(selector, skill, reply)).await.unwrap_or(Err(EnterError::Ended))
    }

    /// Governs a container that its runtime is about to start; returns its skill, if it has one.
    ///
    /// # Errors
    /// When it has one and cannot be governed.
    pub async fn container(
        &self,
        id: String,
        pid: u32,
        bundle: PathBuf,
        skill: Option<String>,
    ) -> Result<Option<String>, EnterError> {
        self.ask(move |reply| Request::Container { id, pid, bundle, skill, reply })
            .await
            .unwrap_or(Err(EnterError::Ended))
    }

    /// Tells of cgroups that were made and removed.
    ///
    /// # Errors
    /// When the change is not taken.
    pub async fn cgroups(&self, news: Vec<CgroupNews>) -> Option<Result<(), PolicyError>> {
        self.ask(move |reply| Request::Cgroups(news, reply)).await
    }

    /// Has a file measured that nobody has measured yet. Never waits: where there is no room, the next attempt at it tells again.
    pub fn measure(&self, unmeasured: Unmeasured) {
        let _ = self.unmeasured.try_send(unmeasured);
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

    /// The names that the policy in force lists, as they change.
    #[must_use]
    pub fn names(&self) -> watch::Receiver<Wanted> {
        self.names.clone()
    }

    /// Gives the policy in force the addresses that its names have now; returns whether that changed anything.
    ///
    /// # Errors
    /// When the change is not taken: the policy in force stays as it is.
    pub async fn resolve(&self, addresses: Addresses) -> Option<Result<bool, PolicyError>> {
        self.ask(|reply| Request::Names(addresses, reply)).await
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

    /// Looks who measures files: IMA may have got a policy.
    pub async fn look_who_measures(&self) -> Option<()> {
        self.ask(Request::WhoMeasures).await
    }

    /// How many events found the ring full since the programs were loaded.
    pub async fn dropped(&self) -> Option<u64> {
        self.ask(Request::Dropped).await
    }

    /// Takes everything out of force. The programs are detached when this returns; the engine is of no use any more.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub async fn unload(&self) -> Option<Result<(), PinError>> {
        self.ask(Request::Unload).await
    }

    /// Makes files Enforcer's own, those of the sink at `sink` instead of those that it held before; see
    /// [`Guard`](crate::events::sinks::Guard). Never waits: the answer comes later.
    #[must_use]
    pub fn hold(&self, sink: PathBuf, files: Vec<(PathBuf, OwnedFd)>) -> mpsc::Receiver<Result<(), String>> {
        let (say, hear) = mpsc::channel();
        if self.requests.try_send(Request::Hold(sink, files, say.clone())).is_err() {
            // Who asks is there: it has the other end.
            let _ = say.send(Err("the engine is busy".into()));
        }
        hear
    }
}
