//! How many events were taken out of the ring, and how many of them were handed on. The counts are pinned, so that the daemon
//! that comes after one that was killed can say how many events ended with it.

use super::{Record, enrich};
use crate::kernel::{
    contents::Mark,
    pins::{PinError, Set},
};

/// For how many events a record stands: a record of lost events, for all of them.
fn weight(record: &Record) -> u64 {
    record.dropped.unwrap_or(1)
}

/// Counts what is taken.
pub struct Taken {
    mark: Mark,
    count: u64,
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
        let (taken, mut count) = mark.taken_and_given();
        let lost = taken.saturating_sub(count);
        let ended = (lost > 0).then(|| enrich::lost(lost, "ended with the daemon that had read them"));
        // One that was handed on twice must not hide another one.
        count = count.min(taken);
        let given = Given { mark: Mark::get(set)?, count };
        Ok(Self { taken: Taken { mark, count: taken }, given, ended })
    }
}

impl Taken {
    /// This record is about to leave the ring.
    pub fn count(&mut self, record: &Record) {
        self.count += weight(record);
        self.mark.take(self.count);
    }
}

impl Given {
    /// This record was handed on.
    pub fn count(&mut self, record: &Record) {
        self.count += weight(record);
        self.mark.give(self.count);
    }
}
