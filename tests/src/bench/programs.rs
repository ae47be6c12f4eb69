//! What each program costs inside, as the kernel counts it (`kernel.bpf_stats_enabled`).

use std::{collections::BTreeMap, fs};

use aya::programs::loaded_programs;
use serde_json::json;

use super::states::{Ground, Servers, State, in_state};

/// Where the kernel is told to count (since 5.1).
const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Runs every operation in this state with the counting on, and prints the mean of each program that ran.
pub(super) fn measure(state: State, ground: &Ground, servers: &Servers) -> anyhow::Result<()> {
    fs::write(SWITCH, "1")?;
    let before = counts();
    let measured = in_state(state, 0, ground, servers);
    let after = counts();
    fs::write(SWITCH, "0")?;
    measured?;
    for ((id, name), (time, runs)) in after {
        let (earlier_time, earlier_runs) = before.get(&(id, name.clone())).copied().unwrap_or_default();
        let (time, runs) = (time - earlier_time, runs - earlier_runs);
        if runs > 0 {
            println!("{}", json!({ "program": name, "state": state.name(), "runs": runs, "ns": time / runs }));
        }
    }
    Ok(())
}

/// Time in nanoseconds and number of runs of every loaded program, by id and name.
fn counts() -> BTreeMap<(u32, String), (u64, u64)> {
    loaded_programs()
        .flatten()
        .map(|info| {
            let name = info.name_as_str().unwrap_or_default().to_owned();
            ((info.id(), name), (super::nanoseconds(info.run_time()), info.run_count()))
        })
        .collect()
}
