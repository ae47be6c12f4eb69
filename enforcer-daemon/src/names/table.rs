//! What is known of each name, and until when. Pure: time is handed in.
//!
//! An address stays as long as an answer that named it holds: its TTL, within bounds, and a grace, so that an address in use
//! does not vanish between two answers. A failure takes nothing away; time does.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::Source;

/// How long a name waits after its first failure before it is asked for again; each further failure doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest wait after a failure, and after an answer that the name has no address.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The least that a TTL counts for: an answer with TTL 0 would be over before it reached the kernel.
    pub min_ttl: Duration,
    /// The most that a TTL counts for.
    pub max_ttl: Duration,
    /// How long an address stays after its TTL.
    pub grace: Duration,
    /// How many addresses of one name are kept.
    pub per_name: usize,
    /// How many addresses are kept in all, of the host's names and of the containers' each.
    pub total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(5),
            max_ttl: Duration::from_hours(24),
            grace: Duration::from_mins(1),
            per_name: 256,
            total: 65_536,
        }
    }
}

/// An address that an answer named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address.
    pub address: IpAddr,
    /// For how long it holds; of a chain of aliases the shortest.
    pub ttl: Duration,
    /// Who says so.
    pub source: Source,
}

/// What came of asking for a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The addresses, in the order of the answers.
    pub answers: Vec<Answer>,
    /// Why there are none, or not all.
    pub error: Option<String>,
}

/// How it stands with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No answer came yet.
    Waiting,
    /// The last answer had addresses.
    Resolved,
    /// The last answer was that there are none, or there was no answer. Addresses of answers before it stay to their end.
    Failed,
}

/// One name's line of the table.
#[derive(Clone, Debug)]
pub struct Line {
    /// The addresses with the end of each.
    pub addresses: BTreeMap<IpAddr, (Source, Instant)>,
    /// How it stands.
    pub state: State,
    /// What the last answer lacked.
    pub error: Option<String>,
    /// When it is asked for again; `None` while it is being asked for.
    pub next: Option<Instant>,
    /// How many addresses of the last answer were not kept.
    pub left_out: usize,
    failures: u32,
    /// Its place in the queue.
    wake: Instant,
}

impl Line {
    fn new(now: Instant) -> Self {
        Self {
            addresses: BTreeMap::new(),
            state: State::Waiting,
            error: None,
            next: Some(now),
            left_out: 0,
            failures: 0,
            wake: now,
        }
    }

    /// The addresses, and whose word each is.
    fn of(&self) -> impl Iterator<Item = (IpAddr, Source)> {
        self.addresses.iter().map(|(address, (source, _))| (*address, *source))
    }

    /// The next moment at which something is to be done.
    fn next_wake(&self) -> Option<Instant> {
        self.addresses.values().map(|(_, end)| *end).chain(self.next).min()
    }
}

/// What a name is known by.
pub trait Key: Clone + Ord {
    /// Which of the two counts of kept addresses it falls into: neither takes the other's room.
    fn pool(&self) -> usize {
        0
    }
}

/// The names, their addresses, and what is to be done when. `K` is what a name is known by.
#[derive(Debug)]
pub struct Table<K> {
    limits: Limits,
    lines: BTreeMap<K, Line>,
    queue: BTreeSet<(Instant, K)>,
    ready: VecDeque<K>,
    kept: [usize; 2],
    version: u64,
}

impl<K: Key> Table<K> {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lines: BTreeMap::new(),
            queue: BTreeSet::new(),
            ready: VecDeque::new(),
            kept: [0; 2],
            version: 0,
        }
    }

    /// A table with what was known before: it stays for the grace, by the end of which each name was asked for.
    #[must_use]
    pub fn with<'a>(
        limits: Limits,
        known: impl IntoIterator<Item = (K, &'a BTreeMap<IpAddr, Source>)>,
        now: Instant,
    ) -> Self {
        let mut table = Self::new(limits);
        for (name, addresses) in known {
            let mut line = Line::new(now);
            line.addresses =
                addresses.iter().map(|(address, source)| (*address, (*source, now + limits.grace))).collect();
            table.kept[name.pool()] += line.addresses.len();
            table.lines.insert(name.clone(), line);
            table.queue.insert((now, name));
        }
        table
    }

    /// From now on these names are wanted, and no other. What is known of those that stay is kept.
    pub fn want<P>(&mut self, names: &BTreeMap<K, P>, now: Instant) {
        let gone: Vec<K> = self.lines.keys().filter(|name| !names.contains_key(name)).cloned().collect();
        for name in gone {
            if let Some(line) = self.lines.remove(&name) {
                self.kept[name.pool()] -= line.addresses.len();
                self.version += u64::from(!line.addresses.is_empty());
                self.queue.remove(&(line.wake, name));
            }
        }
        if self.ready.iter().any(|name| !names.contains_key(name)) {
            self.ready.retain(|name| names.contains_key(name));
        }
        for name in names.keys() {
            if !self.lines.contains_key(name) {
                self.lines.insert(name.clone(), Line::new(now));
                self.queue.insert((now, name.clone()));
            }
        }
    }

    /// Every name is to be asked for again now, those that are being asked for included: who answers has changed.
    pub fn ask_again(&mut self, now: Instant) {
        self.queue.clear();
        self.ready.clear();
        for (name, line) in &mut self.lines {
            line.next = Some(now);
            line.failures = 0;
            line.wake = now;
            self.queue.insert((now, name.clone()));
        }
    }

    /// When [`Self::advance`] has something to do.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        self.queue.first().map(|(wake, _)| *wake)
    }

    /// Lets go of what has ended, and puts the names whose time has come up for [`Self::take_ready`].
    pub fn advance(&mut self, now: Instant) {
        while let Some((wake, name)) = self.queue.first().cloned()
            && wake <= now
        {
            self.queue.pop_first();
            let Some(line) = self.lines.get_mut(&name) else { continue };
            let before = line.addresses.len();
            line.addresses.retain(|_, (_, end)| *end > now);
            let ended = before - line.addresses.len();
            self.kept[name.pool()] -= ended;
            self.version += u64::from(ended > 0);
            if line.next.is_some_and(|next| next <= now) {
                line.next = None;
                self.ready.push_back(name.clone());
            }
            self.requeue(name);
        }
    }

    /// A name that is to be asked for now, and may be. Its outcome is told with [`Self::answer`].
    pub fn take_ready(&mut self, may: impl Fn(&K) -> bool) -> Option<K> {
        // One that was wanted when its time came may have gone and come back.
        let is_due = |name: &K| self.lines.get(name).is_some_and(|line| line.next.is_none());
        let at = self.ready.iter().position(|name| is_due(name) && may(name))?;
        self.ready.remove(at)
    }

    /// Takes in what came of asking for a name; `jitter`, from 0 to 1, spreads what would otherwise come at one time.
    pub fn answer(&mut self, name: &K, outcome: Outcome, now: Instant, jitter: f64) {
        let Some(line) = self.lines.get_mut(name) else { return };
        let Limits { min_ttl, max_ttl, grace, per_name, total } = self.limits;
        let pool = name.pool();
        self.kept[pool] -= line.addresses.len();
        let before: Vec<(IpAddr, Source)> = line.of().collect();
        // The hosts file says what holds now; it has no TTL.
        line.addresses.retain(|_, (source, _)| *source == Source::Dns);
        let room = per_name.min(total.saturating_sub(self.kept[pool]));
        let mut seen = BTreeSet::new();
        let mut shortest = max_ttl;
        line.left_out = 0;
        for Answer { address, ttl, source } in &outcome.answers {
            let ttl = (*ttl).clamp(min_ttl, max_ttl);
            if seen.len() == room && !seen.contains(address) {
                line.left_out += 1;
                continue;
            }
            seen.insert(*address);
            shortest = shortest.min(ttl);
            let kept = line.addresses.entry(*address).or_insert((*source, now));
            *kept = (*source, kept.1.max(now + ttl + grace));
        }
        // Of earlier answers, what ends first gives way.
        while line.addresses.len() > room {
            let ends = line.addresses.iter().filter(|(address, _)| !seen.contains(address));
            let Some(first) = ends.min_by_key(|(_, (_, end))| *end).map(|(address, _)| *address) else { break };
            line.addresses.remove(&first);
        }
        self.kept[pool] += line.addresses.len();
        self.version += u64::from(!line.of().eq(before));
        let wait = if outcome.answers.is_empty() || outcome.error.is_some() {
            let doubled = FIRST_RETRY.saturating_mul(1 << line.failures.min(10));
            line.failures += 1;
            doubled.min(LAST_RETRY)
        } else {
            line.failures = 0;
            shortest
        };
        line.state = if outcome.answers.is_empty() { State::Failed } else { State::Resolved };
        line.error = outcome.error;
        // Before the answer ends, so that the next is there by then.
        line.next = Some(now + wait.min(shortest).mul_f64(0.7 + 0.2 * jitter.clamp(0.0, 1.0)));
        self.queue.remove(&(line.wake, name.clone()));
        self.requeue(name.clone());
    }

    fn requeue(&mut self, name: K) {
        if let Some(line) = self.lines.get_mut(&name)
            && let Some(wake) = line.next_wake()
        {
            line.wake = wake;
            self.queue.insert((wake, name));
        }
    }

    /// The lines, by name.
    pub fn lines(&self) -> impl Iterator<Item = (&K, &Line)> {
        self.lines.iter()
    }

    /// Whether every name had an answer or a failure.
    #[must_use]
    pub fn all_asked(&self) -> bool {
        self.lines.values().all(|line| line.state != State::Waiting)
    }

    /// What is known: the names that have any address.
    pub fn known(&self) -> impl Iterator<Item = (&K, BTreeMap<IpAddr, Source>)> {
        let with_any = self.lines.iter().filter(|(_, line)| !line.addresses.is_empty());
        with_any.map(|(name, line)| (name, line.of().collect()))
    }

    /// A number that changes whenever [`Self::known`] does.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
