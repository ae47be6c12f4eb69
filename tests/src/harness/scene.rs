//! What one suite plays on: the daemon with its policy, scratch directories, and workers by skill.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, ensure};

use super::{
    breach::Breach,
    daemon::{Daemon, Lent},
    events::{Event, Events, Mark},
    files::Mount,
    gale::Gale,
    runner::Suite,
    worker::{Entry, Outcome, Worker},
};

/// Where the suite works: a tmpfs in the guest.
const ROOT: &str = "/tmp/enforcer-tests";

/// What outlives a suite: starting a daemon takes seconds, a reload does not.
pub(crate) struct Stage {
    root: PathBuf,
    daemon: Arc<Mutex<Option<Daemon>>>,
    scenes: usize,
}

impl Default for Stage {
    fn default() -> Self {
        Self { root: ROOT.into(), daemon: Arc::default(), scenes: 0 }
    }
}

impl Stage {
    /// One below this directory, with the daemon that runs already, if there is one.
    pub(crate) fn at(root: &Path, lent: Option<Lent>) -> anyhow::Result<Self> {
        let daemon = lent.map(|lent| Daemon::lent(&root.join("daemon"), lent)).transpose()?;
        Ok(Self { root: root.to_owned(), daemon: Arc::new(Mutex::new(daemon)), scenes: 0 })
    }

    /// Sets the scene of a suite.
    pub(crate) fn set(&mut self, suite: &Suite) -> anyhow::Result<Arc<Scene>> {
        self.scenes += 1;
        let dir = self.root.join(format!("{}-{}", suite.name, self.scenes));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let mut daemon = lock(&self.daemon);
        let scene = Scene {
            dir,
            events: Mutex::default(),
            daemon: Arc::clone(&self.daemon),
            workers: Mutex::default(),
            mounts: Mutex::default(),
        };
        let Some(policy) = suite.policy else {
            *daemon = None;
            return Ok(Arc::new(scene));
        };
        let manifest = policy(&scene).context("the policy")?;
        let reloaded = match daemon.as_ref() {
            // Somebody else's is not ours to end.
            Some(lent) if lent.is_lent() => lent.reload(&manifest).map(|_| true)?,
            Some(daemon) => daemon.reload(&manifest).is_ok(),
            None => false,
        };
        if !reloaded {
            *daemon = None;
            *daemon = Some(Daemon::start(&self.root.join("daemon"), &manifest)?);
        }
        if let Some(daemon) = daemon.as_ref() {
            *lock(&scene.events) = daemon.events.clone();
        }
        Ok(Arc::new(scene))
    }

    /// Lets the daemon be killed and its policy be reloaded all the time.
    pub(super) fn storm(&self) -> Gale {
        Gale::begin(Arc::clone(&self.daemon))
    }

    /// Puts the policy in force that was there before, where there was one.
    pub(crate) fn give_back(&self) -> anyhow::Result<()> {
        lock(&self.daemon).as_ref().map_or(Ok(()), Daemon::give_back)
    }

    /// Ends the daemon.
    pub(crate) fn clear(&self) {
        *lock(&self.daemon) = None;
    }
}

/// The scene of a suite.
pub(crate) struct Scene {
    /// A directory of its own.
    pub(crate) dir: PathBuf,
    events: Mutex<Events>,
    daemon: Arc<Mutex<Option<Daemon>>>,
    workers: Mutex<HashMap<String, Arc<Worker>>>,
    mounts: Mutex<Vec<Mount>>,
}

impl Scene {
    /// A directory below the scene's, made with its parents.
    pub(crate) fn make_dir(&self, name: &str) -> anyhow::Result<String> {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// A file below the scene's directory, made with its parents; it holds its own name.
    pub(crate) fn make_file(&self, name: &str) -> anyhow::Result<String> {
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, name).with_context(|| path.display().to_string())?;
        Ok(path.to_string_lossy().into_owned())
    }

    /// Keeps these mounted until the scene ends; the last is unmounted first.
    pub(crate) fn keep_mounts(&self, mounts: Vec<Mount>) {
        lock(&self.mounts).extend(mounts);
    }

    /// Asks the daemon something.
    pub(crate) fn daemon<T>(&self, ask: impl FnOnce(&mut Daemon) -> anyhow::Result<T>) -> anyhow::Result<T> {
        ask(lock(&self.daemon).as_mut().context("no daemon runs")?)
    }

    /// The worker of a skill, which came into it by `enforcer run`.
    pub(crate) fn worker(&self, skill: &str) -> anyhow::Result<Arc<Worker>> {
        self.keep(skill, &Entry::Run(skill))
    }

    /// The worker of no skill.
    pub(crate) fn outsider(&self) -> anyhow::Result<Arc<Worker>> {
        self.keep("", &Entry::Outside)
    }

    fn keep(&self, name: &str, entry: &Entry<'_>) -> anyhow::Result<Arc<Worker>> {
        if let Some(worker) = lock(&self.workers).get(name) {
            return Ok(Arc::clone(worker));
        }
        let worker = Arc::new(Worker::start(entry)?);
        lock(&self.workers).insert(name.to_owned(), Arc::clone(&worker));
        Ok(worker)
    }

    /// Lets the worker of `skill` do one act.
    pub(crate) fn act(&self, skill: &str, act: &[&str]) -> anyhow::Result<Outcome> {
        self.worker(skill)?.act(act).with_context(|| act.join(" "))
    }

    /// Lets a worker outside every skill do one act.
    pub(crate) fn outside(&self, act: &[&str]) -> anyhow::Result<Outcome> {
        self.outsider()?.act(act).with_context(|| act.join(" "))
    }

    /// The daemon's events.
    pub(crate) fn events(&self) -> Events {
        lock(&self.events).clone()
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        self.events().mark()
    }

    /// An event since `mark` of this kind and verdict on this path.
    pub(crate) fn event(&self, mark: Mark, kind: &str, verdict: &str, path: &str) -> anyhow::Result<Event> {
        self.events().wait(mark, &format!("{kind} {verdict} {path}"), |e| e.is(kind, verdict, path))
    }

    /// Ends the scene in good order.
    pub(crate) fn close(&self) {
        lock(&self.workers).clear();
        self.unmount();
    }

    /// Ends whatever a test may wait for, and the daemon.
    pub(crate) fn abandon(&self) {
        for (_, worker) in lock(&self.workers).drain() {
            worker.kill();
        }
        self.unmount();
    }

    fn unmount(&self) {
        while let Some(mount) = lock(&self.mounts).pop() {
            drop(mount);
        }
    }
}

/// A file that must still be there.
pub(crate) fn there(path: &str) -> anyhow::Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Err(Breach(format!("{path} is gone")).into());
    }
    Ok(())
}

/// A file that must be gone.
pub(crate) fn gone(path: &str) -> anyhow::Result<()> {
    ensure!(fs::symlink_metadata(path).is_err(), "{path} is still there");
    Ok(())
}

/// A file that must hold this.
pub(crate) fn holds(path: &str, text: &str) -> anyhow::Result<()> {
    let found = fs::read_to_string(path).with_context(|| path.to_owned())?;
    if found != text {
        return Err(Breach(format!("{path} holds {found:?} instead of {text:?}")).into());
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that panicked leaves nothing half-done in here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
