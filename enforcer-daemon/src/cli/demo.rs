//! `enforcer demo`: a policy, a rogue agent, and what became of it.

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest; its first skill governs the agent.
    #[arg(long, value_name = "FILE", default_value = "/etc/enforcer/policy.yaml")]
    policy: PathBuf,
    /// A command to run as the governed agent instead of the demo agent.
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs it.
///
/// # Errors
/// When the policy cannot be put in force.
pub fn run(_args: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not here yet")
}
