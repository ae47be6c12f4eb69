//! Progress lines, and long commands whose output matters only when they fail.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Read as _},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use wait_timeout::ChildExt as _;

use crate::paths::Paths;

/// What a command printed is worth showing up to this many bytes; the log file has all of it.
const SHOWN_ON_FAILURE: usize = 256 * 1024;

/// One line of progress, on stderr so that stdout belongs to the command that the user asked for.
pub(crate) fn note(text: &str) {
    eprintln!("==> {text}");
}

/// Runs `command` with its output in `log`, bounded by `limit`; says what is going on and how long it took, unless it is
/// done in no time, and shows the output when it fails. Returns the output.
pub(crate) fn quiet(paths: &Paths, what: &str, log: &str, limit: Duration, command: &mut Command) -> Result<String> {
    let log = paths.log(log)?;
    let start = Instant::now();
    let live = io::stderr().is_terminal();
    let mut announced = false;
    let status = run(&log, limit, command, || {
        if live {
            eprint!("\r==> {what} … ({} s)", start.elapsed().as_secs());
        } else if !announced {
            eprintln!("==> {what} …");
        }
        announced = true;
    });
    let seconds = start.elapsed().as_secs();
    if live && announced {
        eprintln!("\r==> {what} … ({seconds} s)");
    } else if announced {
        eprintln!("==> {what}: {seconds} s");
    }
    let output = tail(&log)?;
    let status = status.with_context(|| format!("{what}: {}", describe(command)))?;
    if !status.success() {
        eprintln!("{}", output.trim_end());
        bail!("{what} failed ({status}): {}\n(output: {})", describe(command), log.display());
    }
    Ok(output)
}

/// Runs `command` to its end or to `limit`, calling `tick` every second meanwhile.
fn run(log: &Path, limit: Duration, command: &mut Command, mut tick: impl FnMut()) -> Result<ExitStatus> {
    let out = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child =
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out).spawn().context("cannot start it")?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.wait_timeout(Duration::from_secs(1))? {
            return Ok(status);
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            bail!("not done after {} s", limit.as_secs());
        }
        tick();
    }
}

/// The same command with an end: after `limit`, or when we are gone, it and its children are ended.
pub(crate) fn bounded(command: &Command, limit: Duration) -> Command {
    let mut bounded = Command::new("setpriv");
    bounded
        .args(["--pdeathsig", "TERM", "--", "timeout", "--kill-after=10"])
        .arg(limit.as_secs().to_string())
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        bounded.current_dir(dir);
    }
    bounded
}

/// Runs a short command and returns its stdout; its stderr becomes part of the error.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", describe(command)))?;
    if !output.status.success() {
        bail!("{} failed ({}): {}", describe(command), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub(crate) fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().replace('\x1f', " "))
        .collect::<Vec<_>>()
        .join(" ")
}

/// The end of a log file, as text.
fn tail(log: &Path) -> Result<String> {
    let mut bytes = Vec::new();
    File::open(log)?.read_to_end(&mut bytes)?;
    let from = bytes.len().saturating_sub(SHOWN_ON_FAILURE);
    Ok(String::from_utf8_lossy(&bytes[from..]).into_owned())
}

/// The last `count` lines of `text`.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_lines_takes_the_end() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 5), "a");
        assert_eq!(last_lines("", 5), "");
    }

    #[test]
    fn a_bounded_command_ends() -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $A; sleep 100"]).env("A", "kept");
        let output = bounded(&command, Duration::from_secs(1)).output()?;
        assert_eq!(output.stdout, b"kept\n");
        assert_eq!(output.status.code(), Some(124));
        Ok(())
    }

    #[test]
    fn describe_is_what_one_would_type() {
        assert_eq!(describe(Command::new("a").args(["-b", "c"])), "a -b c");
    }
}
