//! Measures in the kernel's place: what the policy names when it is put in force, and what a governed process was refused because nobody
//! had measured it.
//!
//! The kernel keeps a digest with the inode, so the inodes of what was measured are held in memory: by a watch, which keeps the inode
//! and neither its filesystem's mount nor, when it is deleted, its content.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::File,
    io::{self, ErrorKind},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use enforcer_common::{content::answer, ids::ObjectId};
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
/// How many files may wait for being measured. Of those that find no room, the next attempt tells again.
const QUEUE: usize = 256;
/// How often a file is measured that changes meanwhile.
const TRIES: u32 = 3;

/// How often is looked whether the kernel can still be relied on: nothing tells when IMA gets a policy.
pub(super) const CHECK: Duration = Duration::from_secs(30);

/// A file that a governed process was refused.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The process, and the one that started it: the file's path is one of theirs.
    pub pids: [u32; 2],
    /// Which file it is.
    pub object: ObjectId,
    /// Its path.
    pub path: PathBuf,
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
    /// Looks now and then whether IMA has got a policy. What the policy names is measured then; what else runs is refused once.
    pub(super) fn look_who_measures(&mut self) {
        if self.measuring.looked.elapsed() < CHECK {
            return;
        }
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
    /// Begins; what is asked for by the sender is measured from now on, by a thread that carries the label of this one.
    ///
    /// # Errors
    /// When the object has no such map, or there is no thread.
    pub(super) fn begin(kernel: &Kernel) -> Result<(Self, mpsc::SyncSender<Wanted>), LoadError> {
        let held = Held::new();
        if let Err(e) = &held {
            tracing::warn!("files that are measured are not held in memory: {e}");
        }
        let (channel, held) = (Channel::new(kernel)?, Arc::new(Mutex::new(held.ok())));
        let measuring = Self { channel, held, looked: Instant::now() };
        let (wanted, queue) = mpsc::sync_channel(QUEUE);
        let worker = measuring.clone();
        // Without the thread, what is executed for the first time stays refused, which is no reason to enforce nothing.
        if let Err(e) = thread::Builder::new().name("measured".into()).spawn(move || worker.serve(&queue)) {
            tracing::error!("what is executed for the first time is not measured: {e}");
        }
        Ok((measuring, wanted))
    }

    /// Measures what lies at these paths, if it is not measured yet. Takes no longer than the [bounds](measure::LIMITS) say.
    pub(super) fn measure(&self, mut paths: Vec<PathBuf>) {
        paths.sort_unstable();
        paths.dedup();
        let measuring = self.clone();
        let work = move |path: &Path, piece: &mut dyn FnMut(usize)| measuring.one(path, None, piece);
        for (path, outcome) in measure::each(paths, work) {
            match outcome {
                Ok(true) => {}
                Ok(false) => tracing::warn!("{} cannot be measured where it lies: it is refused", path.display()),
                // What has gone since the policy was loaded, nobody executes.
                Err(e @ HashError::Open(_)) => tracing::debug!("{e}"),
                Err(e) => tracing::warn!("{e}: it is refused until it is measured"),
            }
        }
    }

    /// Measures what was asked for until nobody can ask any more.
    fn serve(&self, queue: &mpsc::Receiver<Wanted>) {
        while let Ok(first) = queue.recv() {
            // One attempt after another at the same file is one question.
            let wanted: HashMap<PathBuf, Wanted> =
                std::iter::once(first).chain(queue.try_iter()).map(|wanted| (wanted.path.clone(), wanted)).collect();
            let paths = wanted.keys().cloned().collect();
            let (measuring, wanted) = (self.clone(), Arc::new(wanted));
            let work = move |path: &Path, piece: &mut dyn FnMut(usize)| match wanted.get(path) {
                Some(wanted) => measuring.wanted(wanted, piece),
                None => Ok(false),
            };
            for (path, outcome) in measure::each(paths, work) {
                match outcome {
                    Ok(true) => tracing::debug!("{} was measured", path.display()),
                    Ok(false) => tracing::debug!("{} was not found, or cannot be measured", path.display()),
                    Err(e) => tracing::warn!("{e}: it is refused until it is measured"),
                }
            }
        }
    }

    /// Measures a file that a process was refused, if it is found where the process has it.
    fn wanted(&self, wanted: &Wanted, piece: &mut dyn FnMut(usize)) -> Result<bool, HashError> {
        let [own, parents] = wanted.pids.map(|pid| PathBuf::from(format!("/proc/{pid}/root")));
        let below = wanted.path.strip_prefix("/").unwrap_or(&wanted.path);
        // A process that could not execute it has often ended by now; its parent mostly has the same files, and so has the host.
        for root in [own, parents, PathBuf::from("/")] {
            let path = root.join(below);
            // Nothing is opened but what is then looked at: a process may put a device there.
            let Ok(fd) = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
            match self.one(&by_descriptor(&fd), Some(wanted.object), piece) {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(e) => return Err(e.at(&wanted.path)),
            }
        }
        Ok(false)
    }

    /// Measures what lies at a path, and has the digest kept; true when it is. `object` says which file it has to be.
    fn one(&self, path: &Path, object: Option<ObjectId>, piece: &mut dyn FnMut(usize)) -> Result<bool, HashError> {
        let failed = |e: ResolveError| HashError::Read { path: path.to_owned(), source: io::Error::other(e) };
        for _ in 0..TRIES {
            // Opened anew each time: what lies below an overlay is noted then.
            let (file, _) = hash::open_regular(path)?;
            let asked = self.channel.ask(&file).map_err(failed)?;
            if object.is_some_and(|object| object != asked.object) {
                return Ok(false);
            }
            let kept = asked.answer == answer::KEPT || {
                if asked.version == 0 {
                    return Ok(false);
                }
                let digest = hash::sha256_open(path, &file, piece)?;
                self.channel.tell(&file, asked.version, digest).map_err(failed)?
            };
            if kept {
                self.hold(&file);
                return Ok(true);
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
