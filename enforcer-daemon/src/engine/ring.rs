//! The events of one set of programs, and how many of them found the ring full.

use aya::maps::{MapData, PerCpuArray};
use enforcer_common::names::map;

use crate::kernel::{
    Kernel, LoadError,
    contents::Mark,
    load::open_map,
    pins::{PinError, Set},
    ringbuf::RingBuf,
};

/// A ring to read.
pub struct Ring {
    /// The events.
    pub events: RingBuf,
    replaced: Option<Replaced>,
}

/// What goes with the ring of a set that was replaced.
struct Replaced {
    set: Set,
    drops: PerCpuArray<MapData, u64>,
    /// How many lost ones were reported before.
    reported: u64,
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
}

impl Ring {
    /// Opens the ring of the set in force.
    pub(super) fn in_force(kernel: &Kernel) -> Result<Self, RingError> {
        Ok(Self { events: kernel.map(map::EVENTS)?, replaced: None })
    }

    /// Opens the ring of a set that was replaced, and whose programs are detached: its counts are final.
    pub(super) fn replaced(set: Set) -> Result<Self, RingError> {
        let reported = Mark::get(&set)?.tally().reported;
        let (events, drops) = (open_map(&set, map::EVENTS)?, open_map(&set, map::DROPS)?);
        Ok(Self { events, replaced: Some(Replaced { set, drops, reported }) })
    }

    /// The number of a set that was replaced, and how many events it lost that nobody reported.
    #[must_use]
    pub fn lost(&self) -> Option<(u32, u64)> {
        let Replaced { set, drops, reported } = self.replaced.as_ref()?;
        let dropped: u64 = drops.get(&0, 0).map_or(0, |each| each.iter().sum());
        Some((set.serial(), dropped.saturating_sub(*reported)))
    }

    /// The ring was read to its end: removes a set that was replaced.
    pub fn close(self) {
        if let Some(Replaced { set, .. }) = self.replaced {
            match set.remove() {
                Ok(()) => tracing::info!("{} was replaced", set.dir().display()),
                Err(e) => tracing::warn!("what was replaced is left behind, detached: {e}"),
            }
        }
    }
}
