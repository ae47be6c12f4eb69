//! `enforcer status`: what is in force.

use std::process::ExitCode;

use anyhow::bail;
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
    /// Say nothing and succeed only if enforcement is in force; what a service manager asks before an agent starts.
    #[arg(long)]
    require_enforcing: bool,
    /// With `--require-enforcing`: and only if the policy has this skill and does not merely watch it.
    #[arg(long, value_name = "NAME", requires = "require_enforcing")]
    skill: Option<String>,
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
        if args.require_enforcing {
            return Err(e);
        }
        return match rustix::process::geteuid().is_root().then(engine::left).transpose()?.flatten() {
            Some(left) => without_daemon(args, &left),
            None => Err(e),
        };
    }
    let status = client::ask(&args.instance.runtime_dir, &Request::Status)?;
    if args.require_enforcing {
        return require(&status, args.skill.as_deref());
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |key: &str| status[key].as_str().map_or_else(|| status[key].to_string(), ToOwned::to_owned);
    println!("enforcer {} (process {}) on kernel {}", text("version"), text("pid"), text("kernel"));
    println!("policy   {} (generation {})", text("policy"), text("generation"));
    println!("events   {} lost", text("dropped"));
    let digests = &status["digests"];
    println!("digests  {} measured by the {}, {} known", digests["measured"], text("measured_by"), digests["known"]);
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
    let container = name["container"].as_str().map(|path| format!(" in {path}")).unwrap_or_default();
    println!("name     {:<30} {:<8} {addresses}{container}", text("name"), text("state"));
}

/// Whether what was asked for is in force.
fn require(status: &Value, skill: Option<&str>) -> anyhow::Result<ExitCode> {
    let Some(name) = skill else { return Ok(ExitCode::SUCCESS) };
    let found = status["skills"].as_array().into_iter().flatten().find(|skill| skill["name"] == name);
    match found.and_then(|skill| skill["mode"].as_str()) {
        Some("enforce") => Ok(ExitCode::SUCCESS),
        Some(mode) => bail!("skill `{name}` is in mode {mode}: nothing of it is enforced"),
        None => bail!("the policy in force has no skill `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skill_that_is_only_watched_is_not_enforced() {
        let status = serde_json::json!({"skills": [{"name": "a", "mode": "enforce"}, {"name": "b", "mode": "audit"}]});
        assert!(require(&status, None).is_ok() && require(&status, Some("a")).is_ok());
        for name in ["b", "c"] {
            let error = require(&status, Some(name)).expect_err("it is not enforced").to_string();
            assert!(error.contains(&format!("`{name}`")), "{error}");
        }
    }
}
