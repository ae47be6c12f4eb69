//! `enforcer daemon`: puts a policy in force and streams events to standard output until it is told to stop.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Instance;
use crate::{
    events::text::Format,
    names::table::Limits,
    service::{Running, Service},
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Write JSON lines, also on a terminal.
    #[arg(long)]
    json: bool,
    /// The least seconds that an answer of a name server counts for.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 5)]
    names_min_ttl: u64,
    /// The seconds that an address of a name stays after its answer's time.
    #[arg(long, hide = true, value_name = "SECONDS", default_value_t = 60)]
    names_grace: u64,
    #[command(flatten)]
    instance: Instance,
}

/// Runs it.
///
/// # Errors
/// When enforcement cannot be put in force; then nothing is attached.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime = super::runtime()?;
    runtime.block_on(async {
        // Before the start, which takes a while: until there is a handler, the signal ends the process.
        let hangup = signal(SignalKind::hangup())?;
        // A relative path means the same after a reload from elsewhere.
        let policy = std::path::absolute(&args.policy).context("the policy's path")?;
        let limits = Limits {
            min_ttl: Duration::from_secs(args.names_min_ttl),
            grace: Duration::from_secs(args.names_grace),
            ..Limits::default()
        };
        let running = Service::start(&policy, &args.instance.runtime_dir, super::home(), limits).await?;
        for warning in &running.warnings {
            eprintln!("warning: {warning}");
        }
        eprintln!("enforcer: enforcing {} (process {})", policy.display(), std::process::id());
        let format = if args.json { Format::Json } else { Format::of_stdout() };
        stream_until_stopped(running, format, hangup).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn stream_until_stopped(mut running: Running, format: Format, mut hangup: Signal) -> anyhow::Result<()> {
    let (recent, mut records) = running.service.stream.listen();
    for record in recent {
        print(&format.line(&record));
    }
    let stopped = super::ended_by_signal();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            record = records.recv() => match record {
                Some(record) => print(&format.line(&record)),
                None => return Ok(()),
            },
            _ = hangup.recv() => match running.service.reload(None).await {
                Ok(outcome) => eprintln!("enforcer: reloaded: {outcome}"),
                Err(e) => eprintln!("enforcer: not reloaded: {e}"),
            },
            how = &mut stopped => {
                eprintln!("enforcer: {}: detaching the programs, nothing is enforced any more", how?);
                return Ok(());
            }
            ended = &mut running.pump => {
                ended.context("the event reader")?.context("the event reader")?;
                return Ok(());
            }
        }
    }
}

/// Prints a line; a closed pipe ends the printing, not the enforcement.
fn print(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}
