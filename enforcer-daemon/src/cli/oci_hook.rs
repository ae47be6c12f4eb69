//! `enforcer oci-hook`: run by an OCI runtime before a container's first process, so that it never runs ungoverned.
//!
//! The runtime's `createRuntime` hook, to which it gives the container's state on standard input (the runtime specification's
//! `config.md`, POSIX-platform hooks). The container does not start when the hook fails.

use std::{
    io::{self, Read as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use serde::Deserialize;

use super::Instance;
use crate::control::{Request, client};

/// No state is longer.
const MAX_STATE: u64 = 4 << 20;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Put every container into this skill; without it, the policy's `match.container` says which belong to one.
    #[arg(long, value_name = "NAME")]
    skill: Option<String>,
    #[command(flatten)]
    instance: Instance,
}

/// The container's state, as far as it matters here.
#[derive(Debug, Deserialize)]
struct State {
    id: String,
    pid: u32,
    bundle: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When no daemon answers, or the container belongs to a skill and cannot be governed: then it must not start.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    io::stdin().take(MAX_STATE).read_to_string(&mut text).context("the container's state on standard input")?;
    let State { id, pid, bundle } =
        serde_json::from_str(&text).context("standard input has no state of a container; an OCI runtime runs this")?;
    let request = Request::Container { id, pid, bundle, skill: args.skill.clone() };
    client::ask(&args.instance.runtime_dir, &request)?;
    Ok(ExitCode::SUCCESS)
}
