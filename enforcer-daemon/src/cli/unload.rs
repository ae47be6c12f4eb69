//! `enforcer unload`: the only way to end enforcement.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    os::unix::net::UnixDatagram,
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::Instance;
use crate::{
    control::{Request, client},
    engine,
    kernel::pins::{self, Sets},
    service::InstanceLock,
};

/// Where the system's log is.
const SYSLOG: &str = "/dev/log";
/// Facility `authpriv`, severity `notice` (RFC 5424, 6.2.1).
const PRIORITY: u32 = 10 * 8 + 5;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Remove what lies among the pins and is not understood, too.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    instance: Instance,
}

/// Runs it.
///
/// # Errors
/// When it was not confirmed, is asked for by a governed process, or a pin cannot be removed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root ends enforcement; run it with sudo");
    }
    if !args.yes && !confirmed()? {
        bail!("nothing was changed");
    }
    // The daemon tells its listeners, too.
    if client::connect(&args.instance.runtime_dir).is_ok() {
        client::ask(&args.instance.runtime_dir, &Request::Unload)?;
        println!("nothing is enforced any more");
        return Ok(ExitCode::SUCCESS);
    }
    let _lock = InstanceLock::take()?;
    match Sets::find() {
        Ok(sets) => {
            if sets.in_force.is_none() && sets.leftovers.is_empty() {
                println!("nothing was in force");
                return sets.remove().map(|()| ExitCode::SUCCESS).map_err(Into::into);
            }
            if let Some(set) = &sets.in_force {
                match engine::is_governed(set, std::process::id()) {
                    Ok(true) => bail!("a governed process may not end enforcement"),
                    Err(e) if !args.force => {
                        return Err(e).context(
                            "it cannot be told whether this process is governed; with --force it is not asked",
                        );
                    }
                    Ok(false) | Err(_) => {}
                }
            }
            sets.remove()?;
        }
        Err(_) if args.force => {}
        Err(e) => return Err(e.into()),
    }
    if args.force {
        pins::remove_all()?;
    }
    let by = format!("process {}, user {}", std::process::id(), rustix::process::getuid().as_raw());
    log(&format!("enforcement was ended by `enforcer unload` ({by}); no daemon was running"));
    println!("nothing is enforced any more");
    Ok(ExitCode::SUCCESS)
}

/// Asks on the terminal.
fn confirmed() -> anyhow::Result<bool> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("this ends enforcement for every governed process; without a terminal it needs --yes");
    }
    print!("This ends enforcement for every governed process on this host. Type yes to go on: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

/// Without a daemon there is no stream of events: the system's log gets it.
fn log(text: &str) {
    eprintln!("enforcer: {text}");
    let line = format!("<{PRIORITY}>enforcer[{}]: {text}", std::process::id());
    let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), SYSLOG));
    // Without a log daemon there is the kernel's log.
    if sent.is_err() {
        let _ = std::fs::write("/dev/kmsg", line);
    }
}
