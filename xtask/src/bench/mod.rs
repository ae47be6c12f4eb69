//! `cargo xtask bench`: what enforcement costs, in instructions, in a guest whose clock counts them.

mod budget;
mod results;

use std::{ffi::OsString, fs, io, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use self::results::Results;
use crate::{
    build,
    guest::{self, Ending, Job, Machine},
    kernels::{self, Series},
    paths::Paths,
    suite::Lines,
    ui, vm,
};

/// Loading very many rules under emulation takes its time; a wedged guest should not take the night.
const LIMIT: Duration = Duration::from_hours(1);

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
    /// Fail when a budget of `xtask/budgets.json` is not met.
    #[arg(long)]
    check: bool,
    /// Measure on this host, as root, what the daemon takes to compile a policy and to load it into the maps.
    #[arg(long, conflicts_with_all = ["kernel", "json", "rounds", "many", "check"])]
    host: bool,
}

/// The daemon's own benchmarks, each beside its baseline.
fn host(paths: &Paths) -> Result<ExitCode> {
    build::ebpf(paths)?;
    let status =
        paths.cargo().args(["bench", "--locked", "--package", "enforcer-daemon", "--bench", "policy"]).status();
    let success = status.context("cargo bench")?.success();
    Ok(if success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub(crate) fn run(paths: &Paths, args: &BenchArgs) -> Result<ExitCode> {
    if args.host {
        return host(paths);
    }
    let binaries = build::all(paths)?;
    let kernel = kernels::get(paths, args.kernel)?;
    ui::note(&format!("measuring on kernel {} ({}), an instruction a nanosecond", kernel.version, kernel.release));
    let (rounds, many) = (args.rounds.to_string(), args.many.to_string());
    let words = ["enforcer-tests", "bench", "--rounds", &rounds, "--many", &many];
    let job = Job {
        kernel,
        machine: Machine { memory: Some(2048), icount: true, in_turns: false, timeout: LIMIT, append: None },
        root: None,
        copies: Vec::new(),
        environment: vm::environment(),
        words: words.map(OsString::from).to_vec(),
    };
    let mut results = Results::default();
    let mut lines = Lines::new(|line| {
        if let Some(said) = results.line(line) {
            ui::note(&said);
        }
    });
    let ending = guest::run(paths, &binaries, &job, &mut lines, &mut io::stderr())?;
    lines.end();
    if ending != Ending::Exited(0) {
        bail!("the guest did not measure to the end: {ending:?}");
    }
    println!("kernel {} ({}), commit {}\n", job.kernel.version, job.kernel.release, commit(paths));
    print!("{}", results.table());
    if let Some(file) = &args.json {
        let json = results.json(&job.kernel.version, &commit(paths));
        fs::write(file, serde_json::to_string_pretty(&json)?).with_context(|| file.display().to_string())?;
    }
    let missed = budget::missed(&results)?;
    for line in &missed {
        println!("over budget: {line}");
    }
    let fails = args.check && !missed.is_empty();
    Ok(if fails { ExitCode::FAILURE } else { ExitCode::SUCCESS })
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
