//! Reads the ring buffer and gives each record to whoever listens.
//!
//! A listener that is too slow loses records, and is told exactly how many: nobody waits for it.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use enforcer_common::event::{Event, Kind};
use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::{Receiver, Sender, channel, error::TrySendError},
    time::{Instant, sleep_until},
};

use super::{
    Record, decode,
    enrich::{self, Enricher},
};
use crate::{engine::Engine, manifest::AuditLevel};

/// How many records a listener may lag behind.
const LAG: usize = 8192;
/// How many records are kept for those who ask later.
const KEPT: usize = 1024;
/// How long after an event the counts of lost ones are looked at, at the latest. Without events none are lost.
const LOSS_CHECK: Duration = Duration::from_secs(1);

/// The words of a `drop` that tells one listener what it alone lost.
pub(super) const TOO_FAST: &str = "came faster than this listener took them";

/// The stream of records.
#[derive(Clone, Default)]
pub struct Stream(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    /// `audit_level: basic`.
    denials_only: bool,
    recent: VecDeque<Arc<Record>>,
    listeners: Vec<Listener>,
}

/// Somebody who listens.
struct Listener {
    sender: Sender<Arc<Record>>,
    /// Events that it was not given and not told of yet.
    lost: u64,
}

impl Listener {
    /// Gives it a record, or counts it; false when it has gone.
    fn give(&mut self, record: &Arc<Record>) -> bool {
        if !self.tell_lost() {
            return false;
        }
        let outcome = if self.lost > 0 { Err(TrySendError::Full(())) } else { self.send(Arc::clone(record)) };
        match outcome {
            Ok(()) => true,
            Err(TrySendError::Closed(())) => false,
            Err(TrySendError::Full(())) => {
                // A lost record of lost events stands for all of them.
                self.lost += record.dropped.unwrap_or(1);
                true
            }
        }
    }

    /// Tells it what it lost, if there is room; false when it has gone.
    fn tell_lost(&mut self) -> bool {
        if self.lost == 0 {
            return !self.sender.is_closed();
        }
        match self.send(Arc::new(enrich::lost(self.lost, TOO_FAST))) {
            Ok(()) => self.lost = 0,
            Err(TrySendError::Full(())) => {}
            Err(TrySendError::Closed(())) => return false,
        }
        true
    }

    fn send(&self, record: Arc<Record>) -> Result<(), TrySendError<()>> {
        self.sender.try_send(record).map_err(|e| match e {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Closed(_) => TrySendError::Closed(()),
        })
    }
}

impl Stream {
    /// The last records, oldest first, and those to come: none is missing between the two, and none is in both.
    #[must_use]
    pub fn listen(&self) -> (Vec<Arc<Record>>, Receiver<Arc<Record>>) {
        let (sender, receiver) = channel(LAG);
        // A panic elsewhere leaves the lists whole: there is nothing to mend.
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.listeners.push(Listener { sender, lost: 0 });
        (shared.recent.iter().cloned().collect(), receiver)
    }

    /// Lets every listener go, when it has taken what waits for it.
    pub fn close(&self) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).listeners.clear();
    }

    /// Says which records are wanted from now on.
    pub fn set_level(&self, level: AuditLevel) {
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.denials_only = level == AuditLevel::Basic;
    }

    /// Gives a record to every listener, if the policy's `audit_level` has it. What was allowed becomes an event in the kernel at
    /// the level `strict` alone; what was lost is told at every level.
    pub fn publish(&self, record: Record) {
        let record = Arc::new(record);
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if shared.denials_only && !record.is_denial() && record.dropped.is_none() {
            return;
        }
        if shared.recent.len() == KEPT {
            shared.recent.pop_front();
        }
        shared.recent.push_back(Arc::clone(&record));
        shared.listeners.retain_mut(|listener| listener.give(&record));
    }

    /// Tells the listeners that have room what they lost; true when one is still to be told.
    fn tell_lost(&self) -> bool {
        let mut shared = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.listeners.retain_mut(Listener::tell_lost);
        shared.listeners.iter().any(|listener| listener.lost > 0)
    }
}

/// Reads the ring until the task is ended. The kernel wakes it.
///
/// # Errors
/// When the ring's descriptor cannot be waited for.
pub async fn pump(ring: RingBuf<MapData>, mut enricher: Enricher, engine: Engine, stream: Stream) -> io::Result<()> {
    // SAFETY: the ring owns its descriptor, which stays the same and open as long as it lives.
    let mut ring = unsafe { AsyncFd::register(ring) }?;
    let mut reported = 0;
    let mut check_at = Instant::now();
    let mut unchecked = true;
    loop {
        tokio::select! {
            guard = ring.readable_mut() => {
                let mut guard = guard?;
                while let Some(item) = guard.get_inner_mut().next() {
                    let record = match decode::event(&item) {
                        Some(event) => {
                            inspect_newcomer(&engine, &event);
                            enricher.record(&event)
                        }
                        None => enrich::lost(1, "in the ring have another layout"),
                    };
                    drop(item);
                    stream.publish(record);
                }
                guard.clear_ready();
                unchecked = true;
            }
            () = sleep_until(check_at), if unchecked => {
                check_at = Instant::now() + LOSS_CHECK;
                let dropped = engine.dropped().await.unwrap_or(reported);
                if dropped > reported {
                    stream.publish(enrich::lost(dropped - reported, "found the ring buffer full"));
                    reported = dropped;
                }
                unchecked = stream.tell_lost();
            }
        }
    }
}

/// A process that was moved into a governed cgroup may have files open that its skill may not have: they are reported.
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
