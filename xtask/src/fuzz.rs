//! `cargo xtask fuzz`: the fuzzers of `enforcer-daemon/fuzz`, one after another, by cargo-fuzz.
//!
//! Their corpus lies beside them, and a unit test takes it (`fuzz::tests::the_corpus_is_taken`): what was found once is tried with every
//! change.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use clap::Args;

use crate::{build, paths::Paths, toolchain, ui};

/// The fuzzers: the binaries of `enforcer-daemon/fuzz/Cargo.toml`.
const TARGETS: [&str; 5] = ["manifest", "event", "control", "dns", "resolver_files"];
/// The longest input that is tried, in bytes: long enough for what nests and repeats.
const MAX_LEN: &str = "16384";

/// Fuzz what reads bytes from outside.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only these.
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long each runs, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Afterwards keep of each corpus the smallest part that reaches the same code.
    #[arg(long)]
    minimize: bool,
}

pub(crate) fn run(paths: &Paths, args: &FuzzArgs) -> Result<ExitCode> {
    build::ebpf(paths)?;
    let program = toolchain::setup_fuzz(paths)?;
    let targets: Vec<&str> =
        if args.targets.is_empty() { TARGETS.into() } else { args.targets.iter().map(String::as_str).collect() };
    let fuzz = |command: &str, target: &str, seconds: u64, options: &[&str]| -> Result<()> {
        ui::note(&format!("{command} {target}"));
        let mut cargo = std::process::Command::new(&program);
        // Sanitizers and coverage are unstable options of a compiler that is stable otherwise.
        cargo.env("RUSTC_BOOTSTRAP", "1").env("ENFORCER_BPF_DIR", &paths.target);
        cargo.current_dir(paths.root.join("enforcer-daemon"));
        cargo.args(["fuzz", command, "--target", &build::host_triple()?, target]).args(options);
        let status = ui::bounded(&cargo, Duration::from_secs(seconds) + Duration::from_hours(1)).status()?;
        ensure!(status.success(), "{target}: see above; what it was given lies below enforcer-daemon/fuzz/artifacts");
        Ok(())
    };
    for target in &targets {
        let seconds = format!("-max_total_time={}", args.seconds);
        let max_len = format!("-max_len={MAX_LEN}");
        fuzz(
            "run",
            target,
            args.seconds,
            &["--", &seconds, &max_len, "-timeout=30", "-rss_limit_mb=4096", "-print_final_stats=1"],
        )?;
        if args.minimize {
            fuzz("cmin", target, args.seconds, &[])?;
        }
    }
    println!("{} fuzzers found nothing in {} s each", targets.len(), args.seconds);
    Ok(ExitCode::SUCCESS)
}
