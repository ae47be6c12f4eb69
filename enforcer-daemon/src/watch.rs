//! What lies at the policy's paths comes, goes and is replaced: the kernel tells, and the policy is resolved again.
//!
//! Every directory on the way to a path is watched for changes of the name that leads on (inotify), and the mount table for
//! changes of mounts (`POLLPRI` on mountinfo). Nothing is polled.

use std::{
    collections::{BTreeSet, HashMap},
    ffi::OsString,
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    time::Duration,
};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::sleep,
};

use crate::{ask::Asker, engine::Engine};

/// How long changes are gathered before the policy is resolved again: a tool that makes a tree makes many at once.
const GATHER: Duration = Duration::from_millis(5);
/// How many bytes of events are read at once.
const BUFFER: usize = 16 * 1024;

/// The directories that are watched, and which names matter in each.
pub(crate) struct Watches {
    inotify: Inotify,
    /// A descriptor of its own for waiting: `Inotify` keeps the other.
    waker: AsyncFd<OwnedFd>,
    /// What is watched for beside that names come and go.
    more: WatchMask,
    names: HashMap<WatchDescriptor, BTreeSet<OsString>>,
    asker: Asker,
}

impl Watches {
    /// Watches nothing yet. Must be called within a tokio runtime.
    pub(crate) fn new(more: WatchMask) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let waker = inotify.as_fd().try_clone_to_owned()?;
        // SAFETY: it owns its descriptor, which stays the same and open as long as it lives.
        let waker = unsafe { AsyncFd::register_with_interest(waker, Interest::READABLE) }?;
        Ok(Self { inotify, waker, more, names: HashMap::new(), asker: Asker::default() })
    }

    /// Waits until there is something to [`drain`](Self::drain).
    pub(crate) async fn ready(&self) -> io::Result<()> {
        self.waker.readable().await?.clear_ready();
        Ok(())
    }

    /// Watches the way to each path; returns whether a directory is watched that was not before.
    pub(crate) fn set(&mut self, paths: &BTreeSet<PathBuf>) -> bool {
        let mut wanted: HashMap<PathBuf, BTreeSet<OsString>> = HashMap::new();
        for path in paths {
            let asked = path.clone();
            let real = match self.asker.ask(path, move || asked.canonicalize().ok()) {
                Ok(real) => real,
                Err(e) => {
                    tracing::warn!("{}: {e}; changes there are not noticed until mounts change", path.display());
                    continue;
                }
            };
            // As it is written, and as it is: a directory that a symlink leads to can be renamed, too.
            for way in [Some(path.clone()), real].into_iter().flatten() {
                for step in way.ancestors() {
                    if let (Some(parent), Some(name)) = (step.parent(), step.file_name()) {
                        wanted.entry(parent.to_owned()).or_default().insert(name.to_owned());
                    }
                }
            }
        }
        let mask = WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR
            | self.more;
        let mut fresh = false;
        let mut names: HashMap<WatchDescriptor, BTreeSet<OsString>> = HashMap::new();
        for (dir, interesting) in wanted {
            // What does not exist is not watched; the directory above it is.
            match self.inotify.watches().add(&dir, mask) {
                Ok(descriptor) => {
                    // By the directory, not by its path: another one may lie there now, and two ways may lead to one, of which the
                    // names of both matter.
                    fresh |= !self.names.contains_key(&descriptor);
                    names.entry(descriptor).or_default().extend(interesting);
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound || e.kind() == io::ErrorKind::NotADirectory => {}
                Err(e) => tracing::error!("cannot watch {}: {e}; a change there is not noticed", dir.display()),
            }
        }
        for (descriptor, _) in self.names.drain().filter(|(d, _)| !names.contains_key(d)) {
            // A directory that has gone took its watch along.
            let _ = self.inotify.watches().remove(descriptor);
        }
        self.names = names;
        fresh
    }

    /// Reads what has happened; true when it may concern a path.
    pub(crate) fn drain(&mut self) -> io::Result<bool> {
        let mut buffer = [0; BUFFER];
        let mut concerned = false;
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(concerned),
                Err(e) => return Err(e),
            };
            for event in events {
                let itself = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::Q_OVERFLOW | EventMask::IGNORED;
                let named =
                    self.names.get(&event.wd).is_some_and(|names| event.name.is_some_and(|name| names.contains(name)));
                concerned |= named || event.mask.intersects(itself);
            }
        }
    }
}

/// Watches until the engine ends.
///
/// # Errors
/// When the kernel gives no watches.
pub async fn run(engine: Engine) -> io::Result<()> {
    let mut watches = Watches::new(WatchMask::empty())?;
    let mountinfo = File::open("/proc/self/mountinfo")?;
    // SAFETY: it owns its descriptor, which stays the same and open as long as it lives.
    let mounts = unsafe { AsyncFd::register_with_interest(mountinfo, Interest::PRIORITY) }?;
    let mut paths = engine.watched();
    loop {
        let wanted = paths.borrow_and_update().clone();
        // What changed before a directory was watched was not seen: look once more when one is new.
        let mut concerned = watches.set(&wanted);
        if !concerned {
            tokio::select! {
                changed = paths.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    continue;
                }
                outcome = watches.ready() => {
                    outcome?;
                    sleep(GATHER).await;
                    concerned = watches.drain()?;
                }
                guard = mounts.ready(Interest::PRIORITY) => {
                    guard?.clear_ready();
                    concerned = !wanted.is_empty();
                }
            }
        }
        if concerned {
            match engine.refresh().await {
                None => return Ok(()),
                Some(Ok(true)) => tracing::info!("the policy's paths were resolved again"),
                Some(Ok(false)) => {}
                Some(Err(e)) => tracing::error!("the policy's paths could not be resolved again: {e}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_that_two_ways_lead_to_is_new_once() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("real"))?;
        std::os::unix::fs::symlink("real", at("link"))?;
        let mut watches = Watches::new(WatchMask::empty())?;
        let paths = BTreeSet::from(["link/a", "real/b"].map(at));
        assert!(watches.set(&paths));
        assert!(!watches.set(&paths), "nothing is watched that was not before");
        for name in ["link/b", "real/a"] {
            std::fs::write(at(name), "")?;
            watches.ready().await?;
            assert!(watches.drain()?, "{name} is one that matters, by whichever way");
        }
        // Another directory at the same path.
        std::fs::rename(at("real"), at("gone"))?;
        std::fs::create_dir(at("real"))?;
        assert!(watches.set(&paths));
        Ok(())
    }
}
