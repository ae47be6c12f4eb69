//! A storm beside the tests: the daemon is killed and started again, and its policy reloaded, at moments that nobody chose.

use std::{
    fs,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;

use super::{daemon::Daemon, random::Random};

/// The longest calm between two events of the storm, in milliseconds.
const CALM_MS: u64 = 2000;
/// How long nobody is there after a kill, at most, in milliseconds.
const ABSENCE_MS: u64 = 500;
/// How often a test that failed without showing that an attack got through is tried: it may have asked for the daemon when none was
/// there, or for an event that a daemon took along.
pub(super) const TRIES: u32 = 5;

/// Whether there is one.
static BLOWS: AtomicBool = AtomicBool::new(false);

/// Whether a storm goes on.
pub(super) fn blows() -> bool {
    BLOWS.load(Ordering::Relaxed)
}

/// What it did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) kills: u64,
    pub(super) reloads: u64,
}

/// The storm; it ends when this is dropped.
pub(super) struct Gale {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Gale {
    /// Lets it begin on a daemon.
    pub(super) fn begin(daemon: Arc<Mutex<Option<Daemon>>>) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Counts::default())));
        BLOWS.store(true, Ordering::Relaxed);
        let (ends, counted) = (Arc::clone(&stop), Arc::clone(&counts));
        let thread = thread::spawn(move || blow(&ends, &counted, &daemon));
        Self { stop, counts, thread: Some(thread) }
    }

    /// What it has done so far.
    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the daemon did not come back, or refused a policy that it had taken before.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        BLOWS.store(false, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().map_err(|_| anyhow::anyhow!("the storm panicked"))?
    }
}

impl Drop for Gale {
    fn drop(&mut self) {
        // Whoever wants to know why has asked.
        let _ = self.end();
    }
}

fn blow(stop: &AtomicBool, counts: &Mutex<Counts>, daemon: &Mutex<Option<Daemon>>) -> anyhow::Result<()> {
    let mut random = Random::seeded();
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(random.below(CALM_MS)));
        let mut daemon = daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(daemon) = daemon.as_mut() else { continue };
        let kills = random.below(2) == 0;
        if kills {
            daemon.kill()?;
            // The attacks go on.
            thread::sleep(Duration::from_millis(random.below(ABSENCE_MS)));
            daemon.restart().context("after a kill")?;
        } else {
            let text = fs::read_to_string(daemon.policy()).context("the policy")?;
            daemon.reload(&text).context("once more")?;
        }
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.kills += u64::from(kills);
        counts.reloads += u64::from(!kills);
    }
    Ok(())
}
