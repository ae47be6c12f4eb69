//! `enforcer daemon`: puts a policy in force and hands events to its sinks until it is told to stop.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

use super::Instance;
use crate::{
    events::{
        sinks::{self, FileSpec, Sinks, Spec},
        text::Format,
    },
    memory,
    names::table::Limits,
    notify,
    service::{Lifetime, Options, Running, Service},
    users,
};

/// How long the answer to an unload may take.
const ANSWER_TIME: Duration = Duration::from_secs(1);

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
    raise_open_files();
    memory::in_small_pages();
    let runtime = super::runtime()?;
    runtime.block_on(async {
        // Before anything is in force, so that a HUP never ends the daemon.
        let hangup = signal(SignalKind::hangup())?;
        // A relative path means the same after a reload from elsewhere.
        let policy = std::path::absolute(&args.policy).context("the policy's path")?;
        let format = if args.json { Format::Json } else { Format::of_stdout() };
        sinks::check(&args.sink)?;
        let names = Limits {
            min_ttl: Duration::from_secs(args.names_min_ttl),
            grace: Duration::from_secs(args.names_grace),
            ..Limits::default()
        };
        let called = args.sink.iter().map(Spec::to_string).collect();
        let options = Options { group: args.group()?, files: args.files(), sinks: called, names };
        // Before anything is put in force: a start that fails changes nothing.
        let sinks = Sinks::open(&args.sink, format)?;
        let mut running =
            Service::start(&policy, &args.instance.runtime_dir, super::home(), options, Lifetime::Stays).await?;
        for warning in &running.warnings {
            eprintln!("warning: {warning}");
        }
        let origin = &running.origin;
        eprintln!("enforcer: enforcing {} (process {}){origin}", policy.display(), std::process::id());
        let engine = running.service.engine.clone();
        let sinks = sinks.guarded_by(|| {
            let engine = engine.clone();
            Box::new(move |sink, files| engine.hold(sink, files))
        });
        let sinks = sinks.start(&running.service.stream, std::mem::take(&mut running.records))?;
        running.service.watch_sinks(sinks.states());
        notify::ready(&format!("enforcing {}", policy.display()));
        tokio::spawn(notify::watchdog(running.service.engine.clone()));
        let outcome = run_until_stopped(running, hangup, sinks).await;
        outcome.map(|()| ExitCode::SUCCESS)
    })
}

/// Lets this process have as many files open as it may: each container costs some, and a rotation opens all of a log's files.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // With the one that there is fewer containers find room, and whatever does not is told.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
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

async fn run_until_stopped(mut running: Running, mut hangup: Signal, sinks: Sinks) -> anyhow::Result<()> {
    let stopped = super::ended_by_signal();
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            _ = hangup.recv() => match running.service.reload(None).await {
                Ok(outcome) => eprintln!("enforcer: reloaded: {outcome}"),
                Err(e) => eprintln!("enforcer: not reloaded: {e}"),
            },
            how = &mut stopped => {
                let how = how?;
                notify::stopping();
                // What it has read already is written; the next daemon reads the rest.
                running.pump.abort();
                let _ = (&mut running.pump).await;
                sinks.end();
                eprintln!("enforcer: {how}: what is in force stays in force; `enforcer unload` ends it");
                return Ok(());
            }
            ended = &mut running.pump => {
                notify::stopping();
                sinks.end();
                ended.context("the event reader")?.context("the event reader")?;
                // Whoever asked for it gets the answer first.
                let _ = timeout(ANSWER_TIME, running.service.answered.notified()).await;
                eprintln!("enforcer: unloaded: nothing is enforced any more");
                return Ok(());
            }
        }
    }
}
