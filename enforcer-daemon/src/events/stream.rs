//! Reads the ring buffer and gives each record to whoever listens.
//!
//! A listener that is too slow loses records, and is told exactly how many: nobody waits for it.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use enforcer_common::event::{Event, Kind, Reason};
use tokio::{
    io::unix::AsyncFd,
    sync::{
        mpsc::{Receiver, Sender, channel, error::TrySendError},
        oneshot,
    },
    time::{Instant, sleep_until},
};

use super::{
    Record, decode,
    enrich::{self, Enricher},
    ledger::{Given, Taken},
    record::Lost,
};
use crate::{
    engine::{CgroupNews, Engine, Ring, Unmeasured},
    kernel::{
        contents::Stamp,
        ringbuf::{Next, RingBuf},
    },
    manifest::AuditLevel,
};

/// How many records a listener may lag behind: a little more than the ring holds, which a daemon may find full when it starts.
const LAG: usize = 10_240;
/// How many records are kept for those who ask later.
const KEPT: usize = 1024;
/// How long after an event the counts of lost ones are looked at, at the latest. Without events none are lost.
const LOSS_CHECK: Duration = Duration::from_secs(1);
/// What happened to an event that the kernel could not report.
const RING_FULL: &str = "found the ring buffer full";
/// What happened to those, as many as have room there, whose part of the ring holds no records.
const DAMAGED: &str = "were in a part of the ring buffer that is damaged, or as many as have room there";

/// The words of a `drop` that tells one listener what it alone lost.
const TOO_FAST: &str = "came faster than this listener took them";
/// Why a sink loses events that were never offered to it.
pub(super) const TOO_SLOW: &str = "it takes them too slowly, or not at all";
/// How often the others are told of a sink that is too slow, at most.
const SLOW_AGAIN: Duration = Duration::from_mins(1);

/// What a listener loses because it takes too slowly, or not at all. It is counted as it is lost: a sink that is blocked for good
/// never comes to tell.
#[derive(Debug, Default)]
pub struct Losses {
    /// A sink's name. Without one nobody but the listener is told.
    name: OnceLock<String>,
    count: AtomicU64,
    losing: AtomicBool,
}

impl Losses {
    /// Lets the others be told, too, by this name.
    pub(super) fn name(&self, name: String) {
        // A listener is one sink's for all its life.
        let _ = self.name.set(name);
    }

    /// How many it has lost so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Whether it has no room now, and was not told yet of what it lost.
    pub(super) fn is_losing(&self) -> bool {
        self.losing.load(Ordering::Relaxed)
    }
}

/// A listener that is watched.
pub struct Records {
    /// The first ones.
    pub recent: Vec<Arc<Record>>,
    /// Those to come.
    pub to_come: Receiver<Arc<Record>>,
    /// What it loses.
    pub losses: Arc<Losses>,
    /// Counts those that it has, where somebody keeps that count.
    pub given: Option<Given>,
}

/// The stream of records.
#[derive(Clone, Default)]
pub struct Stream(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    taken: Option<Taken>,
    /// `audit_level: basic`.
    denials_only: bool,
    recent: VecDeque<Arc<Record>>,
    listeners: Vec<Listener>,
}

/// Somebody who listens.
struct Listener {
    sender: Sender<Arc<Record>>,
    /// Records that it was not given and not told of yet.
    lost: Lost,
    losses: Arc<Losses>,
    /// When the others were told last.
    told: Option<Instant>,
}

impl Listener {
    /// Gives it a record, or counts it; false when it has gone.
    fn give(&mut self, record: &Arc<Record>) -> bool {
        if !self.tell_lost() {
            return false;
        }
        let outcome = if self.lost.all > 0 { Err(TrySendError::Full(())) } else { self.send(Arc::clone(record)) };
        match outcome {
            Ok(()) => true,
            Err(TrySendError::Closed(())) => false,
            Err(TrySendError::Full(())) => {
                let lost = record.stands_for();
                self.lost += lost;
                self.losses.count.fetch_add(lost.all, Ordering::Relaxed);
                self.losses.losing.store(true, Ordering::Relaxed);
                true
            }
        }
    }

    /// Tells it what it lost, if there is room; false when it has gone.
    fn tell_lost(&mut self) -> bool {
        if self.lost.all == 0 {
            return !self.sender.is_closed();
        }
        match self.send(Arc::new(enrich::lost_records(self.lost, TOO_FAST))) {
            Ok(()) => {
                self.lost = Lost::default();
                self.losses.losing.store(false, Ordering::Relaxed);
            }
            Err(TrySendError::Full(())) => {}
            Err(TrySendError::Closed(())) => return false,
        }
        true
    }

    /// The name by which the others are to be told that it loses events, when it is time to.
    fn begins_to_lose(&mut self) -> Option<String> {
        let name = if self.lost.all > 0 { self.losses.name.get()?.clone() } else { return None };
        let now = Instant::now();
        if self.told.is_some_and(|told| now - told < SLOW_AGAIN) {
            return None;
        }
        self.told = Some(now);
        Some(name)
    }

    fn send(&self, record: Arc<Record>) -> Result<(), TrySendError<()>> {
        self.sender.try_send(record).map_err(|e| match e {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Closed(_) => TrySendError::Closed(()),
        })
    }
}

impl Stream {
    /// A stream that keeps count of what it was given.
    #[must_use]
    pub fn counted(taken: Taken) -> Self {
        Self(Arc::new(Mutex::new(Shared { taken: Some(taken), ..Shared::default() })))
    }

    /// The last records, oldest first, and those to come: none is missing between the two, and none is in both.
    #[must_use]
    pub fn listen(&self) -> (Vec<Arc<Record>>, Receiver<Arc<Record>>) {
        let Records { recent, to_come, .. } = self.listen_watched();
        (recent, to_come)
    }

    /// The same, with what is lost on the way.
    #[must_use]
    pub fn listen_watched(&self) -> Records {
        let (sender, to_come) = channel(LAG);
        let losses = Arc::new(Losses::default());
        let mut shared = self.shared();
        shared.listeners.push(Listener { sender, lost: Lost::default(), losses: Arc::clone(&losses), told: None });
        Records { recent: shared.recent.iter().cloned().collect(), to_come, losses, given: None }
    }

    /// Lets every listener go, when it has taken what waits for it.
    pub fn close(&self) {
        self.shared().listeners.clear();
    }

    /// Says which records are wanted from now on.
    pub fn set_level(&self, level: AuditLevel) {
        let mut shared = self.shared();
        shared.denials_only = level == AuditLevel::Basic;
    }

    /// Gives a record to every listener, if the policy's `audit_level` has it. What was allowed becomes an event in the kernel at
    /// the level `strict` alone; what was lost is told at every level.
    pub fn publish(&self, record: Record) {
        let mut shared = self.shared();
        if shared.wants(&record) {
            shared.give(record);
        }
    }

    /// The same, but to all others than the sink of this name: what is said of it is none of the events that it loses.
    pub(super) fn publish_but(&self, record: Record, name: &str) {
        let mut shared = self.shared();
        if shared.wants(&record) {
            shared.give_but(record, Some(name));
        }
    }

    /// The same with the record of an event that is about to leave the ring.
    fn publish_event(&self, record: Record, stamp: Stamp) {
        let mut shared = self.shared();
        if shared.wants(&record) && shared.taken.as_mut().is_none_or(|taken| taken.event(stamp)) {
            shared.give(record);
        }
    }

    /// Tells of events that were lost, as many of those that `count` counts as nobody was told of; true when there were any.
    fn publish_lost(&self, why: &str, count: impl FnOnce(&mut Taken) -> u64) -> bool {
        let mut shared = self.shared();
        let lost = shared.taken.as_mut().map_or(0, count);
        if lost > 0 {
            shared.give(enrich::lost(lost, why));
        }
        lost > 0
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // A panic elsewhere leaves the lists whole: there is nothing to mend.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listeners that have room what they lost; true when one is still to be told.
    fn tell_lost(&self) -> bool {
        let mut shared = self.shared();
        shared.listeners.retain_mut(Listener::tell_lost);
        shared.listeners.iter().any(|listener| listener.lost.all > 0)
    }
}

impl Shared {
    fn wants(&self, record: &Record) -> bool {
        // What was lost, and who loses.
        !self.denials_only || record.is_denial() || record.kind == "drop"
    }

    fn give(&mut self, record: Record) {
        self.give_but(record, None);
    }

    /// Gives a record to all but the sink of this name.
    fn give_but(&mut self, record: Record, but: Option<&str>) {
        let record = Arc::new(record);
        if self.recent.len() == KEPT {
            self.recent.pop_front();
        }
        self.recent.push_back(Arc::clone(&record));
        let mut slow = vec![];
        self.listeners.retain_mut(|listener| {
            if but.is_some() && listener.losses.name.get().map(String::as_str) == but {
                return true;
            }
            let stays = listener.give(&record);
            slow.extend(listener.begins_to_lose());
            stays
        });
        for name in slow {
            // Not to standard error, which may be blocked, too: nobody else gets this far meanwhile.
            let what = format!("sink {name} loses events: {TOO_SLOW}");
            // Each at most once: the record that tells does not come here again for the same one. That sink has no room for it, and is
            // told exactly how many events it lost.
            self.give_but(enrich::own("drop", what), Some(&name));
        }
    }
}

/// Reads the rings until the task is ended: those of programs that were replaced to their end, then the one in force. The
/// kernel wakes it. With a record from `finish` it reads what is left, gives that record, and ends.
///
/// # Errors
/// When the ring's descriptor cannot be waited for, or its memory not be mapped. What was not read is the next daemon's.
pub async fn pump(
    mut rings: Vec<Ring>,
    mut enricher: Enricher,
    engine: Engine,
    stream: Stream,
    mut finish: oneshot::Receiver<Record>,
) -> io::Result<()> {
    let Some(Ring { events, .. }) = rings.pop() else { return Ok(()) };
    for mut ring in rings {
        drain(&mut ring.events, &mut enricher, &engine, &stream, None)?;
        if let Some((set, lost)) = ring.lost() {
            stream.publish_lost(RING_FULL, |taken| taken.closed(set, lost));
        }
        ring.close();
    }
    // SAFETY: the ring owns its descriptor, which stays the same and open as long as it lives.
    let mut ring = unsafe { AsyncFd::register(events) }?;
    let (cgroups, news) = channel(LAG);
    // Whether news of cgroups were lost: then the engine looks for itself.
    let mut missed = false;
    tokio::spawn(follow_cgroups(engine.clone(), news));
    let mut check_at = Instant::now();
    let mut unchecked = true;
    let mut last = None;
    loop {
        tokio::select! {
            guard = ring.readable_mut() => {
                let mut guard = guard?;
                missed |= drain(guard.get_inner_mut(), &mut enricher, &engine, &stream, Some(&cgroups))?;
                guard.clear_ready();
                unchecked = true;
            }
            () = sleep_until(check_at), if unchecked => {
                check_at = Instant::now() + LOSS_CHECK;
                let (untold, dropped) = report_losses(&engine, &stream).await;
                missed |= dropped;
                missed = missed && cgroups.try_send(CgroupNews::Lost).is_err();
                unchecked = untold || missed;
            }
            record = &mut finish, if last.is_none() => match record {
                Ok(record) => last = Some(record),
                // Nobody will ever send one.
                Err(_) => std::future::pending().await,
            }
        }
        if let Some(record) = last.take() {
            drain(ring.get_mut(), &mut enricher, &engine, &stream, None)?;
            report_losses(&engine, &stream).await;
            stream.publish(record);
            return Ok(());
        }
    }
}

/// Gives everything that is in the ring to the listeners, and news of cgroups to whoever follows them; true when some of these
/// were lost. A record leaves the ring when they have it.
fn drain(
    ring: &mut RingBuf,
    enricher: &mut Enricher,
    engine: &Engine,
    stream: &Stream,
    cgroups: Option<&Sender<CgroupNews>>,
) -> io::Result<bool> {
    let mut missed = false;
    while let Some(next) = ring.read_next()? {
        let unread = |why, count| {
            stream.publish_lost(why, |taken| {
                taken.unread(count);
                count
            })
        };
        let item = match next {
            Next::Record(item) => item,
            Next::Damaged { bytes } => {
                unread(DAMAGED, (bytes / size_of::<Event>()).max(1) as u64);
                // News of cgroups may have been among them.
                missed = true;
                continue;
            }
        };
        let Some(event) = decode::event(&item) else {
            unread("in the ring have another layout", 1);
            continue;
        };
        if let (Some(news), Some(cgroups)) = (decode::cgroup_news(&event), cgroups) {
            missed |= cgroups.try_send(news).is_err();
        }
        if decode::is_internal(&event) {
            continue;
        }
        inspect_newcomer(engine, &event);
        let record = enricher.record(&event);
        measure(engine, &event, record.object.path.as_deref());
        stream.publish_event(record, Stamp { time_ns: event.time_ns, tid: event.tid });
    }
    Ok(missed)
}

/// Tells of events that were lost since the last time. Returns whether a listener is still to be told of its own, and whether there
/// were any.
async fn report_losses(engine: &Engine, stream: &Stream) -> (bool, bool) {
    let lost = match engine.dropped().await {
        Some(dropped) => stream.publish_lost(RING_FULL, |taken| taken.dropped(dropped)),
        None => false,
    };
    (stream.tell_lost(), lost)
}

/// Hands the news of cgroups to the engine, as many at once as have come.
async fn follow_cgroups(engine: Engine, mut news: Receiver<CgroupNews>) {
    let mut gathered = Vec::new();
    while news.recv_many(&mut gathered, LAG).await > 0 {
        match engine.cgroups(std::mem::take(&mut gathered)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(e)) => tracing::error!("containers and units could not be looked at: {e}"),
        }
    }
}

/// Has a file measured that was refused because it was not.
fn measure(engine: &Engine, event: &Event, path: Option<&str>) {
    if event.reason == Reason::NotMeasuredYet as u8
        && let Some(path) = path
    {
        let pids = [event.pid, event.ppid];
        engine.measure(Unmeasured { skill: event.skill, pids, object: event.object, path: path.into() });
    }
}

/// A process that came into a skill, by being moved into its cgroup or by an exec, may have files open that its skill may not
/// have: they are reported, and the sockets among them closed.
fn inspect_newcomer(engine: &Engine, event: &Event) {
    if event.kind == Kind::Enter as u8 && event.target != 0 {
        let (engine, pid, skill) = (engine.clone(), event.target, event.skill);
        tokio::spawn(async move { engine.inspect(pid, skill).await });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_listener_is_told_exactly_what_it_lost() {
        let stream = Stream::default();
        let (before, mut receiver) = stream.listen();
        assert!(before.is_empty());
        let published = LAG as u64 + 500;
        for _ in 0..published {
            stream.publish(enrich::own("delete", String::new()));
        }
        stream.publish(enrich::lost(40, "found the ring buffer full"));
        let mut seen = 0;
        let mut told = 0;
        let mut take = |receiver: &mut Receiver<Arc<Record>>| {
            while let Ok(record) = receiver.try_recv() {
                match record.dropped {
                    Some(count) => told += count,
                    None => seen += 1,
                }
            }
            seen + told
        };
        take(&mut receiver);
        assert!(!stream.tell_lost(), "there is room now");
        assert_eq!(take(&mut receiver), published + 40);
        assert_eq!(stream.listen().0.len(), KEPT);
    }
}
