//! Where events go: standard output, a file, syslog, the journal.
//!
//! Each sink is a thread with a bounded queue of its own (a listener of the [`Stream`]): one that is full, closed or blocked
//! slows neither enforcement nor another sink. What it loses is counted; the count stands in `enforcer status`, the stream is told
//! when a sink begins to lose, and the sink itself gets a `drop` record as soon as it takes one again.

mod file;
mod journal;
mod spec;
mod syslog;

use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc::Receiver,
    time::timeout,
};

pub use self::spec::{FileSpec, Spec, SpecError, check};
use super::{
    Record, enrich,
    ledger::Given,
    record::Lost,
    stream::{Losses, Records, Stream, TOO_SLOW},
    text::Format,
};

/// How long the sinks may take to write what is waiting when the daemon ends.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Makes files Enforcer's own, whatever they are called from then on: those of the sink at a path, with the names that events give
/// them, instead of those of before. The answer says when they are, or why not.
pub type Guard = Box<dyn Fn(PathBuf, Vec<(PathBuf, OwnedFd)>) -> mpsc::Receiver<Result<(), String>> + Send>;

/// Takes records, one after another. An error means that this record is not there, not even in part.
trait Sink: Send {
    /// Writes one record.
    fn write(&mut self, record: &Record) -> io::Result<()>;

    /// Sees to it that what was written stays, if it is time. Returns how long it may wait to be asked again, if it must be; it is
    /// asked after each record, too.
    fn settle(&mut self) -> io::Result<Option<Duration>> {
        Ok(None)
    }

    /// From now on, what it makes is to be made Enforcer's own before others can reach it.
    fn guarded_by(&mut self, _guard: Guard) {}
}

/// What has become of a sink's records.
#[derive(Debug)]
pub struct SinkState {
    name: String,
    written: AtomicU64,
    /// Those that it was given and did not take.
    lost: AtomicU64,
    /// Those that it was never given, because it was not done with those before.
    missed: OnceLock<Arc<Losses>>,
    error: Mutex<Option<String>>,
}

/// The same for `enforcer status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SinkStatus {
    /// As it was asked for.
    pub sink: String,
    /// How many records it has.
    pub written: u64,
    /// How many it was to have and has not.
    pub lost: u64,
    /// Why it takes none now; absent when it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SinkState {
    fn new(name: String) -> Self {
        let (written, lost) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { name, written, lost, missed: OnceLock::new(), error: Mutex::default() }
    }

    fn set_error(&self, error: Option<String>) -> bool {
        let mut now = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let began = now.is_none() && error.is_some();
        *now = error;
        began
    }

    /// What has become of its records so far.
    #[must_use]
    pub fn status(&self) -> SinkStatus {
        let missed = self.missed.get();
        let slow = || missed.is_some_and(|missed| missed.is_losing()).then(|| TOO_SLOW.to_owned());
        SinkStatus {
            sink: self.name.clone(),
            written: self.written.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed) + missed.map_or(0, |missed| missed.count()),
            error: self.error.lock().unwrap_or_else(PoisonError::into_inner).clone().or_else(slow),
        }
    }
}

/// Sinks that take nothing yet.
pub struct Opened(Vec<(Box<dyn Sink>, Arc<SinkState>)>);

impl Opened {
    /// Lets every sink have what it makes guarded.
    #[must_use]
    pub fn guarded_by(mut self, guard: impl Fn() -> Guard) -> Self {
        for (sink, _) in &mut self.0 {
            sink.guarded_by(guard());
        }
        self
    }

    /// Lets every sink take records: those of `records`, one after another, and when there are no more, those that the stream has from
    /// now on and those that it keeps.
    ///
    /// # Errors
    /// When there is no thread, or no timer for it.
    pub fn start(self, stream: &Stream, records: Vec<Records>) -> io::Result<Sinks> {
        let mut sinks = Sinks { stream: stream.clone(), states: vec![], threads: vec![] };
        let mut records = records.into_iter();
        for (sink, state) in self.0 {
            sinks.states.push(Arc::clone(&state));
            // Here, so that it has every record.
            let Records { recent, to_come, losses, given } = records.next().unwrap_or_else(|| stream.listen_watched());
            losses.name(state.name.clone());
            // This is the one time that it is set.
            let _ = state.missed.set(losses);
            let driver = Driver::new(sink, state, stream.clone())?;
            let thread = thread::Builder::new().name("sink".into()).spawn(move || driver.run(recent, to_come, given));
            sinks.threads.push(thread?);
        }
        Ok(sinks)
    }
}

/// The running sinks.
pub struct Sinks {
    stream: Stream,
    states: Vec<Arc<SinkState>>,
    threads: Vec<JoinHandle<()>>,
}

impl Sinks {
    /// Opens every sink. `format` is standard output's.
    ///
    /// # Errors
    /// When one cannot be opened, which is named.
    pub fn open(specs: &[Spec], format: Format) -> io::Result<Opened> {
        let mut opened = vec![];
        for spec in specs {
            let named = |e: io::Error| io::Error::new(e.kind(), format!("sink {spec}: {e}"));
            let sink: Box<dyn Sink> = match spec {
                Spec::Stdout => Box::new(Stdout { format, torn: false }),
                Spec::File(spec) => Box::new(file::File::open(spec.clone()).map_err(named)?),
                Spec::Syslog(path) => Box::new(syslog::Syslog::new(path.clone())),
                Spec::Journald(path) => Box::new(journal::Journal::new(path.clone())?),
            };
            opened.push((sink, Arc::new(SinkState::new(spec.to_string()))));
        }
        Ok(Opened(opened))
    }

    /// What becomes of the records.
    #[must_use]
    pub fn states(&self) -> Vec<Arc<SinkState>> {
        self.states.clone()
    }

    /// Lets the sinks write what is waiting, within bounds: one that is blocked is left behind.
    pub fn end(self) {
        self.stream.close();
        let deadline = Instant::now() + END_LIMIT;
        for (thread, state) in self.threads.into_iter().zip(&self.states) {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            if !thread.is_finished() {
                eprintln!("enforcer: sink {} is blocked; what was waiting for it is lost", state.name);
            }
        }
    }
}

/// One sink at work.
struct Driver {
    sink: Box<dyn Sink>,
    state: Arc<SinkState>,
    stream: Stream,
    /// Has the timer.
    runtime: Runtime,
    /// What it took last may not stay.
    unsettled: bool,
}

impl Driver {
    fn new(sink: Box<dyn Sink>, state: Arc<SinkState>, stream: Stream) -> io::Result<Self> {
        Ok(Self {
            sink,
            state,
            stream,
            runtime: Builder::new_current_thread().enable_time().build()?,
            unsettled: false,
        })
    }

    fn run(mut self, recent: Vec<Arc<Record>>, mut records: Receiver<Arc<Record>>, mut given: Option<Given>) {
        // Lost since the sink last took a record. The record that tells the others of it is not given to this one.
        let mut untold = Lost::default();
        let mut recent = recent.into_iter();
        while let Some(record) = recent.next().or_else(|| self.next(&mut records)) {
            self.take(&record, &mut untold, given.as_mut());
        }
    }

    /// The next record. The sink settles what it has, also when none comes.
    fn next(&mut self, records: &mut Receiver<Arc<Record>>) -> Option<Arc<Record>> {
        loop {
            let settled = self.sink.settle();
            match settled {
                Ok(None) => self.unsettled = false,
                Ok(Some(_)) => {}
                Err(_) => self.unsettled = true,
            }
            let again = settled.unwrap_or_else(|e| {
                self.fails(&e);
                None
            });
            let Some(wait) = again else { return records.blocking_recv() };
            if let Ok(record) = self.runtime.block_on(async { timeout(wait, records.recv()).await }) {
                return record;
            }
        }
    }

    /// It takes events no more, or what it has taken may not stay. The others are told when that begins.
    fn fails(&self, e: &io::Error) {
        if self.state.set_error(Some(e.to_string())) {
            tracing::warn!("sink {} loses events: {e}", self.state.name);
            // Once, when it begins: the others have it then, also while this one has no more room.
            let what = enrich::own("drop", format!("sink {} loses events: {e}", self.state.name));
            self.stream.publish_but(what, &self.state.name);
        }
    }

    /// Gives the sink a record, and before it what it lost. `given` counts what it has or was told of: what it lost and was not told
    /// of yet, the daemon that comes next tells.
    fn take(&mut self, record: &Record, untold: &mut Lost, mut given: Option<&mut Given>) {
        let mut outcome = Ok(());
        if untold.all > 0 {
            let tell = enrich::lost_records(*untold, &format!("were not taken by sink {}", self.state.name));
            outcome = self.sink.write(&tell);
            if outcome.is_ok() {
                *untold = Lost::default();
                if let Some(given) = &mut given {
                    given.count(&tell);
                }
            }
        }
        match outcome.and_then(|()| self.sink.write(record)) {
            Ok(()) => {
                if let Some(given) = given {
                    given.count(record);
                }
                self.state.written.fetch_add(1, Ordering::Relaxed);
                if !self.unsettled {
                    self.state.set_error(None);
                }
            }
            Err(e) => {
                *untold += record.stands_for();
                self.state.lost.fetch_add(1, Ordering::Relaxed);
                self.fails(&e);
            }
        }
    }
}

/// Standard output.
struct Stdout {
    format: Format,
    /// A line may have been written in part.
    torn: bool,
}

impl Sink for Stdout {
    fn write(&mut self, record: &Record) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let line = format!("{}{}\n", if self.torn { "\n" } else { "" }, self.format.line(record));
        self.torn = true;
        out.write_all(line.as_bytes())?;
        out.flush()?;
        self.torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
