//! `enforcer daemon`: puts a policy in force and hands events to its sinks until it is told to stop.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Instance;
use crate::{
    events::{
        sinks::{self, FileSpec, Sinks, Spec},
        text::Format,
    },
    notify,
    service::{Access, Running, Service},
    users,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest.
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
    /// Write JSON lines to standard output, also on a terminal.
    #[arg(long)]
    json: bool,
    /// Where events go; may be given several times: `stdout`, `file:PATH`, `syslog`, `journald`. A file takes options, such as
    /// `file:/var/log/enforcer/events.json,max_size=64M,max_age=1d,keep=8`; the others a socket, such as `syslog:/run/log`.
    #[arg(long, value_name = "SINK", default_value = "stdout")]
    sink: Vec<Spec>,
    /// A group, by name or number, whose members may use the control socket beside root.
    #[arg(long, value_name = "GROUP")]
    control_group: Option<String>,
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
        sinks::check(&args.sink)?;
        let access = Access { group: args.group()?, files: args.files() };
        let running = Service::start(&policy, &args.instance.runtime_dir, super::home(), access)?;
        for warning in &running.warnings {
            eprintln!("warning: {warning}");
        }
        eprintln!("enforcer: enforcing {} (process {})", policy.display(), std::process::id());
        let format = if args.json { Format::Json } else { Format::of_stdout() };
        let sinks = Sinks::start(&args.sink, format, &running.service.stream)?;
        running.service.watch_sinks(sinks.states());
        notify::ready(&format!("enforcing {}", policy.display()));
        tokio::spawn(notify::watchdog(running.service.engine.clone()));
        let outcome = run_until_stopped(running, hangup).await;
        notify::stopping();
        sinks.end();
        outcome.map(|()| ExitCode::SUCCESS)
    })
}

impl Args {
    /// The number of the group that was named.
    fn group(&self) -> anyhow::Result<Option<u32>> {
        let Some(name) = &self.control_group else { return Ok(None) };
        let gid = users::group(name).context("/etc/group")?;
        gid.with_context(|| format!("there is no group {name}")).map(Some)
    }

    /// The files that the sinks write, those they will be renamed to included.
    fn files(&self) -> Vec<PathBuf> {
        let files = self.sink.iter().filter_map(|sink| if let Spec::File(file) = sink { Some(file) } else { None });
        files.flat_map(FileSpec::names).collect()
    }
}

async fn run_until_stopped(mut running: Running, mut hangup: Signal) -> anyhow::Result<()> {
    let stopped = super::ended_by_signal();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
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
