//! The process that is measured.

use std::{io, process::ExitCode, thread, time::Duration};

use serde_json::json;

use super::{nanoseconds, ops::OPS, states::ground_at};

/// How long nothing is done before each batch: long enough for what the kernel puts off until a grace period is over, and for
/// the daemon, to be done with what was there.
const REST: Duration = Duration::from_millis(20);

/// Lets nothing else run while an operation does: what the operation costs is to be counted, not what the daemon or a thread of
/// the kernel does meanwhile. The programs that it starts inherit this.
pub(super) fn alone() -> io::Result<()> {
    let first = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to a local; 0 is the calling thread.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const first) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Runs every operation and prints what each costs; where an operation takes the place of a state, it alone.
pub(crate) fn run(state: &str, round: u32, tcp: u16, udp: u16) -> ExitCode {
    let ground = ground_at(tcp, udp);
    if let Err(e) = alone() {
        eprintln!("enforcer-tests: in state {state}: the measured process cannot be put before the others: {e}");
        return ExitCode::FAILURE;
    }
    let only = OPS.iter().any(|op| op.name == state);
    for op in OPS.iter().filter(|op| !only || op.name == state) {
        let mut costs = Vec::with_capacity(op.batches);
        let (mut calls, mut refused) = (0, 0);
        // The first batch warms caches up.
        for batch in 0..=op.batches {
            thread::sleep(REST);
            match (op.batch)(&ground, op.depth) {
                Ok(timed) if batch > 0 && timed.calls > 0 => {
                    costs.push(nanoseconds(timed.total) / timed.calls as u64);
                    calls += timed.calls;
                    refused += timed.refused;
                }
                Ok(timed) => refused += usize::from(timed.calls == 0),
                Err(e) => {
                    eprintln!("enforcer-tests: in state {state}, {}: {e:#}", op.name);
                    return ExitCode::FAILURE;
                }
            }
        }
        costs.sort_unstable();
        let Some(median) = costs.get(costs.len() / 2) else { continue };
        println!(
            "{}",
            json!({ "state": state, "round": round, "op": op.name, "depth": op.depth, "ns": median,
                    "least": costs.first(), "most": costs.last(), "calls": calls, "refused": refused })
        );
    }
    ExitCode::SUCCESS
}
