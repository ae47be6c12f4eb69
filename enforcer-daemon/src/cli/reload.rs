//! `enforcer reload`: reads the manifest again, or another one, and puts it in force as a whole.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;

use super::Instance;
use crate::control::{Request, client};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Another manifest than before.
    policy: Option<PathBuf>,
    #[command(flatten)]
    instance: Instance,
}

/// Runs it.
///
/// # Errors
/// When the daemon does not take it; the policy in force stays in force.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let policy = args.policy.as_ref().map(std::path::absolute).transpose().context("the policy's path")?;
    let outcome = client::ask(&args.instance.runtime_dir, &Request::Reload { policy })?;
    println!("{} is in force, generation {}", outcome["policy"].as_str().unwrap_or_default(), outcome["generation"]);
    for warning in outcome["warnings"].as_array().into_iter().flatten() {
        println!("warning: {}", warning.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}
