//! The other end of the control socket: blocking, for the commands.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, bail};

use super::{Answer, MAX_LINE, Request, SOCKET};

/// Connects to the daemon of a runtime directory.
///
/// # Errors
/// When none listens, in words that say what to do.
pub fn connect(runtime: &Path) -> anyhow::Result<UnixStream> {
    let path = runtime.join(SOCKET);
    UnixStream::connect(&path).with_context(|| {
        format!("no daemon answers at {}: start one with `enforcer daemon --policy FILE`", path.display())
    })
}

/// How long an answer may take: a reload measures every binary of its policy.
const ANSWER_TIME: Duration = Duration::from_mins(10);

/// Asks one question.
///
/// # Errors
/// When the daemon is not there, does not answer within [`ANSWER_TIME`], or says no; its words are the error.
pub fn ask(runtime: &Path, request: &Request) -> anyhow::Result<serde_json::Value> {
    let mut stream = connect(runtime)?;
    stream.set_read_timeout(Some(ANSWER_TIME)).context("waiting for the daemon")?;
    send(&mut stream, request)?;
    let mut line = String::new();
    BufReader::new(&stream).take(MAX_LINE).read_line(&mut line).context("reading the daemon's answer")?;
    match serde_json::from_str(&line).context("the daemon's answer is not understood")? {
        Answer::Ok { ok } => Ok(ok),
        Answer::Error { error } => bail!("{error}"),
    }
}

/// Sends a request.
///
/// # Errors
/// When the daemon has gone.
pub fn send(stream: &mut UnixStream, request: &Request) -> anyhow::Result<()> {
    let mut text = serde_json::to_string(request)?;
    text.push('\n');
    stream.write_all(text.as_bytes()).context("writing to the daemon")
}
