//! How many events were taken out of the ring, and how many of them were handed on. The counts are pinned, so that the daemon
//! that comes after one that was killed can say how many events ended with it.

use super::{Record, enrich};
use crate::kernel::{
    contents::{Mark, Stamp, Tally},
    pins::{PinError, Set},
};

/// For how many events a record stands: one of lost events for all of them, and one of the daemon's own for none.
fn weight(record: &Record) -> u64 {
    record.dropped.unwrap_or_else(|| record.verdict.is_some().into())
}

/// Counts what is taken. An event that is taken, and not handed on when the daemon ends, is one that ended with it.
pub struct Taken {
    mark: Mark,
    tally: Tally,
}

/// Counts what is handed on.
pub struct Given {
    mark: Mark,
    count: u64,
}

/// The counts of a set.
pub struct Ledger {
    /// What is taken.
    pub taken: Taken,
    /// What is handed on.
    pub given: Given,
    /// What ended with the daemons before.
    pub ended: Option<Record>,
}

impl Ledger {
    /// Opens the counts.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn open(set: &Set) -> Result<Self, PinError> {
        let mark = Mark::get(set)?;
        let (tally, count) = (mark.tally(), mark.given());
        let lost = tally.taken.saturating_sub(count);
        let ended = (lost > 0).then(|| enrich::lost(lost, "ended with the daemon that had read them"));
        let given = Given { mark: Mark::get(set)?, count: count.min(tally.taken) };
        Ok(Self { taken: Taken { mark, tally }, given, ended })
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
    /// This record was handed on.
    pub fn count(&mut self, record: &Record) {
        let weight = weight(record);
        if weight > 0 {
            self.count += weight;
            self.mark.give(self.count);
        }
    }
}
