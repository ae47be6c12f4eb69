//! Many files' digests at once: in parallel, each file read once, and none waited for that does not answer.
//!
//! A thread that opens or reads a file on a dead mount cannot be called back. It is left behind and another takes its place,
//! up to a number; after that, what is left of the list is given up. So a list ends in bounded time whatever lies at
//! its paths: [`LIMITS`] says how long.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::hash::{self, HashError, OpenError};
use crate::manifest::Digest;

/// How long is waited, and with how many threads.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a file may give nothing before it is given up.
    pub silence: Duration,
    /// How many threads may be left behind in files that were given up.
    pub left_behind: usize,
    /// How many files are read at a time.
    pub workers: usize,
}

/// A file that gives nothing for 10 s is given up, and so is the rest of the list when 16 did.
pub const LIMITS: Limits = Limits { silence: Duration::from_secs(10), left_behind: 16, workers: 8 };

/// How often files that do not answer are looked for.
const TICK: Duration = Duration::from_millis(100);

/// What came of each path.
pub type Measured = HashMap<PathBuf, Result<Digest, Arc<HashError>>>;

/// How far a list is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files that are done.
    pub done: usize,
    /// All of them.
    pub total: usize,
    /// Bytes that were read.
    pub bytes: u64,
}

/// The digests of files, by path. `tell` hears every now and then how far it is.
#[must_use]
pub fn files(paths: &[PathBuf], mut tell: impl FnMut(Progress)) -> Measured {
    let distinct: BTreeSet<&PathBuf> = paths.iter().collect();
    let looked_at = all(distinct.into_iter().cloned().collect(), LIMITS, &mut |_| {}, |path, _| identity(path));
    // One file may have many names; what was written to it meanwhile makes it another.
    let mut by_file: HashMap<Identity, Vec<PathBuf>> = HashMap::new();
    let mut measured = Measured::new();
    for (path, identity) in looked_at {
        match identity {
            Ok(identity) => by_file.entry(identity).or_default().push(path),
            Err(error) => {
                measured.insert(path, Err(Arc::new(error)));
            }
        }
    }
    let names: HashMap<PathBuf, Vec<PathBuf>> =
        by_file.into_values().filter_map(|names| Some((names.first()?.clone(), names))).collect();
    let once: Vec<PathBuf> = names.keys().cloned().collect();
    for (path, outcome) in
        all(once, LIMITS, &mut tell, |path, pulse| hash::sha256_file_with(path, &mut |bytes| pulse.beat(bytes)))
    {
        let outcome = outcome.map_err(Arc::new);
        for name in names.get(&path).into_iter().flatten() {
            measured.insert(name.clone(), outcome.clone());
        }
    }
    measured
}

/// The paths at which nothing is found, with the reason.
#[must_use]
pub fn missing(paths: &[PathBuf]) -> HashMap<PathBuf, HashError> {
    let distinct: BTreeSet<&PathBuf> = paths.iter().collect();
    let looked_at = all(distinct.into_iter().cloned().collect(), LIMITS, &mut |_| {}, |path, _| identity(path));
    looked_at.into_iter().filter_map(|(path, outcome)| Some((path, outcome.err()?))).collect()
}

/// Does `work` for each path, none of which is in the list twice, within the same bounds. `work` tells of each piece that it has read.
pub(crate) fn each<T: Send + 'static>(
    paths: Vec<PathBuf>,
    work: impl Fn(&Path, &mut dyn FnMut(usize)) -> Result<T, HashError> + Clone + Send + 'static,
) -> Vec<(PathBuf, Result<T, HashError>)> {
    all(paths, LIMITS, &mut |_| {}, move |path, pulse| work(path, &mut |bytes| pulse.beat(bytes)))
}

/// Device, inode number, size and times: what two names of one file have in common.
type Identity = (u64, u64, u64, (i64, i64), (i64, i64));

fn identity(path: &Path) -> Result<Identity, HashError> {
    let meta = path.metadata().map_err(|source| OpenError::Io { path: path.to_owned(), source })?;
    Ok((meta.dev(), meta.ino(), meta.size(), (meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec())))
}

/// A sign of life of one file.
struct Pulse {
    start: Instant,
    /// When it was last heard of, in milliseconds from `start`.
    last: AtomicU64,
    bytes: Arc<AtomicU64>,
}

impl Pulse {
    fn beat(&self, bytes: usize) {
        self.last.store(milliseconds(self.start.elapsed()), Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn silent_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What a worker says.
enum Said<T> {
    /// It begins with this path.
    Begins(PathBuf, Arc<Pulse>),
    /// It is done with this path.
    Done(PathBuf, Result<T, HashError>),
}

type Queue = Arc<Mutex<std::vec::IntoIter<PathBuf>>>;

/// Does `work` for each path, on threads of their own.
fn all<T: Send + 'static>(
    paths: Vec<PathBuf>,
    limits: Limits,
    tell: &mut dyn FnMut(Progress),
    work: impl Fn(&Path, &Pulse) -> Result<T, HashError> + Clone + Send + 'static,
) -> Vec<(PathBuf, Result<T, HashError>)> {
    let total = paths.len();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut workers = cores.min(limits.workers).min(total);
    let queue: Queue = Arc::new(Mutex::new(paths.into_iter()));
    let bytes = Arc::new(AtomicU64::new(0));
    let (say, hear) = mpsc::channel();
    let start = |say: mpsc::Sender<Said<T>>| {
        let (queue, bytes, work) = (Arc::clone(&queue), Arc::clone(&bytes), work.clone());
        let worker = move || {
            while let Some(path) = next(&queue) {
                let pulse = Pulse { start: Instant::now(), last: AtomicU64::new(0), bytes: Arc::clone(&bytes) };
                let pulse = Arc::new(pulse);
                if say.send(Said::Begins(path.clone(), Arc::clone(&pulse))).is_err() {
                    return;
                }
                let outcome = work(&path, &pulse);
                if say.send(Said::Done(path, outcome)).is_err() {
                    return;
                }
            }
        };
        // Without a thread, the work is done by those that there are; without any, what is left is given up below.
        thread::Builder::new().name("measure".into()).spawn(worker).is_ok()
    };
    workers = (0..workers).filter(|_| start(say.clone())).count();
    let mut left_behind = 0;
    let mut running: HashMap<PathBuf, Arc<Pulse>> = HashMap::new();
    let mut found = Vec::with_capacity(total);
    let silent = |path: PathBuf| {
        let seconds = limits.silence.as_secs();
        (path.clone(), Err(HashError::Silent { path, seconds }))
    };
    while found.len() < total {
        match hear.recv_timeout(TICK) {
            Ok(Said::Begins(path, pulse)) => {
                running.insert(path, pulse);
            }
            // Of a file that was given up, the late answer is not waited for any more.
            Ok(Said::Done(path, outcome)) if running.remove(&path).is_some() => found.push((path, outcome)),
            Ok(Said::Done(..)) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
        let given_up: Vec<PathBuf> = running
            .iter()
            .filter(|(_, pulse)| pulse.silent_for() > limits.silence)
            .map(|(path, _)| path.clone())
            .collect();
        for path in given_up {
            running.remove(&path);
            found.push(silent(path));
            left_behind += 1;
            if left_behind > limits.left_behind || !start(say.clone()) {
                workers = workers.saturating_sub(1);
            }
        }
        if workers == 0 {
            while let Some(path) = next(&queue) {
                found.push(silent(path));
            }
        }
        tell(Progress { done: found.len(), total, bytes: bytes.load(Ordering::Relaxed) });
    }
    found
}

fn next(queue: &Queue) -> Option<PathBuf> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).next()
}

/// Shows how far a long list is: on a terminal in one line of standard error, else in the log.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Default for Meter {
    fn default() -> Self {
        Self { start: Instant::now(), shown: None, terminal: io::stderr().is_terminal() }
    }
}

impl Meter {
    /// What takes no longer than this is not worth a word.
    const PATIENCE: Duration = Duration::from_secs(1);

    /// Shows it, if it is time.
    pub fn show(&mut self, progress: Progress) {
        let (every, ends) =
            (Duration::from_millis(if self.terminal { 200 } else { 5000 }), progress.done == progress.total);
        let is_time = self.shown.map_or(self.start.elapsed() > Self::PATIENCE, |shown| ends || shown.elapsed() > every);
        if !is_time {
            return;
        }
        self.shown = Some(Instant::now());
        let text = format!("measured {} of {} files, {} MiB", progress.done, progress.total, progress.bytes >> 20);
        if self.terminal {
            eprint!("\r{text}{}", if ends { "\n" } else { "" });
        } else {
            tracing::info!("{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMPATIENT: Limits = Limits { silence: Duration::from_millis(900), left_behind: 1, workers: 2 };

    #[test]
    fn a_list_is_measured_whatever_lies_at_its_paths() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), "abc").expect("written");
        std::fs::write(at("empty"), "").expect("written");
        std::fs::hard_link(at("a"), at("b")).expect("linked");
        std::os::unix::fs::symlink("a", at("c")).expect("linked");
        let paths: Vec<PathBuf> = ["a", "b", "c", "empty", "missing", "."].map(at).into();
        let mut last = Progress::default();
        let measured = files(&paths, |progress| last = progress);
        let digest = |name: &str| measured[&at(name)].as_ref().map(ToString::to_string).map_err(ToString::to_string);
        let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for name in ["a", "b", "c"] {
            assert_eq!(digest(name).as_deref(), Ok(abc));
        }
        assert!(digest("empty").expect("measured").starts_with("sha256:e3b0c442"));
        assert!(digest("missing").is_err() && digest(".").expect_err("refused").contains("a directory"));
        // Three names, one reading.
        assert_eq!(last, Progress { done: 3, total: 3, bytes: 3 });
    }

    /// Answers for what is alive, in small pieces for what is slow, and not at all for what is dead.
    fn look(path: &Path, pulse: &Pulse) -> Result<u8, HashError> {
        match path.parent().and_then(Path::to_str) {
            Some("/alive") => Ok(1),
            Some("/slow") => {
                for _ in 0..20 {
                    thread::sleep(Duration::from_millis(50));
                    pulse.beat(1);
                }
                Ok(1)
            }
            _ => {
                thread::sleep(Duration::from_mins(1));
                Err(HashError::Changed { path: path.to_owned() })
            }
        }
    }

    #[test]
    fn a_file_that_does_not_answer_is_given_up_and_the_others_are_not() {
        let start = Instant::now();
        let paths = ["/dead/1", "/alive/1", "/slow/1", "/alive/2"].map(PathBuf::from);
        let found = all(paths.to_vec(), IMPATIENT, &mut |_| {}, look);
        assert_eq!(found.len(), 4);
        for (path, outcome) in found {
            assert_eq!(outcome.is_ok(), !path.starts_with("/dead"), "{}: {outcome:?}", path.display());
        }
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_list_on_a_dead_mount_ends() {
        let start = Instant::now();
        let paths: Vec<PathBuf> = (0..1000).map(|n| PathBuf::from(format!("/dead/{n}"))).collect();
        let found = all(paths, IMPATIENT, &mut |_| {}, look);
        let is_silent = |outcome: &Result<u8, HashError>| matches!(outcome, Err(HashError::Silent { .. }));
        assert!(found.len() == 1000 && found.iter().all(|(_, outcome)| is_silent(outcome)));
        assert!(start.elapsed() < Duration::from_secs(30));
    }
}
