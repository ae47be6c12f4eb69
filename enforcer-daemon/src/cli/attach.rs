//! `enforcer attach`: puts what runs already into a skill.

use std::process::ExitCode;

use super::Instance;
use crate::control::{Request, client};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The skill to enter.
    #[arg(long, value_name = "NAME")]
    skill: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    instance: Instance,
}

/// What is attached.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// A process with all its threads; what it starts from now on is governed, what it started before is not.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// A cgroup with its descendants, as a path below the mount of cgroup v2: what is in it and what will be.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When the daemon does not do it: the process is not there, is in another skill, or has files open that the skill may not have.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let request =
        Request::Attach { skill: args.skill.clone(), pid: args.target.pid, cgroup: args.target.cgroup.clone() };
    let outcome = client::ask(&args.instance.runtime_dir, &request)?;
    match (args.target.pid, &args.target.cgroup) {
        (Some(pid), _) => println!("process {pid} is in skill {} with {} threads", args.skill, outcome["threads"]),
        (None, Some(cgroup)) => println!("{cgroup} is in skill {}: {} cgroups", args.skill, outcome["cgroups"]),
        (None, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}
