//! `enforcer demo`: a policy, a rogue agent, and what became of it.
//!
//! The agent is a shell script with real programs. Whether it got through is read from the files that are left and from
//! what its servers received, not from what it says.

use std::{
    ffi::OsString,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{io::AsyncReadExt as _, net::TcpListener, process::Command, task::JoinHandle};

use super::{Instance, run::exit_code};
use crate::{
    events::{Record, text::Format, text::subject},
    manifest,
    service::{Lifetime, Options, Service},
};

/// The demo agent.
const AGENT: &str = include_str!("../../../policies/demo-agent.sh");
/// Where it works.
const SCRATCH: &str = "/tmp/enforcer-demo";
/// The port that `policies/demo.yaml` names, and one that it does not.
const PORTS: [u16; 2] = [18080, 18081];
/// How long the last events may take from the kernel to here.
const SETTLE: Duration = Duration::from_millis(500);
/// How long the agent may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The manifest; its first skill, or `demo` if it has one of that name, governs the agent.
    #[arg(long, value_name = "FILE", default_value = "/etc/enforcer/policy.yaml")]
    policy: PathBuf,
    #[command(flatten)]
    instance: Instance,
    /// A command to run as the governed agent instead of the demo agent.
    #[arg(trailing_var_arg = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs it. The exit status is the command's; of the demo agent, 0 when every step ended as the policy has it.
///
/// # Errors
/// When the policy cannot be put in force or the agent cannot be started.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(async {
        let policy = std::path::absolute(&args.policy).context("the policy's path")?;
        let skill = skill_of(&policy)?;
        let stage = if args.command.is_empty() { Some(Stage::set().await?) } else { None };
        let running =
            Service::start(&policy, &args.instance.runtime_dir, super::home(), Options::default(), Lifetime::Private)
                .await?;
        for warning in &running.warnings {
            eprintln!("warning: {warning}");
        }
        println!(
            "==> enforcing {} on kernel {}",
            policy.display(),
            rustix::system::uname().release().to_string_lossy()
        );
        let records = Arc::new(Mutex::new(vec![]));
        let printer = tokio::spawn(print(Arc::clone(&running.service), Arc::clone(&records)));
        let command = if args.command.is_empty() { Stage::command() } else { args.command.clone() };
        println!("==> running {} as an agent of skill `{skill}`", shown(&command));
        let status = tokio::select! {
            status = agent(&args.instance.runtime_dir, &skill, &command) => status?,
            how = super::ended_by_signal() => bail!("{}", how?),
        };
        tokio::time::sleep(SETTLE).await;
        printer.abort();
        let records = records.lock().map_or_else(|_| vec![], |r| r.clone());
        let refused = records.iter().filter(|r| r.verdict.as_deref() == Some("deny")).count();
        println!("==> the agent ended ({status}); {refused} acts were refused");
        match stage {
            None => Ok(exit_code(status)),
            Some(stage) => Ok(stage.verdict(&records, &skill)),
        }
    })
}

/// The skill that governs the agent.
fn skill_of(policy: &Path) -> anyhow::Result<String> {
    let manifest = manifest::load(policy)?;
    let skills = &manifest.manifest().skills;
    let name = skills.keys().find(|n| n.as_str() == "demo").or_else(|| skills.keys().next());
    Ok(name.context("the manifest has no skill")?.to_string())
}

/// Runs a command in a skill.
async fn agent(runtime: &Path, skill: &str, command: &[OsString]) -> anyhow::Result<ExitStatus> {
    let mut child = Command::new("/proc/self/exe")
        .args(["run", "--skill", skill, "--runtime-dir"])
        .arg(runtime)
        .arg("--")
        .args(command)
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the agent")?;
    match tokio::time::timeout(PATIENCE, child.wait()).await {
        Ok(status) => Ok(status?),
        Err(_) => bail!("the agent did not end within {} s", PATIENCE.as_secs()),
    }
}

/// Prints each record as it comes, and keeps it.
async fn print(service: Arc<Service>, records: Arc<Mutex<Vec<Arc<Record>>>>) {
    // For people, also when they look at it through a pipe.
    let format = match Format::of_stdout() {
        Format::Json => Format::Plain,
        format => format,
    };
    let (_, mut listener) = service.stream.listen();
    while let Some(record) = listener.recv().await {
        let _ = writeln!(std::io::stdout().lock(), "{}", format.line(&record));
        if let Ok(mut kept) = records.lock() {
            kept.push(record);
        }
    }
}

/// A command as one would type it.
fn shown(command: &[OsString]) -> String {
    command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The files and servers that the demo agent meets.
struct Stage {
    reached: [Arc<AtomicBool>; 2],
    servers: [JoinHandle<()>; 2],
}

/// What one step of the agent was and what became of it.
struct Step {
    name: &'static str,
    what: &'static str,
    /// Whether the policy allows it.
    allowed: bool,
    /// Whether it happened.
    happened: bool,
}

impl Stage {
    /// Makes the files and starts the servers.
    async fn set() -> anyhow::Result<Self> {
        let dir = Path::new(SCRATCH);
        let _ = fs::remove_dir_all(dir);
        for sub in ["workspace/build/deep", "precious"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot make {SCRATCH}/{sub}"))?;
        }
        for file in ["workspace/notes.txt", "workspace/build/a.o", "workspace/build/deep/b.o", "precious/data.db"] {
            fs::write(dir.join(file), "one line\n")?;
        }
        fs::write(dir.join("agent.sh"), AGENT)?;
        let (first, second) = (server(PORTS[0]).await?, server(PORTS[1]).await?);
        Ok(Self { reached: [first.0, second.0], servers: [first.1, second.1] })
    }

    fn command() -> Vec<OsString> {
        let words = ["/usr/bin/bash", "/tmp/enforcer-demo/agent.sh", SCRATCH];
        words.iter().map(OsString::from).chain(PORTS.iter().map(|p| p.to_string().into())).collect()
    }

    /// Shows what happened; success when every step ended as the demo policy has it.
    fn verdict(self, records: &[Arc<Record>], skill: &str) -> ExitCode {
        self.servers.iter().for_each(JoinHandle::abort);
        let dir = Path::new(SCRATCH);
        let results = fs::read_to_string(dir.join("results")).unwrap_or_default();
        let ran = |name: &str| results.lines().any(|line| line == format!("{name} 0"));
        let gone = |path: &str| !dir.join(path).exists();
        let reached = |i: usize| self.reached[i].load(Ordering::SeqCst);
        let step = |name, what, allowed, happened| Step { name, what, allowed, happened };
        let steps = [
            step("exec", "/usr/bin/wc, which the policy lists", true, ran("exec-listed")),
            step("exec", "/usr/bin/id, which it does not", false, ran("exec-unlisted")),
            step("exec", "a copy of id that is called wc", false, ran("exec-renamed")),
            step("delete", "rm -rf workspace/build", true, gone("workspace/build")),
            step("delete", "rm -rf precious", false, gone("precious/data.db")),
            step("connect", "a server that the policy lists", true, reached(0)),
            step("connect", "a server that it does not", false, reached(1)),
        ];
        println!("\n{:<9}{:<38}{:<11}{:<10}", "act", "on", "policy", "happened");
        for s in &steps {
            let policy = if s.allowed { "allows" } else { "refuses" };
            let happened = if s.happened { "yes" } else { "no" };
            let mark = if s.allowed == s.happened { "" } else { "  <-- not as the policy has it" };
            println!("{:<9}{:<38}{policy:<11}{happened:<10}{mark}", s.name, s.what);
        }
        println!("\nwhat the kernel refused, and why:");
        let mut shown: Vec<String> = vec![];
        for record in records.iter().filter(|r| r.verdict.as_deref() == Some("deny")) {
            let line = format!("  {:<8}{:<46}{}", record.kind, subject(record), record.reason);
            if !shown.contains(&line) {
                println!("{line}");
                shown.push(line);
            }
        }
        if skill != "demo" {
            println!("\nthe policy is not the demo's: what it refuses is its own business");
            return ExitCode::SUCCESS;
        }
        let refusals = |kind: &str| records.iter().any(|r| r.kind == kind && r.verdict.as_deref() == Some("deny"));
        let as_expected = steps.iter().all(|s| s.allowed == s.happened)
            && ["exec", "delete", "connect"].iter().all(|kind| refusals(kind));
        println!(
            "\n{}",
            if as_expected { "every step ended as the policy has it" } else { "NOT as the policy has it" }
        );
        if as_expected { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// A server that notes when a byte arrives.
async fn server(port: u16) -> anyhow::Result<(Arc<AtomicBool>, JoinHandle<()>)> {
    let listener =
        TcpListener::bind(("127.0.0.1", port)).await.with_context(|| format!("cannot listen on port {port}"))?;
    let reached = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&reached);
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut byte = [0];
            if matches!(stream.read(&mut byte).await, Ok(1..)) {
                flag.store(true, Ordering::SeqCst);
            }
        }
    });
    Ok((reached, task))
}
