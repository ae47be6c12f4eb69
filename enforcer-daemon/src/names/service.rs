//! Keeps the table: asks for names when their time comes, and hands changes on.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    Addresses, Container, Inside, Known, Place, Question, Source, Wanted,
    lookup::Lookup,
    sources::{Changes, Files, Sources},
    table::{Limits, Line, Outcome, State, Table},
    within::Network,
};
use crate::manifest::HostName;

/// How many names are asked for at once: of the host's, and of all containers'.
const CONCURRENT: usize = 16;
/// How many of one container's: one whose resolver says nothing holds nobody up but itself.
const CONCURRENT_INSIDE: usize = 2;

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
    /// The names, and how it stands with each.
    lines: Vec<Told>,
    /// The configured resolvers.
    pub resolvers: BTreeSet<IpAddr>,
}

/// A name in a report.
#[derive(Clone, Debug)]
struct Told {
    name: HostName,
    /// Its place in the manifest.
    at: String,
    /// The cgroup of the container that asks for itself.
    container: Option<String>,
    line: Line,
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
        let line = |Told { name, container, line, .. }: &Told| {
            json!({
                "name": name.as_str(),
                "container": container,
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
        for Told { name, at: place, container, line } in &self.lines {
            let name = match container {
                Some(container) => format!("{name}, as {container} asks for it,"),
                None => name.to_string(),
            };
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
            table: table(limits, &known),
            put: known,
            version: None,
            resolvers: BTreeSet::new(),
            inside: BTreeMap::new(),
            flying: BTreeMap::new(),
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
    table: Table<Question>,
    resolvers: BTreeSet<IpAddr>,
    /// The containers that ask for themselves, and how.
    inside: BTreeMap<u64, (Container, Arc<Lookup>)>,
    /// How many names of each place are being asked for.
    flying: BTreeMap<Place, usize>,
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
        let mut asked: JoinSet<(Question, Outcome)> = JoinSet::new();
        let mut wanted = self.wanted.borrow().clone();
        let mut taken_in = None;
        loop {
            let now = Instant::now();
            if taken_in != Some(wanted.serial) {
                taken_in = Some(wanted.serial);
                if self.enter(&wanted)? {
                    // What was asked of other servers says nothing any more.
                    asked = JoinSet::new();
                    self.flying.clear();
                    self.table.ask_again(now);
                }
                self.table.want(&wanted.questions(), now);
            }
            self.table.advance(now);
            while let Some(question) = self.table.take_ready(|question| may_fly(&self.flying, question.place)) {
                let lookup = match question.place {
                    Place::Host => Some(&lookup),
                    Place::Container(id) => self.inside.get(&id).map(|(_, lookup)| lookup),
                };
                if let Some(lookup) = lookup {
                    *self.flying.entry(question.place).or_default() += 1;
                    asked.spawn(ask(Arc::clone(lookup), question));
                }
            }
            if !self.hand_on(&wanted).await {
                return Ok(());
            }
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    wanted = self.wanted.borrow_and_update().clone();
                }
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
                    self.flying.clear();
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
        Ok(Arc::new(Lookup::new(sources, Network::default())?))
    }

    /// Follows the containers that come and go. True when one that stays asks others than before.
    fn enter(&mut self, wanted: &Wanted) -> Result<bool, String> {
        self.inside.retain(|id, _| wanted.containers.contains_key(id));
        self.flying.retain(|place, flying| *place == Place::Host || *flying > 0);
        let mut asks_others = false;
        for (id, container) in wanted.containers.iter() {
            match self.inside.get_mut(id) {
                Some((known, _)) if known.asks_as(container) => known.clone_from(container),
                before => {
                    asks_others |= before.is_some();
                    let mut sources = Sources::inside(&container.path, &container.resolv_conf, &container.hosts);
                    (self.adapt)(&mut sources);
                    let lookup = Lookup::new(sources, Network::of(Arc::clone(&container.network)))?;
                    self.inside.insert(*id, (container.clone(), Arc::new(lookup)));
                }
            }
        }
        Ok(asks_others)
    }

    /// What holds now.
    fn addresses(&self) -> Addresses {
        let inside = |(id, (container, lookup)): (&u64, &(Container, Arc<Lookup>))| {
            let resolvers = lookup.sources().resolvers();
            (*id, Inside { skill: container.skill.clone(), names: Known::new(), resolvers })
        };
        let mut addresses = Addresses {
            names: Known::new(),
            resolvers: self.resolvers.clone(),
            containers: self.inside.iter().map(inside).collect(),
        };
        for (Question { place, name }, known) in self.table.known() {
            let names = match place {
                Place::Host => Some(&mut addresses.names),
                Place::Container(id) => addresses.containers.get_mut(id).map(|inside| &mut inside.names),
            };
            if let Some(names) = names {
                names.insert(name.clone(), known);
            }
        }
        addresses
    }

    fn take_in(&mut self, outcome: Result<(Question, Outcome), tokio::task::JoinError>) {
        match outcome {
            Ok((question, outcome)) => {
                if let Some(flying) = self.flying.get_mut(&question.place) {
                    *flying = flying.saturating_sub(1);
                }
                let jitter = jitter(&question.name);
                self.table.answer(&question, outcome, Instant::now(), jitter);
            }
            Err(e) => tracing::error!("a query ended: {e}"),
        }
    }

    /// Gives the policy what has changed; false when it wants no more.
    async fn hand_on(&mut self, wanted: &Wanted) -> bool {
        let version = self.table.version();
        let same = |(id, (container, lookup)): (&u64, &(Container, Arc<Lookup>))| {
            let put = self.put.containers.get(id);
            put.is_some_and(|put| put.skill == container.skill && put.resolvers == lookup.sources().resolvers())
        };
        let same_places = self.put.resolvers == self.resolvers
            && self.put.containers.len() == self.inside.len()
            && self.inside.iter().all(same);
        if self.version != Some(version) || !same_places {
            let addresses = self.addresses();
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
        let told = |(Question { place, name }, line): (&Question, &Line)| Told {
            name: name.clone(),
            at: wanted.names.get(name).cloned().unwrap_or_default(),
            container: match place {
                Place::Host => None,
                Place::Container(id) => self.inside.get(id).map(|(container, _)| container.path.clone()),
            },
            line: line.clone(),
        };
        Report { lines: self.table.lines().map(told).collect(), resolvers: self.resolvers.clone() }
    }
}

/// Whether one more name of a place may be asked for.
fn may_fly(flying: &BTreeMap<Place, usize>, place: Place) -> bool {
    let of = |place: &Place| flying.get(place).copied().unwrap_or(0);
    match place {
        Place::Host => of(&place) < CONCURRENT,
        Place::Container(_) => {
            let all: usize = flying.iter().filter(|(place, _)| **place != Place::Host).map(|(_, count)| count).sum();
            of(&place) < CONCURRENT_INSIDE && all < CONCURRENT
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
async fn ask(lookup: Arc<Lookup>, question: Question) -> (Question, Outcome) {
    let asked = question.name.clone();
    let outcome = tokio::spawn(async move { lookup.ask(&asked).await }).await;
    let outcome =
        outcome.unwrap_or_else(|e| Outcome { error: Some(format!("the query ended: {e}")), ..Outcome::default() });
    (question, outcome)
}

/// A number from 0 to 1 that differs from name to name and from call to call.
fn jitter(name: &HostName) -> f64 {
    let [high, low, ..] = RandomState::new().hash_one(name).to_be_bytes();
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}

/// A table with what a service before this one knew.
fn table(limits: Limits, known: &Addresses) -> Table<Question> {
    let of_host = known.names.iter().map(|(name, addresses)| (Place::Host, name, addresses));
    let inside = known
        .containers
        .iter()
        .flat_map(|(id, inside)| inside.names.iter().map(|(name, addresses)| (Place::Container(*id), name, addresses)));
    let questions =
        of_host.chain(inside).map(|(place, name, addresses)| (Question { place, name: name.clone() }, addresses));
    Table::with(limits, questions, Instant::now())
}

/// What has changed, a line for each name.
fn differences(before: &Addresses, after: &Addresses) -> Vec<String> {
    let mut lines = differences_at("", (&before.names, &before.resolvers), (&after.names, &after.resolvers));
    let nothing = Inside::default();
    let containers: BTreeSet<&u64> = before.containers.keys().chain(after.containers.keys()).collect();
    for id in containers {
        let old = before.containers.get(id).unwrap_or(&nothing);
        let new = after.containers.get(id).unwrap_or(&nothing);
        let skill = if new.skill.is_empty() { &old.skill } else { &new.skill };
        let at = format!("a container of {skill}: ");
        lines.extend(differences_at(&at, (&old.names, &old.resolvers), (&new.names, &new.resolvers)));
    }
    lines
}

fn differences_at(
    at: &str,
    (before, asked_before): (&Known, &BTreeSet<IpAddr>),
    (after, asked): (&Known, &BTreeSet<IpAddr>),
) -> Vec<String> {
    let nothing = BTreeMap::new();
    let names: BTreeSet<&HostName> = before.keys().chain(after.keys()).collect();
    let mut lines = vec![];
    for name in names {
        let old = before.get(name).unwrap_or(&nothing);
        let new = after.get(name).unwrap_or(&nothing);
        let plus = new.keys().filter(|address| !old.contains_key(address)).map(|address| format!(" +{address}"));
        let minus = old.keys().filter(|address| !new.contains_key(address)).map(|address| format!(" -{address}"));
        let changes: String = plus.chain(minus).collect();
        if !changes.is_empty() {
            lines.push(format!("{at}{name}:{changes}"));
        }
    }
    let added = asked.difference(asked_before).map(|address| format!(" +{address}"));
    let removed = asked_before.difference(asked).map(|address| format!(" -{address}"));
    let changes: String = added.chain(removed).collect();
    if !changes.is_empty() {
        lines.push(format!("{at}resolvers:{changes}"));
    }
    lines
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
