//! Events as the daemon prints them, and questions about them.

use std::{
    sync::{Arc, Condvar, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How long an event may take from the kernel to here, under emulation.
pub(crate) const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Event(pub(crate) Value);

impl Event {
    /// A text by its key; empty when there is none.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// A number by its key; 0 when there is none.
    pub(crate) fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or_default()
    }

    /// A text of the object.
    pub(crate) fn object(&self, key: &str) -> &str {
        self.0["object"][key].as_str().unwrap_or_default()
    }

    /// The object's port.
    pub(crate) fn port(&self) -> u64 {
        self.0["object"]["port"].as_u64().unwrap_or_default()
    }

    /// Whether it tells of this kind, verdict and path.
    pub(crate) fn is(&self, kind: &str, verdict: &str, path: &str) -> bool {
        self.text("kind") == kind && self.text("verdict") == verdict && self.object("path") == path
    }
}

/// Everything that a daemon has printed so far.
#[derive(Clone, Default)]
pub(crate) struct Events(Arc<(Mutex<Vec<Event>>, Condvar)>);

/// A moment in the stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Events {
    /// Takes a line of the daemon's output.
    pub(crate) fn take(&self, line: &str) {
        if let Ok(value) = serde_json::from_str(line) {
            self.0.0.lock().unwrap_or_else(PoisonError::into_inner).push(Event(value));
            self.0.1.notify_all();
        }
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.0.0.lock().unwrap_or_else(PoisonError::into_inner).len())
    }

    /// What came since.
    pub(crate) fn since(&self, mark: Mark) -> Vec<Event> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)[mark.0..].to_vec()
    }

    /// The first event since `mark` that is wanted.
    ///
    /// # Errors
    /// When none came; the error shows what came instead.
    pub(crate) fn wait(&self, mark: Mark, what: &str, wanted: impl Fn(&Event) -> bool) -> anyhow::Result<Event> {
        let (lock, arrived) = &*self.0;
        let deadline = Instant::now() + EVENT_LIMIT;
        let mut events = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = mark.0;
        loop {
            if let Some(event) = events[seen..].iter().find(|e| wanted(e)) {
                return Ok(event.clone());
            }
            seen = events.len();
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            events = arrived.wait_timeout(events, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let shown: Vec<String> = events[mark.0..].iter().rev().take(12).map(|e| e.0.to_string()).collect();
        anyhow::bail!("no event of {what}; the last that came, newest first:\n{}", shown.join("\n"))
    }
}
