//! `enforcer status`: what is in force.

use std::process::ExitCode;

use super::Instance;
use crate::control::{Request, client};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: Instance,
}

/// Runs it.
///
/// # Errors
/// When no daemon answers.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let status = client::ask(&args.instance.runtime_dir, &Request::Status)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |key: &str| status[key].as_str().map_or_else(|| status[key].to_string(), ToOwned::to_owned);
    println!("enforcer {} (process {}) on kernel {}", text("version"), text("pid"), text("kernel"));
    println!("policy   {} (generation {})", text("policy"), text("generation"));
    println!("events   {} lost", text("dropped"));
    println!("cgroups  {} governed", text("cgroups"));
    for sink in status["sinks"].as_array().into_iter().flatten() {
        let text = |key: &str| sink[key].as_str().map_or_else(|| sink[key].to_string(), ToOwned::to_owned);
        let error = sink["error"].as_str().map(|e| format!(": {e}")).unwrap_or_default();
        println!("sink     {}: {} written, {} lost{error}", text("sink"), text("written"), text("lost"));
    }
    println!("{:<20} {:<8} {:>9} {:>9} {:>13}", "skill", "mode", "binaries", "paths", "destinations");
    for skill in status["skills"].as_array().into_iter().flatten() {
        let text = |key: &str| skill[key].as_str().map_or_else(|| skill[key].to_string(), ToOwned::to_owned);
        println!(
            "{:<20} {:<8} {:>9} {:>9} {:>13}",
            text("name"),
            text("mode"),
            text("binaries"),
            text("objects"),
            text("destinations")
        );
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        println!("warning: {}", warning.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}
