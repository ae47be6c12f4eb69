//! `enforcer run`: enters a skill and becomes the command.

use std::{
    ffi::OsString,
    io,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, bail};

use super::Instance;
use crate::{
    control::{Request, client},
    events::{Record, text::Format},
    service::{Lifetime, Options, Service},
    users,
};

/// Exit status when the command was found and could not be executed, as shells have it.
const CANNOT_EXECUTE: u8 = 126;
/// Exit status when the command was not found, as shells have it.
const NOT_FOUND: u8 = 127;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Enforce this manifest for as long as the command runs; without it, the daemon's policy holds.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The skill to enter.
    #[arg(long, value_name = "NAME")]
    skill: String,
    /// Run the command as this user, by name or number, with the user's primary group alone.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    #[command(flatten)]
    instance: Instance,
    /// The command.
    #[arg(trailing_var_arg = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs it. The exit status is the command's; 128 and the signal's number when a signal ended it.
///
/// # Errors
/// When the skill cannot be entered: then the command is not run.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.policy {
        None => become_command(args),
        Some(policy) => {
            let policy = std::path::absolute(policy).context("the policy's path")?;
            super::runtime()?.block_on(async {
                let running = Service::start(
                    &policy,
                    &args.instance.runtime_dir,
                    super::home(),
                    Options::default(),
                    Lifetime::Private,
                )
                .await?;
                for warning in &running.warnings {
                    eprintln!("warning: {warning}");
                }
                let printer = tokio::spawn(print_refusals(Arc::clone(&running.service)));
                let status = child(args).await?;
                // What the command did last is still in the ring.
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                printer.abort();
                Ok(exit_code(status))
            })
        }
    }
}

/// Runs `enforcer run` without a policy as a child: it enters the skill through the control socket like any other.
async fn child(args: &Args) -> anyhow::Result<ExitStatus> {
    let mut command = tokio::process::Command::new("/proc/self/exe");
    command.arg("run").arg("--skill").arg(&args.skill).arg("--runtime-dir").arg(&args.instance.runtime_dir);
    if let Some(user) = &args.user {
        command.arg("--user").arg(user);
    }
    command.arg("--").args(&args.command).stdin(Stdio::inherit()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start the command")?;
    let stopped = super::ended_by_signal();
    tokio::pin!(stopped);
    tokio::select! {
        status = child.wait() => return Ok(status?),
        how = &mut stopped => if how? == super::TERMINATED {
            child.kill().await?;
        }
    }
    // An interrupt from the terminal reached the command, too: it is for it to end.
    Ok(child.wait().await?)
}

/// Refusals go to standard error beside the command's own output.
async fn print_refusals(service: Arc<Service>) {
    let format = match Format::of(rustix::termios::isatty(io::stderr())) {
        Format::Json => Format::Plain,
        other => other,
    };
    let (_, mut records) = service.stream.listen();
    while let Some(record) = records.recv().await {
        if is_refusal(&record) {
            eprintln!("enforcer: {}", format.line(&record));
        }
    }
}

/// Whether a record tells of something that the skill may not do.
#[must_use]
pub fn is_refusal(record: &Record) -> bool {
    record.verdict.as_deref().is_some_and(|v| v != "allow")
}

/// The exit status that passes a child's on.
#[must_use]
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

/// Enters the skill and executes the command in place of this process.
fn become_command(args: &Args) -> anyhow::Result<ExitCode> {
    let (program, rest) = args.command.split_first().context("no command")?;
    // Before entering: afterwards this process is governed, too.
    let user = match &args.user {
        None => None,
        Some(name) => match users::by_name(name).context("/etc/passwd")? {
            Some(user) => Some(user),
            None => bail!("there is no user `{name}`"),
        },
    };
    let mut command = Command::new(program);
    command.args(rest);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
        command.env("HOME", user.home).env("USER", &user.name).env("LOGNAME", user.name);
    }
    client::ask(&args.instance.runtime_dir, &Request::Enter { skill: args.skill.clone(), pid: None })?;
    let error = command.exec();
    eprintln!(
        "enforcer: {}: {error}{}",
        program.display(),
        match error.kind() {
            io::ErrorKind::PermissionDenied => " (the event says which rule is missing)",
            _ => "",
        }
    );
    Ok(ExitCode::from(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_EXECUTE }))
}
