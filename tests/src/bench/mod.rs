//! What enforcement costs, operation by operation.
//!
//! `enforcer-tests bench` puts the host into one state after another and lets a fresh process measure the same operations in
//! each: without the programs, loaded but outside every skill, governed by policies of several sizes, and refused. Rounds are
//! interleaved, so that a drift of the machine shows as the spread between the rounds without the programs. The clock is
//! the machine's; in a guest that counts instructions (`cargo xtask bench`) a nanosecond is one instruction.
//!
//! Each result is one JSON object a line on standard output; `xtask` makes the table of them.

mod daemon;
mod ops;
mod programs;
mod states;
pub(crate) mod worker;

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, ensure};
use serde_json::json;

use self::states::{State, ground};
use crate::harness::daemon::Daemon;

/// What to measure.
#[derive(Debug)]
pub(crate) struct Options {
    rounds: u32,
    /// How many entries the large policies have.
    many: usize,
    /// The states with the programs loaded that are measured.
    states: Vec<State>,
}

impl Options {
    /// Reads the command line.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut options = Self { rounds: 2, many: 100_000, states: State::LOADED.to_vec() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = *words.next().ok_or(format!("{word} needs a value"))?;
            let number = || value.parse::<u32>().map_err(|_| format!("{word} needs a number"));
            match *word {
                "--rounds" => options.rounds = number()?.max(1),
                "--many" => options.many = number()? as usize,
                "--states" => options.states = value.split(',').map(State::named).collect::<Result<_, _>>()?,
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

/// Measures everything.
pub(crate) fn run(options: &Options) -> ExitCode {
    ended(measure(options))
}

/// Measures the daemon.
pub(crate) fn run_daemon() -> ExitCode {
    ended(daemon::measure())
}

/// In a governed process: so many deletes that are refused.
pub(crate) fn flood(count: u64) -> ExitCode {
    ended(daemon::refused(count))
}

fn ended(outcome: anyhow::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("enforcer-tests: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> anyhow::Result<()> {
    let (ground, servers) = ground()?;
    let dir = Path::new("/tmp/enforcer-bench/daemon");
    for round in 1..=options.rounds {
        states::in_state(State::Bare, round, &ground, &servers)?;
        let mut daemon = Daemon::start(dir, &states::policy(State::Outside, options.many, &ground)?)?;
        for &state in &options.states {
            let manifest = states::policy(state, options.many, &ground)?;
            let started = std::time::Instant::now();
            daemon.reload(&manifest).with_context(|| format!("the policy of state {}", state.name()))?;
            println!(
                "{}",
                json!({ "state": state.name(), "round": round, "op": "reload", "ns": nanoseconds(started.elapsed()) })
            );
            states::in_state(state, round, &ground, &servers)?;
        }
        if round == options.rounds {
            for state in [State::Outside, State::Governed] {
                daemon.reload(&states::policy(state, options.many, &ground)?)?;
                programs::measure(state, &ground, &servers)?;
            }
        }
        daemon.stop()?;
    }
    // Closes the last round: a drift over it shows against this.
    states::in_state(State::Bare, options.rounds + 1, &ground, &servers)?;
    ensure!(options.rounds > 0, "nothing was measured");
    Ok(())
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
