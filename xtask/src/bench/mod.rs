//! `cargo xtask bench`: what enforcement costs, in instructions, in a guest whose clock counts them.

mod budget;
mod daemon;
mod results;

use std::{ffi::OsString, fs, io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::{
    budget::{Budgets, Unmet},
    results::Results,
};
use crate::{
    build::{self, Binaries},
    guest::{self, Ending, Job, Machine},
    kernels::{self, Kernel, Series},
    paths::Paths,
    suite::Lines,
    ui, vm,
};

/// Loading very many rules under emulation takes its time; a wedged guest should not take the night.
const LIMIT: Duration = Duration::from_hours(1);
/// Addresses are not chosen at random: how many page tables a fork copies depends on them.
const STILL: &str = "norandmaps";
/// The kernel on which every change is measured.
const CHECKED_ON: Series = Series::V6_12;
/// What is measured of every change: the states that need no large policy. What 100,000 rules add to ten is the long run's.
const CHECKED: [&str; 2] = ["outside", "governed"];
/// How often, in one boot.
const CHECKED_ROUNDS: u32 = 2;

/// Measure what each operation costs bare, outside every skill, governed and refused, in instructions.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// 6.1, 6.12, 7.2 or latest.
    #[arg(long, default_value = "6.12")]
    kernel: Series,
    /// Write the results as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds through all states, in one boot.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Entries of the large policies.
    #[arg(long, default_value_t = 100_000)]
    many: u32,
    /// Only these of the states with the programs loaded: their names, with commas.
    #[arg(long, value_name = "STATES", value_delimiter = ',')]
    states: Vec<String>,
    /// Fail when what `xtask/budgets.json` allows is exceeded, in a second boot as in the first.
    #[arg(long)]
    check: bool,
    /// Print the ceilings that this run would have in `xtask/budgets.json`.
    #[arg(long)]
    ceilings: bool,
    /// Measure the daemon instead: compiling, loading and hashing on this host, as root; idling and what it takes for events in a guest.
    #[arg(long, conflicts_with_all = ["kernel", "rounds", "many", "states", "check", "ceilings"])]
    daemon: bool,
}

pub(crate) fn run(paths: &Paths, args: &BenchArgs) -> Result<ExitCode> {
    if args.daemon {
        return daemon::run(paths, args.json.as_deref());
    }
    let binaries = build::all(paths)?;
    let kernel = kernels::get(paths, args.kernel)?;
    ui::note(&format!("measuring on kernel {} ({}), an instruction a nanosecond", kernel.version, kernel.release));
    let budgets = Budgets::read()?;
    let (rounds, many) = (args.rounds.to_string(), args.many.to_string());
    let mut options = vec!["--rounds", &rounds, "--many", &many];
    let states = args.states.join(",");
    if !states.is_empty() {
        options.extend(["--states", &states]);
    }
    let boot = || measure(paths, &binaries, &kernel, &options, &mut ui::note);
    let results = boot()?;
    println!("kernel {} ({}), commit {}\n", kernel.version, kernel.release, commit(paths));
    print!("{}", results.table());
    if let Some(file) = &args.json {
        let json = results.json(&kernel.version, &commit(paths));
        fs::write(file, serde_json::to_string_pretty(&json)?).with_context(|| file.display().to_string())?;
    }
    if args.ceilings {
        println!("{:#}", budgets.ceilings(&results)?);
    }
    let unmet = budgets.unmet(&results)?;
    for line in &unmet {
        println!("{line}");
    }
    let fails = args.check && !again(&budgets, unmet, boot)?.is_empty();
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What a change has to pass: no operation costs more than its budget, or its ceiling. Returns what does, and `say` hears of every
/// budget that is not met.
pub(crate) fn check(paths: &Paths, binaries: &Binaries, say: &mut dyn FnMut(&str)) -> Result<Vec<String>> {
    let kernel = kernels::get(paths, CHECKED_ON)?;
    say(&format!("kernel {} ({}), an instruction a nanosecond", kernel.version, kernel.release));
    let (rounds, states) = (CHECKED_ROUNDS.to_string(), CHECKED.join(","));
    let options = ["--rounds", &rounds, "--states", &states];
    let budgets = Budgets::read()?;
    let results = measure(paths, binaries, &kernel, &options, say)?;
    let unmet = budgets.unmet(&results)?;
    for line in &unmet {
        say(&line.to_string());
    }
    again(&budgets, unmet, || measure(paths, binaries, &kernel, &options, say))
}

/// What costs too much in another boot, too: a figure that comes once is an accident of that boot.
fn again(budgets: &Budgets, unmet: Vec<Unmet>, boot: impl FnOnce() -> Result<Results>) -> Result<Vec<String>> {
    let failed: Vec<Unmet> = unmet.into_iter().filter(|unmet| unmet.fails).collect();
    if failed.is_empty() {
        return Ok(vec![]);
    }
    ui::note("something costs more than it may: measuring again");
    let second = budgets.unmet(&boot()?)?;
    let fails = |first: &Unmet| second.iter().any(|unmet| unmet.fails && unmet.what == first.what);
    Ok(failed.into_iter().filter(fails).map(|unmet| unmet.to_string()).collect())
}

/// Boots a guest and takes what it measures.
fn measure(
    paths: &Paths,
    binaries: &Binaries,
    kernel: &Kernel,
    options: &[&str],
    say: &mut dyn FnMut(&str),
) -> Result<Results> {
    let words = ["enforcer-tests", "bench"].iter().chain(options).map(OsString::from).collect();
    let mut results = Results::default();
    let mut lines = Lines::new(|line| {
        if let Some(said) = results.line(line) {
            say(&said);
        }
    });
    Boot { paths, binaries, kernel }.run(words, &mut lines)?;
    lines.end();
    Ok(results)
}

/// A guest that counts instructions.
struct Boot<'a> {
    paths: &'a Paths,
    binaries: &'a Binaries,
    kernel: &'a Kernel,
}

impl Boot<'_> {
    /// Runs a command in it to its end.
    fn run(&self, words: Vec<OsString>, out: &mut dyn io::Write) -> Result<()> {
        let job = Job {
            kernel: self.kernel.clone(),
            machine: Machine {
                memory: Some(2048),
                icount: true,
                in_turns: false,
                timeout: LIMIT,
                append: Some(STILL.into()),
            },
            root: None,
            copies: Vec::new(),
            environment: vm::environment(),
            words,
        };
        match guest::run(self.paths, self.binaries, &job, out, &mut io::stderr())? {
            Ending::Exited(0) => Ok(()),
            ending => bail!("the guest did not measure to the end: {ending:?}"),
        }
    }
}

/// The commit that is measured, with a mark when the tree differs from it.
fn commit(paths: &Paths) -> String {
    let git = |words: &[&str]| {
        ui::capture(std::process::Command::new("git").current_dir(&paths.root).args(words)).unwrap_or_default()
    };
    let id = git(&["rev-parse", "--short", "HEAD"]);
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"]).trim().is_empty();
    format!("{}{}", id.trim(), if changed { " with changes" } else { "" })
}
