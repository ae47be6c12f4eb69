//! How many events were taken out of the ring, and how many of them each sink has. The counts are pinned, so that the daemon
//! that comes after one that was killed can tell each sink how many events ended on the way to it.

use super::{Record, enrich};
use crate::kernel::{
    contents::{MOST_SINKS, Mark, SinkCount, Stamp, Tally},
    pins::{PinError, Set},
};

/// For how many events a record stands: one of lost events for all of them, and one of the daemon's own for none.
fn weight(record: &Record) -> u64 {
    match record.dropped {
        Some(dropped) => dropped.saturating_sub(record.dropped_own),
        None => record.verdict.is_some().into(),
    }
}

/// Counts what is taken. An event that is taken, and that a sink does not have when the daemon ends, is one that ended with it.
pub struct Taken {
    mark: Mark,
    tally: Tally,
}

/// Counts what one sink has.
pub struct Given {
    mark: Mark,
    place: u32,
    count: SinkCount,
}

/// The counts of a set.
pub struct Ledger {
    set: Set,
    mark: Mark,
    /// What is taken.
    pub taken: Taken,
}

impl Ledger {
    /// Opens the counts.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn open(set: &Set) -> Result<Self, PinError> {
        let mark = Mark::current(set)?;
        let taken = Taken { tally: mark.tally(), mark: Mark::get(set)? };
        Ok(Self { set: set.clone(), mark, taken })
    }

    /// The counts of these sinks, and for each a record of what ended with the daemons before on its way there. Before anything is
    /// taken. A sink that the daemon before did not have misses nothing.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn sinks(&mut self, names: &[String]) -> Result<Vec<(Given, Option<Record>)>, PinError> {
        let (before, taken) = (self.mark.sinks(), self.taken.tally.taken);
        let mut counts = vec![];
        for (place, name) in (0..MOST_SINKS).zip(names) {
            let key = SinkCount::key(name);
            let known = before.iter().find(|count| count.sink == key || place == 0 && count.sink == SinkCount::ANY);
            let count = SinkCount { sink: key, given: known.map_or(taken, |count| count.given.min(taken)) };
            let lost = taken - count.given;
            let ended = (lost > 0).then(|| enrich::lost(lost, "ended with the daemon that had read them"));
            counts.push((Given { mark: Mark::get(&self.set)?, place, count }, ended));
        }
        let used = counts.iter().map(|(given, _)| given.count).chain(std::iter::repeat(SinkCount::default()));
        for (place, count) in (0..MOST_SINKS).zip(used) {
            self.mark.give(place, count);
        }
        Ok(counts)
    }
}

impl Taken {
    /// This event is about to leave the ring. False when it was counted by a daemon that ended before it had left.
    pub fn event(&mut self, stamp: Stamp) -> bool {
        if stamp == self.tally.last {
            return false;
        }
        self.change(|tally| {
            tally.taken += 1;
            tally.last = stamp;
        });
        true
    }

    /// So many could not be read.
    pub fn unread(&mut self, count: u64) {
        self.change(|tally| tally.taken += count);
    }

    /// So many found the ring full, from the first one on; returns how many of them nobody reported.
    pub fn dropped(&mut self, count: u64) -> u64 {
        let lost = count.saturating_sub(self.tally.reported);
        if lost > 0 {
            self.change(|tally| {
                tally.taken += lost;
                tally.reported = count;
            });
        }
        lost
    }

    /// So many were lost by a set that was replaced; returns how many of them nobody reported.
    pub fn closed(&mut self, set: u32, lost: u64) -> u64 {
        if self.tally.closed >= set || lost == 0 {
            return 0;
        }
        self.change(|tally| {
            tally.taken += lost;
            tally.closed = set;
        });
        lost
    }

    fn change(&mut self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally);
        self.mark.keep(&self.tally);
    }
}

impl Given {
    /// The sink has this record.
    pub fn count(&mut self, record: &Record) {
        let weight = weight(record);
        if weight > 0 {
            self.count.given += weight;
            self.mark.give(self.place, self.count);
        }
    }
}
