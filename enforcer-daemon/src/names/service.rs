//! Keeps the table: asks for names when their time comes, and hands changes on.

use std::{
    collections::BTreeSet,
    future::Future,
    hash::{BuildHasher as _, RandomState},
    io,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{sleep_until, timeout},
};

use super::{
    Addresses, Source, Wanted,
    lookup::Lookup,
    sources::{Changes, Files, Sources},
    table::{Limits, Line, Outcome, State, Table},
};
use crate::manifest::HostName;

/// How many names are asked for at once.
const CONCURRENT: usize = 16;

/// What the names are resolved for.
pub trait Policy: Send + Sync + 'static {
    /// Takes the addresses that hold from now on; false when it wants no more.
    fn put(&self, addresses: Addresses) -> impl Future<Output = bool> + Send;
    /// Takes a line about a change.
    fn tell(&self, text: String);
}

/// The table at one moment.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The names, the place of each in the manifest, and how it stands.
    lines: Vec<(HostName, String, Line)>,
    /// The configured resolvers.
    pub resolvers: BTreeSet<IpAddr>,
}

impl Report {
    /// The lines of `enforcer status`.
    #[must_use]
    pub fn lines(&self, now: Instant) -> Vec<Value> {
        let seconds = |at: Instant| at.saturating_duration_since(now).as_secs();
        let address = |(address, (source, end)): (&IpAddr, &(Source, Instant))| match source {
            Source::Host => json!({ "address": address, "source": "hosts" }),
            Source::Dns => json!({ "address": address, "source": "dns", "seconds_left": seconds(*end) }),
        };
        let line = |(name, _, line): &(HostName, String, Line)| {
            json!({
                "name": name.as_str(),
                "state": line.state,
                "addresses": line.addresses.iter().map(address).collect::<Vec<Value>>(),
                "left_out": line.left_out,
                "next_query_in": line.next.map(seconds),
                "error": line.error,
            })
        };
        self.lines.iter().map(line).collect()
    }

    /// What the author of the manifest should know.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = vec![];
        for (name, place, line) in &self.lines {
            let error = line.error.as_deref().unwrap_or("no answer came yet");
            match line.state {
                _ if line.addresses.is_empty() => {
                    warnings.push(format!("{place}: {name} does not resolve: {error}; closed until it does"));
                }
                State::Resolved if line.left_out > 0 => warnings.push(format!(
                    "{place}: {name}: {} addresses are kept, and {} more are not: connects to those are denied",
                    line.addresses.len(),
                    line.left_out
                )),
                State::Resolved | State::Waiting => {}
                State::Failed => warnings.push(format!(
                    "{place}: {name} does not resolve any more: {error}; its last addresses hold until they end"
                )),
            }
        }
        warnings
    }
}

/// A handle on the service.
pub struct Names {
    settled: watch::Receiver<u64>,
    questions: mpsc::Sender<oneshot::Sender<Report>>,
    task: JoinHandle<()>,
}

impl Names {
    /// Starts it. Must be called within a tokio runtime.
    ///
    /// `known` is what a service before this one knew, and is in force still.
    pub fn start<P: Policy>(
        wanted: watch::Receiver<Wanted>,
        policy: P,
        limits: Limits,
        files: Files,
        known: Addresses,
    ) -> Self {
        Self::start_with(wanted, policy, limits, files, known, |_| {})
    }

    /// Starts it with sources that are adapted each time they are read.
    fn start_with<P: Policy>(
        wanted: watch::Receiver<Wanted>,
        policy: P,
        limits: Limits,
        files: Files,
        known: Addresses,
        adapt: impl Fn(&mut Sources) + Send + 'static,
    ) -> Self {
        let (settled, receiver) = watch::channel(0);
        let (questions, inbox) = mpsc::channel(1);
        let adapt = Box::new(adapt);
        let service = Service {
            wanted,
            policy,
            files,
            adapt,
            settled,
            table: Table::with(limits, &known, Instant::now()),
            put: known,
            version: None,
            resolvers: BTreeSet::new(),
        };
        let task = tokio::spawn(async move {
            if let Err(e) = service.run(inbox).await {
                tracing::error!("names are not resolved any more: {e}; what is in force stays in force");
            }
        });
        Self { settled: receiver, questions, task }
    }

    /// Waits until every name of the policy `serial` was asked for and what came of it is in force, or until `limit` is over.
    pub async fn settle(&self, serial: u64, limit: Duration) {
        let mut settled = self.settled.clone();
        // Late or ended: what there is has to do.
        let _ = timeout(limit, settled.wait_for(|settled| *settled >= serial)).await;
    }

    /// The table as it stands; `None` when names are not resolved any more.
    pub async fn report(&self) -> Option<Report> {
        let (reply, report) = oneshot::channel();
        self.questions.send(reply).await.ok()?;
        report.await.ok()
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Service<P> {
    wanted: watch::Receiver<Wanted>,
    policy: P,
    files: Files,
    adapt: Box<dyn Fn(&mut Sources) + Send>,
    settled: watch::Sender<u64>,
    table: Table,
    resolvers: BTreeSet<IpAddr>,
    /// What the policy was given last.
    put: Addresses,
    /// Of which version of the table that was.
    version: Option<u64>,
}

impl<P: Policy> Service<P> {
    async fn run(mut self, mut inbox: mpsc::Receiver<oneshot::Sender<Report>>) -> Result<(), String> {
        let failed = |e: io::Error| e.to_string();
        // Watched before they are read, so that no change is missed.
        let mut edits = Changes::of(&self.files).map_err(failed)?;
        let mut lookup = self.read()?;
        let mut asked: JoinSet<(HostName, Outcome)> = JoinSet::new();
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let now = Instant::now();
            self.table.want(&wanted.names, now);
            self.table.advance(now);
            while asked.len() < CONCURRENT
                && let Some(name) = self.table.take_ready()
            {
                asked.spawn(ask(Arc::clone(&lookup), name));
            }
            if !self.hand_on(&wanted).await {
                return Ok(());
            }
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() {
                    return Ok(());
                },
                () = until(self.table.wake()) => {}
                Some(outcome) = asked.join_next() => {
                    self.take_in(outcome);
                    // What came meanwhile goes into the same generation.
                    while let Some(outcome) = asked.try_join_next() {
                        self.take_in(outcome);
                    }
                }
                Some(reply) = inbox.recv() => {
                    // Whoever asked may have gone away.
                    let _ = reply.send(self.report(&wanted));
                }
                outcome = edits.next() => {
                    outcome.map_err(failed)?;
                    // What was asked of the old ones says nothing any more.
                    asked = JoinSet::new();
                    lookup = self.read()?;
                    self.table.ask_again(Instant::now());
                }
            }
        }
    }

    fn read(&mut self) -> Result<Arc<Lookup>, String> {
        let mut sources = self.files.read();
        (self.adapt)(&mut sources);
        self.resolvers = sources.resolvers();
        Ok(Arc::new(Lookup::new(sources)?))
    }

    fn take_in(&mut self, outcome: Result<(HostName, Outcome), tokio::task::JoinError>) {
        match outcome {
            Ok((name, outcome)) => self.table.answer(&name, outcome, Instant::now(), jitter(&name)),
            Err(e) => tracing::error!("a query ended: {e}"),
        }
    }

    /// Gives the policy what has changed; false when it wants no more.
    async fn hand_on(&mut self, wanted: &Wanted) -> bool {
        let version = self.table.version();
        if self.version != Some(version) || self.put.resolvers != self.resolvers {
            let addresses = self.table.addresses(self.resolvers.clone());
            if wanted.report {
                for line in differences(&self.put, &addresses) {
                    self.policy.tell(line);
                }
            }
            if !self.policy.put(addresses.clone()).await {
                return false;
            }
            (self.version, self.put) = (Some(version), addresses);
        }
        if *self.settled.borrow() != wanted.serial && self.table.all_asked() {
            self.settled.send_replace(wanted.serial);
        }
        true
    }

    fn report(&self, wanted: &Wanted) -> Report {
        let place = |name: &HostName| wanted.names.get(name).cloned().unwrap_or_default();
        Report {
            lines: self.table.lines().map(|(name, line)| (name.clone(), place(name), line.clone())).collect(),
            resolvers: self.resolvers.clone(),
        }
    }
}

/// Sleeps until then; for ever when there is no such moment.
async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// Asks for a name, in a task of its own: whatever becomes of it, there is an outcome.
async fn ask(lookup: Arc<Lookup>, name: HostName) -> (HostName, Outcome) {
    let asked = name.clone();
    let outcome = tokio::spawn(async move { lookup.ask(&asked).await }).await;
    let outcome =
        outcome.unwrap_or_else(|e| Outcome { error: Some(format!("the query ended: {e}")), ..Outcome::default() });
    (name, outcome)
}

/// A number from 0 to 1 that differs from name to name and from call to call.
fn jitter(name: &HostName) -> f64 {
    let [high, low, ..] = RandomState::new().hash_one(name).to_be_bytes();
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}

/// What has changed, a line for each name.
fn differences(before: &Addresses, after: &Addresses) -> Vec<String> {
    let nothing = std::collections::BTreeMap::new();
    let mut names: Vec<&HostName> = before.names.keys().chain(after.names.keys()).collect();
    names.sort();
    names.dedup();
    let mut lines = vec![];
    for name in names {
        let old = before.names.get(name).unwrap_or(&nothing);
        let new = after.names.get(name).unwrap_or(&nothing);
        let plus = new.keys().filter(|address| !old.contains_key(address)).map(|address| format!(" +{address}"));
        let minus = old.keys().filter(|address| !new.contains_key(address)).map(|address| format!(" -{address}"));
        let changes: String = plus.chain(minus).collect();
        if !changes.is_empty() {
            lines.push(format!("{name}:{changes}"));
        }
    }
    let added = after.resolvers.difference(&before.resolvers).map(|address| format!(" +{address}"));
    let removed = before.resolvers.difference(&after.resolvers).map(|address| format!(" -{address}"));
    let changes: String = added.chain(removed).collect();
    if !changes.is_empty() {
        lines.push(format!("resolvers:{changes}"));
    }
    lines
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
