//! What the guest measured, and the table of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
};

use serde_json::{Value, json};

/// The states in the order of the table's columns, behind `bare`.
const STATES: [&str; 6] = ["outside", "governed", "many digests", "many prefixes", "many skills", "denied"];
/// The state that the others are compared with.
pub(super) const BARE: &str = "bare";

/// An operation: its name, and how deep the file lies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Op {
    pub(super) name: String,
    pub(super) depth: u64,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.depth {
            0 => f.write_str(&self.name),
            depth => write!(f, "{} at depth {depth}", self.name),
        }
    }
}

/// Costs by operation, state and round, in instructions, and those of each program.
#[derive(Debug, Default)]
pub(super) struct Results {
    costs: BTreeMap<(Op, String), BTreeMap<u64, u64>>,
    /// The operations as they came.
    order: Vec<Op>,
    /// Runs and instructions inside, by program and state.
    programs: BTreeMap<String, BTreeMap<String, (u64, u64)>>,
}

impl Results {
    /// Takes a line of the guest's. Returns what a person who waits wants to know.
    pub(super) fn line(&mut self, line: &str) -> Option<String> {
        let value: Value = serde_json::from_str(line).ok()?;
        let number = |key: &str| value[key].as_u64();
        if let Some(program) = value["program"].as_str() {
            let (state, inside) = (value["state"].as_str()?, (number("runs")?, number("ns")?));
            self.programs.entry(program.to_owned()).or_default().insert(state.to_owned(), inside);
            return None;
        }
        let (state, round, cost) = (value["state"].as_str()?, number("round")?, number("ns")?);
        let op = Op { name: value["op"].as_str()?.to_owned(), depth: number("depth").unwrap_or(0) };
        let said = (op.name == "reload").then(|| format!("round {round}, {state}: policy in force after {cost}"));
        // Round 0 is the one in which the kernel counts: it is slower by that.
        if round > 0 {
            if op.name != "reload" && !self.order.contains(&op) {
                self.order.push(op.clone());
            }
            self.costs.entry((op, state.to_owned())).or_default().insert(round, cost);
        }
        said
    }

    /// The median over the rounds; of two, the lower: what disturbs one round makes it dearer.
    pub(super) fn cost(&self, op: &Op, state: &str) -> Option<u64> {
        let mut rounds: Vec<u64> = self.costs.get(&(op.clone(), state.to_owned()))?.values().copied().collect();
        rounds.sort_unstable();
        rounds.get(rounds.len().saturating_sub(1) / 2).copied()
    }

    /// How far apart the rounds without the programs are, as a ratio of the largest to the smallest.
    pub(super) fn spread(&self, op: &Op) -> Option<f64> {
        let rounds = self.costs.get(&(op.clone(), BARE.to_owned()))?;
        ratio(*rounds.values().max()?, *rounds.values().min()?)
    }

    /// A state's cost as a ratio to the bare one.
    pub(super) fn ratio(&self, op: &Op, state: &str) -> Option<f64> {
        ratio(self.cost(op, state)?, self.cost(op, BARE)?)
    }

    /// How many instructions a state adds.
    pub(super) fn added(&self, op: &Op, state: &str) -> Option<i64> {
        Some(self.cost(op, state)?.cast_signed() - self.cost(op, BARE)?.cast_signed())
    }

    /// How many instructions apart the rounds without the programs are.
    pub(super) fn noise(&self, op: &Op) -> i64 {
        let rounds = self.costs.get(&(op.clone(), BARE.to_owned()));
        let range = rounds.and_then(|r| Some(r.values().max()? - r.values().min()?));
        range.unwrap_or(0).cast_signed()
    }

    /// Whether anything was measured in this state.
    pub(super) fn has(&self, state: &str) -> bool {
        self.costs.keys().any(|(op, measured)| op.name != "reload" && measured == state)
    }

    /// The operations, in the order in which they were measured.
    pub(super) fn ops(&self) -> &[Op] {
        &self.order
    }

    /// For people.
    pub(super) fn table(&self) -> String {
        let mut text = String::new();
        let _ = write!(text, "| operation | depth | bare | spread | outside");
        for state in &STATES[1..] {
            let _ = write!(text, " | {state}");
        }
        text.push_str(" |\n| --- | --- | --- | --- | ---");
        text.push_str(&" | ---".repeat(STATES.len() - 1));
        text.push_str(" |\n");
        for op in &self.order {
            let depth = if op.depth == 0 { String::new() } else { op.depth.to_string() };
            let or_nothing = |shown: Option<String>| shown.unwrap_or_default();
            let _ = write!(
                text,
                "| {} | {depth} | {} | {} | {}",
                op.name,
                or_nothing(self.cost(op, BARE).map(|c| c.to_string())),
                or_nothing(self.spread(op).map(|s| format!("{s:.3}"))),
                or_nothing(self.added(op, "outside").map(|a| format!("{a:+}"))),
            );
            for state in &STATES[1..] {
                let _ = write!(text, " | {}", or_nothing(self.ratio(op, state).map(|r| format!("{r:.3}"))));
            }
            text.push_str(" |\n");
        }
        text.push_str("\n| program | runs, outside | instructions inside | runs, governed | instructions inside |\n");
        text.push_str("| --- | --- | --- | --- | --- |\n");
        for (program, states) in &self.programs {
            let _ = write!(text, "| {program}");
            for state in ["outside", "governed"] {
                let shown = states.get(state).map(|(runs, inside)| (runs.to_string(), inside.to_string()));
                let (runs, inside) = shown.unwrap_or_default();
                let _ = write!(text, " | {runs} | {inside}");
            }
            text.push_str(" |\n");
        }
        text
    }

    /// For programs.
    pub(super) fn json(&self, kernel: &str, commit: &str) -> Value {
        let states: BTreeSet<&String> = self.costs.keys().map(|(_, state)| state).collect();
        let ops: Vec<Value> = self
            .order
            .iter()
            .map(|op| {
                let costs: BTreeMap<&String, Option<u64>> =
                    states.iter().map(|state| (*state, self.cost(op, state))).collect();
                json!({ "op": op.name, "depth": op.depth, "instructions": costs, "spread": self.spread(op) })
            })
            .collect();
        let programs: Vec<Value> = self
            .programs
            .iter()
            .flat_map(|(name, states)| states.iter().map(move |(state, counts)| (name, state, counts)))
            .map(|(name, state, (runs, inside))| {
                json!({ "program": name, "state": state, "runs": runs, "instructions": inside })
            })
            .collect();
        json!({ "kernel": kernel, "commit": commit, "operations": ops, "programs": programs })
    }
}

fn ratio(a: u64, b: u64) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "costs are far below 2^52")]
    (b > 0).then(|| a as f64 / b as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_become_medians_and_a_spread() {
        let mut results = Results::default();
        for (state, round, ns) in [("bare", 1, 100), ("bare", 2, 104), ("bare", 3, 102), ("governed", 1, 153)] {
            let said =
                results.line(&json!({"state": state, "round": round, "op": "open", "depth": 3, "ns": ns}).to_string());
            assert_eq!(said, None);
        }
        assert_eq!(results.line("not JSON"), None);
        let op = Op { name: "open".into(), depth: 3 };
        assert_eq!(results.ops(), std::slice::from_ref(&op));
        assert_eq!(results.cost(&op, "bare"), Some(102));
        assert_eq!(results.ratio(&op, "governed"), Some(1.5));
        assert_eq!(results.spread(&op), Some(1.04));
        assert_eq!(results.ratio(&op, "denied"), None);
        assert!(results.table().contains("| open | 3 | 102 | 1.040 |  | 1.500 |"), "{}", results.table());
    }
}
