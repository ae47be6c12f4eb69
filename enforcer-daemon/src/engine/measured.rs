//! Measures in the kernel's place: what the policy names when it is put in force, and what a governed process was refused because nobody
//! had measured it.
//!
//! The kernel keeps a digest with the inode, so the inodes of what was measured are held in memory: by a watch, which keeps the inode
//! and neither its filesystem's mount nor, when it is deleted, its content.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    fs::File,
    io::{self, ErrorKind},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use enforcer_common::{
    content::answer,
    ids::{ObjectId, SkillId},
};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use rustix::fs::{Mode, OFlags};

use super::owner::Owner;
use crate::{
    hash::{self, HashError, OpenError},
    ima::Choice,
    kernel::{Kernel, LoadError, measuring::Channel, resolve::ResolveError},
    measure,
};

/// How many files are held in memory, those that were measured last.
const HELD: usize = 4096;
/// How many files may wait for being measured, and how many of one skill. Of those that find no room, the next attempt tells again.
const QUEUE: usize = 1024;
const QUEUE_OF_SKILL: usize = 64;
/// Files of more bytes wait for one another, and others do not wait for them.
const LARGE: u64 = 64 << 20;
/// How often a file is measured that changes meanwhile.
const TRIES: u32 = 3;

/// How often is looked at most, when there is a request, whether the kernel can still be relied on.
const CHECK: Duration = Duration::from_secs(30);

/// A file that a governed process was refused.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its skill.
    pub skill: SkillId,
    /// The process, and the one that started it: the file's path is one of theirs.
    pub pids: [u32; 2],
    /// Which file it is.
    pub object: ObjectId,
    /// Its path.
    pub path: PathBuf,
}

/// The files that wait, by skill: a skill's are measured one after another, so that others do not wait for all of them.
#[derive(Default)]
struct Waiting(BTreeMap<SkillId, VecDeque<Wanted>>);

impl Waiting {
    /// Adds a file, unless it waits already or too many do.
    fn add(&mut self, wanted: Wanted) {
        let of_skill = self.0.entry(wanted.skill).or_default();
        if of_skill.len() < QUEUE_OF_SKILL && of_skill.iter().all(|other| other.object != wanted.object) {
            of_skill.push_back(wanted);
        }
    }

    /// One of each skill; of the same path those of one skill alone.
    fn round(&mut self) -> HashMap<PathBuf, Wanted> {
        let first = self.0.values_mut().filter_map(VecDeque::pop_front);
        let round = first.map(|wanted| (wanted.path.clone(), wanted)).collect();
        self.0.retain(|_, waiting| !waiting.is_empty());
        round
    }
}

/// What came of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its digest is kept.
    Kept,
    /// It is another file, or changes of its content would not be noticed.
    Impossible,
    /// It has too many bytes.
    Large,
}

/// What it takes to measure.
#[derive(Clone)]
pub(super) struct Measuring {
    channel: Channel,
    held: Arc<Mutex<Option<Held>>>,
    /// When was looked who measures.
    looked: Instant,
}

/// The path of an open file, for this process.
pub(super) fn by_descriptor(fd: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

impl Owner {
    /// Looks whether IMA has got a policy, unless that was just done.
    pub(super) fn look_now_and_then(&mut self) {
        if self.measuring.looked.elapsed() >= CHECK {
            self.look_who_measures();
        }
    }

    /// Looks whether IMA has got a policy. What the policy names is measured then; what else runs is refused once.
    pub(super) fn look_who_measures(&mut self) {
        self.measuring.looked = Instant::now();
        let choice = Choice::here();
        if choice.by() == self.host.measures().by() {
            return;
        }
        tracing::warn!("{}", choice.warning().unwrap_or_else(|| "files are measured by the kernel again".to_owned()));
        if let Err(e) = self.refresh() {
            tracing::error!("who measures could not be changed: {e}");
        }
    }
}

impl Measuring {
    /// Begins; what is asked for by the sender is measured from now on, by threads that carry the label of this one.
    ///
    /// # Errors
    /// When the object has no such map.
    pub(super) fn begin(kernel: &Kernel) -> Result<(Self, mpsc::SyncSender<Wanted>), LoadError> {
        let held = Held::new();
        if let Err(e) = &held {
            tracing::warn!("files that are measured are not held in memory: {e}");
        }
        let (channel, held) = (Channel::new(kernel)?, Arc::new(Mutex::new(held.ok())));
        let measuring = Self { channel, held, looked: Instant::now() };
        let ((wanted, queue), (large, large_queue)) = (mpsc::sync_channel(QUEUE), mpsc::sync_channel(QUEUE));
        let (worker, of_large) = (measuring.clone(), measuring.clone());
        // Without the threads, what is executed for the first time stays refused, which is no reason to enforce nothing.
        let start = |work: Box<dyn FnOnce() + Send>| {
            if let Err(e) = thread::Builder::new().name("measured".into()).spawn(work) {
                tracing::error!("what is executed for the first time is not measured: {e}");
            }
        };
        start(Box::new(move || worker.serve(&queue, Some(&large))));
        start(Box::new(move || of_large.serve(&large_queue, None)));
        Ok((measuring, wanted))
    }

    /// Measures what lies at these paths, if it is not measured yet. Takes no longer than the [bounds](measure::LIMITS) say.
    pub(super) fn measure(&self, mut paths: Vec<PathBuf>) {
        paths.sort_unstable();
        paths.dedup();
        let measuring = self.clone();
        let work = move |path: &Path, piece: &mut dyn FnMut(usize)| measuring.one(path, None, u64::MAX, piece);
        for (path, outcome) in measure::each(paths, work) {
            match outcome {
                Ok(Outcome::Kept | Outcome::Large) => {}
                Ok(Outcome::Impossible) => {
                    tracing::warn!("{} cannot be measured where it lies: it is refused", path.display());
                }
                // What has gone since the policy was loaded, nobody executes.
                Err(e @ HashError::Open(_)) => tracing::debug!("{e}"),
                Err(e) => tracing::warn!("{e}: it is refused until it is measured"),
            }
        }
    }

    /// Measures what was asked for until nobody can ask any more; what is larger than [`LARGE`] is handed on, where there is somebody to hand
    /// it to.
    fn serve(&self, queue: &mpsc::Receiver<Wanted>, large: Option<&mpsc::SyncSender<Wanted>>) {
        let mut waiting = Waiting::default();
        loop {
            if waiting.0.is_empty() {
                let Ok(first) = queue.recv() else { return };
                waiting.add(first);
            }
            for wanted in queue.try_iter() {
                waiting.add(wanted);
            }
            let round = Arc::new(waiting.round());
            let (measuring, wanted) = (self.clone(), Arc::clone(&round));
            let limit = large.map_or(u64::MAX, |_| LARGE);
            let work = move |path: &Path, piece: &mut dyn FnMut(usize)| match wanted.get(path) {
                Some(wanted) => measuring.wanted(wanted, limit, piece),
                None => Ok(Outcome::Impossible),
            };
            for (path, outcome) in measure::each(round.keys().cloned().collect(), work) {
                match outcome {
                    Ok(Outcome::Kept) => tracing::debug!("{} was measured", path.display()),
                    Ok(Outcome::Impossible) => tracing::debug!("{} was not found, or not measured", path.display()),
                    Ok(Outcome::Large) => {
                        if let (Some(large), Some(wanted)) = (large, round.get(&path)) {
                            // Where there is no room, the next attempt tells again.
                            let _ = large.try_send(wanted.clone());
                        }
                    }
                    Err(e) => tracing::warn!("{e}: it is refused until it is measured"),
                }
            }
        }
    }

    /// Measures a file that a process was refused, if it is found where the process has it.
    fn wanted(&self, wanted: &Wanted, limit: u64, piece: &mut dyn FnMut(usize)) -> Result<Outcome, HashError> {
        let [own, parents] = wanted.pids.map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
        let below = wanted.path.strip_prefix("/").unwrap_or(&wanted.path);
        // A process that could not execute it has often ended by now; its parent mostly has the same files, and so has the host.
        for root in [own, parents, PathBuf::from("/")] {
            let path = root.join(below);
            // Nothing is opened but what is then looked at: a process may put a device there.
            let Ok(fd) = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
            match self.one(&by_descriptor(&fd), Some(wanted.object), limit, piece) {
                Ok(Outcome::Impossible) | Err(HashError::Open(_)) => {}
                Ok(outcome) => return Ok(outcome),
                Err(e) => return Err(e.at(&wanted.path)),
            }
        }
        Ok(Outcome::Impossible)
    }

    /// Measures what lies at a path, and has the digest kept. `object` says which file it has to be, `limit` how many bytes it may have.
    fn one(
        &self,
        path: &Path,
        object: Option<ObjectId>,
        limit: u64,
        piece: &mut dyn FnMut(usize),
    ) -> Result<Outcome, HashError> {
        let failed = |e: ResolveError| HashError::Read { path: path.to_owned(), source: io::Error::other(e) };
        for _ in 0..TRIES {
            // Opened anew each time: what lies below an overlay is noted then.
            let (file, meta) = hash::open_regular(path)?;
            let asked = self.channel.ask(&file).map_err(failed)?;
            let is_other = object.is_some_and(|object| object != asked.object);
            if is_other || asked.version == 0 {
                return Ok(Outcome::Impossible);
            }
            let kept = asked.answer == answer::KEPT || {
                if meta.len() > limit {
                    return Ok(Outcome::Large);
                }
                let digest = hash::sha256_open(path, &file, piece)?;
                self.channel.tell(&file, asked.version, digest).map_err(failed)?
            };
            if kept {
                self.hold(&file);
                return Ok(Outcome::Kept);
            }
        }
        Err(HashError::Changed { path: path.to_owned() })
    }

    fn hold(&self, file: &File) {
        if let Some(held) = self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            held.add(file);
        }
    }
}

impl HashError {
    /// The same of a file that is known by this path.
    fn at(self, path: &Path) -> Self {
        let path = path.to_owned();
        match self {
            Self::Open(OpenError::Io { source, .. }) => OpenError::Io { path, source }.into(),
            Self::Open(OpenError::NotRegular { kind, .. }) => OpenError::NotRegular { path, kind }.into(),
            Self::Read { source, .. } => Self::Read { path, source },
            Self::TooLarge { size, .. } => Self::TooLarge { path, size },
            Self::Silent { seconds, .. } => Self::Silent { path, seconds },
            Self::Changed { .. } => Self::Changed { path },
        }
    }
}

/// The inodes that are held in memory.
struct Held {
    inotify: Inotify,
    order: VecDeque<WatchDescriptor>,
    all: HashSet<WatchDescriptor>,
}

impl Held {
    fn new() -> io::Result<Self> {
        Ok(Self { inotify: Inotify::init()?, order: VecDeque::new(), all: HashSet::new() })
    }

    /// Holds the inode of an open file. When it cannot be held, its digest goes when the kernel forgets the inode, and is measured
    /// again then.
    fn add(&mut self, file: &File) {
        self.forget_gone();
        // Of an inode that is watched already it is the same watch.
        let Ok(watch) = self.inotify.watches().add(by_descriptor(file), WatchMask::DELETE_SELF) else { return };
        if self.all.insert(watch.clone()) {
            self.order.push_back(watch);
        }
        if self.order.len() > HELD
            && let Some(oldest) = self.order.pop_front()
        {
            self.all.remove(&oldest);
            let _ = self.inotify.watches().remove(oldest);
        }
    }

    /// Forgets the watches of files that were deleted, and of filesystems that were unmounted.
    fn forget_gone(&mut self) {
        let mut buffer = [0; 4096];
        loop {
            match self.inotify.read_events(&mut buffer) {
                Ok(events) => {
                    for event in events.filter(|event| event.mask.contains(EventMask::IGNORED)) {
                        if self.all.remove(&event.wd) {
                            self.order.retain(|watch| *watch != event.wd);
                        }
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skills_take_turns() {
        let wanted = |skill: u32, ino: u64| Wanted {
            skill: SkillId(skill),
            pids: [1, 1],
            object: ObjectId { ino, ..ObjectId::default() },
            path: format!("/{skill}/{ino}").into(),
        };
        let mut waiting = Waiting::default();
        for ino in 0..1000 {
            waiting.add(wanted(1, ino));
            waiting.add(wanted(1, 0));
        }
        waiting.add(wanted(2, 0));
        assert_eq!(waiting.0[&SkillId(1)].len(), QUEUE_OF_SKILL);
        assert_eq!(waiting.round().len(), 2);
        for _ in 1..QUEUE_OF_SKILL {
            assert_eq!(waiting.round().len(), 1);
        }
        assert!(waiting.0.is_empty() && waiting.round().is_empty());
    }

    #[test]
    fn so_many_are_held_and_the_deleted_are_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut held = Held::new().expect("inotify");
        let file = |name: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, name).expect("written");
            File::open(path).expect("opened")
        };
        let (one, two) = (file("one"), file("two"));
        held.add(&one);
        held.add(&two);
        held.add(&one);
        assert_eq!((held.order.len(), held.all.len()), (2, 2));
        drop(one);
        std::fs::remove_file(dir.path().join("one")).expect("removed");
        held.add(&two);
        assert_eq!((held.order.len(), held.all.len()), (1, 1));
    }
}
