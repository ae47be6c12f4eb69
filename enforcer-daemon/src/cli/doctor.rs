//! `enforcer doctor`: what this kernel can enforce, what is missing, and the line to type.

use std::process::ExitCode;

use crate::checks::{self, Report, State};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs it. The exit status is 0 when all is enforced, 1 when part of it is, 2 when nothing is.
///
/// # Errors
/// When the report cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = checks::run();
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
