//! `enforcer status`: what is in force.

use std::process::ExitCode;

use serde_json::Value;

use super::Instance;
use crate::{
    control::{Request, client},
    engine::{self, Left},
};

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
/// When no daemon answers and nothing is in force.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Err(e) = client::connect(&args.instance.runtime_dir) {
        // Only root may look at the pins.
        return match rustix::process::geteuid().is_root().then(engine::left).transpose()?.flatten() {
            Some(left) => without_daemon(args, &left),
            None => Err(e),
        };
    }
    let status = client::ask(&args.instance.runtime_dir, &Request::Status)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |key: &str| status[key].as_str().map_or_else(|| status[key].to_string(), ToOwned::to_owned);
    println!("enforcer {} (process {}) on kernel {}", text("version"), text("pid"), text("kernel"));
    println!("policy   {} (generation {})", text("policy"), text("generation"));
    println!("events   {} lost", text("dropped"));
    println!("digests  {} measured, {} known", status["digests"]["measured"], status["digests"]["known"]);
    println!("cgroups  {} governed", text("cgroups"));
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
    for name in status["names"].as_array().into_iter().flatten() {
        print_name(name);
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        println!("warning: {}", warning.as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}

/// What is in force though no daemon answers.
fn without_daemon(args: &Args, left: &Left) -> anyhow::Result<ExitCode> {
    if args.json {
        let mut value = serde_json::to_value(left)?;
        if let Some(map) = value.as_object_mut() {
            map.insert("pid".into(), Value::Null);
        }
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("no daemon answers; what is in force stays in force ({})", left.pins.display());
    println!("programs {}", left.version);
    println!("policy   {} (generation {})", left.policy.display(), left.generation);
    println!("skills   {}", left.skills.join(", "));
    Ok(ExitCode::SUCCESS)
}

/// A name with its addresses and how long each holds.
fn print_name(name: &Value) {
    let text = |key: &str| name[key].as_str().unwrap_or_default();
    let left = |address: &Value| address["seconds_left"].as_u64().map_or_else(String::new, |s| format!(" ({s} s)"));
    let address = |a: &Value| format!("{}{}", a["address"].as_str().unwrap_or_default(), left(a));
    let addresses: Vec<String> = name["addresses"].as_array().into_iter().flatten().map(address).collect();
    let addresses = if addresses.is_empty() { "no address".into() } else { addresses.join(", ") };
    println!("name     {:<30} {:<8} {addresses}", text("name"), text("state"));
}
