//! Questions about paths that may never be answered, as on a dead network mount: asked on a thread that can be left behind.
//!
//! A system call that waits for such a filesystem cannot be called back. Its thread is left where it is, and until it
//! returns, nothing at that path or below it is asked again: one thread waits, not one for every question.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// How long an answer is waited for.
const LIMIT: Duration = Duration::from_secs(5);
/// How many threads may wait for ever.
const LEFT_BEHIND: usize = 32;

/// There was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no answer within {} s; is its filesystem still there?", LIMIT.as_secs())]
pub struct Silent;

type Job = Box<dyn FnOnce() + Send>;

/// Asks, one question after another.
pub struct Asker {
    limit: Duration,
    worker: Option<mpsc::Sender<Job>>,
    threads: Arc<AtomicUsize>,
    silent: Vec<Waiting>,
}

/// A question that waits for its answer still.
struct Waiting {
    path: PathBuf,
    answered: Arc<AtomicBool>,
}

impl Default for Asker {
    fn default() -> Self {
        Self { limit: LIMIT, worker: None, threads: Arc::default(), silent: vec![] }
    }
}

impl Asker {
    /// Does `work`, which is about `path`, on the asker's thread. A thread inherits the label of the one that asks first.
    ///
    /// # Errors
    /// When there is no answer in time, or a question about this path or one above it waits already.
    pub fn ask<T: Send + 'static>(
        &mut self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Silent> {
        self.silent.retain(|waiting| !waiting.answered.load(Ordering::Acquire));
        if self.silent.iter().any(|waiting| path.starts_with(&waiting.path)) {
            return Err(Silent);
        }
        let (say, hear) = mpsc::channel();
        let answered = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&answered);
        let job: Job = Box::new(move || {
            let answer = work();
            done.store(true, Ordering::Release);
            // Who asked may not wait any more.
            let _ = say.send(answer);
        });
        let worker = match self.worker.take() {
            Some(worker) => worker,
            None => self.start().ok_or(Silent)?,
        };
        worker.send(job).map_err(|_| Silent)?;
        let Ok(answer) = hear.recv_timeout(self.limit) else {
            self.silent.push(Waiting { path: path.to_owned(), answered });
            return Err(Silent);
        };
        self.worker = Some(worker);
        Ok(answer)
    }

    fn start(&self) -> Option<mpsc::Sender<Job>> {
        if self.threads.load(Ordering::Relaxed) > LEFT_BEHIND {
            return None;
        }
        let (sender, jobs) = mpsc::channel::<Job>();
        let threads = Arc::clone(&self.threads);
        let worker = move || {
            for job in jobs {
                job();
            }
            threads.fetch_sub(1, Ordering::Relaxed);
        };
        self.threads.fetch_add(1, Ordering::Relaxed);
        if thread::Builder::new().name("ask".into()).spawn(worker).is_err() {
            self.threads.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(sender)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn impatient() -> Asker {
        Asker { limit: Duration::from_millis(200), ..Asker::default() }
    }

    #[test]
    fn what_does_not_answer_is_left_alone_until_it_does() {
        let mut asker = impatient();
        let dead = Path::new("/dead");
        let (revive, wait) = mpsc::channel::<()>();
        assert_eq!(asker.ask(Path::new("/a"), || 1), Ok(1));
        assert_eq!(asker.ask(dead, move || wait.recv().is_ok()), Err(Silent));
        // Nobody is asked at or below it, and others are, with names that only begin like it, too.
        assert_eq!(asker.ask(&dead.join("below"), || unreachable!("nobody asks")), Err::<(), _>(Silent));
        assert_eq!(asker.ask(Path::new("/deadline"), || 2), Ok(2));
        revive.send(()).expect("somebody waits");
        while asker.ask(dead, || 3) != Ok(3) {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(asker.ask(&dead.join("below"), || 4), Ok(4));
    }

    #[test]
    fn threads_are_bounded() {
        let mut asker = Asker { limit: Duration::from_millis(1), ..Asker::default() };
        let (revive, wait) = mpsc::channel::<()>();
        let wait = Arc::new(std::sync::Mutex::new(wait));
        for n in 0..2 * LEFT_BEHIND {
            let wait = Arc::clone(&wait);
            let answer = asker.ask(Path::new(&format!("/{n}")), move || {
                let _ = wait.lock().map(|wait| wait.recv());
            });
            assert_eq!(answer, Err(Silent));
        }
        assert!(asker.threads.load(Ordering::Relaxed) <= LEFT_BEHIND + 1);
        drop(revive);
        asker.limit = Duration::from_secs(20);
        while asker.ask(Path::new("/alive"), || ()).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
    }
}
