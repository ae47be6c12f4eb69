//! What the tests stand on: the runner, the daemon under test, governed workers, files and listeners.

pub(crate) mod breach;
pub(crate) mod daemon;
pub(crate) mod dns;
pub(crate) mod events;
pub(crate) mod files;
mod gale;
pub(crate) mod holder;
pub(crate) mod host;
pub(crate) mod lent;
pub(crate) mod listener;
pub(crate) mod mutation;
pub(crate) mod network;
pub(crate) mod random;
pub(crate) mod runner;
pub(crate) mod scene;
pub(crate) mod unix;
pub(crate) mod worker;

use std::{
    io::Read as _,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// The program under test.
pub(crate) const ENFORCER: &str = "enforcer";
/// This program, where the package and the guests have it.
pub(crate) const SELF: &str = "/usr/lib/enforcer/enforcer-tests";
/// How long one helper command may take.
const COMMAND_LIMIT: Duration = Duration::from_mins(8);

/// What a command left.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit status; 128 and the number for a signal.
    pub(crate) status: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// Runs a command to its end, within bounds.
pub(crate) fn command(words: &[&str]) -> anyhow::Result<Output> {
    let (program, rest) = words.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(rest);
    output(&mut command)
}

fn output(command: &mut Command) -> anyhow::Result<Output> {
    command.stdin(Stdio::null());
    bounded(command)
}

/// Runs an act as `enforcer run` lets it, with a descriptor that was opened outside as its standard input.
pub(crate) fn act_with(fd: OwnedFd, skill: &str, act: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(ENFORCER);
    command.args(["run", "--skill", skill, "--", SELF, "act"]).args(act).stdin(fd);
    bounded(&mut command)
}

/// The number of a descriptor that is brought along beside the standard streams.
pub(crate) const BROUGHT: i32 = 7;

/// Lets what a command starts have `fd` as [`BROUGHT`].
pub(crate) fn bring(command: &mut Command, fd: OwnedFd) {
    use std::os::{fd::AsRawFd as _, unix::process::CommandExt as _};
    // SAFETY: between fork and exec only dup2(2) and fcntl(2) are called, on a descriptor that the closure owns.
    unsafe {
        // What has the number already would be closed by the exec.
        command.pre_exec(move || match libc::dup2(fd.as_raw_fd(), BROUGHT) {
            BROUGHT if libc::fcntl(BROUGHT, libc::F_SETFD, 0) == 0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}

/// Runs an act as `enforcer run` lets it, with a descriptor that was opened outside as [`BROUGHT`].
pub(crate) fn act_bringing(fd: OwnedFd, skill: &str, act: &[&str]) -> anyhow::Result<Output> {
    let mut command = Command::new(ENFORCER);
    command.args(["run", "--skill", skill, "--", SELF, "act"]).args(act).stdin(Stdio::null());
    bring(&mut command, fd);
    bounded(&mut command)
}

/// Runs a command to its end, within bounds, with the standard input that it was given.
pub(crate) fn bounded(command: &mut Command) -> anyhow::Result<Output> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let drain = |stream: Option<Box<dyn std::io::Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stream) = stream {
                // What was read until an error is what there is.
                let _ = stream.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = drain(child.stdout.take().map(|s| Box::new(s) as _));
    let err = drain(child.stderr.take().map(|s| Box::new(s) as _));
    let deadline = Instant::now() + COMMAND_LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("{} took longer than {} s", command.get_program().display(), COMMAND_LIMIT.as_secs());
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    Ok(Output { status: exit_status(status), out: text(out), err: text(err) })
}

/// The version of the kernel under test: the first two numbers.
pub(crate) fn kernel() -> anyhow::Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("the release {release:?}"),
    }
}

/// Runs a command that must succeed.
pub(crate) fn succeed(words: &[&str]) -> anyhow::Result<String> {
    let output = command(words)?;
    if output.status != 0 {
        bail!("`{}` ended with {}: {}{}", words.join(" "), output.status, output.out, output.err);
    }
    Ok(output.out)
}

/// A status as a shell gives it.
pub(crate) fn exit_status(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| status.signal().map(|s| 128 + s)).unwrap_or(-1)
}

/// Asks until the answer is yes or the time is up.
pub(crate) fn eventually(limit: Duration, mut ask: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if ask() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}
