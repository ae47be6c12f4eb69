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
    /// A running container: its name, a prefix of its id, `image=IMAGE` or `label=KEY=VALUE`; all that fit. Its paths are its own.
    #[arg(long, value_name = "ID|NAME")]
    container: Option<String>,
    /// A running systemd unit; `*` and `?` are wildcards.
    #[arg(long, value_name = "UNIT")]
    unit: Option<String>,
}

/// Runs it.
///
/// # Errors
/// When the daemon does not do it: the process is not there, is in another skill, or has files open that the skill may not have.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Target { pid, cgroup, container, unit } = &args.target;
    let request = Request::Attach {
        skill: args.skill.clone(),
        pid: *pid,
        cgroup: cgroup.clone(),
        container: container.clone(),
        unit: unit.clone(),
    };
    let outcome = client::ask(&args.instance.runtime_dir, &request)?;
    match (pid, cgroup, container.as_ref().or(unit.as_ref())) {
        (Some(pid), ..) => println!("process {pid} is in skill {} with {} threads", args.skill, outcome["threads"]),
        (None, Some(cgroup), _) => println!("{cgroup} is in skill {}: {} cgroups", args.skill, outcome["cgroups"]),
        (None, None, Some(name)) => println!("{name} is in skill {}: {} found", args.skill, outcome["count"]),
        (None, None, None) => {}
    }
    Ok(ExitCode::SUCCESS)
}
