//! The budgets of `xtask/budgets.json`.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::results::{Op, Results};

/// What may be spent, by operation.
const BUDGETS: &str = include_str!("../../budgets.json");

/// Each budget that the results do not meet, in words. A budget for what was not measured is an error.
pub(super) fn missed(results: &Results) -> Result<Vec<String>> {
    let budgets: Value = serde_json::from_str(BUDGETS).context("budgets.json")?;
    let limit = budgets["outside"]["instructions_per_call"].as_i64().context("budgets.json: outside")?;
    let mut missed = Vec::new();
    for op in results.ops() {
        let hooks = budgets["hooks"][&op.name].as_i64().with_context(|| format!("budgets.json: hooks: {}", op.name))?;
        let added = results.added(op, "outside").context("the state outside was not measured")?;
        let noise = results.noise(op);
        if added > limit * hooks + noise {
            missed.push(format!(
                "{}: outside every skill +{added}, allowed {limit} for each of {hooks} hooks",
                named(op)
            ));
        }
    }
    for (name, states) in budgets["governed"].as_object().context("budgets.json: governed")? {
        for op in results.ops().iter().filter(|op| op.name == *name) {
            for (state, most) in states.as_object().with_context(|| format!("budgets.json: {name}"))? {
                let most = most.as_f64().with_context(|| format!("budgets.json: {name}: {state}"))?;
                let ratio = results.ratio(op, state).with_context(|| format!("{name} in state {state}"))?;
                let spread = results.spread(op).unwrap_or(1.0) - 1.0;
                if ratio > most + spread {
                    missed.push(format!("{}: {state} {ratio:.3}, allowed {most}", named(op)));
                }
            }
        }
    }
    Ok(missed)
}

fn named(op: &Op) -> String {
    if op.depth == 0 { op.name.clone() } else { format!("{} at depth {}", op.name, op.depth) }
}
