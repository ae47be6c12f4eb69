//! The events of one set of programs, and how many of them found the ring full.

use aya::maps::{MapData, PerCpuArray, RingBuf};
use enforcer_common::names::map;

use crate::kernel::{
    LoadError,
    contents::Mark,
    load::open_map,
    migrate::MigrateError,
    pins::{PinError, Set},
};

/// A ring to read.
pub struct Ring {
    /// The events.
    pub events: RingBuf<MapData>,
    /// How many lost ones were reported before.
    pub reported: u64,
    /// Where losses are counted, of a set that is being replaced.
    pub(super) drops: Option<PerCpuArray<MapData, u64>>,
    /// How many were lost that nobody reported, of a set that was replaced.
    pub lost: u64,
}

/// Why a ring could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A map.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The mark.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The counts.
    #[error(transparent)]
    Count(#[from] MigrateError),
}

impl Ring {
    /// Opens the ring of a set that is to be replaced.
    pub(super) fn before(set: &Set) -> Result<Self, RingError> {
        let reported = Mark::get(set)?.reported();
        Ok(Self { events: open_map(set, map::EVENTS)?, reported, drops: Some(open_map(set, map::DROPS)?), lost: 0 })
    }

    /// The programs that wrote into it are detached: the count of losses is final.
    pub(super) fn close(&mut self) {
        let dropped = self.drops.take().and_then(|drops| drops.get(&0, 0).ok()).map_or(0, |each| each.iter().sum());
        self.lost = u64::saturating_sub(dropped, self.reported);
    }
}
