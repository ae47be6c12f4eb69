//! When no program decides by what was in force before any more.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::thread::{MembarrierCommand, membarrier};

/// How long a program may take that sleeps between the read of the generation and its lookups: it reads the generation once and
/// then makes a handful of lookups. Hashing, which takes longer, comes before that read, or ends in a refusal when its generation
/// has gone.
pub const GRACE: Duration = Duration::from_millis(50);

/// Waits for the programs that were running at this time.
///
/// All but the few that sleep run within a read-side section of RCU, however long their CPU is taken away from them, and the
/// barrier waits for all of these (`kernel/sched/membarrier.c: membarrier_global`, which is `synchronize_rcu`). A kernel that has CPUs
/// without a tick refuses it; there the time has to do.
pub fn wait(since: Instant) {
    thread::sleep(GRACE.saturating_sub(since.elapsed()));
    if let Err(e) = membarrier(MembarrierCommand::Global) {
        tracing::debug!("no barrier for the programs of the generation before: {e}");
    }
}
