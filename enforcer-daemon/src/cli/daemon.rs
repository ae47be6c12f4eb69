//! `enforcer daemon`: puts a policy in force and streams events to standard output until it is told to stop.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::Receiver,
    time::timeout,
};

use super::Instance;
use crate::{
    events::{Record, ledger::Given, text::Format},
    names::table::Limits,
    service::{Lifetime, Records, Running, Service},
};

/// How long the answer to an unload may take.
const ANSWER_TIME: Duration = Duration::from_secs(1);

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
/// When enforcement cannot be put in force; then what was in force before still is, and nothing else.
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
        let running =
            Service::start(&policy, &args.instance.runtime_dir, super::home(), limits, Lifetime::Stays).await?;
        for warning in &running.warnings {
            eprintln!("warning: {warning}");
        }
        let origin = &running.origin;
        eprintln!("enforcer: enforcing {} (process {}){origin}", policy.display(), std::process::id());
        let format = if args.json { Format::Json } else { Format::of_stdout() };
        stream_until_stopped(running, format, hangup).await?;
        Ok(ExitCode::SUCCESS)
    })
}

async fn stream_until_stopped(mut running: Running, format: Format, mut hangup: Signal) -> anyhow::Result<()> {
    let Some(Records { recent, to_come: mut records, mut given }) = running.records.take() else { return Ok(()) };
    for record in recent {
        print(&record, format, &mut given);
    }
    let stopped = super::ended_by_signal();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            record = records.recv() => match record {
                Some(record) => print(&record, format, &mut given),
                None => return Ok(()),
            },
            _ = hangup.recv() => match running.service.reload(None).await {
                Ok(outcome) => eprintln!("enforcer: reloaded: {outcome}"),
                Err(e) => eprintln!("enforcer: not reloaded: {e}"),
            },
            how = &mut stopped => {
                let how = how?;
                // What it has read already is printed; the next daemon reads the rest.
                running.pump.abort();
                let _ = (&mut running.pump).await;
                print_rest(&mut records, format, &mut given);
                eprintln!("enforcer: {how}: what is in force stays in force; `enforcer unload` ends it");
                return Ok(());
            }
            ended = &mut running.pump => {
                ended.context("the event reader")?.context("the event reader")?;
                print_rest(&mut records, format, &mut given);
                // Whoever asked for it gets the answer first.
                let _ = timeout(ANSWER_TIME, running.service.answered.notified()).await;
                eprintln!("enforcer: unloaded: nothing is enforced any more");
                return Ok(());
            }
        }
    }
}

fn print_rest(records: &mut Receiver<Arc<Record>>, format: Format, given: &mut Given) {
    while let Ok(record) = records.try_recv() {
        print(&record, format, given);
    }
}

/// Prints a line; a closed pipe ends the printing, not the enforcement.
fn print(record: &Record, format: Format, given: &mut Given) {
    let _ = writeln!(io::stdout().lock(), "{}", format.line(record));
    given.count(record);
}
