//! The command line: one file per subcommand.

pub mod attach;
pub mod certificate;
pub mod daemon;
pub mod demo;
pub mod doctor;
pub mod events;
pub mod generate;
pub mod hash;
pub mod oci_hook;
pub mod pin;
pub mod policy;
pub mod reload;
pub mod run;
pub mod status;
pub mod unload;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// Kernel-level enforcement for AI agents: what a skill may run, delete and connect to, decided in the kernel.
#[derive(Debug, Parser)]
#[command(name = "enforcer", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a policy in force and stream events to standard output.
    Daemon(daemon::Args),
    /// Run a command as a governed agent.
    Run(run::Args),
    /// Put a running process, cgroup, container or unit into a skill.
    Attach(attach::Args),
    /// Govern a container before its first process runs: an OCI runtime's createRuntime hook.
    OciHook(oci_hook::Args),
    /// Show what is in force.
    Status(status::Args),
    /// Show the last events, and those to come.
    Events(events::Args),
    /// Read the policy again and put it in force as a whole.
    Reload(reload::Args),
    /// End enforcement on this host.
    Unload(unload::Args),
    /// Check manifests, pin them to what lies at their paths, print their schema.
    Policy(policy::PolicyArgs),
    /// Print the manifest lines that allow files by their content.
    Hash(hash::HashArgs),
    /// Say what this kernel can enforce and what is missing.
    Doctor(doctor::Args),
    /// Load a policy and run a demo agent under it.
    Demo(demo::Args),
    /// Write manual pages and completions for a package.
    #[command(hide = true)]
    Generate(generate::Args),
}

/// Where the daemon is found.
#[derive(Clone, Debug, clap::Args)]
pub struct Instance {
    /// The daemon's runtime directory, with its control socket.
    #[arg(long, value_name = "DIR", default_value = crate::service::RUNTIME_DIR, env = "ENFORCER_RUNTIME_DIR")]
    pub runtime_dir: PathBuf,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    init_log();
    let outcome = match cli.command {
        Command::Daemon(args) => daemon::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Attach(args) => attach::run(&args),
        Command::OciHook(args) => oci_hook::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Reload(args) => reload::run(&args),
        Command::Unload(args) => unload::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Hash(args) => hash::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Generate(args) => generate::run(&args),
    };
    outcome.unwrap_or_else(|e| {
        // Whoever read the output has seen enough.
        let closed = |c: &(dyn std::error::Error + 'static)| {
            c.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
        };
        if e.chain().any(closed) {
            return ExitCode::SUCCESS;
        }
        eprintln!("enforcer: {e:#}");
        ExitCode::FAILURE
    })
}

/// The daemon's own log goes to standard error: warnings, or what `ENFORCER_LOG` asks for.
fn init_log() {
    let wanted = std::env::var("ENFORCER_LOG").unwrap_or_else(|_| {
        let bpf = std::env::var_os(crate::kernel::load::LOG_VARIABLE).is_some();
        if bpf { "debug".into() } else { "warn".into() }
    });
    let filter = tracing_subscriber::EnvFilter::builder().parse_lossy(wanted);
    // A second initialisation, in tests, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(rustix::termios::isatty(std::io::stderr()))
        .try_init();
}

/// A runtime for the commands that need one.
///
/// # Errors
/// When threads cannot be made.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// What `~` means in a manifest: the home of the user behind `sudo`, else of root.
#[must_use]
pub fn home() -> PathBuf {
    let invoked_by = std::env::var("SUDO_USER").ok().and_then(|name| crate::users::by_name(&name).ok().flatten());
    invoked_by.map_or_else(|| std::env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from), |user| user.home)
}

/// What [`ended_by_signal`] says of SIGTERM.
const TERMINATED: &str = "terminated";

/// Follows SIGINT and SIGTERM.
///
/// # Errors
/// When a handler cannot be set.
pub async fn ended_by_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "interrupted",
        _ = terminate.recv() => TERMINATED,
    })
}
