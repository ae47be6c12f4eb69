//! The budgets of `xtask/budgets.json`, and the ceilings of those that are not met.
//!
//! A budget is what an operation should cost. Where that cannot be had, the file says what it costs instead: a ceiling, which is
//! what was measured and the file's margin. Above it, something has become dearer.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use super::results::{BARE, Op, Results};

/// What may be spent, by operation.
const BUDGETS: &str = include_str!("../../budgets.json");
/// How much further from bare a figure may be, in thousandths of bare, for what differs between two processes that do the same.
const SPREAD: i64 = 5;
/// The state of a process outside every skill.
const OUTSIDE: &str = "outside";
/// The ceilings of this state are those of every other one in which the acts are allowed: very many rules cost what ten do.
const GOVERNED: &str = "governed";

/// A budget that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unmet {
    /// The operation and the state.
    pub(super) what: String,
    /// What it costs, and what it should.
    words: String,
    /// Instructions more than bare that it may cost all the same.
    ceiling: Option<i64>,
    /// Whether it costs more than that.
    pub(super) fails: bool,
}

impl std::fmt::Display for Unmet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, words, .. } = self;
        match (self.ceiling, self.fails) {
            (Some(ceiling), true) => write!(f, "over its ceiling of {ceiling:+}: {what}: {words}"),
            (Some(ceiling), false) => write!(f, "over budget, below its ceiling of {ceiling:+}: {what}: {words}"),
            (None, _) => write!(f, "over budget: {what}: {words}"),
        }
    }
}

/// The file.
pub(super) struct Budgets(Value);

impl Budgets {
    pub(super) fn read() -> Result<Self> {
        Ok(Self(serde_json::from_str(BUDGETS).context("budgets.json")?))
    }

    /// Each budget that the results do not meet. One for an operation that was not measured in a state that was is an error.
    pub(super) fn unmet(&self, results: &Results) -> Result<Vec<Unmet>> {
        let each = self.0["outside"]["instructions_per_call"].as_i64().context("budgets.json: outside")?;
        let mut unmet = Vec::new();
        for op in results.ops() {
            let hooks =
                self.0["hooks"][&op.name].as_i64().with_context(|| format!("budgets.json: hooks: {}", op.name))?;
            if let Some(added) = results.added(op, OUTSIDE) {
                let words = format!("{added:+} instructions, allowed {:+} for {hooks} hooks", each * hooks);
                unmet.extend(self.judge(results, op, OUTSIDE, each * hooks, words)?);
            }
        }
        for (name, states) in self.object("governed")? {
            for op in results.ops().iter().filter(|op| op.name == *name) {
                for (state, most) in states.as_object().with_context(|| format!("budgets.json: {name}"))? {
                    if !results.has(state) {
                        continue;
                    }
                    let most = most.as_f64().with_context(|| format!("budgets.json: {name}: {state}"))?;
                    let bare = results.cost(op, BARE).with_context(|| format!("{name} in state {BARE}"))?;
                    let ratio = results.ratio(op, state).with_context(|| format!("{name} in state {state}"))?;
                    let added = results.added(op, state).unwrap_or_default();
                    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "far below 2^52")]
                    let allowed = (bare as f64 * (most - 1.0)) as i64;
                    let words = format!("{added:+} instructions, {ratio:.3} of bare, allowed {allowed:+}, {most}");
                    unmet.extend(self.judge(results, op, state, allowed, words)?);
                }
            }
        }
        Ok(unmet)
    }

    /// What is wrong with one budget, if anything is.
    fn judge(&self, results: &Results, op: &Op, state: &str, allowed: i64, words: String) -> Result<Option<Unmet>> {
        let added = results.added(op, state).with_context(|| format!("{op} in state {state}"))?;
        let bare = results.cost(op, BARE).with_context(|| format!("{op} in state {BARE}"))?.cast_signed();
        if added <= allowed + results.noise(op).max(bare * SPREAD / 1000) {
            return Ok(None);
        }
        let ceilings = &self.0["ceilings"][op.to_string()];
        let ceiling = ceilings[if state == OUTSIDE { OUTSIDE } else { GOVERNED }].as_i64();
        let fails = ceiling.is_none_or(|ceiling| added > ceiling);
        Ok(Some(Unmet { what: format!("{op}, {state}"), words, ceiling, fails }))
    }

    /// The ceilings that these results would have, for the file: what was measured and the margin.
    pub(super) fn ceilings(&self, results: &Results) -> Result<Value> {
        let unmet = self.unmet(results)?;
        let margin = |key: &str| self.0["margin"][key].as_i64().with_context(|| format!("budgets.json: margin: {key}"));
        let (of_bare, of_added, instructions) =
            (margin("percent_of_bare")?, margin("percent_of_added")?, margin("instructions")?);
        let mut ceilings = Map::new();
        for op in results.ops() {
            let mut of_op = Map::new();
            for state in [OUTSIDE, GOVERNED] {
                if unmet.iter().any(|unmet| unmet.what == format!("{op}, {state}"))
                    && let (Some(added), Some(bare)) = (results.added(op, state), results.cost(op, BARE))
                {
                    let margin = (bare.cast_signed() * of_bare + added * of_added) / 100 + instructions;
                    of_op.insert(state.to_owned(), (added + margin).into());
                }
            }
            if !of_op.is_empty() {
                ceilings.insert(op.to_string(), of_op.into());
            }
        }
        Ok(ceilings.into())
    }

    fn object(&self, key: &str) -> Result<&Map<String, Value>> {
        self.0[key].as_object().with_context(|| format!("budgets.json: {key}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn results(outside: u64, governed: u64) -> Results {
        let mut results = Results::default();
        for (state, ns) in [("bare", 1000), ("outside", outside), ("governed", governed)] {
            results.line(&json!({"state": state, "round": 1, "op": "open", "depth": 3, "ns": ns}).to_string());
        }
        results
    }

    fn budgets(ceilings: &Value) -> Budgets {
        Budgets(json!({
            "outside": { "instructions_per_call": 250 },
            "hooks": { "open": 1 },
            "governed": { "open": { "governed": 1.06, "many skills": 1.06 } },
            "margin": { "percent_of_bare": 1, "percent_of_added": 3, "instructions": 50 },
            "ceilings": ceilings,
        }))
    }

    #[test]
    fn a_budget_is_met_or_held_by_its_ceiling_or_missed() {
        let unmet =
            |outside, governed, ceilings| budgets(&ceilings).unmet(&results(outside, governed)).expect("judged");
        // Of 1000, five are spread.
        assert_eq!(unmet(1255, 1065, json!({})), []);
        let without = unmet(1256, 1065, json!({}));
        assert!(without.len() == 1 && without[0].fails && without[0].ceiling.is_none(), "{without:?}");
        let ceilings = json!({ "open at depth 3": { "outside": 300, "governed": 500 } });
        let held = unmet(1300, 1500, ceilings.clone());
        assert!(held.len() == 2 && held.iter().all(|unmet| !unmet.fails), "{held:?}");
        assert_eq!(
            held[1].to_string(),
            "over budget, below its ceiling of +500: open at depth 3, governed: +500 instructions, 1.500 of bare, \
             allowed +60, 1.06"
        );
        let over: Vec<bool> = unmet(1300, 1501, ceilings).iter().map(|unmet| unmet.fails).collect();
        assert_eq!(over, [false, true]);
    }

    #[test]
    fn a_ceiling_is_what_was_measured_and_the_margin() {
        let ceilings = budgets(&json!({})).ceilings(&results(1200, 2000)).expect("ceilings");
        assert_eq!(ceilings, json!({ "open at depth 3": { "governed": 1090 } }));
    }

    #[test]
    fn the_file_has_what_is_looked_for() {
        let budgets = Budgets::read().expect("the file");
        assert!(budgets.object("ceilings").is_ok() && budgets.ceilings(&Results::default()).is_ok());
    }
}
