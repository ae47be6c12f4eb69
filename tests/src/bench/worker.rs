//! The process that is measured.

use std::process::ExitCode;

use serde_json::json;

use super::{nanoseconds, ops::OPS, states::ground_at};

/// Runs every operation and prints what each costs.
pub(crate) fn run(state: &str, round: u32, tcp: u16, udp: u16) -> ExitCode {
    let ground = ground_at(tcp, udp);
    for op in OPS {
        let mut costs = Vec::with_capacity(op.batches);
        let (mut calls, mut refused) = (0, 0);
        // The first batch warms caches up.
        for batch in 0..=op.batches {
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
