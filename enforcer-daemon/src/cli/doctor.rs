//! `enforcer doctor`: what this kernel can enforce, what is missing, and the line to type; with `--attack`, what holds here.

use std::{process::ExitCode, time::Duration};

use super::certificate;
use crate::{
    checks::{self, Programs, Report, State},
    manifest::parse_duration,
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// Attack this host as a governed process would, harmlessly, and print a certificate of what held. Where a policy is in force
    /// it is put in force again, with the attacks' skills beside its own, and alone at the end.
    #[arg(long)]
    attack: bool,
    /// Begin no attack after this time; those that were not made are named.
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = limit, requires = "attack")]
    limit: Duration,
    /// Make only attacks with this number, or with this in the name of their test.
    #[arg(long, value_name = "NAME", requires = "attack")]
    only: Vec<String>,
}

/// The longest time that `--limit` takes.
const LONGEST: Duration = Duration::from_hours(24);

fn limit(text: &str) -> Result<Duration, String> {
    let limit = parse_duration(text).map_err(|e| e.to_string())?;
    if limit > LONGEST { Err("the longest is 24h".to_owned()) } else { Ok(limit) }
}

/// Runs it. The exit status is 0 when all is enforced, 1 when part of it is, 2 when nothing is; with `--attack`, 0 when every
/// attack that was made held, 1 when one did not, 2 when none could be made.
///
/// # Errors
/// When the report cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = checks::run(if args.attack { Programs::Leave } else { Programs::Load });
    if args.attack && report.verdict != checks::Verdict::None {
        return certificate::run(&report, args.limit, &args.only, args.json);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print(&report);
    }
    Ok(ExitCode::from(match report.verdict {
        checks::Verdict::Full => 0,
        checks::Verdict::Partial => 1,
        checks::Verdict::None => 2,
    }))
}

fn print(report: &Report) {
    for check in &report.checks {
        let mark = match check.state {
            State::Ok => "ok  ",
            State::Partial => "part",
            State::Missing => "MISS",
        };
        println!("{mark}  {:<14} {}", check.name, check.found);
        if let Some(fix) = &check.fix {
            println!("      {:<14} to mend it: {fix}", "");
        }
    }
    println!("\nwhat holds here: `enforcer doctor --attack` tries it; what no host is promised: docs/threat-model.md");
    match report.verdict {
        checks::Verdict::Full => println!("\nfull: everything a manifest can say to this build is enforced here"),
        checks::Verdict::Partial => {
            println!("\npartial: enforced, but for:");
            for missing in &report.missing {
                println!("  - {}: {}", missing.what, missing.why);
            }
        }
        checks::Verdict::None => {
            println!("\nnone: nothing can be enforced here, because:");
            for missing in &report.missing {
                println!("  - {}: {}", missing.what, missing.why);
            }
        }
    }
}
