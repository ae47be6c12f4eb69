//! Attackers that wait for orders: one process that was put into a skill once, and does each act in a child.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::{ENFORCER, SELF, breach::Breach, daemon::signal_process, gale};

/// How often a worker is started again that has found no daemon in a storm.
const RETRIES: u32 = 100;
/// How long after.
const PAUSE: Duration = Duration::from_millis(300);

/// What came of an act.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Its errno; 0 when it was done. Of a program, the exit status.
    pub(crate) status: i32,
    /// What it printed.
    pub(crate) out: String,
    /// The act, for messages.
    act: String,
}

impl Outcome {
    /// It was done.
    pub(crate) fn done(&self) -> anyhow::Result<&Self> {
        self.failed(0)
    }

    /// It was refused with EPERM.
    pub(crate) fn refused(&self) -> anyhow::Result<&Self> {
        self.failed(libc::EPERM)
    }

    /// It failed with this errno.
    pub(crate) fn failed(&self, errno: i32) -> anyhow::Result<&Self> {
        if self.status == errno {
            return Ok(self);
        }
        let what = format!("`{}` ended with {} instead of {errno}: {}", self.act, self.status, self.out);
        if self.status == 0 { Err(Breach(what).into()) } else { bail!(what) }
    }
}

/// How a worker comes into a skill.
pub(crate) enum Entry<'a> {
    /// By `enforcer run`.
    Run(&'a str),
    /// By the cgroup directory that it is started in.
    Cgroup(&'a str),
    /// Not at all.
    Outside,
}

/// A worker; it is ended when this is dropped.
pub(crate) struct Worker {
    pid: u32,
    inner: Mutex<Inner>,
}

struct Inner {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts one.
    pub(crate) fn start(entry: &Entry<'_>) -> anyhow::Result<Self> {
        let mut worker = Self::start_with(entry, |_| {})?;
        // `enforcer run` asks the daemon, and in a storm there may be none.
        for _ in 0..RETRIES {
            if !gale::blows() || !matches!(entry, Entry::Run(_)) || worker.act(&["nothing"]).is_ok() {
                break;
            }
            thread::sleep(PAUSE);
            worker = Self::start_with(entry, |_| {})?;
        }
        Ok(worker)
    }

    /// Starts one that is prepared before.
    pub(crate) fn start_with(entry: &Entry<'_>, prepare: impl FnOnce(&mut Command)) -> anyhow::Result<Self> {
        let mut command = match entry {
            Entry::Run(skill) => {
                let mut command = Command::new(ENFORCER);
                command.args(["run", "--skill", skill, "--", SELF, "worker"]);
                command
            }
            Entry::Cgroup(_) | Entry::Outside => {
                let mut command = Command::new(SELF);
                command.arg("worker");
                command
            }
        };
        if let Entry::Cgroup(dir) = entry {
            let file = fs::OpenOptions::new().write(true).open(format!("{dir}/cgroup.procs")).context("the cgroup")?;
            // SAFETY: between fork and exec only write(2) is called, on a descriptor that is open.
            unsafe {
                command.pre_exec(move || (&file).write_all(b"0"));
            }
        }
        prepare(&mut command);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .context("cannot start a worker")?;
        let orders = child.stdin.take().context("the worker's input")?;
        let answers = BufReader::new(child.stdout.take().context("the worker's output")?);
        let worker = Self { pid: child.id(), inner: Mutex::new(Inner { child, orders, answers }) };
        worker.act(&["nothing"]).and_then(|o| o.done().map(drop)).context("the worker does not answer")?;
        Ok(worker)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Lets it do one act.
    pub(crate) fn act(&self, act: &[&str]) -> anyhow::Result<Outcome> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let order = serde_json::to_string(act)?;
        writeln!(inner.orders, "{order}").context("the worker has gone")?;
        let mut line = String::new();
        inner.answers.read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("the worker's answer {line:?}"))?;
        let status = answer["status"].as_i64().and_then(|s| i32::try_from(s).ok()).context("no status")?;
        Ok(Outcome { status, out: answer["out"].as_str().unwrap_or_default().to_owned(), act: act.join(" ") })
    }

    /// Lets it and what it starts run when nobody else wants to.
    pub(crate) fn yield_to_others(&self) {
        // SAFETY: no pointers.
        unsafe { libc::setpriority(libc::PRIO_PROCESS, self.pid(), 19) };
    }

    /// Ends it at once, also while it is at work for another thread.
    pub(crate) fn kill(&self) {
        signal_process(self.pid, libc::SIGKILL);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = inner.child.kill();
        let _ = inner.child.wait();
    }
}
