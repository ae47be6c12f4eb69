//! `enforcer events`: the last events, and with `--follow` those to come.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    process::ExitCode,
};

use anyhow::bail;

use super::Instance;
use crate::{
    control::{Answer, Request, client},
    events::{Record, text::Format},
};

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with the events to come.
    #[arg(long, short)]
    follow: bool,
    /// Write JSON lines, also on a terminal.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: Instance,
}

/// Runs it.
///
/// # Errors
/// When no daemon answers, or its answer is not understood.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut stream = client::connect(&args.instance.runtime_dir)?;
    client::send(&mut stream, &Request::Events { follow: args.follow })?;
    let format = if args.json { Format::Json } else { Format::of_stdout() };
    for line in BufReader::new(stream).lines() {
        let line = line?;
        if let Ok(Answer::Error { error }) = serde_json::from_str(&line) {
            bail!("{error}");
        }
        let text = match (format, serde_json::from_str::<Record>(&line)) {
            // What this version does not understand is passed on as it is.
            (Format::Json, _) | (_, Err(_)) => line,
            (_, Ok(record)) => format.line(&record),
        };
        match writeln!(io::stdout().lock(), "{text}") {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => break,
            other => other?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
