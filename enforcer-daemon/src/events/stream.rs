//! Reads the ring buffer and gives each record to whoever listens.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use aya::maps::{MapData, RingBuf};
use tokio::{
    io::unix::AsyncFd,
    sync::broadcast,
    time::{Instant, sleep_until},
};

use super::{Record, decode, enrich::Enricher};
use crate::engine::Engine;

/// How many records a listener may lag behind before it loses the oldest, which it is told.
const LAG: usize = 8192;
/// How many records are kept for those who ask later.
const KEPT: usize = 1024;
/// How often the drop counters are read while events flow. Without events there is nothing to drop.
const DROP_CHECK: Duration = Duration::from_secs(1);

/// The stream of records.
#[derive(Clone)]
pub struct Stream {
    sender: broadcast::Sender<Arc<Record>>,
    recent: Arc<Mutex<VecDeque<Arc<Record>>>>,
}

impl Default for Stream {
    fn default() -> Self {
        Self { sender: broadcast::channel(LAG).0, recent: Arc::default() }
    }
}

impl Stream {
    /// Listens from now on.
    #[must_use]
    pub fn listen(&self) -> broadcast::Receiver<Arc<Record>> {
        self.sender.subscribe()
    }

    /// The last records, oldest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Arc<Record>> {
        self.recent.lock().map(|kept| kept.iter().cloned().collect()).unwrap_or_default()
    }

    /// Gives a record to every listener.
    pub fn publish(&self, record: Record) {
        let record = Arc::new(record);
        if let Ok(mut kept) = self.recent.lock() {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(Arc::clone(&record));
        }
        // Nobody listening is no error.
        let _ = self.sender.send(record);
    }
}

/// Reads the ring until the task is ended. The kernel wakes it.
///
/// # Errors
/// When the ring's descriptor cannot be waited for.
pub async fn pump(
    ring: RingBuf<MapData>,
    mut enricher: Enricher,
    engine: Engine,
    stream: Stream,
) -> std::io::Result<()> {
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
                        Some(event) => enricher.record(&event),
                        None => enricher.own("drop", "a record of another layout was in the ring".into()),
                    };
                    drop(item);
                    stream.publish(record);
                }
                guard.clear_ready();
                unchecked = true;
            }
            () = sleep_until(check_at), if unchecked => {
                unchecked = false;
                check_at = Instant::now() + DROP_CHECK;
                let dropped = engine.dropped().await.unwrap_or(reported);
                if dropped > reported {
                    let lost = dropped - reported;
                    reported = dropped;
                    let mut record = enricher.own("drop", format!("{lost} events found the ring buffer full"));
                    record.dropped = Some(lost);
                    stream.publish(record);
                }
            }
        }
    }
}
