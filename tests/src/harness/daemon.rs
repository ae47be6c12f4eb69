//! The daemon under test, as a process of its own.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};

pub(crate) use super::lent::{BESIDE, Lent};
use super::{ENFORCER, command, events::Events, eventually, exit_status};

/// Where the daemon's socket is.
pub(crate) const SOCKET: &str = "/run/enforcer/control.sock";
/// How long a start may take: the verifier looks at every program, under emulation.
pub(crate) const START_LIMIT: Duration = Duration::from_mins(8);
/// How long the daemon may take to end.
const STOP_LIMIT: Duration = Duration::from_mins(1);

/// Variables and their values.
type Environment = &'static [(&'static str, &'static str)];

/// With which ones what is in force was loaded.
static LOADED_WITH: Mutex<Environment> = Mutex::new(&[]);

/// A daemon; it is ended when this is dropped. What it enforces stays in force and is the next one's, which takes it over in
/// a moment, where loading the programs takes many.
pub(crate) struct Daemon {
    child: Option<Child>,
    /// What was in force where the daemon is not ours.
    lent: Option<Lent>,
    /// What it and those before it printed.
    pub(crate) events: Events,
    policy: PathBuf,
    /// Further ones, for each start.
    options: Vec<String>,
    errors: PathBuf,
}

impl Daemon {
    /// Starts it with a manifest and waits until it answers.
    pub(crate) fn start(dir: &Path, manifest: &str) -> anyhow::Result<Self> {
        Self::start_with(dir, manifest, &[])
    }

    /// The same, with variables in its environment.
    pub(crate) fn start_with(dir: &Path, manifest: &str, environment: Environment) -> anyhow::Result<Self> {
        Self::start_as(dir, manifest, environment, &[])
    }

    /// The same, with further options.
    pub(crate) fn start_as(
        dir: &Path,
        manifest: &str,
        environment: Environment,
        options: &[String],
    ) -> anyhow::Result<Self> {
        let mut last = LOADED_WITH.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != environment {
            // Programs of its own, from the first label on.
            unload()?;
            *last = environment;
        }
        drop(last);
        fs::create_dir_all(dir)?;
        let policy = dir.join("policy.yaml");
        fs::write(&policy, manifest)?;
        let (events, errors) = (Events::default(), dir.join("daemon.err"));
        let child = spawn(ENFORCER, &policy, options, environment, &errors, &events)?;
        let mut daemon = Self { child: Some(child), lent: None, events, policy, options: options.to_vec(), errors };
        daemon.wait_until_it_answers()?;
        Ok(daemon)
    }

    /// The one that runs already. Its policy goes on beside those of the suites.
    pub(crate) fn lent(dir: &Path, lent: Lent) -> anyhow::Result<Self> {
        fs::create_dir_all(dir)?;
        let events = Events::default();
        follow(&events)?;
        let errors = dir.join("daemon.err");
        Ok(Self { child: None, lent: Some(lent), events, policy: BESIDE.into(), options: vec![], errors })
    }

    /// Starts another daemon after this one has ended, and waits until it answers.
    pub(crate) fn restart(&mut self) -> anyhow::Result<()> {
        self.restart_as(ENFORCER)
    }

    /// The same, with another build of the program.
    pub(crate) fn restart_as(&mut self, program: &str) -> anyhow::Result<()> {
        self.spawn_again(program)?;
        self.wait_until_it_answers()
    }

    /// Starts another daemon after this one has ended.
    pub(crate) fn spawn_again(&mut self, program: &str) -> anyhow::Result<()> {
        self.child = Some(spawn(program, &self.policy, &self.options, &[], &self.errors, &self.events)?);
        Ok(())
    }

    /// Waits until it answers.
    pub(crate) fn wait_until_it_answers(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Some(status) = self.child()?.try_wait()? {
                bail!("the daemon ended with {}: {}", exit_status(status), self.errors());
            }
            if ask(&json!({"op": "status"})).is_ok_and(|s| s["pid"] == self.pid()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the daemon does not answer: {}", self.errors());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        match (&self.child, &self.lent) {
            (Some(child), _) => child.id(),
            (None, Some(lent)) => lent.pid,
            (None, None) => 0,
        }
    }

    /// Whether it was there before.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Puts the policy in force that was there before, where there was one.
    pub(crate) fn give_back(&self) -> anyhow::Result<()> {
        self.lent.as_ref().map_or(Ok(()), Lent::give_back)
    }

    fn child(&mut self) -> anyhow::Result<&mut Child> {
        self.child.as_mut().context("the daemon is not the suite's")
    }

    /// What it wrote to standard error.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Its manifest's file.
    pub(crate) fn policy(&self) -> &Path {
        &self.policy
    }

    /// What is in force.
    #[expect(clippy::unused_self, reason = "there is a status only while there is a daemon")]
    pub(crate) fn status(&self) -> anyhow::Result<Value> {
        ask(&json!({"op": "status"}))
    }

    /// The generation in force.
    pub(crate) fn generation(&self) -> anyhow::Result<u64> {
        self.status()?["generation"].as_u64().context("no generation")
    }

    /// Puts another manifest in force.
    pub(crate) fn reload(&self, manifest: &str) -> anyhow::Result<u64> {
        match &self.lent {
            Some(lent) => fs::write(&self.policy, lent.beside(manifest)?)?,
            None => fs::write(&self.policy, manifest)?,
        }
        let outcome = ask(&json!({"op": "reload", "policy": self.policy}))?;
        outcome["generation"].as_u64().context("no generation")
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) {
        signal_process(self.pid(), signal);
    }

    /// Ends enforcement and waits until the daemon has gone.
    pub(crate) fn stop(&mut self) -> anyhow::Result<i32> {
        self.child()?;
        unload().with_context(|| self.errors())?;
        self.wait()
    }

    /// Ends it alone: what is in force stays.
    pub(crate) fn terminate(&mut self) -> anyhow::Result<i32> {
        self.child()?;
        self.signal(libc::SIGTERM);
        self.wait()
    }

    /// Kills it: what is in force stays.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let child = self.child()?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&mut self) -> anyhow::Result<i32> {
        let mut status = None;
        let ended = eventually(STOP_LIMIT, || {
            status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            status.is_some()
        });
        if !ended {
            self.kill()?;
            bail!("the daemon did not end: {}", self.errors());
        }
        Ok(status.map_or(-1, exit_status))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let runs = self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if runs && self.terminate().is_err() {
            let _ = self.kill();
        }
    }
}

/// Ends all enforcement, whoever put it in force.
pub(crate) fn unload() -> anyhow::Result<()> {
    let outcome = command(&[ENFORCER, "unload", "--yes"])?;
    ensure!(outcome.status == 0, "unload: {outcome:?}");
    Ok(())
}

fn spawn(
    program: &str,
    policy: &Path,
    options: &[String],
    environment: &[(&str, &str)],
    errors: &Path,
    events: &Events,
) -> anyhow::Result<Child> {
    let mut child = Command::new(program)
        // Names come and go quickly enough for a test.
        .args(["daemon", "--json", "--names-min-ttl", "1", "--names-grace", "2", "--policy"])
        .arg(policy)
        .args(options)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(errors)?)
        .spawn()
        .context("cannot start the daemon")?;
    let output = child.stdout.take().context("the daemon's output")?;
    let taken = events.clone();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            taken.take(&line);
        }
    });
    Ok(child)
}

/// Takes the events of a daemon that somebody else started.
fn follow(events: &Events) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(SOCKET).context("no daemon")?;
    writeln!(stream, "{}", json!({"op": "events", "follow": true}))?;
    let taken = events.clone();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            taken.take(&line);
        }
    });
    Ok(())
}

/// Sends a signal to one process.
pub(crate) fn signal_process(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: kill has no memory preconditions; the pid is a child of ours that was not waited for.
        unsafe { libc::kill(pid, signal) };
    }
}

/// Asks the control socket one question.
pub(crate) fn ask(request: &Value) -> anyhow::Result<Value> {
    let mut stream = UnixStream::connect(SOCKET).context("no daemon")?;
    stream.set_read_timeout(Some(START_LIMIT))?;
    writeln!(stream, "{request}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).with_context(|| format!("the answer {line:?}"))?;
    match answer.get("error") {
        Some(error) => bail!("{}", error.as_str().unwrap_or_default()),
        None => Ok(answer["ok"].clone()),
    }
}
